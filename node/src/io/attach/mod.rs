//! The change of an interface, done: journal, dead-man, steps. See [`crate::attach`].
//!
//! Who goes back: the dead-man, a process of its own session, when nobody confirmed in time or the node died; a node that
//! starts, when it finds a journal that nobody confirmed. Both hold the lock beside the journal while they look and act,
//! and the journal alone says whether a change was confirmed.

pub mod guard;
pub mod kernel;
pub mod managed;
pub mod netlink;

#[cfg(test)]
mod tests;

use self::netlink::Netlink;
use crate::attach::{
    holdings::Holdings,
    journal::{Journal, Phase, Verdict},
    plan::Step,
};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Folder of the journals in the state folder.
const FOLDER: &str = "attach";
/// Largest journal that is read, bytes: a full routing table of a thousand routes takes a third of it.
const MAX_JOURNAL: u64 = 1 << 20;

/// The journal of one interface.
#[derive(Clone, Debug)]
pub struct Book {
    file: PathBuf,
}

/// What [`Book::settle`] found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// There is no journal.
    Nothing,
    /// The change was confirmed; it stays.
    Kept,
    /// The machine was started anew since: there is nothing to go back from.
    Void,
    /// The old state is back.
    Undone,
}

impl Book {
    /// The journal of `interface` in a state folder.
    pub fn of(state: &Path, interface: &str) -> Self {
        Self {
            file: state.join(FOLDER).join(format!("{interface}.json")),
        }
    }

    /// Its file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The interface's name.
    pub fn interface(&self) -> String {
        let stem = self.file.file_stem();
        stem.map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn lock(&self) -> io::Result<File> {
        let folder = self.file.parent().ok_or_else(|| io::Error::other("no parent folder"))?;
        fs::create_dir_all(folder)?;
        let lock = File::create(self.file.with_extension("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    }

    /// What it says; `None` if there is none.
    pub fn read(&self) -> io::Result<Option<Journal>> {
        match fs::metadata(&self.file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
            Ok(m) if m.len() > MAX_JOURNAL => Err(io::Error::other("the journal is too large")),
            Ok(_) => serde_json::from_slice(&fs::read(&self.file)?)
                .map(Some)
                .map_err(io::Error::other),
        }
    }

    /// Writes it down, durably.
    pub fn write(&self, journal: &Journal) -> io::Result<()> {
        let _lock = self.lock()?;
        self.store(journal)
    }

    fn store(&self, journal: &Journal) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(journal).map_err(io::Error::other)?;
        let new = self.file.with_extension("new");
        let mut f = File::create(&new)?;
        f.write_all(&bytes)?;
        f.sync_all()?;
        fs::rename(&new, &self.file)?;
        self.sync_folder()
    }

    fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.file)?;
        self.sync_folder()
    }

    fn sync_folder(&self) -> io::Result<()> {
        match self.file.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Makes the change last. False if somebody went back already.
    pub fn confirm(&self) -> io::Result<bool> {
        let _lock = self.lock()?;
        let Some(mut journal) = self.read()? else {
            return Ok(false);
        };
        match journal.phase {
            Phase::Attaching => {
                journal.phase = Phase::Attached;
                self.store(&journal)?;
                Ok(true)
            }
            Phase::Detaching => self.remove().map(|()| true),
            Phase::Attached => Ok(false),
        }
    }

    /// Goes back unless the change was confirmed. If a step fails the others are done all the same, the journal stays,
    /// and the answer is the first error.
    pub fn settle(&self) -> io::Result<Settled> {
        let _lock = self.lock()?;
        let Some(mut journal) = self.read()? else {
            return Ok(Settled::Nothing);
        };
        match journal.verdict(&kernel::boot_id()?) {
            Verdict::Keep => Ok(Settled::Kept),
            Verdict::Void => self.remove().map(|()| Settled::Void),
            Verdict::Undo(steps) => {
                undo(&journal.holdings, &steps)?;
                if journal.phase == Phase::Detaching {
                    journal.phase = Phase::Attached;
                    self.store(&journal)?;
                } else {
                    self.remove()?;
                }
                Ok(Settled::Undone)
            }
        }
    }
}

/// Does all steps in order up to the first that fails.
pub fn do_steps(h: &Holdings, steps: &[Step]) -> io::Result<()> {
    let mut nl = Netlink::open()?;
    for step in steps {
        kernel::apply(&mut nl, h, step).map_err(|e| named(step, &e))?;
        tracing::debug!(?step, "done");
    }
    Ok(())
}

/// Does as many steps as can be done.
fn undo(h: &Holdings, steps: &[Step]) -> io::Result<()> {
    let mut nl = Netlink::open()?;
    let mut first = Ok(());
    for step in steps {
        if let Err(e) = kernel::apply(&mut nl, h, step) {
            tracing::warn!(?step, error = %e, "a step back failed, the others are done all the same");
            first = first.and(Err(named(step, &e)));
        }
    }
    first
}

fn named(step: &Step, e: &io::Error) -> io::Error {
    let what = match step {
        Step::MakeBridge { bridge, .. } => format!("make bridge {bridge}"),
        Step::RemoveBridge { bridge } => format!("remove bridge {bridge}"),
        Step::Set {
            device,
            family,
            key,
            value,
        } => format!("set {family} {key} of {device} to {value}"),
        Step::Join { device, bridge } => format!("put {device} into {bridge}"),
        Step::Leave { device, bridge } => format!("take {device} out of {bridge}"),
        Step::AddAddr { device, addr } => format!("give {device} the address {}", addr.text),
        Step::RemoveAddr { device, addr } => format!("take the address {} from {device}", addr.text),
        Step::AddRoute { device, route } => format!("make the route {} by {device}", route.text),
        Step::RemoveRoute { device, route } => format!("remove the route {} by {device}", route.text),
    };
    io::Error::new(e.kind(), format!("cannot {what}: {e}"))
}

/// Goes back from every change that nobody confirmed; for a node that starts. What was done, by interface.
pub fn settle_all(state: &Path) -> io::Result<Vec<(String, io::Result<Settled>)>> {
    let mut out = Vec::new();
    let list = match fs::read_dir(state.join(FOLDER)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(out),
        other => other?,
    };
    for entry in list {
        let file = entry?.path();
        if file.extension().is_some_and(|e| e == "json") {
            let book = Book { file };
            out.push((book.interface(), book.settle()));
        }
    }
    Ok(out)
}
