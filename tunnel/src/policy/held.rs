//! The addresses that a port holds: given by hand, leased by DHCP, or claimed first (RFC 6620, RFC 7513).
//!
//! Invariants
//! - At most `max` addresses, and [`GUEST_IPS`] in any case.
//! - A lease takes the place of whatever is weaker; a claim takes no place but that of a claim long silent.

use crate::{
    DropReason,
    defaults::{CLAIM_IDLE, DAD_WAIT, GUEST_IPS, LEASE_GRACE},
};
use std::time::{Duration, Instant};

/// How an address came to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By settings.
    Given,
    /// By a DHCP server, until then; `None`: for ever.
    Leased(Option<Instant>),
    /// First come.
    Claimed,
    /// Tried by duplicate address detection at that time; a neighbour may object.
    Tried(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Hold<A> {
    addr: A,
    how: How,
    seen: Instant,
}

/// Addresses of one family.
#[derive(Clone, Debug)]
pub(super) struct Held<A> {
    /// The one used last is first.
    holds: Vec<Hold<A>>,
    max: usize,
    /// A server gave an address since the port began, or since the last one was given back.
    leased: bool,
    /// A neighbour may object until then.
    trying: Option<Instant>,
}

/// When a lease of so many seconds ends; `u32::MAX` is for ever (RFC 2131 §3.3, RFC 8415 §7.7).
pub(super) fn lease_end(now: Instant, seconds: u32) -> Option<Instant> {
    (seconds != u32::MAX).then(|| now + Duration::from_secs(seconds.into()) + LEASE_GRACE)
}

impl<A: Copy + PartialEq> Held<A> {
    pub(super) fn new(now: Instant, max: usize, given: impl Iterator<Item = A>) -> Self {
        let how = How::Given;
        let holds = given.map(|addr| Hold { addr, how, seen: now });
        Self {
            holds: holds.take(GUEST_IPS).collect(),
            max: max.min(GUEST_IPS),
            leased: false,
            trying: None,
        }
    }

    /// Is the address held now? The one asked for last is found first.
    pub(super) fn holds(&mut self, now: Instant, addr: A) -> bool {
        let Some(at) = self.holds.iter().position(|h| h.addr == addr) else {
            return false;
        };
        self.holds.swap(0, at);
        let Some(h) = self.holds.first_mut() else { return false };
        if matches!(h.how, How::Leased(Some(until)) if until <= now) {
            self.holds.swap_remove(0);
            return false;
        }
        h.seen = now;
        true
    }

    pub(super) fn was_leased(&self) -> bool {
        self.leased
    }

    /// A server gave it. Claims that `keep` does not name end with the first lease.
    pub(super) fn lease(&mut self, now: Instant, addr: A, until: Option<Instant>, keep: impl Fn(A) -> bool) {
        self.leased = true;
        self.holds.retain(|h| match h.how {
            How::Claimed | How::Tried(_) => h.addr != addr && keep(h.addr),
            How::Leased(Some(end)) => h.addr != addr && end > now,
            How::Leased(None) => h.addr != addr,
            How::Given => true,
        });
        if self.holds.len() >= self.max {
            // The server knows best how many it gives; the one silent for longest goes.
            let oldest = self.holds.iter().enumerate().filter(|(_, h)| h.how != How::Given);
            match oldest.min_by_key(|(_, h)| h.seen).map(|(i, _)| i) {
                Some(i) => drop(self.holds.swap_remove(i)),
                None => return,
            }
        }
        let how = How::Leased(until);
        self.holds.push(Hold { addr, how, seen: now });
    }

    /// It was given back, or a neighbour has it.
    pub(super) fn give_back(&mut self, addr: A) {
        self.holds.retain(|h| h.addr != addr || h.how == How::Given);
        self.leased = self.holds.iter().any(|h| matches!(h.how, How::Leased(_)));
    }

    /// The port begins to use an address that nobody else is known to have.
    pub(super) fn claim(&mut self, now: Instant, addr: A, how: How) -> Result<(), DropReason> {
        if self.holds.len() >= self.max {
            let idle = self.holds.iter().position(|h| {
                let silent = now.saturating_duration_since(h.seen) >= CLAIM_IDLE;
                matches!(h.how, How::Claimed | How::Tried(_)) && silent
            });
            match idle {
                Some(i) => drop(self.holds.swap_remove(i)),
                None => return Err(DropReason::GuestAddressCap),
            }
        }
        if let How::Tried(at) = how {
            self.trying = Some(at + DAD_WAIT);
        }
        self.holds.push(Hold { addr, how, seen: now });
        Ok(())
    }

    /// Takes over what was held under earlier rules.
    pub(super) fn restore(&mut self, now: Instant, addr: A, how: How) {
        self.leased |= matches!(how, How::Leased(_));
        let known = self.holds.iter().any(|h| h.addr == addr);
        if !known && how != How::Given && self.holds.len() < self.max {
            self.holds.push(Hold { addr, how, seen: now });
        }
    }

    /// Might a neighbour still object to an address?
    pub(super) fn is_trying(&self, now: Instant) -> bool {
        self.trying.is_some_and(|until| until > now)
    }

    /// A neighbour says that it has the address.
    pub(super) fn objected(&mut self, now: Instant, addr: A) {
        self.holds.retain(|h| {
            let tried = matches!(h.how, How::Tried(at) if now.saturating_duration_since(at) < DAD_WAIT);
            h.addr != addr || !tried
        });
    }

    /// What is held, and how.
    pub(super) fn list(&self, now: Instant) -> Vec<(A, How)> {
        let held = self.holds.iter();
        held.filter(|h| !matches!(h.how, How::Leased(Some(until)) if until <= now))
            .map(|h| (h.addr, h.how))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: fn(u8) -> bool = |_| false;

    #[test]
    fn leases_end_and_claims_end_with_the_first_lease() {
        let t = Instant::now();
        let mut h: Held<u8> = Held::new(t, 3, [9].into_iter());
        assert_eq!(h.claim(t, 1, How::Claimed), Ok(()));
        assert_eq!(h.claim(t, 2, How::Claimed), Ok(()));
        assert_eq!(h.claim(t, 3, How::Claimed), Err(DropReason::GuestAddressCap));
        h.lease(t, 4, lease_end(t, 100), |a| a == 2);
        assert!(h.holds(t, 9) && h.holds(t, 2) && h.holds(t, 4) && !h.holds(t, 1));
        let late = t + Duration::from_secs(100) + LEASE_GRACE;
        assert!(h.holds(late - Duration::from_millis(1), 4) && !h.holds(late, 4));
        assert!(h.was_leased(), "an expired lease is no leave to take any address");
        h.lease(late, 5, None, NONE);
        h.lease(late, 6, None, NONE);
        h.lease(late, 7, None, NONE);
        assert_eq!(h.list(late).len(), 3, "no more than its share");
        for a in [5, 6, 7] {
            h.give_back(a);
        }
        assert!(!h.was_leased() && h.holds(late, 9));
    }

    #[test]
    fn silent_claims_give_way_and_objections_count() {
        let t = Instant::now();
        let mut h: Held<u8> = Held::new(t, 2, std::iter::empty());
        h.claim(t, 1, How::Claimed).unwrap();
        h.claim(t, 2, How::Claimed).unwrap();
        let later = t + CLAIM_IDLE;
        assert!(h.holds(later - Duration::from_secs(1), 2));
        assert_eq!(h.claim(later, 3, How::Tried(later)), Ok(()));
        assert!(!h.holds(later, 1) && h.is_trying(later));
        h.objected(later, 3);
        h.objected(later, 2);
        assert!(
            !h.holds(later, 3) && h.holds(later, 2),
            "only what is being tried can be objected to"
        );
    }
}
