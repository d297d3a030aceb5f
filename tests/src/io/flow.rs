//! TCP streams between namespaces, with what the kernel counted of them: what a path costs a real flow.

use super::netns::Netns;
use anyhow::{Context, Result, bail, ensure};
use rustix::net::sockopt;
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a connection may take to come up: three lost SYNs.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A read or write that makes no progress for so long ends the flow.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// Bytes given to the kernel at once.
const CHUNK: usize = 64 * 1_024;

/// What one flow did.
#[derive(Debug, Clone, Copy, Default)]
pub struct FlowReport {
    /// Bytes of payload that arrived.
    pub bytes: u64,
    /// From the first byte sent to the last received.
    pub took: Duration,
    /// Longest time in which no byte arrived.
    pub longest_gap: Duration,
    /// What the sender's kernel counted.
    pub sender: TcpInfo,
    /// Segments that reached the receiver out of order.
    pub out_of_order: u64,
}

/// Fields of `struct tcp_info`, linux/tcp.h.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpInfo {
    /// Payload bytes sent, with those sent again.
    pub sent: u64,
    /// Payload bytes sent again.
    pub again: u64,
    /// Segments that the other side said it had twice.
    pub dsacks: u32,
    /// Times that the kernel saw reordering.
    pub reordered: u32,
    /// Segments that arrived out of order here.
    pub out_of_order: u32,
}

/// A connected pair: the sender's socket in one namespace, the receiver's in another.
pub struct Flow {
    tx: TcpStream,
    rx: TcpStream,
}

impl Flow {
    /// Connects from a namespace to an address of another. `window` bounds what is under way, in bytes; without it the
    /// kernel tunes it. Congestion control is cubic whatever the machine's default is.
    pub fn open(from: &Netns, to: &Netns, addr: std::net::IpAddr, window: Option<usize>) -> Result<Self> {
        let listener = to.enter(|| Ok(TcpListener::bind(SocketAddr::new(addr, 0))?))?;
        if let Some(w) = window {
            // The kernel doubles it for its own bookkeeping, socket(7).
            sockopt::set_socket_recv_buffer_size(&listener, w / 2)?;
        }
        let port = listener.local_addr()?;
        let tx = from.enter(move || {
            TcpStream::connect_timeout(&port, CONNECT_LIMIT).with_context(|| format!("cannot connect to {port}"))
        })?;
        let (rx, _) = listener.accept()?;
        sockopt::set_tcp_congestion(&tx, "cubic").context("this kernel has no cubic")?;
        tx.set_write_timeout(Some(STALL_LIMIT))?;
        rx.set_read_timeout(Some(STALL_LIMIT))?;
        Ok(Self { tx, rx })
    }

    /// Carries `bytes` and ends.
    pub fn carry(self, bytes: u64) -> Result<FlowReport> {
        let Self { tx, rx } = self;
        let began = Instant::now();
        let writer = std::thread::spawn(move || send(&tx, bytes));
        let got = receive(&rx, None);
        let sender = writer.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
        let (sender, got) = (sender.context("the sender")?, got.context("the receiver")?);
        ensure!(got.bytes == bytes, "{} of {bytes} bytes arrived", got.bytes);
        Ok(FlowReport {
            took: began.elapsed(),
            sender,
            ..got
        })
    }

    /// Carries as much as it can until it is stopped.
    pub fn saturate(self) -> Saturating {
        let arrived = Arc::new(AtomicU64::new(0));
        let Self { tx, rx } = self;
        let handle = tx.try_clone();
        let reader = std::thread::spawn({
            let arrived = Arc::clone(&arrived);
            move || receive(&rx, Some(&arrived))
        });
        let writer = std::thread::spawn(move || send(&tx, u64::MAX));
        Saturating {
            began: Instant::now(),
            arrived,
            handle: handle.ok(),
            threads: Some((writer, reader)),
        }
    }
}

type Writer = JoinHandle<Result<TcpInfo>>;
type Reader = JoinHandle<Result<FlowReport>>;

/// A flow that goes on beside something else; dropping it ends it.
pub struct Saturating {
    began: Instant,
    arrived: Arc<AtomicU64>,
    handle: Option<TcpStream>,
    threads: Option<(Writer, Reader)>,
}

impl Saturating {
    /// Bytes that have arrived so far.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Ends it and gives what it did.
    pub fn stop(mut self) -> Result<FlowReport> {
        let info = self.handle.as_ref().map(tcp_info).transpose()?;
        self.hang_up();
        let Some((writer, reader)) = self.threads.take() else {
            bail!("the flow was stopped already");
        };
        // The sender was interrupted: its error is what was asked for.
        writer.join().ok();
        let got = reader.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        Ok(FlowReport {
            took: self.began.elapsed(),
            sender: info.unwrap_or_default(),
            ..got
        })
    }

    fn hang_up(&self) {
        if let Some(h) = &self.handle {
            // It fails only if the connection is gone already.
            h.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Saturating {
    fn drop(&mut self) {
        self.hang_up();
        if let Some((writer, reader)) = self.threads.take() {
            writer.join().ok();
            reader.join().ok();
        }
    }
}

fn send(mut tx: &TcpStream, bytes: u64) -> Result<TcpInfo> {
    let chunk = vec![0x5a; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let n = tx
            .write(chunk.get(..n).unwrap_or_default())
            .context("it stalled or broke")?;
        left -= n as u64;
    }
    tx.shutdown(Shutdown::Write)?;
    // The far end closes when it has all: then the counters are final.
    let mut rest = [0; 1];
    tx.set_read_timeout(Some(STALL_LIMIT))?;
    match tx.read(&mut rest) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        Err(e) => return Err(e).context("the far end does not close"),
    }
    tcp_info(tx)
}

fn receive(mut rx: &TcpStream, arrived: Option<&AtomicU64>) -> Result<FlowReport> {
    let mut buf = vec![0; CHUNK];
    let mut out = FlowReport::default();
    let mut last = Instant::now();
    loop {
        let n = match rx.read(&mut buf) {
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) if e.kind() == ErrorKind::ConnectionReset && arrived.is_some() => 0,
            Err(e) => return Err(e).with_context(|| format!("nothing came after {} bytes", out.bytes)),
        };
        let now = Instant::now();
        out.longest_gap = out.longest_gap.max(now - last);
        last = now;
        out.bytes += n as u64;
        if let Some(a) = arrived {
            a.fetch_add(n as u64, Ordering::Relaxed);
        }
        if n == 0 {
            out.out_of_order = u64::from(tcp_info(rx)?.out_of_order);
            rx.shutdown(Shutdown::Both).ok();
            return Ok(out);
        }
    }
}

/// What the kernel counted on a socket.
fn tcp_info(s: &TcpStream) -> Result<TcpInfo> {
    let mut raw = [0u8; 256];
    let mut len = libc::socklen_t::try_from(raw.len())?;
    // SAFETY: `raw` and `len` outlive the call; the kernel writes at most `len` bytes into `raw` and the number that it
    // wrote into `len`.
    let done = unsafe {
        libc::getsockopt(
            s.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    ensure!(done == 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    // Offsets of struct tcp_info, which only grows: tcpi_bytes_sent 200, tcpi_bytes_retrans 208, tcpi_dsack_dups 216,
    // tcpi_reord_seen 220, tcpi_rcv_ooopack 224 (Linux 5.4).
    let raw = raw.get(..len as usize).unwrap_or_default();
    let wide = |at: usize| -> Result<u64> {
        let b = raw.get(at..at + 8).context("this kernel counts no bytes sent again")?;
        Ok(u64::from_ne_bytes(b.try_into()?))
    };
    let narrow = |at: usize| -> Result<u32> {
        let b = raw.get(at..at + 4).context("this kernel counts no reordering")?;
        Ok(u32::from_ne_bytes(b.try_into()?))
    };
    Ok(TcpInfo {
        sent: wide(200)?,
        again: wide(208)?,
        dsacks: narrow(216)?,
        reordered: narrow(220)?,
        out_of_order: narrow(224)?,
    })
}
