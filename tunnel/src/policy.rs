//! What a guest's port may send, safe by default.

use crate::{
    DropReason,
    classify::{self, Fragment, proto},
    defaults::GUEST_MACS,
};
use etherparse::ArpPacketSlice;
use wire::{
    MacAddr,
    frame::{EtherKind, Frame},
};

/// Rules of one guest's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPolicy {
    macs: Vec<MacAddr>,
}

impl GuestPolicy {
    /// For a guest that was given this address.
    pub fn new(mac: MacAddr) -> Self {
        Self { macs: vec![mac] }
    }

    /// Gives it one more; false if it has as many as a guest may have.
    pub fn allow(&mut self, mac: MacAddr) -> bool {
        let fits = self.macs.len() < GUEST_MACS;
        if fits {
            self.macs.push(mac);
        }
        fits
    }

    /// Its addresses.
    pub fn macs(&self) -> &[MacAddr] {
        &self.macs
    }

    /// May this frame enter?
    pub fn check(&self, frame: &Frame<'_>) -> Result<(), DropReason> {
        if !self.macs.contains(&frame.src()) {
            return Err(DropReason::SpoofedSource);
        }
        if frame.kind() == EtherKind::Arp {
            return self.check_arp(frame);
        }
        let Some(ip) = classify::ip(frame).map_err(|_| DropReason::GuestHiddenHeaders)? else {
            return Ok(());
        };
        // A first fragment without its whole L4 header hides what it is from every rule below (RFC 7112, RFC 3128).
        if ip.fragment == Fragment::First && ip.payload.len() < 8 {
            return Err(DropReason::GuestHiddenHeaders);
        }
        match ip.udp_ports() {
            Some((67, _)) if ip.src.is_ipv4() => return Err(DropReason::GuestDhcpServer),
            Some((547, _)) if ip.src.is_ipv6() => return Err(DropReason::GuestDhcpServer),
            _ => {}
        }
        if ip.proto == proto::ICMPV6 && ip.fragment != Fragment::Whole && ip.src.is_ipv6() {
            // Neighbour discovery is never fragmented (RFC 6980); a large echo that is loses its first part's type check
            // only if it begins with one of its types.
            if matches!(ip.icmpv6_type(), Some(133..=137)) {
                return Err(DropReason::GuestHiddenHeaders);
            }
        }
        match ip.icmpv6_type() {
            Some(134 | 137) => Err(DropReason::GuestRouterAdvert),
            Some(136) => self.check_neighbour(ip.payload),
            _ => Ok(()),
        }
    }

    fn check_arp(&self, frame: &Frame<'_>) -> Result<(), DropReason> {
        let arp = ArpPacketSlice::from_slice(frame.payload()).map_err(|_| DropReason::GuestHiddenHeaders)?;
        let own = self.macs.iter().any(|m| arp.sender_hw_addr() == m.0);
        if own {
            Ok(())
        } else {
            Err(DropReason::GuestNeighbourSpoof)
        }
    }

    /// A neighbour advertisement's target link-layer address (option 2, RFC 4861 §4.6.1) must be one of its own.
    fn check_neighbour(&self, icmp: &[u8]) -> Result<(), DropReason> {
        let mut options = icmp.get(24..).unwrap_or_default();
        while let [kind, units, ..] = *options {
            let len = usize::from(units) * 8;
            if len == 0 || len > options.len() {
                return Err(DropReason::GuestHiddenHeaders);
            }
            let (option, rest) = options.split_at(len);
            if kind == 2 && !self.macs.iter().any(|m| option.get(2..8) == Some(&m.0[..])) {
                return Err(DropReason::GuestNeighbourSpoof);
            }
            options = rest;
        }
        Ok(())
    }
}
