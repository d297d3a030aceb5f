//! Room in the image store: by a person's word, and by itself when the store comes near its quota. Paper: §3.1.

use super::Daemon;
use ::images::io::{GcReport, GcSpec};
use futures::StreamExt;
use std::{sync::Arc, time::Duration};
use wire::{ByteSize, Fault};

/// Pause after a collection: what may go was dropped, and copies elsewhere do not change faster.
const PAUSE: Duration = Duration::from_secs(5);
/// Images whose copies are asked for at a time.
const ASKED_AT_ONCE: usize = 8;

impl Daemon {
    /// Collects the store whenever it says that it is near its quota or the end of its disk.
    pub(super) async fn keep_room(self: Arc<Self>) {
        let mut pressed = self.store.pressed();
        pressed.mark_changed();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                r = pressed.changed() => if r.is_err() { return },
            }
            let target = match self.with_store(|s| Ok(s.room_target())).await {
                Ok(Some(target)) => target,
                Ok(None) => continue,
                Err(e) => {
                    tracing::warn!(error = %e, "cannot look how full the image store is");
                    continue;
                }
            };
            match self.collect_store(Some(target)).await {
                Ok(r) if r.reached => tracing::info!(
                    freed_bytes = r.removed.freed_bytes,
                    held_bytes = r.held_bytes,
                    "the image store made room"
                ),
                Ok(r) => tracing::warn!(
                    held_bytes = r.held_bytes,
                    target_bytes = target.0,
                    "the image store is nearly full, and what is left is in use, read by boots, or held by too few others; remove an image with 'lanline image rm'"
                ),
                // An import holds the store; it is tried again.
                Err(e) => {
                    tracing::debug!(error = %e, "the image store cannot be collected now");
                    pressed.mark_changed();
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// Makes room in the store, by what others are known to hold; without a target only what no image needs goes.
    pub(super) async fn collect_store(&self, target: Option<ByteSize>) -> Result<GcReport, Fault> {
        let mut spec = GcSpec {
            target,
            ..GcSpec::default()
        };
        if target.is_some() {
            let all = self.with_store(|s| s.list()).await?;
            // A guest that rests here boots from its image again.
            let idle = all.into_iter().filter(|i| self.image_in_use(i.id).is_ok());
            let asked = futures::stream::iter(idle)
                .map(|i| async move { (i.id, self.whole_copies(i.id).await) })
                .buffer_unordered(ASKED_AT_ONCE);
            spec.copies = asked.collect().await;
        }
        let report = self.with_store(move |s| s.gc(&spec)).await;
        let report = report.inspect_err(|e| tracing::debug!(error = %e, "a collection ended early"))?;
        for (id, _) in &report.thinned {
            self.publish_image(*id).await;
        }
        Ok(report)
    }
}
