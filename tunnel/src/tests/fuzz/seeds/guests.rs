//! What guests and servers say, and settings of ports.

use super::{A, B, LanPolicy, Seeds, arp, icmp, ipv6, part, parts, udp4};

fn bootp(op: u8, options: &[u8]) -> Vec<u8> {
    let mut b = vec![0u8; 236];
    b[..3].copy_from_slice(&[op, 1, 6]);
    b[7] = 9;
    b[16..20].copy_from_slice(&[10, 0, 0, 7]);
    b[28..34].copy_from_slice(&A);
    b.extend_from_slice(&[99, 130, 83, 99]);
    b.extend_from_slice(options);
    b
}

pub fn dhcp4_seeds() -> Seeds {
    let ask = bootp(1, &[53, 1, 1, 61, 3, 1, 2, 3, 255]);
    let ack = bootp(
        2,
        &[53, 1, 5, 51, 4, 0, 0, 0, 9, 54, 4, 10, 0, 0, 2, 3, 4, 10, 0, 0, 2, 255],
    );
    let frame = {
        let mut f = udp4(68, 67, &ask);
        f[26..30].fill(0);
        f
    };
    vec![
        ("ok-discover", part(1, &ask)),
        (
            "ok-lease",
            parts(&[(1, &bootp(1, &[53, 1, 3, 255])), (0, &ack), (0xc1, &ask)]),
        ),
        ("rogue-server", part(1, &ack)),
        ("overload", part(0, &bootp(2, &[52, 1, 3, 53, 1, 5, 255]))),
        ("option-beyond-end", part(0, &bootp(2, &[53, 200, 5]))),
        ("option-without-length", part(0, &bootp(2, &[53]))),
        ("kind-twice", part(1, &bootp(1, &[53, 1, 1, 53, 1, 5, 255]))),
        ("no-end", part(0, &bootp(2, &[0; 40]))),
        ("frame", part(3, &frame)),
    ]
}

pub fn dhcp6_seeds() -> Seeds {
    let option =
        |code: u16, value: &[u8]| [&code.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat();
    let id = option(1, &[0, 3, 0, 1, 2, 0, 0, 0, 0, 0xa]);
    let address = option(5, &[&[0xfd; 16][..], &[0, 0, 0, 9, 0, 0, 0, 9]].concat());
    let prefix = option(26, &[&[0, 0, 0, 9, 0, 0, 0, 9, 64][..], &[0xfd; 16]].concat());
    let ia = |inner: &[u8]| option(3, &[&[0; 12][..], inner].concat());
    let message = |kind: u8, options: &[&[u8]]| [&[kind, 0, 0, 9][..], &options.concat()].concat();
    let (ask, reply) = (message(1, &[&id, &ia(&[])]), message(7, &[&id, &ia(&address)]));
    vec![
        ("ok-solicit", part(1, &ask)),
        ("ok-reply", parts(&[(1, &ask), (0, &reply)])[..].to_vec()),
        (
            "prefix",
            part(0, &message(7, &[&id, &option(25, &[&[0; 12][..], &prefix].concat())])),
        ),
        (
            "prefix-of-255",
            part(
                0,
                &message(
                    7,
                    &[&option(
                        25,
                        &[&[0; 12][..], &{
                            let mut p = prefix.clone();
                            p[12] = 255;
                            p
                        }]
                        .concat(),
                    )],
                ),
            ),
        ),
        (
            "failed",
            part(
                0,
                &message(7, &[&id, &ia(&[&address[..], &option(13, &[0, 2])].concat())]),
            ),
        ),
        ("relayed", part(1, &message(12, &[&id]))),
        ("option-beyond-end", part(0, &message(7, &[&[0, 3, 255, 255, 0]]))),
        ("many", part(0, &message(7, &[&id, &ia(&address.repeat(40))]))),
    ]
}

pub fn ra_bytes() -> Vec<u8> {
    let prefix = [
        &[3, 4, 64, 0xc0, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 0, 0xfd][..],
        &[0; 15],
    ]
    .concat();
    [
        &[134, 0, 0x12, 0x34, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &prefix,
        &[1, 1],
        &B,
    ]
    .concat()
}

pub fn ras() -> Seeds {
    let good = ra_bytes();
    let with = |at: usize, v: u8| {
        let mut d = good.clone();
        d[at] = v;
        d
    };
    vec![
        ("ok-ra", part(0, &good)),
        ("ok-lifetime-0", part(0, &[&good[..6], &[0, 0], &good[8..]].concat())),
        ("from-a-guest", part(1, &good)),
        ("prefix-of-255", part(0, &with(18, 255))),
        ("option-of-length-0", part(0, &with(17, 0))),
        ("option-beyond-end", part(0, &with(17, 255))),
        (
            "many-prefixes",
            part(0, &[&good[..16], &good[16..48].repeat(12)].concat()),
        ),
        (
            "redirect",
            part(1, &[&[137, 0, 0, 0, 0, 0, 0, 0][..], &[0xfe; 32]].concat()),
        ),
    ]
}

pub fn policies() -> Seeds {
    let mut kept = LanPolicy {
        allow_monitor: true,
        ..LanPolicy::default()
    };
    kept.guests.set("max_macs", "3").unwrap();
    kept.guests.set("vlans", "7,9").unwrap();
    let kept = serde_json::to_vec(&kept).unwrap();
    let frame = part(1, &udp4(1, 2, b"x"));
    let then = |text: &[u8]| [text, b"\n--\n", &frame].concat();
    vec![
        (
            "ok-lines",
            then(b"max_ips=4\n+max_ips=2\nprivacy=on\n!vlan\n+vlan=7\naddresses=10.0.0.1"),
        ),
        ("ok-kept", then(&kept)),
        ("none", then(b"max_macs=none\nmax_upload=none")),
        (
            "too-much",
            then(b"max_macs=18446744073709551615\nmax_upload=99999999999G"),
        ),
        (
            "kept-vlans-that-are-none",
            then(br#"{"guests":{"vlans":[0,4095,65535]}}"#),
        ),
        (
            "kept-addresses",
            then(br#"{"guests":{"addresses":["0.0.0.0","ff02::1"]}}"#),
        ),
        ("monitor", then(b"+monitor=on")),
        ("escape", then(b"\x1b[2J=on\nmax_macs=\x1b]0;x\x07")),
    ]
}

pub fn mactrans() -> Seeds {
    let ask = arp(A, A, [10, 0, 0, 7], [10, 0, 0, 2]);
    let back = {
        let mut f = arp(B, B, [10, 0, 0, 2], [10, 0, 0, 7]);
        f[..6].copy_from_slice(&[0x9e, 0, 0, 0, 0, 1]);
        f
    };
    let dhcp = udp4(68, 67, &bootp(1, &[53, 1, 1, 255]));
    let options = [[&[1, 1][..], &A].concat(), [&[1, 0][..], &A].concat()].concat();
    vec![
        ("ok-arp", parts(&[(1, &ask), (0, &back)])),
        ("ok-dhcp", part(1, &dhcp)),
        ("ok-nd", part(1, &ipv6(58, &icmp(135, [0xfe; 16], &options[..8])))),
        ("partial-sum", part(3, &dhcp)),
        (
            "option-of-length-0",
            part(1, &ipv6(58, &icmp(135, [0xfe; 16], &options))),
        ),
        ("late", parts(&[(1, &ask), (0xc0, &back)])),
    ]
}
