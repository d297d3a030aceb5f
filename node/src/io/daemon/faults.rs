//! From the organs' errors to what a person is told.

use std::fmt::Display;
use wire::{Fault, FaultKind};

/// It was tried and failed, in the error's own words.
pub(super) fn failed(e: &dyn Display) -> Fault {
    Fault::new(FaultKind::Failed, e.to_string())
}

/// The request makes no sense, in the error's own words.
pub(super) fn usage(e: impl Display) -> Fault {
    Fault::new(FaultKind::Usage, e.to_string())
}

/// The image store.
pub(super) fn store(e: ::images::io::StoreError) -> Fault {
    use ::images::io::StoreError as E;
    match &e {
        E::UnknownImage(_) => Fault::new(FaultKind::NoMatch, e.to_string()).next("see what is here: lanline image ls"),
        E::Locked { .. } => Fault::new(FaultKind::Refused, e.to_string()),
        E::Full { .. } | E::Quota { .. } => failed(&e).next("lanline image ls shows what takes the room"),
        E::InUse(_) => Fault::new(FaultKind::Refused, e.to_string()),
        E::File { source, .. } => Fault::new(FaultKind::Failed, format!("{e}: {source}")),
        _ => failed(&e),
    }
}

/// A port of a LAN.
pub(super) fn port(e: tunnel::io::PortError) -> Fault {
    use tunnel::io::PortError as E;
    let kind = match &e {
        E::NoPermission { .. } | E::NoRawPermission { .. } | E::NoTun => FaultKind::Missing,
        E::BadName(_) | E::NotBridge(_) | E::NameTaken(_) => FaultKind::Usage,
        E::NoInterface(_) | E::NoLan(_) | E::NoPort(_) => FaultKind::NoMatch,
        _ => FaultKind::Failed,
    };
    Fault::new(kind, e.to_string())
}

/// A ticket's text.
pub(super) fn ticket(e: &overlay::ticket::TicketError) -> Fault {
    use overlay::ticket::TicketError as E;
    let kind = if matches!(e, E::Expired { .. }) {
        FaultKind::Refused
    } else {
        FaultKind::Usage
    };
    Fault::new(kind, e.to_string()).next("a fresh one comes from the LAN's owner: lanline lan invite NAME")
}

/// A file that is to become an image.
pub(super) fn import(e: ::images::io::ImportError) -> Fault {
    use ::images::io::ImportError as E;
    match e {
        E::Store(e) => store(e),
        E::NoConverter => Fault::new(FaultKind::Missing, e.to_string()).next("apt-get install qemu-utils"),
        E::Oci(::images::oci::OciError::NoTool) => {
            Fault::new(FaultKind::Missing, e.to_string()).next("apt-get install e2fsprogs")
        }
        E::Source { .. } => Fault::new(FaultKind::Failed, e.to_string())
            .next("the node reads the file with its own rights: make it readable for the user that runs the node"),
        E::Unfit { .. }
        | E::Qcow2(_)
        | E::Format(_)
        | E::Manifest(_)
        | E::Convert(_)
        | E::Delta(_)
        | E::Oci(_)
        | E::Converter(..) => failed(&e),
    }
}

/// A pull that brought not all of an image.
pub(super) fn pull(e: &::images::io::PullError) -> Fault {
    use ::images::io::PullError as E;
    let kind = match e {
        E::Part(..) => FaultKind::Usage,
        E::NoPeers { .. } => FaultKind::NoMatch,
        E::Stuck { .. } => FaultKind::TimedOut,
        _ => FaultKind::Failed,
    };
    let fault = Fault::new(kind, e.to_string());
    match e {
        E::NoPeers { .. } | E::Stuck { .. } => {
            fault.next("bring a node that holds the image onto the mesh, then run it again: what is here is kept")
        }
        _ => fault,
    }
}
