//! Signed records: one envelope for everything that outlives a connection.
//!
//! A signature covers `"lanline " + kind + " v" + version + NUL` and then the record's bytes as they came, so a record
//! of one kind can never pass for another, and re-encoding can never change what was signed.

use crate::{codec, ids::NodeId};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fmt, marker::PhantomData};

/// An Ed25519 public key: a node's, or a LAN's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl From<NodeId> for PublicKey {
    fn from(n: NodeId) -> Self {
        Self(n.0)
    }
}

/// A secret Ed25519 key. Never printed; wiped from memory when dropped.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// From 32 secret bytes.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The 32 secret bytes, for the key file and for libp2p's own key type.
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The node that this key is.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.public().0)
    }

    /// Signs bytes under a context that no record kind uses; for challenges.
    pub fn sign_bytes(&self, context: &str, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(&message(context, 0, bytes)).to_bytes()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({:?})", self.node_id())
    }
}

/// Checks [`NodeKey::sign_bytes`].
pub fn verify_bytes(key: PublicKey, context: &str, bytes: &[u8], signature: &[u8; 64]) -> bool {
    verify(key, &message(context, 0, bytes), signature)
}

fn message(kind: &str, version: u16, bytes: &[u8]) -> Vec<u8> {
    let mut m = format!("lanline {kind} v{version}\0").into_bytes();
    m.extend_from_slice(bytes);
    m
}

fn verify(key: PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(&key.0).is_ok_and(|k| {
        k.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature))
            .is_ok()
    })
}

/// A kind of record that is signed: its name and version go under the signature, its bound is checked first.
pub trait Record: Serialize + DeserializeOwned {
    /// Kind, for example `membership`; listed in docs/wire.md.
    const KIND: &'static str;
    /// Version of the encoding.
    const VERSION: u16;
    /// Largest encoding, bytes.
    const MAX_BYTES: usize;
}

/// A record as it travels: bytes, who signed, signature. What is inside can be had only by checking.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Signed<T> {
    bytes: Vec<u8>,
    signer: PublicKey,
    #[serde(with = "sig")]
    signature: [u8; 64],
    #[serde(skip)]
    kind: PhantomData<fn() -> T>,
}

mod sig {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    type Halves = ([u8; 32], [u8; 32]);

    pub fn serialize<S: Serializer>(s: &[u8; 64], ser: S) -> Result<S::Ok, S::Error> {
        let mut h: Halves = Default::default();
        h.0.copy_from_slice(&s[..32]);
        h.1.copy_from_slice(&s[32..]);
        h.serialize(ser)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(de: D) -> Result<[u8; 64], D::Error> {
        let h = Halves::deserialize(de)?;
        let mut s = [0; 64];
        s[..32].copy_from_slice(&h.0);
        s[32..].copy_from_slice(&h.1);
        Ok(s)
    }
}

/// Why a signed record is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The signature does not fit the bytes, the kind, the version or the key.
    #[error("the signature of this {kind} record is wrong")]
    BadSignature {
        /// Kind of record.
        kind: &'static str,
    },
    /// Signed by a key that may not sign it.
    #[error("this {kind} record is signed by another key than the one that may sign it")]
    WrongSigner {
        /// Kind of record.
        kind: &'static str,
    },
    /// Not an encoding of the record.
    #[error(transparent)]
    Decode(#[from] codec::DecodeError),
}

impl<T: Record> Signed<T> {
    /// Signs a record.
    pub fn new(record: &T, key: &NodeKey) -> Result<Self, RecordError> {
        let bytes = codec::encode(record)?;
        if bytes.len() > T::MAX_BYTES {
            return Err(codec::DecodeError::TooLong {
                len: bytes.len(),
                cap: T::MAX_BYTES,
            }
            .into());
        }
        let signature = key.0.sign(&message(T::KIND, T::VERSION, &bytes)).to_bytes();
        Ok(Self {
            bytes,
            signer: key.public(),
            signature,
            kind: PhantomData,
        })
    }

    /// Checks the signature, then decodes.
    pub fn open(&self) -> Result<T, RecordError> {
        if self.bytes.len() > T::MAX_BYTES {
            return Err(codec::DecodeError::TooLong {
                len: self.bytes.len(),
                cap: T::MAX_BYTES,
            }
            .into());
        }
        if !verify(self.signer, &message(T::KIND, T::VERSION, &self.bytes), &self.signature) {
            return Err(RecordError::BadSignature { kind: T::KIND });
        }
        Ok(codec::decode(&self.bytes, T::MAX_BYTES)?)
    }

    /// Checks that `signer` signed, then as [`Signed::open`].
    pub fn open_as(&self, signer: PublicKey) -> Result<T, RecordError> {
        if self.signer != signer {
            return Err(RecordError::WrongSigner { kind: T::KIND });
        }
        self.open()
    }

    /// Who claims to have signed; true only after [`Signed::open`].
    pub fn signer(&self) -> PublicKey {
        self.signer
    }

    /// Hash of exactly these bytes, signer and signature: an id for sets and gossip.
    pub fn digest(&self) -> [u8; 32] {
        let mut h = blake3::Hasher::new();
        h.update(&self.signer.0).update(&self.signature).update(&self.bytes);
        *h.finalize().as_bytes()
    }
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            signer: self.signer,
            signature: self.signature,
            kind: PhantomData,
        }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        (&self.bytes, self.signer, self.signature) == (&other.bytes, other.signer, other.signature)
    }
}

impl<T> Eq for Signed<T> {}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({} bytes by {:?})", self.bytes.len(), self.signer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct A(u32);
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct B(u32);
    impl Record for A {
        const KIND: &'static str = "a";
        const VERSION: u16 = 1;
        const MAX_BYTES: usize = 16;
    }
    impl Record for B {
        const KIND: &'static str = "b";
        const VERSION: u16 = 1;
        const MAX_BYTES: usize = 16;
    }

    #[test]
    fn a_record_is_bound_to_key_kind_and_bytes() {
        let k = NodeKey::from_secret(&[1; 32]);
        let other = NodeKey::from_secret(&[2; 32]);
        let s = Signed::new(&A(5), &k).unwrap();
        assert_eq!(s.open_as(k.public()).unwrap(), A(5));
        assert_eq!(s.open_as(other.public()), Err(RecordError::WrongSigner { kind: "a" }));
        let as_b: Signed<B> = codec::decode(&codec::encode(&s).unwrap(), 1024).unwrap();
        assert_eq!(as_b.open(), Err(RecordError::BadSignature { kind: "b" }));
        let mut bent = s.clone();
        bent.bytes[0] ^= 1;
        assert_eq!(bent.open(), Err(RecordError::BadSignature { kind: "a" }));
        let mut stolen = s.clone();
        stolen.signer = other.public();
        assert!(stolen.open().is_err());
    }
}
