//! `lanline-swarm`: one file to 8, 16 and 32 machines, by lanline, by a BitTorrent client and by HTTP.

use anyhow::{Context, Result};
use clap::Parser;
use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode, time::Duration};
use tests::{
    figures::{svg, table},
    io::{
        evidence,
        lab::{self, say},
        sh,
        swarms::{By, Case, Run, distribute},
    },
};

/// Distributes an image and a file of the same bytes over the same emulated lines.
#[derive(Parser)]
#[command(name = "lanline-swarm")]
struct Args {
    /// The program built from images/examples/peer.rs.
    #[arg(long)]
    peer: PathBuf,
    /// Machines that fetch; may be given several times.
    #[arg(long = "leechers", default_values_t = [8, 16, 32])]
    leechers: Vec<usize>,
    /// Repetitions; the table has medians.
    #[arg(long, default_value_t = 3)]
    reps: usize,
    /// Size of the file, MiB.
    #[arg(long, default_value_t = 16)]
    mib: usize,
    /// To see that it works: 4 machines, 2 MiB, once.
    #[arg(long)]
    quick: bool,
    /// Each line, each way, Mb/s.
    #[arg(long, default_value_t = 8)]
    mbps: u64,
    /// Folder for images.md, images.svg and images.json [default: docs/bench]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Each line, each way; a round trip passes two lines twice.
const DELAY: Duration = Duration::from_millis(10);
/// Loss on each line of the runs with loss, by each way.
const LOSS: f64 = 0.01;

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.quick {
        (args.leechers, args.reps, args.mib) = (vec![4], 1, 2);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&format!("the benchmark failed: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let mut missing = lab::missing();
    let tools = [("aria2c", "aria2"), ("mktorrent", "mktorrent")];
    missing.extend(
        tools
            .into_iter()
            .filter(|(t, _)| sh::tool(t).is_none())
            .map(|(_, p)| p.to_owned()),
    );
    if !missing.is_empty() {
        anyhow::bail!("missing {}", missing.join(", "));
    }
    let peer = args.peer.canonicalize().context("no such program")?;
    let hash = sh::run(
        &peer.to_string_lossy(),
        &["hash", if args.quick { "16" } else { "512" }],
    )?;
    let hash: serde_json::Value = serde_json::from_str(&hash)?;
    let hash = hash["bytes_per_second"].as_f64().context("no rate")?;
    say(&format!(
        "page hashes and piece ids: {:.2} GB/s on one core",
        hash / 1e9
    ));
    let case = |leechers, loss| Case {
        leechers,
        bytes: args.mib << 20,
        rate: args.mbps * 1_000_000,
        delay: DELAY,
        loss,
    };
    let mut cases: Vec<(By, Case)> = Vec::new();
    for n in &args.leechers {
        cases.extend([By::Lanline, By::Aria2].map(|by| (by, case(*n, 0.0))));
    }
    let few = args.leechers.iter().copied().min().unwrap_or(8);
    cases.push((By::Http, case(few, 0.0)));
    cases.extend([By::Lanline, By::Aria2].map(|by| (by, case(few, LOSS))));
    let mut runs: Vec<Run> = Vec::new();
    for rep in 0..args.reps.max(1) {
        for (by, c) in cases.iter().filter(|(by, _)| rep == 0 || *by != By::Http) {
            let r = distribute(*by, c, &peer)?;
            say(&format!(
                "{} to {} machines, loss {}: last after {:.1} s, {:.3} of the bound; the seed sent {:.3} copies{}",
                by.name(),
                c.leechers,
                c.loss,
                r.last,
                r.over_bound,
                r.copies,
                r.duplicates
                    .map_or_else(String::new, |d| format!("; {:.2} % twice", d * 100.0))
            ));
            runs.push(r);
        }
    }
    write(args, &runs, hash, &case(few, 0.0))
}

fn median(mut v: Vec<f64>) -> Option<f64> {
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied()
}

fn write(args: &Args, runs: &[Run], hash: f64, case: &Case) -> Result<()> {
    // Loss as parts in a million, to be a key.
    let mut groups: BTreeMap<(u64, usize, By), Vec<&Run>> = BTreeMap::new();
    for r in runs {
        groups
            .entry(((r.loss * 1e6) as u64, r.leechers, r.by))
            .or_default()
            .push(r);
    }
    let of = |g: &[&Run], f: fn(&Run) -> Option<f64>| median(g.iter().filter_map(|r| f(r)).collect());
    let show = |v: Option<f64>, digits: usize| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
    let cells = groups.iter().map(|((loss, n, by), g)| {
        vec![
            n.to_string(),
            format!("{} %", *loss as f64 / 1e4),
            by.name().to_owned(),
            show(of(g, |r| Some(r.last)), 1),
            show(of(g, |r| Some(r.over_bound)), 2),
            show(of(g, |r| Some(r.copies)), 2),
            show(of(g, |r| r.duplicates.map(|d| d * 100.0)), 2),
            g.len().to_string(),
        ]
    });
    let head = [
        "machines",
        "loss",
        "by",
        "last, s",
        "of the bound",
        "copies by the seed",
        "twice, %",
        "runs",
    ];
    let table = table::markdown(&head, &cells.collect::<Vec<_>>());
    let charts = [svg::Chart {
        title: "Last machine has the image, times the lower bound (less is better)".into(),
        series: vec!["".into()],
        rows: groups
            .iter()
            .map(|((loss, n, by), g)| svg::Row {
                label: format!("{n}{} {}", if *loss > 0 { ", loss" } else { "" }, by.name()),
                values: vec![of(g, |r| Some(r.over_bound))],
                strong: *by == By::Lanline,
            })
            .collect(),
        decimals: 2,
    }];
    let conditions = format!(
        "{} MiB that do not compress; every machine behind a line of {} Mb/s each way, {} ms round trip between any two; bound {:.1} s.",
        args.mib,
        args.mbps,
        4 * DELAY.as_millis(),
        case.bound()
    );
    let page = format!(
        "# Distributing an image\n\n{conditions}\n\n{table}\n![plot](images.svg)\n\nPage hashes and piece ids: {:.2} GB/s on one core.\n\n{METHOD}",
        hash / 1e9
    );
    let dir = match &args.out {
        Some(d) => d.clone(),
        None => evidence::workspace()?.join("docs/bench"),
    };
    let files = [
        ("images.md", page.clone()),
        ("images.svg", svg::page("Distributing an image", &[conditions], &charts)),
        ("images.json", format!("{}\n", serde_json::to_string_pretty(runs)?)),
    ];
    evidence::write(&dir, &files)?;
    let mut out = std::io::stdout().lock();
    out.write_all(page.as_bytes())?;
    Ok(out.flush()?)
}

/// How it is measured, for the page.
const METHOD: &str = include_str!("swarm-method.md");
