//! Attributes of rtnetlink messages: a length, a kind, a value, padded to four bytes (linux/netlink.h).
//!
//! Messages are kept as the kernel gave them, so that what this version has no name for survives too.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Bytes of a length and a kind.
const HEAD: usize = 4;
/// Marks of nesting and byte order in a kind.
const KIND: u16 = 0x3fff;

/// A message behind its `nlmsghdr`; hexadecimal in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Raw(pub Vec<u8>);

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.iter().map(|b| format!("{b:02x}")).collect();
        s.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let pairs = text.as_bytes().chunks(2);
        let byte = |p: &[u8]| {
            let digits = std::str::from_utf8(p).ok().filter(|t| t.len() == 2)?;
            u8::from_str_radix(digits, 16).ok()
        };
        pairs
            .map(byte)
            .collect::<Option<Vec<u8>>>()
            .map(Raw)
            .ok_or_else(|| D::Error::custom("not hexadecimal"))
    }
}

/// The attributes in `bytes`, kind and value, up to the first that is cut short.
pub fn attrs(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let head = rest.first_chunk::<HEAD>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & KIND;
        let value = rest.get(HEAD..len)?;
        rest = rest.get(padded(len)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a kind, behind a header of `head` bytes.
pub fn find(message: &[u8], head: usize, kind: u16) -> Option<&[u8]> {
    attrs(message.get(head..)?).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// As [`find`], for a 32-bit number.
pub fn find_u32(message: &[u8], head: usize, kind: u16) -> Option<u32> {
    u32_at(find(message, head, kind)?, 0)
}

/// A native 32-bit number in a message.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Writes a native 32-bit number into a message; one that is too short stays as it is.
pub fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(to) = bytes.get_mut(at..at + 4) {
        to.copy_from_slice(&value.to_ne_bytes());
    }
}

/// Appends an attribute.
pub fn push(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(HEAD + value.len()).unwrap_or(u16::MAX);
    to.extend_from_slice(&len.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value.get(..usize::from(len) - HEAD).unwrap_or_default());
    to.resize(padded(to.len()), 0);
}

/// The message with every attribute as `f` wants it: changed, or with `None` left out.
pub fn rewrite(message: &[u8], head: usize, mut f: impl FnMut(u16, &[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut out = message.get(..head).unwrap_or(message).to_vec();
    for (kind, value) in attrs(message.get(head..).unwrap_or_default()) {
        if let Some(new) = f(kind, value) {
            push(&mut out, kind, &new);
        }
    }
    out
}

fn padded(len: usize) -> usize {
    len.div_ceil(4) * 4
}
