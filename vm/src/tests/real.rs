//! Real guests under QEMU's translator: a Debian kernel and a busybox that says READY and obeys five words.

use super::*;
use crate::{
    accel::AccelChoice,
    guest::Graces,
    spec::{Boot, GuestSpec},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use wire::{
    guest::{GuestState, StopHow},
    ids::{GuestId, ImageId, LanId, NodeId},
    mac::MacAddr,
    sign::PublicKey,
    units::ByteSize,
};

/// A hang guard, far above what a translated boot takes here (3 to 10 s under load, notes/vm.md §1).
pub(super) const HANG: Duration = Duration::from_secs(240);

const HOST: NodeId = NodeId([9; 32]);
const NODE_DIR: &str = "LANLINE_TEST_NODE_DIR";

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
echo READY
while read -r word; do
  case $word in
    off) /bin/busybox poweroff -f ;;
    count) (n=0; while :; do n=$((n+1)); echo T$n; /bin/busybox usleep 20000; done) & ;;
    boot) /bin/busybox reboot -f ;;
    *) echo \"heard $word\" ;;
  esac
done
";

/// A cloud kernel: this system's, or the one that the lab's guest is made of.
fn kernel() -> Option<PathBuf> {
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let cloud = |p: &PathBuf| p.to_string_lossy().contains("vmlinuz-") && p.to_string_lossy().ends_with("cloud-amd64");
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest");
    let made = below(&made).map(|dir| dir.join("vmlinuz")).find(|p| p.is_file());
    below(Path::new("/boot")).find(cloud).or(made)
}

/// Kernel and initramfs, or what is missing for them.
pub(super) fn boot_files(dir: &Path) -> Result<Boot, String> {
    let kernel = kernel().ok_or("a cloud kernel in /boot or target/guest (cargo xtask test fetches one)")?;
    let busybox = Path::new("/bin/busybox");
    if !busybox.exists() {
        return Err("/bin/busybox (apt install busybox-static)".into());
    }
    let root = dir.join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("dev")).unwrap();
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    fs::write(root.join("init"), INIT).unwrap();
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
    let initrd = dir.join("initramfs");
    let pack = format!("find . | cpio -o -H newc --quiet > {}", initrd.display());
    let packed = Command::new("sh")
        .args(["-c", &pack])
        .current_dir(&root)
        .status()
        .unwrap();
    if !packed.success() {
        return Err("cpio (apt install cpio)".into());
    }
    Ok(Boot {
        image_size: None,
        kernel: Some(kernel),
        initrd: Some(initrd),
        later: false,
        cmdline: Some("console=ttyS0 quiet panic=-1".into()),
    })
}

pub(super) fn spec(n: u8) -> GuestSpec {
    GuestSpec {
        id: GuestId::from_random([n; 16]),
        name: format!("real{n}").parse().unwrap(),
        owner: HOST,
        lan: Some(LanId {
            key: PublicKey([4; 32]),
            name: "home".parse().unwrap(),
        }),
        image: ImageId([2; 32]),
        image_ref: "busybox".into(),
        cpus: 1,
        memory: ByteSize(128 << 20),
        disk: None,
        mac: MacAddr([2, 0, 0, 0, 0, n]),
    }
}

pub(super) async fn config() -> Result<GuestsConfig, String> {
    let caps = probe(&ProbeConfig {
        accel: AccelChoice::Tcg,
        ..ProbeConfig::default()
    })
    .await;
    match &caps.missing {
        Some(why) => Err(why.clone()),
        None => {
            let graces = Graces {
                start: HANG,
                ..Graces::default()
            };
            Ok(GuestsConfig {
                graces,
                ..GuestsConfig::new(HOST, caps)
            })
        }
    }
}

/// Reads the console until `word` is on it.
pub(super) async fn console_says(console: &mut Console, word: &str) -> String {
    let mut seen = String::from_utf8_lossy(&console.history).into_owned();
    while !seen.contains(word) {
        let next = tokio::time::timeout(HANG, console.next()).await;
        match next {
            Ok(Ok(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} after: {seen}"),
        }
    }
    seen
}

pub(super) async fn wait_for(guests: &Guests, id: GuestId, state: GuestState) {
    let mut watch = guests.watch(id).unwrap();
    tokio::time::timeout(HANG, watch.wait_for(|v| v.state == state))
        .await
        .unwrap()
        .unwrap();
}

/// The node of the test below: a process of its own, to be killed. Does nothing when run as a test.
#[tokio::test]
async fn node_process() {
    let Some(dir) = std::env::var_os(NODE_DIR).map(PathBuf::from) else {
        return;
    };
    let (guests, _events) = Guests::open(&dir.join("guests"), config().await.unwrap())
        .await
        .unwrap();
    let spec = spec(1);
    guests.create(spec.clone()).await.unwrap();
    guests.prepare(spec.id, boot_files(&dir).unwrap()).await.unwrap();
    guests.start(spec.id).await.unwrap();
    console_says(&mut guests.attach_console(spec.id).unwrap(), "READY").await;
    eprintln!("node is up");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_guest_outlives_the_kill_of_its_node_and_is_adopted() {
    let dir = tempfile::tempdir().unwrap();
    if let Err(missing) = config()
        .await
        .map(|_| ())
        .and_then(|()| boot_files(dir.path()).map(|_| ()))
    {
        eprintln!("skipped: {missing}");
        return;
    }
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "io::real::node_process", "--nocapture"])
        .env(NODE_DIR, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _more = lifecycle::says(&mut node, "node is up");
    node.kill().unwrap();
    node.wait().unwrap();

    let at = dir.path().join("guests");
    let id = spec(1).id;
    let (guests, _events) = Guests::open(&at, config().await.unwrap()).await.unwrap();
    let adopted = guests.adopt().await;
    assert_eq!(adopted.len(), 1);
    assert_eq!(
        (adopted[0].found, adopted[0].view.state),
        (AdoptedAs::Running, GuestState::Running)
    );
    let pid = adopted[0].view.pid.unwrap();

    let mut console = guests.attach_console(id).unwrap();
    console.tx.send("again\n".into()).await.unwrap();
    let seen = console_says(&mut console, "heard again").await;
    let (ready, gap) = (seen.find("READY").unwrap(), seen.find("[lanline: ").unwrap());
    assert!(ready < gap && gap < seen.find("heard again").unwrap(), "{seen}");
    assert!(
        tokio::net::UnixStream::connect(guests.endpoints(id).unwrap().nic)
            .await
            .is_ok()
    );

    let report = guests.stop(id, StopMode::Force).await.unwrap();
    assert_eq!(report.how, StopHow::Quit);
    assert!(
        !Path::new(&format!("/proc/{pid}/cmdline")).exists()
            || fs::read(format!("/proc/{pid}/cmdline")).unwrap().is_empty()
    );
    assert_eq!(guests.info(id).unwrap().state, GuestState::Stopped);
    guests.remove(id).await.unwrap();
    assert_eq!(guests.list(), []);
    guests.close().await;
    assert_eq!(
        fs::read_dir(&at)
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect::<Vec<_>>(),
        ["lock"]
    );
}

#[tokio::test]
async fn a_guest_that_switches_itself_off_is_stopped_and_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let (config, boot) = match (config().await, boot_files(dir.path())) {
        (Ok(c), Ok(b)) => (c, b),
        (Err(missing), _) | (_, Err(missing)) => return eprintln!("skipped: {missing}"),
    };
    let unprivileged = config.caps.run_as;
    let (guests, _events) = Guests::open(&dir.path().join("guests"), config).await.unwrap();
    let spec = spec(2);
    guests.create(spec.clone()).await.unwrap();
    guests.prepare(spec.id, boot).await.unwrap();
    let view = guests.start(spec.id).await.unwrap();
    assert_eq!(view.state, GuestState::Running);
    if let RunAs::User { .. } = unprivileged {
        let status = fs::read_to_string(format!("/proc/{}/status", view.pid.unwrap())).unwrap();
        let uids = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap();
        let mut uids = uids.split_whitespace().map(|u| u.parse::<u32>().unwrap());
        assert!(uids.all(|u| crate::defaults::GUEST_UIDS.contains(&u)), "{status}");
        assert!(
            status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"),
            "{status}"
        );
    }
    let mut console = guests.attach_console(spec.id).unwrap();
    console_says(&mut console, "READY").await;
    console.tx.send("off\n".into()).await.unwrap();
    wait_for(&guests, spec.id, GuestState::Stopped).await;
    let view = guests.info(spec.id).unwrap();
    assert_eq!(
        (view.note.as_deref(), view.pid),
        (Some("the guest shut itself down"), None)
    );
    assert_eq!(guests.start(spec.id).await.unwrap().state, GuestState::Running);
    guests.remove(spec.id).await.unwrap();
    assert_eq!(guests.info(spec.id), None);
}

/// A disk whose first sector writes DISK on the first serial port.
fn talking_disk() -> Vec<u8> {
    let mut disk = vec![0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for letter in b"DISK\r\n" {
        disk.extend_from_slice(&[0xb0, *letter, 0xee]); // mov al, letter; out dx, al
    }
    disk.extend_from_slice(&[0xf4, 0xeb, 0xfd]); // hlt, for ever
    disk.resize(1 << 20, 0);
    (disk[510], disk[511]) = (0x55, 0xaa);
    disk
}

#[tokio::test]
async fn a_guest_boots_its_image_over_nbd_under_a_larger_overlay() {
    let dir = tempfile::tempdir().unwrap();
    let config = match config().await {
        Ok(c) => c,
        Err(missing) => return eprintln!("skipped: {missing}"),
    };
    let nbd = Path::new("/usr/bin/qemu-nbd");
    if !nbd.exists() {
        return eprintln!("skipped: qemu-nbd (apt install qemu-utils)");
    }
    let image = dir.path().join("image.raw");
    fs::write(&image, talking_disk()).unwrap();
    let (guests, _events) = Guests::open(&dir.path().join("guests"), config).await.unwrap();
    let spec = GuestSpec {
        disk: Some(ByteSize(3 << 20)),
        ..spec(3)
    };
    guests.create(spec.clone()).await.unwrap();
    guests
        .prepare(
            spec.id,
            Boot {
                image_size: Some(ByteSize(1 << 20)),
                ..Boot::default()
            },
        )
        .await
        .unwrap();
    let failed = guests.start(spec.id).await.unwrap_err().to_string();
    assert!(failed.contains("its disk's socket is not served"), "{failed}");

    let socket = guests.endpoints(spec.id).unwrap().disk;
    // It forks once it listens.
    let pid_file = dir.path().join("nbd.pid");
    let served = Command::new(nbd)
        .args(["--read-only", "--format=raw", "--persistent", "--fork", "--pid-file"])
        .arg(&pid_file)
        .arg("--socket")
        .args([&socket, &image])
        .status()
        .unwrap();
    assert!(served.success());
    let started = guests.start(spec.id).await;
    assert!(started.is_ok(), "{started:?}");
    console_says(&mut guests.attach_console(spec.id).unwrap(), "DISK").await;
    let overlay = dir.path().join(format!("guests/{}/m/overlay.qcow2", spec.id));
    let info = Command::new("qemu-img")
        .args(["info", "--force-share", "--output=json"])
        .arg(&overlay)
        .output()
        .unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(
        (&info["virtual-size"], &info["backing-filename"]),
        (&(3 << 20).into(), &serde_json::Value::Null)
    );
    guests.remove(spec.id).await.unwrap();
    let pid = fs::read_to_string(pid_file)
        .unwrap()
        .trim()
        .parse()
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::TERM).unwrap();
}

/// What the guest counted so far, from the console's history, once that goes past `past`.
pub(super) async fn counted(guests: &Guests, id: GuestId, past: u64) -> Vec<u64> {
    loop {
        let mut console = guests.attach_console(id).unwrap();
        let seen = String::from_utf8_lossy(&console.history).into_owned();
        let whole = seen.rsplit_once('\n').map_or("", |(w, _)| w);
        let numbers = whole.lines().filter_map(|l| l.trim().strip_prefix('T')?.parse().ok());
        let numbers: Vec<u64> = numbers.collect();
        if numbers.last().is_some_and(|n| *n > past) {
            return numbers;
        }
        tokio::time::timeout(HANG, console.next()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn fifty_rounds_of_hibernation_leave_a_counter_that_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (config, boot) = match (config().await, boot_files(dir.path())) {
        (Ok(c), Ok(b)) => (c, b),
        (Err(missing), _) | (_, Err(missing)) => return eprintln!("skipped: {missing}"),
    };
    let (guests, _events) = Guests::open(&dir.path().join("guests"), config).await.unwrap();
    let spec = spec(5);
    guests.create(spec.clone()).await.unwrap();
    guests.prepare(spec.id, boot).await.unwrap();
    guests.start(spec.id).await.unwrap();
    let mut console = guests.attach_console(spec.id).unwrap();
    console_says(&mut console, "READY").await;
    console.tx.send("count\n".into()).await.unwrap();
    let (mut at, mut saved, mut restored) = (0, Vec::new(), Vec::new());
    for _ in 0..50 {
        at = *counted(&guests, spec.id, at).await.last().unwrap();
        let t0 = std::time::Instant::now();
        guests.hibernate(spec.id).await.unwrap();
        saved.push(t0.elapsed().as_millis());
        let t0 = std::time::Instant::now();
        guests.start(spec.id).await.unwrap();
        restored.push(t0.elapsed().as_millis());
    }
    let numbers = counted(&guests, spec.id, at).await;
    guests.remove(spec.id).await.unwrap();
    let gaps = numbers.windows(2).filter(|w| w[1] != w[0] + 1).count();
    // A line that was being written when the console was cut is lost with its console, not with its guest.
    assert!(
        numbers.windows(2).all(|w| w[1] > w[0] && w[1] < w[0] + 50),
        "{numbers:?}"
    );
    saved.sort_unstable();
    restored.sort_unstable();
    eprintln!(
        "50 rounds: saved in {} ms, restored in {} ms (medians), {gaps} lines cut",
        saved[25], restored[25]
    );
}

/// One QMP command on the rescue monitor, as somebody would give it who has taken QEMU over.
fn qmp(socket: &Path, command: &serde_json::Value) -> Result<(), String> {
    use std::io::{BufRead, BufReader, Write};
    let mut s = std::os::unix::net::UnixStream::connect(socket).unwrap();
    s.set_read_timeout(Some(HANG)).unwrap();
    let mut lines = BufReader::new(s.try_clone().unwrap()).lines();
    let mut answer = || -> serde_json::Value {
        loop {
            let v: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if v.get("event").is_none() {
                return v;
            }
        }
    };
    answer();
    writeln!(s, "{{\"execute\":\"qmp_capabilities\"}}").unwrap();
    answer();
    writeln!(s, "{command}").unwrap();
    let said = answer();
    match said.get("error") {
        Some(e) => Err(e["desc"].to_string()),
        None => Ok(()),
    }
}

fn open_file(path: &Path, write: bool) -> serde_json::Value {
    serde_json::json!({ "execute": "blockdev-add", "arguments": {
        "driver": "file", "node-name": "x", "filename": path, "read-only": !write } })
}

fn write_file(path: &Path) -> serde_json::Value {
    serde_json::json!({ "execute": "pmemsave", "arguments": { "val": 0, "size": 4_096, "filename": path } })
}

fn open_chardev(kind: &str, data: &serde_json::Value) -> serde_json::Value {
    serde_json::json!({ "execute": "chardev-add", "arguments": { "id": "c", "backend": { "type": kind, "data": data } } })
}

/// Ways out of `m/` for whoever commands the QEMU of the guest in `own`.
fn ways_out(dir: &Path, own: &Path, neighbour: &Path, port: &str) -> Vec<serde_json::Value> {
    use serde_json::json;
    let listen =
        |addr: serde_json::Value| open_chardev("socket", &json!({ "server": true, "wait": false, "addr": addr }));
    vec![
        open_file(Path::new("/etc/passwd"), false),
        open_file(Path::new("/proc/self/environ"), false),
        open_file(&dir.join("secret"), false),
        open_file(&dir.join("secret"), true),
        open_file(&neighbour.join("guest.json"), false),
        open_file(&own.join("kernel"), true),
        write_file(&dir.join("out")),
        write_file(Path::new("/tmp/lanline-escape")),
        write_file(&own.join("guest.json")),
        write_file(&neighbour.join("m/x")),
        open_chardev("file", &json!({ "out": dir.join("out") })),
        listen(json!({ "type": "inet", "data": { "host": "127.0.0.1", "port": "0" } })),
        listen(json!({ "type": "unix", "data": { "path": dir.join("sock") } })),
        json!({ "execute": "blockdev-add", "arguments": { "driver": "nbd", "node-name": "n", "server": {
            "type": "inet", "host": "127.0.0.1", "port": port } } }),
    ]
}

/// The guest's root has taken QEMU over: Landlock, its user and its seccomp filter are what is left.
#[tokio::test]
async fn who_owns_qemu_still_reaches_no_file_and_no_port_of_the_host() {
    use serde_json::json;
    let dir = tempfile::tempdir().unwrap();
    let (config, boot) = match (config().await, boot_files(dir.path())) {
        (Ok(c), Ok(b)) => (c, b),
        (Err(missing), _) | (_, Err(missing)) => return eprintln!("skipped: {missing}"),
    };
    if !config.caps.landlock {
        return eprintln!("skipped: Landlock (Linux 5.13)");
    }
    let at = dir.path().join("guests");
    let (guests, _events) = Guests::open(&at, config).await.unwrap();
    let (spec, other) = (spec(6), spec(7));
    for s in [&spec, &other] {
        guests.create(s.clone()).await.unwrap();
    }
    guests.prepare(spec.id, boot).await.unwrap();
    guests.start(spec.id).await.unwrap();
    let own = at.join(spec.id.to_string());
    let socket = own.join("m/rescue.sock");
    let neighbour = at.join(other.id.to_string());
    let secret = dir.path().join("secret");
    fs::write(&secret, [1; 4_096]).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();

    // What it may do shows that the rest is refused for a reason.
    qmp(&socket, &write_file(Path::new("mine"))).unwrap();
    assert_eq!(fs::metadata(own.join("m/mine")).unwrap().len(), 4_096);
    qmp(&socket, &open_file(Path::new("mine"), true)).unwrap();
    qmp(
        &socket,
        &json!({ "execute": "blockdev-del", "arguments": { "node-name": "x" } }),
    )
    .unwrap();
    let refused = ways_out(dir.path(), &own, &neighbour, &port);
    for command in refused {
        let why = qmp(&socket, &command);
        assert!(why.is_err(), "{command} was done");
    }
    for made in [
        dir.path().join("out"),
        dir.path().join("sock"),
        "/tmp/lanline-escape".into(),
    ] {
        assert!(!made.exists(), "{}", made.display());
    }
    assert_eq!(guests.info(spec.id).unwrap().state, GuestState::Running);
    for s in [spec.id, other.id] {
        guests.remove(s).await.unwrap();
    }
}
