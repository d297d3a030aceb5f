//! Bodies of the fuzz targets: bytes in, a panic if an invariant breaks. `fuzz/` runs them under libFuzzer; the replay of
//! the committed corpora (`tests/fuzz.rs`) runs them in every test run.
//!
//! Input of most bodies is a list of parts, each `kind: u8, length: u16 big-endian, bytes`; the last may be shorter than it
//! says, so that whatever a fuzzer makes means something.

mod frames;
mod guests;
mod lan;
mod sealed;

pub use frames::{coalesce, mss, unpack, vnet};
pub use guests::{dhcp4, dhcp6, mactrans, policy, ra};
pub use lan::{adverts, arp, igmp_mld, nd, probe};
pub use sealed::sealed;

use std::time::{Duration, Instant};

/// Most parts that are looked at: an input ends, whatever its length.
const PARTS: usize = 64;

/// Splits an input into parts.
fn parts(data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let (&[kind, hi, lo], tail) = rest.split_first_chunk::<3>()?;
        let len = usize::from(u16::from_be_bytes([hi, lo])).min(tail.len());
        let (part, tail) = tail.split_at_checked(len)?;
        rest = tail;
        Some((kind, part))
    })
    .take(PARTS)
}

/// Appends a part to an input.
#[cfg(test)]
pub fn put_part(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Some moment. Only differences to it matter, so a run depends on its input alone.
#[expect(clippy::disallowed_methods, reason = "an Instant can be had from a clock alone")]
fn start() -> Instant {
    Instant::now()
}

/// The two high bits of a part's kind let time pass before it.
fn pause(kind: u8) -> Duration {
    [0, 100, 3_000, 400_000].map(Duration::from_millis)[usize::from(kind >> 6)]
}
