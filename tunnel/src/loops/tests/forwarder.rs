//! Members on one physical LAN: one forwards.

use super::world::{Seen, World, mac, ms, raw};
use crate::{
    DropReason, PortId,
    loops::{GuardEvent, Phase, defaults::PROBE_LOST},
};
use proptest::prelude::*;
use wire::{
    MacAddr,
    frame::{Frame, SignedProbe},
};

const HOST: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);

/// Members 0 and 1 bridged to segment 0; member 2 elsewhere, its own host at port 9 of segment 9.
fn shared() -> World {
    let mut w = World::new(3);
    w.plug(0, 1, 0);
    w.plug(1, 1, 0);
    w.plug(2, 9, 9);
    w
}

#[test]
fn one_of_two_forwards_within_five_seconds_and_nothing_comes_twice() {
    let mut w = shared();
    w.run_looking(ms(5_000), |w| assert!(w.forwarders(0).len() <= 1));
    assert_eq!(w.forwarders(0), [0], "the lower node id");
    assert_eq!(w.phase(1, 1), Phase::Standby(w.nodes[0].id));
    assert!(w.probes < 20, "{} probes", w.probes);

    let up = w.say(0, &raw(HOST, MacAddr::BROADCAST, 1));
    let at_2 = up.over_link.iter().filter(|(to, _)| *to == w.nodes[2].id).count();
    assert_eq!(at_2, 1, "the third member hears the LAN once");
    assert!(up.on_segment.iter().all(|(s, _)| *s != 0), "it does not come back");
    let down = w.send_from(2, 9, &raw(mac(9), MacAddr::BROADCAST, 2));
    assert_eq!(down.on_segment.len(), 1, "the LAN hears the third member once");
    let down = w.send_from(2, 9, &raw(mac(9), HOST, 3));
    assert_eq!(down.on_segment.len(), 1);
    assert_eq!(down.over_link.len(), 1, "unicast goes by the forwarder alone");
}

#[test]
fn another_steps_in_for_a_dead_forwarder_within_ten_seconds_and_knows_its_hosts() {
    let mut w = shared();
    w.run(ms(5_000));
    w.say(0, &raw(HOST, MacAddr::BROADCAST, 1));
    w.run(ms(1_000));
    w.kill(0);
    w.run_looking(ms(9_000), |w| assert!(w.forwarders(0).len() <= 1));
    assert_eq!(w.forwarders(0), [1]);
    assert!(w.nodes[1].said.contains(&GuardEvent::Forwarding { port: PortId(1) }));
    w.run(ms(500));
    let down = w.send_from(2, 9, &raw(mac(9), HOST, 3));
    assert_eq!(
        (down.over_link.len(), down.on_segment.len()),
        (1, 1),
        "no search for what was overheard"
    );

    // The first comes back: it does not take the LAN away again.
    w.revive(0);
    w.plug(0, 1, 0);
    w.run_looking(ms(20_000), |w| assert_eq!(w.forwarders(0), [1]));
    assert_eq!(w.phase(0, 1), Phase::Standby(w.nodes[1].id));
    let up = w.say(0, &raw(HOST, MacAddr::BROADCAST, 4));
    assert_eq!(up.over_link.iter().filter(|(to, _)| *to == w.nodes[2].id).count(), 1);
}

#[test]
fn what_other_members_vouch_for_is_not_claimed_on_stepping_in() {
    let mut w = shared();
    w.run(ms(5_000));
    // A host of the third member speaks: the forwarder repeats it on the segment, where the other overhears it.
    w.send_from(2, 9, &raw(mac(9), MacAddr::BROADCAST, 1));
    w.run(ms(1_000));
    w.kill(0);
    w.run(ms(9_000));
    assert_eq!(w.forwarders(0), [1]);
    let rows = w.nodes[1].switch.rows(w.now);
    let row = rows.iter().find(|r| r.mac == mac(9)).unwrap();
    assert_eq!(row.place, crate::Place::Node(w.nodes[2].id));
}

#[test]
fn a_forwarder_without_links_to_others_gives_way() {
    let mut w = shared();
    w.run(ms(5_000));
    w.set_link(0, 2, false);
    w.run_looking(ms(5_000), |w| assert!(w.forwarders(0).len() <= 1));
    assert_eq!(w.forwarders(0), [1], "it reaches the third member");
    w.set_link(0, 2, true);
    w.run_looking(ms(20_000), |w| assert_eq!(w.forwarders(0), [1], "and keeps the LAN"));
}

#[test]
fn a_segment_that_splits_has_two_forwarders_and_one_when_it_heals() {
    let mut w = World::new(4);
    for n in 0..3 {
        w.plug(n, 1, 0);
    }
    w.plug(3, 9, 9);
    w.run(ms(5_000));
    assert_eq!(w.forwarders(0), [0]);
    w.plugs.insert((1, PortId(1)), 1);
    w.plugs.insert((2, PortId(1)), 1);
    w.run(PROBE_LOST + ms(3_000));
    assert_eq!((w.forwarders(0), w.forwarders(1)), (vec![0], vec![1]));
    w.plugs.insert((1, PortId(1)), 0);
    w.plugs.insert((2, PortId(1)), 0);
    // Before the first probe tells: bounded, because nobody takes from a link what lives on its own port.
    let seen = w.say(0, &raw(HOST, MacAddr::BROADCAST, 1));
    assert!(seen.hops < 100, "{} hops", seen.hops);
    w.run(ms(2_500));
    assert_eq!(w.forwarders(0), [0]);
}

#[test]
fn a_port_that_goes_to_and_fro_is_held() {
    let mut w = shared();
    w.run(ms(5_000));
    for _ in 0..10 {
        w.set_link(0, 2, false);
        w.run(ms(4_000));
        w.set_link(0, 2, true);
        w.set_link(1, 2, false);
        w.run(ms(4_000));
        w.set_link(1, 2, true);
    }
    let changes = w.nodes[0].said.len() + w.nodes[1].said.len();
    assert!(changes < 24, "{changes} changes in 80 s");
    w.run_looking(ms(300_000), |w| assert!(w.forwarders(0).len() <= 1));
    assert_eq!(w.forwarders(0).len(), 1);
}

#[test]
fn a_member_that_was_put_out_counts_no_more() {
    let mut w = shared();
    w.run(ms(5_000));
    let left = [w.nodes[2].id].into();
    let now = w.now;
    w.nodes[1].switch.set_members(now, left);
    w.run(PROBE_LOST + ms(1_000));
    assert_eq!(w.phase(1, 1), Phase::Forwarding, "its probes are a stranger's");
}

#[test]
fn a_port_that_carries_nothing_gives_and_takes_nothing() {
    let mut w = shared();
    assert_eq!(w.phase(0, 1), Phase::Listening);
    w.say(0, &raw(HOST, MacAddr::BROADCAST, 1));
    assert_eq!(w.drops(0, DropReason::PortListening), 1);
    w.run(ms(5_000));
    w.say(0, &raw(HOST, MacAddr::BROADCAST, 2));
    assert_eq!(w.drops(1, DropReason::PortStandby), 1);
    let rows = w.nodes[1].switch.rows(w.now);
    assert!(
        rows.iter().all(|r| r.place != crate::Place::Port(PortId(1))),
        "{rows:?}"
    );
}

#[test]
fn a_link_that_moves_between_members_that_listen_leaves_one_forwarder() {
    let mut w = World::new(4);
    w.plug(3, 9, 9);
    for n in 0..3 {
        w.plug(n, 1, 0);
    }
    w.set_link(1, 3, false);
    w.run_looking(ms(250), |w| assert!(w.forwarders(0).len() <= 1));
    w.set_link(0, 3, false);
    w.set_link(1, 3, true);
    // Nobody has heard yet that 1 reaches the fourth member again, and both 1 and 2 take themselves for the best.
    w.run_looking(ms(330_000), |w| assert!(w.forwarders(0).len() <= 1));
    assert_eq!(w.forwarders(0), [1]);
}

#[test]
fn a_member_that_starts_again_at_once_hears_the_forwarder_before_it_decides() {
    let mut w = shared();
    w.run(ms(5_000));
    // Right after a probe of the forwarder's: the next one would come as late as can be.
    let by_forwarder = |w: &World| {
        let frames = w.tape.iter().filter_map(|t| Frame::new(t).ok());
        let probes = frames.filter_map(|f| Some(SignedProbe::read(f.payload())?.probe.node));
        probes.filter(|n| *n == w.nodes[0].id).count()
    };
    let before = by_forwarder(&w);
    while by_forwarder(&w) == before {
        w.run(ms(1));
    }
    w.kill(1);
    w.revive(1);
    w.plug(1, 1, 0);
    w.run_looking(ms(5_000), |w| assert_eq!(w.forwarders(0), [0]));
}

/// Frames that members put on segment 0 which bear an address as their source: a switch there sends what is for that
/// address to the port they came by from then on.
fn shown(w: &World, src: MacAddr) -> usize {
    let here = w.seen.on_segment.iter().filter(|(segment, _)| *segment == 0);
    here.filter(|(_, f)| Frame::new(f).is_ok_and(|f| f.src() == src))
        .count()
}

#[test]
fn who_steps_in_shows_the_switches_where_the_rest_of_the_lan_is_and_not_their_own_hosts() {
    let mut w = shared();
    w.run(ms(5_000));
    w.say(0, &raw(HOST, MacAddr::BROADCAST, 1));
    w.send_from(2, 9, &raw(mac(9), MacAddr::BROADCAST, 2));
    w.run(ms(1_000));
    w.kill(0);
    w.seen = Seen::default();
    w.run(ms(9_000));
    assert_eq!(w.forwarders(0), [1]);
    assert_eq!(
        shown(&w, mac(9)),
        1,
        "what is behind another member comes by this one now"
    );
    assert_eq!(shown(&w, HOST), 0, "the segment's own host is where it was");
}

#[test]
fn a_member_that_did_not_know_the_forwarder_when_it_answered_hears_it_before_it_decides() {
    let mut w = shared();
    w.run(ms(5_000));
    w.kill(1);
    w.revive(1);
    w.forget_members(1);
    w.plug(1, 1, 0);
    w.run(ms(100));
    w.tell_members(1);
    w.run_looking(ms(10_000), |w| assert_eq!(w.forwarders(0), [0]));
    assert_eq!(w.phase(1, 1), Phase::Standby(w.nodes[0].id));
}

#[derive(Clone, Debug)]
enum Step {
    Kill(usize),
    Revive(usize),
    Link(usize, usize, bool),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = 0..3usize;
    let step = prop_oneof![
        n.clone().prop_map(Step::Kill),
        n.clone().prop_map(Step::Revive),
        (n, 3..4usize, any::<bool>()).prop_map(|(a, b, up)| Step::Link(a, b, up)),
        (1..9_000u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// On a segment that loses nothing there are never two forwarders, whatever happens to nodes and links; and after a
    /// quiet time there is one, if anybody is left.
    #[test]
    fn never_two_forwarders_and_in_the_end_one(steps in steps()) {
        let mut w = World::new(4);
        w.plug(3, 9, 9);
        for n in 0..3 {
            w.plug(n, 1, 0);
        }
        for step in steps {
            match step {
                Step::Kill(n) => w.kill(n),
                Step::Revive(n) if !w.nodes[n].alive => {
                    w.revive(n);
                    w.plug(n, 1, 0);
                }
                Step::Revive(_) => {}
                Step::Link(a, b, up) => w.set_link(a, b, up),
                Step::Wait(t) => w.run_looking(ms(t), |w| assert!(w.forwarders(0).len() <= 1)),
            }
        }
        w.run_looking(ms(330_000), |w| assert!(w.forwarders(0).len() <= 1));
        let alive = w.nodes[..3].iter().any(|n| n.alive);
        prop_assert_eq!(w.forwarders(0).len(), usize::from(alive));
    }
}
