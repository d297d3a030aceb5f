//! Which conditional rules hold: readings with hysteresis, so that no spike starts or ends one.
//!
//! Invariant: a rule changes at most once in the time that its hysteresis asks for; what cannot be read counts for the
//! owner, never for the guests.

use super::{Conditions, Policy, Rule};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// One reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Sense<T> {
    /// It is this.
    Is(T),
    /// The machine has no such thing: no battery, no input device.
    #[default]
    Absent,
    /// It should be there and cannot be read; why.
    Unknown(String),
}

impl<T> Sense<T> {
    /// Whether it is so: `None` if that cannot be told.
    fn test(&self, f: impl Fn(&T) -> bool) -> Option<bool> {
        match self {
            Self::Is(v) => Some(f(v)),
            Self::Absent => Some(false),
            Self::Unknown(_) => None,
        }
    }

    fn trouble(&self) -> Option<&str> {
        match self {
            Self::Unknown(why) => Some(why),
            _ => None,
        }
    }
}

/// What the machine's sensors say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// Since the last input of a person.
    pub idle: Sense<Duration>,
    /// Runs on battery.
    pub battery: Sense<bool>,
    /// The way out is metered.
    pub metered: Sense<bool>,
    /// Hottest part, degrees Celsius.
    pub temp_c: Sense<f64>,
    /// Processors that the owner's own programs use.
    pub own_load: Sense<f64>,
    /// Everything by name, for `when`.
    pub vars: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, Default)]
struct State {
    on: bool,
    /// The raw truth is another since then.
    since: Option<Instant>,
    /// Why it is held on although it cannot be told.
    trouble: Option<String>,
}

/// Follows the conditional rules of one policy.
#[derive(Clone, Debug, Default)]
pub struct Governor {
    states: BTreeMap<usize, State>,
    fresh: bool,
}

impl Governor {
    /// For a policy that was not followed before: its rules hold at once if their conditions do.
    pub fn new() -> Self {
        Self {
            states: BTreeMap::new(),
            fresh: true,
        }
    }

    /// Takes readings; `true`: other rules hold now than before.
    pub fn handle_readings(&mut self, now: Instant, policy: &Policy, cores: u16, readings: &Readings) -> bool {
        let before = self.active();
        let fresh = std::mem::take(&mut self.fresh);
        for (i, rule) in policy.rules.iter().enumerate().filter(|(_, r)| r.is_conditional()) {
            let state = self.states.entry(i).or_default();
            let raw = raw(rule, cores, readings);
            state.trouble = raw.is_none().then(|| trouble(rule, readings));
            // Only a rule that takes away holds in doubt.
            let raw = raw.unwrap_or(rule.tightens());
            if raw == state.on {
                state.since = None;
                continue;
            }
            let since = *state.since.get_or_insert(now);
            if fresh || now.saturating_duration_since(since) >= wait(rule, raw) {
                *state = State {
                    on: raw,
                    since: None,
                    trouble: state.trouble.take(),
                };
            }
        }
        before != self.active()
    }

    /// When a rule may change if the readings stay as they are.
    pub fn poll_timeout(&self, policy: &Policy) -> Option<Instant> {
        let pending = |(i, s): (&usize, &State)| {
            let rule = policy.rules.get(*i)?;
            s.since.map(|at| at + wait(rule, !s.on))
        };
        self.states.iter().filter_map(pending).min()
    }

    /// Rules that hold by their conditions; their calendar part is the plan's to see.
    pub fn active(&self) -> BTreeSet<usize> {
        self.states.iter().filter(|(_, s)| s.on).map(|(i, _)| *i).collect()
    }

    /// Rules whose conditions cannot be told, and why.
    pub fn troubles(&self) -> Vec<(usize, String)> {
        let of = |(i, s): (&usize, &State)| s.trouble.clone().map(|t| (*i, t));
        self.states.iter().filter_map(of).collect()
    }
}

/// Whether a rule's conditions hold by these readings; `None`: that cannot be told.
pub(super) fn raw(rule: &Rule, cores: u16, r: &Readings) -> Option<bool> {
    let c = &rule.conditions;
    let when = rule.when.as_ref().map(|e| e.eval(&r.vars));
    let all = [
        c.user_active.map(|d| r.idle.test(|idle| *idle < d)),
        c.battery.map(|want| r.battery.test(|b| *b).map(|b| b == want)),
        c.metered.map(|want| r.metered.test(|m| *m).map(|m| m == want)),
        c.temp_over.map(|t| r.temp_c.test(|now| *now > t)),
        c.load_over
            .map(|l| r.own_load.test(|now| *now * 1_000.0 > f64::from(l.of(cores).0))),
        when,
    ];
    let mut given = all.into_iter().flatten();
    // A plain no decides, whatever else cannot be told.
    given
        .try_fold(Some(true), |sum, one| match one {
            Some(false) => Err(()),
            other => Ok(sum.and(other)),
        })
        .unwrap_or(Some(false))
}

fn trouble(rule: &Rule, r: &Readings) -> String {
    let c = &rule.conditions;
    let known = [
        c.user_active.and(r.idle.trouble()),
        c.battery.and(r.battery.trouble()),
        c.metered.and(r.metered.trouble()),
        c.temp_over.and(r.temp_c.trouble()),
        c.load_over.and(r.own_load.trouble()),
    ];
    let missing = || {
        let names = rule.when.as_ref().map(|e| e.names()).unwrap_or_default();
        let name = names.into_iter().find(|n| !r.vars.contains_key(*n));
        name.map_or_else(
            || "a reading is missing".to_owned(),
            |n| format!("there is no reading of {n}"),
        )
    };
    known.into_iter().flatten().next().map_or_else(missing, str::to_owned)
}

/// Time for which the opposite must last before a rule changes.
fn wait(rule: &Rule, to: bool) -> Duration {
    let c: &Conditions = &rule.conditions;
    let s = Duration::from_secs;
    let given = if to { rule.after } else { rule.resume_after };
    given.unwrap_or_else(|| {
        // Input is its own hysteresis: it counts as active for minutes.
        let kinds = [
            (c.user_active.is_some(), s(0), s(0)),
            (c.battery.is_some(), s(10), s(60)),
            (c.metered.is_some(), s(10), s(60)),
            (c.temp_over.is_some(), s(10), s(120)),
            (c.load_over.is_some(), s(15), s(60)),
            (rule.when.is_some(), s(10), s(60)),
        ];
        let of = |k: &(bool, Duration, Duration)| if to { k.1 } else { k.2 };
        kinds.iter().filter(|k| k.0).map(of).max().unwrap_or_default()
    })
}
