//! Getting a manifest from peers of whom each may lie: header, then table, then segments, each checked by its hash.
//!
//! ```text
//! Header ──hash fits──▶ Table (32 KiB at a time, from one peer) ──hash fits──▶ Segments (from all peers, lazily)
//! ```
//!
//! A wrong answer makes the peer a liar; a late one gives the question to another peer. Pure; the verbs are those of
//! every machine here.

use crate::defaults::{SEGMENTS_IN_FLIGHT, STEAL_AFTER};
use crate::picker::PeerKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::ImageId;
use wire::image::{Header, Layout, ManifestError, Message, SegmentId, SegmentIndex, segment_id, table_id};

/// A question unanswered for this long is put to another peer: an answer is at most 64 KiB.
const ANSWER_WITHIN: Duration = STEAL_AFTER;

/// What an answer made of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing complete yet, or nothing new.
    More,
    /// Header and table are known: the image can be entered. Encoded header, segment ids.
    Opened(Vec<u8>, Vec<SegmentId>),
    /// A segment is known.
    Segment(SegmentIndex, SegmentId, Vec<u8>),
}

#[derive(Debug)]
enum Phase {
    Header {
        asked: Option<(PeerKey, Instant)>,
    },
    /// `from`: the one peer that gives the table, so that it is known who lied.
    Table {
        header: Box<Header>,
        bytes: Vec<u8>,
        layout: Layout,
        from: Option<PeerKey>,
        asked: Option<Instant>,
        ids: Vec<SegmentId>,
    },
    Segments {
        layout: Layout,
        table: Vec<SegmentId>,
        wanted: BTreeSet<u32>,
        asked: BTreeMap<u32, (PeerKey, Instant)>,
        /// Not known, and not wanted before somebody reads there.
        later: BTreeSet<u32>,
        /// Segments that a reader waits for, asked before others.
        urgent: BTreeSet<u32>,
    },
}

/// See the module.
#[derive(Debug)]
pub struct ManifestFetch {
    id: ImageId,
    phase: Phase,
    peers: BTreeMap<PeerKey, Helper>,
}

#[derive(Debug, Default)]
struct Helper {
    /// Segments that it said it has not, and when: it may get them later.
    absent: BTreeMap<u32, Instant>,
    /// It let a question go unanswered; asked again only if nobody else is there.
    late: bool,
}

/// An `Absent` answer is believed for this long.
const ABSENT_FOR: Duration = Duration::from_secs(1);

impl ManifestFetch {
    /// Nothing is known but the id.
    pub fn new(id: ImageId) -> Self {
        Self {
            id,
            phase: Phase::Header { asked: None },
            peers: BTreeMap::new(),
        }
    }

    /// Header and table are in the store.
    pub fn handle_store(&mut self, layout: Layout, table: Vec<SegmentId>) {
        self.phase = Phase::Segments {
            layout,
            table,
            wanted: BTreeSet::new(),
            asked: BTreeMap::new(),
            later: BTreeSet::new(),
            urgent: BTreeSet::new(),
        };
    }

    /// These segments are not in the store.
    pub fn handle_unknown(&mut self, unknown: &[SegmentIndex]) {
        if let Phase::Segments { wanted, .. } = &mut self.phase {
            *wanted = unknown.iter().map(|s| s.get()).collect();
        }
    }

    /// These segments are not in the store, and are fetched only as [`ManifestFetch::handle_needed`] asks for them.
    pub fn handle_unknown_later(&mut self, unknown: &[SegmentIndex]) {
        if let Phase::Segments { later, .. } = &mut self.phase {
            *later = unknown.iter().map(|s| s.get()).collect();
        }
    }

    /// A segment is needed; `waiting`: by somebody who waits for it.
    pub fn handle_needed(&mut self, s: SegmentIndex, waiting: bool) {
        let Phase::Segments {
            wanted,
            later,
            urgent,
            asked,
            ..
        } = &mut self.phase
        else {
            return;
        };
        let s = s.get();
        if later.remove(&s) {
            wanted.insert(s);
        }
        if waiting && (wanted.contains(&s) || asked.contains_key(&s)) {
            urgent.insert(s);
        }
    }

    /// All segments are needed.
    pub fn handle_all_needed(&mut self) {
        if let Phase::Segments { wanted, later, .. } = &mut self.phase {
            wanted.append(later);
        }
    }

    /// Whether everything is known.
    pub fn is_done(&self) -> bool {
        matches!(&self.phase, Phase::Segments { wanted, asked, later, .. }
            if wanted.is_empty() && asked.is_empty() && later.is_empty())
    }

    /// A session opened.
    pub fn handle_joined(&mut self, key: PeerKey) {
        self.peers.insert(key, Helper::default());
    }

    /// A session ended; what it was asked is asked elsewhere.
    pub fn handle_left(&mut self, key: PeerKey) {
        self.peers.remove(&key);
        match &mut self.phase {
            Phase::Header { asked } if asked.is_some_and(|(k, _)| k == key) => *asked = None,
            Phase::Table { from, asked, ids, .. } if *from == Some(key) => {
                *from = None;
                *asked = None;
                ids.clear();
            }
            Phase::Segments { wanted, asked, .. } => {
                let gone: Vec<u32> = asked.iter().filter(|(_, (k, _))| *k == key).map(|(s, _)| *s).collect();
                for s in gone {
                    asked.remove(&s);
                    wanted.insert(s);
                }
            }
            _ => {}
        }
    }

    /// The header came. Unasked answers are passed over. An error: the peer lied, or the image is not for this build.
    pub fn handle_header(&mut self, key: PeerKey, bytes: Vec<u8>) -> Result<Step, ManifestError> {
        let Phase::Header { asked: Some((from, _)) } = self.phase else {
            return Ok(Step::More);
        };
        if from != key {
            return Ok(Step::More);
        }
        let header = Header::open(self.id, &bytes)?;
        let layout = header.layout()?;
        self.phase = Phase::Table {
            header: Box::new(header),
            bytes,
            layout,
            from: None,
            asked: None,
            ids: Vec::new(),
        };
        Ok(Step::More)
    }

    /// A stretch of the table came.
    pub fn handle_table(&mut self, key: PeerKey, first: u32, new: &[SegmentId]) -> Result<Step, ManifestError> {
        let Phase::Table {
            header,
            bytes,
            layout,
            from,
            asked,
            ids,
        } = &mut self.phase
        else {
            return Ok(Step::More);
        };
        if asked.is_none() || *from != Some(key) || first as usize != ids.len() {
            return Ok(Step::More);
        }
        let all = layout.segments() as usize;
        if ids.len() + new.len() > all {
            return Err(ManifestError::Malformed("the segment table is longer than the image"));
        }
        ids.extend_from_slice(new);
        *asked = None;
        if ids.len() < all {
            return Ok(Step::More);
        }
        if table_id(ids) != header.table {
            ids.clear();
            return Err(ManifestError::WrongId("segment table"));
        }
        let opened = Step::Opened(std::mem::take(bytes), ids.clone());
        let (layout, table) = (layout.clone(), std::mem::take(ids));
        self.handle_store(layout, table);
        Ok(opened)
    }

    /// A segment came.
    pub fn handle_segment(&mut self, key: PeerKey, index: u32, bytes: Vec<u8>) -> Result<Step, ManifestError> {
        let Phase::Segments {
            layout,
            table,
            wanted,
            asked,
            urgent,
            ..
        } = &mut self.phase
        else {
            return Ok(Step::More);
        };
        if asked.get(&index).is_none_or(|(k, _)| *k != key) {
            return Ok(Step::More);
        }
        asked.remove(&index);
        let found = layout.segment(index).zip(table.get(index as usize).copied());
        let Some((s, id)) = found.filter(|(_, id)| segment_id(&bytes) == *id) else {
            wanted.insert(index);
            return Err(ManifestError::WrongId("segment"));
        };
        urgent.remove(&index);
        Ok(Step::Segment(s, id, bytes))
    }

    /// The peer has not got a segment now.
    pub fn handle_absent(&mut self, now: Instant, key: PeerKey, index: u32) {
        if let Phase::Segments { wanted, asked, .. } = &mut self.phase
            && asked.get(&index).is_some_and(|(k, _)| *k == key)
        {
            asked.remove(&index);
            wanted.insert(index);
            if let Some(p) = self.peers.get_mut(&key) {
                p.absent.insert(index, now);
            }
        }
    }

    /// Questions that went unanswered are open again.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_late = |at: Instant| now >= at + ANSWER_WITHIN;
        let mut late = Vec::new();
        match &mut self.phase {
            Phase::Header { asked } => late.extend(asked.take_if(|(_, at)| is_late(*at)).map(|(k, _)| k)),
            Phase::Table { from, asked, ids, .. } => {
                if asked.take_if(|at| is_late(*at)).is_some() {
                    ids.clear();
                    late.extend(from.take());
                }
            }
            Phase::Segments { wanted, asked, .. } => asked.retain(|s, (key, at)| {
                if is_late(*at) {
                    wanted.insert(*s);
                    late.push(*key);
                }
                !is_late(*at)
            }),
        }
        for key in late {
            if let Some(p) = self.peers.get_mut(&key) {
                p.late = true;
            }
        }
        for p in self.peers.values_mut() {
            p.absent.retain(|_, at| now < *at + ABSENT_FOR);
        }
    }

    /// When to call [`ManifestFetch::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let asked = match &self.phase {
            Phase::Header { asked } => asked.map(|(_, at)| at + ANSWER_WITHIN),
            Phase::Table { asked, .. } => asked.map(|at| at + ANSWER_WITHIN),
            Phase::Segments { asked, .. } => asked.values().map(|(_, at)| *at + ANSWER_WITHIN).min(),
        };
        let absent = self
            .peers
            .values()
            .flat_map(|p| p.absent.values())
            .min()
            .map(|at| *at + ABSENT_FOR);
        asked.into_iter().chain(absent).min()
    }

    /// The next question; call until `None`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(PeerKey, Message)> {
        let first = self.peers.iter().min_by_key(|(k, p)| (p.late, **k)).map(|(k, _)| *k);
        match &mut self.phase {
            Phase::Header { asked: asked @ None } => {
                let key = first?;
                *asked = Some((key, now));
                Some((key, Message::GetHeader))
            }
            Phase::Table {
                from,
                asked: asked @ None,
                ids,
                ..
            } => {
                let key = from.or(first)?;
                *from = Some(key);
                *asked = Some(now);
                Some((
                    key,
                    Message::GetTable {
                        first: u32::try_from(ids.len()).ok()?,
                    },
                ))
            }
            Phase::Segments {
                wanted, asked, urgent, ..
            } => {
                let mut load: BTreeMap<PeerKey, usize> = BTreeMap::new();
                asked.values().for_each(|(k, _)| *load.entry(*k).or_default() += 1);
                let free = |key: &PeerKey| load.get(key).is_none_or(|n| *n < SEGMENTS_IN_FLIGHT);
                if !self.peers.keys().any(free) {
                    return None;
                }
                let first = urgent.iter().filter(|s| wanted.contains(*s));
                let pick = first.chain(wanted.iter()).find_map(|s| {
                    let able = self.peers.iter().filter(|(k, p)| free(k) && !p.absent.contains_key(s));
                    let best = able.min_by_key(|(k, p)| (p.late, load.get(k).copied().unwrap_or(0), **k));
                    best.map(|(k, _)| (*k, *s))
                });
                let (key, s) = pick?;
                wanted.remove(&s);
                asked.insert(s, (key, now));
                Some((key, Message::GetSegment { index: s }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::image::{Kind, Manifest, ManifestBuilder, Part, PartSize, PieceId, TableId};

    fn manifest(pieces: u32) -> Manifest {
        let mut b = ManifestBuilder::new();
        (0..pieces).for_each(|i| b.push(PieceId(*blake3::hash(&i.to_be_bytes()).as_bytes())));
        let header = Header {
            kind: Kind::Disk,
            piece_bytes: wire::image::PIECE_BYTES as u32,
            parts: vec![PartSize {
                part: Part::Disk,
                bytes: u64::from(pieces) << 16,
            }],
            cmdline: None,
            parents: vec![],
            table: TableId([0; 32]),
            fields: vec![],
        };
        b.finish(header).unwrap()
    }

    /// An honest peer's answer.
    fn answer(f: &mut ManifestFetch, m: &Manifest, key: PeerKey, q: &Message) -> Result<Step, ManifestError> {
        match q {
            Message::GetHeader => f.handle_header(key, m.header.clone()),
            Message::GetTable { first } => {
                let rest = &m.table[*first as usize..];
                f.handle_table(key, *first, &rest[..rest.len().min(2)])
            }
            Message::GetSegment { index } => f.handle_segment(key, *index, m.segments[*index as usize].clone()),
            other => panic!("{other:?}"),
        }
    }

    fn unknown(m: &Manifest) -> Vec<SegmentIndex> {
        let layout = Header::open(m.id, &m.header).unwrap().layout().unwrap();
        (0..layout.segments()).filter_map(|s| layout.segment(s)).collect()
    }

    #[test]
    fn a_question_without_answer_goes_to_another_peer() {
        let (m, now) = (manifest(3_000), Instant::now());
        let mut f = ManifestFetch::new(m.id);
        f.handle_joined(PeerKey(1));
        f.handle_joined(PeerKey(2));
        assert_eq!(f.poll_transmit(now), Some((PeerKey(1), Message::GetHeader)));
        assert_eq!(f.poll_transmit(now), None);
        let late = f.poll_timeout().unwrap();
        f.handle_timeout(late);
        assert_eq!(f.poll_transmit(late), Some((PeerKey(2), Message::GetHeader)));
        assert_eq!(
            f.handle_header(PeerKey(1), m.header.clone()),
            Ok(Step::More),
            "too late, passed over"
        );
        assert_eq!(
            f.handle_header(PeerKey(2), vec![1, 2]),
            Err(ManifestError::WrongId("header"))
        );
        f.handle_left(PeerKey(2));
        assert_eq!(f.poll_transmit(late), Some((PeerKey(1), Message::GetHeader)));
        answer(&mut f, &m, PeerKey(1), &Message::GetHeader).unwrap();
        let long = vec![SegmentId([0; 32]); 4];
        assert_eq!(
            f.poll_transmit(late),
            Some((PeerKey(1), Message::GetTable { first: 0 }))
        );
        assert!(f.handle_table(PeerKey(1), 0, &long).is_err(), "longer than the image");
    }

    #[test]
    fn an_absent_segment_is_asked_elsewhere_and_later_again() {
        let (m, now) = (manifest(1_024), Instant::now());
        let mut f = ManifestFetch::new(m.id);
        let layout = Header::open(m.id, &m.header).unwrap().layout().unwrap();
        f.handle_store(layout, m.table.clone());
        f.handle_unknown(&unknown(&m));
        f.handle_joined(PeerKey(1));
        assert!(f.poll_transmit(now).is_some() && !f.is_done());
        f.handle_absent(now, PeerKey(1), 0);
        assert_eq!(f.poll_transmit(now), None);
        let again = f.poll_timeout().unwrap();
        f.handle_timeout(again);
        assert_eq!(
            f.poll_transmit(again),
            Some((PeerKey(1), Message::GetSegment { index: 0 }))
        );
        let Ok(Step::Segment(..)) = answer(&mut f, &m, PeerKey(1), &Message::GetSegment { index: 0 }) else {
            panic!("no segment")
        };
        assert!(f.is_done());
    }

    proptest! {
        /// Peers answer, stay silent, lie, leave and come back; in the end an honest one gives the whole manifest, and
        /// nothing that is not in it was ever taken.
        #[test]
        fn the_manifest_comes_whole_from_whoever_is_honest(ops in proptest::collection::vec((0u8..5, 0u32..3), 0..60)) {
            let m = manifest(7_000);
            let (mut f, mut now) = (ManifestFetch::new(m.id), Instant::now());
            let mut got = BTreeSet::new();
            let mut opened = false;
            let honest = (0..400).map(|_| (0u8, 2u32));
            for (next, (op, who)) in (100u32..).zip(ops.into_iter().chain(honest)) {
                let questions: Vec<_> = std::iter::from_fn(|| f.poll_transmit(now)).take(100).collect();
                prop_assert!(questions.len() < 100);
                for (key, q) in questions {
                    let step = match op {
                        0 | 1 => answer(&mut f, &m, key, &q),
                        2 => match q {
                            Message::GetHeader => f.handle_header(key, vec![9]),
                            Message::GetTable { first } => f.handle_table(key, first, &[SegmentId([1; 32]); 7]),
                            Message::GetSegment { index } => f.handle_segment(key, index, vec![0; 9]),
                            _ => Ok(Step::More),
                        },
                        _ => Ok(Step::More),
                    };
                    match step {
                        Ok(Step::Opened(header, table)) => {
                            prop_assert!(!opened && header == m.header && table == m.table);
                            opened = true;
                            f.handle_unknown(&unknown(&m));
                        }
                        Ok(Step::Segment(s, id, bytes)) => {
                            prop_assert!(m.table[s.get() as usize] == id && m.segments[s.get() as usize] == bytes);
                            prop_assert!(got.insert(s), "once");
                        }
                        Ok(Step::More) => {}
                        Err(_) => f.handle_left(key),
                    }
                }
                match op {
                    3 => f.handle_left(PeerKey(who)),
                    4 => { now += ANSWER_WITHIN; f.handle_timeout(now); }
                    _ => {}
                }
                f.handle_joined(PeerKey(next));
                now += Duration::from_millis(50);
                f.handle_timeout(now);
            }
            prop_assert!(f.is_done() && opened && got.len() == m.table.len());
        }
    }
}
