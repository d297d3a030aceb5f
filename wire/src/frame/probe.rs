//! Loop probes: what a node says on its own ports to find out who else is on that segment.
//!
//! A probe is an Ethernet frame to [`PROBE_GROUP`] with EtherType [`PROBE_TYPE`]. It lives on a segment and never crosses
//! a link. All numbers are big-endian; bytes behind the signature are padding.

use super::Frame;
use crate::{
    ids::NodeId,
    mac::MacAddr,
    sign::{NodeKey, verify_bytes},
    units::UnixMillis,
};

/// Destination of a probe: a locally administered group that every bridge floods and that no protocol owns.
pub const PROBE_GROUP: MacAddr = MacAddr([0x03, 0x4c, 0x4c, 0x50, 0x52, 0x31]);
/// IEEE 802's first EtherType for local experiments.
pub const PROBE_TYPE: u16 = 0x88b5;
/// Bytes of a probe behind its EtherType.
pub const PROBE_LEN: usize = SIGNED + 64;
/// What the signature is for.
pub const PROBE_CONTEXT: &str = "loop-probe";

const MAGIC: [u8; 5] = *b"LLPR\x01";
const SIGNED: usize = 5 + 1 + 32 + 32 + 4 + 8 + 8 + 8;
const FLAG_GUEST: u8 = 1;
const FLAG_FORWARDING: u8 = 2;
const FLAG_REACH: u8 = 4;

/// One run of a node: orders its probes, and tells its own from those of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boot {
    /// When the node started.
    pub started: UnixMillis,
    /// Random, so that nobody can make up a probe of this run beforehand.
    pub nonce: u64,
}

/// What a probe says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `LanId::digest()` of the port's LAN.
    pub lan: [u8; 32],
    /// Who sent it.
    pub node: NodeId,
    /// The sender's number of the port that it left by.
    pub port: u32,
    /// The port is a guest's.
    pub guest: bool,
    /// The sender carries frames between this port and its LAN now.
    pub forwarding: bool,
    /// The sender has a link to a member that it does not hear on this segment.
    pub reach: bool,
    /// The sender's run.
    pub boot: Boot,
    /// Grows with every probe of that run.
    pub counter: u64,
}

/// A probe as it came; true only after [`SignedProbe::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedProbe {
    /// What it says.
    pub probe: Probe,
    /// By the key that is the sender's node id.
    pub signature: [u8; 64],
}

/// Is this frame a probe, under whatever address or tag? Such a frame is never forwarded.
pub fn is_probe(frame: &Frame<'_>) -> bool {
    frame.kind() == super::EtherKind::Other(PROBE_TYPE) && frame.payload().starts_with(&MAGIC[..4])
}

impl Probe {
    fn signed_bytes(&self) -> [u8; SIGNED] {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let flags =
            flag(self.guest, FLAG_GUEST) | flag(self.forwarding, FLAG_FORWARDING) | flag(self.reach, FLAG_REACH);
        let parts: [&[u8]; 8] = [
            &MAGIC,
            &[flags],
            &self.lan,
            &self.node.0,
            &self.port.to_be_bytes(),
            &self.boot.started.0.to_be_bytes(),
            &self.boot.nonce.to_be_bytes(),
            &self.counter.to_be_bytes(),
        ];
        let mut out = [0; SIGNED];
        for (to, from) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    /// Signs it, and makes the frame with this source.
    pub fn seal(&self, key: &NodeKey, src: MacAddr) -> Vec<u8> {
        let bytes = self.signed_bytes();
        let signature = key.sign_bytes(PROBE_CONTEXT, &bytes);
        let head: [&[u8]; 5] = [&PROBE_GROUP.0, &src.0, &PROBE_TYPE.to_be_bytes(), &bytes, &signature];
        head.concat()
    }
}

impl SignedProbe {
    /// Reads what follows the EtherType; `None` if it is cut short, of another version, or has unknown flags.
    pub fn read(payload: &[u8]) -> Option<Self> {
        fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
            let (head, tail) = rest.split_first_chunk::<N>()?;
            *rest = tail;
            Some(*head)
        }
        let mut rest = payload;
        if take::<5>(&mut rest)? != MAGIC {
            return None;
        }
        let [flags] = take::<1>(&mut rest)?;
        if flags & !(FLAG_GUEST | FLAG_FORWARDING | FLAG_REACH) != 0 {
            return None;
        }
        let probe = Probe {
            lan: take(&mut rest)?,
            node: NodeId(take(&mut rest)?),
            port: u32::from_be_bytes(take(&mut rest)?),
            guest: flags & FLAG_GUEST != 0,
            forwarding: flags & FLAG_FORWARDING != 0,
            reach: flags & FLAG_REACH != 0,
            boot: Boot {
                started: UnixMillis(u64::from_be_bytes(take(&mut rest)?)),
                nonce: u64::from_be_bytes(take(&mut rest)?),
            },
            counter: u64::from_be_bytes(take(&mut rest)?),
        };
        Some(Self {
            probe,
            signature: take(&mut rest)?,
        })
    }

    /// Was it signed by the node that it names? One Ed25519 verification: some 60 us.
    pub fn verify(&self) -> bool {
        let bytes = self.probe.signed_bytes();
        verify_bytes(self.probe.node.into(), PROBE_CONTEXT, &bytes, &self.signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn probe(key: &NodeKey) -> Probe {
        Probe {
            lan: [9; 32],
            node: key.node_id(),
            port: 7,
            guest: true,
            forwarding: false,
            reach: true,
            boot: Boot {
                started: UnixMillis(5),
                nonce: 6,
            },
            counter: 8,
        }
    }

    #[test]
    fn a_probe_is_bound_to_its_sender_and_to_every_bit() {
        let key = NodeKey::from_secret(&[3; 32]);
        let bytes = probe(&key).seal(&key, MacAddr([2, 0, 0, 0, 0, 1]));
        let frame = Frame::new(&bytes).unwrap();
        assert!(is_probe(&frame) && frame.dst() == PROBE_GROUP && frame.dst().is_multicast());
        assert_eq!(frame.payload().len(), PROBE_LEN);
        let read = SignedProbe::read(frame.payload()).unwrap();
        assert_eq!(read.probe, probe(&key));
        assert!(read.verify());
        for at in 14..bytes.len() {
            for bit in 0..8 {
                let mut bent = bytes.clone();
                bent[at] ^= 1 << bit;
                let bent = SignedProbe::read(&bent[14..]);
                assert!(bent.is_none_or(|p| !p.verify()), "byte {at} bit {bit}");
            }
        }
        let other = NodeKey::from_secret(&[4; 32]);
        let forged = probe(&key).seal(&other, MacAddr([2, 0, 0, 0, 0, 1]));
        assert!(!SignedProbe::read(&forged[14..]).unwrap().verify());
        assert_eq!(SignedProbe::read(&bytes[14..bytes.len() - 1]), None);
        let padded = [&bytes[14..], &[0; 20]].concat();
        assert!(SignedProbe::read(&padded).unwrap().verify());
    }

    proptest! {
        #[test]
        fn reading_never_panics(b in proptest::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
            let b = if magic { [&MAGIC[..], &b].concat() } else { b };
            if let Some(p) = SignedProbe::read(&b) {
                prop_assert!(!p.verify());
            }
        }
    }
}
