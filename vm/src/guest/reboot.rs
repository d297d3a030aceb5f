//! The reboot of a guest that runs without its kernel: it began with its image's memory, before its kernel was here.
//!
//! Its QEMU has nothing to boot from, and holds the guest at its reset instead. The process is ended in order and the
//! guest started anew, cold and with its own disk, once its kernel is here; that it waits for it outlives the node.

use super::{Cause, Do, Guest, Stage, Stopping};
use std::time::Instant;
use wire::guest::{GuestState, StopHow};

/// The note of a guest that waits.
pub(crate) const WAITS: &str = "it reboots: it is started anew as soon as its kernel has come from its image";

impl Guest {
    /// It rebooted, and is to be started anew when its kernel is here; recorded.
    pub fn is_rebooting(&self) -> bool {
        self.rebooting
    }

    /// The guest has reset its machine, and QEMU holds it there.
    pub(super) fn rebooted(&mut self, now: Instant) {
        if self.stopping.is_none() {
            self.stopping = Some(Stopping {
                since: now,
                stage: Stage::Powerdown,
                how: StopHow::Obeyed,
                cause: Cause::Rebooted,
            });
            self.rebooting = true;
            // What has not come of the memory is not missed any more, and the disk is the guest's own from here on.
            let lazy = std::mem::take(&mut self.lazy);
            self.warm &= !lazy;
            self.todo.push_back(Do::Persist);
            self.todo.extend(lazy.then_some(Do::DropSaved));
        }
        // One that was to end has ended.
        self.shut_down(now);
    }

    /// It was stopped, or goes elsewhere: nothing starts it by itself.
    pub(super) fn end_reboot(&mut self) {
        if std::mem::take(&mut self.rebooting) {
            self.set(GuestState::Stopped, None);
            self.todo.push_back(Do::Persist);
        }
    }
}
