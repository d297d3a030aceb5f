//! A direct link: a QUIC connection that proves the peer, and sealed datagrams beside it that carry the frames.

use super::{
    port::{Port, close},
    seal_socket::{COPY, SealSocket},
};
use crate::{
    defaults,
    pace::{self, Governor},
    sealed::{
        keys::{self, EXPORT_LABEL, FORGERIES, OpenError, Opener, Role, Sealer},
        meter::{Receiver, Sender},
        mtu::Mtu,
    },
};
use futures::task::AtomicWaker;
use quinn::udp::{RecvMeta, Transmit};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::Sleep};
use wire::{
    NodeId,
    frame::{Cipher, PathMessage},
    link::{Burst, Link, LinkClosed, PathInfo, PathKind, SEAL_HEAD, SEAL_TAIL, Sent},
};

/// Bytes of one segmented send: the most that UDP takes.
const SEND: usize = 65_507;
/// Bytes that a link without limit takes at once: a few segmented sends.
const ROOM: usize = 256 * 1024;

/// What a parcel costs beside its memory, bytes.
const PARCEL: usize = 128;
/// Lists of places kept for the next parcels.
const SPARE: usize = 32;

/// Memory with plaintexts in it, and where they lie.
#[derive(Debug)]
struct Parcel {
    mem: Box<[u8]>,
    ranges: Vec<(u32, u32)>,
    /// Bytes of the inbox's bound that it takes.
    cost: usize,
}

/// What a link that cannot send waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    No,
    Socket,
    Pace,
}

#[derive(Debug)]
struct State {
    sealer: Sealer,
    opener: Opener,
    inbox: VecDeque<Parcel>,
    inbox_bytes: usize,
    /// Ranges whose memory is used again.
    spare: Vec<Vec<(u32, u32)>>,
    rx: Receiver,
    tx: Sender,
    mtu: Mtu,
    pace: Governor,
    remote: SocketAddr,
    source: Option<IpAddr>,
    /// Since when frames were sent that no report speaks of.
    unreported: Option<Instant>,
    blocked: Blocked,
    /// When the session's timer is set to ring.
    wakes_at: Option<Instant>,
    ended: Option<String>,
    drops: BTreeMap<&'static str, u64>,
    tx_bytes: u64,
    sent: u64,
}

/// The shared part of a direct link: socket, timer and tunnel each hold it.
pub(super) struct Session {
    number: u32,
    state: Mutex<State>,
    reader: AtomicWaker,
    timer: Notify,
}

impl State {
    fn drop_as(&mut self, name: &'static str, n: u64) {
        *self.drops.entry(name).or_default() += n;
    }

    fn end(&mut self, why: &str) {
        self.ended.get_or_insert_with(|| why.to_owned());
    }

    fn transmit<'a>(&self, contents: &'a [u8], segment: Option<usize>) -> Transmit<'a> {
        Transmit {
            destination: self.remote,
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: self.source,
        }
    }

    /// Seals and sends a message of the link's own, padded to `size` bytes of UDP payload.
    fn tell(&mut self, socket: &SealSocket, now: Instant, m: &PathMessage, size: usize) {
        if self.ended.is_some() || !self.sealer.handle_time(now, self.tx.reported()) {
            return;
        }
        let mut d = vec![0; SEAL_HEAD];
        m.put(&mut d);
        d.resize((d.len() + SEAL_TAIL).max(size), 0);
        let first = self.sealer.next_counter();
        self.sealer.seal(true, &mut d);
        match socket.send(&self.transmit(&d, None)) {
            Ok(()) => self.note_sent(now, first, 1, d.len()),
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                self.mtu.handle_refused(now, u16::try_from(size).unwrap_or(u16::MAX));
            }
            // Told again: reports are periodic, probes have tries.
            Err(_) => self.drop_as("path_message_unsent", 1),
        }
    }

    fn note_sent(&mut self, now: Instant, first: u64, n: usize, bytes: usize) {
        self.tx.handle_sent(now, first, n as u64);
        self.pace.handle_sent(now, bytes);
        self.sent += n as u64;
        self.tx_bytes += bytes as u64;
    }

    fn handle_message(&mut self, socket: &SealSocket, now: Instant, m: PathMessage) {
        match m {
            PathMessage::Probe(token) => self.tell(socket, now, &PathMessage::ProbeAck(token), 0),
            PathMessage::ProbeAck(token) => self.mtu.handle_ack(now, token),
            PathMessage::Report(report) => {
                let newest = report.newest;
                let Some(p) = self.tx.handle_report(now, self.sealer.next_counter(), report) else {
                    return self.drop_as("path_report_refused", 1);
                };
                self.unreported = (newest + 1 < self.sealer.next_counter()).then_some(now);
                if let Some(rtt) = p.rtt {
                    self.mtu.handle_rtt(rtt);
                }
                self.mtu.handle_arrived(now, p.largest);
                let Some((delay_min, delay_mean)) = p.delay_us else {
                    return;
                };
                let report = pace::Report {
                    newest,
                    received: p.came,
                    bytes: p.came_bytes,
                    lost: u64::try_from(p.lost).unwrap_or(0),
                    delay_min,
                    delay_mean,
                    duration: p.period,
                };
                self.pace.handle_report(now, &report, p.rtt);
            }
        }
    }

    fn handle_timeout(&mut self, socket: &SealSocket, now: Instant) {
        if let Some(report) = self.rx.poll_transmit(now) {
            self.tell(socket, now, &PathMessage::Report(report), 0);
        }
        self.mtu.handle_timeout(now);
        // A refused probe makes the next one at once.
        while let Some((token, size)) = self.mtu.poll_transmit() {
            self.tell(socket, now, &PathMessage::Probe(token), usize::from(size));
        }
    }

    /// True if it is time to ask QUIC whether the peer is still there.
    fn is_silent(&mut self, now: Instant) -> bool {
        let silent = self.silent_at().is_some_and(|at| at <= now);
        if silent {
            self.unreported = Some(now);
        }
        silent
    }

    fn silent_at(&self) -> Option<Instant> {
        let patience = defaults::POKE_AFTER + 2 * self.tx.rtt().unwrap_or_default();
        self.unreported.map(|at| at + patience)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let all = [self.rx.poll_timeout(), self.mtu.poll_timeout(), self.silent_at()];
        all.into_iter().flatten().min()
    }
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens datagrams that lie one after another in `run` of a receive buffer, and keeps the buffer if it is full of
    /// them.
    pub(super) fn open(
        &self,
        socket: &SealSocket,
        now: Instant,
        meta: &RecvMeta,
        buffer: &mut Box<[u8]>,
        run: Range<usize>,
    ) {
        let mut s = self.lock();
        let mut ranges = s.spare.pop().unwrap_or_default();
        let (stride, whole) = (meta.stride.max(1), run.len() == meta.len && run.len() > COPY);
        for at in run.clone().step_by(stride) {
            let Some(datagram) = buffer.get_mut(at..run.end.min(at + stride)) else {
                break;
            };
            if let Some(plain) = s.open_one(socket, now, meta, datagram) {
                let start = at + SEAL_HEAD;
                ranges.push((start as u32, (start + plain) as u32));
            }
        }
        if let Some(at) = s.rx.poll_timeout().filter(|at| s.wakes_at.is_none_or(|w| *at < w)) {
            s.wakes_at = Some(at);
            self.timer.notify_one();
        }
        if ranges.is_empty() {
            return s.recycle(ranges);
        }
        // A kept buffer counts whole, and each parcel has a price, so that memory is what is bounded.
        let cost = PARCEL + if whole { buffer.len() } else { run.len() };
        if s.inbox_bytes + cost > defaults::LINK_INBOX {
            let n = ranges.len() as u64;
            s.drop_as("link_inbox_full", n);
            return s.recycle(ranges);
        }
        let mem = if whole {
            std::mem::replace(buffer, socket.pool.take())
        } else {
            let base = run.start as u32;
            ranges.iter_mut().for_each(|(a, b)| (*a, *b) = (*a - base, *b - base));
            buffer.get(run).unwrap_or_default().into()
        };
        s.inbox_bytes += cost;
        s.inbox.push_back(Parcel { mem, ranges, cost });
        drop(s);
        self.reader.wake();
    }
}

impl State {
    /// Opens one datagram; gives the length of its plaintext if that is for the tunnel.
    fn open_one(&mut self, socket: &SealSocket, now: Instant, meta: &RecvMeta, datagram: &mut [u8]) -> Option<usize> {
        let bytes = datagram.len();
        let newest = self.opener.newest();
        let (counter, is_message, plain) = match self.opener.open(datagram) {
            Ok(o) => o,
            Err(why) => {
                self.drop_as(why.name(), 1);
                if why == OpenError::Forged && self.opener.forgeries() >= FORGERIES {
                    self.end("too many forged datagrams");
                }
                return None;
            }
        };
        self.rx.handle(now, counter, bytes, !is_message);
        // The peer is where its newest genuine datagram came from: it roams without losing a frame.
        if counter >= newest && self.remote != meta.addr {
            self.remote = meta.addr;
            self.source = meta.dst_ip;
            self.mtu = Mtu::new(now);
        }
        if !is_message {
            return Some(plain.len());
        }
        match PathMessage::read(plain) {
            Some(m) => self.handle_message(socket, now, m),
            None => self.drop_as("path_message_unknown", 1),
        }
        None
    }

    fn recycle(&mut self, mut ranges: Vec<(u32, u32)>) {
        ranges.clear();
        if self.spare.len() < SPARE {
            self.spare.push(ranges);
        }
    }

    /// Sends from the front of the burst until it is empty or the path takes no more.
    fn send(&mut self, socket: &SealSocket, burst: &mut Burst, sent: &mut Sent) {
        let now = Instant::now();
        if !self.sealer.handle_time(now, self.tx.reported()) {
            return self.end("the peer says nothing of what it gets");
        }
        self.blocked = Blocked::No;
        let most = usize::from(self.mtu.size());
        let mut largest = 0;
        while let Some(len) = burst.first_len() {
            if len > most {
                sent.too_large += 1;
                burst.advance(1);
                continue;
            }
            let budget = self.pace.budget(now);
            if budget == 0 {
                self.blocked = Blocked::Pace;
                break;
            }
            let (bytes, n) = burst.run(socket.segments(), SEND.min(budget));
            let first = self.sealer.next_counter();
            let Self { sealer, .. } = self;
            let mut fresh = 0;
            burst.seal(n, |d| {
                sealer.seal(false, d);
                fresh += 1;
            });
            match socket.send(&self.transmit(burst.front(bytes), (n > 1).then_some(len))) {
                Ok(()) => {
                    sent.taken += n;
                    largest = largest.max(len);
                    // Those sealed before an earlier refusal have their counters just below.
                    self.note_sent(now, first - (n - fresh) as u64, n, bytes);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = Blocked::Socket;
                    break;
                }
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                    sent.too_large += n;
                    self.mtu.handle_refused(now, u16::try_from(len).unwrap_or(u16::MAX));
                }
                // The segments go one by one from here on.
                Err(_) if n > 1 && socket.segments() == 1 => continue,
                // No route, no buffer, a filter: as if the network had lost it.
                Err(_) => self.drop_as("link_unsent", n as u64),
            }
            burst.advance(n);
        }
        if largest > 0 {
            self.unreported.get_or_insert(now);
            self.mtu.handle_sent(now, u16::try_from(largest).unwrap_or(u16::MAX));
        }
    }
}

/// Drives a session's timers until its connection ends.
async fn drive(session: Arc<Session>, socket: Arc<SealSocket>, conn: quinn::Connection) {
    loop {
        let (due, silent) = {
            let mut s = session.lock();
            let now = Instant::now();
            s.handle_timeout(&socket, now);
            let silent = s.is_silent(now);
            s.wakes_at = s.poll_timeout();
            (s.wakes_at, silent)
        };
        if silent {
            // A peer that was killed and is back answers with a stateless reset, which ends the link at once; one that is
            // there acknowledges. If it cannot be sent the connection is ending anyway.
            drop(conn.send_datagram(bytes::Bytes::new()));
        }
        let timer = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timer => {}
            () = session.timer.notified() => {}
            why = conn.closed() => {
                session.lock().end(&wire::fault::plain(&why.to_string()));
                session.reader.wake();
                return;
            }
        }
    }
}

/// A link over a direct path.
pub(super) struct SealedLink {
    peer: NodeId,
    conn: quinn::Connection,
    /// Weak: a link that the tunnel still holds must not keep a stopped node's port open.
    port: Weak<Port>,
    socket: Arc<SealSocket>,
    session: Arc<Session>,
    serial: u64,
    wait: Option<Pin<Box<Sleep>>>,
}

impl SealedLink {
    /// Claims the peer's slot; `None`, and the connection is closed, if this link has to yield to another.
    pub(super) fn new(port: &Arc<Port>, peer: NodeId, initiator: NodeId, conn: quinn::Connection) -> Option<Self> {
        let refuse = |why: &[u8]| {
            conn.close(close::REFUSED.into(), why);
            None
        };
        let Some(session) = Session::begin(&conn) else {
            return refuse(b"no keys for this link");
        };
        let ended = conn.clone();
        let end = move |code: u32, why: &str| ended.close(code.into(), why.as_bytes());
        let Some(serial) = port.claim_link(peer, initiator, false, Box::new(end)) else {
            return refuse(b"no place for this link");
        };
        let socket = port.sealed.clone();
        if !socket.add(session.number, session.clone()) {
            port.release_link(peer, serial);
            return refuse(b"session number taken, dial again");
        }
        port.note_frames(peer, &conn);
        if initiator != port.me {
            Port::take_frames(conn.clone());
        }
        tokio::spawn(drive(session.clone(), socket.clone(), conn.clone()));
        Some(Self {
            peer,
            conn,
            port: Arc::downgrade(port),
            socket,
            session,
            serial,
            wait: None,
        })
    }

    fn closed(&self, why: &str) -> LinkClosed {
        LinkClosed {
            peer: self.peer,
            why: why.to_owned(),
        }
    }
}

impl Session {
    /// Keys from the connection's handshake; `None` if that is not done.
    fn begin(conn: &quinn::Connection) -> Option<Arc<Self>> {
        let mut secret = [0; 32];
        conn.export_keying_material(&mut secret, EXPORT_LABEL, b"").ok()?;
        let role = match conn.side() {
            quinn::Side::Client => Role::Initiator,
            quinn::Side::Server => Role::Acceptor,
        };
        let now = Instant::now();
        let (sealer, opener, number) = keys::session(&secret, role, cipher(), now)?;
        let state = State {
            sealer,
            opener,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            spare: Vec::new(),
            rx: Receiver::new(now),
            tx: Sender::new(now),
            mtu: Mtu::new(now),
            pace: Governor::default(),
            remote: conn.remote_address(),
            source: conn.local_ip(),
            unreported: None,
            blocked: Blocked::No,
            wakes_at: None,
            ended: None,
            drops: BTreeMap::new(),
            tx_bytes: 0,
            sent: 0,
        };
        Some(Arc::new(Self {
            number,
            state: Mutex::new(state),
            reader: AtomicWaker::new(),
            timer: Notify::new(),
        }))
    }
}

/// What this processor seals fastest.
fn cipher() -> Cipher {
    #[cfg(target_arch = "x86_64")]
    let aes = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let aes = false;
    if aes {
        Cipher::Aes128Gcm
    } else {
        Cipher::ChaCha20Poly1305
    }
}

impl Link for SealedLink {
    fn peer(&self) -> NodeId {
        self.peer
    }

    fn max_payload(&self) -> usize {
        usize::from(self.session.lock().mtu.size()).saturating_sub(SEAL_HEAD + SEAL_TAIL)
    }

    fn send(&mut self, burst: &mut Burst) -> Result<Sent, LinkClosed> {
        let mut sent = Sent::default();
        let mut s = self.session.lock();
        s.send(&self.socket, burst, &mut sent);
        let due = s.poll_timeout();
        if due.is_some_and(|at| s.wakes_at.is_none_or(|w| at < w)) {
            s.wakes_at = due;
            self.session.timer.notify_one();
        }
        match &s.ended {
            None => Ok(sent),
            Some(why) => Err(self.closed(why)),
        }
    }

    fn send_room(&self) -> usize {
        let mut s = self.session.lock();
        match s.blocked {
            Blocked::No => s.pace.budget(Instant::now()).min(ROOM),
            Blocked::Socket | Blocked::Pace => 0,
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut s = self.session.lock();
        if s.ended.is_some() {
            return Poll::Ready(());
        }
        if s.blocked == Blocked::Socket {
            if self.socket.io.poll_send_ready(cx).is_pending() {
                return Poll::Pending;
            }
            s.blocked = Blocked::No;
        }
        let now = Instant::now();
        if s.pace.budget(now) > 0 {
            s.blocked = Blocked::No;
            self.wait = None;
            return Poll::Ready(());
        }
        s.blocked = Blocked::Pace;
        let at = s.pace.next(now).unwrap_or(now + Duration::from_millis(1)).max(now);
        drop(s);
        let wait = self
            .wait
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
        wait.as_mut().reset(at.into());
        if wait.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<usize, LinkClosed>> {
        self.session.reader.register(cx.waker());
        let mut n = 0;
        while n < max {
            let parcel = {
                let mut s = self.session.lock();
                match (s.inbox.pop_front(), &s.ended) {
                    (Some(p), _) => {
                        s.inbox_bytes -= p.cost;
                        p
                    }
                    (None, Some(why)) if n == 0 => return Poll::Ready(Err(self.closed(why))),
                    (None, _) => break,
                }
            };
            for (from, to) in &parcel.ranges {
                sink(parcel.mem.get(*from as usize..*to as usize).unwrap_or_default());
            }
            n += parcel.ranges.len();
            self.socket.pool.give(parcel.mem);
            self.session.lock().recycle(parcel.ranges);
        }
        if n == 0 { Poll::Pending } else { Poll::Ready(Ok(n)) }
    }

    fn path(&self) -> PathInfo {
        let s = self.session.lock();
        let estimate = s.pace.estimate();
        let (_, rx_bytes) = s.rx.totals();
        PathInfo {
            kind: PathKind::Direct,
            remote: Some((s.remote.ip().to_canonical(), s.remote.port()).into()),
            rtt: s.tx.rtt().unwrap_or_else(|| self.conn.rtt()),
            lost: s.tx.lost(),
            sent: s.sent,
            tx_bytes: s.tx_bytes,
            rx_bytes,
            mtu: Some(s.mtu.size()),
            queue_delay: Some(estimate.queue),
            pace: estimate.limit,
            drops: s.drops.iter().map(|(k, v)| (*k, *v)).collect(),
        }
    }
}

impl Drop for SealedLink {
    fn drop(&mut self) {
        self.conn.close(close::BYE.into(), b"");
        self.socket.remove(self.session.number);
        if let Some(port) = self.port.upgrade() {
            port.release_link(self.peer, self.serial);
        }
    }
}
