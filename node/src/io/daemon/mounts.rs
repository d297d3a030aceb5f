//! Images mounted as folders of this machine, fetched as they are read. Paper: §3.1.

use super::{Daemon, faults, find, images::TELL_EVERY, lock, persist};
use crate::api;
use ::images::io::{ImageMount, MountError, clear_stale};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use wire::{Fault, FaultKind, ImageId};

/// Mounts of one node at a time.
const MAX_MOUNTS: usize = 64;

/// Mounted images by folder.
pub(super) type Mounts = Mutex<BTreeMap<PathBuf, (ImageId, ImageMount)>>;

fn file(dir: &Path) -> PathBuf {
    dir.join("mounts.json")
}

fn mount_fault(e: &MountError) -> Fault {
    match e {
        MountError::Folder(dir) => {
            Fault::new(FaultKind::Usage, e.to_string()).next(format!("make one: mkdir -p '{}'", dir.display()))
        }
        MountError::InUse(dir) => Fault::new(FaultKind::Refused, e.to_string()).next(format!(
            "end that mount first: lanline image umount '{}'",
            dir.display()
        )),
        MountError::Fuse { .. } => Fault::new(FaultKind::Missing, e.to_string())
            .next("look with: lanline doctor; Debian has fusermount3 in the package fuse3"),
        MountError::Store(_) | MountError::Io(_) => faults::failed(e),
    }
}

/// Takes away what an earlier node of this state folder left mounted when it died. Blocks.
pub(super) fn clear_left(state: &Path) -> Result<(), Fault> {
    let left: Vec<PathBuf> = persist::load(&file(state))?.unwrap_or_default();
    for dir in &left {
        match clear_stale(dir) {
            Ok(()) => {}
            Err(e) => tracing::warn!(dir = %dir.display(), error = %e, "a folder of an earlier mount is left as it is"),
        }
    }
    if left.is_empty() {
        Ok(())
    } else {
        persist::save(&file(state), &Vec::<PathBuf>::new())
    }
}

impl Daemon {
    /// Mounts an image; what of it is not here comes as it is read.
    pub(super) async fn mount_image(
        self: &Arc<Self>,
        text: &str,
        req: api::ImageMount,
        progress: &api::Progress,
    ) -> Result<api::MountRow, Fault> {
        super::images::absolute(&req.dir)?;
        progress.waiting(format!("looking for image {text}"));
        let image = self.find_image(text).await?;
        let id = image.id;
        if self.store_info(id).await.is_none_or(|i| !i.complete) {
            if image.holders.is_empty() && self.store_info(id).await.is_none() {
                return Err(find::unknown_image(text));
            }
            let mut job = self.pull_job(id, &image.holders, None, true)?;
            let mut tick = tokio::time::interval(TELL_EVERY);
            let opened = self.store.opened(id);
            tokio::pin!(opened);
            loop {
                tokio::select! {
                    r = &mut opened => break r.map_err(faults::store)?,
                    ended = job.ended() => {
                        ended?;
                        // Another reader's end released it.
                        job = self.pull_job(id, &image.holders, None, true)?;
                    }
                    _ = tick.tick() => progress.waiting("fetching the image's table of contents"),
                }
            }
        }
        let dir = PathBuf::from(&req.dir);
        if lock(&self.mounts).len() >= MAX_MOUNTS {
            self.let_go(id);
            return Err(
                Fault::new(FaultKind::Refused, format!("{MAX_MOUNTS} images are mounted already"))
                    .next("end a mount: lanline image umount DIR"),
            );
        }
        let mounted = ::images::io::mount(self.store.clone(), id, &dir).await;
        let mounted = mounted.map_err(|e| {
            self.let_go(id);
            mount_fault(&e)
        })?;
        let row = row(id, &mounted);
        let dirs = {
            let mut mounts = lock(&self.mounts);
            mounts.insert(dir, (id, mounted));
            mounts.keys().cloned().collect::<Vec<_>>()
        };
        persist::save(&file(&self.dir), &dirs)?;
        Ok(row)
    }

    /// Ends a mount.
    pub(super) async fn umount_image(&self, req: &api::ImageUmount) -> Result<api::MountRow, Fault> {
        let (ended, dirs) = {
            let mut mounts = lock(&self.mounts);
            let ended = mounts.remove(Path::new(&req.dir));
            (ended, mounts.keys().cloned().collect::<Vec<_>>())
        };
        let Some((id, mounted)) = ended else {
            return Err(Fault::new(
                FaultKind::NoMatch,
                format!("this node has mounted nothing on {}", wire::fault::plain(&req.dir)),
            )
            .next("see what is mounted: lanline image mounts"));
        };
        let row = row(id, &mounted);
        tokio::task::spawn_blocking(move || drop(mounted))
            .await
            .map_err(|e| faults::failed(&e))?;
        persist::save(&file(&self.dir), &dirs)?;
        self.let_go(id);
        Ok(row)
    }

    /// What is mounted.
    pub(super) fn mount_rows(&self) -> Vec<api::MountRow> {
        lock(&self.mounts).values().map(|(id, m)| row(*id, m)).collect()
    }

    /// Ends all mounts, when the node ends.
    pub(super) async fn umount_all(&self) {
        let all = std::mem::take(&mut *lock(&self.mounts));
        // A folder that cannot be freed now is freed by the next start.
        let _ = tokio::task::spawn_blocking(move || drop(all)).await;
    }
}

fn row(id: ImageId, m: &ImageMount) -> api::MountRow {
    api::MountRow {
        id: id.to_string(),
        dir: m.dir().display().to_string(),
        files: m.files().iter().map(|f| (*f).to_owned()).collect(),
    }
}
