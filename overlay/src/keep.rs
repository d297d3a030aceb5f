//! Whether a control connection is alive, and what is sent to know it.
//!
//! Control connections of a LAN make a full mesh, so one that is idle must cost next to nothing. Where a link to the same
//! peer runs over the same addresses, the link's own keep-alives hold the mapping and notice the end, and the connection is
//! silent. Else it is asked from time to time by an empty QUIC datagram, which the peer's QUIC acknowledges.
//!
//! ```text
//!            heard                    something is unanswered for UNSURE,
//!   Alive <─────────┐                 idle for too long, or a doubt
//!     └─────────────┴─ Asked <──────────────────────────────────────────┐
//!                        └──(unanswered for DEAD and over some looks)──> dead
//! ```
//!
//! Invariant: a connection is given up only after a question of its own was not answered, and was looked at several times
//! meanwhile: a machine that slept for an hour asks first.

use crate::defaults::keep::{DEAD, EVERY, IDLE, IDLE_NAT, LATER, LOOKS, UNSURE};
use std::time::{Duration, Instant};

/// What is known of a connection when it is looked at. Counters only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Datagrams that came.
    pub came: u64,
    /// Frames that were sent and that the peer has to acknowledge.
    pub asked: u64,
    /// This node dialled: it asks, the other side only if nobody does.
    pub dialled: bool,
    /// A link to the peer runs over the same addresses.
    pub linked: bool,
    /// A router that forgets may stand between.
    pub mapped: bool,
}

/// What to do about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// Send something that is acknowledged.
    Ask,
    /// Close it: nobody is there.
    Dead,
}

/// One connection.
#[derive(Debug)]
pub struct Watched {
    last: Look,
    heard: Instant,
    /// Since when something is unanswered.
    waiting: Option<Instant>,
    /// When it was asked, and the looks since.
    question: Option<(Instant, u32)>,
    doubted: bool,
}

impl Watched {
    /// A new connection: its handshake was heard just now.
    pub fn new(now: Instant, look: Look) -> Self {
        Self {
            last: look,
            heard: now,
            waiting: None,
            question: None,
            doubted: false,
        }
    }

    /// Something hints that it may be dead, or that it goes by addresses that are no longer ours.
    pub fn handle_doubt(&mut self) {
        self.doubted = true;
    }

    /// Whether it was asked and had the time to answer, but did not.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.question
            .is_some_and(|(at, looks)| looks > 0 && now.saturating_duration_since(at) >= EVERY)
    }

    /// Looks at it; to be called every [`crate::defaults::keep::EVERY`].
    pub fn handle_look(&mut self, now: Instant, look: Look) -> Verdict {
        let before = std::mem::replace(&mut self.last, look);
        if look.came > before.came {
            self.heard = now;
            self.waiting = None;
            self.question = None;
        } else if look.asked > before.asked && self.waiting.is_none() {
            self.waiting = Some(now);
        }
        // The link is gone: so may be the peer.
        self.doubted |= before.linked && !look.linked;
        if let Some((at, looks)) = &mut self.question {
            *looks += 1;
            let dead = *looks >= LOOKS && now.saturating_duration_since(*at) >= DEAD;
            return if dead { Verdict::Dead } else { Verdict::Fine };
        }
        let unsure = self
            .waiting
            .is_some_and(|at| now.saturating_duration_since(at) >= UNSURE);
        let idle = !look.linked && now.saturating_duration_since(self.heard) >= every(look);
        if unsure || idle || std::mem::take(&mut self.doubted) {
            self.doubted = false;
            self.question = Some((now, 0));
            return Verdict::Ask;
        }
        Verdict::Fine
    }
}

fn every(look: Look) -> Duration {
    let every = if look.mapped { IDLE_NAT } else { IDLE };
    if look.dialled { every } else { every.mul_f64(LATER) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_LOOK: Look = Look {
        came: 10,
        asked: 10,
        dialled: true,
        linked: false,
        mapped: true,
    };

    /// Looks until `end`; gives what was decided when. Every question is answered if `answers`.
    fn watch(look: Look, end: Duration, answers: bool) -> Vec<(Duration, Verdict)> {
        let start = Instant::now();
        let (mut w, mut look, mut at, mut out) = (Watched::new(start, look), look, Duration::ZERO, Vec::new());
        while at < end {
            at += EVERY;
            match w.handle_look(start + at, look) {
                Verdict::Fine => {}
                v => {
                    out.push((at, v));
                    look.asked += 1;
                    look.came += u64::from(answers);
                }
            }
            if matches!(out.last(), Some((_, Verdict::Dead))) {
                break;
            }
        }
        out
    }

    #[test]
    fn an_idle_connection_is_asked_as_often_as_its_routers_need() {
        let day = Duration::from_secs(86_400);
        let asked = |look| watch(look, day, true).len() as u64;
        let per = |every: Duration| day.as_secs() / every.as_secs();
        let nat = asked(IDLE_LOOK);
        assert!(nat <= per(IDLE_NAT) && nat > per(IDLE_NAT) * 8 / 10, "{nat}");
        // Short header, an empty datagram frame and a tag there, an acknowledgement back, IPv4 and UDP around.
        let bytes = 19 * nat * (28 + 30 + 28 + 34);
        assert!(bytes <= crate::defaults::IDLE_DAY[0], "{bytes} a day");
        let open = asked(Look {
            mapped: false,
            ..IDLE_LOOK
        });
        assert!(open <= per(IDLE), "{open}");
        assert_eq!(
            asked(Look {
                linked: true,
                ..IDLE_LOOK
            }),
            0,
            "the link does it"
        );
        // Of two sides one asks: the other hears it in time.
        let other = Look {
            dialled: false,
            ..IDLE_LOOK
        };
        assert!(every(other) > every(IDLE_LOOK) + EVERY);
    }

    #[test]
    fn a_peer_that_is_gone_is_given_up_after_a_question() {
        let got = watch(IDLE_LOOK, Duration::from_secs(600), false);
        let [(asked, Verdict::Ask), (dead, Verdict::Dead)] = got[..] else {
            panic!("{got:?}");
        };
        assert!(asked <= IDLE_NAT + EVERY && dead - asked >= DEAD && dead - asked <= DEAD + EVERY);
    }

    #[test]
    fn what_is_unanswered_a_link_that_ends_and_doubts_ask_at_once() {
        let now = Instant::now();
        let linked = Look {
            linked: true,
            ..IDLE_LOOK
        };
        let mut w = Watched::new(now, linked);
        assert_eq!(w.handle_look(now + EVERY, linked), Verdict::Fine);
        assert_eq!(
            w.handle_look(now + 2 * EVERY, IDLE_LOOK),
            Verdict::Ask,
            "the link ended"
        );
        w.handle_look(now + 2 * EVERY, IDLE_LOOK);
        assert!(!w.is_silent(now + 2 * EVERY), "it had no time to answer");
        w.handle_look(now + 3 * EVERY, IDLE_LOOK);
        assert!(w.is_silent(now + 3 * EVERY));
        w.handle_look(now + 4 * EVERY, Look { came: 11, ..IDLE_LOOK });
        assert!(!w.is_silent(now + 4 * EVERY));
        let mut w = Watched::new(now, linked);
        w.handle_doubt();
        assert_eq!(w.handle_look(now + EVERY, linked), Verdict::Ask);
        assert_eq!(w.handle_look(now + 2 * EVERY, linked), Verdict::Fine, "once");
        let call = Look { asked: 11, ..linked };
        let mut w = Watched::new(now, linked);
        assert_eq!(w.handle_look(now + EVERY, call), Verdict::Fine);
        assert_eq!(w.handle_look(now + EVERY + UNSURE, call), Verdict::Ask);
        let heard = Look { came: 11, ..call };
        assert_eq!(
            w.handle_look(now + 2 * DEAD, heard),
            Verdict::Fine,
            "it answered after all"
        );
    }

    #[test]
    fn a_machine_that_slept_asks_before_it_gives_up() {
        let now = Instant::now();
        let mut w = Watched::new(now, IDLE_LOOK);
        w.handle_doubt();
        assert_eq!(w.handle_look(now + EVERY, IDLE_LOOK), Verdict::Ask);
        // An hour passes between two looks.
        let woken = now + Duration::from_secs(3_600);
        assert_eq!(w.handle_look(woken, IDLE_LOOK), Verdict::Fine);
        let back = Look { came: 11, ..IDLE_LOOK };
        assert_eq!(w.handle_look(woken + EVERY, back), Verdict::Fine);
    }
}
