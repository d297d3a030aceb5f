//! Writing an image out as a raw or a qcow2 file, whole and durable, or not at all.

use super::import::{Progress, Stage};
use super::state::Lease;
use super::store::{Store, StoreError};
use crate::qcow2_map::write::{CLUSTER, COPIED, Plan};
use std::{fs::File, io, os::unix::fs::FileExt, path::Path};
use wire::ImageId;
use wire::image::{PIECE_BYTES, Part, PieceIndex};

/// How an image is written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// The bytes of the disk, with holes for zeros.
    Raw,
    /// A qcow2 without backing file.
    Qcow2,
}

const _: () = assert!(CLUSTER == PIECE_BYTES as u64);

impl Store {
    /// Writes the disk of an image to `dest`, which must not exist. Every byte is checked against the image's id on the
    /// way. Returns bytes of the file.
    pub fn export(
        &self,
        id: ImageId,
        format: ExportFormat,
        dest: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, StoreError> {
        if dest.exists() {
            return Err(StoreError::file("write over a file that exists")(
                io::ErrorKind::AlreadyExists.into(),
            ));
        }
        let state = self.state(id)?.ok_or(StoreError::UnknownImage(id))?;
        let lease = state.lease();
        let size = lease
            .layout
            .part_bytes(Part::Disk)
            .ok_or(StoreError::UnknownImage(id))?;
        let mut tmp = dest.as_os_str().to_owned();
        tmp.push(".part");
        let tmp = super::import::Temporary(tmp.into());
        let failed = || StoreError::file("write the exported image");
        let file = File::create_new(&tmp.0).map_err(failed())?;
        let job = Job {
            store: self,
            lease: &lease,
            file: &file,
            size,
        };
        match format {
            ExportFormat::Raw => job.raw(progress)?,
            ExportFormat::Qcow2 => job.qcow2(progress)?,
        }
        file.sync_all().map_err(failed())?;
        let len = file.metadata().map_err(failed())?.len();
        std::fs::rename(&tmp.0, dest).map_err(failed())?;
        if let Some(folder) = dest.parent() {
            super::disk::sync_folder(folder).map_err(failed())?;
        }
        Ok(len)
    }
}

struct Job<'a> {
    store: &'a Store,
    lease: &'a Lease,
    file: &'a File,
    size: u64,
}

impl Job<'_> {
    fn pieces(&self) -> impl Iterator<Item = (u64, PieceIndex)> + '_ {
        (0..self.size)
            .step_by(PIECE_BYTES)
            .filter_map(|at| Some((at, self.lease.layout.piece_at(Part::Disk, at)?)))
    }

    fn is_data(&self, i: PieceIndex) -> Result<bool, StoreError> {
        let id = self.lease.piece_id(i).ok_or(StoreError::Incomplete(self.lease.id))?;
        Ok(!id.is_zero())
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), StoreError> {
        self.file
            .write_all_at(bytes, at)
            .map_err(StoreError::file("write the exported image"))
    }

    fn copy(&self, i: PieceIndex, used: usize, at: u64) -> Result<(), StoreError> {
        let piece = self.store.piece_of(self.lease, i)?;
        let piece = piece.ok_or(StoreError::Incomplete(self.lease.id))?;
        self.write(piece.get(..used).unwrap_or_default(), at)
    }

    fn raw(&self, progress: &mut dyn FnMut(Progress)) -> Result<(), StoreError> {
        for (at, i) in self.pieces() {
            if self.is_data(i)? {
                self.copy(i, self.lease.layout.used_bytes(i), at)?;
            }
            progress(Progress {
                stage: Stage::Export,
                done: at,
                total: self.size,
            });
        }
        self.file
            .set_len(self.size)
            .map_err(StoreError::file("write the exported image"))
    }

    fn qcow2(&self, progress: &mut dyn FnMut(Progress)) -> Result<(), StoreError> {
        let per_table = CLUSTER / 8;
        let (mut data, mut tables, mut last) = (0, 0, None);
        for (at, i) in self.pieces() {
            if self.is_data(i)? {
                let table = at / CLUSTER / per_table;
                tables += u64::from(last != Some(table));
                last = Some(table);
                data += 1;
            }
        }
        // A qcow2 holds whole sectors.
        let plan = Plan::new(self.size.next_multiple_of(512), tables, data);
        self.write(&plan.head(), 0)?;
        // Tables first, then data, each in order: a reader goes forward only.
        let mut next_table = plan.body_at();
        let mut next_data = plan.body_at() + tables * CLUSTER;
        let mut current = None;
        for (at, i) in self.pieces() {
            progress(Progress {
                stage: Stage::Export,
                done: at,
                total: self.size,
            });
            if !self.is_data(i)? {
                continue;
            }
            let cluster = at / CLUSTER;
            let table = cluster / per_table;
            let l2 = match current {
                Some((t, l2)) if t == table => l2,
                _ => {
                    self.write(&(next_table | COPIED).to_be_bytes(), plan.l1_at() + table * 8)?;
                    let l2 = next_table;
                    next_table += CLUSTER;
                    current = Some((table, l2));
                    l2
                }
            };
            self.write(&(next_data | COPIED).to_be_bytes(), l2 + cluster % per_table * 8)?;
            self.copy(i, PIECE_BYTES, next_data)?;
            next_data += CLUSTER;
        }
        self.file
            .set_len(plan.clusters * CLUSTER)
            .map_err(StoreError::file("write the exported image"))
    }
}
