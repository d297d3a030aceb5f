//! What the owner sets for the whole LAN reaches every member, and only newer replaces older.

use super::{
    sim::{MINUTE, World},
    *,
};
use wire::{
    NodeKey,
    settings::{MAX_SETTING_VALUE, MAX_SETTINGS},
    sign::RecordError,
};

const LAN_KEY: [u8; 32] = [200; 32];

fn one(value: &str) -> Vec<Setting> {
    vec![Setting {
        key: "max_upload".into(),
        value: value.into(),
    }]
}

fn set(w: &mut World, lan: &LanId, mtu: u16, value: &str) {
    let done = w.with(0, |s, now| s.set_settings(now, lan, Some(mtu), one(value)));
    assert_eq!(done, Ok(true));
}

fn seen(w: &mut World, n: u8, lan: &LanId) -> Option<(u16, String)> {
    let s = w.node(n).state.settings(lan)?;
    Some((s.mtu?, s.policy.first()?.value.clone()))
}

fn record(lan: &LanId, serial: u64, value: &str) -> LanSettings {
    LanSettings {
        lan: lan.clone(),
        serial,
        issued: UnixMillis(serial),
        mtu: Some(1_500),
        policy: one(value),
    }
}

/// Takes a record from anyone.
fn hand(s: &mut LanState, now: Now, r: &LanSettings, key: &NodeKey) -> Result<bool, StandingError> {
    let signed = Signed::new(r, key).unwrap();
    s.merge_all(now, &r.lan, None, [Standing::Settings(signed)])
        .map(|n| n > 0)
}

#[test]
fn every_member_has_them_at_once_and_who_was_away_within_a_minute_also_without_the_owner() {
    let (mut w, lan) = World::lan(5, MEMBERSHIP_TTL);
    assert_eq!(seen(&mut w, 1, &lan), None);
    w.node(4).island = None;
    set(&mut w, &lan, 9_000, "1M");
    for n in 0..4 {
        assert_eq!(seen(&mut w, n, &lan), Some((9_000, "1M".into())), "node {n}");
        assert_eq!(w.node(n).news, 1, "node {n} is told once");
    }
    w.node(0).island = None;
    w.back(4);
    w.run(MINUTE);
    assert_eq!(seen(&mut w, 4, &lan), Some((9_000, "1M".into())));
    let not_owner = w.with(1, |s, now| s.set_settings(now, &lan, None, vec![]));
    assert_eq!(not_owner, Ok(false));
    let wall = w.now(0).wall;
    let members = w.node(0).state.members(wall, &lan).len();
    assert_eq!(members, 5, "they are no member");
}

#[test]
fn who_joins_later_has_them_with_its_membership() {
    let mut w = World::new(3, MEMBERSHIP_TTL);
    let lan = w.create(0);
    set(&mut w, &lan, 4_000, "2M");
    w.join(0, &lan, [1]);
    assert_eq!(seen(&mut w, 1, &lan), Some((4_000, "2M".into())));
    w.run(MINUTE * 60);
    set(&mut w, &lan, 1_500, "3M");
    w.join(0, &lan, [2]);
    assert_eq!(seen(&mut w, 2, &lan), Some((1_500, "3M".into())));
}

#[test]
fn an_older_version_never_replaces_a_newer_one_and_a_forged_one_nothing() {
    let (mut w, lan) = World::lan(2, MEMBERSHIP_TTL);
    let (key, thief) = (NodeKey::from_secret(&LAN_KEY), NodeKey::from_secret(&[1; 32]));
    let now = w.now(0);
    let s = &mut w.node(1).state;
    let far = u64::MAX - 10;
    assert_eq!(hand(s, now, &record(&lan, far, "new"), &key), Ok(true));
    assert_eq!(hand(s, now, &record(&lan, far - 1, "old"), &key), Ok(false));
    let wrong = RecordError::WrongSigner { kind: "lan-settings" };
    assert_eq!(
        hand(s, now, &record(&lan, u64::MAX, "forged"), &thief),
        Err(StandingError::Record(wrong))
    );
    let elsewhere = LanId {
        name: "work".parse().unwrap(),
        ..lan.clone()
    };
    let other = Signed::new(&record(&elsewhere, u64::MAX, "x"), &key).unwrap();
    assert_eq!(
        s.merge_all(now, &lan, None, [Standing::Settings(other)]),
        Err(StandingError::OtherLan)
    );
    let many = LanSettings {
        policy: vec![one("v").remove(0); MAX_SETTINGS + 1],
        ..record(&lan, u64::MAX, "")
    };
    assert!(matches!(hand(s, now, &many, &key), Err(StandingError::Settings(_))));
    assert_eq!(seen(&mut w, 1, &lan), Some((1_500, "new".into())));
    w.run(MINUTE);
    assert_eq!(
        seen(&mut w, 0, &lan),
        Some((1_500, "new".into())),
        "the owner hears of it, too"
    );
}

#[test]
fn they_outlive_a_restart_and_the_next_ones_are_newer_though_the_clock_went_back() {
    let (mut w, lan) = World::lan(2, MEMBERSHIP_TTL);
    set(&mut w, &lan, 9_000, "1M");
    let now = w.now(0);
    let (bytes, config) = (w.node(0).state.export().unwrap(), w.node(0).state.config.clone());
    let mut new = LanState::import(config, now, &bytes).unwrap();
    assert_eq!(new.settings(&lan).unwrap().mtu, Some(9_000));
    assert_eq!(new.poll_event(), Some(LanEvent::Joined { lan: lan.clone() }));
    assert_eq!(new.poll_event(), Some(LanEvent::SettingsChanged { lan: lan.clone() }));
    let late = Now {
        wall: now.wall.plus(MINUTE * 60 * 24 * 3_650),
        ..now
    };
    let old = LanState::import(new.config.clone(), late, &bytes).unwrap();
    assert!(old.settings(&lan).is_some(), "they never run out");
    w.node(0).state = new;
    w.node(0).peers.clear();
    w.node(0).skew = -1_000_000;
    set(&mut w, &lan, 1_500, "2M");
    assert_eq!(seen(&mut w, 1, &lan), Some((1_500, "2M".into())));
}

#[test]
fn more_than_a_record_holds_is_not_signed_and_changes_nothing() {
    let (mut w, lan) = World::lan(2, MEMBERSHIP_TTL);
    set(&mut w, &lan, 1_500, "1M");
    let huge = "v".repeat(MAX_SETTING_VALUE);
    let many = vec![one(&huge).remove(0); 4];
    assert!(w.with(0, |s, now| s.set_settings(now, &lan, None, many)).is_err());
    assert_eq!(seen(&mut w, 1, &lan), Some((1_500, "1M".into())));
}
