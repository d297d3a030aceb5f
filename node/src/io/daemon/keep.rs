//! What becomes of images here: published from guests, written out, archived, thinned; and how well others hold them.

use super::{Daemon, convert, faults, find, images::absolute, run::millis};
use crate::api::{self, Progress};
use ::images::io::{ArchiveReport, ExportFormat, PeerHint, PublishSpec};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use wire::{
    ByteSize, Fault, FaultKind, ImageId, Name, NodeId,
    advert::{Body, Namespace},
    guest::GuestState,
};

/// How long holders may take to say what they have.
const SURVEY: Duration = Duration::from_secs(2);
/// How often names that this node signed are signed anew; they are good for 48 hours.
const RENEW_EVERY: Duration = Duration::from_secs(6 * 3_600);
/// Up to this round trip a holder counts as being at this site, and as near.
const HERE_MS: f64 = 2.0;
/// See above.
const NEAR_MS: f64 = 15.0;

impl Daemon {
    /// Makes an image of the disk of a guest of this machine.
    pub(super) async fn publish_guest(
        &self,
        guest: &str,
        req: api::ImagePublish,
        progress: Progress,
    ) -> Result<api::PublishResult, Fault> {
        let name: Name = req.name.parse().map_err(faults::usage)?;
        let tag: Name = req.tag.as_deref().unwrap_or("latest").parse().map_err(faults::usage)?;
        let meant = self.resolve_guest(guest)?;
        let Some(view) = self.guests.info(meant.id) else {
            let host = self.name_of(meant.host).unwrap_or_else(|| meant.host.to_string());
            return Err(Fault::new(
                FaultKind::Refused,
                format!("guest {} is at {host}, its disk is there", meant.name),
            )
            .next(format!(
                "publish it on {host}, then: lanline image pull {name}:{tag}@{host}"
            )));
        };
        if !req.warm && !matches!(view.state, GuestState::Stopped | GuestState::Crashed) {
            return Err(Fault::new(
                FaultKind::Refused,
                format!("guest {} is {}: its disk changes", meant.name, view.state),
            )
            .next(format!(
                "stop it first: lanline stop {}; or take its memory, too: --warm",
                meant.name
            )));
        }
        self.parent_here(&view).await?;
        // Held until the disk is read, so that nobody starts the guest meanwhile.
        let turn = self.turn_of(meant.id)?;
        let _turn = turn.lock().await;
        let ends = self
            .guests
            .endpoints(meant.id)
            .ok_or_else(|| Fault::new(FaultKind::NoMatch, "the guest was removed meanwhile"))?;
        let begun = Instant::now();
        let taken = if req.warm {
            Some(self.take_warm(meant.id, view.state, &progress).await?)
        } else {
            None
        };
        let spec = PublishSpec {
            parent: view.image,
            delta: taken.as_ref().map_or(ends.delta, |t| t.delta.clone()),
            name: name.clone(),
            tag: tag.clone(),
            memory: taken.as_ref().map(|t| t.memory.clone()),
        };
        let store = self.store.clone();
        let made = tokio::task::spawn_blocking(move || {
            store.publish(&spec, &mut |p| progress.progress(convert::import_progress(&p)))
        });
        let made = made.await;
        if let Some(t) = &taken {
            self.drop_taken(meant.id, t).await;
        }
        let made = made.map_err(|e| faults::failed(&e))?.map_err(faults::import)?;
        self.sign_name(made.id, &name, &tag).await;
        self.publish_image(made.id).await;
        Ok(api::PublishResult {
            id: made.id.to_string(),
            name: format!("{name}:{tag}"),
            parent: view.image.to_string(),
            changed_pieces: made.changed,
            new_pieces: made.new,
            new_bytes: made.new_bytes,
            elapsed_ms: millis(begun.elapsed()),
        })
    }

    /// A new image is described by what differs from its parent. A persistent guest's may have been removed here.
    async fn parent_here(&self, view: &wire::guest::GuestView) -> Result<(), Fault> {
        if self.store_info(view.image).await.is_some() {
            return Ok(());
        }
        let what = format!(
            "the image that {} was started from is not here any more, and a new one is told by what differs from it",
            view.name
        );
        Err(Fault::new(FaultKind::Refused, what).next(format!("fetch it first: lanline image pull {}", view.image)))
    }

    /// Signs what an image is called here, so that others can tell a newer word of this node from an older.
    pub(super) async fn sign_name(&self, id: ImageId, name: &Name, tag: &Name) {
        let (store, key) = (self.store.clone(), self.key.clone());
        let (name, tag) = (name.clone(), tag.clone());
        let signed = tokio::task::spawn_blocking(move || store.sign_name(&key, id, &name, &tag, super::now()));
        match signed.await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => tracing::warn!(image = %id, error = %e, "an image's name is not signed"),
            Err(e) => tracing::warn!(image = %id, error = %e, "an image's name is not signed"),
        }
    }

    /// Signs anew, before they end, the names that this node has signed.
    pub(super) async fn renew_names(self: Arc<Self>) {
        loop {
            let me = self.key.public();
            let mine = self.with_store(move |s| {
                let mut mine = Vec::new();
                for info in s.list()? {
                    let records = s.names_of(info.id)?.into_iter().filter(|r| r.signer() == me);
                    mine.extend(records.filter_map(|r| r.open().ok()));
                }
                Ok(mine)
            });
            match mine.await {
                Ok(mine) => {
                    for r in mine {
                        self.sign_name(r.image, &r.name, &r.tag).await;
                    }
                }
                Err(e) => tracing::warn!(error = %e.what, "names cannot be renewed"),
            }
            tokio::time::sleep(RENEW_EVERY).await;
        }
    }

    /// Writes an image to a file of this machine.
    pub(super) async fn export_image(
        &self,
        image: &str,
        req: api::ImageExport,
        progress: Progress,
    ) -> Result<api::ExportResult, Fault> {
        absolute(&req.file)?;
        let id = self.local_image_or_fault(image)?;
        let format = match req.format {
            api::ExportAs::Raw => ExportFormat::Raw,
            api::ExportAs::Qcow2 => ExportFormat::Qcow2,
        };
        let (begun, file) = (Instant::now(), PathBuf::from(&req.file));
        let bytes = self
            .with_store(move |s| {
                s.export(id, format, &file, &mut |p| {
                    progress.progress(convert::import_progress(&p))
                })
            })
            .await?;
        Ok(api::ExportResult {
            id: id.to_string(),
            file: req.file,
            bytes,
            elapsed_ms: millis(begun.elapsed()),
        })
    }

    /// Makes room in the store, by what others are known to hold.
    pub(super) async fn collect_images(&self, req: api::ImageGc) -> Result<api::GcResult, Fault> {
        let report = self.collect_store(req.target_bytes.map(ByteSize)).await?;
        Ok(api::GcResult {
            freed_bytes: report.removed.freed_bytes,
            pieces: report.removed.pieces,
            held_bytes: report.held_bytes,
            reached: report.reached,
            thinned: report
                .thinned
                .iter()
                .map(|(id, pieces)| api::Thinned {
                    id: id.to_string(),
                    pieces: *pieces,
                })
                .collect(),
        })
    }

    /// Other nodes that say they have all of an image.
    pub(super) async fn whole_copies(&self, id: ImageId) -> u32 {
        let answer = self.ask_index(Namespace::Image(id), find::FIND_IMAGE).await;
        let whole = |b: &Body| matches!(b, Body::Image(h) if h.complete());
        let nodes = answer
            .rows
            .iter()
            .filter(|r| r.advert.node != self.me && whole(&r.advert.body));
        u32::try_from(nodes.count()).unwrap_or(u32::MAX)
    }

    /// Moves the pieces of an image to a store in another folder.
    pub(super) async fn archive_image(
        &self,
        image: &str,
        req: api::ImageArchive,
        progress: Progress,
    ) -> Result<api::ArchiveResult, Fault> {
        absolute(&req.folder)?;
        let id = self.local_image_or_fault(image)?;
        self.image_in_use(id)?;
        let folder = PathBuf::from(&req.folder);
        let report: ArchiveReport = self
            .with_store(move |s| {
                s.archive(id, &folder, &[], &mut |p| {
                    progress.progress(convert::import_progress(&p))
                })
            })
            .await?;
        self.publish_image(id).await;
        Ok(api::ArchiveResult {
            id: id.to_string(),
            folder: req.folder,
            pieces: report.pieces,
            written_bytes: report.written_bytes,
            freed_bytes: report.freed_bytes,
        })
    }

    /// How well the holders of an image have it; `None`: there are none.
    pub(super) async fn image_health(&self, id: ImageId, holders: &[NodeId]) -> Option<api::SwarmHealth> {
        if holders.is_empty() {
            return None;
        }
        let peers = self.overlay.peers().await;
        let rtts: BTreeMap<NodeId, Duration> = peers.into_iter().filter_map(|p| Some((p.id, p.rtt?))).collect();
        let hints = holders.iter().map(|id| PeerHint {
            id: *id,
            rtt: rtts.get(id).copied(),
        });
        let connect = Arc::new(self.dialler(id));
        let health = ::images::io::survey(self.store.clone(), id, hints.collect(), connect, SURVEY).await;
        let mut health = health
            .inspect_err(|e| tracing::warn!(image = %id, error = %e, "cannot look how an image is held"))
            .ok()?;
        health.peers.sort_by_key(|p| (p.rtt.is_none(), p.rtt));
        let row = |p: &::images::io::PeerHealth| {
            let ms = p.rtt.map(|r| r.as_secs_f64() * 1e3);
            let site = match ms {
                Some(ms) if ms <= HERE_MS => "here",
                Some(ms) if ms <= NEAR_MS => "near",
                Some(_) => "far",
                None => "unknown",
            };
            api::HolderRow {
                peer: self.name_of(p.id).unwrap_or_else(|| p.id.to_string()),
                site: site.into(),
                rtt_us: p.rtt.map(|r| u64::try_from(r.as_micros()).unwrap_or(u64::MAX)),
                pieces: p.have,
            }
        };
        Some(api::SwarmHealth {
            rarest_copies: health.rarest,
            rarest_pieces: health.rarest_pieces,
            holders: health.peers.iter().map(row).collect(),
        })
    }
}
