//! How guests are held to their slices: which mechanism, and what it is told. Paper: §3.2 (periodic real-time tasks,
//! proportional shares, SIGSTOP and SIGCONT, behind one schedule).
//!
//! It touches nothing; `io::enforce` does. [`choose`] says which mechanism a slice gets and why; [`Throttle`] is the closed
//! loop behind SIGSTOP; [`cgroup`] says what is written into which file.

pub mod cgroup;
mod throttle;

pub use throttle::{Signal, Throttle};

use crate::policy::EnforcerChoice;
use std::fmt;

/// A mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// SCHED_DEADLINE: the kernel keeps floor and ceiling.
    Deadline,
    /// Quota, weight, memory and freezer of cgroup v2.
    CgroupV2,
    /// The same of cgroup v1.
    CgroupV1,
    /// SIGSTOP and SIGCONT by a loop that reads the process's clock.
    Sigstop,
}

impl Backend {
    /// Its name in tables and queries.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::CgroupV2 => "cgroup-v2",
            Self::CgroupV1 => "cgroup-v1",
            Self::Sigstop => "sigstop",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the machine grants this node: `Err` says why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// SCHED_DEADLINE may be set.
    pub deadline: Result<(), String>,
    /// Groups can be made below this folder.
    pub v2: Result<std::path::PathBuf, String>,
    /// Groups can be made below these folders, one for each controller.
    pub v1: Result<cgroup::V1, String>,
}

/// A mechanism and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub backend: Backend,
    /// Why not a better one; empty: it is what was wanted.
    pub why: String,
}

/// Chooses for one guest. `reserved`: its slice is promised, which only SCHED_DEADLINE keeps.
pub fn choose(found: &Found, wanted: EnforcerChoice, reserved: bool) -> Choice {
    let mut why = Vec::new();
    if reserved || wanted == EnforcerChoice::Deadline {
        match &found.deadline {
            Ok(()) => return Choice::of(Backend::Deadline, &why),
            Err(e) if reserved => why.push(format!("the slice is only a ceiling, not promised: SCHED_DEADLINE {e}")),
            Err(e) => why.push(format!("SCHED_DEADLINE {e}")),
        }
    }
    if wanted != EnforcerChoice::Sigstop {
        match (&found.v2, &found.v1) {
            (Ok(_), _) => return Choice::of(Backend::CgroupV2, &why),
            (Err(v2), Ok(_)) => {
                why.push(format!("cgroup v2 {v2}"));
                return Choice::of(Backend::CgroupV1, &why);
            }
            (Err(v2), Err(v1)) => why.extend([format!("cgroup v2 {v2}"), format!("cgroup v1 {v1}")]),
        }
    }
    Choice::of(Backend::Sigstop, &why)
}

impl Choice {
    fn of(backend: Backend, why: &[String]) -> Self {
        Self {
            backend,
            why: why.join("; "),
        }
    }
}

#[cfg(test)]
#[path = "../tests/enforce.rs"]
mod tests;
