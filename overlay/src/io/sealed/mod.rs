//! A link: a QUIC connection that proves the peer, and sealed datagrams beside it that carry the frames.

mod drive;
mod link;
mod route;
mod send;

pub(super) use link::SealedLink;

use super::{
    port::close,
    seal_socket::{COPY, SealSocket},
};
use crate::{
    defaults, nat, pace,
    paths::Paths,
    sealed::{
        aead::Engine,
        keys::{self, EXPORT_LABEL, FORGERIES, OpenError, Opener, Role, Sealer},
        meter::{Receiver, Sender},
    },
};
use futures::task::AtomicWaker;
use quinn::udp::RecvMeta;
use route::Route;
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::Notify;
use wire::{
    NodeId,
    frame::{CandidateKind, Cipher, PathMessage, PathReport},
    link::{PathClass, SEAL_HEAD},
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
    peer: NodeId,
    number: u32,
    sealer: Sealer,
    opener: Opener,
    inbox: VecDeque<Parcel>,
    inbox_bytes: usize,
    /// Ranges whose memory is used again.
    spare: Vec<Vec<(u32, u32)>>,
    rx: Receiver,
    tx: Sender,
    paths: Paths,
    /// The active path.
    route: Route,
    /// What is known of the others, to go on from.
    spares: BTreeMap<SocketAddr, Route>,
    /// Where the last frames came from: reports go back there.
    frames_from: SocketAddr,
    /// Counter of the last frame sent.
    last_frame: u64,
    /// What the buffer held that is being opened.
    run: Run,
    /// QUIC is to ask whether the peer is there.
    poke: bool,
    /// Something changed that may make a detour worth while.
    look: bool,
    /// Whether it was in trouble, and where frames went, when that was told last.
    told: Option<(bool, SocketAddr)>,
    /// Why detours are being sought.
    seeking: Option<&'static str>,
    /// Bytes of the link's own messages that came.
    rx_messages: u64,
    blocked: Blocked,
    /// When the session's timer is set to ring.
    wakes_at: Option<Instant>,
    ended: Option<String>,
    drops: BTreeMap<&'static str, u64>,
    tx_bytes: u64,
    sent: u64,
}

/// What one run of datagrams held.
#[derive(Debug, Default)]
struct Run {
    genuine: bool,
    newest: bool,
    frames: bool,
}

/// The shared part of a link: socket, timer and tunnel each hold it.
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

    fn handle_message(&mut self, socket: &SealSocket, now: Instant, from: SocketAddr, m: PathMessage) {
        match m {
            PathMessage::Probe(token) => self.tell(socket, now, from, &PathMessage::ProbeAck(token), 0),
            PathMessage::ProbeAck(token) => self.route.mtu.handle_ack(now, token),
            PathMessage::Ping { token, ask, note } => {
                self.paths.handle_note(now, note);
                self.paths.handle_ping(now, from, token, ask);
            }
            PathMessage::Pong { token, seen, note } => {
                self.paths.handle_note(now, note);
                if let Some(counter) = self.paths.handle_pong(now, token) {
                    self.tx.handle_proof(counter);
                }
                if let Some(seen) = seen {
                    self.paths.handle_seen(from, seen);
                    // Nobody listens: nobody wants to know.
                    let _ = socket.sightings.send((from, seen));
                }
            }
            PathMessage::Candidates { serial, list } if nat::is_forecast(&list) => {
                let usable = socket.surroundings.borrow().usable(self.peer, &list);
                self.paths.handle_forecast(now, serial, &usable);
            }
            PathMessage::Candidates { serial, list } => {
                let locals = list.iter().filter(|c| c.kind == CandidateKind::Local);
                self.paths.handle_peer_locals(locals.map(|c| c.addr));
                socket.rendezvous().handle_candidates(now, self.peer, &list);
                socket.meet.notify_one();
                let usable = socket.surroundings.borrow().usable(self.peer, &list);
                self.paths.handle_candidates(now, serial, &usable);
            }
            PathMessage::CandidatesAck(serial) => self.paths.handle_candidates_ack(serial),
            PathMessage::Locate(node) => {
                if !socket.rendezvous().handle_locate(now, self.peer, node) {
                    self.drop_as("path_locate_refused", 1);
                }
                socket.meet.notify_one();
            }
            PathMessage::Located { node, list } => {
                if !socket.rendezvous().handle_located(now, self.peer, node, list) {
                    self.drop_as("path_located_unasked", 1);
                }
                socket.meet.notify_one();
            }
            PathMessage::Bye(code) => self.end(close::text(code)),
            PathMessage::Report(report) => self.handle_report(now, report),
        }
    }

    fn handle_report(&mut self, now: Instant, report: PathReport) {
        let (newest, before) = (report.newest, self.tx.reported());
        let Some(p) = self.tx.handle_report(now, self.sealer.next_counter(), report) else {
            return self.drop_as("path_report_refused", 1);
        };
        // Of frames that went by an earlier path it says nothing about this one.
        if newest < self.route.since {
            return;
        }
        let lost = u64::try_from(p.lost).unwrap_or(0);
        let whole = before >= self.route.since;
        let (lost, came) = if whole { (lost, p.came) } else { (0, 0) };
        self.paths.handle_report(now, newest >= self.last_frame, lost, came);
        if let Some(rtt) = p.rtt {
            self.route.mtu.handle_rtt(rtt);
        }
        self.route.mtu.handle_arrived(now, p.largest);
        let Some((delay_min, delay_mean)) = p.delay_us.filter(|_| whole) else {
            return self.route.pace.handle_mute(now);
        };
        let report = pace::Report {
            newest,
            received: p.came,
            bytes: p.came_bytes,
            lost,
            delay_min,
            delay_mean,
            duration: p.period,
        };
        self.route.pace.handle_report(now, &report, p.rtt);
    }

    fn handle_timeout(&mut self, socket: &SealSocket, now: Instant) {
        let due = self.rx.poll_timeout().is_some_and(|at| at <= now);
        if due && let Some(report) = self.rx.poll_transmit(now, socket.waits.total()) {
            let back = self.frames_from;
            let known = back == self.route.remote || self.paths.is_proved(back);
            let to = if known { back } else { self.route.remote };
            self.tell(socket, now, to, &PathMessage::Report(report), 0);
        }
        if self.paths.poll_timeout().is_some_and(|at| at <= now) {
            self.paths.handle_timeout(now);
        }
        self.settle(socket, now);
        self.route.mtu.handle_timeout(now);
        // A refused probe makes the next one at once.
        while let Some((token, size)) = self.route.mtu.poll_transmit() {
            let to = self.route.remote;
            self.tell(socket, now, to, &PathMessage::Probe(token), usize::from(size));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let all = [
            self.rx.poll_timeout(),
            self.route.mtu.poll_timeout(),
            self.paths.poll_timeout(),
        ];
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
        s.run = Run::default();
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
        if s.run.genuine {
            s.heard(socket, now, meta);
        }
        self.wake_at(&mut s);
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
        self.run.genuine = true;
        self.run.newest |= counter >= newest;
        if !is_message {
            self.run.frames = true;
            self.rx.handle(now, counter, bytes);
            return Some(plain.len());
        }
        self.rx_messages += bytes as u64;
        match PathMessage::read(plain) {
            Some(m) => self.handle_message(socket, now, meta.addr, m),
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
}

impl Session {
    /// Keys from the connection's handshake; `None` if that is not done.
    fn begin(peer: NodeId, conn: &quinn::Connection, class: PathClass) -> Option<Arc<Self>> {
        let mut secret = [0; 32];
        conn.export_keying_material(&mut secret, EXPORT_LABEL, b"").ok()?;
        let role = match conn.side() {
            quinn::Side::Client => Role::Initiator,
            quinn::Side::Server => Role::Acceptor,
        };
        let now = Instant::now();
        let (sealer, opener, number) = keys::session(&secret, role, (cipher(), engine()), now)?;
        let remote = conn.remote_address();
        let state = State {
            peer,
            number,
            sealer,
            opener,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            spare: Vec::new(),
            rx: Receiver::new(now),
            tx: Sender::new(now),
            paths: Paths::new(now, rand::random(), remote, class, role == Role::Initiator),
            route: Route {
                source: conn.local_ip(),
                ..Route::new(now, remote)
            },
            spares: BTreeMap::new(),
            frames_from: remote,
            last_frame: 0,
            run: Run::default(),
            poke: false,
            look: true,
            told: None,
            seeking: None,
            rx_messages: 0,
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

/// Who computes AES-GCM faster on this processor.
fn engine() -> Engine {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let wide = has!("vaes") && has!("vpclmulqdq") && has!("avx2");
        // What aws-lc's code for AVX-512 asks for.
        let wider = has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq");
        if wide && !wider {
            return Engine::Ring;
        }
    }
    Engine::AwsLc
}
