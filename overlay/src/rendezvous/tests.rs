use super::*;

const A: NodeId = NodeId([1; 32]);
const B: NodeId = NodeId([2; 32]);
const HELPER: NodeId = NodeId([3; 32]);

fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 7))
}

fn own(n: u8) -> Candidate {
    Candidate {
        addr: at(n),
        kind: CandidateKind::Local,
    }
}

fn events(r: &mut Rendezvous) -> Vec<Event> {
    std::iter::from_fn(|| r.poll_event()).collect()
}

fn member_of(peers: &[NodeId]) -> Rendezvous {
    let mut r = Rendezvous::default();
    r.set_lans(vec![peers.iter().copied().collect()]);
    r
}

fn locate(to: NodeId, whom: NodeId) -> Event {
    let message = PathMessage::Locate(whom);
    Event::Say { to, message }
}

fn located(events: &[Event]) -> Vec<(NodeId, Vec<SocketAddr>)> {
    let of = |e: &Event| match e {
        Event::Say {
            to,
            message: PathMessage::Located { list, .. },
        } => Some((*to, list.iter().map(|c| c.addr).collect())),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

/// A node with a well link to the helper and one in trouble to B.
fn seeker(now: Instant) -> Rendezvous {
    let mut r = member_of(&[B, HELPER]);
    r.handle_link(now, HELPER, 1, false, Some(at(3)));
    r.handle_link(now, B, 2, true, Some(at(2)));
    r
}

#[test]
fn a_member_is_asked_once_trouble_lasts_and_again_until_it_answers() {
    let start = Instant::now();
    let mut r = seeker(start);
    assert_eq!(events(&mut r), []);
    let (mut now, mut asked) = (start, Vec::new());
    while let Some(at) = r.poll_timeout(now) {
        now = at;
        r.handle_timeout(now);
        for e in events(&mut r) {
            assert_eq!(e, locate(HELPER, B));
            asked.push((now - start).as_millis() as u64);
        }
    }
    let after = limits::AFTER.as_millis() as u64;
    assert_eq!(asked, limits::ASK_MS.map(|ms| after + ms));

    let mut r = seeker(start);
    r.handle_timeout(start + limits::AFTER);
    assert_eq!(events(&mut r), [locate(HELPER, B)]);
    assert!(r.handle_located(start + limits::AFTER, HELPER, B, vec![own(9)]));
    let list = vec![own(9)];
    assert_eq!(events(&mut r), [Event::Try { node: B, list }]);
    assert_eq!(r.poll_timeout(start + limits::AFTER), None, "answered");
}

#[test]
fn who_is_well_again_is_asked_at_once_and_a_link_that_works_asks_nobody() {
    let start = Instant::now();
    let mut r = member_of(&[B, HELPER]);
    // This node moved: both links are silent.
    r.handle_link(start, HELPER, 1, true, Some(at(3)));
    r.handle_link(start, B, 2, true, Some(at(2)));
    let later = start + limits::AFTER * 2;
    r.handle_timeout(later);
    assert_eq!((events(&mut r), r.poll_timeout(later)), (vec![], None));
    r.handle_link(later, HELPER, 1, false, Some(at(3)));
    assert_eq!(events(&mut r), [locate(HELPER, B)]);
    r.handle_link(later, B, 2, false, Some(at(2)));
    assert_eq!(r.poll_timeout(later), None);
    assert!(
        !r.handle_located(later, HELPER, B, vec![own(9)]),
        "nobody asks any more"
    );
}

#[test]
fn few_of_many_members_are_asked_and_others_when_those_fall_silent() {
    let start = Instant::now();
    let many: Vec<NodeId> = (10..60).map(|n| NodeId([n; 32])).collect();
    let mut r = member_of(&[&many[..], &[B]].concat());
    many.iter()
        .for_each(|n| r.handle_link(start, *n, 1, false, Some(at(n.0[0]))));
    r.handle_link(start, B, 2, true, Some(at(2)));
    let mut now = start + limits::AFTER;
    let mut all = BTreeSet::new();
    for _ in 0..9 {
        r.handle_timeout(now);
        let asked: Vec<NodeId> = events(&mut r)
            .into_iter()
            .filter_map(|e| match e {
                Event::Say { to, .. } => Some(to),
                Event::Try { .. } => None,
            })
            .collect();
        assert!(asked.len() <= limits::HELPERS, "{asked:?}");
        now += Duration::from_millis(1);
        asked.iter().for_each(|n| r.handle_link(now, *n, 1, true, None));
        all.extend(asked);
    }
    assert_eq!(all.len(), limits::HELPERS_EVER);
}

#[test]
fn a_question_is_answered_when_the_answer_comes_and_again_to_who_moved() {
    let start = Instant::now();
    let mut r = member_of(&[A, B]);
    r.handle_link(start, A, 1, false, Some(at(1)));
    r.handle_link(start, B, 2, true, Some(at(2)));
    assert!(r.handle_locate(start, A, B));
    assert_eq!(located(&events(&mut r)), [], "B is silent here, too");
    // It says where it is, and then answers there.
    r.handle_candidates(start, B, &[own(22)]);
    assert_eq!(located(&events(&mut r)), [(A, vec![at(22)])]);
    r.handle_link(start, B, 2, false, Some(at(23)));
    assert_eq!(located(&events(&mut r)), [(A, vec![at(23), at(22)])]);
    r.handle_link(start, B, 2, false, Some(at(23)));
    r.handle_candidates(start, B, &[own(22)]);
    assert_eq!(located(&events(&mut r)), [], "no news");
    r.handle_link(start, A, 1, false, Some(at(11)));
    assert_eq!(
        located(&events(&mut r)),
        [(A, vec![at(23), at(22)])],
        "A moved meanwhile"
    );
    // Later than that nobody is told.
    r.handle_link(start + limits::KEEP, B, 2, false, Some(at(24)));
    assert_eq!(located(&events(&mut r)), []);
}

#[test]
fn abuse_strangers_and_those_who_were_not_asked_are_not_heard() {
    let now = Instant::now();
    let stranger = NodeId([99; 32]);
    let mut r = member_of(&[A, B, HELPER]);
    [A, B, HELPER, stranger]
        .iter()
        .for_each(|n| r.handle_link(now, *n, 1, false, Some(at(n.0[0]))));
    for (asker, sought) in [(stranger, B), (A, stranger), (A, A)] {
        assert!(!r.handle_locate(now, asker, sought));
    }
    assert!(!r.handle_located(now, A, B, vec![own(66)]), "its link works");
    // Members of two LANs of this node's know nothing of each other.
    r.set_lans(vec![[A, HELPER].into(), [B, HELPER].into()]);
    assert!(!r.handle_locate(now, A, B) && r.handle_locate(now, HELPER, B));
    r.set_lans(vec![[A, B, HELPER].into()]);
    events(&mut r);
    r.handle_link(now, B, 1, true, None);
    r.handle_timeout(now + limits::AFTER);
    assert_eq!(events(&mut r).len(), 2, "A and the helper, no stranger");
    assert!(!r.handle_located(now, stranger, B, vec![own(66)]));
    assert!(
        !r.handle_located(now + limits::AFTER + limits::KEEP, A, B, vec![own(66)]),
        "too late"
    );
    let heard = (0..99)
        .filter(|_| r.handle_located(now + limits::AFTER, A, B, vec![own(66)]))
        .count();
    assert_eq!(heard, limits::ANSWERS as usize);
}

#[test]
fn abuse_questions_and_answers_are_bounded() {
    let now = Instant::now();
    let id = |n: u16| {
        let [a, b] = n.to_be_bytes();
        NodeId([&[a, b][..], &[0; 30]].concat().try_into().unwrap())
    };
    let many: Vec<NodeId> = (0..1_000).map(id).collect();
    let mut r = member_of(&many);
    many.iter().for_each(|n| r.handle_link(now, *n, 1, false, Some(at(1))));
    let taken = many.iter().filter(|n| r.handle_locate(now, many[0], **n)).count();
    assert_eq!(taken, limits::WATCHES_PER_ASKER);
    let all = many[1..].iter().filter(|n| r.handle_locate(now, **n, many[0])).count();
    assert_eq!(all + taken, limits::WATCHES);
    events(&mut r);
    // One who asks again and again.
    let answers: usize = (0..99)
        .map(|_| {
            r.handle_locate(now, many[0], many[1]);
            events(&mut r).len()
        })
        .sum();
    assert_eq!(answers, limits::ANSWERS as usize - 1);
    // A node that is cut off from all but one.
    let mut r = member_of(&many);
    many.iter().skip(1).for_each(|n| r.handle_link(now, *n, 1, true, None));
    r.handle_link(now, many[0], 1, false, None);
    r.handle_timeout(now + limits::AFTER);
    assert_eq!(events(&mut r).len(), limits::SEEKS);
    // One session's end leaves the next one alone.
    r.handle_gone(many[0], 7);
    assert_eq!(r.helpers().len(), 1);
    r.handle_gone(many[0], 1);
    assert_eq!(r.helpers().len(), 0);
}
