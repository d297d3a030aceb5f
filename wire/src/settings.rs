//! What a LAN's owner sets for the whole LAN: port policy of guests, and the MTU.
//!
//! The record travels with the standings of members ([`crate::membership`]) and is one of them: the LAN's key says it
//! about itself, and the largest serial is the truth. Policy is named settings in text, so that a member of an older
//! version knows the name of what it cannot enforce, and can say so.

use crate::{
    codec::DecodeError,
    ids::{LanId, NodeId},
    sign::Record,
    units::UnixMillis,
};
use serde::{Deserialize, Serialize};

/// Most settings in one list; port policy has about 35.
pub const MAX_SETTINGS: usize = 64;
/// Longest name of a setting, bytes.
pub const MAX_SETTING_KEY: usize = 32;
/// Longest value, bytes: a list of 32 IPv6 addresses has 1,279.
pub const MAX_SETTING_VALUE: usize = 1_280;

/// One setting, as a person writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Checks the bounds that decoding alone does not: few, short and printable.
pub fn check_settings(list: &[Setting]) -> Result<(), DecodeError> {
    let bad = |what: String| Err(DecodeError::Malformed(what));
    if list.len() > MAX_SETTINGS {
        return bad(format!("{} settings, at most {MAX_SETTINGS} are allowed", list.len()));
    }
    let fits = |text: &str, cap: usize| text.len() <= cap && text.bytes().all(|b| b.is_ascii_graphic());
    match list
        .iter()
        .find(|s| s.key.is_empty() || !fits(&s.key, MAX_SETTING_KEY) || !fits(&s.value, MAX_SETTING_VALUE))
    {
        Some(s) => bad(format!(
            "a setting of {} and {} bytes, where {MAX_SETTING_KEY} and {MAX_SETTING_VALUE} printable ones are allowed",
            s.key.len(),
            s.value.len()
        )),
        None => Ok(()),
    }
}

/// All that a LAN's owner sets for the whole LAN. Signed by the LAN's key; it replaces the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanSettings {
    /// The LAN.
    pub lan: LanId,
    /// Larger than in anything that the LAN's key signed before.
    pub serial: u64,
    /// When it was signed, by the owner's clock; for people.
    pub issued: UnixMillis,
    /// Largest IP packet, bytes; none: [`crate::frame::DEFAULT_MTU`].
    pub mtu: Option<u16>,
    /// Port policy for all guests of the LAN; see [`check_settings`].
    pub policy: Vec<Setting>,
}

impl LanSettings {
    /// The key under which it stands among members' standings: the LAN's own.
    pub fn subject(&self) -> NodeId {
        NodeId(self.lan.key.0)
    }
}

impl Record for LanSettings {
    const KIND: &'static str = "lan-settings";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 4_096;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeKey, Signed};

    fn setting(key: &str, value: String) -> Setting {
        Setting { key: key.into(), value }
    }

    #[test]
    fn settings_are_few_short_and_printable() {
        let at = |n: usize, k: usize, v: usize| check_settings(&vec![setting(&"k".repeat(k), "v".repeat(v)); n]);
        assert!(at(MAX_SETTINGS, MAX_SETTING_KEY, MAX_SETTING_VALUE).is_ok());
        assert!(at(MAX_SETTINGS + 1, 1, 1).is_err());
        assert!(at(1, MAX_SETTING_KEY + 1, 1).is_err() && at(1, 0, 1).is_err());
        assert!(at(1, 1, MAX_SETTING_VALUE + 1).is_err());
        assert!(check_settings(&[setting("k", "\u{1b}[2J".into())]).is_err());
    }

    #[test]
    fn a_record_beyond_its_bound_is_not_signed() {
        let key = NodeKey::from_secret(&[1; 32]);
        let mut record = LanSettings {
            lan: LanId {
                key: key.public(),
                name: "x".repeat(63).parse().unwrap(),
            },
            serial: u64::MAX,
            issued: UnixMillis(u64::MAX),
            mtu: Some(u16::MAX),
            policy: vec![setting("k", "v".repeat(MAX_SETTING_VALUE)); 2],
        };
        let signed = Signed::new(&record, &key).unwrap();
        assert_eq!(signed.open_as(key.public()).unwrap(), record);
        record.policy = vec![setting("k", "v".repeat(MAX_SETTING_VALUE)); 4];
        assert!(Signed::new(&record, &key).is_err());
    }
}
