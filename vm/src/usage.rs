//! Counting what guests use, and agreeing on it. Paper: §2.2 (usage is accounted for).
//!
//! It signs nothing and sends nothing. [`Meter`] is the host's count of one guest: it only grows, over restarts of guest and
//! node. [`judge`] is the user's side: whether a receipt is what it can be, so that a host cannot invent.

use serde::{Deserialize, Serialize};
use wire::{
    ids::{GuestId, NodeId},
    units::{ByteSize, UnixMillis},
    usage::Receipt,
};

/// Clocks and sampling: a receipt may be above what is possible by this part.
const TOLERANCE: f64 = 1.01;
/// Start-up and rounding, seconds of all processors.
const SLACK_S: f64 = 2.0;

/// One reading of what a guest has used since its process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Its process; none: it does not run.
    pub pid: Option<u32>,
    /// CPU time of that process, nanoseconds.
    pub cpu_ns: u64,
    /// Bytes that its port took from it.
    pub sent: u64,
    /// Bytes that its port gave it.
    pub received: u64,
}

/// The host's count of one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    guest: GuestId,
    user: NodeId,
    cpus: u16,
    memory: ByteSize,
    since: UnixMillis,
    until: UnixMillis,
    seq: u32,
    cpu_ns: u64,
    memory_mib_ms: u64,
    sent: u64,
    received: u64,
    /// Last reading, so that only what is new counts; a process of another id begins at nothing.
    pid: Option<u32>,
    last: (u64, u64, u64),
}

/// What is new since `was`, of a counter that begins anew at nothing.
fn new(now: u64, was: u64) -> u64 {
    if now >= was { now - was } else { now }
}

impl Meter {
    /// Begins to count.
    pub fn new(guest: GuestId, user: NodeId, cpus: u16, memory: ByteSize, now: UnixMillis) -> Self {
        Self {
            guest,
            user,
            cpus,
            memory,
            since: now,
            until: now,
            seq: 0,
            cpu_ns: 0,
            memory_mib_ms: 0,
            sent: 0,
            received: 0,
            pid: None,
            last: (0, 0, 0),
        }
    }

    /// Takes a reading.
    pub fn count(&mut self, now: UnixMillis, r: &Reading) {
        let ms = u64::try_from(now.since(self.until).as_millis()).unwrap_or_default();
        if r.pid.is_some() && self.pid.is_some() {
            self.memory_mib_ms = self
                .memory_mib_ms
                .saturating_add((self.memory.0 >> 20).saturating_mul(ms));
        }
        if r.pid != self.pid {
            self.last.0 = 0;
        }
        if r.pid.is_some() {
            self.cpu_ns = self.cpu_ns.saturating_add(new(r.cpu_ns, self.last.0));
            self.last.0 = r.cpu_ns;
        }
        self.sent = self.sent.saturating_add(new(r.sent, self.last.1));
        self.received = self.received.saturating_add(new(r.received, self.last.2));
        (self.last.1, self.last.2) = (r.sent, r.received);
        // A guest that does not run uses nothing: its count ends with its process.
        if r.pid.is_some() || self.pid.is_some() {
            self.until = self.until.max(now);
        }
        self.pid = r.pid;
    }

    /// A receipt of all so far; each has the next number.
    pub fn receipt(&mut self, host: NodeId, last: bool) -> Receipt {
        self.seq = self.seq.saturating_add(1);
        Receipt {
            guest: self.guest,
            host,
            user: self.user,
            seq: self.seq,
            since: self.since,
            until: self.until,
            cpus: self.cpus,
            cpu_ns: self.cpu_ns,
            memory_mib_s: self.memory_mib_ms / 1_000,
            sent: self.sent,
            received: self.received,
            last,
        }
    }
}

/// Why a receipt is not agreed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dispute {
    /// It is about a guest of somebody else, or that ran elsewhere.
    #[error("guest {0} is not this node's, or did not run there")]
    NotOurs(GuestId),
    /// An older number came after a newer one.
    #[error("receipt {seq} is older than {known}, which is agreed")]
    Old {
        /// Its number.
        seq: u32,
        /// The newest that is agreed.
        known: u32,
    },
    /// A sum became smaller, or the same number says something else.
    #[error("its {0} is not what was agreed before and may only grow")]
    Shrank(&'static str),
    /// More than the guest can have used.
    #[error("its {0} is more than the guest can have used in that time")]
    Impossible(&'static str),
}

/// Whether the user's node signs a receipt. `before`: the newest that it signed of this guest on this host; `memory`: what the
/// guest was started with.
pub fn judge(r: &Receipt, before: Option<&Receipt>, cpus: u16, memory: ByteSize) -> Result<(), Dispute> {
    if let Some(b) = before {
        if r == b {
            return Ok(());
        }
        if r.seq <= b.seq {
            return match r.seq == b.seq {
                true => Err(Dispute::Shrank("content")),
                false => Err(Dispute::Old {
                    seq: r.seq,
                    known: b.seq,
                }),
            };
        }
        let grows = [
            ("time", r.until.0 >= b.until.0 && r.since == b.since),
            ("CPU time", r.cpu_ns >= b.cpu_ns),
            ("memory", r.memory_mib_s >= b.memory_mib_s),
            ("sent bytes", r.sent >= b.sent),
            ("received bytes", r.received >= b.received),
        ];
        if let Some((what, _)) = grows.iter().find(|g| !g.1) {
            return Err(Dispute::Shrank(what));
        }
    }
    let seconds = r.until.since(r.since).as_secs_f64() * TOLERANCE + SLACK_S;
    // Beside its processors QEMU has threads of its own: disk, network, and the monitor.
    if r.cpus > cpus || r.cpu_ns as f64 / 1e9 > seconds * f64::from(cpus + 1) {
        return Err(Dispute::Impossible("CPU time"));
    }
    if r.memory_mib_s as f64 > seconds * (memory.0 >> 20) as f64 {
        return Err(Dispute::Impossible("memory"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEM: ByteSize = ByteSize(512 << 20);

    fn meter() -> Meter {
        Meter::new(GuestId([1; 16]), NodeId([2; 32]), 1, MEM, UnixMillis(0))
    }

    fn reading(pid: u32, cpu_ms: u64, sent: u64) -> Reading {
        Reading {
            pid: Some(pid),
            cpu_ns: cpu_ms * 1_000_000,
            sent,
            received: sent * 2,
        }
    }

    #[test]
    fn sums_grow_over_restarts_of_guest_and_node() {
        let mut m = meter();
        m.count(UnixMillis(0), &reading(7, 0, 0));
        m.count(UnixMillis(1_000), &reading(7, 800, 50));
        m.count(
            UnixMillis(2_000),
            &Reading {
                sent: 50,
                received: 100,
                ..Reading::default()
            },
        );
        m.count(UnixMillis(3_000), &reading(8, 100, 10));
        // The node is killed and reads its meter again: the process is the same, the port is new.
        let mut m: Meter = serde_json::from_str(&serde_json::to_string(&m).unwrap()).unwrap();
        m.count(UnixMillis(4_000), &reading(8, 300, 5));
        let r = m.receipt(NodeId([3; 32]), false);
        assert_eq!(
            (r.cpu_ns / 1_000_000, r.sent, r.received, r.memory_mib_s),
            (1_100, 65, 130, 1_024)
        );
        assert_eq!((r.seq, r.until), (1, UnixMillis(4_000)));
    }

    #[test]
    fn fault_33_lost_repeated_late_inflated_and_refused_receipts() {
        let mut m = meter();
        let mut all = Vec::new();
        for s in 0..5 {
            m.count(UnixMillis(s * 10_000), &reading(7, s * 9_000, s * 100));
            all.push(m.receipt(NodeId([3; 32]), false));
        }
        let ok = |r: &Receipt, b: Option<&Receipt>| judge(r, b, 1, MEM);
        assert_eq!(ok(&all[4], None), Ok(()), "those before were lost");
        assert_eq!(ok(&all[4], Some(&all[4])), Ok(()), "it came twice");
        assert_eq!(ok(&all[2], Some(&all[4])), Err(Dispute::Old { seq: 3, known: 5 }));
        let change = |f: &dyn Fn(&mut Receipt)| {
            let mut r = all[4].clone();
            f(&mut r);
            ok(&r, Some(&all[3]))
        };
        assert_eq!(
            change(&|r| r.cpu_ns = 120_000_000_000),
            Err(Dispute::Impossible("CPU time"))
        );
        assert_eq!(
            change(&|r| r.memory_mib_s = 1 << 40),
            Err(Dispute::Impossible("memory"))
        );
        assert_eq!(change(&|r| r.cpus = 64), Err(Dispute::Impossible("CPU time")));
        assert_eq!(change(&|r| r.sent = 0), Err(Dispute::Shrank("sent bytes")));
        assert_eq!(change(&|r| r.since = UnixMillis(1)), Err(Dispute::Shrank("time")));
        assert_eq!(change(&|r| r.seq = 4), Err(Dispute::Shrank("content")));
        // A node that refuses to sign loses nothing for the host: the next receipt contains this one.
        assert!(all[4].cpu_ns > all[3].cpu_ns);
    }

    proptest! {
        #[test]
        fn an_honest_host_is_never_disputed(steps in prop::collection::vec((1..10_000u64, 0..1_000u64, any::<bool>(), 0..1_000_000u64), 1..40)) {
            let (mut m, mut at, mut pid, mut cpu, mut sent) = (meter(), 0, 1, 0, 0);
            let mut before: Option<Receipt> = None;
            for (ms, share, restarts, bytes) in steps {
                if restarts {
                    (pid, cpu) = (pid + 1, 0);
                }
                at += ms;
                cpu += ms * share / 1_000;
                sent += bytes;
                m.count(UnixMillis(at), &reading(pid, cpu, sent));
                let r = m.receipt(NodeId([3; 32]), false);
                prop_assert_eq!(judge(&r, before.as_ref(), 1, MEM), Ok(()));
                before = Some(r);
            }
        }
    }
}
