//! The tickets that this node made, and whether one that is presented still holds.

use super::{Secret, Ticket, proof};
use crate::defaults::{TICKET_KEEP, TICKETS_MAX, WRONG_PROOF_PEERS_MAX, WRONG_PROOF_WINDOW, WRONG_PROOFS_MAX};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use wire::{
    Fault, FaultKind, LanId, NodeId, UnixMillis,
    membership::{Redeem, Role},
    units::show_duration,
};

/// One ticket, as its maker remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Issued {
    lan: LanId,
    secret: Secret,
    role: Role,
    /// The largest serial that the LAN's key had signed when the ticket was made.
    serial: u64,
    expires: UnixMillis,
    uses_left: u32,
    /// Who was signed in by it; they get the same answer again.
    holders: BTreeSet<NodeId>,
}

/// What to do for a ticket that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Sign the holder in, then [`TicketBook::take`] one use.
    New {
        /// As what.
        role: Role,
        /// The LAN's serial when the ticket was made: an eviction with a larger one is stronger than the ticket.
        serial: u64,
    },
    /// The holder was signed in by this ticket before and did not get the answer: give it again.
    Again,
}

/// Why a ticket is refused. What a stranger without the secret hears does not tell whether the ticket exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedeemError {
    /// No such ticket for this LAN, or the proof does not fit.
    #[error("this ticket is not known here: it was made by another node, withdrawn, or its secret is wrong")]
    Unknown,
    /// Too many wrong proofs.
    #[error("too many wrong tickets came from this node; wait {} and try again", show_duration(*.wait))]
    TooManyTries {
        /// Until the next try is looked at.
        wait: Duration,
    },
    /// Its time is over, by the clock of the node that made it.
    #[error("this ticket ended {} ago", show_duration(*.ago))]
    Expired {
        /// How long ago.
        ago: Duration,
    },
    /// As many nodes were signed in by it as it allows.
    #[error("this ticket is used up: another node was signed in by it")]
    UsedUp,
}

impl RedeemError {
    /// What the holder is told.
    pub fn fault(&self) -> Fault {
        let fault = Fault::new(FaultKind::Refused, self.to_string());
        match self {
            Self::TooManyTries { .. } => fault,
            _ => fault.next("ask the LAN's owner for a new ticket: lanline lan invite NAME"),
        }
    }
}

/// No room for another ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{TICKETS_MAX} tickets are open, which is all that a node keeps; wait until one is used or ends")]
pub struct BookFull;

/// The tickets that this node made. Its serialised form holds their secrets.
///
/// Invariant: at most [`TICKETS_MAX`] tickets, and a ticket never signs in more nodes than it allowed when it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketBook {
    issued: BTreeMap<[u8; 8], Issued>,
    /// When each peer sent a wrong proof; forgotten at a restart, which nobody outside can cause.
    #[serde(skip)]
    wrong: BTreeMap<NodeId, VecDeque<Instant>>,
}

impl TicketBook {
    /// Writes a new ticket down, made when the LAN's key had signed up to `serial`. It must be durable before the
    /// ticket's text is shown.
    pub fn issue(&mut self, now: UnixMillis, ticket: &Ticket, uses: u32, serial: u64) -> Result<(), BookFull> {
        self.prune(now);
        let entry = Issued {
            lan: ticket.lan.clone(),
            secret: ticket.secret.clone(),
            role: ticket.role,
            serial,
            expires: ticket.expires,
            uses_left: uses,
            holders: BTreeSet::new(),
        };
        if self.issued.len() >= TICKETS_MAX && !self.issued.contains_key(&ticket.id) {
            return Err(BookFull);
        }
        self.issued.insert(ticket.id, entry);
        Ok(())
    }

    /// Judges a ticket that `holder` presents to `me`. Changes nothing but the count of wrong tries.
    pub fn redeem(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        me: NodeId,
        holder: NodeId,
        ask: &Redeem,
    ) -> Result<Decision, RedeemError> {
        if let Some(wait) = self.must_wait(now, holder) {
            return Err(RedeemError::TooManyTries { wait });
        }
        let known = self.issued.get(&ask.ticket).filter(|t| {
            t.lan == ask.lan && proof(&t.secret, &t.lan, &ask.ticket, holder, me) == blake3::Hash::from(ask.proof)
        });
        let Some(t) = known else {
            self.note_wrong(now, holder);
            return Err(RedeemError::Unknown);
        };
        if t.holders.contains(&holder) {
            return Ok(Decision::Again);
        }
        if t.expires <= wall {
            return Err(RedeemError::Expired {
                ago: wall.since(t.expires),
            });
        }
        if t.uses_left == 0 {
            return Err(RedeemError::UsedUp);
        }
        Ok(Decision::New {
            role: t.role,
            serial: t.serial,
        })
    }

    /// Counts one use, after the holder was signed in.
    pub fn take(&mut self, ticket: &[u8; 8], holder: NodeId) {
        if let Some(t) = self.issued.get_mut(ticket)
            && t.holders.insert(holder)
        {
            t.uses_left = t.uses_left.saturating_sub(1);
        }
    }

    /// Whether a ticket of this LAN is open that was made after what has the serial `since` was signed.
    pub fn has_open_since(&self, wall: UnixMillis, lan: &LanId, since: u64) -> bool {
        self.issued
            .values()
            .any(|t| t.lan == *lan && t.serial >= since && t.expires > wall && t.uses_left > 0)
    }

    /// How many tickets are remembered.
    pub fn len(&self) -> usize {
        self.issued.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.issued.is_empty()
    }

    /// Forgets tickets that ended long ago; when there is no room, those that are over come first.
    fn prune(&mut self, wall: UnixMillis) {
        self.issued.retain(|_, t| wall.since(t.expires) <= TICKET_KEEP);
        while self.issued.len() >= TICKETS_MAX {
            let over = |t: &Issued| t.expires <= wall || t.uses_left == 0;
            let oldest = self
                .issued
                .iter()
                .filter(|(_, t)| over(t))
                .min_by_key(|(_, t)| t.expires)
                .map(|(id, _)| *id);
            match oldest {
                Some(id) => self.issued.remove(&id),
                None => break,
            };
        }
    }

    fn must_wait(&mut self, now: Instant, peer: NodeId) -> Option<Duration> {
        let tries = self.wrong.get_mut(&peer)?;
        tries.retain(|t| now.saturating_duration_since(*t) < WRONG_PROOF_WINDOW);
        let oldest = *tries.front()?;
        (tries.len() >= WRONG_PROOFS_MAX).then(|| (oldest + WRONG_PROOF_WINDOW).saturating_duration_since(now))
    }

    fn note_wrong(&mut self, now: Instant, peer: NodeId) {
        if self.wrong.len() >= WRONG_PROOF_PEERS_MAX && !self.wrong.contains_key(&peer) {
            self.wrong.retain(|_, t| {
                t.back()
                    .is_some_and(|t| now.saturating_duration_since(*t) < WRONG_PROOF_WINDOW)
            });
        }
        if self.wrong.len() >= WRONG_PROOF_PEERS_MAX && !self.wrong.contains_key(&peer) {
            // Many ids trying at once are one attacker; it gains five tries at 2^128 by each id that is forgotten.
            self.wrong.pop_first();
        }
        self.wrong.entry(peer).or_default().push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::tests::sample;

    const ME: NodeId = NodeId([50; 32]);

    fn ticket() -> Ticket {
        Ticket {
            inviter: ME,
            ..sample(&[])
        }
    }

    fn ask(t: &Ticket, holder: NodeId) -> Redeem {
        Redeem {
            lan: t.lan.clone(),
            ticket: t.id,
            proof: t.proof(holder),
            name: None,
            addrs: vec![],
        }
    }

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    #[test]
    fn one_time_means_one_time_and_a_lost_answer_is_given_again() {
        let (t, at, wall) = (ticket(), Instant::now(), UnixMillis(1_700_000_000_000));
        let mut book = TicketBook::default();
        book.issue(wall, &t, 1, 0).unwrap();
        let redeem = |book: &mut TicketBook, n: u8| book.redeem(at, wall, ME, node(n), &ask(&t, node(n)));
        assert!(matches!(
            redeem(&mut book, 1),
            Ok(Decision::New { role: Role::Host, .. })
        ));
        book.take(&t.id, node(1));
        assert_eq!(redeem(&mut book, 1), Ok(Decision::Again));
        assert_eq!(redeem(&mut book, 2), Err(RedeemError::UsedUp));
        book.take(&t.id, node(1));
        let saved = wire::codec::encode(&book).unwrap();
        let mut book: TicketBook = wire::codec::decode(&saved, 1 << 20).unwrap();
        assert_eq!(redeem(&mut book, 1), Ok(Decision::Again));
        assert_eq!(redeem(&mut book, 2), Err(RedeemError::UsedUp));
    }

    #[test]
    fn a_count_is_a_count() {
        let (t, at, wall) = (ticket(), Instant::now(), UnixMillis(1_700_000_000_000));
        let mut book = TicketBook::default();
        book.issue(wall, &t, 3, 0).unwrap();
        for n in 1..=3 {
            assert!(matches!(
                book.redeem(at, wall, ME, node(n), &ask(&t, node(n))),
                Ok(Decision::New { .. })
            ));
            book.take(&t.id, node(n));
        }
        assert_eq!(
            book.redeem(at, wall, ME, node(4), &ask(&t, node(4))),
            Err(RedeemError::UsedUp)
        );
    }

    #[test]
    fn the_makers_clock_ends_a_ticket_and_tells_only_who_knows_the_secret() {
        let (t, at) = (ticket(), Instant::now());
        let mut book = TicketBook::default();
        book.issue(UnixMillis(1_700_000_000_000), &t, 1, 0).unwrap();
        let late = t.expires.plus(Duration::from_secs(60));
        let ago = Duration::from_secs(60);
        assert_eq!(
            book.redeem(at, t.expires, ME, node(1), &ask(&t, node(1))),
            Err(RedeemError::Expired { ago: Duration::ZERO })
        );
        assert_eq!(
            book.redeem(at, late, ME, node(1), &ask(&t, node(1))),
            Err(RedeemError::Expired { ago })
        );
        let mut stolen = ask(&t, node(1));
        assert_eq!(
            book.redeem(at, late, ME, node(2), &stolen),
            Err(RedeemError::Unknown),
            "another node's proof"
        );
        stolen.ticket = [0; 8];
        assert_eq!(
            book.redeem(at, late, ME, node(1), &stolen),
            Err(RedeemError::Unknown),
            "another ticket"
        );
    }

    #[test]
    fn wrong_proofs_are_limited_for_each_peer_even_when_the_next_is_right() {
        let (t, at, wall) = (ticket(), Instant::now(), UnixMillis(1_700_000_000_000));
        let mut book = TicketBook::default();
        book.issue(wall, &t, 9, 0).unwrap();
        let good = ask(&t, node(1));
        let wrong = Redeem {
            proof: [0; 32],
            ..good.clone()
        };
        for _ in 0..WRONG_PROOFS_MAX {
            assert_eq!(book.redeem(at, wall, ME, node(1), &wrong), Err(RedeemError::Unknown));
        }
        let wait = WRONG_PROOF_WINDOW;
        assert_eq!(
            book.redeem(at, wall, ME, node(1), &good),
            Err(RedeemError::TooManyTries { wait })
        );
        assert!(
            book.redeem(at, wall, ME, node(2), &ask(&t, node(2))).is_ok(),
            "others are not held up"
        );
        assert!(book.redeem(at + wait, wall, ME, node(1), &good).is_ok());
    }

    #[test]
    fn the_book_and_the_list_of_wrong_peers_are_bounded() {
        let (at, wall) = (Instant::now(), UnixMillis(1_700_000_000_000));
        let mut book = TicketBook::default();
        let numbered = |n: usize| {
            let mut id = [0; 8];
            id.copy_from_slice(&(n as u64).to_be_bytes());
            Ticket { id, ..ticket() }
        };
        for n in 0..TICKETS_MAX {
            book.issue(wall, &numbered(n), 1, 0).unwrap();
        }
        assert_eq!(book.issue(wall, &numbered(TICKETS_MAX), 1, 0), Err(BookFull));
        assert_eq!(book.len(), TICKETS_MAX);
        book.take(&numbered(7).id, node(1));
        assert_eq!(
            book.issue(wall, &numbered(TICKETS_MAX), 1, 0),
            Ok(()),
            "a used ticket makes room"
        );
        assert_eq!(book.issue(wall.plus(TICKET_KEEP * 1000), &numbered(0), 1, 0), Ok(()));
        assert_eq!(book.len(), 1, "tickets that ended long ago are forgotten");
        for n in 0..=WRONG_PROOF_PEERS_MAX {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(n as u64).to_be_bytes());
            let wrong = Redeem {
                proof: [0; 32],
                ..ask(&ticket(), NodeId(id))
            };
            let _ = book.redeem(at, wall, ME, NodeId(id), &wrong);
        }
        assert_eq!(book.wrong.len(), WRONG_PROOF_PEERS_MAX);
    }
}
