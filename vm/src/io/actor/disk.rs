//! A guest's own disk and its boot files.

use super::{
    super::{error::VerbError, probe::helper},
    Actor,
};
use crate::{record::BootRecord, spec::Boot};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

impl Actor {
    /// Makes the overlay and takes the boot files over; done again, it changes nothing but that a kernel is here by now.
    pub(super) async fn prepare(&mut self, boot: Boot) -> Result<(), VerbError> {
        boot.check()?;
        let overlay = self.spec.overlay_size(boot.image_size)?;
        let has = |b: &BootRecord| !b.later || boot.later;
        let whole = self.record.boot.as_ref().is_some_and(|b| b.whole);
        if whole && !self.folder.has_overlay() {
            // An empty one in its place would be another disk.
            let gone = std::io::Error::new(std::io::ErrorKind::NotFound, "the guest's own disk is gone");
            return Err(VerbError::Io {
                path: self.folder.delta(),
                source: gone,
            });
        }
        if self.record.boot.as_ref().is_some_and(has) && (overlay.is_none() || self.folder.has_overlay()) {
            return Ok(());
        }
        let io = |(path, source): (PathBuf, std::io::Error)| VerbError::Io { path, source };
        let folder = Arc::clone(&self.folder);
        let files = [("kernel", boot.kernel.clone()), ("initrd", boot.initrd.clone())];
        let copied = tokio::task::spawn_blocking(move || {
            files
                .iter()
                .try_for_each(|(name, from)| from.as_deref().map_or(Ok(()), |f| folder.adopt_file(f, name)))
        });
        copied.await.map_err(|_| VerbError::Ending)?.map_err(io)?;
        if let Some(size) = overlay.filter(|_| !self.folder.has_overlay()) {
            self.make_overlay(size.0).await?;
        }
        self.record.boot = Some(BootRecord {
            overlay,
            whole,
            kernel: boot.kernel.is_some(),
            initrd: boot.initrd.is_some(),
            later: boot.later,
            cmdline: boot.cmdline,
            seed: self.folder.has_seed(),
            inner_mac: self.record.boot.as_ref().and_then(|b| b.inner_mac),
        });
        self.overlay.store(overlay.map_or(0, |b| b.0), Ordering::Relaxed);
        self.persist().await;
        Ok(())
    }

    /// The diff of a non-persistent guest: its writes go here, the image under it never changes. Paper: §2.3.
    pub(super) async fn make_overlay(&self, size: u64) -> Result<(), VerbError> {
        let Some(qemu) = &self.caps.qemu else {
            return Err(VerbError::QemuMissing(self.caps.missing.clone().unwrap_or_default()));
        };
        let draft = self.folder.overlay_draft();
        let failed = |why: String| VerbError::Io {
            path: draft.clone(),
            source: std::io::Error::other(why),
        };
        let name = draft.to_str().ok_or_else(|| failed("the path is not UTF-8".into()))?;
        helper(&qemu.img, &["create", "-q", "-f", "qcow2", name, &size.to_string()])
            .await
            .map_err(failed)?;
        self.folder
            .place_overlay()
            .map_err(|(path, source)| VerbError::Io { path, source })
    }
}
