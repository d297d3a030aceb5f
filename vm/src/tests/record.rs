use super::*;
use crate::guest::Resting;
use proptest::prelude::*;
use wire::{
    ids::{GuestId, ImageId, NodeId},
    mac::MacAddr,
    sign::PublicKey,
};

fn record() -> GuestRecord {
    let spec = GuestSpec {
        id: GuestId::from_random([7; 16]),
        name: "web".parse().unwrap(),
        owner: NodeId([3; 32]),
        lan: Some(LanId {
            key: PublicKey([4; 32]),
            name: "home".parse().unwrap(),
        }),
        image: ImageId([2; 32]),
        image_ref: "debian:12".into(),
        cpus: 2,
        memory: ByteSize(512 << 20),
        disk: Some(ByteSize(1 << 30)),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
    };
    GuestRecord::new(&spec, "pc-q35-7.2".into(), Accel::Tcg, UnixMillis(5))
}

fn found(alive: bool, same_boot: Option<bool>) -> Found {
    Found {
        alive,
        same_boot,
        log: "boom".into(),
    }
}

#[test]
fn a_record_describes_its_guest_wholly() {
    let mut r = record();
    r.boot = Some(BootRecord {
        overlay: Some(ByteSize(1 << 30)),
        whole: true,
        kernel: true,
        initrd: false,
        cmdline: Some("console=ttyS0".into()),
        seed: false,
        later: false,
        inner_mac: None,
    });
    r.ips = vec!["192.168.1.5".parse().unwrap()];
    let (back, spec) = GuestRecord::from_json(&r.to_json().unwrap()).unwrap();
    assert_eq!(back, r);
    assert_eq!(
        GuestRecord::new(&spec, r.machine.clone(), r.accel, r.created).lan,
        r.lan
    );
    assert_eq!(spec.id.to_string(), r.id);
}

#[test]
fn a_bent_record_is_refused_with_the_field() {
    let bend = |change: &dyn Fn(&mut GuestRecord)| {
        let mut r = record();
        change(&mut r);
        GuestRecord::from_json(&r.to_json().unwrap()).unwrap_err().to_string()
    };
    assert!(bend(&|r| r.version = 9).contains("version 9"));
    assert!(bend(&|r| r.owner = "x".into()).contains("bad owner"));
    assert!(bend(&|r| r.mac = "x".into()).contains("bad mac"));
    assert!(bend(&|r| r.name = "../x".into()).contains("bad name"));
    assert!(bend(&|r| r.cpus = 0).contains("breaks a bound"));
    assert!(bend(&|r| r.ips = vec!["::1".parse().unwrap(); MAX_IPS + 1]).contains("bad ips"));
    let evil = Some("a\nb".into());
    assert!(
        bend(&|r| {
            r.boot = Some(BootRecord {
                overlay: None,
                whole: false,
                kernel: true,
                initrd: false,
                cmdline: evil.clone(),
                seed: false,
                later: false,
                inner_mac: None,
            });
        })
        .contains("control character")
    );
    assert!(GuestRecord::from_json(b"{").is_err());
}

#[test]
fn recovery_knows_or_says_that_it_does_not() {
    let with = |state, stopping, removing| GuestRecord {
        state,
        stopping,
        removing,
        ..record()
    };
    let note = |r: Recovery| match r {
        Recovery::Rest(Resting { state, note, .. }) => (state, note.unwrap_or_default()),
        other => panic!("{other:?}"),
    };
    use GuestState::{Crashed, Fetching, Running, Starting, Stopped};
    assert_eq!(
        recover(&with(Fetching, false, false), &found(false, None)),
        Recovery::Discard
    );
    assert!(matches!(
        recover(&with(Fetching, false, false), &found(true, None)),
        Recovery::Adopt(_)
    ));
    assert_eq!(
        recover(&with(Running, false, true), &found(true, None)),
        Recovery::FinishRemoval
    );
    assert_eq!(
        recover(&with(Fetching, false, true), &found(false, None)),
        Recovery::FinishRemoval
    );
    assert!(matches!(
        recover(&with(Running, false, false), &found(true, Some(true))),
        Recovery::Adopt(_)
    ));
    assert_eq!(
        note(recover(&with(Running, true, false), &found(false, Some(true)))).0,
        Stopped
    );
    let (state, why) = note(recover(&with(Running, false, false), &found(false, Some(true))));
    assert!(state == Crashed && why.contains("boom"), "{why}");
    let (state, why) = note(recover(&with(Running, false, false), &found(false, Some(false))));
    assert!(state == Crashed && why.contains("restarted"), "{why}");
    assert_eq!(
        note(recover(&with(Starting, false, false), &found(false, None))).0,
        Crashed
    );
    assert_eq!(
        note(recover(&with(Stopped, false, false), &found(false, Some(false)))).0,
        Stopped
    );
    let rebooting = GuestRecord {
        rebooting: true,
        ..with(Running, false, false)
    };
    for same_boot in [Some(true), Some(false)] {
        let Recovery::Rest(at) = recover(&rebooting, &found(false, same_boot)) else {
            panic!("it has no process");
        };
        assert!(at.rebooting && at.state == Stopped);
    }
}

proptest! {
    #[test]
    fn noise_is_refused_without_a_panic(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(GuestRecord::from_json(&noise).is_err());
    }
}

#[test]
fn a_reboot_ends_what_ran_and_keeps_what_was_saved() {
    let saved = SavedRecord {
        at: UnixMillis(6),
        device: Blob {
            bytes: 1,
            hash: "00".into(),
        },
        ram: None,
        disk: None,
        hardware: "x".into(),
        qemu: "7.2".into(),
        warm: false,
    };
    let mut r = record();
    r.state = GuestState::Running;
    let Recovery::Rest(at) = recover(&r, &found(false, Some(false))) else {
        panic!()
    };
    assert_eq!((at.state, at.saved), (GuestState::Crashed, false));
    for state in [GuestState::Paused, GuestState::Hibernated, GuestState::Starting] {
        (r.state, r.saved) = (state, Some(saved.clone()));
        let Recovery::Rest(at) = recover(&r, &found(false, Some(false))) else {
            panic!()
        };
        assert_eq!((at.state, at.saved), (GuestState::Hibernated, true), "{state}");
        // A process that lives beside saved memory was about to be ended, or to be restored anew.
        assert!(matches!(recover(&r, &found(true, Some(true))), Recovery::Adopt(a) if a.saved));
    }
    r.moving = Some(MoveRecord {
        peer: NodeId([1; 32]),
        epoch: 3,
        arriving: true,
    });
    let Recovery::Rest(at) = recover(&r, &found(false, None)) else {
        panic!()
    };
    assert_eq!((at.state, at.saved, at.moving), (GuestState::Moving, true, true));
}
