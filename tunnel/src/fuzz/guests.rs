//! What guests and the servers around them say, and what people set for guests.

use super::{parts, pause, start};
use crate::{
    csum,
    defaults::{GUEST_IPS, GUEST_MACS, TRANSLATE_IPS},
    mactrans::MacTrans,
    packet::Packet,
    policy::{
        Around, CompiledPolicy, LanPolicy, Pass, PortGuard, PortPolicy, compile, dhcp4 as v4, dhcp6 as v6, explain,
        ra as nd, settings::MAX_LIST,
    },
    snoop,
};
use etherparse::PacketBuilder;
use std::net::{IpAddr, Ipv6Addr};
use wire::{
    MacAddr,
    frame::{Frame, Offload, PartialCsum},
};

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// A LAN with a gateway.
struct Home;

impl Around for Home {
    fn has_ip(&self, ip: IpAddr) -> bool {
        ip == IpAddr::from([10, 0, 0, 254])
    }
    fn has_mac(&self, mac: MacAddr) -> bool {
        mac == MacAddr(SERVER)
    }
    fn is_guest(&self, _: MacAddr) -> bool {
        false
    }
    fn is_off_link(&self, ip: Ipv6Addr) -> bool {
        ip.segments()[0] != 0xfd00
    }
}

/// A guest's port, and time.
struct Guest {
    port: PortGuard,
    now: std::time::Instant,
}

impl Guest {
    fn new(rules: CompiledPolicy) -> Self {
        let now = start();
        Self {
            port: PortGuard::new(now, rules),
            now,
        }
    }

    /// A frame from the guest, or one to it.
    fn frame(&mut self, out: bool, bytes: &[u8]) {
        let Ok(p) = Packet::check(bytes, Offload::default()) else {
            return;
        };
        if out {
            let passed = self.port.ingress(self.now, &p, &Home).is_ok();
            assert!(!passed || p.frame().src().is_valid_source(), "a group sends nothing");
        } else if let Ok(Pass::WithoutRouter(at)) = self.port.egress(self.now, false, &p) {
            nd::without_router(&mut bytes.to_vec(), at);
        }
        snoop::dhcp_ack(p.frame());
        snoop::sender(p.frame(), true);
        assert!(
            self.port.held(self.now).len() <= 2 * (GUEST_IPS + MAX_LIST),
            "addresses have a bound"
        );
    }
}

fn udp(out: bool, v6: bool, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = if out { (GUEST, SERVER) } else { (SERVER, GUEST) };
    let ports = match (out, v6) {
        (true, false) => (68, 67),
        (false, false) => (67, 68),
        (true, true) => (546, 547),
        (false, true) => (547, 546),
    };
    let eth = PacketBuilder::ethernet2(src, dst);
    let ip = if v6 {
        eth.ipv6([0xfe; 16], [0xfd; 16], 64)
    } else {
        eth.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
    };
    let mut f = Vec::new();
    // Only a payload beyond 64 KiB fails, and then there is nothing to send.
    let _ = ip.udp(ports.0, ports.1).write(&mut f, payload);
    f
}

/// Messages of DHCP: bit 0 of a part's kind is whether the guest sends it; bit 1: it is a whole frame.
pub fn dhcp4(data: &[u8]) {
    messages(data, false, &|payload| {
        if let Ok(m) = v4::parse(payload) {
            assert!(m.routers.iter().count() <= MAX_LIST);
            assert!(m.client_id.is_none_or(|id| id.len() <= 255));
        }
    });
}

/// Messages of DHCPv6, like those of [`dhcp4`].
pub fn dhcp6(data: &[u8]) {
    messages(data, true, &|payload| {
        if let Ok(m) = v6::parse(payload) {
            assert!(m.given.iter().all(|g| g.len <= 128) && m.given.len() <= GUEST_IPS);
        }
    });
}

fn messages(data: &[u8], v6: bool, parse: &dyn Fn(&[u8])) {
    let mut guest = Guest::new(CompiledPolicy::for_guest(MacAddr(GUEST)));
    for (kind, part) in parts(data) {
        guest.now += pause(kind);
        if kind & 2 == 0 {
            parse(part);
            guest.frame(kind & 1 != 0, &udp(kind & 1 != 0, v6, part));
        } else {
            guest.frame(kind & 1 != 0, part);
        }
    }
}

/// Messages of ICMPv6 without their IP header.
pub fn ra(data: &[u8]) {
    let mut guest = Guest::new(CompiledPolicy::for_guest(MacAddr(GUEST)));
    for (kind, part) in parts(data) {
        guest.now += pause(kind);
        let (src, dst) = if kind & 1 != 0 {
            (GUEST, SERVER)
        } else {
            (SERVER, GUEST)
        };
        let head = PacketBuilder::ethernet2(src, dst).ipv6([0xfe; 16], [0xff; 16], 255);
        let mut frame = Vec::new();
        let written = head.write(&mut frame, etherparse::IpNumber::IPV6_ICMP, part);
        if written.is_ok() {
            guest.frame(kind & 1 != 0, &frame);
        }
        let Ok(Some(read)) = nd::parse(part) else { continue };
        assert!(read.prefixes.len() <= nd::MAX_PREFIXES && read.prefixes.iter().all(|p| p.len <= 128));
        let mut mended = part.to_vec();
        nd::without_router(&mut mended, 0);
        if read.kind == nd::kind::RA {
            let again = nd::parse(&mended);
            assert!(matches!(&again, Ok(Some(m)) if m.router_lifetime == 0 && m.prefixes == read.prefixes));
            let same = |a: u16, b: u16| a == b || (a ^ b) == u16::MAX && (a == 0 || b == 0);
            assert!(
                same(csum::sum(part), csum::sum(&mended)),
                "the checksum is as right as it was"
            );
        } else {
            assert_eq!(mended, part);
        }
    }
}

/// Settings as text, up to a line `--`, then frames as parts. A text that `json` reads is taken as a LAN's settings as
/// they are kept; else its lines are `key=value` of the LAN, `+key=value` of the guest, and `!key` to leave one free.
pub fn policy(data: &[u8], json: &dyn Fn(&str) -> Option<LanPolicy>) {
    let end = data.windows(4).position(|w| w == b"\n--\n");
    let (text, rest) = end.map_or((data, &[][..]), |at| (&data[..at], &data[at + 4..]));
    let Ok(text) = std::str::from_utf8(text) else { return };
    let (lan, own) = json(text).map_or_else(|| lines(text), |lan| (lan, PortPolicy::default()));
    let explained = explain(&lan, &own);
    let Ok(rules) = compile(&lan, &own, &[MacAddr(GUEST)]) else {
        return;
    };
    assert!(explained.is_ok(), "what holds can be explained");
    assert_eq!(rules.macs(), [MacAddr(GUEST)]);
    assert!(rules.macs().len() <= GUEST_MACS);
    assert!(rules.access_vlan().is_none_or(|v| (1..=4094).contains(&v)));
    assert!(!rules.is_monitor() || lan.allow_monitor, "no mirror without leave");
    // What is kept can be written again by hand, and means the same.
    for given in [&lan.guests, &own] {
        let mut again = PortPolicy::default();
        for (key, value) in given.given() {
            assert_eq!(again.set(key, &value), Ok(()), "{key}={value} was taken and is refused");
        }
        assert_eq!(&again, given);
    }
    let mut guest = Guest::new(rules);
    for (kind, part) in parts(rest) {
        guest.now += pause(kind);
        guest.frame(kind & 1 != 0, part);
        if let (Ok(remote), Ok(f)) = (CompiledPolicy::for_remote(&lan), Frame::new(part)) {
            let _ = remote.check_remote(&f);
        }
    }
}

fn lines(text: &str) -> (LanPolicy, PortPolicy) {
    let (mut lan, mut own) = (LanPolicy::default(), PortPolicy::default());
    for line in text.lines().take(super::PARTS) {
        if let Some(key) = line.strip_prefix('!') {
            lan.free.insert(key.to_owned());
            continue;
        }
        if line == "allow_monitor" {
            lan.allow_monitor = true;
        }
        let (into, line) = match line.strip_prefix('+') {
            Some(line) => (&mut own, line),
            None => (&mut lan.guests, line),
        };
        let said = match line.split_once('=') {
            Some((key, value)) => into.set(key, value),
            None => into.unset(line),
        };
        if let Err(e) = said {
            let text = e.to_string();
            assert!(
                !text.chars().any(|c| c.is_control() && c != '\n'),
                "{text:?} drives a terminal"
            );
        }
    }
    (lan, own)
}

/// Frames through the translation of a station: bit 0 of a part's kind is the way, bit 1 a partial checksum.
pub fn mactrans(data: &[u8]) {
    let own = MacAddr([0x9e, 0, 0, 0, 0, 1]);
    let mut now = start();
    let mut t = MacTrans::new(now, own);
    t.set_station(own, [IpAddr::from([10, 0, 0, 1])].into());
    for (kind, part) in parts(data) {
        now += pause(kind);
        t.handle_timeout(now);
        let mut frame = part.to_vec();
        let csum = (kind & 2 != 0).then_some(PartialCsum { start: 34, offset: 6 });
        if kind & 1 != 0 {
            if t.outgoing(now, &mut frame, csum).is_ok() {
                assert_eq!(
                    Frame::new(&frame).map(|f| f.src()),
                    Ok(own),
                    "only the station's address leaves"
                );
            }
        } else if t.incoming(now, &mut frame).is_ok() {
            assert!(
                Frame::new(&frame).is_ok_and(|f| f.dst() != own),
                "what is the station's own stays with it"
            );
        }
        assert_eq!(frame.len(), part.len());
        assert!(t.rows().count() <= TRANSLATE_IPS, "the table has a bound");
    }
}
