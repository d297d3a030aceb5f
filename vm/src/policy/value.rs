//! Values of the policy language: how owners write them, and what they are.

use std::{fmt, time::Duration};
use wire::units::{ByteSize, parse_duration};

/// Thousandths of a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millicores(pub u32);

impl fmt::Display for Millicores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = f64::from(self.0) / 1_000.0;
        let word = if self.0 == 1_000 { "core" } else { "cores" };
        if self.0.is_multiple_of(100) {
            write!(f, "{cores:.1} {word}")
        } else {
            write!(f, "{cores:.2} {word}")
        }
    }
}

/// A part of a machine's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Of the whole machine, hundredths of a percent.
    Percent(u32),
    /// Thousandths of a processor.
    Cores(Millicores),
}

impl Share {
    /// On a machine with so many processors; never more than it has.
    pub fn of(self, cores: u16) -> Millicores {
        let all = u32::from(cores) * 1_000;
        let part = match self {
            Self::Percent(p) => u32::try_from(u64::from(all) * u64::from(p) / 10_000).unwrap_or(all),
            Self::Cores(m) => m.0,
        };
        Millicores(part.min(all))
    }

    /// Reads `25%`, `1.5 cores`, `2 cores`.
    pub fn read(text: &str) -> Option<Self> {
        if let Some(p) = text.strip_suffix('%') {
            return hundredths(p).filter(|p| *p <= 10_000).map(Self::Percent);
        }
        let n = text.strip_suffix("cores").or_else(|| text.strip_suffix("core"))?;
        let n = hundredths(n)?;
        n.checked_mul(10).map(|m| Self::Cores(Millicores(m)))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(p) => write!(f, "{}%", f64::from(*p) / 100.0),
            Self::Cores(m) => m.fmt(f),
        }
    }
}

/// A decimal number with at most two places, times 100.
fn hundredths(text: &str) -> Option<u32> {
    let text = text.trim();
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || part.len() > 2 || !digits(whole) || !digits(part) {
        return None;
    }
    let part: u32 = format!("{part:0<2}").parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part)
}

/// A part of a machine's memory or disk, or so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Hundredths of a percent.
    Percent(u32),
    /// Bytes.
    Bytes(u64),
}

impl Amount {
    /// Of so many bytes; never more than that.
    pub fn of(self, all: ByteSize) -> ByteSize {
        ByteSize(match self {
            Self::Percent(p) => u64::try_from(u128::from(all.0) * u128::from(p) / 10_000).unwrap_or(all.0),
            Self::Bytes(b) => b.min(all.0),
        })
    }

    /// Reads `50%`, `4GiB`, `4G`, `80GB` (decimal).
    pub fn read(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(p) => hundredths(p).filter(|p| *p <= 10_000).map(Self::Percent),
            None => bytes(text).map(Self::Bytes),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(p) => write!(f, "{}%", f64::from(*p) / 100.0),
            Self::Bytes(b) => ByteSize(*b).fmt(f),
        }
    }
}

/// Bytes: `512M` and `512MiB` are binary, `200GB` is decimal, as on a contract.
pub(super) fn bytes(text: &str) -> Option<u64> {
    for (unit, factor) in [
        ("kB", 1_000u64),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ] {
        if let Some(n) = text.strip_suffix(unit) {
            return n.trim().parse::<u64>().ok()?.checked_mul(factor);
        }
    }
    text.parse::<ByteSize>().ok().map(|b| b.0)
}

/// Bits a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate(pub u64);

impl BitRate {
    /// Reads `10Mbit`, `10Mbit/s`, `500kbit`, `1Gbit`, `0`.
    pub fn read(text: &str) -> Option<Self> {
        if text == "0" {
            return Some(Self(0));
        }
        let text = text.strip_suffix("/s").unwrap_or(text);
        for (unit, factor) in [
            ("kbit", 1_000u64),
            ("Kbit", 1_000),
            ("Mbit", 1_000_000),
            ("Gbit", 1_000_000_000),
        ] {
            if let Some(n) = text.strip_suffix(unit) {
                let n = hundredths(n)?;
                return u64::from(n).checked_mul(factor).map(|r| Self(r / 100));
            }
        }
        None
    }

    /// Bytes a second.
    pub fn bytes(self) -> u64 {
        self.0 / 8
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            r if r.is_multiple_of(1_000_000_000) => write!(f, "{}Gbit/s", r / 1_000_000_000),
            r if r.is_multiple_of(1_000_000) => write!(f, "{}Mbit/s", r / 1_000_000),
            r => write!(f, "{}kbit/s", r / 1_000),
        }
    }
}

/// Days of the week; Monday is bit 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(pub u8);

/// Names of the days, Monday first.
pub(super) const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Days {
    /// Every day.
    pub const ALL: Self = Self(0x7f);

    /// Is the day, 0 for Monday, among them?
    pub fn has(self, day: u8) -> bool {
        self.0 & (1 << (day % 7)) != 0
    }

    /// Reads `mon-fri`, `sat,sun`, `fri-mon`, `daily`, `weekdays`, `weekend`.
    pub fn read(text: &str) -> Option<Self> {
        let mut set = 0;
        for part in text.split(',') {
            let part = part.trim().to_ascii_lowercase();
            set |= match part.as_str() {
                "daily" => 0x7f,
                "weekdays" => 0x1f,
                "weekend" => 0x60,
                one => {
                    let (a, b) = one.split_once('-').unwrap_or((one, one));
                    let at = |w: &str| DAYS.iter().position(|d| *d == w.trim().get(..3).unwrap_or_default());
                    let (a, b) = (at(a)?, at(b)?);
                    (0..7)
                        .filter(|i| (i + 7 - a) % 7 <= (b + 7 - a) % 7)
                        .fold(0, |s, i| s | 1 << i)
                }
            };
        }
        (set != 0).then_some(Self(set))
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = (0..7).filter(|d| self.has(*d)).map(|d| DAYS[usize::from(d)]).collect();
        f.write_str(&names.join(","))
    }
}

/// Hours of a day, local time, minutes since midnight; `from > to` goes over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// First minute.
    pub from: u16,
    /// Minute after the last.
    pub to: u16,
}

impl Hours {
    /// Reads `22:00-07:00`.
    pub fn read(text: &str) -> Option<Self> {
        let (a, b) = text.split_once('-')?;
        let (from, to) = (minute(a)?, minute(b)?);
        (from != to && from < 1_440).then_some(Self { from, to })
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = (self.from, self.to);
        write!(f, "{:02}:{:02}-{:02}:{:02}", a / 60, a % 60, b / 60, b % 60)
    }
}

/// `07:30` as minutes; `24:00` is the end of the day.
pub(super) fn minute(text: &str) -> Option<u16> {
    let (h, m) = text.trim().split_once(':')?;
    if m.len() != 2 || h.is_empty() || h.len() > 2 || !h.bytes().chain(m.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (h, m): (u16, u16) = (h.parse().ok()?, m.parse().ok()?);
    (m < 60 && h * 60 + m <= 1_440).then_some(h * 60 + m)
}

/// Degrees Celsius: `85C`, `85`.
pub(super) fn celsius(text: &str) -> Option<f64> {
    let t: f64 = text.trim().trim_end_matches(['C', '°']).trim().parse().ok()?;
    (-50.0..=150.0).contains(&t).then_some(t)
}

/// `300ms`, `5m`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    parse_duration(text.trim()).ok()
}
