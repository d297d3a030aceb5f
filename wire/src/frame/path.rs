//! A link's own messages, inside the seal: what came, what size passes, which paths there are.

use crate::NodeId;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Most arrival samples in one report.
pub const MAX_SAMPLES: usize = 16;
/// Arrival times are reported of datagrams whose counter is a multiple of this.
pub const SAMPLE_EVERY: u64 = 16;
/// Addresses in one list of candidates: a few interfaces of both families, what peers saw, and some that are predicted.
pub const MAX_CANDIDATES: usize = 16;

const KIND_REPORT: u8 = 1;
const KIND_PROBE: u8 = 2;
const KIND_PROBE_ACK: u8 = 3;
const KIND_PING: u8 = 4;
const KIND_PONG: u8 = 5;
const KIND_CANDIDATES: u8 = 6;
const KIND_CANDIDATES_ACK: u8 = 7;
const KIND_BYE: u8 = 8;
const KIND_LOCATE: u8 = 9;
const KIND_LOCATED: u8 = 10;

const FLAG_ASK: u8 = 1;
const FLAG_SEEN_V4: u8 = 1;
const FLAG_NOTE: u8 = 2;
const FLAG_SEEN_V6: u8 = 4;

/// How a node knows an address at which it may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CandidateKind {
    /// An interface has it.
    Local,
    /// A peer saw the node's packets come from there.
    Observed,
    /// A router maps it to the node, and said so.
    Mapped,
    /// A router is likely to map it next.
    Predicted,
}

impl CandidateKind {
    fn byte(self) -> u8 {
        match self {
            Self::Local => 0,
            Self::Observed => 1,
            Self::Mapped => 2,
            Self::Predicted => 3,
        }
    }

    fn from_byte(b: u8) -> Option<Self> {
        [Self::Local, Self::Observed, Self::Mapped, Self::Predicted]
            .into_iter()
            .find(|k| k.byte() == b)
    }
}

/// A UDP address at which a node may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Where. IPv4 as IPv4, never mapped into IPv6.
    pub addr: SocketAddr,
    /// How it is known.
    pub kind: CandidateKind,
}

/// What a receiver saw, told to the sender while datagrams come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathReport {
    /// Highest counter that was opened.
    pub newest: u64,
    /// Time from its arrival to this report, us.
    pub held_us: u32,
    /// Datagrams opened since the session began.
    pub datagrams: u64,
    /// Their bytes as UDP payload.
    pub bytes: u64,
    /// Longest UDP payload since the last report, bytes.
    pub largest: u16,
    /// (counter, arrival on the receiver's clock in us) of datagrams that came since the last report, at most
    /// [`MAX_SAMPLES`]; only counters that are multiples of [`SAMPLE_EVERY`].
    pub samples: Vec<(u64, u64)>,
}

/// A message of the link's own, inside the seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMessage {
    /// What came.
    Report(PathReport),
    /// "Say that this came": path MTU discovery (RFC 8899). The datagram is padded to the size that is tried.
    Probe(u32),
    /// It came.
    ProbeAck(u32),
    /// "Are you there, by this path?" Only the true peer can read the token, so only it can answer.
    Ping {
        /// Not to be guessed.
        token: u64,
        /// Whether the answer is to tell from where the ping came.
        ask: bool,
        /// What the sender's claims on its LANs add up to; see [`MacSums::note`](super::MacSums::note).
        note: Option<u32>,
    },
    /// The answer, sent back where the ping came from.
    Pong {
        /// The ping's.
        token: u64,
        /// From where the ping came, if that was asked.
        seen: Option<SocketAddr>,
        /// As in a ping.
        note: Option<u32>,
    },
    /// Addresses at which the sender may be reached; takes the place of every list with a lower serial.
    Candidates {
        /// Grows with every list of the session.
        serial: u32,
        /// At most [`MAX_CANDIDATES`], best first.
        list: Vec<Candidate>,
    },
    /// The list with this serial came.
    CandidatesAck(u32),
    /// "Where is this node?" It does not answer the sender, who may have moved at the same time as it did.
    Locate(NodeId),
    /// The answer, and again as often as the answer changes in the next seconds.
    Located {
        /// Who was asked for.
        node: NodeId,
        /// Where the sender reaches it, then what it said itself; at most [`MAX_CANDIDATES`].
        list: Vec<Candidate>,
    },
    /// The sender is about to forget the session; the number is a close code of its QUIC connection.
    Bye(u32),
}

impl PathMessage {
    /// Appends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Report(r) => {
                out.push(KIND_REPORT);
                out.extend_from_slice(&r.newest.to_be_bytes());
                out.extend_from_slice(&r.held_us.to_be_bytes());
                out.extend_from_slice(&r.datagrams.to_be_bytes());
                out.extend_from_slice(&r.bytes.to_be_bytes());
                out.extend_from_slice(&r.largest.to_be_bytes());
                for (counter, at) in r.samples.iter().take(MAX_SAMPLES) {
                    out.extend_from_slice(&counter.to_be_bytes());
                    out.extend_from_slice(&at.to_be_bytes());
                }
            }
            Self::Probe(token) => {
                out.push(KIND_PROBE);
                out.extend_from_slice(&token.to_be_bytes());
            }
            Self::ProbeAck(token) => {
                out.push(KIND_PROBE_ACK);
                out.extend_from_slice(&token.to_be_bytes());
            }
            Self::Ping { token, ask, note } => {
                out.push(KIND_PING);
                out.extend_from_slice(&token.to_be_bytes());
                out.push(if *ask { FLAG_ASK } else { 0 } | note_flag(note));
                put_note(out, note);
            }
            Self::Pong { token, seen, note } => {
                out.push(KIND_PONG);
                out.extend_from_slice(&token.to_be_bytes());
                put_seen(out, seen, note_flag(note));
                put_note(out, note);
            }
            Self::Candidates { serial, list } => {
                out.push(KIND_CANDIDATES);
                out.extend_from_slice(&serial.to_be_bytes());
                put_list(out, list);
            }
            Self::CandidatesAck(serial) => {
                out.push(KIND_CANDIDATES_ACK);
                out.extend_from_slice(&serial.to_be_bytes());
            }
            Self::Locate(node) => {
                out.push(KIND_LOCATE);
                out.extend_from_slice(&node.0);
            }
            Self::Located { node, list } => {
                out.push(KIND_LOCATED);
                out.extend_from_slice(&node.0);
                put_list(out, list);
            }
            Self::Bye(code) => {
                out.push(KIND_BYE);
                out.extend_from_slice(&code.to_be_bytes());
            }
        }
    }

    /// Reads it from a datagram's plaintext; `None` if it is no message of a known kind, or cut short.
    pub fn read(plain: &[u8]) -> Option<Self> {
        let [kind, rest @ ..] = plain else {
            return None;
        };
        let mut r = Reader(rest);
        match *kind {
            KIND_REPORT => {
                let mut report = PathReport {
                    newest: r.u64()?,
                    held_us: r.u32()?,
                    datagrams: r.u64()?,
                    bytes: r.u64()?,
                    largest: r.u16()?,
                    samples: Vec::new(),
                };
                while let (true, Some(counter)) = (report.samples.len() < MAX_SAMPLES, r.u64()) {
                    report.samples.push((counter, r.u64()?));
                }
                Some(Self::Report(report))
            }
            KIND_PROBE => r.u32().map(Self::Probe),
            KIND_PROBE_ACK => r.u32().map(Self::ProbeAck),
            KIND_PING => {
                let (token, flags) = (r.u64()?, r.u8()?);
                Some(Self::Ping {
                    token,
                    ask: flags & FLAG_ASK != 0,
                    note: r.note(flags)?,
                })
            }
            KIND_PONG => {
                let (token, flags) = (r.u64()?, r.u8()?);
                Some(Self::Pong {
                    token,
                    seen: r.seen(flags)?,
                    note: r.note(flags)?,
                })
            }
            KIND_CANDIDATES => Some(Self::Candidates {
                serial: r.u32()?,
                list: r.list()?,
            }),
            KIND_CANDIDATES_ACK => r.u32().map(Self::CandidatesAck),
            KIND_LOCATE => r.take().map(|id| Self::Locate(NodeId(id))),
            KIND_LOCATED => Some(Self::Located {
                node: NodeId(r.take()?),
                list: r.list()?,
            }),
            KIND_BYE => r.u32().map(Self::Bye),
            _ => None,
        }
    }
}

fn note_flag(note: &Option<u32>) -> u8 {
    if note.is_some() { FLAG_NOTE } else { 0 }
}

fn put_note(out: &mut Vec<u8>, note: &Option<u32>) {
    out.extend(note.iter().flat_map(|n| n.to_be_bytes()));
}

/// Flags and the address: most are IPv4, and this is said all day.
fn put_seen(out: &mut Vec<u8>, seen: &Option<SocketAddr>, flags: u8) {
    let Some(addr) = seen else {
        return out.push(flags);
    };
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => {
            out.push(flags | FLAG_SEEN_V4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(flags | FLAG_SEEN_V6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&addr.port().to_be_bytes());
}

fn put_list(out: &mut Vec<u8>, list: &[Candidate]) {
    let count = list.len().min(MAX_CANDIDATES);
    out.push(u8::try_from(count).unwrap_or(0));
    for c in list.iter().take(count) {
        out.push(c.kind.byte());
        put_addr(out, &c.addr);
    }
}

fn put_addr(out: &mut Vec<u8>, addr: &SocketAddr) {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&addr.port().to_be_bytes());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[b]| b)
    }

    /// `None`: cut short.
    fn note(&mut self, flags: u8) -> Option<Option<u32>> {
        if flags & FLAG_NOTE == 0 {
            return Some(None);
        }
        self.u32().map(Some)
    }

    /// `None`: cut short.
    fn seen(&mut self, flags: u8) -> Option<Option<SocketAddr>> {
        let ip = match flags & (FLAG_SEEN_V4 | FLAG_SEEN_V6) {
            FLAG_SEEN_V4 => IpAddr::from(self.take::<4>()?),
            FLAG_SEEN_V6 => IpAddr::from(self.take::<16>()?),
            _ => return Some(None),
        };
        Some(Some(SocketAddr::new(ip, self.u16()?)))
    }

    fn addr(&mut self) -> Option<SocketAddr> {
        let ip = IpAddr::V6(Ipv6Addr::from(self.take::<16>()?)).to_canonical();
        Some(SocketAddr::new(ip, self.u16()?))
    }

    /// Entries of unknown kinds are skipped: a newer peer may know more.
    fn list(&mut self) -> Option<Vec<Candidate>> {
        let count = usize::from(self.u8()?);
        if count > MAX_CANDIDATES {
            return None;
        }
        let mut list = Vec::new();
        for _ in 0..count {
            let (kind, addr) = (self.u8()?, self.addr()?);
            list.extend(CandidateKind::from_byte(kind).map(|kind| Candidate { addr, kind }));
        }
        Some(list)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages() -> Vec<PathMessage> {
        let addr = |s: &str| s.parse::<SocketAddr>().unwrap();
        let report = PathReport {
            newest: 1 << 40,
            held_us: 7,
            datagrams: 9,
            bytes: 10,
            largest: 1_472,
            samples: vec![(16, 5), (32, 6)],
        };
        let kinds = [
            CandidateKind::Local,
            CandidateKind::Observed,
            CandidateKind::Mapped,
            CandidateKind::Predicted,
        ];
        let list = kinds.map(|kind| Candidate {
            addr: addr("192.0.2.1:9"),
            kind,
        });
        vec![
            PathMessage::Report(report),
            PathMessage::Probe(5),
            PathMessage::ProbeAck(u32::MAX),
            PathMessage::Ping {
                token: 7,
                ask: true,
                note: None,
            },
            PathMessage::Ping {
                token: 7,
                ask: false,
                note: Some(u32::MAX),
            },
            PathMessage::Pong {
                token: 7,
                seen: None,
                note: Some(1),
            },
            PathMessage::Pong {
                token: u64::MAX,
                seen: Some(addr("[2001:db8::1]:65535")),
                note: Some(2),
            },
            PathMessage::Pong {
                token: 1,
                seen: Some(addr("192.0.2.1:65535")),
                note: None,
            },
            PathMessage::Candidates {
                serial: 3,
                list: list.to_vec(),
            },
            PathMessage::CandidatesAck(3),
            PathMessage::Locate(NodeId([7; 32])),
            PathMessage::Located {
                node: NodeId([9; 32]),
                list: list.to_vec(),
            },
            PathMessage::Bye(2),
        ]
    }

    #[test]
    fn messages_come_back() {
        for m in messages() {
            let mut out = Vec::new();
            m.put(&mut out);
            assert_eq!(PathMessage::read(&out), Some(m.clone()));
            for cut in 1..out.len() {
                let whole_samples = matches!(m, PathMessage::Report(_)) && cut >= 31 && (cut - 31) % 16 < 8;
                assert_eq!(PathMessage::read(&out[..cut]).is_some(), whole_samples, "{cut}");
            }
            out.extend_from_slice(&[0; 3]);
            assert_eq!(PathMessage::read(&out), Some(m), "padding is ignored");
        }
    }

    #[test]
    fn a_list_is_cut_when_written_and_refused_when_too_long() {
        let one = Candidate {
            addr: "192.0.2.1:9".parse().unwrap(),
            kind: CandidateKind::Local,
        };
        let mut out = Vec::new();
        PathMessage::Candidates {
            serial: 1,
            list: vec![one; MAX_CANDIDATES + 9],
        }
        .put(&mut out);
        match PathMessage::read(&out) {
            Some(PathMessage::Candidates { list, .. }) => assert_eq!(list.len(), MAX_CANDIDATES),
            other => panic!("{other:?}"),
        }
        out[6] = 0xee;
        match PathMessage::read(&out) {
            Some(PathMessage::Candidates { list, .. }) => assert_eq!(list.len(), MAX_CANDIDATES - 1),
            other => panic!("{other:?}"),
        }
        out[5] = MAX_CANDIDATES as u8 + 1;
        out.extend_from_slice(&[0; 64]);
        assert_eq!(PathMessage::read(&out), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            match PathMessage::read(&bytes) {
                Some(PathMessage::Report(r)) => prop_assert!(r.samples.len() <= MAX_SAMPLES),
                Some(PathMessage::Candidates { list, .. } | PathMessage::Located { list, .. }) => prop_assert!(list.len() <= MAX_CANDIDATES),
                _ => {}
            }
        }
    }
}
