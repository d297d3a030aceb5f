//! Persistent guests: disks that come to need neither this node nor their image, while their guests run. Paper: §2.3.
//!
//! ```text
//! asked: written down ─▶ the rest of the image comes, behind what readers wait for ─▶ all here: QEMU copies it into the
//! guest's disk ─▶ QEMU lets the image go ─▶ the export is closed, the image is free to go
//! ```

use super::{Daemon, lock};
use crate::api;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use vm::io::{OwnDisk, Room};
use wire::{
    ByteSize, Fault, FaultKind, GuestId, ImageId, NodeId,
    guest::{DiskStage, DiskView, GuestCall, GuestResult, GuestView},
    image::PIECE_BYTES,
};

/// How often it is looked whether an image is whole.
const LOOK: Duration = Duration::from_secs(1);
/// How long another host may take to say how far its disks are; one that is older says nothing.
const DISKS_WAIT: Duration = Duration::from_secs(3);

/// Guests whose disks are followed.
pub(super) type Fills = Mutex<BTreeSet<GuestId>>;

/// The host's side.
impl Daemon {
    /// Makes a guest's disk persistent: on return that is written down.
    pub(super) async fn persist_call(self: &Arc<Self>, view: &GuestView) -> Result<(), Fault> {
        let room = self.room_for(view, false).await;
        let asked = self.guests.persist(view.id, room).await;
        asked.map_err(|e| Fault::from(&e))?;
        self.fill_soon(view.id, view.image);
        Ok(())
    }

    /// A guest that is to be persistent and has never run is refused if its whole disk does not fit.
    pub(super) async fn room_or_refuse(&self, view: &GuestView) -> Result<(), Fault> {
        if !self.guests.disk(view.id).asked {
            return Ok(());
        }
        let room = self.room_for(view, true).await;
        self.guests.persist(view.id, room).await.map_err(|e| Fault::from(&e))
    }

    /// What a whole disk takes here at most, as far as the image's manifest says.
    async fn room_for(&self, view: &GuestView, must: bool) -> Option<Room> {
        let info = self.store_info(view.image).await?;
        let pieces = u64::from(info.pieces_total) * PIECE_BYTES as u64;
        let of_others = (view.owner != self.me).then(|| self.owner.disk_min_free());
        Some(Room {
            need: ByteSize(pieces.min(info.size)),
            spare: vm::defaults::MIN_FREE_DISK.max(of_others.unwrap_or_default()),
            must,
        })
    }

    /// Follows a guest's disk until it is free of its image, or the guest rests.
    pub(super) fn fill_soon(self: &Arc<Self>, guest: GuestId, image: ImageId) {
        if !self.is_filling(guest) || !lock(&self.fills).insert(guest) {
            return;
        }
        let daemon = self.clone();
        tokio::spawn(async move {
            daemon.follow_fill(guest, image).await;
            lock(&daemon.fills).remove(&guest);
            // It was started again while this ended.
            if !daemon.stop.is_cancelled() {
                daemon.fill_soon(guest, image);
            }
        });
    }

    /// Its disk is on its way, and it has a process.
    fn is_filling(&self, guest: GuestId) -> bool {
        let disk = self.guests.disk(guest);
        let runs = self.guests.info(guest).is_some_and(|g| g.pid.is_some());
        disk.there && disk.asked && runs && (!(disk.whole && disk.free) || lock(&self.exports).contains_key(&guest))
    }

    async fn follow_fill(&self, guest: GuestId, image: ImageId) {
        let Some(mut disk) = self.guests.watch_disk(guest) else {
            return;
        };
        let (mut said, mut roomed) = (None, false);
        while self.is_filling(guest) {
            let now = disk.borrow_and_update().clone();
            if now.whole && now.free {
                tracing::info!(%guest, "its disk needs neither this node nor its image any more");
                self.close_disk(guest);
                self.publish_soon();
                return;
            }
            let here = self.store_info(image).await.is_some_and(|i| i.complete);
            if here && !roomed {
                roomed = true;
                if let Some(view) = self.guests.info(guest) {
                    let room = self.room_for(&view, false).await;
                    if let Err(e) = self.guests.persist(guest, room).await {
                        tracing::warn!(%guest, error = %e, "room for a whole disk cannot be reckoned");
                    }
                }
            }
            // A guest that is too busy to hear is told again.
            if said != Some(here) && self.guests.image_here(guest, here).is_ok() {
                said = Some(here);
            }
            tokio::select! {
                changed = disk.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// How far the disks of guests are.
    pub(super) async fn disk_views(&self, guests: &[GuestView]) -> Vec<DiskView> {
        let mut out = Vec::new();
        for g in guests {
            let disk = self.guests.disk(g.id);
            if disk.there {
                out.push(self.disk_view(g, disk).await);
            }
        }
        out
    }

    async fn disk_view(&self, g: &GuestView, disk: OwnDisk) -> DiskView {
        let view = |stage, have, total| DiskView {
            guest: g.id,
            stage,
            have,
            total,
            note: disk.note.clone(),
        };
        if disk.whole {
            return view(DiskStage::Persistent, disk.size.0, disk.size.0);
        }
        if let Some(c) = disk.copied {
            let stage = if disk.note.is_some() {
                DiskStage::Waiting
            } else {
                DiskStage::Copying
            };
            return view(stage, c.done, c.total);
        }
        let (have, total, complete) = match self.store_info(g.image).await {
            Some(i) => (i.pieces_have, i.pieces_total, i.complete),
            None => (0, 0, false),
        };
        let bytes = |pieces: u32| u64::from(pieces) * PIECE_BYTES as u64;
        match (disk.asked, disk.note.is_some(), complete) {
            (true, true, _) => view(DiskStage::Waiting, bytes(have), bytes(total)),
            (true, false, true) => view(DiskStage::Copying, 0, disk.size.0),
            (true, false, false) => view(DiskStage::Fetching, bytes(have), bytes(total)),
            (false, ..) => view(DiskStage::OnDemand, bytes(have), bytes(total)),
        }
    }
}

/// The side of those who ask.
impl Daemon {
    /// Makes a guest persistent at its host.
    pub(super) async fn persist_anywhere(&self, m: &super::guest_rows::Meant) -> Result<GuestView, Fault> {
        match self.ask(m, GuestCall::Persist { guest: m.id }).await? {
            GuestResult::Guest(v) => Ok(*v),
            _ => Err(Fault::new(
                FaultKind::Failed,
                "the host answered another question than the one it was asked",
            )),
        }
    }

    /// How far the disks at a host are, by guest.
    pub(super) async fn disks_at(&self, host: NodeId) -> BTreeMap<GuestId, api::DiskRow> {
        let call = GuestCall::Disks;
        let asked = tokio::time::timeout(DISKS_WAIT, self.call_host(host, &call, |_| {})).await;
        let Ok(Ok(GuestResult::Disks(all))) = asked else {
            tracing::debug!(%host, "a host does not say how far its disks are");
            return BTreeMap::new();
        };
        all.into_iter().map(|d| (d.guest, disk_row(d))).collect()
    }

    /// A guest in full, with how far its disk is.
    pub(super) async fn guest_view_with_disk(&self, v: &GuestView) -> api::GuestView {
        let mut view = self.guest_view(v);
        view.guest.disk = self.disks_at(v.host).await.remove(&v.id);
        view
    }
}

fn disk_row(d: DiskView) -> api::DiskRow {
    api::DiskRow {
        stage: match d.stage {
            DiskStage::OnDemand => api::DiskWord::OnDemand,
            DiskStage::Fetching => api::DiskWord::Fetching,
            DiskStage::Copying => api::DiskWord::Copying,
            DiskStage::Waiting => api::DiskWord::Waiting,
            DiskStage::Persistent => api::DiskWord::Persistent,
        },
        have_bytes: d.have,
        total_bytes: d.total,
        note: d.note,
    }
}

/// A guest that needs its image for a snapshot alone.
pub(super) fn kept_for_snapshot(name: &str) -> Fault {
    let what = format!("a snapshot of guest {name} on this machine has its disk on that image");
    Fault::new(FaultKind::Refused, what).next(format!(
        "delete the snapshot first: lanline snapshot {name}, then lanline snapshot {name} NAME --rm"
    ))
}
