//! Running times.

use super::{Human, Table, View, short};
use crate::api::AdviceView;

impl Human for AdviceView {
    fn human(&self, view: &View) -> String {
        if self.hosts.is_empty() {
            return "no such host offers\n  next: see who lends: lanline hosts\n".to_owned();
        }
        let mut t = Table::new(&[
            "HOST",
            "ID",
            ">EXPECTED",
            ">95 % FROM",
            ">TO",
            ">LOAD NOW",
            ">IN 60 S",
            "MODEL",
        ]);
        let time = |s: Option<f64>| s.map_or_else(|| "-".into(), seconds);
        for h in &self.hosts {
            let f = h.forecast.as_ref();
            t.row([
                h.name.clone(),
                short(&h.id),
                time(h.expected_s),
                time(h.low_s),
                time(h.high_s),
                f.map_or_else(|| "-".into(), |f| format!("{:.2}/{}", f.now, f.cpus)),
                f.map_or_else(|| "-".into(), |f| format!("{:.2} ± {:.2}", f.p60, 1.96 * f.err60)),
                f.map_or_else(|| "no forecast yet".into(), |f| f.model.clone()),
            ]);
        }
        format!(
            "{}(a job of {} CPU seconds on one processor; load: tasks/processors)\n",
            t.text(view),
            self.cpu_s
        )
    }
}

fn seconds(s: f64) -> String {
    match s {
        s if s >= discovery::predict::advise::LONGEST_S => "over a week".into(),
        s if s < 120.0 => format!("{s:.1} s"),
        s => super::span((s * 1e3) as u64),
    }
}
