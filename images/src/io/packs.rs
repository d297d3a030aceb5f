//! Pack files: wire frames one after another, nothing between them. Only the index knows where one begins.

use super::disk::{Disk, DiskFile};
use super::index::Place;
use super::store::StoreError;
use crate::defaults::PACK_BYTES;
use crate::frame::{self, Frame};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The pack files of a store.
#[derive(Debug)]
pub(crate) struct Packs {
    disk: Arc<dyn Disk>,
    open: Mutex<BTreeMap<u32, Arc<dyn DiskFile>>>,
}

/// Where the next frame goes. Held by one writer at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tail {
    pub(crate) pack: u32,
    pub(crate) len: u64,
}

fn name(pack: u32) -> String {
    format!("{pack:08}.pack")
}

impl Packs {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self {
            disk,
            open: Mutex::default(),
        }
    }

    fn file(&self, pack: u32) -> Result<Arc<dyn DiskFile>, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(f) = open.get(&pack) {
            return Ok(f.clone());
        }
        let f = self.disk.open(&name(pack)).map_err(StoreError::file("open a pack"))?;
        open.insert(pack, f.clone());
        Ok(f)
    }

    /// After a start or a failed commit: cuts what was appended beyond the acknowledged lengths, and says where to go on.
    /// Acknowledged bytes that are gone (a damaged file system) are left as a hole that fails its checksum.
    pub(crate) fn recover(&self, durable: &[(u32, u64)]) -> Result<Tail, StoreError> {
        let known: BTreeMap<u32, u64> = durable.iter().copied().collect();
        let mut last = Tail { pack: 0, len: 0 };
        for file_name in self.disk.list().map_err(StoreError::file("list the packs"))? {
            let Some(pack) = file_name.strip_suffix(".pack").and_then(|n| n.parse::<u32>().ok()) else {
                continue;
            };
            let len = known.get(&pack).copied().unwrap_or(0);
            let f = self.file(pack)?;
            let size = f.size().map_err(StoreError::file("read a pack"))?;
            if size > len {
                tracing::info!(pack, cut = size - len, "cut bytes of an unfinished write from a pack");
                f.set_len(len).map_err(StoreError::file("cut a pack"))?;
            } else if size < len {
                tracing::warn!(
                    pack,
                    missing = len - size,
                    "a pack is shorter than it was; its lost pieces are fetched again"
                );
            }
        }
        if let Some((&pack, &len)) = known.last_key_value() {
            last = Tail { pack, len };
        }
        Ok(last)
    }

    /// Appends frames and makes them durable. On an error nothing counts: call [`Packs::recover`] before the next one.
    pub(crate) fn append(&self, tail: &mut Tail, frames: &[&Frame]) -> Result<Vec<Place>, StoreError> {
        let total: usize = frames.iter().map(|f| f.bytes.len()).sum();
        if tail.len > 0 && tail.len + total as u64 > PACK_BYTES {
            *tail = Tail {
                pack: tail.pack + 1,
                len: 0,
            };
        }
        let mut buf = Vec::with_capacity(total);
        let mut places = Vec::with_capacity(frames.len());
        for f in frames {
            places.push(Place {
                pack: tail.pack,
                offset: tail.len + buf.len() as u64,
                len: u32::try_from(f.bytes.len()).unwrap_or(0),
                zstd: f.encoding == wire::image::Encoding::Zstd,
                check: frame::checksum(&f.bytes),
            });
            buf.extend_from_slice(&f.bytes);
        }
        let file = self.file(tail.pack)?;
        file.write_at(&buf, tail.len)
            .map_err(StoreError::file("write a pack"))?;
        file.sync().map_err(StoreError::file("make a pack durable"))?;
        tail.len += buf.len() as u64;
        Ok(places)
    }

    /// A frame as stored; `None` if its bytes are not what was written.
    pub(crate) fn read(&self, place: Place) -> Result<Option<Frame>, StoreError> {
        if place.len as usize > wire::image::swarm::MAX_FRAME_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0; place.len as usize];
        match self.file(place.pack)?.read_at(&mut bytes, place.offset) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => {
                tracing::warn!(pack = place.pack, offset = place.offset, error = %e, "a stored piece cannot be read");
                return Ok(None);
            }
        }
        Ok((frame::checksum(&bytes) == place.check).then_some(Frame {
            encoding: place.encoding(),
            bytes,
        }))
    }

    /// Gives the bytes of frames back to the file system. A file system without holes keeps them; that is logged.
    pub(crate) fn punch(&self, mut places: Vec<Place>) -> Result<u64, StoreError> {
        places.sort_unstable();
        let mut freed = 0;
        let adjacent = |a: &Place, b: &Place| a.pack == b.pack && a.offset + u64::from(a.len) == b.offset;
        for run in places.chunk_by(adjacent) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            let len = last.offset + u64::from(last.len) - first.offset;
            if let Err(e) = self.file(first.pack)?.punch(first.offset, len) {
                tracing::info!(pack = first.pack, error = %e, "this file system keeps the bytes of removed pieces");
                return Ok(freed);
            }
            freed += len;
        }
        Ok(freed)
    }
}
