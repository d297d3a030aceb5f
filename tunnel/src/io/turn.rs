//! How much of one port is read at a time, and what that says.

use crate::defaults::{READ_BUDGET, READ_DROPS, READ_FRAMES};

/// One port's turn: so many bytes, frames and frames over budget at most, so that no port waits long for another.
#[derive(Default)]
pub(super) struct Turn {
    bytes: usize,
    pub(super) frames: usize,
    over_budget: usize,
}

impl Turn {
    pub(super) fn count(&mut self, bytes: usize, over_budget: usize) {
        self.bytes += bytes;
        self.frames += 1;
        self.over_budget += over_budget;
    }

    pub(super) fn read(&self) -> Read {
        match self.frames {
            0 => Read::Nothing,
            READ_FRAMES.. => Read::Flood,
            _ => Read::Some,
        }
    }

    pub(super) fn goes_on(&self) -> bool {
        self.bytes < READ_BUDGET && self.frames < READ_FRAMES && self.over_budget < READ_DROPS
    }
}

/// What a round got from the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Nothing,
    Some,
    /// Every port that gave anything gave as many frames as a turn may have, so they are small, and more wait.
    Flood,
}

impl Read {
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (one, Self::Nothing) | (Self::Nothing, one) => one,
            (Self::Flood, Self::Flood) => Self::Flood,
            _ => Self::Some,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::frame::MAX_FRAME;

    fn turn_of(len: usize, over_budget: usize) -> Turn {
        let mut turn = Turn::default();
        while turn.goes_on() {
            turn.count(len, over_budget);
        }
        turn
    }

    #[test]
    fn only_a_whole_turn_of_small_frames_is_a_flood() {
        let small = turn_of(242, 0);
        assert_eq!((small.frames, small.read()), (READ_FRAMES, Read::Flood));
        let full_size = turn_of(1_514, 0);
        assert_eq!(full_size.read(), Read::Some, "{} frames", full_size.frames);
        assert_eq!(turn_of(MAX_FRAME, 0).read(), Read::Some);
        let refused = turn_of(60, 1);
        assert_eq!((refused.frames, refused.read()), (READ_DROPS, Read::Some));
        assert_eq!(Turn::default().read(), Read::Nothing);
    }

    #[test]
    fn a_flood_beside_anything_else_is_not_paused_for() {
        for (a, b, both) in [
            (Read::Flood, Read::Nothing, Read::Flood),
            (Read::Flood, Read::Flood, Read::Flood),
            (Read::Flood, Read::Some, Read::Some),
            (Read::Some, Read::Nothing, Read::Some),
            (Read::Nothing, Read::Nothing, Read::Nothing),
        ] {
            assert_eq!((a.and(b), b.and(a)), (both, both));
        }
    }
}
