//! The pages of a run: Markdown with the table and the verdicts, a plot, and everything as JSON.

use super::{
    goals::{OURS, Verdict},
    metrics::{Metric, Row},
};
use crate::figures::{
    svg::{self, Chart},
    table,
};
use serde::Serialize;

/// One column of the table: its head, its figure, and digits behind the point.
const COLUMNS: [(&str, Metric, usize); 14] = [
    ("to home Gb/s", Metric::ToHome, 2),
    ("to host Gb/s", Metric::ToHost, 2),
    ("4 streams", Metric::Four, 2),
    ("CPU s/GB", Metric::CpuPerGb, 2),
    ("machine s/GB", Metric::BusyPerGb, 2),
    ("200 B pps", Metric::FloodPps, 0),
    ("loss % at 20k pps", Metric::PacedLoss, 2),
    ("us/packet", Metric::PacedCpu, 1),
    ("idle us", Metric::IdleAvg, 0),
    ("p99", Metric::IdleP99, 0),
    ("loaded us", Metric::LoadedAvg, 0),
    ("p99", Metric::LoadedP99, 0),
    ("RSS MB", Metric::Rss, 1),
    ("others", Metric::Others, 2),
];

/// Ratios to these rows, for the first direction.
const AGAINST: [&str; 2] = ["vxlan", "vpncloud"];

fn figure(v: Option<f64>, digits: usize) -> String {
    v.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"))
}

/// The name, with a mark if others disturbed the row.
fn name(r: &Row) -> String {
    let mark = if r.is_noisy() { " (noisy)" } else { "" };
    format!("{}{mark}", r.product)
}

/// The main table: medians, and the largest load of others.
pub fn main_table(rows: &[Row]) -> String {
    let mut head = vec!["product", "layer"];
    head.extend(COLUMNS.iter().map(|c| c.0));
    head.extend(["x vxlan", "x vpncloud"]);
    let base = |who: &str| {
        let row = rows.iter().find(|r| r.product == who);
        row.and_then(|r| r.median(Metric::ToHome)).filter(|v| *v > 0.0)
    };
    let cells = rows.iter().map(|r| {
        let mut out = vec![name(r), r.layer.label().to_owned()];
        out.extend(COLUMNS.iter().map(|(_, m, digits)| match m {
            Metric::Others => figure(Some(r.others()), *digits),
            _ => figure(r.median(*m), *digits),
        }));
        out.extend(AGAINST.iter().map(|a| {
            let ratio = r.median(Metric::ToHome).zip(base(a)).map(|(v, b)| v / b);
            figure(ratio, 2)
        }));
        out
    });
    table::markdown(&head, &cells.collect::<Vec<_>>())
}

/// The table of the LAN port scenario.
pub fn lanport_table(rows: &[Row]) -> String {
    let head = [
        "scenario",
        "to laptop Gb/s",
        "to host Gb/s",
        "loss % of 1472 B UDP",
        "checksum errors",
        "others",
    ];
    let cells = rows.iter().map(|r| {
        vec![
            name(r),
            figure(r.median(Metric::ToHome), 2),
            figure(r.median(Metric::ToHost), 2),
            figure(r.median(Metric::FullLoss), 2),
            figure(r.median(Metric::ChecksumErrors), 0),
            figure(Some(r.others()), 2),
        ]
    });
    table::markdown(&head, &cells.collect::<Vec<_>>())
}

/// One line a goal.
pub fn verdict_table(verdicts: &[Verdict]) -> String {
    let cells = verdicts.iter().map(|v| {
        let said = match (v.reached, v.noisy) {
            (Some(true), false) => "reached",
            (Some(false), false) => "MISSED",
            (Some(true), true) => "reached, but noisy",
            (Some(false), true) => "missed, but noisy",
            (None, _) => "unknown",
        };
        let kind = if v.stretch { "stretch: " } else { "" };
        vec![format!("{kind}{}", v.goal), v.got.clone(), said.to_owned()]
    });
    table::markdown(&["goal", "measured", "verdict"], &cells.collect::<Vec<_>>())
}

/// The plot.
pub fn plot(rows: &[Row], heading: &str, notes: &[String]) -> String {
    let chart = |title: &str, series: &[(&str, Metric)], decimals: usize| Chart {
        title: title.to_owned(),
        series: series.iter().map(|s| s.0.to_owned()).collect(),
        rows: rows
            .iter()
            .filter(|r| series.iter().any(|s| r.median(s.1).is_some()))
            .map(|r| svg::Row {
                label: name(r),
                values: series.iter().map(|s| r.median(s.1)).collect(),
                strong: r.product == OURS,
            })
            .collect(),
        decimals,
    };
    let charts = [
        chart(
            "One TCP stream, Gb/s (more is better)",
            &[("host to home", Metric::ToHome), ("home to host", Metric::ToHost)],
            2,
        ),
        chart(
            "CPU of the product, seconds per GB (less is better)",
            &[("", Metric::CpuPerGb)],
            2,
        ),
        chart(
            "200-byte packets a second (more is better)",
            &[("", Metric::FloodPps)],
            0,
        ),
        chart(
            "Round trip of the idle tunnel, us (less is better)",
            &[("mean", Metric::IdleAvg), ("p99", Metric::IdleP99)],
            0,
        ),
        chart(
            "Round trip beside a saturating stream, us (less is better)",
            &[("mean", Metric::LoadedAvg), ("p99", Metric::LoadedP99)],
            0,
        ),
    ];
    svg::page(heading, notes, &charts)
}

/// A row as the JSON document has it.
#[derive(Serialize)]
pub struct JsonRow<'a> {
    #[serde(flatten)]
    row: &'a Row,
    medians: super::metrics::Sample,
    noisy: bool,
}

/// Rows with their medians.
pub fn json_rows(rows: &[Row]) -> Vec<JsonRow<'_>> {
    let of = |row| JsonRow {
        row,
        medians: Row::medians(row),
        noisy: Row::is_noisy(row),
    };
    rows.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::metrics::Layer;

    fn rows() -> Vec<Row> {
        let row = |product: &str, gbps, others| Row {
            product: product.into(),
            layer: Layer::L2,
            samples: vec![[(Metric::ToHome, gbps), (Metric::Others, others)].into()],
        };
        vec![row("vpncloud", 1.5, 0.0), row(OURS, 4.5, 0.4)]
    }

    #[test]
    fn the_table_has_ratios_and_names_noise() {
        let t = main_table(&rows());
        let ours = t.lines().find(|l| l.contains("lanline")).unwrap();
        assert!(
            ours.contains("lanline (noisy)") && ours.contains("3.00") && ours.contains("0.40"),
            "{t}"
        );
        assert!(!t.contains("vpncloud (noisy)"));
    }

    #[test]
    fn the_plot_has_only_charts_with_rows_and_json_has_medians() {
        let svg = plot(&rows(), "h", &[]);
        assert!(svg.contains("4.50") && !svg.contains("NaN"));
        let v = serde_json::to_value(json_rows(&rows())).unwrap();
        assert_eq!(v[1]["medians"]["to_home"], 4.5);
        assert_eq!(v[1]["noisy"], true);
        assert_eq!(v[1]["product"], "lanline");
    }
}
