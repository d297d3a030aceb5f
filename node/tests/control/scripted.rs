//! A node whose answers are known: enough to see that each route reaches its method with what was sent.

mod rows;

use node::api::*;
pub use rows::{GUEST, IMAGE, ME, PEER, kind};
use rows::{by, grant, guest, image, image_view, lan, mount_row, port, span};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use wire::Fault;

/// Answers by script: an argument `fault-KIND` fails with that kind, an image `slow` waits for `release`, an image
/// `alone` until its reader has gone.
pub struct Scripted {
    /// Lets a slow operation go on, one a permit.
    pub release: Semaphore,
    /// Slow operations that began.
    pub begun: Notify,
    /// Slow operations that ended by themselves.
    pub ended: AtomicU32,
    /// Slow operations that were dropped before their end.
    pub dropped: AtomicU32,
    /// Told when either counter moved.
    pub moved: Notify,
    /// Told when the node was asked to end.
    pub downed: Notify,
    /// Ends the server of this node; cancelled by `down` before it answers, as a real node may.
    pub stop: CancellationToken,
}

impl Default for Scripted {
    fn default() -> Self {
        Self {
            release: Semaphore::new(0),
            begun: Notify::new(),
            ended: AtomicU32::new(0),
            dropped: AtomicU32::new(0),
            moved: Notify::new(),
            downed: Notify::new(),
            stop: CancellationToken::new(),
        }
    }
}

/// Counts what became of a slow operation.
struct Slow<'a>(&'a Scripted, bool);

impl Drop for Slow<'_> {
    fn drop(&mut self) {
        let counter = if self.1 { &self.0.ended } else { &self.0.dropped };
        counter.fetch_add(1, Ordering::SeqCst);
        self.0.moved.notify_waiters();
    }
}

impl Scripted {
    async fn slow(&self, progress: &Progress, alone: bool) {
        let mut slow = Slow(self, false);
        self.begun.notify_one();
        match alone {
            true => progress.reader_gone().await,
            false => self.release.acquire().await.unwrap().forget(),
        }
        slow.1 = true;
    }

    async fn run_script(&self, req: RunRequest, progress: Progress) -> Result<RunResult, Fault> {
        progress.waiting("asking hosts");
        progress.step("host", 12, "chose attic (12 ms, tcg)");
        for done in [0, 20 << 20, 40 << 20] {
            progress.progress(ProgressLine {
                what: format!("fetching {}", req.image),
                done,
                total: Some(40 << 20),
                rate: Some(10 << 20),
                peers: Some(2),
                eta_ms: Some(1_000),
                ..ProgressLine::default()
            });
        }
        if req.image == "slow" || req.image == "alone" {
            self.slow(&progress, req.image == "alone").await;
        }
        if let Some(k) = kind(&req.image) {
            return Err(Fault::new(k, "scripted failure of run"));
        }
        progress.step("started", 900, "web runs on attic");
        Ok(RunResult {
            id: GUEST.into(),
            name: req.name.unwrap_or_else(|| "web".into()),
            host: PEER.into(),
            host_name: "attic".into(),
            ip: (req.wait == WaitFor::Ip).then(|| "192.168.1.57".into()),
            mac: "02:00:5e:10:00:01".into(),
            lan: req.lan,
            image: IMAGE.into(),
            accel: "tcg".into(),
            state: "running".into(),
            image_bytes: 40 << 20,
            bytes_from: BTreeMap::from([(PEER.into(), 40 << 20)]),
            steps: vec![StepLine {
                step: "host".into(),
                at_ms: 12,
                note: "chose attic".into(),
            }],
            exec: None,
            placement: vec![],
            total_ms: 1_500,
        })
    }
}

impl Service for Scripted {
    fn status(&self) -> Answer<'_, Status> {
        let status = Status {
            id: ME.into(),
            name: "laptop".into(),
            version: "0.1.0".into(),
            state: "/s".into(),
            pid: std::process::id(),
            listen: vec!["/ip4/127.0.0.1/udp/4400/quic-v1".into()],
            observed: vec![],
            reachability: "unknown".into(),
            nat: NatView::default(),
            peers: 2,
            lans: vec![lan("home")],
            guests: GuestCounts { here: 0, mine: 1 },
            relay: Default::default(),
            offer: None,
            uptime_ms: 5_000,
        };
        by("", status)
    }
    fn peers(&self) -> Answer<'_, Vec<PeerRow>> {
        by("", vec![])
    }
    fn ping(&self, req: PingRequest) -> Answer<'_, PingReport> {
        let all = |ms: Option<f64>| {
            (1..=req.count)
                .map(|seq| PingReply {
                    seq,
                    rtt_ms: ms,
                    error: None,
                })
                .collect()
        };
        let frame = all((req.peer != "silent").then_some(20.5));
        by(
            &req.peer.clone(),
            PingReport {
                peer: PEER.into(),
                name: Some(req.peer),
                frame,
                control: all(Some(21.0)),
                why: None,
                frames: None,
            },
        )
    }
    fn doctor(&self) -> Answer<'_, DoctorReport> {
        let check = Check {
            name: "kvm".into(),
            verdict: Verdict::Warn,
            found: "no /dev/kvm".into(),
            fix: Some("x".into()),
        };
        by("", DoctorReport { checks: vec![check] })
    }
    fn config_show(&self) -> Answer<'_, ConfigView> {
        by(
            "",
            ConfigView {
                file: None,
                settings: vec![],
            },
        )
    }
    fn metrics(&self) -> Answer<'_, String> {
        by("", "# TYPE lanline_peers gauge\nlanline_peers 2\n# EOF\n".into())
    }
    fn down(&self) -> Answer<'_, Down> {
        self.stop.cancel();
        self.downed.notify_one();
        by(
            "",
            Down {
                pid: std::process::id(),
                guests_left: 1,
            },
        )
    }
    fn lans(&self) -> Answer<'_, Vec<LanRow>> {
        by("", vec![lan("home")])
    }
    fn lan_create(&self, req: LanCreate) -> Answer<'_, LanRow> {
        by(&req.name, lan(&req.name))
    }
    fn lan_show(&self, name: String) -> Answer<'_, LanView> {
        let view = LanView {
            lan: lan(&name),
            member_list: vec![],
            port_list: vec![],
            fdb: vec![],
            drops: BTreeMap::new(),
            quiet: BTreeMap::new(),
            lan_mtu: 1_500,
            lan_mtu_set: 1_500,
            policy: PolicyBrief::default(),
        };
        by(&name, view)
    }
    fn lan_drops(&self, name: String) -> Answer<'_, DropsView> {
        by(
            &name.clone(),
            DropsView {
                lan: name,
                rows: vec![],
                recent: vec![],
            },
        )
    }
    fn lan_traffic(&self, name: String) -> Answer<'_, TrafficView> {
        let view = TrafficView {
            lan: name.clone(),
            pairs: vec![],
            rest_bytes: 0,
            rest_packets: 0,
            heavy: vec![],
        };
        by(&name, view)
    }
    fn lan_trace(&self, req: TraceRequest) -> Answer<'_, TraceView> {
        let here = TraceEnd {
            node: ME.into(),
            name: None,
            entry: None,
            port: None,
            rtt_ms: None,
            drops: vec![],
        };
        let view = TraceView {
            lan: req.lan.unwrap_or_default(),
            target: req.target.clone(),
            mac: None,
            guest: None,
            here,
            link: None,
            there: None,
            silent: None,
            reachable: req.target == "192.168.1.1",
            verdict: "scripted".into(),
            next: None,
        };
        by(&req.target, view)
    }
    fn advise_placement(&self, req: PlacementRequest) -> Answer<'_, PlacementView> {
        let lan = req.lan.unwrap_or_default();
        let view = PlacementView {
            lans: vec![lan.clone()],
            moves: vec![],
            stays: vec![],
            asked: 0,
            answered: 0,
            elapsed_ms: 0,
        };
        by(&lan, view)
    }
    fn lan_capture(&self, name: String, req: CaptureRequest) -> Answer<'_, Capture> {
        let mut file = Vec::new();
        node::pcapng::section(&mut file, "scripted", "");
        node::pcapng::interface(&mut file, "lan0", "", 0);
        for at in 0..req.count.unwrap_or(3) {
            let packet = node::pcapng::Packet {
                interface: 0,
                at,
                bytes: &[0; 60],
                len: 60,
                direction: node::pcapng::Direction::In,
                comment: None,
            };
            node::pcapng::packet(&mut file, &packet);
        }
        let parts: Vec<bytes::Bytes> = file.chunks(7).map(bytes::Bytes::copy_from_slice).collect();
        let capture: Capture = Box::pin(futures::stream::iter(parts));
        by(&name, capture)
    }
    fn lan_attach(&self, name: String, req: LanAttach) -> Answer<'_, PortRow> {
        by(&name, port(&req.tap.or(req.bridge).unwrap_or_default()))
    }
    fn lan_detach(&self, name: String, req: LanDetach) -> Answer<'_, Detached> {
        by(
            &name.clone(),
            Detached {
                lan: name,
                ports: req.tap.into_iter().collect(),
            },
        )
    }
    fn lan_invite(&self, name: String, req: LanInvite) -> Answer<'_, TicketOut> {
        let (role, uses) = (req.role, req.uses.unwrap_or(1));
        by(
            &name.clone(),
            TicketOut {
                ticket: "lan1abc".into(),
                lan: name,
                role,
                expires: u64::MAX,
                uses,
                addresses: vec![],
            },
        )
    }
    fn lan_evict(&self, name: String, req: LanEvict) -> Answer<'_, Evicted> {
        by(
            &req.peer.clone(),
            Evicted {
                lan: name,
                peer: req.peer,
                told: 1,
            },
        )
    }
    fn lan_mtu(&self, lan: String, req: LanMtuRequest) -> Answer<'_, LanMtuView> {
        by(
            &lan.clone(),
            LanMtuView {
                lan,
                wanted: req.mtu.unwrap_or(1_500),
                effective: 1_500,
                members: BTreeMap::from([("attic".into(), 1_500)]),
            },
        )
    }
    fn lan_policy(&self, lan: String, req: LanPolicyRequest) -> Answer<'_, LanPolicyView> {
        by(
            &lan.clone(),
            LanPolicyView {
                lan,
                guest: req.guest,
                mac: None,
                note: "every guest".into(),
                owner_serial: Some(7),
                owner_set: Some(1),
                warnings: vec![],
                allow_monitor: false,
                free: req.unset,
                settings: req
                    .set
                    .into_iter()
                    .map(|(key, value)| PolicyRow {
                        key,
                        value,
                        said_by: PolicyOrigin::Node,
                        meaning: "a meaning".into(),
                        softether: "-".into(),
                    })
                    .collect(),
                held: vec![HeldRow {
                    ip: "192.0.2.7".into(),
                    how: HeldHow::Leased,
                    left_s: Some(60),
                }],
            },
        )
    }
    fn join(&self, req: JoinRequest, _: Progress) -> Answer<'_, JoinResult> {
        let (id, role) = (format!("home.{}", req.ticket), Role::Member);
        by(
            &req.ticket,
            JoinResult {
                lan: "home".into(),
                id,
                role,
                expires: None,
                signed_by: PEER.into(),
                members: 2,
            },
        )
    }
    fn query(&self, req: node::api::QueryRequest, progress: Progress) -> Answer<'_, node::api::QueryView> {
        Box::pin(async move {
            let row = vec![req.sql.into(), 7.into()];
            let columns = vec!["sql".to_owned(), "n".to_owned()];
            if req.follow {
                let line = node::api::ChangeLine {
                    columns: columns.clone(),
                    added: vec![row.clone()],
                    ..Default::default()
                };
                progress.tell(node::api::Line::Change(line)).await;
            }
            Ok(node::api::QueryView {
                columns,
                rows: vec![row],
                asked: 3,
                answered: 2,
                coverage: 0.5,
                approximate: true,
                ..Default::default()
            })
        })
    }

    fn hosts(&self) -> Answer<'_, HostsView> {
        by(
            "",
            HostsView {
                hosts: vec![],
                asked: 3,
                answered: 2,
                elapsed_ms: 40,
            },
        )
    }
    fn offer(&self, req: OfferRequest) -> Answer<'_, OfferView> {
        let view = OfferView {
            on: !req.off,
            cpus: req.cpus.unwrap_or(1),
            memory_bytes: req.memory_bytes.unwrap_or(0),
            accel: "tcg".into(),
            accel_reason: "no KVM".into(),
            arch: "x86_64".into(),
            qemu: Some("7.2.0".into()),
        };
        by("", view)
    }
    fn grant(&self, req: GrantRequest) -> Answer<'_, GrantRow> {
        by(&req.key, grant("g1"))
    }
    fn grants(&self) -> Answer<'_, Vec<GrantRow>> {
        by("", vec![grant("g1")])
    }
    fn revoke(&self, id: String) -> Answer<'_, Revoked> {
        by(
            &id.clone(),
            Revoked {
                id,
                peer: PEER.into(),
                guests: vec![],
            },
        )
    }
    fn image_add(&self, req: ImageAdd, _: Progress) -> Answer<'_, ImageView> {
        by(&req.name, image_view(&req.file))
    }
    fn image_ls(&self) -> Answer<'_, Vec<ImageRow>> {
        by("", vec![image("tiny:latest")])
    }
    fn image_show(&self, image: String) -> Answer<'_, ImageView> {
        by(&image, image_view(&image))
    }
    fn image_verify(&self, image: String, _: Progress) -> Answer<'_, VerifyResult> {
        by(
            &image,
            VerifyResult {
                id: IMAGE.into(),
                pieces: 800,
                bad: 0,
                bytes: 1 << 20,
                elapsed_ms: 10,
            },
        )
    }
    fn image_rm(&self, image: String) -> Answer<'_, ImageRemoved> {
        by(
            &image.clone(),
            ImageRemoved {
                id: IMAGE.into(),
                names: vec![image],
                freed_bytes: 9,
            },
        )
    }
    fn image_mount(&self, image: String, req: ImageMount, _: Progress) -> Answer<'_, MountRow> {
        by(&image, mount_row(&req.dir))
    }
    fn image_umount(&self, req: ImageUmount) -> Answer<'_, MountRow> {
        by("", mount_row(&req.dir))
    }
    fn image_mounts(&self) -> Answer<'_, Vec<MountRow>> {
        by("", vec![mount_row("/mnt/tools")])
    }
    fn image_publish(&self, guest: String, req: ImagePublish, _: Progress) -> Answer<'_, PublishResult> {
        let result = PublishResult {
            id: IMAGE.into(),
            name: format!("{}:latest", req.name),
            parent: IMAGE.into(),
            changed_pieces: 3,
            new_pieces: 2,
            new_bytes: 60_000,
            elapsed_ms: 20,
        };
        by(&guest, result)
    }
    fn image_export(&self, image: String, req: ImageExport, _: Progress) -> Answer<'_, ExportResult> {
        let result = ExportResult {
            id: IMAGE.into(),
            file: req.file,
            bytes: 1 << 20,
            elapsed_ms: 20,
        };
        by(&image, result)
    }
    fn image_gc(&self, _: ImageGc) -> Answer<'_, GcResult> {
        let result = GcResult {
            freed_bytes: 0,
            pieces: 0,
            held_bytes: 1 << 20,
            reached: true,
            thinned: vec![],
        };
        by("", result)
    }
    fn image_archive(&self, image: String, req: ImageArchive, _: Progress) -> Answer<'_, ArchiveResult> {
        let result = ArchiveResult {
            id: IMAGE.into(),
            folder: req.folder,
            pieces: 5,
            written_bytes: 300_000,
            freed_bytes: 300_000,
        };
        by(&image, result)
    }
    fn image_pull(&self, image: String, req: ImagePull, _: Progress) -> Answer<'_, PullResult> {
        let pieces = req.part.map_or(800, |p| 800 / p.n);
        let result = PullResult {
            id: IMAGE.into(),
            names: vec![image.clone()],
            bytes: 40 << 20,
            bytes_from: BTreeMap::new(),
            duplicate_bytes: 0,
            pieces,
            complete: req.part.is_none(),
            elapsed_ms: 4_000,
        };
        by(&image, result)
    }
    fn run(&self, req: RunRequest, progress: Progress) -> Answer<'_, RunResult> {
        Box::pin(self.run_script(req, progress))
    }
    fn guests(&self) -> Answer<'_, Vec<GuestRow>> {
        by("", vec![guest("web")])
    }
    fn policy_check(&self, req: PolicyRequest) -> Answer<'_, PolicyReport> {
        let report = PolicyReport {
            preset: None,
            rules: 0,
            warnings: vec![],
            cores: 2,
            memory_bytes: 4 << 30,
            spans: vec![span()],
            stored: req.store,
        };
        by(req.text.as_deref().unwrap_or_default(), report)
    }
    fn policy_explain(&self) -> Answer<'_, PolicyView> {
        let view = PolicyView {
            on: true,
            preset: None,
            now: span(),
            rules: vec![],
            readings: BTreeMap::new(),
            guests: vec![],
            enforcers: vec![],
            month_bytes: 0,
            month_limit_bytes: None,
        };
        by("", view)
    }
    fn usage(&self, req: UsageRequest) -> Answer<'_, Vec<UsageRow>> {
        by(req.guest.as_deref().unwrap_or_default(), vec![])
    }
    fn guest_set(&self, guest: String, _: SetRequest) -> Answer<'_, GuestView> {
        self.guest_info(guest)
    }
    fn guest_info(&self, name: String) -> Answer<'_, GuestView> {
        let view = GuestView {
            guest: guest(&name),
            image_id: IMAGE.into(),
            disk_bytes: None,
            addresses: vec![],
            accel_reason: None,
            qemu: None,
            created: 1,
            history: vec![],
        };
        by(&name, view)
    }
    fn guest_stop(&self, name: String, req: StopRequest, _: Progress) -> Answer<'_, StopView> {
        let (how, obeyed) = if req.force {
            ("quit", None)
        } else {
            ("guest", Some(true))
        };
        by(
            &name.clone(),
            StopView {
                id: GUEST.into(),
                name,
                how: how.into(),
                obeyed,
                took_ms: 800,
            },
        )
    }
    fn guest_rm(&self, name: String, forget: bool) -> Answer<'_, GuestRemoved> {
        let removed = GuestRemoved {
            id: GUEST.into(),
            name: name.clone(),
            forgotten: forget,
        };
        by(&name, removed)
    }
    fn guest_life(&self, name: String, req: LifeRequest, _: Progress) -> Answer<'_, LifeView> {
        let view = LifeView {
            id: GUEST.into(),
            name: name.clone(),
            state: if req.act == LifeAct::Pause { "paused" } else { "running" }.into(),
            note: None,
            took_ms: 40,
        };
        by(&name, view)
    }
    fn guest_move(&self, name: String, _: MoveRequest, p: Progress) -> Answer<'_, LifeView> {
        let act = LifeAct::Restore;
        self.guest_life(name, LifeRequest { act, snapshot: None }, p)
    }
    fn guest_snapshots(&self, name: String) -> Answer<'_, Vec<SnapshotRow>> {
        by(&name, vec![])
    }
    fn guest_clone(&self, name: String, _: CloneRequest, _: Progress) -> Answer<'_, GuestView> {
        self.guest_info(name)
    }
    fn guest_wait(&self, name: String, _: WaitRequest, _: Progress) -> Answer<'_, GuestView> {
        self.guest_info(name)
    }
    fn guest_exec(&self, name: String, req: ExecRequest, _: Progress) -> Answer<'_, ExecView> {
        let said = req.argv.join(" ");
        let view = ExecView {
            code: Some(if said == "false" { 3 } else { 0 }),
            signal: None,
            stdout: said.clone(),
            stderr: String::new(),
            stdout_base64: data_encoding::BASE64.encode(said.as_bytes()),
            stderr_base64: String::new(),
            truncated: false,
        };
        by(&name, view)
    }
    fn guest_read(&self, name: String, req: FileRead) -> Answer<'_, FilePart> {
        let part = FilePart {
            data_base64: data_encoding::BASE64.encode(req.path.as_bytes()),
            end: true,
        };
        by(&name, part)
    }
    fn guest_write(&self, name: String, req: FileWrite) -> Answer<'_, FileWritten> {
        let bytes = data_encoding::BASE64.decode(req.data_base64.as_bytes()).unwrap().len() as u64;
        by(&name, FileWritten { bytes })
    }
    fn display(&self, name: String) -> Answer<'_, Box<dyn ConsoleStream>> {
        self.console(name)
    }
    fn guest_logs(&self, name: String, max_bytes: u64) -> Answer<'_, GuestLogs> {
        let console = format!("max {max_bytes}\r\n\x1b[31mlogin:\x1b]0;owned\x07");
        by(
            &name.clone(),
            GuestLogs {
                id: GUEST.into(),
                name,
                console,
                qemu: String::new(),
                truncated: false,
            },
        )
    }
    fn console(&self, name: String) -> Answer<'_, Box<dyn ConsoleStream>> {
        let (here, guest) = tokio::io::duplex(1024);
        if kind(&name).is_none() {
            tokio::spawn(async move {
                let (mut r, mut w) = tokio::io::split(guest);
                tokio::io::AsyncWriteExt::write_all(&mut w, b"login: ").await.unwrap();
                tokio::io::copy(&mut r, &mut w).await.ok();
            });
        }
        by(&name, Box::new(here) as Box<dyn ConsoleStream>)
    }
}
