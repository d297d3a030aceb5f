//! The control API on this node: each method resolves what a person typed and hands it to the organ that knows.

use super::{Daemon, console::Screen, convert, faults, find, guest_rows, images, run::millis};
use crate::api::{self, Answer, Progress, Service};
use futures::FutureExt;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use wire::{
    Fault, FaultKind,
    guest::{ConsoleOpen, GuestCall, GuestResult, StopHow},
};

/// How long `hosts` asks.
const FIND_HOSTS: Duration = Duration::from_millis(1_000);

/// The node as the control API sees it.
pub(super) struct Node(pub(super) Arc<Daemon>);

impl Node {
    fn one<'a, T: Send + 'a>(&self, f: impl Future<Output = Result<T, Fault>> + Send + 'a) -> Answer<'a, T> {
        f.boxed()
    }
}

impl Service for Node {
    fn status(&self) -> Answer<'_, api::Status> {
        self.one(self.0.status_view())
    }

    fn peers(&self) -> Answer<'_, Vec<api::PeerRow>> {
        self.one(async { Ok(self.0.peer_rows().await) })
    }

    fn ping(&self, req: api::PingRequest) -> Answer<'_, api::PingReport> {
        self.one(self.0.ping_peer(req))
    }

    fn doctor(&self) -> Answer<'_, api::DoctorReport> {
        self.one(async { Ok(self.0.examine().await) })
    }

    fn config_show(&self) -> Answer<'_, api::ConfigView> {
        self.one(async { Ok(self.0.opts.view.clone()) })
    }

    fn metrics(&self) -> Answer<'_, String> {
        self.one(async { Ok(self.0.open_metrics().await) })
    }

    fn down(&self) -> Answer<'_, api::Down> {
        self.one(async {
            let left = self.0.guests.list().iter().filter(|g| g.pid.is_some()).count();
            self.0.stop.cancel();
            Ok(api::Down {
                pid: std::process::id(),
                guests_left: super::views::count(left),
            })
        })
    }

    fn lans(&self) -> Answer<'_, Vec<api::LanRow>> {
        self.one(async { Ok(self.0.lan_rows().await) })
    }

    fn lan_create(&self, req: api::LanCreate) -> Answer<'_, api::LanRow> {
        self.one(async move {
            let lan = self.0.create_lan(&req.name)?;
            self.0
                .tunnel
                .add_lan(lan.clone())
                .await
                .map_err(|e| faults::failed(&e))?;
            self.0.lan_row(&lan).await
        })
    }

    fn lan_show(&self, lan: String) -> Answer<'_, api::LanView> {
        self.one(async move { self.0.lan_view(&lan).await })
    }

    fn lan_attach(&self, lan: String, req: api::LanAttach) -> Answer<'_, api::PortRow> {
        self.one(async move { self.0.attach(&lan, req).await })
    }

    fn lan_detach(&self, lan: String, req: api::LanDetach) -> Answer<'_, api::Detached> {
        self.one(async move { self.0.detach(&lan, req).await })
    }

    fn lan_invite(&self, lan: String, req: api::LanInvite) -> Answer<'_, api::TicketOut> {
        self.one(async move { self.0.invite(&lan, req).await })
    }

    fn lan_evict(&self, lan: String, req: api::LanEvict) -> Answer<'_, api::Evicted> {
        self.one(async move { self.0.evict(&lan, &req.peer).await })
    }

    fn lan_drops(&self, lan: String) -> Answer<'_, api::DropsView> {
        self.one(async move { self.0.drops_view(&lan).await })
    }

    fn lan_traffic(&self, lan: String) -> Answer<'_, api::TrafficView> {
        self.one(async move { self.0.traffic_view(&lan).await })
    }

    fn lan_trace(&self, req: api::TraceRequest) -> Answer<'_, api::TraceView> {
        self.one(async move { self.0.trace(req).await })
    }

    fn advise_placement(&self, req: api::PlacementRequest) -> Answer<'_, api::PlacementView> {
        self.one(async move { self.0.placement(&req).await })
    }

    fn lan_capture(&self, lan: String, req: api::CaptureRequest) -> Answer<'_, api::Capture> {
        self.one(async move { self.0.capture(&lan, req).await })
    }

    fn lan_mtu(&self, lan: String, req: api::LanMtuRequest) -> Answer<'_, api::LanMtuView> {
        self.one(async move { self.0.lan_mtu(&lan, &req).await })
    }

    fn lan_policy(&self, lan: String, req: api::LanPolicyRequest) -> Answer<'_, api::LanPolicyView> {
        self.one(async move { self.0.lan_policy(&lan, &req).await })
    }

    fn join(&self, req: api::JoinRequest, progress: Progress) -> Answer<'_, api::JoinResult> {
        self.one(async move { self.0.join_lan(&req.ticket, &progress).await })
    }

    fn hosts(&self) -> Answer<'_, api::HostsView> {
        self.one(async { Ok(self.0.hosts_view(FIND_HOSTS).await) })
    }

    fn query(&self, req: api::QueryRequest, progress: Progress) -> Answer<'_, api::QueryView> {
        self.one(async move { self.0.query(req, &progress).await })
    }

    fn offer(&self, req: api::OfferRequest) -> Answer<'_, api::OfferView> {
        self.one(async move { self.0.set_offer(&req) })
    }

    fn grant(&self, req: api::GrantRequest) -> Answer<'_, api::GrantRow> {
        self.one(async move { self.0.make_grant(&req) })
    }

    fn grants(&self) -> Answer<'_, Vec<api::GrantRow>> {
        self.one(async { Ok(self.0.grant_rows()) })
    }

    fn revoke(&self, id: String) -> Answer<'_, api::Revoked> {
        self.one(async move { self.0.revoke_grant(&id) })
    }

    fn image_add(&self, req: api::ImageAdd, progress: Progress) -> Answer<'_, api::ImageView> {
        self.one(async move {
            for p in [Some(&req.file), req.kernel.as_ref(), req.initrd.as_ref()]
                .into_iter()
                .flatten()
            {
                images::absolute(p)?;
            }
            let id = self.0.add_image(req, progress).await?;
            self.0.image_view(id, false).await
        })
    }

    fn image_ls(&self) -> Answer<'_, Vec<api::ImageRow>> {
        self.one(async {
            Ok(self
                .0
                .with_store(|s| s.list())
                .await?
                .iter()
                .map(convert::image_row)
                .collect())
        })
    }

    fn image_show(&self, image: String) -> Answer<'_, api::ImageView> {
        self.one(async move { self.0.image_view(self.0.local_image_or_fault(&image)?, true).await })
    }

    fn image_verify(&self, image: String, progress: Progress) -> Answer<'_, api::VerifyResult> {
        self.one(async move {
            let id = self.0.local_image_or_fault(&image)?;
            let t0 = Instant::now();
            let report = self
                .0
                .with_store(move |s| s.verify(id, &mut |p| progress.progress(convert::import_progress(&p))))
                .await?;
            self.0.publish_image(id).await;
            Ok(api::VerifyResult {
                id: id.to_string(),
                pieces: report.checked,
                bad: report.bad,
                bytes: u64::from(report.checked) * wire::image::PIECE_BYTES as u64,
                elapsed_ms: millis(t0.elapsed()),
            })
        })
    }

    fn image_rm(&self, image: String) -> Answer<'_, api::ImageRemoved> {
        self.one(async move {
            let id = self.0.local_image_or_fault(&image)?;
            self.0.image_in_use(id)?;
            let names = self.0.store_info(id).await.map(|i| i.names).unwrap_or_default();
            let report = self.0.with_store(move |s| s.remove(id)).await?;
            self.0.publish_image(id).await;
            Ok(api::ImageRemoved {
                id: id.to_string(),
                names,
                freed_bytes: report.freed_bytes,
            })
        })
    }

    fn image_pull(&self, image: String, req: api::ImagePull, progress: Progress) -> Answer<'_, api::PullResult> {
        self.one(async move { self.0.pull_image(&image, req, &progress).await })
    }

    fn image_mount(&self, image: String, req: api::ImageMount, progress: Progress) -> Answer<'_, api::MountRow> {
        self.one(async move { self.0.mount_image(&image, req, &progress).await })
    }

    fn image_umount(&self, req: api::ImageUmount) -> Answer<'_, api::MountRow> {
        self.one(async move { self.0.umount_image(&req).await })
    }

    fn image_mounts(&self) -> Answer<'_, Vec<api::MountRow>> {
        self.one(async { Ok(self.0.mount_rows()) })
    }

    fn image_publish(
        &self,
        guest: String,
        req: api::ImagePublish,
        progress: Progress,
    ) -> Answer<'_, api::PublishResult> {
        self.one(async move { self.0.publish_guest(&guest, req, progress).await })
    }

    fn image_export(&self, image: String, req: api::ImageExport, progress: Progress) -> Answer<'_, api::ExportResult> {
        self.one(async move { self.0.export_image(&image, req, progress).await })
    }

    fn image_gc(&self, req: api::ImageGc) -> Answer<'_, api::GcResult> {
        self.one(self.0.collect_images(req))
    }

    fn image_archive(
        &self,
        image: String,
        req: api::ImageArchive,
        progress: Progress,
    ) -> Answer<'_, api::ArchiveResult> {
        self.one(async move { self.0.archive_image(&image, req, progress).await })
    }

    fn run(&self, req: api::RunRequest, progress: Progress) -> Answer<'_, api::RunResult> {
        self.one(self.0.run_guest(req, progress))
    }

    fn guests(&self) -> Answer<'_, Vec<api::GuestRow>> {
        self.one(async { Ok(self.0.all_guests().await) })
    }

    fn guest_info(&self, guest: String) -> Answer<'_, api::GuestView> {
        self.one(async move {
            let m = self.0.resolve_guest(&guest)?;
            let result = self.0.ask(&m, GuestCall::Info { guest: m.id }).await?;
            match result {
                GuestResult::Guest(v) => Ok(self.0.guest_view_with_disk(&v).await),
                _ => Err(nonsense()),
            }
        })
    }

    fn policy_check(&self, req: api::PolicyRequest) -> Answer<'_, api::PolicyReport> {
        self.one(async move { self.0.policy_check(&req) })
    }

    fn policy_explain(&self) -> Answer<'_, api::PolicyView> {
        self.one(async { Ok(self.0.owners_view()) })
    }

    fn usage(&self, req: api::UsageRequest) -> Answer<'_, Vec<api::UsageRow>> {
        self.one(async move { Ok(self.0.usage_rows(req.guest.as_deref(), req.since)) })
    }

    fn guest_set(&self, guest: String, req: api::SetRequest) -> Answer<'_, api::GuestView> {
        self.one(async move { self.0.set_anywhere(&guest, &req).await })
    }

    fn guest_stop(&self, guest: String, req: api::StopRequest, progress: Progress) -> Answer<'_, api::StopView> {
        self.one(async move {
            let m = self.0.resolve_guest(&guest)?;
            progress.waiting(format!("stopping {}", m.name));
            match self
                .0
                .ask(
                    &m,
                    GuestCall::Stop {
                        guest: m.id,
                        force: req.force,
                    },
                )
                .await?
            {
                GuestResult::Stopped(r) => {
                    let (how, obeyed) = match r.how {
                        StopHow::AlreadyStopped => ("already", None),
                        StopHow::Obeyed => ("guest", Some(true)),
                        StopHow::Quit => ("quit", (!req.force).then_some(false)),
                        StopHow::Killed => ("killed", (!req.force).then_some(false)),
                    };
                    Ok(api::StopView {
                        id: m.id.to_string(),
                        name: m.name,
                        how: how.into(),
                        obeyed,
                        took_ms: r.took_ms,
                    })
                }
                _ => Err(nonsense()),
            }
        })
    }

    fn guest_rm(&self, guest: String, forget: bool) -> Answer<'_, api::GuestRemoved> {
        self.one(async move { self.0.remove_anywhere(&guest, forget).await })
    }

    fn guest_life(&self, guest: String, req: api::LifeRequest, progress: Progress) -> Answer<'_, api::LifeView> {
        self.one(async move { self.0.live(&guest, req, &progress).await })
    }

    fn guest_move(&self, guest: String, req: api::MoveRequest, progress: Progress) -> Answer<'_, api::LifeView> {
        self.one(async move { self.0.move_guest(&guest, req, &progress).await })
    }

    fn guest_snapshots(&self, guest: String) -> Answer<'_, Vec<api::SnapshotRow>> {
        self.one(async move { self.0.snapshot_rows(&guest).await })
    }

    fn guest_clone(&self, guest: String, req: api::CloneRequest, progress: Progress) -> Answer<'_, api::GuestView> {
        self.one(async move { self.0.clone_guest(&guest, req, &progress).await })
    }

    fn guest_wait(&self, guest: String, req: api::WaitRequest, progress: Progress) -> Answer<'_, api::GuestView> {
        self.one(async move { self.0.wait_guest(&guest, req, &progress).await })
    }

    fn guest_exec(&self, guest: String, req: api::ExecRequest, progress: Progress) -> Answer<'_, api::ExecView> {
        self.one(async move { self.0.exec_in_guest(&guest, req, &progress).await })
    }

    fn guest_read(&self, guest: String, req: api::FileRead) -> Answer<'_, api::FilePart> {
        self.one(async move { self.0.read_in_guest(&guest, req).await })
    }

    fn guest_write(&self, guest: String, req: api::FileWrite) -> Answer<'_, api::FileWritten> {
        self.one(async move { self.0.write_in_guest(&guest, req).await })
    }

    fn guest_logs(&self, guest: String, max_bytes: u64) -> Answer<'_, api::GuestLogs> {
        self.one(async move {
            let m = self.0.resolve_guest(&guest)?;
            let cap = u32::try_from(max_bytes).unwrap_or(u32::MAX);
            match self
                .0
                .ask(
                    &m,
                    GuestCall::Logs {
                        guest: m.id,
                        max_bytes: cap,
                    },
                )
                .await?
            {
                GuestResult::Logs(l) => Ok(api::GuestLogs {
                    id: m.id.to_string(),
                    name: m.name,
                    truncated: l.console.len() as u64 >= max_bytes || l.hypervisor.len() as u64 >= max_bytes,
                    console: String::from_utf8_lossy(&l.console).into_owned(),
                    qemu: String::from_utf8_lossy(&l.hypervisor).into_owned(),
                }),
                _ => Err(nonsense()),
            }
        })
    }

    fn console(&self, guest: String) -> Answer<'_, Box<dyn api::ConsoleStream>> {
        self.one(async move { self.0.open_anywhere(&guest, Screen::Console).await })
    }

    fn display(&self, guest: String) -> Answer<'_, Box<dyn api::ConsoleStream>> {
        self.one(async move { self.0.open_anywhere(&guest, Screen::Display).await })
    }
}

fn nonsense() -> Fault {
    Fault::new(
        FaultKind::Failed,
        "the host answered another question than the one it was asked",
    )
}

impl Daemon {
    async fn open_anywhere(&self, guest: &str, screen: Screen) -> Result<Box<dyn api::ConsoleStream>, Fault> {
        let m = self.resolve_guest(guest)?;
        let open = ConsoleOpen {
            guest: m.id,
            token: self.token_for(m.host),
        };
        let host = self.name_of(m.host).unwrap_or_else(|| m.host.to_string());
        self.call_console(m.host, &open, screen)
            .await
            .map_err(|e| e.into_fault(&host))
    }

    pub(super) async fn ask(&self, m: &guest_rows::Meant, call: GuestCall) -> Result<GuestResult, Fault> {
        let host = self.name_of(m.host).unwrap_or_else(|| m.host.to_string());
        self.call_host(m.host, &call, |_| {})
            .await
            .map_err(|e| e.into_fault(&host))
    }

    /// Changes what a guest gets, at its host.
    async fn set_anywhere(&self, guest: &str, req: &api::SetRequest) -> Result<api::GuestView, Fault> {
        let m = self.resolve_guest(guest)?;
        if req.persistent {
            let view = self.persist_anywhere(&m).await?;
            let rest = api::SetRequest {
                persistent: false,
                ..req.clone()
            };
            if rest == api::SetRequest::default() {
                return Ok(self.guest_view_with_disk(&view).await);
            }
        }
        let GuestResult::Guest(view) = self.ask(&m, GuestCall::Info { guest: m.id }).await? else {
            return Err(nonsense());
        };
        let interactive = match req.class.as_deref() {
            None => None,
            Some("interactive") => Some(true),
            Some("batch") => Some(false),
            Some(c) => {
                return Err(Fault::new(
                    FaultKind::Usage,
                    format!("there is no class '{}'", wire::fault::plain(c)),
                )
                .next("write interactive or batch"));
            }
        };
        let change = wire::guest::GuestSet {
            cpu: req
                .cpu
                .as_deref()
                .map(|t| super::owner::limit_of(t, view.cpus))
                .transpose()?,
            memory: req.memory_bytes.map(wire::ByteSize),
            interactive,
        };
        match self.ask(&m, GuestCall::Set { guest: m.id, change }).await? {
            GuestResult::Guest(v) => Ok(self.guest_view_with_disk(&v).await),
            _ => Err(nonsense()),
        }
    }

    /// Removes a guest at its host, then what this node wrote down of it. With `forget`, a host that does not answer is
    /// not waited for: it is told when it comes back.
    pub(super) async fn remove_anywhere(&self, guest: &str, forget: bool) -> Result<api::GuestRemoved, Fault> {
        let m = self.resolve_guest(guest)?;
        if self.registry().get(m.id).is_some_and(|g| g.moving_to().is_some()) {
            let what = format!("guest {} is on the way to another host", m.name);
            return Err(Fault::new(FaultKind::Refused, what).next(format!(
                "finish that, or take it back: lanline move {} --cancel",
                m.name
            )));
        }
        let removed = |name: String, forgotten| api::GuestRemoved {
            id: m.id.to_string(),
            name,
            forgotten,
        };
        match self.ask(&m, GuestCall::Info { guest: m.id }).await {
            Ok(GuestResult::Guest(v)) if v.pid.is_some() => {
                return Err(
                    Fault::new(FaultKind::Refused, format!("guest {} is {}", m.name, v.state))
                        .next(format!("stop it first: lanline stop {}", m.name)),
                );
            }
            Err(f) if f.kind == FaultKind::Unreachable && forget => {
                self.registry_forget(m.id)?;
                return Ok(removed(m.name.clone(), true));
            }
            Err(f) if f.kind == FaultKind::Unreachable => {
                let next = format!("if its host never comes back: lanline rm {} --forget", m.name);
                return Err(Fault::new(f.kind, f.what).next(next));
            }
            Err(f) if f.kind != FaultKind::NoMatch => return Err(f),
            _ => {}
        }
        match self.ask(&m, GuestCall::Remove { guest: m.id }).await? {
            GuestResult::Removed => {}
            _ => return Err(nonsense()),
        }
        self.registry_remove(m.id)?;
        Ok(removed(m.name.clone(), false))
    }

    async fn pull_image(
        self: &Arc<Self>,
        text: &str,
        req: api::ImagePull,
        progress: &Progress,
    ) -> Result<api::PullResult, Fault> {
        let part = match req.part {
            Some(p) if p.k == 0 || p.k > p.n || p.n > 64 => {
                return Err(Fault::new(
                    FaultKind::Usage,
                    format!("there is no part {}/{}; write for example 1/2", p.k, p.n),
                ));
            }
            other => other.map(|p| (p.k, p.n)),
        };
        progress.waiting(format!("looking for image {text}"));
        let image = self.find_image(text).await?;
        let here = self.store_info(image.id).await.is_some_and(|i| i.complete);
        let cold = self.with_store(move |s| s.archive_of(image.id)).await?.is_some();
        if image.holders.is_empty() && !here && !cold {
            return Err(find::unknown_image(text));
        }
        let what = format!("fetching {}", image.shown);
        let report = self
            .ensure_image(image.id, &image.holders, part, |p| {
                progress.progress(convert::pull_line(&what, &p))
            })
            .await?;
        if let (Some(name), Some(tag)) = (image.name, image.tag) {
            // A name never goes back to an image that its publisher has left.
            if let Some(why) = report.refused_names.get(&format!("{name}:{tag}")) {
                return Err(Fault::new(
                    FaultKind::Refused,
                    format!("the image is here, but it is not named: {why}"),
                )
                .next(format!("if the old one is what you want, use its id: {}", image.id)));
            }
            let id = image.id;
            self.with_store(move |s| s.name(id, &name, &tag)).await?;
        }
        self.publish_image(image.id).await;
        let info = self
            .store_info(image.id)
            .await
            .ok_or_else(|| find::unknown_image(text))?;
        let from = |n: &wire::NodeId| self.name_of(*n).unwrap_or_else(|| n.to_string());
        Ok(api::PullResult {
            id: image.id.to_string(),
            names: info.names,
            bytes: report.bytes,
            bytes_from: report.bytes_from.iter().map(|(n, b)| (from(n), *b)).collect(),
            duplicate_bytes: report.duplicate_bytes,
            pieces: report.pieces,
            complete: info.complete,
            elapsed_ms: millis(report.elapsed),
        })
    }
}
