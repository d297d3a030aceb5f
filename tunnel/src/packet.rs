//! A frame whose offload claims were compared with its bytes.
//!
//! Claims come from this machine's kernel or from a peer and are hostile until they pass [`Packet::check`], the only
//! constructor. What passed is safe to give to a kernel, to cut, and to segment here.

use crate::{
    DropReason,
    classify::{self, Fragment, proto},
    defaults::{MAX_HEADERS, MAX_UDP_SEGMENTS, MIN_TCP_GSO},
};
use std::net::IpAddr;
use wire::frame::{EtherKind, Frame, Gso, GsoKind, Offload, PartialCsum};

/// Where a super-frame's headers are, bytes from the frame's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// L3 header.
    pub l3: usize,
    /// L4 header.
    pub l4: usize,
    /// End of the L4 header: where the payload begins.
    pub len: usize,
    /// IPv6, else IPv4.
    pub v6: bool,
    /// TCP, else UDP.
    pub tcp: bool,
}

/// A checked frame with the work that is left to do on it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    frame: Frame<'a>,
    csum: Option<PartialCsum>,
    gso: Option<(Gso, PartialCsum, Headers)>,
}

impl<'a> Packet<'a> {
    /// Checks the frame, then the claims against it.
    pub fn check(bytes: &'a [u8], offload: Offload) -> Result<Self, DropReason> {
        let frame = Frame::new(bytes)?;
        let Some(csum) = offload.csum else {
            return if offload.gso.is_none() {
                Ok(Self {
                    frame,
                    csum: None,
                    gso: None,
                })
            } else {
                Err(DropReason::BadOffload)
            };
        };
        let gso = match offload.gso {
            None => {
                check_csum(&frame, csum)?;
                None
            }
            Some(g) => Some((g, csum, check_gso(&frame, g, csum)?)),
        };
        Ok(Self {
            frame,
            csum: Some(csum),
            gso,
        })
    }

    /// The frame.
    pub fn frame(&self) -> &Frame<'a> {
        &self.frame
    }

    /// All its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.frame.bytes()
    }

    /// Its partial checksum.
    pub fn csum(&self) -> Option<PartialCsum> {
        self.csum
    }

    /// How it is to be cut, with its partial checksum and where its headers are.
    pub fn gso(&self) -> Option<(Gso, PartialCsum, Headers)> {
        self.gso
    }

    /// The claims, as they were checked.
    pub fn offload(&self) -> Offload {
        Offload {
            csum: self.csum,
            gso: self.gso.map(|(g, ..)| g),
        }
    }

    /// Frames of ordinary size that it stands for.
    pub fn segments(&self) -> usize {
        self.gso.map_or(1, |(g, _, h)| {
            (self.bytes().len() - h.len).div_ceil(usize::from(g.size)).max(1)
        })
    }
}

/// The sum must begin behind an IP header and its field must be inside the frame.
fn check_csum(frame: &Frame<'_>, csum: PartialCsum) -> Result<(), DropReason> {
    let (start, field) = (
        usize::from(csum.start),
        usize::from(csum.start) + usize::from(csum.offset),
    );
    if start < frame.l3() + 20 || field + 2 > frame.bytes().len() {
        return Err(DropReason::BadOffload);
    }
    Ok(())
}

fn check_gso(frame: &Frame<'_>, gso: Gso, csum: PartialCsum) -> Result<Headers, DropReason> {
    let bad = DropReason::BadOffload;
    let ip = classify::ip(frame).map_err(|_| bad)?.ok_or(bad)?;
    let v6 = frame.kind() == EtherKind::Ipv6;
    let len_of_family = match (gso.kind, ip.src) {
        (GsoKind::Tcp4 | GsoKind::Udp, IpAddr::V4(_)) => be16(frame.bytes(), frame.l3() + 2).map(|l| l + frame.l3()),
        (GsoKind::Tcp6 | GsoKind::Udp, IpAddr::V6(_)) => {
            be16(frame.bytes(), frame.l3() + 4).map(|l| l + frame.l3() + 40)
        }
        _ => None,
    };
    let tcp = gso.kind != GsoKind::Udp;
    let want = if tcp { (proto::TCP, 16) } else { (proto::UDP, 6) };
    let csum_fits = usize::from(csum.start) == ip.l4 && (ip.proto, csum.offset) == want;
    if len_of_family != Some(frame.bytes().len()) || ip.fragment != Fragment::Whole || !csum_fits {
        return Err(bad);
    }
    let l4_len = if tcp {
        usize::from(*ip.payload.get(12).ok_or(bad)? >> 4) * 4
    } else {
        8
    };
    let len = ip.l4 + l4_len;
    let payload = frame.bytes().len().checked_sub(len).filter(|n| *n > 0).ok_or(bad)?;
    if l4_len < if tcp { 20 } else { 8 } || len > MAX_HEADERS {
        return Err(bad);
    }
    let segments = payload.div_ceil(usize::from(gso.size));
    if (tcp && gso.size < MIN_TCP_GSO) || (!tcp && segments > MAX_UDP_SEGMENTS) {
        return Err(bad);
    }
    Ok(Headers {
        l3: frame.l3(),
        l4: ip.l4,
        len,
        v6,
        tcp,
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])))
}
