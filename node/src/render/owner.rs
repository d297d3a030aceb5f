//! The owner's policy.

use super::{Human, Table, Tone, View, count, span};
use crate::api::{PolicyReport, PolicySpan, PolicyView, UsageRow};
use wire::{ByteSize, fault::plain};

fn cores(n: f64) -> String {
    format!("{n:.2}")
}

fn rate(bps: Option<u64>) -> String {
    bps.map_or_else(|| "-".into(), |b| vm::policy::BitRate(b).to_string())
}

fn because(s: &PolicySpan, view: &View) -> String {
    let mut out = String::new();
    for w in &s.why {
        let line = w.line.map(|l| format!(", line {l}")).unwrap_or_default();
        let by = view.paint(Tone::Dim, &format!("({}{line})", plain(&w.by)));
        out.push_str(&format!("  {} = {} {by}\n", w.key, plain(&w.value)));
    }
    out
}

impl Human for PolicyReport {
    fn human(&self, view: &View) -> String {
        let base = self
            .preset
            .as_ref()
            .map(|p| format!(" on preset {}", plain(p)))
            .unwrap_or_default();
        let mut out = format!(
            "{} sound: {}{base}, for {} and {}\n",
            view.check(),
            count(self.rules, "rule"),
            count(self.cores, "processor"),
            ByteSize(self.memory_bytes)
        );
        for w in &self.warnings {
            out.push_str(&format!("{} {}\n", view.paint(Tone::Warn, "note:"), plain(w)));
        }
        let mut t = Table::new(&["FROM", ">FOR", ">CPUS", ">WEIGHT", ">MEMORY", ">UP", ">DOWN", "ACTION"]);
        for s in &self.spans {
            t.row([
                s.begins.clone(),
                s.to.map_or_else(|| "-".into(), |to| span(to.saturating_sub(s.from))),
                cores(s.cpus),
                s.weight.to_string(),
                ByteSize(s.memory_bytes).to_string(),
                rate(s.net_up_bps),
                rate(s.net_down_bps),
                s.action.clone().unwrap_or_else(|| "-".into()),
            ]);
        }
        out.push_str(&t.text(view));
        if let Some(first) = self.spans.first() {
            out.push_str("at first, and why:\n");
            out.push_str(&because(first, view));
        }
        if self.stored {
            out.push_str("it is in force now\n  next: see what it does: lanline policy explain\n");
        }
        out
    }
}

impl Human for PolicyView {
    fn human(&self, view: &View) -> String {
        if !self.on {
            return "no policy is in force: guests may use what 'lanline offer' lends\n  next: put one in force: lanline policy edit, or lanline offer --policy FILE\n".into();
        }
        let mut out = format!("now {} processors for all guests, because:\n", cores(self.now.cpus));
        out.push_str(&because(&self.now, view));
        if !self.rules.is_empty() {
            let mut t = Table::new(&["RULE", "HOLDS", "WHY"]);
            for r in &self.rules {
                let trouble = r.trouble.as_ref().map(|w| format!("cannot be told: {}", plain(w)));
                let kind = if r.conditional {
                    "by readings"
                } else {
                    "by the calendar"
                };
                t.row([
                    plain(&r.name),
                    if r.holds { "yes" } else { "no" }.into(),
                    trouble.unwrap_or_else(|| kind.into()),
                ]);
            }
            out.push_str(&t.text(view));
        }
        if !self.guests.is_empty() {
            let mut t = Table::new(&["GUEST", ">CPUS", ">MOST", "SLICE", "BY", "STATE"]);
            for g in &self.guests {
                t.row([
                    plain(&g.name),
                    cores(g.cpus),
                    cores(g.most_cpus),
                    format!("{:.1} in {:.0} ms", g.slice_us as f64 / 1e3, g.period_us as f64 / 1e3),
                    g.enforcer.clone(),
                    g.held.as_ref().map_or_else(
                        || if g.promised { "promised" } else { "runs" }.into(),
                        |h| format!("stands still: {}", plain(h)),
                    ),
                ]);
            }
            out.push_str(&t.text(view));
        }
        for e in self.enforcers.iter().filter(|e| !e.granted) {
            let why = e.why.as_deref().map(plain).unwrap_or_default();
            out.push_str(&view.paint(Tone::Dim, &format!("{} is not to be had: it {why}\n", e.name)));
        }
        if let Some(limit) = self.month_limit_bytes {
            out.push_str(&format!(
                "{} of {} of this month's bytes are used\n",
                ByteSize(self.month_bytes),
                ByteSize(limit)
            ));
        }
        out
    }
}

impl Human for Vec<UsageRow> {
    fn human(&self, view: &View) -> String {
        if self.is_empty() {
            return "nothing was used: no guest of others ran here, and no host has settled for one of yours\n".into();
        }
        let mut t = Table::new(&[
            "GUEST",
            "WHERE",
            "FOR",
            ">CPU",
            ">MEMORY",
            ">SENT",
            ">RECEIVED",
            ">UNTIL",
            "AGREED",
        ]);
        for r in self {
            let host = r.host_name.as_deref().map_or_else(|| super::short(&r.host), plain);
            let user = r.user_name.as_deref().map_or_else(|| super::short(&r.user), plain);
            t.row([
                plain(&r.name),
                if r.lent { "here".into() } else { host },
                if r.lent { user } else { "you".into() },
                span(r.cpu_ms),
                format!("{:.1} GiB h", r.memory_mib_s as f64 / 1_024.0 / 3_600.0),
                ByteSize(r.sent_bytes).to_string(),
                ByteSize(r.received_bytes).to_string(),
                view.ago(r.until),
                if r.agreed {
                    "by both".into()
                } else {
                    r.note.as_deref().map_or_else(|| "no".into(), plain)
                },
            ]);
        }
        t.text(view)
    }
}
