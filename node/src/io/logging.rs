//! The log: `tracing` to standard error, for people or as JSON, and the one line that says that the node is ready.

use crate::{
    config::{Config, LogFormat},
    defaults::LOG_QUIET,
};
use std::io::{IsTerminal, Write};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};
use wire::{Fault, FaultKind};

/// Begins logging; once a process.
///
/// Errors: `Usage` if the level is not a filter; `Failed` if the process logs already.
pub fn start(config: &Config) -> Result<(), Fault> {
    let level = &config.log_level;
    let filter = filter(level).map_err(|e| {
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

/// The filter of a level, with [`LOG_QUIET`] before it.
fn filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(level)?;
    EnvFilter::try_new(format!("{LOG_QUIET},{level}"))
}

/// Says on standard error that the control socket answers: what scripts and service managers wait for.
pub fn ready() {
    if let Err(e) = writeln!(std::io::stderr(), "lanline: ready") {
        tracing::debug!(error = %e, "nobody reads standard error");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a subscriber with this level writes of three lines.
    fn written(level: &str) -> String {
        #[derive(Clone, Default)]
        struct Kept(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl Write for Kept {
            fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(b);
                Ok(b.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let kept = Kept::default();
        let sink = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || sink.clone());
        let subscriber = tracing_subscriber::registry().with(filter(level).unwrap()).with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "libp2p_mdns::behaviour", "theirs");
            tracing::info!(target: "overlay::io", "ours");
            tracing::debug!(target: "overlay::io", "detail");
        });
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_network_library_is_quiet_unless_it_is_asked() {
        let usual = written("info");
        assert!(
            usual.contains("ours") && !usual.contains("theirs") && !usual.contains("detail"),
            "{usual}"
        );
        assert!(written("info,libp2p=info").contains("theirs"));
        assert!(written("info,overlay=debug").contains("detail"));
        assert!(filter("info,=").is_err() || filter("a=b=c").is_err());
    }
}
