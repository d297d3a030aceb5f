//! A new image from a guest's disk: what it changed is hashed and stored, all else is the parent's by id.
//!
//! The cost is that of the changed clusters: the parent's pieces are neither read nor needed here, only its manifest,
//! unless a cluster is smaller than a piece. A persistent guest's disk has all clusters: it is read whole, and what has
//! its parent's bytes is known by content and not stored again.

use super::commit::{Batch, Entry};
use super::import::{ImportError, Job as Import, Progress, Stage};
use super::state::Lease;
use super::store::{Store, StoreError, lock};
use crate::defaults::BATCH_BYTES;
use crate::frame::{Encoder, PieceBytes, blank};
use crate::qcow2_map::{Cluster, Delta, DeltaError, ReadAt};
use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt, path::PathBuf};
use wire::image::{Header, Kind, MAX_PARENTS, ManifestBuilder, PIECE_BYTES, Part, PartSize, PieceId, TableId, Warm};
use wire::{ImageId, Name};

/// What to publish.
#[derive(Debug, Clone)]
pub struct PublishSpec {
    /// The image that the guest was started from.
    pub parent: ImageId,
    /// The guest's qcow2 delta; nobody may write it meanwhile.
    pub delta: PathBuf,
    /// Name of the new image.
    pub name: Name,
    /// Tag of the new image.
    pub tag: Name,
    /// What was saved of the guest with its disk as `delta` has it; none: an image that boots cold.
    pub memory: Option<Memory>,
}

/// A guest's memory and devices, of the very moment of its disk.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Its RAM, as a sparse file.
    pub ram: PathBuf,
    /// Its devices' state.
    pub device: PathBuf,
    /// The machine that both are of.
    pub warm: Warm,
}

/// What publishing cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The new image.
    pub id: ImageId,
    /// Pieces that differ from the parent's at their places.
    pub changed: u32,
    /// Of those, pieces that no image here had; their bytes as stored.
    pub new: u32,
    /// See `new`.
    pub new_bytes: u64,
}

impl ReadAt for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        // A qcow2's last cluster may be cut short; what is beyond the end is zeros.
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            match FileExt::read_at(self, buf.get_mut(done..).unwrap_or_default(), at)? {
                0 => {
                    buf.get_mut(done..).unwrap_or_default().fill(0);
                    break;
                }
                n => done += n,
            }
        }
        Ok(())
    }
}

/// Clusters that the guest wrote, by piece: offset in the piece, and what is there.
type Changes = BTreeMap<u32, Vec<(usize, Cluster)>>;

impl Store {
    /// Makes an image of a guest's disk. On any error the store holds nothing of it.
    pub fn publish(&self, spec: &PublishSpec, progress: &mut dyn FnMut(Progress)) -> Result<Published, ImportError> {
        let state = self.state(spec.parent)?.ok_or(StoreError::UnknownImage(spec.parent))?;
        let lease = state.lease();
        if !lease.unknown_segments().is_empty() {
            return Err(StoreError::Incomplete(spec.parent).into());
        }
        let one_at_a_time = lock(&self.0.importing);
        let result = self.publish_delta(spec, &lease, progress);
        drop(one_at_a_time);
        if result.is_err()
            && let Err(e) = self.collect(None)
        {
            tracing::warn!(error = %e, "cannot remove the pieces of a failed publish; the next removal of an image does");
        }
        result
    }

    fn publish_delta(
        &self,
        spec: &PublishSpec,
        parent: &Lease,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Published, ImportError> {
        let unreadable = |source| ImportError::Source {
            path: spec.delta.clone(),
            source,
        };
        let file = File::open(&spec.delta).map_err(unreadable)?;
        let len = file.metadata().map_err(unreadable)?.len();
        let broken = |e: DeltaError| match e {
            DeltaError::Format(e) => ImportError::Qcow2(e),
            DeltaError::Io(e) => unreadable(e),
        };
        let delta = Delta::open(&file, len).map_err(broken)?;
        let changes = changes(&file, &delta).map_err(broken)?;
        let mut made = Published {
            id: spec.parent,
            changed: 0,
            new: 0,
            new_bytes: 0,
        };
        let job = Job {
            store: self,
            parent,
            file: &file,
            delta: &delta,
        };
        let ids = job.store_changes(&changes, &mut made, progress)?;
        let manifest = job.manifest(spec, &ids, progress)?;
        let entry = Entry {
            id: manifest.id,
            header: &manifest.header,
            table: &manifest.table,
            name: Some(format!("{}:{}", spec.name, spec.tag)),
        };
        self.register(&entry, &manifest.segments, true)?;
        tracing::info!(image = %manifest.id, parent = %spec.parent, changed = made.changed, new = made.new, "published an image");
        made.id = manifest.id;
        Ok(made)
    }
}

fn changes(file: &File, delta: &Delta) -> Result<Changes, DeltaError> {
    let mut out = Changes::new();
    let piece = PIECE_BYTES as u64;
    for part in 0..delta.parts() {
        let first = part as u64 * (delta.cluster / 8);
        for (n, c) in (first..).zip(delta.part(file, part)?.into_iter().flatten()) {
            let (start, end) = (n * delta.cluster, ((n + 1) * delta.cluster).min(delta.size));
            if c == Cluster::Backing {
                continue;
            }
            // A cluster may be a part of a piece, or several pieces.
            let mut at = start;
            while at < end {
                let index = u32::try_from(at / piece).unwrap_or(u32::MAX);
                let of = match c {
                    Cluster::Data(o) => Cluster::Data(o + (at - start)),
                    other => other,
                };
                out.entry(index).or_default().push(((at % piece) as usize, of));
                at = (at + 1).next_multiple_of(piece);
            }
        }
    }
    Ok(out)
}

struct Job<'a> {
    store: &'a Store,
    parent: &'a Lease,
    file: &'a File,
    delta: &'a Delta,
}

impl Job<'_> {
    fn store_changes(
        &self,
        changes: &Changes,
        made: &mut Published,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<BTreeMap<u32, PieceId>, ImportError> {
        let mut encoder = Encoder::default();
        let (mut ids, mut batch) = (BTreeMap::new(), Batch::default());
        let total = changes.len() as u64 * PIECE_BYTES as u64;
        for (n, (index, clusters)) in (1u64..).zip(changes) {
            let bytes = self.piece(*index, clusters)?;
            let id = PieceId::of(&bytes);
            // A disk that holds all of its image itself has the same bytes in most places.
            made.changed += u32::from(id != self.parents(*index));
            ids.insert(*index, id);
            if !id.is_zero() && self.store.0.index.place(id)?.is_none() {
                let frame = encoder.encode(&bytes);
                made.new += 1;
                made.new_bytes += frame.bytes.len() as u64;
                batch.pieces.push((id, frame));
            }
            if batch.bytes() >= BATCH_BYTES {
                self.store.commit(&std::mem::take(&mut batch), true)?;
            }
            progress(Progress {
                stage: Stage::Hash,
                done: n * PIECE_BYTES as u64,
                total,
            });
        }
        self.store.commit(&batch, true)?;
        Ok(ids)
    }

    /// What the parent has in a piece's place; beyond its end, zeros.
    fn parents(&self, index: u32) -> PieceId {
        let at = u64::from(index) * PIECE_BYTES as u64;
        let place = self.parent.layout.piece_at(Part::Disk, at);
        place
            .and_then(|i| self.parent.piece_id(i))
            .unwrap_or_else(PieceId::zero)
    }

    /// The bytes of a piece that the guest wrote into.
    fn piece(&self, index: u32, clusters: &[(usize, Cluster)]) -> Result<Box<PieceBytes>, ImportError> {
        let mut out = blank();
        let cluster = usize::try_from(self.delta.cluster)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        if clusters.len() * cluster < PIECE_BYTES {
            // Where the clusters do not cover it, the parent shows through.
            let parent = self.parent.layout.part_bytes(Part::Disk).unwrap_or(0);
            let at = u64::from(index) * PIECE_BYTES as u64;
            if at < parent
                && let Some(i) = self.parent.layout.piece_at(Part::Disk, at)
            {
                let old = self.store.piece_of(self.parent, i)?;
                let old = old.ok_or(StoreError::Incomplete(self.parent.id))?;
                out.copy_from_slice(&old[..]);
            }
        }
        for (at, c) in clusters {
            let end = (at + cluster).min(PIECE_BYTES);
            let part = out.get_mut(*at..end).unwrap_or_default();
            match c {
                Cluster::Data(offset) => ReadAt::read_at(self.file, part, *offset).map_err(ImportError::Delta)?,
                _ => part.fill(0),
            }
        }
        // What lies beyond the disk's end is zero by definition.
        let used = self.delta.size.saturating_sub(u64::from(index) * PIECE_BYTES as u64);
        if let Some(tail) = usize::try_from(used).ok().and_then(|u| out.get_mut(u..)) {
            tail.fill(0);
        }
        Ok(out)
    }

    /// The parent's manifest with the changed pieces in it, and the memory behind them.
    fn manifest(
        &self,
        spec: &PublishSpec,
        ids: &BTreeMap<u32, PieceId>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<wire::image::Manifest, ImportError> {
        let (old, layout) = (&self.parent.header, &self.parent.layout);
        let mut parts = old.parts.clone();
        // The memory that a parent may have is of another moment.
        parts.retain(|p| !matches!(p.part, Part::Ram | Part::DeviceState));
        for p in parts.iter_mut().filter(|p| p.part == Part::Disk) {
            p.bytes = self.delta.size;
        }
        let mut builder = ManifestBuilder::new();
        for PartSize { part, bytes } in &parts {
            for n in 0..bytes.div_ceil(PIECE_BYTES as u64) {
                let changed = u32::try_from(n)
                    .ok()
                    .filter(|_| *part == Part::Disk)
                    .and_then(|n| ids.get(&n));
                let inherited = || {
                    let i = layout.piece_at(*part, n * PIECE_BYTES as u64)?;
                    self.parent.piece_id(i)
                };
                // Beyond the parent's end a grown disk is empty.
                builder.push(changed.copied().or_else(inherited).unwrap_or_else(PieceId::zero));
            }
        }
        let mut fields = Vec::new();
        if let Some(m) = &spec.memory {
            let files = [(Part::Ram, m.ram.as_path()), (Part::DeviceState, m.device.as_path())];
            let (built, sizes) = Import::parts(self.store, builder, &files, progress)?;
            builder = built;
            parts.extend(sizes);
            fields.push(m.warm.field().map_err(|_| StoreError::Incomplete(spec.parent))?);
        }
        let mut parents = vec![spec.parent];
        parents.extend(old.parents.iter().copied().filter(|p| *p != spec.parent));
        parents.truncate(MAX_PARENTS);
        Ok(builder.finish(Header {
            kind: Kind::Disk,
            piece_bytes: PIECE_BYTES as u32,
            parts,
            cmdline: old.cmdline.clone(),
            parents,
            table: TableId([0; 32]),
            fields,
        })?)
    }
}
