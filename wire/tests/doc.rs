//! docs/wire.md says what the code says: every bound, every tag, every protocol id and record kind.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test reads the source and the document that it compares, and fails loudly"
)]

use std::{collections::BTreeMap, fs, path::Path};
use wire::*;

macro_rules! bounds {
    ($($($seg:ident)::+),* $(,)?) => { [$((stringify!($($seg)::+), $($seg)::+ as u64)),*] };
}

#[expect(clippy::too_many_lines, reason = "one list of every bound")]
fn bounds() -> BTreeMap<String, u64> {
    let all = bounds![
        advert::MAX_ADDRS,
        advert::MAX_ADDR_BYTES,
        advert::MAX_TEXT,
        advert::MAX_MODEL,
        advert::MAX_LANS,
        advert::MAX_TTL_S,
        advert::MAX_STORE,
        advert::MAX_GET,
        advert::MAX_PULL,
        advert::DIGEST_BUCKETS,
        advert::MAX_SUMMARIES,
        advert::MAX_CALL_BYTES,
        advert::MAX_REPLY_BYTES,
        advert::MAX_CONTACTS,
        advert::MAX_CONTACT_ADDRS,
        advert::MAX_CELLS,
        advert::MAX_PATHS,
        cell::PATH_BITS,
        cell::STEP_BITS,
        cell::MAX_LEVEL,
        cell::PLACE_SIDE_US,
        fault::MAX_TEXT,
        frame::VNET_HDR,
        frame::DATAGRAM_HEAD,
        frame::RECORD_HEAD,
        frame::SLICE_META,
        frame::SEALED_FIRST,
        frame::SEALED_MASK,
        frame::MAX_CANDIDATES,
        frame::RELAYED_FIRST,
        frame::RELAYED_MASK,
        frame::RELAY_HEAD,
        frame::MAX_HOPS,
        relay::MAX_CALL_BYTES,
        relay::MAX_REPLY_BYTES,
        relay::MAX_END_BYTES,
        frame::MAX_SAMPLES,
        frame::SAMPLE_EVERY,
        link::SEAL_HEAD,
        link::SEAL_TAIL,
        frame::MAX_ADVERT_IPS,
        frame::MAX_ADVERTS,
        frame::DEFAULT_MTU,
        frame::MAX_GROUPS,
        frame::MAX_SUMS,
        frame::MAX_MTU,
        frame::MIN_FRAME,
        frame::MAX_FRAME,
        frame::PROBE_LEN,
        frame::PROBE_TYPE,
        grant::MAX_TOKEN,
        grant::MAX_TOKENS,
        grant::MAX_MESSAGE,
        guest::MAX_CALL_BYTES,
        guest::MAX_UPDATE_BYTES,
        guest::MAX_CONSOLE_BYTES,
        guest::MAX_TOKEN,
        guest::MAX_IMAGE_REF,
        guest::MAX_HINTS,
        guest::MAX_LOG_BYTES,
        guest::MAX_LISTED,
        guest::MAX_IPS,
        guest::MAX_SOURCES,
        guest::MAX_ARGS,
        guest::MAX_ARG_BYTES,
        guest::MAX_PART,
        guest::MAX_EXEC_OUTPUT,
        guest::MAX_USER_DATA,
        guest::MAX_WAIT_MS,
        guest::MAX_MOVE_BYTES,
        image::PAGE_BYTES,
        image::PIECE_PAGES,
        image::PIECE_BYTES,
        image::SEGMENT_PIECES,
        image::MAX_IMAGE_BYTES,
        image::MAX_PIECES,
        image::MAX_SEGMENTS,
        image::MAX_HEADER_BYTES,
        image::MAX_SEGMENT_BYTES,
        image::MAX_PARTS,
        image::MAX_PARENTS,
        image::MAX_FIELDS,
        image::MAX_CMDLINE_BYTES,
        image::MAX_WARM_BYTES,
        image::WARM_FIELD,
        image::swarm::VERSION,
        image::swarm::MAX_FRAME_BYTES,
        image::swarm::MAX_MESSAGE_BYTES,
        image::swarm::MAX_RANGES,
        image::swarm::MAX_BITS_BYTES,
        image::swarm::MAX_TABLE_IDS,
        image::swarm::ALL_PAGES,
        image::swarm::MAX_PROFILE_BYTES,
        image::swarm::MAX_LISTS,
        image::swarm::LIST_BYTES,
        image::swarm::MAX_NAMES,
        membership::MAX_STANDINGS,
        membership::MAX_ADDRS,
        membership::MAX_ADDR_TEXT,
        membership::MAX_MESSAGE,
        membership::BUCKETS,
        settings::MAX_SETTINGS,
        settings::MAX_SETTING_KEY,
        settings::MAX_SETTING_VALUE,
        talk::MAX_ASK_BYTES,
        talk::MAX_SAY_BYTES,
        talk::MAX_TALKS,
        talk::MAX_WAYS,
        trace::MAX_ASK_BYTES,
        trace::MAX_SAY_BYTES,
        trace::MAX_DROPS,
        trace::MAX_IPS,
        usage::MAX_MESSAGE,
    ];
    all.into_iter().map(|(n, v)| (n.replace(' ', ""), v)).collect()
}

/// Source text by public module path; a private submodule counts to its parent.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, module: &str, parent: &str, out: &mut Vec<(String, String)>) {
        let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries.iter().filter(|p| p.extension().is_some_and(|e| e == "rs")) {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let text = fs::read_to_string(path).unwrap();
            let public = parent.contains(&format!("pub mod {stem};"));
            let name = match (module, public) {
                ("", _) => stem.to_owned(),
                (m, true) => format!("{m}::{stem}"),
                (m, false) => m.to_owned(),
            };
            let inner = dir.join(stem);
            if inner.is_dir() {
                walk(&inner, &name, &text, out);
            }
            out.push((name, text));
        }
        for inner in entries.iter().filter(|p| p.join("mod.rs").is_file()) {
            let name = inner.file_name().unwrap().to_str().unwrap();
            walk(inner, name, &fs::read_to_string(inner.join("mod.rs")).unwrap(), out);
        }
    }
    let mut out = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", "", &mut out);
    out.retain(|(name, _)| !name.ends_with("tests"));
    out
}

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/wire.md")).unwrap()
}

fn commas(n: u64) -> String {
    let digits = n.to_string();
    let first = (digits.len() - 1) % 3 + 1;
    let mut out = digits[..first].to_owned();
    for part in digits.as_bytes()[first..].chunks(3) {
        out.push(',');
        out.push_str(str::from_utf8(part).unwrap());
    }
    out
}

fn report(missing: &[String]) {
    assert!(missing.is_empty(), "docs/wire.md lacks:\n{}", missing.join("\n"));
}

#[test]
fn every_bound_is_in_the_document_with_its_value() {
    let (doc, bounds) = (document(), bounds());
    let row = |name: &str, v: u64| format!("| `{name}` | {} |", commas(v));
    let missing: Vec<String> = bounds
        .iter()
        .map(|(n, v)| row(n, *v))
        .filter(|r| !doc.contains(r.as_str()))
        .collect();
    report(&missing);
    for (module, text) in sources() {
        let numbers = text
            .lines()
            .filter_map(|l| l.strip_prefix("pub const ")?.split_once(": "));
        for (name, _) in numbers.filter(|(_, t)| t.starts_with("usize") || t.starts_with('u')) {
            let name = format!("{}::{name}", module.trim_end_matches("::mod"));
            assert!(
                bounds.contains_key(&name),
                "{name} is a bound that this test does not know"
            );
        }
    }
}

#[test]
fn every_tag_is_in_the_document() {
    let doc = document();
    let mut missing = Vec::new();
    for (module, text) in sources() {
        let mut lines = text.lines().peekable();
        let mut derives = "";
        while let Some(line) = lines.next() {
            if line.starts_with("#[derive") {
                derives = line;
            }
            let Some(name) = line.strip_prefix("pub enum ").and_then(|l| l.strip_suffix(" {")) else {
                continue;
            };
            if !derives.contains("Serialize") {
                continue;
            }
            let body = lines.by_ref().take_while(|l| *l != "}");
            let variants = body.filter_map(|l| l.strip_prefix("    ").filter(|v| v.starts_with(char::is_uppercase)));
            let tags = variants.enumerate().map(|(i, v)| {
                let end = v.find(|c: char| !c.is_alphanumeric()).unwrap_or(v.len());
                format!("{i} `{}`", &v[..end])
            });
            let row = format!("| `{module}::{name}` | {} |", tags.collect::<Vec<_>>().join(", "));
            if !doc.contains(&row) {
                missing.push(row);
            }
        }
    }
    report(&missing);
}

#[test]
fn every_protocol_record_and_context_is_in_the_document() {
    let doc = document();
    let mut missing = Vec::new();
    for (_, text) in sources() {
        let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        for line in text
            .lines()
            .filter(|l| l.contains("&str = \"") || l.contains("new_derive_key(\""))
        {
            let value = format!("`{}`", line.split('"').nth(1).unwrap());
            if !doc.contains(&value) {
                missing.push(value);
            }
        }
    }
    report(&missing);
    let records: [(&str, u16, usize); 8] = [
        record::<membership::Membership>(),
        record::<membership::Eviction>(),
        record::<settings::LanSettings>(),
        record::<frame::GroupUpdate>(),
        record::<frame::MacUpdate>(),
        record::<advert::Advert>(),
        record::<relay::Voucher>(),
        record::<usage::Receipt>(),
    ];
    for (kind, version, max) in records {
        assert!(
            doc.contains(&format!("| `{kind}` | {version} | {} B |", commas(max as u64))),
            "{kind}"
        );
    }
}

fn record<T: Record>() -> (&'static str, u16, usize) {
    (T::KIND, T::VERSION, T::MAX_BYTES)
}

#[test]
fn every_word_of_a_counter_is_in_the_glossary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |p: &str| fs::read_to_string(root.join(p)).unwrap();
    let glossary = read("docs/glossary.md");
    let mut words = Vec::new();
    for line in read("tunnel/src/drops.rs")
        .lines()
        .filter(|l| l.starts_with("    ") && l.ends_with("\","))
    {
        words.extend(
            line.split_once(" = \"")
                .map(|(_, w)| w.trim_end_matches("\",").to_owned()),
        );
    }
    let drops = words.len();
    for line in read("discovery/src/store.rs").lines() {
        words.extend(
            line.split_once("=> \"")
                .map(|(_, w)| w.trim_end_matches("\",").to_owned()),
        );
    }
    assert!(
        drops > 30 && words.len() > drops + 10,
        "the words are still found: {words:?}"
    );
    let missing: Vec<_> = words
        .into_iter()
        .filter(|w| !glossary.contains(&format!("`{w}`")))
        .collect();
    assert!(missing.is_empty(), "docs/glossary.md lacks {missing:?}");
}

fn rust_files(dir: &Path, out: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_protocol_of_every_crate_is_in_the_document() {
    let (doc, root) = (document(), Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let mut texts = Vec::new();
    for name in ["wire", "overlay", "discovery", "tunnel", "images", "vm", "node"] {
        rust_files(&root.join(name).join("src"), &mut texts);
    }
    let mut found = 0;
    for text in texts {
        for start in ["\"/lanline/", "\"lanline/"] {
            for (at, _) in text.match_indices(start) {
                let id = text[at + 1..].split('"').next().unwrap_or_default();
                let versioned = id.rsplit('/').next().is_some_and(|v| v.parse::<u16>().is_ok());
                found += usize::from(versioned);
                assert!(
                    !versioned || doc.contains(&format!("`{id}`")),
                    "docs/wire.md lacks {id}"
                );
            }
        }
    }
    assert!(found > 8, "the ids are still found");
}
