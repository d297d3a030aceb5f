//! The closed loop of SIGSTOP: one thread for all guests, started with the first one.

use super::{Order, lock};
use crate::enforce::{Signal, Throttle};
use rustix::{
    fd::OwnedFd,
    process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal},
};
use std::{
    collections::BTreeMap,
    io::Write,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, Weak},
    time::{Duration, Instant},
};
use wire::ids::GuestId;

/// After a monitor was needed its guest runs on so long: the next question often follows.
const LINGER: Duration = Duration::from_millis(20);

struct Target {
    pid: u32,
    fd: OwnedFd,
    throttle: Throttle,
    next: Instant,
}

#[derive(Default)]
struct State {
    targets: BTreeMap<GuestId, Target>,
    /// How many need a guest's monitor, and until when it runs on after the last.
    open: BTreeMap<GuestId, (u32, Option<Instant>)>,
    running: bool,
    dead_man: Option<DeadMan>,
}

/// All guests that are held by signals.
#[derive(Default)]
pub(super) struct Signals {
    state: Mutex<State>,
    wake: Condvar,
}

/// CPU time that a process has used, nanoseconds.
pub(super) fn clock(pid: u32) -> Option<u64> {
    let pid = libc::pid_t::try_from(pid).ok()?;
    let (mut clock, mut at) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both calls only write to the locals whose addresses they get.
    let done =
        unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) == 0 && libc::clock_gettime(clock, &raw mut at) == 0 };
    let ns = u64::try_from(at.tv_sec)
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(u64::try_from(at.tv_nsec).ok()?);
    if done { ns } else { None }
}

impl Signals {
    /// Holds a guest to its slice, or takes up its new one.
    pub(super) fn set(self: &Arc<Self>, order: &Order) {
        let (share, period) = (order.slice.cpu, order.slice.period.max(Duration::from_millis(20)));
        let mut state = lock(&self.state);
        match state.targets.get_mut(&order.slice.id) {
            Some(t) if t.pid == order.pid => {
                t.throttle.set(share, period);
                t.next = Instant::now();
            }
            _ => {
                let raw = i32::try_from(order.pid).ok().and_then(Pid::from_raw);
                let Some(Ok(fd)) = raw.map(|p| pidfd_open(p, PidfdFlags::empty())) else {
                    return;
                };
                let target = Target {
                    pid: order.pid,
                    fd,
                    throttle: Throttle::new(share, order.cpus, period),
                    next: Instant::now(),
                };
                state.targets.insert(order.slice.id, target);
                if state.dead_man.is_none() {
                    state.dead_man = DeadMan::start();
                }
                if let Some(d) = &mut state.dead_man {
                    d.watch(order.pid);
                }
            }
        }
        if !state.running {
            state.running = true;
            let this = Arc::downgrade(self);
            let spawned = std::thread::Builder::new()
                .name("slices".into())
                .spawn(move || keep(&this));
            if let Err(e) = spawned {
                state.running = false;
                tracing::error!(error = %e, "guests cannot be held to their slices");
            }
        }
        drop(state);
        self.wake.notify_all();
    }

    /// Lets a guest go.
    pub(super) fn remove(&self, id: GuestId) {
        let removed = lock(&self.state).targets.remove(&id);
        if let Some(t) = removed {
            send(&t, Signal::Cont);
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.targets.values().for_each(|t| send(t, Signal::Cont));
    }
}

fn send(t: &Target, signal: Signal) {
    let signal = match signal {
        Signal::Stop => rustix::process::Signal::STOP,
        Signal::Cont => rustix::process::Signal::CONT,
    };
    // A process that has ended needs no signal; the next apply sees that it is gone.
    let _ = pidfd_send_signal(&t.fd, signal);
}

/// A loop that is late is a loop that lets guests run on: above them all, if that is allowed.
fn above_all() {
    let param = libc::sched_param { sched_priority: 10 };
    // SAFETY: a plain system call on this thread; the parameter is a local.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const param) };
    if done != 0 {
        tracing::debug!("the loop that holds guests runs at ordinary priority");
    }
}

/// The thread: wakes for the guest whose time has come, until nobody holds the signals any more.
fn keep(this: &Weak<Signals>) {
    above_all();
    while let Some(signals) = this.upgrade() {
        let mut state = lock(&signals.state);
        let now = Instant::now();
        let State { targets, open, .. } = &mut *state;
        open.retain(|_, (n, until)| *n > 0 || until.is_some_and(|u| u > now));
        for (id, t) in targets.iter_mut().filter(|(_, t)| t.next <= now) {
            let Some(used) = clock(t.pid) else {
                t.next = now + Duration::from_secs(1);
                continue;
            };
            let (signal, next) = t.throttle.handle_timeout(now, used, open.contains_key(id));
            t.next = next;
            if let Some(s) = signal {
                send(t, s);
            }
        }
        // Without a guest it looks twice a second whether the node still lives.
        let next = targets
            .values()
            .map(|t| t.next)
            .min()
            .unwrap_or(now + Duration::from_millis(500));
        let wait = next.saturating_duration_since(Instant::now());
        let (guard, _) = signals
            .wake
            .wait_timeout(state, wait)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(guard);
    }
}

/// Keeps a guest running while its monitor is needed, where standing still would silence it.
#[derive(Clone)]
pub struct Gate(Arc<Signals>);

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

/// As long as it lives the guest answers.
#[derive(Debug)]
pub struct Opened(Gate, GuestId);

impl Gate {
    pub(super) fn new(signals: Arc<Signals>) -> Self {
        Self(signals)
    }

    /// A gate that holds nobody back: for a node without a policy.
    pub fn none() -> Self {
        Self(Arc::default())
    }

    /// Lets the guest answer.
    pub fn open(&self, id: GuestId) -> Opened {
        let mut state = lock(&self.0.state);
        state.open.entry(id).or_default().0 += 1;
        if let Some(t) = state.targets.get_mut(&id) {
            t.next = Instant::now();
        }
        drop(state);
        self.0.wake.notify_all();
        Opened(self.clone(), id)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0.state);
        if let Some((n, until)) = state.open.get_mut(&self.1) {
            *n = n.saturating_sub(1);
            *until = Some(Instant::now() + LINGER);
        }
    }
}

/// A process that outlives this one and lets guests go that it left standing: a node that is killed freezes nobody.
struct DeadMan(Child);

impl DeadMan {
    fn start() -> Option<Self> {
        let script = "trap '' INT TERM HUP; p=; while read -r n; do p=\"$p $n\"; done; [ -z \"$p\" ] || kill -CONT $p";
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => Some(Self(child)),
            Err(e) => {
                tracing::warn!(error = %e, "if this node is killed, guests that stand still stay so until it is started again");
                None
            }
        }
    }

    fn watch(&mut self, pid: u32) {
        if let Some(pipe) = &mut self.0.stdin
            && let Err(e) = writeln!(pipe, "{pid}")
        {
            tracing::warn!(error = %e, "the dead-man of guests that stand still is gone");
        }
    }
}

impl Drop for DeadMan {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(pid: u32) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.trim().chars().next()
    }

    #[test]
    fn fault_30_a_node_that_is_killed_leaves_nobody_frozen() {
        let mut busy = Command::new("/bin/sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let (pid, end) = (busy.id(), Instant::now() + Duration::from_secs(30));
        let fd = pidfd_open(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), PidfdFlags::empty()).unwrap();
        pidfd_send_signal(&fd, rustix::process::Signal::STOP).unwrap();
        let mut man = DeadMan::start().unwrap();
        man.watch(pid);
        while state(pid) != Some('T') {
            assert!(Instant::now() < end, "not stopped");
        }
        // All that a killed node does: its end of the pipe closes.
        drop(man.0.stdin.take());
        while state(pid) == Some('T') {
            assert!(Instant::now() < end, "still frozen");
        }
        busy.kill().unwrap();
        busy.wait().unwrap();
    }
}
