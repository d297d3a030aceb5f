//! How exactly each mechanism holds guests to their slices, and what the owner's own job loses under the polite preset.
//! Prints a page of Markdown. `cargo xtask bench policy` runs it and keeps the page.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement starts processes, reads clocks, prints a page, and stops at the first surprise"
)]

use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use vm::{
    enforce::Backend,
    io::{Enforcer, EnforcerConfig, Order, cpu_time},
    policy::{
        Asker, Class, Compiled, EnforcerChoice, Governor, Millicores, Moment, Plan, Readings, Sense, Slice, divide,
        read,
    },
};
use wire::{ids::GuestId, units::ByteSize};

const WINDOW: Duration = Duration::from_secs(10);
const WINDOWS: usize = 3;
const SHARES: [u32; 3] = [100, 250, 500];

/// A process that wants all of a processor, under the name of a virtual processor's thread.
struct Busy(Child);

impl Busy {
    fn new(args: &[&str]) -> Self {
        let me = std::env::current_exe().unwrap();
        Self(Command::new(me).args(args).stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spin() -> ! {
    let spinner = std::thread::Builder::new().name("CPU 0/TCG".into()).spawn(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    spinner.unwrap().join().unwrap()
}

/// The owner's job: a fixed amount of work on so many threads.
fn work(threads: usize, rounds: u64) -> Duration {
    let t0 = Instant::now();
    let all: Vec<_> = (0..threads)
        .map(|_| {
            std::thread::spawn(move || {
                let mut x = 1u64;
                for i in 0..rounds {
                    x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i));
                }
            })
        })
        .collect();
    all.into_iter().for_each(|t| t.join().unwrap());
    t0.elapsed()
}

fn machine() -> vm::policy::Machine {
    vm::io::machine(std::path::Path::new("/"))
}

fn plan(text: &str, active: &BTreeSet<usize>) -> Plan {
    let c = Compiled::new(read(text).unwrap(), machine()).unwrap();
    c.plan(Moment { day: 0, minute: 720 }, active)
}

fn order(busy: &Busy, slice: Slice) -> Order {
    Order {
        pid: busy.pid(),
        cpus: 1,
        memory: ByteSize(256 << 20),
        slice,
    }
}

fn own(enforcer: EnforcerChoice) -> &'static str {
    match enforcer {
        EnforcerChoice::Deadline => "deadline",
        EnforcerChoice::Cgroup => "cgroup",
        EnforcerChoice::Sigstop | EnforcerChoice::Auto => "sigstop",
    }
}

struct Cell {
    backend: Backend,
    contended: bool,
    period_ms: u64,
    target: u32,
    /// Of each window, in points.
    errors: Vec<f64>,
}

/// Three guests at once, with three targets.
fn measure(e: &Enforcer, wanted: EnforcerChoice, period_ms: u64, contended: bool, out: &mut Vec<Cell>) {
    let plan = plan(&format!("[host]\nenforcer = \"{}\"\n", own(wanted)), &BTreeSet::new());
    let hogs = if contended { usize::from(machine().cores) * 2 } else { 0 };
    let _hogs: Vec<Busy> = (0..hogs).map(|_| Busy::new(&["spin"])).collect();
    let guests: Vec<Busy> = SHARES.iter().map(|_| Busy::new(&["spin"])).collect();
    std::thread::sleep(Duration::from_millis(300));
    let orders: Vec<Order> = guests
        .iter()
        .zip(SHARES)
        .enumerate()
        .map(|(i, (g, share))| {
            let id = GuestId([u8::try_from(i).unwrap() + 1; 16]);
            let (cpu, period) = (Millicores(share), Duration::from_millis(period_ms));
            order(
                g,
                Slice {
                    id,
                    cpu,
                    most: cpu,
                    period,
                    reserved: false,
                    held: None,
                },
            )
        })
        .collect();
    e.apply(&plan, &orders);
    std::thread::sleep(Duration::from_secs(1));
    let backend = e.held(orders[0].slice.id).unwrap().backend;
    let mut errors = vec![Vec::new(); SHARES.len()];
    for _ in 0..WINDOWS {
        let before: Vec<u64> = guests.iter().map(|g| cpu_time(g.pid()).unwrap()).collect();
        let t0 = Instant::now();
        std::thread::sleep(WINDOW);
        let wall = t0.elapsed().as_secs_f64();
        for (i, g) in guests.iter().enumerate() {
            let used = (cpu_time(g.pid()).unwrap() - before[i]) as f64 / 1e9;
            errors[i].push((used / wall - f64::from(SHARES[i]) / 1e3) * 100.0);
        }
    }
    e.apply(&plan, &[]);
    for (target, errors) in SHARES.into_iter().zip(errors) {
        out.push(Cell {
            backend,
            contended,
            period_ms,
            target,
            errors,
        });
    }
}

/// How much longer the owner's job takes beside two guests that want everything, under the preset, while somebody is there.
fn slowdown(e: &Enforcer, wanted: EnforcerChoice, threads: usize, rounds: u64) -> (Backend, f64, f64) {
    let text = format!("[host]\npreset = \"polite\"\nenforcer = \"{}\"\n", own(wanted));
    let c = Compiled::new(read(&text).unwrap(), machine()).unwrap();
    let mut governor = Governor::new();
    let here = Readings {
        idle: Sense::Is(Duration::ZERO),
        own_load: Sense::Is(threads as f64),
        ..Readings::default()
    };
    governor.handle_readings(Instant::now(), &c.policy, machine().cores, &here);
    let plan = c.plan(Moment { day: 0, minute: 720 }, &governor.active());
    let (mut alone, mut beside, mut wild) = (Vec::new(), Vec::new(), Vec::new());
    let mut backend = Backend::Sigstop;
    for _ in 0..3 {
        alone.push(work(threads, rounds).as_secs_f64());
        let guests = [Busy::new(&["spin"]), Busy::new(&["spin"])];
        let askers: Vec<Asker> = (1..3u8)
            .map(|n| Asker {
                id: GuestId([n; 16]),
                cpus: 1,
                class: Class::Batch,
                limit: None,
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        wild.push(work(threads, rounds).as_secs_f64());
        let orders: Vec<Order> = guests
            .iter()
            .zip(divide(&plan, &askers))
            .map(|(g, s)| order(g, s))
            .collect();
        e.apply(&plan, &orders);
        std::thread::sleep(Duration::from_millis(700));
        beside.push(work(threads, rounds).as_secs_f64());
        backend = e.held(askers[0].id).unwrap().backend;
        e.apply(&plan, &[]);
    }
    let median = |v: &mut Vec<f64>| {
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    let base = median(&mut alone);
    (
        backend,
        (median(&mut beside) / base - 1.0) * 100.0,
        (median(&mut wild) / base - 1.0) * 100.0,
    )
}

fn thread_cpu() -> f64 {
    // What this process used: the loop of SIGSTOP is in it, and nothing else that runs meanwhile.
    cpu_time(std::process::id()).unwrap() as f64 / 1e9
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("spin") {
        spin();
    }
    let name = format!("lanline-bench-{}", std::process::id());
    let e = Enforcer::new(&EnforcerConfig { root: "/".into(), name });
    let mut cells = Vec::new();
    let mut cost = Vec::new();
    for wanted in [
        EnforcerChoice::Deadline,
        EnforcerChoice::Cgroup,
        EnforcerChoice::Sigstop,
    ] {
        for contended in [false, true] {
            eprintln!("· {wanted:?}, contended: {contended}");
            let (t0, c0) = (Instant::now(), thread_cpu());
            measure(&e, wanted, 100, contended, &mut cells);
            if wanted == EnforcerChoice::Sigstop {
                cost.push((thread_cpu() - c0) / t0.elapsed().as_secs_f64() * 100.0);
            }
        }
    }
    let rounds = {
        let probe = 20_000_000;
        let one = work(1, probe).as_secs_f64();
        (probe as f64 * 4.0 / one) as u64
    };
    let cores = usize::from(machine().cores);
    let mut slow = Vec::new();
    for wanted in [EnforcerChoice::Cgroup, EnforcerChoice::Sigstop] {
        for threads in [1, cores] {
            eprintln!("· the owner's job on {threads} threads, {wanted:?}");
            slow.push((threads, slowdown(&e, wanted, threads, rounds)));
        }
    }
    e.release_all();
    page(&e, &cells, &cost, &slow);
}

fn page(e: &Enforcer, cells: &[Cell], cost: &[f64], slow: &[(usize, (Backend, f64, f64))]) {
    println!("# How exactly guests are held\n");
    println!(
        "Made by `cargo xtask bench policy` on a machine with {} processors. Three processes that each want a whole processor are",
        machine().cores
    );
    println!(
        "held at once, to 10, 25 and 50 % of one, with a period of 100 ms; what they used is read from the kernel's clock of the process over {WINDOWS} windows",
    );
    println!(
        "of {} s. *Contended*: two more busy processes a processor beside them, at ordinary priority. Errors are in points of one",
        WINDOW.as_secs()
    );
    println!(
        "processor; above zero the owner lent more than he said. A ceiling (cgroup, SIGSTOP) cannot give what others take, so below"
    );
    println!("zero is expected there when contended; SCHED_DEADLINE gives it all the same.\n");
    println!("| mechanism | period | machine | target | mean error | worst above | worst below |");
    println!("|---|---|---|---|---|---|---|");
    for c in cells {
        let mean = c.errors.iter().sum::<f64>() / c.errors.len() as f64;
        let (low, high) = c
            .errors
            .iter()
            .fold((0.0f64, 0.0f64), |(l, h), e| (l.min(*e), h.max(*e)));
        let machine = if c.contended { "contended" } else { "idle" };
        let (b, p, t) = (c.backend, c.period_ms, c.target / 10);
        println!("| {b} | {p} ms | {machine} | {t} % | {mean:+.2} | {high:+.2} | {low:+.2} |");
    }
    let over = |b: Backend| {
        cells
            .iter()
            .filter(|c| c.backend == b)
            .flat_map(|c| c.errors.iter().copied())
            .fold(f64::MIN, f64::max)
    };
    println!();
    let mut seen: Vec<Backend> = cells.iter().map(|c| c.backend).collect();
    seen.dedup();
    for b in seen {
        let worst = over(b);
        let verdict = if worst <= 1.0 { "met" } else { "missed" };
        println!("- {b}: at most 1 point above the target in any window: {verdict} ({worst:+.2}).");
    }
    if let [idle, contended] = cost {
        println!(
            "- The loop of SIGSTOP took {idle:.2} % of a processor for three guests, {contended:.2} % when contended (a build without optimisation)."
        );
    }
    owners_job(slow);
    let found = e.found();
    println!(
        "What this machine grants: SCHED_DEADLINE {:?}, cgroup v2 {:?}, cgroup v1 {}.",
        found.deadline,
        found.v2,
        found.v1.is_ok()
    );
    println!("Guests here are busy processes; a TCG guest is a process like them. No KVM host was measured.");
}

fn owners_job(slow: &[(usize, (Backend, f64, f64))]) {
    println!("\n## What the owner's own job loses\n");
    println!(
        "Preset `polite` while somebody is at the machine; two guests that each want a processor; the job is a fixed amount of arithmetic"
    );
    println!(
        "on one thread and on all processors. Medians of three rounds; *unheld*: the same two guests with no policy.\n"
    );
    println!("| job on | mechanism | slower by | unheld |");
    println!("|---|---|---|---|");
    for (threads, (backend, held, wild)) in slow {
        println!("| {threads} | {backend} | {held:.1} % | {wild:.1} % |");
    }
    let worst = slow.iter().map(|(_, (_, h, _))| *h).fold(f64::MIN, f64::max);
    println!(
        "\nGoal: at most 10 %: {} ({worst:.1} %).\n",
        if worst <= 10.0 { "met" } else { "missed" }
    );
}
