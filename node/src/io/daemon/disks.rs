//! Disks of guests: served from the first byte of their image that is here, the rest on demand. Paper: §3.1, §3.3.
//!
//! ```text
//! manifest, kernel, initrd here ──▶ QEMU starts ──▶ reads are recorded ──▶ ready: profile kept and told, the rest fills
//! ```

use super::{
    Daemon, faults, find,
    images::{PullJob, TELL_EVERY},
};
use ::images::io::{PullReport, Recording, Want};
use std::{sync::Arc, time::Duration};
use wire::image::Part;
use wire::{
    ByteSize, Fault, FaultKind, GuestId, ImageId, NodeId,
    guest::{FetchReport, GuestView, ImageProgress, MAX_SOURCES},
};

/// Pause before a supply that failed under a running guest is begun again.
const RETRY_SUPPLY: Duration = Duration::from_secs(2);
/// How often it is looked whether a whole image is still read.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How often a supply is asked something until it listens, and how often it is tried.
const ASK_SUPPLY: (Duration, usize) = (Duration::from_millis(200), 100);

impl Daemon {
    /// Fetches what a start needs before it begins: the manifest, and the `first` parts that the image has. The rest comes
    /// on demand from the job that is returned.
    pub(super) async fn fetch_for_boot(
        self: &Arc<Self>,
        id: ImageId,
        hints: &[NodeId],
        first: &[Part],
        mut on: impl FnMut(ImageProgress) + Send,
    ) -> Result<PullJob, Fault> {
        let mut job = self.pull_job(id, hints, None, true)?;
        let mut tick = tokio::time::interval(TELL_EVERY);
        let store = self.store.clone();
        let ready = async {
            store.opened(id).await?;
            for part in first {
                store.want(id, Want::First(*part));
            }
            for part in first {
                store.part_here(id, *part).await?;
            }
            Ok(())
        };
        tokio::pin!(ready);
        loop {
            tokio::select! {
                r = &mut ready => {
                    let r: Result<(), ::images::io::StoreError> = r;
                    r.map_err(faults::store)?;
                    return Ok(job);
                }
                ended = job.ended() => {
                    ended?;
                    let complete = self.store_info(id).await.is_some_and(|i| i.complete);
                    if complete {
                        return Ok(job);
                    }
                    // Another guest's end released it.
                    job = self.pull_job(id, hints, None, true)?;
                }
                _ = tick.tick() => {
                    on(job.progress());
                    // A pull that had begun before, or has only now.
                    for part in first {
                        self.store.want(id, Want::First(*part));
                    }
                }
            }
        }
    }

    /// What came for an image by now, and from whom.
    pub(super) fn fetched(&self, id: ImageId, job: &PullJob) -> FetchReport {
        let report: PullReport = self.store.fetched(id).or_else(|| job.report()).unwrap_or_default();
        let mut from: Vec<_> = report.bytes_from.into_iter().collect();
        from.truncate(MAX_SOURCES);
        FetchReport {
            bytes: report.bytes,
            duplicate_bytes: report.duplicate_bytes,
            from,
        }
    }

    /// Runs a supply; one that fails under a guest that runs is begun again.
    pub(super) async fn run_supply(
        self: &Arc<Self>,
        id: ImageId,
        hints: Vec<NodeId>,
        progress: tokio::sync::watch::Sender<::images::io::PullProgress>,
    ) -> Result<PullReport, Fault> {
        loop {
            let ended = self.run_pull(id, hints.clone(), None, progress.clone(), true).await;
            let served = self.is_read(id);
            match ended {
                Err(f) if served && !self.stop.is_cancelled() => {
                    tracing::warn!(image = %id, error = %f, "a running guest's image does not come; trying again");
                    tokio::time::sleep(RETRY_SUPPLY).await;
                }
                ended => return ended,
            }
        }
    }

    /// Follows a boot: once the guest is ready, what it read becomes the image's profile here and at the peers, and the
    /// rest of the image is fetched.
    pub(super) async fn learn_boot(self: Arc<Self>, guest: GuestId, image: ImageId, recording: Recording) {
        // Its own view, for others are told of an address before that has it.
        let Some(mut view) = self.guests.watch(guest) else {
            return;
        };
        // A guest that is started again may still be known by its last address.
        let known = view.borrow().ips.clone();
        let spoke = |g: &GuestView| g.pid.is_none() || !(g.ips.is_empty() || g.ips == known);
        let answered = async { view.wait_for(spoke).await.is_ok_and(|g| g.pid.is_some()) };
        let worth = tokio::select! {
            ready = answered => ready,
            () = recording.over() => true,
        };
        recording.ready();
        if worth {
            match recording.keep(&self.store, image, self.me).await {
                Ok(Some(p)) => {
                    tracing::debug!(%guest, pieces = p.touches().len(), "learned what a boot reads");
                    self.store.want(image, Want::Report(p.encode().into()));
                }
                Ok(None) => {}
                Err(e) => tracing::warn!(%guest, error = %e, "what a boot reads is not kept"),
            }
        }
        // Only now: nothing that the guest waited for came after it.
        tokio::spawn(self.clone().bring_kernel(guest, image));
        self.keep_supplied(image).await;
    }

    /// Fetches the rest of an image for as long as something here reads it, whatever ends the pulls; and what is found
    /// damaged later.
    async fn keep_supplied(self: Arc<Self>, image: ImageId) {
        while self.is_read(image) {
            let lacks = tokio::time::timeout(LOOK_AGAIN, self.store.incomplete(image)).await;
            match lacks {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return, // it was removed
                Err(_) => continue,
            }
            match self.pull_job(image, &[], None, true) {
                Ok(mut job) => {
                    self.fill(image).await;
                    if let Err(f) = job.ended().await {
                        tracing::warn!(%image, error = %f, "the rest of an image that is read here does not come");
                    }
                }
                Err(f) => tracing::debug!(%image, error = %f, "no room for another pull"),
            }
            tokio::time::sleep(RETRY_SUPPLY).await;
        }
    }

    /// Fetches the rest of an image while guests run on it.
    async fn fill(&self, image: ImageId) {
        for _ in 0..ASK_SUPPLY.1 {
            let complete = self.store_info(image).await.is_none_or(|i| i.complete);
            if complete || self.store.want(image, Want::Fill) {
                return;
            }
            tokio::time::sleep(ASK_SUPPLY.0).await;
        }
    }

    /// Serves the disk of a guest that was found running, and goes on fetching its image.
    pub(super) async fn serve_found_disk(self: &Arc<Self>, guest: GuestId, image: ImageId) -> Result<(), Fault> {
        self.serve_disk(guest, image, None).await?;
        tokio::spawn(self.clone().keep_supplied(image));
        Ok(())
    }

    /// Makes a guest's disk ready: kernel and initrd as files, the disk as an NBD export beside its other sockets. `warm`:
    /// it begins without a kernel if that is not here. The answer: it does.
    pub(super) async fn ready_disk(
        &self,
        guest: GuestId,
        image: ImageId,
        warm: bool,
        recording: Recording,
    ) -> Result<bool, Fault> {
        let later = warm && !self.has_kernel(image).await?;
        let disk = self.ready_boot(guest, image, later).await?;
        if disk {
            self.serve_disk(guest, image, Some(recording)).await?;
        }
        Ok(later)
    }

    /// Gives a guest its boot files and its own disk. The answer: it has a disk.
    pub(super) async fn ready_boot(&self, guest: GuestId, image: ImageId, later: bool) -> Result<bool, Fault> {
        let info = self
            .store_info(image)
            .await
            .ok_or_else(|| find::unknown_image(&image.to_string()))?;
        let ends = self.endpoints(guest)?;
        let mut boot = vm::spec::Boot {
            image_size: (info.size > 0).then_some(ByteSize(info.size)),
            cmdline: info.cmdline.clone(),
            later,
            ..Default::default()
        };
        let store = self.store.clone();
        let (kernel, initrd) = (ends.kernel, ends.initrd);
        boot = tokio::task::spawn_blocking(move || -> Result<_, Fault> {
            if later {
                return Ok(boot);
            }
            boot.kernel = store
                .materialise(image, Part::Kernel, &kernel)
                .map_err(faults::store)?
                .map(|_| kernel);
            boot.initrd = store
                .materialise(image, Part::Initrd, &initrd)
                .map_err(faults::store)?
                .map(|_| initrd);
            Ok(boot)
        })
        .await
        .map_err(|e| Fault::new(FaultKind::Failed, format!("writing the kernel was cut off: {e}")))??;
        let disk = boot.image_size.is_some();
        self.guests.prepare(guest, boot).await.map_err(|e| Fault::from(&e))?;
        Ok(disk)
    }

    fn endpoints(&self, guest: GuestId) -> Result<vm::io::Endpoints, Fault> {
        self.guests
            .endpoints(guest)
            .ok_or_else(|| Fault::new(FaultKind::NoMatch, "the guest was removed meanwhile"))
    }

    /// Serves a guest's disk on its socket; what served it before is replaced.
    pub(super) async fn serve_disk(
        &self,
        guest: GuestId,
        image: ImageId,
        recording: Option<Recording>,
    ) -> Result<(), Fault> {
        super::lock(&self.exports).remove(&guest);
        let socket = self.endpoints(guest)?.disk;
        let store = self.store.clone();
        let export = match recording {
            Some(r) => ::images::io::nbd::serve_boot(store, image, &socket, r).await,
            None => ::images::io::nbd::serve(store, image, &socket).await,
        };
        let export = export.map_err(|e| faults::failed(&e))?;
        self.guests.hand_over_disk(guest).map_err(|e| Fault::from(&e))?;
        super::lock(&self.exports).insert(guest, (image, export));
        Ok(())
    }

    /// Ends the export of a guest's disk; an image that no other guest needs is not supplied any more.
    pub(super) fn close_disk(&self, guest: GuestId) {
        let ended = super::lock(&self.exports).remove(&guest);
        if let Some((image, _)) = ended {
            self.let_go(image);
        }
    }

    /// Whether a guest or a mount reads an image.
    pub(super) fn is_read(&self, image: ImageId) -> bool {
        let served = super::lock(&self.exports).values().any(|(i, _)| *i == image);
        served || super::lock(&self.mounts).values().any(|(i, _)| *i == image)
    }

    /// Ends the supply of an image that nobody needs any more.
    pub(super) fn let_go(&self, image: ImageId) {
        let uses = |g: &GuestView| g.image == image && g.state.holds_capacity() && self.guests.needs_image(g.id);
        if !self.is_read(image) && !self.guests.list().iter().any(uses) {
            self.store.want(image, Want::Release);
        }
    }
}
