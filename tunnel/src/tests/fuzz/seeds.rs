//! Inputs that corpora begin with. `ok-*` are what honest programs send; the others lie.

mod guests;

use super::super::{
    build::{A, B, Tcp, pattern, take, udp},
    policy::{arp, ipv6, udp4},
};
use crate::{
    fuzz::put_part,
    mcast, mss,
    packet::Packet,
    policy::{LanPolicy, dhcp4, dhcp6, ra},
    slice::Packer,
    suppress,
};
use etherparse::{PacketBuilder, TcpOptionElement as Opt};
use wire::{
    MacAddr, NodeId, NodeKey, Signed, UnixMillis, codec,
    frame::{
        Boot, Cipher, FragmentMeta, Frame, GroupAdvert, LanTag, MacAdvert, MacBehind, MacUpdate, Offload, PathMessage,
        PathReport, Probe, Scope, SealHead, SignedProbe, Span, VNET_HDR, VnetHdr, open_datagram, put_echo,
        put_fragment, put_frame, put_head,
    },
};

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// The seeds of a target.
pub fn of(target: &str) -> Seeds {
    let mut out = match target {
        "adverts" => adverts(),
        "arp" => arps(),
        "coalesce" => coalesce(),
        "dhcp4" => guests::dhcp4_seeds(),
        "dhcp6" => guests::dhcp6_seeds(),
        "igmp_mld" => groups(),
        "mactrans" => guests::mactrans(),
        "mss" => mss_seeds(),
        "nd" => nds(),
        "policy" => guests::policies(),
        "probe" => probes(),
        "ra" => guests::ras(),
        "sealed" => sealed(),
        "unpack" => unpack(),
        "vnet" => vnet(),
        other => panic!("no seeds for {other}"),
    };
    let first = out[0].1.clone();
    out.push(("cut-half", first[..first.len() / 2].to_vec()));
    out.push(("cut-last", first[..first.len() - 1].to_vec()));
    out.push(("empty", Vec::new()));
    out.push(("ones", vec![0xff; 64]));
    out.push(("runt", vec![0]));
    out.push(("zeros", vec![0; 64]));
    out
}

type Read = fn(&[u8]) -> bool;

/// The first part's bytes.
fn payload(d: &[u8]) -> &[u8] {
    &d[3..3 + usize::from(u16::from_be_bytes([d[1], d[2]]))]
}

/// How to see that valid seeds are what they say.
pub fn reads() -> Vec<(&'static str, Read)> {
    vec![
        ("adverts", |d| {
            codec::decode::<Vec<MacAdvert>>(payload(d), 10_000).is_ok_and(|a| !a.is_empty())
        }),
        ("arp", |d| suppress::read(&Frame::new(payload(d)).unwrap()).is_some()),
        ("dhcp4", |d| dhcp4::parse(payload(d)).is_ok_and(|m| m.kind.is_some())),
        ("dhcp6", |d| {
            dhcp6::parse(payload(d)).is_ok_and(|m| m.client_id.is_some())
        }),
        ("igmp_mld", |d| match d[0] {
            0 => mcast::igmp::parse(payload(d)).is_ok(),
            _ => mcast::mld::parse(payload(d)).is_ok(),
        }),
        ("mss", |d| {
            let room = usize::from(u16::from_be_bytes([d[0], d[1]]));
            mss::lower(
                &Packet::check(&d[3..], Offload::default()).unwrap(),
                room,
                &mut Vec::new(),
            )
        }),
        ("nd", |d| suppress::read(&Frame::new(payload(d)).unwrap()).is_some()),
        ("probe", |d| {
            SignedProbe::read(Frame::new(payload(d)).unwrap().payload()).is_some_and(|p| p.verify())
        }),
        ("ra", |d| {
            ra::parse(payload(d)).is_ok_and(|m| m.is_some_and(|m| m.kind == ra::kind::RA))
        }),
        ("sealed", |d| {
            SealHead::read(d).is_some() || PathMessage::read(d).is_some()
        }),
        ("unpack", |d| {
            open_datagram(payload(d)).is_ok_and(|(_, mut c)| c.next().is_some_and(|c| c.is_ok()))
        }),
        ("vnet", |d| {
            let (head, frame) = d.split_first_chunk::<VNET_HDR>().unwrap();
            Packet::check(frame, VnetHdr::from_bytes(head).offload().unwrap()).is_ok()
        }),
    ]
}

fn part(kind: u8, bytes: &[u8]) -> Vec<u8> {
    parts(&[(kind, bytes)])
}

fn parts(all: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    all.iter().for_each(|(kind, bytes)| put_part(&mut out, *kind, bytes));
    out
}

fn tcp(v6: bool, seq: u32, len: usize, mss: u16) -> (Vec<u8>, Offload) {
    let payload = pattern(len, seq as u8);
    let (vlan, port) = (false, 7);
    Tcp {
        v6,
        vlan,
        port,
        seq,
        fin: false,
        cwr: false,
        mss,
        payload,
    }
    .build()
}

fn with_head((frame, offload): (Vec<u8>, Offload)) -> Vec<u8> {
    let head = VnetHdr::new(offload, 66).to_bytes();
    [&head[..], &frame].concat()
}

fn vnet() -> Seeds {
    let good = with_head(tcp(false, 1, 3_000, 1_448));
    let with = |at: usize, v: u16| {
        let mut d = good.clone();
        d[at..at + 2].copy_from_slice(&v.to_ne_bytes());
        d
    };
    vec![
        ("ok-tcp4", good.clone()),
        ("ok-tcp6", with_head(tcp(true, 1, 2_000, 600))),
        ("ok-udp", with_head(udp(false, 1, 500, &pattern(1_400, 1)))),
        ("ok-plain", with_head(tcp(false, 1, 100, 1_448))),
        ("size-0", with(4, 0)),
        ("size-1", with(4, 1)),
        ("size-max", with(4, u16::MAX)),
        ("headers-longer-than-frame", with(2, u16::MAX)),
        ("sum-begins-outside", with(6, u16::MAX)),
        ("sum-goes-outside", with(8, u16::MAX)),
        ("wrong-family", [&[1, 4][..], &good[2..]].concat()),
        ("tcp-header-of-16", {
            let mut d = good.clone();
            d[VNET_HDR + 46] = 0x40;
            d
        }),
    ]
}

fn datagram(records: &dyn Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut d = Vec::new();
    put_head(&mut d, Scope::Lan(LanTag(1)));
    records(&mut d);
    d
}

fn fragment(offset: u16, total: u16, data: &[u8]) -> Vec<u8> {
    let (id, csum) = (9, None);
    let meta = FragmentMeta {
        id,
        offset,
        total,
        csum,
    };
    datagram(&|d| put_fragment(d, &meta, data))
}

fn unpack() -> Seeds {
    let (f, o) = tcp(false, 1, 3_000, 1_448);
    let mut packer = Packer::new(1_200);
    packer.push(LanTag(1), &Packet::check(&f, o).unwrap()).unwrap();
    let mut sent = Vec::new();
    take(&mut packer, usize::MAX, &mut sent);
    let all: Vec<(u8, &[u8])> = sent.iter().map(|d| (0, &d[..])).collect();
    let (a, b) = (fragment(0, 900, &pattern(500, 1)), fragment(500, 900, &pattern(400, 2)));
    let mut backwards = all.clone();
    backwards.reverse();
    let lie = |len: u16| {
        let mut d = datagram(&|d| put_frame(d, None, &udp4(1, 2, b"x")));
        d[6..8].copy_from_slice(&len.to_be_bytes());
        part(0, &d)
    };
    vec![
        ("ok-slices", parts(&all)),
        (
            "ok-frame",
            part(0, &datagram(&|d| put_frame(d, None, &udp4(1, 2, b"x")))),
        ),
        ("ok-fragments", parts(&[(0, &a), (0, &b)])),
        ("ok-echo", {
            let mut d = Vec::new();
            put_head(&mut d, Scope::Link);
            put_echo(&mut d, 7);
            part(0, &d)
        }),
        ("slices-backwards", parts(&backwards)),
        ("slices-twice", parts(&[&all[..], &all[..]].concat())),
        ("fragments-late", parts(&[(0, &a), (0x80, &b)])),
        (
            "fragments-overlap",
            parts(&[(0, &a), (0, &fragment(400, 900, &[7; 500])), (0, &b)]),
        ),
        ("fragment-beyond-end", part(0, &fragment(u16::MAX, 900, &[7; 40]))),
        ("fragment-of-nothing", part(0, &fragment(0, 0, &[]))),
        ("length-0", lie(0)),
        ("length-max", lie(u16::MAX)),
    ]
}

fn coalesce() -> Seeds {
    let run: Vec<Vec<u8>> = (0..3)
        .map(|i| with_head(tcp(false, 1 + i * 1_000, 1_000, 1_448)))
        .collect();
    let in_turn: Vec<(u8, &[u8])> = run.iter().map(|f| (0, &f[..])).collect();
    let mut shuffled = in_turn.clone();
    shuffled.swap(0, 2);
    let super_frame = with_head(tcp(false, 1, 3_000, 1_448));
    vec![
        ("ok-run", parts(&in_turn)),
        ("ok-super-frame", part(0, &super_frame)),
        ("shuffled", parts(&shuffled)),
        ("twice", parts(&[in_turn[0], in_turn[0]])),
        ("mixed", parts(&[in_turn[0], (1, &super_frame), in_turn[1]])),
    ]
}

fn mss_seeds() -> Seeds {
    let syn = |options: &[Opt]| {
        let head = PacketBuilder::ethernet2(A, B).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let tcp = head.tcp(1_000, 80, 7, 65_000).syn().options(options).unwrap();
        let mut out = vec![0x05, 0x00, 0];
        tcp.write(&mut out, &[]).unwrap();
        out
    };
    let good = syn(&[Opt::MaximumSegmentSize(1_460), Opt::Timestamp(1, 0)]);
    let with = |at: usize, v: u8| {
        let mut d = good.clone();
        d[3 + at] = v;
        d
    };
    vec![
        ("ok-syn", good.clone()),
        ("ok-odd-place", syn(&[Opt::Noop, Opt::MaximumSegmentSize(1_460)])),
        ("option-of-length-0", with(55, 0)),
        ("option-beyond-end", with(55, 0xff)),
        ("header-of-60", with(46, 0xf0)),
        ("mss-0", [&with(56, 0)[..58], &good[58..]].concat()),
    ]
}

fn advert(n: u8, seq: u32) -> MacAdvert {
    MacAdvert {
        mac: MacAddr([2, 0, 0, 0, 0, n]),
        vlan: 0,
        ips: vec![[10, 0, 0, n].into()],
        seq,
        static_: false,
        withdrawn: false,
    }
}

fn adverts() -> Seeds {
    let said = |a: &[MacAdvert]| codec::encode(&a.to_vec()).unwrap();
    let (one, newer) = (said(&[advert(1, 0)]), said(&[advert(1, 1)]));
    let gone = said(&[MacAdvert {
        withdrawn: true,
        ..advert(1, 2)
    }]);
    let odd = |mac: [u8; 6], vlan: u16| MacAdvert {
        mac: MacAddr(mac),
        vlan,
        ips: vec![[0; 4].into(), [0xff; 16].into()],
        static_: true,
        ..advert(1, u32::MAX)
    };
    let behind = MacBehind {
        mac: MacAddr([2, 0, 0, 0, 0, 3]),
        vlan: 0,
        seq: u32::MAX,
        holder: NodeId([6; 32]),
        live: true,
    };
    let groups = vec![GroupAdvert {
        vlan: 0,
        mac: MacAddr([1, 0, 0x5e, 0, 0, 0xfb]),
    }];
    let update = MacUpdate {
        lan: [0xaa; 32],
        node: NodeKey::from_secret(&[6; 32]).node_id(),
        adverts: vec![advert(1, 0)],
        whole: Some(Span::ALL),
        issued: UnixMillis(1),
    };
    let signed = Signed::new(&update, &NodeKey::from_secret(&[6; 32])).unwrap();
    let frame = udp4(1, 2, b"x");
    vec![
        ("ok-one", part(0, &one)),
        ("ok-move", parts(&[(0, &one), (3, &frame), (4, &newer), (0x84, &gone)])),
        ("guests-address", part(0, &said(&[odd([2, 0, 0, 0, 0, 3], 0)]))),
        (
            "odd-addresses",
            part(0, &said(&[odd([0; 6], 0), odd([0xff; 6], 4_095), odd([1; 6], 9)])),
        ),
        ("answer", part(1, &codec::encode(&vec![behind; 3]).unwrap())),
        ("whole", parts(&[(0, &one), (4, &newer), (8, &said(&[])), (0xc, &gone)])),
        ("groups", part(2, &codec::encode(&groups).unwrap())),
        (
            "flap",
            parts(&[
                (0, &one),
                (4, &newer),
                (0, &said(&[advert(1, 2)])),
                (4, &said(&[advert(1, 3)])),
            ]),
        ),
        ("signed", codec::encode(&signed).unwrap()),
    ]
}

fn arps() -> Seeds {
    const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 3];
    let ask = arp(A, A, [10, 0, 0, 1], [10, 0, 0, 9]);
    let with = |at: usize, v: u8| {
        let mut d = ask.clone();
        d[at] = v;
        d
    };
    let guest = arp(GUEST, GUEST, [10, 0, 0, 3], [10, 0, 0, 9]);
    vec![
        ("ok-request", part(0, &ask)),
        ("ok-probe", part(0, &arp(A, A, [0; 4], [10, 0, 0, 9]))),
        ("ok-gratuitous", part(3, &arp(A, A, [10, 0, 0, 9], [10, 0, 0, 9]))),
        ("ok-guest", parts(&[(2, &guest), (0x82, &guest)])),
        ("two-owners", parts(&[(0, &with(31, 9)), (1, &ask), (3, &ask)])),
        ("hardware-of-255", part(0, &with(18, 255))),
        ("protocol-of-0", part(0, &with(19, 0))),
        ("operation-9", part(0, &with(21, 9))),
    ]
}

fn icmp(kind: u8, target: [u8; 16], options: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0x20, 0, 0, 0][..], &target, options].concat()
}

fn nds() -> Seeds {
    let mut station = [0; 16];
    (station[0], station[1], station[15]) = (0xfe, 0x80, 9);
    let slla = [&[1, 1][..], &A].concat();
    let ask = |target, options: &[u8]| ipv6(58, &icmp(135, target, options));
    vec![
        ("ok-solicit", part(0, &ask(station, &slla))),
        (
            "ok-advert",
            part(3, &ipv6(58, &icmp(136, station, &[&[2, 1][..], &B].concat()))),
        ),
        ("ok-router", part(0, &ipv6(58, &guests::ra_bytes()))),
        ("option-of-length-0", part(0, &ask(station, &[1, 0, 0, 0, 0, 0, 0, 0]))),
        ("option-beyond-end", part(0, &ask(station, &[1, 9, 0, 0, 0, 0, 0, 0]))),
        ("target-is-a-group", part(0, &ask([0xff; 16], &slla))),
        (
            "wrapped",
            part(
                2,
                &ipv6(
                    0,
                    &[&[58, 0, 1, 4, 0, 0, 0, 0][..], &icmp(136, station, &slla)].concat(),
                ),
            ),
        ),
    ]
}

fn groups() -> Seeds {
    let report = |kind: u8, count: u16, records: &[u8]| {
        let [hi, lo] = count.to_be_bytes();
        [&[kind, 0, 0, 0, 0, 0, hi, lo][..], records].concat()
    };
    let v4 = [4, 0, 0, 0, 239, 1, 2, 3];
    let mut v6 = [0; 20];
    (v6[0], v6[4], v6[19]) = (4, 0xff, 5);
    let mldv1 = [&[131, 0, 0, 0, 0, 0, 0, 0][..], &v6[4..]].concat();
    let mut frame = ipv6(0, &[&[58, 0, 5, 2, 0, 0, 0, 0][..], &report(143, 1, &v6)].concat());
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 3]);
    vec![
        ("ok-igmp3", part(0, &report(0x22, 1, &v4))),
        ("ok-igmp2", part(0, &[0x16, 0, 0, 0, 239, 1, 2, 3])),
        ("ok-query", part(0, &[0x11, 0, 0, 0, 0, 0, 0, 0])),
        ("ok-mld2", part(1, &report(143, 1, &v6))),
        ("ok-mld1", part(1, &mldv1)),
        ("frame", parts(&[(4, &frame), (0xc4, &frame)])),
        ("count-max", part(0, &report(0x22, u16::MAX, &v4))),
        ("count-beyond-end", part(1, &report(143, 183, &v6))),
        (
            "sources-max",
            part(0, &report(0x22, 1, &[4, 255, 255, 255, 239, 1, 2, 3])),
        ),
        ("many", part(0, &report(0x22, 183, &v4.repeat(183)))),
    ]
}

fn probes() -> Seeds {
    let probe = |secret: u8, counter: u64| {
        let key = NodeKey::from_secret(&[secret; 32]);
        Probe {
            lan: [0xaa; 32],
            node: key.node_id(),
            port: 1,
            guest: false,
            forwarding: true,
            reach: false,
            boot: Boot {
                started: UnixMillis(1_000),
                nonce: 77,
            },
            counter,
        }
        .seal(&key, MacAddr([2, 0, 0, 0, 1, secret]))
    };
    let (own, other, next) = (probe(5, 1), probe(6, 1), probe(6, 2));
    let mut flags = other.clone();
    flags[14 + 5] = 0xff;
    vec![
        ("ok-other", part(0, &other)),
        ("ok-own", part(0, &own)),
        ("ok-on-two-ports", parts(&[(0, &other), (1, &other), (0x80, &next)])),
        ("over-a-link", part(3, &other)),
        ("stranger", part(0, &probe(9, 1))),
        ("unknown-flags", part(0, &flags)),
        ("signed-again", parts(&[(8, &other), (0x28, &own), (0x39, &next)])),
    ]
}

fn sealed() -> Seeds {
    let head = SealHead {
        message: true,
        cipher: Cipher::Aes128Gcm,
        epoch: 3,
        session: 7,
        counter: u32::MAX,
    };
    let message = |m: PathMessage| {
        let mut out = Vec::new();
        m.put(&mut out);
        out
    };
    let report = PathReport {
        newest: 1 << 40,
        held_us: 7,
        datagrams: 9,
        bytes: 10,
        largest: 1_472,
        samples: vec![(16, 5), (32, 6)],
    };
    let many = PathReport {
        samples: vec![(u64::MAX, u64::MAX); 16],
        ..report.clone()
    };
    let long = [message(PathMessage::Report(many.clone())), vec![0xff; 64]].concat();
    vec![
        ("ok-head", [&head.bytes()[..], &[0; 40]].concat()),
        ("ok-report", message(PathMessage::Report(report))),
        ("ok-probe", message(PathMessage::Probe(7))),
        ("ok-ack", message(PathMessage::ProbeAck(7))),
        ("ok-many-samples", message(PathMessage::Report(many))),
        ("more-than-16-samples", long),
        ("kind-255", vec![255; 5]),
    ]
}
