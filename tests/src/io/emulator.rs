//! Links between namespaces: a TAP in each, and one thread that moves frames from one to the other through [`Netem`].
//!
//! The thread sleeps in `ppoll`, whose timeout has the precision of a kernel timer, and works in rounds of at least
//! `ROUND`, so that a stream of 100 Mb/s costs a few thousand wake-ups a second and not one a frame. A frame is
//! therefore late by at most one round.

use super::sh::timespec;
use crate::netem::{Counters, Netem, Params};
use anyhow::{Context, Result};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::Errno,
};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Shortest time between two rounds under load: 250 us is three full frames at 100 Mb/s and 1/40 of a link's delay.
const ROUND: Duration = Duration::from_micros(250);

/// Frames read from one TAP before the others get their turn.
const BURST: usize = 64;

/// Largest frame: MTU 9000, the Ethernet header and a VLAN tag, with room to see that none is larger.
const FRAME_MAX: usize = 9_216;

/// One direction: from a TAP, through the machine, to the other TAP.
struct Lane {
    from: Arc<File>,
    to: Arc<File>,
    netem: Netem<Box<[u8]>>,
    refused: u64,
}

struct Shared {
    lanes: Mutex<Vec<Lane>>,
    wake: OwnedFd,
    stop: std::sync::atomic::AtomicBool,
}

/// The thread and its links. Dropping it ends the thread and removes the TAPs.
pub struct Emulator {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    seed: u64,
}

/// A link of the emulator; both directions can be changed while frames pass.
#[derive(Clone)]
pub struct LinkHandle {
    shared: Arc<Shared>,
    /// Index of the lane from end A to end B; the other way follows.
    lane: usize,
}

impl Emulator {
    /// Starts the thread. `seed` determines every fault drawn on its links.
    pub fn start(seed: u64) -> Result<Self> {
        let shared = Arc::new(Shared {
            lanes: Mutex::new(Vec::new()),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            stop: std::sync::atomic::AtomicBool::new(false),
        });
        let thread = std::thread::Builder::new().name("netem".into()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared)
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
            seed,
        })
    }

    /// Joins two TAPs by a link that treats both directions as `params` say.
    pub fn link(&mut self, a: File, b: File, params: &Params) -> LinkHandle {
        let (a, b) = (Arc::new(a), Arc::new(b));
        let mut lanes = lock(&self.shared);
        let lane = lanes.len();
        for (from, to) in [(&a, &b), (&b, &a)] {
            // A large odd step keeps the streams of neighbouring lanes apart.
            self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            lanes.push(Lane {
                from: Arc::clone(from),
                to: Arc::clone(to),
                netem: Netem::new(params.clone(), self.seed),
                refused: 0,
            });
        }
        drop(lanes);
        wake(&self.shared);
        LinkHandle {
            shared: Arc::clone(&self.shared),
            lane,
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.shared.stop.store(true, std::sync::atomic::Ordering::Release);
        wake(&self.shared);
        if let Some(t) = self.thread.take() {
            t.join().ok();
        }
        // Handles may outlive the emulator; the TAPs go now.
        lock(&self.shared).clear();
    }
}

impl LinkHandle {
    /// Changes both directions.
    pub fn set(&self, params: &Params) {
        self.update(|_| params.clone());
    }

    /// Changes the direction towards the far end (`up`) or from it.
    pub fn set_one(&self, up: bool, params: Params) {
        if let Some(l) = lock(&self.shared).get_mut(self.lane + usize::from(!up)) {
            l.netem.handle_params(params);
        }
        wake(&self.shared);
    }

    /// Nothing passes any more, and what was under way is lost.
    pub fn cut(&self) {
        self.update(|p| Params { cut: true, ..p.clone() });
    }

    /// Undoes a cut.
    pub fn restore(&self) {
        self.update(|p| Params {
            cut: false,
            ..p.clone()
        });
    }

    /// Counters of the direction from end A to end B and of the other.
    pub fn counters(&self) -> (Counters, Counters) {
        let lanes = lock(&self.shared);
        let of = |i: usize| lanes.get(i).map(|l| l.netem.counters()).unwrap_or_default();
        (of(self.lane), of(self.lane + 1))
    }

    fn update(&self, f: impl Fn(&Params) -> Params) {
        let mut lanes = lock(&self.shared);
        for l in lanes.iter_mut().skip(self.lane).take(2) {
            let p = f(l.netem.params());
            l.netem.handle_params(p);
        }
        drop(lanes);
        wake(&self.shared);
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Vec<Lane>> {
    // A panic while holding the lock is a bug of the lab that its own test shows; the links stay usable.
    shared.lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(shared: &Shared) {
    // It can only fail if the counter is full, and then the thread is awake.
    rustix::io::write(&shared.wake, &1u64.to_ne_bytes()).ok();
}

fn run(shared: &Shared) {
    let mut buf = vec![0u8; FRAME_MAX];
    let mut readable: Vec<usize> = Vec::new();
    loop {
        let began = Instant::now();
        let (taps, next) = {
            let mut lanes = lock(shared);
            round(&mut lanes, &readable, &mut buf);
            let taps: Vec<_> = lanes.iter().map(|l| Arc::clone(&l.from)).collect();
            let next = lanes
                .iter()
                .filter_map(|l| l.netem.poll_timeout())
                .map(|(at, _)| at)
                .min();
            (taps, next)
        };
        if shared.stop.load(std::sync::atomic::Ordering::Acquire) {
            return;
        }
        rest(began);
        match wait(shared, &taps, next) {
            Ok(r) => readable = r,
            Err(e) => {
                super::lab::say(&format!("lab: the link emulator stopped: {e:#}"));
                return;
            }
        }
    }
}

/// Reads what the TAPs have and hands out what has arrived.
fn round(lanes: &mut [Lane], readable: &[usize], buf: &mut [u8]) {
    for i in readable {
        let Some(lane) = lanes.get_mut(*i) else { continue };
        for _ in 0..BURST {
            let Ok(n) = (&*lane.from).read(buf) else { break };
            let frame = buf.get(..n).unwrap_or_default();
            lane.netem.handle_frame(Instant::now(), frame.into(), n);
        }
    }
    let now = Instant::now();
    for lane in lanes {
        while let Some(frame) = lane.netem.poll_transmit(now) {
            // The far interface is down or full: the frame is lost there, as on a real machine.
            lane.refused += u64::from((&*lane.to).write(&frame).is_err());
        }
    }
}

/// Keeps rounds [`ROUND`] apart.
fn rest(began: Instant) {
    let left = ROUND.saturating_sub(began.elapsed());
    if !left.is_zero() {
        // Woken early is only a shorter round.
        poll(&mut [], Some(&timespec(left))).ok();
    }
}

/// Sleeps until a TAP is readable, a frame arrives, or a link changed; gives the lanes to read.
fn wait(shared: &Shared, taps: &[Arc<File>], next: Option<Instant>) -> Result<Vec<usize>> {
    let mut fds: Vec<PollFd<'_>> = taps.iter().map(|t| PollFd::new(t, PollFlags::IN)).collect();
    fds.push(PollFd::new(&shared.wake, PollFlags::IN));
    let timeout = next.map(|at| timespec(at.saturating_duration_since(Instant::now())));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(e) => return Err(e).context("ppoll"),
    }
    let woken = fds.pop().is_some_and(|w| w.revents().contains(PollFlags::IN));
    let ready = fds
        .iter()
        .enumerate()
        .filter(|(_, f)| f.revents().contains(PollFlags::IN));
    let ready = ready.map(|(i, _)| i).collect();
    drop(fds);
    if woken {
        // Only resets the counter; if it is zero already there is nothing to reset.
        rustix::io::read(&shared.wake, &mut [0u8; 8][..]).ok();
    }
    Ok(ready)
}
