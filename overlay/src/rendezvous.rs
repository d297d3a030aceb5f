//! Two members that moved at the same time find each other through a third: neither hears what the other says of itself, but
//! both have told it to whoever stayed.
//!
//! ```text
//!   a ──(moved; where is b?)──> c <──(moved; where is a?)── b
//!   a <───(b is at …)────────── c ──────(a is at …)───────> b
//!   a <═══════════════════ pings, then frames ════════════> b
//! ```
//!
//! Nothing is said while links work, and nobody has to keep anything: a member is asked when a link has been in trouble for
//! longer than a move of one side takes, and remembers the question for some seconds, since the one asked for may be heard of
//! only after it. The answer is no proof: its addresses are pinged out of the link's own budget
//! ([`crate::defaults::paths::UNPROVED`]), as if the peer had named them.
//!
//! HIP calls two such moves a double jump, and has a rendezvous server for it (RFC 8004); here every member is one.
//!
//! What it does not do: it sends nothing, and knows no paths.
//!
//! The drive rule: tell it what changed, then drain [`Rendezvous::poll_event`]; call [`Rendezvous::handle_timeout`] when
//! [`Rendezvous::poll_timeout`] says.

#[cfg(test)]
mod tests;

use crate::defaults::rendezvous as limits;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    ops::Bound::{Excluded, Unbounded},
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    frame::{Candidate, CandidateKind, MAX_CANDIDATES, PathMessage},
};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Say this on the link to a peer.
    Say {
        /// To whom.
        to: NodeId,
        /// What.
        message: PathMessage,
    },
    /// The peer of this link may be at these addresses.
    Try {
        /// Who.
        node: NodeId,
        /// Where.
        list: Vec<Candidate>,
    },
}

/// A member that was asked for a peer.
#[derive(Debug)]
struct Asked {
    since: Instant,
    times: usize,
    answers: u32,
}

impl Asked {
    fn due(&self) -> Option<Instant> {
        let ms = limits::ASK_MS.get(self.times).filter(|_| self.answers == 0)?;
        Some(self.since + Duration::from_millis(*ms))
    }
}

/// A link.
#[derive(Debug)]
struct Peer {
    session: u32,
    trouble: Option<Instant>,
    /// Where it is reached, if directly.
    at: Option<SocketAddr>,
    /// What it said last of itself.
    said: Vec<Candidate>,
    /// Who was asked for it in this trouble.
    asked: BTreeMap<NodeId, Asked>,
}

/// Somebody who asked for somebody.
#[derive(Debug)]
struct Watch {
    asker: NodeId,
    sought: NodeId,
    until: Instant,
    told: Vec<Candidate>,
    answers: u32,
}

/// The seeker of all links, and who answers others.
#[derive(Debug, Default)]
pub struct Rendezvous {
    lans: Vec<BTreeSet<NodeId>>,
    peers: BTreeMap<NodeId, Peer>,
    /// Those of them that are in trouble.
    troubled: BTreeSet<NodeId>,
    watches: Vec<Watch>,
    events: VecDeque<Event>,
}

impl Rendezvous {
    /// Replaces the LANs that this node is in, as the set of each one's members: a member is asked for members of a LAN that it
    /// is in, too, and answered about those alone.
    pub fn set_lans(&mut self, lans: Vec<BTreeSet<NodeId>>) {
        self.watches.retain(|w| share(&lans, &w.asker, &w.sought));
        self.lans = lans;
    }

    /// How the link to a peer does; `at`: where it is reached directly. A new `session` takes the place of the one before.
    pub fn handle_link(&mut self, now: Instant, peer: NodeId, session: u32, trouble: bool, at: Option<SocketAddr>) {
        let new = self.peers.get(&peer).is_none_or(|p| p.session != session);
        if new {
            let p = Peer {
                session,
                trouble: None,
                at: None,
                said: Vec::new(),
                asked: BTreeMap::new(),
            };
            self.peers.insert(peer, p);
            self.troubled.remove(&peer);
        }
        let Some(p) = self.peers.get_mut(&peer) else { return };
        match (trouble, p.trouble) {
            (true, None) => {
                p.trouble = Some(now);
                self.troubled.insert(peer);
            }
            (false, Some(_)) => {
                p.trouble = None;
                self.troubled.remove(&peer);
                p.asked.clear();
            }
            _ => {}
        }
        let moved = std::mem::replace(&mut p.at, at) != at;
        if !trouble {
            // Who asked before it moved may have been answered at its old address.
            self.tell(
                now,
                |w| w.sought == peer || moved && w.asker == peer,
                moved.then_some(peer),
            );
        }
        self.handle_timeout(now);
    }

    /// A session is over.
    pub fn handle_gone(&mut self, peer: NodeId, session: u32) {
        if self.peers.get(&peer).is_some_and(|p| p.session == session) {
            self.peers.remove(&peer);
            self.troubled.remove(&peer);
        }
    }

    /// A peer said where it may be reached.
    pub fn handle_candidates(&mut self, now: Instant, peer: NodeId, list: &[Candidate]) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        if p.said != list {
            p.said = list.iter().take(MAX_CANDIDATES).copied().collect();
            self.tell(now, |w| w.sought == peer, None);
        }
    }

    /// A peer asks where somebody is; false if that is none of its business, or there are too many questions.
    pub fn handle_locate(&mut self, now: Instant, asker: NodeId, sought: NodeId) -> bool {
        self.watches.retain(|w| w.until > now);
        if asker == sought || !share(&self.lans, &asker, &sought) {
            return false;
        }
        match self.watches.iter_mut().find(|w| (w.asker, w.sought) == (asker, sought)) {
            // The answer was lost.
            Some(w) => w.told.clear(),
            None => {
                let of_asker = self.watches.iter().filter(|w| w.asker == asker).count();
                if self.watches.len() >= limits::WATCHES || of_asker >= limits::WATCHES_PER_ASKER {
                    return false;
                }
                self.watches.push(Watch {
                    asker,
                    sought,
                    until: now + limits::KEEP,
                    told: Vec::new(),
                    answers: 0,
                });
            }
        }
        if self.peers.get(&sought).is_some_and(|p| p.trouble.is_none()) {
            self.tell(now, |w| (w.asker, w.sought) == (asker, sought), None);
        }
        true
    }

    /// A peer says where somebody is; false if nobody asked it.
    pub fn handle_located(&mut self, now: Instant, from: NodeId, node: NodeId, list: Vec<Candidate>) -> bool {
        let peer = self.peers.get_mut(&node).filter(|p| p.trouble.is_some());
        let Some(asked) = peer.and_then(|p| p.asked.get_mut(&from)) else {
            return false;
        };
        if now >= asked.since + limits::KEEP || asked.answers >= limits::ANSWERS {
            return false;
        }
        asked.answers += 1;
        self.events.push_back(Event::Try { node, list });
        true
    }

    /// Asks whom it is time to ask.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.watches.retain(|w| w.until > now);
        if self.troubled.is_empty() {
            return;
        }
        let helpers = self.helpers();
        let lans = &self.lans;
        let long = |p: &Peer| p.trouble.is_some_and(|since| since + limits::AFTER <= now);
        let sought = self.peers.iter_mut().filter(|(_, p)| long(p));
        for (node, p) in sought.take(limits::SEEKS) {
            let left = limits::HELPERS.saturating_sub(p.asked.keys().filter(|h| helpers.contains(h)).count());
            let room = limits::HELPERS_EVER.saturating_sub(p.asked.len());
            // From the one sought on, so that not all ask the same few.
            let after = helpers
                .range((Excluded(*node), Unbounded))
                .chain(helpers.range(..*node));
            let fresh: Vec<NodeId> = after
                .filter(|h| !p.asked.contains_key(h) && share(lans, h, node))
                .take(left.min(room))
                .copied()
                .collect();
            for h in fresh {
                let asked = Asked {
                    since: now,
                    times: 0,
                    answers: 0,
                };
                p.asked.insert(h, asked);
            }
            for (to, asked) in p.asked.iter_mut().filter(|(h, _)| helpers.contains(h)) {
                if asked.due().is_some_and(|at| at <= now) {
                    asked.times += 1;
                    let message = PathMessage::Locate(*node);
                    self.events.push_back(Event::Say { to: *to, message });
                }
            }
        }
    }

    /// When [`Rendezvous::handle_timeout`] is due.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.troubled.is_empty() {
            return None;
        }
        let helpers = self.helpers();
        if helpers.is_empty() {
            return None;
        }
        let of = |p: &Peer| {
            let first = p.trouble? + limits::AFTER;
            let asked = p.asked.iter().filter(|(h, _)| helpers.contains(h));
            asked
                .filter_map(|(_, a)| a.due())
                .chain((first > now).then_some(first))
                .min()
        };
        self.peers.values().filter_map(of).min()
    }

    /// What is to be done.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn helpers(&self) -> BTreeSet<NodeId> {
        let well = self.peers.iter().filter(|(_, p)| p.trouble.is_none());
        well.map(|(n, _)| *n).collect()
    }

    /// Tells those who asked what they were not told yet; who moved is told again.
    fn tell(&mut self, now: Instant, which: impl Fn(&Watch) -> bool, moved: Option<NodeId>) {
        for w in self.watches.iter_mut().filter(|w| w.until > now && which(w)) {
            let Some(p) = self.peers.get(&w.sought) else { continue };
            let list = p.located();
            let again = Some(w.asker) == moved;
            if list.is_empty() || w.told == list && !again || w.answers >= limits::ANSWERS {
                continue;
            }
            w.answers += 1;
            w.told.clone_from(&list);
            let (to, node) = (w.asker, w.sought);
            let message = PathMessage::Located { node, list };
            self.events.push_back(Event::Say { to, message });
        }
    }
}

/// Whether two nodes are members of one LAN.
fn share(lans: &[BTreeSet<NodeId>], a: &NodeId, b: &NodeId) -> bool {
    lans.iter().any(|l| l.contains(a) && l.contains(b))
}

impl Peer {
    /// Where it may be: where it is reached, and what it says.
    fn located(&self) -> Vec<Candidate> {
        let at = self.at.filter(|_| self.trouble.is_none()).map(|a| Candidate {
            addr: SocketAddr::new(a.ip().to_canonical(), a.port()),
            kind: CandidateKind::Observed,
        });
        let mut list: Vec<Candidate> = at.into_iter().collect();
        for c in &self.said {
            if list.len() < MAX_CANDIDATES && !list.iter().any(|l| l.addr == c.addr) {
                list.push(*c);
            }
        }
        list
    }
}
