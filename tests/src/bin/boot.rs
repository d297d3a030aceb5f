//! `lanline-boot`: how long a guest takes to be ready on a host that has no byte of its image.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;
use serde_json::Value;
use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};
use tests::{
    io::{
        bench::Conditions,
        demo::{Seeds, Stage},
        evidence, guest_image,
        lab::{self, Lab, say},
        node::{self, number},
        sh::eventually,
    },
    netem::Params,
};

/// Measures the cold boot of a guest beside the same boot from the local disk, on emulated links.
#[derive(Parser)]
#[command(name = "lanline-boot")]
struct Args {
    /// Repetitions; the table has their medians.
    #[arg(long, default_value_t = 3)]
    reps: u32,
    /// To see that it works: the first link, once.
    #[arg(long)]
    quick: bool,
    /// Print one JSON document on stdout in place of the table.
    #[arg(long)]
    json: bool,
    /// Folder for boot.md, boot.json and boot.svg [default: docs/bench]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Commit that LANLINE_BIN was built from, for the page, if it is not the tree's.
    #[arg(long)]
    commit: Option<String>,
}

/// Exit codes of the CLI contract.
const FAILED: u8 = 1;
const MISSING: u8 = 7;
/// A guard against hanging.
const LIMIT: Duration = Duration::from_secs(180);

/// Lines of every machine: name, delay of a line each way (a round trip has four), bits a second.
const LINKS: [(&str, Duration, u64); 2] = [
    ("LAN, 1 ms, 1 Gb/s", Duration::from_micros(250), 1_000_000_000),
    ("40 ms, 100 Mb/s", Duration::from_millis(10), 100_000_000),
];
/// What is compared.
const WAYS: [&str; 3] = ["local disk", "cold, with profile", "cold, without"];

/// One boot.
#[derive(Clone, Copy, Serialize)]
struct Boot {
    /// From the choice of the host to the start of the hypervisor.
    fetched_ms: u64,
    /// From there to the guest's address on the home's LAN.
    ready_ms: u64,
    /// Both.
    total_ms: u64,
    /// Wire bytes of pieces before it was ready.
    bytes: u64,
}

#[derive(Serialize)]
struct Row {
    link: &'static str,
    way: &'static str,
    image_bytes: u64,
    boots: Vec<Boot>,
}

impl Row {
    fn median(&self, of: impl Fn(&Boot) -> u64) -> u64 {
        let mut all: Vec<u64> = self.boots.iter().map(of).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or(0)
    }
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.quick {
        args.reps = 1;
    }
    let mut missing = lab::missing();
    if let Err(e) = node::binary() {
        missing.push(format!("lanline: {e:#}"));
    }
    if !missing.is_empty() {
        say(&format!("the benchmark cannot run: missing {}", missing.join(", ")));
        return ExitCode::from(MISSING);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&format!("the benchmark failed: {e:#}"));
            ExitCode::from(FAILED)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let mut here = Conditions::here(None)?;
    if let Some(c) = &args.commit {
        here.commit.clone_from(c);
    }
    let mut rows = Vec::new();
    let links = if args.quick { 1 } else { LINKS.len() };
    for (link, delay, rate) in LINKS.into_iter().take(links) {
        let mut of_link: Vec<Row> = WAYS
            .iter()
            .map(|way| Row {
                link,
                way,
                image_bytes: 0,
                boots: Vec::new(),
            })
            .collect();
        for rep in 0..args.reps {
            // A new mesh each time: its holders have not yet seen a boot.
            let mut lab = Lab::new("boot")?;
            let boots = one(&mut lab, delay, rate);
            if let Err(e) = &boots {
                lab.fail(&format!("{e:?}"));
            }
            let (boots, whole) = boots?;
            for ((row, boot), way) in of_link.iter_mut().zip(boots).zip(WAYS) {
                say(&format!(
                    "{link}, {way}, {}: ready after {} ms, {} bytes",
                    rep + 1,
                    boot.total_ms,
                    boot.bytes
                ));
                row.image_bytes = whole;
                row.boots.push(boot);
            }
        }
        rows.extend(of_link);
    }
    let table = table(&rows);
    let document = serde_json::json!({ "conditions": here, "reps": args.reps, "rows": rows });
    let dir = match &args.out {
        Some(d) => d.clone(),
        None => evidence::workspace()?.join("docs").join("bench"),
    };
    let page = format!(
        "# A guest on a host that has no byte of its image\n\n{} UTC, commit {}, {}, {}, {} cores ({}); medians of {}.\n\n\
         ![plot](boot.svg)\n\n{table}\n{METHOD}",
        here.date, here.commit, here.version, here.kernel, here.cores, here.cpu, args.reps
    );
    let files = [
        ("boot.json", format!("{}\n", serde_json::to_string_pretty(&document)?)),
        ("boot.svg", plot(&rows)),
        ("boot.md", page),
    ];
    evidence::write(&dir, &files)?;
    say(&format!("written to {}", dir.display()));
    let mut out = std::io::stdout().lock();
    let text = if args.json { format!("{document}\n") } else { table };
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The three boots on one link, in the order of [`WAYS`], and the wire bytes of the whole image.
fn one(lab: &mut Lab, delay: Duration, rate: u64) -> Result<([Boot; 3], u64)> {
    let stage = Stage::build(lab, &guest_image::build()?, Seeds::Halves)?;
    let whole = stage.image_bytes()?;
    let line = Params {
        delay,
        rate: Some(rate),
        queue: rate / 8 / 10,
        ..Params::clear()
    };
    let machines = [&stage.node, &stage.host, &stage.seeders[0], &stage.seeders[1]];
    machines.iter().for_each(|n| n.machine().line.set(&line));
    let without = boot(&stage, "cold")?;
    drop_image(&stage, "cold")?;
    let with = boot(&stage, "known")?;
    ensure!(with.bytes > 0, "the host still had the image");
    drop_image(&stage, "known")?;
    stage.host.ok(&["image", "pull", "demo"])?;
    let local = boot(&stage, "local")?;
    ensure!(local.bytes == 0, "a boot from the local disk fetched");
    Ok(([local, with, without], whole))
}

fn boot(stage: &Stage, name: &str) -> Result<Boot> {
    let done = stage.spawn_run(name)?.wait(LIMIT)?.ok()?;
    let done: Value = serde_json::from_str(&done.stdout).context("no document from run")?;
    let at = |step: &str| -> Result<u64> {
        let steps = done["steps"].as_array().context("no steps")?;
        let found = steps.iter().find(|s| s["step"] == step);
        number(found.with_context(|| format!("no step {step}"))?, "at_ms")
    };
    let (begun, starting, ready) = (at("host_found")?, at("starting")?, at("address")?);
    Ok(Boot {
        fetched_ms: starting - begun,
        ready_ms: ready - starting,
        total_ms: ready - begun,
        bytes: number(&done, "image_bytes")?,
    })
}

/// Takes a guest and every byte of its image, its boot profile too, off the host.
fn drop_image(stage: &Stage, guest: &str) -> Result<()> {
    // What the boot read is told to the holders when it is over; the fill begins then.
    eventually(LIMIT, "the rest of the image", || {
        let seen = stage.host.json(&["image", "show", &stage.image])?;
        Ok((seen["complete"] == true).then_some(()))
    })?;
    stage.node.ok(&["stop", guest, "--force"])?;
    stage.node.ok(&["rm", guest])?;
    stage.host.ok(&["image", "rm", &stage.image])?;
    Ok(())
}

fn seconds(ms: u64) -> String {
    format!("{}.{:02}", ms / 1_000, ms % 1_000 / 10)
}

fn table(rows: &[Row]) -> String {
    let mut out =
        "| link | boot | fetch first, s | boot, s | ready, s | × local | bytes before ready | of the image |\n\
                   |---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for r in rows {
        let local = rows.iter().find(|l| l.link == r.link && l.way == WAYS[0]);
        let local = local.map_or(1, |l| l.median(|b| b.total_ms)).max(1);
        let (total, bytes) = (r.median(|b| b.total_ms), r.median(|b| b.bytes));
        out += &format!(
            "| {} | {} | {} | {} | {} | {:.2} | {:.1} MB | {:.0} % |\n",
            r.link,
            r.way,
            seconds(r.median(|b| b.fetched_ms)),
            seconds(r.median(|b| b.ready_ms)),
            seconds(total),
            total as f64 / local as f64,
            bytes as f64 / 1e6,
            bytes as f64 * 100.0 / r.image_bytes.max(1) as f64
        );
    }
    out
}

/// Bars: what comes before the start, and the boot itself.
fn plot(rows: &[Row]) -> String {
    let most = rows.iter().map(|r| r.median(|b| b.total_ms)).max().unwrap_or(1).max(1) as f64;
    let height = 40 + rows.len() * 34;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Seconds until a guest is ready: fetched first (dark), boot (light)</text>\n"
    );
    for (i, r) in rows.iter().enumerate() {
        let y = 36 + i * 34;
        let wide = |ms: u64| ms as f64 / most * 420.0;
        let (first, boot) = (wide(r.median(|b| b.fetched_ms)), wide(r.median(|b| b.ready_ms)));
        out += &format!(
            "<text x=\"10\" y=\"{}\">{}, {}</text>\n\
             <rect x=\"260\" y=\"{y}\" width=\"{first:.1}\" height=\"20\" fill=\"#30506e\"/>\n\
             <rect x=\"{:.1}\" y=\"{y}\" width=\"{boot:.1}\" height=\"20\" fill=\"#8fb4d6\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{}</text>\n",
            y + 14,
            r.link,
            r.way,
            260.0 + first,
            266.0 + first + boot,
            y + 14,
            seconds(r.median(|b| b.total_ms))
        );
    }
    out + "</svg>\n"
}

/// How it is measured, for the page.
const METHOD: &str = include_str!("boot-method.md");
