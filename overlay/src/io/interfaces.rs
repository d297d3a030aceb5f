//! This machine's interfaces and their addresses, read off the net thread: with many interfaces the kernel takes
//! milliseconds for the list, and every frame would wait for it.

use crate::defaults;
use if_addrs::Interface;
use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;

/// Each address of each interface.
pub(super) type List = Arc<Vec<Interface>>;

/// The list, at most [`defaults::ADDRESS_SCAN`] old.
pub(super) struct Interfaces(Arc<Shared>);

struct Shared {
    list: watch::Sender<List>,
    /// Times it was read at once: what began to be read before is older.
    reads: AtomicU64,
}

/// All addresses of this machine, read now; none if they cannot be read.
pub fn own_addrs() -> BTreeSet<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(list) => list.iter().map(Interface::ip).collect(),
        Err(e) => {
            cannot_read(&e);
            BTreeSet::new()
        }
    }
}

fn cannot_read(e: &io::Error) {
    tracing::warn!(error = %e, "cannot read this machine's addresses");
}

/// Puts a list where everybody looks; one that could not be read changes nothing.
fn put(list: &watch::Sender<List>, new: io::Result<Vec<Interface>>) {
    match new {
        Ok(new) => {
            list.send_if_modified(|old| {
                let changed = **old != new;
                if changed {
                    *old = Arc::new(new);
                }
                changed
            });
        }
        Err(e) => cannot_read(&e),
    }
}

async fn read_again(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(defaults::ADDRESS_SCAN).await;
        let Some(before) = shared.upgrade().map(|s| s.reads.load(Ordering::Relaxed)) else {
            return;
        };
        let Ok(new) = tokio::task::spawn_blocking(if_addrs::get_if_addrs).await else {
            return;
        };
        let Some(s) = shared.upgrade() else { return };
        if s.reads.load(Ordering::Relaxed) == before {
            put(&s.list, new);
        }
    }
}

impl Interfaces {
    /// Reads the list, and goes on doing so until this is dropped. Must run inside a runtime.
    pub(super) fn start() -> Self {
        let this = Self(Arc::new(Shared {
            list: watch::Sender::default(),
            reads: AtomicU64::new(0),
        }));
        this.read_now();
        tokio::spawn(read_again(Arc::downgrade(&this.0)));
        this
    }

    /// Reads the list at once, where an older one will not do.
    pub(super) fn read_now(&self) {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        put(&self.0.list, if_addrs::get_if_addrs());
    }

    /// The newest list.
    pub(super) fn list(&self) -> List {
        self.0.list.borrow().clone()
    }

    /// Tells of every change.
    pub(super) fn watch(&self) -> watch::Receiver<List> {
        self.0.list.subscribe()
    }

    /// All addresses of this machine.
    pub(super) fn addrs(&self) -> BTreeSet<IpAddr> {
        self.0.list.borrow().iter().map(Interface::ip).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn the_list_is_there_at_once_and_its_reader_ends_with_it() {
        let interfaces = Interfaces::start();
        assert!(interfaces.addrs().iter().any(IpAddr::is_loopback));
        let mut changes = interfaces.watch();
        put(&interfaces.0.list, Ok(Vec::new()));
        assert!(interfaces.list().is_empty());
        changes.mark_unchanged();
        // Read again, it is whole again.
        changes.changed().await.unwrap();
        assert!(interfaces.addrs().iter().any(IpAddr::is_loopback));
        put(&interfaces.0.list, Err(io::ErrorKind::Other.into()));
        assert!(
            !interfaces.list().is_empty(),
            "a list that cannot be read changes nothing"
        );
        drop(interfaces);
        let gone = tokio::time::timeout(Duration::from_secs(20), changes.changed()).await;
        assert!(gone.unwrap().is_err());
    }
}
