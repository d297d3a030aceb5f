//! Answers to questions in SQL.

use super::{Human, Tone, View};
use crate::api::{ChangeLine, QueryView};
use serde_json::Value;
use wire::fault::plain;

/// Widest cell of a table; the whole of it is in `--json`.
const CELL: usize = 60;

impl Human for QueryView {
    fn human(&self, view: &View) -> String {
        let about = if self.approximate { "~" } else { "" };
        let mut rows: Vec<Vec<(String, bool)>> = vec![self.columns.iter().map(|c| (cut(&plain(c)), false)).collect()];
        rows.extend(self.rows.iter().map(|r| r.iter().map(|v| cell(v, about)).collect()));
        format!("{}{}", aligned(&rows, view), self.footer())
    }
}

impl QueryView {
    /// How far the answer can be relied on.
    fn footer(&self) -> String {
        let rows = match self.rows.len() {
            1 => "1 row".to_owned(),
            n => format!("{n} rows"),
        };
        let whole = match self.complete {
            true => "complete".to_owned(),
            false => format!(
                "NOT complete, about {:.0} % of {} covered",
                self.coverage * 100.0,
                self.estimated_total
            ),
        };
        let mut out = format!(
            "({rows}; {whole}; {} of {} answered in {} ms",
            self.answered, self.asked, self.elapsed_ms
        );
        if let Some(age) = self.oldest_age_ms {
            out.push_str(&format!("; oldest word {}", super::span(age)));
        }
        if self.deadline_hit {
            out.push_str("; time was up");
        }
        if self.rows_dropped > 0 {
            out.push_str(&format!("; at least {} rows had no room", self.rows_dropped));
        }
        out.push_str(")\n");
        out
    }
}

/// A change of an answer, a line a row: `+` came, `-` went.
pub fn change(c: &ChangeLine, view: &View) -> String {
    let line = |sign: &str, tone: Tone, row: &Vec<Value>| {
        let cells: Vec<String> = row.iter().map(|v| cell(v, "").0).collect();
        format!("{} {}\n", view.paint(tone, sign), cells.join("  "))
    };
    let gone = c.removed.iter().map(|r| line("-", Tone::Bad, r));
    gone.chain(c.added.iter().map(|r| line("+", Tone::Good, r))).collect()
}

/// Text of a cell, and whether it is a number.
fn cell(v: &Value, about: &str) -> (String, bool) {
    match v {
        Value::Null => ("-".to_owned(), false),
        Value::String(s) => (cut(&plain(s)), false),
        Value::Number(n) if n.is_f64() => {
            let x = n.as_f64().unwrap_or_default();
            (format!("{about}{}", (x * 1e3).round() / 1e3), true)
        }
        other => (format!("{about}{other}"), true),
    }
}

fn cut(s: &str) -> String {
    match s.chars().count() > CELL {
        true => s.chars().take(CELL - 3).chain("...".chars()).collect(),
        false => s.to_owned(),
    }
}

/// Columns as wide as their widest cell, numbers to the right, the first row dim.
fn aligned(rows: &[Vec<(String, bool)>], view: &View) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widest = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.0.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|i| widest(i).unwrap_or_default()).collect();
    let mut out = String::new();
    for (n, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (i, (text, number)) in row.iter().enumerate() {
            let pad = " ".repeat(widths.get(i).map_or(0, |w| w.saturating_sub(text.chars().count())));
            let gap = if i == 0 { "" } else { "  " };
            match number {
                true => line.push_str(&format!("{gap}{pad}{text}")),
                false => line.push_str(&format!("{gap}{text}{pad}")),
            }
        }
        let line = line.trim_end();
        out.push_str(&if n == 0 {
            view.paint(Tone::Dim, line)
        } else {
            line.to_owned()
        });
        out.push('\n');
    }
    out
}
