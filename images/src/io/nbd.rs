//! The disk of a guest: an image as a read-only NBD export on a unix socket, which QEMU opens under its local overlay.
//!
//! A piece that is not here yet makes the read wait, not fail: see [`PieceSource`](super::PieceSource). The export may be
//! served again on the same path after a restart; QEMU's `reconnect-delay` then finds it.

use super::reader::ImageReader;
use super::store::{Store, StoreError};
use super::stream::blocking;
use crate::defaults::{NBD_CLIENTS, NBD_IN_FLIGHT, READ_DEADLINE};
use crate::nbd::{self, Command, Errno, Opt, OptionError, Reply, Request};
use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use wire::ImageId;

/// Why an image cannot be served to a guest.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The socket cannot be made.
    #[error("cannot make the disk socket {path}: {source}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody serves it already.
    #[error("the disk socket {0} is in use by another process")]
    InUse(PathBuf),
    /// The image.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blocking thread died.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A running export. Dropping it ends its connections and removes the socket.
#[derive(Debug)]
pub struct NbdExport {
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl NbdExport {
    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it; returns when no connection is left.
    pub async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for NbdExport {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(e) = std::fs::remove_file(&self.socket)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(error = %e, "cannot remove a disk socket");
        }
    }
}

/// Serves the disk of an image on `socket`; a dead socket file there is replaced. Needs a tokio runtime.
pub async fn serve(store: Store, id: ImageId, socket: &Path) -> Result<NbdExport, NbdError> {
    let reader = blocking(move || store.reader(id)).await??;
    serve_reader(reader, socket).await
}

/// The same, and what is read is recorded as a boot's.
pub async fn serve_boot(
    store: Store,
    id: ImageId,
    socket: &Path,
    recording: super::Recording,
) -> Result<NbdExport, NbdError> {
    let reader = blocking(move || store.reader(id)).await??;
    serve_reader(reader.recorded(recording), socket).await
}

/// The same for a reader with its own way to get missing pieces.
pub async fn serve_reader(reader: ImageReader, socket: &Path) -> Result<NbdExport, NbdError> {
    let path = socket.to_owned();
    let fail = |source| NbdError::Socket {
        path: path.clone(),
        source,
    };
    match std::fs::symlink_metadata(socket) {
        Ok(m) if m.file_type().is_socket() => {
            if UnixStream::connect(socket).await.is_ok() {
                return Err(NbdError::InUse(path));
            }
            std::fs::remove_file(socket).map_err(fail)?;
        }
        Ok(_) => return Err(fail(io::ErrorKind::AlreadyExists.into())),
        Err(_) => {}
    }
    let listener = UnixListener::bind(socket).map_err(fail)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    let task = tokio::spawn(accept(listener, reader));
    Ok(NbdExport { socket: path, task })
}

async fn accept(listener: UnixListener, reader: ImageReader) {
    let mut clients = JoinSet::new();
    loop {
        while clients.len() >= NBD_CLIENTS {
            clients.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let reader = reader.clone();
                    clients.spawn(async move {
                        if let Err(e) = client(stream, reader).await {
                            tracing::debug!(error = %e, "a disk client left");
                        }
                    });
                }
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a disk client");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// What was agreed in the handshake.
#[derive(Default)]
struct Agreed {
    structured: bool,
    allocation: bool,
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

async fn client(stream: UnixStream, reader: ImageReader) -> io::Result<()> {
    let (mut r, mut w) = stream.into_split();
    w.write_all(&nbd::GREETING).await?;
    let no_zeroes = nbd::client_flags(r.read_u32().await?).ok_or(broken("not a fixed newstyle client"))?;
    let Some(agreed) = negotiate(&mut r, &mut w, reader.size(), no_zeroes).await? else {
        return Ok(());
    };
    transmit(r, w, reader, agreed).await
}

/// The handshake; `None`: the client only wanted to know.
async fn negotiate(
    r: &mut OwnedReadHalf,
    w: &mut OwnedWriteHalf,
    size: u64,
    no_zeroes: bool,
) -> io::Result<Option<Agreed>> {
    let mut agreed = Agreed::default();
    loop {
        let mut head = [0; nbd::OPTION_HEAD];
        r.read_exact(&mut head).await?;
        let (number, len) = nbd::option_head(&head).ok_or(broken("not an option"))?;
        if len > nbd::MAX_OPTION {
            w.write_all(&nbd::option_error(number, OptionError::TooBig)).await?;
            return Err(broken("an option is too long"));
        }
        let mut data = vec![0; len as usize];
        r.read_exact(&mut data).await?;
        let opt = match nbd::option(number, &data) {
            Ok(opt) => opt,
            Err(e) => {
                w.write_all(&nbd::option_error(number, e)).await?;
                continue;
            }
        };
        match answer(number, opt, size, no_zeroes, &mut agreed) {
            Answer::Say(bytes) => w.write_all(&bytes).await?,
            Answer::Begin(bytes) => {
                w.write_all(&bytes).await?;
                return Ok(Some(agreed));
            }
            Answer::End(bytes) => {
                w.write_all(&bytes).await?;
                return Ok(None);
            }
        }
    }
}

enum Answer {
    Say(Vec<u8>),
    Begin(Vec<u8>),
    End(Vec<u8>),
}

fn answer(number: u32, opt: Opt, size: u64, no_zeroes: bool, agreed: &mut Agreed) -> Answer {
    let ack = || nbd::option_reply(number, Reply::Ack, &[]);
    match opt {
        Opt::Abort => Answer::End(ack()),
        Opt::ExportName(name) if name.is_empty() => {
            let mut out = nbd::export(size, agreed.structured).to_vec();
            out.resize(if no_zeroes { 10 } else { 134 }, 0);
            Answer::Begin(out)
        }
        // This option has no way to refuse but to hang up.
        Opt::ExportName(_) => Answer::End(vec![]),
        Opt::List => Answer::Say([nbd::option_reply(number, Reply::Server, &nbd::LIST_ENTRY), ack()].concat()),
        Opt::Info(name) | Opt::Go(name) | Opt::ListMeta(name, _) | Opt::SetMeta(name, _) if !name.is_empty() => {
            Answer::Say(nbd::option_error(number, OptionError::Unknown))
        }
        Opt::Info(_) | Opt::Go(_) => {
            let infos = nbd::infos(size, agreed.structured);
            let mut out: Vec<u8> = infos
                .iter()
                .flat_map(|i| nbd::option_reply(number, Reply::Info, i))
                .collect();
            out.extend(ack());
            if matches!(opt, Opt::Go(_)) {
                Answer::Begin(out)
            } else {
                Answer::Say(out)
            }
        }
        Opt::StructuredReply => {
            agreed.structured = true;
            Answer::Say(ack())
        }
        Opt::ListMeta(_, queries) => {
            let listed = queries.is_empty() || nbd::asks_allocation(&queries);
            let mut out = if listed {
                nbd::option_reply(number, Reply::MetaContext, &nbd::meta_context(0))
            } else {
                vec![]
            };
            out.extend(ack());
            Answer::Say(out)
        }
        Opt::SetMeta(..) if !agreed.structured => Answer::Say(nbd::option_error(number, OptionError::Invalid)),
        Opt::SetMeta(_, queries) => {
            agreed.allocation = nbd::asks_allocation(&queries);
            let context = nbd::option_reply(number, Reply::MetaContext, &nbd::meta_context(nbd::ALLOCATION));
            let mut out = if agreed.allocation { context } else { vec![] };
            out.extend(ack());
            Answer::Say(out)
        }
        Opt::Other => Answer::Say(nbd::option_error(number, OptionError::Unsupported)),
    }
}

async fn transmit(mut r: OwnedReadHalf, w: OwnedWriteHalf, reader: ImageReader, agreed: Agreed) -> io::Result<()> {
    let writer = Arc::new(Mutex::new(w));
    let slots = Arc::new(Semaphore::new(NBD_IN_FLIGHT));
    let agreed = Arc::new(agreed);
    let mut requests = JoinSet::new();
    loop {
        let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        let mut head = [0; nbd::REQUEST_HEAD];
        r.read_exact(&mut head).await?;
        let request = nbd::request(&head).ok_or(broken("not a request"))?;
        if request.command == Command::Disconnect {
            // What is under way is still answered, as the protocol asks.
            while requests.join_next().await.is_some() {}
            return Ok(());
        }
        if request.command == Command::Write {
            return Err(broken("a write to a read-only disk")); // its data would follow; the stream is lost
        }
        let (reader, writer, agreed) = (reader.clone(), writer.clone(), agreed.clone());
        requests.spawn(async move {
            let (head, data) = carry_out(&request, &reader, &agreed).await;
            let mut w = writer.lock().await;
            let sent = async {
                w.write_all(&head).await?;
                w.write_all(&data).await
            };
            if let Err(e) = sent.await {
                tracing::debug!(error = %e, "a disk client took no answer");
            }
            drop(slot);
        });
        while requests.try_join_next().is_some() {}
    }
}

async fn carry_out(request: &Request, reader: &ImageReader, agreed: &Agreed) -> (Vec<u8>, Vec<u8>) {
    let structured = agreed.structured;
    let fail = |e| (nbd::error_reply(request, e, structured), vec![]);
    if let Err(e) = request.check(reader.size()) {
        return fail(e);
    }
    match request.command {
        Command::Read | Command::Cache => {
            let deadline = Instant::now() + READ_DEADLINE;
            match reader.read_at(request.offset, request.len as usize, deadline).await {
                Ok(data) if request.command == Command::Read => (nbd::read_reply(request, structured), data),
                Ok(_) => (nbd::done_reply(request, structured), vec![]),
                Err(e) => {
                    tracing::warn!(offset = request.offset, len = request.len, error = %e, "a guest's read failed");
                    fail(Errno::Io)
                }
            }
        }
        Command::BlockStatus(one) if agreed.allocation => {
            let max = if one { 1 } else { nbd::MAX_EXTENTS };
            match reader.runs(request.offset, request.len as usize, max) {
                Ok(runs) => (nbd::status_reply(request, &runs), vec![]),
                Err(_) => fail(Errno::Invalid),
            }
        }
        Command::Flush => (nbd::done_reply(request, structured), vec![]),
        _ => fail(Errno::Unsupported),
    }
}
