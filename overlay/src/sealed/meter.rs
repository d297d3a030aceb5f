//! What passes: counted at the receiver and reported, compared at the sender.
//!
//! The receiver reports every [`REPORT_EVERY`] while datagrams come, and never otherwise, so an idle link costs nothing.
//! Arrival times of every sixteenth datagram travel back in the reports and are compared with when it was sent, so
//! datagrams carry no time stamps and the clocks need not agree: only changes of the one-way delay are used. A time of
//! arrival is when this thread read the datagram, so a period in which the thread waited long for a processor tells none.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use wire::frame::{MAX_SAMPLES, PathReport, SAMPLE_EVERY};

/// Time between reports.
pub const REPORT_EVERY: Duration = Duration::from_millis(50);
/// A thread that waited longer for a processor, in all since its last report, says nothing of when datagrams arrived: as long
/// as the delay that makes a link paced (`ENGAGE`), so that no waiting alone can.
pub const WAITED: Duration = Duration::from_millis(15);
/// Send times remembered, of every sixteenth datagram: 4,096 reach back 110 ms at 600,000 datagrams a second, and a second
/// at 65,000.
const REMEMBERED: usize = 4_096;
/// How long a loss counts as of late: at 1 in 1,000 and 100 datagrams a second there is one in this time.
pub const LOSS_FADES: Duration = Duration::from_secs(10);
/// What is left of one loss after that time; less is none.
const LOSS_COUNTS: f64 = 0.36;

/// The receiver's side.
#[derive(Debug)]
pub struct Receiver {
    started: Instant,
    report: PathReport,
    newest_at: Instant,
    /// When a report is due; `None` while nothing came since the last.
    due: Option<Instant>,
    last_report: Option<Instant>,
    /// How long this thread had waited for a processor by then.
    waited: Duration,
}

impl Receiver {
    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            report: PathReport::default(),
            newest_at: now,
            due: None,
            last_report: None,
            waited: Duration::ZERO,
        }
    }

    /// A datagram with frames was opened. The link's own messages do not count: they may come by other paths, and two idle
    /// nodes would report each other's reports.
    pub fn handle(&mut self, now: Instant, counter: u64, bytes: usize) {
        let r = &mut self.report;
        if counter >= r.newest {
            r.newest = counter;
            self.newest_at = now;
        }
        r.datagrams += 1;
        r.bytes += bytes as u64;
        r.largest = r.largest.max(u16::try_from(bytes).unwrap_or(u16::MAX));
        if counter.is_multiple_of(SAMPLE_EVERY) {
            // The first few and the last: both ends of the period are seen.
            if r.samples.len() >= MAX_SAMPLES {
                r.samples.pop();
            }
            let at = now.saturating_duration_since(self.started).as_micros();
            r.samples.push((counter, u64::try_from(at).unwrap_or(u64::MAX)));
        }
        if self.due.is_none() {
            let earliest = self.last_report.map_or(now, |at| at + REPORT_EVERY);
            self.due = Some(earliest.max(now));
        }
    }

    /// When a report is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// The report, if one is due. `waited`: how long this thread has waited for a processor in its life.
    pub fn poll_transmit(&mut self, now: Instant, waited: Duration) -> Option<PathReport> {
        self.due.filter(|at| *at <= now)?;
        self.due = None;
        self.last_report = Some(now);
        let before = std::mem::replace(&mut self.waited, waited);
        if waited.saturating_sub(before) > WAITED {
            self.report.samples.clear();
        }
        let held = now.saturating_duration_since(self.newest_at).as_micros();
        let report = PathReport {
            held_us: u32::try_from(held).unwrap_or(u32::MAX),
            ..self.report.clone()
        };
        self.report.largest = 0;
        self.report.samples.clear();
        Some(report)
    }

    /// Datagrams and bytes that came.
    pub fn totals(&self) -> (u64, u64) {
        (self.report.datagrams, self.report.bytes)
    }
}

/// What a report says about the path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Round trip, if the newest datagram's send time is still known.
    pub rtt: Option<Duration>,
    /// Datagrams and bytes that came since the report before.
    pub came: u64,
    /// See [`Progress::came`].
    pub came_bytes: u64,
    /// Datagrams with frames lost since the report before. Negative when some that were counted as lost came late.
    pub lost: i64,
    /// Time between the two reports, by this side's clock.
    pub period: Duration,
    /// Least and mean one-way delay of the samples, us, from an arbitrary zero that is the same all session long.
    pub delay_us: Option<(i64, i64)>,
    /// Longest UDP payload that came, bytes.
    pub largest: u16,
}

/// The sender's side.
#[derive(Debug)]
pub struct Sender {
    started: Instant,
    times: VecDeque<(u64, Instant)>,
    last: Option<(Instant, PathReport)>,
    rtt: Option<Duration>,
    reported: u64,
    lost: i64,
    /// Datagrams due and lost of late; both fade with [`LOSS_FADES`].
    recent: (f64, f64),
    /// Runs of counters that the receiver does not count: first, how many.
    aside: VecDeque<(u64, u64)>,
}

impl Sender {
    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            times: VecDeque::new(),
            last: None,
            rtt: None,
            reported: 0,
            lost: 0,
            recent: (0.0, 0.0),
            aside: VecDeque::new(),
        }
    }

    /// The datagram with this counter is no frame: it may go by any path, and no report counts it.
    pub fn handle_aside(&mut self, counter: u64) {
        if let Some((first, n)) = self.aside.back_mut()
            && *first + *n == counter
        {
            *n += 1;
            return;
        }
        if self.aside.len() >= REMEMBERED {
            self.aside.pop_front();
        }
        self.aside.push_back((counter, 1));
    }

    /// The peer proved that the datagram with this counter came.
    pub fn handle_proof(&mut self, counter: u64) {
        self.reported = self.reported.max(counter + 1);
    }

    /// How many counters in `from..to` no report counts; those below `to` are forgotten.
    fn take_aside(&mut self, from: u64, to: u64) -> u64 {
        let mut sum = 0;
        while let Some((first, n)) = self.aside.front_mut().filter(|(first, _)| *first < to) {
            let end = (*first + *n).min(to);
            sum += end.saturating_sub((*first).max(from));
            if end < *first + *n {
                *n = *first + *n - end;
                *first = end;
                break;
            }
            self.aside.pop_front();
        }
        sum
    }

    /// Datagrams with the counters `first..first + n` were sent.
    pub fn handle_sent(&mut self, now: Instant, first: u64, n: u64) {
        let mut c = first.next_multiple_of(SAMPLE_EVERY);
        while c < first + n {
            if self.times.len() >= REMEMBERED {
                self.times.pop_front();
            }
            self.times.push_back((c, now));
            c += SAMPLE_EVERY;
        }
    }

    /// A report came; `None` if a later one came before it, or it cannot be true.
    pub fn handle_report(&mut self, now: Instant, next_counter: u64, report: PathReport) -> Option<Progress> {
        if report.newest >= next_counter || report.datagrams > next_counter {
            return None;
        }
        let (before_at, before) = match &self.last {
            Some((at, r)) => (*at, (r.newest + 1, r.datagrams, r.bytes)),
            None => (self.started, (0, 0, 0)),
        };
        if report.newest + 1 < before.0 || report.datagrams < before.1 || report.bytes < before.2 {
            return None;
        }
        let mut p = Progress {
            came: report.datagrams - before.1,
            came_bytes: report.bytes - before.2,
            period: now.saturating_duration_since(before_at),
            largest: report.largest,
            ..Progress::default()
        };
        let aside = self.take_aside(before.0, report.newest + 1);
        let due = (report.newest + 1 - before.0).saturating_sub(aside);
        p.lost = i64::try_from(due).unwrap_or(0) - i64::try_from(p.came).unwrap_or(0);
        self.lost += p.lost;
        let kept = (-p.period.as_secs_f64() / LOSS_FADES.as_secs_f64()).exp();
        let (all, lost) = self.recent;
        self.recent = (all * kept + due as f64, lost * kept + p.lost as f64);
        let delays = report.samples.iter().filter_map(|(c, at)| self.delay(*c, *at));
        let (mut least, mut sum, mut n) = (i64::MAX, 0i64, 0i64);
        for d in delays {
            least = least.min(d);
            sum = sum.saturating_add(d);
            n += 1;
        }
        p.delay_us = (n > 0).then(|| (least, sum / n));
        p.rtt = self.round_trip(now, &report);
        self.rtt = p.rtt.or(self.rtt);
        self.reported = self.reported.max(report.newest + 1);
        while self
            .times
            .front()
            .is_some_and(|(c, _)| *c + 4 * REMEMBERED as u64 <= report.newest)
        {
            self.times.pop_front();
        }
        self.last = Some((now, report));
        Some(p)
    }

    fn sent_at(&self, counter: u64) -> Option<Instant> {
        let i = self.times.binary_search_by_key(&counter, |(c, _)| *c).ok()?;
        self.times.get(i).map(|(_, at)| *at)
    }

    fn delay(&self, counter: u64, arrived_us: u64) -> Option<i64> {
        let sent = self
            .sent_at(counter)?
            .saturating_duration_since(self.started)
            .as_micros();
        i64::try_from(arrived_us).ok()?.checked_sub(i64::try_from(sent).ok()?)
    }

    /// From the last sample: the newest datagram itself is rarely one whose time was kept.
    fn round_trip(&self, now: Instant, report: &PathReport) -> Option<Duration> {
        let newest = self.sent_at(report.newest);
        let held = Duration::from_micros(u64::from(report.held_us));
        if let Some(at) = newest {
            return now.saturating_duration_since(at).checked_sub(held);
        }
        // The last sample arrived before the newest one; what lies between, the receiver's clock knows only for samples,
        // so the newest sent at or before it gives an upper bound that is near enough within one burst.
        let i = self.times.partition_point(|(c, _)| *c <= report.newest);
        let (c, at) = self.times.get(i.checked_sub(1)?)?;
        (report.newest - c < SAMPLE_EVERY).then(|| now.saturating_duration_since(*at).saturating_sub(held))
    }

    /// Highest counter plus one of which the peer said that it came.
    pub fn reported(&self) -> u64 {
        self.reported
    }

    /// Round trip of the last report that told one.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Share of datagrams lost of late, 0 to 1: over about [`LOSS_FADES`], as far as reported. A single loss counts for so
    /// long, a few for twice as long.
    pub fn recent_loss(&self) -> f64 {
        let (all, lost) = self.recent;
        if lost < LOSS_COUNTS { 0.0 } else { (lost / all).min(1.0) }
    }

    /// Datagrams lost, as far as reported.
    pub fn lost(&self) -> u64 {
        u64::try_from(self.lost).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_delay_and_round_trip_come_out_as_they_went_in() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let (mut tx, mut rx) = (Sender::new(start), Receiver::new(start + ms(7)));
        let (mut counter, mut reports) = (0u64, 0);
        for step in 1..=400u64 {
            let sent = start + ms(step);
            tx.handle_sent(sent, counter, 16);
            // 30 ms there, from the 200th ms on 50 ms: a queue. One in 16 is lost.
            let delay = if step >= 200 { ms(50) } else { ms(30) };
            for c in counter..counter + 16 {
                if c % 16 != 5 {
                    rx.handle(sent + delay, c, 1_000);
                }
            }
            counter += 16;
            let there = sent + delay;
            if let Some(r) = rx.poll_transmit(there, Duration::ZERO) {
                let p = tx.handle_report(there + ms(20), counter, r).unwrap();
                reports += 1;
                assert_eq!(p.rtt, Some(delay + ms(20)), "{step}");
                let (least, mean) = p.delay_us.unwrap();
                let delay = i64::try_from(delay.as_micros()).unwrap() - 7_000;
                assert!(
                    mean <= delay && least <= mean && least >= 23_000,
                    "{step}: {least} {mean}"
                );
                assert!(p.came_bytes == p.came * 1_000 && p.largest == 1_000);
                assert!(p.lost as u64 * 15 <= p.came + 15, "{p:?}");
            }
        }
        assert!((7..=9).contains(&reports), "{reports}: one each 50 ms");
        assert!((300..=400).contains(&tx.lost()), "{}", tx.lost());
        assert_eq!(rx.totals().0, 400 * 15);
    }

    #[test]
    fn loss_of_late_fades_and_probes_that_are_too_large_are_none() {
        let now = Instant::now();
        let mut tx = Sender::new(now);
        let report = |newest: u64, datagrams: u64| PathReport {
            newest,
            datagrams,
            bytes: datagrams,
            ..PathReport::default()
        };
        tx.handle_sent(now, 0, 10_000);
        // Two probes: no frames, whatever became of them.
        [500, 501].into_iter().for_each(|c| tx.handle_aside(c));
        let p = tx.handle_report(now, 10_000, report(999, 998)).unwrap();
        assert_eq!((p.lost, tx.lost(), tx.recent_loss()), (0, 0, 0.0));
        tx.handle_report(now, 10_000, report(1_999, 1_978)).unwrap();
        assert!(
            tx.lost() == 20 && (tx.recent_loss() - 0.01).abs() < 1e-4,
            "{}",
            tx.recent_loss()
        );
        let later = now + 4 * LOSS_FADES;
        tx.handle_report(later, 10_000, report(2_999, 2_978)).unwrap();
        assert!(tx.recent_loss() < 0.001 && tx.lost() == 20, "{}", tx.recent_loss());
        let much_later = later + LOSS_FADES;
        tx.handle_report(much_later, 10_000, report(2_999, 2_978)).unwrap();
        assert_eq!(tx.recent_loss(), 0.0);
        let later = much_later;
        // What came late after all counts back, and never below nothing.
        tx.handle_report(later, 10_000, report(3_000, 3_000)).unwrap();
        assert_eq!(tx.recent_loss(), 0.0);
    }

    #[test]
    fn lying_and_late_reports_are_refused() {
        let now = Instant::now();
        let mut tx = Sender::new(now);
        tx.handle_sent(now, 0, 100);
        let good = PathReport {
            newest: 50,
            datagrams: 40,
            bytes: 4_000,
            ..PathReport::default()
        };
        for bad in [
            PathReport {
                newest: 100,
                ..good.clone()
            },
            PathReport {
                datagrams: 101,
                ..good.clone()
            },
            PathReport {
                newest: u64::MAX,
                datagrams: u64::MAX,
                bytes: u64::MAX,
                ..good.clone()
            },
        ] {
            assert_eq!(tx.handle_report(now, 100, bad), None);
        }
        assert_eq!(
            tx.handle_report(now, 100, good.clone()).map(|p| (p.came, p.lost)),
            Some((40, 11))
        );
        let older = PathReport {
            newest: 49,
            ..good.clone()
        };
        assert_eq!(tx.handle_report(now, 100, older), None);
        let late_arrivals = PathReport { datagrams: 51, ..good };
        assert_eq!(tx.handle_report(now, 100, late_arrivals).map(|p| p.lost), Some(-11));
        assert_eq!(tx.lost(), 0);
        for n in 0..20_000 {
            tx.handle_sent(now, n * 16, 16);
        }
        assert!(tx.times.len() <= REMEMBERED);
    }

    #[test]
    fn silence_is_not_reported_and_samples_are_bounded() {
        let now = Instant::now();
        let mut rx = Receiver::new(now);
        assert_eq!((rx.poll_timeout(), rx.poll_transmit(now, Duration::ZERO)), (None, None));
        rx.handle(now, 1, 10);
        assert!(
            rx.poll_transmit(now, Duration::ZERO).is_some(),
            "the first is reported at once"
        );
        assert_eq!(rx.poll_timeout(), None);
        for c in 0..10_000 {
            rx.handle(now, c, 10);
        }
        assert_eq!(rx.poll_timeout(), Some(now + REPORT_EVERY));
        assert_eq!(
            rx.poll_transmit(now + REPORT_EVERY, Duration::ZERO)
                .unwrap()
                .samples
                .len(),
            MAX_SAMPLES
        );
    }
    #[test]
    fn what_is_no_frame_counts_neither_as_come_nor_as_lost() {
        let now = Instant::now();
        let mut tx = Sender::new(now);
        let mut came = 0;
        for round in 0..50u64 {
            // Of twenty counters five are messages, in two runs, and three frames are lost.
            let first = round * 20;
            for c in first..first + 20 {
                if [0, 1, 7, 8, 9].contains(&(c - first)) {
                    tx.handle_aside(c);
                } else {
                    tx.handle_sent(now, c, 1);
                }
            }
            came += 12;
            let report = PathReport {
                newest: first + 18,
                datagrams: came,
                ..PathReport::default()
            };
            let p = tx.handle_report(now, first + 20, report).unwrap();
            assert_eq!(p.came, 12);
            // The last of each round is not known of yet.
            assert_eq!(p.lost, if round == 0 { 2 } else { 3 });
        }
        assert!(tx.aside.len() <= 1);
        for c in 0..1_000_000 {
            tx.handle_aside(5_000 + c * 2);
        }
        assert_eq!(tx.aside.len(), REMEMBERED);
        tx.handle_proof(9_999);
        assert_eq!(tx.reported(), 10_000);
    }

    #[test]
    fn a_thread_that_waited_for_a_processor_tells_no_arrivals() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut rx = Receiver::new(start);
        let mut samples = |step: u64, waited: Duration| {
            let now = start + ms(100 * step);
            (0..32).for_each(|c| rx.handle(now, 32 * step + c, 1_000));
            let report = rx.poll_transmit(now + REPORT_EVERY, waited).unwrap();
            assert_eq!(
                (report.newest, report.datagrams),
                (32 * step + 31, 32 * (step + 1)),
                "the rest is told"
            );
            report.samples.len()
        };
        assert_eq!(samples(0, ms(9)), 2);
        assert_eq!(samples(1, ms(18)), 2, "what it waited before is told already");
        assert_eq!(samples(2, ms(48)), 0);
        assert_eq!(samples(3, ms(50)), 2, "once, and forgotten");
    }
}
