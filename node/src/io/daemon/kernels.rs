//! Kernels that come after their guests: a warm start needs none, its guest's next boot does.
//!
//! ```text
//! devices here ─▶ the guest runs, without a kernel in its QEMU ─▶ it answered ─▶ kernel and initrd are fetched
//!                      └─ it reboots: QEMU holds it, is ended ─▶ they are fetched first ─▶ started anew, cold
//! ```

use super::{Daemon, faults, host::Teller};
use std::{sync::Arc, time::Duration};
use wire::{Fault, GuestId, ImageId, image::Part};

/// What a boot needs before it begins. An image without one of them has it already.
pub(super) const FIRST: &[Part] = &[Part::Kernel, Part::Initrd];
/// Pause before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

impl Daemon {
    /// Whether a boot of an image can begin here.
    pub(super) async fn has_kernel(&self, image: ImageId) -> Result<bool, Fault> {
        for part in FIRST {
            if !self.store.has_part(image, *part).await.map_err(faults::store)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fetches the kernel of a guest that runs without it, for its next boot. Readers that wait go first.
    pub(super) async fn bring_kernel(self: Arc<Self>, guest: GuestId, image: ImageId) {
        while self.lacks_kernel(guest).await && !self.stop.is_cancelled() {
            let brought = tokio::select! {
                brought = self.fetch_kernel(guest, image) => brought,
                () = self.no_more(guest) => return,
            };
            match brought {
                Ok(()) => tracing::info!(%guest, "the guest's kernel is here"),
                Err(f) => tracing::warn!(%guest, error = %f, "a running guest's kernel does not come; trying again"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn fetch_kernel(self: &Arc<Self>, guest: GuestId, image: ImageId) -> Result<(), Fault> {
        if !self.has_kernel(image).await.unwrap_or(false) {
            self.fetch_for_boot(image, &[], FIRST, |_| {}).await?;
        }
        let turn = self.turn_of(guest)?;
        let _turn = turn.lock().await;
        self.ready_boot(guest, image, false).await.map(drop)
    }

    async fn lacks_kernel(&self, guest: GuestId) -> bool {
        let boot = self.guests.boot_of(guest).await;
        boot.ok().flatten().is_some_and(|b| b.later)
    }

    /// Waits until a guest has no process. What its next start needs is fetched then.
    async fn no_more(&self, guest: GuestId) {
        let mut changes = self.guest_changes.subscribe();
        while self.guests.info(guest).is_some_and(|g| g.pid.is_some()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether a guest waits for its kernel to be started anew.
    pub(super) async fn is_rebooting(&self, guest: GuestId) -> bool {
        self.guests.is_rebooting(guest).await.unwrap_or(false)
    }

    async fn not_rebooting(&self, guest: GuestId) {
        let mut changes = self.guest_changes.subscribe();
        while self.is_rebooting(guest).await {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Starts a guest anew that rebooted without a kernel, when that has come; unless it is stopped or removed meanwhile.
    pub(super) fn reboot(self: &Arc<Self>, guest: GuestId, image: ImageId) {
        let daemon = self.clone();
        tokio::spawn(async move {
            while daemon.is_rebooting(guest).await && !daemon.stop.is_cancelled() {
                let kernel = tokio::select! {
                    kernel = daemon.fetch_kernel(guest, image) => kernel,
                    () = daemon.not_rebooting(guest) => return,
                };
                let again = match kernel {
                    Ok(()) => daemon.bring_up(guest, &[], &Teller::nobody()).await.map(drop),
                    Err(f) => Err(f),
                };
                match again {
                    Ok(()) => return,
                    Err(f) => {
                        tracing::warn!(%guest, error = %f, "a guest that reboots is not started yet; trying again")
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
}
