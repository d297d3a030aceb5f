//! What people read, letter by letter.

use super::*;
use crate::api::*;
use serde_json::json;
use std::collections::BTreeMap;
use wire::FaultKind;

const PLAIN: View = View {
    colour: false,
    unicode: false,
    width: 80,
    now: UnixMillis(1_000_000_000),
};
const FULL: View = View {
    colour: true,
    unicode: true,
    width: 80,
    now: UnixMillis(1_000_000_000),
};
const ATTIC: &str = "12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq";

fn guest(name: &str, state: &str) -> GuestRow {
    serde_json::from_value(json!({
        "id": "6f1b0a52-3a7e-4d55-9d0c-0123456789ab", "name": name, "state": state, "host": ATTIC, "host_name": "attic",
        "owner": ATTIC, "mine": true, "ip": "192.168.1.57", "mac": "02:00:5e:10:00:01", "lan": "home",
        "image": "debian:12", "cpus": 2, "memory_bytes": 1u64 << 30, "accel": "tcg", "uptime_ms": 4_000_000, "note": null,
    }))
    .unwrap()
}

#[test]
fn guests_are_aligned_and_coloured_only_where_there_are_colours() {
    let rows = vec![
        guest("web", "running"),
        GuestRow {
            ip: None,
            uptime_ms: None,
            note: Some("host unreachable".into()),
            ..guest("a-long-name", "in-doubt")
        },
    ];
    let want = "\
NAME         STATE     HOST   IP            LAN   CPUS  MEMORY      UP  IMAGE      NOTE
web          running   attic  192.168.1.57  home     2   1 GiB  66m40s  debian:12
a-long-name  in-doubt  attic  -             home     2   1 GiB       -  debian:12  host unreachable
";
    assert_eq!(rows.human(&PLAIN), want);
    assert!(rows.human(&FULL).contains("\x1b[32mrunning\x1b[0m"));
    let strip = escape::text(&rows.human(&FULL));
    assert_eq!(strip, rows.human(&PLAIN), "colours do not move a column");
    assert!(Vec::<GuestRow>::new().human(&PLAIN).contains("lanline run"));
}

#[test]
fn a_stranger_cannot_write_to_the_terminal() {
    let bad = "x\x1b]0;owned\x07\n\x1b[2J";
    let rows = vec![GuestRow {
        name: bad.into(),
        note: Some(bad.into()),
        host_name: bad.into(),
        ..guest("w", bad)
    }];
    let peers = vec![PeerRow {
        id: ATTIC.into(),
        name: Some(bad.into()),
        path: PathView::Relayed,
        relay: Some(bad.into()),
        frame_relays: Vec::new(),
        why: Some(bad.into()),
        frames: Some(bad.into()),
        address: Some(bad.into()),
        rtt_ms: Some(12.3),
        loss: Some(0.015),
        tx_bytes: 1,
        rx_bytes: 2,
        age_ms: 3,
        agent: None,
        lans: vec![bad.into()],
    }];
    let result = RunResult {
        id: bad.into(),
        name: bad.into(),
        host: ATTIC.into(),
        host_name: bad.into(),
        ip: Some(bad.into()),
        mac: bad.into(),
        lan: Some(bad.into()),
        image: bad.into(),
        accel: bad.into(),
        state: bad.into(),
        image_bytes: 1,
        bytes_from: BTreeMap::from([(bad.into(), 1)]),
        steps: vec![],
        exec: None,
        placement: vec![],
        total_ms: 1,
    };
    let fault = Fault::new(FaultKind::Refused, bad).next(bad);
    let line = ProgressLine {
        what: bad.into(),
        note: Some(bad.into()),
        ..ProgressLine::default()
    };
    for text in [
        rows.human(&PLAIN),
        peers.human(&PLAIN),
        result.human(&PLAIN),
        run_hints(&result, &PLAIN),
        super::fault(&fault, &PLAIN),
        step(bad, &PLAIN),
        bar::line(&line, &PLAIN),
        bar::Sparse::default().line(&line).unwrap(),
    ] {
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(!text.contains("\n\x20[2J"), "{text:?}");
    }
}

#[test]
fn faults_say_what_and_next() {
    let f = Fault::new(FaultKind::Refused, "attic refuses: you hold no grant.").next("on attic: lanline grant laptop");
    assert_eq!(
        fault(&f, &PLAIN),
        "lanline: attic refuses: you hold no grant.\n  next: on attic: lanline grant laptop\n"
    );
    assert_eq!(
        fault(&Fault::new(FaultKind::Failed, "x"), &FULL),
        "\x1b[31mlanline:\x1b[0m x\n"
    );
}

fn fetching(done: u64) -> ProgressLine {
    ProgressLine {
        what: "fetching debian:12".into(),
        done: done << 20,
        total: Some(200 << 20),
        rate: Some(61 << 20),
        peers: Some(4),
        eta_ms: Some(2_800),
        ..ProgressLine::default()
    }
}

#[test]
fn the_bar_says_bytes_rate_peers_and_time_and_never_wraps() {
    let want = "fetching debian:12  [#####.....] 100 MiB of 200 MiB, 61 MiB/s, 4 peers, 2s left";
    assert_eq!(bar::line(&fetching(100), &View { width: 80, ..PLAIN }), want);
    assert!(bar::line(&fetching(100), &View { width: 200, ..FULL }).contains("[███████████████···············]"));
    for width in [0, 1, 10, 40, 60, 80, 81, 200] {
        for view in [PLAIN, FULL] {
            let line = bar::line(&fetching(100), &View { width, ..view });
            assert!(line.chars().count() <= width.saturating_sub(1), "{width}: {line}");
        }
    }
    let over = ProgressLine {
        done: 300,
        total: Some(200),
        ..ProgressLine::default()
    };
    assert!(
        bar::line(&over, &PLAIN).contains("[##############################]"),
        "{}",
        bar::line(&over, &PLAIN)
    );
    let waiting = ProgressLine {
        what: "waiting for an address".into(),
        unit: Unit::Count,
        ..ProgressLine::default()
    };
    assert_eq!(bar::line(&waiting, &PLAIN), "waiting for an address");
    let unknown = ProgressLine {
        what: "fetching x".into(),
        total: Some(0),
        rate: Some(0),
        ..ProgressLine::default()
    };
    assert_eq!(bar::line(&unknown, &PLAIN), "fetching x", "0 of 0 is not said");
    let millis = ProgressLine {
        what: "waiting".into(),
        done: 5_000,
        total: Some(90_000),
        unit: Unit::Millis,
        ..ProgressLine::default()
    };
    assert!(bar::line(&millis, &PLAIN).ends_with("5s of at most 90s"));
}

#[test]
fn a_file_gets_few_lines() {
    let mut sparse = bar::Sparse::default();
    let lines: Vec<String> = (0..=200).filter_map(|n| sparse.line(&fetching(n))).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines[0].starts_with("fetching debian:12: 0 B of 200 MiB") && lines[4].contains(": 200 MiB of 200 MiB"));
    let next = ProgressLine {
        what: "waiting for an address".into(),
        ..ProgressLine::default()
    };
    assert_eq!(sparse.line(&next).as_deref(), Some("waiting for an address"));
    assert_eq!(sparse.line(&next), None);
    assert_eq!(
        sparse.line(&fetching(200)),
        None,
        "works that take turns are told once each"
    );
    assert_eq!(sparse.line(&next), None);
    let many = (0..1_000).map(|n| ProgressLine {
        what: format!("work {n}"),
        ..ProgressLine::default()
    });
    assert_eq!(many.filter_map(|p| sparse.line(&p)).count(), 1_000);
}

#[test]
fn ends_and_ages() {
    assert_eq!(PLAIN.ends(1_000_000_000 + 86_400_000 * 3), "in 3d00h");
    assert_eq!(PLAIN.ends(999_999_999), "ended");
    assert_eq!(PLAIN.ends(u64::MAX).get(..3), Some("in "));
    assert_eq!(PLAIN.ago(1_000_000_000 - 5_000), "5s ago");
    assert_eq!(PLAIN.ago(u64::MAX), "just now");
    assert_eq!(
        (count(1u32, "cpu"), count(0u32, "cpu")),
        ("1 cpu".into(), "0 cpus".into())
    );
    assert_eq!(accel("tcg", Some("TCG: no vmx")), "TCG: no vmx");
    assert_eq!(accel("kvm", Some("it is faster")), "kvm: it is faster");
    assert_eq!((rtt(0.42), rtt(12.4)), ("0.4 ms".into(), "12 ms".into()));
    assert_eq!(
        (peer(ATTIC), peer("attic-nuc-of-anna")),
        ("Lr2NASuq".into(), "attic-nuc-of-anna".into())
    );
    assert_eq!((short(ATTIC), short("é")), ("9Lr2NASuq"[1..].into(), "é".into()));
}

#[test]
fn a_stop_says_whether_the_guest_obeyed() {
    let stop = |how: &str, obeyed| {
        StopView {
            id: String::new(),
            name: "web".into(),
            how: how.into(),
            obeyed,
            took_ms: 3_000,
        }
        .human(&PLAIN)
    };
    assert_eq!(stop("guest", Some(true)), "web shut itself down in 3s\n");
    assert_eq!(
        stop("quit", Some(false)),
        "web did not shut down when asked; it was switched off after 3s\n"
    );
    assert_eq!(
        stop("killed", Some(false)),
        "web did not shut down when asked; its process was killed after 3s\n"
    );
    assert_eq!(stop("quit", None), "web was switched off in 3s\n");
    assert_eq!(stop("already", None), "web was stopped already\n");
}

#[test]
fn an_image_that_is_not_whole_is_never_said_to_be() {
    let row = |have| ImageRow {
        id: "a".repeat(52),
        names: vec!["tiny:latest".into()],
        size_bytes: 1 << 30,
        stored_bytes: 1 << 20,
        pieces_total: 1_000,
        pieces_have: have,
        complete: have == 1_000,
        added: 1_000_000_000,
    };
    let cell = |have| vec![row(have)].human(&PLAIN).lines().nth(1).unwrap().to_owned();
    assert!(cell(1_000).contains(" all "));
    assert!(cell(999).contains(" 99% "));
    assert!(cell(0).contains(" 0% "));
    let empty = ImageRow {
        pieces_total: 0,
        pieces_have: 0,
        complete: false,
        ..row(0)
    };
    assert!(vec![empty].human(&PLAIN).contains(" 0% "));
}

#[test]
fn a_ping_says_how_many_came_back() {
    let reply = |seq, rtt_ms: Option<f64>| PingReply {
        seq,
        rtt_ms,
        error: rtt_ms.is_none().then(|| "no answer in 1 s".into()),
    };
    let report = PingReport {
        peer: ATTIC.into(),
        name: Some("attic".into()),
        frame: vec![reply(1, Some(20.0)), reply(2, None), reply(3, Some(22.0))],
        control: vec![],
        why: None,
        frames: None,
    };
    let want = "attic frame path seq=1 20 ms\nattic frame path seq=2 no answer in 1 s\nattic frame path seq=3 22 ms\n\
                frame path: 2 of 3 came back, min/median/max 20.0/22.0/22.0 ms\ncontrol path: 0 of 0 came back\n";
    assert_eq!(report.human(&PLAIN), want);
}

fn lan_view() -> LanView {
    let link = json!({
        "path": "direct", "remote": "203.0.113.9:4400", "rtt_ms": 12.3, "loss": 0.002, "mtu": 1372,
        "datagram_bytes": 1394, "queued_bytes": 12288, "waiting_ms": 3, "queued_frames": 9, "queued_flows": 2,
        "demand": "light", "why": "direct by IPv4 (12 ms), as it was from the start", "better": null,
        "delay_p50_ms": 0.5, "delay_p99_ms": 4.1, "marks": 0, "rx_frames": 10, "tx_frames": 20,
        "rx_bytes": 1u64 << 30, "tx_bytes": 3 << 20, "wire_rx_bytes": 1, "wire_tx_bytes": 1, "drops": {"link_gone": 7},
        "paths": [],
    });
    let member = |id: &str, name: &str, me: bool, link: &serde_json::Value| {
        json!({
            "id": id, "name": name, "role": if me { "owner" } else { "host" }, "expires": null, "me": me,
            "path": link.get("path"), "rtt_ms": link.get("rtt_ms"), "mtu": link.get("mtu"), "link": link,
        })
    };
    let entry = |mac: &str, at: &str, peer: Option<&str>, kind: &str, ips: &[&str]| {
        json!({
            "mac": mac, "where": at, "peer": peer, "kind": kind, "vlan": 0, "age_s": 3, "seq": 1, "frozen": false,
            "stale": false, "fenced": null, "static": kind != "learned", "ips": ips,
        })
    };
    serde_json::from_value(json!({
        "name": "home", "id": "home.abcdefghij", "role": "owner", "members": 3, "connected": 1, "ports": 2,
        "expires": null, "lan_mtu": 1500, "lan_mtu_set": 9000,
        "policy": {"owner": 2, "node": 1, "warnings": []},
        "member_list": [
            member("12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5", "laptop", true, &json!(null)),
            member(ATTIC, "attic-nuc", false, &link),
            member("12D3KooWGzBzPpZ7o3mT9mQJ1oJ9fZ2v8nJ4yq7m3r5t6u8w9xyz", "cellar", false, &json!(null)),
        ],
        "port_list": [{
            "id": 1, "name": "lltap0", "kind": "bridge", "bridge": "br0", "up": true, "state": "forwarding",
            "mac": "02:00:00:00:00:07", "offloads": ["checksum", "tso"], "note": "offloads: checksum, TSO",
            "rx_frames": 1234, "tx_frames": 99, "rx_bytes": 1u64 << 20, "tx_bytes": 60,
        }],
        "fdb": [
            entry("02:00:5e:10:00:01", "attic-nuc", Some(ATTIC), "advert", &["fe80::5eff:fe10:1", "192.168.1.57"]),
            entry("b8:27:eb:00:00:02", "lltap0", None, "learned", &["192.168.1.1"]),
        ],
        "quiet": {"arp_answered": 3},
        "drops": {"no_link": 31},
    }))
    .unwrap()
}

#[test]
fn a_lan_fits_80_columns_and_uses_120() {
    let want = "\
lan     home
id      home.abcdefghij
role    owner, ends never
mtu     1500 (9000 is set; who carries less: lanline lan mtu home)
policy  2 settings by the LAN's owner, 1 setting by this node

MEMBER     ROLE   PATH             RTT  LOSS   MTU        QUEUE     IN    OUT
laptop     owner  this node          -     -     -            -      -      -
attic-nuc  host   direct         12 ms  0.2%  1372  12 KiB 3 ms  1 GiB  3 MiB
cellar     host   not connected      -     -     -            -      -      -

PORT    KIND        STATE          IN   OUT  FRAMES IN  NOTE
lltap0  bridge br0  forwarding  1 MiB  60 B       1234  offloads: checksum, TSO

MAC                WHERE      KNOWN        AGE  ADDRESSES
02:00:5e:10:00:01  attic-nuc  told, given   3s  192.168.1.57 fe80::5eff:fe10:1
b8:27:eb:00:00:02  lltap0     learned       3s  192.168.1.1

quiet  arp answered 3

DROPPED    FRAMES  LINK       BECAUSE
no_link        31  -          Its destination's member has no link just now.
link_gone       7  attic-nuc  It waited for a link that ended.
";
    let got = lan_view().human(&PLAIN);
    assert!(got.lines().all(|l| l.chars().count() <= 80), "{got}");
    assert_eq!(got, want, "{got}");
    let wide = lan_view().human(&View { width: 120, ..FULL });
    let bare = escape::text(&wide);
    assert!(bare.lines().all(|l| l.chars().count() <= 120), "{bare}");
    for more in [
        "host",
        "203.0.113.9:4400",
        "FRAMES IN",
        "1234",
        "02:00:00:00:00:07",
        "fe80::5eff:fe10:1",
    ] {
        assert!(bare.contains(more), "{more}: {bare}");
    }
    assert!(wide.contains("\x1b[32mdirect\x1b[0m"));
}

#[test]
fn a_watched_lan_has_rates_and_fits_the_screen() {
    let earlier = lan_view();
    let mut now = lan_view();
    now.port_list[0].rx_bytes += 250_000_000;
    now.member_list[1].link.as_mut().unwrap().tx_bytes += 1_250;
    *now.drops.get_mut("no_link").unwrap() += 40;
    let before = Some(Before {
        view: &earlier,
        ago: std::time::Duration::from_secs(2),
    });
    let text = watched(&now, before, &PLAIN, usize::MAX);
    for want in ["IN NOW", "1.00 Gb/s", "5.0 kb/s", "no_link          20"] {
        assert!(text.contains(want), "{want}: {text}");
    }
    let cut = watched(&now, before, &PLAIN, 10);
    assert_eq!(cut.lines().count(), 9, "{cut}");
    assert!(
        cut.ends_with("more: lanline lan show home\n") || cut.contains("lines more"),
        "{cut}"
    );
}

#[test]
fn why_frames_were_dropped_is_said_whole_on_a_narrow_terminal() {
    let row = |reason: &str, meaning: &str| DropRow {
        reason: reason.into(),
        meaning: meaning.into(),
        link: None,
        frames: 31,
    };
    let recent = |age_ms: u64| json!({"age_ms": age_ms, "times": 1, "reason": "no_link", "at": "tap1", "way": "in", "bytes": 60, "what": "ARP"});
    let drops = DropsView {
        lan: "home".into(),
        rows: vec![
            row("no_link", "Its destination's member has no link just now."),
            row("gone", "Short."),
        ],
        recent: serde_json::from_value(json!([recent(849), recent(42_000)])).unwrap(),
    };
    let got = drops.human(&View { width: 40, ..PLAIN });
    let want = "\
DROPPED  FRAMES  BECAUSE
no_link      31  Its destination's
                 member has no link just
                 now.
gone         31  Short.
";
    assert!(got.starts_with(want), "{got}");
    assert!(got.contains("\n<1s ") && got.contains("\n42s "), "{got}");
}

#[test]
fn a_stranger_cannot_write_through_a_trace() {
    let bad = "x\x1b]0;owned\x07\n\x1b[2J";
    let end: TraceEnd = serde_json::from_value(json!({
        "node": bad, "name": bad, "rtt_ms": 1.0,
        "entry": {"mac": bad, "where": bad, "peer": bad, "kind": "advert", "vlan": 7, "age_s": 0, "seq": 1,
                  "frozen": false, "stale": true, "fenced": bad, "static": false, "ips": [bad]},
        "port": {"name": bad, "kind": bad, "up": false, "note": bad, "rx_frames": 1, "tx_frames": 1},
        "drops": [{"age_ms": 1, "times": 1, "reason": bad, "at": bad, "way": "in", "src": bad, "dst": bad, "bytes": 1,
                   "what": bad}],
    }))
    .unwrap();
    let drops = DropsView {
        lan: bad.into(),
        rows: vec![DropRow {
            reason: bad.into(),
            meaning: bad.into(),
            link: Some(bad.into()),
            frames: 1,
        }],
        recent: end.drops.clone(),
    };
    let mut trace = TraceView {
        lan: bad.into(),
        target: bad.into(),
        mac: Some(bad.into()),
        guest: Some(bad.into()),
        here: end.clone(),
        link: lan_view().member_list[1].link.clone(),
        there: Some(end),
        silent: Some(bad.into()),
        reachable: false,
        verdict: bad.into(),
        next: Some(bad.into()),
    };
    trace.link.as_mut().unwrap().remote = Some(bad.into());
    for text in [drops.human(&PLAIN), trace.human(&PLAIN)] {
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(!text.contains("\n [2J"), "{text:?}");
    }
}
