//! One port of the loop guard: what was heard on it, and what follows.

use super::{
    Around, Cause, Phase,
    defaults::{
        CUT_FIRST, CUT_LONGEST, CUT_WINDOW, FLAPS, GUARD_TICK, GUARD_WARN, GUEST_PROBE_EVERY, LISTEN, OVERHEARD,
        OWN_STREAM, PROBE_CHECKS, PROBE_ECHO, PROBE_EVERY, PROBE_FORGET, PROBE_GAP, PROBE_LOST, PROBERS, PROBES_KEPT,
        REPEAT_WINDOW, STEP_IN,
    },
};
use crate::{PortId, budget::Bucket, defaults::AGEING, fdb::Key};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};
use wire::{
    MacAddr, NodeId,
    frame::{Boot, MIN_FRAME, Probe},
};

/// Probes of another LAN's later port that an earlier port bears before it is cut itself.
pub(super) const PATIENT: u8 = 2;

/// The newest probe of a node on this port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) at: Instant,
    /// When its run was heard first.
    pub(super) first: Instant,
    pub(super) boot: Boot,
    pub(super) counter: u64,
    pub(super) forwarding: bool,
    pub(super) reach: bool,
}

/// The port.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) guest: bool,
    /// Source of its probes. Not the interface's own address, at which a bridge would take it for its own frame coming back.
    pub(super) mac: MacAddr,
    pub(super) phase: Phase,
    since: Instant,
    /// End of listening, or of the cut.
    until: Instant,
    /// By node, and whether it left by a guest's port there.
    heard: BTreeMap<(NodeId, bool), Heard>,
    /// The newest own probes; nobody can make them up.
    sent: VecDeque<(Instant, Bytes)>,
    pub(super) next: Instant,
    last: Option<Instant>,
    pub(super) checks: Bucket,
    /// Probes were dropped unread.
    pub(super) overflowed: Option<Instant>,
    /// Cuts in a row.
    pub(super) cuts: u32,
    opened: Option<Instant>,
    /// Changes between forwarding and standby.
    flaps: VecDeque<Instant>,
    /// Since when nobody better was heard while [`Port::reached`] stayed as it is.
    best_since: Option<Instant>,
    /// Whether other members were reached, when last decided.
    reached: bool,
    overheard: BTreeMap<Key, (Instant, Option<NodeId>)>,
    pub(super) other_lan: u8,
    /// While off for frames that come round: the member that carries this segment's frames, as far as known.
    pub(super) carrier: Option<NodeId>,
    /// The last cut was for frames that come round, and the port has not carried anything since.
    repeated: bool,
    warned: Option<Instant>,
    /// Own sealed packets since then.
    own: (Option<Instant>, u32),
}

/// The same for the life of the port, and another on every node and LAN.
pub(super) fn probe_mac(me: NodeId, lan: &[u8; 32], port: PortId) -> MacAddr {
    let mut h = DefaultHasher::new();
    (me, lan, port.0).hash(&mut h);
    let [a, b, c, d, e, f, ..] = h.finish().to_be_bytes();
    MacAddr::local_from(&[a, b, c, d, e, f])
}

impl Port {
    pub(super) fn new(now: Instant, guest: bool, mac: MacAddr, listen: bool) -> Self {
        Self {
            guest,
            mac,
            phase: if listen { Phase::Listening } else { Phase::Forwarding },
            since: now,
            until: now + LISTEN,
            heard: BTreeMap::new(),
            sent: VecDeque::new(),
            next: now,
            last: None,
            checks: Bucket::new(PROBE_CHECKS, PROBE_CHECKS),
            overflowed: None,
            cuts: 0,
            opened: None,
            flaps: VecDeque::new(),
            best_since: None,
            reached: false,
            overheard: BTreeMap::new(),
            other_lan: 0,
            carrier: None,
            repeated: false,
            warned: None,
            own: (None, 0),
        }
    }

    /// Was this probe, or a later one of its sender, heard on this port before?
    pub(super) fn is_replay(&self, now: Instant, said: &Probe) -> bool {
        self.heard.get(&(said.node, said.guest)).is_some_and(|h| {
            let older = (said.boot, said.counter) <= (h.boot, h.counter);
            // A node whose clock was set back before it started again is believed after a while.
            let forgotten = said.boot != h.boot && now.duration_since(h.at) >= PROBE_FORGET;
            older && !forgotten
        })
    }

    /// Remembers a checked probe; true if it wants an answer at once. Whoever came, or came back, gets one from everybody;
    /// and while it listens one for each of its probes from who forwards, for it may have missed the first, or not have
    /// known yet that we are a member.
    pub(super) fn remember(&mut self, now: Instant, said: &Probe) -> bool {
        let from = (said.node, said.guest);
        let before = self.heard.get(&from);
        let known = before
            .copied()
            .filter(|h| h.boot == said.boot && now.duration_since(h.at) < PROBE_LOST);
        let first = known.map_or(now, |h| h.first);
        self.heard.insert(from, Heard::of(now, first, said));
        if self.heard.len() > PROBERS {
            let oldest = self.heard.iter().min_by_key(|(_, h)| h.at).map(|(n, _)| *n);
            if let Some(n) = oldest {
                self.heard.remove(&n);
            }
        }
        known.is_none() || self.phase == Phase::Forwarding && now.duration_since(first) < LISTEN
    }

    /// Members with a port on this segment that is not a guest's: a guest may be bridged to anywhere, by anybody.
    fn living(&self, now: Instant) -> impl Iterator<Item = (&NodeId, &Heard)> {
        self.heard
            .iter()
            .filter(move |((_, guest), h)| !guest && now.duration_since(h.at) < PROBE_LOST)
            .map(|((n, _), h)| (n, h))
    }

    /// Members heard lately.
    pub(super) fn live(&self, now: Instant) -> BTreeSet<NodeId> {
        self.living(now).map(|(n, _)| *n).collect()
    }

    /// Is there a link to a member that is not on this segment?
    pub(super) fn reach(&self, now: Instant, around: Around<'_>) -> bool {
        let here = self.live(now);
        around.members.intersection(around.links).any(|m| !here.contains(m))
    }

    /// Off for frames that came round, or listening after that: it hears whether they still do.
    pub(super) fn is_off_for_repeats(&self) -> bool {
        self.repeated && matches!(self.phase, Phase::Cut(Cause::Repeats(_)) | Phase::Listening)
    }

    /// The member that carried the segment's frames is not linked any more: the pause ends now.
    pub(super) fn follow_carrier(&mut self, now: Instant, around: Around<'_>) {
        let is_gone = |n: NodeId| !(around.links.contains(&n) && around.members.contains(&n));
        if matches!(self.phase, Phase::Cut(Cause::Repeats(_))) && self.carrier.is_some_and(is_gone) {
            self.carrier = None;
            self.until = self.until.min(now);
        }
    }

    fn enter(&mut self, now: Instant, phase: Phase) {
        match &phase {
            Phase::Cut(cause) => self.repeated = matches!(cause, Cause::Repeats(_)),
            Phase::Forwarding | Phase::Standby(_) => (self.repeated, self.carrier) = (false, None),
            Phase::Listening => {}
        }
        self.phase = phase;
        self.since = now;
        self.best_since = None;
    }

    /// Cuts the port. If it was not cut yet, or the cause is known better now: for how long, so that it can be said.
    pub(super) fn cut(&mut self, now: Instant, cause: Cause) -> Option<Duration> {
        let known = matches!(self.phase, Phase::Cut(_));
        let better = match &mut self.phase {
            Phase::Cut(old @ Cause::Repeats(_)) if !matches!(cause, Cause::Repeats(_)) => {
                *old = cause.clone();
                true
            }
            _ => false,
        };
        if !known {
            let again = self.opened.is_some_and(|at| now.duration_since(at) < CUT_WINDOW);
            self.cuts = if again { self.cuts.saturating_add(1) } else { 1 };
            self.enter(now, Phase::Cut(cause));
        }
        let doubled = CUT_FIRST.saturating_mul(1 << (self.cuts - 1).min(10));
        let pause = doubled.min(CUT_LONGEST);
        self.until = now + pause;
        (!known || better).then_some(pause)
    }

    /// What the port does from now on, by what was heard.
    pub(super) fn elect(&mut self, now: Instant, me: NodeId, reach: bool) {
        match self.phase {
            Phase::Cut(_) if now < self.until => return,
            Phase::Cut(_) => {
                self.opened = Some(now);
                self.other_lan = 0;
                self.enter(
                    now,
                    if self.guest {
                        Phase::Forwarding
                    } else {
                        Phase::Listening
                    },
                );
                self.until = now + LISTEN;
            }
            _ => {}
        }
        if self.guest {
            return;
        }
        if self.reached != reach {
            self.reached = reach;
            self.best_since = None;
            self.probe_soon(now);
        }
        let mine = (!reach, self.phase != Phase::Forwarding, me);
        let best = self.living(now).map(|(n, h)| (!h.reach, !h.forwarding, *n)).min();
        if let Some((.., df)) = best.filter(|b| *b < mine) {
            self.best_since = None;
            if self.phase == Phase::Forwarding {
                self.note_flap(now);
            }
            if self.phase != Phase::Standby(df) {
                let since = if let Phase::Standby(_) = self.phase {
                    self.since
                } else {
                    now
                };
                self.enter(now, Phase::Standby(df));
                self.since = since;
            }
            return;
        }
        if self.phase == Phase::Forwarding {
            return;
        }
        if self.best_since.is_none() {
            self.probe_soon(now); // Others may take themselves for the best, by what they heard before.
        }
        let best_since = *self.best_since.get_or_insert(now);
        let settled = now.duration_since(best_since) >= STEP_IN && self.is_unclaimed(now, best_since);
        let steps_in = match self.phase {
            Phase::Forwarding | Phase::Cut(_) => false,
            Phase::Listening => settled && now >= self.until,
            Phase::Standby(_) => settled && self.may_step_in(now),
        };
        if steps_in {
            if let Phase::Standby(_) = self.phase {
                self.note_flap(now);
            }
            self.enter(now, Phase::Forwarding);
        }
    }

    /// Nobody else claims to forward; or one that should not, and that does not hear us.
    fn is_unclaimed(&self, now: Instant, best_since: Instant) -> bool {
        let claimed = self.living(now).any(|(_, h)| h.forwarding);
        !claimed || now.duration_since(best_since) >= PROBE_LOST
    }

    /// The forwarder is gone for certain (no probe went unread), and the port has not gone to and fro too often.
    fn may_step_in(&self, now: Instant) -> bool {
        let unread = self.overflowed.is_some_and(|at| now.duration_since(at) < PROBE_LOST);
        !unread && now.duration_since(self.since) >= self.hold()
    }

    fn note_flap(&mut self, now: Instant) {
        self.flaps.retain(|at| now.duration_since(*at) < CUT_WINDOW);
        self.flaps.push_back(now);
    }

    /// How long to stand by at least: nothing at first, then doubling.
    fn hold(&self) -> Duration {
        let extra = self.flaps.len().saturating_sub(FLAPS);
        if extra == 0 {
            return Duration::ZERO;
        }
        CUT_FIRST.saturating_mul(1 << extra.min(10)).min(CUT_LONGEST)
    }

    /// Somebody speaks on the port while it carries nothing: remembered for when it does.
    pub(super) fn overhear(&mut self, now: Instant, key: Key) {
        let full = self.overheard.len() >= OVERHEARD && !self.overheard.contains_key(&key);
        if self.guest || full {
            return;
        }
        let forwarder = match self.phase {
            Phase::Standby(df) => Some(df),
            _ => None,
        };
        self.overheard.insert(key, (now, forwarder));
    }

    /// Who was overheard within the ageing time, and who forwarded then.
    pub(super) fn take_overheard(&mut self, now: Instant) -> Vec<(Key, Option<NodeId>)> {
        let all = std::mem::take(&mut self.overheard);
        let fresh = all.into_iter().filter(|(_, (at, _))| now.duration_since(*at) < AGEING);
        fresh.map(|(key, (_, df))| (key, df)).collect()
    }

    /// The next probe goes out at once, or as soon as the last one is a moment ago.
    pub(super) fn probe_soon(&mut self, now: Instant) {
        let at = self.last.map_or(now, |last| now.max(last + PROBE_GAP));
        self.next = self.next.min(at);
    }

    /// Did this leave here a moment ago? What comes back later was recorded, and proves no loop.
    pub(super) fn is_echo(&self, now: Instant, payload: &[u8]) -> bool {
        let mut fresh = self.sent.iter().filter(|(at, _)| now.duration_since(*at) < PROBE_ECHO);
        fresh.any(|(_, f)| f.get(MIN_FRAME..).is_some_and(|sent| payload.starts_with(sent)))
    }

    pub(super) fn sent_one(&mut self, now: Instant, frame: Bytes) {
        if self.sent.len() >= PROBES_KEPT {
            self.sent.pop_front();
        }
        self.sent.push_back((now, frame));
        self.last = Some(now);
        let listens = self.phase == Phase::Listening;
        self.next = now
            + match (self.guest, listens) {
                (true, _) => GUEST_PROBE_EVERY,
                (false, true) => LISTEN / 2,
                (false, false) => PROBE_EVERY,
            };
    }

    /// One more own sealed packet. A bridge that does not know a destination yet shows us a few, which is no harm; if they
    /// go on, the way to a peer leads through this port.
    pub(super) fn is_own_stream(&mut self, now: Instant) -> bool {
        let (since, n) = &mut self.own;
        if since.is_none_or(|at| now.duration_since(at) >= REPEAT_WINDOW) {
            (*since, *n) = (Some(now), 0);
        }
        *n = n.saturating_add(1);
        *n >= OWN_STREAM
    }

    /// A warning about this port may be said again.
    pub(super) fn may_warn(&mut self, now: Instant) -> bool {
        let may = self.warned.is_none_or(|at| now.duration_since(at) >= GUARD_WARN);
        if may {
            self.warned = Some(now);
        }
        may
    }

    /// When something is to be done; at the next tick while it depends on others.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let tick = now + GUARD_TICK;
        match self.phase {
            Phase::Forwarding if self.heard.is_empty() => self.next,
            Phase::Forwarding | Phase::Standby(_) => self.next.min(tick),
            Phase::Listening if self.until <= now => self.next.min(tick),
            Phase::Listening | Phase::Cut(_) => self.next.min(self.until).min(tick),
        }
    }
}
