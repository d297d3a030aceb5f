//! SCHED_DEADLINE on the threads of a guest's virtual processors. Source: sched(7), sched_setattr(2),
//! Documentation/scheduler/sched-deadline.rst.

use super::Order;
use std::{fs, io, time::Duration};

/// `struct sched_attr` as Linux 3.14 has it.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SCHED_OTHER: u32 = 0;
const SCHED_DEADLINE: u32 = 6;
/// Threads that a virtual processor starts are ordinary ones.
const RESET_ON_FORK: u64 = 1;

fn setattr(tid: u32, attr: &SchedAttr) -> io::Result<()> {
    // SAFETY: the attribute is a local of the size that it states, and the kernel only reads it.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, std::ptr::from_ref(attr), 0u32) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn attr(runtime: Duration, period: Duration) -> SchedAttr {
    let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    SchedAttr {
        size: 48,
        policy: SCHED_DEADLINE,
        flags: RESET_ON_FORK,
        runtime: ns(runtime),
        deadline: ns(period),
        period: ns(period),
        ..SchedAttr::default()
    }
}

/// Whether this process may use it, tried on a thread that ends at once.
pub(super) fn try_it() -> Result<(), String> {
    let tried = std::thread::spawn(|| setattr(0, &attr(Duration::from_millis(1), Duration::from_millis(100)))).join();
    match tried {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) if e.raw_os_error() == Some(libc::EPERM) => {
            Err("needs CAP_SYS_NICE: run the node as root, or setcap cap_sys_nice+ep on it".into())
        }
        Ok(Err(e)) => Err(format!("is refused by the kernel: {e}")),
        Err(_) => Err("could not be tried".into()),
    }
}

/// Threads of QEMU that are virtual processors: it names them `CPU 0/KVM` or `CPU 0/TCG`.
fn vcpu_threads(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let named = |t: &fs::DirEntry| fs::read_to_string(t.path().join("comm")).is_ok_and(|c| c.starts_with("CPU "));
    let ids = tasks
        .flatten()
        .filter(named)
        .filter_map(|t| t.file_name().to_str()?.parse().ok());
    ids.collect()
}

/// Gives each virtual processor its part of the slice.
pub(super) fn set(order: &Order) -> io::Result<()> {
    let threads = vcpu_threads(order.pid);
    if threads.is_empty() {
        return Err(io::Error::other("it has no threads of virtual processors yet"));
    }
    if order.slice.held.is_some() {
        return Ok(());
    }
    let period = order.slice.period;
    let each = u64::from(order.slice.cpu.0) / threads.len() as u64;
    let runtime = Duration::from_nanos(u64::try_from(period.as_nanos()).unwrap_or(u64::MAX) / 1_000 * each);
    for (i, tid) in threads.iter().enumerate() {
        if let Err(e) = setattr(*tid, &attr(runtime, period)) {
            // All or none: half a promise helps nobody.
            threads[..i].iter().for_each(|t| ordinary(*t));
            return Err(e);
        }
    }
    Ok(())
}

fn ordinary(tid: u32) {
    let plain = SchedAttr {
        size: 48,
        policy: SCHED_OTHER,
        nice: crate::defaults::GUEST_NICE,
        ..SchedAttr::default()
    };
    if let Err(e) = setattr(tid, &plain) {
        tracing::debug!(tid, error = %e, "a thread keeps its deadline");
    }
}

/// Takes it back.
pub(super) fn clear(pid: u32) {
    vcpu_threads(pid).into_iter().for_each(ordinary);
}
