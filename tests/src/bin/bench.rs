//! `lanline-bench`: the tunnel side by side with every peer that is installed, in namespaces of its own.

use anyhow::Result;
use clap::Parser;
use std::{io::Write, path::PathBuf, process::ExitCode};
use tests::{
    bench::{
        goals::{self, Verdict},
        report,
    },
    io::{
        bench::{self, Conditions, Measured, Plan},
        evidence,
        lab::say,
    },
};

/// Measures lanline beside other tunnels and writes a page about it.
#[derive(Parser)]
#[command(name = "lanline-bench")]
struct Args {
    /// Measure only these, by name; may be given several times.
    #[arg(long = "peer", value_name = "NAME")]
    peers: Vec<String>,
    /// Repetitions; the table has their medians.
    #[arg(long, default_value_t = 3)]
    reps: u32,
    /// Seconds of one TCP test; UDP tests take half.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// One minute: veth, vxlan, vpncloud and lanline, once, 2 seconds a test.
    #[arg(long)]
    quick: bool,
    /// Print one JSON document on stdout in place of the tables.
    #[arg(long)]
    json: bool,
    /// Folder for net.md, net.svg and net.json [default: docs/bench; target/bench if not everything is measured]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Leave the LAN port scenario out.
    #[arg(long)]
    no_lanport: bool,
    /// Nice value for this run's own autogroup, such as -13: a larger share of a machine that others load. It
    /// disadvantages the kernel's own tunnels a little.
    #[arg(long, allow_hyphen_values = true)]
    boost: Option<i32>,
    /// Commit that LANLINE_BIN was built from, for the page, if it is not the tree's.
    #[arg(long)]
    commit: Option<String>,
    /// Seconds to wait, a product and repetition, until others leave the machine alone.
    #[arg(long, default_value_t = 20.0)]
    patience: f64,
}

/// Exit codes of the CLI contract.
const FAILED: u8 = 1;
const MISSING: u8 = 7;

fn main() -> ExitCode {
    let args = Args::parse();
    let missing = bench::missing();
    if !missing.is_empty() {
        say(&format!("the benchmark cannot run: missing {}", missing.join(", ")));
        return ExitCode::from(MISSING);
    }
    match run(&args) {
        Ok(code) => code,
        Err(e) => {
            say(&format!("the benchmark failed: {e:#}"));
            ExitCode::from(FAILED)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    if let Some(nice) = args.boost
        && let Some(status) = bench::boosted(nice)?
    {
        let code = status.code().and_then(|c| u8::try_from(c).ok());
        return Ok(ExitCode::from(code.unwrap_or(FAILED)));
    }
    let plan = plan(args);
    let mut here = Conditions::here(args.boost)?;
    if let Some(c) = &args.commit {
        here.commit.clone_from(c);
    }
    let measured = bench::run(&plan)?;
    let verdicts = goals::verdicts(&measured.rows, &measured.lanport);
    let document = serde_json::json!({
        "conditions": here, "seconds": plan.seconds, "reps": plan.reps, "pings": plan.pings,
        "rows": report::json_rows(&measured.rows), "lanport": report::json_rows(&measured.lanport),
        "absent": measured.absent, "goals": verdicts,
    });
    let tables = tables(&measured, &verdicts);
    let whole = !args.quick && args.peers.is_empty();
    let dir = match &args.out {
        Some(d) => d.clone(),
        None if whole => evidence::workspace()?.join("docs").join("bench"),
        None => evidence::workspace()?.join("target").join("bench"),
    };
    let notes: Vec<String> = conditions(&here, &plan).split("; ").map(str::to_owned).collect();
    let plot = report::plot(&measured.rows, "Tunnels side by side", &notes);
    let files = [
        ("net.json", format!("{}\n", serde_json::to_string_pretty(&document)?)),
        ("net.svg", plot),
        ("net.md", page(&here, &plan, &measured, &tables)),
    ];
    evidence::write(&dir, &files)?;
    say(&format!("written to {}", dir.display()));
    answer(&if args.json { format!("{document}\n") } else { tables })?;
    Ok(ExitCode::SUCCESS)
}

fn plan(args: &Args) -> Plan {
    let quick = ["veth", "vxlan", "vpncloud", "lanline"].map(str::to_owned).to_vec();
    let subset = !args.peers.is_empty();
    Plan {
        products: if args.quick && !subset {
            quick
        } else {
            args.peers.clone()
        },
        reps: if args.quick { 1 } else { args.reps },
        seconds: if args.quick { 2.0 } else { f64::from(args.seconds) },
        pings: if args.quick { 500 } else { 1_000 },
        patience: args.patience,
        lanport: !args.no_lanport && !args.quick && (!subset || args.peers.iter().any(|p| p == goals::OURS)),
    }
}

fn conditions(c: &Conditions, plan: &Plan) -> String {
    let boost = c
        .boost
        .map_or_else(String::new, |b| format!(", own autogroup at nice {b}"));
    format!(
        "{} UTC, commit {}, {}, {}, {} cores ({}); {} repetitions of {} s, {}{boost}",
        c.date, c.commit, c.version, c.kernel, c.cores, c.cpu, plan.reps, plan.seconds, c.iperf
    )
}

fn tables(m: &Measured, verdicts: &[Verdict]) -> String {
    let mut out = report::main_table(&m.rows);
    for (name, why) in &m.absent {
        out += &format!("\nNot measured: {name}, {why}.\n");
    }
    if !m.lanport.is_empty() {
        out += &format!("\n{}", report::lanport_table(&m.lanport));
    }
    out + &format!("\n{}", report::verdict_table(verdicts))
}

fn page(c: &Conditions, plan: &Plan, m: &Measured, tables: &str) -> String {
    let noisy = m.rows.iter().chain(&m.lanport).filter(|r| r.is_noisy()).count();
    let noise = match noisy {
        0 => "No row was disturbed: processes outside the benchmark took less than 0.1 cores in every test.".to_owned(),
        n => format!(
            "{n} rows are marked noisy: processes outside the benchmark took more than 0.1 cores in one of their tests; no \
             verdict should rest on them."
        ),
    };
    format!(
        "# Tunnels side by side\n\n{}.\n{noise}\n\n![plot](net.svg)\n\n{tables}\n{METHOD}",
        conditions(c, plan)
    )
}

/// How it is measured, for the page.
const METHOD: &str = include_str!("bench-method.md");

/// The one place that writes to stdout.
fn answer(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
