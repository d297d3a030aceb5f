//! Capture files: pcapng, as Wireshark and tcpdump read it. <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>
//!
//! It does not: open files, read clocks, or know of LANs. One section, little-endian, times in nanoseconds; an interface
//! for each port and link; frames with their direction, and a comment where there is more to say.

/// Ethernet, <https://www.tcpdump.org/linktypes.html>.
const LINKTYPE_ETHERNET: u16 = 1;
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// Tells a reader the byte order.
const MAGIC: u32 = 0x1a2b_3c4d;
/// The section's length is not known.
const UNKNOWN_LENGTH: u64 = u64::MAX;
/// Longest text of an option, bytes: its length has 16 bits and its end is padded.
const MAX_TEXT: usize = 65_000;

/// Code of the comment option, in every block.
const COMMENT: u16 = 1;

/// Direction of a packet, as the flags option has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Came in by the interface.
    In,
    /// Left by it.
    Out,
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Number of its interface, from 0, in the order in which they were written.
    pub interface: u32,
    /// Nanoseconds since the Unix epoch.
    pub at: u64,
    /// Its first bytes.
    pub bytes: &'a [u8],
    /// Its length.
    pub len: usize,
    /// Which way it went.
    pub direction: Direction,
    /// What else is to say.
    pub comment: Option<&'a str>,
}

/// What an interface saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets that were to be captured.
    pub received: u64,
    /// Packets of these that are not in the file: its reader was too slow.
    pub lost: u64,
}

/// A block being written: its length stands at both ends.
struct Block<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Block<'a> {
    fn begin(out: &'a mut Vec<u8>, kind: u32) -> Self {
        let start = out.len();
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        Self { out, start }
    }

    fn u16(&mut self, v: u16) -> &mut Self {
        self.out.extend_from_slice(&v.to_le_bytes());
        self
    }

    fn u32(&mut self, v: u32) -> &mut Self {
        self.out.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// High half first, as times are written.
    fn time(&mut self, at: u64) -> &mut Self {
        self.u32((at >> 32) as u32).u32(at as u32)
    }

    fn padded(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self
    }

    fn option(&mut self, code: u16, value: &[u8]) -> &mut Self {
        let value = value.get(..MAX_TEXT).unwrap_or(value);
        self.u16(code).u16(value.len() as u16).padded(value)
    }

    fn end(&mut self) {
        // End of options.
        self.u16(0).u16(0);
        let len = (self.out.len() - self.start + 4) as u32;
        self.u32(len);
        if let Some(field) = self.out.get_mut(self.start + 4..self.start + 8) {
            field.copy_from_slice(&len.to_le_bytes());
        }
    }
}

/// Begins the file: who wrote it, and a comment.
pub fn section(out: &mut Vec<u8>, application: &str, comment: &str) {
    let mut b = Block::begin(out, SECTION);
    b.u32(MAGIC).u16(1).u16(0);
    b.out.extend_from_slice(&UNKNOWN_LENGTH.to_le_bytes());
    b.option(4, application.as_bytes()).option(COMMENT, comment.as_bytes());
    b.end();
}

/// Describes the next interface.
pub fn interface(out: &mut Vec<u8>, name: &str, description: &str, snaplen: u32) {
    let mut b = Block::begin(out, INTERFACE);
    b.u16(LINKTYPE_ETHERNET).u16(0).u32(snaplen);
    b.option(2, name.as_bytes()).option(3, description.as_bytes());
    // Times are in 10^-9 s.
    b.option(9, &[9]);
    b.end();
}

/// Adds a packet.
pub fn packet(out: &mut Vec<u8>, p: &Packet<'_>) {
    let mut b = Block::begin(out, PACKET);
    b.u32(p.interface).time(p.at);
    b.u32(p.bytes.len() as u32).u32(p.len as u32).padded(p.bytes);
    let direction: u32 = match p.direction {
        Direction::In => 1,
        Direction::Out => 2,
    };
    b.option(2, &direction.to_le_bytes());
    if let Some(text) = p.comment {
        b.option(COMMENT, text.as_bytes());
    }
    b.end();
}

/// Says what an interface saw until `at`; a later one of the same interface replaces it.
pub fn statistics(out: &mut Vec<u8>, interface: u32, at: u64, seen: Seen) {
    let mut b = Block::begin(out, STATISTICS);
    b.u32(interface).time(at);
    b.option(4, &seen.received.to_le_bytes());
    b.option(5, &seen.lost.to_le_bytes());
    b.end();
}

/// Length of the whole block at the beginning of `bytes`; `None` until it is all there. `Err` if this is no pcapng.
pub fn whole_block(bytes: &[u8]) -> Result<Option<usize>, NotPcapng> {
    let Some(len) = bytes.get(4..8).and_then(|b| b.first_chunk::<4>()) else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*len) as usize;
    if len < 12 || !len.is_multiple_of(4) || len > MAX_BLOCK {
        return Err(NotPcapng);
    }
    Ok((bytes.len() >= len).then_some(len))
}

/// Is this block a packet?
pub fn is_packet(block: &[u8]) -> bool {
    block.first_chunk::<4>() == Some(&PACKET.to_le_bytes())
}

/// Does this block say what an interface saw?
pub fn is_statistics(block: &[u8]) -> bool {
    block.first_chunk::<4>() == Some(&STATISTICS.to_le_bytes())
}

/// Longest block that is written, bytes: a frame with a comment.
const MAX_BLOCK: usize = 256 << 10;

/// The bytes are not what this file writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no pcapng")]
pub struct NotPcapng;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A reader written after the specification: block types, their bodies, and whether all lengths agree.
    fn blocks(mut b: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let u32_at = |b: &[u8], i: usize| u32::from_le_bytes(b[i..i + 4].try_into().unwrap());
        let mut out = Vec::new();
        while !b.is_empty() {
            let len = u32_at(b, 4) as usize;
            assert_eq!(len % 4, 0);
            assert_eq!(u32_at(b, len - 4) as usize, len, "both lengths");
            out.push((u32_at(b, 0), b[8..len - 4].to_vec()));
            b = &b[len..];
        }
        out
    }

    fn options(mut b: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut out = Vec::new();
        loop {
            let (code, len) = (
                u16::from_le_bytes([b[0], b[1]]),
                usize::from(u16::from_le_bytes([b[2], b[3]])),
            );
            if code == 0 {
                assert_eq!((len, b.len()), (0, 4), "nothing after the end");
                return out;
            }
            out.push((code, b[4..4 + len].to_vec()));
            b = &b[4 + len.next_multiple_of(4)..];
        }
    }

    #[test]
    fn a_file_byte_by_byte() {
        let mut f = Vec::new();
        section(&mut f, "lanline 0", "c");
        let want: &[u8] = &[
            0x0a, 0x0d, 0x0d, 0x0a, 56, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 4, 0, 9, 0, b'l', b'a', b'n', b'l', b'i', b'n', b'e', b' ', b'0', 0, 0, 0, 1, 0, 1, 0,
            b'c', 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(f[..52], *want);
        assert_eq!(f[52..], 56u32.to_le_bytes(), "the length at the end");
    }

    #[test]
    fn packets_interfaces_and_statistics() {
        let mut f = Vec::new();
        interface(&mut f, "lan0", "a TAP", 64);
        let p = Packet {
            interface: 3,
            at: 0x1_0000_0002,
            bytes: &[1, 2, 3, 4, 5],
            len: 1_514,
            direction: Direction::Out,
            comment: Some("dropped: no_link"),
        };
        packet(&mut f, &p);
        statistics(&mut f, 3, 9, Seen { received: 7, lost: 2 });
        let b = blocks(&f);
        assert_eq!(b.iter().map(|b| b.0).collect::<Vec<_>>(), [1, 6, 5]);
        assert_eq!(b[0].1[..8], [1, 0, 0, 0, 64, 0, 0, 0]);
        assert_eq!(
            options(&b[0].1[8..]),
            [(2, b"lan0".to_vec()), (3, b"a TAP".to_vec()), (9, vec![9])]
        );
        let head: Vec<u32> = b[1].1[..20]
            .chunks(4)
            .map(|c| u32::from_le_bytes(c.try_into().unwrap()))
            .collect();
        assert_eq!(head, [3, 1, 2, 5, 1_514]);
        assert_eq!(b[1].1[20..28], [1, 2, 3, 4, 5, 0, 0, 0]);
        assert_eq!(
            options(&b[1].1[28..]),
            [(2, vec![2, 0, 0, 0]), (1, b"dropped: no_link".to_vec())]
        );
        assert_eq!(
            options(&b[2].1[12..]),
            [(4, 7u64.to_le_bytes().to_vec()), (5, 2u64.to_le_bytes().to_vec())]
        );
    }

    proptest! {
        #[test]
        fn any_packet_makes_one_whole_block(
            bytes in proptest::collection::vec(any::<u8>(), 0..3_000),
            comment in proptest::option::of(".{0,200}"),
            cut in 0usize..100,
        ) {
            let mut f = Vec::new();
            let p = Packet {
                interface: 0,
                at: 1,
                bytes: &bytes,
                len: bytes.len(),
                direction: Direction::In,
                comment: comment.as_deref(),
            };
            packet(&mut f, &p);
            prop_assert_eq!(whole_block(&f), Ok(Some(f.len())));
            prop_assert_eq!(whole_block(&f[..f.len() - 1 - cut.min(f.len() - 9)]), Ok(None));
            prop_assert!(is_packet(&f));
            prop_assert_eq!(blocks(&f).len(), 1);
        }

        #[test]
        fn a_stranger_is_no_pcapng(b in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some(n)) = whole_block(&b) {
                prop_assert!(n <= b.len() && n >= 12);
            }
        }
    }
}
