//! Where guests would be better placed.

use super::{Human, Table, View, count, rtt, traffic::rate};
use crate::api::{MoveRow, PlacementView};
use wire::fault::plain;

impl Human for PlacementView {
    fn human(&self, view: &View) -> String {
        let mut out = String::new();
        if !self.moves.is_empty() {
            out.push_str(&moves(&self.moves, view));
        }
        if !self.stays.is_empty() {
            let mut t = Table::new(&["GUEST", "STAYS, SINCE"]);
            for s in &self.stays {
                t.row([plain(&s.name), plain(&s.why)]);
            }
            out.push_str(&t.text(view));
        }
        if out.is_empty() {
            out.push_str("no guest of this node runs on that LAN\n  next: start one: lanline run IMAGE --lan NAME\n");
        }
        if self.answered < self.asked {
            out.push_str(&format!(
                "({} of {} did not answer: what they see is missing)\n",
                self.asked - self.answered,
                count(self.asked, "member")
            ));
        }
        out
    }
}

fn moves(rows: &[MoveRow], view: &View) -> String {
    let mut t = Table::new(&[
        "GUEST",
        "FROM",
        "TO",
        ">NOW",
        ">THEN",
        ">GAIN",
        ">NET NOW",
        ">NET THEN",
        ">SURE",
        "TALKS TO",
    ]);
    for m in rows {
        let talks = m.talks.iter().take(2).map(|p| {
            let name = p.name.clone().unwrap_or_else(|| super::short(&p.node));
            let far = |ms: Option<f64>| ms.map_or_else(|| "?".into(), rtt);
            format!(
                "{} {} ({} to {})",
                plain(&name),
                rate(p.bytes_s),
                far(p.rtt_ms),
                far(p.rtt_ms_after)
            )
        });
        t.row([
            plain(&m.name),
            plain(&m.from_name),
            plain(&m.to_name),
            rtt(m.before_ms),
            rtt(m.after_ms),
            rtt(m.gain_ms),
            rate(m.network_bytes_s),
            rate(m.network_bytes_s_after),
            format!("{:.0}%", m.confidence * 100.0),
            talks.collect::<Vec<_>>().join(", "),
        ]);
    }
    format!(
        "{}(what a packet costs on its way: round trip, loss, full links; one move at a time, then look again)\n",
        t.fit(view, &["NET THEN", "NET NOW"]).text(view)
    )
}
