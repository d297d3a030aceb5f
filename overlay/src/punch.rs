//! Which inbound connection belongs to which hole punch.
//!
//! Both sides of a punch send at the same time; the side that has the role of listener waits for the other's connection
//! to arrive. It is known by the peer that it proves to be and the IP it comes from. The port is not compared: a NAT
//! that maps anew for each destination changes it, and the peer's key is proof enough.
//!
//! Invariant: a wait is in the table until it is taken by exactly one connection, removed, or past its end.

use crate::defaults;
use libp2p::PeerId;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

/// One wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PunchId(u64);

#[derive(Debug)]
struct Wait {
    peer: PeerId,
    from: IpAddr,
    port: u16,
    until: Instant,
}

/// What an inbound connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody waits for it: an ordinary inbound connection.
    Ordinary,
    /// The one that this wait is for; the wait is over.
    Awaited(PunchId),
    /// It came from the very address that was punched, and is somebody else. Refuse it; the wait goes on.
    WrongPeer,
}

/// Too many punches at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("already {} hole punches under way", defaults::MAX_PUNCHES)]
pub struct TooMany;

/// The waits.
#[derive(Debug, Default)]
pub struct Punches {
    next: u64,
    waits: BTreeMap<PunchId, Wait>,
}

impl Punches {
    /// Begins to wait for `peer` from `addr`; earlier waits for the same peer and address end.
    pub fn expect(&mut self, now: Instant, peer: PeerId, addr: SocketAddr) -> Result<PunchId, TooMany> {
        self.handle_timeout(now);
        let from = addr.ip().to_canonical();
        self.waits
            .retain(|_, w| (w.peer, w.from, w.port) != (peer, from, addr.port()));
        let same = self.waits.values().filter(|w| w.from == from).count();
        if self.waits.len() >= defaults::MAX_PUNCHES || same >= defaults::MAX_PUNCHES_PER_IP {
            return Err(TooMany);
        }
        let id = PunchId(self.next);
        self.next += 1;
        self.waits.insert(
            id,
            Wait {
                peer,
                from,
                port: addr.port(),
                until: now + defaults::PUNCH_FOR,
            },
        );
        Ok(id)
    }

    /// Judges an inbound connection whose handshake is done.
    pub fn arrived(&mut self, now: Instant, peer: PeerId, addr: SocketAddr) -> Verdict {
        self.handle_timeout(now);
        let from = addr.ip().to_canonical();
        let mut same_ip = self.waits.iter().filter(|(_, w)| w.from == from);
        if let Some(id) = same_ip.clone().find(|(_, w)| w.peer == peer).map(|(id, _)| *id) {
            self.waits.remove(&id);
            return Verdict::Awaited(id);
        }
        match same_ip.any(|(_, w)| w.port == addr.port()) {
            true => Verdict::WrongPeer,
            false => Verdict::Ordinary,
        }
    }

    /// Ends a wait.
    pub fn remove(&mut self, id: PunchId) {
        self.waits.remove(&id);
    }

    /// Forgets waits whose time is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.waits.retain(|_, w| w.until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::identity::Keypair;

    fn peer(n: u8) -> PeerId {
        Keypair::ed25519_from_bytes([n; 32]).unwrap().public().to_peer_id()
    }

    fn at(s: &str) -> SocketAddr {
        s.parse().unwrap()
    }

    #[test]
    fn the_right_peer_is_taken_once_even_from_another_port() {
        let (now, mut p) = (Instant::now(), Punches::default());
        let id = p.expect(now, peer(1), at("10.0.0.1:5")).unwrap();
        assert_eq!(
            p.arrived(now, peer(1), at("[::ffff:10.0.0.1]:77")),
            Verdict::Awaited(id)
        );
        assert_eq!(p.arrived(now, peer(1), at("10.0.0.1:5")), Verdict::Ordinary);
    }

    #[test]
    fn a_wrong_peer_is_refused_and_the_wait_goes_on() {
        let (now, mut p) = (Instant::now(), Punches::default());
        let id = p.expect(now, peer(1), at("10.0.0.1:5")).unwrap();
        assert_eq!(p.arrived(now, peer(2), at("10.0.0.1:5")), Verdict::WrongPeer);
        assert_eq!(
            p.arrived(now, peer(2), at("10.0.0.1:6")),
            Verdict::Ordinary,
            "a neighbour behind the same NAT"
        );
        assert_eq!(p.arrived(now, peer(1), at("10.0.0.2:5")), Verdict::Ordinary);
        assert_eq!(p.arrived(now, peer(1), at("10.0.0.1:5")), Verdict::Awaited(id));
    }

    #[test]
    fn waits_end_and_are_bounded() {
        let (now, mut p) = (Instant::now(), Punches::default());
        for i in 0..defaults::MAX_PUNCHES {
            let ip = [10, 0, 1, u8::try_from(i).unwrap()];
            p.expect(now, peer(1), (ip, 1).into()).unwrap();
        }
        assert_eq!(p.expect(now, peer(1), at("10.0.0.9:1")), Err(TooMany));
        let later = now + defaults::PUNCH_FOR;
        assert_eq!(p.arrived(later, peer(1), at("10.0.1.1:1")), Verdict::Ordinary);
        p.expect(later, peer(1), at("10.0.0.9:1")).unwrap();
    }

    #[test]
    fn abuse_28_few_punches_go_to_one_machine_whoever_names_it() {
        let (now, mut p) = (Instant::now(), Punches::default());
        let named = |n: u16| SocketAddr::new(at("10.0.0.1:1").ip(), n + 1);
        let taken = (0..1_000).filter(|n| p.expect(now, peer(1), named(*n)).is_ok()).count();
        assert_eq!(taken, defaults::MAX_PUNCHES_PER_IP);
        p.expect(now, peer(1), at("10.0.0.2:1")).unwrap();
    }

    #[test]
    fn the_same_wait_again_replaces_the_first() {
        let (now, mut p) = (Instant::now(), Punches::default());
        let a = p.expect(now, peer(1), at("10.0.0.1:5")).unwrap();
        let b = p.expect(now, peer(1), at("10.0.0.1:5")).unwrap();
        assert_ne!(a, b);
        assert_eq!(p.arrived(now, peer(1), at("10.0.0.1:5")), Verdict::Awaited(b));
    }
}
