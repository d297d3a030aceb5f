//! Bounded postcard: the one encoding of every message and record.
//!
//! Shape: `decode` refuses more than `cap` bytes before it reads any, and refuses trailing bytes, so a record has
//! exactly one encoding of its length. Streams carry a message as `u32` big-endian length, then that many bytes.

use serde::{Serialize, de::DeserializeOwned};

/// Why bytes from a peer are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the message's named bound.
    #[error("message of {len} bytes, at most {cap} are allowed")]
    TooLong {
        /// Length seen, bytes.
        len: usize,
        /// The bound, bytes.
        cap: usize,
    },
    /// Bytes were left after the value ended.
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
    /// Not an encoding of the expected type.
    #[error("malformed message: {0}")]
    Malformed(String),
}

/// Encodes any wire value. Wire types hold nothing that postcard cannot encode; if one ever does, this says so.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, DecodeError> {
    postcard::to_allocvec(value).map_err(|e| DecodeError::Malformed(e.to_string()))
}

/// Decodes exactly one value of at most `cap` bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], cap: usize) -> Result<T, DecodeError> {
    if bytes.len() > cap {
        return Err(DecodeError::TooLong { len: bytes.len(), cap });
    }
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|e| DecodeError::Malformed(e.to_string()))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::Trailing(rest.len()))
    }
}

/// Splits one length-prefixed message off the front of `buf`: `Ok(None)` while it is incomplete.
///
/// The length is checked against `cap` as soon as its four bytes are there, so a liar cannot make us wait or allocate.
pub fn split_frame(buf: &mut bytes::BytesMut, cap: usize) -> Result<Option<bytes::Bytes>, DecodeError> {
    let Some(head) = buf.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*head) as usize;
    if len > cap {
        return Err(DecodeError::TooLong { len, cap });
    }
    if buf.len() < 4 + len {
        return Ok(None);
    }
    let mut whole = buf.split_to(4 + len);
    Ok(Some(whole.split_off(4).freeze()))
}

/// Puts the length prefix before an encoded message.
pub fn frame<T: Serialize>(value: &T) -> Result<Vec<u8>, DecodeError> {
    let body = encode(value)?;
    let len = u32::try_from(body.len()).map_err(|_| DecodeError::TooLong {
        len: body.len(),
        cap: u32::MAX as usize,
    })?;
    let mut out = Vec::with_capacity(4 + body.len());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_long_and_trailing() {
        let b = encode(&(7u32, "x".to_string())).unwrap();
        assert_eq!(decode::<(u32, String)>(&b, 64).unwrap(), (7, "x".into()));
        assert!(matches!(
            decode::<(u32, String)>(&b, 2),
            Err(DecodeError::TooLong { cap: 2, .. })
        ));
        let mut long = b.clone();
        long.push(0);
        assert_eq!(decode::<(u32, String)>(&long, 64), Err(DecodeError::Trailing(1)));
    }

    proptest! {
        #[test]
        fn never_panics_on_noise(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<(u64, Vec<String>, Option<[u8; 32]>)>(&b, 128);
            let mut m = bytes::BytesMut::from(&b[..]);
            let _ = split_frame(&mut m, 64);
        }

        #[test]
        fn frames_survive_any_split(msgs in proptest::collection::vec(".{0,40}", 0..6), cut in 1usize..9) {
            let all: Vec<u8> = msgs.iter().flat_map(|m| frame(m).unwrap()).collect();
            let mut buf = bytes::BytesMut::new();
            let mut got = Vec::new();
            for part in all.chunks(cut) {
                buf.extend_from_slice(part);
                while let Some(b) = split_frame(&mut buf, 1024).unwrap() {
                    got.push(decode::<String>(&b, 1024).unwrap());
                }
            }
            prop_assert_eq!(got, msgs);
        }
    }
}
