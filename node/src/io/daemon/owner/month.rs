//! What guests sent and received in this calendar month.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wire::GuestId;

/// What is left to guests when a month's bytes are used up, bits a second: enough to be shut down from afar.
pub(super) const LEAST_RATE: u64 = 64_000;

/// The month and its bytes; counters of ports that vanish and begin anew are counted once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Month {
    /// `2026-11`, local time.
    pub(super) month: String,
    /// Both ways.
    pub(super) bytes: u64,
    /// Last counter of each guest's port.
    #[serde(skip)]
    last: BTreeMap<GuestId, u64>,
}

impl Month {
    /// Takes the counters of the ports that are there. `true`: there is something new to keep.
    pub(super) fn count(&mut self, month: &str, counters: &BTreeMap<GuestId, u64>) -> bool {
        let before = (self.month.clone(), self.bytes);
        if self.month != month {
            (self.month, self.bytes) = (month.to_owned(), 0);
        }
        for (id, now) in counters {
            let was = self.last.get(id).copied().unwrap_or_default();
            self.bytes = self.bytes.saturating_add(if *now >= was { now - was } else { *now });
        }
        self.last = counters.clone();
        before != (self.month.clone(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_begin_anew_and_months_that_end() {
        let id = |n| GuestId([n; 16]);
        let mut m = Month::default();
        assert!(m.count("2026-11", &[(id(1), 100), (id(2), 5)].into()));
        assert!(!m.count("2026-11", &[(id(1), 100), (id(2), 5)].into()));
        m.count("2026-11", &[(id(1), 150)].into());
        assert_eq!(m.bytes, 155);
        m.count("2026-11", &[(id(1), 20), (id(2), 3)].into());
        assert_eq!(m.bytes, 178, "a port that was made anew counts from nothing");
        m.count("2026-12", &[(id(1), 30), (id(2), 3)].into());
        assert_eq!((m.month.as_str(), m.bytes), ("2026-12", 10));
    }
}
