//! Boot profiles: which pieces a boot reads and in what order, recorded, merged from several hosts, carried to the next
//! version of an image.
//!
//! A boot reads a tenth of its image, and the next boot reads the same tenth in the same order (99 % of it, over three
//! boots of a Debian 12). So a host that never had the image asks for those pieces before its guest does. A profile is
//! advice: it decides what is fetched early, never what is true, and a hostile one wastes at most a quarter of the
//! image's bytes ([`limit`]) in a lane that waits for every read of a guest.
//!
//! ```text
//! encoding, big-endian:  count u32, then count times  piece u32 · pages u16 · after u16 (units of 4 ms)
//! ```
//!
//! Pure: no clock, no file. Paper: §3.1 (images are read on demand and cached).

use crate::bits::Bits;
use crate::defaults::{MAX_REPORTS, PROFILE_SHARE, PROFILE_TOUCHES, RECORD_FOR};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use wire::image::PieceId;

/// Bytes of one touch.
const TOUCH_BYTES: usize = 8;
/// Largest encoding.
pub const MAX_PROFILE_BYTES: usize = 4 + PROFILE_TOUCHES * TOUCH_BYTES;
/// One unit of [`Touch::after`].
const UNIT: Duration = Duration::from_millis(4);

const _: () = assert!(MAX_PROFILE_BYTES <= wire::image::swarm::MAX_PROFILE_BYTES);

/// The first time that a boot read a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Which piece of the image.
    pub piece: u32,
    /// Which of its pages were read while the profile was recorded: bit `i` for page `i`.
    pub pages: u16,
    /// How long after the boot began, in units of 4 ms; 262 s at most.
    pub after: u16,
}

/// Pieces in the order in which a boot first reads them. Invariant: no piece twice, at most [`PROFILE_TOUCHES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    touches: Vec<Touch>,
}

/// Why bytes are not a profile of this image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a boot profile of this image: {0}")]
pub struct ProfileError(&'static str);

/// Most pieces of a profile that are fetched early, of an image of which so many pieces are not zero.
pub fn limit(pieces: u32) -> usize {
    (pieces as usize / PROFILE_SHARE).clamp(1, PROFILE_TOUCHES)
}

impl Profile {
    /// Of these touches in this order; repeated pieces and what is beyond the bound are left out.
    pub fn new(touches: impl IntoIterator<Item = Touch>, pieces: u32) -> Self {
        let mut seen = Bits::none(pieces);
        let fresh = touches.into_iter().filter(|t| t.pages != 0 && seen.set(t.piece));
        Self {
            touches: fresh.take(PROFILE_TOUCHES).collect(),
        }
    }

    /// The touches, first first.
    pub fn touches(&self) -> &[Touch] {
        &self.touches
    }

    /// The pieces, first first.
    pub fn pieces(&self) -> impl Iterator<Item = u32> + '_ {
        self.touches.iter().map(|t| t.piece)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.touches.is_empty()
    }

    /// The encoding; see the module.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.touches.len() * TOUCH_BYTES);
        out.extend_from_slice(&(self.touches.len() as u32).to_be_bytes());
        for t in &self.touches {
            out.extend_from_slice(&t.piece.to_be_bytes());
            out.extend_from_slice(&t.pages.to_be_bytes());
            out.extend_from_slice(&t.after.to_be_bytes());
        }
        out
    }

    /// A profile of an image of `pieces`. What no recorder makes is refused whole: a piece beyond the image or twice, no
    /// page, time that runs back, more than the bound, a byte too many or too few.
    pub fn decode(bytes: &[u8], pieces: u32) -> Result<Self, ProfileError> {
        let (count, body) = bytes.split_first_chunk::<4>().ok_or(ProfileError("it has no length"))?;
        let count = u32::from_be_bytes(*count) as usize;
        if count > PROFILE_TOUCHES {
            return Err(ProfileError("it has too many pieces"));
        }
        let (entries, rest) = body.as_chunks::<TOUCH_BYTES>();
        if entries.len() != count || !rest.is_empty() {
            return Err(ProfileError("its length is not what it says"));
        }
        let mut seen = Bits::none(pieces);
        let mut before = 0;
        let mut touches = Vec::with_capacity(count);
        for [a, b, c, d, e, f, g, h] in entries {
            let t = Touch {
                piece: u32::from_be_bytes([*a, *b, *c, *d]),
                pages: u16::from_be_bytes([*e, *f]),
                after: u16::from_be_bytes([*g, *h]),
            };
            if t.pages == 0 || t.after < before {
                return Err(ProfileError("a touch without a page, or back in time"));
            }
            if !seen.set(t.piece) {
                return Err(ProfileError("a piece beyond the image, or twice"));
            }
            before = t.after;
            touches.push(t);
        }
        Ok(Self { touches })
    }

    /// Only the touches of which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(u32) -> bool) {
        self.touches.retain(|t| keep(t.piece));
    }
}

/// Joins reports of several hosts, one each, into one profile: what most of them read comes first, by the median of its
/// ranks; what only some read comes after it. A report that says nothing true moves a median by one place, and what it
/// alone names comes last. At most [`MAX_REPORTS`] are looked at.
pub fn merge(reports: &[Profile], pieces: u32) -> Profile {
    let reports = &reports[..reports.len().min(MAX_REPORTS)];
    let mut seen: BTreeMap<u32, (Vec<u32>, Vec<u16>, u16)> = BTreeMap::new();
    for report in reports {
        for (rank, t) in (0u32..).zip(&report.touches) {
            let (ranks, times, pages) = seen.entry(t.piece).or_default();
            ranks.push(rank);
            times.push(t.after);
            *pages |= t.pages;
        }
    }
    let mut order: Vec<(bool, u32, Touch)> = Vec::with_capacity(seen.len());
    for (piece, (mut ranks, mut times, pages)) in seen {
        ranks.sort_unstable();
        times.sort_unstable();
        let few = ranks.len() * 2 <= reports.len() && reports.len() > 1;
        // Whoever did not read it is counted as having read it last, so that the median is over all reports.
        let median = ranks
            .get(reports.len() / 2)
            .or(ranks.last())
            .copied()
            .unwrap_or(u32::MAX);
        let after = times.get(times.len() / 2).copied().unwrap_or(0);
        order.push((few, median, Touch { piece, pages, after }));
    }
    order.sort_by_key(|(few, median, t)| (*few, *median, t.piece));
    let mut at = 0;
    let in_time = order.into_iter().map(|(_, _, t)| {
        at = t.after.max(at);
        Touch { after: at, ..t }
    });
    Profile::new(in_time, pieces)
}

/// One image's pieces, for [`carry`]: which id is where, and where is an id.
pub trait Pieces {
    /// The id of piece `i`, if it is known and not zero.
    fn id(&self, i: u32) -> Option<PieceId>;
    /// The first place of a piece.
    fn place(&self, id: PieceId) -> Option<u32>;
    /// How many pieces there are.
    fn len(&self) -> u32;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The profile of an image's next version: each piece where its bytes are now. A piece whose bytes changed is taken to
/// be where it was if a neighbour on either side is still there, as in an upgrade in place; else it is left out.
pub fn carry(old: &Profile, from: &impl Pieces, to: &impl Pieces) -> Profile {
    let kept = |i: u32| from.id(i).is_some_and(|id| to.id(i) == Some(id));
    let moved = old.touches.iter().filter_map(|t| {
        let id = from.id(t.piece)?;
        let place = to.place(id).or_else(|| {
            let near = kept(t.piece.wrapping_sub(1)) || kept(t.piece.wrapping_add(1));
            (near && to.id(t.piece).is_some()).then_some(t.piece)
        })?;
        Some(Touch { piece: place, ..*t })
    });
    Profile::new(moved, to.len())
}

/// Records one boot. Drive it with [`Recorder::handle_read`]; it ends by [`Recorder::handle_ready`], or by its time.
#[derive(Debug)]
pub struct Recorder {
    begun: Instant,
    at: BTreeMap<u32, usize>,
    touches: Vec<Touch>,
    ended: bool,
}

impl Recorder {
    /// A boot begins.
    pub fn new(now: Instant) -> Self {
        Self {
            begun: now,
            at: BTreeMap::new(),
            touches: Vec::new(),
            ended: false,
        }
    }

    /// The guest reads pages of a piece.
    pub fn handle_read(&mut self, now: Instant, piece: u32, pages: u16) {
        self.handle_timeout(now);
        if self.ended {
            return;
        }
        if let Some(t) = self.at.get(&piece).and_then(|i| self.touches.get_mut(*i)) {
            t.pages |= pages;
        } else if self.touches.len() < PROFILE_TOUCHES && pages != 0 {
            let units = now.saturating_duration_since(self.begun).as_millis() / UNIT.as_millis();
            self.at.insert(piece, self.touches.len());
            self.touches.push(Touch {
                piece,
                pages,
                after: u16::try_from(units).unwrap_or(u16::MAX),
            });
        }
    }

    /// The guest is ready: what it reads from now on belongs to no boot.
    pub fn handle_ready(&mut self) {
        self.ended = true;
    }

    /// Ends it if its time is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.ended |= now >= self.begun + RECORD_FOR;
    }

    /// When to call [`Recorder::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.ended).then_some(self.begun + RECORD_FOR)
    }

    /// What was recorded, of an image of `pieces`, once it ended.
    pub fn poll_event(&self, pieces: u32) -> Option<Profile> {
        self.ended.then(|| Profile::new(self.touches.iter().copied(), pieces))
    }
}

#[cfg(test)]
#[path = "tests/profile.rs"]
mod tests;
