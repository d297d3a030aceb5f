//! What can go wrong, one enum a family of operations; each becomes a [`Fault`] whose text is for a person.

use crate::{
    admission::Refusal, agent::AgentError, defaults::MAX_SNAPSHOTS, guest::Denied, record::RecordError, spec::SpecError,
};
use std::{io, path::PathBuf};
use wire::{
    fault::{Fault, FaultKind},
    ids::{GuestId, Name},
    units::ByteSize,
};

/// A guests' folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another node has it.
    #[error("{0} is in use by another running node; end it with 'lanline down', or choose another --state folder")]
    Locked(PathBuf),
    /// The file system refuses.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A guest cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The owner's offer or the name stands against it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It was asked for wrongly.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The record cannot be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// QEMU is missing.
    #[error("this host cannot run guests: {0}")]
    QemuMissing(String),
    /// The file system refuses.
    #[error("the guest's folder cannot be made: {path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A guest that exists cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// There is no such guest.
    #[error("there is no guest {0} here")]
    Unknown(GuestId),
    /// Its state forbids it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There is no room to start it again.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What its image brings is unusable.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Its image was never prepared.
    #[error("the guest's image is not ready")]
    NotPrepared,
    /// QEMU is missing.
    #[error("this host cannot run guests: {0}")]
    QemuMissing(String),
    /// It was tried and failed.
    #[error("the guest did not start: {0}")]
    StartFailed(String),
    /// It was tried and failed.
    #[error("the guest could not be stopped: {0}")]
    StopFailed(String),
    /// It was tried and failed.
    #[error("the guest could not be removed: {0}")]
    RemoveFailed(String),
    /// It was tried and failed.
    #[error("the guest could not be {what}: {why}")]
    NotDone {
        /// Paused, resumed, hibernated, copied, rolled back.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// The agent in the guest.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A snapshot of that name is there.
    #[error("the guest has a snapshot {0} already")]
    SnapshotThere(Name),
    /// There is no such snapshot.
    #[error("the guest has no snapshot {0}")]
    NoSnapshot(Name),
    /// As many as may be.
    #[error("the guest has {MAX_SNAPSHOTS} snapshots, no more are kept")]
    TooManySnapshots,
    /// It boots from memory alone.
    #[error("the guest has no disk that could be made persistent")]
    NoDisk,
    /// Its whole disk does not fit.
    #[error("the guest's whole disk takes {need} more on its host, and {free} is free there")]
    NoRoom {
        /// What it takes.
        need: ByteSize,
        /// What may be taken.
        free: ByteSize,
    },
    /// Too much at once.
    #[error("too many commands wait for this guest; try again")]
    Busy,
    /// The node is ending.
    #[error("the node is ending; the guest is not affected")]
    Ending,
    /// The file system refuses.
    #[error("the guest's folder: {path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn full(source: &io::Error) -> Option<&'static str> {
    (source.kind() == io::ErrorKind::StorageFull)
        .then_some("make room on the host's disk, or choose another host with --on")
}

impl From<&CreateError> for Fault {
    fn from(e: &CreateError) -> Self {
        let kind = match e {
            CreateError::Refused(_) => FaultKind::Refused,
            CreateError::Spec(_) => FaultKind::Usage,
            CreateError::QemuMissing(_) => FaultKind::Missing,
            CreateError::Record(_) | CreateError::Io { .. } => FaultKind::Failed,
        };
        let fault = Self::new(kind, e.to_string());
        match e {
            CreateError::Io { source, .. } => full(source).map_or(fault.clone(), |n| fault.next(n)),
            _ => fault,
        }
    }
}

impl From<&VerbError> for Fault {
    fn from(e: &VerbError) -> Self {
        let kind = match e {
            VerbError::Unknown(_) | VerbError::NoSnapshot(_) => FaultKind::NoMatch,
            VerbError::TooManySnapshots | VerbError::NoRoom { .. } => FaultKind::Refused,
            VerbError::NoDisk => FaultKind::Usage,
            VerbError::Agent(AgentError::Silent) => FaultKind::Unreachable,
            VerbError::Agent(AgentError::Late(_)) => FaultKind::TimedOut,
            VerbError::SnapshotThere(_) => FaultKind::Usage,
            VerbError::Refused(_) => FaultKind::Refused,
            VerbError::Spec(_) => FaultKind::Usage,
            VerbError::QemuMissing(_) => FaultKind::Missing,
            _ => FaultKind::Failed,
        };
        let fault = Self::new(kind, e.to_string());
        match e {
            VerbError::Unknown(_) => fault.next("lanline ls"),
            VerbError::NoSnapshot(_) | VerbError::TooManySnapshots => {
                fault.next("'lanline snapshot VM' lists them, 'lanline snapshot VM NAME --rm' deletes one")
            }
            VerbError::SnapshotThere(_) => fault.next("choose another name, or delete it: lanline snapshot VM NAME --rm"),
            VerbError::Agent(AgentError::Silent) => fault.next(
                "install qemu-guest-agent in the guest and start it; 'lanline wait VM agent' waits for it; 'lanline console' needs none",
            ),
            VerbError::NoRoom { .. } => fault.next(
                "make room on the host's disk ('lanline image gc' there drops what no image needs), or choose another host: 'lanline run --on', 'lanline move VM --to HOST'",
            ),
            VerbError::StartFailed(_) => fault.next("'lanline logs' shows what the guest and QEMU wrote"),
            VerbError::Io { source, .. } => full(source).map_or(fault.clone(), |n| fault.next(n)),
            _ => fault,
        }
    }
}
