//! What size of datagram the path carries: datagram path MTU discovery (RFC 8899) for one session.
//!
//! ```text
//! search --(no size left between what passes and what does not)--> rest --(raise timer, traffic)--> search
//!   any  --(full datagrams are sent and none arrives, the base size does)--> base size, search
//! ```
//! Probes are datagrams of the size that is tried; only a probe's answer, or a report that one so long came, raises it.

use std::time::{Duration, Instant};

/// UDP payload that every path carries: IPv6's 1,280 less its and UDP's headers; QUIC asks for nearly as much.
pub const BASE: u16 = 1_200;
/// Largest UDP payload tried: Ethernet's jumbo 9,000 less IPv4 and UDP headers.
pub const CEILING: u16 = 8_972;
/// Sizes that paths have: jumbo over IPv4 and v6, Ethernet over IPv4 and v6, PPPoE over both, 1,400 over both.
const KNOWN: [u16; 8] = [8_972, 8_952, 1_472, 1_464, 1_452, 1_444, 1_372, 1_352];
/// A search ends when it knows the size this well, bytes: less is not worth a probe.
const GRAIN: u16 = 16;
/// Probes of one size before it counts as too large.
const TRIES: u8 = 3;
/// Shortest and longest wait for a probe's answer.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Pause before the path is searched upward again, doubled each time in vain up to the second. Only while datagrams are
/// sent: an idle link costs nothing.
const RAISE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// Full datagrams unconfirmed for this long, and two round trips, are suspicious.
const SUSPECT: Duration = Duration::from_millis(250);

/// A probe under way.
#[derive(Debug, Clone, Copy)]
struct Probe {
    size: u16,
    token: u32,
    tries: u8,
    deadline: Instant,
    /// Answered is answered, whatever for.
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Search,
    /// Does the present size still pass?
    Verify,
    /// Does anything pass?
    Base,
}

/// The machine.
#[derive(Debug)]
pub struct Mtu {
    size: u16,
    /// Smallest size that is known not to pass, or the ceiling plus one.
    too_large: u16,
    searching: bool,
    probe: Option<Probe>,
    next_token: u32,
    send: Option<(u32, u16)>,
    raise_at: Instant,
    raise_pause: Duration,
    /// Since when full datagrams were sent without a sign that one came.
    unconfirmed: Option<Instant>,
    rtt: Duration,
    sent: bool,
}

impl Mtu {
    /// For a new path.
    pub fn new(now: Instant) -> Self {
        Self {
            size: BASE,
            too_large: CEILING + 1,
            searching: true,
            probe: None,
            next_token: 0,
            send: None,
            raise_at: now,
            raise_pause: RAISE.0,
            unconfirmed: None,
            rtt: WAIT.0,
            sent: false,
        }
    }

    /// UDP payload that may be sent, bytes.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Is the search for the path's size still going on?
    pub fn is_searching(&self) -> bool {
        self.searching
    }

    /// A new round trip.
    pub fn handle_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
    }

    /// Datagrams were sent, the longest so long.
    pub fn handle_sent(&mut self, now: Instant, largest: u16) {
        self.sent = true;
        if self.is_full(largest) && self.size > BASE {
            self.unconfirmed.get_or_insert(now);
        }
    }

    /// The peer says that one so long came.
    pub fn handle_arrived(&mut self, now: Instant, largest: u16) {
        if self.is_full(largest) {
            self.unconfirmed = None;
            if self.probe.is_some_and(|p| p.why == Why::Verify) {
                self.probe = None;
                self.next_probe(now);
            }
        }
    }

    fn is_full(&self, size: u16) -> bool {
        size + GRAIN > self.size
    }

    /// The system refused to send one so long: the interface's own MTU is smaller.
    pub fn handle_refused(&mut self, now: Instant, size: u16) {
        self.too_large = self.too_large.min(size);
        if self.size >= self.too_large {
            self.size = BASE;
            self.searching = true;
            self.unconfirmed = None;
            self.probe = None;
        }
        if self.probe.is_some_and(|p| p.size >= self.too_large) {
            self.probe = None;
        }
        if self.probe.is_none() {
            self.next_probe(now);
        }
    }

    /// A probe was answered.
    pub fn handle_ack(&mut self, now: Instant, token: u32) {
        let Some(p) = self.probe.filter(|p| p.token == token) else {
            return;
        };
        self.probe = None;
        match p.why {
            Why::Search => {
                self.size = p.size;
                self.raise_pause = RAISE.0;
                self.too_large = self.too_large.max(p.size + 1);
                self.next_probe(now);
            }
            Why::Verify => {
                self.unconfirmed = None;
                self.next_probe(now);
            }
            Why::Base => {
                // The base size passes, the present one does not: a black hole.
                self.too_large = self.size;
                self.size = BASE;
                self.unconfirmed = None;
                self.searching = true;
                self.raise_pause = RAISE.0;
                self.next_probe(now);
            }
        }
    }

    /// Timers.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(p) = self.probe.filter(|p| p.deadline <= now) {
            if p.tries < TRIES {
                self.probe = Some(self.sent_again(now, p));
            } else {
                self.probe = None;
                match p.why {
                    Why::Search => {
                        self.too_large = p.size;
                        self.next_probe(now);
                    }
                    Why::Verify => self.start(now, BASE, Why::Base),
                    // Nothing passes: not a matter of size. Ask again while datagrams are sent.
                    Why::Base => self.unconfirmed = Some(now),
                }
            }
        }
        let suspect = self.unconfirmed.is_some_and(|at| now >= at + self.patience());
        if suspect && self.probe.is_none_or(|p| p.why == Why::Search) {
            self.start(now, self.size, Why::Verify);
        }
        if !self.searching && now >= self.raise_at && self.sent && self.probe.is_none() {
            self.sent = false;
            self.too_large = CEILING + 1;
            self.raise_pause = (self.raise_pause * 2).min(RAISE.1);
            self.searching = true;
            self.next_probe(now);
        }
        if self.searching && self.probe.is_none() {
            self.next_probe(now);
        }
    }

    /// When [`Mtu::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let probe = self.probe.map(|p| p.deadline);
        let suspect = self
            .unconfirmed
            .filter(|_| self.probe.is_none_or(|p| p.why == Why::Search))
            .map(|at| at + self.patience());
        let raise = (!self.searching && self.sent && self.probe.is_none()).then_some(self.raise_at);
        let begin = (self.searching && self.probe.is_none()).then_some(self.raise_at);
        [probe, suspect, raise, begin].into_iter().flatten().min()
    }

    /// A probe to send: token and UDP payload, bytes.
    pub fn poll_transmit(&mut self) -> Option<(u32, u16)> {
        self.send.take()
    }

    fn patience(&self) -> Duration {
        SUSPECT + 2 * self.rtt
    }

    /// Tries the next size, or ends the search.
    fn next_probe(&mut self, now: Instant) {
        if !self.searching {
            return;
        }
        let (low, high) = (self.size, self.too_large);
        if high - low <= GRAIN {
            self.searching = false;
            self.raise_at = now + self.raise_pause;
            return;
        }
        let known = KNOWN.into_iter().find(|k| *k > low && *k < high);
        let size = match known {
            // A well-known size just below what failed says little: halve instead, once the known ones are used up.
            Some(k) => k,
            None => low + (high - low) / 2,
        };
        self.start(now, size, Why::Search);
    }

    fn start(&mut self, now: Instant, size: u16, why: Why) {
        let p = Probe {
            size,
            token: 0,
            tries: 0,
            deadline: now,
            why,
        };
        self.probe = Some(self.sent_again(now, p));
    }

    fn sent_again(&mut self, now: Instant, p: Probe) -> Probe {
        self.next_token = self.next_token.wrapping_add(1);
        self.send = Some((self.next_token, p.size));
        let wait = (3 * self.rtt).clamp(WAIT.0, WAIT.1);
        Probe {
            token: self.next_token,
            tries: p.tries + 1,
            deadline: now + wait,
            ..p
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path in virtual time: 20 ms there and back, silent about what it drops.
    struct Path {
        mtu: Mtu,
        now: Instant,
        carries: u16,
        probes: u32,
    }

    impl Path {
        fn new(carries: u16) -> Self {
            let now = Instant::now();
            Self {
                mtu: Mtu::new(now),
                now,
                carries,
                probes: 0,
            }
        }

        /// Runs for a while; with traffic, a full datagram goes every 10 ms and a report comes every 50 ms.
        fn run(&mut self, for_ms: u64, traffic: bool) {
            let mut largest = 0;
            for ms in 0..for_ms {
                self.now += Duration::from_millis(1);
                if traffic && ms % 10 == 0 {
                    let size = self.mtu.size();
                    self.mtu.handle_sent(self.now, size);
                    if size <= self.carries {
                        largest = largest.max(size);
                    }
                }
                if traffic && ms % 50 == 49 && largest > 0 {
                    self.mtu.handle_arrived(self.now, largest);
                    largest = 0;
                }
                if self.mtu.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.mtu.handle_timeout(self.now);
                }
                while let Some((token, size)) = self.mtu.poll_transmit() {
                    self.probes += 1;
                    if size <= self.carries {
                        self.mtu.handle_ack(self.now, token);
                    }
                }
            }
        }
    }

    #[test]
    fn the_size_is_found_to_the_grain_on_every_path() {
        for carries in (1_200..9_000).step_by(311) {
            let mut p = Path::new(carries);
            p.run(15_000, false);
            let found = p.mtu.size();
            assert!(
                found <= carries && found + 2 * GRAIN >= carries.min(CEILING),
                "{carries}: {found}"
            );
            assert!(!p.mtu.is_searching());
            assert!(p.mtu.poll_timeout().is_none(), "an idle link does not probe");
        }
    }

    #[test]
    fn a_plain_ethernet_path_is_known_after_a_few_probes() {
        let mut p = Path::new(1_472);
        // The interface says at once that jumbo does not go.
        p.mtu.handle_timeout(p.now);
        assert_eq!(p.mtu.poll_transmit().map(|(_, s)| s), Some(8_972));
        p.mtu.handle_refused(p.now, 8_972);
        p.mtu.poll_transmit();
        p.mtu.handle_refused(p.now, 8_952);
        p.run(1_000, true);
        assert!(p.mtu.size() == 1_472, "{}", p.mtu.size());
    }

    #[test]
    fn a_shrunk_path_is_noticed_in_about_a_second_and_a_grown_one_used_again() {
        for (before, after) in [(1_472, 1_252), (8_972, 1_472), (1_472, 1_200), (1_452, 1_400)] {
            let mut p = Path::new(before);
            p.run(15_000, true);
            assert!(p.mtu.size() + 2 * GRAIN >= before);
            p.carries = after;
            p.run(1_500, true);
            assert!(p.mtu.size() <= after, "{before} -> {after}: {}", p.mtu.size());
            p.run(15_000, true);
            assert!(p.mtu.size() + 2 * GRAIN >= after);
            p.carries = before;
            p.run(60_000, true);
            assert!(p.mtu.size() + 2 * GRAIN >= before, "grown: {}", p.mtu.size());
        }
    }

    #[test]
    fn an_interface_that_shrinks_is_obeyed_at_once() {
        let mut p = Path::new(1_472);
        p.run(15_000, true);
        p.mtu.handle_refused(p.now, p.mtu.size());
        assert_eq!(p.mtu.size(), BASE);
        p.carries = 1_372;
        p.run(5_000, true);
        assert_eq!(p.mtu.size(), 1_372);
    }

    #[test]
    fn a_dead_path_keeps_its_size() {
        let mut p = Path::new(1_472);
        p.run(15_000, true);
        p.carries = 0;
        p.run(10_000, true);
        let size = p.mtu.size();
        assert!(size + GRAIN >= 1_472, "{size}");
        p.carries = 1_472;
        p.run(2_000, true);
        assert_eq!(p.mtu.size(), size);
    }
}
