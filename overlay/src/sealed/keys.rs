//! Keys of one session, sealing and opening.
//!
//! Invariants
//! - A counter is used once in a session, so a nonce (the epoch's IV xor the counter) is used once with a key.
//! - An epoch is to end after [`EPOCH_DATAGRAMS`] datagrams or [`EPOCH_FOR`], and ends at [`EPOCH_LIMIT`]. The next one
//!   begins only when the peer has reported something of this one: the two sides are never two epochs apart.
//! - A secret is hashed into the next epoch's and then overwritten, so whoever takes a node's memory cannot read what was
//!   sent in earlier epochs.
//! - Opening changes nothing until the tag was right.

use super::{
    aead::{Engine, Key, NONCE},
    replay::Replay,
};
use std::time::{Duration, Instant};
use wire::{
    frame::{Cipher, SealHead},
    link::{SEAL_HEAD, SEAL_TAIL},
};

/// Datagrams under one key before the next is wanted: half of what RFC 9001 §6.6 allows AES-GCM.
pub const EPOCH_DATAGRAMS: u64 = 1 << 22;
/// Datagrams under one key at most. Reached only if the peer reported nothing of the last half: the path is dead.
pub const EPOCH_LIMIT: u64 = 1 << 23;
/// Time under one key, as long as datagrams are sent.
pub const EPOCH_FOR: Duration = Duration::from_secs(600);
/// Wrong tags that one session stands: RFC 9001 §6.6 allows ChaCha20-Poly1305 2^36.
pub const FORGERIES: u64 = 1 << 36;
/// Label of the exporter (RFC 8446 §7.5).
pub const EXPORT_LABEL: &[u8] = b"EXPORTER-lanline-sealed-frames-1";

/// Why a datagram was not opened; the name is its counter's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpenError {
    /// Not a sealed datagram, or too short for one.
    Malformed,
    /// Its epoch is neither the last, this, nor the next one.
    Epoch,
    /// Seen before, or too old to tell.
    Replay,
    /// The tag is wrong.
    Forged,
}

impl OpenError {
    /// The counter's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "seal_malformed",
            Self::Epoch => "seal_epoch",
            Self::Replay => "seal_replay",
            Self::Forged => "seal_forged",
        }
    }
}

/// Who of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opened the QUIC connection.
    Initiator,
    /// Accepted it.
    Acceptor,
}

struct Secret([u8; 32]);

impl Secret {
    fn next(&mut self) {
        self.0 = blake3::derive_key("lanline sealed frames v1 next epoch", &self.0);
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Keys of one direction in one epoch.
#[derive(Debug)]
struct Keys {
    aes: Key,
    chacha: Key,
    iv: [u8; NONCE],
}

impl Keys {
    /// `None` if the cipher library refuses a key of the right length, which it does not.
    fn new(engine: Engine, secret: &Secret) -> Option<Self> {
        let aes = blake3::derive_key("lanline sealed frames v1 aes-128-gcm", &secret.0);
        let chacha = blake3::derive_key("lanline sealed frames v1 chacha20-poly1305", &secret.0);
        let iv = blake3::derive_key("lanline sealed frames v1 iv", &secret.0);
        let (_, aes) = aes.split_last_chunk::<16>()?;
        Some(Self {
            aes: Key::aes(engine, aes)?,
            chacha: Key::chacha(&chacha)?,
            iv: *iv.first_chunk()?,
        })
    }

    fn key(&self, cipher: Cipher) -> &Key {
        match cipher {
            Cipher::Aes128Gcm => &self.aes,
            Cipher::ChaCha20Poly1305 => &self.chacha,
        }
    }

    fn nonce(&self, counter: u64) -> [u8; NONCE] {
        let mut n = self.iv;
        for (byte, c) in n.iter_mut().skip(4).zip(counter.to_be_bytes()) {
            *byte ^= c;
        }
        n
    }
}

/// Seals one direction.
#[derive(Debug)]
pub struct Sealer {
    engine: Engine,
    secret: Secret,
    keys: Keys,
    cipher: Cipher,
    session: u32,
    epoch: u64,
    epoch_first: u64,
    epoch_until: Instant,
    next: u64,
}

/// Opens one direction.
#[derive(Debug)]
pub struct Opener {
    engine: Engine,
    secret: Secret,
    keys: Keys,
    /// Of the epoch before, for datagrams that were overtaken.
    last: Option<Keys>,
    /// Of the epoch after, made when first hinted at.
    upcoming: Option<(Keys, Secret)>,
    epoch: u64,
    replay: Replay,
    forgeries: u64,
}

/// Both directions of one session, from the secret that QUIC exported, and the number by which this side knows it.
pub fn session(
    exported: &[u8; 32],
    role: Role,
    (cipher, engine): (Cipher, Engine),
    now: Instant,
) -> Option<(Sealer, Opener, u32)> {
    let secret = |from: Role| {
        let label = match from {
            Role::Initiator => "lanline sealed frames v1 initiator to acceptor",
            Role::Acceptor => "lanline sealed frames v1 acceptor to initiator",
        };
        Secret(blake3::derive_key(label, exported))
    };
    let number = |s: &Secret| {
        let [a, b, c, d, ..] = blake3::derive_key("lanline sealed frames v1 session number", &s.0);
        u32::from_be_bytes([a, b, c, d])
    };
    let (own, peer) = match role {
        Role::Initiator => (Role::Initiator, Role::Acceptor),
        Role::Acceptor => (Role::Acceptor, Role::Initiator),
    };
    let (out, into) = (secret(own), secret(peer));
    let (theirs, ours) = (number(&out), number(&into));
    let sealer = Sealer {
        engine,
        keys: Keys::new(engine, &out)?,
        secret: out,
        cipher,
        session: theirs,
        epoch: 0,
        epoch_first: 0,
        epoch_until: now + EPOCH_FOR,
        next: 0,
    };
    let opener = Opener {
        engine,
        keys: Keys::new(engine, &into)?,
        secret: into,
        last: None,
        upcoming: None,
        epoch: 0,
        replay: Replay::default(),
        forgeries: 0,
    };
    Some((sealer, opener, ours))
}

impl Sealer {
    /// The counter of the next datagram.
    pub fn next_counter(&self) -> u64 {
        self.next
    }

    /// Begins a new epoch if it is time. `reported`: the highest counter plus one of which the peer reported that it came.
    /// Call it before a burst; false if nothing more may be sealed.
    pub fn handle_time(&mut self, now: Instant, reported: u64) -> bool {
        let used = self.next - self.epoch_first;
        if used < EPOCH_DATAGRAMS && now < self.epoch_until {
            return true;
        }
        if reported <= self.epoch_first {
            return used < EPOCH_LIMIT;
        }
        self.epoch_until = now + EPOCH_FOR;
        self.epoch_first = self.next;
        self.secret.next();
        let Some(keys) = Keys::new(self.engine, &self.secret) else {
            return false;
        };
        self.keys = keys;
        self.epoch += 1;
        true
    }

    /// Seals a datagram in place: [`SEAL_HEAD`] bytes of room, the plaintext, [`SEAL_TAIL`] bytes of room. `message`: it
    /// is the link's own and holds no frames.
    pub fn seal(&mut self, message: bool, datagram: &mut [u8]) {
        let counter = self.next;
        self.next += 1;
        let head = SealHead {
            message,
            cipher: self.cipher,
            epoch: (self.epoch & 3) as u8,
            session: self.session,
            counter: counter as u32,
        }
        .bytes();
        let Some((room, rest)) = datagram.split_first_chunk_mut::<SEAL_HEAD>() else {
            return;
        };
        let Some((plain, tail)) = rest.split_last_chunk_mut::<SEAL_TAIL>() else {
            return;
        };
        *room = head;
        let key = self.keys.key(self.cipher);
        match key.seal(self.keys.nonce(counter), &head, plain) {
            Some(tag) => *tail = tag,
            // Only for a plaintext of more than 2^36 bytes. What leaves must not be readable.
            None => plain.fill(0),
        }
    }
}

impl Opener {
    /// Highest counter that was opened, plus one.
    pub fn newest(&self) -> u64 {
        self.replay.next()
    }

    /// Wrong tags so far.
    pub fn forgeries(&self) -> u64 {
        self.forgeries
    }

    /// Opens a datagram in place; gives its counter, whether it is the link's own message, and its plaintext.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<(u64, bool, &'a mut [u8]), OpenError> {
        let head = SealHead::read(datagram).ok_or(OpenError::Malformed)?;
        let counter = widen(self.replay.next(), head.counter);
        if !self.replay.is_fresh(counter) {
            return Err(OpenError::Replay);
        }
        let ahead = u64::from(head.epoch).wrapping_sub(self.epoch) & 3;
        if ahead == 1 && self.upcoming.is_none() {
            let mut secret = Secret(self.secret.0);
            secret.next();
            self.upcoming = Keys::new(self.engine, &secret).map(|k| (k, secret));
        }
        let keys = match ahead {
            0 => Some(&self.keys),
            1 => self.upcoming.as_ref().map(|(k, _)| k),
            3 => self.last.as_ref(),
            _ => None,
        }
        .ok_or(OpenError::Epoch)?;
        let (aad, sealed) = datagram
            .split_first_chunk_mut::<SEAL_HEAD>()
            .ok_or(OpenError::Malformed)?;
        let key = keys.key(head.cipher);
        let Ok(plain) = key.open(keys.nonce(counter), &*aad, sealed) else {
            self.forgeries += 1;
            return Err(OpenError::Forged);
        };
        self.replay.accept(counter);
        if ahead == 1
            && let Some((keys, secret)) = self.upcoming.take()
        {
            self.last = Some(std::mem::replace(&mut self.keys, keys));
            self.secret = secret;
            self.epoch += 1;
        }
        Ok((counter, head.message, plain))
    }
}

/// The counter nearest to `expected` with these low 32 bits (RFC 9000 §A.3).
fn widen(expected: u64, low: u32) -> u64 {
    let base = (expected & !0xffff_ffff) | u64::from(low);
    let half = 1u64 << 31;
    if base + half <= expected {
        base.checked_add(1 << 32).unwrap_or(base)
    } else if base > expected + half && base >= 1 << 32 {
        base - (1 << 32)
    } else {
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(cipher: Cipher) -> (Sealer, Opener) {
        let now = Instant::now();
        let (seal, _, _) = session(&[7; 32], Role::Initiator, (cipher, Engine::Ring), now).unwrap();
        let (_, open, _) = session(&[7; 32], Role::Acceptor, (cipher, Engine::AwsLc), now).unwrap();
        (seal, open)
    }

    fn sealed(s: &mut Sealer, plain: &[u8]) -> Vec<u8> {
        let mut d = vec![0; SEAL_HEAD];
        d.extend_from_slice(plain);
        d.resize(d.len() + SEAL_TAIL, 0);
        s.seal(false, &mut d);
        d
    }

    #[test]
    fn both_sides_agree_and_the_directions_differ() {
        let now = Instant::now();
        for cipher in [Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305] {
            let (mut a, mut a_open, a_no) = session(&[7; 32], Role::Initiator, (cipher, Engine::AwsLc), now).unwrap();
            let (mut b, mut b_open, b_no) = session(&[7; 32], Role::Acceptor, (cipher, Engine::Ring), now).unwrap();
            assert_ne!(a_no, b_no);
            let mut d = sealed(&mut a, b"frames");
            assert_eq!(SealHead::read(&d).unwrap().session, b_no);
            assert_eq!(a_open.open(&mut d.clone()), Err(OpenError::Forged), "reflected");
            assert_eq!(b_open.open(&mut d).unwrap(), (0, false, &mut b"frames".to_owned()[..]));
            let mut d = sealed(&mut b, b"back");
            assert_eq!(a_open.open(&mut d).unwrap(), (0, false, &mut b"back".to_owned()[..]));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_changes_nothing() {
        let (mut s, mut o) = pair(Cipher::Aes128Gcm);
        let good = sealed(&mut s, b"0123456789");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // The session's number is the only part that another layer judges; it is under the tag all the same.
            assert!(o.open(&mut bad).is_err(), "bit {bit}");
        }
        assert!(o.forgeries() > 0);
        for len in 0..good.len() {
            assert!(o.open(&mut good[..len].to_vec()).is_err());
        }
        assert!(o.open(&mut good.clone()).is_ok(), "the genuine one still passes");
        assert_eq!(o.open(&mut good.clone()), Err(OpenError::Replay));
    }

    #[test]
    fn epochs_change_and_overtaken_datagrams_still_open() {
        let (mut s, mut o) = pair(Cipher::ChaCha20Poly1305);
        let mut now = Instant::now();
        for epoch in 1..20 {
            let mut late = sealed(&mut s, b"overtaken");
            assert!(o.open(&mut sealed(&mut s, b"this epoch")).is_ok());
            now += EPOCH_FOR;
            let reported = s.next;
            assert!(s.handle_time(now, reported) && s.handle_time(now, reported));
            assert_eq!(s.epoch, epoch);
            assert!(o.open(&mut sealed(&mut s, b"next epoch")).is_ok());
            assert!(o.open(&mut late).is_ok());
        }
    }

    #[test]
    fn old_epochs_are_refused_and_replays_after_a_new_key_too() {
        let (mut s, mut o) = pair(Cipher::Aes128Gcm);
        let mut now = Instant::now();
        let first = sealed(&mut s, b"first");
        let kept = sealed(&mut s, b"kept back");
        assert!(o.open(&mut first.clone()).is_ok());
        for _ in 0..2 {
            now += EPOCH_FOR;
            let reported = s.next;
            s.handle_time(now, reported);
            assert!(o.open(&mut sealed(&mut s, b"next")).is_ok());
        }
        assert_eq!(o.open(&mut first.clone()), Err(OpenError::Replay));
        assert_eq!(o.open(&mut kept.clone()), Err(OpenError::Epoch), "two epochs old");
    }

    #[test]
    fn an_epoch_ends_by_count_and_never_outlives_its_limit() {
        let (mut s, _) = pair(Cipher::Aes128Gcm);
        let now = Instant::now();
        s.next = EPOCH_DATAGRAMS;
        assert!(
            s.handle_time(now, 0) && s.epoch == 0,
            "the peer has not said that it is there"
        );
        s.next = EPOCH_LIMIT;
        assert!(!s.handle_time(now, 0), "nothing is sealed any more");
        assert!(s.handle_time(now, 1) && s.epoch == 1);
        s.next += EPOCH_DATAGRAMS;
        assert!(
            s.handle_time(now, EPOCH_LIMIT) && s.epoch == 1,
            "nothing of this epoch was reported"
        );
    }

    #[test]
    fn counters_widen_across_the_wrap() {
        let wrap = 1u64 << 32;
        for at in [0, 5, wrap - 3, wrap, wrap + 9, 7 * wrap - 1] {
            for off in [-1_000i64, -1, 0, 1, 1_000_000] {
                let Some(c) = at.checked_add_signed(off) else { continue };
                assert_eq!(widen(at, c as u32), c, "{at} {off}");
            }
        }
    }
}
