//! A short slice of the processor, so that a thread that sleeps most of the time gets it at once when it wakes.
//!
//! Linux 6.12 and later take the slice that an ordinary thread asks for (sched_setattr(2), `sched_runtime`): whoever asks for
//! less runs earlier, and its share of the processor stays the same. Older kernels take the call and change nothing.

use std::{io, time::Duration};

/// `struct sched_attr` as Linux 3.14 has it.
#[repr(C)]
#[derive(Debug, Default)]
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

/// Bytes of it.
const SIZE: u32 = size_of::<SchedAttr>() as u32;
const SCHED_OTHER: u32 = 0;
/// Threads that this one starts are ordinary ones.
const RESET_ON_FORK: u64 = 1;

fn checked(done: libc::c_long) -> io::Result<()> {
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Of the thread that calls.
fn read() -> io::Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel writes at most `SIZE` bytes, which the local has; every bit pattern of it is a value.
    checked(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, std::ptr::from_mut(&mut attr), SIZE, 0u32) })?;
    Ok(attr)
}

/// Asks for a slice for the thread that calls, at the nice value that it has; the slice that it has now, zero where the kernel knows
/// none. A thread under another policy, which somebody chose, is left alone.
pub(super) fn ask(slice: Duration) -> io::Result<Duration> {
    let mut attr = read()?;
    if attr.policy == SCHED_OTHER {
        attr.size = SIZE;
        attr.flags |= RESET_ON_FORK;
        attr.runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: the attribute is a local of the size that it states, and the kernel only reads it.
        checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attr), 0u32) })?;
        attr = read()?;
    }
    Ok(Duration::from_nanos(attr.runtime))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const SLICE: Duration = Duration::from_micros(100);

    #[test]
    fn a_thread_gets_a_short_slice_and_those_that_it_starts_do_not() {
        let (got, before, after, child) = thread::spawn(|| {
            let before = read().unwrap();
            let got = ask(SLICE).unwrap();
            (
                got,
                before,
                read().unwrap(),
                thread::spawn(read).join().unwrap().unwrap(),
            )
        })
        .join()
        .unwrap();
        assert_eq!((after.policy, after.nice), (before.policy, before.nice));
        assert_eq!(child.policy, SCHED_OTHER);
        if before.runtime == 0 {
            eprintln!("skipped: this kernel has no slices of a thread's own, so there is nothing more to see");
            return;
        }
        assert_eq!(got, SLICE);
        assert_eq!(child.runtime, before.runtime, "only the thread that asked");
    }

    #[test]
    fn a_thread_of_another_policy_is_left_alone() {
        thread::spawn(|| {
            let idle = SchedAttr {
                size: SIZE,
                policy: 5,
                ..SchedAttr::default()
            };
            // SAFETY: the attribute is a local of the size that it states, and the kernel only reads it.
            checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&idle), 0u32) }).unwrap();
            ask(SLICE).unwrap();
            let after = read().unwrap();
            assert_eq!((after.policy, after.flags & RESET_ON_FORK), (5, 0));
        })
        .join()
        .unwrap();
    }
}
