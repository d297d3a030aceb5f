//! Decoded pieces that were read lately, oldest dropped first.

use crate::frame::PieceBytes;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use wire::image::{PIECE_BYTES, PieceId};

/// At most so many pieces, by last use.
#[derive(Debug)]
pub(crate) struct Cache {
    pieces: HashMap<PieceId, (u64, Arc<PieceBytes>)>,
    by_use: BTreeMap<u64, PieceId>,
    clock: u64,
    max: usize,
}

impl Cache {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            pieces: HashMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
            max: (bytes / PIECE_BYTES).max(1),
        }
    }

    pub(crate) fn get(&mut self, id: PieceId) -> Option<Arc<PieceBytes>> {
        let (used, piece) = self.pieces.get_mut(&id)?;
        self.by_use.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.by_use.insert(self.clock, id);
        Some(piece.clone())
    }

    pub(crate) fn put(&mut self, id: PieceId, piece: Arc<PieceBytes>) {
        self.remove(id);
        while self.pieces.len() >= self.max {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            self.pieces.remove(&oldest);
        }
        self.clock += 1;
        self.by_use.insert(self.clock, id);
        self.pieces.insert(id, (self.clock, piece));
    }

    pub(crate) fn remove(&mut self, id: PieceId) {
        if let Some((used, _)) = self.pieces.remove(&id) {
            self.by_use.remove(&used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_the_bound_holds() {
        let mut c = Cache::new(2 * PIECE_BYTES);
        let id = |n: u8| PieceId([n; 32]);
        let piece: Arc<PieceBytes> = Arc::from(crate::frame::blank());
        c.put(id(1), piece.clone());
        c.put(id(2), piece.clone());
        assert!(c.get(id(1)).is_some());
        c.put(id(3), piece.clone());
        assert!(c.get(id(2)).is_none() && c.get(id(1)).is_some() && c.get(id(3)).is_some());
        for n in 0..50 {
            c.put(id(n), piece.clone());
        }
        assert_eq!((c.pieces.len(), c.by_use.len()), (2, 2));
    }
}
