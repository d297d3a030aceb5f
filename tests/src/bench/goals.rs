//! The goals of issue 3, each a ratio inside one run or a bound, and whether a run reached them.

use super::metrics::{Layer, Metric, Row};
use serde::Serialize;

/// One goal and its verdict.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// What is asked.
    pub goal: String,
    /// What was measured, against what.
    pub got: String,
    /// Whether it was reached; `None` if this run cannot tell.
    pub reached: Option<bool>,
    /// True for the stretch goals.
    pub stretch: bool,
    /// True if others disturbed a row that it rests on: then it has to be measured again.
    pub noisy: bool,
}

/// Who a figure is held against.
struct Field<'a> {
    rows: &'a [Row],
}

/// What a LAN port without offloads may leave of the speed without one.
const PORT: f64 = 0.7;

/// Our own name in the table.
pub const OURS: &str = "lanline";

impl<'a> Field<'a> {
    fn row(&self, name: &str) -> Option<&'a Row> {
        self.rows.iter().find(|r| r.product == name)
    }

    fn of(&self, name: &str, m: Metric) -> Option<f64> {
        self.row(name)?.median(m)
    }

    fn ours(&self, m: Metric) -> Option<f64> {
        self.of(OURS, m)
    }

    /// Everybody else who is a program: neither the bare wire nor the kernel's own tunnel.
    fn peers(&self) -> impl Iterator<Item = &'a Row> {
        let is_peer = |r: &&Row| r.product != OURS && matches!(r.layer, Layer::L2 | Layer::L3);
        self.rows.iter().filter(is_peer)
    }

    fn best(&self, m: Metric, only: Option<Layer>, better: fn(f64, f64) -> bool) -> Option<(&'a str, f64)> {
        let candidates = self.peers().filter(|r| only.is_none_or(|l| r.layer == l));
        let values = candidates.filter_map(|r| Some((r.product.as_str(), r.median(m)?)));
        values.reduce(|a, b| if better(b.1, a.1) { b } else { a })
    }
}

/// A ratio of two figures; what is missing or zero gives none.
fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    let (a, b) = (a?, b?);
    (b > 0.0).then_some(a / b)
}

fn verdict(stretch: bool, goal: String, got: Option<(bool, String)>) -> Verdict {
    let (reached, got) = got.map_or((None, "not measured in this run".into()), |(r, g)| (Some(r), g));
    Verdict {
        goal,
        got,
        reached,
        stretch,
        noisy: false,
    }
}

impl Verdict {
    /// Marks it if one of these rows was disturbed.
    fn resting_on(self, rows: &[Option<&Row>]) -> Self {
        Self {
            noisy: rows.iter().flatten().any(|r| r.is_noisy()),
            ..self
        }
    }
}

/// Both directions at least `times` another's.
fn speed(f: &Field<'_>, against: &str, times: f64, stretch: bool) -> Verdict {
    let to = |m| ratio(f.ours(m), f.of(against, m));
    let both = to(Metric::ToHome).zip(to(Metric::ToHost));
    let got = both.map(|(a, b)| (a.min(b) >= times, format!("{a:.2} there, {b:.2} back")));
    let goal = format!("one TCP stream at {times} times {against} or more, both directions");
    verdict(stretch, goal, got).resting_on(&[f.row(OURS), f.row(against)])
}

fn cpu(f: &Field<'_>) -> Verdict {
    let r = ratio(f.ours(Metric::CpuPerGb), f.of("vpncloud", Metric::CpuPerGb));
    let got = r.map(|r| (r <= 0.5, format!("{r:.2} of vpncloud's")));
    let goal = "CPU seconds per GB at most half of vpncloud's".into();
    verdict(false, goal, got).resting_on(&[f.row(OURS), f.row("vpncloud")])
}

/// Against the best of those that count for the figure.
fn best(f: &Field<'_>, m: Metric, who: Option<Layer>, goal: &str, larger: bool) -> Verdict {
    let better = if larger { |a, b| a > b } else { |a, b| a < b };
    let best = f.best(m, who, better);
    let r = best.and_then(|(who, v)| Some((who, ratio(f.ours(m), Some(v))?)));
    let got = r.map(|(who, r)| {
        let reached = if larger { r >= 2.0 } else { r <= 2.0 };
        (reached, format!("{r:.2} times {who}"))
    });
    verdict(false, goal.into(), got).resting_on(&[f.row(OURS), best.and_then(|(who, _)| f.row(who))])
}

/// Our own figure within a bound in every repetition.
fn bound(f: &Field<'_>, m: Metric, most: f64, unit: &str, goal: &str) -> Verdict {
    let worst = f.row(OURS).and_then(|r| r.worst(m));
    let got = worst.map(|v| (v <= most, format!("{v:.2} {unit}")));
    verdict(false, goal.into(), got).resting_on(&[f.row(OURS)])
}

fn checksums(lanport: &[Row]) -> Verdict {
    let bad: f64 = lanport.iter().filter_map(|r| r.worst(Metric::ChecksumErrors)).sum();
    let goal = "no checksum error behind a LAN port without offloads".into();
    verdict(false, goal, Some((bad <= 0.0, format!("{bad:.0}"))))
}

/// Every goal, the stretch at the end.
pub fn verdicts(rows: &[Row], lanport: &[Row]) -> Vec<Verdict> {
    let f = Field { rows };
    let mut out = vec![
        speed(&f, "vpncloud", 2.5, false),
        speed(&f, "vxlan", 0.30, false),
        cpu(&f),
    ];
    let goal = "200-byte packets a second at twice the best peer";
    out.push(best(&f, Metric::FloodPps, None, goal, true));
    let goal = "idle round-trip p99 at most twice the best L2 peer's";
    out.push(best(&f, Metric::IdleP99, Some(Layer::L2), goal, false));
    out.push(bound(&f, Metric::Rss, 40.0, "MB", "a node's memory at most 40 MB"));
    let goal = "no loss at 20,000 small packets a second";
    out.push(bound(&f, Metric::PacedLoss, 0.0, "% lost", goal));
    let ports = || {
        lanport
            .iter()
            .filter(|r| !matches!(r.layer, Layer::Kernel | Layer::Raw))
    };
    out.extend(ports().map(|r| port_keeps(&f, r, lanport)));
    out.extend(ports().map(|r| port(&f, r, 2.5, 0.30, false)));
    if !lanport.is_empty() {
        out.push(checksums(lanport));
    }
    out.push(speed(&f, "vpncloud", 4.0, true));
    out.push(speed(&f, "vxlan", 0.5, true));
    out.extend(ports().map(|r| port(&f, r, 4.0, 0.5, true)));
    out
}

/// A LAN port at 70 % of the speed that is asked without one: so many times vpncloud's and so many times vxlan's.
fn port(f: &Field<'_>, row: &Row, cloud: f64, kernel: f64, stretch: bool) -> Verdict {
    let to = |m| {
        let asked = f.of("vpncloud", m)? * cloud;
        ratio(row.median(m), Some(asked.max(f.of("vxlan", m)? * kernel)))
    };
    let both = to(Metric::ToHome).zip(to(Metric::ToHost));
    let got = both.map(|(a, b)| (a.min(b) >= PORT, format!("{a:.2} there, {b:.2} back")));
    let goal = format!(
        "{}: at least {PORT} of {cloud} times vpncloud and of {kernel} times vxlan",
        row.product
    );
    verdict(stretch, goal, got).resting_on(&[f.row("vpncloud"), f.row("vxlan"), Some(row)])
}

/// A LAN port at 70 % of what we do without one, beside what the kernel's own tunnel keeps of its speed there, and how much of
/// our speed comes through the port where there is no tunnel at all.
fn port_keeps(f: &Field<'_>, row: &Row, lanport: &[Row]) -> Verdict {
    let keeps = |row: &Row, without: &str| {
        let to = |m| ratio(row.median(m), f.of(without, m));
        to(Metric::ToHome).zip(to(Metric::ToHost))
    };
    let kernel = lanport.iter().find(|r| r.product == format!("{}, vxlan", row.product));
    let beside = kernel.and_then(|r| keeps(r, "vxlan"));
    let beside = beside.map_or_else(String::new, |(a, b)| format!("; vxlan keeps {a:.2} and {b:.2}"));
    let bare = lanport
        .iter()
        .find(|r| r.product == format!("{}, bare wire", row.product));
    let most = bare.and_then(|r| keeps(r, OURS));
    let most = most.map_or_else(String::new, |(a, b)| format!("; a bare wire {a:.2} and {b:.2} of ours"));
    let got = keeps(row, OURS).map(|(a, b)| (a.min(b) >= PORT, format!("{a:.2} there, {b:.2} back{beside}{most}")));
    let goal = format!("{}: at least {PORT} of our own speed without it", row.product);
    verdict(false, goal, got).resting_on(&[f.row(OURS), f.row("vxlan"), Some(row), kernel, bare])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(product: &str, layer: Layer, figures: &[(Metric, f64)]) -> Row {
        Row {
            product: product.into(),
            layer,
            samples: vec![figures.iter().copied().collect()],
        }
    }

    #[test]
    fn a_goal_is_reached_missed_or_not_measured() {
        use Metric::{FloodPps, IdleP99, ToHome, ToHost};
        let rows = [
            row(
                "vxlan",
                Layer::Kernel,
                &[(ToHome, 10.0), (ToHost, 10.0), (FloodPps, 9e9), (IdleP99, 1.0)],
            ),
            row(
                OURS,
                Layer::L2,
                &[(ToHome, 4.0), (ToHost, 2.9), (FloodPps, 200.0), (IdleP99, 90.0)],
            ),
            row("tinc", Layer::L2, &[(FloodPps, 90.0), (IdleP99, 50.0)]),
            row("nebula", Layer::L3, &[(FloodPps, 120.0), (IdleP99, 10.0)]),
        ];
        let v = verdicts(&rows, &[]);
        let of = |words: &str| v.iter().find(|v| v.goal.contains(words)).unwrap();
        assert_eq!(of("0.3 times vxlan").reached, Some(false), "one direction is too slow");
        assert_eq!(of("2.5 times vpncloud").reached, None);
        assert_eq!(of("200-byte").reached, Some(false));
        assert!(
            of("200-byte").got.contains("nebula"),
            "the kernel is no peer: {}",
            of("200-byte").got
        );
        assert_eq!(of("idle round-trip").reached, Some(true), "only L2 peers count");
        assert!(!v.iter().any(|v| v.goal.contains("LAN port")));
    }

    #[test]
    fn a_lan_port_is_held_against_the_plain_speed_and_may_break_no_checksum() {
        use Metric::{ChecksumErrors, ToHome, ToHost};
        let speeds = |n| [(ToHome, n), (ToHost, n)];
        let rows = [
            row(OURS, Layer::L2, &speeds(4.0)),
            row("vpncloud", Layer::L2, &speeds(1.2)),
            row("vxlan", Layer::Kernel, &speeds(9.0)),
        ];
        let ours = [(ToHome, 3.0), (ToHost, 2.7), (ChecksumErrors, 1.0)];
        let port = [
            row("LAN port, GRO on", Layer::L2, &ours),
            row("LAN port, GRO on, vxlan", Layer::Kernel, &speeds(3.6)),
            row("LAN port, GRO on, bare wire", Layer::Raw, &speeds(6.0)),
        ];
        let v = verdicts(&rows, &port);
        let of = |words: &str| v.iter().find(|v| v.goal.contains(words)).unwrap();
        let asked = of("0.7 of 2.5 times");
        assert_eq!((asked.reached, asked.stretch), (Some(true), false));
        assert_eq!(asked.got, "1.00 there, 0.90 back");
        assert_eq!(of("0.7 of 4 times").reached, Some(false));
        let own = of("of our own speed");
        assert_eq!(
            own.got,
            "0.75 there, 0.68 back; vxlan keeps 0.40 and 0.40; a bare wire 1.50 and 1.50 of ours"
        );
        assert_eq!(
            v.iter().filter(|v| v.goal.contains("of our own speed")).count(),
            1,
            "a wire has no goal"
        );
        assert_eq!((own.reached, own.stretch), (Some(false), false));
        assert_eq!(of("checksum").reached, Some(false));
    }
}
