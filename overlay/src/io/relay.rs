//! Asks relays to carry for this node, and serves those that ask this one.

mod calls;
mod serve;

use super::{files, net::Command, overlay::Overlay, port::Port, relayed::RelayCarrier, streams::Shared};
use crate::{
    defaults, path,
    relay::{Channels, Month, Offer, Pair, Place, Rank, Relay, Settings, Start, WantedAsk},
};
use calls::{call_relay, close, open, wall};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use wire::{
    NodeId, NodeKey, Signed,
    frame::MAX_HOPS,
    relay::{Opened, RELAY_END_PROTOCOL, RELAY_PROTOCOL, RelayCall, RelayReply, Voucher},
};

/// A connected peer, as far as relaying goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) node: NodeId,
    pub(super) rank: Rank,
    /// It offers to relay.
    pub(super) relays: bool,
    /// There is a connection that runs through no relay.
    pub(super) direct: bool,
    pub(super) rtt: Option<Duration>,
}

/// An overlay that is not kept alive by whoever holds this.
struct WeakOverlay {
    me: NodeId,
    handle: Handle,
    commands: mpsc::WeakSender<Command>,
    port: Weak<Port>,
    shared: Shared,
}

impl WeakOverlay {
    fn get(&self) -> Option<Overlay> {
        Some(Overlay {
            me: self.me,
            handle: self.handle.clone(),
            commands: self.commands.upgrade()?,
            port: self.port.clone(),
            shared: self.shared.clone(),
        })
    }
}

/// What came of a question.
enum Done {
    Opened {
        peer: NodeId,
        relay: NodeId,
        answer: Result<Opened, &'static str>,
    },
    Renewed {
        pair: Pair,
        channel: u64,
        kept: bool,
    },
    /// A stream to a node came up, or not.
    Streamed(NodeId),
}

/// What carries at a channel's end.
struct End {
    addr: SocketAddr,
    carrier: Arc<RelayCarrier>,
}

/// One connection's address, and since when it is that.
struct Seen {
    first: SocketAddr,
    now: SocketAddr,
    since: Instant,
}

/// What was carried, on disk.
#[derive(Serialize, Deserialize)]
struct SavedMonth {
    month: u64,
    bytes: u64,
}

/// The task's own.
pub(super) struct Relaying {
    overlay: WeakOverlay,
    port: Arc<Port>,
    key: NodeKey,
    file: PathBuf,
    looks: BTreeMap<NodeId, Look>,
    seen: BTreeMap<(NodeId, usize), Seen>,
    channels: Channels,
    /// A carrier for each channel that ends here.
    ends: BTreeMap<Pair, End>,
    /// By relay and peer.
    vouchers: BTreeMap<(NodeId, NodeId), Signed<Voucher>>,
    streaming: BTreeSet<NodeId>,
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
    written: Month,
    write_at: Instant,
}

impl Relaying {
    /// Starts on the net thread.
    pub(super) fn start(overlay: &Overlay, port: &Arc<Port>, key: NodeKey, settings: Settings, file: PathBuf) {
        let now = Instant::now();
        let month = read_month(&file);
        *port.sealed.relayed.relay() = Relay::new(now, settings, month);
        let this = Self {
            overlay: WeakOverlay {
                me: overlay.me,
                handle: overlay.handle.clone(),
                commands: overlay.commands.downgrade(),
                port: overlay.port.clone(),
                shared: overlay.shared.clone(),
            },
            port: port.clone(),
            key,
            file,
            looks: BTreeMap::new(),
            seen: BTreeMap::new(),
            channels: Channels::new(overlay.me),
            ends: BTreeMap::new(),
            vouchers: BTreeMap::new(),
            streaming: BTreeSet::new(),
            done: mpsc::channel(defaults::COMMANDS),
            written: month,
            write_at: now + defaults::RELAY_WRITE,
        };
        let offers = port.sealed.relayed.relay().offers();
        let calls = offers.then(|| overlay.serve(RELAY_PROTOCOL));
        let end_calls = overlay.serve(RELAY_END_PROTOCOL);
        tokio::spawn(this.run(calls, end_calls));
    }

    async fn run(
        mut self,
        mut calls: Option<mpsc::Receiver<super::Inbound>>,
        mut end_calls: mpsc::Receiver<super::Inbound>,
    ) {
        let port = self.port.clone();
        let relayed = &port.sealed.relayed;
        let mut look = tokio::time::interval(defaults::RELAY_LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut carriers = port.sealed.carriers.watch();
        while let Some(overlay) = self.overlay.get() {
            self.drive(&overlay, Instant::now());
            drop(overlay);
            let call = async {
                match &mut calls {
                    Some(calls) => calls.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(call) = call => self.on_call(call),
                Some(call) = end_calls.recv() => self.on_end_call(call),
                Some(done) = self.done.1.recv() => self.on_done(done),
                () = relayed.work.notified() => self.look().await,
                Ok(()) = carriers.changed() => self.look().await,
                _ = look.tick() => {
                    let now = Instant::now();
                    relayed.forget_unknown(now);
                    self.channels.handle_timeout(now);
                    self.look().await;
                }
                else => return,
            }
        }
    }

    /// Looks at who is connected, and where.
    async fn look(&mut self) {
        let Some(overlay) = self.overlay.get() else { return };
        let (tx, rx) = oneshot::channel();
        if overlay.commands.send(Command::RelayLook(tx)).await.is_err() {
            return;
        }
        let Ok(looks) = rx.await else { return };
        let now = Instant::now();
        self.looks = looks.into_iter().map(|l| (l.node, l)).collect();
        self.see(now);
        let relayed = &self.port.sealed.relayed;
        relayed.relay().handle_wall(wall());
        let nodes: BTreeSet<NodeId> = relayed
            .relay()
            .nodes()
            .into_iter()
            .chain(self.looks.keys().copied())
            .collect();
        for node in nodes {
            let places = self.places(now, node);
            relayed.relay().handle_places(node, places);
        }
        let offers: Vec<Offer> = self
            .looks
            .values()
            .filter(|l| l.relays && l.direct)
            .map(|l| self.offer(l))
            .collect();
        relayed.wanted().handle_offers(now, offers);
        let gone = self.ends.iter().filter(|((_, relay), e)| {
            !self.looks.contains_key(relay) || self.port.sealed.carriers.get(e.addr).is_none()
        });
        for key in gone.map(|(k, _)| *k).collect::<Vec<_>>() {
            self.end(now, key, false);
        }
        for ((_, relay), e) in &self.ends {
            e.carrier.set_place(self.places(now, *relay).first().copied());
        }
    }

    fn offer(&self, l: &Look) -> Offer {
        let udp = self.seen.range((l.node, 0)..=(l.node, usize::MAX)).next().is_some();
        Offer {
            node: l.node,
            rank: l.rank,
            udp,
            rtt: l.rtt,
        }
    }

    /// Notes the addresses of live QUIC connections, and since when they are these.
    fn see(&mut self, now: Instant) {
        let mut live = BTreeSet::new();
        for node in self.looks.keys() {
            let Some(id) = path::peer_id(*node) else { continue };
            for conn in self.port.control(&id) {
                let (key, at) = ((*node, conn.stable_id()), conn.remote_address());
                live.insert(key);
                let seen = self.seen.entry(key).or_insert(Seen {
                    first: at,
                    now: at,
                    since: now,
                });
                if seen.now != at {
                    (seen.now, seen.since) = (at, now);
                }
            }
        }
        self.seen.retain(|k, _| live.contains(k));
    }

    /// Where a node really is: the ends of its live connections, then streams. Those that this node dialled come first: there
    /// a listening port answered, and where it was dialled from may be a port that only dials.
    fn places(&self, now: Instant, node: NodeId) -> Vec<Place> {
        let Some(id) = path::peer_id(node) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        let session = self.port.session(node);
        let mut conns = self.port.control(&id);
        conns.sort_by_key(|c| c.side() == quinn::Side::Client);
        for conn in conns.into_iter().rev() {
            let settled = self
                .seen
                .get(&(node, conn.stable_id()))
                .is_some_and(|s| s.now == s.first || now.saturating_duration_since(s.since) >= defaults::RELAY_SETTLED)
                // The link's pings prove it sooner.
                || session.as_ref().is_some_and(|s| s.is_proved(conn.remote_address()));
            if settled {
                out.push(Place {
                    addr: conn.remote_address(),
                    source: conn.local_ip(),
                });
            }
        }
        let streams = self.port.sealed.carriers.to(node);
        let tcp = streams.iter().filter(|c| c.kind == crate::carrier::CarrierKind::Tcp);
        out.extend(tcp.map(|c| Place {
            addr: c.addr,
            source: None,
        }));
        out
    }

    /// Opens a stream to a node that is connected, but not by UDP.
    fn need_place(&mut self, overlay: &Overlay, node: NodeId) {
        let there = !self.places(Instant::now(), node).is_empty();
        if there || !self.looks.get(&node).is_some_and(|l| l.direct) || !self.streaming.insert(node) {
            return;
        }
        let (overlay, port, done) = (overlay.clone(), self.port.clone(), self.done.0.clone());
        tokio::spawn(async move {
            if let Err(e) = overlay.stream_carrier(&port, node).await {
                tracing::debug!(?node, error = %e, "no stream for relayed frames");
            }
            drop(done.send(Done::Streamed(node)).await);
        });
    }

    /// Does what is due.
    fn drive(&mut self, overlay: &Overlay, now: Instant) {
        let port = self.port.clone();
        let relayed = &port.sealed.relayed;
        let over = relayed.relay().handle_timeout(now);
        relayed.tell(over);
        for (node, number) in relayed.to_tell() {
            self.tell(overlay, node, number);
        }
        relayed.wanted().handle_timeout(now);
        loop {
            let Some(ask) = relayed.wanted().poll_transmit() else {
                break;
            };
            self.ask(overlay, now, ask);
        }
        for node in relayed.relay().nodes() {
            self.need_place(overlay, node);
        }
        let relays: BTreeSet<NodeId> = self.ends.keys().map(|(_, relay)| *relay).collect();
        for relay in relays {
            self.need_place(overlay, relay);
        }
        self.write_month(now);
    }

    fn ask(&mut self, overlay: &Overlay, now: Instant, ask: WantedAsk) {
        let (overlay, done) = (overlay.clone(), self.done.0.clone());
        match ask {
            WantedAsk::Open { peer, relay } => {
                let mut wanted = self.port.sealed.relayed.wanted();
                match self.channels.handle_wish(now, (peer, relay)) {
                    Start::Ask => drop(wanted),
                    // The peer may have opened one before this node wanted any.
                    Start::Held(h) => return wanted.handle_opened(now, peer, relay, h.ours),
                    Start::Asking => return,
                    Start::Wait(until) => return wanted.handle_wait(now, peer, relay, until),
                }
                self.port.sealed.relayed.set_asked(relay, true);
                self.need_place(&overlay, relay);
                let call = RelayCall::Open {
                    to: peer,
                    origin: None,
                    hops: MAX_HOPS,
                    voucher: self.vouchers.get(&(relay, peer)).cloned(),
                };
                tokio::spawn(async move {
                    let answer = open(&overlay, relay, &call).await;
                    drop(done.send(Done::Opened { peer, relay, answer }).await);
                });
            }
            WantedAsk::Renew { peer, relay } => {
                let Some(channel) = self.channels.held((peer, relay)).map(|h| h.number) else {
                    return;
                };
                tokio::spawn(async move {
                    let answer = call_relay(&overlay, relay, &RelayCall::Renew { channel }).await;
                    let kept = matches!(answer, Ok(RelayReply::Renewed(_)));
                    let said = Done::Renewed {
                        pair: (peer, relay),
                        channel,
                        kept,
                    };
                    drop(done.send(said).await);
                });
            }
            WantedAsk::Close { peer, relay } => {
                if let Some(channel) = self.end(now, (peer, relay), true) {
                    close(overlay, relay, channel);
                }
            }
        }
    }

    fn on_done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Opened { peer, relay, answer } => self.on_answer(now, (peer, relay), answer),
            Done::Renewed { pair, channel, kept } => {
                // It may have been replaced meanwhile.
                if self.channels.held(pair).is_none_or(|h| h.number != channel) {
                    return;
                }
                if kept {
                    self.port.sealed.relayed.wanted().handle_renewed(now, pair.0, pair.1);
                } else {
                    self.end(now, pair, false);
                }
            }
            Done::Streamed(node) => {
                self.streaming.remove(&node);
                self.port.sealed.relayed.work.notify_one();
            }
        }
    }

    /// What a relay answered to the wish for a channel.
    fn on_answer(&mut self, now: Instant, pair: Pair, answer: Result<Opened, &'static str>) {
        let (port, (peer, relay)) = (self.port.clone(), pair);
        let relayed = &port.sealed.relayed;
        match answer {
            Ok(opened) => {
                let lives = self.channels.handle_opened(now, pair, opened.channel);
                if self.vouchers.len() >= 2 * defaults::RELAY_WANTS {
                    self.vouchers.pop_first();
                }
                self.vouchers.insert((relay, peer), opened.voucher);
                if lives && self.begin(now, pair, opened.channel, true) {
                    let bytes_per_s = opened.bytes_per_s;
                    tracing::info!(?peer, ?relay, bytes_per_s, "a relay carries frames");
                    relayed.wanted().handle_opened(now, peer, relay, true);
                } else {
                    tracing::debug!(?peer, ?relay, lives, "a channel is not begun");
                    if lives && let Some(overlay) = self.overlay.get() {
                        close(overlay, relay, opened.channel);
                    }
                    relayed.wanted().handle_refused(now, peer, relay);
                }
            }
            Err(why) => {
                tracing::debug!(?peer, ?relay, why, "a relay does not carry");
                self.channels.handle_refused(now, pair);
                relayed.wanted().handle_refused(now, peer, relay);
                // Whoever waits for a relay to this peer looks again.
                port.sealed.carriers.changed();
            }
        }
        relayed.set_asked(relay, self.channels.asks(relay));
    }

    /// Puts a carrier at an end. If there is a channel to the same peer through the same relay, the carrier goes on with the new
    /// one, and the relay hears that the old one is over.
    fn begin(&mut self, now: Instant, pair: Pair, number: u64, ours: bool) -> bool {
        let (peer, relay) = pair;
        let ready = match self.ends.get(&pair) {
            Some(end) => end.carrier.renumber(number, end.addr),
            None => {
                let place = self.places(now, relay).first().copied();
                let started = RelayCarrier::start(&self.port.sealed, peer, relay, number, place);
                let end = started.map(|(addr, carrier)| End { addr, carrier });
                end.is_some_and(|end| self.ends.insert(pair, end).is_none())
            }
        };
        if !ready {
            return false;
        }
        if let Some(old) = self.channels.begin(now, pair, number, ours)
            && let Some(overlay) = self.overlay.get()
        {
            close(overlay, relay, old.number);
        }
        true
    }

    /// A channel's end here is over, by this node's own `will` or not; gives its number.
    fn end(&mut self, now: Instant, pair: Pair, will: bool) -> Option<u64> {
        let (held, again) = self.channels.end(now, pair, will)?;
        self.port.sealed.relayed.ends().remove(&held.number);
        if let Some(end) = self.ends.remove(&pair) {
            self.port.sealed.carriers.remove(end.addr);
        }
        let mut wanted = self.port.sealed.relayed.wanted();
        wanted.handle_closed(now, pair.0, pair.1, again);
        Some(held.number)
    }

    fn write_month(&mut self, now: Instant) {
        let month = self.port.sealed.relayed.relay().month();
        if month == self.written || now < self.write_at {
            return;
        }
        self.write_at = now + defaults::RELAY_WRITE;
        self.written = month;
        let file = self.file.clone();
        let saved = SavedMonth {
            month: month.number,
            bytes: month.bytes,
        };
        // A file system that hangs must not hold up frames.
        tokio::task::spawn_blocking(move || {
            let bytes = serde_json::to_vec(&saved).unwrap_or_default();
            if let Err(e) = files::replace_private(&file, &bytes) {
                tracing::warn!(error = %e, "what was relayed this month could not be written down; a restart forgets it");
            }
        });
    }
}

fn read_month(file: &Path) -> Month {
    let read = files::read_bounded(file, 1_024).ok();
    let saved: Option<SavedMonth> = read.and_then(|b| serde_json::from_slice(&b).ok());
    saved.map_or_else(Month::default, |s| Month {
        number: s.month,
        bytes: s.bytes,
    })
}
