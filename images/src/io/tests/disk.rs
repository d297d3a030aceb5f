//! A disk in memory that stops at any chosen operation, and forgets what was not synced as a power cut does.

use crate::io::disk::{Disk, DiskFile};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

/// What is left of unsynced writes after the stop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Crash {
    /// The process died: the kernel keeps all it was given.
    Process,
    /// Power loss: only what was synced.
    Power,
    /// Power loss: of the unsynced writes some, in no order; the number chooses which.
    Some(u64),
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    Len(u64),
}

#[derive(Clone, Debug, Default)]
struct Content {
    durable: Vec<u8>,
    now: Vec<u8>,
    pending: Vec<Op>,
}

#[derive(Debug)]
struct World {
    files: BTreeMap<String, Content>,
    ops: u64,
    fail_at: Option<u64>,
    dead: bool,
    capacity: usize,
    /// Bytes read of each file.
    read: BTreeMap<String, u64>,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub(super) struct FaultyDisk(Arc<Mutex<World>>);

fn apply(bytes: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Len(n) => bytes.resize(*n as usize, 0),
        Op::Write(at, data) => {
            let end = *at as usize + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at as usize..end].copy_from_slice(data);
        }
    }
}

impl FaultyDisk {
    pub(super) fn new() -> Self {
        let world = World {
            files: BTreeMap::new(),
            ops: 0,
            fail_at: None,
            dead: false,
            capacity: usize::MAX,
            read: BTreeMap::new(),
        };
        Self(Arc::new(Mutex::new(world)))
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// The `k`-th change from now on is cut in the middle, and nothing works after it.
    pub(super) fn fail_at(&self, k: u64) {
        let mut w = self.world();
        w.fail_at = Some(w.ops + k);
    }

    /// Changes so far.
    pub(super) fn ops(&self) -> u64 {
        self.world().ops
    }

    /// At most so many bytes in all files; beyond, writes fail and may be cut short, but the disk lives.
    pub(super) fn capacity(&self, bytes: usize) {
        self.world().capacity = bytes;
    }

    pub(super) fn used(&self) -> usize {
        self.world().files.values().map(|c| c.now.len()).sum()
    }

    /// Bytes read so far of files whose name ends so.
    pub(super) fn read(&self, ending: &str) -> u64 {
        let w = self.world();
        w.read.iter().filter(|(n, _)| n.ends_with(ending)).map(|(_, n)| n).sum()
    }

    /// The disk as it is found after the crash.
    pub(super) fn after(&self, crash: Crash) -> Self {
        let w = self.world();
        let files = w.files.iter().map(|(name, c)| {
            let mut bytes = c.durable.clone();
            match crash {
                Crash::Process => bytes.clone_from(&c.now),
                Crash::Power => {}
                Crash::Some(seed) => {
                    let chosen = |i: &usize| blake3::hash(&[seed as u8, *i as u8]).as_bytes()[0] & 1 == 0;
                    let some = c.pending.iter().enumerate().filter(|(i, _)| chosen(i));
                    some.for_each(|(_, op)| apply(&mut bytes, op));
                }
            }
            (
                name.clone(),
                Content {
                    durable: bytes.clone(),
                    now: bytes,
                    pending: vec![],
                },
            )
        });
        let files = files.collect();
        Self(Arc::new(Mutex::new(World {
            files,
            ops: 0,
            fail_at: None,
            dead: false,
            capacity: usize::MAX,
            read: BTreeMap::new(),
        })))
    }
}

fn dead() -> io::Error {
    io::Error::other("the machine stopped")
}

impl World {
    /// Counts a change; whether this is the one that is cut.
    fn step(&mut self) -> io::Result<bool> {
        if self.dead {
            return Err(dead());
        }
        self.ops += 1;
        self.dead = self.fail_at.is_some_and(|k| self.ops > k);
        Ok(self.dead)
    }

    fn change(&mut self, name: &str, op: Op) -> io::Result<()> {
        let cut = self.step()?;
        let others: usize = self
            .files
            .iter()
            .filter(|(n, _)| *n != name)
            .map(|(_, c)| c.now.len())
            .sum();
        let room = self.capacity.saturating_sub(others);
        let content = self.files.get_mut(name).unwrap();
        let mut op = op;
        let full = match &op {
            Op::Write(at, data) => (*at as usize + data.len()).max(content.now.len()) > room.max(content.now.len()),
            Op::Len(n) => *n as usize > room.max(content.now.len()),
        };
        if let Op::Write(_, data) = &mut op
            && (cut || full)
        {
            data.truncate(if full { 0 } else { data.len() / 2 });
        }
        if !(full && matches!(op, Op::Len(_))) {
            apply(&mut content.now, &op);
            content.pending.push(op);
        }
        match (cut, full) {
            (true, _) => Err(dead()),
            (_, true) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
struct FaultyFile(FaultyDisk, String);

impl Disk for FaultyDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut w = self.world();
        if w.dead {
            return Err(dead());
        }
        w.files.entry(name.to_owned()).or_default();
        Ok(Arc::new(FaultyFile(self.clone(), name.to_owned())))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.world().files.keys().cloned().collect())
    }

    fn free(&self) -> io::Result<u64> {
        // The store's own look ahead must not hide what happens when a write fails all the same.
        Ok(u64::MAX)
    }
}

impl DiskFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        let w = self.0.world();
        if w.dead {
            Err(dead())
        } else {
            Ok(w.files[&self.1].now.len() as u64)
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut w = self.0.world();
        *w.read.entry(self.1.clone()).or_default() += buf.len() as u64;
        if w.dead {
            return Err(dead());
        }
        let at = offset as usize;
        let from = w.files[&self.1]
            .now
            .get(at..at + buf.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.world().change(&self.1, Op::Write(offset, buf.to_vec()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.world().change(&self.1, Op::Len(len))
    }

    fn sync(&self) -> io::Result<()> {
        let mut w = self.0.world();
        if w.step()? {
            return Err(dead());
        }
        let c = w.files.get_mut(&self.1).unwrap();
        c.durable.clone_from(&c.now);
        c.pending.clear();
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.world().change(&self.1, Op::Write(offset, vec![0; len as usize]))
    }
}
