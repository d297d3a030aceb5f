//! LANs, tickets, joining.

use super::{Human, Table, Tone, View, count, facts, machine::path, or_dash, rtt, short};
use crate::api::{
    Detached, Evicted, FdbRow, JoinResult, LanRow, LanView, MemberRow, PortKind, PortRow, Role, TicketOut,
};
use wire::{ByteSize, fault::plain};

fn role(r: Role) -> &'static str {
    match r {
        Role::Owner => "owner",
        Role::Member => "member",
        Role::Host => "host",
    }
}

fn ends(at: Option<u64>, view: &View) -> String {
    at.map_or_else(|| "never".into(), |at| view.ends(at))
}

impl Human for LanRow {
    fn human(&self, _: &View) -> String {
        let name = plain(&self.name);
        format!(
            "LAN {name} ({})\n  next: lanline lan attach {name} --tap lan0, lanline lan invite {name}\n",
            plain(&self.id)
        )
    }
}

impl Human for Vec<LanRow> {
    fn human(&self, view: &View) -> String {
        if self.is_empty() {
            return "no LANs; make one with: lanline lan create NAME, or: lanline join TICKET\n".to_owned();
        }
        let mut t = Table::new(&["NAME", "ID", "ROLE", ">MEMBERS", ">CONNECTED", ">PORTS", "ENDS"]);
        for l in self {
            t.row([
                l.name.clone(),
                l.id.clone(),
                role(l.role).into(),
                l.members.to_string(),
                l.connected.to_string(),
                l.ports.to_string(),
                ends(l.expires, view),
            ]);
        }
        t.text(view)
    }
}

impl Human for LanView {
    fn human(&self, view: &View) -> String {
        let head = facts(
            &[
                ("lan", plain(&self.lan.name)),
                ("id", plain(&self.lan.id)),
                (
                    "role",
                    format!("{}, ends {}", role(self.lan.role), ends(self.lan.expires, view)),
                ),
            ],
            view,
        );
        let mut out = format!("{head}\n{}", members(&self.member_list, view));
        if !self.port_list.is_empty() {
            out.push_str(&format!("\n{}", ports(&self.port_list, view)));
        }
        if !self.fdb.is_empty() {
            out.push_str(&format!("\n{}", fdb(&self.fdb, view)));
        }
        if !self.drops.is_empty() {
            let mut t = Table::new(&["DROPPED BECAUSE", ">FRAMES"]);
            for (why, n) in &self.drops {
                t.row([why.clone(), n.to_string()]);
            }
            out.push_str(&format!("\n{}", t.text(view)));
        }
        out
    }
}

fn members(rows: &[MemberRow], view: &View) -> String {
    let mut t = Table::new(&["MEMBER", "ID", "ROLE", "PATH", ">RTT", ">MTU", "ENDS"]);
    for m in rows {
        let path = match m.path {
            _ if m.me => "this node".to_owned(),
            Some(p) => path(p, None),
            None => "not connected".to_owned(),
        };
        t.row([
            or_dash(m.name.as_deref()),
            short(&m.id),
            role(m.role).into(),
            path,
            m.rtt_ms.map_or_else(|| "-".into(), rtt),
            m.mtu.map_or_else(|| "-".into(), |m| m.to_string()),
            ends(m.expires, view),
        ]);
        if !m.me && m.path.is_none() {
            t.tone(3, Tone::Dim);
        }
    }
    t.text(view)
}

fn ports(rows: &[PortRow], view: &View) -> String {
    let mut t = Table::new(&["PORT", "KIND", "STATE", ">IN", ">OUT", "NOTE"]);
    for p in rows {
        t.row([
            p.name.clone(),
            kind(p),
            if p.up { "up".into() } else { "down".into() },
            ByteSize(p.rx_bytes).to_string(),
            ByteSize(p.tx_bytes).to_string(),
            p.note.clone().unwrap_or_default(),
        ]);
        t.tone(2, if p.up { Tone::Good } else { Tone::Bad });
    }
    t.text(view)
}

fn kind(p: &PortRow) -> String {
    match (p.kind, &p.bridge) {
        (PortKind::Tap, _) => "tap".into(),
        (PortKind::Guest, _) => "guest".into(),
        (PortKind::Bridge, Some(b)) => format!("bridge {b}"),
        (PortKind::Bridge, None) => "bridge".into(),
    }
}

fn fdb(rows: &[FdbRow], view: &View) -> String {
    let mut t = Table::new(&["MAC", "WHERE", ">AGE", ">SEQ", "STATIC", "ADDRESSES"]);
    for f in rows {
        let fixed = if f.fixed { "yes" } else { "no" };
        t.row([
            f.mac.clone(),
            f.at.clone(),
            format!("{}s", f.age_s),
            f.seq.to_string(),
            fixed.into(),
            f.ips.join(" "),
        ]);
    }
    t.text(view)
}

impl Human for PortRow {
    fn human(&self, _: &View) -> String {
        let note = self
            .note
            .as_deref()
            .map_or_else(String::new, |n| format!(" ({})", plain(n)));
        format!(
            "{} is a {} port of the LAN{note}\n",
            plain(&self.name),
            plain(&kind(self))
        )
    }
}

impl Human for Detached {
    fn human(&self, _: &View) -> String {
        if self.ports.is_empty() {
            return format!("no interface of this machine was on LAN {}\n", plain(&self.lan));
        }
        format!(
            "taken off LAN {}: {}\n",
            plain(&self.lan),
            plain(&self.ports.join(", "))
        )
    }
}

impl Human for TicketOut {
    /// Only the ticket, so that `$(lanline lan invite home)` is one; `render::ticket_hints` says the rest.
    fn human(&self, _: &View) -> String {
        // All of it, which is longer than `plain` lets through; a ticket is letters and digits by construction.
        let ticket: String = self.ticket.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{ticket}\n")
    }
}

/// What a person should know of a ticket, for standard error.
pub fn ticket_hints(t: &TicketOut, view: &View) -> String {
    let uses = if t.uses == 1 {
        "once".to_owned()
    } else {
        format!("{} times", t.uses)
    };
    let lan = plain(&t.lan);
    let mut out = format!(
        "  makes its holder a {} of LAN {lan}, {uses}, ends {}\n",
        role(t.role),
        view.ends(t.expires)
    );
    out.push_str("  whoever has it can use it; on the other machine: lanline join TICKET\n");
    if t.addresses.is_empty() {
        out.push_str("  warning: it holds no address, since this node knows none of its own\n");
    }
    out
}

impl Human for JoinResult {
    fn human(&self, view: &View) -> String {
        let lan = plain(&self.lan);
        let members = count(self.members, "member");
        let head = format!(
            "joined LAN {lan} as {}: {members}, ends {}\n",
            role(self.role),
            ends(self.expires, view)
        );
        let next = match self.role {
            Role::Host => "lanline offer --cpus 1 --memory 1G".to_owned(),
            _ => format!("lanline lan attach {lan} --tap lan0"),
        };
        format!("{head}  next: {next}\n")
    }
}

impl Human for Evicted {
    fn human(&self, _: &View) -> String {
        let told = if self.told == 1 {
            "1 member knows".to_owned()
        } else {
            format!("{} members know", self.told)
        };
        format!(
            "{} is no longer a member of LAN {}; {told} it already\n",
            short(&self.peer),
            plain(&self.lan)
        )
    }
}
