//! Sections of the paper against docs/paper.md: each is cited in code as `Paper: §x`, or is planned with its issue.

use std::collections::BTreeSet;

/// A row of docs/paper.md.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Sections, for example `2.3` and `3.4`.
    pub sections: Vec<String>,
    /// What the paper asks.
    pub what: String,
    /// `code`, or `issue N`.
    pub state: String,
}

/// Reads the rows `| section | mechanism | state |` of the document.
pub fn rows(document: &str) -> Vec<Row> {
    let mut out = Vec::new();
    for line in document.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", sections, what, state, ""] = cells.as_slice() else {
            continue;
        };
        if *sections == "§" || sections.starts_with('-') {
            continue;
        }
        out.push(Row {
            sections: sections.split(',').map(|s| s.trim().to_owned()).collect(),
            what: (*what).to_owned(),
            state: (*state).to_owned(),
        });
    }
    out
}

/// Sections cited in a source file: every `§x` on a line with `Paper:`.
pub fn citations(source: &str) -> BTreeSet<String> {
    let lines = source
        .lines()
        .filter_map(|l| l.split_once("Paper:"))
        .map(|(_, rest)| rest);
    let marks = lines.flat_map(|l| l.split('§').skip(1));
    let sections = marks.map(|m| {
        m.chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect::<String>()
    });
    sections
        .map(|s| s.trim_end_matches('.').to_owned())
        .filter(|s| !s.is_empty())
        .collect()
}

/// What does not fit together.
pub fn complaints(rows: &[Row], cited: &BTreeSet<String>) -> Vec<String> {
    let mut out = Vec::new();
    if rows.is_empty() {
        out.push("docs/paper.md has no rows".to_owned());
    }
    for r in rows {
        let planned = r.state.strip_prefix("issue ").is_some_and(|n| n.parse::<u32>().is_ok());
        match r.state.as_str() {
            "code" => {
                let silent = r.sections.iter().filter(|s| !cited.contains(*s));
                out.extend(
                    silent.map(|s| format!("§{s} ({}) is listed as code, but no file cites 'Paper: §{s}'", r.what)),
                );
            }
            _ if planned => {}
            other => out.push(format!(
                "docs/paper.md: '{other}' is neither 'code' nor 'issue N' ({})",
                r.what
            )),
        }
    }
    let known: BTreeSet<&String> = rows.iter().flat_map(|r| &r.sections).collect();
    let strangers = cited.iter().filter(|c| !known.contains(c));
    out.extend(strangers.map(|c| format!("code cites 'Paper: §{c}', which docs/paper.md does not list")));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOC: &str = "# x\n\n| § | mechanism | state |\n|---|---|---|\n| 3.3 | tunnel | code |\n\
                       | 2.3, 3.4 | dispatch | code |\n| 3.2 | schedule | issue 7 |\n";

    #[test]
    fn citations_are_found_where_they_are_claimed_only() {
        let c = citations("//! Paper: §3.3 (2), and §2.3.\n// RFC 7432 §15.1\n// Paper: §4, steps 1 to 4.");
        assert_eq!(c.into_iter().collect::<Vec<_>>(), ["2.3", "3.3", "4"]);
    }

    #[test]
    fn silence_strangers_and_vague_plans_are_complaints() {
        let cited = |s: &[&str]| s.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
        let rows = rows(DOC);
        assert_eq!(complaints(&rows, &cited(&["3.3", "2.3", "3.4"])), Vec::<String>::new());
        assert_eq!(complaints(&rows, &cited(&["3.3", "2.3"])).len(), 1);
        assert_eq!(complaints(&rows, &cited(&["3.3", "2.3", "3.4", "9"])).len(), 1);
        assert_eq!(complaints(&super::rows("| 1 | x | later |"), &cited(&[])).len(), 1);
        assert_eq!(complaints(&[], &cited(&[])).len(), 1);
    }
}
