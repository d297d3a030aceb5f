//! Who talks to whom.

use super::{Human, Table, Tone, View, peer};
use crate::api::{DemandView, TrafficView};
use wire::{ByteSize, fault::plain};

pub(super) fn rate(bytes_s: f64) -> String {
    if bytes_s < 1.0 {
        return "-".into();
    }
    format!("{}/s", ByteSize(bytes_s as u64))
}

fn demand(d: DemandView) -> &'static str {
    match d {
        DemandView::Idle => "idle",
        DemandView::Light => "light",
        DemandView::Heavy => "heavy",
    }
}

impl Human for TrafficView {
    fn human(&self, view: &View) -> String {
        if self.pairs.is_empty() {
            return format!("nobody has talked on LAN {} here\n", plain(&self.lan));
        }
        let mut t = Table::new(&[
            "PORT", "WITH", "DEMAND", ">OUT 10S", ">OUT 60S", ">IN 10S", ">IN 60S", ">OUT", ">IN",
        ]);
        for p in &self.pairs {
            let [_, out10, out60] = p.sent.bytes_s;
            let [_, in10, in60] = p.received.bytes_s;
            t.row([
                p.port.clone(),
                peer(&p.with),
                demand(p.demand).into(),
                rate(out10),
                rate(out60),
                rate(in10),
                rate(in60),
                ByteSize(p.sent.bytes).to_string(),
                ByteSize(p.received.bytes).to_string(),
            ]);
            if p.demand == DemandView::Heavy {
                t.tone(2, Tone::Bold);
            }
        }
        let mut out = t.fit(view, &["OUT 60S", "IN 60S"]).text(view);
        if self.rest_packets > 0 {
            out.push_str(&format!(
                "(and {} in {} packets of pairs that are not kept apart)\n",
                ByteSize(self.rest_bytes),
                self.rest_packets
            ));
        }
        out
    }
}
