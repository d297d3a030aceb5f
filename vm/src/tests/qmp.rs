use super::*;
use proptest::prelude::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#;

fn fed(session: &mut Session, now: Instant, text: &str) -> Vec<Update> {
    session.handle_bytes(now, text.as_bytes()).unwrap();
    std::iter::from_fn(|| session.poll_event()).collect()
}

#[test]
fn replies_find_their_command_between_events_and_out_of_order() {
    let now = Instant::now();
    let mut s = Session::new();
    assert_eq!(
        fed(&mut s, now, &format!("{GREETING}\r\n")),
        [Update::Greeting { version: (7, 2, 22) }]
    );
    s.execute(now, Command::QueryStatus).unwrap();
    s.execute(now, Command::Cont).unwrap();
    let sent: Vec<Value> = std::iter::from_fn(|| s.poll_transmit())
        .map(|b| serde_json::from_slice(&b).unwrap())
        .collect();
    assert_eq!(sent[0], json!({"execute": "query-status", "id": 0}));
    let got = fed(
        &mut s,
        now,
        "{\"return\": {}, \"id\": 1}\n{\"event\": \"STOP\", \"timestamp\": {}}\n{\"error\": {\"desc\": \"no\\u001b\"}, \"id\": 0}\n",
    );
    assert_eq!(
        got,
        [
            Update::Reply {
                command: Command::Cont,
                value: json!({})
            },
            Update::Event {
                name: "STOP".into(),
                data: Value::Null
            },
            Update::Failed {
                command: Command::QueryStatus,
                why: "no ".into()
            },
        ]
    );
}

#[test]
fn each_command_has_its_own_deadline_and_a_late_reply_belongs_to_none() {
    let now = Instant::now();
    let mut s = Session::new();
    s.execute(now, Command::Cont).unwrap();
    s.execute(now, Command::QueryStatus).unwrap();
    let (at, command) = s.poll_timeout().unwrap();
    assert_eq!((at, command), (now + QMP_DEADLINE, Command::QueryStatus));
    s.handle_timeout(at);
    assert_eq!(s.poll_event(), Some(Update::TimedOut(Command::QueryStatus)));
    assert_eq!(fed(&mut s, at, "{\"return\": {}, \"id\": 1}\n"), []);
    assert_eq!(s.poll_timeout().unwrap().1, Command::Cont);
}

#[test]
fn every_bound_is_reached_and_holds() {
    let now = Instant::now();
    let mut s = Session::new();
    for _ in 0..MAX_QMP_PENDING {
        s.execute(now, Command::QueryStatus).unwrap();
    }
    assert_eq!(s.execute(now, Command::QueryStatus), Err(QmpError::TooManyPending));

    let mut s = Session::new();
    let flood = "{\"event\": \"RTC_CHANGE\"}\n".repeat(MAX_QUEUED + 5);
    assert_eq!(fed(&mut s, now, &flood).len(), MAX_QUEUED);
    assert_eq!(s.lost_events(), 5);

    let mut s = Session::new();
    let long = vec![b'x'; MAX_QMP_LINE + 1];
    assert_eq!(s.handle_bytes(now, &long), Err(QmpError::LineTooLong));
}

#[test]
fn what_is_not_qmp_ends_the_session() {
    let now = Instant::now();
    for bad in ["hello\n", "[]\n", "{\"foo\": 1}\n"] {
        assert!(Session::new().handle_bytes(now, bad.as_bytes()).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Session::new().handle_bytes(Instant::now(), &noise);
    }

    #[test]
    fn any_cut_gives_the_same_updates(cut in 1usize..40, pad in "[a-z\\\\\"\n]{0,30}") {
        let now = Instant::now();
        let event = json!({"event": "X", "data": {"pad": pad}}).to_string();
        let text = format!("{GREETING}\n{event}\r\n\n{event}\n");
        let whole = fed(&mut Session::new(), now, &text);
        let mut s = Session::new();
        let mut parts = Vec::new();
        for piece in text.as_bytes().chunks(cut) {
            s.handle_bytes(now, piece).unwrap();
            parts.extend(std::iter::from_fn(|| s.poll_event()));
        }
        prop_assert_eq!(whole, parts);
    }
}
