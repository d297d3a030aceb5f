use super::*;
use jiff::{civil::date, tz::TimeZone};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Instant,
};
use wire::{ids::GuestId, units::ByteSize};

fn machine() -> Machine {
    Machine {
        cores: 4,
        memory: ByteSize(16 << 30),
        disk: ByteSize(500 << 30),
    }
}

fn compiled(text: &str) -> Compiled {
    Compiled::new(read(text).unwrap_or_else(|e| panic!("{e}; {}", e.fix)), machine()).unwrap()
}

fn refused(text: &str) -> PolicyError {
    match read(text) {
        Err(e) => e,
        Ok(p) => Compiled::new(p, machine()).map(|c| format!("{c:?}")).unwrap_err(),
    }
}

fn guest(n: u8, cpus: u16) -> Asker {
    Asker {
        id: GuestId([n; 16]),
        cpus,
        class: Class::Batch,
        limit: None,
    }
}

const TUE_NOON: Moment = Moment { day: 1, minute: 720 };

/// What a policy says, at noon and at night, with nothing and with each condition holding, for three guests.
fn golden(c: &Compiled) -> String {
    let mut out = String::new();
    let mut guests = [guest(1, 1), guest(2, 2), guest(3, 1)];
    guests[2].class = Class::Interactive;
    let conditional = c.policy.rules.iter().enumerate().filter(|(_, r)| r.is_conditional());
    let mut worlds = vec![("nothing".to_owned(), BTreeSet::new())];
    worlds.extend(conditional.map(|(i, r)| (r.name.clone(), BTreeSet::from([i]))));
    for (when, at) in [("Tue 12:00", TUE_NOON), ("Tue 23:30", Moment { day: 1, minute: 1_410 })] {
        for (what, active) in &worlds {
            let plan = c.plan(at, active);
            writeln!(out, "{when}, {what} holds").unwrap();
            for b in &plan.why {
                writeln!(
                    out,
                    "  {} = {} ({}{})",
                    b.key,
                    b.value,
                    b.by,
                    if b.line > 0 {
                        format!(", line {}", b.line)
                    } else {
                        String::new()
                    }
                )
                .unwrap();
            }
            for s in divide(&plan, &guests) {
                let held = s.held.map(|h| format!(" stands still: {h}")).unwrap_or_default();
                let kind = if s.reserved { " promised" } else { "" };
                writeln!(out, "  guest {}: {} in {:?}{kind}{held}", s.id.0[0], s.cpu, s.period).unwrap();
            }
        }
    }
    out
}

#[test]
fn each_example_compiles_to_its_plan() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/policies");
    let mut texts: Vec<(String, String)> = PRESETS
        .iter()
        .map(|(n, _, t)| (format!("preset-{n}"), (*t).to_owned()))
        .collect();
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().flatten().map(|f| f.path()).collect();
    files.sort();
    for f in files.iter().filter(|f| f.extension().is_some_and(|e| e == "toml")) {
        let name = f.file_stem().unwrap().to_string_lossy().into_owned();
        texts.push((name, std::fs::read_to_string(f).unwrap()));
    }
    assert_eq!(texts.len(), PRESETS.len() + 6);
    for (name, text) in texts {
        let said = golden(&compiled(&text));
        let path = dir.join(format!("{name}.plan"));
        if std::env::var_os("LANLINE_WRITE_PLANS").is_some() {
            std::fs::write(&path, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(said, expected, "{name}; LANLINE_WRITE_PLANS=1 writes it anew");
    }
}

#[test]
fn errors_point_at_line_and_key_and_say_the_fix() {
    let host = |line: &str| format!("[host]\n{line}\n");
    let rule = |lines: &str| format!("[[rule]]\nname = \"r\"\n{lines}\n");
    let cases = [
        (host("cpus = \"10%\""), 2, "cpus", "did you mean cpu?"),
        (host("cpu = \"110%\""), 2, "cpu", "\"25%\""),
        (host("cpu = 50"), 2, "cpu", "\"25%\""),
        (host("memory = \"lots\""), 2, "memory", "4GiB"),
        (host("net_up = \"10MB\""), 2, "net_up", "10Mbit"),
        (host("own_nodes = [\"nas\"]"), 2, "own_nodes", "lanline peers"),
        (host("max_vms = -1"), 2, "max_vms", "from 0 to 1000"),
        (host("smooth = \"5s\""), 2, "smooth", "between"),
        (host("preset = \"rude\""), 2, "preset", "polite"),
        (host("allow = \"a\""), 2, "allow", "[\"one\""),
        (host("slice = \"5ms\""), 2, "slice", "[[rule]]"),
        ("[hots]\n".into(), 1, "hots", "[host]"),
        ("[host]\ncpu = \n".into(), 2, "", "key = value"),
        (
            rule("if_batery = true\naction = \"pause\""),
            3,
            "if_batery",
            "did you mean if_battery?",
        ),
        (rule("action = \"kill\""), 3, "action", "hibernate"),
        (rule("hours = \"25:00-07:00\"\ncpu = \"0%\""), 3, "hours", "22:00-07:00"),
        (rule("days = \"mon-noday\"\ncpu = \"0%\""), 3, "days", "mon-fri"),
        (rule("when = \"solar >\"\ncpu = \"0%\""), 3, "when", "compare"),
        (rule("when = \"solar > 5\"\ncpu = \"0%\""), 1, "when", "sensors ="),
        (rule("hours = \"22:00-07:00\""), 1, "", "add what it sets"),
        (rule("cpu = \"10%\"\nafter = \"5s\""), 1, "after", "remove after"),
        (
            rule("class = \"batch\"\nperiod = \"10ms\"\nslice = \"20ms\""),
            1,
            "slice",
            "period",
        ),
        (rule("period = \"10ms\"\nslice = \"5ms\""), 1, "class", "interactive"),
        (rule("class = \"batch\"\nreserve = true"), 1, "reserve", "period"),
        (
            rule("class = \"batch\"\nperiod = \"10ms\"\nslice = \"5ms\"\nif_battery = true"),
            1,
            "slice",
            "without conditions",
        ),
        (
            rule("class = \"batch\"\nperiod = \"10ms\"\nslice = \"9ms\"\nreserve = true\nmax = 9"),
            1,
            "reserve",
            "4 guests",
        ),
        (
            format!("{}{}", rule("cpu = \"1%\""), rule("cpu = \"2%\"")),
            4,
            "name",
            "its own name",
        ),
    ];
    for (text, line, key, fix) in cases {
        let e = refused(&text);
        assert_eq!(
            (e.line, e.key.as_deref().unwrap_or_default()),
            (line, key),
            "{text}\n{e}"
        );
        assert!(e.fix.contains(fix), "{text}\n{e}: {}", e.fix);
    }
    assert_eq!(refused(&" ".repeat(64 << 10 | 1)).fix, "split or shorten it");
    let many: String = (0..65)
        .map(|i| format!("[[rule]]\nname = \"r{i}\"\ncpu = \"1%\"\n"))
        .collect();
    assert_eq!(refused(&many).fix, "merge some");
}

#[test]
fn a_preset_is_a_beginning_and_a_rule_of_its_name_takes_its_place() {
    let c = compiled(
        "[host]\npreset = \"polite\"\nmax_vms = 1\n[[rule]]\nname = \"busy\"\nif_load_over = \"1 core\"\ncpu = \"1%\"\n",
    );
    assert_eq!((c.policy.host.max_vms, c.policy.host.weight), (1, 10));
    let names: Vec<&str> = c.policy.rules.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["i-am-here", "busy"]);
    assert_eq!(c.policy.rules[1].cpu, Some(Share::Percent(100)));
}

#[test]
fn hours_over_midnight_belong_to_the_day_on_which_they_begin() {
    let c = compiled(
        "[host]\ncpu = \"0%\"\n[[rule]]\nname = \"n\"\ndays = \"fri\"\nhours = \"22:00-07:00\"\ncpu = \"1 core\"\n",
    );
    let cpu = |day, minute| c.plan(Moment { day, minute }, &BTreeSet::new()).cpu.0;
    assert_eq!(
        (cpu(4, 1_319), cpu(4, 1_320), cpu(5, 0), cpu(5, 419), cpu(5, 420)),
        (0, 1_000, 1_000, 1_000, 0)
    );
    assert_eq!((cpu(4, 60), cpu(5, 1_330), cpu(6, 0)), (0, 0, 0));
}

#[test]
fn both_jumps_of_summer_time_are_met() {
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let c = compiled("[host]\ncpu = \"0%\"\n[[rule]]\nname = \"n\"\nhours = \"22:00-02:30\"\ncpu = \"100%\"\n");
    let next = |y, m, d, h, min| {
        let now = date(y, m, d)
            .at(h, min, 0, 0)
            .to_zoned(zone.clone())
            .unwrap()
            .timestamp();
        let then = c.next_change(&zone, now).unwrap();
        (then.as_second() - now.as_second()) / 60
    };
    // 2026-03-29: 02:00 becomes 03:00, so 02:30 does not come; the night ends at the jump's 03:30 of the compatible rule.
    assert_eq!(next(2026, 3, 29, 1, 0), 90);
    // 2026-10-25: 03:00 becomes 02:00; the first 02:30 ends the night.
    assert_eq!(next(2026, 10, 25, 1, 0), 90);
    assert_eq!(next(2026, 7, 1, 12, 0), 600);
    let never = compiled("[host]\ncpu = \"10%\"\n");
    assert_eq!(
        never.next_change(
            &zone,
            date(2026, 7, 1)
                .at(0, 0, 0, 0)
                .to_zoned(zone.clone())
                .unwrap()
                .timestamp()
        ),
        None
    );
}

#[test]
fn expressions_mean_what_they_say() {
    let r: BTreeMap<String, f64> = [("a".to_owned(), 5.0), ("b".to_owned(), 0.0)].into();
    for (text, want) in [
        ("a > 4", Some(true)),
        ("a >= 5 && b == 0", Some(true)),
        ("!(a != 5) || x > 1", Some(true)),
        ("x > 1", None),
        ("x > 1 && a < 1", Some(false)),
        ("a && !b", Some(true)),
        ("-1 < b", Some(true)),
    ] {
        assert_eq!(Expr::read(text).unwrap().eval(&r), want, "{text}");
    }
    for bad in [
        "",
        "a >",
        "a > 1 b",
        "(a > 1",
        "5",
        "a + 1 > 2",
        "a > 1.2.3",
        &"!".repeat(40),
        "a = 1",
    ] {
        assert!(Expr::read(bad).is_err(), "{bad}");
    }
}

#[test]
fn fault_29_spikes_of_a_second_flap_nothing() {
    let c = compiled("[[rule]]\nname = \"busy\"\nif_load_over = \"1 core\"\ncpu = \"10%\"\n");
    let (t0, mut g, mut changes) = (Instant::now(), Governor::new(), 0);
    let mut rng = 0x9e37_79b9_7f4a_7c15_u64;
    for s in 0..3_600 {
        rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let load = if rng >> 62 == 0 { 3.0 } else { 0.1 };
        let r = Readings {
            own_load: Sense::Is(load),
            ..Readings::default()
        };
        changes += u32::from(g.handle_readings(t0 + Duration::from_secs(s), &c.policy, 4, &r));
    }
    assert!(changes <= 1, "{changes} changes in an hour of spikes");
    // A load that lasts is seen after its time, and its end after its own.
    let mut seen = Vec::new();
    let t1 = t0 + Duration::from_secs(10_000);
    let mut g = Governor::default();
    for s in 0..300 {
        let load = if (100..200).contains(&s) { 3.0 } else { 0.1 };
        let r = Readings {
            own_load: Sense::Is(load),
            ..Readings::default()
        };
        if g.handle_readings(t1 + Duration::from_secs(s), &c.policy, 4, &r) {
            seen.push(s);
        }
    }
    assert_eq!(seen, [115, 260]);
}

#[test]
fn what_cannot_be_read_counts_for_the_owner() {
    let c = compiled(
        "[host]\ncpu = \"0%\"\nsensors = \"/x\"\n[[rule]]\nname = \"sun\"\nwhen = \"sun > 1\"\ncpu = \"100%\"\n[[rule]]\nname = \"b\"\nif_battery = true\naction = \"pause\"\n",
    );
    let mut g = Governor::new();
    let r = Readings {
        battery: Sense::Unknown("permission denied".into()),
        ..Readings::default()
    };
    g.handle_readings(Instant::now(), &c.policy, 4, &r);
    assert_eq!(
        g.active(),
        BTreeSet::from([1]),
        "it may be on battery; the sun may not shine"
    );
    assert_eq!(
        g.troubles(),
        [
            (0, "there is no reading of sun".to_owned()),
            (1, "permission denied".to_owned())
        ]
    );
    // A machine that has no battery is not on battery.
    let mut g = Governor::new();
    g.handle_readings(Instant::now(), &c.policy, 4, &Readings::default());
    assert!(g.active().is_empty());
}

#[test]
fn fault_28_a_stricter_policy_shrinks_then_pauses_in_order() {
    let guests = [guest(1, 2), guest(2, 2), guest(3, 2)];
    let cpu = |text: &str| {
        let plan = compiled(text).plan(TUE_NOON, &BTreeSet::new());
        divide(&plan, &guests)
            .into_iter()
            .map(|s| (s.cpu.0, s.held.is_some()))
            .collect::<Vec<_>>()
    };
    assert_eq!(cpu("[host]\ncpu = \"100%\"\n"), [(1_333, false); 3]);
    assert_eq!(cpu("[host]\ncpu = \"30%\"\n"), [(400, false); 3]);
    assert_eq!(
        cpu("[host]\ncpu = \"1%\"\n"),
        [(20, false), (20, false), (0, true)],
        "the youngest stands still"
    );
    assert_eq!(cpu("[host]\ncpu = \"0%\"\n"), [(0, true); 3]);
}

#[test]
fn what_one_cannot_use_others_get_and_promises_come_first() {
    let c = compiled(
        "[host]\ncpu = \"2 cores\"\n[[rule]]\nname = \"i\"\nclass = \"interactive\"\nperiod = \"20ms\"\nslice = \"5ms\"\nreserve = true\nmax = 4\n",
    );
    let plan = c.plan(TUE_NOON, &BTreeSet::new());
    let mut guests = [guest(1, 4), guest(2, 1), guest(3, 2)];
    guests[1].limit = Some(Millicores(100));
    guests[2].class = Class::Interactive;
    let got: Vec<u32> = divide(&plan, &guests).iter().map(|s| s.cpu.0).collect();
    assert_eq!(got, [1_400, 100, 500]);
}

prop_compose! {
    fn any_rule()(name in 0..1_000u32, from in 0..1_440u16, len in 1..1_439u16, cpu in 0..10_000u32, kind in 0..4u8, weight in 1..10_000u32) -> Rule {
        Rule {
            name: name.to_string(),
            hours: (kind < 2).then(|| Hours { from, to: (from + len) % 1_440 }),
            conditions: Conditions { battery: (kind % 2 == 1).then_some(true), ..Conditions::default() },
            cpu: Some(Share::Percent(cpu)),
            weight: Some(weight),
            ..Rule::default()
        }
    }
}

proptest! {
    #[test]
    fn no_plan_breaks_the_owners_budget(
        rules in prop::collection::vec(any_rule(), 0..8),
        host in 0..10_000u32,
        guests in prop::collection::vec((1..9u16, prop::option::of(1..4_000u32), any::<bool>()), 0..20),
        promise in prop::option::of((1..50u64, 1..50u64)),
        minutes in prop::collection::vec((0..7u8, 0..1_440u16), 1..6),
        active in prop::collection::btree_set(0..8usize, 0..8),
    ) {
        let mut policy = Policy { rules, ..Policy::default() };
        policy.host.cpu = Share::Percent(host);
        if let Some((a, b)) = promise {
            policy.rules.push(Rule {
                name: "promise".into(),
                class: Some(Class::Interactive),
                period: Some(Duration::from_millis(a.max(b))),
                slice: Some(Duration::from_millis(a.min(b))),
                reserve: true,
                ..Rule::default()
            });
        }
        // A policy that promises too much does not compile, and none that compiles breaks the budget.
        let Ok(c) = Compiled::new(policy, machine()) else { return Ok(()) };
        let guests: Vec<Asker> = guests.iter().enumerate().map(|(i, (cpus, limit, inter))| Asker {
            id: GuestId([u8::try_from(i).unwrap(); 16]),
            cpus: *cpus,
            class: if *inter { Class::Interactive } else { Class::Batch },
            limit: limit.map(Millicores),
        }).collect();
        for (day, minute) in minutes {
            let plan = c.plan(Moment { day, minute }, &active);
            let tight = active.iter().filter_map(|i| c.policy.rules.get(*i)).filter(|r| r.tightens() && r.hours.is_none());
            let bound = tight.filter_map(|r| r.cpu).map(|s| s.of(4)).fold(c.most(), Ord::min);
            prop_assert!(plan.cpu <= bound, "{:?} over {bound:?}", plan.cpu);
            let slices = divide(&plan, &guests);
            prop_assert_eq!(slices.len(), guests.len());
            let sum: u64 = slices.iter().map(|s| u64::from(s.cpu.0)).sum();
            prop_assert!(sum <= u64::from(plan.cpu.0), "{sum} of {:?}", plan.cpu);
            for (s, g) in slices.iter().zip(&guests) {
                prop_assert!(s.cpu.0 <= u32::from(g.cpus) * 1_000 && g.limit.is_none_or(|l| s.cpu <= l));
                prop_assert!(s.cpu <= s.most && s.most <= plan.cpu);
                prop_assert_eq!(s.held.is_some(), s.cpu.0 == 0);
            }
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "(\\[host\\]\n|\\[\\[rule\\]\\]\n|name|cpu|hours|when|if_battery| = |\"[0-9a-z%:.-]{0,8}\"|\n|[\\x00-\\x7f]){0,40}") {
        let _ = read(&text).map(|p| Compiled::new(p, machine()));
    }
}
