//! The handle that the node holds.

use super::{EchoError, LanError, PortError, pump::Pump, tap::Offloads};
use crate::{
    FdbRow, PortId,
    defaults::{COMMANDS, EVENTS},
    loops::{GuardEvent, Identity, Underlay},
    policy::{CompiledPolicy, How},
    snoop::Learned,
    switch::{QuietStats, Switch},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use wire::{
    Demand, GuestId, LanId, MacAddr, NodeId,
    frame::{GroupAdvert, MacAdvert, MacBehind, Span},
    link::{Link, PathInfo},
};

/// What the pump must know from the start.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// This node; decides ties in the MAC plane.
    pub node: NodeId,
}

/// A TAP to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapSpec {
    /// Its name; `None`: `lanline0` and so on.
    pub name: Option<String>,
    /// An existing bridge to put it into.
    pub bridge: Option<String>,
}

/// A guest's NIC to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPort {
    /// Whose.
    pub guest: GuestId,
    /// The one address that it may use.
    pub mac: MacAddr,
    /// What its system calls its NIC, if it is another ([`crate::rename`]).
    pub inner: Option<MacAddr>,
    /// Where QEMU listens: `-netdev stream,server=on,addr.type=unix,addr.path=…`.
    pub socket: PathBuf,
    /// What it may do.
    pub policy: CompiledPolicy,
}

/// Kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PortKind {
    /// A TAP, in a bridge or the host's own.
    Tap,
    /// A network card, by translation of Ethernet addresses.
    Packet,
    /// A guest's NIC.
    Guest,
}

/// Whether frames pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum PortState {
    /// They do.
    Up,
    /// The guest's socket is not open, and why not.
    Connecting(String),
    /// None pass yet: the port is new and finds out who else is on its segment.
    Listening,
    /// None pass: another member carries the frames of this physical LAN; says which.
    Standby(String),
    /// None pass: the port is part of a loop; says where.
    Loop(String),
}

/// A port, for people and for the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortInfo {
    /// Its number.
    pub id: PortId,
    /// Its kind.
    pub kind: PortKind,
    /// Interface name, or guest id.
    pub name: String,
    /// The bridge that the TAP is in.
    pub bridge: Option<String>,
    /// The guest behind it.
    #[serde(skip)]
    pub guest: Option<GuestId>,
    /// The host's address on a TAP, the guest's own on a guest's port.
    #[serde(serialize_with = "crate::fdb::as_text")]
    pub mac: MacAddr,
    /// What the kernel leaves to the far end, and what it refused to; all false for guests.
    pub offloads: Offloads,
    /// Whether frames pass.
    #[serde(flatten)]
    pub state: PortState,
    /// Frames that came in by it; a super-frame counts as one.
    pub rx_frames: u64,
    /// Bytes that came in by it.
    pub rx_bytes: u64,
    /// Frames that left by it.
    pub tx_frames: u64,
    /// Bytes that left by it.
    pub tx_bytes: u64,
}

/// What the tunnel has to say to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelEvent {
    /// Sign these and send them to the LAN's other members; at most `wire::frame::MAX_ADVERTS`.
    Advertise {
        /// The LAN.
        lan: LanId,
        /// What changed.
        adverts: Vec<MacAdvert>,
    },
    /// Sign this and send it to the LAN's other members: the groups that this node listens to, whole.
    Groups {
        /// The LAN.
        lan: LanId,
        /// Every group.
        all: bool,
        /// These, if not every one; at most `wire::frame::MAX_GROUPS`.
        groups: Vec<GroupAdvert>,
    },
    /// A guest's address was seen.
    GuestAddress {
        /// The guest.
        guest: GuestId,
        /// Its address.
        ip: IpAddr,
        /// From what.
        learned: Learned,
    },
    /// What a member's claims add up to is not what was heard of it: ask it for what is missing.
    Differs {
        /// The member.
        peer: NodeId,
    },
    /// A link ended; open a new one when the peer can be reached.
    LinkDown {
        /// The peer.
        peer: NodeId,
        /// What ended it.
        why: String,
    },
    /// A port ended: its interface was deleted.
    PortDown {
        /// The port.
        port: PortId,
        /// What ended it.
        why: String,
    },
    /// An address moves too often: a loop, or two machines with one address.
    Frozen {
        /// The LAN.
        lan: LanId,
        /// The address.
        mac: MacAddr,
        /// In words.
        why: String,
    },
    /// A member took the address that this guest's port was given: the guest is heard no more. Either the guest runs there
    /// now, or that member claims what is not its own.
    Fenced {
        /// The LAN.
        lan: LanId,
        /// The guest's port.
        port: PortId,
        /// The address.
        mac: MacAddr,
        /// Who has it now.
        by: NodeId,
    },
    /// The port has its address again.
    Unfenced {
        /// The LAN.
        lan: LanId,
        /// The guest's port.
        port: PortId,
        /// The address.
        mac: MacAddr,
    },
    /// How much is sent to and from a member of this LAN is another class than before, and that has lasted.
    Demand {
        /// The LAN.
        lan: LanId,
        /// The member.
        peer: NodeId,
        /// What it is now.
        demand: Demand,
    },
    /// The loop guard found something, or a port carries frames, or none, for its sake.
    Guard {
        /// The LAN.
        lan: LanId,
        /// What.
        what: GuardEvent,
        /// In words, with the ports' names.
        why: String,
    },
}

type Command = Box<dyn FnOnce(&mut Pump, Instant) + Send>;

/// The receiving end of the command channel, for the pump.
pub(super) type Commands = mpsc::Receiver<Command>;

/// Handle on the pump; cheap to clone. When the last one is dropped the pump ends and its TAPs vanish.
#[derive(Clone, Debug)]
pub struct Tunnel {
    commands: mpsc::Sender<Command>,
}

impl Tunnel {
    /// Starts the pump on a runtime.
    pub fn start(rt: Handle, cfg: TunnelConfig) -> (Self, mpsc::Receiver<TunnelEvent>) {
        let (commands, rx) = mpsc::channel(COMMANDS);
        let (events, events_rx) = mpsc::channel(EVENTS);
        rt.spawn(Pump::run(cfg.node, rx, events));
        (Self { commands }, events_rx)
    }

    /// Runs `f` in the pump; `None` if the pump ended.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Pump, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let (tx, rx) = oneshot::channel();
        // The caller may have gone away; then nobody wants the answer.
        let run = move |pump: &mut Pump, now: Instant| drop(tx.send(f(pump, now)));
        self.commands.send(Box::new(run)).await.ok()?;
        rx.await.ok()
    }

    /// Begins to look for loops on all LANs, in this node's name.
    pub async fn arm_guard(&self, id: Identity) {
        self.call(move |p, now| p.arm_guard(now, id)).await;
    }

    /// Where this node's own sealed traffic comes from: it never enters by a TAP.
    pub async fn set_underlay(&self, underlay: Underlay) {
        self.call(move |p, _| p.set_underlay(underlay)).await;
    }

    /// Members that were heard on the wire of one of this node's ports: neighbours of this machine.
    pub async fn neighbours(&self) -> BTreeSet<NodeId> {
        self.call(|p, now| p.neighbours(now)).await.unwrap_or_default()
    }

    /// Adds a LAN without ports and members; again is no change.
    pub async fn add_lan(&self, lan: LanId) -> Result<(), LanError> {
        self.call(move |p, now| p.add_lan(now, lan))
            .await
            .unwrap_or(Err(LanError::Closed))
    }

    /// Removes a LAN and its ports.
    pub async fn remove_lan(&self, lan: &LanId) {
        let lan = lan.clone();
        self.call(move |p, now| p.remove_lan(now, &lan)).await;
    }

    /// Makes a TAP and adds it to the LAN.
    pub async fn add_tap(&self, lan: &LanId, spec: TapSpec) -> Result<PortInfo, PortError> {
        let lan = lan.clone();
        self.call(move |p, now| p.add_tap(now, &lan, spec))
            .await
            .unwrap_or(Err(PortError::Closed))
    }

    /// Adds a network card by translation ([`crate::mactrans`]); the card itself stays as it is.
    pub async fn add_packet(&self, lan: &LanId, interface: String) -> Result<PortInfo, PortError> {
        let lan = lan.clone();
        self.call(move |p, now| p.add_packet(now, &lan, &interface))
            .await
            .unwrap_or(Err(PortError::Closed))
    }

    /// Adds a guest's port. It connects to QEMU's socket, and again whenever that ends, until it is removed.
    pub async fn add_guest(&self, lan: &LanId, port: GuestPort) -> Result<PortId, PortError> {
        let lan = lan.clone();
        self.call(move |p, now| p.add_guest(now, &lan, port))
            .await
            .unwrap_or(Err(PortError::Closed))
    }

    /// Gives a guest's port other rules; what it holds stays, as far as they allow. False if there is no such port.
    pub async fn set_guest_rules(&self, port: PortId, rules: CompiledPolicy) -> bool {
        self.call(move |p, now| p.set_guest_rules(now, port, rules))
            .await
            .unwrap_or(false)
    }

    /// Rules for guests behind other members, and who is on the LAN only to lend a machine.
    pub async fn set_lan_rules(&self, lan: &LanId, remote: CompiledPolicy, hosts: BTreeSet<NodeId>) {
        let lan = lan.clone();
        self.call(move |p, _| p.set_lan_rules(&lan, remote, hosts)).await;
    }

    /// The LAN's MTU: the largest L3 packet that passes, bytes; its TAPs get it, too.
    pub async fn set_mtu(&self, lan: &LanId, mtu: u16) {
        let lan = lan.clone();
        self.call(move |p, _| p.set_mtu(&lan, mtu)).await;
    }

    /// The IP addresses that a guest's port holds, and how.
    pub async fn held(&self, port: PortId) -> Vec<(IpAddr, How)> {
        self.call(move |p, now| p.held(now, port)).await.unwrap_or_default()
    }

    /// Removes a port and withdraws what was behind it.
    pub async fn remove_port(&self, port: PortId) -> Result<(), PortError> {
        self.call(move |p, now| p.remove_port(now, port))
            .await
            .unwrap_or(Err(PortError::Closed))
    }

    /// Uses a link; it takes the place of an older one to the same peer.
    pub async fn add_link(&self, link: Box<dyn Link>) {
        self.call(move |p, now| p.add_link(now, link)).await;
    }

    /// Drops the link to a peer.
    pub async fn remove_link(&self, peer: NodeId) {
        self.call(move |p, now| p.remove_link(now, peer)).await;
    }

    /// Who the members of a LAN are, this node itself not needed among them.
    pub async fn set_members(&self, lan: &LanId, members: BTreeSet<NodeId>) {
        let lan = lan.clone();
        self.call(move |p, now| p.set_members(now, &lan, members)).await;
    }

    /// Takes a member's adverts, in the order in which it made them; the caller has checked the signature, the tunnel
    /// checks membership and sequence. What to answer; `None` if the pump ended.
    pub async fn apply_adverts(&self, lan: &LanId, from: NodeId, adverts: Vec<MacAdvert>) -> Option<Vec<MacBehind>> {
        let lan = lan.clone();
        self.call(move |p, now| p.apply_adverts(now, &lan, from, &adverts))
            .await
    }

    /// The same, where they are all that the member claims in a span of addresses.
    pub async fn apply_whole(
        &self,
        lan: &LanId,
        from: NodeId,
        span: Span,
        adverts: Vec<MacAdvert>,
    ) -> Option<Vec<MacBehind>> {
        let lan = lan.clone();
        self.call(move |p, now| p.apply_whole(now, &lan, from, &span, &adverts))
            .await
    }

    /// What was heard of a member adds up to this, by LAN.
    pub async fn heard_sums(&self, peer: NodeId) -> Vec<(LanId, u64)> {
        self.call(move |p, _| p.sums(peer, |s| s.heard_sum(&peer)))
            .await
            .unwrap_or_default()
    }

    /// What this node claims on the LANs that it shares with a member adds up to this, by LAN.
    pub async fn own_sums(&self, peer: NodeId) -> Vec<(LanId, u64)> {
        self.call(move |p, _| p.sums(peer, Switch::own_sum))
            .await
            .unwrap_or_default()
    }

    /// Takes a member's answer to adverts of this node.
    pub async fn take_answer(&self, lan: &LanId, from: NodeId, behind: Vec<MacBehind>) {
        let lan = lan.clone();
        self.call(move |p, now| p.take_answer(now, &lan, from, &behind)).await;
    }

    /// Everything behind this node's ports, to send to a peer whose link just came up. May be longer than one update.
    pub async fn local_adverts(&self, lan: &LanId) -> Vec<MacAdvert> {
        let lan = lan.clone();
        self.call(move |p, _| p.switch(&lan).map(|s| s.local_adverts()))
            .await
            .flatten()
            .unwrap_or_default()
    }

    /// Takes a member's groups; the caller has checked the signature, the tunnel checks membership and bounds.
    pub async fn apply_groups(&self, lan: &LanId, from: NodeId, all: bool, groups: Vec<GroupAdvert>) {
        let lan = lan.clone();
        self.call(move |p, _| p.apply_groups(&lan, from, all, &groups)).await;
    }

    /// The groups that this node listens to, to send to a peer whose link just came up: every one, or these.
    pub async fn local_groups(&self, lan: &LanId) -> (bool, Vec<GroupAdvert>) {
        let lan = lan.clone();
        self.call(move |p, _| p.switch(&lan).map(|s| s.local_groups()))
            .await
            .flatten()
            .unwrap_or((true, Vec::new()))
    }

    /// What kept the LAN quiet here: requests answered, groups narrowed.
    pub async fn stats(&self, lan: &LanId) -> QuietStats {
        let lan = lan.clone();
        self.call(move |p, _| p.switch(&lan).map(|s| s.quiet_stats()))
            .await
            .flatten()
            .unwrap_or_default()
    }

    /// The LAN's table.
    pub async fn fdb(&self, lan: &LanId) -> Vec<FdbRow> {
        let lan = lan.clone();
        self.call(move |p, now| p.switch(&lan).map(|s| s.rows(now)))
            .await
            .flatten()
            .unwrap_or_default()
    }

    /// The LAN's ports here.
    pub async fn ports(&self, lan: &LanId) -> Vec<PortInfo> {
        let lan = lan.clone();
        self.call(move |p, _| p.port_infos(&lan)).await.unwrap_or_default()
    }

    /// The LAN's drops here, by reason; reasons without drops are left out.
    pub async fn drops(&self, lan: &LanId) -> BTreeMap<&'static str, u64> {
        let lan = lan.clone();
        self.call(move |p, _| p.switch(&lan).map(|s| s.drops().by_name()))
            .await
            .flatten()
            .unwrap_or_default()
    }

    /// All drops here, of all LANs and of links, by reason.
    pub async fn totals(&self) -> BTreeMap<&'static str, u64> {
        self.call(|p, _| p.totals().by_name()).await.unwrap_or_default()
    }

    /// The links and their paths.
    pub async fn links(&self) -> Vec<(NodeId, PathInfo)> {
        self.call(|p, _| p.link_paths()).await.unwrap_or_default()
    }

    /// Names of our TAPs and of the bridges they are in: the underlay must not use their addresses.
    pub async fn interfaces(&self) -> Vec<String> {
        self.call(|p, _| p.interfaces()).await.unwrap_or_default()
    }

    /// Pings a peer over the frame path.
    pub async fn echo(&self, peer: NodeId, deadline: Duration) -> Result<Duration, EchoError> {
        let wait = async {
            let rx = self
                .call(move |p, now| p.echo(now, peer))
                .await
                .unwrap_or(Err(EchoError::Closed))?;
            rx.await.map_err(|_| EchoError::NoLink(peer))
        };
        tokio::time::timeout(deadline, wait)
            .await
            .unwrap_or(Err(EchoError::TimedOut(peer)))
    }
}
