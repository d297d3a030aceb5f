//! Bounds and words of guest calls.

use super::*;
use crate::{codec, settings::MAX_SETTINGS};

fn call(image_ref: &str, hints: usize, token: usize) -> GuestCall {
    GuestCall::Start {
        id: GuestId([1; 16]),
        spec: Box::new(GuestSpecV1 {
            name: "web".parse().unwrap(),
            image: ImageId([2; 32]),
            image_ref: image_ref.into(),
            lan: None,
            cpus: 1,
            memory: ByteSize(256 << 20),
            disk: None,
            hints: vec![NodeId([3; 32]); hints],
        }),
        token: Some(vec![0; token]),
        net_policy: vec![],
    }
}

#[test]
fn a_call_at_its_bounds_fits_and_one_past_them_is_refused() {
    let fullest = call(&"x".repeat(MAX_IMAGE_REF), MAX_HINTS, MAX_TOKEN);
    assert_eq!(fullest.check(), Ok(()));
    let bytes = codec::encode(&fullest).unwrap();
    assert_eq!(codec::decode::<GuestCall>(&bytes, MAX_CALL_BYTES), Ok(fullest));
    for bad in [
        call(&"x".repeat(MAX_IMAGE_REF + 1), 0, 0),
        call("", MAX_HINTS + 1, 0),
        call("", 0, MAX_TOKEN + 1),
    ] {
        assert_eq!(bad.check().unwrap_err().kind, FaultKind::Usage);
    }
    let mut many = call("", 0, 0);
    if let GuestCall::Start { net_policy, .. } = &mut many {
        let one = Setting {
            key: "no_server".into(),
            value: "on".into(),
        };
        *net_policy = vec![one; MAX_SETTINGS + 1];
    }
    assert_eq!(many.check().unwrap_err().kind, FaultKind::Usage);
}

#[test]
fn state_words_are_one_to_one_and_the_order_is_the_declared_one() {
    for (i, (state, word)) in STATE_WORDS.iter().enumerate() {
        assert_eq!(word.parse(), Ok(*state));
        assert_eq!(state.as_str(), *word);
        assert_eq!(codec::encode(state).unwrap(), [u8::try_from(i).unwrap()], "{word}");
    }
    assert!("dead".parse::<GuestState>().is_err());
}

#[test]
fn logs_at_their_bound_fit_an_update() {
    let logs = GuestLogs {
        console: vec![7; MAX_LOG_BYTES],
        hypervisor: vec![8; MAX_LOG_BYTES],
    };
    let update = GuestUpdate::Done(GuestResult::Logs(logs));
    let bytes = codec::encode(&update).unwrap();
    assert_eq!(codec::decode::<GuestUpdate>(&bytes, MAX_UPDATE_BYTES), Ok(update));
}

#[test]
fn a_hosts_text_cannot_drive_the_terminal() {
    let update = GuestUpdate::Step {
        step: Step::Address,
        at_ms: 3,
        note: "\x1b[2Jhi".into(),
    }
    .sanitised();
    assert_eq!(
        update,
        GuestUpdate::Step {
            step: Step::Address,
            at_ms: 3,
            note: " [2Jhi".into()
        }
    );
}
