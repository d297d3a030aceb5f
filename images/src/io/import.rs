//! A file becomes an image: read, cut into pieces, hashed, compressed once, stored, named.

use super::commit::{Batch, Entry};
use super::convert;
use super::oci::{self, Layout};
use super::store::{Store, StoreError, lock};
use crate::defaults::{BATCH_BYTES, MAX_BOOT_FILE};
use crate::formats::{self, FormatError};
use crate::frame::{Encoder, Frame, PieceBytes};
use crate::oci::OciError;
use crate::qcow2::{self, Format, Qcow2Error};
use rustix::fs::SeekFrom;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use wire::image::{
    Header, Kind, MAX_IMAGE_BYTES, ManifestBuilder, ManifestError, PIECE_BYTES, Part, PartSize, PieceId, TableId,
};
use wire::{ImageId, Name};

/// What is imported, and as what.
#[derive(Debug, Clone)]
pub struct ImportSpec {
    /// A raw disk, a qcow2, VMDK or VHDX (decided by its first bytes: `QFI\xfb` is a qcow2, always), or an OCI layout: a
    /// folder, or a tar file of one.
    pub file: PathBuf,
    /// Name of the image.
    pub name: Name,
    /// Tag beside the name, usually `latest`.
    pub tag: Name,
    /// Kernel for direct boot.
    pub kernel: Option<PathBuf>,
    /// Initrd for direct boot.
    pub initrd: Option<PathBuf>,
    /// Kernel command line for direct boot.
    pub cmdline: Option<String>,
    /// Images whose pages this one probably shares, nearest first: who has one of them fetches only the rest.
    pub parents: Vec<ImageId>,
}

/// What a long operation does right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// qcow2 to raw.
    Convert,
    /// Reading, hashing, compressing, storing.
    Hash,
    /// Reading and hashing what is stored.
    Verify,
    /// Writing an image out as a file.
    Export,
}

/// How far a long operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it does.
    pub stage: Stage,
    /// Bytes done in this stage.
    pub done: u64,
    /// Bytes of this stage.
    pub total: u64,
}

/// Why an import failed; nothing of it is left in the store.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file given by the user cannot be read.
    #[error("cannot read {path}: {source}")]
    Source {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file given by the user cannot be imported.
    #[error("{path} {why}")]
    Unfit {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A qcow2 that is not taken.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    /// A VMDK or VHDX that is not taken.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Other formats need qemu-img.
    #[error(
        "qcow2, VMDK and VHDX images are converted by 'qemu-img', which is not installed; install the package qemu-utils (Debian, Ubuntu) or qemu-img (Fedora), or import a raw disk"
    )]
    NoConverter,
    /// An OCI layout that is not taken.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// A converter could not be run.
    #[error("cannot run the converter: {0}")]
    Convert(#[source] io::Error),
    /// A converter refused.
    #[error("{0} cannot convert the image: {1}")]
    Converter(String, String),
    /// A guest's disk cannot be read.
    #[error("cannot read the guest's disk: {0}")]
    Delta(#[source] io::Error),
    /// A kernel command line or size out of bounds.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Pieces that are hashed and compressed in one go, by all cores: 4 MiB.
const GROUP: usize = 64;
/// Cores that an import uses at most.
const MAX_WORKERS: usize = 8;

impl Store {
    /// Imports a disk, perhaps with a kernel and an initrd. The id depends only on those bytes and the command line.
    /// On any error the store holds nothing of it.
    pub fn import(&self, spec: &ImportSpec, progress: &mut dyn FnMut(Progress)) -> Result<ImageId, ImportError> {
        let one_at_a_time = lock(&self.0.importing);
        let result = self.import_file(spec, progress);
        drop(one_at_a_time);
        if result.is_err()
            && let Err(e) = self.collect(None)
        {
            tracing::warn!(error = %e, "cannot remove the pieces of a failed import; the next removal of an image does");
        }
        result
    }

    fn import_file(&self, spec: &ImportSpec, progress: &mut dyn FnMut(Progress)) -> Result<ImageId, ImportError> {
        if std::fs::metadata(&spec.file).is_ok_and(|m| m.is_dir()) {
            return self.import_oci(spec, Layout::folder(&spec.file)?, progress);
        }
        let file = open(&spec.file, MAX_IMAGE_BYTES)?;
        let mut head = vec![0; qcow2::HEAD_BYTES.min(usize::try_from(file.len).unwrap_or(usize::MAX))];
        file.file
            .read_exact_at(&mut head, 0)
            .map_err(|e| source(&spec.file, e))?;
        match qcow2::sniff(&head) {
            Format::Raw => self.import_raw(spec, &file, progress),
            Format::Qcow2 => {
                let size = qcow2::check(&head, file.len, self.largest())?;
                self.import_converted(spec, file, "qcow2", size, progress)
            }
            Format::Other(name @ ("VMDK" | "VHDX")) => {
                let read = |buf: &mut [u8], at: u64| file.file.read_exact_at(buf, at);
                let (format, size) = match name {
                    "VMDK" => ("vmdk", formats::check_vmdk(&read, file.len, self.largest())?),
                    _ => ("vhdx", formats::check_vhdx(&read, file.len, self.largest())?),
                };
                self.import_converted(spec, file, format, size, progress)
            }
            Format::Other("tar") => self.import_oci(spec, Layout::tar(file.file)?, progress),
            Format::Other(format) => Err(ImportError::Unfit {
                path: spec.file.clone(),
                why: format!(
                    "is a {format} file; raw disks, qcow2, VMDK and VHDX images and OCI layouts (a folder, or a tar file of one) are imported, convert or unpack it first"
                ),
            }),
        }
    }

    /// The largest disk that is taken, bytes.
    fn largest(&self) -> u64 {
        let quota = self.0.config.quota;
        quota.map_or(MAX_IMAGE_BYTES, |q| q.0.min(MAX_IMAGE_BYTES))
    }

    fn import_converted(
        &self,
        spec: &ImportSpec,
        file: Source,
        format: &'static str,
        size: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ImageId, ImportError> {
        let raw = Temporary(self.tmp().join("import.raw"));
        convert::to_raw(file.file, format, size, &raw.0, progress)?;
        let raw = open(&raw.0, MAX_IMAGE_BYTES)?;
        self.import_raw(spec, &raw, progress)
    }

    fn import_oci(
        &self,
        spec: &ImportSpec,
        layout: Layout,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ImageId, ImportError> {
        let made =
            TemporaryFolder::new(self.tmp().join("import.oci")).map_err(|e| StoreError::file("make a folder")(e))?;
        let raw = made.0.join("disk.raw");
        oci::to_raw(&layout, self.largest(), &raw, progress)?;
        let raw = open(&raw, MAX_IMAGE_BYTES)?;
        self.import_raw(spec, &raw, progress)
    }

    fn import_raw(
        &self,
        spec: &ImportSpec,
        disk: &Source,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ImageId, ImportError> {
        let mut files = vec![(Part::Disk, &spec.file, None)];
        for (part, path) in [(Part::Kernel, &spec.kernel), (Part::Initrd, &spec.initrd)] {
            if let Some(path) = path {
                files.push((part, path, Some(open(path, MAX_BOOT_FILE)?)));
            }
        }
        let files: Vec<(Part, &PathBuf, &Source)> = files
            .iter()
            .map(|(part, path, s)| (*part, *path, s.as_ref().unwrap_or(disk)))
            .collect();
        let header = Header {
            kind: Kind::Disk,
            piece_bytes: PIECE_BYTES as u32,
            parts: files
                .iter()
                .map(|(part, _, s)| PartSize {
                    part: *part,
                    bytes: s.len,
                })
                .collect(),
            cmdline: spec.cmdline.clone(),
            parents: spec.parents.clone(),
            table: TableId([0; 32]),
            fields: vec![],
        };
        header.encode()?; // refuse a bad command line before the work, not after
        let mut job = Job::new(self, header.layout()?.bytes(), progress);
        for (_, path, s) in &files {
            job.part(s).map_err(|e| e.at(path))?;
        }
        let manifest = job.finish()?.finish(header)?;
        let entry = Entry {
            id: manifest.id,
            header: &manifest.header,
            table: &manifest.table,
            name: Some(format!("{}:{}", spec.name, spec.tag)),
        };
        self.register(&entry, &manifest.segments, true)?;
        tracing::info!(image = %manifest.id, name = %spec.name, tag = %spec.tag, "imported an image");
        Ok(manifest.id)
    }
}

/// A file that is removed when this is dropped, however the import ends.
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(error = %e, "cannot remove a temporary file of an import; the next start does");
        }
    }
}

/// The same of a folder with all that is in it.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new(path: PathBuf) -> io::Result<Self> {
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(error = %e, "cannot remove a temporary folder of an import; the next start does");
        }
    }
}

struct Source {
    file: File,
    len: u64,
}

fn source(path: &Path, source: io::Error) -> ImportError {
    ImportError::Source {
        path: path.to_owned(),
        source,
    }
}

fn open(path: &Path, max: u64) -> Result<Source, ImportError> {
    let unfit = |why: String| ImportError::Unfit {
        path: path.to_owned(),
        why,
    };
    // Checked before it is opened: opening a pipe would wait for its writer.
    let meta = std::fs::metadata(path).map_err(|e| source(path, e))?;
    if !meta.is_file() {
        return Err(unfit("is not a regular file".into()));
    }
    let file = File::open(path).map_err(|e| source(path, e))?;
    let len = file.metadata().map_err(|e| source(path, e))?.len();
    match len {
        0 => Err(unfit("is empty".into())),
        n if n > max => Err(unfit(format!("is larger than {}", wire::ByteSize(max)))),
        len => Ok(Source { file, len }),
    }
}

enum JobError {
    Io(io::Error),
    Store(StoreError),
}

impl JobError {
    fn at(self, path: &Path) -> ImportError {
        match self {
            Self::Io(e) => source(path, e),
            Self::Store(e) => e.into(),
        }
    }
}

/// One import under way.
pub(super) struct Job<'a> {
    store: &'a Store,
    manifest: ManifestBuilder,
    batch: Batch,
    encoders: Vec<Encoder>,
    /// Room for one group, kept between groups.
    buf: Vec<u8>,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl<'a> Job<'a> {
    fn new(store: &'a Store, total: u64, progress: &'a mut dyn FnMut(Progress)) -> Self {
        let workers = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MAX_WORKERS);
        let encoders = (0..workers).map(|_| Encoder::default()).collect();
        let buf = vec![0; GROUP * PIECE_BYTES];
        Self {
            store,
            manifest: ManifestBuilder::new(),
            batch: Batch::default(),
            encoders,
            buf,
            done: 0,
            total,
            progress,
        }
    }

    /// Files of this node behind what a manifest has already, in order, and how long each is.
    pub(super) fn parts(
        store: &'a Store,
        manifest: ManifestBuilder,
        files: &[(Part, &Path)],
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<(ManifestBuilder, Vec<PartSize>), ImportError> {
        let mut sources = Vec::new();
        for (part, path) in files {
            sources.push((*part, *path, open(path, MAX_IMAGE_BYTES)?));
        }
        let total = sources.iter().map(|(_, _, s)| s.len).sum();
        let mut job = Job {
            manifest,
            ..Job::new(store, total, progress)
        };
        for (_, path, s) in &sources {
            job.part(s).map_err(|e| e.at(path))?;
        }
        let sizes = sources.iter().map(|(part, _, s)| PartSize {
            part: *part,
            bytes: s.len,
        });
        let sizes = sizes.collect();
        Ok((job.finish()?, sizes))
    }

    /// All pieces of one file; holes are passed over unread.
    fn part(&mut self, s: &Source) -> Result<(), JobError> {
        let pieces = s.len.div_ceil(PIECE_BYTES as u64);
        let mut next = 0;
        while next < pieces {
            let (first, end) = data_after(&s.file, next * PIECE_BYTES as u64, s.len).map_err(JobError::Io)?;
            let first = (first / PIECE_BYTES as u64).clamp(next, pieces);
            let end = end.div_ceil(PIECE_BYTES as u64).clamp(first, pieces);
            self.manifest.push_zeros(first - next);
            self.advance((first - next) * PIECE_BYTES as u64);
            next = first;
            while next < end {
                let n = (end - next).min(GROUP as u64);
                self.group(s, next, n as usize)?;
                next += n;
            }
        }
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.done = (self.done + bytes).min(self.total);
        (self.progress)(Progress {
            stage: Stage::Hash,
            done: self.done,
            total: self.total,
        });
    }

    fn group(&mut self, s: &Source, first: u64, n: usize) -> Result<(), JobError> {
        let offset = first * PIECE_BYTES as u64;
        let want = (s.len - offset).min((n * PIECE_BYTES) as u64) as usize;
        let buf = &mut self.buf[..n * PIECE_BYTES];
        s.file.read_exact_at(&mut buf[..want], offset).map_err(JobError::Io)?;
        buf[want..].fill(0);
        let pieces = buf.as_chunks::<PIECE_BYTES>().0;
        let share = pieces.len().div_ceil(self.encoders.len());
        let store = self.store;
        let results = std::thread::scope(|scope| {
            let jobs: Vec<_> = pieces
                .chunks(share)
                .zip(&mut self.encoders)
                .map(|(pieces, encoder)| scope.spawn(move || encode_all(store, pieces, encoder)))
                .collect();
            jobs.into_iter()
                .map(|j| j.join().unwrap_or_else(|_| Err(died())))
                .collect::<Vec<_>>()
        });
        for worker in results {
            for (id, frame) in worker.map_err(JobError::Store)? {
                self.manifest.push(id);
                self.batch.pieces.extend(frame.map(|f| (id, f)));
            }
        }
        if self.batch.bytes() >= BATCH_BYTES {
            self.store
                .commit(&std::mem::take(&mut self.batch), true)
                .map_err(JobError::Store)?;
        }
        self.advance(want as u64);
        Ok(())
    }

    fn finish(self) -> Result<ManifestBuilder, StoreError> {
        self.store.commit(&self.batch, true)?;
        Ok(self.manifest)
    }
}

fn died() -> StoreError {
    StoreError::File {
        what: "compress",
        source: io::Error::other("a worker thread died"),
    }
}

type Encoded = Vec<(PieceId, Option<Frame>)>;

/// Hashes pieces, and compresses those that the store does not have.
fn encode_all(store: &Store, pieces: &[PieceBytes], encoder: &mut Encoder) -> Result<Encoded, StoreError> {
    let ids: Vec<PieceId> = pieces.iter().map(PieceId::of).collect();
    let held = store.0.index.places(&ids)?;
    let frames = pieces.iter().zip(&ids).zip(&held).map(|((piece, id), held)| {
        let needed = held.is_none() && !id.is_zero();
        (*id, needed.then(|| encoder.encode(piece)))
    });
    Ok(frames.collect())
}

/// The next run of data at or after `from`, as far as the file system knows; `(len, len)` if only a hole follows.
fn data_after(file: &File, from: u64, len: u64) -> io::Result<(u64, u64)> {
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(first) => {
            let end = rustix::fs::seek(file, SeekFrom::Hole(first))?;
            Ok((first, end.min(len)))
        }
        Err(rustix::io::Errno::NXIO) => Ok((len, len)),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok((from, len)),
        Err(e) => Err(e.into()),
    }
}

impl Store {
    /// Writes a part of an image to a file, whole and durable, or not at all. `None`: the image has no such part.
    /// Returns its length, bytes.
    pub fn materialise(&self, id: ImageId, part: Part, dest: &Path) -> Result<Option<u64>, StoreError> {
        let state = self.state(id)?.ok_or(StoreError::UnknownImage(id))?;
        let lease = state.lease();
        let Some(len) = lease.layout.part_bytes(part) else {
            return Ok(None);
        };
        let mut tmp = dest.as_os_str().to_owned();
        tmp.push(".part");
        let tmp = PathBuf::from(tmp);
        let out = Temporary(tmp.clone());
        let file = File::create(&tmp).map_err(StoreError::file("write a part of an image"))?;
        let mut at = 0;
        while let Some(index) = lease.layout.piece_at(part, at) {
            let piece = self.piece_of(&lease, index)?.ok_or(StoreError::Incomplete(id))?;
            let used = lease.layout.used_bytes(index);
            if piece.iter().any(|b| *b != 0) {
                file.write_all_at(&piece[..used], at)
                    .map_err(StoreError::file("write a part of an image"))?;
            }
            at += used as u64;
        }
        file.set_len(len)
            .map_err(StoreError::file("write a part of an image"))?;
        file.sync_all()
            .map_err(StoreError::file("make a part of an image durable"))?;
        std::fs::rename(&out.0, dest).map_err(StoreError::file("rename a part of an image"))?;
        if let Some(folder) = dest.parent() {
            super::disk::sync_folder(folder).map_err(StoreError::file("make a part of an image durable"))?;
        }
        Ok(Some(len))
    }
}
