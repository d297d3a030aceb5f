//! What a guest's task does beside its loop: saving, loading, copying. One at a time, and never in the loop's way.

use super::{
    actor::{Actor, wall_clock},
    error::VerbError,
    saved::{self, CopyTo, Held},
    sys::Process,
    warm::Giving,
};
use crate::{
    defaults::MAX_SNAPSHOTS,
    guest::Denied,
    record::{SavedRecord, SnapshotRecord},
};
use std::{sync::Arc, time::Instant};
use tokio::task::JoinHandle;
use wire::ids::Name;

/// How an errand ended.
#[derive(Debug)]
pub(super) enum Ended {
    Saved(Result<SavedRecord, String>),
    /// With what still gives it its memory.
    Loaded(Result<Option<Giving>, String>),
    Copied(Result<Option<SnapshotRecord>, String>),
    /// The error says whether what was saved of the guest before is gone.
    RolledBack(Result<Option<SavedRecord>, (String, bool)>, Whole),
}

/// Whether a disk that is put in another's place needs no image, and whether that other did not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    before: bool,
    after: bool,
}

/// An errand that is under way; ended by dropping it.
#[derive(Debug)]
pub(super) struct Job(JoinHandle<Ended>);

impl Drop for Job {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the next copy or roll-back is about.
#[derive(Clone, Debug)]
pub(super) enum About {
    Copy(CopyTo),
    RollBack(Name),
}

/// Waits for the end of an errand; without one, for ever.
pub(super) async fn ended(job: Option<&mut Job>) -> Result<Ended, tokio::task::JoinError> {
    match job {
        Some(j) => (&mut j.0).await,
        None => std::future::pending().await,
    }
}

impl Actor {
    fn held(&self) -> Result<Held, String> {
        let pid = self.process.as_ref().map(Process::pid).ok_or("it has no process")?;
        Ok(Held {
            id: self.spec.id,
            folder: Arc::clone(&self.folder),
            pid,
            ram_fd: self.folder.read_run().and_then(|r| r.ram_fd),
            memory: self.spec.memory.0,
            hardware: self.hardware()?,
            qemu: self.caps.qemu.as_ref().map(|q| q.version.clone()).unwrap_or_default(),
            now: wall_clock(),
        })
    }

    pub(super) fn begin_save(&mut self) {
        let held = self.held();
        let folder = Arc::clone(&self.folder);
        self.job = Some(Job(tokio::spawn(async move {
            Ended::Saved(async { save(&held?, &folder).await }.await)
        })));
    }

    pub(super) fn begin_load(&mut self) {
        let (held, saved, source) = (self.held(), self.record.saved.clone(), self.source.clone());
        self.job = Some(Job(tokio::spawn(async move {
            let load = async {
                let saved = saved.ok_or("nothing is saved")?;
                match (saved.warm, source) {
                    (false, _) => held?.load(&saved).await.map(|()| None),
                    (true, Some(source)) => held?.load_warm(&saved, source).await,
                    (true, None) => Err("its image's memory is not at hand".into()),
                }
            };
            Ended::Loaded(load.await)
        })));
    }

    pub(super) fn begin_copy(&mut self, memory: bool) {
        let held = if memory && self.process.is_some() {
            self.held().map(Some)
        } else {
            Ok(None)
        };
        let saved = self.record.saved.clone();
        let whole = self.is_whole();
        let (about, folder) = (self.about.take(), Arc::clone(&self.folder));
        self.job = Some(Job(tokio::spawn(async move {
            let copy = async {
                match about {
                    Some(About::Copy(to)) => {
                        let made = saved::copy(to, folder, held?, saved, wall_clock()).await?;
                        Ok(made.map(|s| SnapshotRecord { whole, ..s }))
                    }
                    _ => Err("it is not said what to copy to".into()),
                }
            };
            Ended::Copied(copy.await)
        })));
    }

    pub(super) fn begin_roll_back(&mut self) {
        let name = match self.about.take() {
            Some(About::RollBack(name)) => name,
            _ => return,
        };
        let snapshot = self.record.snapshots.iter().find(|s| s.name == name).cloned();
        let folder = Arc::clone(&self.folder);
        let disk = self.record.boot.as_ref().is_some_and(|b| b.overlay.is_some());
        let whole = Whole {
            before: self.is_whole(),
            after: disk && snapshot.as_ref().is_some_and(|s| s.whole),
        };
        // Written down before the disk that has everything is given up, whoever writes the record meanwhile.
        self.set_whole(whole.before && whole.after);
        let mut without = self.record.clone();
        without.saved = None;
        self.job = Some(Job(tokio::spawn(async move {
            let Some(snapshot) = snapshot else {
                return Ended::RolledBack(Err((format!("it has no snapshot {name}"), false)), whole);
            };
            let done = tokio::task::spawn_blocking(move || {
                saved::roll_back(&folder, &snapshot, disk, || {
                    folder.write_record(&without).map_err(Into::into)
                })
            });
            Ended::RolledBack(done.await.unwrap_or_else(|e| Err((e.to_string(), false))), whole)
        })));
    }

    /// Takes the end of an errand to the machine.
    pub(super) async fn errand_ended(&mut self, end: Result<Ended, tokio::task::JoinError>) {
        self.job = None;
        let now = Instant::now();
        match end {
            Ok(Ended::Saved(Ok(record))) => {
                self.record.saved = Some(record);
                self.machine.handle_saved(now, Ok(()));
            }
            Ok(Ended::Saved(Err(why))) => self.machine.handle_saved(now, Err(why)),
            Ok(Ended::Loaded(result)) => {
                let result = result.map(|giving| {
                    if giving.is_some() {
                        self.machine.handle_later();
                    }
                    self.giving = giving;
                });
                self.machine.handle_loaded(now, result);
            }
            Ok(Ended::Copied(result)) => {
                if let Ok(Some(snapshot)) = &result {
                    self.record.snapshots.retain(|s| s.name != snapshot.name);
                    self.record.snapshots.push(snapshot.clone());
                }
                self.machine.handle_copied(result.map(|_| ()));
                // Before anybody hears of it.
                self.persist().await;
            }
            Ok(Ended::RolledBack(result, whole)) => {
                match &result {
                    Ok(_) => self.set_whole(whole.after),
                    Err((_, false)) => self.set_whole(whole.before),
                    Err((_, true)) => {}
                }
                let (told, saved) = match result {
                    Ok(saved) => (Ok(saved.is_some()), saved),
                    Err((why, true)) => (Err(why), None),
                    Err((why, false)) => (Err(why), self.record.saved.clone()),
                };
                self.record.saved = saved;
                self.fill_anew();
                self.machine.handle_rolled_back(told, self.record.saved.is_some());
                self.persist().await;
            }
            Err(e) => {
                let why = format!("it broke off: {e}");
                self.machine.handle_saved(now, Err(why.clone()));
                self.machine.handle_loaded(now, Err(why.clone()));
                self.machine.handle_copied(Err(why.clone()));
                self.machine.handle_rolled_back(Err(why), self.record.saved.is_some());
            }
        }
    }

    /// May there be a copy of that name?
    pub(super) fn check_about(&self, about: &About) -> Result<(), VerbError> {
        if self.job.is_some() || self.about.is_some() {
            return Err(Denied::Copying.into());
        }
        let has = |name: &Name| self.record.snapshots.iter().any(|s| s.name == *name);
        match about {
            About::Copy(CopyTo::Snapshot(name)) if has(name) => Err(VerbError::SnapshotThere(name.clone())),
            About::Copy(CopyTo::Snapshot(_)) if self.record.snapshots.len() >= MAX_SNAPSHOTS => {
                Err(VerbError::TooManySnapshots)
            }
            About::RollBack(name) if !has(name) => Err(VerbError::NoSnapshot(name.clone())),
            About::Copy(_) if self.record.boot.is_none() => Err(VerbError::NotPrepared),
            _ => Ok(()),
        }
    }

    /// Deletes a snapshot; one that is not there is no error.
    pub(super) async fn drop_snapshot(&mut self, name: Name) -> Result<(), VerbError> {
        if self.job.is_some() {
            return Err(Denied::Copying.into());
        }
        self.record.snapshots.retain(|s| s.name != name);
        self.persist().await;
        let folder = Arc::clone(&self.folder);
        let path = folder.snapshot(&name);
        let dropped = tokio::task::spawn_blocking(move || folder.drop_snapshot(&name)).await;
        dropped
            .map_err(|_| VerbError::Ending)?
            .map_err(|source| VerbError::Io { path, source })
    }
}

async fn save(held: &Held, folder: &super::folder::Folder) -> Result<SavedRecord, String> {
    let draft = folder.new_draft().map_err(|e| e.to_string())?;
    let at = draft.join("saved");
    let made = match held.save(&at).await {
        Ok(record) => folder.place_saved(&at).map(|()| record).map_err(|e| e.to_string()),
        Err(why) => Err(why),
    };
    folder.drop_draft(&draft);
    made
}
