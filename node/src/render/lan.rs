//! LANs, tickets, joining.

use super::{Human, Table, View, count, short};
use crate::api::{Detached, Evicted, JoinResult, LanRow, PortKind, PortRow, Role, TicketOut};
use wire::fault::plain;

pub(super) fn role(r: Role) -> &'static str {
    match r {
        Role::Owner => "owner",
        Role::Member => "member",
        Role::Host => "host",
    }
}

pub(super) fn ends(at: Option<u64>, view: &View) -> String {
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

pub(super) fn kind(p: &PortRow) -> String {
    match (p.kind, &p.bridge) {
        (PortKind::Tap, _) => "tap".into(),
        (PortKind::Translate, _) => "translate".into(),
        (PortKind::Guest, _) => "guest".into(),
        (PortKind::Bridge, Some(b)) => format!("bridge {b}"),
        (PortKind::Bridge, None) => "bridge".into(),
    }
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
