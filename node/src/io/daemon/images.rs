//! Images: the store behind the API, pulls that callers share, pieces for peers, disks for guests. Paper: §3.1.

use super::{Daemon, faults, find, slots::Slots};
use crate::api;
use ::images::io::{
    Connect, ImageInfo, ImportSpec, NbdExport, PeerHint, PeerStream, PullProgress, PullReport, PullSpec, Want,
};
use futures::FutureExt;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use wire::{
    ByteSize, Fault, FaultKind, GuestId, ImageId, Name, NodeId,
    advert::{Body, Holding, Slot},
    guest::ImageProgress,
};

/// Pulls that run at a time; each holds sessions to several peers.
const MAX_PULLS: usize = 16;
/// How often a running pull asks the index for more holders.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Hints that wait for the pull to take them.
const HINT_QUEUE: usize = 64;
/// Sessions of peers that take pieces from this node at a time.
const MAX_SESSIONS: usize = 64;
/// Of these, sessions of one peer: one for each image that it fetches at a time.
const MAX_SESSIONS_EACH: usize = 16;
/// How often a person or a caller is told how far a pull is.
pub(super) const TELL_EVERY: Duration = Duration::from_millis(200);

/// Which pull: an image and the part of it.
pub(super) type PullKey = (ImageId, Option<(u32, u32)>);

/// A pull that runs, for everyone who wants the same.
#[derive(Clone)]
pub(super) struct PullJob {
    /// It supplies guests that run, and ends only when the image is complete or no guest needs it.
    supply: bool,
    progress: watch::Receiver<PullProgress>,
    done: watch::Receiver<Option<Result<PullReport, Fault>>>,
}

impl PullJob {
    /// Its result, once it ended.
    pub(super) async fn ended(&mut self) -> Result<PullReport, Fault> {
        match self.done.wait_for(Option::is_some).await.map(|r| r.clone()) {
            Ok(Some(result)) => result,
            _ => Err(Fault::new(FaultKind::Failed, "the pull ended without an answer")),
        }
    }

    /// What it fetched, once it ended.
    pub(super) fn report(&self) -> Option<PullReport> {
        self.done.borrow().clone()?.ok()
    }

    /// How far it is.
    pub(super) fn progress(&self) -> ImageProgress {
        super::convert::pull_progress(&self.progress.borrow())
    }
}

pub(super) type Pulls = Mutex<BTreeMap<PullKey, PullJob>>;

/// Opens piece streams for the swarm of one image; to the archive, if it has one, as to a peer.
pub(super) struct Dialler {
    overlay: overlay::io::Overlay,
    store: ::images::io::Store,
    image: ImageId,
    me: NodeId,
}

impl Connect for Dialler {
    fn connect(&self, peer: NodeId) -> ::images::io::BoxFuture<'static, std::io::Result<Box<dyn PeerStream>>> {
        let (overlay, store, image) = (self.overlay.clone(), self.store.clone(), self.image);
        async move {
            if peer == ::images::io::archive_peer() {
                let recalled = tokio::task::spawn_blocking({
                    let runtime = tokio::runtime::Handle::current();
                    move || {
                        let _inside = runtime.enter();
                        store.recall(image)
                    }
                });
                let none = || std::io::Error::from(std::io::ErrorKind::NotFound);
                return recalled.await.map_err(std::io::Error::other)??.ok_or_else(none);
            }
            let s = overlay
                .open_stream(peer, super::PIECE_PROTOCOL)
                .await
                .map_err(std::io::Error::other)?;
            Ok(Box::new(s) as Box<dyn PeerStream>)
        }
        .boxed()
    }

    fn me(&self) -> Option<NodeId> {
        Some(self.me)
    }
}

impl Daemon {
    /// An image of this node by name, `name:tag`, id or the beginning of one.
    pub(super) fn local_image(&self, reference: &str) -> Option<ImageId> {
        self.store.resolve(reference).unwrap_or_else(|e| {
            tracing::warn!(error = %e, "cannot look an image up");
            None
        })
    }

    /// The same, or the answer that there is none.
    pub(super) fn local_image_or_fault(&self, reference: &str) -> Result<ImageId, Fault> {
        self.local_image(reference).ok_or_else(|| {
            Fault::new(
                FaultKind::NoMatch,
                format!("no image called {} is on this node", wire::fault::plain(reference)),
            )
            .next("see what is here: lanline image ls; or fetch one: lanline image pull NAME")
        })
    }

    /// The way to peers that have an image.
    pub(super) fn dialler(&self, image: ImageId) -> Dialler {
        Dialler {
            overlay: self.overlay.clone(),
            store: self.store.clone(),
            image,
            me: self.me,
        }
    }

    /// What the store has of an image.
    pub(super) async fn store_info(&self, id: ImageId) -> Option<ImageInfo> {
        let found = self.with_store(move |s| s.info(id)).await;
        found.unwrap_or_else(|e| {
            tracing::warn!(image = %id, error = %e, "cannot look an image up");
            None
        })
    }

    /// Runs a blocking call of the store.
    pub(super) async fn with_store<T, F>(&self, f: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&::images::io::Store) -> Result<T, ::images::io::StoreError> + Send + 'static,
    {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || f(&store))
            .await
            .map_err(|e| Fault::new(FaultKind::Failed, format!("the store's work was cut off: {e}")))?
            .map_err(faults::store)
    }

    /// Imports a file.
    pub(super) async fn add_image(&self, req: api::ImageAdd, progress: api::Progress) -> Result<ImageId, Fault> {
        let name: Name = req.name.parse().map_err(faults::usage)?;
        let tag: Name = req.tag.as_deref().unwrap_or("latest").parse().map_err(faults::usage)?;
        let parent = req
            .parent
            .as_deref()
            .map(|p| self.local_image_or_fault(p))
            .transpose()?;
        let parents = parent.into_iter().collect();
        let (named, tagged) = (name.clone(), tag.clone());
        let spec = ImportSpec {
            file: PathBuf::from(req.file),
            name,
            tag,
            kernel: req.kernel.map(PathBuf::from),
            initrd: req.initrd.map(PathBuf::from),
            cmdline: req.cmdline,
            parents,
        };
        let store = self.store.clone();
        let imported = tokio::task::spawn_blocking(move || {
            let mut told = Instant::now();
            store.import(&spec, &mut |p| {
                if told.elapsed() >= TELL_EVERY {
                    told = Instant::now();
                    progress.progress(super::convert::import_progress(&p));
                }
            })
        });
        let id = imported
            .await
            .map_err(|e| Fault::new(FaultKind::Failed, format!("the import was cut off: {e}")))?
            .map_err(faults::import)?;
        self.sign_name(id, &named, &tagged).await;
        self.publish_image(id).await;
        Ok(id)
    }

    /// Fetches an image or a part of it, or joins whoever fetches the same already.
    pub(super) async fn ensure_image(
        self: &Arc<Self>,
        id: ImageId,
        hints: &[NodeId],
        part: Option<(u32, u32)>,
        mut on: impl FnMut(ImageProgress) + Send,
    ) -> Result<PullReport, Fault> {
        let mut job = self.pull_job(id, hints, part, false)?;
        let mut tick = tokio::time::interval(TELL_EVERY);
        let (mut asked, mut news) = (false, (0, Instant::now()));
        loop {
            tokio::select! {
                changed = job.done.changed() => {
                    if let Some(result) = job.done.borrow_and_update().clone() {
                        return result;
                    }
                    if changed.is_err() {
                        return Err(Fault::new(FaultKind::Failed, "the pull ended without an answer"));
                    }
                }
                _ = tick.tick() => {
                    let p = *job.progress.borrow();
                    on(super::convert::pull_progress(&p));
                    // Guests run on it while it comes; now all of it is wanted.
                    asked |= job.supply && self.store.want(id, Want::Whole);
                    if news.0 != p.pieces_have {
                        news = (p.pieces_have, Instant::now());
                    } else if job.supply && news.1.elapsed() > ::images::defaults::PATIENCE && asked {
                        return Err(Fault::new(
                            FaultKind::Failed,
                            "no peer has delivered a piece for too long; guests run on the image, so it is still waited for",
                        )
                        .next("see who has it: lanline image show"));
                    }
                }
            }
        }
    }

    /// The job that fetches an image, begun if there is none; `supply`: for guests that run on it.
    pub(super) fn pull_job(
        self: &Arc<Self>,
        id: ImageId,
        hints: &[NodeId],
        part: Option<(u32, u32)>,
        supply: bool,
    ) -> Result<PullJob, Fault> {
        let mut pulls = super::lock(&self.pulls);
        if let Some(job) = pulls.get(&(id, part)) {
            return Ok(job.clone());
        }
        if pulls.len() >= MAX_PULLS {
            return Err(Fault::new(
                FaultKind::Failed,
                format!("{MAX_PULLS} images are being fetched already"),
            )
            .next("wait until one of them is done"));
        }
        let (progress_tx, progress) = watch::channel(PullProgress::default());
        let (done_tx, done) = watch::channel(None);
        let job = PullJob { supply, progress, done };
        pulls.insert((id, part), job.clone());
        drop(pulls);
        let (daemon, hints) = (self.clone(), hints.to_vec());
        tokio::spawn(async move {
            let result = match supply {
                false => daemon.run_pull(id, hints, part, progress_tx, false).await,
                true => daemon.run_supply(id, hints, progress_tx).await,
            };
            super::lock(&daemon.pulls).remove(&(id, part));
            daemon.publish_image(id).await;
            // Nobody may be waiting any more; the pieces are in the store all the same.
            let _ = done_tx.send(Some(result));
        });
        Ok(job)
    }

    pub(super) async fn run_pull(
        self: &Arc<Self>,
        id: ImageId,
        hints: Vec<NodeId>,
        part: Option<(u32, u32)>,
        progress: watch::Sender<PullProgress>,
        supply: bool,
    ) -> Result<PullReport, Fault> {
        let (tx, rx) = mpsc::channel(HINT_QUEUE);
        let scout = tokio::spawn(self.clone().scout(id, hints, tx));
        let connect = Arc::new(self.dialler(id));
        let store = self.store.clone();
        let report = match supply {
            false => ::images::io::pull(store, PullSpec { id, part }, rx, connect, progress).await,
            true => ::images::io::supply(store, id, rx, connect, progress).await,
        };
        scout.abort();
        report.map_err(|e| faults::pull(&e))
    }

    /// Feeds a pull with holders: those that the caller named, then what the index says, again and again.
    async fn scout(self: Arc<Self>, id: ImageId, hints: Vec<NodeId>, tx: mpsc::Sender<PeerHint>) {
        let mut known = hints;
        // What was archived is next to this node, whoever else has it.
        let archived = self.with_store(move |s| s.archive_of(id)).await.ok().flatten();
        known.extend(archived.map(|_| ::images::io::archive_peer()));
        loop {
            let rtts: BTreeMap<NodeId, Duration> = self
                .overlay
                .peers()
                .await
                .into_iter()
                .filter_map(|p| Some((p.id, p.rtt?)))
                .collect();
            for peer in known.drain(..).filter(|p| *p != self.me) {
                if tx
                    .send(PeerHint {
                        id: peer,
                        rtt: rtts.get(&peer).copied(),
                    })
                    .await
                    .is_err()
                {
                    return;
                }
            }
            known = self.holders(id, find::FIND_IMAGE).await;
            self.publish_image(id).await;
            tokio::select! {
                _ = tx.closed() => return,
                _ = tokio::time::sleep(ASK_AGAIN) => {}
            }
        }
    }

    /// Serves pieces to fellow members until the node ends.
    pub(super) async fn serve_pieces(self: Arc<Self>) {
        let mut streams = self.overlay.accept(super::PIECE_PROTOCOL);
        let slots = Slots::new(MAX_SESSIONS, MAX_SESSIONS_EACH);
        while let Some((peer, stream)) = streams.recv().await {
            // What images are here, and this line's upload, are for those who share a LAN with this node.
            if !self.member_ids().contains(&peer) {
                tracing::debug!(%peer, "piece session refused: its peer shares no LAN with this node");
                continue;
            }
            let Some(slot) = slots.take(peer) else {
                tracing::debug!(%peer, "piece session refused: too many are open");
                continue;
            };
            let (store, standing) = (self.store.clone(), self.standing(peer));
            tokio::spawn(async move {
                if let Err(e) = ::images::io::serve(store, peer, standing, stream).await {
                    tracing::debug!(%peer, error = %e, "piece session ended");
                }
                drop(slot);
            });
        }
    }

    /// Refuses what would pull the disk from under a guest.
    pub(super) fn image_in_use(&self, image: ImageId) -> Result<(), Fault> {
        let needs = |g: &wire::guest::GuestView| g.image == image && self.guests.needs_image(g.id);
        let user = self.guests.list().into_iter().find(needs);
        let mounted = super::lock(&self.mounts)
            .iter()
            .find(|(_, (i, _))| *i == image)
            .map(|(d, _)| d.clone());
        match user {
            None => match mounted {
                None => Ok(()),
                Some(dir) => Err(Fault::new(
                    FaultKind::Refused,
                    format!("that image is mounted on {}", dir.display()),
                )
                .next(format!("end the mount first: lanline image umount '{}'", dir.display()))),
            },
            Some(g) if self.guests.disk(g.id).whole => Err(super::whole::kept_for_snapshot(g.name.as_str())),
            Some(g) => Err(Fault::new(
                FaultKind::Refused,
                format!("guest {} on this machine has its disk on that image", g.name),
            )
            .next(format!("remove the guest first: lanline rm {}", g.name))),
        }
    }

    /// Tells the index what this node has of an image; nothing left means a tombstone.
    pub(super) async fn publish_image(&self, id: ImageId) {
        let slot = Slot::Image(id);
        match self.store_info(id).await.filter(|i| i.pieces_have > 0 || i.complete) {
            Some(info) => {
                if let Err(e) = self.discovery.publish(slot, Body::Image(holding(&info))) {
                    tracing::warn!(image = %id, error = %e, "nobody will find this image here");
                }
            }
            None => self.discovery.withdraw(slot),
        }
    }

    /// All images at once, when the node starts.
    pub(super) async fn publish_images(&self) {
        match self.with_store(|s| s.list()).await {
            Ok(all) => {
                for info in all {
                    self.publish_image(info.id).await;
                }
            }
            Err(e) => tracing::warn!(error = %e, "images cannot be listed, nobody will find them here"),
        }
    }

    /// The row of `image ls`.
    pub(super) async fn image_view(&self, id: ImageId, ask: bool) -> Result<api::ImageView, Fault> {
        let info = self
            .store_info(id)
            .await
            .ok_or_else(|| find::unknown_image(&id.to_string()))?;
        let holders = if ask {
            self.holders(id, find::FIND_IMAGE).await
        } else {
            Vec::new()
        };
        let profile = self.with_store(move |s| s.boot_profile(id)).await?;
        let health = self.image_health(id, &holders).await;
        let providers = holders.iter().map(ToString::to_string).collect();
        Ok(api::ImageView {
            profile: profile.map(|p| api::BootProfile {
                pieces: p.pieces,
                bytes: p.bytes,
                nodes: p.reports,
            }),
            health,
            kernel: info.kernel,
            initrd: info.initrd,
            cmdline: info.cmdline.clone(),
            providers,
            image: super::convert::image_row(&info),
        })
    }
}

fn holding(info: &ImageInfo) -> Holding {
    let named = info.names.first().and_then(|n| find::parse_ref(n).ok());
    let (name, tag) = named.unzip();
    Holding {
        image: info.id,
        name,
        tag,
        size: ByteSize(info.size),
        stored: ByteSize(info.stored_bytes),
        pieces_total: info.pieces_total,
        pieces_have: info.pieces_have,
        kernel: info.kernel,
    }
}

/// An export and the image it serves.
pub(super) type Exports = Mutex<BTreeMap<GuestId, (ImageId, NbdExport)>>;

/// Absolute paths only: the node's working folder is not the person's.
pub(super) fn absolute(path: &str) -> Result<(), Fault> {
    if Path::new(path).is_absolute() {
        Ok(())
    } else {
        Err(Fault::new(
            FaultKind::Usage,
            format!("{path} is not an absolute path; the node has another working folder"),
        ))
    }
}
