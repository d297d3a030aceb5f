//! The LANs that this node belongs to, and who else does.
//!
//! ```text
//!            create                    evict, or run out
//!   (none) ─────────▶ belongs, owns ─────────────────────▶ (an owner stays)
//!      │   begin_join, finish_join
//!      └────────────▶ belongs ──────────▶ lost ──(new ticket)──▶ belongs
//! ```
//!
//! [`LanState`] keeps the records ([`wire::membership`]) of each LAN and spreads them. Only the owner signs; every
//! member relays, so members find each other and hear of evictions with the owner away. A change is pushed at once
//! ([`PUSH_OWN`] or [`PUSH_HEARD`] members); every [`SYNC_EVERY`] a member compares digests with [`crate::defaults::SYNC_PARTNERS`]
//! others, so that a lost push costs two or three rounds; while nothing is new, less and less often. A membership that runs out ends by each member's own timer.
//!
//! Driving it: after any `handle_*` call poll [`LanState::poll_event`] and [`LanState::poll_transmit`] until `None`,
//! and if [`LanState::revision`] moved, make [`LanState::export`] durable before an answer is sent or a result shown.
//! Each call from `poll_transmit` ends in exactly one [`LanState::handle_reply`] or [`LanState::handle_unreachable`].

mod lan;
mod saved;
mod schedule;
mod sync;

pub use lan::StandingError;
pub use saved::SavedError;
pub(crate) use sync::refused;

use crate::{
    defaults::{CALL_DEADLINE, MEMBERSHIP_TTL, MEMBERSHIP_TTL_MIN, PUSH_HEARD, PUSH_OWN, SYNC_CALM_MAX, SYNC_EVERY},
    ticket::TicketBook,
};
pub(crate) use lan::Lan;
use lan::Word;
use schedule::Schedule;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::{
    LanId, Name, NodeId, Signed, UnixMillis,
    membership::{Eviction, MAX_ADDRS, MAX_STANDINGS, Membership, Role, Standing},
    settings::{LanSettings, Setting},
};

/// Both clocks at one instant: timers run by the first, records end by the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub at: Instant,
    /// The wall clock, which may jump and may be wrong.
    pub wall: UnixMillis,
}

/// Settings of [`LanState`].
#[derive(Clone, Debug)]
pub struct LanConfig {
    /// This node.
    pub me: NodeId,
    /// What this node calls itself.
    pub name: Option<Name>,
    /// Random, from zero to `sync_every`: keeps nodes that started together out of step.
    pub phase: Duration,
    /// Pause between rounds of comparison.
    pub sync_every: Duration,
    /// How long the memberships last that this node signs.
    pub ttl: Duration,
}

impl LanConfig {
    /// The defaults.
    pub fn new(me: NodeId, name: Option<Name>, phase: Duration) -> Self {
        Self {
            me,
            name,
            phase,
            sync_every: SYNC_EVERY,
            ttl: MEMBERSHIP_TTL,
        }
    }
}

/// Why a timer is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeoutReason {
    /// A round of comparison is due.
    Round,
    /// A call was not answered in time.
    CallDeadline,
    /// A membership runs out.
    Expiry,
}

/// Why this node no longer belongs to a LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The owner put it out.
    Evicted,
    /// Its membership ran out and was not renewed.
    Expired,
}

/// What the rest of the node must act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LanEvent {
    /// The other members of a LAN changed; this node itself is never in the sets.
    MembersChanged {
        /// The LAN.
        lan: LanId,
        /// Who came.
        added: BTreeSet<NodeId>,
        /// Who left, was put out, or ran out.
        removed: BTreeSet<NodeId>,
    },
    /// This node belongs to a LAN (again).
    Joined {
        /// The LAN.
        lan: LanId,
    },
    /// This node no longer belongs to a LAN; its ports must be taken off.
    Lost {
        /// The LAN.
        lan: LanId,
        /// Why.
        why: Lost,
    },
    /// What the owner set for the whole LAN changed; see [`LanState::settings`].
    SettingsChanged {
        /// The LAN.
        lan: LanId,
    },
    /// Where a member can be dialled, as told by itself or by another member.
    Addresses {
        /// The member.
        node: NodeId,
        /// Multiaddrs, unchecked.
        addrs: Vec<String>,
    },
}

/// A call under way.
#[derive(Clone, Debug)]
struct Call {
    lan: LanId,
    since: Instant,
    pushed: usize,
}

/// A member as `lan show` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// The node.
    pub node: NodeId,
    /// What it calls itself.
    pub name: Option<Name>,
    /// What it may be.
    pub role: Role,
    /// When its membership was signed.
    pub issued: UnixMillis,
    /// When it ends unless it is renewed.
    pub expires: UnixMillis,
}

/// A LAN as `status` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanRow {
    /// The LAN.
    pub lan: LanId,
    /// What this node is in it; `None` if it was put out or ran out.
    pub role: Option<Role>,
    /// Who owns it, as far as this node has heard.
    pub owner: Option<NodeId>,
    /// Members, this node among them.
    pub members: usize,
}

/// No LAN, or more than one, has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LanLookupError {
    /// None.
    #[error("this node belongs to no LAN called '{0}' (see 'lanline status')")]
    Unknown(String),
    /// More than one: their long names tell them apart.
    #[error("more than one LAN is called that; say which: {0}")]
    Ambiguous(String),
}

/// All LANs of a node. See the module's text for how it is driven.
///
/// Invariant: a LAN's peers, as told by events, are exactly the other nodes whose memberships hold at the time last
/// given, and none if this node's own does not.
#[derive(Debug)]
pub struct LanState {
    pub(crate) config: LanConfig,
    pub(crate) lans: BTreeMap<LanId, Lan>,
    pub(crate) tickets: TicketBook,
    schedules: BTreeMap<LanId, Schedule>,
    calls: BTreeMap<NodeId, Call>,
    my_addrs: Vec<String>,
    news_of_addrs: BTreeMap<NodeId, Vec<String>>,
    revision: u64,
    pub(crate) now: Now,
}

impl LanState {
    /// A node without LANs.
    pub fn new(mut config: LanConfig, now: Now) -> Self {
        config.ttl = config.ttl.max(MEMBERSHIP_TTL_MIN);
        config.phase = config.phase.min(config.sync_every);
        Self {
            config,
            lans: BTreeMap::new(),
            tickets: TicketBook::default(),
            schedules: BTreeMap::new(),
            calls: BTreeMap::new(),
            my_addrs: Vec::new(),
            news_of_addrs: BTreeMap::new(),
            revision: 0,
            now,
        }
    }

    /// Moves whenever something changed that must outlive a restart.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn touch(&mut self) {
        self.revision += 1;
    }

    /// This node's own dial addresses, told to members, some of them at once if they changed; at most [`MAX_ADDRS`] are.
    pub fn set_addrs(&mut self, now: Now, mut addrs: Vec<String>) {
        addrs.truncate(MAX_ADDRS);
        let set = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();
        let same = set(&addrs) == set(&self.my_addrs);
        self.my_addrs = addrs;
        if same {
            return;
        }
        self.now = now;
        for id in self.lans.keys().cloned().collect::<Vec<_>>() {
            self.spread(&id, &BTreeSet::new(), None, PUSH_HEARD);
        }
    }

    pub(crate) fn my_addrs(&self) -> &[String] {
        &self.my_addrs
    }

    // ---- questions ----

    /// The LANs, in order of name and key.
    pub fn lans(&self) -> Vec<LanRow> {
        let row = |lan: &Lan| LanRow {
            lan: lan.id.clone(),
            role: lan.membership(self.now.wall, self.config.me).map(|m| m.role),
            owner: lan.owner(),
            members: lan.members(self.now.wall).count(),
        };
        self.lans.values().map(row).collect()
    }

    /// A LAN by its name, or by its long name (`home.abcdefghij`) where two are called alike.
    pub fn find(&self, name: &str) -> Result<LanId, LanLookupError> {
        let called = |l: &&LanId| l.name.as_str() == name || l.to_string() == name;
        let found: Vec<&LanId> = self.lans.keys().filter(called).collect();
        match found.as_slice() {
            [] => Err(LanLookupError::Unknown(wire::fault::plain(name))),
            [one] => Ok((*one).clone()),
            many => {
                let names: Vec<String> = many.iter().map(ToString::to_string).collect();
                Err(LanLookupError::Ambiguous(names.join(", ")))
            }
        }
    }

    /// Whether a node belongs to a LAN now.
    pub fn is_member(&self, now: UnixMillis, lan: &LanId, node: NodeId) -> bool {
        self.lans.get(lan).is_some_and(|l| l.membership(now, node).is_some())
    }

    /// Whether this node holds the LAN's key.
    pub fn owns(&self, lan: &LanId) -> bool {
        self.lans.get(lan).is_some_and(|l| l.key.is_some())
    }

    /// All members of a LAN now, this node among them.
    pub fn members(&self, now: UnixMillis, lan: &LanId) -> Vec<MemberRow> {
        let row = |m: &Membership| MemberRow {
            node: m.member,
            name: m.member_name.clone(),
            role: m.role,
            issued: m.issued,
            expires: m.expires,
        };
        self.lans
            .get(lan)
            .map(|l| l.members(now).map(row).collect())
            .unwrap_or_default()
    }

    /// The other members of a LAN now; none if this node is out of it.
    pub fn peers(&self, now: UnixMillis, lan: &LanId) -> BTreeSet<NodeId> {
        self.lans
            .get(lan)
            .map(|l| l.peers(self.config.me, now))
            .unwrap_or_default()
    }

    /// The other members of all LANs.
    pub fn all_peers(&self, now: UnixMillis) -> BTreeSet<NodeId> {
        self.lans.values().flat_map(|l| l.peers(self.config.me, now)).collect()
    }

    /// Nodes to keep away: put out of some LAN, member of none. An owner that has since made a ticket which is still
    /// open lets them knock again, since it may be meant for them.
    pub fn blocked(&self, now: UnixMillis) -> BTreeSet<NodeId> {
        let welcome = self.all_peers(now);
        let mut out = BTreeSet::new();
        for lan in self.lans.values() {
            let put_out = lan.all().filter_map(|h| match &h.word {
                Word::Out(e) if !self.tickets.has_open_since(now, &lan.id, e.serial) => Some(e.member),
                _ => None,
            });
            out.extend(put_out.filter(|n| !welcome.contains(n) && *n != self.config.me));
        }
        out
    }

    /// What the owner set for the whole LAN, if it ever did.
    pub fn settings(&self, lan: &LanId) -> Option<LanSettings> {
        self.lans.get(lan)?.settings().cloned()
    }

    // ---- records ----

    /// Signs settings for the whole LAN, in place of all that were set before, and tells members. `Ok(false)`: this node
    /// does not hold the LAN's key.
    pub fn set_settings(
        &mut self,
        now: Now,
        id: &LanId,
        mtu: Option<u16>,
        policy: Vec<Setting>,
    ) -> Result<bool, StandingError> {
        self.now = now;
        let me = self.config.me;
        let Some(lan) = self.lans.get_mut(id).filter(|l| l.key.is_some()) else {
            return Ok(false);
        };
        if let Some(subject) = lan.sign_settings(me, now.wall, mtu, policy)? {
            self.spread_own(id, subject);
        }
        Ok(true)
    }

    /// Takes a membership from anyone: `Ok(true)` if it changed something.
    pub fn handle_membership(&mut self, now: Now, record: Signed<Membership>) -> Result<bool, StandingError> {
        let lan = record.open()?.lan;
        self.merge_all(now, &lan, None, [Standing::In(record)]).map(|n| n > 0)
    }

    /// Takes an eviction from anyone: `Ok(true)` if it changed something.
    pub fn handle_eviction(&mut self, now: Now, record: Signed<Eviction>) -> Result<bool, StandingError> {
        let lan = record.open()?.lan;
        self.merge_all(now, &lan, None, [Standing::Out(record)]).map(|n| n > 0)
    }

    /// Merges records, stops at the first bad one, and passes on what was new. Returns how many were.
    pub(crate) fn merge_all(
        &mut self,
        now: Now,
        id: &LanId,
        from: Option<NodeId>,
        standings: impl IntoIterator<Item = Standing>,
    ) -> Result<usize, StandingError> {
        self.now = now;
        let me = self.config.me;
        let lan = self.lans.get_mut(id).ok_or(StandingError::OtherLan)?;
        let known = lan.digests();
        let mut changed = BTreeSet::new();
        let mut outcome = Ok(());
        for standing in standings.into_iter().filter(|s| !known.contains(&s.digest())) {
            match lan.merge(me, now.wall, standing) {
                Ok(member) => changed.extend(member),
                Err(e) => {
                    outcome = Err(e);
                    break;
                }
            }
        }
        let count = changed.len();
        if count > 0 {
            self.touch();
            self.spread(id, &changed, from, PUSH_HEARD);
        }
        outcome.map(|()| count)
    }

    /// Tells other members of a change at once.
    pub(crate) fn spread(&mut self, id: &LanId, changed: &BTreeSet<NodeId>, except: Option<NodeId>, count: usize) {
        let (now, me) = (self.now, self.config.me);
        let Some(lan) = self.lans.get(id) else { return };
        let peers = lan.peers(me, now.wall);
        // More than a message holds is left to the comparison of digests, which sends all of it in turn.
        let nothing = BTreeSet::new();
        let subjects = if changed.len() > MAX_STANDINGS {
            &nothing
        } else {
            changed
        };
        self.schedule(id).stir(now.at);
        self.schedule(id).push(now.at, &peers, subjects, except, count);
    }

    /// Tells members of what this node signed itself.
    pub(crate) fn spread_own(&mut self, id: &LanId, member: NodeId) {
        self.touch();
        self.spread(id, &BTreeSet::from([member]), None, PUSH_OWN);
    }

    pub(crate) fn schedule(&mut self, id: &LanId) -> &mut Schedule {
        let (first, every) = (self.now.at + self.config.phase, self.config.sync_every);
        self.schedules
            .entry(id.clone())
            .or_insert_with(|| Schedule::new(first, every))
    }

    pub(crate) fn drop_lan(&mut self, id: &LanId) {
        self.lans.remove(id);
        self.schedules.remove(id);
        self.calls.retain(|_, c| c.lan != *id);
    }

    // ---- time ----

    /// When [`LanState::handle_timeout`] wants to be called next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, TimeoutReason)> {
        let rounds = self.schedules.values().map(|s| (s.next_round, TimeoutReason::Round));
        let calls = self
            .calls
            .values()
            .map(|c| (c.since + CALL_DEADLINE, TimeoutReason::CallDeadline));
        let expiries = self.lans.values().filter_map(|l| l.next_expiry(self.now));
        let expiries = expiries.filter_map(|d| Some((self.now.at.checked_add(d)?, TimeoutReason::Expiry)));
        rounds.chain(calls).chain(expiries).min()
    }

    /// Ends what is overdue, renews what this node owns, and begins rounds.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        let late = |c: &Call| now.at.saturating_duration_since(c.since) >= CALL_DEADLINE;
        let overdue: Vec<NodeId> = self.calls.iter().filter(|(_, c)| late(c)).map(|(n, _)| *n).collect();
        for peer in overdue {
            self.handle_unreachable(now, peer);
        }
        let me = self.config.me;
        for id in self.lans.keys().cloned().collect::<Vec<_>>() {
            if self.schedule(&id).next_round > now.at {
                continue;
            }
            self.renew(now, &id, me);
            let Some(lan) = self.lans.get_mut(&id) else { continue };
            let pruned = lan.prune(me, now.wall);
            let (peers, owner) = (lan.peers(me, now.wall), lan.owner());
            // Often enough that a membership is renewed in time.
            let left = lan.membership(now.wall, me).map(|m| m.expires.since(now.wall));
            let slowest = left.map_or(SYNC_CALM_MAX, |d| (d / 8).min(SYNC_CALM_MAX));
            if pruned {
                self.touch();
            }
            self.schedule(&id).start_round(now.at, &peers, owner, slowest);
        }
    }

    /// The owner signs a member again when less than half of its time is left. One that ran out already is not: a
    /// membership that nobody kept up is over. The owner's own is renewed whatever its clock did.
    fn renew(&mut self, now: Now, id: &LanId, member: NodeId) {
        let ttl = self.config.ttl;
        let Some(lan) = self.lans.get_mut(id).filter(|l| l.key.is_some()) else {
            return;
        };
        let Some(Word::In(m)) = lan.get(member).map(|h| h.word.clone()) else {
            return;
        };
        let due = m.expires.since(now.wall) < ttl / 2;
        let over = m.expires <= now.wall && member != self.config.me;
        if !due || over {
            return;
        }
        match lan.sign_in(now.wall, ttl, member, m.member_name, m.role) {
            Ok(_) => {
                tracing::debug!(lan = %id, %member, "membership renewed");
                self.spread_own(id, member);
            }
            Err(e) => tracing::warn!(lan = %id, %member, error = %e, "membership cannot be renewed"),
        }
    }

    // ---- events ----

    /// What changed since the last call.
    pub fn poll_event(&mut self) -> Option<LanEvent> {
        let (me, now) = (self.config.me, self.now.wall);
        for lan in self.lans.values_mut() {
            let belongs = lan.membership(now, me).is_some();
            if belongs && !lan.belonged {
                lan.belonged = true;
                return Some(LanEvent::Joined { lan: lan.id.clone() });
            }
            let set = lan.settings().map_or(0, |s| s.serial);
            if belongs && set != lan.settings_told {
                lan.settings_told = set;
                return Some(LanEvent::SettingsChanged { lan: lan.id.clone() });
            }
            let peers = lan.peers(me, now);
            if peers != lan.reported {
                let added = peers.difference(&lan.reported).copied().collect();
                let removed = lan.reported.difference(&peers).copied().collect();
                lan.reported = peers;
                return Some(LanEvent::MembersChanged {
                    lan: lan.id.clone(),
                    added,
                    removed,
                });
            }
            if !belongs && lan.belonged {
                lan.belonged = false;
                let why = if lan.eviction(me).is_some() {
                    Lost::Evicted
                } else {
                    Lost::Expired
                };
                return Some(LanEvent::Lost {
                    lan: lan.id.clone(),
                    why,
                });
            }
        }
        let (node, addrs) = self.news_of_addrs.pop_first()?;
        Some(LanEvent::Addresses { node, addrs })
    }
}

#[cfg(test)]
mod settings_tests;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
