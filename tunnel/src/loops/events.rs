//! What the loop guard says, and its plain words.

use super::Clash;
use crate::{DropReason, PortId};
use serde::Serialize;
use std::time::Duration;
use wire::NodeId;

/// What a port does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "phase", content = "by")]
pub enum Phase {
    /// New: it only listens who else is there.
    Listening,
    /// It carries frames.
    Forwarding,
    /// Another member, the designated forwarder, carries the frames of this physical LAN.
    Standby(#[serde(serialize_with = "crate::fdb::as_text")] NodeId),
    /// It is part of a loop.
    Cut(Cause),
}

/// Why a port was cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "cause", content = "by")]
pub enum Cause {
    /// Its own probe came back by it: a loop in what it is plugged into.
    SamePort,
    /// A probe passed between it and another port of this LAN: both lead to one segment, or one guest joins them.
    OwnPort(PortId),
    /// A probe passed between it and a port of another LAN.
    OtherLan(PortId),
    /// A member's port is behind the guest: the guest, or a node inside it, is bridged to the LAN that it is in.
    MemberBehindGuest(#[serde(serialize_with = "crate::fdb::as_text")] NodeId),
    /// The same frames came in by it and by a link, again and again.
    Repeats(#[serde(serialize_with = "crate::fdb::as_text")] NodeId),
}

/// What people should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardEvent {
    /// Another member carries this physical LAN.
    Standby {
        /// The port.
        port: PortId,
        /// The designated forwarder.
        df: NodeId,
    },
    /// The port carries frames (again).
    Forwarding {
        /// The port.
        port: PortId,
    },
    /// The port is part of a loop and carries nothing.
    Cut {
        /// The port.
        port: PortId,
        /// Why.
        cause: Cause,
        /// It is tried again after this.
        pause: Duration,
    },
    /// A member's guest is bridged to what this port is plugged into; its host cuts the guest off.
    Nested {
        /// The port.
        port: PortId,
        /// The guest's host.
        host: NodeId,
    },
    /// Another machine probes with this node's key.
    Twin {
        /// The port.
        port: PortId,
    },
    /// A member lets probes through.
    Leak {
        /// The port that the probe left by.
        port: PortId,
        /// Who sent it over a link.
        peer: NodeId,
    },
    /// This node's own sealed traffic was about to enter its own tunnel.
    OwnUnderlay {
        /// The port.
        port: PortId,
    },
    /// Two members' LANs have the same service.
    Clash(Clash),
}

impl Phase {
    /// Why it carries nothing; `None` if it does.
    pub fn blocks(&self) -> Option<DropReason> {
        match self {
            Self::Forwarding => None,
            Self::Listening => Some(DropReason::PortListening),
            Self::Standby(_) => Some(DropReason::PortStandby),
            Self::Cut(_) => Some(DropReason::PortLoop),
        }
    }

    /// In words, where there is something to say; `name` gives a port's name.
    pub fn words(&self, name: &dyn Fn(PortId) -> String) -> Option<String> {
        match self {
            Self::Forwarding => None,
            Self::Listening => Some("listening who else is on this segment".into()),
            Self::Standby(df) => Some(format!(
                "standby: member {} is on the same physical LAN and carries its frames",
                df.short()
            )),
            Self::Cut(cause) => Some(format!("cut: {}", cause.words(name))),
        }
    }
}

impl Cause {
    /// In words; `name` gives a port's name.
    pub fn words(&self, name: &dyn Fn(PortId) -> String) -> String {
        match self {
            Self::SamePort => "a loop: what it sends comes back by it; look for a cable or a switch that loops".into(),
            Self::OwnPort(other) => format!(
                "a loop: it and {} lead to the same segment; detach one, or undo the bridge between them",
                name(*other)
            ),
            Self::OtherLan(other) => format!(
                "it and {}, a port of another LAN, are bridged together; undo that bridge, or detach one",
                name(*other)
            ),
            Self::MemberBehindGuest(member) => format!(
                "a loop: member {} of this LAN is behind this guest; the guest bridges its network card into the LAN \
                 that it is in",
                member.short()
            ),
            Self::Repeats(peer) => format!(
                "a loop that probes do not pass: the same frames come in by it and from member {}, again and again; it is \
                 off for as long as it hears them",
                peer.short()
            ),
        }
    }
}

impl GuardEvent {
    /// In words; `name` gives a port's name.
    pub fn words(&self, name: &dyn Fn(PortId) -> String) -> String {
        match self {
            Self::Standby { port, df } => format!(
                "{} stands by: member {} is on the same physical LAN and carries its frames",
                name(*port),
                df.short()
            ),
            Self::Forwarding { port } => format!("{} carries frames now", name(*port)),
            Self::Cut { port, cause, pause } => format!(
                "{} is cut: {}; it is tried again after {} s without a sign of it",
                name(*port),
                cause.words(name),
                pause.as_secs()
            ),
            Self::Nested { port, host } => format!(
                "behind {} is a guest of host {} in the same LAN (lanline inside lanline); its host cuts it off. \
                 Detach this bridge, or take the guest's network card out of it",
                name(*port),
                host.short()
            ),
            Self::Twin { port } => format!(
                "another machine behind {} uses this node's key; was the state folder copied? Give one a new key",
                name(*port)
            ),
            Self::Leak { port, peer } => format!(
                "a probe of {} came back from member {}, which must never let one through: a loop that the members' \
                 guards do not see, or a node that was tampered with",
                name(*port),
                peer.short()
            ),
            Self::OwnUnderlay { port } => format!(
                "this node's own sealed traffic came in by {} and was dropped: a tunnel must not run through itself; \
                 give this machine a route to its peers outside the LAN",
                name(*port)
            ),
            Self::Clash(clash) => clash.to_string(),
        }
    }
}
