use super::*;
use crate::policy::{Millicores, Moment, Slice, read};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

fn plan(text: &str) -> Plan {
    let machine = crate::policy::Machine {
        cores: 2,
        memory: ByteSize(4 << 30),
        disk: ByteSize(100 << 30),
    };
    let c = crate::policy::Compiled::new(read(text).unwrap(), machine).unwrap();
    c.plan(Moment { day: 0, minute: 0 }, &BTreeSet::new())
}

fn order(pid: u32, cpu: u32, held: bool) -> Order {
    Order {
        pid,
        cpus: 1,
        memory: ByteSize(512 << 20),
        slice: Slice {
            id: GuestId([7; 16]),
            cpu: Millicores(cpu),
            most: Millicores(cpu),
            period: Duration::from_millis(100),
            reserved: false,
            held: held.then(|| "policy".into()),
        },
    }
}

/// A process that takes all of a processor; ends with the value.
struct Busy(Child);

impl Busy {
    fn new() -> Self {
        Self(
            Command::new("/bin/sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut f: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !f() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|s| s.trim().chars().next())
        .unwrap_or('-')
}

fn config(root: &str, name: &str) -> EnforcerConfig {
    EnforcerConfig {
        root: root.into(),
        name: format!("lanline-test-{name}-{}", std::process::id()),
    }
}

#[test]
fn signals_hold_a_real_process_and_let_it_go() {
    let busy = Busy::new();
    let pid = busy.0.id();
    let e = Enforcer::new(&config("/nonexistent", "sig"));
    let p = plan("[host]\nenforcer = \"sigstop\"\n");
    e.apply(&p, &[order(pid, 300, false)]);
    assert_eq!(e.held(GuestId([7; 16])).unwrap().backend, Backend::Sigstop);
    let (mut stops, mut goes) = (0, 0);
    until("it is stopped and goes on, in turns", || {
        match state(pid) {
            'T' => stops += 1,
            'R' => goes += 1,
            _ => {}
        }
        stops > 5 && goes > 5
    });
    e.apply(&p, &[order(pid, 0, true)]);
    until("held", || state(pid) == 'T');
    let before = cpu_time(pid).unwrap();
    {
        let _open = e.gate().open(GuestId([7; 16]));
        until("it answers while its monitor is needed", || {
            cpu_time(pid).unwrap() > before
        });
    }
    until("and stands still again", || state(pid) == 'T');
    e.apply(&p, &[]);
    until("let go", || state(pid) != 'T');
}

#[test]
fn groups_of_version_1_hold_a_real_process() {
    let e = Enforcer::new(&config("/", "v1"));
    let Ok(v1) = e.found().v1.clone() else {
        eprintln!("skipped: {:?}", e.found().v1);
        return;
    };
    let busy = Busy::new();
    let pid = busy.0.id();
    // A weight that prevails on a machine that is busy with other things: else its quota would never be reached.
    let p = plan("[host]\ncpu = \"50%\"\nweight = 10000\nenforcer = \"cgroup\"\n");
    e.apply(&p, &[order(pid, 300, false)]);
    let held = e.held(GuestId([7; 16])).unwrap();
    if held.backend != Backend::CgroupV1 {
        // A machine with version 2 delegated uses that.
        assert_eq!(held.backend, Backend::CgroupV2, "{held:?}");
        e.release_all();
        return;
    }
    let dir = v1.cpu.join(GuestId([7; 16]).to_string());
    let read = |d: &Path, f: &str| fs::read_to_string(d.join(f)).unwrap().trim().to_owned();
    assert_eq!(read(&dir, "cpu.cfs_quota_us"), "30000");
    assert_eq!(read(&v1.cpu, "cpu.cfs_quota_us"), "100000");
    assert_eq!(read(&v1.cpu, "cpu.shares"), "102400");
    assert!(read(&dir, "cgroup.procs").lines().any(|l| l == pid.to_string()));
    let throttled = || {
        let stat = read(&dir, "cpu.stat");
        let line = stat.lines().find_map(|l| l.strip_prefix("nr_throttled ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    until("the kernel holds it back", || throttled() > 3);
    e.apply(&p, &[order(pid, 0, true)]);
    let freezer = v1.freezer.as_ref().unwrap().join(GuestId([7; 16]).to_string());
    until("frozen", || read(&freezer, "freezer.state") == "FROZEN");
    e.apply(&p, &[]);
    assert!(!dir.exists() && !freezer.exists(), "its groups are gone");
    let before = cpu_time(pid).unwrap();
    until("it runs", || cpu_time(pid).unwrap() > before);
    for d in [Some(&v1.cpu), v1.memory.as_ref(), v1.freezer.as_ref()]
        .into_iter()
        .flatten()
    {
        assert!(!d.exists(), "{} is left behind", d.display());
    }
}

/// A tree with the files that version 2 has, as far as they are read and written here.
fn fake_v2(root: &Path, controllers: &str) -> std::path::PathBuf {
    let own = root.join("sys/fs/cgroup/unit");
    fs::create_dir_all(&own).unwrap();
    fs::create_dir_all(root.join("proc/self")).unwrap();
    fs::write(
        root.join("proc/self/mountinfo"),
        "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    )
    .unwrap();
    fs::write(root.join("proc/self/cgroup"), "0::/unit\n").unwrap();
    fs::write(own.join("cgroup.controllers"), controllers).unwrap();
    let id = GuestId([7; 16]).to_string();
    let name = format!("lanline-test-v2-{}", std::process::id());
    for dir in [
        own.clone(),
        own.join("node"),
        own.join(&name),
        own.join(&name).join(&id),
    ] {
        fs::create_dir_all(&dir).unwrap();
        for f in [
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.freeze",
            "cpu.max",
            "cpu.weight",
            "memory.max",
        ] {
            fs::write(dir.join(f), "").unwrap();
        }
    }
    fs::write(own.join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
    own.join(name).join(id)
}

#[test]
fn groups_of_version_2_on_a_fake_tree() {
    let dir = tempfile::tempdir().unwrap();
    let guest = fake_v2(dir.path(), "cpuset cpu io memory pids\n");
    let e = Enforcer::new(&config(&dir.path().to_string_lossy(), "v2"));
    assert!(e.found().v2.is_ok(), "{:?}", e.found());
    e.apply(
        &plan("[host]\ncpu = \"50%\"\nweight = 10\n"),
        &[order(std::process::id(), 250, false)],
    );
    assert_eq!(e.held(GuestId([7; 16])).unwrap().backend, Backend::CgroupV2);
    let read = |d: &Path, f: &str| fs::read_to_string(d.join(f)).unwrap();
    assert_eq!(read(&guest, "cpu.max"), "25000 100000");
    assert_eq!(read(&guest, "cgroup.procs"), std::process::id().to_string());
    assert_eq!(read(guest.parent().unwrap(), "cpu.max"), "100000 100000");
    assert_eq!(read(guest.parent().unwrap(), "cpu.weight"), "10");
    let base = guest.parent().unwrap().parent().unwrap();
    assert_eq!(
        read(&base.join("node"), "cgroup.procs"),
        std::process::id().to_string(),
        "the node itself is in a leaf"
    );
    assert_eq!(read(base, "cgroup.subtree_control"), "+cpu +memory");
    e.apply(&plan("[host]\ncpu = \"0%\"\n"), &[order(std::process::id(), 0, true)]);
    assert_eq!(read(&guest, "cgroup.freeze"), "1");
}

#[test]
fn without_delegation_the_reason_names_the_setting() {
    let dir = tempfile::tempdir().unwrap();
    fake_v2(dir.path(), "memory pids\n");
    let e = Enforcer::new(&config(&dir.path().to_string_lossy(), "v2"));
    assert!(e.found().v2.as_ref().unwrap_err().contains("Delegate=yes"));
    assert!(e.found().v1.as_ref().unwrap_err().contains("controller 'cpu'"));
    fake_v2(dir.path(), "cpu memory\n");
    fs::write(dir.path().join("sys/fs/cgroup/unit/cgroup.procs"), "4711\n").unwrap();
    let e = Enforcer::new(&config(&dir.path().to_string_lossy(), "v2"));
    assert!(
        e.found()
            .v2
            .as_ref()
            .unwrap_err()
            .contains("process 4711 is in its group too"),
        "nobody else is moved"
    );
}

#[test]
fn a_deadline_is_set_on_virtual_processors_and_taken_back() {
    let e = Enforcer::new(&config("/nonexistent", "dl"));
    if let Err(why) = &e.found().deadline {
        eprintln!("skipped: SCHED_DEADLINE {why}");
        return;
    }
    // A process with a thread of QEMU's name for one.
    let script = "import threading,ctypes\ndef f():\n ctypes.CDLL(None).prctl(15,b'CPU 0/TCG')\n while True: pass\nthreading.Thread(target=f).start()\n";
    let Ok(child) = Command::new("python3").args(["-c", script]).spawn() else {
        eprintln!("skipped: there is no python3");
        return;
    };
    let busy = Busy(child);
    let pid = busy.0.id();
    let vcpu = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        tasks
            .flatten()
            .find(|t| fs::read_to_string(t.path().join("comm")).is_ok_and(|c| c.starts_with("CPU ")))
    };
    until("its thread is there", || vcpu().is_some());
    let tid: i32 = vcpu().unwrap().file_name().to_str().unwrap().parse().unwrap();
    // SAFETY: asks the kernel for a number.
    let policy = || unsafe { libc::sched_getscheduler(tid) } & 0xff;
    let p = plan("[host]\nenforcer = \"deadline\"\n");
    e.apply(&p, &[order(pid, 200, false)]);
    let held = e.held(GuestId([7; 16])).unwrap();
    if held.backend == Backend::Deadline {
        assert_eq!(policy(), 6, "SCHED_DEADLINE");
    } else {
        assert!(held.why.contains("refused"), "{held:?}");
    }
    e.apply(&p, &[]);
    assert_eq!(policy(), 0, "SCHED_OTHER");
}
