//! Warm starts: memory of a guest as part of an image, and guests that go on with it while it comes. Paper: §2.3, §4.
//!
//! ```text
//! publish: hold · copy disk, memory, devices · let go · hash what changed, all memory that is not zero ─▶ one image id
//! run:     manifest, devices here ─▶ QEMU waits ─▶ devices in ─▶ CPUs run ─▶ pages as they are touched,
//!          beside that what earlier warm starts touched, then all of the memory ─▶ answered: kernel, the rest
//! ```

use super::{Daemon, faults, find};
use crate::api::{self, Progress};
use ::images::io::{ImageReader, Look, Memory, Recording};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use vm::io::{MEMORY_PART, MemoryLook, MemorySource, WarmStart};
use wire::{
    Fault, FaultKind, GuestId, ImageId, Name, NodeId,
    guest::GuestState,
    image::{Part, Warm},
};

/// What a warm start needs before it begins: not its kernel, which is for its next boot.
pub(super) const FIRST: &[Part] = &[Part::DeviceState];
/// How long one read waits before it is begun anew; the guest waits on.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// How long a first start shows what the next ones touch.
const LEARN_FOR: Duration = Duration::from_secs(10);
/// How long the manifest of a warm image may take before a host is asked.
const MANIFEST: Duration = Duration::from_secs(20);

/// The memory of an image, as its pieces come.
struct ImageMemory {
    /// What is read for a guest that waits is the image's profile.
    waited: ImageReader,
    /// What is given ahead is not.
    ahead: ImageReader,
    /// Nothing is given ahead before this. Nobody knows yet what a start of this image touches, and what is given ahead
    /// cannot be told from what was needed; by then a fault costs no round trip.
    learns_until: Option<Instant>,
}

impl MemorySource for ImageMemory {
    fn look(&self, offset: u64) -> MemoryLook {
        match self.ahead.look(offset) {
            Look::Zero => MemoryLook::Zero,
            Look::Here if self.learns_until.is_some_and(|t| Instant::now() < t) => MemoryLook::Away,
            Look::Here => MemoryLook::Here,
            Look::Away => MemoryLook::Away,
        }
    }

    fn read(&self, offset: u64, urgent: bool) -> std::pin::Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send>> {
        let reader = if urgent { &self.waited } else { &self.ahead }.clone();
        Box::pin(async move {
            let left = reader.size().saturating_sub(offset);
            let len = usize::try_from(left).map_or(MEMORY_PART, |n| n.min(MEMORY_PART));
            loop {
                match reader.read_at(offset, len, Instant::now() + READ_AGAIN).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(::images::io::ReadError::Missing(piece)) => {
                        tracing::warn!(piece, "a guest waits for its memory, and no peer delivers it");
                    }
                    Err(e) => return Err(io::Error::other(e)),
                }
            }
        })
    }

    fn changed(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut changes = self.ahead.changes();
        Box::pin(async move {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

fn vm_fault(e: vm::io::VerbError) -> Fault {
    Fault::from(&e)
}

fn not_warm(image: &str) -> Fault {
    Fault::new(FaultKind::Usage, format!("image {image} holds no memory"))
        .next("leave out --warm; or make one that does: lanline image publish NAME --vm VM --warm")
}

/// What of a held guest goes into an image.
pub(super) struct Taken {
    name: Name,
    pub(super) delta: std::path::PathBuf,
    pub(super) memory: Memory,
}

impl Daemon {
    /// Holds a running guest for as long as its disk, memory and devices are copied.
    pub(super) async fn take_warm(
        &self,
        guest: GuestId,
        state: GuestState,
        progress: &Progress,
    ) -> Result<Taken, Fault> {
        if !matches!(state, GuestState::Running | GuestState::Paused) {
            return Err(Fault::new(
                FaultKind::Refused,
                format!("the guest is {state}: there is no memory of it"),
            )
            .next("start it first, or leave out --warm"));
        }
        let name: Name = format!("publish-{:08x}", rand::random::<u32>())
            .parse()
            .map_err(|e: wire::ids::BadId| faults::failed(&e))?;
        let warm = self.guests.warm_of(guest).await.map_err(vm_fault)?;
        progress.waiting("the guest stands still while its memory is copied");
        self.guests.snapshot(guest, name.clone()).await.map_err(vm_fault)?;
        let files = self.guests.snapshot_files(guest, &name);
        let files = files.ok_or_else(|| Fault::new(FaultKind::NoMatch, "the guest was removed meanwhile"))?;
        let [delta, ram, device] = files;
        let taken = Taken {
            name,
            delta,
            memory: Memory { ram, device, warm },
        };
        if taken.memory.ram.exists() {
            return Ok(taken);
        }
        self.drop_taken(guest, &taken).await;
        Err(Fault::new(
            FaultKind::Missing,
            "the QEMU of this host cannot save a guest without its memory in the same stream",
        )
        .next("install QEMU 7.2 or later, then start the guest anew"))
    }

    /// Deletes the copies.
    pub(super) async fn drop_taken(&self, guest: GuestId, taken: &Taken) {
        if let Err(e) = self.guests.drop_snapshot(guest, taken.name.clone()).await {
            tracing::warn!(%guest, snapshot = %taken.name, error = %e, "what was published is left as a snapshot");
        }
    }

    /// What a warm image says of its machine, before a host is asked; its manifest is fetched if it is not here.
    pub(super) async fn warm_of_image(&self, image: ImageId, shown: &str, holders: &[NodeId]) -> Result<Warm, Fault> {
        if self.store_info(image).await.is_none() {
            let job = self.arc().pull_job(image, holders, None, true)?;
            let opened = tokio::time::timeout(MANIFEST, self.store.opened(image)).await;
            drop(job);
            self.let_go(image);
            opened
                .map_err(|_| {
                    let what = format!("the manifest of image {shown} did not come in time");
                    Fault::new(FaultKind::TimedOut, what).next("see who has it: lanline image show")
                })?
                .map_err(faults::store)?;
        }
        let info = self.store_info(image).await.ok_or_else(|| find::unknown_image(shown))?;
        info.warm.ok_or_else(|| not_warm(shown))
    }

    /// Gives a prepared guest its image's memory, wherever that is.
    pub(super) async fn ready_memory(&self, guest: GuestId, image: ImageId, recording: Recording) -> Result<(), Fault> {
        let info = self.store_info(image).await;
        let info = info.ok_or_else(|| find::unknown_image(&image.to_string()))?;
        let warm = info.warm.ok_or_else(|| not_warm(&image.to_string()))?;
        let ends = self.guests.endpoints(guest);
        let ends = ends.ok_or_else(|| Fault::new(FaultKind::NoMatch, "the guest was removed meanwhile"))?;
        let device = ends.kernel.with_file_name("device");
        let to = device.clone();
        self.with_store(move |s| s.materialise(image, Part::DeviceState, &to))
            .await?;
        let reader = self.with_store(move |s| s.part_reader(image, Part::Ram)).await?;
        let ahead = reader.ok_or_else(|| not_warm(&image.to_string()))?;
        let known = self.with_store(move |s| s.boot_profile(image)).await?;
        let source = Arc::new(ImageMemory {
            waited: ahead.clone().recorded(recording),
            ahead,
            learns_until: known.is_none().then(|| Instant::now() + LEARN_FOR),
        });
        let given = WarmStart {
            warm,
            device: device.clone(),
            source,
        };
        let ready = self.guests.warm(guest, given).await.map_err(vm_fault);
        if let Err(e) = std::fs::remove_file(&device) {
            tracing::debug!(%guest, error = %e, "a file of devices is left");
        }
        ready
    }

    /// A guest of a machine with a cloud-init disk needs one, too; with its own id in it.
    pub(super) async fn ready_seed(&self, guest: GuestId, image: ImageId) -> Result<(), Fault> {
        let info = self.store_info(image).await;
        if info.and_then(|i| i.warm).is_some_and(|w| w.seed) {
            let empty = b"#cloud-config\n{}\n".to_vec();
            self.guests.set_seed(guest, empty).await.map_err(vm_fault)?;
        }
        Ok(())
    }

    /// Makes a guest that calls its NIC by another's address ask for an IP address of its own.
    pub(super) fn look_for_address(&self, guest: GuestId) {
        let guests = self.guests.clone();
        tokio::spawn(async move {
            if let Err(e) = guests.replug(guest).await {
                tracing::debug!(%guest, error = %e, "the guest's cable was not pulled");
            }
        });
    }

    /// Processors and memory of a warm start are the image's.
    pub(super) async fn sized_warm(
        &self,
        mut req: api::RunRequest,
        image: ImageId,
        holders: &[NodeId],
    ) -> Result<api::RunRequest, Fault> {
        if req.warm {
            let warm = self.warm_of_image(image, &req.image, holders).await?;
            req.cpus = u32::from(warm.cpus);
            req.memory_bytes = warm.memory.0;
        }
        Ok(req)
    }
}
