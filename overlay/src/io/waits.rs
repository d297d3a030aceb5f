//! How long a thread waited for a processor while it could have run.

use rustix::fs::{self, Mode, OFlags};
use std::{os::fd::OwnedFd, time::Duration};

/// Bytes of the file: three numbers of at most 20 digits.
const LINE: usize = 64;

/// The waiting time of the thread that made this, as the scheduler counts it (`/proc/thread-self/schedstat`, Linux'
/// sched-stats.rst); always zero where the kernel does not count.
#[derive(Debug)]
pub(super) struct Waits(Option<OwnedFd>);

impl Waits {
    /// Of the thread that calls.
    pub(super) fn of_this_thread() -> Self {
        let file = fs::open(
            "/proc/thread-self/schedstat",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        Self(file.ok())
    }

    /// In its life.
    pub(super) fn total(&self) -> Duration {
        let mut line = [0u8; LINE];
        let read = self.0.as_ref().and_then(|f| rustix::io::pread(f, &mut line, 0).ok());
        let text = line.get(..read.unwrap_or(0)).and_then(|b| std::str::from_utf8(b).ok());
        // Run, waited, slices.
        let waited = text.and_then(|t| t.split_ascii_whitespace().nth(1)?.parse().ok());
        Duration::from_nanos(waited.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More threads than processors wait for each other, and each sees its own waiting alone.
    #[test]
    fn a_thread_that_shares_its_processor_waits() {
        let waits = Waits::of_this_thread();
        if waits.0.is_none() {
            eprintln!("skipped: this kernel keeps no schedstat");
            return;
        }
        let before = waits.total();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = || {
            let end = std::time::Instant::now() + Duration::from_millis(200);
            while std::time::Instant::now() < end {
                std::hint::spin_loop();
            }
        };
        std::thread::scope(|s| {
            for _ in 0..2 * cores {
                s.spawn(spin);
            }
            spin();
        });
        assert!(waits.total() > before, "{before:?}");
        assert_eq!(Waits(None).total(), Duration::ZERO);
    }
}
