//! Commands whose exit status is always looked at, and waiting for a condition.

use crate::defaults;
use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open},
};
use std::{
    io::Read,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// What a finished command said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Command line, for messages.
    pub line: String,
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Output {
    /// Itself, or an error that shows the command, its code and what it said.
    pub fn ok(self) -> Result<Self> {
        if self.code != 0 {
            bail!("{self}");
        }
        Ok(self)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with {}", self.line, self.code)?;
        for (what, text) in [("stderr", &self.stderr), ("stdout", &self.stdout)] {
            if !text.trim().is_empty() {
                write!(f, "\n  {what}: {}", tail(text.trim(), 4_000))?;
            }
        }
        Ok(())
    }
}

fn tail(s: &str, max: usize) -> &str {
    let from = s.len().saturating_sub(max);
    let from = (from..s.len()).find(|i| s.is_char_boundary(*i)).unwrap_or(s.len());
    s.get(from..).unwrap_or_default()
}

/// Runs `program args` and returns its standard output; any exit status but 0 is an error.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let mut c = Command::new(program);
    c.args(args);
    Ok(run_within(c, defaults::CLI_LIMIT)?.ok()?.stdout)
}

/// Runs a command to its end, whatever its exit code; kills it and fails after `limit`.
pub fn run_within(mut c: Command, limit: Duration) -> Result<Output> {
    let line = command_line(&c);
    let began = Instant::now();
    let mut child = c
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let out = child.stdout.take().map(read_all);
    let err = child.stderr.take().map(read_all);
    let status = wait_within(&mut child, limit)?;
    let text = |h: Option<std::thread::JoinHandle<Vec<u8>>>| {
        let bytes = h.and_then(|h| h.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let Some(status) = status else {
        child.kill()?;
        child.wait()?;
        bail!(
            "`{line}` did not end within {limit:?}; it had said: {}{}",
            text(out),
            text(err)
        );
    };
    Ok(Output {
        line,
        code: status.code().unwrap_or(-1),
        stdout: text(out),
        stderr: text(err),
        took: began.elapsed(),
    })
}

/// Waits for a child; `None` if it still runs after `limit`.
pub fn wait_within(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    if let Some(done) = child.try_wait()? {
        return Ok(Some(done));
    }
    let pid = Pid::from_child(child);
    let fd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let deadline = Instant::now() + limit;
    loop {
        let left = timespec(deadline.saturating_duration_since(Instant::now()));
        let ready = match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if ready > 0 {
            return Ok(Some(child.wait()?));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
    }
}

/// Sends a signal to a process that this lab started; one that has ended already is fine.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        bail!("{pid} is not a process id");
    };
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot signal process {pid:?}")),
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        // An error here means the child died mid-write; what came before is still worth showing.
        from.read_to_end(&mut all).ok();
        all
    })
}

/// The command as a person would type it.
pub fn command_line(c: &Command) -> String {
    let words = std::iter::once(c.get_program()).chain(c.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A duration as the kernel takes it.
pub fn timespec(d: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(d.subsec_nanos()),
    }
}

/// Looks at `f` every [`defaults::POLL_EVERY`] until it gives a value; an error only means "not yet". Fails with `what`
/// and the last error after `limit`.
pub fn eventually<T>(limit: Duration, what: &str, mut f: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let mut last = None;
    let got = until(limit, what, || {
        f().or_else(|e| {
            last = Some(e);
            Ok(None)
        })
    });
    match last {
        Some(e) if got.is_err() => Err(e).with_context(|| format!("waited {limit:?} for: {what}")),
        _ => got,
    }
}

/// As [`eventually`], but an error ends the waiting: for a condition that can become impossible.
pub fn until<T>(limit: Duration, what: &str, mut f: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(v) = f()? {
            return Ok(v);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for: {what}");
        }
        pause(defaults::POLL_EVERY);
    }
}

/// As [`until`], without giving up the CPU: for an instant that a poll would miss.
pub fn until_busy(limit: Duration, mut f: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !f() {
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain");
        }
        std::hint::spin_loop();
    }
    Ok(())
}

/// Lets `d` go by, to hit another instant of what goes on meanwhile; no test depends on which.
pub fn wait_busy(d: Duration) {
    let deadline = Instant::now() + d;
    while Instant::now() < deadline {
        std::hint::spin_loop();
    }
}

/// Gives up the CPU for `d`: for the pace of polling, and for a product that says nowhere when it has settled.
pub fn pause(d: Duration) {
    // An interrupted pause only polls earlier.
    poll(&mut [], Some(&timespec(d))).ok();
}

/// The full path of a tool, or `None`; sbin is searched too, which a user's PATH may lack.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"]);
    dirs.map(|d| PathBuf::from(d).join(name)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut c = Command::new("sh");
        c.args(["-c", script]);
        c
    }

    #[test]
    fn an_exit_status_is_never_lost() {
        let out = run_within(shell("echo out; echo err >&2; exit 3"), Duration::from_secs(10)).unwrap();
        assert_eq!(
            (out.code, out.stdout.as_str(), out.stderr.as_str()),
            (3, "out\n", "err\n")
        );
        let said = format!("{:#}", out.ok().unwrap_err());
        assert!(said.contains("ended with 3") && said.contains("stderr: err"), "{said}");
        assert!(run("false", &[]).is_err());
    }

    #[test]
    fn a_command_that_hangs_is_killed_and_what_it_said_is_shown() {
        let e = run_within(shell("echo before; exec sleep 600"), Duration::from_millis(200)).unwrap_err();
        assert!(format!("{e:#}").contains("before"), "{e:#}");
    }

    #[test]
    fn waiting_gives_the_last_reason() {
        let mut n = 0;
        let got = eventually(Duration::from_secs(10), "three", || {
            n += 1;
            Ok((n == 3).then_some(n))
        });
        assert_eq!(got.unwrap(), 3);
        let e = eventually(Duration::from_millis(1), "the moon", || -> Result<Option<()>> {
            bail!("cloudy")
        });
        let said = format!("{:#}", e.unwrap_err());
        assert!(said.contains("the moon") && said.contains("cloudy"), "{said}");
        let began = Instant::now();
        let e = until(Duration::from_secs(600), "the moon", || -> Result<Option<()>> {
            bail!("it fell")
        });
        assert!(e.is_err() && began.elapsed() < Duration::from_secs(300));
    }
}
