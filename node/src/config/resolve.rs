//! One value a setting, from the first source that names it.

use super::{
    AccelChoice, Config, LogFormat,
    file::{self, FileSettings},
};
use crate::{
    api::{ConfigView, Origin, SettingRow},
    defaults,
};
use overlay::relay::{Mode, Settings};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt::Display,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};
use wire::{ByteSize, Fault, FaultKind, Name};

/// Settings that `lanline up` takes as flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--listen`.
    pub listen: Option<String>,
    /// `--name`.
    pub name: Option<String>,
    /// `--bootstrap`, each.
    pub bootstrap: Vec<String>,
    /// `--no-mdns`.
    pub no_mdns: bool,
}

/// All that settings are made of.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// The command line.
    pub flags: Flags,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// Path and text of the settings file, if there is one.
    pub file: Option<(&'a Path, &'a str)>,
    /// Name of the machine, for the default of `name`.
    pub host_name: Option<String>,
}

/// The machine's name as a node's name: its first label, without what a name cannot hold; `node` if nothing is left.
pub fn host_name_or_default(host: Option<&str>) -> String {
    let label = host.unwrap_or_default().split('.').next().unwrap_or_default();
    let ok: String = label
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_')
        .take(63)
        .collect();
    let ok = ok.trim_start_matches(['-', '_']);
    if ok.is_empty() {
        "node".to_owned()
    } else {
        ok.to_owned()
    }
}

/// A text from a source, and what it came from.
struct Found {
    text: String,
    origin: Origin,
    from: Option<String>,
}

struct Picker<'a> {
    sources: &'a Sources<'a>,
    rows: Vec<SettingRow>,
}

impl Picker<'_> {
    fn find(&self, flag: Option<(&str, &str)>, var: &str, file: Option<&str>, default: String) -> Found {
        let found = |text: &str, origin, from: String| Found {
            text: text.to_owned(),
            origin,
            from: Some(from),
        };
        if let Some((name, text)) = flag {
            return found(text, Origin::Flag, name.to_owned());
        }
        if let Some(text) = self.sources.env.get(var).filter(|v| !v.is_empty()) {
            return found(text, Origin::Env, var.to_owned());
        }
        match (file, self.sources.file) {
            (Some(text), Some((path, _))) => found(text, Origin::File, path.display().to_string()),
            _ => Found {
                text: default,
                origin: Origin::Default,
                from: None,
            },
        }
    }

    /// Parses what was found; the error names the source, so that a person knows where to correct it.
    fn take<T>(&mut self, key: &str, found: Found, show: impl Fn(&T) -> Value) -> Result<T, Fault>
    where
        T: FromStr,
        T::Err: Display,
    {
        let value: T = found.text.parse().map_err(|e| bad(key, &found, &e))?;
        self.rows.push(SettingRow {
            key: key.into(),
            value: show(&value),
            origin: found.origin,
            from: found.from,
        });
        Ok(value)
    }
}

fn bad(key: &str, found: &Found, why: &dyn Display) -> Fault {
    let from = found.from.clone().unwrap_or_else(|| "the default".into());
    Fault::new(FaultKind::Usage, format!("setting {key} from {from}: {why}"))
        .next("docs/defaults.md lists every setting with its values")
}

/// A list of multiaddresses; in a variable they are separated by commas or white space.
struct Addrs(Vec<String>);

impl FromStr for Addrs {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let all: Vec<String> = s
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|a| !a.is_empty())
            .map(Into::into)
            .collect();
        match all.iter().find(|a| !a.starts_with('/')) {
            Some(a) => Err(format!(
                "'{a}' is not a multiaddress such as /ip4/192.0.2.1/udp/4400/quic-v1"
            )),
            None if all.len() > defaults::MAX_BOOTSTRAP => Err(format!(
                "{} addresses, at most {} are taken",
                all.len(),
                defaults::MAX_BOOTSTRAP
            )),
            None => Ok(Self(all)),
        }
    }
}

/// A path that may be absent.
struct MaybePath(Option<PathBuf>);

impl FromStr for MaybePath {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "" => Ok(Self(None)),
            _ if Path::new(s).is_absolute() => Ok(Self(Some(s.into()))),
            _ => Err(format!("'{s}' is not an absolute path")),
        }
    }
}

/// Settings from all sources, with their origins.
///
/// Errors: `Usage`, naming the setting and the source, for a value that is not one and for an unknown key in the file.
pub fn resolve(sources: &Sources<'_>) -> Result<(Config, ConfigView), Fault> {
    let file = match sources.file {
        Some((path, text)) => file::parse(path, text)?,
        None => FileSettings::default(),
    };
    let mut p = Picker {
        sources,
        rows: Vec::new(),
    };
    let config = mesh(&mut p, &file)?;
    let relay = relay(&mut p, &file)?;
    let config = Config { relay, ..config };
    let config = rest(&mut p, &file, config)?;
    let file = sources.file.map(|(path, _)| path.display().to_string());
    Ok((config, ConfigView { file, settings: p.rows }))
}

/// Settings of the mesh; the others hold their defaults still.
fn mesh(p: &mut Picker<'_>, file: &FileSettings) -> Result<Config, Fault> {
    let flags = p.sources.flags.clone();
    let f = p.find(
        flags.listen.as_deref().map(|t| ("--listen", t)),
        "LANLINE_LISTEN",
        file.listen.as_deref(),
        defaults::LISTEN.into(),
    );
    let listen: SocketAddr = p.take("listen", f, |v: &SocketAddr| json!(v.to_string()))?;
    let host = host_name_or_default(p.sources.host_name.as_deref());
    let f = p.find(
        flags.name.as_deref().map(|t| ("--name", t)),
        "LANLINE_NAME",
        file.name.as_deref(),
        host,
    );
    let name: Name = p.take("name", f, |v: &Name| json!(v.as_str()))?;
    let given = flags.bootstrap.join(",");
    let flag = (!flags.bootstrap.is_empty()).then_some(("--bootstrap", given.as_str()));
    let in_file = file.bootstrap.as_ref().map(|b| b.join(","));
    let f = p.find(flag, "LANLINE_BOOTSTRAP", in_file.as_deref(), String::new());
    let Addrs(bootstrap) = p.take("bootstrap", f, |v: &Addrs| json!(v.0))?;
    let flag = flags.no_mdns.then_some(("--no-mdns", "false"));
    let in_file = file.mdns.map(|b| b.to_string());
    let f = p.find(flag, "LANLINE_MDNS", in_file.as_deref(), defaults::MDNS.to_string());
    let mdns: bool = p.take("mdns", f, |v: &bool| json!(v))?;
    let in_file = file.port_mapping.map(|b| b.to_string());
    let default = defaults::PORT_MAPPING.to_string();
    let f = p.find(None, "LANLINE_PORT_MAPPING", in_file.as_deref(), default);
    let port_mapping: bool = p.take("port_mapping", f, |v: &bool| json!(v))?;
    let in_file = file.web_port.map(|n| n.to_string());
    let f = p.find(
        None,
        "LANLINE_WEB_PORT",
        in_file.as_deref(),
        defaults::WEB_PORT.to_string(),
    );
    let web_port: u16 = p.take("web_port", f, |v: &u16| json!(v))?;
    Ok(Config {
        listen,
        name,
        bootstrap,
        mdns,
        relay: Settings::default(),
        port_mapping,
        web_port,
        store_quota: defaults::STORE_QUOTA,
        store_upload_mbps: defaults::STORE_UPLOAD_MBPS,
        accel: AccelChoice::default(),
        qemu: None,
        log_level: defaults::LOG_LEVEL.into(),
        log_format: LogFormat::default(),
    })
}

/// A word for whom to relay.
struct Lend(Mode);

impl FromStr for Lend {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        s.parse()
            .map(Self)
            .map_err(|()| format!("'{s}' is not one of off, members, anyone"))
    }
}

/// What this node carries for others.
fn relay(p: &mut Picker<'_>, file: &FileSettings) -> Result<Settings, Fault> {
    let d = Settings::default();
    let f = p.find(None, "LANLINE_RELAY", file.relay.lend.as_deref(), d.mode.name().into());
    let Lend(mode) = p.take("relay.lend", f, |v: &Lend| json!(v.0.name()))?;
    let text = |n: Option<u32>| n.map(|n| n.to_string());
    let (in_file, default) = (text(file.relay.mbps), (d.bytes_per_s * 8 / 1_000_000).to_string());
    let f = p.find(None, "LANLINE_RELAY_MBPS", in_file.as_deref(), default);
    let mbps: u32 = p.take("relay.mbps", f, |v: &u32| json!(v))?;
    let (in_file, default) = (
        text(file.relay.gb_month),
        (d.bytes_per_month / 1_000_000_000).to_string(),
    );
    let f = p.find(None, "LANLINE_RELAY_GB_MONTH", in_file.as_deref(), default);
    let gb: u32 = p.take("relay.gb-month", f, |v: &u32| json!(v))?;
    Ok(Settings {
        mode,
        bytes_per_s: u64::from(mbps) * 1_000_000 / 8,
        bytes_per_month: u64::from(gb) * 1_000_000_000,
    })
}

/// Settings of the store, of guests and of the log.
fn rest(p: &mut Picker<'_>, file: &FileSettings, config: Config) -> Result<Config, Fault> {
    let quota = defaults::STORE_QUOTA.0.to_string();
    let f = p.find(None, "LANLINE_STORE_QUOTA", file.store.quota.as_deref(), quota);
    let store_quota: ByteSize = p.take("store.quota", f, |v: &ByteSize| json!(v.0))?;
    let in_file = file.store.upload_mbps.map(|n| n.to_string());
    let default = defaults::STORE_UPLOAD_MBPS.to_string();
    let f = p.find(None, "LANLINE_STORE_UPLOAD_MBPS", in_file.as_deref(), default);
    let store_upload_mbps: u32 = p.take("store.upload-mbps", f, |v: &u32| json!(v))?;
    let f = p.find(
        None,
        "LANLINE_ACCEL",
        file.vm.accel.as_deref(),
        AccelChoice::default().as_str().into(),
    );
    let accel: AccelChoice = p.take("vm.accel", f, |v: &AccelChoice| json!(v.as_str()))?;
    let f = p.find(None, "LANLINE_QEMU", file.vm.qemu.as_deref(), String::new());
    let MaybePath(qemu) = p.take("vm.qemu", f, |v: &MaybePath| {
        json!(v.0.as_ref().map(|q| q.display().to_string()))
    })?;
    let f = p.find(
        None,
        "LANLINE_LOG",
        file.log.level.as_deref(),
        defaults::LOG_LEVEL.into(),
    );
    let log_level: String = p.take("log.level", f, |v: &String| json!(v))?;
    let f = p.find(
        None,
        "LANLINE_LOG_FORMAT",
        file.log.format.as_deref(),
        LogFormat::default().as_str().into(),
    );
    let log_format: LogFormat = p.take("log.format", f, |v: &LogFormat| json!(v.as_str()))?;
    Ok(Config {
        store_quota,
        store_upload_mbps,
        accel,
        qemu,
        log_level,
        log_format,
        ..config
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(file: Option<&str>) -> Sources<'_> {
        Sources {
            file: file.map(|t| (Path::new("/s/lanline.toml"), t)),
            host_name: Some("attic.example".into()),
            ..Sources::default()
        }
    }

    fn row(view: &ConfigView, key: &str) -> (Value, Origin, Option<String>) {
        let r = view.settings.iter().find(|r| r.key == key).unwrap();
        (r.value.clone(), r.origin, r.from.clone())
    }

    const FILE: &str = "listen = '127.0.0.1:1'\nname = 'filed'\nmdns = false\nport_mapping = false\nweb_port = 443\nbootstrap = ['/ip4/192.0.2.1/udp/1/quic-v1']\n\
                        [relay]\nlend = 'anyone'\nmbps = 8\ngb-month = 5\n[store]\nquota = '2G'\nupload-mbps = 30\n[vm]\naccel = 'tcg'\nqemu = '/opt/q'\n[log]\nlevel = 'debug'\nformat = 'json'\n";

    #[test]
    fn defaults_alone() {
        let (c, view) = resolve(&sources(None)).unwrap();
        assert_eq!(
            (c.name.as_str(), c.listen.to_string().as_str(), c.mdns),
            ("attic", "0.0.0.0:4400", true)
        );
        assert!(c.qemu.is_none() && c.bootstrap.is_empty());
        assert!(
            view.settings
                .iter()
                .all(|r| r.origin == Origin::Default && r.from.is_none())
        );
        assert_eq!(view.settings.len(), 15);
    }

    #[test]
    fn flag_beats_env_beats_file() {
        let mut s = sources(Some(FILE));
        let (c, view) = resolve(&s).unwrap();
        assert_eq!(
            (c.name.as_str(), c.store_quota, c.accel),
            ("filed", ByteSize(2 << 30), AccelChoice::Tcg)
        );
        assert_eq!(
            (c.log_format, c.mdns, c.qemu),
            (LogFormat::Json, false, Some("/opt/q".into()))
        );
        assert!(view.settings.iter().all(|r| r.origin == Origin::File), "{view:?}");
        let lent = Settings {
            mode: Mode::Anyone,
            bytes_per_s: 1_000_000,
            bytes_per_month: 5_000_000_000,
        };
        assert_eq!(c.relay, lent);
        s.env.insert("LANLINE_NAME".into(), "envied".into());
        s.env.insert("LANLINE_LISTEN".into(), "127.0.0.1:2".into());
        s.env.insert("LANLINE_LOG".into(), String::new());
        let (_, view) = resolve(&s).unwrap();
        assert_eq!(
            row(&view, "name"),
            (json!("envied"), Origin::Env, Some("LANLINE_NAME".into()))
        );
        assert_eq!(
            row(&view, "log.level").1,
            Origin::File,
            "an empty variable is as good as none"
        );
        s.flags = Flags {
            name: Some("flagged".into()),
            no_mdns: true,
            bootstrap: vec!["/dns/x".into()],
            listen: None,
        };
        let (c, view) = resolve(&s).unwrap();
        assert_eq!(
            row(&view, "name"),
            (json!("flagged"), Origin::Flag, Some("--name".into()))
        );
        assert_eq!(row(&view, "listen").1, Origin::Env);
        assert_eq!(
            row(&view, "mdns"),
            (json!(false), Origin::Flag, Some("--no-mdns".into()))
        );
        assert_eq!(c.bootstrap, ["/dns/x"]);
    }

    #[test]
    fn a_slip_of_the_finger_is_an_error_with_its_line() {
        for (text, needle) in [
            ("listen = '127.0.0.1:1'\nlisten_on = 'x'\n", "line 2"),
            ("[store]\nqota = '1G'\n", "qota"),
            ("mdns = 'yes'\n", "line 1"),
            ("listen = ", "line 1"),
        ] {
            let f = resolve(&sources(Some(text))).unwrap_err();
            assert_eq!(f.kind, FaultKind::Usage);
            assert!(
                f.what.contains(needle) && f.what.contains("/s/lanline.toml"),
                "{}",
                f.what
            );
        }
    }

    #[test]
    fn a_bad_value_names_its_source() {
        let f = resolve(&sources(Some("[vm]\naccel = 'hvf'\n"))).unwrap_err();
        assert!(
            f.what.contains("vm.accel") && f.what.contains("/s/lanline.toml") && f.what.contains("hvf"),
            "{}",
            f.what
        );
        let mut s = sources(None);
        for (var, value) in [
            ("LANLINE_LISTEN", "4400"),
            ("LANLINE_NAME", "-x"),
            ("LANLINE_MDNS", "maybe"),
            ("LANLINE_BOOTSTRAP", "192.0.2.1:4400"),
            ("LANLINE_RELAY", "friends"),
            ("LANLINE_RELAY_MBPS", "-1"),
            ("LANLINE_RELAY_GB_MONTH", "1e9"),
            ("LANLINE_STORE_QUOTA", "lots"),
            ("LANLINE_QEMU", "qemu"),
            ("LANLINE_LOG_FORMAT", "xml"),
        ] {
            s.env = BTreeMap::from([(var.to_owned(), value.to_owned())]);
            let f = resolve(&s).unwrap_err();
            assert!(f.kind == FaultKind::Usage && f.what.contains(var), "{}", f.what);
        }
        s.env = BTreeMap::from([(
            "LANLINE_BOOTSTRAP".to_owned(),
            "/x,".repeat(defaults::MAX_BOOTSTRAP + 1),
        )]);
        assert!(resolve(&s).unwrap_err().what.contains("at most"));
    }

    #[test]
    fn any_host_name_gives_a_name() {
        for (host, name) in [
            ("attic.home", "attic"),
            ("", "node"),
            ("-_", "node"),
            ("ä b!c", "bc"),
            ("x_1-2", "x_1-2"),
        ] {
            assert_eq!(host_name_or_default(Some(host)), name);
            assert!(name.parse::<Name>().is_ok());
        }
        assert_eq!(host_name_or_default(Some(&"a".repeat(99))).len(), 63);
    }
}
