//! When rules hold by the calendar: local time, over midnight, over the jumps of summer time.

use super::{Days, Hours, Policy, Rule};
use jiff::{Timestamp, ToSpan, Zoned, civil::Weekday, tz::TimeZone};

/// A minute of a week, local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// 0 for Monday.
    pub day: u8,
    /// Since midnight.
    pub minute: u16,
}

impl Moment {
    /// Of an instant, in a zone.
    pub fn of(at: &Zoned) -> Self {
        Self {
            day: day(at.weekday()),
            minute: u16::try_from(i32::from(at.hour()) * 60 + i32::from(at.minute())).unwrap_or_default(),
        }
    }
}

fn day(w: Weekday) -> u8 {
    u8::try_from(w.to_monday_zero_offset()).unwrap_or_default()
}

/// Whether a rule's calendar part holds. Hours that go over midnight belong to the day on which they begin.
pub(super) fn holds(rule: &Rule, at: Moment) -> bool {
    let days = rule.days.unwrap_or(Days::ALL);
    match rule.hours {
        None => days.has(at.day),
        Some(Hours { from, to }) if from < to => days.has(at.day) && (from..to).contains(&at.minute),
        Some(Hours { from, to }) => {
            let yesterday = (at.day + 6) % 7;
            days.has(at.day) && at.minute >= from || days.has(yesterday) && at.minute < to
        }
    }
}

/// The next instant after `now` at which some rule's calendar part may change, within eight days. A boundary that summer
/// time leaves out falls on the jump; one that comes twice counts the first time.
pub fn next_change(policy: &Policy, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let mut minutes: Vec<u16> = Vec::new();
    for rule in &policy.rules {
        match (rule.hours, rule.days) {
            (Some(h), days) => {
                minutes.extend([h.from, h.to]);
                if days.is_some() && h.from > h.to {
                    minutes.push(0);
                }
            }
            (None, Some(_)) => minutes.push(0),
            (None, None) => {}
        }
    }
    minutes.sort_unstable();
    minutes.dedup();
    if minutes.is_empty() {
        return None;
    }
    let today = now.to_zoned(zone.clone()).date();
    let at = |offset: i64, minute: u16| -> Option<Timestamp> {
        let date = today.checked_add(offset.days()).ok()?;
        let time = date.at(0, 0, 0, 0).checked_add(i64::from(minute).minutes()).ok()?;
        time.to_zoned(zone.clone()).ok().map(|z| z.timestamp())
    };
    let all = (0..=8).flat_map(|d| minutes.iter().map(move |m| (d, *m)));
    all.filter_map(|(d, m)| at(d, m)).filter(|t| *t > now).min()
}
