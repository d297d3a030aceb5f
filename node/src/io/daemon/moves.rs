//! A guest's move to another host: its files from host to host, and the owner's word on whose it is.
//!
//! The word is one line in the owner's own registry. Before it is written the old host has the guest, after it the new
//! one; both hold it back from the moment they hear of the move until they hear whose it is. So whatever dies when, it
//! is never started twice, and the same move given again goes on where it was.

use super::{Daemon, framed, guest_rows::Meant, host::Teller, run::millis, slots::Slots};
use crate::api::{self, Progress};
use std::{
    io,
    os::unix::fs::FileExt,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use vm::{io::Luggage, record::MoveRecord, spec::GuestSpec};
use wire::{
    Fault, FaultKind, GuestId, NodeId,
    guest::{
        GuestCall, GuestResult, GuestSpecV1, GuestState, GuestView, ImageProgress, LifeVerb, MAX_MOVE_BYTES, MAX_PART,
        MOVE_PROTOCOL, MoveItem, MoveOpen, MoveStep,
    },
};

/// Guests that leave at a time, each with a file that is read.
const MAX_MOVES: usize = 4;
/// Parts that are read ahead of the network.
const READ_AHEAD: usize = 8;
/// A host that sends says something at least this often.
const SILENCE: Duration = Duration::from_secs(60);
/// Page of zeros that does not travel.
const PAGE: usize = 4_096;

fn vm_fault(e: vm::io::VerbError) -> Fault {
    Fault::from(&e)
}

fn failed(what: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::Failed, format!("the guest could not be moved: {what}"))
}

fn stale() -> Fault {
    Fault::new(FaultKind::Refused, "the guest is on no such move, or on a later one").next("see it: lanline ls")
}

/// The hosts' side.
impl Daemon {
    pub(super) async fn move_call(
        self: &Arc<Self>,
        from: NodeId,
        guest: GuestId,
        step: MoveStep,
        teller: &Teller,
    ) -> Result<GuestView, Fault> {
        match step {
            MoveStep::Leave { to, epoch } => {
                self.own_guest(from, guest)?;
                let known = self.guests.moving(guest).await.map_err(vm_fault)?;
                if known.is_some_and(|m| m.epoch > epoch || m.arriving) {
                    return Err(stale());
                }
                let to = MoveRecord {
                    peer: to,
                    epoch,
                    arriving: false,
                };
                self.guests.leave(guest, to).await.map_err(vm_fault)?;
                self.unplug(guest).await;
            }
            MoveStep::Arrive {
                from: old,
                epoch,
                spec,
                token,
            } => {
                self.arrive(from, guest, (old, epoch), *spec, token.as_deref(), teller)
                    .await?
            }
            MoveStep::Stay { epoch } => {
                self.own_guest(from, guest)?;
                let known = self.guests.moving(guest).await.map_err(vm_fault)?;
                if known.is_some_and(|m| m.epoch != epoch) {
                    return Err(stale());
                }
                self.guests.stay(guest).await.map_err(vm_fault)?;
            }
        }
        self.publish_soon();
        self.own_guest(from, guest)
    }

    async fn arrive(
        self: &Arc<Self>,
        owner: NodeId,
        guest: GuestId,
        (old, epoch): (NodeId, u64),
        spec: GuestSpecV1,
        token: Option<&[u8]>,
        teller: &Teller,
    ) -> Result<(), Fault> {
        let turn = self.turn_of(guest)?;
        let _turn = turn.lock().await;
        if self.guests.info(guest).is_some() {
            self.own_guest(owner, guest)?;
            let known = self.guests.moving(guest).await.map_err(vm_fault)?;
            return if known.is_some_and(|m| m.epoch == epoch && m.arriving) {
                Ok(())
            } else {
                Err(stale())
            };
        }
        {
            let _admission = self.admitting.lock().await;
            self.authorise_start(owner, &spec, token)?;
            let spec = GuestSpec::from_wire(guest, owner, super::host::mac_of(guest), spec)
                .map_err(|e| Fault::new(FaultKind::Usage, e.to_string()))?;
            self.guests.create(spec).await.map_err(|e| Fault::from(&e))?;
        }
        teller.waiting("fetching the guest from its old host");
        let from = MoveRecord {
            peer: old,
            epoch,
            arriving: true,
        };
        let fetched = self.fetch_guest(guest, from, teller).await;
        if fetched.is_err() {
            self.guests.remove(guest).await.map_err(vm_fault)?;
        }
        fetched
    }

    async fn fetch_guest(&self, guest: GuestId, from: MoveRecord, teller: &Teller) -> Result<(), Fault> {
        let mut stream = self
            .overlay
            .open_stream(from.peer, MOVE_PROTOCOL)
            .await
            .map_err(failed)?;
        let open = MoveOpen {
            guest,
            epoch: from.epoch,
        };
        framed::write(&mut stream, &open).await.map_err(failed)?;
        let mut items = framed::Reader::new(stream, MAX_MOVE_BYTES);
        let MoveItem::List(list) = next(&mut items).await? else {
            return Err(failed("its old host sends no list"));
        };
        let luggage: Luggage = serde_json::from_slice(&list).map_err(failed)?;
        luggage.check().map_err(failed)?;
        let arrival = self.guests.arrive(guest).await.map_err(vm_fault)?;
        let total: u64 = luggage.parts.iter().map(|(_, len)| len).sum();
        let (t0, mut done) = (Instant::now(), 0);
        for (part, len) in &luggage.parts {
            let file = arrival.make(*part).map_err(failed)?;
            file.set_len(*len).map_err(failed)?;
            let mut hash = blake3::Hasher::new();
            loop {
                match next(&mut items).await? {
                    MoveItem::Part { offset, data } => {
                        let end = offset.checked_add(data.len() as u64);
                        if data.len() > MAX_PART || end.is_none_or(|e| e > *len) {
                            return Err(failed("its old host sends more than it listed"));
                        }
                        hash.update(&offset.to_be_bytes());
                        hash.update(&data);
                        let file = file.try_clone().map_err(failed)?;
                        let written = tokio::task::spawn_blocking(move || file.write_all_at(&data, offset));
                        written.await.map_err(failed)?.map_err(failed)?;
                        teller.progress(progress(done + offset, total, t0));
                    }
                    MoveItem::End { hash: said } if said == *hash.finalize().as_bytes() => break,
                    MoveItem::End { .. } => return Err(failed("a file came damaged")),
                    MoveItem::Fault(f) => return Err(f.sanitised()),
                    MoveItem::List(_) => return Err(failed("its old host sends two lists")),
                }
            }
            done += len;
        }
        self.guests
            .settle(guest, arrival, luggage, from)
            .await
            .map_err(vm_fault)
    }

    /// Answers `/lanline/move/1` until the node ends.
    pub(super) async fn serve_moves(self: Arc<Self>) {
        let mut streams = self.overlay.accept(MOVE_PROTOCOL);
        let slots = Slots::new(MAX_MOVES, MAX_MOVES);
        while let Some((peer, stream)) = streams.recv().await {
            let Some(slot) = slots.take(peer) else {
                tracing::debug!(%peer, "a guest's files are not given: too many are under way");
                continue;
            };
            let daemon = self.clone();
            tokio::spawn(async move {
                if let Err(e) = daemon.give_guest(peer, stream).await {
                    tracing::info!(%peer, error = %e, "a guest's files were not all given");
                }
                drop(slot);
            });
        }
    }

    async fn give_guest(&self, peer: NodeId, stream: overlay::io::Stream) -> io::Result<()> {
        let mut reader = framed::Reader::new(stream, MAX_MOVE_BYTES);
        let open = tokio::time::timeout(SILENCE, reader.next::<MoveOpen>()).await??;
        let open = open.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (mut to, _) = reader.into_parts();
        // To anybody but the host that the owner named a guest that leaves and one that is not there look the same.
        let known = self.guests.moving(open.guest).await.ok().flatten();
        if known.is_none_or(|m| m.peer != peer || m.epoch != open.epoch || m.arriving) {
            return framed::write(&mut to, &MoveItem::Fault(stale())).await;
        }
        let departure = self.guests.depart(open.guest).await.map_err(io::Error::other)?;
        let list = serde_json::to_vec(&departure.luggage).map_err(io::Error::other)?;
        framed::write(&mut to, &MoveItem::List(list)).await?;
        let (tx, mut rx) = mpsc::channel(READ_AHEAD);
        let reading = tokio::task::spawn_blocking(move || {
            for file in departure.files {
                read_file(&file, &tx)?;
            }
            Ok::<_, io::Error>(())
        });
        while let Some(item) = rx.recv().await {
            tokio::time::timeout(SILENCE, framed::write(&mut to, &item)).await??;
        }
        reading.await.map_err(io::Error::other)??;
        tokio::io::AsyncWriteExt::shutdown(&mut to).await
    }
}

async fn next(items: &mut framed::Reader<overlay::io::Stream>) -> Result<MoveItem, Fault> {
    let item = tokio::time::timeout(SILENCE, items.next::<MoveItem>()).await;
    let item = item.map_err(|_| failed("nothing came from its old host for a minute"))?;
    item.map_err(failed)?.ok_or_else(|| failed("its old host went away"))
}

fn progress(have: u64, total: u64, since: Instant) -> ImageProgress {
    let rate = have.saturating_mul(1_000) / millis(since.elapsed()).max(1);
    ImageProgress {
        bytes_total: total,
        bytes_have: have,
        rate,
        peers: 1,
        eta_ms: total.saturating_sub(have).saturating_mul(1_000).checked_div(rate),
        ..ImageProgress::default()
    }
}

/// Sends a file's pages that are not zero, in parts, and its end (blocking).
fn read_file(file: &std::fs::File, tx: &mpsc::Sender<MoveItem>) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut hash = blake3::Hasher::new();
    let mut buf = vec![0u8; MAX_PART];
    let mut offset = 0u64;
    loop {
        let n = file.read_at(&mut buf, offset)?;
        if n == 0 {
            break;
        }
        let used = |page: &[u8]| page.iter().any(|b| *b != 0);
        let first = buf[..n].chunks(PAGE).position(used);
        if let Some(first) = first {
            let last = buf[..n].chunks(PAGE).rposition(used).unwrap_or(first);
            let data = buf[first * PAGE..n.min((last + 1) * PAGE)].to_vec();
            let at = offset + (first * PAGE) as u64;
            hash.update(&at.to_be_bytes());
            hash.update(&data);
            tx.blocking_send(MoveItem::Part { offset: at, data }).map_err(gone)?;
        }
        offset += n as u64;
    }
    let hash = *hash.finalize().as_bytes();
    tx.blocking_send(MoveItem::End { hash }).map_err(gone)
}

/// The owner's side.
impl Daemon {
    pub(super) async fn move_guest(
        &self,
        guest: &str,
        req: api::MoveRequest,
        progress: &Progress,
    ) -> Result<api::LifeView, Fault> {
        let t0 = Instant::now();
        let m = self.resolve_guest(guest)?;
        let mine = self.registry().get(m.id).cloned().ok_or_else(|| {
            Fault::new(
                FaultKind::Refused,
                format!("{} belongs to another node, which alone may move it", m.name),
            )
        })?;
        let to = match (req.cancel, &req.to, mine.moving_to()) {
            (true, _, _) => return self.cancel_move(&m, t0, progress).await,
            (false, Some(to), before) => {
                let to = self.resolve_node(to)?;
                if before.is_some_and(|b| b != to) {
                    let what = format!("{} is on the way to another host", m.name);
                    return Err(Fault::new(FaultKind::Refused, what)
                        .next(format!("take that back first: lanline move {} --cancel", m.name)));
                }
                to
            }
            (false, None, Some(before)) => before,
            (false, None, None) => {
                return Err(Fault::new(FaultKind::Usage, "the new host is missing")
                    .next(format!("lanline move {} --to HOST", m.name)));
            }
        };
        if to == m.host && mine.moving_to().is_none() {
            return self.moved(&m, to, t0).await;
        }
        let epoch = self.begin_move(m.id, to)?;
        if to != m.host {
            let spec = self.at_rest(&m, progress).await?;
            self.carry(&m, to, epoch, spec, progress).await?;
            // The word: from here on it is the new host's, and the old one is to remove it.
            self.registry_change(|r| r.moved(m.id, to))?;
        }
        let there = Meant {
            id: m.id,
            name: m.name.clone(),
            host: to,
        };
        self.settle_move(&there, epoch).await?;
        if self.registry().get(m.id).is_some_and(|g| g.was_running) {
            progress.waiting(format!("starting {} on its new host", m.name));
            self.ask_shown(&there, GuestCall::Restart { guest: m.id }, progress)
                .await?;
        }
        self.registry_change(|r| r.move_over(m.id))?;
        self.moved(&there, to, t0).await
    }

    /// Writes down that the guest is to go there, before anybody is asked.
    fn begin_move(&self, id: GuestId, to: NodeId) -> Result<u64, Fault> {
        let mut epoch = 0;
        self.registry_change(|r| epoch = r.begin_move(id, to))?;
        Ok(epoch)
    }

    /// Brings the guest to rest at its old host: one that runs is hibernated.
    async fn at_rest(&self, m: &Meant, progress: &Progress) -> Result<GuestSpecV1, Fault> {
        let GuestResult::Guest(view) = self.ask(m, GuestCall::Info { guest: m.id }).await? else {
            return Err(failed("its host answers another question"));
        };
        if matches!(view.state, GuestState::Running | GuestState::Paused) {
            self.registry_change(|r| r.note_running(m.id))?;
            progress.waiting(format!("saving the memory of {}", m.name));
            let verb = LifeVerb::Hibernate;
            self.ask_shown(m, GuestCall::Life { guest: m.id, verb }, progress)
                .await?;
        }
        Ok(GuestSpecV1 {
            name: view.name,
            image: view.image,
            image_ref: view.image_ref,
            lan: view.lan,
            cpus: view.cpus,
            memory: view.memory,
            disk: None,
            hints: vec![m.host],
        })
    }

    /// Has the old host hold it back and the new one fetch it; a new host that fails leaves it where it was.
    async fn carry(
        &self,
        m: &Meant,
        to: NodeId,
        epoch: u64,
        spec: GuestSpecV1,
        progress: &Progress,
    ) -> Result<(), Fault> {
        let step = MoveStep::Leave { to, epoch };
        self.ask_shown(m, GuestCall::Move { guest: m.id, step }, progress)
            .await?;
        let there = Meant {
            id: m.id,
            name: m.name.clone(),
            host: to,
        };
        let step = MoveStep::Arrive {
            from: m.host,
            epoch,
            spec: Box::new(spec),
            token: self.token_for(to),
        };
        match self
            .ask_shown(&there, GuestCall::Move { guest: m.id, step }, progress)
            .await
        {
            Ok(GuestResult::Guest(_)) => Ok(()),
            Ok(_) => Err(failed("its new host answers another question")),
            // It may have it: only the same move, or a cancel that reaches it, settles that.
            Err(f) if f.kind == FaultKind::Unreachable => Err(Fault::new(f.kind, f.what).next(format!(
                "give the move again when it answers, or: lanline move {} --cancel",
                m.name
            ))),
            Err(f) => {
                let step = MoveStep::Stay { epoch };
                self.ask(m, GuestCall::Move { guest: m.id, step }).await?;
                self.registry_change(|r| r.move_over(m.id))?;
                Err(f)
            }
        }
    }

    /// Tells the hosts whose it is now. An old one that does not answer is told when it does.
    async fn settle_move(&self, there: &Meant, epoch: u64) -> Result<(), Fault> {
        let step = MoveStep::Stay { epoch };
        self.ask(there, GuestCall::Move { guest: there.id, step }).await?;
        for old in self.registry().holders_of(there.id) {
            let daemon = self.arc();
            tokio::spawn(async move { daemon.remove_forgotten(old).await });
        }
        Ok(())
    }

    /// Takes a move back that is not yet settled.
    async fn cancel_move(&self, m: &Meant, t0: Instant, progress: &Progress) -> Result<api::LifeView, Fault> {
        let mine = self.registry().get(m.id).cloned();
        let Some((to, epoch)) = mine.and_then(|g| Some((g.moving_to()?, g.epoch))) else {
            return self.moved(m, m.host, t0).await;
        };
        if to != m.host {
            // The new host first: while it may have the guest, the old one must not start it.
            let there = Meant {
                id: m.id,
                name: m.name.clone(),
                host: to,
            };
            self.ask_shown(&there, GuestCall::Remove { guest: m.id }, progress)
                .await?;
        }
        let step = MoveStep::Stay { epoch };
        self.ask_shown(m, GuestCall::Move { guest: m.id, step }, progress)
            .await?;
        self.registry_change(|r| r.move_over(m.id))?;
        self.moved(m, m.host, t0).await
    }

    async fn moved(&self, m: &Meant, host: NodeId, t0: Instant) -> Result<api::LifeView, Fault> {
        let GuestResult::Guest(v) = self.ask(m, GuestCall::Info { guest: m.id }).await? else {
            return Err(failed("its host answers another question"));
        };
        let host = self.name_of(host).unwrap_or_else(|| host.to_string());
        Ok(api::LifeView {
            id: m.id.to_string(),
            name: m.name.clone(),
            state: v.state.to_string(),
            note: Some(v.note.unwrap_or_else(|| format!("on {host}"))),
            took_ms: millis(t0.elapsed()),
        })
    }
}
