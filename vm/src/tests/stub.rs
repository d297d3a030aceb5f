//! A scripted QEMU: this test binary, started again by a shell script in QEMU's place. It speaks QMP and has a console,
//! on which words make it misbehave: `die`, `hang`, `shutdown`, `flood`, `ioerror` (until `space`), `nosave`. `count`
//! counts in its RAM, which is the memory file that a real QEMU would have. A copying into its disk ends when it is told
//! `copied` or `copyfails`; after `stuck` it cannot be cancelled.

use super::*;
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{Arc, Mutex},
};

const MODE: &str = "LANLINE_STUB_MODE";
const UUID: &str = "LANLINE_STUB_UUID";
const MEMORY: &str = "LANLINE_STUB_MEMORY";
const INCOMING: &str = "LANLINE_STUB_INCOMING";
const NBD: &str = "LANLINE_STUB_NBD";
/// Where the stub counts, in its RAM.
const COUNTER_AT: u64 = 1 << 20;

/// How the stub behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// As QEMU with a well-behaved guest.
    Obey,
    /// The guest ignores its power button.
    Deaf,
    /// QEMU ignores `quit` too.
    Stuck,
    /// QEMU never greets.
    Mute,
    /// QEMU ends at once with an error.
    Crash,
    /// Another guest answers.
    Wrong,
}

/// Writes the script that stands for QEMU; `pass` keeps the UUID on the command line, where QEMU has it.
pub(super) fn install(dir: &Path, mode: Mode) -> QemuInfo {
    let path = dir.join("qemu-stub");
    let exe = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n[ {mode:?} = Crash ] && {{ echo 'boom: no such device' >&2; exit 1; }}\n\
         while [ $# -gt 0 ]; do case $1 in -uuid) id=$2;; -incoming) in=$2;; -blockdev) case $2 in *'\"nbd\"'*) nbd=yes;; esac;; -object) case $2 in *mem-path=*) mem=${{2##*mem-path=}};; esac;; esac; shift; done\n\
         {MODE}={mode:?} {UUID}=$id {MEMORY}=$mem {INCOMING}=$in {NBD}=$nbd exec {} --exact io::stub::qemu --nocapture --skip -uuid \"$id\"\n",
        exe.display()
    );
    // A process that a killed node had just begun may be reading it: it is replaced at once and whole, never written over.
    if fs::read_to_string(&path).ok().as_ref() != Some(&script) {
        let new = path.with_extension("new");
        fs::write(&new, script).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &path).unwrap();
    }
    QemuInfo {
        path,
        img: "/usr/bin/qemu-img".into(),
        version: "7.2.0".into(),
        machine: "pc-q35-7.2".into(),
    }
}

/// A machine whose QEMU is the stub.
pub(super) fn caps(dir: &Path, mode: Mode) -> HostCaps {
    HostCaps {
        qemu: Some(install(dir, mode)),
        missing: None,
        accel: wire::guest::Accel::Tcg,
        accel_reason: "TCG: a test".into(),
        cores: 4,
        memory: wire::ByteSize(8 << 30),
        arch: "x86_64".into(),
        run_as: RunAs::SameUser,
        confinement: "a test".into(),
        landlock: false,
    }
}

#[derive(Default)]
struct Machine {
    status: Mutex<String>,
    hung: Mutex<bool>,
    transfer: Mutex<&'static str>,
    saves_fail: Mutex<bool>,
    full: Mutex<bool>,
    clients: Mutex<Vec<UnixStream>>,
    disk: Mutex<Disk>,
}

/// What its disk hangs on.
#[derive(Default)]
struct Disk {
    backing: bool,
    image: bool,
    job: bool,
    stuck: bool,
}

impl Machine {
    fn set(&self, status: &str) {
        *self.status.lock().unwrap() = status.to_owned();
    }

    fn disk_is_full(&self) {
        self.set("io-error");
        let data = json!({ "action": "stop", "nospace": true, "operation": "write" });
        self.event("BLOCK_IO_ERROR", data);
        self.event("STOP", json!({}));
    }

    fn event(&self, name: &str, data: Value) {
        let line = json!({ "event": name, "data": data, "timestamp": { "seconds": 1, "microseconds": 2 } });
        self.clients
            .lock()
            .unwrap()
            .retain_mut(|c| writeln!(c, "{line}\r").is_ok());
    }

    /// Counts in RAM; `None` without a memory file.
    fn count(&self) -> Option<u64> {
        use std::os::unix::fs::FileExt;
        let ram = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(std::env::var(MEMORY).ok()?)
            .ok()?;
        let mut bytes = [0; 8];
        ram.read_exact_at(&mut bytes, COUNTER_AT).ok()?;
        let next = u64::from_le_bytes(bytes) + 1;
        ram.write_all_at(&next.to_le_bytes(), COUNTER_AT).ok()?;
        Some(next)
    }

    fn save(&self) {
        let to = UnixStream::connect("state.sock").and_then(|mut s| s.write_all(b"the stub's devices"));
        // QEMU does not give away a disk that a job writes.
        let still = !self.disk.lock().unwrap().job;
        let well = to.is_ok() && still && !*self.saves_fail.lock().unwrap();
        *self.transfer.lock().unwrap() = if well { "completed" } else { "failed" };
        if well {
            self.set("postmigrate");
        }
    }

    fn load(self: &Arc<Self>) {
        let machine = Arc::clone(self);
        let listener = UnixListener::bind("load.sock").unwrap();
        *self.transfer.lock().unwrap() = "active";
        std::thread::spawn(move || {
            let (mut from, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            std::io::Read::read_to_end(&mut from, &mut got).unwrap();
            assert_eq!(got, b"the stub's devices");
            machine.set("paused");
            *machine.transfer.lock().unwrap() = "completed";
        });
    }

    fn copied(&self, error: Option<&str>) {
        let mut data = json!({ "device": "fill", "type": "stream", "len": 8, "offset": 8, "speed": 0 });
        {
            let mut disk = self.disk.lock().unwrap();
            assert!(std::mem::take(&mut disk.job), "nothing is being copied");
            disk.backing &= error.is_some();
        }
        if let Some(e) = error {
            data["error"] = json!(e);
        }
        self.event("BLOCK_JOB_COMPLETED", data);
    }

    /// Answers what is about the disk.
    fn block(&self, name: &str) -> Result<Value, &'static str> {
        let mut disk = self.disk.lock().unwrap();
        match name {
            "query-block-jobs" => {
                let job = json!({ "device": "fill", "type": "stream", "offset": 3, "len": 8 });
                return Ok(if disk.job { json!([job]) } else { json!([]) });
            }
            "query-named-block-nodes" => {
                let mut nodes = vec![json!({ "node-name": "disk0", "backing_file_depth": u8::from(disk.backing) })];
                nodes.extend(
                    disk.image
                        .then(|| json!({ "node-name": "image", "backing_file_depth": 0 })),
                );
                return Ok(json!(nodes));
            }
            "block-stream" if disk.job || !disk.backing => return Err("nothing to copy"),
            "block-stream" => disk.job = true,
            "block-job-cancel" if !disk.job => return Err("Block job 'fill' not found"),
            "block-job-cancel" => disk.job = disk.stuck,
            "blockdev-reopen" if disk.backing => return Err("'backing' differs"),
            "blockdev-del" if disk.backing || !disk.image => return Err("Node 'image' is busy"),
            "blockdev-del" => disk.image = false,
            _ => {}
        }
        Ok(json!({}))
    }

    fn guest_shutdown(&self) {
        self.set("shutdown");
        self.event("SHUTDOWN", json!({ "guest": true, "reason": "guest-shutdown" }));
        self.event("STOP", json!({}));
    }
}

/// The stub's main. Does nothing when run as a test.
#[test]
fn qemu() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let machine = Arc::new(Machine::default());
    {
        let image = std::env::var(NBD).is_ok_and(|n| n == "yes");
        let mut disk = machine.disk.lock().unwrap();
        (disk.backing, disk.image) = (image, image);
    }
    let incoming = std::env::var(INCOMING).is_ok_and(|i| i == "defer");
    machine.set(if incoming { "inmigrate" } else { "prelaunch" });
    let mut threads = Vec::new();
    for name in ["qmp.sock", "rescue.sock"] {
        let (listener, machine, mode) = (UnixListener::bind(name).unwrap(), Arc::clone(&machine), mode.clone());
        threads.push(std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if mode != "Mute" && !*machine.hung.lock().unwrap() {
                    monitor(client, &machine, &mode);
                } else {
                    std::mem::forget(client);
                }
            }
        }));
    }
    let _nic = UnixListener::bind("nic.sock").unwrap();
    let display = UnixListener::bind("display.sock").unwrap();
    std::thread::spawn(move || {
        for mut viewer in display.incoming().flatten() {
            let _ = viewer.write_all(b"RFB 003.008\n");
        }
    });
    let agent = UnixListener::bind("agent.sock").unwrap();
    std::thread::spawn(move || {
        for client in agent.incoming().flatten() {
            agent_client(client);
        }
    });
    let console = UnixListener::bind("console.sock").unwrap();
    for client in console.incoming().flatten() {
        console_client(client, &machine);
    }
}

fn monitor(mut client: UnixStream, machine: &Arc<Machine>, mode: &str) {
    let greeting =
        json!({ "QMP": { "version": { "qemu": { "major": 7, "minor": 2, "micro": 0 } }, "capabilities": [] } });
    // A node that is killed may leave at any word; like QEMU, this goes on with the next.
    if writeln!(client, "{greeting}\r").is_err() {
        return;
    }
    machine.clients.lock().unwrap().push(client.try_clone().unwrap());
    let uuid = if mode == "Wrong" {
        "00000000-0000-4000-8000-000000000000".into()
    } else {
        std::env::var(UUID).unwrap()
    };
    for line in BufReader::new(client.try_clone().unwrap())
        .lines()
        .map_while(Result::ok)
    {
        if *machine.hung.lock().unwrap() {
            continue;
        }
        let Ok(command) = serde_json::from_str::<Value>(&line) else {
            return;
        };
        let name = command["execute"].as_str().unwrap();
        let value = match name {
            "query-uuid" => json!({ "UUID": uuid }),
            "query-status" => json!({ "status": *machine.status.lock().unwrap(), "running": true }),
            "query-migrate-capabilities" => json!([{ "capability": "x-ignore-shared", "state": false }]),
            "query-migrate" => json!({ "status": *machine.transfer.lock().unwrap() }),
            name => match machine.block(name) {
                Ok(value) => value,
                Err(why) => {
                    let error = json!({ "class": "GenericError", "desc": why });
                    if writeln!(client, "{}\r", json!({ "error": error, "id": command["id"] })).is_err() {
                        return;
                    }
                    continue;
                }
            },
        };
        match name {
            "cont" => {
                machine.set("running");
                machine.event("RESUME", json!({}));
                if *machine.full.lock().unwrap() {
                    machine.disk_is_full();
                }
            }
            "stop" => {
                machine.set("paused");
                machine.event("STOP", json!({}));
            }
            "migrate" => machine.save(),
            "migrate-incoming" => machine.load(),
            _ => {}
        }
        if writeln!(client, "{}\r", json!({ "return": value, "id": command["id"] })).is_err() {
            return;
        }
        match (name, mode) {
            ("system_powerdown", "Obey") => machine.guest_shutdown(),
            ("quit", "Stuck") => {}
            ("quit", _) => std::process::exit(0),
            _ => {}
        }
    }
}

/// An agent that runs nothing: it knows a few words, keeps one file in memory, and lies when told to.
fn agent_client(mut client: UnixStream) {
    static FILE: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let mut at = 0;
    let mut lines = BufReader::new(client.try_clone().unwrap());
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = line.split(|b| *b == 0xff).next_back().unwrap().to_vec();
        line.clear();
        let order: Value = serde_json::from_slice(&text).unwrap();
        let a = &order["arguments"];
        let b64 = data_encoding::BASE64;
        let mut mark = false;
        let value = match order["execute"].as_str().unwrap() {
            "guest-sync-delimited" => {
                mark = true;
                a["id"].clone()
            }
            "guest-exec" => {
                json!({ "pid": match a["path"].as_str().unwrap() { "true" => 0, "false" => 1, "flood" => 2, _ => 3 } })
            }
            "guest-exec-status" => match a["pid"].as_i64().unwrap() {
                code @ 0..=1 => json!({ "exited": true, "exitcode": code, "out-data": b64.encode(b"said\n") }),
                2 => json!({ "exited": true, "exitcode": 0, "out-data": "A".repeat(5 << 20) }),
                _ => json!({ "exited": false }),
            },
            "guest-file-open" => {
                at = 0;
                if a["mode"] == "w" {
                    FILE.lock().unwrap().clear();
                }
                json!(1000)
            }
            "guest-file-seek" => {
                at = usize::try_from(a["offset"].as_u64().unwrap()).unwrap();
                json!({ "position": at, "eof": false })
            }
            "guest-file-write" => {
                let data = b64.decode(a["buf-b64"].as_str().unwrap().as_bytes()).unwrap();
                let mut file = FILE.lock().unwrap();
                let end = at + data.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[at..end].copy_from_slice(&data);
                json!({ "count": data.len(), "eof": false })
            }
            "guest-file-read" => {
                let file = FILE.lock().unwrap();
                let end = file
                    .len()
                    .min(at + usize::try_from(a["count"].as_u64().unwrap()).unwrap());
                json!({ "count": end - at, "buf-b64": b64.encode(&file[at..end]), "eof": end == file.len() })
            }
            _ => json!({}),
        };
        if mark && client.write_all(&[0xff]).is_err() {
            return;
        }
        if writeln!(client, "{}", json!({ "return": value })).is_err() {
            return;
        }
    }
}

fn console_client(mut client: UnixStream, machine: &Machine) {
    // What a client that is gone does not get is told by the end of its lines.
    let _ = client.write_all(b"stub console\r\n");
    for line in BufReader::new(client.try_clone().unwrap())
        .lines()
        .map_while(Result::ok)
    {
        match line.as_str() {
            "die" => std::process::exit(7),
            "hang" => *machine.hung.lock().unwrap() = true,
            "shutdown" => machine.guest_shutdown(),
            "nosave" => *machine.saves_fail.lock().unwrap() = true,
            "count" => {
                let _ = write!(client, "count {}\r\n", machine.count().unwrap());
            }
            "ioerror" => {
                *machine.full.lock().unwrap() = true;
                machine.disk_is_full();
            }
            "copied" => machine.copied(None),
            "copyfails" => machine.copied(Some("No space left on device")),
            "stuck" => machine.disk.lock().unwrap().stuck = true,
            "space" => *machine.full.lock().unwrap() = false,
            "flood" => drop(client.write_all(&[b'x'; 4 << 20])),
            other => drop(write!(client, "heard {other}\r\n")),
        }
    }
}
