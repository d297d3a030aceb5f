//! Change-points: a level that jumped ends an epoch, and what was before it must not speak for what comes.
//!
//! Means over blocks of [`SHIFT_BLOCK`] samples: neighbours in time depend on each other, means of blocks much less. Two
//! blocks in a row that lie far from all before, on the same side, are a shift.

use super::{SHIFT_BLOCK, SHIFT_BLOCKS_MIN, SHIFT_SIGMA};

/// Watches one signal.
#[derive(Clone, Debug, Default)]
pub struct Shift {
    sum: f64,
    filled: usize,
    /// Blocks of this epoch but the last: how many, their mean, and the sum of squares about it (Welford).
    blocks: u32,
    mean: f64,
    squares: f64,
    suspect: Option<f64>,
}

impl Shift {
    /// Takes a sample; true if the level has shifted: then the epoch began two blocks ago.
    pub fn push(&mut self, x: f64) -> bool {
        self.sum += x;
        self.filled += 1;
        if self.filled < SHIFT_BLOCK {
            return false;
        }
        let block = self.sum / SHIFT_BLOCK as f64;
        (self.sum, self.filled) = (0.0, 0);
        self.block(block)
    }

    fn block(&mut self, block: f64) -> bool {
        let far = self.distance(block);
        match (self.suspect.take(), far) {
            (Some(before), Some(now)) if self.distance(before).is_some_and(|d| d * now > 0.0) => {
                *self = Self::default();
                self.learn(before);
                self.learn(block);
                return true;
            }
            (before, now) => {
                if let Some(before) = before {
                    self.learn(before);
                }
                match now {
                    Some(_) => self.suspect = Some(block),
                    None => self.learn(block),
                }
            }
        }
        false
    }

    /// How far a block lies from the epoch's, if that is too far, in standard deviations.
    fn distance(&self, block: f64) -> Option<f64> {
        if self.blocks < SHIFT_BLOCKS_MIN {
            return None;
        }
        let sigma = (self.squares / f64::from(self.blocks - 1)).sqrt();
        // A signal that stood still: any real step is far.
        let sigma = sigma.max(1e-3 * self.mean.abs()).max(1e-9);
        let z = (block - self.mean) / sigma;
        (z.abs() > SHIFT_SIGMA).then_some(z)
    }

    fn learn(&mut self, block: f64) {
        self.blocks = self.blocks.saturating_add(1);
        let d = block - self.mean;
        self.mean += d / f64::from(self.blocks);
        self.squares += d * (block - self.mean);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shifts(xs: impl IntoIterator<Item = f64>) -> Vec<usize> {
        let mut s = Shift::default();
        xs.into_iter()
            .enumerate()
            .filter_map(|(i, x)| s.push(x).then_some(i))
            .collect()
    }

    fn wobble(i: usize) -> f64 {
        ((i * 7_919) % 101) as f64 / 101.0
    }

    #[test]
    fn a_step_is_seen_within_three_blocks_and_once() {
        let xs = (0..1_200).map(|i| wobble(i) + if i < 600 { 1.0 } else { 5.0 });
        let seen = shifts(xs);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(seen[0] >= 600 && seen[0] < 600 + 3 * SHIFT_BLOCK, "{seen:?}");
    }

    #[test]
    fn a_steady_signal_and_a_single_spike_are_none() {
        assert!(shifts((0..3_000).map(wobble)).is_empty());
        assert!(
            shifts((0..3_000).map(|i| wobble(i)
                + if (900..900 + SHIFT_BLOCK).contains(&i) {
                    9.0
                } else {
                    0.0
                }))
            .is_empty()
        );
    }
}
