//! A policy for one machine, and what it says at one moment.

use super::{
    Action, BitRate, Class, EnforcerChoice, Millicores, Moment, Policy, PolicyError, Rule, VARIABLES,
    calendar::{holds, next_change},
};
use jiff::{Timestamp, tz::TimeZone};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use wire::units::{ByteSize, show_duration};

/// Part of a processor that deadline slices may take, thousandths: the kernel keeps 5 % for everything else
/// (`sched_rt_runtime_us`, default 950000).
pub(crate) const DEADLINE_PART: u32 = 950;

/// The machine that a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Processors.
    pub cores: u16,
    /// Memory.
    pub memory: ByteSize,
    /// Size of the file system that holds guests' disks.
    pub disk: ByteSize,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Because {
    /// The key.
    pub key: &'static str,
    /// What it became.
    pub value: String,
    /// `host`, `default`, or a rule's name.
    pub by: String,
    /// The rule's line; 0: none, or a preset's.
    pub line: u32,
}

/// Slices of one class of guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassPlan {
    /// Period and slice of each virtual processor.
    pub slice: Option<(Duration, Duration)>,
    /// The slice is promised.
    pub reserve: bool,
    /// Guests of the class at once.
    pub max: Option<u16>,
}

/// What a policy says at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Processors for all guests together.
    pub cpu: Millicores,
    /// Their weight against the owner's own programs, which have 100.
    pub weight: u32,
    /// Period over which a ceiling holds.
    pub period: Duration,
    /// Mechanism that is wanted.
    pub enforcer: EnforcerChoice,
    /// Memory for all guests together.
    pub memory: ByteSize,
    /// Memory that must stay available.
    pub memory_min_free: ByteSize,
    /// Disk for all guests together.
    pub disk: Option<ByteSize>,
    /// Free disk below which nothing starts.
    pub disk_min_free: ByteSize,
    /// Guests at once.
    pub max_vms: u16,
    /// Send rate of all guests together.
    pub net_up: Option<BitRate>,
    /// Receive rate of all guests together.
    pub net_down: Option<BitRate>,
    /// Send rate of image pieces.
    pub images_up: Option<BitRate>,
    /// What happens to guests now.
    pub action: Option<Action>,
    /// By class.
    pub classes: BTreeMap<Class, ClassPlan>,
    /// How each value came about, in order.
    pub why: Vec<Because>,
}

impl Plan {
    /// May a guest be admitted now? If not: the rule that forbids it.
    pub fn refuses(&self) -> Option<&Because> {
        let by = |key: &str| self.why.iter().rev().find(|b| b.key == key);
        if self.action.is_some() {
            return by("action");
        }
        (self.cpu.0 == 0).then(|| by("cpu")).flatten()
    }
}

/// A policy, checked against its machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// The policy.
    pub policy: Policy,
    /// The machine.
    pub machine: Machine,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
}

impl Compiled {
    /// Checks a policy against a machine.
    pub fn new(policy: Policy, machine: Machine) -> Result<Self, PolicyError> {
        let mut warnings = Vec::new();
        for rule in &policy.rules {
            check_promises(&policy, rule, machine)?;
            check_names(&policy, rule)?;
        }
        let mut shares = policy.rules.iter().filter(|r| !r.tightens()).filter_map(|r| r.cpu);
        let raised = shares.any(|c| c.of(machine.cores).0 > 0);
        if policy.host.cpu.of(machine.cores).0 == 0 && !raised {
            warnings
                .push("no rule ever lends a processor: cpu of [host] is 0, and no rule without if_ sets more".into());
        }
        if policy.host.max_vms == 0 {
            warnings.push("max_vms = 0 lends nothing at all".into());
        }
        for rule in &policy.rules {
            if rule.action == Some(Action::Move) {
                warnings.push(format!(
                    "rule '{}' moves guests: one that no other host takes is hibernated instead",
                    rule.name
                ));
            }
        }
        Ok(Self {
            policy,
            machine,
            warnings,
        })
    }

    /// What holds at a moment, with the conditional rules `active` (indices into [`Policy::rules`]) holding.
    pub fn plan(&self, at: Moment, active: &BTreeSet<usize>) -> Plan {
        let mut plan = self.host_plan();
        let now = |i: usize, r: &Rule| holds(r, at) && (!r.is_conditional() || active.contains(&i));
        for (_, rule) in self
            .policy
            .rules
            .iter()
            .enumerate()
            .filter(|(i, r)| !r.tightens() && now(*i, r))
        {
            self.set(&mut plan, rule);
        }
        for (_, rule) in self
            .policy
            .rules
            .iter()
            .enumerate()
            .filter(|(i, r)| r.tightens() && now(*i, r))
        {
            self.tighten(&mut plan, rule);
        }
        plan
    }

    /// The next instant at which the calendar changes something.
    pub fn next_change(&self, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
        next_change(&self.policy, zone, now)
    }

    /// The most that the policy ever lends: for adverts, and for what a guest may ask.
    pub fn most(&self) -> Millicores {
        let host = self.policy.host.cpu.of(self.machine.cores);
        let rules = self.policy.rules.iter().filter(|r| !r.tightens());
        rules
            .filter_map(|r| r.cpu)
            .map(|c| c.of(self.machine.cores))
            .fold(host, Ord::max)
    }

    fn host_plan(&self) -> Plan {
        let (h, m) = (&self.policy.host, &self.machine);
        let by = match &self.policy.preset {
            Some(p) => format!("[host] on preset {p}"),
            None => "[host]".to_owned(),
        };
        let because = |key, value: String| Because {
            key,
            value,
            by: by.clone(),
            line: 0,
        };
        let cpu = h.cpu.of(m.cores);
        let mut why = vec![
            because("cpu", cpu.to_string()),
            because("weight", h.weight.to_string()),
            because("period", show_duration(h.smooth)),
            because("memory", h.memory.of(m.memory).to_string()),
        ];
        why.extend(h.net_up.map(|r| because("net_up", r.to_string())));
        why.extend(h.net_down.map(|r| because("net_down", r.to_string())));
        why.extend(h.images_up.map(|r| because("images_up", r.to_string())));
        Plan {
            cpu,
            weight: h.weight,
            period: h.smooth,
            enforcer: h.enforcer,
            memory: h.memory.of(m.memory),
            memory_min_free: h.memory_min_free.of(m.memory),
            disk: h.disk.map(|d| d.of(m.disk)),
            disk_min_free: h.disk_min_free.of(m.disk),
            max_vms: h.max_vms,
            net_up: h.net_up,
            net_down: h.net_down,
            images_up: h.images_up,
            action: None,
            classes: BTreeMap::new(),
            why,
        }
    }

    fn set(&self, plan: &mut Plan, rule: &Rule) {
        let mut said = Said(&mut plan.why, rule);
        if let Some(c) = rule.cpu {
            plan.cpu = c.of(self.machine.cores);
            said.note("cpu", plan.cpu.to_string());
        }
        if let Some(w) = rule.weight {
            plan.weight = w;
            said.note("weight", w.to_string());
        }
        if let Some(p) = rule.smooth {
            plan.period = p;
            said.note("period", show_duration(p));
        }
        if let Some(m) = rule.memory {
            plan.memory = m.of(self.machine.memory);
            said.note("memory", plan.memory.to_string());
        }
        if let Some(r) = rule.net_up {
            plan.net_up = Some(r);
            said.note("net_up", r.to_string());
        }
        if let Some(r) = rule.net_down {
            plan.net_down = Some(r);
            said.note("net_down", r.to_string());
        }
        if let Some(r) = rule.images_up {
            plan.images_up = Some(r);
            said.note("images_up", r.to_string());
        }
        if let Some(a) = rule.action {
            plan.action = Some(a);
            said.note("action", a.as_str().to_owned());
        }
        if let Some(class) = rule.class {
            let c = plan.classes.entry(class).or_default();
            if let (Some(period), Some(slice)) = (rule.period, rule.slice) {
                (c.slice, c.reserve) = (Some((period, slice)), rule.reserve);
            }
            c.max = rule.max.or(c.max);
            let promised = if c.reserve { ", promised" } else { "" };
            let slice = c
                .slice
                .map(|(p, s)| format!("{} in {}{promised}", show_duration(s), show_duration(p)));
            let max = c.max.map(|m| format!("at most {m}"));
            let all: Vec<String> = slice.into_iter().chain(max).collect();
            said.note(class.as_str(), all.join(", "));
        }
    }

    fn tighten(&self, plan: &mut Plan, rule: &Rule) {
        let mut said = Said(&mut plan.why, rule);
        if let Some(c) = rule.cpu.map(|c| c.of(self.machine.cores)).filter(|c| *c < plan.cpu) {
            plan.cpu = c;
            said.note("cpu", c.to_string());
        }
        if let Some(w) = rule.weight.filter(|w| *w < plan.weight) {
            plan.weight = w;
            said.note("weight", w.to_string());
        }
        if let Some(p) = rule.smooth.filter(|p| *p < plan.period) {
            plan.period = p;
            said.note("period", show_duration(p));
        }
        if let Some(m) = rule
            .memory
            .map(|m| m.of(self.machine.memory))
            .filter(|m| *m < plan.memory)
        {
            plan.memory = m;
            said.note("memory", m.to_string());
        }
        if let Some(r) = rule.net_up.filter(|r| plan.net_up.is_none_or(|p| *r < p)) {
            plan.net_up = Some(r);
            said.note("net_up", r.to_string());
        }
        if let Some(r) = rule.net_down.filter(|r| plan.net_down.is_none_or(|p| *r < p)) {
            plan.net_down = Some(r);
            said.note("net_down", r.to_string());
        }
        if let Some(r) = rule.images_up.filter(|r| plan.images_up.is_none_or(|p| *r < p)) {
            plan.images_up = Some(r);
            said.note("images_up", r.to_string());
        }
        if let Some(a) = rule.action.filter(|a| plan.action.is_none_or(|p| *a > p)) {
            plan.action = Some(a);
            said.note("action", a.as_str().to_owned());
        }
    }
}

/// Notes what one rule changed.
struct Said<'a>(&'a mut Vec<Because>, &'a Rule);

impl Said<'_> {
    fn note(&mut self, key: &'static str, value: String) {
        self.0.push(Because {
            key,
            value,
            by: self.1.name.clone(),
            line: self.1.line,
        });
    }
}

fn at_rule(rule: &Rule, key: &str, what: String, fix: String) -> PolicyError {
    PolicyError {
        line: rule.line,
        column: 1,
        key: Some(key.to_owned()),
        what,
        fix,
    }
}

/// What is promised can be kept: on this machine and within the owner's own ceiling.
fn check_promises(policy: &Policy, rule: &Rule, machine: Machine) -> Result<(), PolicyError> {
    let (Some(period), Some(slice), true) = (rule.period, rule.slice, rule.reserve) else {
        return Ok(());
    };
    let each = part(slice, period);
    let many = u32::from(rule.max.unwrap_or(1));
    let promised = Millicores(each.0.saturating_mul(many));
    let lent = policy.rules.iter().filter(|r| !r.tightens()).filter_map(|r| r.cpu);
    let lent = lent.fold(policy.host.cpu.of(machine.cores), |m, c| m.max(c.of(machine.cores)));
    let room = Millicores(lent.0.min(u32::from(machine.cores) * DEADLINE_PART));
    if promised > room {
        let what = format!("rule '{}' promises {promised} and at most {room} can be", rule.name);
        let fix = format!("lower max or slice: {} guests of {each} fit", room.0 / each.0.max(1));
        return Err(at_rule(rule, "reserve", what, fix));
    }
    Ok(())
}

/// Thousandths of a processor that a slice of a period is.
pub(super) fn part(slice: Duration, period: Duration) -> Millicores {
    let all = slice.as_micros() * 1_000 / period.as_micros().max(1);
    Millicores(u32::try_from(all).unwrap_or(u32::MAX))
}

fn check_names(policy: &Policy, rule: &Rule) -> Result<(), PolicyError> {
    let Some(when) = &rule.when else { return Ok(()) };
    let strange = when.names().into_iter().find(|n| !VARIABLES.contains(n));
    match strange {
        Some(n) if policy.host.sensors.is_none() => Err(at_rule(
            rule,
            "when",
            format!("rule '{}' reads '{n}', which this node does not measure", rule.name),
            format!(
                "it measures {}; others come from files: add sensors = \"/run/lanline/sensors.d\" to [host] and a file {n} with a number there",
                VARIABLES.join(", ")
            ),
        )),
        _ => Ok(()),
    }
}
