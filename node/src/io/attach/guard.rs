//! The dead-man: a process that goes back if nobody says that the change is good.
//!
//! It is this program again, in a session of its own, so that neither `kill -9` of the node nor the end of a terminal ends
//! it. It says `ARMED` once it watches. It looks at the journal when its input says so, when its input ends (the node
//! died), when its time is over, and when it is asked to end (a service manager ends what a service left behind); each time
//! it ends with the change confirmed or undone.

use super::{Book, Settled};
use crate::io::terminal::hint;
use std::{io::Write, os::fd::AsFd, path::PathBuf, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::unix::pipe,
    process::{Child, ChildStdin, Command},
    signal::unix::{SignalKind, signal},
};
use wire::{Fault, FaultKind};

/// What it says when it watches.
const ARMED: &str = "armed";
/// The hidden verb that makes this program a dead-man.
pub const VERB: &str = "attach-guard";
/// How long it may take to start on a busy machine.
const START: Duration = Duration::from_secs(10);
/// How long a way back may take.
const WAY_BACK: Duration = Duration::from_secs(20);
/// Pauses between attempts to go back where a step fails: the interface may come back.
const AGAIN: Duration = Duration::from_secs(2);
/// Attempts to go back; the journal stays after the last, and the next start of the node tries again.
const ATTEMPTS: u32 = 30;

/// A dead-man that watches, from the node's side.
pub struct Guard {
    child: Child,
    input: ChildStdin,
}

fn failed(what: &str, e: &dyn std::fmt::Display) -> Fault {
    Fault::new(FaultKind::Failed, format!("{what}: {e}")).next("nothing was changed; look at the node's log")
}

impl Guard {
    /// Starts one for a journal that is written already; it watches when this returns.
    pub async fn arm(book: &Book, within: Duration) -> Result<Self, Fault> {
        let mut child = Command::new("/proc/self/exe")
            .arg(VERB)
            .arg(book.file())
            .arg(within.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed("the dead-man cannot be started", &e))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("the dead-man cannot be started", &"it has no pipes"));
        };
        let mut line = String::new();
        let said = tokio::time::timeout(START, BufReader::new(output).read_line(&mut line)).await;
        if line.trim() == ARMED {
            return Ok(Self { child, input });
        }
        Err(failed("the dead-man does not watch", &format!("{said:?} {line}")))
    }

    /// Lets it look at the journal now, and waits for its end.
    pub async fn look(mut self) {
        if let Err(e) = self.input.write_all(b"look\n").await {
            tracing::debug!(error = %e, "the dead-man ended before");
        }
        let Self { mut child, input } = self;
        drop(input);
        let done = tokio::time::timeout(WAY_BACK, child.wait()).await;
        tracing::debug!(?done, "the dead-man ended");
    }
}

/// The dead-man's own life.
pub async fn run(journal: PathBuf, within: Duration) -> Result<(), Fault> {
    // It fails only for the leader of a group, which a child just made is not.
    let _ = rustix::process::setsid();
    let mut term = signal(SignalKind::terminate()).map_err(|e| failed("SIGTERM cannot be watched", &e))?;
    let mut hup = signal(SignalKind::hangup()).map_err(|e| failed("SIGHUP cannot be watched", &e))?;
    let mut int = signal(SignalKind::interrupt()).map_err(|e| failed("SIGINT cannot be watched", &e))?;
    say_armed().map_err(|e| failed("the node cannot be told", &e))?;
    let input = std::io::stdin().as_fd().try_clone_to_owned();
    let input = input.and_then(pipe::Receiver::from_owned_fd);
    let mut input = input.map_err(|e| failed("the node cannot be heard", &e))?;
    let mut byte = [0u8; 1];
    tokio::select! {
        _ = input.read(&mut byte) => {}
        _ = tokio::time::sleep(within) => {}
        _ = term.recv() => {}
        _ = hup.recv() => {}
        _ = int.recv() => {}
    }
    let book = Book { file: journal };
    let name = book.interface();
    let mut last = Ok(Settled::Nothing);
    for _ in 0..ATTEMPTS {
        last = book.settle();
        if last.is_ok() {
            break;
        }
        tokio::time::sleep(AGAIN).await;
    }
    match last {
        Ok(Settled::Undone) => {
            hint(&format!(
                "lanline: the change of {name} was not confirmed; its old state is back\n"
            ));
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(e) => Err(failed("the old state is not wholly back", &e)),
    }
}

/// On standard output, which here is a pipe to the node and no person's.
fn say_armed() -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(format!("{ARMED}\n").as_bytes())?;
    out.flush()
}
