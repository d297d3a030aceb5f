//! What the matrix of connectivity makes of what it measured: one row a pair, percentiles, a page.
//!
//! What it does not do: it measures nothing, [`crate::io::paths`] does.

use crate::figures::table::markdown;
use serde::Serialize;

/// What two nodes did.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// Where the first stands.
    pub one: String,
    /// Where the second stands.
    pub two: String,
    /// Whether UDP can in theory pass between them without anybody else.
    pub can_be_direct: bool,
    /// From the start of the second one's `join` to the first answered broadcast, seconds; `None` if none came.
    pub first_frame: Option<f64>,
    /// Kind of the frame path then, as `lan show` says.
    pub first_path: Option<String>,
    /// From the same start to a direct path, seconds.
    pub direct_after: Option<f64>,
    /// Kind of the frame path at the end.
    pub path: Option<String>,
    /// One TCP stream through the tunnel, Mb/s.
    pub mbps: Option<f64>,
    /// What went wrong.
    pub why: Option<String>,
}

impl Pair {
    fn is_direct(&self) -> bool {
        self.path.as_deref() == Some("direct")
    }

    /// What is worth a second look: theory allows a direct path and there is none, or there is none at all.
    pub fn verdict(&self) -> &'static str {
        match (&self.first_frame, self.can_be_direct, self.is_direct()) {
            (None, ..) => "unreachable",
            (_, true, false) => "should be direct",
            _ => "as it should be",
        }
    }
}

/// The time below which `p` of `times` lie, by nearest rank; `None` of none.
pub fn percentile(times: &[f64], p: f64) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank in a list of some dozen"
    )]
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// One row a pair.
pub fn table(pairs: &[Pair]) -> String {
    let seconds = |t: Option<f64>| t.map_or_else(|| "-".to_owned(), |t| format!("{t:.1}"));
    let words = |s: &Option<String>| s.clone().unwrap_or_else(|| "-".to_owned());
    let row = |p: &Pair| {
        vec![
            format!("{} + {}", p.one, p.two),
            seconds(p.first_frame),
            words(&p.first_path),
            seconds(p.direct_after),
            words(&p.path),
            p.mbps.map_or_else(|| "-".to_owned(), |m| format!("{m:.0}")),
            p.verdict().to_owned(),
        ]
    };
    let head = [
        "pair",
        "first frame, s",
        "by",
        "direct after, s",
        "at the end",
        "TCP, Mb/s",
        "verdict",
    ];
    markdown(&head, &pairs.iter().map(row).collect::<Vec<_>>())
}

/// The goals of the issue against what was measured.
pub fn summary(pairs: &[Pair]) -> String {
    let times = |direct: bool| -> Vec<f64> {
        let of = pairs.iter().filter(|p| p.is_direct() == direct);
        of.filter_map(|p| p.first_frame).collect()
    };
    let line = |what: &str, t: &[f64], goal: f64| match (percentile(t, 0.5), percentile(t, 0.95)) {
        (Some(median), Some(p95)) => {
            let met = if p95 < goal { "met" } else { "missed" };
            format!(
                "- {what}: {} pairs, first frame after {median:.1} s in the median, {p95:.1} s at p95; goal {goal:.0} s: {met}.\n",
                t.len()
            )
        }
        _ => format!("- {what}: no pair.\n"),
    };
    let count = |verdict: &str| pairs.iter().filter(|p| p.verdict() == verdict).count();
    let mut out = line("direct at the end", &times(true), 3.0);
    out += &line("relayed or TCP at the end", &times(false), 5.0);
    out += &format!(
        "- {} of {} pairs unreachable; {} that theory allows to be direct are not.\n",
        count("unreachable"),
        pairs.len(),
        count("should be direct")
    );
    for p in pairs {
        if let Some(why) = &p.why {
            out += &format!("- {} + {}: {why}.\n", p.one, p.two);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(first: Option<f64>, path: &str, can: bool) -> Pair {
        Pair {
            one: "a".into(),
            two: "b".into(),
            can_be_direct: can,
            first_frame: first,
            first_path: first.map(|_| path.to_owned()),
            direct_after: None,
            path: first.map(|_| path.to_owned()),
            mbps: None,
            why: None,
        }
    }

    #[test]
    fn a_pair_is_judged_by_theory() {
        assert_eq!(pair(None, "", false).verdict(), "unreachable");
        assert_eq!(pair(Some(1.0), "relayed", true).verdict(), "should be direct");
        assert_eq!(pair(Some(1.0), "relayed", false).verdict(), "as it should be");
    }

    #[test]
    fn percentiles_and_goals() {
        assert_eq!(percentile(&[], 0.95), None);
        let t: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!((percentile(&t, 0.5), percentile(&t, 0.95)), (Some(10.0), Some(19.0)));
        let said = summary(&[
            pair(Some(1.0), "direct", true),
            pair(Some(9.0), "tcp", false),
            pair(None, "", true),
        ]);
        assert!(
            said.contains("goal 3 s: met") && said.contains("goal 5 s: missed"),
            "{said}"
        );
        assert!(said.contains("1 of 3 pairs unreachable"), "{said}");
        assert!(table(&[pair(Some(1.0), "direct", true)]).contains("| a + b |"));
    }
}
