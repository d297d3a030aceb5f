//! The rest of a guest's life: at its host, and for those who ask its host.

use super::{Daemon, guest_rows::Meant, host::Teller, registry::MyGuest, run::millis};
use crate::api::{self, LifeAct, Progress};
use data_encoding::BASE64;
use std::time::{Duration, Instant};
use vm::spec::GuestSpec;
use wire::{
    Fault, FaultKind, GuestId, Name, NodeId,
    grant::Right,
    guest::{
        AgentAnswer, AgentAsk, GuestCall, GuestResult, GuestSpecV1, GuestState, GuestView, LifeVerb, MAX_WAIT_MS,
        SnapshotView, Until,
    },
};

/// Between two looks for an agent that does not answer yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Pause before a host that does not answer is asked again while somebody waits.
const ASK_AGAIN: Duration = Duration::from_secs(2);

fn vm_fault(e: vm::io::VerbError) -> Fault {
    Fault::from(&e)
}

fn no_guest() -> Fault {
    Fault::new(FaultKind::NoMatch, "the guest was removed meanwhile")
}

/// The host's side.
impl Daemon {
    pub(super) async fn life_call(
        self: &std::sync::Arc<Self>,
        guest: GuestId,
        verb: LifeVerb,
        teller: &Teller,
    ) -> Result<(), Fault> {
        match verb {
            LifeVerb::Pause => self.guests.pause(guest).await.map_err(vm_fault)?,
            LifeVerb::Resume => {
                self.guests.resume(guest).await.map_err(vm_fault)?;
                self.correct_clock(guest);
            }
            LifeVerb::Hibernate => {
                teller.waiting("saving the guest's memory");
                let turn = self.turn_of(guest)?;
                let _turn = turn.lock().await;
                self.guests.hibernate(guest).await.map_err(vm_fault)?;
                self.unplug(guest).await;
            }
            LifeVerb::Restore => drop(self.bring_up(guest, &[], teller).await?),
            LifeVerb::Snapshot { name } => {
                teller.waiting("copying the guest's disk and memory");
                self.guests.snapshot(guest, name).await.map_err(vm_fault)?;
                self.correct_clock(guest);
            }
            LifeVerb::RollBack { name } => {
                let turn = self.turn_of(guest)?;
                let _turn = turn.lock().await;
                teller.waiting("putting the snapshot in its place");
                self.guests.roll_back(guest, name).await.map_err(vm_fault)?;
            }
            LifeVerb::DropSnapshot { name } => self.guests.drop_snapshot(guest, name).await.map_err(vm_fault)?,
        }
        self.publish_soon();
        Ok(())
    }

    /// A guest whose CPUs stood still has a clock that is late; its agent, if there is one, sets it right.
    pub(super) fn correct_clock(&self, guest: GuestId) {
        let guests = self.guests.clone();
        tokio::spawn(async move {
            if let Err(e) = guests.agent_set_time(guest).await {
                tracing::debug!(%guest, error = %e, "the guest's clock was not set");
            }
        });
    }

    pub(super) async fn snapshots_call(&self, guest: GuestId) -> Result<Vec<SnapshotView>, Fault> {
        let all = self.guests.snapshots(guest).await.map_err(vm_fault)?;
        let view = |s: vm::record::SnapshotRecord| SnapshotView {
            name: s.name,
            at: s.at,
            bytes: s.bytes,
            memory: s.saved.is_some(),
        };
        Ok(all.into_iter().map(view).collect())
    }

    /// Makes another guest with the disk of this one: with an Ethernet address and an identity of its own.
    pub(super) async fn clone_call(
        &self,
        from: NodeId,
        guest: GuestId,
        (id, name): (GuestId, Name),
        token: Option<&[u8]>,
        teller: &Teller,
    ) -> Result<(), Fault> {
        if self.guests.info(id).is_none() {
            let _admission = self.admitting.lock().await;
            let source = self.guests.spec(guest).ok_or_else(no_guest)?;
            let asked = GuestSpecV1 {
                name: name.clone(),
                image: source.image,
                image_ref: source.image_ref.clone(),
                lan: source.lan.clone(),
                cpus: source.cpus,
                memory: source.memory,
                disk: source.disk,
                hints: Vec::new(),
            };
            self.authorise_start(from, &asked, token)?;
            let spec = GuestSpec {
                id,
                name,
                mac: super::host::mac_of(id),
                ..source
            };
            self.guests.create(spec).await.map_err(|e| Fault::from(&e))?;
        }
        self.own_guest(from, id)?;
        teller.waiting("copying the guest's disk");
        if let Err(e) = self.guests.clone_disk(guest, id).await {
            self.guests.remove(id).await.map_err(vm_fault)?;
            return Err(vm_fault(e));
        }
        self.publish_soon();
        Ok(())
    }

    pub(super) async fn wait_call(
        &self,
        from: NodeId,
        guest: GuestId,
        until: Until,
        timeout_ms: u64,
        teller: &Teller,
    ) -> Result<GuestView, Fault> {
        let end = tokio::time::Instant::now() + Duration::from_millis(timeout_ms.min(MAX_WAIT_MS));
        let mut changes = self.guest_changes.subscribe();
        let what = match until {
            Until::State(s) => format!("waiting until the guest is {s}"),
            Until::Address => "waiting for the guest's address".to_owned(),
            Until::Agent => "waiting for the agent in the guest".to_owned(),
        };
        loop {
            let view = self.own_guest(from, guest)?;
            let there = match until {
                Until::State(s) => view.state == s,
                Until::Address => !view.ips.is_empty(),
                Until::Agent => view.state == GuestState::Running && self.guests.agent_answers(guest).await.is_ok(),
            };
            if there {
                return Ok(view);
            }
            let lost = matches!(view.state, GuestState::Crashed | GuestState::Error);
            if lost && !matches!(until, Until::State(_)) {
                let why = view.note.unwrap_or_else(|| "no reason is known".into());
                return Err(Fault::new(
                    FaultKind::Failed,
                    format!("guest {} is {}: {why}", view.name, view.state),
                )
                .next(format!("read what it printed: lanline logs {}", view.name)));
            }
            teller.waiting(&what);
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = tokio::time::sleep_until(end) => {
                    return Err(Fault::new(
                        FaultKind::TimedOut,
                        format!("{what}: not in {timeout_ms} ms; it is {}", view.state),
                    )
                    .next(format!("look at it: lanline info {0}, or lanline logs {0}", view.name)));
                }
            }
        }
    }

    pub(super) async fn agent_call(
        &self,
        from: NodeId,
        guest: GuestId,
        token: Option<&[u8]>,
        ask: AgentAsk,
    ) -> Result<AgentAnswer, Fault> {
        if from != self.me {
            self.check_grant(from, token, &overlay::grant::Ask::plain(Right::Console))?;
        }
        let g = &self.guests;
        Ok(match ask {
            AgentAsk::Exec {
                argv,
                input,
                timeout_ms,
            } => {
                let limit = Duration::from_millis(timeout_ms.min(MAX_WAIT_MS));
                AgentAnswer::Exec(g.agent_exec(guest, &argv, &input, limit).await.map_err(vm_fault)?)
            }
            AgentAsk::Read { path, offset } => {
                let (data, end) = g.agent_read(guest, &path, offset).await.map_err(vm_fault)?;
                AgentAnswer::Read { data, end }
            }
            AgentAsk::Write { path, offset, data } => {
                g.agent_write(guest, &path, offset, &data).await.map_err(vm_fault)?;
                AgentAnswer::Written
            }
        })
    }
}

fn snapshot_name(name: Option<&str>) -> Result<Name, Fault> {
    let text = name.ok_or_else(|| Fault::new(FaultKind::Usage, "the name of a snapshot is missing"))?;
    text.parse()
        .map_err(|e: wire::ids::BadId| Fault::new(FaultKind::Usage, e.to_string()))
}

fn decoded(text: &str) -> Result<Vec<u8>, Fault> {
    BASE64
        .decode(text.as_bytes())
        .map_err(|e| Fault::new(FaultKind::Usage, format!("the data is not base64: {e}")))
}

fn nonsense() -> Fault {
    let what = "the host answered another question than the one it was asked";
    Fault::new(FaultKind::Failed, what)
}

/// The side of those who ask.
impl Daemon {
    /// Asks a guest's host and passes on what it waits for.
    pub(super) async fn ask_shown(
        &self,
        m: &Meant,
        call: GuestCall,
        progress: &Progress,
    ) -> Result<GuestResult, Fault> {
        let host = self.name_of(m.host).unwrap_or_else(|| m.host.to_string());
        let p = progress.clone();
        self.call_host(m.host, &call, move |u| super::run::show_waiting(u, &p))
            .await
            .map_err(|e| e.into_fault(&host))
    }

    pub(super) async fn live(
        &self,
        guest: &str,
        req: api::LifeRequest,
        progress: &Progress,
    ) -> Result<api::LifeView, Fault> {
        let t0 = Instant::now();
        let m = self.resolve_guest(guest)?;
        let name = || snapshot_name(req.snapshot.as_deref());
        let verb = match req.act {
            LifeAct::Start | LifeAct::Restart => None,
            LifeAct::Pause => Some(LifeVerb::Pause),
            LifeAct::Resume => Some(LifeVerb::Resume),
            LifeAct::Hibernate => Some(LifeVerb::Hibernate),
            LifeAct::Restore => Some(LifeVerb::Restore),
            LifeAct::Snapshot => Some(LifeVerb::Snapshot { name: name()? }),
            LifeAct::DropSnapshot => Some(LifeVerb::DropSnapshot { name: name()? }),
        };
        if req.act == LifeAct::Restart {
            let call = GuestCall::Stop {
                guest: m.id,
                force: false,
            };
            self.ask_shown(&m, call, progress).await?;
        }
        if req.act == LifeAct::Restore && req.snapshot.is_some() {
            let verb = LifeVerb::RollBack { name: name()? };
            self.ask_shown(&m, GuestCall::Life { guest: m.id, verb }, progress)
                .await?;
        }
        let call = match verb {
            Some(verb) => GuestCall::Life { guest: m.id, verb },
            None => GuestCall::Restart { guest: m.id },
        };
        match self.ask_shown(&m, call, progress).await? {
            GuestResult::Guest(v) => Ok(api::LifeView {
                id: m.id.to_string(),
                name: m.name,
                state: v.state.to_string(),
                note: v.note,
                took_ms: millis(t0.elapsed()),
            }),
            _ => Err(nonsense()),
        }
    }

    pub(super) async fn snapshot_rows(&self, guest: &str) -> Result<Vec<api::SnapshotRow>, Fault> {
        let m = self.resolve_guest(guest)?;
        let row = |s: SnapshotView| api::SnapshotRow {
            name: s.name.to_string(),
            at: s.at.0,
            bytes: s.bytes,
            memory: s.memory,
        };
        match self.ask(&m, GuestCall::Snapshots { guest: m.id }).await? {
            GuestResult::Snapshots(all) => Ok(all.into_iter().map(row).collect()),
            _ => Err(nonsense()),
        }
    }

    pub(super) async fn clone_guest(
        &self,
        guest: &str,
        req: api::CloneRequest,
        progress: &Progress,
    ) -> Result<api::GuestView, Fault> {
        let m = self.resolve_guest(guest)?;
        let name = snapshot_name(Some(&req.name))?;
        if self.registry().by_name(&name).is_some() {
            return Err(
                Fault::new(FaultKind::Usage, format!("a guest named {name} is there already"))
                    .next("choose another name"),
            );
        }
        let mine = self.registry().get(m.id).cloned();
        let id = GuestId::from_random(rand::random());
        // Written down before the host is asked, as with `run`.
        if let Some(source) = mine {
            self.registry_add(MyGuest {
                id: id.to_string(),
                name: name.clone(),
                created: super::now(),
                epoch: 0,
                moving: None,
                was_running: false,
                ..source
            })?;
        }
        let call = GuestCall::Clone {
            guest: m.id,
            id,
            name,
            token: self.token_for(m.host),
        };
        match self.ask_shown(&m, call, progress).await {
            Ok(GuestResult::Guest(v)) => Ok(self.guest_view(&v)),
            Ok(_) => Err(nonsense()),
            Err(f) => {
                // A host that does not answer may have made it: then the record stays, in doubt.
                if f.kind != FaultKind::Unreachable {
                    self.registry_remove(id)?;
                }
                Err(f)
            }
        }
    }

    /// Waits at the guest's host; a host that does not answer is asked again while there is time.
    pub(super) async fn wait_guest(
        &self,
        guest: &str,
        req: api::WaitRequest,
        progress: &Progress,
    ) -> Result<api::GuestView, Fault> {
        let until = match req.until.as_str() {
            "ip" => Until::Address,
            "agent" => Until::Agent,
            word => Until::State(word.parse().map_err(|e: wire::guest::BadState| {
                Fault::new(FaultKind::Usage, format!("{e}; or wait for ip or agent"))
            })?),
        };
        let end = Instant::now() + Duration::from_millis(req.timeout_ms.min(MAX_WAIT_MS));
        loop {
            let m = self.resolve_guest(guest)?;
            let left = end.saturating_duration_since(Instant::now());
            let call = GuestCall::Wait {
                guest: m.id,
                until,
                timeout_ms: millis(left),
            };
            match self.ask_shown(&m, call, progress).await {
                Ok(GuestResult::Guest(v)) => return Ok(self.guest_view(&v)),
                Ok(_) => return Err(nonsense()),
                Err(f) if f.kind == FaultKind::Unreachable && Instant::now() < end => {
                    progress.waiting(format!("{}; asking again", f.what));
                    tokio::time::sleep(ASK_AGAIN.min(left)).await;
                }
                Err(f) => return Err(f),
            }
        }
    }

    async fn ask_agent(&self, guest: &str, ask: AgentAsk, progress: Option<&Progress>) -> Result<AgentAnswer, Fault> {
        ask.check()?;
        let m = self.resolve_guest(guest)?;
        let call = GuestCall::Agent {
            guest: m.id,
            token: self.token_for(m.host),
            ask,
        };
        let answer = match progress {
            Some(p) => self.ask_shown(&m, call, p).await?,
            None => self.ask(&m, call).await?,
        };
        match answer {
            GuestResult::Agent(a) => Ok(a),
            _ => Err(nonsense()),
        }
    }

    pub(super) async fn exec_in_guest(
        &self,
        guest: &str,
        req: api::ExecRequest,
        progress: &Progress,
    ) -> Result<api::ExecView, Fault> {
        let ask = AgentAsk::Exec {
            argv: req.argv,
            input: decoded(&req.input_base64)?,
            timeout_ms: req.timeout_ms,
        };
        match self.ask_agent(guest, ask, Some(progress)).await? {
            AgentAnswer::Exec(r) => Ok(api::ExecView {
                code: r.code,
                signal: r.signal,
                stdout: String::from_utf8_lossy(&r.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&r.stderr).into_owned(),
                stdout_base64: BASE64.encode(&r.stdout),
                stderr_base64: BASE64.encode(&r.stderr),
                truncated: r.truncated,
            }),
            _ => Err(nonsense()),
        }
    }

    pub(super) async fn read_in_guest(&self, guest: &str, req: api::FileRead) -> Result<api::FilePart, Fault> {
        let ask = AgentAsk::Read {
            path: req.path,
            offset: req.offset,
        };
        match self.ask_agent(guest, ask, None).await? {
            AgentAnswer::Read { data, end } => Ok(api::FilePart {
                data_base64: BASE64.encode(&data),
                end,
            }),
            _ => Err(nonsense()),
        }
    }

    pub(super) async fn write_in_guest(&self, guest: &str, req: api::FileWrite) -> Result<api::FileWritten, Fault> {
        let data = decoded(&req.data_base64)?;
        let bytes = data.len() as u64;
        let ask = AgentAsk::Write {
            path: req.path,
            offset: req.offset,
            data,
        };
        match self.ask_agent(guest, ask, None).await? {
            AgentAnswer::Written => Ok(api::FileWritten { bytes }),
            _ => Err(nonsense()),
        }
    }
}
