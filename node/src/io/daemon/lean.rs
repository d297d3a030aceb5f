//! The memory that only the start needed goes back to the kernel.
//!
//! Most of a node's resident memory is pages of its own program: the kernel maps what lies around each that is touched, and a start
//! touches much that is never used again. They are dropped once; what is used is mapped again from the page cache.

use super::Daemon;
use crate::{
    defaults::LEAN_AFTER,
    maps::{self, Clean},
};
use std::sync::Arc;

impl Daemon {
    /// Waits until the start is over, and gives back what it needed.
    pub(super) async fn grow_lean(self: Arc<Self>) {
        tokio::select! {
            _ = tokio::time::sleep(LEAN_AFTER) => {}
            _ = self.stop.cancelled() => return,
        }
        match tokio::task::spawn_blocking(drop_clean).await {
            Ok(Ok(bytes)) => tracing::debug!(bytes, "pages of the program given back"),
            Ok(Err(e)) => tracing::debug!("pages of the program stay: {e}"),
            Err(e) => tracing::debug!("pages of the program stay: {e}"),
        }
    }
}

/// Drops the pages of this process that can be read again from their files; bytes that were resident.
fn drop_clean() -> std::io::Result<u64> {
    let mut given = 0;
    for Clean { at, len, resident } in maps::clean(&std::fs::read_to_string("/proc/self/smaps")?) {
        // SAFETY: the range is a private mapping of a file that is not writable and of which no page is a copy of our own, so
        // each dropped page reads the same bytes from the file when it is touched next.
        if unsafe { libc::madvise(at as *mut libc::c_void, len, libc::MADV_DONTNEED) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        given += resident;
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_program_goes_on_without_the_pages_that_it_gave_back() {
        let given = super::drop_clean().unwrap();
        assert!(given > 1 << 20, "only {given} bytes");
        // The test itself, and all that run beside it, go on.
        assert_eq!(format!("{:?}", [1, 2, 3]), "[1, 2, 3]");
    }
}
