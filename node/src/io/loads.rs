//! `load record` and `load play`: this machine's sensors to a trace, and a trace back to work. Needs no node.

use super::verbs::{Done, Session};
use crate::{
    api::{AdviceView, HostsView, PlacementRequest, PlacementView, routes::Op},
    cli::{AdviseArgs, AdviseCommand, LoadCommand, PlayArgs, RecordArgs},
    io::client::EMPTY,
    render::{Human, View},
};
use discovery::{io::sensors::Sensors, sense};
use serde::Serialize;
use std::{
    fs,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};
use wire::{Fault, FaultKind};

/// Largest trace that is played: a day at 1 Hz is 10 MB.
const MAX_TRACE: u64 = 64 << 20;
/// Most processors' worth of work that a trace may ask for.
const MAX_BURNERS: usize = 1_024;
/// A second of work is spread over slices of this length.
const SLICE: Duration = Duration::from_millis(50);

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// The trace.
    pub file: String,
    /// Seconds recorded or played.
    pub seconds: u64,
    /// CPU seconds that this took: the recorder's cost, or the player's work.
    pub cpu_s: f64,
    /// CPU seconds that the trace asked for; `null` for a recording.
    pub asked_cpu_s: Option<f64>,
}

impl Human for LoadReport {
    fn human(&self, _: &View) -> String {
        match self.asked_cpu_s {
            None => format!(
                "{}: {} s recorded, at {:.2} ms of CPU a second\n  next: lanline load play {}\n",
                self.file,
                self.seconds,
                self.cpu_s * 1e3 / self.seconds.max(1) as f64,
                self.file
            ),
            Some(asked) => format!(
                "{}: {} s played, {:.1} of {asked:.1} CPU seconds used\n",
                self.file, self.seconds, self.cpu_s
            ),
        }
    }
}

impl Session {
    pub(super) async fn advise(&self, args: &AdviseArgs) -> Done {
        if let Some(AdviseCommand::Placement(a)) = &args.on {
            let request = PlacementRequest { lan: a.lan.clone() };
            let placed: PlacementView = self.client.call(Op::AdvisePlacement, &[], Some(&request)).await?;
            return self.show(&placed);
        }
        let hosts: HostsView = self.client.call(Op::Hosts, &[], EMPTY).await?;
        // clap asks for it wherever no other advice is wanted.
        let advice = AdviceView::of(hosts, args.cpu.unwrap_or_default(), args.host.as_deref());
        if let (Some(host), true) = (&args.host, advice.hosts.is_empty()) {
            let what = format!("no machine called {host} offers to run guests");
            return Err(Fault::new(FaultKind::NoMatch, what)
                .next("see who lends: lanline hosts")
                .into());
        }
        self.show(&advice)
    }

    pub(super) async fn load(&self, command: LoadCommand) -> Done {
        let work = tokio::task::spawn_blocking(move || match command {
            LoadCommand::Record(a) => record(&a),
            LoadCommand::Play(a) => play(&a),
        });
        let gone = |e| Fault::new(FaultKind::Failed, format!("it broke off: {e}"));
        self.show(&work.await.map_err(gone)??)
    }
}

fn failed(what: &str, path: &Path, e: &impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::Failed, format!("{what} {}: {e}", path.display()))
}

fn cpu_s() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// Sleeps until `second` seconds after `start`.
fn until(start: Instant, second: u64) {
    let due = start + Duration::from_secs(second);
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// Writes one row a second; blocks.
pub fn record(args: &RecordArgs) -> Result<LoadReport, Fault> {
    let say = |e: std::io::Error| failed("cannot write", &args.file, &e);
    let mut out = fs::File::options()
        .write(true)
        .create_new(true)
        .open(&args.file)
        .map_err(say)?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let system = rustix::system::uname();
    let began = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
        .as_secs();
    write!(
        out,
        "# lanline load 1; 1 row a second from {began} Unix time; empty: no such sensor\n\
         # machine: {cpus} processors, {} {} {}\n{}\n",
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        system.machine().to_string_lossy(),
        sense::columns()
    )
    .map_err(say)?;
    let mut sensors = Sensors::new(
        args.file
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    );
    // Rates begin with the second reading.
    sensors.sample();
    let (start, before) = (Instant::now(), cpu_s());
    for second in 1..=args.seconds {
        until(start, second);
        writeln!(out, "{}", sensors.sample().row()).map_err(say)?;
    }
    Ok(LoadReport {
        file: args.file.display().to_string(),
        seconds: args.seconds,
        cpu_s: cpu_s() - before,
        asked_cpu_s: None,
    })
}

/// Burns as much CPU, second by second, as the trace's column says; blocks.
pub fn play(args: &PlayArgs) -> Result<LoadReport, Fault> {
    let long = fs::metadata(&args.file)
        .map_err(|e| failed("cannot read", &args.file, &e))?
        .len();
    if long > MAX_TRACE {
        let what = format!("{} has {long} bytes; {MAX_TRACE} are allowed", args.file.display());
        return Err(Fault::new(FaultKind::Usage, what).next("cut it into shorter traces"));
    }
    let text = fs::read_to_string(&args.file).map_err(|e| failed("cannot read", &args.file, &e))?;
    let levels = column(&text, &args.column)?;
    let levels: Vec<f64> = levels
        .into_iter()
        .take(args.seconds.map_or(usize::MAX, |s| s as usize))
        .collect();
    let most = levels.iter().fold(0.0f64, |a, b| a.max(*b)).ceil() as usize;
    if most > MAX_BURNERS {
        let what = format!("the trace asks for {most} processors' work; {MAX_BURNERS} is the most");
        return Err(Fault::new(FaultKind::Usage, what).next("choose another column: --column cpu"));
    }
    let (start, before) = (Instant::now(), cpu_s());
    std::thread::scope(|s| {
        for i in 0..most {
            let levels = &levels;
            s.spawn(move || burn(start, levels, i));
        }
    });
    Ok(LoadReport {
        file: args.file.display().to_string(),
        seconds: levels.len() as u64,
        cpu_s: cpu_s() - before,
        asked_cpu_s: Some(levels.iter().sum()),
    })
}

/// The share of one burner: the `i`th processor's part of each second.
fn burn(start: Instant, levels: &[f64], i: usize) {
    for (second, level) in levels.iter().enumerate() {
        let share = (level - i as f64).clamp(0.0, 1.0);
        let begin = start + Duration::from_secs(second as u64);
        let mut at = begin;
        while at < begin + Duration::from_secs(1) {
            while Instant::now() < at + SLICE.mul_f64(share) {
                std::hint::spin_loop();
            }
            at += SLICE;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
        }
    }
}

/// Values of one column; what is absent is no work.
fn column(text: &str, name: &str) -> Result<Vec<f64>, Fault> {
    let usage = |what: String| Fault::new(FaultKind::Usage, what).next("record one: lanline load record FILE");
    let mut rows = text.lines().filter(|l| !l.starts_with('#'));
    let head: Vec<&str> = rows.next().unwrap_or_default().split(',').collect();
    let at = head.iter().position(|c| *c == name);
    let at = at.ok_or_else(|| usage(format!("the trace has no column '{name}'; it has: {}", head.join(", "))))?;
    let value = |(n, row): (usize, &str)| match row.split(',').nth(at) {
        Some("") => Ok(0.0),
        Some(v) => match v.parse::<f64>() {
            Ok(v) if v.is_finite() && v >= 0.0 => Ok(v),
            _ => Err(usage(format!(
                "row {} of the trace has '{v}' where a number should be",
                n + 1
            ))),
        },
        None => Err(usage(format!("row {} of the trace is too short", n + 1))),
    };
    rows.enumerate().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_can_be_played() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.csv");
        let args = RecordArgs {
            file: file.clone(),
            seconds: 1,
        };
        record(&args).unwrap();
        assert_eq!(
            record(&args).unwrap_err().kind,
            FaultKind::Failed,
            "nothing is overwritten"
        );
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(column(&text, "cpu").unwrap().len(), 1);
        assert!(column(&text, "no").is_err() && column("a\nx\n", "a").is_err() && column("a,b\n1\n", "b").is_err());
    }

    #[test]
    fn playing_burns_what_the_trace_asks_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.csv");
        fs::write(&file, "cpu\n0.5\n0\n").unwrap();
        let played = play(&PlayArgs {
            file,
            column: "cpu".into(),
            seconds: None,
        })
        .unwrap();
        assert_eq!((played.seconds, played.asked_cpu_s), (2, Some(0.5)));
        assert!(played.cpu_s > 0.0);
    }
}
