//! `advise` and `load`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `advise`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct AdviseArgs {
    /// Advice on something else.
    #[command(subcommand)]
    pub on: Option<AdviseCommand>,
    /// CPU time that the job needs: `600s`, `10m`, `2h`.
    #[arg(long, value_name = "TIME", value_parser = cpu_time, required = true)]
    pub cpu: Option<f64>,
    /// Only this host: node id or name.
    #[arg(long)]
    pub host: Option<String>,
}

/// `advise` on something but running times.
#[derive(Clone, Debug, Subcommand)]
pub enum AdviseCommand {
    /// Which guest of this node would gain from which move, by who talks to whom and how far they are.
    #[command(after_help = "Examples:
  lanline advise placement --lan home
  lanline advise placement --json | jq '.moves[0]'")]
    Placement(PlacementArgs),
}

/// `advise placement`.
#[derive(Clone, Debug, Args)]
pub struct PlacementArgs {
    /// Only guests on this LAN.
    #[arg(long, value_name = "NAME")]
    pub lan: Option<String>,
}

/// `load`.
#[derive(Clone, Debug, Subcommand)]
pub enum LoadCommand {
    /// Write this machine's sensors to a file, a row a second; an existing file stays.
    #[command(after_help = "Examples:
  lanline load record day.csv --seconds 86400
  lanline load record now.csv --seconds 60 --json | jq .cpu_s")]
    Record(RecordArgs),
    /// Burn as much CPU, second by second, as a recorded trace says.
    #[command(after_help = "Examples:
  lanline load play day.csv
  lanline load play day.csv --column run_queue --seconds 600")]
    Play(PlayArgs),
}

/// `load record`.
#[derive(Clone, Debug, Args)]
pub struct RecordArgs {
    /// The trace, CSV.
    pub file: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 3_600, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub seconds: u64,
}

/// `load play`.
#[derive(Clone, Debug, Args)]
pub struct PlayArgs {
    /// The trace, CSV.
    pub file: PathBuf,
    /// Which column: processors' worth of work.
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    pub column: String,
    /// End after so many seconds of it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub seconds: Option<u64>,
}

/// Seconds, from a number with `s`, `m` or `h`.
fn cpu_time(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(n) if text.ends_with('m') => (n, 60.0),
        Some(n) if text.ends_with('h') => (n, 3_600.0),
        Some(n) => (n, 1.0),
        None => (text, 1.0),
    };
    match number.parse::<f64>() {
        Ok(v) if v > 0.0 && v * unit <= discovery::predict::advise::LONGEST_S => Ok(v * unit),
        _ => Err("a time above 0 and up to a week, such as 600s, 10m or 2h".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::cpu_time;

    #[test]
    fn times_have_units_and_bounds() {
        assert_eq!(
            (cpu_time("600s"), cpu_time("10m"), cpu_time("2")),
            (Ok(600.0), Ok(600.0), Ok(2.0))
        );
        assert!(
            ["", "0s", "-1s", "nan", "s", "1d", "169h"]
                .iter()
                .all(|t| cpu_time(t).is_err())
        );
    }
}
