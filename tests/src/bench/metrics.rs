//! The figures of one product, one map a repetition, and their medians.

use serde::Serialize;
use std::collections::BTreeMap;

/// What is measured. "Home" is the side of the server, "host" that of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// One TCP stream from host to home, Gb/s of payload.
    ToHome,
    /// One TCP stream from home to host, Gb/s of payload.
    ToHost,
    /// Four TCP streams from host to home, Gb/s of payload.
    Four,
    /// Segments sent again by the stream to home.
    Retransmits,
    /// CPU seconds (user and system, all threads) of the product's processes a GB, one stream to home.
    CpuPerGb,
    /// Busy seconds of the whole machine a GB, one stream to home; has others' load in it.
    BusyPerGb,
    /// UDP packets of 200 bytes that arrived a second while more were sent than pass.
    FloodPps,
    /// Share lost of 20,000 UDP packets of 200 bytes a second, percent.
    PacedLoss,
    /// CPU microseconds of the product's processes for each of those.
    PacedCpu,
    /// Mean round trip of an idle tunnel, microseconds.
    IdleAvg,
    /// 99th percentile of the same.
    IdleP99,
    /// Mean round trip beside one saturating TCP stream, microseconds.
    LoadedAvg,
    /// 99th percentile of the same.
    LoadedP99,
    /// Peak resident memory of the larger of the product's processes, MB of 10^6 bytes.
    Rss,
    /// Share lost of full UDP packets (1472 bytes of payload) at 200 Mb/s, percent.
    FullLoss,
    /// TCP, UDP and ICMP packets that the receiving kernels refused for their checksum.
    ChecksumErrors,
    /// Cores that processes outside the benchmark used in the worst of its tests.
    Others,
}

/// Load of others from which on a row is noise, in cores.
pub const NOISY: f64 = 0.1;

/// One repetition. A test that gave no figure is absent.
pub type Sample = BTreeMap<Metric, f64>;

/// What a product carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Layer {
    /// No tunnel at all.
    #[serde(rename = "raw")]
    Raw,
    /// The kernel's own tunnel, without encryption.
    #[serde(rename = "L2 kernel")]
    Kernel,
    /// Ethernet frames.
    L2,
    /// IP packets.
    L3,
}

impl Layer {
    /// For tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Kernel => "L2 kernel",
            Self::L2 => "L2",
            Self::L3 => "L3",
        }
    }
}

/// A product and its repetitions.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name.
    pub product: String,
    /// What it carries.
    pub layer: Layer,
    /// One map a repetition.
    pub samples: Vec<Sample>,
}

impl Row {
    /// The median over the repetitions that have the figure.
    pub fn median(&self, m: Metric) -> Option<f64> {
        median(self.samples.iter().filter_map(|s| s.get(&m).copied()).collect())
    }

    /// The largest in any repetition, for what may never be exceeded.
    pub fn worst(&self, m: Metric) -> Option<f64> {
        self.samples.iter().filter_map(|s| s.get(&m).copied()).reduce(f64::max)
    }

    /// All medians, for the JSON document.
    pub fn medians(&self) -> Sample {
        let all: std::collections::BTreeSet<Metric> = self.samples.iter().flat_map(|s| s.keys().copied()).collect();
        all.into_iter().filter_map(|m| Some((m, self.median(m)?))).collect()
    }

    /// The largest load of others in any repetition.
    pub fn others(&self) -> f64 {
        self.worst(Metric::Others).unwrap_or(0.0)
    }

    /// True if others took so much of the machine that the row says little.
    pub fn is_noisy(&self) -> bool {
        self.others() > NOISY
    }
}

/// The middle one; of an even number the mean of the two in the middle.
pub fn median(mut v: Vec<f64>) -> Option<f64> {
    v.retain(|x| x.is_finite());
    v.sort_by(f64::total_cmp);
    let mid = v.len() / 2;
    let upper = v.get(mid).copied()?;
    if v.len() % 2 == 1 {
        return Some(upper);
    }
    Some((v.get(mid - 1)? + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_ignores_what_is_missing_and_one_wild_value() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 1000.0]), Some(3.0));
        assert_eq!(median(vec![4.0, f64::NAN, 2.0]), Some(3.0));
        let row = Row {
            product: "x".into(),
            layer: Layer::L2,
            samples: vec![
                [(Metric::ToHome, 2.0), (Metric::Others, 0.02)].into(),
                [(Metric::Others, 0.3)].into(),
            ],
        };
        assert_eq!(row.median(Metric::ToHome), Some(2.0));
        assert_eq!(row.median(Metric::Rss), None);
        assert!(row.is_noisy());
        assert_eq!(row.medians().len(), 2);
    }
}
