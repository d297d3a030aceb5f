//! Units with their names: bytes, MTU, wall-clock milliseconds; and how people write them.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// A count of bytes. People write `512M`, `4G` (binary multiples); it prints the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// The largest IP packet that an interface carries, bytes; the Ethernet header is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mtu(pub u16);

/// Milliseconds since the Unix epoch, from the machine's wall clock: for records that cross machines, never for timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This much later; stops at the end of time instead of wrapping.
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Not a size or duration that lanline reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUnit {
    /// A size.
    #[error("'{0}' is not a size; write for example 512M or 4G (binary multiples)")]
    Size(String),
    /// A duration.
    #[error("'{0}' is not a duration; write for example 300ms, 5s, 10m, 12h or 7d")]
    Duration(String),
}

impl FromStr for ByteSize {
    type Err = BadUnit;

    fn from_str(s: &str) -> Result<Self, BadUnit> {
        let bad = || BadUnit::Size(s.into());
        let digits = s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (n, unit) = s.split_at(digits);
        let n: u64 = n.parse().map_err(|_| bad())?;
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" | "ki" => 10,
            "m" | "mib" | "mi" => 20,
            "g" | "gib" | "gi" => 30,
            "t" | "tib" | "ti" => 40,
            _ => return Err(bad()),
        };
        n.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut v = self.0 as f64;
        let mut u = 0;
        while v >= 1024.0 && u + 1 < UNITS.len() {
            v /= 1024.0;
            u += 1;
        }
        if u == 0 || v >= 100.0 || v.fract() < 0.05 {
            write!(f, "{v:.0} {}", UNITS[u])
        } else {
            write!(f, "{v:.1} {}", UNITS[u])
        }
    }
}

/// Reads `300ms`, `5s`, `10m`, `12h`, `7d`.
pub fn parse_duration(s: &str) -> Result<Duration, BadUnit> {
    let bad = || BadUnit::Duration(s.into());
    let digits = s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (n, unit) = s.split_at(digits);
    let n: u64 = n.parse().map_err(|_| bad())?;
    let ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    n.checked_mul(ms).map(Duration::from_millis).ok_or_else(bad)
}

/// Prints a duration as people write it, in its largest fitting unit.
pub fn show_duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 => format!("{}ms", d.as_millis()),
        1..120 => format!("{s}s"),
        120..7_200 => format!("{}m{:02}s", s / 60, s % 60),
        7_200..172_800 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!("512M".parse(), Ok(ByteSize(512 << 20)));
        assert_eq!("4GiB".parse(), Ok(ByteSize(4 << 30)));
        assert_eq!("0".parse(), Ok(ByteSize(0)));
        for bad in ["", "M", "-1", "1.5G", "4X", "99999999999999T"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
        assert_eq!(ByteSize(1536 << 20).to_string(), "1.5 GiB");
        assert_eq!(ByteSize(700).to_string(), "700 B");
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "5", "s", "5 s", "-5s", "99999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(show_duration(Duration::from_secs(3_725)), "62m05s");
    }
}
