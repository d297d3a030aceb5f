//! The index: which piece lies where, which images and names there are. A redb database on a [`DiskFile`].
//!
//! redb refuses everything after one failed write until it is opened again, so a disk that was full for a moment would
//! end the store; here the database is opened again on the next use.

use super::disk::{Disk, DiskFile, is_full};
use super::store::StoreError;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction,
};
use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
};
use wire::image::{Encoding, PieceId};

/// Piece id to [`Place`], 25 bytes.
pub(crate) const PIECES: TableDefinition<&[u8; 32], &[u8; 25]> = TableDefinition::new("pieces");
/// Pack number to its durable length; bytes beyond it were never acknowledged.
pub(crate) const PACKS: TableDefinition<u32, u64> = TableDefinition::new("packs");
/// Image id to header.
pub(crate) const HEADERS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("headers");
/// Image id to its segment ids, 32 bytes each.
pub(crate) const SEGMENT_TABLES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("segment tables");
/// Segment id to its encoding.
pub(crate) const SEGMENTS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("segments");
/// Image id to when it was added, Unix milliseconds.
pub(crate) const ADDED: TableDefinition<&[u8; 32], u64> = TableDefinition::new("added");
/// `name:tag` to image id.
pub(crate) const NAMES: TableDefinition<&str, &[u8; 32]> = TableDefinition::new("names");
/// Image id, then node id, to what that node's boots of the image read.
pub(crate) const PROFILES: TableDefinition<&[u8; 64], &[u8]> = TableDefinition::new("profiles");
/// Publisher and `name:tag` to the newest signed record.
pub(crate) const NAME_RECORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("name records");
/// The same to two records that contradict each other.
pub(crate) const NAME_PROOFS: TableDefinition<&str, (&[u8], &[u8])> = TableDefinition::new("name proofs");
/// Image id to the folder of the archive that holds its pieces.
pub(crate) const ARCHIVES: TableDefinition<&[u8; 32], &str> = TableDefinition::new("archives");
/// Numbers about the store itself.
pub(crate) const FACTS: TableDefinition<&str, u64> = TableDefinition::new("facts");

/// Fact: version of the layout.
pub(crate) const FACT_FORMAT: &str = "format";
/// Fact: an import is under way, its pieces belong to no image yet.
pub(crate) const FACT_IMPORTING: &str = "importing";
/// The layout that this build writes.
pub(crate) const FORMAT: u64 = 1;
/// Memory for index pages: 10 GB of images are 160,000 pieces, about 12 MB of index.
const INDEX_CACHE_BYTES: usize = 16 << 20;

/// Where a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) pack: u32,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) zstd: bool,
    /// First 8 bytes of BLAKE3 of the frame.
    pub(crate) check: u64,
}

impl Place {
    pub(crate) fn encoding(&self) -> Encoding {
        if self.zstd { Encoding::Zstd } else { Encoding::Raw }
    }

    pub(crate) fn to_bytes(self) -> [u8; 25] {
        let mut b = [0; 25];
        b[..4].copy_from_slice(&self.pack.to_be_bytes());
        b[4..12].copy_from_slice(&self.offset.to_be_bytes());
        b[12..16].copy_from_slice(&self.len.to_be_bytes());
        b[16] = u8::from(self.zstd);
        b[17..].copy_from_slice(&self.check.to_be_bytes());
        b
    }

    pub(crate) fn from_bytes(b: &[u8; 25]) -> Self {
        let u32_at = |i: usize| u32::from_be_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let u64_at = |i: usize| (u64::from(u32_at(i)) << 32) | u64::from(u32_at(i + 4));
        Self {
            pack: u32_at(0),
            offset: u64_at(4),
            len: u32_at(12),
            zstd: b[16] == 1,
            check: u64_at(17),
        }
    }
}

#[derive(Debug)]
struct Backend(Arc<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
}

/// The index database.
#[derive(Debug)]
pub(crate) struct Index {
    disk: Arc<dyn Disk>,
    db: RwLock<Option<Database>>,
}

const FILE: &str = "index.redb";

impl Index {
    /// Opens or makes it; a transaction that a crash cut short is rolled back here.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        let index = Self {
            db: RwLock::new(None),
            disk,
        };
        index.write(|tx| {
            tx.open_table(PIECES)?;
            tx.open_table(PACKS)?;
            tx.open_table(HEADERS)?;
            tx.open_table(SEGMENT_TABLES)?;
            tx.open_table(SEGMENTS)?;
            tx.open_table(ADDED)?;
            tx.open_table(NAMES)?;
            tx.open_table(PROFILES)?;
            tx.open_table(ARCHIVES)?;
            tx.open_table(NAME_RECORDS)?;
            tx.open_table(NAME_PROOFS)?;
            let mut facts = tx.open_table(FACTS)?;
            if facts.get(FACT_FORMAT)?.is_none() {
                facts.insert(FACT_FORMAT, FORMAT)?;
            }
            Ok(())
        })?;
        match index.fact(FACT_FORMAT)? {
            Some(FORMAT) => Ok(index),
            other => Err(StoreError::Format(other.unwrap_or_default())),
        }
    }

    /// A number about the store.
    pub(crate) fn fact(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.read(|tx| Ok(tx.open_table(FACTS)?.get(name)?.map(|v| v.value())))
    }

    fn with<T>(&self, f: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        if self.db.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.reopen()?;
        }
        match &*self.db.read().unwrap_or_else(PoisonError::into_inner) {
            Some(db) => f(db).map_err(|e| self.failed(e)),
            // Another thread's write failed in between.
            None => Err(StoreError::Index(Box::new(redb::Error::PreviousIo))),
        }
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if db.is_none() {
            let file = self.disk.open(FILE).map_err(StoreError::file("open the index"))?;
            let mut builder = redb::Builder::new();
            builder.set_cache_size(INDEX_CACHE_BYTES);
            *db = Some(
                builder
                    .create_with_backend(Backend(file))
                    .map_err(|e| self.failed(e.into()))?,
            );
        }
        Ok(())
    }

    fn failed(&self, e: redb::Error) -> StoreError {
        match e {
            redb::Error::Io(e) if is_full(&e) => StoreError::Full { needed: None },
            e => StoreError::Index(Box::new(e)),
        }
    }

    /// Drops the database after a failed write, so that the next use opens it again.
    fn close_failed(&self) {
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reads one consistent state.
    pub(crate) fn read<T>(&self, f: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        self.with(|db| f(&db.begin_read()?))
    }

    /// Changes the index: durable when it returns `Ok`, not visible to readers before. After an error nobody can say
    /// whether the change is there until the index has been read again.
    pub(crate) fn write<T>(
        &self,
        f: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let result = self.with(|db| {
            let tx = db.begin_write()?;
            let value = f(&tx)?;
            tx.commit()?;
            Ok(value)
        });
        if matches!(result, Err(StoreError::Index(_) | StoreError::Full { .. })) {
            self.close_failed();
        }
        result
    }

    /// Where a piece lies.
    pub(crate) fn place(&self, id: PieceId) -> Result<Option<Place>, StoreError> {
        self.read(|tx| Ok(tx.open_table(PIECES)?.get(&id.0)?.map(|v| Place::from_bytes(v.value()))))
    }

    /// Where each of many pieces lies; zero pieces lie nowhere.
    pub(crate) fn places(&self, ids: &[PieceId]) -> Result<Vec<Option<Place>>, StoreError> {
        self.read(|tx| {
            let table = tx.open_table(PIECES)?;
            ids.iter()
                .map(|id| match id.is_zero() {
                    true => Ok(None),
                    false => Ok(table.get(&id.0)?.map(|v| Place::from_bytes(v.value()))),
                })
                .collect()
        })
    }

    /// Durable length of each pack.
    pub(crate) fn packs(&self) -> Result<Vec<(u32, u64)>, StoreError> {
        self.read(|tx| {
            let table = tx.open_table(PACKS)?;
            let mut out = Vec::new();
            for row in table.iter()? {
                let (pack, len) = row?;
                out.push((pack.value(), len.value()));
            }
            Ok(out)
        })
    }
}
