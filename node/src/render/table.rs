//! Aligned columns.

use super::{Tone, View};
use wire::fault::plain;

/// A table: columns are as wide as their widest cell, two spaces apart.
#[derive(Clone, Debug, Default)]
pub struct Table {
    head: Vec<(&'static str, bool)>,
    rows: Vec<Vec<(String, Option<Tone>)>>,
}

impl Table {
    /// A table with these headings; one that begins with `>` aligns its column to the right.
    pub fn new(head: &[&'static str]) -> Self {
        let head = head
            .iter()
            .map(|h| h.strip_prefix('>').map_or((*h, false), |h| (h, true)))
            .collect();
        Self { head, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) -> &mut Self {
        self.rows.push(cells.into_iter().map(|c| (plain(&c), None)).collect());
        self
    }

    /// Gives a cell of the last row a tone.
    pub fn tone(&mut self, column: usize, tone: Tone) -> &mut Self {
        if let Some(cell) = self.rows.last_mut().and_then(|r| r.get_mut(column)) {
            cell.1 = Some(tone);
        }
        self
    }

    /// Takes columns away, the first of `spare` first, until a line fits; the last column is then cut to fit.
    pub fn fit(&mut self, view: &View, spare: &[&str]) -> &mut Self {
        for name in spare {
            if self.width() <= view.width {
                return self;
            }
            self.without(name);
        }
        let last = self.head.len().saturating_sub(1);
        let before: usize = (0..last).map(|i| self.column(i) + 2).sum();
        let room = view.width.saturating_sub(before).max(8);
        let mark = if view.unicode { "…" } else { "..." };
        for (text, _) in self.rows.iter_mut().filter_map(|r| r.get_mut(last)) {
            if text.chars().count() > room {
                let kept: String = text.chars().take(room - mark.chars().count()).collect();
                *text = format!("{}{mark}", kept.trim_end());
            }
        }
        self
    }

    /// Goes on with the last column on lines of its own, whole words each, where a line would not fit.
    pub fn wrap(&mut self, view: &View) -> &mut Self {
        let last = self.head.len().saturating_sub(1);
        let before: usize = (0..last).map(|i| self.column(i) + 2).sum();
        let room = view.width.saturating_sub(before).max(16);
        for mut row in std::mem::take(&mut self.rows) {
            let Some(cell) = row.get_mut(last) else { continue };
            let mut lines = words_in(&cell.0, room).into_iter();
            let tone = cell.1;
            cell.0 = lines.next().unwrap_or_default();
            let blank = vec![(String::new(), None); last];
            self.rows.push(row);
            self.rows
                .extend(lines.map(|text| [blank.as_slice(), &[(text, tone)]].concat()));
        }
        self
    }

    /// Takes a column away.
    pub fn without(&mut self, name: &str) -> &mut Self {
        if let Some(i) = self.head.iter().position(|h| h.0 == name) {
            self.head.remove(i);
            for row in self.rows.iter_mut().filter(|r| i < r.len()) {
                row.remove(i);
            }
        }
        self
    }

    /// Characters of the widest cell of a column, its heading among them.
    fn column(&self, i: usize) -> usize {
        let cells = self.rows.iter().filter_map(|r| r.get(i)).map(|c| c.0.chars().count());
        let head = self.head.get(i).map_or(0, |h| h.0.len());
        cells.max().unwrap_or_default().max(head)
    }

    fn width(&self) -> usize {
        let columns = self.head.len();
        (0..columns).map(|i| self.column(i)).sum::<usize>() + 2 * columns.saturating_sub(1)
    }

    /// The text.
    pub fn text(&self, view: &View) -> String {
        let widths: Vec<usize> = (0..self.head.len()).map(|i| self.column(i)).collect();
        let head: Vec<(String, Option<Tone>)> = self.head.iter().map(|h| (h.0.to_owned(), Some(Tone::Dim))).collect();
        std::iter::once(&head)
            .chain(&self.rows)
            .map(|r| self.line(r, &widths, view))
            .collect()
    }

    fn line(&self, cells: &[(String, Option<Tone>)], widths: &[usize], view: &View) -> String {
        let mut out = String::new();
        for (i, (text, tone)) in cells.iter().enumerate() {
            let pad = " ".repeat(
                widths
                    .get(i)
                    .copied()
                    .unwrap_or_default()
                    .saturating_sub(text.chars().count()),
            );
            let shown = tone.map_or_else(|| text.clone(), |t| view.paint(t, text));
            let gap = if i == 0 { "" } else { "  " };
            match self.head.get(i).is_some_and(|h| h.1) {
                true => out.push_str(&format!("{gap}{pad}{shown}")),
                false => out.push_str(&format!("{gap}{shown}{pad}")),
            }
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
        out
    }
}

/// Lines of at most `room` characters, broken between words; a word that is longer has a line to itself.
fn words_in(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(l) if l.chars().count() + 1 + word.chars().count() <= room => {
                l.push(' ');
                l.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
