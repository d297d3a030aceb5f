//! The owner's policy at work: once a second sensors, rules, slices, enforcers; and every start held against it.
//!
//! It is about guests of others. The owner's own guests are held only to what `set` says of them. Paper: §2.2, §3.2.

mod month;
mod watch;

use super::{Daemon, lock, persist};
use crate::{
    api::{self, EnforcerRow, PolicyView, RuleRow, SliceRow},
    io::policing::{POLICY_FILE, here},
    owner::{self, Here},
};
use month::Month;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Instant,
};
use vm::{
    enforce::Backend,
    io::{Enforcer, EnforcerConfig},
    policy::{Asker, Class, Compiled, Governor, Millicores, Moment, Plan, Policy, Readings, Share, Slice, divide},
};
use wire::{ByteSize, Fault, FaultKind, GuestId, NodeId, guest::GuestView};

/// What a guest's user set for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limit {
    /// Thousandths of a processor.
    cpu: Option<u32>,
    /// Somebody sits before it.
    interactive: bool,
    /// Memory that it keeps, bytes.
    memory: Option<u64>,
}

/// The policy and all that follows from it now.
pub(super) struct Owner {
    enforcer: Arc<Enforcer>,
    state: Mutex<State>,
    /// Something changed that should act before the next second.
    changed: tokio::sync::Notify,
}

struct State {
    compiled: Option<Compiled>,
    governor: Governor,
    plan: Plan,
    readings: Readings,
    slices: Vec<Slice>,
    limits: BTreeMap<GuestId, Limit>,
    month: Month,
    /// Rates that ports were last told.
    rates: (Option<u64>, Option<u64>),
}

fn no_policy(here: &Here) -> Result<Compiled, Fault> {
    owner::compile("", here.machine)
}

impl Owner {
    /// Reads policy and limits of the state folder, and looks at what the machine grants.
    pub(super) async fn load(dir: &Path, me: NodeId) -> Result<Self, Fault> {
        let here = here(dir);
        let compiled = match persist::load_bytes(&dir.join(POLICY_FILE))? {
            Some(bytes) => Some(owner::compile(&String::from_utf8_lossy(&bytes), here.machine)?),
            None => None,
        };
        let config = EnforcerConfig {
            root: "/".into(),
            name: format!("lanline-{}", me.short()),
        };
        let enforcer = tokio::task::spawn_blocking(move || Enforcer::new(&config)).await;
        let enforcer = enforcer.map_err(|e| super::faults::failed(&e))?;
        let base = no_policy(&here)?;
        let plan = compiled
            .as_ref()
            .unwrap_or(&base)
            .plan(moment(&here), &Default::default());
        let limits: Vec<(GuestId, Limit)> = persist::load(&dir.join("limits.json"))?.unwrap_or_default();
        Ok(Self {
            enforcer: Arc::new(enforcer),
            state: Mutex::new(State {
                governor: Governor::new(),
                plan,
                compiled,
                readings: Readings::default(),
                slices: Vec::new(),
                limits: limits.into_iter().collect(),
                month: persist::load(&dir.join("owner-month.json"))?.unwrap_or_default(),
                rates: (None, None),
            }),
            changed: tokio::sync::Notify::new(),
        })
    }

    /// What lets a guest answer while its monitor is needed.
    pub(super) fn gate(&self) -> vm::io::Gate {
        self.enforcer.gate()
    }

    pub(super) fn found(&self) -> vm::enforce::Found {
        self.enforcer.found().clone()
    }

    /// What all guests together may send and receive now, bits a second.
    pub(super) fn rates(&self) -> (Option<u64>, Option<u64>) {
        lock(&self.state).rates
    }

    /// What a guest here costs, thousandths an hour of one processor, and for how many seconds it is lent the machine at
    /// most; 0: nothing, no end. As adverts say it.
    pub(super) fn terms(&self) -> (u32, u32) {
        let state = lock(&self.state);
        let host = state.compiled.as_ref().map(|c| &c.policy.host);
        let lease = host.and_then(|h| h.lease_max);
        let seconds = lease.map_or(0, |d| u32::try_from(d.as_secs()).unwrap_or(u32::MAX).max(1));
        (host.map_or(0, |h| h.price), seconds)
    }

    /// May a guest's user open its console here?
    pub(super) fn allows_console(&self) -> bool {
        lock(&self.state)
            .compiled
            .as_ref()
            .is_none_or(|c| c.policy.host.console)
    }
}

fn moment(here: &Here) -> Moment {
    Moment::of(&here.now.to_zoned(here.zone.clone()))
}

fn class(l: Limit) -> Class {
    if l.interactive {
        Class::Interactive
    } else {
        Class::Batch
    }
}

impl State {
    /// What applies now: the policy's plan, or without one the whole machine.
    fn refresh(&mut self, here: &Here, base: &Compiled, readings: Readings) {
        if let Some(c) = &self.compiled
            && self
                .governor
                .handle_readings(Instant::now(), &c.policy, c.machine.cores, &readings)
        {
            tracing::info!(rules = ?names(&c.policy, &self.governor), "other rules of the owner's policy hold now");
        }
        self.readings = readings;
        let active = self.governor.active();
        self.plan = self.compiled.as_ref().unwrap_or(base).plan(moment(here), &active);
        if self.month_is_used_up() {
            let least = vm::policy::BitRate(month::LEAST_RATE);
            self.plan.net_up = Some(self.plan.net_up.map_or(least, |r| r.min(least)));
            self.plan.net_down = Some(self.plan.net_down.map_or(least, |r| r.min(least)));
        }
    }

    fn month_is_used_up(&self) -> bool {
        let limit = self.compiled.as_ref().and_then(|c| c.policy.host.net_month);
        limit.is_some_and(|l| self.month.bytes >= l)
    }

    /// Slices of the guests that run: those of others by the policy, the owner's own by their limit alone.
    fn divide(&mut self, me: NodeId, running: &[GuestView]) {
        let asker = |g: &GuestView| {
            let limit = self.limits.get(&g.id).copied().unwrap_or_default();
            Asker {
                id: g.id,
                cpus: g.cpus,
                class: class(limit),
                limit: limit.cpu.map(Millicores),
            }
        };
        let under = |g: &&GuestView| g.owner != me && self.compiled.is_some();
        let theirs: Vec<Asker> = running.iter().filter(under).map(asker).collect();
        let mut slices = divide(&self.plan, &theirs);
        for a in running.iter().filter(|g| !under(g)).map(asker) {
            if let Some(cpu) = a.limit.filter(|l| l.0 < u32::from(a.cpus) * 1_000) {
                slices.push(Slice {
                    id: a.id,
                    cpu,
                    most: cpu,
                    period: self.plan.period,
                    reserved: false,
                    held: None,
                });
            }
        }
        self.slices = slices;
    }
}

fn names(policy: &Policy, governor: &Governor) -> Vec<String> {
    let active = governor.active();
    active
        .iter()
        .filter_map(|i| policy.rules.get(*i))
        .map(|r| r.name.clone())
        .collect()
}

impl Owner {
    /// Disk that the policy keeps for the owner.
    pub(super) fn disk_min_free(&self) -> ByteSize {
        lock(&self.state).plan.disk_min_free
    }
}

impl Daemon {
    /// Checks, simulates, and if asked puts a policy in force.
    pub(super) fn policy_check(&self, req: &api::PolicyRequest) -> Result<api::PolicyReport, Fault> {
        let here = here(&self.dir);
        let path = self.dir.join(POLICY_FILE);
        let text = match &req.text {
            Some(t) => t.clone(),
            None => crate::io::policing::read(&path)?,
        };
        let at = req.at.as_deref().map(|t| owner::moment(t, &here)).transpose()?;
        let mut report = owner::report(&text, &here, at, req.hours.unwrap_or(24), &req.assume)?;
        if req.store {
            self.put_policy(&text)?;
            report.stored = true;
        }
        Ok(report)
    }

    /// Puts a policy in force: on disk first, then at work.
    pub(super) fn put_policy(&self, text: &str) -> Result<(), Fault> {
        let compiled = owner::compile(text, here(&self.dir).machine)?;
        persist::save_bytes(&self.dir.join(POLICY_FILE), text.as_bytes())?;
        let mut state = lock(&self.owner.state);
        state.compiled = Some(compiled);
        state.governor = Governor::new();
        drop(state);
        self.owner.changed.notify_one();
        Ok(())
    }

    /// What a policy lends at most, for an offer that names no figures.
    pub(super) fn policy_room(&self) -> Option<(u32, ByteSize)> {
        let state = lock(&self.owner.state);
        let c = state.compiled.as_ref()?;
        Some((
            c.most().0.div_ceil(1_000).max(1),
            c.policy.host.memory.of(c.machine.memory),
        ))
    }

    /// What a peer that asks for pieces is to this node: by the owner's policy, or else its own.
    pub(super) fn standing(&self, peer: NodeId) -> ::images::io::Standing {
        let state = lock(&self.owner.state);
        let own = state.compiled.as_ref().and_then(|c| c.policy.host.own_nodes.as_ref());
        match own.is_none_or(|own| own.contains(&peer)) {
            true => ::images::io::Standing::Kin,
            false => ::images::io::Standing::Stranger,
        }
    }

    /// What the owner's policy says to a start by `from`; grant and offer come on top.
    pub(super) fn policy_admits(&self, from: NodeId, image: wire::ImageId, memory: ByteSize) -> Result<(), Fault> {
        let state = lock(&self.owner.state);
        let Some(c) = &state.compiled else { return Ok(()) };
        let host = &c.policy.host;
        let no = |why: String, next: &str| {
            Err(Fault::new(FaultKind::Refused, format!("{}'s owner: {why}", self.name)).next(next))
        };
        if let Some(by) = state.plan.refuses() {
            let opens = owner::opens(c, &here(&self.dir), &state.governor.active());
            let later = opens.map(|o| format!("; it lends {o}")).unwrap_or_default();
            let why = format!(
                "rule '{}' lets no guest start now ({} = {}){later}",
                by.by, by.key, by.value
            );
            return no(why, "choose another host: lanline hosts; or try again later");
        }
        if state.month_is_used_up() {
            return no(
                "this month's bytes are used up".into(),
                "choose another host: lanline hosts",
            );
        }
        let (id, name) = (from.to_string(), self.name_of(from));
        let allowed = |a: &Vec<String>| a.iter().any(|w| *w == id || Some(w) == name.as_ref());
        if !host.allow.as_ref().is_none_or(allowed) {
            return no(
                "you are not on the list of those who may start guests".into(),
                "ask the owner to add your node id to 'allow' of the policy",
            );
        }
        if !host.images.as_ref().is_none_or(|i| i.contains(&image.to_string())) {
            return no(
                format!("image {image} is not on the list of those that may run"),
                "choose another image, or ask the owner to add it to 'images'",
            );
        }
        let theirs = self
            .guests
            .list()
            .into_iter()
            .filter(|g| g.owner == from && g.state.holds_capacity())
            .count();
        if host.vms_per_user.is_some_and(|m| theirs >= usize::from(m)) {
            return no(
                format!("{theirs} of your guests run here, more are not allowed"),
                "stop one: lanline stop NAME",
            );
        }
        let left = vm::io::OwnerSensors::new(Path::new("/"))
            .available()
            .map(|a| a.saturating_sub(memory.0));
        let least = state.plan.memory_min_free;
        if left.is_some_and(|l| ByteSize(l) < least) {
            return no(
                format!("with {memory} less than {least} of memory would be left for the owner"),
                "ask for less memory, or choose another host",
            );
        }
        let free = rustix::fs::statvfs(&self.dir).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize));
        if ByteSize(free) < state.plan.disk_min_free {
            return no(
                format!("only {} of disk is left", ByteSize(free)),
                "choose another host: lanline hosts",
            );
        }
        Ok(())
    }

    /// Changes what a guest here gets, at its user's or this machine's owner's word.
    pub(super) fn set_guest(&self, view: &GuestView, change: &wire::guest::GuestSet) -> Result<(), Fault> {
        let usage = |what: String, next: &str| Err(Fault::new(FaultKind::Usage, what).next(next));
        if change.cpu.is_some_and(|c| c < vm::policy::MIN_SLICE.0) {
            return usage(
                format!("a guest needs at least {}", vm::policy::MIN_SLICE),
                "to let it stand still: lanline pause",
            );
        }
        if let Some(m) = change.memory
            && !(vm::defaults::MIN_MEMORY..=view.memory).contains(&m)
        {
            let what = format!(
                "{} can keep between {} and {}, which it was started with",
                view.name,
                vm::defaults::MIN_MEMORY,
                view.memory
            );
            return usage(what, "for more memory, start it anew with a larger --memory");
        }
        let mut state = lock(&self.owner.state);
        let mut next = state.limits.clone();
        let limit = next.entry(view.id).or_default();
        if let Some(cpu) = change.cpu {
            limit.cpu = (cpu < u32::from(view.cpus) * 1_000).then_some(cpu);
        }
        if let Some(i) = change.interactive {
            let max = state.plan.classes.get(&Class::Interactive).and_then(|c| c.max);
            let there = next.iter().filter(|(id, l)| l.interactive && **id != view.id).count();
            if i && max.is_some_and(|m| there >= usize::from(m)) {
                let what = format!(
                    "{there} interactive guests run on {} already, as many as its owner allows",
                    self.name
                );
                return Err(
                    Fault::new(FaultKind::Refused, what).next("leave it at --class batch, or choose another host")
                );
            }
            next.entry(view.id).or_default().interactive = i;
        }
        if let Some(m) = change.memory {
            next.entry(view.id).or_default().memory = Some(m.0);
        }
        let here: Vec<GuestId> = self.guests.list().iter().map(|g| g.id).collect();
        next.retain(|id, l| here.contains(id) && *l != Limit::default());
        persist::save(&self.dir.join("limits.json"), &next.iter().collect::<Vec<_>>())?;
        state.limits = next;
        drop(state);
        if let Some(m) = change.memory
            && view.pid.is_some()
        {
            self.guests.keep_memory(view.id, m).map_err(|e| Fault::from(&e))?;
        }
        self.owner.changed.notify_one();
        Ok(())
    }

    /// What the policy does now.
    pub(super) fn owners_view(&self) -> PolicyView {
        let here = here(&self.dir);
        let guests = self.guests.list();
        let state = lock(&self.owner.state);
        let active = state.governor.active();
        let troubles: BTreeMap<usize, String> = state.governor.troubles().into_iter().collect();
        let rule = |(i, r): (usize, &vm::policy::Rule)| RuleRow {
            name: r.name.clone(),
            line: (r.line > 0).then_some(r.line),
            holds: state.plan.why.iter().any(|b| b.by == r.name) || active.contains(&i),
            conditional: r.is_conditional(),
            trouble: troubles.get(&i).cloned(),
        };
        let rules = state
            .compiled
            .iter()
            .flat_map(|c| c.policy.rules.iter().enumerate())
            .map(rule)
            .collect();
        let next = state
            .compiled
            .as_ref()
            .and_then(|c| c.next_change(&here.zone, here.now));
        let slices = state
            .slices
            .iter()
            .filter_map(|s| self.slice_row(&state, s, guests.iter().find(|g| g.id == s.id)?));
        PolicyView {
            on: state.compiled.is_some(),
            preset: state.compiled.as_ref().and_then(|c| c.policy.preset.clone()),
            now: owner::span(&state.plan, here.now, next, &here.zone),
            rules,
            readings: state
                .readings
                .vars
                .iter()
                .filter(|(_, v)| v.is_finite())
                .map(|(k, v)| (k.clone(), *v))
                .collect(),
            guests: slices.collect(),
            enforcers: enforcers(&self.owner.found()),
            month_bytes: state.month.bytes,
            month_limit_bytes: state.compiled.as_ref().and_then(|c| c.policy.host.net_month),
        }
    }

    fn slice_row(&self, state: &State, s: &Slice, g: &GuestView) -> Option<SliceRow> {
        let held = self.owner.enforcer.held(s.id);
        let cores = |m: Millicores| f64::from(m.0) / 1_000.0;
        let period_us = u64::try_from(s.period.as_micros()).ok()?;
        let limit = state.limits.get(&s.id).copied().unwrap_or_default();
        let backend = held.as_ref().map(|h| h.backend);
        Some(SliceRow {
            id: s.id.to_string(),
            name: g.name.to_string(),
            class: class(limit).as_str().into(),
            cpus: cores(s.cpu),
            most_cpus: cores(s.most),
            limit_cpus: limit.cpu.map(|c| cores(Millicores(c))),
            period_us,
            slice_us: period_us * u64::from(s.cpu.0) / 1_000,
            // A promise that nothing keeps is none.
            promised: s.reserved && backend == Some(Backend::Deadline),
            enforcer: backend.map_or_else(|| "none".into(), |b| b.to_string()),
            enforcer_why: held.map(|h| h.why).filter(|w| !w.is_empty()),
            held: s.held.clone(),
            used_ms: g.pid.and_then(vm::io::cpu_time).map(|ns| ns / 1_000_000),
        })
    }
}

/// Thousandths of a processor that a person means for a guest with so many: `25%`, `0.5 cores`.
pub(super) fn limit_of(text: &str, cpus: u16) -> Result<u32, Fault> {
    Share::read(text.trim()).map(|s| s.of(cpus).0).ok_or_else(|| {
        Fault::new(
            FaultKind::Usage,
            format!("'{}' is no part of a processor", wire::fault::plain(text)),
        )
        .next("write a part of the guest's processors, 25%, or processors, \"0.5 cores\"")
    })
}

/// Mechanisms, best first, and why one is not to be had.
pub(super) fn enforcers(found: &vm::enforce::Found) -> Vec<EnforcerRow> {
    let row = |b: Backend, why: Option<String>| EnforcerRow {
        name: b.to_string(),
        granted: why.is_none(),
        why,
    };
    vec![
        row(Backend::Deadline, found.deadline.as_ref().err().cloned()),
        row(Backend::CgroupV2, found.v2.as_ref().err().cloned()),
        row(Backend::CgroupV1, found.v1.as_ref().err().cloned()),
        row(Backend::Sigstop, None),
    ]
}
