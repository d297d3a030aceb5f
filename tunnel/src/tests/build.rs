//! Frames as kernels make them, by etherparse and by definitions written out here, never by the code under test.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, checksum};
use wire::frame::{Gso, GsoKind, Offload, PartialCsum};

pub const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// A TCP super-frame, or an ordinary segment if `payload` is at most `mss`.
#[derive(Clone, Debug)]
pub struct Tcp {
    pub v6: bool,
    pub vlan: bool,
    pub port: u16,
    pub seq: u32,
    pub fin: bool,
    pub cwr: bool,
    pub mss: u16,
    pub payload: Vec<u8>,
}

/// The sum that Linux leaves in the checksum field: addresses, protocol, L4 length.
fn pseudo(frame: &[u8], l3: usize, l4: usize, v6: bool, proto: u8) -> u16 {
    let addresses = if v6 {
        &frame[l3 + 8..l3 + 40]
    } else {
        &frame[l3 + 12..l3 + 20]
    };
    let sum = checksum::Sum16BitWords::new()
        .add_slice(addresses)
        .add_2bytes([0, proto])
        .add_2bytes(((frame.len() - l4) as u16).to_be_bytes());
    !u16::from_be_bytes(sum.ones_complement().to_ne_bytes())
}

impl Tcp {
    /// Frame and claims.
    pub fn build(&self) -> (Vec<u8>, Offload) {
        let b = PacketBuilder::ethernet2(A, B);
        let mut f = Vec::new();
        macro_rules! tcp {
            ($ip:expr) => {{
                let mut t = $ip.tcp(self.port, 80, self.seq, 4_000).ack(77).psh();
                if self.fin {
                    t = t.fin();
                }
                if self.cwr {
                    t = t.cwr();
                }
                let options = [etherparse::TcpOptionElement::Timestamp(7, 8)];
                t.options(&options).unwrap().write(&mut f, &self.payload).unwrap();
            }};
        }
        match (self.v6, self.vlan) {
            (false, false) => tcp!(b.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)),
            (false, true) => tcp!(
                b.single_vlan(7.try_into().unwrap())
                    .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            ),
            (true, false) => tcp!(b.ipv6([1; 16], [2; 16], 64)),
            (true, true) => tcp!(b.single_vlan(7.try_into().unwrap()).ipv6([1; 16], [2; 16], 64)),
        }
        let l3 = if self.vlan { 18 } else { 14 };
        let l4 = l3 + if self.v6 { 40 } else { 20 };
        let sum = pseudo(&f, l3, l4, self.v6, 6);
        f[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
        let kind = if self.v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
        let gso = (self.payload.len() > usize::from(self.mss)).then_some(Gso {
            kind,
            ecn: self.cwr,
            size: self.mss,
        });
        (
            f,
            Offload {
                csum: Some(PartialCsum {
                    start: l4 as u16,
                    offset: 16,
                }),
                gso,
            },
        )
    }
}

/// A UDP super-frame of datagrams of `size` bytes.
pub fn udp(v6: bool, port: u16, size: u16, payload: &[u8]) -> (Vec<u8>, Offload) {
    let b = PacketBuilder::ethernet2(A, B);
    let mut f = Vec::new();
    if v6 {
        b.ipv6([1; 16], [2; 16], 64)
            .udp(port, 53)
            .write(&mut f, payload)
            .unwrap();
    } else {
        b.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(port, 53)
            .write(&mut f, payload)
            .unwrap();
    }
    let l4 = if v6 { 54 } else { 34 };
    let sum = pseudo(&f, 14, l4, v6, 17);
    f[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
    let gso = (payload.len() > usize::from(size)).then_some(Gso {
        kind: GsoKind::Udp,
        ecn: false,
        size,
    });
    (
        f,
        Offload {
            csum: Some(PartialCsum {
                start: l4 as u16,
                offset: 6,
            }),
            gso,
        },
    )
}

/// What a receiving host sees of a complete frame; panics if a checksum or a length is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub tcp: bool,
    pub port: u16,
    /// TCP sequence; 0 for UDP.
    pub seq: u32,
    pub fin: bool,
    pub psh: bool,
    pub cwr: bool,
    /// IPv4 identification.
    pub id: u16,
    pub payload: Vec<u8>,
}

/// Reads a complete frame as a strict host would.
pub fn strict(frame: &[u8]) -> Seen {
    let p = SlicedPacket::from_ethernet(frame).unwrap();
    let net = p.net.as_ref().unwrap();
    let mut id = 0;
    let ip_payload_len = match net {
        NetSlice::Ipv4(v4) => {
            let h = v4.header().to_header();
            assert_eq!(h.calc_header_checksum(), h.header_checksum, "IPv4 header checksum");
            id = h.identification;
            usize::from(h.total_len) - 20
        }
        NetSlice::Ipv6(v6) => usize::from(v6.header().payload_length()),
        other => panic!("not IP: {other:?}"),
    };
    let v4 = net.ipv4_ref().map(|n| n.header().to_header());
    let v6 = net.ipv6_ref().map(|n| n.header().to_header());
    let tags = p.link_exts.len() * 4;
    let l3_len = if v4.is_some() { 20 } else { 40 };
    assert_eq!(
        14 + tags + l3_len + ip_payload_len,
        frame.len(),
        "IP length fits the frame"
    );
    match p.transport.as_ref().unwrap() {
        TransportSlice::Tcp(t) => {
            let h = t.to_header();
            let want = match (&v4, &v6) {
                (Some(ip), _) => h.calc_checksum_ipv4(ip, t.payload()).unwrap(),
                (_, Some(ip)) => h.calc_checksum_ipv6(ip, t.payload()).unwrap(),
                _ => panic!("no IP header"),
            };
            assert_eq!(h.checksum, want, "TCP checksum");
            let payload = t.payload().to_vec();
            Seen {
                tcp: true,
                port: h.source_port,
                seq: h.sequence_number,
                fin: h.fin,
                psh: h.psh,
                cwr: h.cwr,
                id,
                payload,
            }
        }
        TransportSlice::Udp(u) => {
            let h = u.to_header();
            let want = match (&v4, &v6) {
                (Some(ip), _) => h.calc_checksum_ipv4(ip, u.payload()).unwrap(),
                (_, Some(ip)) => h.calc_checksum_ipv6(ip, u.payload()).unwrap(),
                _ => panic!("no IP header"),
            };
            assert_eq!(h.checksum, want, "UDP checksum");
            let payload = u.payload().to_vec();
            Seen {
                tcp: false,
                port: h.source_port,
                seq: 0,
                fin: false,
                psh: false,
                cwr: false,
                id,
                payload,
            }
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    }
}

/// Bytes of which no two positions nearby look alike.
pub fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8 ^ salt).collect()
}

/// Takes datagrams of at most `budget` bytes in all, as a link would.
pub fn take(packer: &mut crate::slice::Packer, budget: usize, out: &mut Vec<bytes::Bytes>) {
    let (burst, mut sum) = (packer.burst(), 0);
    while let Some(d) = burst.first() {
        sum += d.len();
        if sum > budget {
            break;
        }
        out.push(bytes::Bytes::copy_from_slice(d));
        burst.advance(1);
    }
}
