//! Signed names: what a publisher calls which image, never going back, with proof kept of who said two things.

use super::index::{NAME_PROOFS, NAME_RECORDS};
use super::store::{Store, StoreError};
use redb::ReadableTable;
use wire::image::{Compared, NAME_LIFE, NameRecord, SignedName, compare};
use wire::sign::{NodeKey, PublicKey, RecordError};
use wire::{ImageId, Name, UnixMillis, codec};

/// Records of others that are kept; beyond, new ones are refused.
const MAX_RECORDS: usize = 4_096;
/// Longest encoding of a signed record.
const MAX_BYTES: usize = 1_024;

/// Why a record does not count.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// An older one than was seen.
    #[error(
        "version {offered} of {name} is offered, but its publisher has said version {seen}; somebody offers an old image"
    )]
    Rollback {
        /// `name:tag`.
        name: String,
        /// Version that was seen before.
        seen: u64,
        /// Version that is offered.
        offered: u64,
    },
    /// The publisher signed two images under one version.
    #[error("the publisher of {name} signed two different images as version {version}; both records are kept as proof")]
    Equivocation {
        /// `name:tag`.
        name: String,
        /// The version.
        version: u64,
    },
    /// It says nothing about today.
    #[error("the record of {name} has expired, or is not good yet; its publisher renews it while it runs")]
    NotCurrent {
        /// `name:tag`.
        name: String,
    },
    /// Not signed as it should be.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// As many records are kept as the bound allows.
    #[error("{MAX_RECORDS} names are known; no more are taken")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn key(publisher: PublicKey, name: &Name, tag: &Name) -> String {
    format!("{publisher:?}/{name}:{tag}")
}

fn full(r: &NameRecord) -> String {
    format!("{}:{}", r.name, r.tag)
}

impl Store {
    fn name_record(&self, key: &str) -> Result<Option<SignedName>, StoreError> {
        let bytes = self
            .0
            .index
            .read(|tx| Ok(tx.open_table(NAME_RECORDS)?.get(key)?.map(|v| v.value().to_vec())))?;
        // What cannot be read is as if it had never been seen; nothing but this code writes it.
        Ok(bytes.and_then(|b| codec::decode(&b, MAX_BYTES).ok()))
    }

    /// Takes in a record, whoever brought it. Only a current one that is not older than what was seen counts.
    pub fn accept_name(&self, signed: &SignedName, now: UnixMillis) -> Result<NameRecord, NameError> {
        let offered = signed.open()?;
        let at = key(signed.signer(), &offered.name, &offered.tag);
        let before = self.name_record(&at)?;
        let seen = before.as_ref().and_then(|s| s.open().ok());
        let encoded = codec::encode(signed).map_err(RecordError::from)?;
        match compare(seen.as_ref(), &offered) {
            Compared::Rollback => {
                return Err(NameError::Rollback {
                    name: full(&offered),
                    seen: seen.map_or(0, |s| s.version),
                    offered: offered.version,
                });
            }
            Compared::Equivocation => {
                let first = codec::encode(&before).map_err(RecordError::from)?;
                self.0.index.write(|tx| {
                    tx.open_table(NAME_PROOFS)?
                        .insert(&at[..], (&first[..], &encoded[..]))?;
                    Ok(())
                })?;
                tracing::warn!(name = %full(&offered), publisher = ?signed.signer(), "a publisher signed two images under one version");
                return Err(NameError::Equivocation {
                    name: full(&offered),
                    version: offered.version,
                });
            }
            Compared::Newer | Compared::Same if !offered.is_current(now) => {
                return Err(NameError::NotCurrent { name: full(&offered) });
            }
            Compared::Same if seen.as_ref().is_some_and(|s| s.expires >= offered.expires) => return Ok(offered),
            Compared::Newer | Compared::Same => {}
        }
        self.0.index.write(|tx| {
            let mut table = tx.open_table(NAME_RECORDS)?;
            let room = redb::ReadableTableMetadata::len(&table)? < MAX_RECORDS as u64;
            if room || table.get(&at[..])?.is_some() {
                table.insert(&at[..], &encoded[..])?;
            }
            Ok(())
        })?;
        match self.name_record(&at)? {
            Some(_) => Ok(offered),
            None => Err(NameError::Full),
        }
    }

    /// Signs what a name means here from now on: the next version if it meant another image, else the same one again.
    pub fn sign_name(
        &self,
        by: &NodeKey,
        image: ImageId,
        name: &Name,
        tag: &Name,
        now: UnixMillis,
    ) -> Result<SignedName, NameError> {
        let seen = self.name_record(&key(by.public(), name, tag))?;
        let seen = seen.and_then(|s| s.open().ok());
        let (version, before) = match &seen {
            Some(s) if s.image == image => (s.version, s.before),
            Some(s) => (s.version + 1, Some(s.image)),
            None => (1, None),
        };
        let record = NameRecord {
            name: name.clone(),
            tag: tag.clone(),
            image,
            version,
            since: now,
            expires: now.plus(NAME_LIFE),
            before,
        };
        let signed = SignedName::new(&record, by)?;
        self.accept_name(&signed, now)?;
        Ok(signed)
    }

    /// All records that name an image, current or not.
    pub fn names_of(&self, image: ImageId) -> Result<Vec<SignedName>, StoreError> {
        let all = self.0.index.read(|tx| {
            let mut all = Vec::new();
            for row in tx.open_table(NAME_RECORDS)?.iter()? {
                all.push(row?.1.value().to_vec());
            }
            Ok(all)
        })?;
        let decoded = all
            .iter()
            .filter_map(|b| codec::decode::<SignedName>(b, MAX_BYTES).ok());
        Ok(decoded.filter(|s| s.open().is_ok_and(|r| r.image == image)).collect())
    }

    /// Proofs that a publisher signed two images under one version: its key and name, and how many there are.
    pub fn name_proofs(&self) -> Result<Vec<String>, StoreError> {
        self.0.index.read(|tx| {
            let mut all = Vec::new();
            for row in tx.open_table(NAME_PROOFS)?.iter()? {
                all.push(row?.0.value().to_owned());
            }
            Ok(all)
        })
    }
}
