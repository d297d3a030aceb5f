//! Two members that hear only some of what the other says, and what the sums of their claims make good.

use crate::{
    Place, PortId,
    compare::{Allowance, Compare, Verdict},
    defaults::{ASK_EVERY, ASKS, COMPARE_EVERY, FDB_PER_NODE, JUDGE_AGAIN, LINK_CONFIRM, SWEEP},
    fdb::Key,
    packet::Packet,
    policy::CompiledPolicy,
    switch::{Egress, Ingress, Switch, SwitchEvent},
};
use proptest::prelude::*;
use std::time::{Duration, Instant};
use wire::{
    MacAddr, NodeId,
    frame::{MacAdvert, MacBehind, MacSums, Offload, Span},
};

const P: PortId = PortId(1);
/// Keep-alives are so far apart.
const NOTE: Duration = Duration::from_secs(40);
/// Notes of each within which two members agree, whatever was lost. One shows the loss; where both claimed one address two
/// more show who gave way; one may fall between an update and its arrival.
const NOTES: usize = 4;

fn id(n: usize) -> NodeId {
    NodeId([n as u8 + 1; 32])
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 7, n])
}

struct Pair {
    now: Instant,
    switches: [Switch; 2],
    compare: [Compare; 2],
    notes: [Option<(u32, Instant)>; 2],
    wholes: usize,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let switch = |n: usize| {
            let mut s = Switch::new(now, id(n));
            s.set_members(now, [id(1 - n)].into());
            s.add_port(now, P, None);
            s.link_up(now, id(1 - n));
            s
        };
        let mut pair = Self {
            now,
            switches: [switch(0), switch(1)],
            compare: Default::default(),
            notes: [None; 2],
            wholes: 0,
        };
        pair.pass(SWEEP, false);
        pair
    }

    fn answer(&mut self, to: usize, behind: &[MacBehind]) {
        self.switches[to].handle_answer(self.now, id(1 - to), behind);
    }

    /// Delivers what one has to say, or loses it.
    fn drain(&mut self, n: usize, lost: bool) {
        while let Some(e) = self.switches[n].poll_event() {
            if let SwitchEvent::Advertise(a) = e
                && !lost
            {
                let behind = self.switches[1 - n].handle_adverts(self.now, id(n), &a);
                self.answer(n, &behind);
            }
        }
    }

    fn speak(&mut self, n: usize, from: MacAddr) {
        let bytes = [&[0xff; 6][..], &from.0, &[0x88, 0xb6, 0, 0]].concat();
        let packet = Packet::check(&bytes, Offload::default()).unwrap();
        let _ = self.switches[n].handle_frame(self.now, Ingress::Port(P), &packet, &mut Egress::default());
    }

    fn pass(&mut self, by: Duration, lost: bool) {
        let end = self.now + by;
        while self.now < end {
            self.now += SWEEP;
            for n in 0..2 {
                self.switches[n].handle_timeout(self.now);
                self.drain(n, lost);
            }
        }
    }

    /// A keep-alive each way, and the looks until the next.
    fn note(&mut self) {
        for n in 0..2 {
            self.notes[n] = Some((MacSums::note([self.switches[1 - n].own_sum()]), self.now));
        }
        let end = self.now + NOTE;
        while self.now < end {
            self.pass(COMPARE_EVERY, false);
            for n in 0..2 {
                let mine = MacSums::note([self.switches[n].heard_sum(&id(1 - n))]);
                match self.compare[n].handle_look(self.now, self.notes[n], mine) {
                    Verdict::Same(at) => self.switches[n].agree(id(1 - n), at),
                    Verdict::Unsure => {}
                    Verdict::Ask => self.whole(1 - n),
                }
            }
        }
    }

    fn whole(&mut self, from: usize) {
        self.wholes += 1;
        let all = self.switches[from].local_adverts();
        for (span, part) in Span::cut(&all) {
            let behind = self.switches[1 - from].handle_whole(self.now, id(from), &span, part);
            self.answer(from, &behind);
        }
        (0..2).for_each(|n| self.drain(n, false));
    }

    /// What one holds of the other's claims.
    fn held(&self, n: usize) -> Vec<(Key, u32, bool, usize)> {
        let rows = self.switches[n].rows(self.now);
        let of = rows.into_iter().filter(|r| r.place == Place::Node(id(1 - n)));
        of.map(|r| {
            let key = Key {
                vlan: r.vlan,
                mac: r.mac,
            };
            (key, r.seq, r.is_static, r.ips.len())
        })
        .collect()
    }

    fn claimed(&self, n: usize) -> Vec<(Key, u32, bool, usize)> {
        let all = self.switches[n].local_adverts();
        all.iter()
            .map(|a| (Key::of(a), a.seq, a.static_, a.ips.len()))
            .collect()
    }

    fn agree(&self) -> bool {
        (0..2).all(|n| {
            self.held(n) == self.claimed(1 - n)
                && self.switches[n].heard_sum(&id(1 - n)) == self.switches[1 - n].own_sum()
        })
    }
}

#[derive(Clone, Debug)]
enum Op {
    Speak(u8),
    Guest(u8),
    GuestGoes(u8),
    Clear,
    Wait(u8),
}

fn op() -> impl Strategy<Value = (usize, Op, bool)> {
    let op = prop_oneof![
        6 => (0u8..6).prop_map(Op::Speak),
        2 => (0u8..3).prop_map(Op::Guest),
        2 => (0u8..3).prop_map(Op::GuestGoes),
        1 => Just(Op::Clear),
        2 => (1u8..10).prop_map(Op::Wait),
    ];
    (0usize..2, op, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_was_lost_two_members_agree_within_some_notes(
        // Within the expiry: no note says meanwhile that what was heard holds.
        ops in proptest::collection::vec(op(), 1..10),
    ) {
        let mut p = Pair::new();
        let mut guests = [[false; 3]; 2];
        for (n, op, lost) in ops {
            match op {
                Op::Speak(k) => p.speak(n, mac(k)),
                Op::Guest(k) if !guests.iter().any(|g| g[usize::from(k)]) => {
                    guests[n][usize::from(k)] = true;
                    let rules = CompiledPolicy::for_guest(mac(100 + k));
                    p.switches[n].add_port(p.now, PortId(10 + u32::from(k)), Some(rules));
                }
                Op::GuestGoes(k) if std::mem::take(&mut guests[n][usize::from(k)]) => {
                    p.switches[n].remove_port(p.now, PortId(10 + u32::from(k)));
                }
                Op::Clear => {
                    p.switches[n].remove_port(p.now, P);
                    p.switches[n].add_port(p.now, P, None);
                }
                Op::Wait(s) => p.pass(Duration::from_secs(s.into()), lost),
                _ => {}
            }
            p.drain(n, lost);
            // An address that moves too often is another matter.
            p.pass(Duration::from_secs(46), lost);
        }
        let mut notes = 0;
        while !p.agree() {
            prop_assert!(notes < NOTES, "{:?} {:?} {:?} {:?}", p.held(0), p.claimed(1), p.held(1), p.claimed(0));
            p.note();
            notes += 1;
        }
        let wholes = p.wholes;
        p.note();
        prop_assert!(p.agree() && p.wholes == wholes, "and nothing more is asked");
    }

    #[test]
    fn a_lying_note_costs_no_more_than_the_bound(
        notes in proptest::collection::vec((any::<bool>(), any::<u32>(), any::<bool>()), 1..3_000),
    ) {
        let start = Instant::now();
        let (mut c, mut now, mut asks, mut mine) = (Compare::default(), start, 0u64, 0);
        for (new, note, change) in &notes {
            // The same lie for a while, or another each time; and what was heard of it changes as it likes.
            let lie = if *new { *note } else { 7 };
            mine += u32::from(*change);
            now += COMPARE_EVERY;
            asks += u64::from(c.handle_look(now, Some((lie, now)), mine) == Verdict::Ask);
        }
        let most = u64::from(ASKS) + (now - start).as_secs() / ASK_EVERY.as_secs();
        prop_assert!(asks <= most, "{asks} of {most}");
    }
}

#[test]
fn a_steady_lie_reaches_the_bound_and_no_more() {
    let start = Instant::now();
    let (mut c, mut now, mut asks) = (Compare::default(), start, 0);
    while now < start + 100 * ASK_EVERY {
        now += COMPARE_EVERY;
        asks += u32::from(c.handle_look(now, Some((1, now)), 0) == Verdict::Ask);
    }
    assert!((100..=100 + ASKS).contains(&asks), "{asks}");
    let mut a = Allowance::default();
    assert_eq!((0..100).filter(|_| a.take(start)).count(), ASKS as usize);
    assert_eq!((0..100).filter(|_| a.take(start + ASK_EVERY)).count(), 1);
    assert_eq!(
        (0..100).filter(|_| a.take(start + 1_000 * ASK_EVERY)).count(),
        ASKS as usize
    );
}

#[test]
fn a_difference_counts_only_if_nothing_is_on_its_way() {
    let (start, mut c) = (Instant::now(), Compare::default());
    let at = |n: u32| start + COMPARE_EVERY * n;
    let mut look =
        |n: u32, note: Option<(u32, u32)>, mine: u32| c.handle_look(at(n), note.map(|(v, heard)| (v, at(heard))), mine);
    assert_eq!(look(0, None, 1), Verdict::Unsure);
    // An update comes after the note that speaks of it.
    assert_eq!(look(1, Some((2, 1)), 1), Verdict::Unsure);
    assert_eq!(look(2, Some((2, 1)), 2), Verdict::Same(at(1)));
    // A note that an update overtook.
    assert_eq!(look(3, Some((2, 1)), 3), Verdict::Unsure);
    assert_eq!(look(4, Some((2, 1)), 3), Verdict::Unsure);
    assert_eq!(look(5, Some((2, 1)), 3), Verdict::Unsure, "it is old");
    // The next one says the same, and so does the look after.
    assert_eq!(look(6, Some((2, 6)), 3), Verdict::Unsure);
    assert_eq!(look(7, Some((2, 6)), 3), Verdict::Ask);
    assert_eq!(look(8, Some((2, 6)), 3), Verdict::Unsure, "once for a note");
}

#[test]
fn a_lost_withdrawal_is_made_good_within_a_note_and_entries_live_while_the_sums_agree() {
    let mut p = Pair::new();
    p.speak(0, mac(1));
    p.switches[0].add_port(p.now, PortId(10), Some(CompiledPolicy::for_guest(mac(2))));
    p.drain(0, false);
    for _ in 0..2_000 / 40 {
        p.speak(0, mac(1));
        p.note();
    }
    assert!(p.agree() && p.held(1).len() == 2 && p.wholes == 0, "{:?}", p.held(1));
    p.switches[0].remove_port(p.now, PortId(10));
    p.drain(0, true);
    assert_eq!(p.held(1).len(), 2, "it does not know");
    p.speak(0, mac(1));
    p.note();
    assert!(p.agree() && p.held(1).len() == 1 && p.wholes == 1, "{:?}", p.held(1));
}

#[test]
fn a_refused_claim_is_judged_again_and_has_its_bound() {
    let now = Instant::now();
    let mut s = Switch::new(now, id(0));
    s.set_members(now, [id(1), id(2)].into());
    (1..3).for_each(|n| s.link_up(now, id(n)));
    let claim = |n: u32, seq: u32, static_: bool| {
        let [a, b, c, d] = n.to_be_bytes();
        MacAdvert {
            mac: MacAddr([2, 9, a, b, c, d]),
            vlan: 0,
            ips: vec![],
            seq,
            static_,
            withdrawn: false,
        }
    };
    // A learned claim to what another was given: it counts when that is over.
    s.handle_adverts(now, id(1), &[claim(1, 5, true)]);
    s.handle_adverts(now, id(2), &[claim(1, 9, false)]);
    let key = Key::of(&claim(1, 0, false));
    assert_eq!(s.place(key), Some(Place::Node(id(1))));
    assert_ne!(s.heard_sum(&id(2)), 0, "it was heard");
    let gone = MacAdvert {
        withdrawn: true,
        ..claim(1, 5, true)
    };
    s.handle_adverts(now, id(1), &[gone]);
    let heard = s.heard_sum(&id(2));
    s.agree(id(2), now + LINK_CONFIRM);
    s.handle_timeout(now + JUDGE_AGAIN);
    s.handle_timeout(now + JUDGE_AGAIN * 2);
    assert_eq!(s.place(key), Some(Place::Node(id(2))));
    assert_eq!((s.heard_sum(&id(2)), s.heard_sum(&id(1))), (heard, 0));
    // More than it may claim is refused, and no more of that is kept than it may claim either.
    let later = now + JUDGE_AGAIN * 2;
    let many: Vec<MacAdvert> = (100..100 + 4 * FDB_PER_NODE as u32)
        .map(|n| claim(n, 0, false))
        .collect();
    s.handle_adverts(later, id(1), &many);
    assert_eq!(s.refused_claims(), FDB_PER_NODE);
    s.handle_whole(later, id(1), &Span::ALL, &[]);
    assert_eq!((s.refused_claims(), s.heard_sum(&id(1))), (0, 0));
    s.handle_adverts(later, id(1), &many);
    s.set_members(later, [id(2)].into());
    assert_eq!((s.refused_claims(), s.heard_sum(&id(1))), (0, 0));
}
