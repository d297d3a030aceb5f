//! `lanline run`: the user's side. Paper: §4, steps 1 to 4 and 6.
//!
//! The guest's id and its record are on disk before the first host is asked, and every host answers a repeated start
//! of one id with the guest that the first one made. So neither a broken path nor the death of either node makes two.

use super::{Daemon, calls::CallEnd, find::Candidate, registry::MyGuest};
use crate::{
    api::{
        ExecRequest, ExecView, PlaceRow, Progress, ProgressLine, RunRequest, RunResult, StepLine, Unit, WaitFor,
        WaitRequest,
    },
    place,
};
use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};
use wire::{
    ByteSize, Fault, FaultKind, GuestId, ImageId, LanId, Name, NodeId,
    guest::{FetchReport, GuestCall, GuestResult, GuestSpecV1, GuestUpdate, GuestView, MAX_HINTS, Step},
    settings::Setting,
};

/// How long hosts are looked for before the best of those found is taken.
const FIND_HOSTS: Duration = Duration::from_millis(1_500);
/// Pause before a start is repeated at a host whose path broke.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What `run` was asked, with every name resolved.
struct Plan {
    name: Name,
    lan: Option<LanId>,
    image: ImageId,
    image_ref: String,
    hints: Vec<NodeId>,
    net_policy: Vec<Setting>,
    /// This node holds the image.
    here: bool,
}

/// How long a person waits: `limit` since the last sign that it goes on. A step is one, and so is a piece that arrived;
/// so a large image may take its time, and once the guest runs, `limit` is what its address may take.
struct Wait {
    t0: Instant,
    limit: Duration,
    progress: Progress,
    sign: Mutex<(Instant, u64)>,
}

impl Wait {
    fn new(t0: Instant, limit: Duration, progress: Progress) -> Self {
        Self {
            t0,
            limit,
            progress,
            sign: Mutex::new((t0, 0)),
        }
    }

    fn saw(&self, update: &GuestUpdate) {
        let mut sign = super::lock(&self.sign);
        match update {
            GuestUpdate::Step { .. } => sign.0 = Instant::now(),
            GuestUpdate::Progress(p) if p.pieces_have > sign.1 => *sign = (Instant::now(), p.pieces_have),
            _ => {}
        }
    }

    /// Ends when there was no sign for too long.
    async fn over(&self) {
        loop {
            let until = super::lock(&self.sign).0 + self.limit;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

/// What became known while a host worked.
#[derive(Default)]
struct Trail {
    steps: Vec<StepLine>,
    fetched: FetchReport,
    address: Option<String>,
    placement: Vec<PlaceRow>,
    /// The guest came up.
    ran: bool,
}

impl Trail {
    fn step(&mut self, progress: &Progress, step: &str, t0: Instant, note: String) {
        let at_ms = millis(t0.elapsed());
        progress.step(step, at_ms, note.clone());
        self.steps.push(StepLine {
            step: step.into(),
            at_ms,
            note,
        });
    }
}

/// The port policy that is asked for, checked as far as it can be here.
fn wishes(req: &RunRequest) -> Result<Vec<Setting>, Fault> {
    let one = |(key, value): (&String, &String)| Setting {
        key: key.clone(),
        value: value.chars().filter(|c| !c.is_whitespace()).collect(),
    };
    let list: Vec<Setting> = req.net_policy.iter().map(one).collect();
    super::lan_wide::wished(&list)?;
    Ok(list)
}

impl Daemon {
    /// Finds a host, starts a guest there, waits for what the caller asked for.
    pub(super) async fn run_guest(&self, req: RunRequest, progress: Progress) -> Result<RunResult, Fault> {
        let t0 = Instant::now();
        let plan = self.plan_run(&req, &progress).await?;
        let req = self.sized_warm(req, plan.image, &plan.hints).await?;
        let mut trail = Trail::default();
        let wait = Wait::new(t0, Duration::from_millis(req.timeout_ms), progress.clone());
        progress.waiting("looking for hosts that lend");
        let (candidates, placement) = self.candidates(&req, &plan).await?;
        trail.placement = placement;
        let id = GuestId::from_random(rand::random());
        let mut refusals = Vec::new();
        for c in candidates {
            trail.steps.clear();
            trail.step(&progress, "host_found", t0, format!("chose {}", c.describe()));
            let started = self.start_at(&c, id, &req, &plan, &wait, &mut trail).await;
            match started {
                Ok(view) => {
                    let exec = self.finish_run(&req, &plan, &progress).await?;
                    let mut result = self.run_result(&c, view, &plan, trail, t0);
                    result.exec = exec;
                    return Ok(result);
                }
                Err(f) if req.host.is_none() && f.kind == FaultKind::Refused => {
                    tracing::info!(host = %c.id, why = %f.what, "host refused, trying the next");
                    refusals.push(f);
                }
                Err(f) => return Err(f),
            }
        }
        Err(refusals.into_iter().next().unwrap_or_else(no_host))
    }

    /// What `run` does with a guest that runs: waits for its agent, or gives it a command and removes it after that.
    async fn finish_run(&self, req: &RunRequest, plan: &Plan, progress: &Progress) -> Result<Option<ExecView>, Fault> {
        let name = plan.name.to_string();
        if req.wait == WaitFor::Agent || req.batch.is_some() {
            let until = WaitRequest {
                until: "agent".into(),
                timeout_ms: req.timeout_ms,
            };
            self.wait_guest(&name, until, progress).await?;
        }
        let Some(argv) = &req.batch else { return Ok(None) };
        progress.waiting(format!("{name} is at it"));
        let ask = ExecRequest {
            argv: argv.clone(),
            input_base64: String::new(),
            timeout_ms: wire::guest::MAX_WAIT_MS,
        };
        let done = self.exec_in_guest(&name, ask, progress).await?;
        let m = self.resolve_guest(&name)?;
        // Its work is done: it is not asked to shut down, nothing of it is kept.
        self.ask(
            &m,
            GuestCall::Stop {
                guest: m.id,
                force: true,
            },
        )
        .await?;
        self.remove_anywhere(&name, false).await?;
        Ok(Some(done))
    }

    async fn plan_run(&self, req: &RunRequest, progress: &Progress) -> Result<Plan, Fault> {
        if req.cpus == 0 || req.memory_bytes == 0 {
            return Err(Fault::new(
                FaultKind::Usage,
                "a guest needs at least one processor and some memory",
            ));
        }
        let lan = self.lan_for_run(req.lan.as_deref())?;
        let net_policy = wishes(req)?;
        progress.waiting(format!("looking for image {}", req.image));
        let image = self.find_image(&req.image).await?;
        let name = match &req.name {
            Some(n) => n
                .parse::<Name>()
                .map_err(|e| Fault::new(FaultKind::Usage, e.to_string()))?,
            None => self.registry().free_name(image.name.as_ref()),
        };
        if self.registry().by_name(&name).is_some() {
            return Err(
                Fault::new(FaultKind::Usage, format!("a guest named {name} is there already"))
                    .next(format!("choose another name, or remove it: lanline rm {name}")),
            );
        }
        let here = self.store_info(image.id).await.is_some();
        let mut hints = image.holders;
        hints.truncate(MAX_HINTS);
        Ok(Plan {
            name,
            lan,
            image: image.id,
            image_ref: image.shown,
            hints,
            net_policy,
            here,
        })
    }

    async fn candidates(&self, req: &RunRequest, plan: &Plan) -> Result<(Vec<Candidate>, Vec<PlaceRow>), Fault> {
        if let Some(host) = &req.host {
            let id = self.resolve_node(host)?;
            let found = self.find_hosts(FIND_HOSTS).await;
            let known = found.hosts.into_iter().find(|c| c.id == id);
            let named = known.unwrap_or_else(|| Candidate::unknown(id, self.name_of(id)));
            return Ok(self.ranked(vec![named], req, plan));
        }
        let found = self.find_hosts(FIND_HOSTS).await;
        let total = found.hosts.len();
        let fits: Vec<_> = found
            .hosts
            .into_iter()
            .filter(|c| c.fits(req, plan.lan.as_ref()))
            .collect();
        if !fits.is_empty() {
            return Ok(self.ranked(fits, req, plan));
        }
        let why = if total == 0 {
            "no machine offers to run guests".to_owned()
        } else {
            format!(
                "{total} machine(s) lend, but none has {} processor(s) and {} free on this LAN",
                req.cpus,
                ByteSize(req.memory_bytes)
            )
        };
        Err(Fault::new(FaultKind::NoMatch, why)
            .next("see who lends: lanline hosts; or lend this machine: lanline offer"))
    }

    /// Candidates in the order in which they are asked, and why.
    fn ranked(&self, hosts: Vec<Candidate>, req: &RunRequest, plan: &Plan) -> (Vec<Candidate>, Vec<PlaceRow>) {
        let facts: Vec<place::Facts<'_>> = hosts
            .iter()
            .map(|c| place::Facts {
                id: c.id,
                name: &c.name,
                offer: c.offer.as_ref(),
                rtt: if c.id == self.me { Some(Duration::ZERO) } else { c.rtt },
                holds_image: plan.hints.contains(&c.id) || c.id == self.me && plan.here,
                granted: c.id == self.me || self.token_for(c.id).is_some(),
            })
            .collect();
        let ranked = place::rank(&facts, req.cpus);
        drop(facts);
        let mut slots: Vec<Option<Candidate>> = hosts.into_iter().map(Some).collect();
        let (order, rows): (Vec<usize>, Vec<PlaceRow>) = ranked.into_iter().unzip();
        let hosts = order
            .into_iter()
            .filter_map(|i| slots.get_mut(i).and_then(Option::take))
            .collect();
        (hosts, rows)
    }

    /// Starts the guest at one host, repeating the call while the path breaks and time is left.
    async fn start_at(
        &self,
        host: &Candidate,
        id: GuestId,
        req: &RunRequest,
        plan: &Plan,
        wait: &Wait,
        trail: &mut Trail,
    ) -> Result<GuestView, Fault> {
        let spec = GuestSpecV1 {
            name: plan.name.clone(),
            image: plan.image,
            image_ref: plan.image_ref.clone(),
            lan: plan.lan.clone(),
            cpus: u16::try_from(req.cpus).unwrap_or(u16::MAX),
            memory: ByteSize(req.memory_bytes),
            disk: req.disk_bytes.map(ByteSize),
            hints: plan.hints.clone(),
        };
        self.registry_add(MyGuest::new(id, host.id, &spec, super::now()))?;
        let (spec, token, net_policy) = (Box::new(spec), self.token_for(host.id), plan.net_policy.clone());
        let call = match &req.user_data {
            text if req.persistent => GuestCall::StartPersistent {
                id,
                spec,
                token,
                net_policy,
                user_data: text.as_ref().map(|t| t.clone().into_bytes()),
                warm: req.warm,
            },
            None if req.warm => GuestCall::StartWarm {
                id,
                spec,
                token,
                net_policy,
            },
            None => GuestCall::Start {
                id,
                spec,
                token,
                net_policy,
            },
            Some(text) => GuestCall::StartSeeded {
                id,
                spec,
                token,
                net_policy,
                user_data: text.clone().into_bytes(),
            },
        };
        call.check()?;
        let wait_ip = req.wait == WaitFor::Ip && plan.lan.is_some();
        let mut broken = None;
        loop {
            let end = tokio::select! {
                ended = self.follow_start(host, &call, wait_ip, wait, trail) => match ended {
                    Ok(view) => return Ok(view),
                    Err(end) => end,
                },
                () = wait.over() => return Err(late(host, &plan.name, trail, broken)),
            };
            match end {
                CallEnd::Fault(f) => {
                    // A host takes away what did not come up. What ran stays, whatever it was still waited for.
                    if !trail.ran {
                        self.registry_remove(id)?;
                    }
                    return Err(f);
                }
                CallEnd::Broken(why) => {
                    wait.progress
                        .waiting(format!("{} went away ({why}); asking it again", host.name));
                    broken = Some(why);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// One start call, followed to what is waited for.
    async fn follow_start(
        &self,
        host: &Candidate,
        call: &GuestCall,
        wait_ip: bool,
        wait: &Wait,
        trail: &mut Trail,
    ) -> Result<GuestView, CallEnd> {
        let runs = tokio::sync::Notify::new();
        let followed = self.call_host(host.id, call, |u| {
            if matches!(
                u,
                GuestUpdate::Step {
                    step: Step::Running,
                    ..
                }
            ) {
                runs.notify_one();
            }
            note_update(u, host, wait, trail);
        });
        let result = tokio::select! {
            r = followed => r?,
            // The host goes on without a listener.
            () = runs.notified(), if !wait_ip => {
                let guest = call.guest().unwrap_or(GuestId([0; 16]));
                self.call_host(host.id, &GuestCall::Info { guest }, |_| {}).await?
            }
        };
        let GuestResult::Guest(view) = result else {
            return Err(CallEnd::Fault(Fault::new(
                FaultKind::Failed,
                format!("{} answered another question", host.name),
            )));
        };
        if wait_ip && trail.address.is_none() {
            match view.ips.first() {
                Some(ip) => trail.address = Some(ip.to_string()),
                None => return Err(CallEnd::Broken("it stopped waiting for the guest's address".into())),
            }
        }
        Ok(*view)
    }

    fn run_result(&self, host: &Candidate, view: GuestView, plan: &Plan, trail: Trail, t0: Instant) -> RunResult {
        let bytes_from: BTreeMap<String, u64> = trail
            .fetched
            .from
            .iter()
            .map(|(n, b)| (self.name_of(*n).unwrap_or_else(|| n.to_string()), *b))
            .collect();
        RunResult {
            id: view.id.to_string(),
            name: plan.name.to_string(),
            host: host.id.to_string(),
            host_name: host.name.clone(),
            ip: trail.address,
            mac: view.mac.to_string(),
            lan: plan.lan.as_ref().map(|l| l.name.to_string()),
            image: view.image.to_string(),
            accel: view.accel.to_string(),
            state: view.state.to_string(),
            image_bytes: trail.fetched.bytes,
            bytes_from,
            steps: trail.steps,
            exec: None,
            placement: trail.placement,
            total_ms: millis(t0.elapsed()),
        }
    }
}

/// Nothing new came for as long as the caller was ready to wait.
fn late(host: &Candidate, name: &Name, trail: &Trail, broken: Option<String>) -> Fault {
    let look = format!("look at it with: lanline info {name}, or lanline logs {name}");
    if let Some(why) = broken {
        return CallEnd::Broken(why)
            .into_fault(&host.name)
            .next(format!("the guest may still start; {look}"));
    }
    let reached = trail.steps.last().map_or("asking the host", |s| s.step.as_str());
    Fault::new(
        FaultKind::TimedOut,
        format!(
            "nothing new from {} for too long after the step '{reached}'; the guest may still come up",
            host.name
        ),
    )
    .next(look)
}

fn no_host() -> Fault {
    Fault::new(FaultKind::NoMatch, "no machine offers to run guests").next("see who lends: lanline hosts")
}

/// Shows what a host waits for, of a call whose steps nobody counts.
pub(super) fn show_waiting(update: GuestUpdate, progress: &Progress) {
    match update {
        GuestUpdate::Waiting { what } if what != super::host::STILL_WORKING => progress.waiting(what),
        GuestUpdate::Progress(p) => progress.progress(super::convert::pull_line("fetching the image", &p)),
        _ => {}
    }
}

/// Shows an update of a host to the person who waits, and keeps what the result needs.
fn note_update(update: GuestUpdate, host: &Candidate, wait: &Wait, trail: &mut Trail) {
    let (t0, progress) = (wait.t0, &wait.progress);
    wait.saw(&update);
    match update {
        GuestUpdate::Step { step, note, .. } => {
            trail.ran |= step == Step::Running;
            let (word, text) = match step {
                Step::Admitted => ("admitted", format!("{} admits the guest", host.name)),
                Step::Fetching => ("fetching", with_note("fetching the image", &note)),
                Step::Fetched => ("fetched", with_note("enough of the image is there", &note)),
                Step::Starting => ("starting", with_note("starting", &note)),
                Step::Running => ("running", with_note("running", &note)),
                Step::Address => {
                    trail.address = Some(note.split_whitespace().next().unwrap_or_default().to_owned());
                    ("address", format!("address {note}"))
                }
            };
            trail.step(progress, word, t0, text);
        }
        GuestUpdate::Progress(p) => progress.progress(ProgressLine {
            what: "fetching the image".into(),
            done: p.bytes_have,
            total: Some(p.bytes_total),
            unit: Unit::Bytes,
            rate: Some(p.rate),
            peers: Some(p.peers),
            eta_ms: p.eta_ms,
            note: None,
        }),
        GuestUpdate::Waiting { what } if what == super::host::STILL_WORKING => {}
        GuestUpdate::Waiting { what } => progress.waiting(what),
        GuestUpdate::Fetched(report) => trail.fetched = report,
        GuestUpdate::Done(_) | GuestUpdate::Fault(_) => {}
    }
}

fn with_note(text: &str, note: &str) -> String {
    if note.is_empty() {
        text.to_owned()
    } else {
        format!("{text}: {note}")
    }
}

/// Whole milliseconds.
pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
