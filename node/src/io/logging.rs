//! The log: `tracing` to standard error, for people or as JSON, and the one line that says that the node is ready.

use crate::config::{Config, LogFormat};
use std::io::{IsTerminal, Write};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};
use wire::{Fault, FaultKind};

/// Begins logging; once a process.
///
/// Errors: `Usage` if the level is not a filter; `Failed` if the process logs already.
pub fn start(config: &Config) -> Result<(), Fault> {
    let level = &config.log_level;
    let filter = EnvFilter::try_new(level).map_err(|e| {
        Fault::new(
            FaultKind::Usage,
            format!("setting log.level: '{level}' is not a log filter: {e}"),
        )
        .next("write a level such as info, or info,overlay=debug")
    })?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let base = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let begun = match config.log_format {
        LogFormat::Human => base.with(layer.with_ansi(colour)).try_init(),
        LogFormat::Json => base.with(layer.json()).try_init(),
    };
    begun.map_err(|e| Fault::new(FaultKind::Failed, format!("the log cannot begin: {e}")))
}

/// Says on standard error that the control socket answers: what scripts and service managers wait for.
pub fn ready() {
    if let Err(e) = writeln!(std::io::stderr(), "lanline: ready") {
        tracing::debug!(error = %e, "nobody reads standard error");
    }
}
