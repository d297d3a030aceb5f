//! status, peers, ping, doctor, config show, down.

use super::{Human, Table, Tone, View, count, facts, or_dash, rtt, short, span};
use crate::api::{
    ConfigView, DoctorReport, Down, Origin, PathView, PeerRow, PingReply, PingReport, RelayView, Status, Verdict,
};
use wire::{ByteSize, fault::plain};

impl Human for Status {
    fn human(&self, view: &View) -> String {
        let list = |v: &[String]| {
            if v.is_empty() {
                "-".to_owned()
            } else {
                plain(&v.join("  "))
            }
        };
        let lans: Vec<String> = self
            .lans
            .iter()
            .map(|l| {
                format!(
                    "{} ({} of {} connected)",
                    l.name,
                    l.connected,
                    l.members.saturating_sub(1)
                )
            })
            .collect();
        let offer = match &self.offer {
            Some(o) if o.on => format!(
                "{}, {}, {}",
                count(o.cpus, "cpu"),
                ByteSize(o.memory_bytes),
                plain(&o.accel)
            ),
            _ => "nothing".to_owned(),
        };
        let rows = [
            ("node", plain(&self.id)),
            ("name", plain(&self.name)),
            (
                "version",
                format!(
                    "{}, pid {}, up {}",
                    plain(&self.version),
                    self.pid,
                    span(self.uptime_ms)
                ),
            ),
            ("state", plain(&self.state)),
            ("listens", list(&self.listen)),
            ("seen at", list(&self.observed)),
            ("reachable", plain(&self.reachability)),
            ("nat", plain(&self.nat.says)),
            ("peers", self.peers.to_string()),
            ("lans", list(&lans)),
            (
                "guests",
                format!("{} mine, {} run here", self.guests.mine, self.guests.here),
            ),
            ("lends", offer),
            ("relays", relay_words(&self.relay)),
        ];
        facts(&rows, view)
    }
}

/// What a node carries for others, in a line.
pub fn relay_words(r: &RelayView) -> String {
    if r.lend == "off" {
        return "for nobody".to_owned();
    }
    format!(
        "for {}, up to {} Mb/s; {}, {} of {} this month",
        plain(&r.lend),
        r.bytes_per_s * 8 / 1_000_000,
        count(r.channels, "channel"),
        ByteSize(r.month_bytes),
        ByteSize(r.month_limit_bytes),
    )
}

impl Human for Vec<PeerRow> {
    fn human(&self, view: &View) -> String {
        if self.is_empty() {
            return "no peers; join a mesh with: lanline join TICKET\n".to_owned();
        }
        let mut t = Table::new(&["ID", "NAME", "PATH", "ADDRESS", ">RTT", ">LOSS", ">TX", ">RX", "LANS"]);
        for p in self {
            t.row([
                short(&p.id),
                or_dash(p.name.as_deref()),
                path(p.path, p.relay.as_deref()),
                or_dash(p.address.as_deref()),
                p.rtt_ms.map_or_else(|| "-".into(), rtt),
                p.loss.map_or_else(|| "-".into(), |l| format!("{:.1}%", l * 100.0)),
                ByteSize(p.tx_bytes).to_string(),
                ByteSize(p.rx_bytes).to_string(),
                p.lans.join(","),
            ]);
            if p.path != PathView::Direct {
                t.tone(2, Tone::Warn);
            }
        }
        let mut out = t.text(view);
        for p in self {
            if let Some(why) = &p.why {
                let name = p.name.as_deref().map_or_else(|| short(&p.id), plain);
                out.push_str(&format!(
                    "{name} by {}: {}\n",
                    path(p.path, p.relay.as_deref()),
                    plain(why)
                ));
            }
        }
        // What never changed and is direct needs no words.
        let told = |p: &&PeerRow| p.frames.as_ref().is_some_and(|f| !is_plain_direct(f));
        for p in self.iter().filter(told) {
            let name = p.name.as_deref().map_or_else(|| short(&p.id), plain);
            out.push_str(&format!(
                "{name} frames: {}\n",
                plain(p.frames.as_deref().unwrap_or_default())
            ));
        }
        out
    }
}

fn is_plain_direct(frames: &str) -> bool {
    frames.starts_with("direct") && frames.ends_with(crate::why::FROM_THE_START)
}

/// A path in words.
pub(super) fn path(path: PathView, relay: Option<&str>) -> String {
    match (path, relay) {
        (PathView::Direct, _) => "direct".into(),
        (PathView::Tcp, _) => "tcp".into(),
        (PathView::Relayed, Some(r)) => format!("relayed via {}", short(r)),
        (PathView::Relayed, None) => "relayed".into(),
    }
}

impl Human for PingReport {
    fn human(&self, view: &View) -> String {
        let peer = self.name.as_deref().map_or_else(|| short(&self.peer), plain);
        let mut out = String::new();
        for (name, replies) in [("frame path", &self.frame), ("control path", &self.control)] {
            for r in replies {
                match (r.rtt_ms, &r.error) {
                    (Some(ms), _) => out.push_str(&format!("{peer} {name} seq={} {}\n", r.seq, rtt(ms))),
                    (None, e) => {
                        let why = e.as_deref().map_or_else(|| "no answer".into(), plain);
                        out.push_str(&format!(
                            "{peer} {name} seq={} {}\n",
                            r.seq,
                            view.paint(Tone::Bad, &why)
                        ));
                    }
                }
            }
            out.push_str(&summary(name, replies));
        }
        if let Some(why) = &self.why {
            out.push_str(&format!("not direct: {}\n", plain(why)));
        }
        if let Some(frames) = &self.frames {
            out.push_str(&format!("frames: {}\n", plain(frames)));
        }
        out
    }
}

fn summary(name: &str, replies: &[PingReply]) -> String {
    let mut got: Vec<f64> = replies.iter().filter_map(|r| r.rtt_ms).collect();
    got.sort_by(f64::total_cmp);
    let (sent, back) = (replies.len(), got.len());
    let spread = match (got.first(), got.get(back / 2), got.last()) {
        (Some(min), Some(mid), Some(max)) => format!(", min/median/max {min:.1}/{mid:.1}/{max:.1} ms"),
        _ => String::new(),
    };
    format!("{name}: {back} of {sent} came back{spread}\n")
}

impl Human for DoctorReport {
    fn human(&self, view: &View) -> String {
        let width = self.checks.iter().map(|c| c.name.len()).max().unwrap_or_default();
        let mut out = String::new();
        for c in &self.checks {
            let (word, tone) = match c.verdict {
                Verdict::Ok => ("ok  ", Tone::Good),
                Verdict::Warn => ("warn", Tone::Warn),
                Verdict::Fail => ("fail", Tone::Bad),
            };
            out.push_str(&format!(
                "{}  {:<width$}  {}\n",
                view.paint(tone, word),
                plain(&c.name),
                plain(&c.found)
            ));
            if let Some(fix) = &c.fix {
                out.push_str(&format!("      {:<width$}  fix: {}\n", "", plain(fix)));
            }
        }
        out
    }
}

impl Human for ConfigView {
    fn human(&self, view: &View) -> String {
        settings(self, true, view)
    }
}

/// Settings and values, and where each came from if `origin`.
pub fn settings(config: &ConfigView, origin: bool, view: &View) -> String {
    let mut t = Table::new(if origin {
        &["SETTING", "VALUE", "FROM"]
    } else {
        &["SETTING", "VALUE"]
    });
    for s in &config.settings {
        let value = match &s.value {
            serde_json::Value::String(v) => v.clone(),
            serde_json::Value::Null => "-".to_owned(),
            serde_json::Value::Array(a) if a.is_empty() => "-".to_owned(),
            serde_json::Value::Number(n) if s.key == "store.quota" => {
                n.as_u64().map_or_else(|| n.to_string(), |n| ByteSize(n).to_string())
            }
            v => v.to_string(),
        };
        let word = match s.origin {
            Origin::Flag => "flag",
            Origin::Env => "env",
            Origin::File => "file",
            Origin::Default => "default",
        };
        match origin {
            true => t.row([
                s.key.clone(),
                value,
                s.from.as_deref().map_or_else(|| word.into(), |f| format!("{word} {f}")),
            ]),
            false => t.row([s.key.clone(), value]),
        };
    }
    t.text(view)
}

impl Human for Down {
    fn human(&self, _: &View) -> String {
        let guests = match self.guests_left {
            0 => String::new(),
            1 => "; 1 guest keeps running here".to_owned(),
            n => format!("; {n} guests keep running here"),
        };
        format!("the node (pid {}) has ended{guests}\n", self.pid)
    }
}
