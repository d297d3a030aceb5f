use super::*;
use crate::defaults::{ADOPT_DEADLINE, QUIT_GRACE, START_DEADLINE, STOP_GRACE};
use proptest::prelude::*;
use std::time::Duration;

fn fetched() -> Guest {
    Guest::resting(Resting::new(GuestState::Fetching, None), Graces::default())
}

/// Drains the machine: what it wants done, and its news.
fn drain(guest: &mut Guest) -> (Vec<Do>, Vec<News>) {
    let (mut todo, mut news) = (Vec::new(), Vec::new());
    while let Some(n) = guest.poll_event() {
        news.push(n);
    }
    while let Some(d) = guest.poll_transmit() {
        todo.push(d);
    }
    (todo, news)
}

fn running(now: Instant) -> Guest {
    let mut g = fetched();
    g.handle_verb(now, Verb::Start).unwrap();
    assert_eq!(drain(&mut g).0, [Do::Persist, Do::Spawn]);
    g.handle_spawned(now, Ok(()));
    g.handle_monitor(now, Monitor::Status(RunState::Prelaunch));
    assert_eq!(drain(&mut g).0, [Do::Tell(Command::Cont)]);
    g.handle_monitor(now, Monitor::Resumed);
    let (todo, news) = drain(&mut g);
    assert_eq!(
        (todo, news),
        (
            vec![Do::Persist],
            vec![News::Changed(GuestState::Running), News::Started]
        )
    );
    assert_eq!(g.poll_timeout(), None);
    g
}

fn clean() -> Exit {
    Exit {
        status: Some("exit status 0".into()),
        clean: true,
        log: String::new(),
    }
}

fn report(news: &[News]) -> Option<StopReport> {
    news.iter()
        .find_map(|n| if let News::Stopped(r) = n { Some(*r) } else { None })
}

#[test]
fn a_guest_that_obeys_is_asked_and_then_let_go() {
    let now = Instant::now();
    let mut g = running(now);
    g.handle_verb(now, Verb::Stop { force: false }).unwrap();
    assert_eq!(drain(&mut g).0, [Do::Persist, Do::Tell(Command::Powerdown)]);
    assert!(g.is_stopping());
    g.handle_monitor(now, Monitor::Shutdown { guest: true });
    assert_eq!(drain(&mut g).0, [Do::Tell(Command::Quit)]);
    let later = now + Duration::from_millis(1_500);
    g.handle_exit(later, clean());
    let (todo, news) = drain(&mut g);
    assert_eq!(todo, [Do::Persist, Do::Forget]);
    assert_eq!(
        report(&news),
        Some(StopReport {
            how: StopHow::Obeyed,
            took_ms: 1_500
        })
    );
    assert_eq!((g.state(), g.note()), (GuestState::Stopped, None));
}

#[test]
fn powerdown_then_quit_then_kill_each_after_its_grace() {
    let now = Instant::now();
    let mut g = running(now);
    g.handle_verb(now, Verb::Stop { force: false }).unwrap();
    drain(&mut g);
    for (grace, reason, todo) in [
        (STOP_GRACE, Reason::Powerdown, Do::Tell(Command::Quit)),
        (QUIT_GRACE, Reason::Quit, Do::Kill),
    ] {
        let (at, r) = g.poll_timeout().unwrap();
        assert!(r == reason && at >= now + grace, "{r:?}");
        g.handle_timeout(at - Duration::from_millis(1));
        assert_eq!(drain(&mut g).0, []);
        g.handle_timeout(at);
        assert_eq!(drain(&mut g).0, [todo]);
    }
    let mut stuck = running(now);
    stuck.handle_verb(now, Verb::Stop { force: true }).unwrap();
    while let Some((at, _)) = stuck.poll_timeout() {
        stuck.handle_timeout(at);
    }
    let (_, news) = drain(&mut stuck);
    assert!(
        matches!(news[..], [.., News::StopFailed(_), News::Changed(GuestState::Error)]),
        "{news:?}"
    );

    g.handle_exit(
        now,
        Exit {
            status: Some("killed by signal 9".into()),
            ..Exit::default()
        },
    );
    assert_eq!(report(&drain(&mut g).1).unwrap().how, StopHow::Killed);
    assert_eq!(g.state(), GuestState::Stopped);
}

#[test]
fn an_end_by_itself_is_a_crash_and_an_end_in_order_is_not() {
    let now = Instant::now();
    let mut g = running(now);
    g.handle_exit(
        now,
        Exit {
            status: Some("killed by signal 11".into()),
            clean: false,
            log: "bad thing".into(),
        },
    );
    assert_eq!(g.state(), GuestState::Crashed);
    assert_eq!(
        g.note(),
        Some("QEMU ended by itself (killed by signal 11); it said: bad thing")
    );

    let mut g = running(now);
    g.handle_monitor(now, Monitor::Shutdown { guest: true });
    drain(&mut g);
    assert!(!g.is_stopping(), "nobody asked");
    g.handle_exit(now, clean());
    assert_eq!(
        (g.state(), g.note()),
        (GuestState::Stopped, Some("the guest shut itself down"))
    );
    assert_eq!(report(&drain(&mut g).1), None);
}

#[test]
fn a_start_that_fails_says_so_once() {
    let now = Instant::now();
    let failures = |g: &mut Guest| {
        drain(g)
            .1
            .into_iter()
            .filter(|n| matches!(n, News::StartFailed(_)))
            .count()
    };
    let mut g = fetched();
    g.handle_verb(now, Verb::Start).unwrap();
    g.handle_spawned(now, Err("no such file".into()));
    assert_eq!(
        (failures(&mut g), g.state(), g.note()),
        (1, GuestState::Crashed, Some("no such file"))
    );

    let mut g = fetched();
    g.handle_verb(now, Verb::Start).unwrap();
    g.handle_spawned(now, Ok(()));
    let (at, reason) = g.poll_timeout().unwrap();
    assert_eq!((at, reason), (now + START_DEADLINE, Reason::Start));
    g.handle_timeout(at);
    assert_eq!(drain(&mut g).0.last(), Some(&Do::Kill), "the monitor never answered");
    g.handle_exit(at, Exit::default());
    assert_eq!((failures(&mut g), g.state()), (1, GuestState::Crashed));
    assert!(g.note().unwrap().contains("within 60 s"), "{:?}", g.note());
    assert_eq!(g.handle_verb(at, Verb::Start), Ok(()), "and can be tried again");
}

#[test]
fn a_disk_that_fails_holds_the_guest_until_it_goes_on() {
    let now = Instant::now();
    let mut g = running(now);
    g.handle_monitor(now, Monitor::DiskError { no_space: true });
    assert_eq!(g.state(), GuestState::Paused);
    assert!(g.note().unwrap().contains("disk is full"));
    drain(&mut g);
    for _ in 0..11 {
        let (at, reason) = g.poll_timeout().unwrap();
        assert_eq!(reason, Reason::Resume);
        g.handle_timeout(at);
        assert_eq!(drain(&mut g).0, [Do::Tell(Command::Cont)]);
        g.handle_monitor(at, Monitor::Status(RunState::IoError));
        assert_eq!(drain(&mut g), (vec![], vec![]), "nothing new to tell or to write");
    }
    g.handle_monitor(now, Monitor::Resumed);
    assert_eq!(
        (g.state(), g.note(), g.poll_timeout()),
        (GuestState::Running, None, None)
    );
}

#[test]
fn a_monitor_that_is_lost_is_an_error_in_time_and_heals() {
    let now = Instant::now();
    let mut g = running(now);
    g.handle_monitor(now, Monitor::Lost);
    assert_eq!(g.state(), GuestState::Running);
    let (at, reason) = g.poll_timeout().unwrap();
    assert_eq!(reason, Reason::Monitor);
    g.handle_timeout(at);
    assert_eq!(g.state(), GuestState::Error);
    assert_eq!(g.handle_verb(at, Verb::Start), Err(Denied::NotAnswering));
    assert_eq!(
        g.handle_verb(at, Verb::Stop { force: false }),
        Err(Denied::NotAnswering)
    );
    drain(&mut g);
    g.handle_monitor(at, Monitor::Status(RunState::Running));
    assert_eq!(g.state(), GuestState::Running);
    g.handle_monitor(at, Monitor::Lost);
    g.handle_timeout(at + ADOPT_DEADLINE);
    drain(&mut g);
    g.handle_verb(at, Verb::Stop { force: true }).unwrap();
    assert_eq!(drain(&mut g).0, [Do::Persist, Do::Kill]);
}

#[test]
fn adoption_follows_what_the_monitor_says() {
    let now = Instant::now();
    let adopt = |state, says| {
        let mut g = Guest::adopted(now, Resting::new(state, None), Graces::default());
        g.handle_monitor(now, Monitor::Status(says));
        let todo = drain(&mut g).0;
        (g.state(), todo)
    };
    assert_eq!(
        adopt(GuestState::Running, RunState::Running),
        (GuestState::Running, vec![])
    );
    assert_eq!(
        adopt(GuestState::Starting, RunState::Prelaunch).1,
        [Do::Tell(Command::Cont)]
    );
    assert_eq!(
        adopt(GuestState::Starting, RunState::Running),
        (GuestState::Running, vec![Do::Persist])
    );
    assert_eq!(
        adopt(GuestState::Running, RunState::Shutdown).1,
        [Do::Tell(Command::Quit)]
    );
    assert_eq!(adopt(GuestState::Running, RunState::Paused).0, GuestState::Paused);
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Verb(Verb),
    /// The process does what it was last told, or what it likes.
    Greet(u8),
    Resume,
    Hold,
    GuestShutdown,
    Reboot,
    Vanish(bool),
    Lose,
    CommandFails(u8),
    /// The driver is done with what it does beside.
    ErrandEnds(bool),
    /// The node is killed, and a new one finds the guest.
    NodeRestarts,
    /// Time passes to the next timer.
    Tick,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => Just(Act::Verb(Verb::Start)),
        2 => any::<bool>().prop_map(|force| Act::Verb(Verb::Stop { force })),
        1 => Just(Act::Verb(Verb::Remove)),
        2 => Just(Act::Verb(Verb::Pause)),
        2 => Just(Act::Verb(Verb::Resume)),
        3 => Just(Act::Verb(Verb::Hibernate)),
        2 => any::<bool>().prop_map(|memory| Act::Verb(Verb::Copy { memory })),
        1 => Just(Act::Verb(Verb::RollBack)),
        4 => proptest::bool::weighted(0.8).prop_map(Act::ErrandEnds),
        1 => Just(Act::NodeRestarts),
        4 => (0u8..7).prop_map(Act::Greet),
        3 => Just(Act::Resume),
        1 => Just(Act::Hold),
        1 => Just(Act::GuestShutdown),
        1 => Just(Act::Reboot),
        2 => any::<bool>().prop_map(Act::Vanish),
        1 => Just(Act::Lose),
        1 => (0u8..5).prop_map(Act::CommandFails),
        3 => Just(Act::Tick),
    ];
    proptest::collection::vec(act, 1..80)
}

/// A model of the world around the machine: whether a process lives, what was persisted, what is owed to callers.
#[derive(Default)]
struct World {
    alive: bool,
    deleted: bool,
    spawns_fail: bool,
    persisted_since_verb: bool,
    starts_owed: usize,
    stops_owed: usize,
    /// Pauses, resumes, hibernations, copies and roll-backs of which the end is not told.
    owed: [usize; 5],
    /// What the driver does beside.
    job: Option<Do>,
    /// As the record on disk has it.
    record: Option<Resting>,
    /// A memory is on disk, whatever the record says.
    memory: bool,
}

fn owed_by(verb: Verb) -> Option<usize> {
    Some(match verb {
        Verb::Pause => 0,
        Verb::Resume => 1,
        Verb::Hibernate => 2,
        Verb::Copy { .. } => 3,
        Verb::RollBack => 4,
        _ => return None,
    })
}

fn told_by(news: &News) -> Option<usize> {
    Some(match news {
        News::Paused(_) => 0,
        News::Resumed(_) => 1,
        News::Hibernated(_) => 2,
        News::Copied(_) => 3,
        News::RolledBack(_) => 4,
        _ => return None,
    })
}

impl World {
    fn step(&mut self, g: &mut Guest, now: &mut Instant, act: Act) {
        match act {
            Act::Verb(verb) => self.verb(g, *now, verb),
            Act::Greet(n) if self.alive => {
                let states = [
                    RunState::Running,
                    RunState::Prelaunch,
                    RunState::Paused,
                    RunState::IoError,
                    RunState::Shutdown,
                    RunState::InternalError,
                    RunState::Other("colo".into()),
                ];
                g.handle_monitor(*now, Monitor::Status(states[usize::from(n)].clone()));
            }
            Act::Resume if self.alive => g.handle_monitor(*now, Monitor::Resumed),
            Act::Hold if self.alive => g.handle_monitor(*now, Monitor::Held),
            Act::GuestShutdown if self.alive => g.handle_monitor(*now, Monitor::Shutdown { guest: true }),
            Act::Reboot if self.alive => g.handle_monitor(*now, Monitor::Rebooted),
            Act::Lose if self.alive => g.handle_monitor(*now, Monitor::Lost),
            Act::CommandFails(n) if self.alive => {
                let commands = [
                    Command::Cont,
                    Command::Powerdown,
                    Command::Quit,
                    Command::QueryStatus,
                    Command::Stop,
                ];
                g.handle_monitor(
                    *now,
                    Monitor::Failed {
                        command: commands[usize::from(n)],
                        why: "x".into(),
                    },
                );
            }
            Act::ErrandEnds(well) => self.end_job(g, *now, well),
            Act::NodeRestarts => self.restart(g, *now),
            Act::Vanish(clean) if self.alive => {
                self.alive = false;
                self.job = None;
                g.handle_exit(
                    *now,
                    Exit {
                        status: None,
                        clean,
                        log: String::new(),
                    },
                );
            }
            Act::Tick => {
                if let Some((at, _)) = g.poll_timeout() {
                    *now = at.max(*now);
                    g.handle_timeout(*now);
                }
            }
            _ => {}
        }
    }

    fn verb(&mut self, g: &mut Guest, now: Instant, verb: Verb) {
        let before = g.state();
        self.persisted_since_verb = false;
        if g.handle_verb(now, verb).is_err() {
            return;
        }
        match verb {
            Verb::Start if g.state() == GuestState::Starting && before != GuestState::Starting => self.starts_owed = 1,
            Verb::Stop { .. } => self.stops_owed = 1,
            _ => {}
        }
        if let Some(i) = owed_by(verb) {
            self.owed[i] = 1;
        }
    }

    fn end_job(&mut self, g: &mut Guest, now: Instant, well: bool) {
        let result = if well { Ok(()) } else { Err("no".to_owned()) };
        match self.job.take() {
            Some(Do::Save) => {
                self.memory |= well;
                g.handle_saved(now, result);
            }
            Some(Do::Load) => g.handle_loaded(now, result),
            Some(Do::Copy { .. }) => g.handle_copied(result),
            Some(Do::RollBack) => {
                self.memory |= well;
                g.handle_rolled_back(result.map(|()| true), well || g.is_saved());
            }
            _ => {}
        }
    }

    /// Nothing is known but the record, and whether there is a process.
    fn restart(&mut self, g: &mut Guest, now: Instant) {
        let Some(at) = self.record.clone().filter(|_| !self.deleted && !g.is_removing()) else {
            return;
        };
        self.job = None;
        self.owed = [0; 5];
        (self.starts_owed, self.stops_owed) = (0, 0);
        let alive = self.alive;
        *g = match (alive, at.saved) {
            (true, _) => Guest::adopted(now, at, Graces::default()),
            (false, true) => Guest::resting(
                Resting {
                    saved: true,
                    ..Resting::new(GuestState::Hibernated, None)
                },
                Graces::default(),
            ),
            (false, false) if at.state == GuestState::Fetching => return,
            (false, false) => Guest::resting(Resting::new(GuestState::Crashed, None), Graces::default()),
        };
    }

    /// Does what the machine asks, as its driver would, and holds it to its invariants.
    fn drive(&mut self, g: &mut Guest, now: Instant) {
        for round in 0.. {
            assert!(round < MAX_ROUNDS, "the machine never gets quiet");
            let (todo, news) = drain(g);
            if todo.is_empty() && news.is_empty() {
                break;
            }
            for n in news {
                match n {
                    News::Started | News::StartFailed(_) => self.starts_owed = self.starts_owed.saturating_sub(1),
                    News::Stopped(_) | News::StopFailed(_) => self.stops_owed = 0,
                    _ => {}
                }
                if let Some(i) = told_by(&n) {
                    self.owed[i] = 0;
                }
            }
            for d in todo {
                assert!(!self.deleted, "something is done with a deleted guest: {d:?}");
                match d {
                    Do::Persist => {
                        self.persisted_since_verb = true;
                        assert!(!g.is_saved() || self.memory, "a record of memory that is not there");
                        self.record = Some(Resting {
                            state: g.state(),
                            note: None,
                            held: g.is_held(),
                            saving: g.is_saving(),
                            saved: g.is_saved(),
                            moving: g.is_moving(),
                            warm: false,
                            rebooting: g.is_rebooting(),
                        });
                    }
                    Do::Save | Do::Load => {
                        assert!(self.alive && self.job.is_none(), "{d:?} beside {:?}", self.job);
                        self.job = Some(d);
                    }
                    Do::Copy { .. } | Do::RollBack => {
                        assert!(self.job.is_none() && (d != Do::RollBack || !self.alive));
                        self.job = Some(d);
                    }
                    Do::DropSaved => {
                        let told = self.record.as_ref().is_some_and(|r| r.saved);
                        assert!(!told, "dropped while the record counts on it");
                        self.memory = false;
                    }
                    Do::Spawn => {
                        assert!(!self.alive, "invariant 1: a second process");
                        assert!(self.persisted_since_verb, "invariant 2: spawn");
                        self.alive = !self.spawns_fail;
                        let result = if self.spawns_fail { Err("no".into()) } else { Ok(()) };
                        g.handle_spawned(now, result);
                    }
                    Do::Tell(Command::Cont) => {
                        assert!(self.alive);
                        let told = self.record.as_ref().is_some_and(|r| r.saved);
                        assert!(!told, "invariant 6: CPUs run beside saved memory");
                    }
                    Do::Tell(_) | Do::Kill => assert!(self.alive, "{d:?} without a process"),
                    Do::Forget => assert!(!self.alive),
                    Do::Delete => {
                        assert!(!self.alive, "deleted under a living process");
                        self.deleted = true;
                        self.job = None;
                        g.handle_deleted(Ok(()));
                    }
                }
            }
        }
        self.check(g);
    }

    fn check(&self, g: &Guest) {
        assert_eq!(g.has_process(), self.alive);
        match g.state() {
            GuestState::Running | GuestState::Paused | GuestState::Starting => assert!(self.alive, "invariant 3"),
            GuestState::Fetching | GuestState::Stopped | GuestState::Crashed => assert!(!self.alive, "invariant 3"),
            GuestState::Hibernated => assert!(g.is_saved() && self.memory && !self.alive, "{g:?}"),
            _ => {}
        }
        if !self.alive && self.job.is_none() {
            assert_eq!(self.owed, [0; 5], "an end that is never told: {g:?}");
        }
        if self.stops_owed > 0 || self.starts_owed > 0 {
            assert!(g.poll_timeout().is_some(), "invariant 4: {g:?}");
        }
    }
}

const MAX_ROUNDS: usize = 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn any_life_keeps_the_invariants(acts in acts(), spawns_fail in proptest::bool::weighted(0.1)) {
        let mut now = Instant::now();
        let mut g = fetched();
        let mut world = World { spawns_fail, ..World::default() };
        for act in acts {
            if world.deleted {
                break;
            }
            world.step(&mut g, &mut now, act);
            world.drive(&mut g, now);
        }
        // However it stands, a forced stop or a removal ends it once the process obeys.
        if !world.deleted {
            world.verb(&mut g, now, Verb::Remove);
            world.drive(&mut g, now);
            if world.alive {
                world.step(&mut g, &mut now, Act::Vanish(true));
                world.drive(&mut g, now);
            }
            prop_assert!(world.deleted, "{:?}", g);
        }
    }
}

/// A guest that runs while its image's memory comes.
fn arriving(now: Instant) -> Guest {
    let mut g = fetched();
    assert!(g.handle_warm() && g.handle_warm(), "said again it is the same");
    g.handle_verb(now, Verb::Start).unwrap();
    g.handle_spawned(now, Ok(()));
    drain(&mut g);
    g.handle_monitor(now, Monitor::Status(RunState::Prelaunch));
    assert_eq!(drain(&mut g).0, [Do::Load]);
    g.handle_later();
    g.handle_loaded(now, Ok(()));
    assert_eq!(drain(&mut g).0, [Do::Persist, Do::Tell(Command::Cont)]);
    g.handle_monitor(now, Monitor::Resumed);
    drain(&mut g);
    assert_eq!(
        (g.state(), g.is_saved(), g.is_kept()),
        (GuestState::Running, false, true)
    );
    g
}

#[test]
fn memory_of_an_image_is_kept_until_all_of_it_has_come() {
    let now = Instant::now();
    let mut g = arriving(now);
    for verb in [
        Verb::Hibernate,
        Verb::Copy { memory: true },
        Verb::Copy { memory: false },
    ] {
        assert_eq!(g.handle_verb(now, verb), Err(Denied::Arriving));
    }
    g.handle_whole(now, Ok(()));
    assert_eq!(drain(&mut g).0, [Do::Persist, Do::DropSaved]);
    assert!(!g.is_kept() && g.handle_verb(now, Verb::Hibernate).is_ok());
    assert!(!arriving(now).handle_warm(), "a guest that runs begins with nothing");

    // It ends by itself: it begins again.
    let mut g = arriving(now);
    g.handle_exit(now, clean());
    assert_eq!((g.state(), g.is_saved()), (GuestState::Hibernated, true));
    assert!(g.note().unwrap().contains("begins again"));
    assert!(g.handle_verb(now, Verb::Copy { memory: false }) == Err(Denied::Arriving) && g.handle_warm());

    // Its memory does not come: it is ended, and begins again.
    let mut g = arriving(now);
    g.handle_whole(now, Err("cut".into()));
    assert_eq!(drain(&mut g).0, [Do::Tell(Command::Quit)]);
    g.handle_exit(now, clean());
    assert_eq!((g.state(), g.is_saved()), (GuestState::Hibernated, true));

    // It was to end: its disk is what is left of it.
    let mut g = arriving(now);
    g.handle_verb(now, Verb::Stop { force: true }).unwrap();
    g.handle_exit(now, clean());
    assert!(drain(&mut g).0.contains(&Do::DropSaved));
    assert_eq!((g.state(), g.is_kept()), (GuestState::Stopped, false));
    assert!(!g.handle_warm(), "it has a disk of its own by now");
}

#[test]
fn a_guest_that_reboots_without_a_kernel_waits_for_one() {
    let now = Instant::now();
    let mut g = arriving(now);
    g.handle_monitor(now, Monitor::Rebooted);
    assert_eq!(drain(&mut g).0, [Do::Persist, Do::DropSaved, Do::Tell(Command::Quit)]);
    assert!(g.is_rebooting() && !g.is_kept() && !g.is_stopping());
    g.handle_exit(now, clean());
    assert_eq!((g.state(), g.is_saved()), (GuestState::Stopped, false));
    assert!(g.note().unwrap().contains("reboots") && g.is_rebooting() && !g.handle_warm());
    drain(&mut g);
    g.handle_verb(now, Verb::Start).unwrap();
    assert_eq!(drain(&mut g).0, [Do::Persist, Do::Spawn]);
    assert!(!g.is_rebooting());

    // Stopped while it waits, or while it is ended: it stays stopped.
    for late in [true, false] {
        let mut g = arriving(now);
        g.handle_monitor(now, Monitor::Rebooted);
        drain(&mut g);
        if late {
            g.handle_exit(now, clean());
        }
        g.handle_verb(now, Verb::Stop { force: false }).unwrap();
        if !late {
            g.handle_exit(now, clean());
        }
        assert!(drain(&mut g).1.iter().any(|n| matches!(n, News::Stopped(_))));
        assert!((g.state(), g.note()) == (GuestState::Stopped, None) && !g.is_rebooting());
    }

    // A node comes back while the process is being ended.
    let at = Resting {
        rebooting: true,
        ..Resting::new(GuestState::Running, None)
    };
    let mut g = Guest::adopted(now, at, Graces::default());
    g.handle_monitor(now, Monitor::Status(RunState::Shutdown));
    g.handle_exit(now, clean());
    assert!(g.is_rebooting() && g.state() == GuestState::Stopped);
}

#[test]
fn a_node_that_finds_a_guest_without_all_its_memory_ends_it() {
    let now = Instant::now();
    let at = Resting {
        saved: true,
        warm: true,
        ..Resting::new(GuestState::Running, None)
    };
    let mut g = Guest::adopted(now, at, Graces::default());
    assert!(
        drain(&mut g)
            .0
            .iter()
            .any(|d| matches!(d, Do::Kill | Do::Tell(Command::Quit)))
    );
    g.handle_exit(now, clean());
    assert_eq!((g.state(), g.is_saved()), (GuestState::Hibernated, true));
    assert!(g.handle_warm());
}
