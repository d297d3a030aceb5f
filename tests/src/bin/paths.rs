//! `lanline-paths`: every pair of routers, and what two nodes behind them make of it.

use anyhow::Result;
use clap::Parser;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use tests::{
    bench::paths::{Pair, summary, table},
    io::{
        bench::Conditions,
        evidence,
        lab::{self, Lab, say},
        node,
        paths::{Case, Patience, measure},
    },
};

/// Measures time to the first frame, kind of path and speed between two nodes behind every pair of routers.
#[derive(Parser)]
#[command(name = "lanline-paths")]
struct Args {
    /// Measure only pairs one of whose names holds this; may be given several times, and then all must be held.
    #[arg(long = "only", value_name = "WORDS")]
    only: Vec<String>,
    /// Measure each pair so often; the table has every run.
    #[arg(long, default_value_t = 1)]
    reps: u32,
    /// Seconds of the TCP stream; 0 leaves it out.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Print one JSON document on stdout in place of the table.
    #[arg(long)]
    json: bool,
    /// Folder for connectivity.md and connectivity.json [default: docs; target/bench with --only]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Commit that LANLINE_BIN was built from, for the page, if it is not the tree's.
    #[arg(long)]
    commit: Option<String>,
}

/// Exit codes of the CLI contract.
const FAILED: u8 = 1;
const MISSING: u8 = 7;

fn main() -> ExitCode {
    let args = Args::parse();
    let mut missing = lab::missing();
    if let Err(e) = node::binary() {
        missing.push(format!("lanline: {e:#}"));
    }
    if !missing.is_empty() {
        say(&format!("the matrix cannot run: missing {}", missing.join(", ")));
        return ExitCode::from(MISSING);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&format!("the matrix failed: {e:#}"));
            ExitCode::from(FAILED)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let mut here = Conditions::here(None)?;
    if let Some(c) = &args.commit {
        here.commit.clone_from(c);
    }
    let wanted = |c: &Case| {
        let (one, two) = c.names();
        args.only
            .iter()
            .all(|w| one.contains(w.as_str()) || two.contains(w.as_str()))
    };
    let patience = Patience {
        first: Duration::from_secs(60),
        direct: Duration::from_secs(10),
        stream: (args.seconds > 0).then(|| Duration::from_secs(args.seconds)),
    };
    let dir = match &args.out {
        Some(d) => d.clone(),
        None if args.only.is_empty() => evidence::workspace()?.join("docs"),
        None => evidence::workspace()?.join("target").join("bench"),
    };
    let mut pairs = Vec::new();
    for case in Case::all().into_iter().filter(wanted) {
        for _ in 0..args.reps {
            pairs.push(one(case, patience)?);
        }
        // After every pair: a run that is cut short has measured something.
        write(&dir, &here, &pairs)?;
    }
    say(&format!("written to {}", dir.display()));
    let (table, summary) = (table(&pairs), summary(&pairs));
    let document = serde_json::json!({ "conditions": here, "pairs": pairs });
    let mut out = std::io::stdout().lock();
    let text = if args.json {
        format!("{document}\n")
    } else {
        format!("{table}\n{summary}")
    };
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn write(dir: &Path, here: &Conditions, pairs: &[Pair]) -> Result<()> {
    let document = serde_json::json!({ "conditions": here, "pairs": pairs });
    let files = [
        (
            "connectivity.json",
            format!("{}\n", serde_json::to_string_pretty(&document)?),
        ),
        ("connectivity.md", page(here, &table(pairs), &summary(pairs))),
    ];
    evidence::write(dir, &files)
}

fn one(case: Case, patience: Patience) -> Result<Pair> {
    let (one, two) = case.names();
    let mut lab = Lab::new("paths")?;
    let pair = measure(&mut lab, case, patience)?;
    if pair.first_frame.is_none() || pair.why.is_some() {
        lab.fail(pair.why.as_deref().unwrap_or("no frame passed"));
    }
    say(&format!(
        "{one} + {two}: first frame {:?} s by {:?}, direct after {:?} s, at the end {:?}, {:?} Mb/s{}",
        pair.first_frame,
        pair.first_path,
        pair.direct_after,
        pair.path,
        pair.mbps,
        pair.why.as_ref().map_or_else(String::new, |w| format!(" ({w})")),
    ));
    Ok(pair)
}

fn page(c: &Conditions, table: &str, summary: &str) -> String {
    format!(
        "# Who reaches whom\n\n{} UTC, commit {}, {}, {}, {} cores ({}).\n\n{summary}\n{table}\n{METHOD}",
        c.date, c.commit, c.version, c.kernel, c.cores, c.cpu
    )
}

/// How it is measured, for the page.
const METHOD: &str = include_str!("paths-method.md");
