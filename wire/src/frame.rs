//! Ethernet frames and how they travel between two nodes.
//!
//! A [`Frame`] is a view that was checked once and cannot panic afterwards. [`VnetHdr`] is what the kernel puts before a
//! frame (virtio 1.2 §5.1.6), [`Offload`] is the part of it that means something to us. [`MacUpdate`] is the MAC plane.
//!
//! # The datagram, version 1
//!
//! One datagram of a link is a head and then records until its end. All numbers are big-endian.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 1 | version and flags | high nibble 1; low nibble: bit 0 = `LINK`, the others 0 |
//! | 4 | LAN tag | first 4 bytes of `LanId::digest()`; 0 where `LINK` is set |
//!
//! A `LINK` datagram belongs to the link itself and may hold only echo records. Each record:
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 1 | kind and flags | low nibble: kind; bit 4 = `CSUM`; bit 5 = `LAST`; the others 0 |
//! | 2 | length | of all that follows in this record, so that an unknown kind can be skipped |
//! | … | meta, then bytes | by kind, below |
//!
//! | kind | name | flags | meta | bytes |
//! |---|---|---|---|---|
//! | 1 | whole frame | `CSUM` | with `CSUM`: csum start 2, csum offset 2 | the frame |
//! | 2 | slice of a super-frame | `LAST` | id 4, offset 2, header length 2, GSO type 1, GSO size 2, csum start 2, csum offset 2 | the super-frame's L2 to L4 headers, then the slice |
//! | 3 | fragment of a frame | `CSUM` | id 4, offset 2, total 2, with `CSUM`: csum start 2, csum offset 2 | a part of the frame |
//! | 4 | echo request | | token 8 | |
//! | 5 | echo reply | | token 8 | |
//!
//! `CSUM`: the frame's L4 checksum field holds the sum of the pseudo header only; the receiver completes it at csum
//! start + csum offset or hands that work to its kernel. In a slice it always does. A slice's offset counts payload
//! bytes from the end of the headers; `LAST` marks the slice that ends the super-frame. GSO types are virtio's: 1 TCPv4,
//! 4 TCPv6, 5 UDP; bit 7: the flow speaks ECN. Slices of UDP end at multiples of the GSO size, because those are
//! datagrams; slices of TCP end anywhere. Every slice carries all headers, so a lost datagram costs only its bytes.

mod datagram;
mod ethernet;
mod group_update;
mod mac_update;
mod path;
mod probe;
mod relayed;
mod sealed;
mod vnet;

pub use datagram::{
    Chunk, Chunks, DATAGRAM_HEAD, DatagramError, FragmentMeta, LanTag, RECORD_HEAD, SLICE_META, Scope, SliceMeta,
    open_datagram, put_echo, put_echo_reply, put_fragment, put_frame, put_head, put_slice,
};
pub use ethernet::{EtherKind, Frame, FrameError, MAX_FRAME, MIN_FRAME, VlanTag};
pub use group_update::{DEFAULT_MTU, GroupAdvert, GroupUpdate, MAX_GROUPS, MAX_MTU};
pub use mac_update::{
    MAX_ADVERT_IPS, MAX_ADVERTS, MAX_SUMS, MacAdvert, MacAnswer, MacBehind, MacSums, MacUpdate, Span, groups_sum,
};
pub use path::{Candidate, CandidateKind, MAX_CANDIDATES, MAX_SAMPLES, PathMessage, PathReport, SAMPLE_EVERY};
pub use probe::{Boot, PROBE_CONTEXT, PROBE_GROUP, PROBE_LEN, PROBE_TYPE, Probe, SignedProbe, is_probe};
pub use relayed::{MAX_HOPS, RELAY_HEAD, RELAYED_FIRST, RELAYED_MASK, RelayHead};
pub use sealed::{Cipher, SEALED_FIRST, SEALED_MASK, SealHead};
pub use vnet::{Gso, GsoKind, Offload, PartialCsum, VNET_HDR, VnetHdr};
