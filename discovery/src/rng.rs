//! A small seeded generator for choices that need no secrecy: which neighbour, which sample, how early to renew.
//!
//! What it does not do: keys, tokens, anything that an attacker must not guess.

/// SplitMix64. Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, figure 8.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From a seed; equal seeds make equal choices.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 if `n` is 0. The bias is below 2^-32 for the sizes used here.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 {
            0
        } else {
            usize::try_from(self.u64() % n as u64).unwrap_or(0)
        }
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `n` different elements, or all if there are fewer; order is random.
    pub fn pick<T: Copy>(&mut self, from: &[T], n: usize) -> Vec<T> {
        let mut pool = from.to_vec();
        let mut out = Vec::with_capacity(n.min(pool.len()));
        while out.len() < n && !pool.is_empty() {
            let i = self.below(pool.len());
            out.push(pool.swap_remove(i));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_distinct_and_repeatable() {
        let from: Vec<u32> = (0..50).collect();
        let a = Rng::new(7).pick(&from, 10);
        assert_eq!(a, Rng::new(7).pick(&from, 10));
        let mut sorted = a.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 10);
        assert_eq!(Rng::new(7).pick(&from, 99).len(), 50);
        assert_eq!(Rng::new(1).below(0), 0);
    }
}
