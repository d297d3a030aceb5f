//! Fragments of frames, of one link, put together under bounds.
//!
//! Invariant: at most `PARTIAL_FRAMES` frames wait, each at most `FRAGMENT_WAIT`, each with at most `FRAGMENTS` parts
//! that do not overlap; so a liar costs us 4 MiB and no more. A part of one of the last `DONE_FRAMES` whole frames is known.
//! A link has two of these: for fragments, and for pieces of UDP super-frames.

use crate::{
    DropReason,
    defaults::{DONE_FRAMES, FRAGMENT_WAIT, FRAGMENTS, PARTIAL_FRAMES},
};
use std::{collections::VecDeque, time::Instant};
use wire::frame::{FragmentMeta, LanTag, PartialCsum};

#[derive(Debug)]
struct Partial {
    tag: LanTag,
    id: u32,
    since: Instant,
    csum: Option<PartialCsum>,
    buf: Vec<u8>,
    /// Ranges that came, start and end, sorted.
    have: Vec<(u16, u16)>,
    bytes: usize,
}

/// Frames that wait for fragments.
#[derive(Debug, Default)]
pub struct Reassembly {
    // Oldest first. A handful in practice, so a scan is cheaper than a map.
    waiting: VecDeque<Partial>,
    /// Frames that are whole and gone, oldest first.
    done: VecDeque<(LanTag, u32)>,
}

/// What a fragment led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its frame still misses parts.
    Waiting,
    /// Its frame is whole.
    Whole(Vec<u8>, Option<PartialCsum>),
    /// It was there already: a duplicate.
    Known,
    /// Its frame was given up, for this reason.
    Bad(DropReason),
}

impl Reassembly {
    /// Takes one fragment. The second value counts frames that had to give way.
    pub fn handle(&mut self, now: Instant, tag: LanTag, meta: &FragmentMeta, data: &[u8]) -> (Outcome, u64) {
        let at = self.waiting.iter().rposition(|p| (p.tag, p.id) == (tag, meta.id));
        let mut gave_way = 0;
        let at = match at {
            Some(at) => at,
            None if self.done.iter().rev().any(|d| *d == (tag, meta.id)) => return (Outcome::Known, 0),
            None => {
                if self.waiting.len() >= PARTIAL_FRAMES {
                    self.waiting.pop_front();
                    gave_way = 1;
                }
                self.waiting.push_back(Partial {
                    tag,
                    id: meta.id,
                    since: now,
                    csum: meta.csum,
                    buf: vec![0; usize::from(meta.total)],
                    have: Vec::with_capacity(2),
                    bytes: 0,
                });
                self.waiting.len() - 1
            }
        };
        let outcome = self.waiting.get_mut(at).map_or(Outcome::Waiting, |p| p.add(meta, data));
        match outcome {
            Outcome::Waiting if self.waiting.get(at).is_some_and(|p| p.bytes == p.buf.len()) => {
                if self.done.len() >= DONE_FRAMES {
                    self.done.pop_front();
                }
                self.done.push_back((tag, meta.id));
                let whole = self.waiting.remove(at).map(|p| Outcome::Whole(p.buf, p.csum));
                (whole.unwrap_or(Outcome::Waiting), gave_way)
            }
            Outcome::Bad(_) => {
                self.waiting.remove(at);
                (outcome, gave_way)
            }
            other => (other, gave_way),
        }
    }

    /// Gives up frames that waited too long; says how many.
    pub fn handle_timeout(&mut self, now: Instant) -> u64 {
        let before = self.waiting.len();
        while self
            .waiting
            .front()
            .is_some_and(|p| now.duration_since(p.since) >= FRAGMENT_WAIT)
        {
            self.waiting.pop_front();
        }
        (before - self.waiting.len()) as u64
    }

    /// When the oldest gives up.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.front().map(|p| p.since + FRAGMENT_WAIT)
    }

    /// Frames that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// None waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Partial {
    fn add(&mut self, meta: &FragmentMeta, data: &[u8]) -> Outcome {
        let start = meta.offset;
        let Some(end) = u16::try_from(data.len()).ok().and_then(|n| start.checked_add(n)) else {
            return Outcome::Bad(DropReason::BadFragment);
        };
        if usize::from(meta.total) != self.buf.len() || meta.csum != self.csum || end > meta.total || start == end {
            return Outcome::Bad(DropReason::BadFragment);
        }
        let at = self.have.partition_point(|(s, _)| *s < start);
        if self.have.get(at) == Some(&(start, end)) {
            return Outcome::Known;
        }
        let overlaps_before = at
            .checked_sub(1)
            .and_then(|i| self.have.get(i))
            .is_some_and(|(_, e)| *e > start);
        let overlaps_after = self.have.get(at).is_some_and(|(s, _)| *s < end);
        if overlaps_before || overlaps_after || self.have.len() >= FRAGMENTS {
            return Outcome::Bad(DropReason::BadFragment);
        }
        match self.buf.get_mut(usize::from(start)..usize::from(end)) {
            Some(slot) => slot.copy_from_slice(data),
            None => return Outcome::Bad(DropReason::BadFragment),
        }
        self.have.insert(at, (start, end));
        self.bytes += data.len();
        Outcome::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn meta(id: u32, offset: u16, total: u16) -> FragmentMeta {
        FragmentMeta {
            id,
            offset,
            total,
            csum: None,
        }
    }
    const T: LanTag = LanTag(1);

    #[test]
    fn any_order_and_duplicates() {
        let (mut r, now) = (Reassembly::default(), Instant::now());
        assert_eq!(r.handle(now, T, &meta(1, 3, 6), b"def").0, Outcome::Waiting);
        assert_eq!(r.handle(now, T, &meta(1, 3, 6), b"def").0, Outcome::Known);
        assert_eq!(r.handle(now, LanTag(2), &meta(1, 0, 6), b"xyz").0, Outcome::Waiting);
        assert_eq!(
            r.handle(now, T, &meta(1, 0, 6), b"abc").0,
            Outcome::Whole(b"abcdef".to_vec(), None)
        );
        assert_eq!(r.len(), 1);
        for again in [meta(1, 0, 6), meta(1, 3, 6)] {
            assert_eq!(
                r.handle(now, T, &again, b"abc").0,
                Outcome::Known,
                "it is whole already"
            );
        }
        assert_eq!(r.len(), 1);
    }

    #[test]
    fn whole_frames_are_remembered_so_many_and_no_longer() {
        let (mut r, now) = (Reassembly::default(), Instant::now());
        for id in 0..=DONE_FRAMES as u32 {
            assert!(matches!(
                r.handle(now, T, &meta(id, 0, 3), b"abc").0,
                Outcome::Whole(..)
            ));
        }
        assert_eq!(r.handle(now, T, &meta(1, 0, 3), b"abc").0, Outcome::Known);
        assert!(matches!(r.handle(now, T, &meta(0, 0, 3), b"abc").0, Outcome::Whole(..)));
        assert_eq!(r.done.len(), DONE_FRAMES);
    }

    #[test]
    fn contradictions_end_the_frame() {
        let now = Instant::now();
        for second in [
            (meta(1, 2, 6), &b"cd"[..]),
            (meta(1, 3, 7), b"def"),
            (meta(1, 5, 6), b"fg"),
        ] {
            let mut r = Reassembly::default();
            r.handle(now, T, &meta(1, 0, 6), b"abc");
            assert_eq!(
                r.handle(now, T, &second.0, second.1).0,
                Outcome::Bad(DropReason::BadFragment)
            );
            assert!(r.is_empty());
        }
    }

    #[test]
    fn bounds_are_reached() {
        let (mut r, now) = (Reassembly::default(), Instant::now());
        for id in 0..PARTIAL_FRAMES as u32 {
            assert_eq!(r.handle(now, T, &meta(id, 0, 60_000), b"a"), (Outcome::Waiting, 0));
        }
        assert_eq!(r.handle(now, T, &meta(9_999, 0, 60_000), b"a"), (Outcome::Waiting, 1));
        assert_eq!(r.len(), PARTIAL_FRAMES);
        assert_eq!(r.handle_timeout(now + FRAGMENT_WAIT - Duration::from_millis(1)), 0);
        assert_eq!(r.handle_timeout(now + FRAGMENT_WAIT), PARTIAL_FRAMES as u64);
        for i in 0..FRAGMENTS as u16 {
            assert_eq!(r.handle(now, T, &meta(5, i * 2, 60_000), b"a").0, Outcome::Waiting);
        }
        assert_eq!(
            r.handle(now, T, &meta(5, 50_000, 60_000), b"a").0,
            Outcome::Bad(DropReason::BadFragment)
        );
    }
}
