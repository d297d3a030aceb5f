//! What a trace comes to: one sentence for people, and what to do next.
//!
//! It does not: ask anybody. Everything is in the [`TraceView`] already.

use crate::{
    api::{FdbRow, TraceEnd, TraceView},
    render,
};

/// Loss above which a sentence speaks of it: TCP feels 1 %.
const NOTABLE_LOSS: f64 = 0.01;

/// What a trace comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Can frames get there, as far as can be told?
    pub reachable: bool,
    /// In a sentence, for people; text of peers in it is not yet stripped.
    pub text: String,
    /// What to do or look at next.
    pub next: Option<String>,
}

impl Verdict {
    fn good(text: String) -> Self {
        Self {
            reachable: true,
            text,
            next: None,
        }
    }

    fn bad(text: String, next: String) -> Self {
        Self {
            reachable: false,
            text,
            next: Some(next),
        }
    }
}

/// The verdict on everything in `t` but its own verdict.
pub fn of(t: &TraceView) -> Verdict {
    let Some(entry) = &t.here.entry else {
        return unknown(t);
    };
    let mut v = match (&entry.peer, &t.here.port) {
        (None, _) => here(t, entry),
        (Some(_), _) => there(t, entry),
    };
    if let Some(port) = &entry.fenced {
        v.text.push_str(&format!(
            "; port {port} here had the address too and is cut off with it"
        ));
        v.next = Some(format!(
            "two machines have one address, or a guest runs twice: lanline lan show {}",
            t.lan
        ));
    }
    if entry.frozen {
        v.text
            .push_str("; it moves too often and is frozen where it was: a loop, or two machines with one address");
        v.next = Some(format!("see both places: lanline lan show {}", t.lan));
    }
    v
}

fn what(t: &TraceView) -> String {
    match (&t.guest, &t.mac) {
        (Some(g), _) => format!("guest {g}"),
        (None, Some(mac)) if *mac != t.target => format!("{} ({mac})", t.target),
        _ => t.target.clone(),
    }
}

fn unknown(t: &TraceView) -> Verdict {
    let who = what(t);
    let text = format!(
        "no member of LAN {} has told of {who}, and no port here has seen it",
        t.lan
    );
    match t.here.drops.first() {
        Some(d) => Verdict::bad(
            format!(
                "{text}; frames of it are dropped here: {} {} ago ({})",
                d.reason,
                render::span(d.age_ms),
                d.what
            ),
            format!("see why: lanline lan drops {}", t.lan),
        ),
        None => Verdict::bad(
            text,
            format!(
                "make it send something, then look again; all that is known: lanline lan show {}",
                t.lan
            ),
        ),
    }
}

fn here(t: &TraceView, entry: &FdbRow) -> Verdict {
    let (who, seen) = (what(t), seen(entry));
    match &t.here.port {
        Some(p) if p.up => Verdict::good(format!("{who} is behind this node, on port {}; {seen}", p.name)),
        Some(p) => Verdict::bad(
            format!(
                "{who} is behind this node, on port {}, which lets no frames pass{}",
                p.name,
                p.note.as_ref().map(|n| format!(": {n}")).unwrap_or_default()
            ),
            format!("see the port: lanline lan show {}", t.lan),
        ),
        None => Verdict::bad(
            format!("{who} was behind this node, and its port is gone"),
            "look again".into(),
        ),
    }
}

fn there(t: &TraceView, entry: &FdbRow) -> Verdict {
    let (who, member) = (what(t), &entry.at);
    let Some(link) = &t.link else {
        return Verdict::bad(
            format!("{who} is behind member {member}, and there is no frame link to it now"),
            "see who is connected: lanline peers".into(),
        );
    };
    let kind = match link.path {
        crate::api::PathView::Direct => "a direct path",
        crate::api::PathView::Relayed => "a relayed path",
        crate::api::PathView::Tcp => "a TCP path",
    };
    let loss = link.loss.filter(|l| *l >= NOTABLE_LOSS);
    let loss = loss.map(|l| format!(" and {:.1}% loss", l * 100.0)).unwrap_or_default();
    let detour = match link.path {
        crate::api::PathView::Relayed => format!(" ({})", link.why),
        _ => String::new(),
    };
    let path = format!("reachable by {kind} with {}{loss}{detour}", render::rtt(link.rtt_ms));
    let Some(end) = &t.there else {
        let why = t.silent.as_deref().unwrap_or("no answer");
        return Verdict {
            reachable: true,
            text: format!("{who} is behind member {member}, {path}; {member} itself did not say more: {why}"),
            next: Some(format!("see whether it answers: lanline ping {member}")),
        };
    };
    confirmed(t, &who, member, &path, end)
}

/// The member that has the address answered.
fn confirmed(t: &TraceView, who: &str, member: &str, path: &str, end: &TraceEnd) -> Verdict {
    match (&end.entry, &end.port) {
        (Some(e), Some(p)) if p.up => {
            let mut v = Verdict::good(format!(
                "{who} is behind member {member}, on its port {}, {path}; {}",
                p.name,
                seen(e)
            ));
            if let Some(d) = end.drops.first().or(t.here.drops.first()) {
                v.text.push_str(&format!(
                    "; of its frames some were dropped, the last {} ago: {}",
                    render::span(d.age_ms),
                    d.reason
                ));
                v.next = Some(format!("see why: lanline lan drops {}, here and on {member}", t.lan));
            }
            v
        }
        (Some(_), Some(p)) => Verdict::bad(
            format!(
                "{who} is behind member {member}, {path}, but its port {} there lets no frames pass{}",
                p.name,
                p.note.as_ref().map(|n| format!(": {n}")).unwrap_or_default()
            ),
            format!("look there: lanline lan show {}, on {member}", t.lan),
        ),
        (Some(e), None) => Verdict::bad(
            format!(
                "{who} was told of by member {member}, which now says that it is behind {}",
                e.at
            ),
            "it is moving: look again in a second".into(),
        ),
        (None, _) => Verdict::bad(
            format!("{who} was told of by member {member}, which no longer has it"),
            "it left or fell silent: look again in a minute".into(),
        ),
    }
}

fn seen(e: &FdbRow) -> String {
    match e.age_s {
        0 => "its last frame came just now".into(),
        s => format!("its last frame came {} ago", render::span(s * 1_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{FdbKind, LinkView, PathView, RecentDrop, TracePort, Way};
    use std::collections::BTreeMap;

    fn entry(peer: Option<&str>, at: &str, age_s: u64) -> FdbRow {
        FdbRow {
            mac: "02:00:00:00:00:01".into(),
            at: at.into(),
            peer: peer.map(str::to_owned),
            kind: FdbKind::Learned,
            vlan: 0,
            age_s,
            seq: 0,
            frozen: false,
            stale: false,
            fenced: None,
            fixed: false,
            ips: vec![],
        }
    }

    fn end(entry: Option<FdbRow>, port: Option<bool>) -> TraceEnd {
        TraceEnd {
            node: "n".into(),
            name: None,
            entry,
            port: port.map(|up| TracePort {
                name: "tap0".into(),
                kind: "tap".into(),
                up,
                note: (!up).then(|| "waiting for QEMU".into()),
                rx_frames: 1,
                tx_frames: 1,
            }),
            rtt_ms: None,
            drops: vec![],
        }
    }

    fn view(here: TraceEnd) -> TraceView {
        TraceView {
            lan: "home".into(),
            target: "192.168.1.7".into(),
            mac: Some("02:00:00:00:00:01".into()),
            guest: None,
            here,
            link: None,
            there: None,
            silent: None,
            reachable: false,
            verdict: String::new(),
            next: None,
        }
    }

    fn link(loss: f64) -> LinkView {
        LinkView {
            path: PathView::Direct,
            remote: None,
            rtt_ms: 12.3,
            loss: Some(loss),
            mtu: 1_300,
            datagram_bytes: 1_350,
            queued_bytes: 0,
            waiting_ms: 0,
            queued_frames: 0,
            queued_flows: 0,
            delay_p50_ms: 0.0,
            delay_p99_ms: 0.0,
            marks: 0,
            rx_frames: 0,
            tx_frames: 0,
            rx_bytes: 0,
            tx_bytes: 0,
            wire_rx_bytes: 0,
            wire_tx_bytes: 0,
            drops: BTreeMap::new(),
            demand: crate::api::DemandView::Light,
            why: "through attic (12 ms): no direct path has answered".into(),
            better: None,
            paths: Vec::new(),
        }
    }

    #[test]
    fn the_usual_ends() {
        let near = of(&view(end(Some(entry(None, "tap0", 3)), Some(true))));
        assert_eq!(
            near,
            Verdict::good(
                "192.168.1.7 (02:00:00:00:00:01) is behind this node, on port tap0; its last frame came 3s ago".into()
            )
        );
        let mut far = view(end(Some(entry(Some("id"), "attic", 9)), None));
        assert!(!of(&far).reachable, "no link");
        far.link = Some(link(0.0));
        far.guest = Some("web".into());
        far.there = Some(end(Some(entry(None, "tap0", 0)), Some(true)));
        assert_eq!(
            of(&far).text,
            "guest web is behind member attic, on its port tap0, reachable by a direct path with 12 ms; its last frame came just now"
        );
        far.link = Some(link(0.05));
        assert!(of(&far).text.contains("12 ms and 5.0% loss"));
        far.link = Some(LinkView {
            path: PathView::Relayed,
            ..link(0.0)
        });
        assert!(
            of(&far)
                .text
                .contains("a relayed path with 12 ms (through attic (12 ms): no direct path")
        );
        far.there = Some(end(Some(entry(None, "tap0", 0)), Some(false)));
        let down = of(&far);
        assert!(!down.reachable && down.text.contains("no frames pass: waiting for QEMU") && down.next.is_some());
        far.there = Some(end(None, None));
        assert!(!of(&far).reachable);
        far.there = None;
        far.silent = Some("timed out".into());
        let silent = of(&far);
        assert!(silent.reachable && silent.next.unwrap().contains("lanline ping attic"));
    }

    #[test]
    fn what_nobody_has_seen_says_what_to_do() {
        let mut t = view(end(None, None));
        t.mac = None;
        let v = of(&t);
        assert!(
            !v.reachable && v.next.unwrap().contains("lanline lan show home"),
            "{}",
            v.text
        );
        t.here.drops.push(RecentDrop {
            age_ms: 1_500,
            times: 3,
            reason: "spoofed_source".into(),
            at: "web".into(),
            way: Way::In,
            src: None,
            dst: None,
            bytes: 60,
            what: "LLDP".into(),
        });
        let v = of(&t);
        assert!(v.text.contains("spoofed_source 1s ago (LLDP)"), "{}", v.text);
        assert!(v.next.unwrap().contains("lan drops home"));
    }
}
