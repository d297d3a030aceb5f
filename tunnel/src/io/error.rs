//! What can go wrong, in words that say what to do.

use std::io;
use wire::{LanId, NodeId};

/// A LAN cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// Two LANs whose ids begin alike.
    #[error(
        "LAN {new} has the same four-byte tag as LAN {old}, which this node is in; leave one of them, or make the new one anew (its key is random)"
    )]
    TagClash {
        /// The LAN that was to be added.
        new: LanId,
        /// The LAN that is there.
        old: LanId,
    },
    /// See `defaults::LANS`.
    #[error("this node is in {0} LANs already, which is the most; leave one first")]
    TooMany(usize),
    /// The pump ended.
    #[error("the node's frame pump has ended; start the node again")]
    Closed,
}

/// A port cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Not allowed to make or change interfaces.
    #[error(
        "not allowed to {what}; run lanline as root, or give it the right: setcap cap_net_admin+ep $(command -v lanline)"
    )]
    NoPermission {
        /// What was tried.
        what: String,
    },
    /// Not allowed to use packet sockets.
    #[error(
        "not allowed to {what}; run lanline as root, or give it the right: setcap cap_net_admin,cap_net_raw+ep $(command -v lanline)"
    )]
    NoRawPermission {
        /// What was tried.
        what: String,
    },
    /// No /dev/net/tun.
    #[error("this machine has no /dev/net/tun; load it with: modprobe tun (in a container: --device /dev/net/tun)")]
    NoTun,
    /// Not a name that an interface can have.
    #[error("'{0}' is not an interface name: use 1 to 15 of a-z A-Z 0-9 . _ -")]
    BadName(String),
    /// The name belongs to another interface.
    #[error(
        "an interface named '{0}' exists already and is not free for lanline; choose another name, or remove it: ip link del {0}"
    )]
    NameTaken(String),
    /// No such interface.
    #[error("there is no interface '{0}'; list them with: ip -br link")]
    NoInterface(String),
    /// An interface, but not a bridge.
    #[error(
        "'{0}' is an interface but not a bridge; let lanline put it into one, or join by translation: --interface {0}"
    )]
    NotBridge(String),
    /// The bridge refused the TAP.
    #[error("bridge '{bridge}' does not take the TAP: {source}")]
    Bridge {
        /// Its name.
        bridge: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The LAN was not added.
    #[error("this node is not in LAN {0}; join it first")]
    NoLan(LanId),
    /// No such port.
    #[error("there is no port {0}")]
    NoPort(crate::PortId),
    /// See `defaults::PORTS`.
    #[error("the LAN has {0} ports here already, which is the most")]
    TooMany(usize),
    /// Another call to the kernel failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pump ended.
    #[error("the node's frame pump has ended; start the node again")]
    Closed,
}

/// A frame-path ping has no answer.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// No link to that peer.
    #[error("there is no frame link to {0}; see 'lanline peers'")]
    NoLink(NodeId),
    /// No reply before the deadline.
    #[error("{0} did not answer in time over the frame link")]
    TimedOut(NodeId),
    /// See `defaults::ECHOES`.
    #[error("too many pings to {0} are under way")]
    TooMany(NodeId),
    /// The pump ended.
    #[error("the node's frame pump has ended; start the node again")]
    Closed,
}

/// Why a capture did not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// The pump has ended.
    #[error("the tunnel has ended")]
    Closed,
    /// Each costs a copy of every frame that it selects.
    #[error("{0} captures are under way, which is the most at once")]
    TooMany(usize),
}
