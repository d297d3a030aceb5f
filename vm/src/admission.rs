//! Admission: does one more guest fit into what the owner lends?
//!
//! Refuse on admission, never take away from a guest that was admitted. Paper: §2.2 (the owner's constraints hold).
//! The owner's policy language compiles to an [`Offer`] in time; grants are checked before, by the node.

use crate::defaults::MAX_GUESTS;
use wire::{
    guest::GuestState,
    ids::{GuestId, Name, NodeId},
    units::ByteSize,
};

/// What an owner lends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// CPUs, for all guests together.
    pub cpus: u16,
    /// RAM, for all guests together.
    pub memory: ByteSize,
    /// Guests that may run at once.
    pub max_vms: u16,
    /// Disk for the overlays of all guests together, running or not; none: as much as is free.
    pub disk: Option<ByteSize>,
}

/// What a guest on this host takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Which guest.
    pub id: GuestId,
    /// Whose.
    pub owner: NodeId,
    /// Name.
    pub name: Name,
    /// State; a stopped guest takes only disk.
    pub state: GuestState,
    /// CPUs.
    pub cpus: u16,
    /// RAM.
    pub memory: ByteSize,
    /// Size that its overlay may grow to.
    pub disk: ByteSize,
}

/// Why a guest is not admitted; each sentence says what is free and what to ask for instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is lent.
    #[error("this host lends nothing at the moment; its owner can change that with 'lanline offer'")]
    NoOffer,
    /// As many guests as the owner allows run.
    #[error("{running} guests run here and the owner allows {allowed}; stop one or choose another host")]
    Vms {
        /// Running.
        running: usize,
        /// Allowed.
        allowed: u16,
    },
    /// Not enough CPUs.
    #[error("{asked} CPUs were asked for, {free} of the {lent} lent are free; try --cpus {free} or another host")]
    Cpus {
        /// Asked for.
        asked: u16,
        /// Free.
        free: u16,
        /// Lent in all.
        lent: u16,
    },
    /// No CPU is free.
    #[error("all {lent} CPUs that this host lends are taken; choose another host")]
    NoCpus {
        /// Lent in all.
        lent: u16,
    },
    /// Not enough RAM.
    #[error("{asked} of memory was asked for, {free} of the {lent} lent is free; ask for less or choose another host")]
    Memory {
        /// Asked for.
        asked: ByteSize,
        /// Free.
        free: ByteSize,
        /// Lent in all.
        lent: ByteSize,
    },
    /// Not enough disk.
    #[error("a disk of {asked} was asked for, {free} of the {lent} lent is free; ask for less or choose another host")]
    Disk {
        /// Asked for.
        asked: ByteSize,
        /// Free.
        free: ByteSize,
        /// Lent in all.
        lent: ByteSize,
    },
    /// The file system is nearly full.
    #[error("this host's disk has only {free} left, no guest is started there; choose another host")]
    DiskFull {
        /// Free in the file system.
        free: ByteSize,
    },
    /// The bound on guests of any state.
    #[error("this host keeps {MAX_GUESTS} guests already, stopped ones included; remove one with 'lanline rm'")]
    TooMany,
    /// Two guests of one owner with one name.
    #[error(
        "you already have a guest named '{0}' on this host; choose another --name or remove it with 'lanline rm {0}'"
    )]
    NameTaken(Name),
    /// The id belongs to someone else's guest.
    #[error("this guest id is in use on this host; run it again to get a new one")]
    IdTaken,
}

/// A guest that asks to be admitted: what it will hold.
pub type Ask = Holding;

/// Whether `ask` fits beside `held`. `offer` of `None`: nothing is lent. A guest that is already among `held` is
/// weighed with its new wish, not twice.
pub fn admit(offer: Option<&Offer>, held: &[Holding], ask: &Ask) -> Result<(), Refusal> {
    let offer = offer.ok_or(Refusal::NoOffer)?;
    let others = || held.iter().filter(|h| h.id != ask.id);
    if others().count() >= MAX_GUESTS {
        return Err(Refusal::TooMany);
    }
    let active = || others().filter(|h| h.state.holds_capacity());
    let running = active().count();
    if running >= usize::from(offer.max_vms) {
        return Err(Refusal::Vms {
            running,
            allowed: offer.max_vms,
        });
    }
    let cpus_taken = active().fold(0u16, |sum, h| sum.saturating_add(h.cpus));
    let free = offer.cpus.saturating_sub(cpus_taken);
    if free == 0 {
        return Err(Refusal::NoCpus { lent: offer.cpus });
    }
    if ask.cpus > free {
        return Err(Refusal::Cpus {
            asked: ask.cpus,
            free,
            lent: offer.cpus,
        });
    }
    let free = left(offer.memory, active().map(|h| h.memory));
    if ask.memory > free {
        return Err(Refusal::Memory {
            asked: ask.memory,
            free,
            lent: offer.memory,
        });
    }
    if let Some(lent) = offer.disk {
        let free = left(lent, others().map(|h| h.disk));
        if ask.disk > free {
            return Err(Refusal::Disk {
                asked: ask.disk,
                free,
                lent,
            });
        }
    }
    Ok(())
}

/// Whether the owner of `ask` may have another guest of that name and id here.
pub fn check_identity(held: &[Holding], ask: &Ask) -> Result<(), Refusal> {
    for h in held {
        if h.id == ask.id && h.owner != ask.owner {
            return Err(Refusal::IdTaken);
        }
        if h.id != ask.id && h.owner == ask.owner && h.name == ask.name {
            return Err(Refusal::NameTaken(ask.name.clone()));
        }
    }
    Ok(())
}

/// What of an offer is free now: for adverts.
pub fn free(offer: &Offer, held: &[Holding]) -> Offer {
    let active = || held.iter().filter(|h| h.state.holds_capacity());
    let running = u16::try_from(active().count()).unwrap_or(u16::MAX);
    Offer {
        cpus: offer
            .cpus
            .saturating_sub(active().fold(0u16, |sum, h| sum.saturating_add(h.cpus))),
        memory: left(offer.memory, active().map(|h| h.memory)),
        max_vms: offer.max_vms.saturating_sub(running),
        disk: offer.disk.map(|d| left(d, held.iter().map(|h| h.disk))),
    }
}

fn left(lent: ByteSize, taken: impl Iterator<Item = ByteSize>) -> ByteSize {
    ByteSize(
        lent.0
            .saturating_sub(taken.fold(0u64, |sum, b| sum.saturating_add(b.0))),
    )
}

#[cfg(test)]
#[path = "tests/admission.rs"]
mod tests;
