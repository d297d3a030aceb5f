//! What the facade takes and gives.

use super::{enforce::Gate, probe::HostCaps};
use crate::{admission::Offer, guest::Graces};
use std::path::PathBuf;
use wire::{
    guest::{GuestState, GuestView},
    ids::{GuestId, NodeId},
    units::ByteSize,
};

/// How to keep guests.
#[derive(Clone, Debug)]
pub struct GuestsConfig {
    /// This node.
    pub host: NodeId,
    /// What the machine can do, from [`super::probe()`].
    pub caps: HostCaps,
    /// What the owner lends to others; none: only the node's own guests run.
    pub offer: Option<Offer>,
    /// How long each step may take.
    pub graces: Graces,
    /// What lets a guest answer that the owner's policy holds back.
    pub gate: Gate,
}

impl GuestsConfig {
    /// With the defaults.
    pub fn new(host: NodeId, caps: HostCaps) -> Self {
        Self {
            host,
            caps,
            offer: None,
            graces: Graces::default(),
            gate: Gate::none(),
        }
    }
}

/// What a disk that is to hold everything takes of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that its image would bring.
    pub need: ByteSize,
    /// Bytes that must be left after that.
    pub spare: ByteSize,
    /// Refuse, rather than wait for room, even if it was asked for before.
    pub must: bool,
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Ask the guest, then tell QEMU, then kill it; each with its grace.
    Graceful,
    /// Do not ask the guest.
    Force,
}

/// What happened to a guest. A hint: [`Guests::info`](super::Guests::info) has the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// Its state or note is another.
    StateChanged {
        /// Which guest.
        id: GuestId,
        /// Its state now.
        state: GuestState,
        /// Why.
        note: Option<String>,
    },
    /// Its process is gone.
    Exited {
        /// Which guest.
        id: GuestId,
        /// How, if it is known.
        status: Option<String>,
    },
    /// It is deleted.
    Removed {
        /// Which guest.
        id: GuestId,
    },
}

/// What became of a guest while no node kept it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptedAs {
    /// It runs, and its monitor answers. Serve its disk, connect its NIC.
    Running,
    /// Its process is there and does not answer; the guest is in state `error`.
    NotAnswering,
    /// It has no process.
    Resting,
}

/// A guest that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The guest.
    pub view: GuestView,
    /// What became of it.
    pub found: AdoptedAs,
    /// It has a disk, whose image is to be served again at [`Endpoints::disk`].
    pub disk: bool,
}

/// Where the node meets a guest: paths that `bind` and `connect` of this process can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The NIC's stream socket: QEMU listens while the guest runs, the tunnel connects.
    pub nic: PathBuf,
    /// The image's NBD socket: the node binds it before the start, QEMU connects. After a bind while the guest runs,
    /// call [`Guests::hand_over_disk`](super::Guests::hand_over_disk).
    pub disk: PathBuf,
    /// Where a kernel may be materialised in place.
    pub kernel: PathBuf,
    /// Where an initrd may be materialised in place.
    pub initrd: PathBuf,
    /// The guest's own disk: a qcow2 delta over its image. QEMU's while the guest runs; else it may be read.
    pub delta: PathBuf,
}
