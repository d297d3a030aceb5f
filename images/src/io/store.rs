//! The store: every piece once, in packs; what lies where, in the index.
//!
//! ```text
//! DIR/lock            held by the one process that has the store open
//! DIR/index.redb      piece id -> pack, offset, length, checksum; manifests; names
//! DIR/packs/N.pack    wire frames, append-only, 256 MiB each
//! DIR/tmp/            of a conversion under way; emptied at start
//! ```
//!
//! Order of a write: check the hash, append the frames to a pack, `fdatasync` it, commit the index. Only then is a piece
//! visible. So a crash at any instant loses at most the batch that was not acknowledged: the bytes of a pack beyond the
//! length that the index knows are cut at the next start. Every frame carries a checksum and every piece its hash, and
//! both are looked at on every read, so nothing that a crash or a bad disk left behind is ever shown or served; such a
//! piece is forgotten and fetched again.

use super::cache::Cache;
use super::disk::{Disk, Folder, is_full};
use super::index::{ADDED, FACT_IMPORTING, HEADERS, Index, NAMES, PIECES, Place, SEGMENT_TABLES, SEGMENTS};
use super::packs::{Packs, Tail};
use super::pull::Running;
use super::room::Room;
use super::state::ImageState;
use super::uploads::Uploads;
use super::{Progress, Stage};
use crate::defaults::{CACHE_BYTES, FREE_RESERVE, MAX_OPEN_IMAGES, MIN_ID_PREFIX};
use crate::frame::{self, Frame, PieceBytes};
use redb::ReadableTable;
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicU64},
    time::SystemTime,
};
use wire::image::{Header, ManifestError, Part, PieceId, PieceIndex, SegmentId, SegmentIndex, decode_segment};
use wire::{ByteSize, ImageId, Name, NodeId, UnixMillis};

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the image store in {dir} is used by another process; stop that lanline first")]
    Locked {
        /// The store's folder.
        dir: PathBuf,
    },
    /// Written by a newer lanline.
    #[error("the image store has layout {0}, this lanline knows layout {FORMAT}; use a newer lanline", FORMAT = super::index::FORMAT)]
    Format(u64),
    /// The disk, or the store's share of it, is full.
    #[error("the disk of the image store is full{}; remove an image ('lanline image rm') or free some space", show_needed(*.needed))]
    Full {
        /// Bytes that were to be written, if known.
        needed: Option<u64>,
    },
    /// The owner's quota is reached.
    #[error(
        "the image store would grow over its quota of {quota}; remove an image ('lanline image rm') or raise the quota"
    )]
    Quota {
        /// The quota.
        quota: ByteSize,
    },
    /// No such image.
    #[error("there is no image {0} in this store; see 'lanline image ls'")]
    UnknownImage(ImageId),
    /// Some of its pieces are not here.
    #[error("image {0} is not complete in this store; get the rest with 'lanline image pull'")]
    Incomplete(ImageId),
    /// Something reads, pulls or imports right now.
    #[error("the image is in use ({0}); stop that first")]
    InUse(&'static str),
    /// A file operation failed.
    #[error("cannot {what} in the image store")]
    File {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The index failed.
    #[error(
        "the index of the image store failed: {0}; if a restart does not help, move the folder 'images' of this node away and pull or import again"
    )]
    Index(#[source] Box<redb::Error>),
    /// A manifest in the store is damaged.
    #[error("a manifest in the image store is damaged")]
    Manifest(#[from] ManifestError),
}

fn show_needed(needed: Option<u64>) -> String {
    needed
        .map(|n| format!(" ({} more needed)", ByteSize(n)))
        .unwrap_or_default()
}

impl StoreError {
    /// Wraps a failed file operation; "no space" becomes [`StoreError::Full`].
    pub(crate) fn file(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            if is_full(&source) {
                Self::Full { needed: None }
            } else {
                Self::File { what, source }
            }
        }
    }
}

/// Limits of a store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Most bytes of frames; `None`: as the disk allows.
    pub quota: Option<ByteSize>,
    /// Bytes left free on the file system for others, above all for the guests' own disks.
    pub reserve: ByteSize,
    /// Memory for decoded pieces.
    pub cache: ByteSize,
    /// Most bytes a second that are sent to peers; `None`: as the line allows.
    pub upload: Option<u64>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            quota: None,
            reserve: ByteSize(FREE_RESERVE),
            cache: ByteSize(CACHE_BYTES as u64),
            upload: None,
        }
    }
}

/// An image as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its id.
    pub id: ImageId,
    /// `name:tag` of every name it has here, in order.
    pub names: Vec<String>,
    /// Bytes of its disk.
    pub size: u64,
    /// Bytes that its pieces take here; pieces shared with another image count in both.
    pub stored_bytes: u64,
    /// Pieces that are not known to be zero.
    pub pieces_total: u32,
    /// Of those, held here.
    pub pieces_have: u32,
    /// Whether every byte is here.
    pub complete: bool,
    /// Whether a kernel for direct boot is in it.
    pub kernel: bool,
    /// Whether an initrd is in it.
    pub initrd: bool,
    /// Kernel command line.
    pub cmdline: Option<String>,
    /// The machine whose memory is in it; none: it boots cold.
    pub warm: Option<wire::image::Warm>,
    /// When it came here.
    pub added: UnixMillis,
}

/// What [`Store::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Pieces read and hashed.
    pub checked: u32,
    /// Pieces whose bytes were damaged; they now count as missing and can be pulled again.
    pub bad: u32,
    /// Pieces that are not here, bad ones included.
    pub missing: u32,
}

/// The image store of a node. Clones share it; its functions block, so async callers use `spawn_blocking`.
#[derive(Debug, Clone)]
pub struct Store(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) config: StoreConfig,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) index: Index,
    pub(crate) packs: Packs,
    /// Where to append; `None` until recovered. Held through a whole commit, and by the collector.
    pub(crate) writer: Mutex<Option<Tail>>,
    /// Bytes of all indexed frames.
    pub(crate) live: AtomicU64,
    pub(crate) images: Mutex<BTreeMap<ImageId, Arc<ImageState>>>,
    pub(crate) cache: Mutex<Cache>,
    /// Held by an import, whose pieces belong to no image yet, and by the collector, which would remove them.
    pub(crate) importing: Mutex<()>,
    pub(crate) pulls: Mutex<BTreeMap<ImageId, Running>>,
    /// Moves whenever an image is entered.
    pub(crate) entered: tokio::sync::watch::Sender<u64>,
    /// Sessions served, by peer.
    pub(crate) sessions: Mutex<BTreeMap<NodeId, usize>>,
    pub(crate) uploads: Uploads,
    pub(crate) room: Room,
    /// Archives that are open: each can be opened once.
    pub(crate) archives: Mutex<BTreeMap<PathBuf, Weak<Inner>>>,
    _lock: Option<File>,
}

/// Locks without caring about a panic elsewhere: each critical section leaves the value whole.
pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn unix_now() -> UnixMillis {
    let d = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl Store {
    /// Opens the store in `dir`, or makes it. One process at a time.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, StoreError> {
        // Converters run elsewhere.
        let dir = &std::path::absolute(dir).map_err(StoreError::file("find the folder"))?;
        std::fs::create_dir_all(dir).map_err(StoreError::file("make the folder"))?;
        let lock_path = dir.join("lock");
        let mut options = OpenOptions::new();
        let lock_file = options.create(true).write(true).truncate(false).open(&lock_path);
        let lock_file = lock_file.map_err(StoreError::file("open the lock file"))?;
        match lock_file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(e)) => return Err(StoreError::file("lock")(e)),
        }
        let tmp = dir.join("tmp");
        if tmp.exists() {
            std::fs::remove_dir_all(&tmp).map_err(StoreError::file("empty tmp"))?;
        }
        std::fs::create_dir_all(&tmp).map_err(StoreError::file("make tmp"))?;
        let disk = Folder::new(&dir.join("packs")).map_err(StoreError::file("make the packs folder"))?;
        Self::open_on(Arc::new(disk), dir, config, Some(lock_file))
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: StoreConfig,
        lock_file: Option<File>,
    ) -> Result<Self, StoreError> {
        let index = Index::open(disk.clone())?;
        let packs = Packs::new(disk.clone());
        let tail = packs.recover(&index.packs()?)?;
        let upload = config.upload;
        let inner = Inner {
            dir: dir.to_owned(),
            cache: Mutex::new(Cache::new(usize::try_from(config.cache.0).unwrap_or(CACHE_BYTES))),
            config,
            disk,
            index,
            packs,
            writer: Mutex::new(Some(tail)),
            live: AtomicU64::new(0),
            images: Mutex::default(),
            importing: Mutex::new(()),
            pulls: Mutex::default(),
            entered: tokio::sync::watch::Sender::new(0),
            sessions: Mutex::default(),
            uploads: Uploads::new(upload),
            room: Room::default(),
            archives: Mutex::default(),
            _lock: lock_file,
        };
        let store = Self(Arc::new(inner));
        if store.0.index.fact(FACT_IMPORTING)?.is_some() {
            tracing::info!("an import was cut short; its pieces are removed");
            store.collect(None)?;
        }
        store.count_live()?;
        Ok(store)
    }

    pub(crate) fn count_live(&self) -> Result<(), StoreError> {
        let live = self.0.index.read(|tx| {
            let mut sum = 0;
            for row in tx.open_table(PIECES)?.iter()? {
                sum += u64::from(Place::from_bytes(row?.1.value()).len);
            }
            Ok(sum)
        })?;
        self.0.live.store(live, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    /// The folder for a conversion's temporary file.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.0.dir.join("tmp")
    }

    /// Ids of all images here, complete or not.
    pub(crate) fn ids(&self) -> Result<Vec<ImageId>, StoreError> {
        self.0.index.read(|tx| {
            let mut ids = Vec::new();
            for row in tx.open_table(HEADERS)?.iter()? {
                ids.push(ImageId(*row?.0.value()));
            }
            Ok(ids)
        })
    }

    /// Every image here. One whose manifest is damaged is left out and logged.
    pub fn list(&self) -> Result<Vec<ImageInfo>, StoreError> {
        let mut out = Vec::new();
        for id in self.ids()? {
            match self.info(id) {
                Ok(info) => out.extend(info),
                Err(e @ StoreError::Manifest(_)) => tracing::warn!(image = %id, error = %e, "cannot list an image"),
                Err(e) => return Err(e),
            }
        }
        out.sort_by(|a, b| a.names.cmp(&b.names).then(a.id.cmp(&b.id)));
        Ok(out)
    }

    /// One image, if anything of it is here.
    pub fn info(&self, id: ImageId) -> Result<Option<ImageInfo>, StoreError> {
        let Some(state) = self.state(id)? else { return Ok(None) };
        let (names, added) = self.0.index.read(|tx| {
            let mut names = Vec::new();
            for row in tx.open_table(NAMES)?.iter()? {
                let (name, image) = row?;
                if *image.value() == id.0 {
                    names.push(name.value().to_owned());
                }
            }
            Ok((names, tx.open_table(ADDED)?.get(&id.0)?.map_or(0, |v| v.value())))
        })?;
        let counts = state.counts();
        Ok(Some(ImageInfo {
            id,
            names,
            size: state
                .layout
                .part_bytes(Part::Disk)
                .unwrap_or_else(|| state.layout.bytes()),
            stored_bytes: counts.stored,
            pieces_total: counts.total,
            pieces_have: counts.have,
            complete: counts.complete,
            kernel: state.layout.part_bytes(Part::Kernel).is_some(),
            initrd: state.layout.part_bytes(Part::Initrd).is_some(),
            cmdline: state.header.cmdline.clone(),
            warm: wire::image::Warm::of(&state.header),
            added: UnixMillis(added),
        }))
    }

    /// The image that people mean by `name`, `name:tag`, an id, or at least 8 letters that only one id begins with.
    pub fn resolve(&self, reference: &str) -> Result<Option<ImageId>, StoreError> {
        let full = if reference.contains(':') {
            reference.to_owned()
        } else {
            format!("{reference}:latest")
        };
        let named = self
            .0
            .index
            .read(|tx| Ok(tx.open_table(NAMES)?.get(full.as_str())?.map(|v| ImageId(*v.value()))))?;
        if named.is_some() || reference.len() < MIN_ID_PREFIX {
            return Ok(named);
        }
        let mut hits = self
            .ids()?
            .into_iter()
            .filter(|id| id.to_string().starts_with(reference));
        Ok(hits.next().filter(|_| hits.next().is_none()))
    }

    /// Gives an image a name; a name that was another image's moves.
    pub fn name(&self, id: ImageId, name: &Name, tag: &Name) -> Result<(), StoreError> {
        if self.state(id)?.is_none() {
            return Err(StoreError::UnknownImage(id));
        }
        self.0.index.write(|tx| {
            tx.open_table(NAMES)?.insert(format!("{name}:{tag}").as_str(), &id.0)?;
            Ok(())
        })
    }

    /// Reads and hashes every piece of an image that is held. What is damaged counts as missing afterwards.
    pub fn verify(&self, id: ImageId, progress: &mut dyn FnMut(Progress)) -> Result<VerifyReport, StoreError> {
        let state = self.state(id)?.ok_or(StoreError::UnknownImage(id))?;
        let lease = state.lease();
        let mut report = VerifyReport::default();
        let total = lease.layout.bytes();
        for (n, index) in (1u64..).zip(lease.layout.all_pieces()) {
            match lease.piece_id(index) {
                Some(p) if p.is_zero() => {}
                Some(p) if lease.has(index) => {
                    report.checked += 1;
                    if self
                        .read_frame(p)?
                        .and_then(|(f, _)| frame::open(p, f.encoding, &f.bytes).ok())
                        .is_none()
                    {
                        self.forget(p)?;
                        report.bad += 1;
                        report.missing += 1;
                    }
                }
                _ => report.missing += 1,
            }
            if n % 256 == 0 {
                progress(Progress {
                    stage: Stage::Verify,
                    done: (n * wire::image::PIECE_BYTES as u64).min(total),
                    total,
                });
            }
        }
        progress(Progress {
            stage: Stage::Verify,
            done: total,
            total,
        });
        Ok(report)
    }

    /// What is held of an image, in memory; `None` if nothing of it is here.
    pub(crate) fn state(&self, id: ImageId) -> Result<Option<Arc<ImageState>>, StoreError> {
        if let Some(state) = lock(&self.0.images).get(&id) {
            return Ok(Some(state.clone()));
        }
        // The writer's lock goes first, here as everywhere; with it no commit comes between load and entry.
        let _writer = lock(&self.0.writer);
        let mut images = lock(&self.0.images);
        if let Some(state) = images.get(&id) {
            return Ok(Some(state.clone()));
        }
        let Some(state) = self.load(id)? else { return Ok(None) };
        if images.len() >= MAX_OPEN_IMAGES {
            images.retain(|_, s| Arc::strong_count(s) > 1);
        }
        let state = Arc::new(state);
        images.insert(id, state.clone());
        Ok(Some(state))
    }

    fn load(&self, id: ImageId) -> Result<Option<ImageState>, StoreError> {
        let found = self.0.index.read(|tx| {
            let header = tx.open_table(HEADERS)?.get(&id.0)?.map(|v| v.value().to_vec());
            let table = tx.open_table(SEGMENT_TABLES)?.get(&id.0)?.map(|v| v.value().to_vec());
            Ok(header.zip(table))
        })?;
        let Some((header_bytes, table)) = found else {
            return Ok(None);
        };
        let header = Header::open(id, &header_bytes)?;
        let layout = header.layout()?;
        let table: Vec<SegmentId> = table.as_chunks::<32>().0.iter().map(|b| SegmentId(*b)).collect();
        if table.len() != layout.segments() as usize || wire::image::table_id(&table) != header.table {
            return Err(ManifestError::WrongId("segment table").into());
        }
        let state = ImageState::new(id, header, header_bytes, layout, table);
        self.load_segments(&state)?;
        Ok(Some(state))
    }

    /// Takes the segments that the index has into a state; ones that it has already are passed over. Called with the
    /// writer's lock held, so that no commit comes between the look into the index and the entry.
    pub(crate) fn load_segments(&self, state: &ImageState) -> Result<(), StoreError> {
        state
            .unknown_segments()
            .into_iter()
            .try_for_each(|s| self.load_segment(state, s))
    }

    /// Takes one segment, if the index has it. Called with the writer's lock held.
    pub(crate) fn load_segment(&self, state: &ImageState, s: SegmentIndex) -> Result<(), StoreError> {
        let Some(segment_id) = state.table.get(s.get() as usize) else {
            return Ok(());
        };
        let Some(bytes) = self.segment_bytes(*segment_id)? else {
            return Ok(());
        };
        if wire::image::segment_id(&bytes) != *segment_id {
            tracing::warn!(
                segment = s.get(),
                "a segment in the index is damaged; it is fetched again"
            );
            return Ok(());
        }
        let ids = decode_segment(&bytes, state.layout.segment_pieces(s))?;
        let stored: Vec<Option<u32>> = self.0.index.places(&ids)?.iter().map(|p| p.map(|p| p.len)).collect();
        state.add_segment(s, ids, &stored);
        Ok(())
    }

    /// A segment's encoding, as stored.
    pub(crate) fn segment_bytes(&self, id: SegmentId) -> Result<Option<Vec<u8>>, StoreError> {
        self.0
            .index
            .read(|tx| Ok(tx.open_table(SEGMENTS)?.get(&id.0)?.map(|v| v.value().to_vec())))
    }

    fn read_frame(&self, id: PieceId) -> Result<Option<(Frame, Place)>, StoreError> {
        let Some(place) = self.0.index.place(id)? else {
            return Ok(None);
        };
        Ok(self.0.packs.read(place)?.map(|f| (f, place)))
    }

    /// Bytes that a piece takes as it is sent; 0 if it is not here.
    pub(crate) fn frame_bytes(&self, id: PieceId) -> u64 {
        self.0.index.place(id).ok().flatten().map_or(0, |p| u64::from(p.len))
    }

    /// A piece as it is sent to peers. Bytes that rotted are never sent: the piece is forgotten.
    pub(crate) fn frame(&self, id: PieceId) -> Result<Option<Frame>, StoreError> {
        let frame = self.read_frame(id)?;
        if frame.is_none() {
            self.forget(id)?;
        }
        Ok(frame.map(|(f, _)| f))
    }

    /// The bytes of a piece, checked against its id; `None` if it is not here (any more).
    pub(crate) fn piece(&self, id: PieceId) -> Result<Option<Arc<PieceBytes>>, StoreError> {
        if id.is_zero() {
            return Ok(Some(Arc::from(frame::blank())));
        }
        if let Some(p) = lock(&self.0.cache).get(id) {
            return Ok(Some(p));
        }
        let Some((f, _)) = self.read_frame(id)? else {
            self.forget(id)?;
            return Ok(None);
        };
        let Ok(piece) = frame::open(id, f.encoding, &f.bytes) else {
            self.forget(id)?;
            return Ok(None);
        };
        lock(&self.0.cache).put(id, piece.clone());
        Ok(Some(piece))
    }

    /// The bytes of piece `i` of an image.
    pub(crate) fn piece_of(&self, state: &ImageState, i: PieceIndex) -> Result<Option<Arc<PieceBytes>>, StoreError> {
        match state.piece_id(i) {
            Some(id) if state.has(i) => self.piece(id),
            _ => Ok(None),
        }
    }
}
