//! The one task that moves frames.
//!
//! Each wake-up: rounds of *receive from links, read from ports, flush links* until nothing moves or [`ROUNDS`] are done, and
//! only then commands and timers, which no frame waits for; then it yields, so that the overlay's tasks on the same thread get
//! the processor. The first frame after a rest leaves before a second one is looked for: it is most often the only one. While a link
//! has no room, ports are left alone for [`PATIENCE`]: if the processor is the bottleneck the link soon has room and
//! nothing was lost; if the path is, reading goes on and the link's fair queue takes what comes. A flood of small frames is
//! read in turns with a pause between them ([`FLOOD_PAUSE`]), so that it does not reach the far reader as one burst.

use super::{
    TunnelEvent,
    fabric::{Fabric, Port, PortIo, fatal_read},
    link::LinkIo,
    tap::Tap,
    tunnel::Commands,
    turn::{Read, Turn},
};
use crate::{
    DropReason, Drops, PortId,
    coalesce::Coalescer,
    defaults::{ALL_QUEUES_BYTES, COMPARE_EVERY, EVENTS, FLOOD_PAUSE, PATIENCE, ROUNDS},
    loops::{Identity, Underlay},
    packet::Packet,
    switch::SwitchEvent,
};
use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, poll_fn},
    mem,
    ops::Bound::{Excluded, Unbounded},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{io::unix::AsyncFd, sync::mpsc, time::Sleep};
use wire::{
    NodeId,
    frame::{LanTag, MAX_FRAME, VNET_HDR, VnetHdr},
};

/// Commands in one wake-up.
const COMMANDS_PER_TURN: usize = 32;
/// How soon events that found no room are offered again.
const EVENT_RETRY: Duration = Duration::from_millis(20);

/// All state of the tunnel.
pub(super) struct Pump {
    pub(super) node: NodeId,
    commands: Commands,
    events: mpsc::Sender<TunnelEvent>,
    unsent: VecDeque<TunnelEvent>,
    pub(super) fabric: Fabric,
    pub(super) links: BTreeMap<NodeId, LinkIo>,
    pub(super) next_port: u32,
    pub(super) drops: Drops,
    pub(super) identity: Option<Identity>,
    pub(super) underlay: Underlay,
    /// What links' peers are told may be out of date.
    pub(super) stale_notes: bool,
    /// What this node claimed on all LANs when they were told last.
    pub(super) noted: u64,
    pub(super) compare_at: Instant,
    timer: Pin<Box<Sleep>>,
    /// The last wake-up ended because nothing was left to move, and no port has given a frame since.
    rested: bool,
    frame: Vec<u8>,
    merge: Coalescer,
}

impl Pump {
    /// Runs until the last handle is dropped.
    pub(super) async fn run(node: NodeId, commands: Commands, events: mpsc::Sender<TunnelEvent>) {
        let mut pump = Self {
            node,
            commands,
            events,
            unsent: VecDeque::new(),
            fabric: Fabric::default(),
            links: BTreeMap::new(),
            next_port: 0,
            drops: Drops::default(),
            identity: None,
            underlay: Underlay::default(),
            stale_notes: false,
            noted: 0,
            compare_at: Instant::now() + COMPARE_EVERY,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            rested: true,
            frame: vec![0; VNET_HDR + MAX_FRAME + 1],
            merge: Coalescer::default(),
        };
        // It yields by itself, after so many rounds; tokio's own limit would end a turn of small frames half-way.
        tokio::task::unconstrained(poll_fn(|cx| pump.poll(cx))).await;
        tracing::debug!("frame pump ended");
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let mut moved = true;
        for _ in 0..ROUNDS {
            moved = self.round(cx, now);
            if !moved {
                break;
            }
        }
        let Some(commanded) = self.obey(cx, now) else {
            return Poll::Ready(());
        };
        self.handle_timeouts(now);
        self.flush(now);
        self.finish_ports(cx, now);
        self.tell_notes();
        self.drain_events();
        self.fabric.recorder.flush();
        // What a command brought in has not been asked yet whether it has anything.
        let mut again = moved || commanded;
        for link in self.links.values_mut() {
            again |= link.poll_ready(cx);
        }
        if again {
            cx.waker().wake_by_ref();
        }
        self.rested = !moved;
        self.arm(cx, now);
        Poll::Pending
    }

    /// Carries commands out; true if there were any, `None` when the last handle is gone.
    fn obey(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<bool> {
        for n in 0..COMMANDS_PER_TURN {
            match self.commands.poll_recv(cx) {
                Poll::Ready(Some(command)) => command(self, now),
                Poll::Ready(None) => return None,
                Poll::Pending => return Some(n > 0),
            }
        }
        Some(true)
    }

    /// One round over links and ports; true if anything moved.
    fn round(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let received = self.receive(cx, now);
        self.flush(now);
        if self.waits_for_room(now) {
            return received;
        }
        let read = self.read_ports(cx, now);
        self.flush(now);
        if read == Read::Flood && !received {
            // This thread has nothing else to do that is worth more than the far reader's chance to catch up.
            std::thread::sleep(FLOOD_PAUSE);
        }
        received || read != Read::Nothing
    }

    /// Ports wait: some link has had no room for a moment, and only for a moment.
    fn waits_for_room(&self, now: Instant) -> bool {
        self.links
            .values()
            .any(|l| !l.is_slow(now) && l.stuck_since.is_some_and(|at| now.duration_since(at) < PATIENCE))
    }

    fn handle_timeouts(&mut self, now: Instant) {
        for lan in self.fabric.lans.values_mut() {
            if lan.switch.poll_timeout().is_some_and(|(at, _)| at <= now) {
                lan.switch.handle_timeout(now);
            }
            lan.talkers.handle_timeout(now);
        }
        self.compare(now);
        self.fabric.collect_made();
        self.deliver_made(now);
        for (id, port) in &mut self.fabric.ports {
            port.handle_timeout(now, *id);
        }
        for link in self.links.values_mut() {
            if link.unpacker.poll_timeout().is_some_and(|at| at <= now) {
                link.unpacker.handle_timeout(now, &mut link.drops);
            }
        }
    }

    /// Sets the timer for the earliest deadline and registers for it.
    fn arm(&mut self, cx: &mut Context<'_>, now: Instant) {
        let lans = self
            .fabric
            .lans
            .values()
            .flat_map(|l| [l.switch.poll_timeout().map(|(at, _)| at), l.talkers.poll_timeout()])
            .flatten();
        let ports = self.fabric.ports.values().filter_map(Port::poll_timeout);
        let links = self.links.values().filter_map(|l| l.unpacker.poll_timeout());
        // Ports that wait for a link are read again at the end of its patience.
        let stuck = self.links.values().filter_map(|l| l.stuck_since);
        let room = stuck.map(|at| at + PATIENCE).filter(|at| *at > now).min();
        let compare = (!self.links.is_empty()).then_some(self.compare_at);
        let events = (!self.unsent.is_empty()).then_some(now + EVENT_RETRY);
        let Some(at) = lans
            .chain(ports)
            .chain(links)
            .chain(room)
            .chain(events)
            .chain(compare)
            .min()
        else {
            return;
        };
        self.timer.as_mut().reset(at.into());
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// Takes a batch from each link; true if anything came.
    fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut moved = false;
        let mut ended = Vec::new();
        let Self {
            links, fabric, drops, ..
        } = self;
        for (peer, io) in links.iter_mut() {
            match io.receive(cx, now, fabric, drops) {
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Ready(Err(closed)) => ended.push((*peer, closed.why)),
                Poll::Pending => {}
            }
        }
        self.deliver_made(now);
        for (peer, why) in ended {
            self.drop_link(now, peer, &why);
        }
        moved
    }

    /// Sends on what the switches made themselves.
    fn deliver_made(&mut self, now: Instant) {
        let Self {
            fabric, links, drops, ..
        } = self;
        fabric.deliver_made(now, &mut |peer, tag, packet| {
            offer(now, links, drops, peer, tag, packet)
        });
        fabric.deliver_forwards(now, &mut |peer, tag, packet| {
            offer(now, links, drops, peer, tag, packet)
        });
    }

    /// Reads each port up to its budget.
    fn read_ports(&mut self, cx: &mut Context<'_>, now: Instant) -> Read {
        let mut read = Read::Nothing;
        let mut next = self.fabric.ports.keys().next().copied();
        while let Some(id) = next {
            let mut turn = Turn::default();
            while turn.goes_on()
                && let Some((n, over_budget)) = self.read_one(cx, now, id)
            {
                turn.count(n, over_budget);
                if mem::take(&mut self.rested) {
                    self.pass_on(now, id);
                    self.flush(now);
                }
            }
            self.pass_on(now, id);
            read = read.and(turn.read());
            next = self
                .fabric
                .ports
                .range((Excluded(id), Unbounded))
                .next()
                .map(|(id, _)| *id);
        }
        read
    }

    /// Forwards what was kept back of a port's frames to be joined, and what the switches made of them.
    fn pass_on(&mut self, now: Instant, id: PortId) {
        let Self {
            fabric,
            links,
            drops,
            merge,
            ..
        } = self;
        merge.flush(&mut |hdr, bytes| {
            let _ = accept(now, id, hdr, bytes, fabric, links, drops);
        });
        self.deliver_made(now);
    }

    /// Reads and forwards one frame: its length, and how many frames were over budget. `None` when the port has none.
    fn read_one(&mut self, cx: &mut Context<'_>, now: Instant, id: PortId) -> Option<(usize, usize)> {
        let port = self.fabric.ports.get_mut(&id)?;
        let mut frame = mem::take(&mut self.frame);
        // A TAP gives header and frame in one piece: the frame always begins behind the header's room.
        let room = frame.get_mut(VNET_HDR..).unwrap_or_default();
        let got = match &mut port.io {
            PortIo::Tap { tap, .. } => read_tap(cx, tap, &mut frame, &mut port.dead),
            PortIo::Packet(station) => match station.poll_read(cx, now, room, &mut port.dead) {
                Some(Ok(got)) => Some(got),
                Some(Err(why)) => {
                    self.frame = frame;
                    self.fabric.refuse(id, why);
                    return Some((1, 0));
                }
                None => None,
            },
            PortIo::Guest { io, .. } => match io.poll_frame(cx, now, room) {
                Poll::Ready(n) => Some((VnetHdr::default(), n)),
                Poll::Pending => None,
            },
        };
        let Some((hdr, n)) = got else {
            self.frame = frame;
            return None;
        };
        let bytes = frame.get(VNET_HDR..VNET_HDR + n).unwrap_or_default();
        let Self {
            fabric,
            links,
            drops,
            merge,
            ..
        } = self;
        let mut over_budget = 0;
        merge.push(hdr, bytes, &mut |hdr, bytes| {
            let decided = accept(now, id, hdr, bytes, fabric, links, drops);
            over_budget += usize::from(decided.is_err_and(DropReason::is_budget));
        });
        self.frame = frame;
        Some((n, over_budget))
    }

    fn flush(&mut self, now: Instant) {
        let mut ended = Vec::new();
        let stuck = self.links.values().filter(|l| l.stuck_since.is_some()).count();
        for (peer, io) in &mut self.links {
            io.set_queue_limit(ALL_QUEUES_BYTES / stuck.max(1));
            if let Err(closed) = io.flush(now) {
                ended.push((*peer, closed.why));
            }
            io.show_victims(now, *peer, &mut self.fabric.recorder);
        }
        for (peer, why) in ended {
            self.drop_link(now, peer, &why);
        }
    }

    /// Writes what waits for guests and buries dead ports.
    fn finish_ports(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut dead = Vec::new();
        for (id, port) in &mut self.fabric.ports {
            if let PortIo::Guest { io, .. } = &mut port.io {
                // Pending: the socket wakes this task when it can be written.
                let _ = io.poll_flush(cx, now);
            }
            if let Some(why) = port.dead.take() {
                dead.push((*id, why));
            }
        }
        for (port, why) in dead {
            tracing::info!(%port, why, "port is down");
            self.forget_port(now, port);
            self.say(TunnelEvent::PortDown { port, why });
        }
    }

    pub(super) fn drain_events(&mut self) {
        let mut said = Vec::new();
        let mut guard = Vec::new();
        let Fabric { lans, ports, .. } = &mut self.fabric;
        for lan in lans.values_mut() {
            while let Some((peer, demand)) = lan.talkers.poll_event() {
                let lan = lan.id.clone();
                said.push(TunnelEvent::Demand { lan, peer, demand });
            }
            while let Some(e) = lan.switch.poll_event() {
                let lan = lan.id.clone();
                match e {
                    SwitchEvent::Advertise(adverts) => said.push(TunnelEvent::Advertise { lan, adverts }),
                    SwitchEvent::Groups { all, groups } => said.push(TunnelEvent::Groups { lan, all, groups }),
                    SwitchEvent::Frozen(mac) => {
                        let why = format!("{mac} moved too often: a loop, or two machines with one address");
                        tracing::info!(%lan, %mac, "address is frozen");
                        said.push(TunnelEvent::Frozen { lan, mac, why });
                    }
                    SwitchEvent::Thawed(mac) => tracing::info!(%lan, %mac, "address may move again"),
                    SwitchEvent::Fenced { port, mac, by } => {
                        tracing::info!(%lan, %mac, %port, %by, "a guest's address was taken over by a member");
                        said.push(TunnelEvent::Fenced { lan, port, mac, by });
                    }
                    SwitchEvent::Unfenced { port, mac } => {
                        tracing::info!(%lan, %mac, %port, "a guest has its address again");
                        said.push(TunnelEvent::Unfenced { lan, port, mac });
                    }
                    SwitchEvent::Guard(what) => guard.push((lan, what)),
                    SwitchEvent::Address(port, ip, learned) => {
                        if let Some(Port {
                            io: PortIo::Guest { guest, .. },
                            ..
                        }) = ports.get(&port)
                        {
                            said.push(TunnelEvent::GuestAddress {
                                guest: *guest,
                                ip,
                                learned,
                            });
                        }
                    }
                }
            }
        }
        said.extend(guard.into_iter().map(|(lan, what)| self.fabric.guard_event(lan, what)));
        for e in said {
            self.say(e);
        }
        while let Some(e) = self.unsent.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(e)) = self.events.try_send(e) {
                self.unsent.push_front(e);
                break;
            }
        }
    }

    /// Queues an event. If the reader is far behind, adverts go first: that they are missing shows in the sums.
    pub(super) fn say(&mut self, e: TunnelEvent) {
        if self.unsent.len() >= EVENTS {
            let advert = self
                .unsent
                .iter()
                .position(|e| matches!(e, TunnelEvent::Advertise { .. }));
            let lost = self.unsent.remove(advert.unwrap_or(0));
            tracing::warn!(event = ?lost.as_ref().map(mem::discriminant), "the node does not read the tunnel's events");
        }
        self.unsent.push_back(e);
    }

    fn drop_link(&mut self, now: Instant, peer: NodeId, why: &str) {
        if let Some(io) = self.links.remove(&peer) {
            self.drops.merge(&io.bury());
            for lan in self.fabric.lans.values_mut() {
                lan.switch.link_down(now, peer);
            }
            tracing::debug!(%peer, why, "link is down");
            self.say(TunnelEvent::LinkDown {
                peer,
                why: why.to_owned(),
            });
        }
    }

    pub(super) fn forget_port(&mut self, now: Instant, id: PortId) -> bool {
        let Some(port) = self.fabric.ports.remove(&id) else {
            return false;
        };
        if let Some(lan) = self.fabric.lans.get_mut(&port.lan) {
            lan.switch.remove_port(now, id);
            lan.talkers.forget_port(id);
        }
        true
    }
}

/// Forwards a frame that a port gave; what was dropped is counted already.
fn accept(
    now: Instant,
    port: PortId,
    hdr: VnetHdr,
    bytes: &[u8],
    fabric: &mut Fabric,
    links: &mut BTreeMap<NodeId, LinkIo>,
    drops: &mut Drops,
) -> Result<(), DropReason> {
    fabric.accept(now, port, hdr, bytes, &mut |peer, tag, packet| {
        offer(now, links, drops, peer, tag, packet)
    })
}

/// Gives a frame to a link, which counts what it does not take.
fn offer(
    now: Instant,
    links: &mut BTreeMap<NodeId, LinkIo>,
    drops: &mut Drops,
    peer: NodeId,
    tag: LanTag,
    packet: &Packet<'_>,
) -> Result<(), DropReason> {
    let Some(link) = links.get_mut(&peer) else {
        drops.count(DropReason::NoLink);
        return Err(DropReason::NoLink);
    };
    link.offer(now, tag, packet)
}

/// Reads one frame from a TAP; `None` when none waits. An error that ends the interface goes to `dead`.
pub(super) fn read_tap(
    cx: &mut Context<'_>,
    tap: &AsyncFd<Tap>,
    buf: &mut [u8],
    dead: &mut Option<String>,
) -> Option<(VnetHdr, usize)> {
    loop {
        let mut guard = match tap.poll_read_ready(cx) {
            Poll::Ready(Ok(guard)) => guard,
            Poll::Ready(Err(e)) => {
                *dead = Some(e.to_string());
                return None;
            }
            Poll::Pending => return None,
        };
        match guard.try_io(|t| t.get_ref().read(buf)) {
            Ok(Ok(got)) => return Some(got),
            Ok(Err(e)) => {
                *dead = fatal_read(&e);
                if dead.is_some() {
                    return None;
                }
            }
            Err(_would_block) => continue,
        }
        // An error that passes: wait for the next event instead of asking again at once.
        guard.clear_ready();
    }
}
