//! Pages that an image here shares with one that is being fetched.
//!
//! A page's hash does not depend on where it lies, so a rebuilt file system or the next version of an image consists mostly
//! of pages that its parent has. The page list of a missing piece is asked first (512 bytes, checked against the piece's
//! id); what the held parents have is copied, zero pages cost nothing, and only the rest is fetched.
//!
//! [`PageIndex`] knows where each page of the parents lies, by the first 8 bytes of its hash; a hit is a hint, checked when
//! the bytes are read. [`Lists`] decides whom to ask for which lists.

use crate::defaults::{LIST_TIMEOUT, LISTS_IN_FLIGHT, MAX_INDEXED_PAGES, MAX_PARTIAL_PAGES};
use crate::picker::PeerKey;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::LazyLock,
    time::Instant,
};
use wire::image::swarm::{ALL_PAGES, MAX_LISTS};
use wire::image::{PAGE_BYTES, PIECE_PAGES, PageId, PieceId};

static ZERO_PAGE: LazyLock<PageId> = LazyLock::new(|| PageId::of(&[0; PAGE_BYTES]));

/// Where a page can be copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is all zeros.
    Zero,
    /// Page `.1` of a piece in the store.
    Held(PieceId, u8),
}

/// How a piece is put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its sixteen pages.
    pub list: [PageId; PIECE_PAGES],
    /// What is copied: page of the piece, and from where.
    pub copied: Vec<(u8, Source)>,
    /// What is fetched: bit `i` for page `i`. Zero: nothing.
    pub fetched: u16,
}

/// See the module.
#[derive(Debug, Default)]
pub struct PageIndex {
    pieces: Vec<PieceId>,
    pages: HashMap<u64, (u32, u8)>,
}

fn key(id: &PageId) -> u64 {
    id.0.first_chunk().map_or(0, |b| u64::from_be_bytes(*b))
}

impl PageIndex {
    /// Takes in the pages of a held piece. `false`: the index is full.
    pub fn add(&mut self, piece: PieceId, list: &[PageId; PIECE_PAGES]) -> bool {
        if self.pages.len() + PIECE_PAGES > MAX_INDEXED_PAGES {
            return false;
        }
        let slot = u32::try_from(self.pieces.len()).unwrap_or(u32::MAX);
        self.pieces.push(piece);
        for (id, page) in list.iter().zip(0u8..).filter(|(id, _)| **id != *ZERO_PAGE) {
            self.pages.entry(key(id)).or_insert((slot, page));
        }
        true
    }

    /// Whether nothing was taken in.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    fn find(&self, id: &PageId) -> Option<Source> {
        if *id == *ZERO_PAGE {
            return Some(Source::Zero);
        }
        let (slot, page) = self.pages.get(&key(id))?;
        Some(Source::Held(*self.pieces.get(*slot as usize)?, *page))
    }

    /// How to put a piece together whose list was checked; `None`: fetch it whole, little or nothing would be gained.
    pub fn plan(&self, list: [PageId; PIECE_PAGES]) -> Option<Plan> {
        let mut plan = Plan {
            list,
            copied: Vec::new(),
            fetched: 0,
        };
        for (id, page) in list.iter().zip(0u8..) {
            match self.find(id) {
                Some(source) => plan.copied.push((page, source)),
                None => plan.fetched |= 1 << page,
            }
        }
        (plan.fetched.count_ones() <= MAX_PARTIAL_PAGES && plan.fetched != ALL_PAGES).then_some(plan)
    }
}

/// A page list from a peer, if it is piece `id`'s.
pub fn open_list(id: PieceId, bytes: &[u8]) -> Option<[PageId; PIECE_PAGES]> {
    let mut list = [PageId([0; 32]); PIECE_PAGES];
    let (chunks, rest) = bytes.as_chunks::<32>();
    if chunks.len() != PIECE_PAGES || !rest.is_empty() {
        return None;
    }
    for (to, from) in list.iter_mut().zip(chunks) {
        *to = PageId(*from);
    }
    (PieceId::of_pages(&list) == id).then_some(list)
}

#[derive(Debug)]
struct Asked {
    since: Instant,
    indices: Vec<u32>,
}

/// Whom to ask for page lists. Invariant: a piece is wanted, asked once, or no business of this machine.
#[derive(Debug, Default)]
pub struct Lists {
    wanted: BTreeSet<u32>,
    asked: BTreeMap<PeerKey, Vec<Asked>>,
}

impl Lists {
    /// The list of this piece is needed before the piece is asked.
    pub fn handle_wanted(&mut self, i: u32) {
        self.wanted.insert(i);
    }

    /// This piece is needed at once and whole; whether its list was waited for.
    pub fn handle_urgent(&mut self, i: u32) -> bool {
        let waited = self.wanted.remove(&i);
        let asked = self.asked.values_mut().flatten();
        asked.fold(waited, |waited, a| {
            let before = a.indices.len();
            a.indices.retain(|x| *x != i);
            waited || a.indices.len() < before
        })
    }

    /// Everything whose list is still waited for.
    pub fn into_wanted(self) -> BTreeSet<u32> {
        let mut all = self.wanted;
        all.extend(self.asked.into_values().flatten().flat_map(|a| a.indices));
        all
    }

    /// Lists that wait or are under way.
    pub fn open(&self) -> usize {
        self.wanted.len() + self.asked.values().flatten().map(|a| a.indices.len()).sum::<usize>()
    }

    /// A peer answered one question; what it was asked and did not answer has to be fetched whole.
    pub fn handle_answer(&mut self, key: PeerKey, answered: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let Some(queue) = self.asked.get_mut(&key) else {
            return (vec![], vec![]);
        };
        if queue.is_empty() {
            return (vec![], vec![]);
        }
        let asked = queue.remove(0);
        asked.indices.into_iter().partition(|i| answered.contains(i))
    }

    /// A session ended: what it was asked is asked elsewhere.
    pub fn handle_left(&mut self, key: PeerKey) {
        for a in self.asked.remove(&key).unwrap_or_default() {
            self.wanted.extend(a.indices);
        }
    }

    /// What has taken too long, and is fetched whole.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<u32> {
        let mut late = Vec::new();
        for a in self.asked.values_mut().flatten() {
            if now >= a.since + LIST_TIMEOUT {
                late.append(&mut a.indices);
            }
        }
        late
    }

    /// When to call [`Lists::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let open = self.asked.values().flatten().filter(|a| !a.indices.is_empty());
        open.map(|a| a.since + LIST_TIMEOUT).min()
    }

    /// What to ask this peer, which `has` pieces.
    pub fn poll_transmit(&mut self, now: Instant, key: PeerKey, has: impl Fn(u32) -> bool) -> Option<Vec<u32>> {
        let queue = self.asked.entry(key).or_default();
        if queue.len() >= LISTS_IN_FLIGHT {
            return None;
        }
        let indices: Vec<u32> = self
            .wanted
            .iter()
            .copied()
            .take(64 * MAX_LISTS)
            .filter(|i| has(*i))
            .take(MAX_LISTS)
            .collect();
        if indices.is_empty() {
            return None;
        }
        indices.iter().for_each(|i| {
            self.wanted.remove(i);
        });
        queue.push(Asked {
            since: now,
            indices: indices.clone(),
        });
        Some(indices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(n: u64) -> PageId {
        let mut p = [0; PAGE_BYTES];
        p[..8].copy_from_slice(&n.to_be_bytes());
        PageId::of(&p)
    }

    fn list(first: u64) -> [PageId; PIECE_PAGES] {
        std::array::from_fn(|i| page(first + i as u64))
    }

    #[test]
    fn a_shifted_piece_is_copied_but_for_its_new_pages() {
        let mut index = PageIndex::default();
        let (a, b) = (PieceId::of_pages(&list(1)), PieceId::of_pages(&list(17)));
        assert!(index.add(a, &list(1)) && index.add(b, &list(17)));
        let mut shifted = list(5);
        shifted[3] = page(999);
        shifted[4] = page(0); // all zeros
        let plan = index.plan(shifted).unwrap();
        assert_eq!(plan.fetched, 1 << 3);
        assert!(plan.copied.contains(&(0, Source::Held(a, 4))));
        assert!(plan.copied.contains(&(15, Source::Held(b, 3))));
        assert!(plan.copied.contains(&(4, Source::Zero)));
        assert_eq!(index.plan(list(1_000)), None, "nothing is gained");
    }

    #[test]
    fn a_list_is_believed_only_if_its_hash_is_the_pieces_id() {
        let bytes: Vec<u8> = list(7).iter().flat_map(|p| p.0).collect();
        let id = PieceId::of_pages(&list(7));
        assert_eq!(open_list(id, &bytes), Some(list(7)));
        let mut other = bytes.clone();
        other[100] ^= 1;
        assert_eq!(open_list(id, &other), None);
        assert_eq!(open_list(id, &bytes[..511]), None);
    }

    #[test]
    fn each_list_is_asked_once_from_who_has_it_and_the_bound_holds() {
        let (mut l, t) = (Lists::default(), Instant::now());
        (0..1_000).for_each(|i| l.handle_wanted(i));
        let mut asked = Vec::new();
        while let Some(some) = l.poll_transmit(t, PeerKey(1), |i| i % 2 == 0) {
            assert!(some.iter().all(|i| i % 2 == 0));
            asked.extend(some);
        }
        assert_eq!(asked.len(), LISTS_IN_FLIGHT * MAX_LISTS);
        let first = asked[..MAX_LISTS].to_vec();
        let (have, not) = l.handle_answer(PeerKey(1), &first[1..]);
        assert_eq!((have.len(), not), (MAX_LISTS - 1, vec![first[0]]));
        assert!(l.handle_urgent(1) && l.handle_urgent(asked[100]) && !l.handle_urgent(first[3]));
        let before = l.open();
        l.handle_left(PeerKey(1));
        assert_eq!(l.open(), before, "nothing is forgotten when a peer goes");
        assert!(l.poll_transmit(t, PeerKey(2), |_| true).is_some());
        let late = l.handle_timeout(l.poll_timeout().unwrap());
        assert_eq!(late.len(), MAX_LISTS);
        assert_eq!(l.poll_timeout(), None);
    }
}
