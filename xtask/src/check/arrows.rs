//! Dependencies between our crates against the table of ARCHITECTURE.md §2.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Crate and the crates of ours that it may use.
pub type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Reads the rows `| crate, crate | crate, crate |` of the section "Arrows". "all above" stands for every crate of the
/// rows before; a `;` ends the list, `-` is none.
pub fn allowed(architecture: &str) -> Arrows {
    let section = architecture
        .split("\n## ")
        .find(|s| s.contains("Arrows"))
        .unwrap_or_default();
    let mut out = Arrows::new();
    for line in section.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", names, uses, ""] = cells.as_slice() else {
            continue;
        };
        if *names == "crate" || names.starts_with('-') {
            continue;
        }
        let uses = uses.split(';').next().unwrap_or_default().trim();
        let uses: BTreeSet<String> = match uses {
            "-" => BTreeSet::new(),
            "all above" => out.keys().cloned().collect(),
            list => list.split(',').map(|w| w.trim().to_owned()).collect(),
        };
        for name in names.split(',') {
            out.insert(name.trim().to_owned(), uses.clone());
        }
    }
    out
}

/// Compares `cargo metadata --no-deps` with the table.
pub fn complaints(metadata: &Value, allowed: &Arrows) -> Vec<String> {
    let packages = metadata
        .get("packages")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let name = |p: &Value| p.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let mut out = Vec::new();
    for p in packages {
        let from = name(p);
        let Some(may) = allowed.get(&from) else {
            out.push(format!(
                "crate {from} is not in the table of arrows in ARCHITECTURE.md §2"
            ));
            continue;
        };
        let uses = p
            .get("dependencies")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        for to in uses
            .iter()
            .map(name)
            .filter(|to| ours.contains(to) && !may.contains(to))
        {
            out.push(format!(
                "{from} depends on {to}, an arrow that ARCHITECTURE.md §2 does not have"
            ));
        }
    }
    let gone = allowed.keys().filter(|a| !ours.contains(*a));
    out.extend(gone.map(|a| format!("ARCHITECTURE.md §2 names the crate {a}, which does not exist")));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TABLE: &str = "# A\n\n## 2. Arrows\n\ntext\n\n| crate | may use (ours) |\n|---|---|\n| wire | - |\n\
                         | overlay, tunnel | wire |\n| node | all above |\n| tests | wire; runs `node` |\n\n## 3. Threads\n";

    fn meta(tunnel_uses: &str) -> Value {
        let p = |name: &str, deps: &[&str]| {
            json!({ "name": name,
            "dependencies": deps.iter().map(|d| json!({ "name": d })).collect::<Vec<_>>() })
        };
        json!({ "packages": [p("wire", &["serde"]), p("overlay", &["wire"]), p("tunnel", &["wire", tunnel_uses]),
            p("node", &["wire", "tunnel"]), p("tests", &["wire"])] })
    }

    #[test]
    fn the_table_is_read() {
        let a = allowed(TABLE);
        assert_eq!(a.len(), 5);
        assert_eq!(a["node"].len(), 3);
        assert_eq!(a["tests"], BTreeSet::from(["wire".to_owned()]));
    }

    #[test]
    fn a_new_arrow_is_a_complaint_and_the_known_ones_are_not() {
        assert_eq!(complaints(&meta("serde"), &allowed(TABLE)), Vec::<String>::new());
        let said = complaints(&meta("overlay"), &allowed(TABLE));
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("tunnel depends on overlay"), "{said:?}");
    }

    #[test]
    fn a_crate_without_a_row_and_a_row_without_a_crate_are_complaints() {
        let few = allowed("## 2. Arrows\n| crate | may use |\n|---|---|\n| wire | - |\n| ghost | wire |\n");
        let said = complaints(&json!({ "packages": [{ "name": "wire" }, { "name": "new" }] }), &few);
        assert_eq!(said.len(), 2, "{said:?}");
    }
}
