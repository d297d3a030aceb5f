//! Spawning a guest's process.

use super::{
    super::{launch, monitor::MonitorLink, saved, sys},
    Actor,
};
use crate::{
    args::{self, Cpu, Launch, Ram},
    defaults::{CONNECT_EVERY, LOCK_LOOKS, START_DEADLINE, TCG_CPU},
    record::{BootRecord, RunRecord, SavedRecord},
};
use std::{os::fd::AsRawFd, sync::Arc};
use wire::guest::Accel;

impl Actor {
    pub(in super::super) fn launch<'a>(&'a self, boot: &'a BootRecord, ram: Ram) -> Launch<'a> {
        Launch {
            machine: &self.record.machine,
            accel: self.record.accel,
            cpu: if self.record.accel == Accel::Kvm {
                Cpu::Host
            } else {
                Cpu::Model(TCG_CPU)
            },
            ram,
            disk: boot.overlay.is_some(),
            whole: boot.whole,
            kernel: boot.kernel,
            initrd: boot.initrd,
            later: boot.later,
            cmdline: boot.cmdline.as_deref(),
            seed: boot.seed,
            incoming: self.machine.is_saved(),
        }
    }

    /// The hardware that the guest has now, as [`args::hardware`] names it.
    pub(in super::super) fn hardware(&self) -> Result<String, String> {
        let boot = self.record.boot.as_ref().ok_or("its image is not ready")?;
        Ok(args::hardware(&args::argv(
            &self.spec,
            &self.launch(boot, Ram::Anonymous),
        )))
    }

    /// Saved memory goes with one disk and one hardware.
    fn check_saved(&self, saved: &SavedRecord) -> Result<(), String> {
        if saved.hardware != self.hardware()? {
            return Err(
                "its memory was saved on other hardware (QEMU's machine, accelerator or devices differ)".into(),
            );
        }
        if saved.disk != self.folder.overlay_mark().map_err(|e| e.to_string())? {
            return Err("its disk was changed since its memory was saved".into());
        }
        Ok(())
    }

    async fn lock(&self) -> Result<std::fs::File, String> {
        for _ in 0..LOCK_LOOKS {
            if let Some(lock) = self.folder.take_lock().map_err(|e| e.to_string())? {
                return Ok(lock);
            }
            tokio::time::sleep(CONNECT_EVERY).await;
        }
        Err("another QEMU of this guest still lives".into())
    }

    /// Spawns QEMU and writes down which process it is.
    pub(super) async fn spawn(&mut self) -> Result<(), String> {
        let qemu = self.caps.qemu.clone().ok_or("QEMU is missing")?;
        let boot = self.record.boot.clone().ok_or("its image is not ready")?;
        self.folder.forget().map_err(|e| e.to_string())?;
        if boot.overlay.is_some() && !boot.whole {
            self.folder
                .hand_over_disk()
                .map_err(|e| format!("its disk's socket is not served: {e}"))?;
        }
        let lock = self.lock().await?;
        self.record.accel = self.caps.accel;
        let saved = self.record.saved.clone().filter(|_| self.machine.is_saved());
        if let Some(saved) = &saved {
            if saved.warm {
                self.fresh_overlay(saved, boot.overlay).await?;
            } else {
                self.check_saved(saved)?;
            }
        }
        let warm = saved.as_ref().is_some_and(|s| s.warm);
        self.check_boot(warm, saved.is_some())?;
        let (folder, memory) = (Arc::clone(&self.folder), self.spec.memory.0);
        let ram = tokio::task::spawn_blocking(move || saved::memory_file(&folder, memory, saved.as_ref()));
        let ram = ram.await.map_err(|e| e.to_string())??;
        let ram_fd = ram.as_raw_fd();
        let argv = args::argv(&self.spec, &self.launch(&boot, Ram::File(ram_fd)));
        let (disk, landlock) = (boot.overlay.map_or(0, |b| b.0), self.caps.landlock);
        let folder = Arc::clone(&self.folder);
        let handle = tokio::runtime::Handle::current();
        let spawned = tokio::task::spawn_blocking(move || {
            let _in_runtime = handle.enter();
            launch::spawn(
                &qemu.path,
                &argv,
                &folder,
                launch::Inherited {
                    lock,
                    ram,
                    disk,
                    landlock,
                    warm,
                },
            )
        });
        let process = spawned
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| format!("QEMU was not started: {e}"))?;
        let run = RunRecord {
            boot_id: sys::boot_id().unwrap_or_default(),
            pid: process.pid(),
            starttime: process.starttime(),
            ram_fd: Some(ram_fd),
        };
        if let Err(e) = self.folder.write_run(&run) {
            // It can be found without: by its lock and its UUID.
            tracing::warn!(guest = %self.spec.id, error = %e, "the run record was not written");
        }
        self.process = Some(process);
        self.console.set_alive(true);
        self.link = Some(MonitorLink::start(
            self.spec.id,
            Arc::clone(&self.folder),
            START_DEADLINE,
            self.gate.clone(),
        ));
        Ok(())
    }
}
