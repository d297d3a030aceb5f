//! Port policy.

use super::{Human, Table, View, facts};
use crate::api::{HeldHow, HeldRow, LanMtuView, LanPolicyView, PolicyOrigin, PolicyRow};
use wire::fault::plain;

impl Human for LanPolicyView {
    fn human(&self, view: &View) -> String {
        let guest = match (&self.guest, &self.mac) {
            (Some(g), Some(m)) => format!("{} ({})", plain(g), plain(m)),
            (Some(one), None) | (None, Some(one)) => plain(one),
            (None, None) => "all".into(),
        };
        let mut head = vec![
            ("lan", plain(&self.lan)),
            ("guest", guest),
            ("applies to", plain(&self.note)),
        ];
        let owner = match (self.owner_serial, self.owner_set) {
            (Some(n), Some(at)) => format!("version {n}, set {}", view.ago(at)),
            _ => "nothing set for all members".into(),
        };
        head.push(("LAN's owner", owner));
        for w in &self.warnings {
            head.push(("warning", plain(w)));
        }
        if self.allow_monitor {
            head.push(("allow_monitor", "on".into()));
        }
        if !self.free.is_empty() {
            head.push(("free", plain(&self.free.join(","))));
        }
        let mut out = format!("{}\n{}", facts(&head, view), settings(&self.settings, view));
        if !self.held.is_empty() {
            out.push_str(&format!("\n{}", held(&self.held, view)));
        }
        out
    }
}

impl Human for LanMtuView {
    fn human(&self, view: &View) -> String {
        let head = [
            ("lan", plain(&self.lan)),
            ("mtu", self.effective.to_string()),
            ("set to", self.wanted.to_string()),
        ];
        let mut t = Table::new(&["MEMBER", ">CAN CARRY"]);
        for (name, can) in &self.members {
            t.row([plain(name), can.to_string()]);
        }
        format!("{}\n{}", facts(&head, view), t.text(view))
    }
}

fn settings(rows: &[PolicyRow], view: &View) -> String {
    let mut t = Table::new(&["SETTING", "VALUE", "BECAUSE", "WHAT IT DOES"]);
    for r in rows {
        let because = match r.said_by {
            PolicyOrigin::BuiltIn => "default",
            PolicyOrigin::Owner => "LAN's owner",
            PolicyOrigin::Node => "this node",
            PolicyOrigin::Guest => "guest",
            PolicyOrigin::Start => "its start",
            PolicyOrigin::LanOverGuest => "LAN is stricter",
        };
        t.row([plain(&r.key), plain(&r.value), because.into(), plain(&r.meaning)]);
    }
    t.text(view)
}

fn held(rows: &[HeldRow], view: &View) -> String {
    let mut t = Table::new(&["ADDRESS", "HELD BECAUSE", ">LEASE ENDS IN"]);
    for r in rows {
        let how = match r.how {
            HeldHow::Given => "given by addresses",
            HeldHow::Leased => "leased",
            HeldHow::Claimed => "first to use it",
        };
        t.row([
            plain(&r.ip),
            how.into(),
            r.left_s.map_or_else(|| "-".into(), |s| format!("{s} s")),
        ]);
    }
    t.text(view)
}
