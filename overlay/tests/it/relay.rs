//! Frames through other nodes: channels, who may have one, what becomes of them.

use crate::{links::exchange, support::*};
use overlay::{
    io::CallError,
    relay::{Mode, Settings},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use wire::{
    NodeId, codec,
    frame::{MAX_HOPS, RelayHead},
    link::{Link, PathKind},
    relay::{RELAY_PROTOCOL, RelayCall, RelayRefusal, RelayReply},
};

const LAN: [u8; 32] = [7; 32];

/// Nodes 1 and 2 cannot reach each other but through the others, with which all are connected.
pub async fn apart(relays: &[&Node]) -> (Node, Node) {
    let (a, b) = (node(1).await, node(2).await);
    let at = a.quic().await;
    a.net.set_excluded_interfaces(vec!["lo".into()]).await;
    until("addresses to vanish", || async {
        a.net.status().await.unwrap().listen.is_empty().then_some(())
    })
    .await;
    for r in relays {
        r.net.connect(a.id(), vec![at.clone()]).await.unwrap();
        b.join(r).await;
    }
    (a, b)
}

/// Makes all members of one LAN, as each of them knows it.
pub async fn one_lan(nodes: &[&Node]) {
    let all: BTreeSet<NodeId> = nodes.iter().map(|n| n.id()).collect();
    for n in nodes {
        n.net.set_members(all.clone()).await;
        n.net.set_lans(BTreeMap::from([(LAN, all.clone())]));
    }
}

/// Waits until `b` may reach `a` by libp2p's own means, which control needs.
async fn circuit(a: &Node, b: &Node, relay: &Node) {
    until("the relay's address to be confirmed", || async {
        (!relay.net.status().await.unwrap().confirmed.is_empty()).then_some(())
    })
    .await;
    until("a reservation", || async {
        (!a.net.status().await.unwrap().relays.is_empty()).then_some(())
    })
    .await;
    b.net.connect(a.id(), vec![]).await.unwrap();
}

async fn linked(a: &mut Node, b: &Node) -> (Box<dyn Link>, Box<dyn Link>) {
    let ours = b.net.open_link(a.id()).await.unwrap();
    let theirs = a.next_link().await;
    (ours, theirs)
}

/// Asks a relay as `from` does by itself.
async fn ask(from: &Node, relay: &Node, call: &RelayCall) -> Result<RelayReply, CallError> {
    let body = codec::encode(call).unwrap();
    let answer = from
        .net
        .request(relay.id(), RELAY_PROTOCOL, body, Duration::from_secs(20))
        .await?;
    Ok(codec::decode(&answer, 4_096).unwrap())
}

fn open(to: &Node, hops: u8) -> RelayCall {
    RelayCall::Open {
        to: to.id(),
        origin: None,
        hops,
        voucher: None,
    }
}

async fn relay_with(n: u8, mode: Mode) -> Node {
    let settings = Settings {
        mode,
        ..Settings::default()
    };
    node_with(n, |c| c.relay = settings).await
}

/// Waits until a relay has counted so many of a name.
async fn counted(relay: &Node, name: &str, n: u64) {
    until(name, || async {
        let drops = relay.net.relay_figures().drops;
        (drops.get(name).copied().unwrap_or_default() >= n).then_some(())
    })
    .await;
}

#[tokio::test]
async fn frames_travel_through_a_member() {
    let relay = node(3).await;
    let (mut a, b) = apart(&[&relay]).await;
    one_lan(&[&a, &b, &relay]).await;
    circuit(&a, &b, &relay).await;
    let (mut ours, mut theirs) = linked(&mut a, &b).await;
    assert_eq!(
        (ours.path().kind, theirs.path().kind),
        (PathKind::Relayed, PathKind::Relayed)
    );
    assert_eq!((ours.path().remote, theirs.path().remote), (None, None));
    let before = relay.net.relay_figures();
    exchange(&mut ours, &mut theirs).await;
    exchange(&mut theirs, &mut ours).await;
    let after = relay.net.relay_figures();
    assert!(after.datagrams >= before.datagrams + 100, "{before:?} {after:?}");
    assert!(after.bytes >= before.bytes + 60_000);
    assert_eq!((after.channels, after.opened, after.month_bytes), (1, 1, after.bytes));
    relay.net.shutdown().await;
    assert!(recv(&mut ours).await.is_err(), "the relay is gone");
}

#[tokio::test]
async fn a_second_channel_through_the_same_relay_replaces_the_first_and_that_is_all() {
    let relay = node(3).await;
    let (mut a, b) = apart(&[&relay]).await;
    one_lan(&[&a, &b, &relay]).await;
    circuit(&a, &b, &relay).await;
    let (_ours, _theirs) = linked(&mut a, &b).await;
    let before = relay.net.relay_figures().opened;
    for (from, to) in [(&a, &b), (&b, &a)] {
        ask(from, &relay, &open(to, MAX_HOPS)).await.unwrap();
    }
    // Each end that is told of a closed channel asks again within this time, if it does.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let opened = relay.net.relay_figures().opened - before;
    assert!(opened <= 6, "{opened} channels");
}

#[tokio::test]
async fn frames_travel_through_a_member_that_one_side_reaches_by_tcp_alone() {
    let relay = node(3).await;
    let (mut a, b) = (node(1).await, node(2).await);
    let at = a.tcp().await;
    a.net.set_excluded_interfaces(vec!["lo".into()]).await;
    until("addresses to vanish", || async {
        a.net.status().await.unwrap().listen.is_empty().then_some(())
    })
    .await;
    relay.net.connect(a.id(), vec![at]).await.unwrap();
    b.join(&relay).await;
    one_lan(&[&a, &b, &relay]).await;
    let to_a = relay.net.peers().await.into_iter().find(|p| p.id == a.id()).unwrap();
    assert_eq!(to_a.path, PathKind::Tcp);
    circuit(&a, &b, &relay).await;
    let (mut ours, mut theirs) = linked(&mut a, &b).await;
    let before = relay.net.relay_figures();
    exchange(&mut ours, &mut theirs).await;
    exchange(&mut theirs, &mut ours).await;
    let after = relay.net.relay_figures();
    assert!(after.datagrams >= before.datagrams + 100, "{before:?} {after:?}");
}

#[tokio::test]
async fn when_a_relay_dies_another_carries_on() {
    let (one, two) = (node(3).await, node(4).await);
    let (mut a, b) = apart(&[&one, &two]).await;
    one_lan(&[&a, &b, &one, &two]).await;
    circuit(&a, &b, &one).await;
    let (mut ours, mut theirs) = linked(&mut a, &b).await;
    until("two channels", || async {
        let open = |n: &Node| n.net.relay_figures().channels;
        (open(&one) == 1 && open(&two) == 1).then_some(())
    })
    .await;
    let carried = |n: &Node| n.net.relay_figures().datagrams;
    let before = (carried(&one), carried(&two));
    exchange(&mut ours, &mut theirs).await;
    let (dies, stays) = if carried(&one) - before.0 > carried(&two) - before.1 {
        (one, two)
    } else {
        (two, one)
    };
    dies.net.shutdown().await;
    drop((ours, theirs));
    let had = stays.net.relay_figures().datagrams;
    b.net.connect(a.id(), vec![]).await.unwrap();
    let (mut ours, mut theirs) = linked(&mut a, &b).await;
    exchange(&mut ours, &mut theirs).await;
    assert!(stays.net.relay_figures().datagrams >= had + 50);
}

#[tokio::test]
async fn abuse_27_who_is_not_entitled_is_refused_by_name() {
    let (off, members) = (relay_with(3, Mode::Off).await, relay_with(4, Mode::Members).await);
    let (a, b) = apart(&[&off, &members]).await;
    let refused = |why| RelayReply::Refused(why);
    let said = ask(&b, &off, &open(&a, MAX_HOPS)).await;
    assert!(matches!(said, Err(CallError::Unsupported { .. })), "{said:?}");
    let said = ask(&b, &members, &open(&a, MAX_HOPS)).await.unwrap();
    assert_eq!(said, refused(RelayRefusal::NotLent));
    one_lan(&[&a, &b, &members]).await;
    let nobody = relay_with(5, Mode::Off).await;
    for (call, why) in [
        (open(&nobody, MAX_HOPS), RelayRefusal::NotLent),
        (open(&a, 0), RelayRefusal::Hops),
        (open(&a, 9), RelayRefusal::Hops),
        (RelayCall::Renew { channel: 7 }, RelayRefusal::Unknown),
        (RelayCall::Close { channel: 7 }, RelayRefusal::Unknown),
    ] {
        assert_eq!(ask(&b, &members, &call).await.unwrap(), refused(why), "{call:?}");
    }
    let garbage = b
        .net
        .request(members.id(), RELAY_PROTOCOL, vec![0xff; 600], Duration::from_secs(20))
        .await;
    assert!(garbage.is_err());
    counted(&members, "relay_bad_call", 1).await;
    counted(&members, "relay_not_lent", 2).await;
    counted(&members, "relay_too_many_hops", 2).await;
}

#[tokio::test]
async fn abuse_27_a_spoofed_origin_passes_nothing() {
    let relay = relay_with(3, Mode::Members).await;
    let (a, b) = apart(&[&relay]).await;
    one_lan(&[&a, &b, &relay]).await;
    let opened = until("a channel", || async {
        match ask(&b, &relay, &open(&a, MAX_HOPS)).await {
            Ok(RelayReply::Opened(o)) => Some(o),
            _ => None,
        }
    })
    .await;
    let before = relay.net.relay_figures();
    let at = overlay::path::socket_of(&relay.quic().await).unwrap();
    let thief = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let datagram = |channel, hops| [&RelayHead { hops, channel }.bytes()[..], &[0x48; 100]].concat();
    thief.send_to(&datagram(opened.channel, MAX_HOPS), at).unwrap();
    counted(&relay, "relay_wrong_place", 1).await;
    thief.send_to(&datagram(!opened.channel, MAX_HOPS), at).unwrap();
    counted(&relay, "relay_unknown_channel", 1).await;
    let after = relay.net.relay_figures();
    assert_eq!((after.datagrams, after.bytes), (before.datagrams, before.bytes));
    assert_eq!(
        thief
            .set_nonblocking(true)
            .and_then(|()| thief.recv(&mut [0; 100]))
            .map_err(|e| e.kind()),
        Err(std::io::ErrorKind::WouldBlock),
        "no answer to a thief"
    );
}

#[tokio::test]
async fn two_relays_in_a_row_carry_and_a_third_is_refused() {
    let (near, far) = (node(3).await, node(4).await);
    // Only `far` reaches `a`.
    let (a, b) = apart(&[&far]).await;
    b.join(&near).await;
    near.join(&far).await;
    one_lan(&[&a, &b, &near, &far]).await;
    let opened = until("a way over two relays", || async {
        match ask(&b, &near, &open(&a, MAX_HOPS)).await.unwrap() {
            RelayReply::Opened(o) => Some(o),
            RelayReply::Refused(why) => {
                assert!(matches!(why, RelayRefusal::NoWay | RelayRefusal::EndRefuses), "{why:?}");
                None
            }
            other => panic!("{other:?}"),
        }
    })
    .await;
    assert!(near.net.relay_figures().channels >= 1 && far.net.relay_figures().channels >= 1);
    assert_eq!(
        ask(&b, &near, &open(&a, 1)).await.unwrap(),
        RelayReply::Refused(RelayRefusal::NoWay),
        "with one relay there is no way"
    );
    let channel = opened.channel;
    assert_eq!(
        ask(&b, &near, &RelayCall::Close { channel }).await.unwrap(),
        RelayReply::Closed
    );
    until("the end of both channels", || async {
        let none = |n: &Node| n.net.relay_figures().channels == 0;
        (none(&near) && none(&far)).then_some(())
    })
    .await;
}
