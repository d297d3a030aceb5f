//! What people may look at: frames as they pass (a capture), and the frames that were dropped lately.
//!
//! Invariants
//! - Nothing here decides about a frame; it is shown each one after that, once where it came in and once for each place
//!   that it goes to.
//! - What is kept is bounded: [`RECENT_DROPS`] heads for each LAN, [`CAPTURE_BYTES`] for each capture, whatever the rate.
//! - A capture that its reader does not empty loses frames and counts them; it never makes a frame wait.

use crate::{
    DropReason,
    defaults::{CAPTURE_BYTES, RECENT_ALIKE, RECENT_DROPS},
    peek,
    switch::Ingress,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Instant,
};
use wire::{
    MacAddr,
    frame::{LanTag, Offload},
};

/// Where frames can be looked at: the port or the link that they pass.
pub type Spot = Ingress;

/// Which way a frame passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Into the switch.
    In,
    /// Out of it.
    Out,
}

/// One look at a frame.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// Its LAN.
    pub lan: LanTag,
    /// Where.
    pub spot: Spot,
    /// Which way.
    pub way: Way,
    /// It went no further than this, and why.
    pub dropped: Option<DropReason>,
    /// The frame.
    pub bytes: &'a [u8],
    /// Work left undone on it; claims, unchecked if it was dropped.
    pub offload: Offload,
}

/// What a capture takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// Frames of this LAN.
    pub lan: LanTag,
    /// Only at this port or link.
    pub spot: Option<Spot>,
    /// Only those that were dropped.
    pub drops_only: bool,
    /// Only those from or to this address.
    pub mac: Option<MacAddr>,
    /// Only those whose IP header or ARP names this address.
    pub ip: Option<IpAddr>,
    /// Bytes kept of each frame.
    pub snaplen: usize,
}

impl Select {
    /// Everything of a LAN, whole.
    pub fn all(lan: LanTag) -> Self {
        Self {
            lan,
            spot: None,
            drops_only: false,
            mac: None,
            ip: None,
            snaplen: wire::frame::MAX_FRAME,
        }
    }

    /// Is this one to be taken?
    pub fn takes(&self, s: &Sight<'_>) -> bool {
        s.lan == self.lan
            && self.spot.is_none_or(|spot| spot == s.spot)
            && (!self.drops_only || s.dropped.is_some())
            && self
                .mac
                .is_none_or(|m| peek::addresses(s.bytes).is_some_and(|(a, b)| a == m || b == m))
            && self
                .ip
                .is_none_or(|ip| peek::ips(s.bytes).is_some_and(|(a, b)| a == ip || b == ip))
    }
}

/// A frame that a capture took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// When.
    pub at: Instant,
    /// Where.
    pub spot: Spot,
    /// Which way.
    pub way: Way,
    /// Why it went no further, if so.
    pub dropped: Option<DropReason>,
    /// Its first bytes, at most the capture's `snaplen`.
    pub bytes: Bytes,
    /// Its length.
    pub len: usize,
    /// Work left undone on it.
    pub offload: Offload,
}

/// What a capture saw at one spot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpotCount {
    /// Frames taken, the lost ones too.
    pub taken: u64,
    /// Of these, frames that its reader did not get: it was too slow.
    pub lost: u64,
}

/// One capture's half at the frames: selects, copies, and counts what does not fit.
#[derive(Debug)]
pub struct Taker {
    select: Select,
    batch: Vec<Taken>,
    batch_bytes: usize,
    counts: BTreeMap<Spot, SpotCount>,
}

impl Taker {
    /// Has taken nothing yet.
    pub fn new(select: Select) -> Self {
        Self {
            select,
            batch: Vec::new(),
            batch_bytes: 0,
            counts: BTreeMap::new(),
        }
    }

    /// Takes a copy if it is selected; `waiting` is how many bytes of earlier batches nobody has read yet.
    pub fn look(&mut self, at: Instant, s: &Sight<'_>, waiting: usize) {
        if !self.select.takes(s) {
            return;
        }
        let count = self.counts.entry(s.spot).or_default();
        count.taken += 1;
        let kept = s.bytes.get(..self.select.snaplen).unwrap_or(s.bytes);
        if waiting + self.batch_bytes + kept.len() > CAPTURE_BYTES {
            count.lost += 1;
            return;
        }
        self.batch_bytes += kept.len();
        self.batch.push(Taken {
            at,
            spot: s.spot,
            way: s.way,
            dropped: s.dropped,
            bytes: Bytes::copy_from_slice(kept),
            len: s.bytes.len(),
            offload: s.offload,
        });
    }

    /// Frames taken since the last call and their bytes; `None` without any.
    pub fn take_batch(&mut self) -> Option<(Vec<Taken>, usize)> {
        let bytes = std::mem::take(&mut self.batch_bytes);
        (!self.batch.is_empty()).then(|| (std::mem::take(&mut self.batch), bytes))
    }

    /// Frames that wait for [`Taker::take_batch`].
    pub fn batch_len(&self) -> usize {
        self.batch.len()
    }

    /// A batch could not be handed over.
    pub fn lose(&mut self, batch: &[Taken]) {
        for t in batch {
            self.counts.entry(t.spot).or_default().lost += 1;
        }
    }

    /// What it saw, by spot.
    pub fn counts(&self) -> &BTreeMap<Spot, SpotCount> {
        &self.counts
    }
}

/// A frame that was dropped lately, or several alike in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The last of them.
    pub at: Instant,
    /// How many.
    pub times: u64,
    /// Why.
    pub reason: DropReason,
    /// Where.
    pub spot: Spot,
    /// Which way it was going.
    pub way: Way,
    /// Length of the last one; 0 where only a datagram was seen.
    pub len: usize,
    head: [u8; peek::HEAD],
    head_len: u8,
}

impl Dropped {
    /// The frame's first bytes.
    pub fn head(&self) -> &[u8] {
        self.head.get(..usize::from(self.head_len)).unwrap_or_default()
    }

    /// Does it come from this address, or go there?
    pub fn concerns(&self, mac: MacAddr) -> bool {
        peek::addresses(self.head()).is_some_and(|(dst, src)| dst == mac || src == mac)
    }

    fn is_like(&self, reason: DropReason, spot: Spot, way: Way, head: &[u8]) -> bool {
        (self.reason, self.spot, self.way) == (reason, spot, way)
            && self.head().get(..14.min(self.head().len())) == head.get(..14.min(head.len()))
    }
}

/// The frames of one LAN that were dropped last; memory is bounded and small.
#[derive(Clone, Debug, Default)]
pub struct Recent(VecDeque<Dropped>);

impl Recent {
    /// Remembers one. One that is like another of the last few (same place, reason, addresses and type) is added to it,
    /// so that a storm does not push everything else out.
    pub fn note(&mut self, now: Instant, s: &Sight<'_>, reason: DropReason) {
        let head = s.bytes.get(..peek::HEAD).unwrap_or(s.bytes);
        let alike = self
            .0
            .iter_mut()
            .rev()
            .take(RECENT_ALIKE)
            .find(|d| d.is_like(reason, s.spot, s.way, head));
        if let Some(d) = alike {
            d.times = d.times.saturating_add(1);
            d.at = now;
            d.len = s.bytes.len();
            return;
        }
        if self.0.len() >= RECENT_DROPS {
            self.0.pop_front();
        }
        let mut d = Dropped {
            at: now,
            times: 1,
            reason,
            spot: s.spot,
            way: s.way,
            len: s.bytes.len(),
            head: [0; peek::HEAD],
            head_len: head.len() as u8,
        };
        if let Some(to) = d.head.get_mut(..head.len()) {
            to.copy_from_slice(head);
        }
        self.0.push_back(d);
    }

    /// Newest first.
    pub fn newest(&self) -> impl Iterator<Item = &Dropped> {
        let mut rows: Vec<&Dropped> = self.0.iter().rev().collect();
        rows.sort_by_key(|d| std::cmp::Reverse(d.at));
        rows.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PortId;
    use wire::NodeId;

    const PORT: Spot = Spot::Port(PortId(3));

    fn frame(src: u8, len: usize) -> Vec<u8> {
        let mut f = vec![0; len];
        f[..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, src, 0x88, 0xb6]);
        f
    }

    fn sight(bytes: &[u8], dropped: Option<DropReason>) -> Sight<'_> {
        Sight {
            lan: LanTag(1),
            spot: PORT,
            way: Way::In,
            dropped,
            bytes,
            offload: Offload::default(),
        }
    }

    #[test]
    fn a_selection_is_the_and_of_its_parts() {
        let f = frame(1, 60);
        let (all, seen) = (Select::all(LanTag(1)), sight(&f, None));
        assert!(all.takes(&seen));
        let mac = |n| Some(MacAddr([2, 0, 0, 0, 0, n]));
        let cases = [
            (
                Select {
                    lan: LanTag(2),
                    ..all.clone()
                },
                false,
            ),
            (
                Select {
                    spot: Some(PORT),
                    ..all.clone()
                },
                true,
            ),
            (
                Select {
                    spot: Some(Spot::Link(NodeId([1; 32]))),
                    ..all.clone()
                },
                false,
            ),
            (
                Select {
                    drops_only: true,
                    ..all.clone()
                },
                false,
            ),
            (
                Select {
                    mac: mac(1),
                    ..all.clone()
                },
                true,
            ),
            (
                Select {
                    mac: mac(9),
                    ..all.clone()
                },
                true,
            ),
            (
                Select {
                    mac: mac(7),
                    ..all.clone()
                },
                false,
            ),
            (
                Select {
                    ip: Some([10, 0, 0, 1].into()),
                    ..all
                },
                false,
            ),
        ];
        for (select, want) in cases {
            assert_eq!(select.takes(&seen), want, "{select:?}");
        }
    }

    #[test]
    fn a_slow_reader_loses_frames_and_they_are_counted() {
        let now = Instant::now();
        let mut t = Taker::new(Select {
            snaplen: 100,
            ..Select::all(LanTag(1))
        });
        let f = frame(1, 1_500);
        let fit = CAPTURE_BYTES / 100;
        for _ in 0..fit + 7 {
            t.look(now, &sight(&f, None), 0);
        }
        let (batch, bytes) = t.take_batch().unwrap();
        assert_eq!((batch.len(), bytes), (fit, fit * 100));
        assert!(batch.iter().all(|b| b.bytes.len() == 100 && b.len == 1_500));
        t.look(now, &sight(&f, None), CAPTURE_BYTES);
        t.lose(&batch[..2]);
        let want = SpotCount {
            taken: fit as u64 + 8,
            lost: 10,
        };
        assert_eq!(t.counts().get(&PORT), Some(&want));
        assert_eq!(t.take_batch(), None);
    }

    #[test]
    fn a_storm_does_not_push_out_the_rest() {
        let now = Instant::now();
        let mut r = Recent::default();
        let odd = frame(200, 60);
        r.note(now, &sight(&odd, None), DropReason::NoLink);
        let storm = frame(1, 60);
        for _ in 0..100_000 {
            r.note(now, &sight(&storm, None), DropReason::BroadcastBudget);
        }
        let rows: Vec<_> = r.newest().map(|d| (d.reason, d.times)).collect();
        assert_eq!(rows, [(DropReason::BroadcastBudget, 100_000), (DropReason::NoLink, 1)]);
        r.note(
            now + std::time::Duration::from_secs(1),
            &sight(&odd, None),
            DropReason::NoLink,
        );
        assert_eq!(
            r.newest().next().map(|d| (d.reason, d.times)),
            Some((DropReason::NoLink, 2))
        );
        assert!(r.newest().all(|d| d.concerns(MacAddr([2, 0, 0, 0, 0, 9]))));
        for n in 0..=255u8 {
            for m in 0..2 {
                let mut f = frame(n, 60);
                f[7] = m;
                r.note(now, &sight(&f, None), DropReason::NoLink);
            }
        }
        assert_eq!(r.newest().count(), RECENT_DROPS);
    }

    #[test]
    fn frames_shorter_than_a_header_are_kept_too() {
        let mut r = Recent::default();
        for n in [0usize, 1, 13] {
            r.note(Instant::now(), &sight(&vec![7; n], None), DropReason::Runt);
        }
        assert_eq!(r.newest().map(|d| d.head().len()).collect::<Vec<_>>(), [13, 1, 0]);
        assert!(r.newest().all(|d| !d.concerns(MacAddr([7; 6])) || d.head().len() == 13));
    }
}
