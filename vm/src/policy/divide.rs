//! The plan's processors among the guests that run.

use super::{Class, Millicores, Plan, compile::part};
use std::time::Duration;
use wire::ids::GuestId;

/// Least that a guest runs with; below it the youngest guests stand still instead of all crawling.
pub const MIN_SLICE: Millicores = Millicores(20);

/// A guest that wants to run. In order of admission: the oldest is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The guest.
    pub id: GuestId,
    /// Its virtual processors.
    pub cpus: u16,
    /// What kind of work it does.
    pub class: Class,
    /// What its user allows it.
    pub limit: Option<Millicores>,
}

/// What one guest gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The guest.
    pub id: GuestId,
    /// Processors.
    pub cpu: Millicores,
    /// Most that it may use of what others leave, where something can tell who does (a cgroup can).
    pub most: Millicores,
    /// Period over which that holds.
    pub period: Duration,
    /// It is promised: a floor as well as a ceiling.
    pub reserved: bool,
    /// It stands still; why.
    pub held: Option<String>,
}

/// Divides. What is promised comes first; the rest is shared by virtual processors, and what one guest cannot use goes
/// to the others. Together never more than `plan.cpu`.
pub fn divide(plan: &Plan, guests: &[Asker]) -> Vec<Slice> {
    let held = |g: &Asker, why: String| Slice {
        id: g.id,
        cpu: Millicores(0),
        most: Millicores(0),
        period: plan.period,
        reserved: false,
        held: Some(why),
    };
    if let Some(why) = stands_still(plan) {
        return guests.iter().map(|g| held(g, why.clone())).collect();
    }
    let room = usize::try_from(plan.cpu.0 / MIN_SLICE.0).unwrap_or(usize::MAX);
    let (run, wait) = guests.split_at(guests.len().min(room));
    let mut out = share(plan, run);
    let why = format!("{} are lent now, too little for {} guests", plan.cpu, guests.len());
    out.extend(wait.iter().map(|g| held(g, why.clone())));
    out
}

fn stands_still(plan: &Plan) -> Option<String> {
    use super::Action;
    let refused = plan.refuses()?;
    let still = plan.cpu.0 == 0 || plan.action.is_some_and(|a| a > Action::Refuse);
    still.then(|| format!("policy '{}' ({} = {})", refused.by, refused.key, refused.value))
}

/// Most that a guest can use, and whether it is promised.
fn cap(plan: &Plan, g: &Asker) -> (Millicores, Duration, bool) {
    let class = plan.classes.get(&g.class).copied().unwrap_or_default();
    let cpus = u32::from(g.cpus);
    let limit = g.limit.map_or(u32::MAX, |l| l.0);
    match class.slice {
        Some((period, slice)) => {
            let all = part(slice, period).0.saturating_mul(cpus);
            // Who limits himself below the promise is promised no more than that.
            (Millicores(all.min(limit)), period, class.reserve)
        }
        None => (Millicores((cpus * 1_000).min(limit)), plan.period, false),
    }
}

fn share(plan: &Plan, guests: &[Asker]) -> Vec<Slice> {
    let caps: Vec<_> = guests.iter().map(|g| cap(plan, g)).collect();
    let promised: u64 = caps.iter().filter(|c| c.2).map(|c| u64::from(c.0.0)).sum();
    let budget = u64::from(plan.cpu.0);
    // A policy that became stricter than what was promised shrinks all promises alike.
    let promise = |c: u32| match promised > budget {
        true => u64::from(c) * budget / promised,
        false => u64::from(c),
    };
    let mut given: Vec<u64> = caps.iter().map(|c| if c.2 { promise(c.0.0) } else { 0 }).collect();
    let mut left = budget - given.iter().sum::<u64>();
    let mut open: Vec<usize> = (0..caps.len()).filter(|i| !caps[*i].2).collect();
    // Each round either fills somebody up or is the last.
    while !open.is_empty() && left > 0 {
        let weight: u64 = open.iter().map(|i| u64::from(guests[*i].cpus)).sum();
        let fair = |i: usize| left * u64::from(guests[i].cpus) / weight.max(1);
        let full = |i: &usize| u64::from(caps[*i].0.0) <= fair(*i);
        let (filled, rest): (Vec<usize>, Vec<usize>) = open.iter().copied().partition(full);
        if filled.is_empty() {
            for i in rest {
                given[i] = fair(i);
            }
            break;
        }
        for i in filled {
            given[i] = u64::from(caps[i].0.0);
            left -= given[i];
        }
        open = rest;
    }
    let slice = |((g, c), cpu): ((&Asker, &(Millicores, Duration, bool)), u64)| Slice {
        id: g.id,
        cpu: Millicores(u32::try_from(cpu).unwrap_or(u32::MAX)),
        most: if c.2 {
            Millicores(u32::try_from(cpu).unwrap_or(u32::MAX))
        } else {
            c.0.min(plan.cpu)
        },
        period: c.1,
        reserved: c.2,
        held: (cpu == 0).then(|| "promised slices take all that is lent".to_owned()),
    };
    guests.iter().zip(&caps).zip(given).map(slice).collect()
}
