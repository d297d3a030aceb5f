//! A scripted QEMU: this test binary, started again by a shell script in QEMU's place. It speaks QMP and has a console,
//! on which words make it misbehave: `die`, `hang`, `shutdown`, `flood`, `ioerror`.

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
         while [ $# -gt 0 ]; do [ \"$1\" = -uuid ] && id=$2; shift; done\n\
         {MODE}={mode:?} {UUID}=$id exec {} --exact io::stub::qemu --nocapture --skip -uuid \"$id\"\n",
        exe.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
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
    }
}

#[derive(Default)]
struct Machine {
    status: Mutex<String>,
    hung: Mutex<bool>,
    clients: Mutex<Vec<UnixStream>>,
}

impl Machine {
    fn set(&self, status: &str) {
        *self.status.lock().unwrap() = status.to_owned();
    }

    fn event(&self, name: &str, data: Value) {
        let line = json!({ "event": name, "data": data, "timestamp": { "seconds": 1, "microseconds": 2 } });
        self.clients
            .lock()
            .unwrap()
            .retain_mut(|c| writeln!(c, "{line}\r").is_ok());
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
    machine.set("prelaunch");
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
    let console = UnixListener::bind("console.sock").unwrap();
    for client in console.incoming().flatten() {
        console_client(client, &machine);
    }
}

fn monitor(mut client: UnixStream, machine: &Machine, mode: &str) {
    let greeting =
        json!({ "QMP": { "version": { "qemu": { "major": 7, "minor": 2, "micro": 0 } }, "capabilities": [] } });
    writeln!(client, "{greeting}\r").unwrap();
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
        let command: Value = serde_json::from_str(&line).unwrap();
        let name = command["execute"].as_str().unwrap();
        let value = match name {
            "query-uuid" => json!({ "UUID": uuid }),
            "query-status" => json!({ "status": *machine.status.lock().unwrap(), "running": true }),
            _ => json!({}),
        };
        if name == "cont" {
            machine.set("running");
            machine.event("RESUME", json!({}));
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

fn console_client(mut client: UnixStream, machine: &Machine) {
    client.write_all(b"stub console\r\n").unwrap();
    for line in BufReader::new(client.try_clone().unwrap())
        .lines()
        .map_while(Result::ok)
    {
        match line.as_str() {
            "die" => std::process::exit(7),
            "hang" => *machine.hung.lock().unwrap() = true,
            "shutdown" => machine.guest_shutdown(),
            "ioerror" => {
                machine.set("io-error");
                machine.event(
                    "BLOCK_IO_ERROR",
                    json!({ "action": "stop", "nospace": true, "operation": "write" }),
                );
                machine.event("STOP", json!({}));
            }
            "flood" => client.write_all(&[b'x'; 4 << 20]).unwrap(),
            other => write!(client, "heard {other}\r\n").unwrap(),
        }
    }
}
