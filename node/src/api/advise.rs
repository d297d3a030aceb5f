//! How long a job would take, and where.

use super::{HostRow, HostsView};
use discovery::predict::advise::{Host, advise};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a host expects of its load: runnable tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadView {
    /// Processors that share it.
    pub cpus: u32,
    /// Now, over 5 s.
    pub now: f64,
    /// In 10 s.
    pub p10: f64,
    /// In 60 s.
    pub p60: f64,
    /// Standard deviation of that one's error, widened by how often intervals missed: twice it each way holds 95 %.
    pub err60: f64,
    /// Predictor that won at 60 s.
    pub model: String,
}

/// How long a job would take, by host, soonest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdviceView {
    /// CPU seconds of the job.
    pub cpu_s: f64,
    /// Hosts that forecast their load first.
    pub hosts: Vec<AdviceRow>,
    /// Index nodes and members asked.
    pub asked: u32,
    /// Of those, answered in time.
    pub answered: u32,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdviceRow {
    /// Node id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Expected running time, seconds; `null` if the host forecasts no load.
    pub expected_s: Option<f64>,
    /// 95 % interval, from.
    pub low_s: Option<f64>,
    /// To.
    pub high_s: Option<f64>,
    /// What it is derived from.
    pub forecast: Option<LoadView>,
}

impl AdviceView {
    /// Ranks `hosts`, only `one` of them if given (a node id or a name), for a job of `cpu_s` CPU seconds.
    pub fn of(hosts: HostsView, cpu_s: f64, one: Option<&str>) -> Self {
        let wanted = |h: &HostRow| one.is_none_or(|o| h.id == o || h.name == o);
        let mut rows: Vec<AdviceRow> = hosts.hosts.into_iter().filter(wanted).map(|h| row(h, cpu_s)).collect();
        let key = |r: &AdviceRow| r.expected_s.unwrap_or(f64::INFINITY);
        rows.sort_by(|a, b| key(a).total_cmp(&key(b)));
        Self {
            cpu_s,
            hosts: rows,
            asked: hosts.asked,
            answered: hosts.answered,
        }
    }
}

fn row(h: HostRow, cpu_s: f64) -> AdviceRow {
    let advice = h.forecast.as_ref().map(|f| {
        let host = Host {
            cpus: f64::from(f.cpus.max(1)),
            load: [f.now, f.p10, f.p60],
            error: f.err60,
        };
        advise(&host, cpu_s)
    });
    AdviceRow {
        id: h.id,
        name: h.name,
        expected_s: advice.map(|a| a.expected_s),
        low_s: advice.map(|a| a.low_s),
        high_s: advice.map(|a| a.high_s),
        forecast: h.forecast,
    }
}
