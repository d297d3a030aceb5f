//! A Markdown table whose source is readable too.

/// Columns as wide as their widest cell; the first is left-aligned, the others, figures, are right-aligned. A row that
/// is shorter than `head` is filled up, and what is beyond is cut.
pub fn markdown(head: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(i, h)| {
            let widest = rows.iter().map(|r| cell(r, i).chars().count()).max();
            widest.unwrap_or(0).max(h.chars().count()).max(3)
        })
        .collect();
    let line = |cells: Vec<String>| -> String {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (c, w))| if i == 0 { format!("{c:<w$}") } else { format!("{c:>w$}") })
            .collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let rule: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(i, w)| {
            if i == 0 {
                "-".repeat(*w)
            } else {
                format!("{}:", "-".repeat(w - 1))
            }
        })
        .collect();
    let mut out = line(head.iter().map(|h| (*h).to_owned()).collect());
    out += &line(rule);
    for r in rows {
        out += &line((0..head.len()).map(|i| cell(r, i)).collect());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_short_rows_are_filled() {
        let rows = [vec!["a".to_owned(), "10".to_owned()], vec!["längste".to_owned()]];
        let want = "| name    |   x |\n| ------- | --: |\n| a       |  10 |\n| längste |     |\n";
        assert_eq!(markdown(&["name", "x"], &rows), want);
    }
}
