//! `lan show`, `lan drops`, `lan trace`, `lan capture`.

use super::{
    Human, Table, Tone, View, count, facts,
    lan::{ends, kind, role},
    machine::path,
    or_dash, peer, rtt, short, span,
};
use crate::api::{
    Captured, DropRow, DropsView, FdbKind, FdbRow, LanView, LinkView, MemberRow, PathRow, PathView, PolicyBrief,
    PortRow, RecentDrop, TraceEnd, TraceView, Way,
};
use std::time::Duration;
use wire::{ByteSize, fault::plain};

/// An earlier look at the same LAN: figures become rates.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// What it was like.
    pub view: &'a LanView,
    /// How long ago.
    pub ago: Duration,
}

impl Human for LanView {
    fn human(&self, view: &View) -> String {
        page(self, None, view)
    }
}

/// The page of `lan show --watch`, cut to the screen's height.
pub fn watched(lan: &LanView, before: Option<Before<'_>>, view: &View, height: usize) -> String {
    let text = page(lan, before, view);
    let lines = text.lines().count();
    if lines < height {
        return text;
    }
    let room = height.saturating_sub(2);
    let mut out: String = text.lines().take(room).flat_map(|l| [l, "\n"]).collect();
    out.push_str(&view.paint(
        Tone::Dim,
        &format!(
            "{} more: lanline lan show {}\n",
            count((lines - room) as u64, "line"),
            plain(&lan.lan.name)
        ),
    ));
    out
}

fn page(lan: &LanView, before: Option<Before<'_>>, view: &View) -> String {
    let mut head = vec![
        ("lan", plain(&lan.lan.name)),
        ("id", plain(&lan.lan.id)),
        (
            "role",
            format!("{}, ends {}", role(lan.lan.role), ends(lan.lan.expires, view)),
        ),
        ("mtu", mtu(lan)),
    ];
    head.extend(policy(&lan.policy).map(|p| ("policy", p)));
    head.extend(lan.policy.warnings.iter().map(|w| ("warning", plain(w))));
    let mut parts = vec![facts(&head, view), members(&lan.member_list, before, view)];
    if !lan.port_list.is_empty() {
        parts.push(ports(&lan.port_list, before, view));
    }
    if !lan.fdb.is_empty() {
        parts.push(fdb(&lan.fdb, view));
    }
    if lan.quiet.values().any(|n| *n > 0) {
        parts.push(quiet(lan, view));
    }
    let rows = drop_rows(lan);
    if !rows.is_empty() {
        parts.push(drops(&rows, before).fit(view, &[]).text(view));
    }
    parts.join("\n")
}

fn mtu(lan: &LanView) -> String {
    if lan.lan_mtu == lan.lan_mtu_set {
        return lan.lan_mtu.to_string();
    }
    format!(
        "{} ({} is set; who carries less: lanline lan mtu {})",
        lan.lan_mtu,
        lan.lan_mtu_set,
        plain(&lan.lan.name)
    )
}

/// What is set beside the safe default, if anything is.
fn policy(p: &PolicyBrief) -> Option<String> {
    let said = [(p.owner, "by the LAN's owner"), (p.node, "by this node")];
    let said = said.iter().filter(|(n, _)| *n > 0);
    let words: Vec<String> = said.map(|(n, who)| format!("{} {who}", count(*n, "setting"))).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// Bytes, or bits a second since an earlier look.
fn amount(now: u64, earlier: Option<u64>, before: Option<Before<'_>>) -> String {
    let Some(b) = before else {
        return ByteSize(now).to_string();
    };
    let Some(earlier) = earlier else {
        return "-".into();
    };
    rate(now.saturating_sub(earlier) as f64 * 8.0 / b.ago.as_secs_f64().max(0.001))
}

/// Bits a second, three digits.
fn rate(bits: f64) -> String {
    match bits {
        b if b < 0.5 => "0".into(),
        b if b < 1e3 => format!("{b:.0} b/s"),
        b if b < 1e6 => format!("{:.1} kb/s", b / 1e3),
        b if b < 1e9 => format!("{:.1} Mb/s", b / 1e6),
        b => format!("{:.2} Gb/s", b / 1e9),
    }
}

fn heads(before: Option<Before<'_>>) -> (&'static str, &'static str) {
    match before {
        None => (">IN", ">OUT"),
        Some(_) => (">IN NOW", ">OUT NOW"),
    }
}

fn members(rows: &[MemberRow], before: Option<Before<'_>>, view: &View) -> String {
    let (rx, tx) = heads(before);
    let mut t = Table::new(&[
        "MEMBER", "ID", "ROLE", "PATH", ">RTT", ">LOSS", ">MTU", ">QUEUE", rx, tx, "ADDRESS", "ENDS",
    ]);
    for m in rows {
        let way = match m.path {
            _ if m.me => "this node".to_owned(),
            Some(p) => path(p, None),
            None => "not connected".to_owned(),
        };
        let earlier = before.and_then(|b| b.view.member_list.iter().find(|o| o.id == m.id)?.link.as_ref());
        let of = |f: fn(&LinkView) -> String| m.link.as_ref().map_or_else(|| "-".into(), f);
        let moved = |f: fn(&LinkView) -> u64| {
            let link = m.link.as_ref();
            link.map_or_else(|| "-".into(), |l| amount(f(l), earlier.map(f), before))
        };
        t.row([
            or_dash(m.name.as_deref()),
            short(&m.id),
            role(m.role).into(),
            way,
            m.rtt_ms.map_or_else(|| "-".into(), rtt),
            of(|l| l.loss.map_or_else(|| "-".into(), percent)),
            m.mtu.map_or_else(|| "-".into(), |m| m.to_string()),
            of(queue),
            moved(|l| l.rx_bytes),
            moved(|l| l.tx_bytes),
            of(|l| or_dash(l.remote.as_deref())),
            ends(m.expires, view),
        ]);
        match (&m.link, m.me) {
            (_, true) => {}
            (None, _) => {
                t.tone(3, Tone::Dim);
            }
            (Some(l), _) => {
                let direct = l.path == PathView::Direct;
                t.tone(3, if direct { Tone::Good } else { Tone::Warn });
                if l.loss.is_some_and(|l| l >= 0.01) {
                    t.tone(5, Tone::Warn);
                }
            }
        }
    }
    t.fit(view, &["ADDRESS", "ID", "ENDS", "ROLE", "QUEUE"]).text(view)
}

fn percent(l: f64) -> String {
    format!("{:.1}%", l * 100.0)
}

/// What waits, and for how long: `12 KiB 3 ms`.
fn queue(l: &LinkView) -> String {
    match (l.queued_bytes, l.waiting_ms) {
        (0, _) => "0".into(),
        (b, 0) => ByteSize(b).to_string(),
        (b, ms) => format!("{} {ms} ms", ByteSize(b)),
    }
}

fn ports(rows: &[PortRow], before: Option<Before<'_>>, view: &View) -> String {
    let (rx, tx) = heads(before);
    let mut t = Table::new(&[
        "PORT",
        "KIND",
        "STATE",
        rx,
        tx,
        ">FRAMES IN",
        ">FRAMES OUT",
        "MAC",
        "NOTE",
    ]);
    for p in rows {
        let earlier = before.and_then(|b| b.view.port_list.iter().find(|o| o.id == p.id));
        t.row([
            p.name.clone(),
            kind(p),
            p.state.clone(),
            amount(p.rx_bytes, earlier.map(|o| o.rx_bytes), before),
            amount(p.tx_bytes, earlier.map(|o| o.tx_bytes), before),
            p.rx_frames.to_string(),
            p.tx_frames.to_string(),
            p.mac.clone(),
            p.note.clone().unwrap_or_default(),
        ]);
        let tone = match (p.up, p.state.as_str()) {
            (true, _) => Tone::Good,
            (false, "loop") => Tone::Bad,
            (false, _) => Tone::Warn,
        };
        t.tone(2, tone);
    }
    t.fit(view, &["MAC", "FRAMES OUT", "FRAMES IN"]).text(view)
}

fn fdb(rows: &[FdbRow], view: &View) -> String {
    let tagged = rows.iter().any(|f| f.vlan != 0);
    let mut t = Table::new(&["MAC", "VLAN", "WHERE", "KNOWN", ">AGE", ">SEQ", "ADDRESSES"]);
    for f in rows {
        t.row([
            f.mac.clone(),
            if f.vlan == 0 { "-".into() } else { f.vlan.to_string() },
            peer(&f.at),
            known(f),
            span(f.age_s * 1_000).replace("0ms", "now"),
            f.seq.to_string(),
            addresses(&f.ips),
        ]);
        if f.frozen || f.stale || f.fenced.is_some() {
            t.tone(3, Tone::Bad);
        }
    }
    let spare: &[&str] = if tagged { &["SEQ"] } else { &["VLAN", "SEQ"] };
    if !tagged {
        t.without("VLAN");
    }
    t.fit(view, spare).text(view)
}

/// How an address is known, and what is wrong with it.
fn known(f: &FdbRow) -> String {
    let kind = match (f.kind, f.fixed) {
        (FdbKind::Static, _) => "given",
        (FdbKind::Learned, _) => "learned",
        (FdbKind::Advert, true) => "told, given",
        (FdbKind::Advert, false) => "told",
    };
    let wrong = match (f.frozen, f.stale, &f.fenced) {
        (true, ..) => ", frozen".into(),
        (_, _, Some(port)) => format!(", fenced at {}", plain(port)),
        (_, true, _) => ", link down".into(),
        _ => String::new(),
    };
    format!("{kind}{wrong}")
}

/// IPv4 first, then global IPv6, then what is good on the link alone.
fn addresses(ips: &[String]) -> String {
    let order = |ip: &&String| (ip.contains(':'), ip.starts_with("fe80:"));
    let mut sorted: Vec<&String> = ips.iter().collect();
    sorted.sort_by_key(order);
    sorted.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(" ")
}

/// What was kept off the links, in words; counters that are zero are left out.
fn quiet(lan: &LanView, view: &View) -> String {
    let words = lan.quiet.iter().filter(|(_, n)| **n > 0);
    let words: Vec<String> = words
        .map(|(k, n)| format!("{} {n}", plain(&k.replace('_', " "))))
        .collect();
    let mut lines = vec![String::new()];
    for w in words {
        let room = view.width.saturating_sub(7);
        match lines.last_mut() {
            Some(l) if l.is_empty() => *l = w,
            Some(l) if l.len() + 2 + w.len() <= room => *l = format!("{l}, {w}"),
            _ => lines.push(w),
        }
    }
    let rows: Vec<(&str, String)> = lines
        .into_iter()
        .enumerate()
        .map(|(i, l)| (if i == 0 { "quiet" } else { "" }, l))
        .collect();
    facts(&rows, view)
}

/// What the LAN's switch dropped and what its links did, by reason and place.
fn drop_rows(lan: &LanView) -> Vec<DropRow> {
    let row = |link: Option<&str>| {
        let link = link.map(str::to_owned);
        move |(reason, n): (&String, &u64)| DropRow {
            reason: reason.clone(),
            meaning: tunnel::DropReason::from_name(reason)
                .map_or("", |r| r.meaning())
                .to_owned(),
            link: link.clone(),
            frames: *n,
        }
    };
    let mut rows: Vec<DropRow> = lan.drops.iter().map(row(None)).collect();
    for m in &lan.member_list {
        let name = m.name.as_deref().unwrap_or(&m.id);
        rows.extend(m.link.iter().flat_map(|l| l.drops.iter().map(row(Some(name)))));
    }
    rows.sort_by_key(|r| std::cmp::Reverse(r.frames));
    rows
}

fn drops(rows: &[DropRow], before: Option<Before<'_>>) -> Table {
    let earlier = before.map(|b| drop_rows(b.view));
    let mut t = Table::new(&[
        "DROPPED",
        if before.is_some() { ">FRAMES/S" } else { ">FRAMES" },
        "LINK",
        "BECAUSE",
    ]);
    for r in rows {
        let old = earlier.as_ref().map(|rows| {
            let same = rows.iter().find(|o| o.reason == r.reason && o.link == r.link);
            same.map_or(0, |o| o.frames)
        });
        let (shown, growing) = match (old, before) {
            (Some(old), Some(b)) => {
                let s = (r.frames.saturating_sub(old)) as f64 / b.ago.as_secs_f64().max(0.001);
                (format!("{s:.0}"), s >= 0.5)
            }
            _ => (r.frames.to_string(), false),
        };
        t.row([
            r.reason.clone(),
            shown,
            r.link.as_deref().map_or_else(|| "-".into(), peer),
            r.meaning.clone(),
        ]);
        if growing {
            t.tone(1, Tone::Warn);
        }
    }
    if rows.iter().all(|r| r.link.is_none()) {
        t.without("LINK");
    }
    t
}

impl Human for DropsView {
    fn human(&self, view: &View) -> String {
        if self.rows.is_empty() && self.recent.is_empty() {
            return format!("LAN {} has dropped nothing here\n", plain(&self.lan));
        }
        let mut out = drops(&self.rows, None).wrap(view).text(view);
        if !self.recent.is_empty() {
            out.push_str(&format!("\n{}", recent(&self.recent, view)));
        }
        out
    }
}

fn recent(rows: &[RecentDrop], view: &View) -> String {
    let mut t = Table::new(&[">AGO", ">TIMES", "REASON", "AT", "SOURCE", "DESTINATION", "FRAME"]);
    for d in rows {
        let way = match d.way {
            Way::In => "in",
            Way::Out => "out",
        };
        t.row([
            match d.age_ms {
                0..1_000 => "<1s".into(),
                ms => span(ms),
            },
            d.times.to_string(),
            d.reason.clone(),
            format!("{} {way}", peer(&d.at)),
            or_dash(d.src.as_deref()),
            or_dash(d.dst.as_deref()),
            d.what.clone(),
        ]);
    }
    t.fit(view, &["DESTINATION", "SOURCE"]).text(view)
}

impl Human for TraceView {
    fn human(&self, view: &View) -> String {
        let mut out = String::new();
        let address = match (&self.mac, &self.guest) {
            (Some(m), Some(g)) => format!("{} of guest {}", plain(m), plain(g)),
            (Some(m), None) => plain(m),
            (None, _) => "not known".into(),
        };
        out.push_str(&facts(&[("lan", plain(&self.lan)), ("address", address)], view));
        out.push_str(&format!("\n{}", end("this node", &self.here, view)));
        if let Some(l) = &self.link {
            out.push_str(&format!("\n{}", link(l, view)));
        }
        if let Some(t) = &self.there {
            let name = t.name.as_deref().map_or_else(|| short(&t.node), plain);
            out.push_str(&format!("\n{}", end(&format!("member {name}"), t, view)));
        }
        let tone = if self.reachable { Tone::Good } else { Tone::Bad };
        out.push('\n');
        for line in wrapped(&plain(&self.verdict), view.width) {
            out.push_str(&format!("{}\n", view.paint(tone, &line)));
        }
        if let Some(next) = &self.next {
            out.push_str(&format!("  next: {}\n", plain(next)));
        }
        out
    }
}

/// Lines of at most `width` characters, cut at spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(l) if l.chars().count() + 1 + word.chars().count() <= width => *l = format!("{l} {word}"),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn end(who: &str, e: &TraceEnd, view: &View) -> String {
    let mut rows = vec![("at", view.paint(Tone::Bold, who))];
    match &e.entry {
        None => rows.push(("known", "no".into())),
        Some(f) => {
            let at = match &f.peer {
                Some(_) => format!("behind member {}", peer(&f.at)),
                None => format!("on port {}", plain(&f.at)),
            };
            let age = match f.age_s {
                0 => "just now".to_owned(),
                s => format!("{} ago", span(s * 1_000)),
            };
            let vlan = if f.vlan == 0 {
                String::new()
            } else {
                format!(", VLAN {}", f.vlan)
            };
            let verb = if f.peer.is_some() { "said" } else { "last frame" };
            rows.push((
                "known",
                format!("{at}: {}, {verb} {age}, sequence {}{vlan}", known(f), f.seq),
            ));
            if !f.ips.is_empty() {
                rows.push(("ip", plain(&addresses(&f.ips))));
            }
        }
    }
    if let Some(p) = &e.port {
        let state = if p.up { "up" } else { "down" };
        let note = p.note.as_deref().map(|n| format!(", {}", plain(n))).unwrap_or_default();
        rows.push((
            "port",
            format!(
                "{} ({}), {state}{note}, {} in, {} out",
                plain(&p.name),
                plain(&p.kind),
                count(p.rx_frames, "frame"),
                count(p.tx_frames, "frame")
            ),
        ));
    }
    if let Some(ms) = e.rtt_ms {
        rows.push(("back", format!("{} to this node", rtt(ms))));
    }
    let mut out = facts(&rows, view);
    if !e.drops.is_empty() {
        out.push_str(&recent(&e.drops, view));
    }
    out
}

fn link(l: &LinkView, view: &View) -> String {
    let loss = l
        .loss
        .map_or_else(|| "loss not known".into(), |l| format!("{} loss", percent(l)));
    let mut rows = vec![
        (
            "path",
            format!("{}, {}, {loss}, MTU {}", path(l.path, None), rtt(l.rtt_ms), l.mtu),
        ),
        ("queue", queue(l)),
    ];
    if let Some(a) = &l.remote {
        rows.push(("to", plain(a)));
    }
    rows.push(("why", plain(&l.why)));
    rows.extend(l.better.iter().map(|b| ("better", plain(b))));
    let others = l.paths.iter().filter(|p| p.state != "active");
    for p in others
        .filter(|p| p.state != "dead" || p.rtt_ms.is_some())
        .take(OTHER_PATHS)
    {
        rows.push(("other path", other_path(p)));
    }
    facts(&rows, view)
}

/// Other paths of a link that a page shows.
const OTHER_PATHS: usize = 6;

fn other_path(p: &PathRow) -> String {
    let kind = match (p.class.as_str(), &p.via) {
        ("lan", _) => "same network".to_owned(),
        ("relay", Some(via)) => format!("relayed by {}", plain(via)),
        ("stream", _) => "TCP or circuit".to_owned(),
        (class, _) => class.replace("ipv", "IPv"),
    };
    let to = p
        .remote
        .as_deref()
        .map(|a| format!(" to {}", plain(a)))
        .unwrap_or_default();
    let how = match p.rtt_ms {
        Some(ms) if p.state == "spare" => format!("{}, {} loss", rtt(ms), percent(p.loss)),
        Some(_) => "answers no more".to_owned(),
        None => "no answer yet".to_owned(),
    };
    format!("{kind}{to}: {how}")
}

impl Human for Captured {
    fn human(&self, _: &View) -> String {
        format!("{} written, {}\n", count(self.frames, "frame"), ByteSize(self.bytes))
    }
}
