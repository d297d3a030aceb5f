//! A guest's disk on its way to need nothing but itself: what [`crate::fill`] wants done, and what waits for it.

use super::{
    super::{
        errands::About,
        error::VerbError,
        guests::Guests,
        moves,
        sys::{self, Reserved},
        types::Room,
    },
    Actor, Ask, VerbAnswer,
};
use crate::{
    defaults::{FILL_SPARE, MAX_PARKED},
    fill::{self, Copied, Do, Fill, Ground, Said},
    guest::{Denied, Monitor, Verb},
    record::PersistRecord,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};
use tokio::sync::{oneshot, watch};
use wire::{ids::GuestId, units::ByteSize};

/// A guest's own disk, for the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnDisk {
    /// It has one.
    pub there: bool,
    /// Its size.
    pub size: ByteSize,
    /// It is to become persistent.
    pub asked: bool,
    /// It is: recorded, durably.
    pub whole: bool,
    /// And its process holds nothing of the image any more.
    pub free: bool,
    /// The image is needed all the same: for a snapshot.
    pub snapshot: bool,
    /// How far the copying is.
    pub copied: Option<Copied>,
    /// Why it waits.
    pub note: Option<String>,
}

impl OwnDisk {
    /// The guest cannot do without its image.
    pub fn needs_image(&self) -> bool {
        !self.whole || self.snapshot
    }
}

/// What waits for the disk to be still.
#[derive(Debug)]
pub(in super::super) enum Parked {
    Verb(Verb, VerbAnswer),
    About(About, VerbAnswer),
}

impl Actor {
    /// The record says that its disk needs no image.
    pub(in super::super) fn is_whole(&self) -> bool {
        self.record.boot.as_ref().is_some_and(|b| b.whole)
    }

    pub(in super::super) fn set_whole(&mut self, whole: bool) {
        if let Some(boot) = &mut self.record.boot {
            boot.whole = whole;
        }
    }

    /// Begins with what the record says: its disk is another.
    pub(in super::super) fn fill_anew(&mut self) {
        self.fill = Fill::new(self.record.persistent.is_some(), self.is_whole());
        self.show_disk();
    }

    /// It has come from another host.
    pub(super) async fn arrived(&mut self, with: moves::Arrived) {
        self.overlay
            .store(with.boot.overlay.map_or(0, |b| b.0), Ordering::Relaxed);
        self.machine.handle_arrived(with.saved.is_some());
        self.record.persistent = with.persistent.then(PersistRecord::default);
        (self.record.boot, self.record.saved) = (Some(with.boot), with.saved);
        self.record.moving = Some(with.from);
        self.fill_anew();
        self.persist().await;
    }

    /// Writes down that its disk is to hold everything; with what that takes, the room for it is made sure of first.
    pub(super) async fn make_persistent(&mut self, room: Option<Room>, answer: oneshot::Sender<Result<(), VerbError>>) {
        let result = self.begin_persistent(room).await;
        self.show_disk();
        // Whoever asked may be gone; it is written down either way.
        let _ = answer.send(result);
    }

    async fn begin_persistent(&mut self, room: Option<Room>) -> Result<(), VerbError> {
        let no_disk = self.record.boot.as_ref().is_some_and(|b| b.overlay.is_none());
        if no_disk {
            return Err(VerbError::NoDisk);
        }
        let before = self.record.persistent;
        if let Some(room) = room.filter(|_| !self.is_whole() && self.folder.has_overlay()) {
            let target = match before.and_then(|p| p.room) {
                Some(known) => known.0,
                None => self.used().saturating_add(room.need.0),
            };
            let reserved = self.reserve(target, room.spare).await;
            if let Err((need, free)) = reserved
                && (room.must || before.is_none())
            {
                return Err(VerbError::NoRoom { need, free });
            }
            self.record.persistent = Some(PersistRecord {
                room: Some(ByteSize(target)),
            });
        }
        let asked = self.record.persistent.unwrap_or_default();
        self.record.persistent = Some(asked);
        if before != self.record.persistent
            && let Err(why) = self.write_down().await
        {
            self.record.persistent = before;
            return Err(VerbError::NotDone {
                what: "made persistent",
                why,
            });
        }
        self.fill.handle_asked();
        Ok(())
    }

    /// Bytes that its disk's file has on the host's disk.
    fn used(&self) -> u64 {
        let overlay = self.folder.open_overlay().ok().flatten();
        overlay.and_then(|f| sys::allocated(&f).ok()).unwrap_or(0)
    }

    /// Makes sure that the file can take `target` bytes in all; the error: how much is missing, and how much is free.
    async fn reserve(&self, target: u64, spare: ByteSize) -> Result<(), (ByteSize, ByteSize)> {
        // A file at rest is left as it is: saved memory knows it by its time.
        let (folder, hold) = (Arc::clone(&self.folder), self.process.is_some());
        let done = tokio::task::spawn_blocking(move || folder.reserve_overlay(target, spare, hold));
        match done.await {
            Ok(Ok(Reserved::Done)) => Ok(()),
            Ok(Ok(Reserved::Full { need, free })) => Err((need, free)),
            other => {
                // Where room cannot be held it is looked at while the copying goes on.
                tracing::debug!(guest = %self.spec.id, ?other, "no room was reserved");
                Ok(())
            }
        }
    }

    /// What the monitor says goes to whom it is for.
    pub(super) fn hear(&mut self, said: Monitor) {
        let now = Instant::now();
        match said {
            Monitor::Disk(said) => {
                let copies = matches!(said, Said::Job(Some(_)));
                self.fill.handle_said(now, said);
                if copies && let Ok(room) = self.folder.room() {
                    self.fill.handle_room(now, room);
                }
            }
            Monitor::Failed { command, why } if fill::is_ours(command) => {
                self.fill.handle_failed(now, command, &why);
            }
            said => self.machine.handle_monitor(now, said),
        }
    }

    /// Nothing but the guest writes its disk.
    pub(super) fn disk_is_still(&self) -> bool {
        self.machine.ground(false) == Ground::Away || self.fill.is_still()
    }

    /// Waits for the disk to be still.
    pub(super) fn park(&mut self, what: Parked) {
        if self.parked.len() >= MAX_PARKED {
            return refuse(what, || Denied::Copying.into());
        }
        self.parked.push(what);
    }

    /// Tells the disk's machine how things are and does what it says. `true`: something was done.
    pub(super) async fn tend_disk(&mut self) -> bool {
        let now = Instant::now();
        let later = self.record.boot.as_ref().is_none_or(|b| b.later);
        self.fill
            .handle_ground(now, self.machine.ground(!self.parked.is_empty()));
        self.fill.handle_image(now, self.image_here && !later);
        let mut done = false;
        while let Some(todo) = self.fill.poll_transmit() {
            done = true;
            self.act_on_disk(todo).await;
        }
        if !self.parked.is_empty() && self.disk_is_still() {
            done = true;
            for what in std::mem::take(&mut self.parked) {
                match what {
                    Parked::Verb(verb, answer) => self.verb(verb, answer),
                    Parked::About(about, answer) => self.about(about, answer),
                }
            }
        }
        self.show_disk();
        done
    }

    async fn act_on_disk(&mut self, todo: Do) {
        match todo {
            Do::Tell(command) => {
                if !self.link.as_ref().is_some_and(|l| l.tell(command)) {
                    self.fill
                        .handle_failed(Instant::now(), command, "QEMU's monitor is too busy");
                }
            }
            Do::Reserve => {
                let target = self.record.persistent.and_then(|p| p.room).unwrap_or_default();
                let result = self.reserve(target.0, FILL_SPARE).await;
                let result = result.map_err(|(need, free)| no_room(need, free));
                self.fill.handle_reserved(Instant::now(), result);
            }
            Do::Keep => {
                self.set_whole(true);
                let result = self.write_down().await;
                if result.is_err() {
                    self.set_whole(false);
                } else {
                    tracing::info!(guest = %self.spec.id, "its disk needs no image any more");
                }
                self.fill.handle_kept(Instant::now(), result);
            }
            Do::GiveUp => {
                for what in std::mem::take(&mut self.parked) {
                    refuse(what, || VerbError::NotDone {
                        what: "held",
                        why: "the copying into its disk does not end".into(),
                    });
                }
            }
        }
    }

    pub(in super::super) fn show_disk(&self) {
        let disk = |s: &crate::record::SnapshotRecord| !s.whole;
        let there = self.record.boot.as_ref().is_some_and(|b| b.overlay.is_some());
        let now = OwnDisk {
            there,
            size: ByteSize(self.overlay.load(Ordering::Relaxed)),
            asked: self.record.persistent.is_some(),
            whole: self.is_whole(),
            free: self.fill.is_free(),
            snapshot: there && self.record.snapshots.iter().any(disk),
            copied: self.fill.copied(),
            note: self.fill.note().map(str::to_owned),
        };
        self.disk.send_if_modified(|old| {
            let changed = *old != now;
            *old = now;
            changed
        });
    }
}

fn refuse(what: Parked, why: impl Fn() -> VerbError) {
    let (Parked::Verb(_, answer) | Parked::About(_, answer)) = what;
    // A caller that is gone has lost interest.
    let _ = answer.send(Err(why()));
}

fn no_room(need: ByteSize, free: ByteSize) -> String {
    format!("the host's disk has only {free} for the {need} that it takes; it goes on when there is more")
}

impl Guests {
    /// Makes a guest's disk hold everything itself, while it runs; written down, durably, on return. `room`: what that
    /// takes, if it is known, and an error if there is not so much. Idempotent. Next: [`Guests::image_here`].
    pub async fn persist(&self, id: GuestId, room: Option<Room>) -> Result<(), VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::Persist(room, answer))?;
        wait.await.map_err(|_| VerbError::Ending)?
    }

    /// Tells whether all of a guest's image is here: the copying begins only then.
    pub fn image_here(&self, id: GuestId, here: bool) -> Result<(), VerbError> {
        self.ask(id, Ask::ImageHere(here))
    }

    /// A guest's disk as it changes.
    pub fn watch_disk(&self, id: GuestId) -> Option<watch::Receiver<OwnDisk>> {
        self.with(id, |e| e.disk.clone())
    }

    /// A guest's disk.
    pub fn disk(&self, id: GuestId) -> OwnDisk {
        self.with(id, |e| e.disk.borrow().clone()).unwrap_or_default()
    }

    /// Whether a guest can do without its image: it and all its snapshots hold everything themselves.
    pub fn needs_image(&self, id: GuestId) -> bool {
        self.with(id, |e| e.disk.borrow().needs_image()).unwrap_or(false)
    }
}
