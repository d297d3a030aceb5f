//! A set of piece numbers of one image.

use wire::image::Range;

/// One bit for each piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    len: u32,
    ones: u32,
}

impl Bits {
    /// No piece of `len`.
    pub fn none(len: u32) -> Self {
        Self {
            words: vec![0; len.div_ceil(64) as usize],
            len,
            ones: 0,
        }
    }

    /// How many pieces there are, set or not.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no piece is set.
    pub fn is_empty(&self) -> bool {
        self.ones == 0
    }

    /// How many are set.
    pub fn ones(&self) -> u32 {
        self.ones
    }

    /// Whether all are set.
    pub fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// Whether piece `i` is set; `false` beyond the end.
    pub fn get(&self, i: u32) -> bool {
        self.words
            .get((i / 64) as usize)
            .is_some_and(|w| w >> (i % 64) & 1 == 1)
    }

    /// Sets piece `i`; whether that changed anything. Nothing beyond the end is ever set.
    pub fn set(&mut self, i: u32) -> bool {
        if i >= self.len || self.get(i) {
            return false;
        }
        self.words[(i / 64) as usize] |= 1 << (i % 64);
        self.ones += 1;
        true
    }

    /// Clears piece `i`; whether that changed anything.
    pub fn clear(&mut self, i: u32) -> bool {
        if !self.get(i) {
            return false;
        }
        self.words[(i / 64) as usize] &= !(1 << (i % 64));
        self.ones -= 1;
        true
    }

    /// The pieces that are set, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words
            .iter()
            .zip(0u32..)
            .flat_map(|(w, i)| ones(*w).map(move |b| i * 64 + b))
    }

    /// The first piece at or after `from`, going round, that is set both here and in `other`.
    pub fn first_common(&self, other: &Self, from: u32) -> Option<u32> {
        let n = self.words.len().min(other.words.len());
        let start = (from / 64) as usize;
        (0..=n).find_map(|k| {
            let i = (start + k) % n.max(1);
            let both = self.words.get(i)? & other.words.get(i)?;
            let mask = match k {
                0 => u64::MAX << (from % 64),
                _ => u64::MAX,
            };
            ones(both & mask)
                .next()
                .map(|b| u32::try_from(i * 64).unwrap_or(u32::MAX) + b)
        })
    }

    /// Pieces set in `self` and not in `old`, as ranges.
    pub fn added_since(&self, old: &Self) -> Vec<Range> {
        let new = self.words.iter().zip(&old.words).zip(0u32..);
        ranges(new.flat_map(|((a, b), i)| ones(a & !b).map(move |b| i * 64 + b)))
    }

    /// As bytes, lowest bit first, from piece `first` (a multiple of 8), at most `max` of them.
    pub fn to_bytes(&self, first: u32, max: usize) -> Vec<u8> {
        let end = self.len.div_ceil(8) as usize;
        let start = (first / 8) as usize;
        (start..end.min(start.saturating_add(max)))
            .map(|i| self.words.get(i / 8).map_or(0, |w| (w >> (i % 8 * 8)) as u8))
            .collect()
    }
}

fn ones(mut w: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let b = w.trailing_zeros();
        w &= w.wrapping_sub(1);
        (b < 64).then_some(b)
    })
}

/// Numbers in ascending order as ranges.
pub fn ranges(numbers: impl Iterator<Item = u32>) -> Vec<Range> {
    let mut out: Vec<Range> = Vec::new();
    for n in numbers {
        match out.last_mut() {
            Some(r) if r.first + r.count == n => r.count += 1,
            _ => out.push(Range { first: n, count: 1 }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set_of_numbers(len in 1u32..300, ops in proptest::collection::vec((any::<bool>(), 0u32..320), 0..80), from in 0u32..300) {
            let (mut bits, mut model) = (Bits::none(len), BTreeSet::new());
            for (set, i) in ops {
                let changed = if set { i < len && model.insert(i) } else { model.remove(&i) };
                prop_assert_eq!(if set { bits.set(i) } else { bits.clear(i) }, changed);
            }
            prop_assert_eq!(bits.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(bits.ones() as usize, model.len());
            let from = from % len;
            let want = model.range(from..).next().or(model.iter().next()).copied();
            prop_assert_eq!(bits.first_common(&bits, from), want);
            let bytes = bits.to_bytes(0, usize::MAX);
            let parts: Vec<u8> = (0..len).step_by(16).flat_map(|first| bits.to_bytes(first, 2)).collect();
            prop_assert_eq!(&parts, &bytes);
            let back: Vec<u32> = (0..len).filter(|i| bytes[(i / 8) as usize] >> (i % 8) & 1 == 1).collect();
            prop_assert_eq!(back, model.iter().copied().collect::<Vec<_>>());
            let added = bits.added_since(&Bits::none(len));
            prop_assert_eq!(added.iter().map(|r| r.count).sum::<u32>(), bits.ones());
        }
    }
}
