//! Hosts, offers, grants.

use super::{Human, Table, Tone, View, accel, count, rtt, short};
use crate::api::{Direction, GrantRow, HostsView, OfferView, Revoked};
use wire::{ByteSize, fault::plain};

impl Human for HostsView {
    fn human(&self, view: &View) -> String {
        let asked = format!("{} of {} answered in {} ms", self.answered, self.asked, self.elapsed_ms);
        if self.hosts.is_empty() {
            return format!("no host offers; {asked}\n  next: on a machine that should lend: lanline offer\n");
        }
        let mut t = Table::new(&[
            "HOST", "ID", ">CPUS", ">MEMORY", "ACCEL", ">RTT", ">LOAD", "GRANT", ">AGE",
        ]);
        for h in &self.hosts {
            t.row([
                if h.me {
                    format!("{} (this node)", h.name)
                } else {
                    h.name.clone()
                },
                short(&h.id),
                format!("{}/{}", h.cpus_free, h.cpus),
                format!("{}/{}", ByteSize(h.memory_free_bytes), ByteSize(h.memory_bytes)),
                h.accel.clone(),
                h.rtt_ms.map_or_else(|| "-".into(), rtt),
                h.load.map_or_else(|| "-".into(), |l| format!("{l:.2}")),
                h.granted.map_or("?", |g| if g { "yes" } else { "no" }).into(),
                super::span(h.age_ms),
            ]);
            if h.granted == Some(false) {
                t.tone(7, Tone::Warn);
            }
        }
        format!("{}({asked}; cpus and memory: free/offered)\n", t.text(view))
    }
}

impl Human for OfferView {
    fn human(&self, view: &View) -> String {
        if !self.on {
            return "this node lends nothing now; guests that run here stay\n".to_owned();
        }
        let qemu = match &self.qemu {
            Some(v) => format!("QEMU {}", plain(v)),
            None => view.paint(Tone::Bad, "no QEMU found: guests cannot start"),
        };
        let what = format!("{} and {}", count(self.cpus, "cpu"), ByteSize(self.memory_bytes));
        let accel = accel(&self.accel, Some(&self.accel_reason));
        format!("this node lends {what} ({qemu}; {accel})\n  next: say who may use it: lanline grant PEER\n")
    }
}

impl Human for GrantRow {
    fn human(&self, view: &View) -> String {
        let who = self.name.as_deref().map_or_else(|| short(&self.peer), plain);
        let what = format!(
            "{}, {}, {}",
            count(self.vms, "guest"),
            count(self.cpus, "cpu"),
            ByteSize(self.memory_bytes)
        );
        let id = plain(&self.id);
        format!(
            "grant {id}: {who} may run {what} here, ends {}\n  end it with: lanline revoke {id}\n",
            view.ends(self.expires)
        )
    }
}

impl Human for Vec<GrantRow> {
    fn human(&self, view: &View) -> String {
        if self.is_empty() {
            return "no grants; let a node run guests here with: lanline grant PEER\n".to_owned();
        }
        let mut t = Table::new(&["ID", "WHAT", "PEER", ">GUESTS", ">CPUS", ">MEMORY", "ENDS"]);
        for g in self {
            let what = match g.direction {
                Direction::Given => "given to",
                Direction::Held => "held from",
            };
            t.row([
                g.id.clone(),
                what.into(),
                g.name.clone().unwrap_or_else(|| short(&g.peer)),
                g.vms.to_string(),
                g.cpus.to_string(),
                ByteSize(g.memory_bytes).to_string(),
                if g.revoked {
                    "revoked".into()
                } else {
                    view.ends(g.expires)
                },
            ]);
            if g.revoked || g.expires <= view.now.0 {
                t.tone(6, Tone::Bad);
            }
        }
        t.text(view)
    }
}

impl Human for Revoked {
    fn human(&self, _: &View) -> String {
        let mut out = format!("grant {} of {} ended\n", plain(&self.id), short(&self.peer));
        if let Some(first) = self.guests.first() {
            let (n, first) = (self.guests.len(), plain(first));
            out.push_str(&format!(
                "  {n} of its guests still run here; end one with: lanline stop {first}\n"
            ));
        }
        out
    }
}
