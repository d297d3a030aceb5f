//! The order of things: every product once, then every product again, so that a drift of the machine hits all alike.

use super::{
    lanport::{self, Carrier},
    measure::{Measure, Pace},
    products::{PRODUCTS, Product, is_installed},
    site::{Side, Site},
};
use crate::{
    bench::metrics::{Layer, Metric, Row, Sample},
    io::lab::say,
};
use anyhow::{Context, Result, bail};
use std::{fs::File, time::Duration};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Names; empty for all.
    pub products: Vec<String>,
    /// Repetitions.
    pub reps: u32,
    /// Seconds of one TCP test.
    pub seconds: f64,
    /// Pings of the idle tunnel.
    pub pings: u32,
    /// Seconds to wait for others, a product and repetition.
    pub patience: f64,
    /// The LAN port scenario too.
    pub lanport: bool,
}

/// What was measured.
pub struct Measured {
    /// One row a product.
    pub rows: Vec<Row>,
    /// The LAN port scenario: ours, the kernel's, then a bare wire, with GRO on and off at the port.
    pub lanport: Vec<Row>,
    /// Who is not in the table, and why.
    pub absent: Vec<(String, String)>,
}

/// Runs all of it, telling on stderr how far it is.
pub fn run(plan: &Plan) -> Result<Measured> {
    crate::io::sweep::sweep();
    let mut absent = Vec::new();
    let mut chosen: Vec<(&Product, Row)> = Vec::new();
    for p in choose(&plan.products)? {
        if is_installed(p) {
            chosen.push((p, row(p.name, p.layer)));
        } else {
            absent.push((p.name.to_owned(), "not installed".to_owned()));
        }
    }
    let mut lanport: Vec<Row> = LAN_PORTS.iter().map(|(name, layer, ..)| row(name, *layer)).collect();
    for rep in 1..=plan.reps {
        for (p, row) in &mut chosen {
            if absent.iter().any(|(name, _)| name == p.name) {
                continue;
            }
            match alone(|| one(p, plan.pace())) {
                Ok(sample) => {
                    tell(rep, plan.reps, p.name, &sample);
                    row.samples.push(sample);
                }
                // Without ours there is nothing to compare.
                Err(e) if p.name == "lanline" => return Err(e),
                Err(e) => {
                    say(&format!("{}: {e:#}", p.name));
                    absent.push((p.name.to_owned(), first_line(&e)));
                }
            }
        }
        if !plan.lanport {
            continue;
        }
        for (row, (_, _, carrier, gro)) in lanport.iter_mut().zip(LAN_PORTS) {
            let sample = alone(|| lanport::measure(carrier, gro, plan.pace()))?;
            tell(rep, plan.reps, &row.product, &sample);
            row.samples.push(sample);
        }
    }
    lanport.retain(|r| !r.samples.is_empty());
    let rows = chosen.into_iter().map(|(_, row)| row).filter(|r| !r.samples.is_empty());
    Ok(Measured {
        rows: rows.collect(),
        lanport,
        absent,
    })
}

/// The rows of the LAN port scenario: ours, the kernel's and a bare wire, with GRO on and off at the port.
const LAN_PORTS: [(&str, Layer, Carrier, bool); 6] = [
    ("LAN port, GRO on", Layer::L2, Carrier::Lanline, true),
    ("LAN port, GRO off", Layer::L2, Carrier::Lanline, false),
    ("LAN port, GRO on, vxlan", Layer::Kernel, Carrier::Vxlan, true),
    ("LAN port, GRO off, vxlan", Layer::Kernel, Carrier::Vxlan, false),
    ("LAN port, GRO on, bare wire", Layer::Raw, Carrier::Bare, true),
    ("LAN port, GRO off, bare wire", Layer::Raw, Carrier::Bare, false),
];

impl Plan {
    fn pace(&self) -> Pace {
        Pace {
            seconds: self.seconds,
            pings: self.pings,
            patience: Duration::from_secs_f64(self.patience),
        }
    }
}

fn choose(names: &[String]) -> Result<Vec<&'static Product>> {
    for n in names {
        if !PRODUCTS.iter().any(|p| p.name == n) {
            let known: Vec<&str> = PRODUCTS.iter().map(|p| p.name).collect();
            bail!("no product is called {n}; there are {}", known.join(", "));
        }
    }
    let wanted = |p: &&Product| names.is_empty() || names.iter().any(|n| n == p.name);
    Ok(PRODUCTS.iter().filter(wanted).collect())
}

fn row(name: &str, layer: Layer) -> Row {
    Row {
        product: name.to_owned(),
        layer,
        samples: Vec::new(),
    }
}

/// One repetition of one product on a site of its own.
fn one(p: &Product, pace: Pace) -> Result<Sample> {
    let site = Site::new()?;
    let up = (p.up)(&site).with_context(|| format!("cannot set up {}", p.name))?;
    let sample = Measure::new(&site, site.ns(Side::Home), &up.server, up.settle, pace)?.all();
    sample.with_context(|| format!("cannot measure {}", p.name))
}

/// Two benchmarks at once would measure each other: one waits for the other here.
fn alone<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    let path = std::env::temp_dir().join("lanline-bench.lock");
    let lock = File::options().create(true).append(true).open(&path);
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    lock.lock()?;
    f()
}

fn tell(rep: u32, reps: u32, name: &str, s: &Sample) {
    let get = |m: Metric| s.get(&m).map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    say(&format!(
        "{rep}/{reps} {name:<18} {} Gb/s there, {} back, CPU {} s/GB, {} pps, idle p99 {} us; others {} cores",
        get(Metric::ToHome),
        get(Metric::ToHost),
        get(Metric::CpuPerGb),
        get(Metric::FloodPps),
        get(Metric::IdleP99),
        get(Metric::Others)
    ));
}

/// The cause in short; all of it was told when it happened.
fn first_line(e: &anyhow::Error) -> String {
    let cause = e.root_cause().to_string();
    cause.lines().next().unwrap_or_default().to_owned()
}
