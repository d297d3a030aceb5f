//! What people read: the same data as `--json`, as aligned text, bars and sentences.
//!
//! It does not: print, ask for the time, or look at the terminal; a [`View`] says what there is to work with. Text that
//! came from a peer is stripped of control characters before it is laid out.

mod advise;
pub mod bar;
pub mod escape;
mod guest;
mod image;
mod lan;
mod life;
mod machine;
mod owner;
mod placement;
mod policy;
mod query;
mod resource;
mod see;
mod table;
mod traffic;

#[cfg(test)]
mod tests;

pub use guest::{placement, run_hints};
pub use lan::ticket_hints;
pub use machine::{relay_words, settings};
pub use query::change;
pub use see::{Before, watched};
pub use table::Table;

use std::time::Duration;
use wire::{Fault, UnixMillis, fault::plain, units::show_duration};

/// What there is to draw on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// May colours be used?
    pub colour: bool,
    /// Can it show more than ASCII?
    pub unicode: bool,
    /// Columns.
    pub width: usize,
    /// The time, for ages and ends.
    pub now: UnixMillis,
}

/// Colours with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// It is well.
    Good,
    /// Look at it.
    Warn,
    /// It is wrong.
    Bad,
    /// Less important.
    Dim,
    /// More important.
    Bold,
}

impl View {
    /// The text in a tone, if there are colours.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
            Tone::Bold => "1",
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// The mark before a step that is done.
    pub fn check(&self) -> String {
        self.paint(Tone::Good, if self.unicode { "✓" } else { "ok" })
    }

    /// When something ends: `in 6d23h`, `ended`.
    pub fn ends(&self, at: u64) -> String {
        match at.checked_sub(self.now.0) {
            Some(ms) if ms > 0 => format!("in {}", span(ms)),
            _ => "ended".to_owned(),
        }
    }

    /// How long ago something was.
    pub fn ago(&self, at: u64) -> String {
        match self.now.0.saturating_sub(at) {
            0..1_000 => "just now".to_owned(),
            ms => format!("{} ago", span(ms)),
        }
    }
}

/// Text for people.
pub trait Human {
    /// The text, with an end of line after each line.
    fn human(&self, view: &View) -> String;
}

/// Milliseconds, in their largest fitting unit.
pub fn span(ms: u64) -> String {
    show_duration(Duration::from_millis(ms))
}

/// A number of things: `1 guest`, `2 guests`.
pub(crate) fn count(n: impl Into<u64>, what: &str) -> String {
    match n.into() {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// An accelerator and why; many a reason begins with its name, which is then not said twice.
pub(crate) fn accel(accel: &str, reason: Option<&str>) -> String {
    let accel = plain(accel);
    match reason.map(plain) {
        Some(r) if r.to_ascii_lowercase().starts_with(&accel.to_ascii_lowercase()) => r,
        Some(r) => format!("{accel}: {r}"),
        None => accel,
    }
}

/// A round trip: one decimal below 10 ms.
pub fn rtt(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// A line of a step that is done.
pub fn step(note: &str, view: &View) -> String {
    format!("{} {}\n", view.check(), plain(note))
}

/// A failure: what happened, then what to do.
pub fn fault(fault: &Fault, view: &View) -> String {
    let fault = fault.clone().sanitised();
    let mut out = format!("{} {}\n", view.paint(Tone::Bad, "lanline:"), fault.what);
    if let Some(next) = &fault.next {
        out.push_str(&format!("  next: {next}\n"));
    }
    out
}

/// Lines of `name  value`, the names aligned.
pub(crate) fn facts(rows: &[(&str, String)], view: &View) -> String {
    let width = rows.iter().map(|(k, _)| k.len()).max().unwrap_or_default();
    let line = |(k, v): &(&str, String)| format!("{}  {v}\n", view.paint(Tone::Dim, &format!("{k:<width$}")));
    rows.iter().map(line).collect()
}

/// An optional text, or a dash.
pub(crate) fn or_dash(v: Option<&str>) -> String {
    v.map_or_else(|| "-".to_owned(), plain)
}

/// A peer that is told by its name where it has one: the name, or the end of its id.
pub(crate) fn peer(p: &str) -> String {
    if p.starts_with("12D3KooW") { short(p) } else { plain(p) }
}

/// The last eight letters of an id, as [`wire::NodeId::short`].
pub(crate) fn short(id: &str) -> String {
    let id = plain(id);
    let from = id.char_indices().rev().nth(7).map_or(0, |(i, _)| i);
    id.get(from..).unwrap_or_default().to_owned()
}
