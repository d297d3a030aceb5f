//! The program on a terminal: raw mode and its end, bars, colours.

use super::{HANG, Running};
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize},
};
use std::{
    fs::File,
    io::{Read, Write},
    process::Stdio,
};
use tokio::process::{Child, Command};

/// A pseudo terminal: what the program has, and what the person has.
struct Pty {
    person: File,
    program: File,
}

impl Pty {
    fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let program = rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).unwrap();
        tcsetwinsize(
            &program,
            Winsize {
                ws_row: 24,
                ws_col: 100,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
        Self {
            person: master.into(),
            program: program.into(),
        }
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.program).unwrap()
    }

    fn spawn(&self, node: &Running, args: &[&str], env: &[(&str, &str)]) -> Child {
        let end = || Stdio::from(self.program.try_clone().unwrap());
        Command::new(env!("CARGO_BIN_EXE_lanline"))
            .arg("--state")
            .arg(node.dir.path())
            .args(args)
            .env_clear()
            .env("TERM", "xterm")
            .envs(env.iter().copied())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Reads what the person sees until it holds `needle`; returns all of it.
    async fn until(&self, needle: &'static str) -> String {
        let mut from = self.person.try_clone().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let (mut seen, mut buf) = (String::new(), [0; 1024]);
            while !seen.contains(needle) {
                let n = from.read(&mut buf).unwrap();
                seen.push_str(&String::from_utf8_lossy(&buf[..n]));
            }
            seen
        });
        tokio::time::timeout(HANG, read)
            .await
            .unwrap_or_else(|_| panic!("never saw {needle}"))
            .unwrap()
    }
}

fn same(a: &Termios, b: &Termios) -> bool {
    (a.local_modes, a.input_modes, a.output_modes) == (b.local_modes, b.input_modes, b.output_modes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_is_raw_and_gives_the_terminal_back() {
    let node = Running::start();
    for leave in [Some(b"\x1d"), None] {
        let pty = Pty::open();
        let before = pty.modes();
        let mut child = pty.spawn(&node, &["console", "web"], &[]);
        let seen = pty.until("login: ").await;
        assert!(seen.contains("Ctrl-] leaves it"), "{seen:?}");
        assert!(
            !pty.modes()
                .local_modes
                .intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
        );
        // Ctrl-C is for the guest; the guest of this test sends back what it gets.
        (&pty.person).write_all(b"ab\x03cd").unwrap();
        pty.until("ab\x03cd").await;
        match leave {
            Some(key) => (&pty.person).write_all(key).unwrap(),
            None => {
                let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
                kill_process(pid, Signal::TERM).unwrap();
            }
        }
        let end = tokio::time::timeout(HANG, child.wait()).await.unwrap().unwrap();
        assert!(end.success(), "{end:?}");
        assert!(same(&pty.modes(), &before), "the terminal is as it was");
        pty.until("the guest keeps running").await;
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_gets_a_bar_and_colours_unless_it_says_no() {
    let node = Running::start();
    for (env, check) in [
        (&[("LANG", "C.UTF-8")][..], "\x1b[32m✓\x1b[0m chose"),
        (&[("NO_COLOR", "1")], "ok chose"),
        (&[("TERM", "dumb")], "ok chose"),
    ] {
        let pty = Pty::open();
        let mut child = pty.spawn(&node, &["run", "tiny", "--name", "web"], env);
        let seen = pty.until("stop: lanline stop web").await;
        assert!(
            tokio::time::timeout(HANG, child.wait())
                .await
                .unwrap()
                .unwrap()
                .success()
        );
        assert!(seen.contains(check), "{env:?} {seen:?}");
        let bar = seen.contains("\r\x1b[2Kfetching tiny  [");
        assert_eq!(bar, env[0].0 != "TERM", "{seen:?}");
        assert!(seen.contains("192.168.1.57\r\n"), "{seen:?}");
        let colours = seen.contains("\x1b[32m") || seen.contains("\x1b[2m");
        assert_eq!(colours, env[0].0 == "LANG", "{seen:?}");
    }
    node.end().await;
}
