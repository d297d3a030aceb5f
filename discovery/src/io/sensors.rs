//! Reads the kernel's files for [`crate::sense`]: a dozen small reads a sample, in Linux's memory all of them.

use crate::sense::{Meter, Raw, Sample};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

/// Largest file that is read: `/proc/stat` of a machine of a thousand processors is 100 KiB, its interrupts cut off.
const MAX_FILE: u64 = 256 << 10;
/// Terminals, input devices, supplies and thermal zones that are looked at, each.
const MAX_ENTRIES: usize = 64;

/// This machine's sensors.
pub struct Sensors {
    started: Instant,
    folder: PathBuf,
    meter: Meter,
    battery: Option<PathBuf>,
    mains: Option<PathBuf>,
    zones: Vec<PathBuf>,
}

impl Sensors {
    /// Finds what is there: batteries and thermal zones do not come and go. `folder` is on the file system whose room
    /// counts.
    pub fn new(folder: &Path) -> Self {
        let supplies = entries("/sys/class/power_supply");
        let zones = entries("/sys/class/thermal");
        Self {
            started: Instant::now(),
            folder: folder.into(),
            meter: Meter::default(),
            battery: supplies.iter().map(|p| p.join("capacity")).find(|p| p.exists()),
            mains: supplies.iter().map(|p| p.join("online")).find(|p| p.exists()),
            zones: zones.iter().map(|p| p.join("temp")).filter(|p| p.exists()).collect(),
        }
    }

    /// Reads everything once. Blocks for as long as the kernel takes to print its tables.
    pub fn sample(&mut self) -> Sample {
        let raw = Raw {
            at_s: self.started.elapsed().as_secs_f64(),
            stat: text("/proc/stat"),
            pressure: ["cpu", "memory", "io"].map(|k| text(Path::new("/proc/pressure").join(k))),
            meminfo: text("/proc/meminfo"),
            diskstats: text("/proc/diskstats"),
            disk_free: free(&self.folder),
            battery: self.battery.as_ref().and_then(text),
            mains: self.mains.as_ref().and_then(text),
            temperatures: self.zones.iter().filter_map(text).collect(),
            user_idle_s: user_idle_s(),
        };
        self.meter.sample(&raw)
    }
}

/// Room that an ordinary user may fill.
fn free(folder: &Path) -> Option<u64> {
    let v = rustix::fs::statvfs(folder).ok()?;
    v.f_bavail.checked_mul(v.f_frsize)
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    let mut out = String::new();
    fs::File::open(path)
        .ok()?
        .take(MAX_FILE)
        .read_to_string(&mut out)
        .ok()?;
    Some(out)
}

fn entries(dir: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).into_iter().flatten().flatten();
    all.map(|e| e.path()).take(MAX_ENTRIES).collect()
}

/// A terminal's access time moves when somebody types there, as `w` shows it.
fn user_idle_s() -> Option<f64> {
    let terminals = entries("/dev/pts").into_iter().filter(|p| !p.ends_with("ptmx"));
    let newest = terminals
        .chain(entries("/dev/input"))
        .filter_map(|p| fs::metadata(p).ok()?.accessed().ok())
        .max()?;
    Some(
        SystemTime::now()
            .duration_since(newest)
            .unwrap_or_default()
            .as_secs_f64(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::Signal;

    #[test]
    fn this_machine_has_a_run_queue_and_memory() {
        let mut sensors = Sensors::new(Path::new("/"));
        sensors.sample();
        let s = sensors.sample();
        assert!(s.get(Signal::RunQueue).unwrap() >= 0.0);
        assert!(s.get(Signal::Disk).unwrap() > 0.0);
        assert!(s.get(Signal::Memory).unwrap() > 0.0);
    }
}
