//! The connection to a guest's QMP monitor: connects, makes sure who is there, forwards what matters.
//!
//! One task a running guest. It tries the node's monitor and the rescue monitor in turn, because a QMP socket serves
//! one client and the other may be a node that hangs. After each connection it asks for the state again: events that
//! came while nobody listened are lost (notes/vm.md §1, fact 11).

use super::{
    enforce::{Gate, Opened},
    folder::Folder,
};
use crate::{
    args::files,
    defaults::{CONNECT_EVERY, MAX_QMP_PENDING, QMP_GREETING},
    fill,
    guest::Monitor,
    qmp::{Command, RunState, Session, Update},
};
use serde_json::Value;
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use wire::ids::GuestId;

/// A running monitor task; ended by dropping it.
#[derive(Debug)]
pub(super) struct MonitorLink {
    tell: mpsc::Sender<Command>,
    said: mpsc::Receiver<Monitor>,
    task: JoinHandle<()>,
}

impl Drop for MonitorLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl MonitorLink {
    /// Starts it. `patience`: how long one socket may take to greet before the other is tried.
    pub(super) fn start(id: GuestId, folder: Arc<Folder>, patience: Duration, gate: Gate) -> Self {
        let (tell, commands) = mpsc::channel(MAX_QMP_PENDING);
        let (say, said) = mpsc::channel(MAX_QMP_PENDING);
        let task = tokio::spawn(keep(id, folder, (patience, gate), commands, say));
        Self { tell, said, task }
    }

    /// Gives a command; `false`: too many wait already.
    pub(super) fn tell(&self, command: Command) -> bool {
        self.tell.try_send(command).is_ok()
    }

    /// The next thing that the monitor says.
    pub(super) async fn next(&mut self) -> Monitor {
        match self.said.recv().await {
            Some(m) => m,
            // The task ends only when this link is dropped.
            None => std::future::pending().await,
        }
    }
}

/// A few commands on whichever monitor is free, with their answers, beside the one that is kept.
#[derive(Debug)]
pub(super) struct Errand {
    stream: UnixStream,
    session: Session,
}

impl Errand {
    /// Opens it: on the rescue monitor, or on the first if the rescue monitor serves somebody.
    pub(super) async fn open(id: GuestId, folder: &Folder) -> Result<Self, String> {
        let mut why = String::new();
        for socket in [files::RESCUE, files::QMP, files::RESCUE] {
            match connect(id, folder, socket, QMP_GREETING).await {
                Ok((stream, session, _)) => return Ok(Self { stream, session }),
                Err(e) => why = e.to_string(),
            }
        }
        Err(format!("QEMU's monitor does not answer: {why}"))
    }

    /// Gives a command and waits for its answer.
    pub(super) async fn ask(&mut self, command: Command) -> Result<Value, String> {
        let answer = timeout(command.deadline(), ask(&mut self.stream, &mut self.session, command)).await;
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(format!("{}: {e}", command.as_str())),
            Err(_) => Err(format!("{}: QEMU did not reply in time", command.as_str())),
        }
    }
}

async fn keep(
    id: GuestId,
    folder: Arc<Folder>,
    (patience, gate): (Duration, Gate),
    mut commands: mpsc::Receiver<Command>,
    say: mpsc::Sender<Monitor>,
) {
    let mut pause = CONNECT_EVERY;
    let mut sockets = [files::QMP, files::RESCUE].iter().cycle().peekable();
    while let Some(socket) = sockets.peek().copied() {
        // A guest that stands still by a signal cannot greet.
        let opened = gate.open(id);
        match connect(id, &folder, socket, patience).await {
            Ok((stream, session, state)) => {
                pause = CONNECT_EVERY;
                tracing::debug!(guest = %id, socket, ?state, "monitor is up");
                while commands.try_recv().is_ok() {} // given to a connection that is gone
                if say.send(Monitor::Status(state)).await.is_err() {
                    return;
                }
                drop(opened);
                let why = serve(stream, session, &mut commands, (&say, &|| gate.open(id))).await;
                tracing::debug!(guest = %id, socket, %why, "monitor is lost");
                if say.send(Monitor::Lost).await.is_err() {
                    return;
                }
            }
            // QEMU has not made it yet: the other one is left for errands.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                sleep(pause).await;
                continue;
            }
            Err(why) => tracing::trace!(guest = %id, socket, %why, "monitor does not answer"),
        }
        sockets.next();
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Connects one socket and makes sure that the guest behind it is `id`.
async fn connect(
    id: GuestId,
    folder: &Folder,
    socket: &str,
    patience: Duration,
) -> io::Result<(UnixStream, Session, RunState)> {
    let mut stream = UnixStream::connect(folder.socket(socket)).await?;
    folder.check_peer(&stream)?;
    let hello = async {
        let mut session = Session::new();
        loop {
            if let Some(Update::Greeting { version }) = step(&mut stream, &mut session).await? {
                tracing::trace!(guest = %id, ?version, "QMP greets");
                break;
            }
        }
        ask(&mut stream, &mut session, Command::Capabilities).await?;
        let uuid = ask(&mut stream, &mut session, Command::QueryUuid).await?;
        if uuid["UUID"].as_str() != Some(&id.to_string()) {
            return Err(io::Error::other("another guest answers on this socket"));
        }
        let status = ask(&mut stream, &mut session, Command::QueryStatus).await?;
        Ok((session, run_state(&status)))
    };
    let (session, state) = timeout(patience, hello).await??;
    Ok((stream, session, state))
}

fn run_state(status: &Value) -> RunState {
    RunState::from_word(status["status"].as_str().unwrap_or("unknown"))
}

/// Gives a command and waits for its reply; events meanwhile are passed over, the state is asked for last.
async fn ask(stream: &mut UnixStream, session: &mut Session, command: Command) -> io::Result<Value> {
    session.execute(Instant::now(), command).map_err(io::Error::other)?;
    loop {
        match step(stream, session).await? {
            Some(Update::Reply { command: c, value }) if c == command => return Ok(value),
            Some(Update::Failed { command: c, why }) if c == command => return Err(io::Error::other(why)),
            Some(Update::TimedOut(_)) => return Err(io::ErrorKind::TimedOut.into()),
            _ => {}
        }
    }
}

/// Sends what waits, then gives the next update, reading if there is none. `None`: nothing whole came yet.
async fn step(stream: &mut UnixStream, session: &mut Session) -> io::Result<Option<Update>> {
    while let Some(bytes) = session.poll_transmit() {
        stream.write_all(&bytes).await?;
    }
    if let Some(update) = session.poll_event() {
        return Ok(Some(update));
    }
    let mut buf = [0u8; 4_096];
    match stream.read(&mut buf).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => {
            session
                .handle_bytes(Instant::now(), &buf[..n])
                .map_err(io::Error::other)?;
            Ok(session.poll_event())
        }
    }
}

/// Runs an open session until it ends; says why it did.
async fn serve(
    mut stream: UnixStream,
    mut session: Session,
    commands: &mut mpsc::Receiver<Command>,
    (say, open): (&mpsc::Sender<Monitor>, &(impl Fn() -> Opened + Sync)),
) -> io::Error {
    let mut buf = vec![0u8; 16 * 1_024];
    let mut opened = None;
    loop {
        // As long as a command waits for its reply the guest must be able to give it.
        opened = match session.poll_timeout() {
            Some(_) => opened.or_else(|| Some(open())),
            None => None,
        };
        while let Some(update) = session.poll_event() {
            if let Some(said) = forward(update, &mut session)
                && say.send(said).await.is_err()
            {
                return io::Error::other("the guest's keeper is gone");
            }
        }
        while let Some(bytes) = session.poll_transmit() {
            if let Err(e) = stream.write_all(&bytes).await {
                return e;
            }
        }
        let deadline = session.poll_timeout().map(|(at, _)| at);
        let result = tokio::select! {
            read = stream.read(&mut buf) => match read {
                Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(n) => session.handle_bytes(Instant::now(), &buf[..n]),
                Err(e) => return e,
            },
            Some(command) = commands.recv() => session.execute(Instant::now(), command),
            () = until(deadline) => {
                session.handle_timeout(Instant::now());
                Ok(())
            }
        };
        if let Err(e) = result {
            return io::Error::other(e);
        }
    }
}

/// Sleeps until then; without a time, for ever.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What of an update the guest's machine wants to know.
fn forward(update: Update, session: &mut Session) -> Option<Monitor> {
    match update {
        Update::Reply {
            command: Command::QueryStatus,
            value,
        } => Some(Monitor::Status(run_state(&value))),
        // Then the state is asked for: the event is missing if the guest ran, or stood still, already.
        Update::Reply {
            command: Command::Cont | Command::Stop,
            ..
        } => session
            .execute(Instant::now(), Command::QueryStatus)
            .err()
            .map(|e| Monitor::Failed {
                command: Command::QueryStatus,
                why: e.to_string(),
            }),
        Update::Reply { command, value } if fill::is_ours(command) => {
            let unusable = || Monitor::Failed {
                command,
                why: "QEMU's answer makes no sense".into(),
            };
            Some(fill::said(command, &value).map_or_else(unusable, Monitor::Disk))
        }
        Update::Reply { .. } | Update::Greeting { .. } => None,
        Update::Failed { command, why } => Some(Monitor::Failed { command, why }),
        Update::TimedOut(command) => Some(Monitor::Failed {
            command,
            why: "QEMU did not reply in time".into(),
        }),
        Update::Event { name, data } => match name.as_str() {
            "STOP" => Some(Monitor::Held),
            "RESUME" => Some(Monitor::Resumed),
            // Other processes reset the guest themselves.
            "SHUTDOWN" if data["reason"] == "guest-reset" => Some(Monitor::Rebooted),
            "SHUTDOWN" => Some(Monitor::Shutdown {
                guest: data["guest"].as_bool().unwrap_or(false),
            }),
            "BLOCK_IO_ERROR" if data["action"] == "stop" => Some(Monitor::DiskError {
                no_space: data["nospace"].as_bool().unwrap_or(false),
            }),
            _ => fill::event(&name, &data).map(Monitor::Disk),
        },
    }
}
