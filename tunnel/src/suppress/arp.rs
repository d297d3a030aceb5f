//! ARP for IPv4 over Ethernet (RFC 826): reading it from hostile bytes, and making an answer.

use bytes::Bytes;
use etherparse::{ArpHardwareId, ArpOperation, ArpPacketSlice, EtherType};
use std::net::Ipv4Addr;
use wire::{MacAddr, frame::Frame};

/// What an ARP packet asks or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Who has the target address?
    Request,
    /// The sender's address is at the sender's MAC.
    Reply,
}

/// An ARP packet of Ethernet and IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub op: Op,
    /// Sender's MAC.
    pub sha: MacAddr,
    /// Sender's IP; 0.0.0.0 in a probe (RFC 5227 §1.1).
    pub spa: Ipv4Addr,
    /// Target's MAC; meaningless in a request.
    pub tha: MacAddr,
    /// Target's IP.
    pub tpa: Ipv4Addr,
}

/// Why bytes are no [`Arp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArpError {
    /// Shorter than its own lengths say.
    #[error("ARP packet is cut short")]
    Short,
    /// Not Ethernet with IPv4, or neither request nor reply.
    #[error("ARP packet of another kind")]
    OtherKind,
}

/// Reads an ARP packet: what follows the Ethernet header and its tags. Padding behind it is ignored.
///
/// # Errors
/// See [`ArpError`]. Total over any bytes.
pub fn parse(bytes: &[u8]) -> Result<Arp, ArpError> {
    let p = ArpPacketSlice::from_slice(bytes).map_err(|_| ArpError::Short)?;
    if (p.hw_addr_type(), p.proto_addr_type()) != (ArpHardwareId::ETHERNET, EtherType::IPV4) {
        return Err(ArpError::OtherKind);
    }
    let op = match p.operation() {
        ArpOperation::REQUEST => Op::Request,
        ArpOperation::REPLY => Op::Reply,
        _ => return Err(ArpError::OtherKind),
    };
    let mac = |b: &[u8]| b.try_into().map(MacAddr).map_err(|_| ArpError::OtherKind);
    let ip = |b: &[u8]| {
        <[u8; 4]>::try_from(b)
            .map(Ipv4Addr::from)
            .map_err(|_| ArpError::OtherKind)
    };
    Ok(Arp {
        op,
        sha: mac(p.sender_hw_addr())?,
        spa: ip(p.sender_protocol_addr())?,
        tha: mac(p.target_hw_addr())?,
        tpa: ip(p.target_protocol_addr())?,
    })
}

impl Arp {
    /// A host asks whether an address is free before it takes it (RFC 5227 §2.1.1).
    pub fn is_probe(&self) -> bool {
        self.op == Op::Request && self.spa.is_unspecified()
    }

    /// A host says that it has an address, unasked (RFC 5227 §3).
    pub fn is_gratuitous(&self) -> bool {
        self.spa == self.tpa && !self.spa.is_unspecified()
    }
}

/// The frame that answers `request`, which came in `frame`: "its target is at `owner`". The request's tags are kept.
pub fn answer(frame: &Frame<'_>, request: &Arp, owner: MacAddr) -> Bytes {
    let mut f = super::reply_head(frame, owner, 28);
    f.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    f.extend_from_slice(&owner.0);
    f.extend_from_slice(&request.tpa.octets());
    f.extend_from_slice(&request.sha.0);
    f.extend_from_slice(&request.spa.octets());
    f.into()
}
