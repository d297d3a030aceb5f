//! What the owner's conditions are about: input, battery, metered way out, heat, the owner's own load.
//!
//! Files first, below one root, so that tests have a machine of their own; systemd's logind and NetworkManager are asked
//! by `busctl` where they are. A reading that should be there and is not says why (`Sense::Unknown`); what the machine does not
//! have is absent.

use super::enforce::cpu_time;
use crate::policy::{Machine, Readings, Sense};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};
use wire::units::ByteSize;

/// Between two questions to logind and NetworkManager: each starts a process.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// A sensor's file that is older is no reading.
const STALE: Duration = Duration::from_secs(600);
/// Most files of an owner's sensors.
const MAX_SENSORS: usize = 64;
/// Part of the smoothed load that stays after a second: a time constant of 5 s, as in Dinda's traces.
const KEEP: f64 = 0.818_730_753;

/// This machine, as policies see it; `dir`: where guests' disks are.
pub fn machine(dir: &Path) -> Machine {
    let cores = std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX));
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?
            .trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    // A folder that is not there yet is on the file system of the one above.
    let disk = dir.ancestors().find_map(|d| rustix::fs::statvfs(d).ok());
    Machine {
        cores,
        memory: ByteSize(total.unwrap_or_default() << 10),
        disk: ByteSize(disk.map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize))),
    }
}

/// Reads the sensors; keeps what differences need.
#[derive(Debug)]
pub struct OwnerSensors {
    root: PathBuf,
    cpu: Option<(Instant, u64)>,
    guests: BTreeMap<u32, u64>,
    load: Option<f64>,
    asked: Option<(Instant, Option<Duration>, Option<bool>)>,
}

impl OwnerSensors {
    /// Below `root`; `/` but in tests.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            cpu: None,
            guests: BTreeMap::new(),
            load: None,
            asked: None,
        }
    }

    /// Reads everything. `guests`: processes whose use is not the owner's. `own`: the owner's folder of sensors.
    pub fn read(&mut self, now: Instant, wall: SystemTime, guests: &[u32], own: Option<&Path>) -> Readings {
        let (idle_hint, metered_hint) = self.ask(now, wall);
        let tty = self.tty_idle(wall);
        let idle = match (idle_hint, tty) {
            (Some(a), Some(b)) => Sense::Is(a.min(b)),
            (Some(a), None) | (None, Some(a)) => Sense::Is(a),
            (None, None) => Sense::Absent,
        };
        let mut r = Readings {
            idle,
            battery: self.battery(),
            metered: metered_hint.map_or_else(|| self.metered(), Sense::Is),
            temp_c: self.temperature(),
            own_load: self.own_load(now, guests),
            vars: own.map(|d| owners(d, wall)).unwrap_or_default(),
        };
        self.name_all(&mut r);
        r
    }

    /// The readings by name, for `when`. What the node measures cannot be forged by a file of that name.
    fn name_all(&self, r: &mut Readings) {
        let truth = |s: &Sense<bool>| match s {
            Sense::Is(b) => Some(f64::from(u8::from(*b))),
            Sense::Absent => Some(0.0),
            Sense::Unknown(_) => None,
        };
        let number = |s: &Sense<f64>| if let Sense::Is(v) = s { Some(*v) } else { None };
        let idle = match &r.idle {
            Sense::Is(d) => Some(d.as_secs_f64()),
            _ => Some(f64::INFINITY),
        };
        let all = [
            ("idle_s", idle),
            ("battery", truth(&r.battery)),
            ("metered", truth(&r.metered)),
            ("temp_c", number(&r.temp_c)),
            ("load", number(&r.own_load)),
            ("psi_cpu", self.psi()),
            ("mem_free_mb", self.available().map(|b| (b >> 20) as f64)),
        ];
        for (name, value) in all {
            r.vars.remove(name);
            r.vars.extend(value.map(|v| (name.to_owned(), v)));
        }
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn folders(&self, path: &str) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = fs::read_dir(self.root.join(path))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect();
        all.sort();
        all
    }

    /// Memory that is available, bytes.
    pub fn available(&self) -> Option<u64> {
        let text = self.text("proc/meminfo")?;
        let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
            .map(|k| k << 10)
    }

    fn psi(&self) -> Option<f64> {
        let text = self.text("proc/pressure/cpu")?;
        text.split_whitespace()
            .find_map(|w| w.strip_prefix("avg10="))?
            .parse()
            .ok()
    }

    /// A terminal's access time is that of its last input (tty(4), as `w` uses it).
    fn tty_idle(&self, wall: SystemTime) -> Option<Duration> {
        let named = |p: &PathBuf| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.strip_prefix("tty")
                .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()) && !n.is_empty())
                || p.parent().is_some_and(|d| d.ends_with("pts")) && name.bytes().all(|b| b.is_ascii_digit())
        };
        let all = self.folders("dev").into_iter().chain(self.folders("dev/pts"));
        let times = all.filter(named).filter_map(|p| fs::metadata(p).ok());
        let last = times.filter_map(|m| u64::try_from(m.atime()).ok()).max()?;
        let now = wall.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        Some(Duration::from_secs(now.saturating_sub(last)))
    }

    fn battery(&self) -> Sense<bool> {
        let mut found = Sense::Absent;
        for dir in self.folders("sys/class/power_supply") {
            let read = |f: &str| fs::read_to_string(dir.join(f)).map(|t| t.trim().to_owned());
            let kind = match read("type") {
                Ok(k) => k,
                Err(e) => return Sense::Unknown(format!("{}: {e}", dir.join("type").display())),
            };
            match kind.as_str() {
                "Mains" | "USB" if read("online").is_ok_and(|o| o != "0") => return Sense::Is(false),
                // A mouse's battery is not the machine's.
                "Battery" if read("scope").is_ok_and(|s| s == "Device") => {}
                "Battery" => match read("status") {
                    Ok(s) if s == "Discharging" => found = Sense::Is(true),
                    Ok(_) if found == Sense::Absent => found = Sense::Is(false),
                    Ok(_) => {}
                    Err(e) => return Sense::Unknown(format!("{}: {e}", dir.join("status").display())),
                },
                _ => {}
            }
        }
        found
    }

    /// Without NetworkManager: a default route by a modem or a tethered phone is metered.
    fn metered(&self) -> Sense<bool> {
        let Some(routes) = self.text("proc/net/route") else {
            return Sense::Absent;
        };
        let defaults = routes.lines().skip(1).filter_map(|l| {
            let mut f = l.split_whitespace();
            let (card, to) = (f.next()?, f.next()?);
            let metric: u32 = f.nth(4)?.parse().ok()?;
            (to == "00000000").then_some((metric, card.to_owned()))
        });
        let Some((_, card)) = defaults.min() else {
            return Sense::Absent;
        };
        let uevent = self.text(&format!("sys/class/net/{card}/uevent")).unwrap_or_default();
        let driver = fs::read_link(self.root.join(format!("sys/class/net/{card}/device/driver"))).unwrap_or_default();
        let phone = ["rndis_host", "ipheth"].iter().any(|d| driver.ends_with(d));
        Sense::Is(uevent.lines().any(|l| l == "DEVTYPE=wwan") || card.starts_with("ppp") || phone)
    }

    fn temperature(&self) -> Sense<f64> {
        let zones = self.folders("sys/class/thermal").into_iter().map(|d| d.join("temp"));
        let chips = self
            .folders("sys/class/hwmon")
            .into_iter()
            .map(|d| d.join("temp1_input"));
        let milli = |p: PathBuf| fs::read_to_string(p).ok()?.trim().parse::<f64>().ok();
        let all = zones.chain(chips).filter_map(milli).map(|m| m / 1_000.0);
        // Sensors that are not wired say -273 or 255.
        all.filter(|t| (-50.0..=150.0).contains(t))
            .fold(Sense::Absent, |hot, t| match hot {
                Sense::Is(h) if h >= t => Sense::Is(h),
                _ => Sense::Is(t),
            })
    }

    /// Processors in use, less what guests use, smoothed.
    fn own_load(&mut self, now: Instant, guests: &[u32]) -> Sense<f64> {
        let Some(ticks) = self.text("proc/stat").as_deref().and_then(busy_ticks) else {
            return Sense::Unknown("/proc/stat cannot be read".into());
        };
        let used: BTreeMap<u32, u64> = guests.iter().filter_map(|p| Some((*p, cpu_time(*p)?))).collect();
        let theirs: u64 = used
            .iter()
            .filter_map(|(p, t)| self.guests.get(p).map(|b| t.saturating_sub(*b)))
            .sum();
        self.guests = used;
        let before = self.cpu.replace((now, ticks));
        let Some((at, was)) = before else {
            return Sense::Is(0.0);
        };
        let wall = now.saturating_duration_since(at).as_secs_f64();
        if wall > 0.0 {
            // A tick is a hundredth of a second on every architecture that Linux has (USER_HZ).
            let all = ticks.saturating_sub(was) as f64 / 100.0;
            let own = ((all - theirs as f64 / 1e9) / wall).max(0.0);
            let keep = KEEP.powf(wall);
            self.load = Some(self.load.map_or(own, |l| l * keep + own * (1.0 - keep)));
        }
        Sense::Is(self.load.unwrap_or_default())
    }

    fn ask(&mut self, now: Instant, wall: SystemTime) -> (Option<Duration>, Option<bool>) {
        if let Some((at, idle, metered)) = self.asked
            && now.saturating_duration_since(at) < ASK_EVERY
        {
            let more = now.saturating_duration_since(at);
            // Nobody came meanwhile, or the next answer says so.
            return (idle.map(|d| if d.is_zero() { d } else { d + more }), metered);
        }
        let bus = self.root.join("run/dbus/system_bus_socket").exists() && self.root == Path::new("/");
        let (idle, metered) = if bus {
            (logind_idle(wall), nm_metered())
        } else {
            (None, None)
        };
        self.asked = Some((now, idle, metered));
        (idle, metered)
    }
}

fn busctl(service: &str, path: &str, interface: &str, properties: &[&str]) -> Option<Vec<String>> {
    let mut command = Command::new("busctl");
    command
        .args([
            "--timeout=2",
            "--auto-start=no",
            "get-property",
            service,
            path,
            interface,
        ])
        .args(properties);
    let out = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|o| o.status.success())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let values = text
        .lines()
        .filter_map(|l| l.split_once(' '))
        .map(|(_, v)| v.trim().to_owned());
    Some(values.collect())
}

fn logind_idle(wall: SystemTime) -> Option<Duration> {
    let manager = "org.freedesktop.login1.Manager";
    let said = busctl(
        "org.freedesktop.login1",
        "/org/freedesktop/login1",
        manager,
        &["IdleHint", "IdleSinceHint"],
    )?;
    idle_of(&said, wall)
}

fn idle_of(said: &[String], wall: SystemTime) -> Option<Duration> {
    let [hint, since] = said else { return None };
    if hint == "false" {
        return Some(Duration::ZERO);
    }
    let since = SystemTime::UNIX_EPOCH + Duration::from_micros(since.parse().ok()?);
    wall.duration_since(since).ok()
}

/// NMMetered: 1 yes, 2 no, 3 guessed yes, 4 guessed no.
fn nm_metered() -> Option<bool> {
    let name = "org.freedesktop.NetworkManager";
    let said = busctl(name, "/org/freedesktop/NetworkManager", name, &["Metered"])?;
    match said.first()?.as_str() {
        "1" | "3" => Some(true),
        "2" | "4" => Some(false),
        _ => None,
    }
}

/// Ticks that any processor was not idle.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find(|l| l.starts_with("cpu "))?;
    let n: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(|w| w.parse().unwrap_or(0))
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is in user already.
    (n.len() >= 7).then(|| n[0] + n[1] + n[2] + n[5] + n[6])
}

/// One number a file; the file's name is the reading's.
fn owners(dir: &Path, wall: SystemTime) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().take(MAX_SENSORS) {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        let plain = name.len() <= 40 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let fresh = entry
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|t| wall.duration_since(t).is_ok_and(|d| d < STALE));
        let small = entry.metadata().is_ok_and(|m| m.is_file() && m.len() <= 64);
        if !plain || !fresh || !small {
            continue;
        }
        let value = fs::read_to_string(entry.path())
            .ok()
            .and_then(|t| t.trim().parse::<f64>().ok());
        out.extend(value.filter(|v| v.is_finite()).map(|v| (name, v)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let m = Self(tempfile::tempdir().unwrap());
            m.put("proc/stat", "cpu  100 0 100 1000 0 0 0 0\n");
            m
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn read(&self) -> Readings {
            OwnerSensors::new(self.0.path()).read(Instant::now(), SystemTime::now(), &[], None)
        }
    }

    #[test]
    fn a_bare_machine_has_nothing_that_could_restrict() {
        let r = Machine::new().read();
        assert_eq!(
            (r.idle, r.battery, r.metered, r.temp_c),
            (Sense::Absent, Sense::Absent, Sense::Absent, Sense::Absent)
        );
    }

    #[test]
    fn battery_and_mains() {
        let m = Machine::new();
        m.put("sys/class/power_supply/hidpp0/type", "Battery\n");
        m.put("sys/class/power_supply/hidpp0/scope", "Device\n");
        m.put("sys/class/power_supply/hidpp0/status", "Discharging\n");
        assert_eq!(m.read().battery, Sense::Absent, "a mouse");
        m.put("sys/class/power_supply/BAT0/type", "Battery\n");
        m.put("sys/class/power_supply/BAT0/status", "Discharging\n");
        m.put("sys/class/power_supply/AC/type", "Mains\n");
        m.put("sys/class/power_supply/AC/online", "0\n");
        assert_eq!(m.read().battery, Sense::Is(true));
        m.put("sys/class/power_supply/BAT0/status", "Full\n");
        assert_eq!(m.read().battery, Sense::Is(false));
        m.put("sys/class/power_supply/AC/online", "1\n");
        m.put("sys/class/power_supply/BAT0/status", "Discharging\n");
        assert_eq!(m.read().battery, Sense::Is(false), "mains decide");
        fs::remove_file(m.0.path().join("sys/class/power_supply/AC/type")).unwrap();
        assert!(matches!(m.read().battery, Sense::Unknown(_)));
    }

    #[test]
    fn a_modems_default_route_is_metered_and_the_least_metric_is_the_way_out() {
        let m = Machine::new();
        let head = "Iface Destination Gateway Flags RefCnt Use Metric Mask\n";
        m.put(
            "proc/net/route",
            &format!("{head}eth0 00000000 0100A8C0 0003 0 0 100 00000000\nwwan0 00000000 01 0003 0 0 700 00000000\n"),
        );
        m.put("sys/class/net/wwan0/uevent", "DEVTYPE=wwan\nINTERFACE=wwan0\n");
        assert_eq!(m.read().metered, Sense::Is(false));
        m.put(
            "proc/net/route",
            &format!("{head}wwan0 00000000 01 0003 0 0 700 00000000\n"),
        );
        assert_eq!(m.read().metered, Sense::Is(true));
    }

    #[test]
    fn the_hottest_wired_zone_counts() {
        let m = Machine::new();
        m.put("sys/class/thermal/thermal_zone0/temp", "61000\n");
        m.put("sys/class/thermal/thermal_zone1/temp", "-273000\n");
        m.put("sys/class/hwmon/hwmon0/temp1_input", "72500\n");
        assert_eq!(m.read().temp_c, Sense::Is(72.5));
    }

    #[test]
    fn a_terminals_last_input_is_when_somebody_was_here() {
        let m = Machine::new();
        m.put("dev/tty1", "");
        m.put("dev/ttyS0", "");
        let Sense::Is(idle) = m.read().idle else {
            panic!("no terminal")
        };
        assert!(idle < Duration::from_secs(60), "{idle:?}");
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(idle_of(&["false".into(), "0".into()], wall), Some(Duration::ZERO));
        assert_eq!(
            idle_of(&["true".into(), "400000000".into()], wall),
            Some(Duration::from_secs(600))
        );
        assert_eq!(idle_of(&["true".into()], wall), None);
    }

    #[test]
    fn the_owners_load_is_what_guests_do_not_use() {
        let m = Machine::new();
        let (mut s, t0, wall) = (OwnerSensors::new(m.0.path()), Instant::now(), SystemTime::now());
        s.read(t0, wall, &[], None);
        m.put("proc/stat", "cpu  200 0 200 1000 0 0 0 0\n");
        let r = s.read(t0 + Duration::from_secs(1), wall, &[], None);
        assert_eq!(r.own_load, Sense::Is(2.0));
        let r = s.read(t0 + Duration::from_secs(6), wall, &[], None);
        let Sense::Is(load) = r.own_load else { panic!("{r:?}") };
        assert!((load - 2.0 / std::f64::consts::E).abs() < 0.01, "{load}");
        assert!((r.vars["load"] - load).abs() < 1e-9);
    }

    #[test]
    fn an_owners_sensor_is_one_fresh_number_and_cannot_pose_as_the_nodes() {
        let m = Machine::new();
        for (name, text) in [
            ("solar_w", "512.5\n"),
            ("bad", "much\n"),
            ("a-b", "1\n"),
            ("battery", "1\n"),
            ("inf", "inf\n"),
        ] {
            m.put(&format!("own/{name}"), text);
        }
        let own = m.0.path().join("own");
        let mut s = OwnerSensors::new(m.0.path());
        let r = s.read(Instant::now(), SystemTime::now(), &[], Some(&own));
        assert_eq!((r.vars.get("solar_w"), r.vars["battery"]), (Some(&512.5), 0.0));
        assert!(["bad", "a-b", "inf"].iter().all(|n| !r.vars.contains_key(*n)));
        let later = SystemTime::now() + Duration::from_secs(700);
        assert!(
            !s.read(Instant::now(), later, &[], Some(&own))
                .vars
                .contains_key("solar_w"),
            "stale"
        );
    }
}
