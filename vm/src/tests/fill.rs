use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;

/// What is on disk, QEMU, and the node, each of which may die at any step.
struct World {
    now: Instant,
    /// The record.
    asked: bool,
    recorded: bool,
    /// The file has everything, flushed.
    complete: bool,
    qemu: Qemu,
    fill: Fill,
    ground: Ground,
    image: bool,
    /// Commands that QEMU has not seen.
    sent: VecDeque<Command>,
    /// The next record, or reservation, is not written.
    refuses: bool,
}

#[derive(Clone, Copy, Default)]
struct Qemu {
    backing: bool,
    image: bool,
    job: Option<u64>,
    /// It has everything, not all of it flushed.
    all: bool,
}

const TOTAL: u64 = 4;

impl World {
    fn new() -> Self {
        let mut w = Self {
            now: Instant::now(),
            asked: true,
            recorded: false,
            complete: false,
            qemu: Qemu::default(),
            fill: Fill::new(true, false),
            ground: Ground::Away,
            image: true,
            sent: VecDeque::new(),
            refuses: false,
        };
        w.start();
        w
    }

    /// QEMU is started by the record.
    fn start(&mut self) {
        let backing = !self.recorded;
        assert!(
            backing || self.complete,
            "a start without the image, and the disk has not all"
        );
        self.qemu = Qemu {
            backing,
            image: backing,
            job: None,
            all: self.complete,
        };
        self.set(Ground::Fit);
    }

    fn set(&mut self, ground: Ground) {
        self.ground = ground;
        self.fill.handle_ground(self.now, ground);
        self.drain();
    }

    fn lose_node(&mut self) {
        self.fill = Fill::new(self.asked, self.recorded);
        self.sent.clear();
        let ground = std::mem::take(&mut self.ground);
        self.fill.handle_image(self.now, self.image);
        self.set(ground);
    }

    fn lose_qemu(&mut self) {
        self.set(Ground::Away);
        self.sent.clear();
        self.start();
    }

    fn lose_monitor(&mut self) {
        let ground = self.ground;
        self.set(Ground::Away);
        self.sent.clear();
        self.set(ground);
    }

    fn drain(&mut self) {
        while let Some(todo) = self.fill.poll_transmit() {
            let refused = |r: bool| if r { Err("no".to_owned()) } else { Ok(()) };
            match todo {
                Do::Tell(command) => self.sent.push_back(command),
                Do::Reserve => {
                    let no = std::mem::take(&mut self.refuses);
                    self.fill.handle_reserved(self.now, refused(no));
                }
                Do::Keep => {
                    let no = std::mem::take(&mut self.refuses);
                    if !no {
                        assert!(self.complete, "called whole before it was flushed");
                        self.recorded = true;
                    }
                    self.fill.handle_kept(self.now, refused(no));
                }
                Do::GiveUp => {}
            }
        }
        if self.ground == Ground::Still && self.fill.is_still() {
            assert!(self.qemu.job.is_none(), "called still while it is copied");
            assert!(!self.sent.contains(&Command::Fill), "called still before it is copied");
        }
        assert_eq!(self.fill.is_whole(), self.recorded);
        assert!(!self.recorded || self.complete);
    }

    /// QEMU does one command.
    fn answer(&mut self, fails: bool) {
        let Some(command) = self.sent.pop_front() else { return };
        let q = &mut self.qemu;
        let done = match command {
            _ if fails => Err("it fails"),
            Command::QueryJob => Ok(json!(
                q.job
                    .map(|done| json!({ "device": FILL, "offset": done, "len": TOTAL }))
                    .into_iter()
                    .collect::<Vec<_>>()
            )),
            Command::QueryNodes => {
                let mut nodes = vec![json!({ "node-name": OVERLAY, "backing_file_depth": u8::from(q.backing) })];
                nodes.extend(q.image.then(|| json!({ "node-name": IMAGE, "backing_file_depth": 0 })));
                Ok(json!(nodes))
            }
            Command::Fill if q.job.is_some() => Err("job ID 'fill' in use"),
            Command::Fill => {
                assert!(self.ground != Ground::Still || !self.fill.is_still());
                q.job = Some(0);
                Ok(json!({}))
            }
            Command::EndFill => match q.job.take() {
                Some(_) => Ok(json!({})),
                None => Err("Block job 'fill' not found"),
            },
            Command::SealDisk => {
                assert!(!q.backing && q.all);
                self.complete = true;
                Ok(json!({}))
            }
            Command::DropImage => {
                assert!(!q.backing && self.recorded);
                match std::mem::take(&mut q.image) {
                    true => Ok(json!({})),
                    false => Err("node not found"),
                }
            }
            other => panic!("{other:?}"),
        };
        match done.map(|v| said(command, &v).unwrap()) {
            Ok(said) => self.fill.handle_said(self.now, said),
            Err(why) => self.fill.handle_failed(self.now, command, why),
        }
        self.drain();
    }

    /// The copying goes on by itself, and ends.
    fn copy(&mut self, fails: bool) {
        let Some(done) = self.qemu.job else { return };
        self.qemu.job = (done + 1 < TOTAL && !fails).then_some(done + 1);
        if self.qemu.job.is_some() {
            return;
        }
        if !fails {
            (self.qemu.backing, self.qemu.all) = (false, true);
        }
        let error = fails.then(|| "No space left on device".to_owned());
        self.fill.handle_said(self.now, Said::Ended(error));
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.fill.handle_timeout(self.now);
        self.drain();
    }

    fn step(&mut self, n: u8) {
        match n {
            0..=19 => self.answer(false),
            20 => self.answer(true),
            21..=30 => self.copy(false),
            31 => self.copy(true),
            32..=36 => self.pass(FILL_LOOK),
            37 => self.pass(FILL_AGAIN),
            38 => self.lose_node(),
            39 => self.lose_qemu(),
            40 => self.lose_monitor(),
            41 => self.set(Ground::Still),
            42 => self.set(Ground::Keep),
            43 => self.set(Ground::Fit),
            44 => {
                self.image = !self.image;
                self.fill.handle_image(self.now, self.image);
                self.drain();
            }
            45 => self.refuses = true,
            _ => {
                self.fill.handle_room(self.now, ByteSize(0));
                self.drain();
            }
        }
    }

    /// Nobody dies any more.
    fn settle(&mut self) {
        (self.image, self.refuses) = (true, false);
        self.fill.handle_image(self.now, true);
        self.set(Ground::Fit);
        for _ in 0..200 {
            self.answer(false);
            self.copy(false);
            self.pass(FILL_LOOK);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn whoever_dies_when_a_disk_is_called_whole_only_if_it_is(steps in proptest::collection::vec(0u8..48, 0..150)) {
        let mut w = World::new();
        w.fill.handle_image(w.now, true);
        w.drain();
        for n in steps {
            w.step(n);
        }
        w.settle();
        prop_assert!(w.recorded && w.fill.is_free() && !w.qemu.image, "{:?}", w.fill);
        w.lose_qemu();
        w.settle();
        prop_assert!(!w.qemu.backing && w.fill.is_free());
    }
}

/// Runs it to the `n`-th thing that happens.
fn to(n: usize) -> World {
    let mut w = World::new();
    w.fill.handle_image(w.now, true);
    w.drain();
    for i in 0..n {
        match i % 3 {
            0 => w.answer(false),
            1 => w.copy(false),
            _ => w.pass(FILL_LOOK),
        }
    }
    w
}

/// One that copies.
fn copying() -> World {
    let mut w = to(0);
    while w.qemu.job.is_none() {
        w.answer(false);
    }
    w
}

#[test]
fn killed_at_each_step_it_goes_on_where_it_was() {
    let end = (0..).find(|n| to(*n).fill.is_free()).unwrap();
    assert!(end < 100, "{end}");
    for n in 0..=end {
        for kill in [World::lose_node, World::lose_qemu, World::lose_monitor] {
            let mut w = to(n);
            kill(&mut w);
            w.settle();
            assert!(w.recorded && w.fill.is_free(), "killed at step {n}: {:?}", w.fill);
        }
    }
}

#[test]
fn an_errand_has_a_still_disk_and_the_copying_goes_on_after_it() {
    let mut w = copying();
    assert!(w.qemu.job.is_some() && !w.fill.is_still());
    w.set(Ground::Still);
    assert_eq!(w.sent, [Command::EndFill]);
    w.answer(false);
    assert!(!w.fill.is_still(), "it is asked what is, first");
    w.pass(FILL_STILL);
    w.answer(false);
    w.answer(false);
    assert!(w.fill.is_still() && w.sent.is_empty());
    w.pass(FILL_AGAIN);
    assert!(w.sent.is_empty());
    w.settle();
    assert!(w.recorded);
}

#[test]
fn a_copying_that_does_not_end_is_given_up_in_time() {
    let mut w = copying();
    w.set(Ground::Still);
    w.sent.clear(); // never answered
    let at = w.fill.poll_timeout().unwrap();
    assert_eq!(at, w.now + FILL_QUIET);
    w.fill.handle_timeout(at);
    assert_eq!(w.fill.poll_transmit(), Some(Do::GiveUp));
    assert_eq!(w.fill.poll_transmit(), None);
}

#[test]
fn a_full_disk_ends_the_copying_says_so_and_is_tried_again() {
    let mut w = copying();
    w.fill.handle_room(w.now, FILL_SPARE);
    assert_eq!(w.fill.note(), None, "that is enough");
    w.fill.handle_room(w.now, ByteSize(FILL_SPARE.0 - 1));
    w.drain();
    assert!(
        w.fill.note().unwrap().contains("only 64.0 MiB left"),
        "{:?}",
        w.fill.note()
    );
    w.answer(false);
    w.pass(FILL_STILL);
    w.answer(false);
    w.answer(false);
    assert!(w.sent.is_empty() && w.qemu.job.is_none());
    w.pass(FILL_AGAIN);
    assert_eq!(w.sent, [Command::Fill]);
    w.answer(false);
    assert_eq!(w.fill.note(), None);
    // The same by QEMU's own word.
    w.copy(true);
    assert!(w.fill.note().unwrap().contains("No space left"), "{:?}", w.fill.note());
    w.settle();
    assert!(w.recorded);
}

#[test]
fn a_guest_that_was_not_asked_for_hears_nothing() {
    let mut fill = Fill::new(false, false);
    let now = Instant::now();
    fill.handle_image(now, true);
    fill.handle_ground(now, Ground::Fit);
    assert_eq!((fill.poll_transmit(), fill.poll_timeout()), (None, None));
    assert!(fill.is_still());
    fill.handle_asked();
    assert_eq!(fill.poll_transmit(), Some(Do::Tell(Command::QueryJob)));
    assert!(!fill.is_still());
}

#[test]
fn what_qemu_says_is_read_and_what_makes_no_sense_is_not() {
    let jobs = json!([{ "device": "other", "offset": 1, "len": 2 }, { "device": "fill", "offset": 3, "len": 4, "type": "stream" }]);
    assert_eq!(
        said(Command::QueryJob, &jobs),
        Some(Said::Job(Some(Copied { done: 3, total: 4 })))
    );
    assert_eq!(said(Command::QueryJob, &json!([])), Some(Said::Job(None)));
    assert_eq!(said(Command::QueryJob, &json!({})), None);
    assert_eq!(
        said(Command::QueryNodes, &json!([{ "node-name": "image" }])),
        None,
        "the disk is missing"
    );
    assert_eq!(said(Command::Cont, &json!({})), None);
    let data = json!({ "device": "fill", "error": "no\u{1b}" });
    assert_eq!(
        event("BLOCK_JOB_COMPLETED", &data),
        Some(Said::Ended(Some("no ".into())))
    );
    assert_eq!(
        event("BLOCK_JOB_CANCELLED", &json!({ "device": "fill" })),
        Some(Said::Ended(None))
    );
    assert_eq!(event("BLOCK_JOB_COMPLETED", &json!({ "device": "other" })), None);
    assert_eq!(event("BLOCK_JOB_READY", &data), None);
}
