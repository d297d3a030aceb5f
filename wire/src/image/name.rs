//! What a name means: a publisher's signed word, with a version and an end.
//!
//! A name belongs to the key that signs it. Of two records of one publisher for one name the higher version counts; who has
//! seen one never goes back to a lower. Two records of one version that name different images prove that their signer said
//! two things to two people; both are kept. A record that has expired says nothing about today.

use crate::sign::{Record, Signed};
use crate::{ImageId, Name, UnixMillis};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a record is good: whoever withholds a newer one can do so for this long.
pub const NAME_LIFE: Duration = Duration::from_secs(48 * 3_600);
/// A clock may be this much behind the publisher's.
pub const CLOCK_SLACK: Duration = Duration::from_secs(300);

/// `name:tag` is this image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// Name.
    pub name: Name,
    /// Tag under it.
    pub tag: Name,
    /// The image.
    pub image: ImageId,
    /// Goes up by one whenever the name moves to another image.
    pub version: u64,
    /// When it was signed.
    pub since: UnixMillis,
    /// When it ends.
    pub expires: UnixMillis,
    /// The image that the name meant before.
    pub before: Option<ImageId>,
}

impl Record for NameRecord {
    const KIND: &'static str = "image-name";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 512;
}

/// What a record is beside the one that was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Nothing was seen, or it is newer: it counts.
    Newer,
    /// It says the same again, perhaps with a later end.
    Same,
    /// It is older: somebody offers yesterday.
    Rollback,
    /// Two records of one version name two images.
    Equivocation,
}

/// Compares a record with the last one seen of its publisher and name.
pub fn compare(seen: Option<&NameRecord>, offered: &NameRecord) -> Compared {
    match seen {
        None => Compared::Newer,
        Some(s) if offered.version > s.version => Compared::Newer,
        Some(s) if offered.version < s.version => Compared::Rollback,
        Some(s) if offered.image != s.image => Compared::Equivocation,
        Some(_) => Compared::Same,
    }
}

/// A signed one, as it travels.
pub type SignedName = Signed<NameRecord>;

impl NameRecord {
    /// Whether it says something about `now`.
    pub fn is_current(&self, now: UnixMillis) -> bool {
        self.since <= now.plus(CLOCK_SLACK) && now < self.expires && self.expires <= self.since.plus(NAME_LIFE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::NodeKey;

    fn record(version: u64, image: u8) -> NameRecord {
        let since = UnixMillis(1_000_000);
        NameRecord {
            name: "debian".parse().unwrap(),
            tag: "12".parse().unwrap(),
            image: ImageId([image; 32]),
            version,
            since,
            expires: since.plus(NAME_LIFE),
            before: None,
        }
    }

    #[test]
    fn fault_15_older_and_contradicting_records_are_known_for_what_they_are() {
        let seen = record(5, 1);
        assert_eq!(compare(None, &seen), Compared::Newer);
        assert_eq!(compare(Some(&seen), &record(6, 2)), Compared::Newer);
        assert_eq!(compare(Some(&seen), &record(5, 1)), Compared::Same);
        assert_eq!(compare(Some(&seen), &record(4, 1)), Compared::Rollback);
        assert_eq!(compare(Some(&seen), &record(5, 2)), Compared::Equivocation);
    }

    #[test]
    fn fault_15_a_record_ends_and_nobody_signs_one_for_ever() {
        let r = record(1, 1);
        assert!(r.is_current(UnixMillis(1_000_000)) && r.is_current(UnixMillis(900_000)));
        assert!(!r.is_current(UnixMillis(600_000)), "from the future");
        assert!(!r.is_current(r.expires));
        let mut long = r.clone();
        long.expires = UnixMillis(u64::MAX);
        assert!(!long.is_current(UnixMillis(1_000_000)));
    }

    #[test]
    fn the_largest_record_fits_and_another_key_cannot_sign_it() {
        let key = NodeKey::from_secret(&[7; 32]);
        let mut r = record(u64::MAX, 255);
        r.before = Some(ImageId([255; 32]));
        let signed = SignedName::new(&r, &key).unwrap();
        assert_eq!(signed.open().unwrap(), r);
        assert!(signed.open_as(NodeKey::from_secret(&[8; 32]).public()).is_err());
    }
}
