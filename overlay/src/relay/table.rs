//! The channels that pass through this node.

use super::{
    budget::{Bucket, Month},
    judge::{Account, Lans, Mode, Settings, judge},
};
use crate::defaults;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    frame::{MAX_HOPS, RelayHead},
    relay::{RelayRefusal, Tenant, Voucher},
};

/// Where an end is, as this node itself found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its address; a virtual one if it is reached by a stream.
    pub addr: SocketAddr,
    /// The own address that it knows.
    pub source: Option<IpAddr>,
}

/// A wish for a channel.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Who asks; proved by its connection.
    pub asker: NodeId,
    /// For whom: the asker, or a node behind it.
    pub origin: NodeId,
    /// To whom.
    pub to: NodeId,
    /// Relays from here on, this one counted.
    pub hops: u8,
    /// A word of this node, checked: its own signature, not over yet.
    pub voucher: Option<Voucher>,
}

/// Numbers of a new channel: at the asker's end and at the far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelEnds {
    /// The asker's number.
    pub near: u64,
    /// The far end's number.
    pub far: u64,
}

/// Where a datagram goes on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// To where.
    pub to: Place,
    /// Its head from here on.
    pub head: RelayHead,
    /// So many of the datagrams; there is no budget for those behind them.
    pub datagrams: u64,
}

/// Why a datagram was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// No such channel.
    Unknown,
    /// It came from where its end is not.
    WrongPlace,
    /// It may not pass another relay.
    Hops,
    /// The account, or this node, has no bytes left this second.
    Budget,
    /// This month's bytes are used up.
    MonthOver,
    /// Nobody knows where the other end is.
    NoWay,
    /// The socket or the stream did not take it.
    Unsent,
}

impl Refused {
    /// The counter's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "relay_unknown_channel",
            Self::WrongPlace => "relay_wrong_place",
            Self::Hops => "relay_too_many_hops",
            Self::Budget => "relay_over_budget",
            Self::MonthOver => "relay_month_over",
            Self::NoWay => "relay_no_way",
            Self::Unsent => "relay_unsent",
        }
    }
}

#[derive(Debug)]
struct End {
    number: u64,
    node: NodeId,
}

#[derive(Debug)]
struct Channel {
    ends: [End; 2],
    tenant: Tenant,
    until: Instant,
}

/// Figures for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayFigures {
    /// `off`, `members` or `anyone`.
    pub mode: &'static str,
    /// Bytes a second that the owner lends.
    pub bytes_per_s: u64,
    /// Bytes a month that the owner lends.
    pub bytes_per_month: u64,
    /// Bytes carried this month.
    pub month_bytes: u64,
    /// Open channels.
    pub channels: usize,
    /// Datagrams passed on since the node started.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Channels opened since the node started.
    pub opened: u64,
    /// Refused wishes and dropped datagrams, by name.
    pub drops: BTreeMap<&'static str, u64>,
}

/// The relaying side.
#[derive(Debug)]
pub struct Relay {
    settings: Settings,
    lans: Lans,
    blocked: BTreeSet<NodeId>,
    channels: BTreeMap<u64, Channel>,
    next: u64,
    /// Channel and end of each number.
    numbers: BTreeMap<u64, (u64, usize)>,
    places: BTreeMap<NodeId, Vec<Place>>,
    tenants: BTreeMap<Tenant, Bucket>,
    all: Bucket,
    strangers: Bucket,
    month: Month,
    figures: RelayFigures,
}

impl Relay {
    /// Carries nothing yet; `month` is what was carried before the node started.
    pub fn new(now: Instant, settings: Settings, month: Month) -> Self {
        Self {
            all: Bucket::new(now, settings.bytes_per_s),
            strangers: Bucket::new(now, settings.bytes_per_s.min(defaults::RELAY_STRANGERS_BYTES_PER_S)),
            settings,
            month,
            lans: Lans::new(),
            blocked: BTreeSet::new(),
            channels: BTreeMap::new(),
            next: 0,
            numbers: BTreeMap::new(),
            places: BTreeMap::new(),
            tenants: BTreeMap::new(),
            figures: RelayFigures::default(),
        }
    }

    /// Replaces the LANs that this node is in. Channels that nobody is entitled to any more end; their far numbers are
    /// given back for those who must be told.
    pub fn handle_lans(&mut self, lans: Lans) -> Vec<(NodeId, u64)> {
        self.lans = lans;
        self.end_unentitled()
    }

    /// Replaces the set of blocked nodes; their channels end.
    pub fn handle_blocked(&mut self, blocked: BTreeSet<NodeId>) -> Vec<(NodeId, u64)> {
        self.blocked = blocked;
        self.end_unentitled()
    }

    fn end_unentitled(&mut self) -> Vec<(NodeId, u64)> {
        let (lans, blocked) = (&self.lans, &self.blocked);
        let entitled = |c: &Channel| {
            let ends = c.ends.iter().map(|e| e.node);
            let lent = match c.tenant {
                // The ends may be relays on the way, which are members themselves.
                Tenant::Lan(lan) => lans.get(&lan).is_some_and(|m| ends.clone().all(|n| m.contains(&n))),
                Tenant::Stranger(_) => true,
            };
            lent && ends.clone().all(|n| !blocked.contains(&n))
        };
        let over = self.channels.iter().filter(|(_, c)| !entitled(c));
        let over: Vec<u64> = over.map(|(n, _)| *n).collect();
        over.into_iter().flat_map(|n| self.end(n)).collect()
    }

    /// Where a node is just now, best first: only what this node found out by itself.
    pub fn handle_places(&mut self, node: NodeId, mut places: Vec<Place>) {
        places.truncate(defaults::RELAY_PLACES);
        if places.is_empty() {
            self.places.remove(&node);
        } else if self.places.get(&node) != Some(&places) {
            self.places.insert(node, places);
        }
    }

    /// Nodes whose places must be known: the ends of all channels.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        let ends = self.channels.values().flat_map(|c| &c.ends);
        ends.map(|e| e.node).chain(self.places.keys().copied()).collect()
    }

    /// The wall clock, for the month.
    pub fn handle_wall(&mut self, since_1970: Duration) {
        self.month.handle_wall(since_1970);
    }

    /// What was carried this month, to be kept.
    pub fn month(&self) -> Month {
        self.month
    }

    /// Whether the node offers to relay.
    pub fn offers(&self) -> bool {
        self.settings.mode != Mode::Off
    }

    /// Judges a wish: on whose account, or why not. Opens nothing yet.
    pub fn judge(&mut self, ask: &Ask) -> Result<Account, RelayRefusal> {
        let judged = self.judge_uncounted(ask);
        if let Err(why) = judged {
            self.count(why.name(), 1);
        }
        judged
    }

    fn judge_uncounted(&self, ask: &Ask) -> Result<Account, RelayRefusal> {
        let ends = [ask.asker, ask.origin, ask.to];
        if ask.asker == ask.to || ask.origin == ask.to || ends.iter().any(|n| self.blocked.contains(n)) {
            return Err(RelayRefusal::NotLent);
        }
        if ask.hops == 0 || ask.hops > MAX_HOPS {
            return Err(RelayRefusal::Hops);
        }
        if self.month.bytes >= self.settings.bytes_per_month {
            return Err(RelayRefusal::MonthOver);
        }
        let judged = judge(&self.settings, &self.lans, ask.asker, ask.origin, ask.to);
        let account = match (judged, &ask.voucher) {
            // What was promised is kept over a restart, when memberships may not have come back yet.
            (Err(RelayRefusal::NotLent), Some(v)) if self.keeps(v, ask) => Account {
                tenant: v.tenant,
                bytes_per_s: v.bytes_per_s.min(self.settings.bytes_per_s),
            },
            (judged, _) => judged?,
        };
        let of = |n: NodeId| {
            self.channels
                .values()
                .filter(move |c| c.ends.iter().any(|e| e.node == n))
        };
        let stranger = |t: &Tenant| matches!(t, Tenant::Stranger(_));
        let strangers = self.channels.values().filter(|c| stranger(&c.tenant)).count();
        let full = self.channels.len() >= defaults::RELAY_CHANNELS
            || of(ask.asker).count() >= defaults::RELAY_CHANNELS_PER_NODE
            || of(ask.to).count() >= defaults::RELAY_CHANNELS_PER_NODE
            || (stranger(&account.tenant)
                && (strangers >= defaults::RELAY_STRANGER_CHANNELS
                    || of(ask.asker).count() >= defaults::RELAY_CHANNELS_PER_STRANGER));
        if full { Err(RelayRefusal::Full) } else { Ok(account) }
    }

    /// A voucher counts for its own ends, in a mode that lends at all; one of a LAN that this node is in is not needed
    /// there, and not believed against that LAN's list.
    fn keeps(&self, v: &Voucher, ask: &Ask) -> bool {
        let same = (v.from, v.to) == (ask.origin, ask.to) || (v.to, v.from) == (ask.origin, ask.to);
        let lan = match v.tenant {
            Tenant::Lan(lan) => self.lans.get(&lan).is_none_or(BTreeSet::is_empty),
            Tenant::Stranger(_) => self.settings.mode == Mode::Anyone,
        };
        same && ask.asker == ask.origin && lan && self.settings.mode != Mode::Off
    }

    /// Opens a channel that was judged; `Unknown` if a number is taken, so that nobody takes over another's.
    pub fn open(
        &mut self,
        now: Instant,
        ask: &Ask,
        far: NodeId,
        account: Account,
        ends: ChannelEnds,
    ) -> Result<(), RelayRefusal> {
        let taken = ends.near == ends.far || [ends.near, ends.far].iter().any(|n| self.numbers.contains_key(n));
        if taken || self.channels.len() >= defaults::RELAY_CHANNELS {
            return Err(RelayRefusal::Full);
        }
        self.next += 1;
        let bucket = self.tenants.entry(account.tenant);
        let bucket = bucket.or_insert_with(|| Bucket::new(now, account.bytes_per_s));
        bucket.set_rate(now, account.bytes_per_s);
        self.numbers.insert(ends.near, (self.next, 0));
        self.numbers.insert(ends.far, (self.next, 1));
        let end = |number, node| End { number, node };
        let channel = Channel {
            ends: [end(ends.near, ask.asker), end(ends.far, far)],
            tenant: account.tenant,
            until: now + defaults::RELAY_CHANNEL_FOR,
        };
        self.channels.insert(self.next, channel);
        self.figures.opened += 1;
        Ok(())
    }

    /// An end still needs its channel.
    pub fn renew(&mut self, now: Instant, node: NodeId, number: u64) -> Result<Duration, RelayRefusal> {
        let channel = self.of_node(node, number).ok_or(RelayRefusal::Unknown)?;
        if let Some(c) = self.channels.get_mut(&channel) {
            c.until = now + defaults::RELAY_CHANNEL_FOR;
        }
        Ok(defaults::RELAY_CHANNEL_FOR)
    }

    /// An end needs its channel no more; gives the other end, which must be told.
    pub fn close(&mut self, node: NodeId, number: u64) -> Result<Option<(NodeId, u64)>, RelayRefusal> {
        let channel = self.of_node(node, number).ok_or(RelayRefusal::Unknown)?;
        Ok(self.end(channel).into_iter().find(|(_, n)| *n != number))
    }

    /// The channel of a number, if that end is this node's.
    fn of_node(&self, node: NodeId, number: u64) -> Option<u64> {
        let (channel, end) = *self.numbers.get(&number)?;
        let c = self.channels.get(&channel)?;
        (c.ends.get(end)?.node == node).then_some(channel)
    }

    /// Whether a number is in use.
    pub fn has_number(&self, number: u64) -> bool {
        self.numbers.contains_key(&number)
    }

    fn end(&mut self, channel: u64) -> Vec<(NodeId, u64)> {
        let Some(c) = self.channels.remove(&channel) else {
            return Vec::new();
        };
        for e in &c.ends {
            self.numbers.remove(&e.number);
        }
        if !self.channels.values().any(|other| other.tenant == c.tenant) {
            self.idle_tenant(c.tenant);
        }
        c.ends.into_iter().map(|e| (e.node, e.number)).collect()
    }

    /// A tenant without channels keeps its bucket, or it would get a full one by opening again; only if there are too many
    /// it goes, and what strangers gain by that the bucket of all of them bounds.
    fn idle_tenant(&mut self, tenant: Tenant) {
        if self.tenants.len() > defaults::RELAY_TENANTS {
            self.tenants.remove(&tenant);
        }
    }

    /// Ends channels that nobody renewed; gives the ends that must be told.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<(NodeId, u64)> {
        let over: Vec<u64> = self
            .channels
            .iter()
            .filter(|(_, c)| c.until <= now)
            .map(|(n, _)| *n)
            .collect();
        over.into_iter().flat_map(|n| self.end(n)).collect()
    }

    /// When a channel ends next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.channels.values().map(|c| c.until).min()
    }

    /// `datagrams` of one channel came in a row from an address, `bytes` in all: where they go on to, or why not. Either is
    /// counted.
    pub fn forward(
        &mut self,
        now: Instant,
        from: SocketAddr,
        head: RelayHead,
        datagrams: u64,
        bytes: u64,
    ) -> Result<Forwarded, Refused> {
        let way = self.way(now, from, head, (datagrams, bytes));
        match way {
            Ok(way) if way.datagrams < datagrams => {
                self.handle_refused(Refused::Budget, datagrams - way.datagrams);
            }
            Ok(_) => {}
            Err(why) => self.handle_refused(why, datagrams),
        }
        way
    }

    fn way(
        &mut self,
        now: Instant,
        from: SocketAddr,
        head: RelayHead,
        (datagrams, bytes): (u64, u64),
    ) -> Result<Forwarded, Refused> {
        let (channel, end) = *self.numbers.get(&head.channel).ok_or(Refused::Unknown)?;
        let c = self.channels.get(&channel).ok_or(Refused::Unknown)?;
        let (Some(sender), Some(other)) = (c.ends.get(end), c.ends.get(1 - end.min(1))) else {
            return Err(Refused::Unknown);
        };
        let of = |n: &NodeId| self.places.get(n).map_or(&[][..], |v| v);
        if !of(&sender.node).iter().any(|p| p.addr == from) {
            return Err(Refused::WrongPlace);
        }
        // Before anything is charged: what cannot go on costs its tenant nothing.
        let hops = head.hops.min(MAX_HOPS).checked_sub(1).ok_or(Refused::Hops)?;
        let to = *of(&other.node).first().ok_or(Refused::NoWay)?;
        if self.month.bytes >= self.settings.bytes_per_month {
            return Err(Refused::MonthOver);
        }
        let tenant = self.tenants.get_mut(&c.tenant).ok_or(Refused::Budget)?;
        let stranger = matches!(c.tenant, Tenant::Stranger(_));
        // Of a run as many as there is budget for: a TCP stream inside that loses all of it stalls.
        let left = tenant.left(now).min(self.all.left(now));
        let left = if stranger {
            left.min(self.strangers.left(now))
        } else {
            left
        };
        let each = bytes.div_ceil(datagrams.max(1)).max(1);
        let (datagrams, bytes) = if left >= bytes {
            (datagrams, bytes)
        } else {
            (left / each, left / each * each)
        };
        if datagrams == 0 {
            return Err(Refused::Budget);
        }
        self.figures.datagrams += datagrams;
        self.figures.bytes += bytes;
        tenant.take(bytes);
        self.all.take(bytes);
        if stranger {
            self.strangers.take(bytes);
        }
        self.month.bytes += bytes;
        let channel = other.number;
        Ok(Forwarded {
            to,
            head: RelayHead { hops, channel },
            datagrams,
        })
    }

    /// Whose place an address is.
    pub fn node_at(&self, addr: SocketAddr) -> Option<NodeId> {
        let mut all = self.places.iter();
        all.find(|(_, places)| places.iter().any(|p| p.addr == addr))
            .map(|(n, _)| *n)
    }

    /// What [`Relay::forward`] let pass could not be sent.
    pub fn handle_refused(&mut self, why: Refused, datagrams: u64) {
        self.count(why.name(), datagrams);
    }

    /// Counts a refusal under its name.
    pub fn count(&mut self, name: &'static str, n: u64) {
        *self.figures.drops.entry(name).or_default() += n;
    }

    /// Figures for people.
    pub fn figures(&self) -> RelayFigures {
        RelayFigures {
            mode: self.settings.mode.name(),
            bytes_per_s: self.settings.bytes_per_s,
            bytes_per_month: self.settings.bytes_per_month,
            month_bytes: self.month.bytes,
            channels: self.channels.len(),
            ..self.figures.clone()
        }
    }
}
