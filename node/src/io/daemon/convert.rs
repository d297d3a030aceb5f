//! From what the organs say to what the API shows.

use crate::api;
use ::images::io::{ImageInfo, Progress as ImportProgress, PullProgress, Stage};
use wire::{guest::ImageProgress, link::PathKind};

pub(super) fn image_row(i: &ImageInfo) -> api::ImageRow {
    api::ImageRow {
        id: i.id.to_string(),
        names: i.names.clone(),
        size_bytes: i.size,
        stored_bytes: i.stored_bytes,
        pieces_total: i.pieces_total,
        pieces_have: i.pieces_have,
        complete: i.complete,
        added: i.added.0,
    }
}

pub(super) fn import_progress(p: &ImportProgress) -> api::ProgressLine {
    api::ProgressLine {
        what: match p.stage {
            Stage::Convert => "converting to raw",
            Stage::Hash => "hashing and storing",
            Stage::Verify => "verifying",
            Stage::Export => "writing",
        }
        .into(),
        done: p.done,
        total: Some(p.total),
        unit: api::Unit::Bytes,
        ..Default::default()
    }
}

pub(super) fn pull_progress(p: &PullProgress) -> ImageProgress {
    ImageProgress {
        pieces_total: u64::from(p.pieces_total),
        pieces_have: u64::from(p.pieces_have),
        bytes_total: p.bytes_total,
        bytes_have: p.bytes_have,
        rate: p.rate,
        peers: u32::try_from(p.peers).unwrap_or(u32::MAX),
        eta_ms: p.eta.map(super::run::millis),
    }
}

pub(super) fn pull_line(what: &str, p: &ImageProgress) -> api::ProgressLine {
    api::ProgressLine {
        what: what.to_owned(),
        done: p.bytes_have,
        total: Some(p.bytes_total),
        unit: api::Unit::Bytes,
        rate: Some(p.rate),
        peers: Some(p.peers),
        eta_ms: p.eta_ms,
        note: None,
    }
}

pub(super) fn nat(n: &overlay::nat::NatReport) -> api::NatView {
    use overlay::nat::NatKind as K;
    let kind = match n.kind {
        K::Unknown => "unknown",
        K::None { .. } => "none",
        K::Cone { .. } => "cone",
        K::SymmetricEasy { .. } => "symmetric-easy",
        K::Symmetric => "symmetric",
        K::UdpBlocked => "udp-blocked",
        K::NoIpv4 => "no-ipv4",
    };
    api::NatView {
        kind: kind.into(),
        double: n.double,
        says: n.says.clone(),
        because: n.because.clone(),
        mapping: n.mapping.clone(),
        advice: n.advice.clone(),
    }
}

/// How bytes reach a peer.
pub(super) fn path(kind: PathKind) -> api::PathView {
    match kind {
        PathKind::Direct => api::PathView::Direct,
        PathKind::Relayed => api::PathView::Relayed,
        PathKind::Tcp => api::PathView::Tcp,
    }
}
