//! A guest that begins with its image's memory, and one whose memory becomes an image's.

use super::{super::saved, Actor, Ask, wall_clock};
use crate::{
    args::{self, Ram},
    defaults::{REPLUG, TCG_CPU},
    io::{Guests, MemorySource, VerbError},
    qmp::Command,
    record::{BootRecord, SavedRecord},
};
use std::{path::PathBuf, sync::Arc, time::Instant};
use tokio::sync::oneshot;
use wire::{
    guest::{Accel, GuestState},
    ids::{GuestId, Name},
    image::Warm,
    units::ByteSize,
};

/// What a warm start needs beside a prepared guest.
#[derive(Debug)]
pub struct WarmStart {
    /// What the image says of the machine.
    pub warm: Warm,
    /// The devices' state, as a file of this node.
    pub device: PathBuf,
    /// The memory.
    pub source: Arc<dyn MemorySource>,
}

/// The processor of this machine: under KVM a guest has it as it is, and its memory fits no other.
fn own_cpu(accel: Accel) -> String {
    if accel == Accel::Tcg {
        return TCG_CPU.into();
    }
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1));
    format!("host {}", model.unwrap_or("of unknown make"))
        .chars()
        .take(100)
        .collect()
}

impl Actor {
    fn devices(&self) -> Result<String, String> {
        let boot = self.record.boot.as_ref().ok_or("its image is not ready")?;
        Ok(args::devices(&args::argv(
            &self.spec,
            &self.launch(boot, Ram::Anonymous),
        )))
    }

    /// Takes the image's memory for its own; done again, it changes nothing but where the memory comes from.
    pub(super) async fn warm(&mut self, start: WarmStart) -> Result<(), VerbError> {
        let failed = |why: String| VerbError::NotDone {
            what: "started warm",
            why,
        };
        let own = self.warm_of()?;
        let fits = Warm {
            qemu: own.qemu.clone(),
            mac: own.mac,
            ..start.warm.clone()
        };
        let major = |v: &str| v.split('.').next().map(str::to_owned);
        if fits != own || start.warm.mac.is_some() != own.mac.is_some() || major(&start.warm.qemu) != major(&own.qemu) {
            return Err(failed(unfit(&start.warm, &own)));
        }
        if self.record.saved.as_ref().is_none_or(|s| !s.warm) {
            let folder = Arc::clone(&self.folder);
            let placed = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
                let draft = folder.new_draft()?;
                let at = draft.join("saved");
                let made = saved::of_image(&start.device, &at).and_then(|blob| {
                    folder.place_saved(&at)?;
                    Ok((blob, folder.overlay_mark()?))
                });
                folder.drop_draft(&draft);
                made
            });
            let placed = placed.await.map_err(|_| VerbError::Ending)?;
            let (device, disk) = placed.map_err(|e| failed(format!("its devices cannot be kept: {e}")))?;
            let record = SavedRecord {
                at: wall_clock(),
                device,
                ram: None,
                disk,
                hardware: self.hardware().map_err(failed)?,
                qemu: start.warm.qemu.clone(),
                warm: true,
            };
            if !self.machine.handle_warm() {
                return Err(failed("it has run already".into()));
            }
            self.record.saved = Some(record);
        }
        if let Some(boot) = &mut self.record.boot {
            boot.inner_mac = start.warm.mac.filter(|m| *m != self.spec.mac);
        }
        self.source = Some(start.source);
        self.persist().await;
        Ok(())
    }

    /// The machine that it is.
    pub(super) fn warm_of(&self) -> Result<Warm, VerbError> {
        let boot = self.record.boot.as_ref().ok_or(VerbError::NotPrepared)?;
        let devices = self.devices().map_err(|_| VerbError::NotPrepared)?;
        Ok(Warm {
            machine: self.record.machine.clone(),
            cpu: own_cpu(self.record.accel),
            accel: self.record.accel,
            qemu: self.caps.qemu.as_ref().map(|q| q.version.clone()).unwrap_or_default(),
            devices,
            cpus: self.spec.cpus,
            memory: self.spec.memory,
            mac: self
                .spec
                .lan
                .is_some()
                .then_some(boot.inner_mac.unwrap_or(self.spec.mac)),
            seed: boot.seed,
        })
    }

    /// Only a guest that goes on from its image's memory needs no kernel; one that boots is what its address says.
    pub(super) fn check_boot(&mut self, warm: bool, saved: bool) -> Result<(), String> {
        let Some(boot) = &mut self.record.boot else {
            return Ok(());
        };
        if boot.later && !warm {
            return Err("its kernel has not come from its image yet; start it again".into());
        }
        if !saved {
            boot.inner_mac = None;
        }
        Ok(())
    }

    /// What it wrote to its disk since its image's moment is given up with what it had in memory.
    pub(super) async fn fresh_overlay(&mut self, saved: &SavedRecord, size: Option<ByteSize>) -> Result<(), String> {
        let mark = self.folder.overlay_mark().map_err(|e| e.to_string())?;
        if let Some(size) = size
            && mark != saved.disk
        {
            self.make_overlay(size.0).await.map_err(|e| e.to_string())?;
            let mark = self.folder.overlay_mark().map_err(|e| e.to_string())?;
            if let Some(s) = &mut self.record.saved {
                s.disk = mark;
            }
        }
        Ok(())
    }

    /// Pulls its cable or plugs it in, so that its system looks for its address anew.
    pub(super) fn cable(&self, up: bool) {
        if !self.link.as_ref().is_some_and(|l| l.tell(Command::Link(up))) {
            tracing::debug!(guest = %self.spec.id, up, "its cable was left as it is");
        }
    }

    /// All of its memory came, or it will not.
    pub(super) fn memory_came(&mut self, end: Result<(), String>) {
        self.giving = None;
        if end.is_ok() {
            self.source = None;
        }
        self.machine.handle_whole(Instant::now(), end);
    }
}

fn unfit(image: &Warm, own: &Warm) -> String {
    let pairs = [
        ("machine type", image.machine.clone(), own.machine.clone()),
        ("accelerator", image.accel.to_string(), own.accel.to_string()),
        ("processor", image.cpu.clone(), own.cpu.clone()),
        ("QEMU", image.qemu.clone(), own.qemu.clone()),
        ("processors", image.cpus.to_string(), own.cpus.to_string()),
        ("memory", image.memory.to_string(), own.memory.to_string()),
        ("LAN", yes(image.mac.is_some()), yes(own.mac.is_some())),
        ("cloud-init document", yes(image.seed), yes(own.seed)),
    ];
    let other = pairs.into_iter().find(|(_, a, b)| a != b);
    match other {
        Some((what, a, b)) => format!("the image's memory is of a machine with {what} {a}, here it would be {b}"),
        None => "the image's memory is of a machine with other devices".into(),
    }
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.into()
}

impl Guests {
    /// Gives a prepared guest its image's memory: the next start goes on from there. The source is asked until all of it has
    /// come. Idempotent; after a new start of this node, or of the guest, it is said again. Paper: §4 (a warm start).
    pub async fn warm(&self, id: GuestId, start: WarmStart) -> Result<(), VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::Warm(Box::new(start), answer))?;
        wait.await.map_err(|_| VerbError::Ending)?
    }

    /// The machine that a guest is, for an image that holds its memory.
    pub async fn warm_of(&self, id: GuestId) -> Result<Warm, VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::WarmOf(answer))?;
        wait.await.map_err(|_| VerbError::Ending)?
    }

    /// Files of a snapshot: its disk, its memory, its devices; as long as it is not dropped.
    pub fn snapshot_files(&self, id: GuestId, name: &Name) -> Option<[PathBuf; 3]> {
        let at = self.with(id, |e| e.folder.snapshot(name))?;
        Some([at.join("overlay.qcow2"), at.join("saved/ram"), at.join("saved/device")])
    }

    /// What a guest boots, once that is known.
    pub async fn boot_of(&self, id: GuestId) -> Result<Option<BootRecord>, VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::BootOf(answer))?;
        wait.await.map_err(|_| VerbError::Ending)
    }

    /// What is saved of a guest is its image's memory, of which not all has come: see [`Guests::warm`].
    pub async fn is_warm(&self, id: GuestId) -> Result<bool, VerbError> {
        let (_, record) = self.record_of(id).await?;
        let not_begun = record.wants_warm && record.saved.is_none() && record.state == GuestState::Fetching;
        Ok(not_begun || record.saved.is_some_and(|s| s.warm))
    }

    /// It rebooted while its kernel was still coming, and is to be prepared and started again; see [`crate::spec::Boot::later`].
    pub async fn is_rebooting(&self, id: GuestId) -> Result<bool, VerbError> {
        Ok(self.record_of(id).await?.1.rebooting)
    }

    /// Writes down that a guest that was just created is to begin with its image's memory.
    pub async fn want_warm(&self, id: GuestId) -> Result<(), VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::WantWarm(answer))?;
        wait.await.map_err(|_| VerbError::Ending)?
    }

    /// Pulls the cable of a running guest's NIC for a moment: its system then asks for an address anew.
    pub async fn replug(&self, id: GuestId) -> Result<(), VerbError> {
        self.ask(id, Ask::Link(false))?;
        tokio::time::sleep(REPLUG).await;
        self.ask(id, Ask::Link(true))
    }
}
