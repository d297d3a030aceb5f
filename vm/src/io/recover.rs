//! Finding guests again after the node was away: who lives, who does not, what was half done.

use super::{
    folder::Folder,
    guests::Guests,
    sys::{self, Process},
};
use crate::{
    defaults::{ADOPT_LOOKS, CONNECT_EVERY, NOTE_LINES},
    guest::{Guest, Resting, Verb},
    record::{self, Found, GuestRecord, Recovery},
    spec::GuestSpec,
};
use std::time::Instant;
use wire::ids::GuestId;

impl Guests {
    /// Decides what becomes of a guest that was found, and does it.
    pub(super) async fn recover(&self, (folder, record, spec): (Folder, GuestRecord, GuestSpec)) {
        let id = spec.id;
        let process = find_process(&folder, id).await;
        let run = folder.read_run();
        let same_boot = run.as_ref().and_then(|r| sys::boot_id().ok().map(|b| b == r.boot_id));
        let found = Found {
            alive: process.is_some(),
            same_boot,
            log: folder.log_note(NOTE_LINES),
        };
        let decided = record::recover(&record, &found);
        tracing::info!(guest = %id, name = %spec.name, ?decided, "a guest was found");
        let machine = match decided {
            Recovery::Discard => return discard(&folder),
            Recovery::FinishRemoval if process.is_none() => return discard(&folder),
            Recovery::FinishRemoval => {
                let mut machine = Guest::adopted(
                    Instant::now(),
                    Resting::new(record.state, Some("it is being removed".into())),
                    self.graces(),
                );
                if let Err(e) = machine.handle_verb(Instant::now(), Verb::Remove) {
                    tracing::warn!(guest = %id, error = %e, "removal not resumed");
                }
                machine
            }
            Recovery::Adopt(at) => Guest::adopted(Instant::now(), at, self.graces()),
            Recovery::Rest(at) => Guest::resting(at, self.graces()),
        };
        self.insert_found(folder, spec, record, machine, process);
    }
}

/// A folder that nothing was promised of.
fn discard(folder: &Folder) {
    if let Err((path, e)) = folder.delete() {
        tracing::warn!(path = %path.display(), error = %e, "a half-made guest was not deleted; it will be tried again");
    }
}

/// The guest's living process: the one that was written down, or else, if its lock is held, the one with its UUID.
async fn find_process(folder: &Folder, id: GuestId) -> Option<Process> {
    let run = folder
        .read_run()
        .filter(|r| sys::boot_id().is_ok_and(|b| b == r.boot_id));
    if let Some(p) = run.and_then(|r| Process::open(r.pid, Some(r.starttime)).ok()) {
        return Some(p);
    }
    // Killed between spawn and the run record: the child may not even have reached its exec yet.
    for _ in 0..ADOPT_LOOKS {
        match folder.take_lock() {
            Ok(None) => {}
            Ok(Some(_free)) => return None,
            Err(e) => {
                tracing::warn!(guest = %id, error = %e, "the guest's lock cannot be tried");
                return None;
            }
        }
        if let Some(p) = sys::find_by_uuid(id, folder.machine()).and_then(|pid| Process::open(pid, None).ok()) {
            return Some(p);
        }
        tokio::time::sleep(CONNECT_EVERY).await;
    }
    None
}
