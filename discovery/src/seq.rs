//! Sequence numbers that rise over restarts and clock jumps.
//!
//! Invariant: a number is handed out only below the persisted floor, so after any crash the next one is higher than
//! every one that ever left this node.

use crate::defaults::SEQ_AHEAD;
use wire::UnixMillis;

/// Source of this node's sequence numbers.
#[derive(Debug, Clone)]
pub struct SeqSource {
    /// Highest number handed out or seen.
    last: u64,
    /// Numbers up to this one may be handed out: it is on disk.
    floor: u64,
}

/// The floor must first be persisted at this value: [`SeqSource::persisted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedFloor(pub u64);

impl SeqSource {
    /// After a start: `floor` is what the file says, 0 if there is none.
    pub fn new(floor: u64) -> Self {
        Self { last: floor, floor }
    }

    /// The next number: the wall clock's milliseconds, or one more than the last if the clock is behind.
    pub fn take(&mut self, wall: UnixMillis) -> Result<u64, NeedFloor> {
        let next = wall.0.max(self.last.saturating_add(1));
        if next > self.floor {
            return Err(NeedFloor(next.saturating_add(SEQ_AHEAD)));
        }
        self.last = next;
        Ok(next)
    }

    /// The floor is durable at this value.
    pub fn persisted(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// A number of ours came back from the mesh (the state folder is older than the mesh's memory): go above it.
    pub fn seen(&mut self, seq: u64) {
        self.last = self.last.max(seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One number, writing the floor when asked.
    fn take(s: &mut SeqSource, disk: &mut u64, wall: u64) -> u64 {
        s.take(UnixMillis(wall)).unwrap_or_else(|NeedFloor(f)| {
            *disk = f;
            s.persisted(f);
            s.take(UnixMillis(wall)).unwrap()
        })
    }

    proptest! {
        #[test]
        fn rises_over_restarts_and_clock_jumps(steps in proptest::collection::vec((any::<bool>(), 0u64..4_000_000), 1..60)) {
            let (mut disk, mut last) = (0, 0);
            let mut s = SeqSource::new(disk);
            for (restart, wall) in steps {
                if restart {
                    s = SeqSource::new(disk);
                }
                let n = take(&mut s, &mut disk, wall);
                prop_assert!(n > last);
                last = n;
            }
        }
    }

    #[test]
    fn nothing_leaves_before_the_floor_is_durable() {
        let mut s = SeqSource::new(0);
        assert_eq!(s.take(UnixMillis(500)), Err(NeedFloor(500 + SEQ_AHEAD)));
        assert!(s.take(UnixMillis(500)).is_err());
        s.persisted(500 + SEQ_AHEAD);
        assert_eq!(s.take(UnixMillis(500)), Ok(500));
        s.seen(10_000);
        assert_eq!(s.take(UnixMillis(500)), Ok(10_001));
    }
}
