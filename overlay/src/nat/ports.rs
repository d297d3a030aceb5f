//! Which port a router that counts up gives next: what a peer saw once, and the mappings that this node had made since.
//!
//! A router that maps each peer anew makes a mapping for each destination that is new to it, so whoever notes the first packet to
//! each destination knows how many ports were taken since a port was seen. What other machines behind the router take is not
//! known; guesses have to bear it ([`crate::paths`]).
//!
//! Invariant: at most [`defaults::nat::DESTINATIONS`] destinations are remembered; the oldest goes, and counts again if it is
//! sent to again.

use crate::{carrier, defaults};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};
use wire::frame::{Candidate, CandidateKind, PathMessage};

/// A mapping that is known, and by how much the next one differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// This node as a peer saw it.
    pub addr: SocketAddr,
    /// Which of this node's mappings that was ([`Ports::nth`]).
    pub nth: u64,
    /// By how much the port goes up from one to the next.
    pub step: u16,
}

/// The mappings; see the module.
#[derive(Debug, Default)]
pub struct Ports {
    made: BTreeMap<SocketAddr, u64>,
    last: u64,
    anchor: Option<Anchor>,
}

impl Ports {
    /// Something is sent there.
    pub fn handle_sent(&mut self, to: SocketAddr) {
        let to = super::canonical(to);
        let outside =
            matches!(to.ip(), IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_multicast() && !ip.is_broadcast());
        if !outside || carrier::is_virtual(to) || self.made.contains_key(&to) {
            return;
        }
        if self.made.len() >= defaults::nat::DESTINATIONS {
            let oldest = self.made.iter().min_by_key(|(_, nth)| **nth).map(|(a, _)| *a);
            oldest.and_then(|a| self.made.remove(&a));
        }
        self.last += 1;
        self.made.insert(to, self.last);
    }

    /// Which of the mappings is the one to this destination, counted from 1.
    pub fn nth(&self, to: SocketAddr) -> Option<u64> {
        self.made.get(&super::canonical(to)).copied()
    }

    /// What peers' views say; `None`: ports cannot be guessed.
    pub fn set_anchor(&mut self, anchor: Option<Anchor>) {
        self.anchor = anchor;
    }

    /// The machine is on another network: its routers know it not.
    pub fn handle_moved(&mut self) {
        *self = Self::default();
    }

    /// The next two mappings.
    pub fn next(&self) -> Option<[SocketAddr; 2]> {
        let a = self.anchor?;
        let since = u16::try_from(self.last.saturating_sub(a.nth)).ok()?;
        let port = |n: u16| a.addr.port().checked_add(a.step.checked_mul(n)?);
        let at = |n: u16| Some(SocketAddr::new(a.addr.ip(), port(n)?));
        Some([at(since.checked_add(1)?)?, at(since.checked_add(2)?)?])
    }

    /// To be called with what is sent to a peer, at the last moment: a list of nothing but predictions is made anew.
    pub fn refresh(&self, message: &mut PathMessage) {
        if let PathMessage::Candidates { list, .. } = message
            && is_forecast(list)
            && let Some(next) = self.next()
        {
            let kind = CandidateKind::Predicted;
            *list = next.into_iter().map(|addr| Candidate { addr, kind }).collect();
        }
    }
}

/// Whether a list says where the sender's next mappings will be, and nothing else.
pub fn is_forecast(list: &[Candidate]) -> bool {
    !list.is_empty() && list.iter().all(|c| c.kind == CandidateKind::Predicted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: &str) -> SocketAddr {
        s.parse().unwrap()
    }

    #[test]
    fn each_new_destination_takes_a_port() {
        let mut p = Ports::default();
        p.handle_sent(at("9.0.0.1:1"));
        assert_eq!(p.next(), None, "nobody saw anything");
        p.set_anchor(Some(Anchor {
            addr: at("8.0.0.1:100"),
            nth: p.nth(at("[::ffff:9.0.0.1]:1")).unwrap(),
            step: 2,
        }));
        assert_eq!(p.next(), Some([at("8.0.0.1:102"), at("8.0.0.1:104")]));
        for to in [
            "9.0.0.1:1",
            "[2a00::1]:1",
            "127.0.0.1:1",
            "224.0.0.251:5353",
            "[::ffff:9.0.0.1]:1",
        ] {
            p.handle_sent(at(to));
        }
        assert_eq!(
            p.next().unwrap()[0],
            at("8.0.0.1:102"),
            "none of them is new to the router"
        );
        p.handle_sent(at("9.0.0.1:2"));
        p.handle_sent(at("[::ffff:9.0.0.2]:1"));
        assert_eq!(p.next().unwrap()[0], at("8.0.0.1:106"));
        p.handle_moved();
        assert_eq!((p.next(), p.nth(at("9.0.0.1:1"))), (None, None));
    }

    #[test]
    fn destinations_are_bounded_and_ports_end() {
        let mut p = Ports::default();
        for n in 0..40_000u16 {
            p.handle_sent(SocketAddr::from(([9, 0, 0, 1], n)));
        }
        assert_eq!(p.made.len(), defaults::nat::DESTINATIONS);
        assert_eq!(
            (p.nth(at("9.0.0.1:0")), p.nth(at("9.0.0.1:39999"))),
            (None, Some(40_000))
        );
        let addr = at("8.0.0.1:65000");
        for nth in [0, 39_000, 39_999, u64::MAX] {
            p.set_anchor(Some(Anchor { addr, nth, step: 600 }));
            assert_eq!(p.next(), None, "{nth}: beyond the last port");
        }
    }

    #[test]
    fn only_a_list_of_predictions_is_made_anew() {
        let mut p = Ports::default();
        let c = |addr: &str, kind| Candidate { addr: at(addr), kind };
        let old = vec![c("8.0.0.1:5", CandidateKind::Predicted)];
        let mixed = vec![
            c("8.0.0.1:4", CandidateKind::Observed),
            c("8.0.0.1:5", CandidateKind::Predicted),
        ];
        let refreshed = |p: &Ports, list: &[Candidate]| {
            let list = list.to_vec();
            let mut m = PathMessage::Candidates { serial: 1, list };
            p.refresh(&mut m);
            match m {
                PathMessage::Candidates { list, .. } => list,
                _ => unreachable!(),
            }
        };
        assert_eq!(refreshed(&p, &old), old, "nothing better is known");
        let (addr, step) = (at("8.0.0.1:8"), 1);
        p.set_anchor(Some(Anchor { addr, nth: 0, step }));
        let fresh = [
            c("8.0.0.1:9", CandidateKind::Predicted),
            c("8.0.0.1:10", CandidateKind::Predicted),
        ];
        assert_eq!(refreshed(&p, &old), fresh);
        assert_eq!(refreshed(&p, &mixed), mixed);
        assert!(!is_forecast(&[]) && !is_forecast(&mixed) && is_forecast(&old));
    }
}
