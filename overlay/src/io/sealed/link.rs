//! The link that the tunnel holds.

use super::{
    Blocked, ROOM, Session,
    drive::{Driver, class_at},
};
use crate::{
    carrier::{self, CarrierKind},
    detour::Detour,
    io::{
        port::{Port, close},
        seal_socket::SealSocket,
    },
};
use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::Sleep;
use wire::{
    NodeId,
    link::{Burst, Link, LinkClosed, PathInfo, PathKind, SEAL_HEAD, SEAL_TAIL, Sent},
};

/// A link.
pub(in crate::io) struct SealedLink {
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
    pub(in crate::io) fn new(
        port: &Arc<Port>,
        peer: NodeId,
        initiator: NodeId,
        conn: quinn::Connection,
    ) -> Option<Self> {
        let refuse = |why: &[u8]| {
            conn.close(close::REFUSED.into(), why);
            None
        };
        let (socket, remote) = (port.sealed.clone(), conn.remote_address());
        let Some(session) = Session::begin(peer, &conn, class_at(&socket, remote)) else {
            return refuse(b"no keys for this link");
        };
        let (ended, ending, by) = (conn.clone(), session.clone(), socket.clone());
        let end = move |code: u32, why: &str| {
            ending.finish(&by, code, why);
            ended.close(code.into(), why.as_bytes());
        };
        let Some(serial) = port.claim_link(peer, initiator, carrier::is_virtual(remote), Box::new(end)) else {
            return refuse(b"no place for this link");
        };
        if !socket.add(session.number, session.clone()) {
            port.release_link(peer, serial);
            return refuse(b"session number taken, dial again");
        }
        port.note_frames(peer, &conn, &session);
        if initiator != port.me {
            Port::take_frames(conn.clone());
        }
        let driver = Driver {
            peer,
            session: session.clone(),
            socket: socket.clone(),
            conn: conn.clone(),
            candidates: port.candidates.subscribe(),
            asks_first: port.me < peer,
            detour: Detour::new(Instant::now(), rand::random()),
            looked: Instant::now(),
            want: None,
        };
        tokio::spawn(driver.run());
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

impl Link for SealedLink {
    fn peer(&self) -> NodeId {
        self.peer
    }

    fn max_payload(&self) -> usize {
        usize::from(self.session.lock().route.mtu.size()).saturating_sub(SEAL_HEAD + SEAL_TAIL)
    }

    fn loss(&self) -> f64 {
        self.session.lock().tx.recent_loss()
    }

    fn send(&mut self, burst: &mut Burst) -> Result<Sent, LinkClosed> {
        let mut sent = Sent::default();
        let mut s = self.session.lock();
        s.send(&self.socket, burst, &mut sent);
        self.session.wake_at(&mut s);
        match &s.ended {
            None => Ok(sent),
            Some(why) => Err(self.closed(why)),
        }
    }

    fn send_room(&self) -> usize {
        let mut s = self.session.lock();
        match s.blocked {
            Blocked::No => s.route.pace.budget(Instant::now()).min(ROOM),
            Blocked::Socket | Blocked::Pace => 0,
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut s = self.session.lock();
        if s.ended.is_some() {
            return Poll::Ready(());
        }
        if s.blocked == Blocked::Socket {
            if self.socket.poll_send_ready(cx, s.route.remote).is_pending() {
                return Poll::Pending;
            }
            s.blocked = Blocked::No;
        }
        let now = Instant::now();
        if s.route.pace.budget(now) > 0 {
            s.blocked = Blocked::No;
            self.wait = None;
            return Poll::Ready(());
        }
        s.blocked = Blocked::Pace;
        let at = s
            .route
            .pace
            .next(now)
            .unwrap_or(now + Duration::from_millis(1))
            .max(now);
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

    fn set_note(&mut self, note: u32) {
        self.session.lock().paths.set_note(note);
    }

    fn note(&self) -> Option<(u32, Instant)> {
        self.session.lock().paths.peer_note()
    }

    fn path(&self) -> PathInfo {
        let s = self.session.lock();
        let estimate = s.route.pace.estimate();
        let (_, rx_bytes) = s.rx.totals();
        let kind = match self.socket.carriers.kind(s.route.remote) {
            Some(CarrierKind::Relay { .. } | CarrierKind::Circuit) => PathKind::Relayed,
            Some(CarrierKind::Tcp) => PathKind::Tcp,
            None => PathKind::Direct,
        };
        let real = !carrier::is_virtual(s.route.remote);
        PathInfo {
            kind,
            remote: real.then(|| (s.route.remote.ip().to_canonical(), s.route.remote.port()).into()),
            rtt: s.paths.rtt().or(s.tx.rtt()).unwrap_or_else(|| self.conn.rtt()),
            lost: s.tx.lost(),
            sent: s.sent,
            tx_bytes: s.tx_bytes,
            rx_bytes: rx_bytes + s.rx_messages,
            mtu: Some(s.route.mtu.size()),
            queue_delay: Some(estimate.queue),
            pace: estimate.limit,
            drops: s.drops.iter().map(|(k, v)| (*k, *v)).collect(),
            paths: s.seen(),
            choice: Some(s.choice()),
        }
    }
}

impl Drop for SealedLink {
    fn drop(&mut self) {
        self.session.finish(&self.socket, close::BYE, "the link was dropped");
        self.conn.close(close::BYE.into(), b"");
        self.socket.remove(self.session.number);
        self.socket.rendezvous().handle_gone(self.peer, self.session.number);
        if let Some(port) = self.port.upgrade() {
            port.release_link(self.peer, self.serial);
        }
    }
}
