//! The settings file: TOML; a key that lanline does not know is an error, so a slip of the finger is not a silence.

use serde::Deserialize;
use std::path::Path;
use wire::{Fault, FaultKind};

/// As written: every key may be absent, and texts are parsed with those of the other sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSettings {
    pub listen: Option<String>,
    pub name: Option<String>,
    pub bootstrap: Option<Vec<String>>,
    pub mdns: Option<bool>,
    pub port_mapping: Option<bool>,
    pub web_port: Option<u16>,
    #[serde(default)]
    pub relay: RelayTable,
    #[serde(default)]
    pub store: StoreTable,
    #[serde(default)]
    pub vm: VmTable,
    #[serde(default)]
    pub log: LogTable,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RelayTable {
    pub lend: Option<String>,
    pub mbps: Option<u32>,
    pub gb_month: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct StoreTable {
    pub quota: Option<String>,
    pub upload_mbps: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VmTable {
    pub accel: Option<String>,
    pub qemu: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogTable {
    pub level: Option<String>,
    pub format: Option<String>,
}

/// Reads the text of a settings file; the error shows the line.
pub(super) fn parse(path: &Path, text: &str) -> Result<FileSettings, Fault> {
    toml::from_str(text).map_err(|e| {
        let line = e
            .span()
            .map(|s| 1 + text.get(..s.start).unwrap_or_default().matches('\n').count());
        let at = line.map(|l| format!(" line {l}")).unwrap_or_default();
        let message = e.message().trim_end();
        Fault::new(FaultKind::Usage, format!("{}{at}: {message}", path.display()))
            .next("correct that line; docs/defaults.md lists every key")
    })
}
