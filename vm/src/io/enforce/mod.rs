//! Holds guests to their slices: groups, deadlines and signals, as `enforce` says.
//!
//! [`Enforcer::apply`] is idempotent and is called with every guest whenever something changed, and every second. A guest
//! that is not among the orders is let go. If the node dies, quota, weight and deadline stay as they are; a guest that
//! stood still by SIGSTOP is let go by a dead-man, so nothing is frozen for good.

mod deadline;
mod groups;
mod signals;

use crate::{
    enforce::{Backend, Choice, Found, choose},
    policy::{Plan, Slice},
};
use groups::Groups;
use signals::Signals;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use wire::{ids::GuestId, units::ByteSize};

pub use signals::{Gate, Opened};

/// One guest and what it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its process.
    pub pid: u32,
    /// Its virtual processors.
    pub cpus: u16,
    /// Its memory.
    pub memory: ByteSize,
    /// Its slice.
    pub slice: Slice,
}

/// How a guest is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// By what.
    pub backend: Backend,
    /// Why not by something better, and what went wrong.
    pub why: String,
    /// Its slice.
    pub slice: Slice,
}

/// Where the machine's control files are.
#[derive(Clone, Debug)]
pub struct EnforcerConfig {
    /// The root of everything; another only in tests.
    pub root: PathBuf,
    /// Name of the group of all guests, its own for each node.
    pub name: String,
}

/// Holds guests to their slices.
pub struct Enforcer {
    found: Found,
    groups: Mutex<Groups>,
    signals: Arc<Signals>,
    held: Mutex<BTreeMap<GuestId, (u32, Held)>>,
}

impl std::fmt::Debug for Enforcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enforcer")
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Enforcer {
    /// Looks at what the machine grants. Blocks for a few milliseconds.
    pub fn new(config: &EnforcerConfig) -> Self {
        let (v2, v1) = groups::look(&config.root, &config.name);
        let found = Found {
            deadline: deadline::try_it(),
            v2,
            v1,
        };
        Self {
            groups: Mutex::new(Groups::new(&found, &config.name)),
            found,
            signals: Arc::new(Signals::default()),
            held: Mutex::default(),
        }
    }

    /// What the machine grants.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Makes it so. Blocks on files of the kernel; call it from a blocking task.
    pub fn apply(&self, plan: &Plan, orders: &[Order]) {
        let mut held = lock(&self.held);
        let mut groups = lock(&self.groups);
        if !orders.is_empty() || !held.is_empty() {
            groups.all(plan);
        }
        let gone: Vec<GuestId> = held
            .keys()
            .filter(|id| !orders.iter().any(|o| o.slice.id == **id))
            .copied()
            .collect();
        for id in gone {
            if let Some((pid, was)) = held.remove(&id) {
                self.release(&mut groups, id, pid, was.backend);
            }
        }
        for order in orders {
            let id = order.slice.id;
            let choice = choose(&self.found, plan.enforcer, order.slice.reserved);
            match held.get(&id) {
                Some((pid, was)) if *pid == order.pid && was.slice == order.slice && was.backend == choice.backend => {
                    continue;
                }
                Some((pid, was)) if *pid != order.pid || was.backend != choice.backend => {
                    let (pid, backend) = (*pid, was.backend);
                    self.release(&mut groups, id, pid, backend);
                }
                _ => {}
            }
            held.insert(id, (order.pid, self.hold(&mut groups, order, choice)));
        }
    }

    /// Holds one guest; what a mechanism refuses the next one does.
    fn hold(&self, groups: &mut Groups, order: &Order, choice: Choice) -> Held {
        let mut why = choice.why;
        let mut note = |e: String| {
            if !why.is_empty() {
                why.push_str("; ");
            }
            why.push_str(&e);
        };
        let mut backend = choice.backend;
        if backend == Backend::Deadline {
            // Its other threads, and the freezer, are the group's.
            let grouped = groups.guest(order);
            match deadline::set(order) {
                Ok(()) if order.slice.held.is_none() || grouped.is_ok() => {}
                Ok(()) => self.signals.set(order),
                Err(e) => {
                    note(format!("SCHED_DEADLINE was refused: {e}"));
                    backend = groups.backend().unwrap_or(Backend::Sigstop);
                }
            }
        }
        if matches!(backend, Backend::CgroupV1 | Backend::CgroupV2)
            && let Err(e) = groups.guest(order)
        {
            note(format!("its group was refused: {e}"));
            backend = Backend::Sigstop;
        }
        if backend == Backend::Sigstop {
            self.signals.set(order);
        }
        tracing::debug!(guest = %order.slice.id, %backend, cpu = %order.slice.cpu, held = ?order.slice.held, "held to its slice");
        Held {
            backend,
            why,
            slice: order.slice.clone(),
        }
    }

    fn release(&self, groups: &mut Groups, id: GuestId, pid: u32, backend: Backend) {
        self.signals.remove(id);
        if backend == Backend::Deadline {
            deadline::clear(pid);
        }
        groups.remove(id);
    }

    /// How a guest is held now.
    pub fn held(&self, id: GuestId) -> Option<Held> {
        lock(&self.held).get(&id).map(|(_, h)| h.clone())
    }

    /// What lets a guest answer while its monitor is needed.
    pub fn gate(&self) -> Gate {
        Gate::new(Arc::clone(&self.signals))
    }

    /// Lets every guest go: nothing that this node did outlasts the policy.
    pub fn release_all(&self) {
        let mut held = lock(&self.held);
        let mut groups = lock(&self.groups);
        for (id, (pid, was)) in std::mem::take(&mut *held) {
            self.release(&mut groups, id, pid, was.backend);
        }
    }
}

/// CPU time that a process has used, nanoseconds, dead threads included.
pub fn cpu_time(pid: u32) -> Option<u64> {
    signals::clock(pid)
}

#[cfg(test)]
#[path = "../../tests/enforced.rs"]
mod tests;
