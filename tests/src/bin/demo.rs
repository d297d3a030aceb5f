//! `lanline-demo`: the main job for real, on one machine, in a lab that is taken down afterwards.

use anyhow::Result;
use clap::Parser;
use std::{io::Write, process::ExitCode};
use tests::{
    io::{
        demo, guest_image,
        lab::{self, Lab, say},
    },
    timeline::Report,
};

/// Shows a guest on a lending host joining a home LAN, and prints a timeline.
#[derive(Parser)]
#[command(name = "lanline-demo")]
struct Args {
    /// Print one JSON document on stdout in place of the timeline.
    #[arg(long)]
    json: bool,
    /// Leave everything running at the end until Enter is pressed.
    #[arg(long)]
    keep: bool,
    /// Kill one of two whole seeders while it serves; the guest must come up all the same.
    #[arg(long)]
    kill_seeder: bool,
    /// Only build the guest's files and print where they are.
    #[arg(long)]
    guest_only: bool,
}

/// Exit codes of the CLI contract.
const FAILED: u8 = 1;
const MISSING: u8 = 7;

fn main() -> ExitCode {
    let args = Args::parse();
    let missing = lab::missing();
    if !missing.is_empty() && !args.guest_only {
        say(&format!("the demo cannot run: missing {}", missing.join(", ")));
        return ExitCode::from(MISSING);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&format!("the demo failed: {e:#}"));
            ExitCode::from(FAILED)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if args.guest_only {
        let g = guest_image::build()?;
        let paths = serde_json::json!({ "disk": g.disk, "kernel": g.kernel, "initrd": g.initrd,
            "cmdline": guest_image::CMDLINE, "release": g.release });
        return answer(&format!("{paths}\n"));
    }
    let mut lab = Lab::new("demo")?;
    let report = demo::play(&mut lab, args.kill_seeder);
    match &report {
        Ok(r) => {
            show(args, r)?;
            demo::save(r)?;
        }
        Err(e) => lab.fail(&format!("{e:?}")),
    }
    if args.keep {
        lab.keep();
    }
    report.map(|_| ())
}

fn show(args: &Args, r: &Report) -> Result<()> {
    if args.json {
        return answer(&format!("{}\n", serde_json::to_string_pretty(r)?));
    }
    let checked: String = r.checked.iter().map(|c| format!("checked: {c}\n")).collect();
    answer(&format!("\n{}\n{checked}", r.render()))
}

/// The one place that writes to stdout.
fn answer(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
