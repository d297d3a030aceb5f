//! The documents say all of what the code has.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use clap::CommandFactory;
use node::{
    api::{openapi, routes::ROUTES},
    config::{Sources, resolve},
};

const CLI: &str = include_str!("../../docs/cli.md");
const API: &str = include_str!("../../docs/api.md");
const DEFAULTS: &str = include_str!("../../docs/defaults.md");

#[test]
fn every_document_and_field_is_described() {
    let doc = openapi::document();
    for (name, schema) in doc["components"]["schemas"].as_object().unwrap() {
        let from = API
            .find(&format!("\n### {name}\n"))
            .unwrap_or_else(|| panic!("docs/api.md has no {name}"));
        let section = API[from + 1..].split("\n### ").next().unwrap();
        let base = section
            .split_once("All fields of ")
            .map_or("", |(_, b)| b.split(',').next().unwrap());
        let inherited = &doc["components"]["schemas"][base]["properties"];
        for field in schema["properties"].as_object().into_iter().flat_map(|p| p.keys()) {
            let told = section.contains(&format!("| `{field}` |")) || !inherited[field].is_null();
            assert!(told, "docs/api.md: {name} lacks {field}");
        }
        for word in schema["enum"].as_array().into_iter().flatten() {
            assert!(
                section.contains(&format!("- `{}`", word.as_str().unwrap())),
                "docs/api.md: {name} lacks {word}"
            );
        }
    }
}

#[test]
fn every_route_verb_and_link_is_there() {
    for r in ROUTES {
        assert!(
            CLI.contains(&format!("`{} {}`", r.method.as_str(), r.path)),
            "docs/cli.md lacks {}",
            r.path
        );
    }
    let mut command = node::cli::Cli::command();
    command.build();
    for verb in command.get_subcommands().filter(|c| c.get_name() != "help") {
        let leaves: Vec<String> = match verb.has_subcommands() {
            true => verb
                .get_subcommands()
                .map(|s| format!("{} {}", verb.get_name(), s.get_name()))
                .collect(),
            false => vec![verb.get_name().to_owned()],
        };
        for leaf in leaves.iter().filter(|l| !l.ends_with(" help")) {
            assert!(CLI.contains(&format!("`lanline {leaf}")), "docs/cli.md lacks {leaf}");
        }
    }
    for link in CLI.split("api.md#").skip(1) {
        let anchor = link.split(')').next().unwrap();
        let there = API
            .lines()
            .any(|l| l.strip_prefix("### ").is_some_and(|h| h.to_lowercase() == anchor));
        assert!(there, "docs/api.md has no {anchor}");
    }
}

#[test]
fn every_setting_and_constant_is_explained() {
    let (_, view) = resolve(&Sources::default()).unwrap();
    for row in view.settings {
        let line = DEFAULTS.lines().find(|l| l.starts_with(&format!("| `{}` |", row.key)));
        let line = line.unwrap_or_else(|| panic!("docs/defaults.md lacks {}", row.key));
        assert!(line.contains("`LANLINE_"), "{line}");
    }
    let source = include_str!("../src/defaults.rs");
    for name in source
        .lines()
        .filter_map(|l| l.strip_prefix("pub const ")?.split(':').next())
    {
        assert!(DEFAULTS.contains(&format!("`{name}`")), "docs/defaults.md lacks {name}");
    }
    let example = DEFAULTS.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let file = Some((std::path::Path::new("lanline.toml"), example));
    resolve(&Sources {
        file,
        ..Sources::default()
    })
    .unwrap();
}

#[test]
fn every_port_setting_is_explained() {
    use tunnel::policy::PortPolicy;
    for (key, value) in PortPolicy::for_guests().rows() {
        let info = PortPolicy::KEYS.iter().find(|k| k.name == key).unwrap();
        let row = format!("| `{key}` | {value} | {} | {} |", info.meaning, info.softether);
        assert!(DEFAULTS.contains(&row), "docs/defaults.md lacks {row}");
    }
}
