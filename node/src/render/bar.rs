//! One line that says how far a piece of work is: redrawn on a terminal, sparse in a file.

use super::{View, span};
use crate::api::{ProgressLine, Unit};
use std::collections::VecDeque;
use wire::{ByteSize, fault::plain};

/// Narrowest bar that is drawn, columns; below it the figures stand alone.
const MIN_BAR: usize = 8;
/// Widest bar, columns: more says no more.
const MAX_BAR: usize = 30;

fn amount(n: u64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => ByteSize(n).to_string(),
        Unit::Pieces => format!("{n} pieces"),
        Unit::Count => n.to_string(),
        Unit::Millis => span(n),
    }
}

/// Done of total, `None` where that says nothing.
fn fraction(p: &ProgressLine) -> Option<f64> {
    let total = p.total.filter(|t| *t > 0)?;
    Some((p.done as f64 / total as f64).clamp(0.0, 1.0))
}

/// The figures: `38.0 MiB of 214 MiB, 61.0 MiB/s, 4 peers, 3s left`.
fn figures(p: &ProgressLine) -> String {
    let mut parts = Vec::new();
    match p.total.filter(|t| *t > 0) {
        Some(total) if p.unit == Unit::Millis => parts.push(format!("{} of at most {}", span(p.done), span(total))),
        Some(total) => parts.push(format!("{} of {}", amount(p.done, p.unit), amount(total, p.unit))),
        None if p.done > 0 => parts.push(amount(p.done, p.unit)),
        None => {}
    }
    // Before the first byte a rate says nothing; later, 0 says that it stands still.
    if let Some(rate) = p.rate.filter(|_| p.done > 0) {
        parts.push(format!("{}/s", amount(rate, p.unit)));
    }
    match p.peers {
        Some(1) => parts.push("1 peer".to_owned()),
        Some(n) => parts.push(format!("{n} peers")),
        None => {}
    }
    if let Some(eta) = p.eta_ms {
        parts.push(format!("{} left", span(eta)));
    }
    parts.extend(p.note.as_deref().map(plain));
    parts.join(", ")
}

/// The line for a terminal, never wider than it.
pub fn line(p: &ProgressLine, view: &View) -> String {
    let (what, figures) = (plain(&p.what), figures(p));
    let room = view
        .width
        .saturating_sub(what.chars().count() + figures.chars().count() + 6);
    let bar = match fraction(p) {
        Some(f) if room >= MIN_BAR => format!("[{}] ", bar(f, room.min(MAX_BAR), view.unicode)),
        _ => String::new(),
    };
    let text = format!("{what}  {bar}{figures}");
    // The last column stays free: some terminals wrap when it is written.
    text.trim_end().chars().take(view.width.saturating_sub(1)).collect()
}

fn bar(fraction: f64, width: usize, unicode: bool) -> String {
    let (full, empty) = if unicode { ('█', '·') } else { ('#', '.') };
    let n = (fraction * width as f64) as usize;
    (0..width).map(|i| if i < n { full } else { empty }).collect()
}

/// Works whose lines [`Sparse`] remembers: more do not take turns in one verb.
const REMEMBERED: usize = 8;

/// Chooses the lines that are worth keeping where nothing can be redrawn: the first of each work, then each quarter.
/// Works may take turns; none is told again for that.
#[derive(Clone, Debug, Default)]
pub struct Sparse {
    told: VecDeque<(String, u32)>,
}

impl Sparse {
    /// The line to print, if this one says something new.
    pub fn line(&mut self, p: &ProgressLine) -> Option<String> {
        let quarter = fraction(p).map_or(0, |f| (f * 4.0) as u32);
        match self.told.iter_mut().find(|(what, _)| *what == p.what) {
            Some((_, told)) if quarter <= *told => return None,
            Some((_, told)) => *told = quarter,
            None => {
                self.told.truncate(REMEMBERED - 1);
                self.told.push_front((p.what.clone(), quarter));
            }
        }
        let figures = figures(p);
        let gap = if figures.is_empty() { "" } else { ": " };
        Some(format!("{}{gap}{figures}", plain(&p.what)))
    }
}
