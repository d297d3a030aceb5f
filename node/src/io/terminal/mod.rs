//! Standard output and error as this process finds them: the one place that writes answers, bars and hints.

mod session;

pub use session::console;

use crate::{
    api::{Line, ProgressLine},
    defaults,
    render::{self, View, bar},
};
use std::{
    io::{ErrorKind, IsTerminal, Write},
    os::fd::AsFd,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use wire::{Fault, FaultKind, UnixMillis};

/// Columns where nobody says how many.
const USUAL_WIDTH: usize = 80;

/// Lines where nobody says how many.
const USUAL_HEIGHT: usize = 24;

/// What can be drawn on this stream.
pub fn view(stream: &(impl IsTerminal + AsFd)) -> View {
    let tty = stream.is_terminal();
    let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    let colour = tty && var("NO_COLOR").is_none() && var("TERM").is_none_or(|t| t != "dumb");
    let locale = var("LC_ALL")
        .or_else(|| var("LC_CTYPE"))
        .or_else(|| var("LANG"))
        .unwrap_or_default()
        .to_ascii_lowercase();
    let size = rustix::termios::tcgetwinsize(stream)
        .ok()
        .map(|s| usize::from(s.ws_col))
        .filter(|w| *w > 0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    View {
        colour,
        unicode: locale.contains("utf-8") || locale.contains("utf8"),
        width: if tty { size.unwrap_or(USUAL_WIDTH) } else { USUAL_WIDTH },
        now: UnixMillis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// Lines of the terminal on standard output.
pub fn height() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    size.map(|s| usize::from(s.ws_row))
        .filter(|h| *h > 0)
        .unwrap_or(USUAL_HEIGHT)
}

/// Writes an answer to standard output. A reader that has read enough (`| head`) is no failure.
pub fn answer(text: &[u8]) -> Result<(), Fault> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Fault::new(
            FaultKind::Failed,
            format!("the answer cannot be written to standard output: {e}"),
        )),
        _ => Ok(()),
    }
}

/// Writes a hint or a failure to standard error. If even that fails, there is nobody to tell.
pub fn hint(text: &str) {
    if let Err(e) = std::io::stderr().lock().write_all(text.as_bytes()) {
        tracing::trace!(error = %e, "nobody reads standard error");
    }
}

/// Shows the progress of long work on standard error: one line redrawn on a terminal, sparse lines elsewhere.
pub struct Reporter {
    view: View,
    tty: bool,
    drawn: Option<Instant>,
    held: Option<ProgressLine>,
    sparse: bar::Sparse,
}

impl Reporter {
    /// For standard error as it is.
    pub fn new() -> Self {
        let stderr = std::io::stderr();
        Self {
            view: view(&stderr),
            // A dumb terminal cannot clear a line.
            tty: stderr.is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb"),
            drawn: None,
            held: None,
            sparse: bar::Sparse::default(),
        }
    }

    /// Shows a line of a stream.
    pub fn line(&mut self, line: Line) {
        match line {
            Line::Progress(p) if self.tty => self.draw(p),
            Line::Progress(p) => {
                if let Some(text) = self.sparse.line(&p) {
                    hint(&format!("{text}\n"));
                }
            }
            Line::Step(s) => {
                self.clear();
                hint(&render::step(&s.note, &self.view));
            }
            Line::Change(_) | Line::Done { .. } | Line::Fault { .. } => self.clear(),
        }
    }

    /// Takes the bar away.
    pub fn clear(&mut self) {
        if self.drawn.take().is_some() {
            hint("\r\x1b[2K");
        }
        self.held = None;
    }

    fn draw(&mut self, p: ProgressLine) {
        let soon = self.drawn.is_some_and(|at| at.elapsed() < defaults::REDRAW);
        let same = self.held.as_ref().is_some_and(|h| h.what == p.what);
        if !(soon && same) {
            hint(&format!("\r\x1b[2K{}", bar::line(&p, &self.view)));
            self.drawn = Some(Instant::now());
        }
        self.held = Some(p);
    }
}

impl Default for Reporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.clear();
    }
}
