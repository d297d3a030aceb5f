//! The Internet checksum: RFC 1071, with the incremental update of RFC 1624.

/// One's-complement sum of 16-bit big-endian words, an odd last byte padded with zero; not yet complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum of swapped words is the swapped sum (RFC 1071 §2 B), so the machine's own order will do. Halves of 32 bits
    // add up in 64 without a carry to care for, and in as many lanes as the processor has.
    let (words, rest) = bytes.as_chunks::<8>();
    let (mut low, mut high) = (0u64, 0u64);
    for w in words {
        let w = u64::from_ne_bytes(*w);
        low += w & 0xffff_ffff;
        high += w >> 32;
    }
    let mut tail = [0u8; 8];
    for (t, b) in tail.iter_mut().zip(rest) {
        *t = *b;
    }
    let tail = u64::from_ne_bytes(tail);
    u16::from_be(fold(low + high + (tail & 0xffff_ffff) + (tail >> 32)))
}

/// Folds carries until 16 bits are left.
pub fn fold(mut acc: u64) -> u16 {
    while acc > 0xffff {
        acc = (acc & 0xffff) + (acc >> 16);
    }
    acc as u16
}

/// A partial sum in which the word `old` is replaced by `new`: both as they stand in the sum, not complemented.
pub fn replace(partial: u16, old: u16, new: u16) -> u16 {
    fold(u64::from(partial) + u64::from(!old) + u64::from(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow(bytes: &[u8]) -> u16 {
        let mut s: u32 = 0;
        for c in bytes.chunks(2) {
            s += u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0));
            s = (s & 0xffff) + (s >> 16);
        }
        s as u16
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_definition(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            // 0 and 0xffff are the same number in one's complement.
            prop_assert_eq!(sum(&b) % 0xffff, slow(&b) % 0xffff);
        }

        #[test]
        fn replacing_a_word_is_summing_anew(mut b in proptest::collection::vec(any::<u8>(), 4..40), new: u16) {
            let before = sum(&b);
            let old = u16::from_be_bytes([b[2], b[3]]);
            b[2..4].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(replace(before, old, new) % 0xffff, sum(&b) % 0xffff);
        }
    }
}
