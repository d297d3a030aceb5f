//! A path with one slow place, TCP-like flows, and a node's real fair queue and governor before it; virtual time.
//!
//! ```text
//! flows, pings -> LinkQueue -> Governor -> FIFO (rate, limit) -> distance, loss -> far end -> reports, acks
//! ```

use overlay::pace::{Governor, Report};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use tunnel::{Drops, packet::Packet, queue::LinkQueue};
use wire::frame::{Gso, GsoKind, LanTag, Offload, PartialCsum};

/// Step of time.
const STEP: Duration = Duration::from_micros(500);
const MSS: usize = 1_400;
const HEAD: usize = 54;
/// What a datagram adds on the wire.
const WIRE: usize = 80;
/// The flow number of pings.
const PING: u16 = u16::MAX;

/// The slow place and what is behind it.
#[derive(Clone, Debug)]
pub struct Path {
    /// Bits a second, from which second on.
    pub rates: Vec<(f64, f64)>,
    /// Queue of the slow place, seconds at the first rate.
    pub queue: f64,
    /// One way.
    pub distance: Duration,
    /// Chance of each datagram to be lost behind the slow place.
    pub loss: f64,
    /// The far clock runs so much faster.
    pub drift: f64,
}

/// A TCP-like sender: CUBIC's growth and its answer to loss, without the bytes.
struct Flow {
    link: usize,
    window: f64,
    threshold: f64,
    w_max: f64,
    epoch: Option<Instant>,
    inflight: usize,
    next: u32,
    expected: u32,
    recover: u32,
    last_ack: Instant,
    from: f64,
    until: f64,
    max: f64,
}

struct Wire {
    link: usize,
    flow: u16,
    seq: u32,
    len: usize,
    sent: Instant,
    counter: u64,
}

#[derive(Default)]
struct FarEnd {
    newest: u64,
    newest_sent: Option<Instant>,
    received: u64,
    bytes: u64,
    lost: u64,
    min: i64,
    sum: i64,
    since: Option<Instant>,
}

struct Link {
    queue: LinkQueue,
    governor: Option<Governor>,
    drops: Drops,
    counter: u64,
    far: FarEnd,
    delivered: u64,
}

enum Event {
    Arrive(Wire),
    Ack {
        flow: u16,
        seq: u32,
        len: usize,
        at: Instant,
    },
    Report {
        link: usize,
        report: Report,
        echo: Instant,
    },
}

/// What was measured from some second on.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    /// Round trips of pings above twice the distance, milliseconds, sorted.
    pub added: Vec<f64>,
    /// Bytes of inner frames delivered, for each link.
    pub bytes: Vec<u64>,
    /// Seconds that were measured.
    pub seconds: f64,
}

impl Figures {
    pub fn quantile(&self, q: f64) -> f64 {
        self.added[((self.added.len() - 1) as f64 * q) as usize]
    }

    /// Bits a second of all links.
    pub fn rate(&self) -> f64 {
        self.bytes.iter().sum::<u64>() as f64 * 8.0 / self.seconds
    }
}

pub struct Sim {
    path: Path,
    start: Instant,
    now: Instant,
    links: Vec<Link>,
    flows: Vec<Flow>,
    slow: VecDeque<Wire>,
    slow_bytes: usize,
    credit: f64,
    events: std::collections::BTreeMap<(Instant, u64), Event>,
    made: u64,
    random: u64,
    pings: Vec<(Instant, f64)>,
}

fn frame(flow: u16, seq: u32, len: usize) -> (Vec<u8>, Offload) {
    let mut f = vec![0; HEAD + len];
    f[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    f[14] = 0x45;
    f[16..18].copy_from_slice(&((HEAD - 14 + len) as u16).to_be_bytes());
    (f[22], f[23]) = (64, 6);
    f[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    f[34..36].copy_from_slice(&flow.to_be_bytes());
    f[38..42].copy_from_slice(&seq.to_be_bytes());
    f[46] = 0x50;
    let gso = (len > MSS).then_some(Gso {
        kind: GsoKind::Tcp4,
        ecn: false,
        size: MSS as u16,
    });
    let csum = Some(PartialCsum { start: 34, offset: 16 });
    (f, Offload { csum, gso })
}

impl Sim {
    /// `governed`: whether each link has a governor; `flows`: its link, from and until which second, largest window.
    pub fn new(path: Path, governed: &[bool], flows: &[(usize, f64, f64, f64)]) -> Self {
        let start = Instant::now();
        let link = |on: &bool| Link {
            queue: LinkQueue::new(7),
            governor: on.then(Governor::default),
            drops: Drops::default(),
            counter: 0,
            far: FarEnd::default(),
            delivered: 0,
        };
        let flow = |(link, from, until, max): &(usize, f64, f64, f64)| Flow {
            link: *link,
            window: 10.0 * MSS as f64,
            threshold: f64::INFINITY,
            w_max: 0.0,
            epoch: None,
            inflight: 0,
            next: 0,
            expected: 0,
            recover: 0,
            last_ack: start,
            from: *from,
            until: *until,
            max: *max,
        };
        Self {
            path,
            start,
            now: start,
            links: governed.iter().map(link).collect(),
            flows: flows.iter().map(flow).collect(),
            slow: VecDeque::new(),
            slow_bytes: 0,
            credit: 0.0,
            events: std::collections::BTreeMap::new(),
            made: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            pings: Vec::new(),
        }
    }

    fn seconds(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    fn rate(&self) -> f64 {
        let t = self.seconds();
        self.path.rates.iter().rev().find(|(from, _)| t >= *from).unwrap().1
    }

    fn event(&mut self, at: Instant, e: Event) {
        self.made += 1;
        self.events.insert((at, self.made), e);
    }

    /// Runs until this second and gives figures of what came after `from`.
    pub fn run(&mut self, from: f64, until: f64) -> Figures {
        let mut before: Vec<u64> = self.links.iter().map(|l| l.delivered).collect();
        let mut marked = false;
        while self.seconds() < until {
            if !marked && self.seconds() >= from {
                before = self.links.iter().map(|l| l.delivered).collect();
                marked = true;
            }
            self.step();
        }
        let at = self.start + Duration::from_secs_f64(from);
        let mut added: Vec<f64> = self.pings.iter().filter(|p| p.0 >= at).map(|p| p.1).collect();
        added.sort_by(f64::total_cmp);
        Figures {
            added,
            bytes: self.links.iter().zip(before).map(|(l, b)| l.delivered - b).collect(),
            seconds: until - from,
        }
    }

    /// The links' limits, bits a second.
    pub fn limits(&self) -> Vec<Option<f64>> {
        let limit = |l: &Link| l.governor.as_ref()?.estimate().limit.map(|b| b as f64 * 8.0);
        self.links.iter().map(limit).collect()
    }

    fn step(&mut self) {
        self.now += STEP;
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let event = entry.remove();
            self.handle(event);
        }
        for i in 0..self.flows.len() {
            self.offer(i);
        }
        // A ping every 20 ms on the first link.
        if (self.now - self.start).as_micros().is_multiple_of(20_000) {
            self.push(0, PING, self.now.duration_since(self.start).as_millis() as u32, 64);
        }
        (0..self.links.len()).for_each(|i| self.pump(i));
        self.serve();
    }

    fn offer(&mut self, i: usize) {
        let t = self.seconds();
        let now = self.now;
        let f = &mut self.flows[i];
        if t < f.from || t >= f.until {
            return;
        }
        if f.inflight > 0 && now - f.last_ack > Duration::from_secs(1) {
            // The retransmission timer.
            f.threshold = (f.window / 2.0).max(2.0 * MSS as f64);
            (f.window, f.inflight, f.epoch, f.last_ack) = (MSS as f64, 0, None, now);
            f.recover = f.next;
        }
        let space = (f.window.min(f.max) as usize).saturating_sub(f.inflight);
        let segments = (space / MSS).min(40);
        // As Linux sizes its super-frames: not below a part of the window.
        if segments == 0 || (segments < 4 && f.inflight > 4 * MSS) {
            return;
        }
        if f.inflight == 0 {
            f.last_ack = now;
        }
        let (link, seq) = (f.link, f.next);
        f.next = f.next.wrapping_add((segments * MSS) as u32);
        f.inflight += segments * MSS;
        self.push(link, i as u16, seq, segments * MSS);
    }

    fn push(&mut self, link: usize, flow: u16, seq: u32, len: usize) {
        let (f, o) = frame(flow, seq, len);
        let l = &mut self.links[link];
        l.queue
            .push(self.now, LanTag(1), &Packet::check(&f, o).unwrap(), false, &mut l.drops);
    }

    fn pump(&mut self, i: usize) {
        loop {
            let l = &mut self.links[i];
            let room = l.governor.as_mut().map_or(usize::MAX, |g| g.budget(self.now));
            if room == 0 {
                return;
            }
            let Some(q) = l.queue.pop(self.now, room, &mut l.drops) else {
                return;
            };
            let flow = u16::from_be_bytes([q.bytes[34], q.bytes[35]]);
            let seq = u32::from_be_bytes(q.bytes[38..42].try_into().unwrap());
            for (k, part) in q.bytes[HEAD..].chunks(MSS).enumerate() {
                l.counter += 1;
                if let Some(g) = &mut l.governor {
                    g.handle_sent(self.now, part.len() + WIRE);
                }
                let limit = (self.path.queue * self.path.rates[0].1 / 8.0) as usize;
                let w = Wire {
                    link: i,
                    flow,
                    seq: seq.wrapping_add((k * MSS) as u32),
                    len: part.len(),
                    sent: self.now,
                    counter: l.counter,
                };
                if self.slow_bytes + w.len + WIRE <= limit.max(3_000) {
                    self.slow_bytes += w.len + WIRE;
                    self.slow.push_back(w);
                }
            }
        }
    }

    fn serve(&mut self) {
        self.credit += self.rate() / 8.0 * STEP.as_secs_f64();
        while let Some(w) = self.slow.front() {
            let size = (w.len + WIRE) as f64;
            if self.credit < size {
                return;
            }
            self.credit -= size;
            self.slow_bytes -= w.len + WIRE;
            let Some(w) = self.slow.pop_front() else { return };
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            if (self.random >> 11) as f64 / (1u64 << 53) as f64 >= self.path.loss {
                let at = self.now + self.path.distance;
                self.event(at, Event::Arrive(w));
            }
        }
        self.credit = 0.0;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(w) => self.arrive(w),
            Event::Ack { flow, seq, len, at } => self.flows[usize::from(flow)].ack(self.now, seq, len, self.now - at),
            Event::Report { link, report, echo } => {
                let now = self.now;
                if let Some(g) = &mut self.links[link].governor {
                    g.handle_report(now, &report, Some(now - echo));
                }
            }
        }
    }

    fn arrive(&mut self, w: Wire) {
        let (now, distance) = (self.now, self.path.distance);
        let far_clock = (now - self.start).as_secs_f64() * (1.0 + self.path.drift);
        let delay = (far_clock * 1e6) as i64 - (w.sent - self.start).as_micros() as i64 - 123_456_789;
        let l = &mut self.links[w.link];
        l.delivered += (w.len + HEAD) as u64;
        let far = &mut l.far;
        let since = *far.since.get_or_insert(now);
        far.min = if far.received == 0 { delay } else { far.min.min(delay) };
        far.sum += delay;
        far.received += 1;
        far.bytes += (w.len + WIRE) as u64;
        far.lost += w.counter.saturating_sub(far.newest + 1);
        far.newest = w.counter;
        far.newest_sent = Some(w.sent);
        if now - since >= Duration::from_millis(100) {
            let report = Report {
                newest: far.newest,
                received: far.received,
                bytes: far.bytes,
                lost: far.lost,
                delay_min: far.min,
                delay_mean: far.sum / far.received as i64,
                duration: now - since,
            };
            let (newest, echo) = (far.newest, w.sent);
            *far = FarEnd {
                newest,
                since: Some(now),
                ..FarEnd::default()
            };
            let link = w.link;
            self.event(now + distance, Event::Report { link, report, echo });
        }
        if w.flow == PING {
            let sent = self.start + Duration::from_millis(u64::from(w.seq));
            let added = (now - sent).as_secs_f64() - distance.as_secs_f64();
            self.pings.push((sent, added * 1e3));
        } else {
            let e = Event::Ack {
                flow: w.flow,
                seq: w.seq,
                len: w.len,
                at: w.sent,
            };
            self.event(now + distance, e);
        }
    }
}

impl Flow {
    fn ack(&mut self, now: Instant, seq: u32, len: usize, rtt: Duration) {
        self.last_ack = now;
        let gap = seq.wrapping_sub(self.expected);
        if gap > u32::MAX / 2 {
            self.inflight = self.inflight.saturating_sub(len);
            return;
        }
        self.expected = seq.wrapping_add(len as u32);
        self.inflight = self.inflight.saturating_sub(len + gap as usize);
        if gap > 0 {
            // One answer to all losses of a round trip.
            if seq.wrapping_sub(self.recover) < u32::MAX / 2 {
                self.w_max = self.window;
                self.window = (self.window * 0.7).max(2.0 * MSS as f64);
                self.threshold = self.window;
                self.recover = self.next;
                self.epoch = Some(now);
            }
            return;
        }
        if self.window < self.threshold {
            self.window += len as f64;
            return;
        }
        let since = now - *self.epoch.get_or_insert(now);
        let m = MSS as f64;
        let k = (self.w_max / m * 0.3 / 0.4).max(0.0).cbrt();
        let t = since.as_secs_f64() + rtt.as_secs_f64();
        let cubic = (0.4 * (t - k).powi(3) + self.w_max / m) * m;
        let reno = self.window + m * len as f64 / self.window;
        let target = cubic.min(self.window * 1.5);
        self.window = if target > self.window {
            (self.window + (target - self.window) * len as f64 / self.window).max(reno)
        } else {
            self.window.max(reno.min(self.window + m * 0.01))
        };
        self.window = self.window.min(self.max.max(m));
    }
}
