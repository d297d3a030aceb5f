//! The owner's policy as people ask about it: checked, laid out over time, with every fault in words.
//!
//! It does not: read files, clocks or sensors; text, machine, zone and time are arguments.

use crate::api::{PolicyReport, PolicySpan, PolicyWhy};
use jiff::{Timestamp, ToSpan, Zoned, civil, tz::TimeZone};
use std::collections::BTreeSet;
use vm::policy::{Compiled, Machine, Moment, Plan, PolicyError, read};
use wire::{Fault, FaultKind};

/// Most spans in a report: a week of a policy with twenty boundaries a day.
const MAX_SPANS: usize = 168;
/// Most hours in a report.
pub const MAX_HOURS: u32 = 8 * 24;

/// What a policy is looked at with.
#[derive(Clone, Debug)]
pub struct Here {
    /// The machine.
    pub machine: Machine,
    /// Its zone.
    pub zone: TimeZone,
    /// The time.
    pub now: Timestamp,
}

/// Reads and checks a policy; a fault says line, key and fix.
pub fn compile(text: &str, machine: Machine) -> Result<Compiled, Fault> {
    read(text)
        .and_then(|p| Compiled::new(p, machine))
        .map_err(|e| fault(&e))
}

fn fault(e: &PolicyError) -> Fault {
    Fault::new(FaultKind::Usage, format!("the policy is not sound: {e}")).next(e.fix.clone())
}

/// The moment that a person means, at or after `now`.
pub fn moment(text: &str, here: &Here) -> Result<Timestamp, Fault> {
    let bad = || {
        Fault::new(FaultKind::Usage, format!("'{}' is no time", wire::fault::plain(text)))
            .next("write for example \"Sat 23:00\", \"23:00\" or \"2026-12-24 18:00\" (local time)")
    };
    let now: Zoned = here.now.to_zoned(here.zone.clone());
    let text = text.trim();
    if text.eq_ignore_ascii_case("now") {
        return Ok(here.now);
    }
    let (day, time) = text.rsplit_once(' ').map_or((None, text), |(d, t)| (Some(d.trim()), t));
    let time: civil::Time = time.parse().map_err(|_| bad())?;
    let date = match day {
        None => now.date(),
        Some(d) => match d.parse::<civil::Date>() {
            Ok(d) => d,
            Err(_) => {
                let wanted = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
                let word = d.to_ascii_lowercase();
                let at = wanted.iter().position(|w| word.get(..3) == Some(*w)).ok_or_else(bad)?;
                let today = usize::try_from(now.weekday().to_monday_zero_offset()).unwrap_or_default();
                let ahead = i64::try_from((at + 7 - today) % 7).unwrap_or_default();
                now.date().checked_add(ahead.days()).map_err(|_| bad())?
            }
        },
    };
    let at = date.to_datetime(time).to_zoned(here.zone.clone()).map_err(|_| bad())?;
    Ok(at.timestamp())
}

/// What a policy lends from `at` on, with the conditional rules of these names holding.
pub fn report(
    text: &str,
    here: &Here,
    at: Option<Timestamp>,
    hours: u32,
    assume: &[String],
) -> Result<PolicyReport, Fault> {
    let c = compile(text, here.machine)?;
    let mut active = BTreeSet::new();
    for name in assume {
        let found = c
            .policy
            .rules
            .iter()
            .position(|r| r.is_conditional() && r.name == *name);
        active.insert(found.ok_or_else(|| {
            let all: Vec<&str> = c
                .policy
                .rules
                .iter()
                .filter(|r| r.is_conditional())
                .map(|r| r.name.as_str())
                .collect();
            Fault::new(
                FaultKind::Usage,
                format!("the policy has no conditional rule '{}'", wire::fault::plain(name)),
            )
            .next(format!("its conditional rules are: {}", all.join(", ")))
        })?);
    }
    let begin = at.unwrap_or(here.now);
    let end = begin + i64::from(hours.clamp(1, MAX_HOURS)).hours();
    Ok(PolicyReport {
        preset: c.policy.preset.clone(),
        rules: u32::try_from(c.policy.rules.len()).unwrap_or(u32::MAX),
        warnings: c.warnings.clone(),
        cores: u32::from(here.machine.cores),
        memory_bytes: here.machine.memory.0,
        spans: spans(&c, here, begin, end, &active),
        stored: false,
    })
}

fn spans(c: &Compiled, here: &Here, begin: Timestamp, end: Timestamp, active: &BTreeSet<usize>) -> Vec<PolicySpan> {
    let mut out: Vec<(PolicySpan, Plan)> = Vec::new();
    let mut at = begin;
    while out.len() < MAX_SPANS {
        let plan = c.plan(Moment::of(&at.to_zoned(here.zone.clone())), active);
        let next = c.next_change(&here.zone, at);
        // A boundary at which nothing changes is none.
        if out.last().is_none_or(|(_, before)| *before != plan) {
            out.push((span(&plan, at, next, &here.zone), plan));
        } else if let Some((last, _)) = out.last_mut() {
            last.to = next.map(millis);
        }
        match next.filter(|n| *n < end) {
            Some(n) => at = n,
            None => break,
        }
    }
    out.into_iter().map(|(s, _)| s).collect()
}

fn millis(t: Timestamp) -> u64 {
    u64::try_from(t.as_millisecond()).unwrap_or_default()
}

/// A plan as the API tells it.
pub fn span(plan: &Plan, from: Timestamp, to: Option<Timestamp>, zone: &TimeZone) -> PolicySpan {
    let why = plan.why.iter().map(|b| PolicyWhy {
        key: b.key.to_owned(),
        value: b.value.clone(),
        by: b.by.clone(),
        line: (b.line > 0).then_some(b.line),
    });
    PolicySpan {
        from: millis(from),
        to: to.map(millis),
        begins: from.to_zoned(zone.clone()).strftime("%a %H:%M").to_string(),
        cpus: f64::from(plan.cpu.0) / 1_000.0,
        weight: plan.weight,
        period_ms: plan.period.as_secs_f64() * 1e3,
        memory_bytes: plan.memory.0,
        max_vms: u32::from(plan.max_vms),
        net_up_bps: plan.net_up.map(|r| r.0),
        net_down_bps: plan.net_down.map(|r| r.0),
        action: plan.action.map(|a| a.as_str().to_owned()),
        why: why.collect(),
    }
}

/// When guests are admitted again, if the calendar alone decides that: local time, and how much is lent then.
pub fn opens(c: &Compiled, here: &Here, active: &BTreeSet<usize>) -> Option<String> {
    let mut at = here.now;
    for _ in 0..MAX_SPANS {
        at = c.next_change(&here.zone, at)?;
        let when = at.to_zoned(here.zone.clone());
        let plan = c.plan(Moment::of(&when), active);
        if plan.refuses().is_none() {
            return Some(format!("{} from {}", plan.cpu, when.strftime("%a %H:%M")));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::ByteSize;

    fn here() -> Here {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let now = civil::date(2026, 11, 25)
            .at(15, 30, 0, 0)
            .to_zoned(zone.clone())
            .unwrap(); // a Wednesday
        Here {
            machine: Machine {
                cores: 4,
                memory: ByteSize(16 << 30),
                disk: ByteSize(500 << 30),
            },
            zone,
            now: now.timestamp(),
        }
    }

    const NIGHT: &str = "[host]\ncpu = \"0%\"\n[[rule]]\nname = \"night\"\nhours = \"22:00-07:00\"\ncpu = \"100%\"\n[[rule]]\nname = \"battery\"\nif_battery = true\naction = \"pause\"\n";

    #[test]
    fn a_day_is_laid_out_by_what_changes() {
        let r = report(NIGHT, &here(), None, 24, &[]).unwrap();
        let said: Vec<(&str, f64)> = r.spans.iter().map(|s| (s.begins.as_str(), s.cpus)).collect();
        assert_eq!(said, [("Wed 15:30", 0.0), ("Wed 22:00", 4.0), ("Thu 07:00", 0.0)]);
        assert_eq!(r.spans[0].to, Some(r.spans[1].from));
        let r = report(
            NIGHT,
            &here(),
            Some(moment("Sat 23:00", &here()).unwrap()),
            1,
            &["battery".into()],
        )
        .unwrap();
        assert_eq!(
            (r.spans.len(), r.spans[0].action.as_deref(), r.spans[0].begins.as_str()),
            (1, Some("pause"), "Sat 23:00")
        );
        assert_eq!(r.spans[0].why.last().unwrap().line, Some(7));
        let none = report(NIGHT, &here(), None, 1, &["nigt".into()]).unwrap_err();
        assert_eq!(none.next.as_deref(), Some("its conditional rules are: battery"));
    }

    #[test]
    fn times_as_people_say_them() {
        let at = |t: &str| moment(t, &here()).map(|t| t.to_zoned(here().zone).strftime("%F %H:%M").to_string());
        assert_eq!(at("Sat 23:00").unwrap(), "2026-11-28 23:00");
        assert_eq!(at("wednesday 08:00").unwrap(), "2026-11-25 08:00");
        assert_eq!(at("23:00").unwrap(), "2026-11-25 23:00");
        assert_eq!(at("2026-12-24 18:00").unwrap(), "2026-12-24 18:00");
        for bad in ["", "soon", "Sat", "Noday 12:00", "25:00"] {
            assert_eq!(at(bad).unwrap_err().kind, FaultKind::Usage, "{bad}");
        }
    }

    #[test]
    fn a_refusal_says_when_it_ends() {
        let c = compile(NIGHT, here().machine).unwrap();
        assert_eq!(
            opens(&c, &here(), &BTreeSet::new()).as_deref(),
            Some("4.0 cores from Wed 22:00")
        );
        assert_eq!(
            opens(&c, &here(), &BTreeSet::from([1])),
            None,
            "on battery no hour helps"
        );
        let e = compile("[host]\ncpus = \"1%\"\n", here().machine).unwrap_err();
        assert_eq!(
            (e.what.as_str(), e.next.as_deref()),
            (
                "the policy is not sound: line 2, column 1, cpus: [host] has no key 'cpus'",
                Some("did you mean cpu?")
            )
        );
    }
}
