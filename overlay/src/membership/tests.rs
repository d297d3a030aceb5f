use super::{
    sim::{MINUTE, START, World, id},
    *,
};
use crate::{
    admission::{CreateError, EvictError, InviteError, InviteSpec, JoinError},
    defaults::{CALLS_MAX, LANS_MAX, STANDINGS_MAX, TICKET_USES_MAX},
    ticket::{Ticket, TicketError},
};
use wire::{
    Fault, FaultKind, NodeKey, codec,
    membership::{AdmitCall, AdmitReply, PeerAddrs, Redeem, Sync},
    sign::RecordError,
};

const LAN_KEY: [u8; 32] = [200; 32];

fn signed(lan: &LanId, member: NodeId, serial: u64, key: &NodeKey) -> Signed<Membership> {
    let expires = START.plus(MEMBERSHIP_TTL);
    let (issued, role) = (START, Role::Member);
    let m = Membership {
        lan: lan.clone(),
        member,
        member_name: None,
        role,
        serial,
        issued,
        expires,
    };
    Signed::new(&m, key).unwrap()
}

fn evicted(lan: &LanId, member: NodeId, serial: u64, key: &NodeKey) -> Signed<Eviction> {
    let expires = START.plus(MEMBERSHIP_TTL);
    Signed::new(
        &Eviction {
            lan: lan.clone(),
            member,
            serial,
            issued: START,
            expires,
        },
        key,
    )
    .unwrap()
}

fn refusal(r: Result<LanId, JoinError>) -> String {
    match r {
        Err(JoinError::Refused(f)) => {
            assert_eq!(f.kind, FaultKind::Refused);
            f.what
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn forged_and_foreign_records_are_refused() {
    let (mut w, lan) = World::lan(2, MEMBERSHIP_TTL);
    let (key, thief) = (NodeKey::from_secret(&LAN_KEY), NodeKey::from_secret(&[1; 32]));
    let now = w.now(0);
    let s = &mut w.node(1).state;
    let wrong = Err(StandingError::Record(RecordError::WrongSigner { kind: "membership" }));
    assert_eq!(s.handle_membership(now, signed(&lan, id(9), u64::MAX, &thief)), wrong);
    let wrong = Err(StandingError::Record(RecordError::WrongSigner { kind: "eviction" }));
    assert_eq!(s.handle_eviction(now, evicted(&lan, id(0), u64::MAX, &thief)), wrong);
    let mut bytes = codec::encode(&signed(&lan, id(9), 1, &key)).unwrap();
    bytes[60] ^= 1;
    let bent: Signed<Membership> = codec::decode(&bytes, 1 << 12).unwrap();
    assert!(matches!(
        s.handle_membership(now, bent),
        Err(StandingError::Record(RecordError::BadSignature { .. }))
    ));
    let other = LanId {
        name: "work".parse().unwrap(),
        ..lan.clone()
    };
    assert_eq!(
        s.handle_membership(now, signed(&other, id(9), 1, &key)),
        Err(StandingError::OtherLan)
    );
    assert!(!s.is_member(now.wall, &lan, id(9)));
    assert_eq!(s.handle_membership(now, signed(&lan, id(9), 1, &key)), Ok(true));
    assert_eq!(
        s.handle_membership(now, signed(&lan, id(9), 1, &key)),
        Ok(false),
        "the same again"
    );
}

#[test]
fn an_eviction_beats_what_was_signed_before_it_in_any_order() {
    let key = NodeKey::from_secret(&LAN_KEY);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let (mut w, lan) = World::lan(2, MEMBERSHIP_TTL);
        let now = w.now(0);
        let s = &mut w.node(1).state;
        for step in order {
            match step {
                0 => s.handle_membership(now, signed(&lan, id(9), 10, &key)),
                1 => s.handle_eviction(now, evicted(&lan, id(9), 12, &key)),
                _ => s.handle_membership(now, signed(&lan, id(9), 11, &key)),
            }
            .unwrap();
        }
        assert!(!s.is_member(now.wall, &lan, id(9)), "{order:?}");
        assert_eq!(s.blocked(now.wall), BTreeSet::from([id(9)]));
        s.handle_membership(now, signed(&lan, id(9), 13, &key)).unwrap();
        assert!(s.is_member(now.wall, &lan, id(9)), "signed in again afterwards");
        assert!(s.blocked(now.wall).is_empty());
    }
}

#[test]
fn a_ticket_works_once_for_one_node_and_again_for_the_same() {
    let mut w = World::new(3, MEMBERSHIP_TTL);
    let lan = w.create(0);
    let ticket = w.ticket(0, &lan, 1);
    let ticket = Ticket::decode(&ticket.encode().unwrap()).unwrap();
    w.redeem(1, &ticket).unwrap();
    let first = w.node(0).state.members(START, &lan);
    w.redeem(1, &ticket).unwrap();
    assert_eq!(w.node(0).state.members(START, &lan), first, "the same membership");
    assert!(refusal(w.redeem(2, &ticket)).contains("used up"));
    let call = w.with(1, |s, now| s.begin_join(now, &ticket).unwrap());
    let now = w.now(0);
    let replay = w.node(0).state.handle_call(now, id(2), call);
    assert!(
        matches!(replay, AdmitReply::Refused(f) if f.what.contains("not known")),
        "another node's proof"
    );
    let bytes = w.node(0).state.export().unwrap();
    let config = w.node(0).state.config.clone();
    w.node(0).state = LanState::import(config, now, &bytes).unwrap();
    w.node(0).peers.clear();
    assert!(refusal(w.redeem(2, &ticket)).contains("used up"), "after a restart too");
    assert!(w.redeem(1, &ticket).is_ok());
}

#[test]
fn tickets_that_are_over_or_not_meant_for_this_are_refused() {
    let mut w = World::new(3, MEMBERSHIP_TTL);
    let lan = w.create(0);
    let ticket = w.ticket(0, &lan, 5);
    assert_eq!(w.redeem(0, &ticket), Err(JoinError::OwnTicket));
    let forged = Ticket {
        secret: crate::ticket::Secret([0; 16]),
        ..ticket.clone()
    };
    assert!(refusal(w.redeem(1, &forged)).contains("not known"));
    let elsewhere = Ticket {
        inviter: id(2),
        ..ticket.clone()
    };
    assert!(refusal(w.redeem(1, &elsewhere)).contains("signs nobody in"));
    w.redeem(1, &ticket).unwrap();
    let spec = InviteSpec {
        role: Role::Member,
        life: MINUTE,
        uses: 1,
        addrs: vec![],
        id: [9; 8],
        secret: [9; 16],
    };
    let by_member = w.with(1, |s, now| s.invite(now, &lan, spec));
    assert!(matches!(by_member, Err(InviteError::NotOwner { owner, .. }) if owner == id(0).to_string()));
    w.run(MINUTE * 61);
    assert!(
        refusal(w.redeem(2, &ticket)).contains("ended"),
        "by the inviter's clock"
    );
    w.node(2).skew = 3 * 86_400_000;
    assert!(
        matches!(
            w.redeem(2, &ticket),
            Err(JoinError::Ticket(TicketError::Expired { .. }))
        ),
        "by any clock"
    );
}

#[test]
fn what_an_invitation_cannot_be() {
    let mut w = World::new(1, MEMBERSHIP_TTL);
    let lan = w.create(0);
    let good = InviteSpec {
        role: Role::Member,
        life: MINUTE,
        uses: 1,
        addrs: vec![],
        id: [9; 8],
        secret: [9; 16],
    };
    let mut invite = |spec: InviteSpec| w.with(0, |s, now| s.invite(now, &lan, spec)).unwrap_err();
    assert_eq!(
        invite(InviteSpec {
            role: Role::Owner,
            ..good.clone()
        }),
        InviteError::Role
    );
    assert_eq!(
        invite(InviteSpec {
            uses: 0,
            ..good.clone()
        }),
        InviteError::Uses(0)
    );
    let many = TICKET_USES_MAX + 1;
    assert_eq!(
        invite(InviteSpec {
            uses: many,
            ..good.clone()
        }),
        InviteError::Uses(many)
    );
    assert_eq!(
        invite(InviteSpec {
            life: Duration::ZERO,
            ..good.clone()
        }),
        InviteError::Life
    );
    assert_eq!(
        invite(InviteSpec {
            life: Duration::MAX,
            ..good.clone()
        }),
        InviteError::Life
    );
    let addrs = vec!["not\nprintable".into()];
    assert_eq!(
        invite(InviteSpec { addrs, ..good }),
        InviteError::Ticket(TicketError::BadAddrs)
    );
}

#[test]
fn who_was_put_out_comes_back_only_by_a_later_ticket() {
    let mut w = World::new(3, MEMBERSHIP_TTL);
    let lan = w.create(0);
    let (used, unused) = (w.ticket(0, &lan, 5), w.ticket(0, &lan, 5));
    w.redeem(1, &used).unwrap();
    w.run(MINUTE);
    w.with(0, |s, now| s.evict(now, &lan, id(1)).unwrap());
    let wall = w.now(0).wall;
    assert_eq!(w.node(0).state.blocked(wall), BTreeSet::from([id(1)]));
    assert!(refusal(w.redeem(1, &used)).contains("has ended"));
    assert!(refusal(w.redeem(1, &unused)).contains("put this node out"));
    w.run(MINUTE);
    let later = w.ticket(0, &lan, 1);
    let wall = w.now(0).wall;
    assert!(w.node(0).state.blocked(wall).is_empty(), "it may knock again");
    w.redeem(1, &later).unwrap();
    assert_eq!((w.sees(1), w.node(1).lost), (BTreeSet::from([id(0)]), None));
    let evict = |w: &mut World, by, who| w.with(by, |s, now| s.evict(now, &lan, id(who)));
    assert_eq!(evict(&mut w, 0, 0), Err(EvictError::Owner));
    assert_eq!(evict(&mut w, 1, 0), Err(EvictError::NotOwner(lan.clone())));
    assert_eq!(
        evict(&mut w, 0, 2),
        Err(EvictError::NotMember {
            node: id(2),
            lan: lan.clone()
        })
    );
}

#[test]
fn strangers_and_the_evicted_get_no_list_of_members() {
    let (mut w, lan) = World::lan(3, MEMBERSHIP_TTL);
    let (key, now) = (NodeKey::from_secret(&LAN_KEY), w.now(0));
    let sync = |m: Signed<Membership>, push| {
        let s = Sync {
            lan: lan.clone(),
            membership: m,
            buckets: [0; 16],
            push,
            addrs: vec![],
        };
        AdmitCall::Sync(Box::new(s))
    };
    let mut ask = |from: NodeId, call| w.node(1).state.handle_call(now, from, call);
    let thief = NodeKey::from_secret(&[66; 32]);
    let self_signed = signed(&lan, thief.node_id(), u64::MAX, &thief);
    assert!(matches!(
        ask(thief.node_id(), sync(self_signed, vec![])),
        AdmitReply::Refused(_)
    ));
    let borrowed = signed(&lan, id(2), 1, &key);
    assert!(matches!(
        ask(thief.node_id(), sync(borrowed.clone(), vec![])),
        AdmitReply::Refused(_)
    ));
    let forged = vec![Standing::In(signed(&lan, id(9), u64::MAX, &thief))];
    assert!(matches!(
        ask(id(2), sync(borrowed.clone(), forged)),
        AdmitReply::Refused(_)
    ));
    assert!(matches!(
        ask(id(2), sync(borrowed.clone(), vec![])),
        AdmitReply::State(_)
    ));
    w.with(0, |s, now| s.evict(now, &lan, id(2)).unwrap());
    let reply = w.node(1).state.handle_call(now, id(2), sync(borrowed, vec![]));
    assert!(matches!(reply, AdmitReply::Evicted(_)), "old papers do not help");
    let elsewhere = LanId {
        name: "work".parse().unwrap(),
        ..lan
    };
    let call = Sync {
        lan: elsewhere.clone(),
        membership: signed(&elsewhere, id(2), 1, &key),
        buckets: [0; 16],
        push: vec![],
        addrs: vec![],
    };
    let reply = w.node(1).state.handle_call(now, id(2), AdmitCall::Sync(Box::new(call)));
    assert!(matches!(reply, AdmitReply::Refused(f) if f.what.contains("does not belong")));
}

#[test]
fn an_answer_that_does_not_fit_the_ticket_is_not_believed() {
    let mut w = World::new(3, MEMBERSHIP_TTL);
    let lan = w.create(0);
    let (ticket, key) = (w.ticket(0, &lan, 1), NodeKey::from_secret(&LAN_KEY));
    let mut finish = |membership: Signed<Membership>, standings| {
        let a = wire::membership::Admitted {
            membership,
            standings,
            addrs: vec![],
        };
        w.with(1, |s, now| {
            s.finish_join(now, &ticket, AdmitReply::Admitted(Box::new(a)))
        })
    };
    let wrong = |r: Result<LanId, JoinError>| assert!(matches!(r, Err(JoinError::WrongAnswer(_))), "{r:?}");
    wrong(finish(signed(&lan, id(2), 1, &key), vec![]));
    wrong(finish(signed(&lan, id(1), 1, &NodeKey::from_secret(&[5; 32])), vec![]));
    wrong(finish(
        signed(
            &LanId {
                name: "x".parse().unwrap(),
                ..lan.clone()
            },
            id(1),
            1,
            &key,
        ),
        vec![],
    ));
    let put_out = Standing::Out(evicted(&lan, id(1), 2, &key));
    wrong(finish(signed(&lan, id(1), 1, &key), vec![put_out]));
    let over = Membership {
        expires: START,
        ..signed(&lan, id(1), 1, &key).open().unwrap()
    };
    let over = finish(Signed::new(&over, &key).unwrap(), vec![]);
    assert!(matches!(over, Err(JoinError::Clock { .. })), "{over:?}");
    let no = AdmitReply::Refused(Fault::new(FaultKind::Refused, "no\x1b[2J"));
    let no = w.with(1, |s, now| s.finish_join(now, &ticket, no));
    assert_eq!(refusal(no), "no [2J");
    assert!(w.node(1).state.lans().is_empty(), "nothing was kept of it");
}

#[test]
fn state_survives_a_restart_and_damage_is_noticed() {
    let (mut w, lan) = World::lan(3, MEMBERSHIP_TTL);
    w.with(0, |s, now| s.evict(now, &lan, id(2)).unwrap());
    let now = w.now(0);
    let old = &w.node(0).state;
    let (bytes, config) = (old.export().unwrap(), old.config.clone());
    let (members, serial) = (old.members(now.wall, &lan), old.lans[&lan].last_serial);
    let mut new = LanState::import(config.clone(), now, &bytes).unwrap();
    assert_eq!(
        (new.members(now.wall, &lan), new.lans[&lan].last_serial),
        (members, serial)
    );
    assert!(new.owns(&lan) && new.blocked(now.wall).contains(&id(2)));
    assert_eq!(new.poll_event(), Some(LanEvent::Joined { lan: lan.clone() }));
    let added = BTreeSet::from([id(1)]);
    assert_eq!(
        new.poll_event(),
        Some(LanEvent::MembersChanged {
            lan,
            added,
            removed: BTreeSet::new()
        })
    );
    assert!(matches!(
        LanState::import(config.clone(), now, b"hello"),
        Err(SavedError::Format)
    ));
    assert!(matches!(
        LanState::import(config.clone(), now, &bytes[..bytes.len() - 1]),
        Err(SavedError::Damaged(_))
    ));
    let text = data_encoding::HEXLOWER.encode(&bytes);
    let secret = text.find(&data_encoding::HEXLOWER.encode(&LAN_KEY)).unwrap() / 2;
    for at in [secret, secret + 60, secret + 200] {
        let mut bent = bytes.clone();
        bent[at] ^= 4;
        assert!(LanState::import(config.clone(), now, &bent).is_err(), "byte {at}");
    }
}

#[test]
fn the_owner_restored_from_an_old_copy_still_signs_above_what_it_signed() {
    let (mut w, lan) = World::lan(3, MEMBERSHIP_TTL);
    let (old, config) = (w.node(0).state.export().unwrap(), w.node(0).state.config.clone());
    w.run(MINUTE);
    w.with(0, |s, now| s.evict(now, &lan, id(2)).unwrap());
    w.run(MINUTE);
    let now = w.now(0);
    w.node(0).state = LanState::import(config, now, &old).unwrap();
    w.node(0).peers.clear();
    w.run(MINUTE);
    assert!(
        !w.sees(0).contains(&id(2)),
        "it hears of its own eviction from the others"
    );
    w.join(0, &lan, [2]);
    assert!(w.sees(1).contains(&id(2)), "and what it signs now counts");
}

#[test]
fn lans_and_records_are_bounded() {
    let mut w = World::new(2, MEMBERSHIP_TTL);
    let now = w.now(0);
    let s = &mut w.node(0).state;
    for n in 0..LANS_MAX as u8 {
        s.create(now, format!("lan{n}").parse().unwrap(), [n + 1; 32]).unwrap();
    }
    assert_eq!(
        s.create(now, "more".parse().unwrap(), [99; 32]),
        Err(CreateError::TooMany)
    );
    assert_eq!(
        s.create(now, "lan0".parse().unwrap(), [99; 32]),
        Err(CreateError::NameTaken("lan0".parse().unwrap()))
    );
    let lan = s.find("lan0").unwrap();
    for n in 1..STANDINGS_MAX {
        let member = NodeId(*blake3::hash(&n.to_be_bytes()).as_bytes());
        s.lans
            .get_mut(&lan)
            .unwrap()
            .sign_in(now.wall, MEMBERSHIP_TTL, member, None, Role::Member)
            .unwrap();
    }
    let ticket = w.ticket(0, &lan, 1);
    assert!(refusal(w.redeem(1, &ticket)).contains("all that it can have"));
    assert_eq!(w.node(0).state.lans[&lan].len(), STANDINGS_MAX);
    let key = NodeKey::from_secret(&[1; 32]);
    let more = w.node(0).state.handle_membership(now, signed(&lan, id(77), 1, &key));
    assert_eq!(more, Err(StandingError::Full));
    let one = w.node(0).state.find("lan1").unwrap();
    assert!(w.node(0).state.forget(now, &one) && !w.node(0).state.forget(now, &one));
}

#[test]
fn calls_at_once_are_bounded_and_each_ends() {
    let (mut w, _) = World::lan(CALLS_MAX as u8 + 4, MEMBERSHIP_TTL);
    let now = w.now(0);
    let s = &mut w.node(0).state;
    for n in 1..CALLS_MAX as u8 + 4 {
        s.handle_connected(now, id(n));
    }
    let called: BTreeSet<NodeId> = std::iter::from_fn(|| s.poll_transmit()).map(|(to, _)| to).collect();
    assert_eq!(called.len(), CALLS_MAX);
    let late = Now {
        at: now.at + CALL_DEADLINE,
        ..now
    };
    s.handle_timeout(late);
    assert!(s.calls.is_empty(), "given up at the deadline");
    let stray = AdmitReply::Evicted(evicted(
        &s.lans()[0].lan.clone(),
        id(0),
        u64::MAX,
        &NodeKey::from_secret(&LAN_KEY),
    ));
    s.handle_reply(late, id(1), stray);
    assert!(
        s.lans()[0].role.is_some(),
        "an answer that nobody waits for is not read"
    );
}

#[test]
fn addresses_come_from_the_member_itself_before_hearsay() {
    let (mut w, lan) = World::lan(3, MEMBERSHIP_TTL);
    // It tells nobody itself yet.
    w.node(1).island = None;
    w.with(1, |s, now| {
        s.set_addrs(now, vec!["/ip4/192.0.2.1/udp/1/quic-v1".into()])
    });
    let s = &mut w.node(2).state;
    let told = |node, a: &str| PeerAddrs {
        node,
        addrs: vec![a.into()],
    };
    s.learn_addrs(&lan, [told(id(1), "/ip4/198.51.100.9/udp/1/quic-v1")], id(0));
    s.learn_addrs(&lan, [told(id(2), "/ip4/198.51.100.9/udp/1/quic-v1")], id(0));
    s.learn_addrs(&lan, [told(id(9), "/ip4/198.51.100.9/udp/1/quic-v1")], id(0));
    let node = id(1);
    let heard = vec!["/ip4/198.51.100.9/udp/1/quic-v1".to_string()];
    assert_eq!(s.poll_event(), Some(LanEvent::Addresses { node, addrs: heard }));
    assert_eq!(s.poll_event(), None, "neither of itself nor of a stranger");
    let own = "/ip4/192.0.2.1/udp/1/quic-v1";
    s.learn_addrs(&lan, [told(id(1), own)], id(1));
    assert_eq!(
        s.poll_event(),
        Some(LanEvent::Addresses {
            node,
            addrs: vec![own.into()]
        })
    );
    s.learn_addrs(&lan, [told(id(1), "/ip4/198.51.100.9/udp/1/quic-v1")], id(0));
    assert_eq!(s.poll_event(), None);
    w.node(1).island = Some(0);
    w.run(MINUTE);
    assert_eq!(w.node(0).state.lans[&lan].addrs[&id(1)], [own]);
}

#[test]
fn lans_of_one_name_are_told_apart() {
    let mut w = World::new(2, MEMBERSHIP_TTL);
    let lan = w.create(0);
    let own = w.with(1, |s, now| s.create(now, "home".parse().unwrap(), [201; 32]).unwrap());
    w.join(0, &lan, [1]);
    let s = &w.node(1).state;
    assert_eq!(s.find(&own.to_string()), Ok(own.clone()));
    assert!(matches!(s.find("home"), Err(LanLookupError::Ambiguous(both)) if both.contains(&lan.to_string())));
    assert_eq!(s.find("work"), Err(LanLookupError::Unknown("work".into())));
    assert!(s.owns(&own) && !s.owns(&lan));
}

#[test]
fn a_proof_by_hand_is_what_the_module_says() {
    let mut w = World::new(2, MEMBERSHIP_TTL);
    let lan = w.create(0);
    let t = w.ticket(0, &lan, 1);
    let AdmitCall::Redeem(call) = w.with(1, |s, now| s.begin_join(now, &t).unwrap()) else {
        panic!("not a redeem")
    };
    let key = blake3::derive_key("lanline ticket proof v1", &t.secret.0);
    let bytes = [&lan.digest()[..], &t.id, &id(1).0, &id(0).0].concat();
    assert_eq!(call.proof, *blake3::keyed_hash(&key, &bytes).as_bytes());
    let wire = codec::encode(&AdmitCall::Redeem(Box::new(Redeem { ..*call }))).unwrap();
    assert!(!wire.windows(16).any(|w| w == t.secret.0), "the secret does not travel");
}
