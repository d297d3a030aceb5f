//! The fair queue against a model that does the same slowly, and what each promise of it means.

use super::*;
use crate::{
    defaults::{CODEL_INTERVAL, CODEL_TARGET, FLOWS, LINK_QUEUE_FRAMES, MTU_FRAME},
    tests::{
        build::{Tcp, pattern},
        segments::hosts_view,
    },
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

const TAG: LanTag = LanTag(7);
const MSS: usize = 1_000;
/// Ethernet, IPv4, TCP with a timestamp.
const HEAD: usize = 14 + 20 + 32;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A frame of `len` bytes of payload, of the flow with this port, whose sequence is its place in the flow.
fn tcp(port: u16, seq: usize, len: usize) -> (Vec<u8>, Offload) {
    Tcp {
        v6: false,
        vlan: false,
        port,
        seq: seq as u32,
        fin: false,
        cwr: false,
        mss: MSS as u16,
        payload: pattern(len, port as u8),
    }
    .build()
}

fn queued(port: u16, seq: usize, len: usize, ect: bool) -> Queued {
    let (mut f, o) = tcp(port, seq, len);
    if ect {
        f[15] |= 2;
        f[24..26].fill(0);
        let sum = !crate::csum::sum(&f[14..34]);
        f[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    Queued::new(TAG, &Packet::check(&f, o).unwrap())
}

/// Port, sequence, payload and CE mark of what came out.
fn read(q: &Queued) -> (u16, usize, usize, bool) {
    let b = &q.bytes;
    let seq = u32::from_be_bytes(b[38..42].try_into().unwrap()) as usize;
    (u16::from_be_bytes([b[34], b[35]]), seq, b.len() - HEAD, b[15] & 3 == 3)
}

#[derive(Clone, Debug)]
struct Item {
    seq: usize,
    left: usize,
    whole: bool,
    ect: bool,
    ce: bool,
    at: Instant,
}

/// RFC 8289's variables, with times as milliseconds since the start.
#[derive(Clone, Debug, Default)]
struct ModelFlow {
    items: VecDeque<Item>,
    deficit: i64,
    first_above: Option<Instant>,
    drop_next: Option<Instant>,
    count: u32,
    last: u32,
    dropping: bool,
}

/// FQ-CoDel as the RFCs' text has it, with queues of queues.
#[derive(Default)]
struct Model {
    flows: BTreeMap<u64, ModelFlow>,
    new: VecDeque<u64>,
    old: VecDeque<u64>,
    dropped: usize,
}

fn law(at: Instant, count: u32) -> Instant {
    at + Duration::from_secs_f64(CODEL_INTERVAL.as_secs_f64() / f64::from(count).sqrt())
}

impl ModelFlow {
    fn backlog(&self) -> usize {
        self.items
            .iter()
            .map(|i| i.left + if i.left > 0 { HEAD } else { 0 })
            .sum()
    }

    fn ok_to_drop(&mut self, now: Instant) -> bool {
        let Some(head) = self.items.front() else {
            self.first_above = None;
            return false;
        };
        let unit = if head.left > MSS || !head.whole {
            head.left.min(MSS)
        } else {
            head.left + HEAD
        };
        let behind = self.backlog() - unit;
        if now - head.at < CODEL_TARGET || behind <= MTU_FRAME {
            self.first_above = None;
            false
        } else {
            now >= *self.first_above.get_or_insert(now + CODEL_INTERVAL)
        }
    }

    fn drop_unit(&mut self) {
        let head = self.items.front_mut().unwrap();
        let n = head.left.min(MSS);
        (head.left, head.seq, head.whole) = (head.left - n, head.seq + n, false);
        if head.left == 0 {
            self.items.pop_front();
        }
    }

    /// Drops or marks until the head may go. A mark stays on all parts of a super-frame: they share its headers.
    fn dequeue(&mut self, now: Instant, dropped: &mut usize) {
        let mut ok = self.ok_to_drop(now);
        if self.dropping {
            self.dropping = ok;
            while self.dropping && now >= self.drop_next.unwrap() {
                self.count += 1;
                self.drop_next = Some(law(self.drop_next.unwrap(), self.count));
                if self.items[0].ect {
                    self.items[0].ce = true;
                    return;
                }
                self.drop_unit();
                *dropped += 1;
                ok = self.ok_to_drop(now);
                self.dropping = ok;
            }
        } else if ok {
            self.dropping = true;
            let delta = self.count.saturating_sub(self.last);
            let recent = self
                .drop_next
                .is_some_and(|at| now.saturating_duration_since(at) < 16 * CODEL_INTERVAL);
            self.count = if delta > 1 && recent { delta } else { 1 };
            (self.drop_next, self.last) = (Some(law(now, self.count)), self.count);
            if self.items[0].ect {
                self.items[0].ce = true;
            } else {
                self.drop_unit();
                *dropped += 1;
                self.dropping = self.ok_to_drop(now);
            }
        }
    }
}

impl Model {
    fn push(&mut self, now: Instant, flow: u64, seq: usize, len: usize, ect: bool) {
        let f = self.flows.entry(flow).or_default();
        let item = Item {
            seq,
            left: len,
            whole: true,
            ect,
            ce: false,
            at: now,
        };
        f.items.push_back(item);
        if !self.new.contains(&flow) && !self.old.contains(&flow) {
            f.deficit = MTU_FRAME as i64;
            self.new.push_back(flow);
        }
    }

    fn pop(&mut self, now: Instant, max: usize) -> Option<(u16, usize, usize, bool)> {
        loop {
            let from_new = !self.new.is_empty();
            let list = if from_new { &mut self.new } else { &mut self.old };
            let id = *list.front()?;
            let f = self.flows.get_mut(&id).unwrap();
            if f.deficit <= 0 {
                f.deficit += MTU_FRAME as i64;
                list.pop_front();
                self.old.push_back(id);
                continue;
            }
            f.dequeue(now, &mut self.dropped);
            let Some(head) = f.items.front_mut() else {
                f.dropping = false;
                list.pop_front();
                if from_new && !self.old.is_empty() {
                    self.old.push_back(id);
                }
                continue;
            };
            let n = if head.whole && (HEAD + head.left <= max || head.left <= MSS) {
                head.left
            } else {
                head.left.min((max.saturating_sub(HEAD) / MSS).max(1) * MSS)
            };
            let out = (id as u16, head.seq, n, head.ce);
            f.deficit -= (n + HEAD) as i64;
            (head.left, head.seq, head.whole) = (head.left - n, head.seq + n, false);
            if head.left == 0 {
                f.items.pop_front();
            }
            return Some(out);
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Push { flow: u16, len: usize, ect: bool },
    Pop { max: usize },
    Wait { us: u64 },
}

fn any_op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![6 => 1usize..MSS + 1, 3 => MSS + 1..9_000, 1 => 9_000usize..60_000];
    prop_oneof![
        5 => (0u16..6, len).prop_map(|(flow, len)| Op::Push { flow, len, ect: flow == 5 }),
        4 => prop_oneof![Just(usize::MAX), 1usize..9_000].prop_map(|max| Op::Pop { max }),
        2 => (0u64..30_000).prop_map(|us| Op::Wait { us }),
    ]
}

/// Segments of a frame.
fn segments(q: &Queued) -> usize {
    Packet::check(&q.bytes, q.offload).unwrap().segments()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_serves_as_the_model_does(ops in proptest::collection::vec(any_op(), 1..400)) {
        let (mut fq, mut model, mut drops) = (FqCodel::new(usize::MAX), Model::default(), Drops::default());
        let (mut now, mut sent, mut put, mut got) = (Instant::now(), [0usize; 6], 0, 0);
        let mut next = [0usize; 6];
        let drain = (0..420).map(|_| Op::Pop { max: usize::MAX });
        for op in ops.into_iter().chain(drain) {
            match op {
                Op::Wait { us } => now += Duration::from_micros(us),
                Op::Push { flow, len, ect } => {
                    let q = queued(flow, sent[usize::from(flow)], len, ect);
                    put += segments(&q);
                    fq.push(now, u64::from(flow), q, &mut drops);
                    model.push(now, u64::from(flow), sent[usize::from(flow)], len, ect);
                    sent[usize::from(flow)] += len;
                }
                Op::Pop { max } => {
                    let popped = fq.pop(now, max, &mut drops);
                    let seen = popped.as_ref().map(read);
                    prop_assert_eq!(seen, model.pop(now, max));
                    if let (Some(q), Some((flow, seq, len, _))) = (popped, seen) {
                        got += segments(&q);
                        hosts_view(&q.bytes, q.offload).unwrap();
                        prop_assert!(seq >= next[usize::from(flow)], "a flow was reordered");
                        next[usize::from(flow)] = seq + len;
                        prop_assert!(len + HEAD <= max || len <= MSS);
                    }
                }
            }
        }
        prop_assert_eq!(drops.get(DropReason::Codel), model.dropped as u64);
        prop_assert_eq!(put, got + model.dropped);
        prop_assert_eq!((fq.is_empty(), fq.bytes(), fq.memory()), (true, 0, 0));
    }

    #[test]
    fn bounds_hold_and_what_goes_is_the_fattest_flows(
        ops in proptest::collection::vec((0u16..40, 1usize..30_000), 1..300),
        limit in 40_000usize..400_000,
    ) {
        let (mut fq, mut drops, now) = (FqCodel::new(limit), Drops::default(), Instant::now());
        let (mut put, mut seqs) = (0, BTreeMap::<u16, usize>::new());
        for (i, (flow, len)) in ops.into_iter().enumerate() {
            // Half of the frames are one flow's.
            let flow = if i % 2 == 0 { 0 } else { flow };
            let seq = seqs.entry(flow).or_default();
            let q = queued(flow, *seq, len, false);
            *seq += len;
            put += segments(&q);
            fq.push(now, u64::from(flow), q, &mut drops);
            prop_assert!(fq.memory() <= limit && fq.bytes() <= fq.memory());
        }
        let (mut got, mut next) = (0, BTreeMap::<u16, usize>::new());
        while let Some(q) = fq.pop(now, 5_000, &mut drops) {
            let (flow, seq, len, _) = read(&q);
            prop_assert!(*next.get(&flow).unwrap_or(&0) <= seq);
            next.insert(flow, seq + len);
            got += segments(&q);
        }
        prop_assert_eq!(put, got + drops.get(DropReason::QueueFull) as usize);
    }
}

#[test]
fn the_number_of_frames_is_bounded_and_the_small_flow_keeps_its_own() {
    let (mut fq, mut drops, now) = (FqCodel::new(usize::MAX), Drops::default(), Instant::now());
    fq.push(now, 1, queued(1, 0, 10, false), &mut drops);
    for i in 0..LINK_QUEUE_FRAMES + 5 {
        fq.push(now, 2, queued(2, i * 10, 10, false), &mut drops);
    }
    assert_eq!(fq.stats().frames, LINK_QUEUE_FRAMES);
    assert_eq!(drops.get(DropReason::QueueFull), 6);
    assert_eq!(read(&fq.pop(now, 9_999, &mut drops).unwrap()).0, 1);
    assert_eq!(
        read(&fq.pop(now, 9_999, &mut drops).unwrap()),
        (2, 60, 10, false),
        "the oldest went"
    );
}

#[test]
fn a_ping_does_not_wait_for_a_super_frame() {
    let (mut fq, mut drops, mut now) = (FqCodel::new(usize::MAX), Drops::default(), Instant::now());
    for i in 0..4 {
        fq.push(now, 1, queued(1, i * 60_000, 60_000, false), &mut drops);
    }
    let mut bulk = 0;
    for i in 0..40 {
        now += ms(1);
        // 5 KB go now and then; a ping comes, and the next part that leaves is the ping.
        bulk += read(&fq.pop(now, 5_000, &mut drops).unwrap()).2;
        if i % 10 == 0 {
            fq.push(now, 2, queued(2, i * 64, 64, false), &mut drops);
            assert_eq!(read(&fq.pop(now, 5_000, &mut drops).unwrap()), (2, i * 64, 64, false));
        }
    }
    assert!(bulk <= 240_000 && drops.get(DropReason::Codel) <= 2, "{bulk}");
}

#[test]
fn flows_get_equal_bytes_whatever_their_frames() {
    let (mut fq, mut drops, now) = (FqCodel::new(usize::MAX), Drops::default(), Instant::now());
    let sizes = [60, 900, 9_000, 60_000];
    for (flow, len) in sizes.into_iter().enumerate() {
        for i in 0..(400_000 / len) {
            fq.push(now, flow as u64, queued(flow as u16, i * len, len, false), &mut drops);
        }
    }
    let mut bytes = [0usize; 4];
    while bytes.iter().sum::<usize>() < 1_000_000 {
        let q = fq.pop(now, 20_000, &mut drops).unwrap();
        bytes[usize::from(read(&q).0)] += q.bytes.len();
    }
    let (least, most) = (bytes.iter().min().unwrap(), bytes.iter().max().unwrap());
    assert!(most - least <= 20_000 + 2 * MTU_FRAME, "{bytes:?}");
}

#[test]
fn a_standing_queue_is_told_by_marks_where_the_flow_speaks_ecn() {
    for ect in [false, true] {
        let (mut fq, mut drops, mut now) = (FqCodel::new(usize::MAX), Drops::default(), Instant::now());
        let (mut marks, mut seq) = (0, 0);
        for _ in 0..2_000 {
            now += ms(1);
            while fq.bytes() < 100_000 {
                fq.push(now, 1, queued(1, seq, MSS, ect), &mut drops);
                seq += MSS;
            }
            marks += usize::from(read(&fq.pop(now, 9_999, &mut drops).unwrap()).3);
        }
        let dropped = drops.get(DropReason::Codel) as usize;
        let (some, none) = if ect { (marks, dropped) } else { (dropped, marks) };
        assert!(some > 20 && none == 0, "ect {ect}: {marks} marked, {dropped} dropped");
        assert_eq!(fq.stats().marks, marks as u64);
        assert!(fq.stats().delay_p50 > ms(50));
    }
}

fn push(q: &mut LinkQueue, now: Instant, frame: &(Vec<u8>, Offload), urgent: bool, drops: &mut Drops) {
    q.push(now, TAG, &Packet::check(&frame.0, frame.1).unwrap(), urgent, drops);
}

#[test]
fn urgent_frames_pass_within_their_own_bound() {
    let (mut q, mut drops, now) = (LinkQueue::new(1), Drops::default(), Instant::now());
    let arp = (vec![9; 60], Offload::default());
    while drops.get(DropReason::QueueFull) == 0 {
        push(&mut q, now, &tcp(1, 0, 1_000), false, &mut drops);
    }
    assert!(q.bytes() <= LINK_QUEUE_BYTES);
    for _ in 0..LINK_URGENT_BYTES / 60 {
        push(&mut q, now, &arp, true, &mut drops);
    }
    assert_eq!(
        drops.get(DropReason::QueueFull),
        1,
        "a full queue takes no place from them"
    );
    push(&mut q, now, &arp, true, &mut drops);
    assert_eq!(drops.get(DropReason::QueueFull), 2);
    push(
        &mut q,
        now,
        &(vec![8; LINK_URGENT_BYTES / 2], Offload::default()),
        true,
        &mut drops,
    );
    let first = q.pop(now, 9_999, &mut drops).unwrap();
    assert_eq!(first.bytes, arp.0, "one that is too large is not urgent");
}

#[test]
fn memory_is_given_back_and_limits_are_taken_over() {
    let (mut q, mut drops, now) = (LinkQueue::new(1), Drops::default(), Instant::now());
    for i in 0..100 {
        push(&mut q, now, &tcp(1, i * 1_000, 1_000), false, &mut drops);
    }
    q.set_limit(20_000);
    push(&mut q, now, &tcp(2, 0, 10), false, &mut drops);
    assert!(q.bytes() < 20_000 && drops.get(DropReason::QueueFull) > 80);
    q.handle_timeout(now + QUEUE_IDLE);
    assert!(q.fair.is_some(), "something waits");
    while q.pop(now, 9_999, &mut drops).is_some() {}
    q.handle_timeout(now + ms(1));
    assert!(q.fair.is_some());
    q.handle_timeout(now + QUEUE_IDLE);
    assert!(q.fair.is_none() && q.is_empty() && q.stats() == QueueStats::default());
}

#[test]
fn flows_are_told_apart_by_lan_vlan_addresses_and_ports() {
    let id = |key, tag, edit: &dyn Fn(&mut Tcp, &mut Vec<u8>)| {
        let mut t = Tcp {
            v6: false,
            vlan: false,
            port: 1,
            seq: 1,
            fin: false,
            cwr: false,
            mss: 1_448,
            payload: vec![1; 10],
        };
        edit(&mut t, &mut Vec::new());
        let mut f = t.build().0;
        edit(&mut t, &mut f);
        flow::hash(key, tag, &Packet::check(&f, Offload::default()).unwrap())
    };
    let base = id(1, TAG, &|_, _| {});
    let same = [
        id(1, TAG, &|t, _| t.seq = 9),
        id(1, TAG, &|t, _| t.payload = vec![1; 9_000]),
        id(1, TAG, &|_, f| f.iter_mut().skip(15).take(1).for_each(|b| *b = 3)),
    ];
    assert_eq!(same, [base; 3]);
    let fragment = |at: u8| id(1, TAG, &move |_, f| f.iter_mut().skip(20).take(2).for_each(|b| *b = at));
    let others = [
        base,
        id(2, TAG, &|_, _| {}),
        id(1, LanTag(8), &|_, _| {}),
        id(1, TAG, &|t, _| t.port = 2),
        id(1, TAG, &|t, _| t.vlan = true),
        id(1, TAG, &|t, _| t.v6 = true),
        id(1, TAG, &|_, f| f.iter_mut().skip(29).take(1).for_each(|b| *b = 77)),
        fragment(0x20),
        id(1, TAG, &|_, f| f.iter_mut().skip(12).take(1).for_each(|b| *b = 77)),
    ];
    let apart: std::collections::BTreeSet<u64> = others.into_iter().collect();
    assert_eq!(apart.len(), others.len());
    assert_eq!(
        fragment(0x20),
        fragment(0x01),
        "first and later fragments stay together"
    );
    assert!(FLOWS.is_power_of_two());
}
