//! A console session: this terminal in raw mode, wired to a guest's serial line.

use super::{answer, hint};
use crate::{
    defaults,
    render::escape::{Filter, Keep},
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::{
    io::{IsTerminal, Read},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use wire::{Fault, FaultKind};

/// Ctrl-]: leaves, as in telnet and virsh.
const LEAVE: u8 = 0x1d;
/// Chunks of typed input that wait for the guest.
const TYPED: usize = 16;
/// Ends what a guest may have left on: attributes, hidden cursor, other screen, mouse reports, bracketed paste.
const RESTORE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?2004l\r\n";

/// The terminal's settings from before, put back when this is dropped, by a panic too.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Result<Self, Fault> {
        let broken =
            |e: rustix::io::Errno| Fault::new(FaultKind::Failed, format!("the terminal cannot be made raw: {e}"));
        let before = tcgetattr(std::io::stdin()).map_err(broken)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw).map_err(broken)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(e) = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0) {
            hint(&format!(
                "lanline: the terminal could not be restored ({e}); type: stty sane\r\n"
            ));
        }
    }
}

/// Wires this process's input and output to `stream` until the person leaves, the guest ends, or, where the input is
/// not a terminal, until it ended and the guest has been quiet for [`defaults::CONSOLE_LINGER`].
pub async fn console(stream: impl AsyncRead + AsyncWrite + Unpin, name: &str) -> Result<(), Fault> {
    let tty = std::io::stdin().is_terminal();
    if tty {
        hint(&format!("console of {name}; Ctrl-] leaves it\n"));
    }
    let raw = if tty { Some(RawMode::enter()?) } else { None };
    let why = session(stream, typed(), tty).await;
    if raw.is_some() {
        answer(RESTORE)?;
    }
    drop(raw);
    match why? {
        Left::Person => hint("left the console; the guest keeps running\n"),
        Left::Guest => hint("the console ended: see lanline ls\n"),
        Left::Quiet => {}
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Left {
    Person,
    Guest,
    Quiet,
}

/// Standard input, read by a thread of its own: such a read cannot be cancelled, and the process does not wait for it.
fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (tx, rx) = mpsc::channel(TYPED);
    std::thread::spawn(move || {
        let mut buf = [0; 1024];
        while let Ok(n @ 1..) = std::io::stdin().lock().read(&mut buf) {
            if tx.blocking_send(buf[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    rx
}

async fn session(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut typed: mpsc::Receiver<Vec<u8>>,
    tty: bool,
) -> Result<Left, Fault> {
    let broken = |e: std::io::Error| Fault::new(FaultKind::Unreachable, format!("the console was cut: {e}"));
    let mut signals = Signals::new().map_err(broken)?;
    let mut filter = Filter::new(Keep::Display);
    let mut buf = vec![0; 16 << 10];
    let mut open = true;
    loop {
        // A new wait each time round: the quiet is counted from the last output.
        let quiet = tokio::time::sleep(if open { Duration::MAX } else { defaults::CONSOLE_LINGER });
        tokio::select! {
            n = stream.read(&mut buf) => match n.map_err(broken)? {
                0 => return Ok(Left::Guest),
                n => answer(&filter.push(&buf[..n]))?,
            },
            bytes = typed.recv(), if open => match bytes {
                None => open = false,
                Some(bytes) => {
                    let leave = tty.then(|| bytes.iter().position(|b| *b == LEAVE)).flatten();
                    let send = &bytes[..leave.unwrap_or(bytes.len())];
                    stream.write_all(send).await.map_err(broken)?;
                    stream.flush().await.map_err(broken)?;
                    if leave.is_some() {
                        return Ok(Left::Person);
                    }
                }
            },
            () = signals.any() => return Ok(Left::Person),
            () = quiet => return Ok(Left::Quiet),
        }
    }
}

/// Signals that would end the process before it put the terminal back.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        let (term, hup, int) = (SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt());
        Ok(Self([signal(term)?, signal(hup)?, signal(int)?]))
    }

    async fn any(&mut self) {
        let [term, hup, int] = &mut self.0;
        tokio::select! {
            _ = term.recv() => {}
            _ = hup.recv() => {}
            _ = int.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn typed_text_arrives_and_the_escape_leaves() {
        let (here, mut guest) = tokio::io::duplex(256);
        let (tx, rx) = mpsc::channel(TYPED);
        tx.send(b"ls\r".to_vec()).await.unwrap();
        tx.send(b"a\x1dnot sent".to_vec()).await.unwrap();
        assert_eq!(session(here, rx, true).await, Ok(Left::Person));
        let mut got = Vec::new();
        guest.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"ls\ra");
    }

    #[tokio::test]
    async fn a_pipe_may_hold_the_escape_and_ends_by_quiet_or_guest() {
        let (here, mut guest) = tokio::io::duplex(256);
        let (tx, rx) = mpsc::channel(TYPED);
        tx.send(b"\x1d".to_vec()).await.unwrap();
        drop(tx);
        assert_eq!(session(here, rx, false).await, Ok(Left::Quiet));
        let mut got = Vec::new();
        guest.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"\x1d");
        let (here, guest) = tokio::io::duplex(256);
        let (_tx, rx) = mpsc::channel(TYPED);
        drop(guest);
        assert_eq!(session(here, rx, false).await, Ok(Left::Guest));
    }
}
