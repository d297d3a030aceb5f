//! Does what was typed: asks the node, shows progress on standard error and the answer on standard output.

use crate::{
    api::{routes::Op, *},
    cli::{AddArgs, Cli, Command, ConfigCommand, ImageCommand, JoinArgs, LanCommand, RunArgs, ShowArgs},
    config::Flags,
    defaults,
    io::{
        asking::{IMAGES, ask, futures},
        attach::guard,
        client::{Client, EMPTY},
        server, settings,
        terminal::{self, Reporter},
    },
    render::{self, Human, View},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};
use wire::{Fault, FaultKind};

/// Exit code after Ctrl-C, as shells have it: 128 and the number of SIGINT.
const INTERRUPTED: u8 = 130;

/// Why a verb did not end well.
pub(super) enum End {
    /// It did not work.
    Fault(Fault),
    /// The answer was shown, and says that it did not work in this way.
    Shown(FaultKind),
    /// The answer was shown, and this is the exit code of what ran in the guest.
    Code(u8),
    /// Ctrl-C: the text says what goes on without us.
    Interrupted(String),
}

impl From<Fault> for End {
    fn from(f: Fault) -> Self {
        Self::Fault(f)
    }
}

/// Does every verb but `up`; returns the exit code.
pub async fn run(cli: Cli) -> u8 {
    let json = cli.json;
    let end = match settings::state_folder(cli.state) {
        Ok(state) => {
            let out = terminal::view(&std::io::stdout());
            let err = terminal::view(&std::io::stderr());
            Session {
                client: Client::new(&state),
                state,
                json,
                out,
                err,
            }
            .verb(cli.command)
            .await
        }
        Err(e) => Err(e.into()),
    };
    match end {
        Ok(()) => 0,
        Err(End::Interrupted(what)) => {
            terminal::hint(&format!("\n{what}\n"));
            INTERRUPTED
        }
        Err(End::Shown(kind)) => kind.exit_code(),
        Err(End::Code(code)) => code,
        Err(End::Fault(f)) => failed(&f, json),
    }
}

/// Tells of a failure; returns its exit code.
pub fn failed(fault: &Fault, json: bool) -> u8 {
    terminal::hint(&render::fault(fault, &terminal::view(&std::io::stderr())));
    if json && let Err(e) = terminal::answer(format!("{}\n", serde_json::json!({ "fault": fault })).as_bytes()) {
        tracing::debug!(error = %e, "nobody reads standard output");
    }
    fault.kind.exit_code()
}

pub(super) struct Session {
    pub(super) client: Client,
    pub(super) state: PathBuf,
    pub(super) json: bool,
    pub(super) out: View,
    pub(super) err: View,
}

pub(super) type Done = Result<(), End>;

impl Session {
    async fn verb(&self, command: Command) -> Done {
        match command {
            Command::AttachGuard(a) => Ok(guard::run(a.journal, Duration::from_millis(a.within_ms)).await?),
            Command::Up(_) => Err(Fault::new(FaultKind::Failed, "'up' is not a request to a node").into()),
            Command::Down => self.down().await,
            Command::Status => self.get::<Status>(Op::Status, &[]).await,
            Command::Peers => self.get::<Vec<PeerRow>>(Op::Peers, &[]).await,
            Command::Ping(a) => {
                self.ping(PingRequest {
                    peer: a.peer,
                    count: a.count,
                })
                .await
            }
            Command::Doctor => self.get::<DoctorReport>(Op::Doctor, &[]).await,
            Command::Config(ConfigCommand::Show(a)) => self.config_show(a).await,
            Command::Lan(c) => self.lan(c).await,
            Command::Join(a) => self.join(&a).await,
            Command::Hosts => self.get::<HostsView>(Op::Hosts, &[]).await,
            Command::Query(a) => self.query(&a.request(), a.follow).await,
            Command::Futures(a) => self.query(&ask(&futures(a.max_rtt)), false).await,
            Command::Images => self.query(&ask(IMAGES), false).await,
            Command::Advise(a) => self.advise(&a).await,
            Command::Load(c) => self.load(c).await,
            Command::Offer(a) => {
                let policy = a.policy.as_deref().map(super::policing::read).transpose()?;
                self.post::<_, OfferView>(Op::Offer, &[], &a.request(policy)).await
            }
            Command::Usage(a) => {
                self.post::<_, Vec<UsageRow>>(Op::Usage, &[], &a.request(self.out.now))
                    .await
            }
            Command::Policy(c) => self.policy(c).await,
            Command::Set(a) => self.post::<_, GuestView>(Op::GuestSet, &[&a.guest], &a.request()).await,
            Command::Grant(a) => self.post::<_, GrantRow>(Op::Grant, &[], &a.request()).await,
            Command::Grants => self.get::<Vec<GrantRow>>(Op::Grants, &[]).await,
            Command::Revoke(a) => self.get::<Revoked>(Op::Revoke, &[&a.id]).await,
            Command::Image(c) => self.image(c).await,
            Command::Run(a) => self.run(&a).await,
            Command::Ls => self.get::<Vec<GuestRow>>(Op::Guests, &[]).await,
            Command::Info(a) => self.get::<GuestView>(Op::GuestInfo, &[&a.guest]).await,
            Command::Stop(a) => {
                let goes_on = "the node goes on stopping it: see lanline ls";
                self.show(
                    &self
                        .follow::<_, StopView>(Op::GuestStop, &[&a.guest], &a.request(), goes_on)
                        .await?,
                )
            }
            Command::Logs(a) => self.logs(&a.guest, a.bytes.unwrap_or(defaults::LOG_BYTES)).await,
            Command::Console(a) => self.console(&a.guest).await,
            other => self.guest(other).await,
        }
    }

    async fn lan(&self, command: LanCommand) -> Done {
        match command {
            LanCommand::Create(a) => {
                self.post::<_, LanRow>(Op::LanCreate, &[], &LanCreate { name: a.name })
                    .await
            }
            LanCommand::Attach(a) => self.post::<_, PortRow>(Op::LanAttach, &[&a.name], &a.request()).await,
            LanCommand::Detach(a) => self.post::<_, Detached>(Op::LanDetach, &[&a.name], &a.request()).await,
            LanCommand::Mtu(a) => {
                self.post::<_, LanMtuView>(Op::LanMtu, &[&a.name], &LanMtuRequest { mtu: a.mtu })
                    .await
            }
            LanCommand::Policy(a) => {
                self.post::<_, LanPolicyView>(Op::LanPolicy, &[&a.name], &a.request())
                    .await
            }
            LanCommand::Evict(a) => {
                self.post::<_, Evicted>(Op::LanEvict, &[&a.name], &LanEvict { peer: a.peer })
                    .await
            }
            LanCommand::Show(a) if a.watch => self.watch_lan(&a).await,
            LanCommand::Drops(a) => self.get::<DropsView>(Op::LanDrops, &[&a.name]).await,
            LanCommand::Traffic(a) => self.get::<TrafficView>(Op::LanTraffic, &[&a.name]).await,
            LanCommand::Trace(a) => self.trace(&a.request()).await,
            LanCommand::Capture(a) => self.capture(&a).await,
            LanCommand::Show(a) => match a.name {
                Some(name) => self.get::<LanView>(Op::LanShow, &[&name]).await,
                None => self.get::<Vec<LanRow>>(Op::Lans, &[]).await,
            },
            LanCommand::Invite(a) => {
                let ticket: TicketOut = self.client.call(Op::LanInvite, &[&a.name], Some(&a.request())).await?;
                self.show(&ticket)?;
                terminal::hint(&render::ticket_hints(&ticket, &self.err));
                Ok(())
            }
        }
    }

    async fn image(&self, command: ImageCommand) -> Done {
        match command {
            ImageCommand::Add(a) => self.image_add(&a).await,
            ImageCommand::Ls => self.get::<Vec<ImageRow>>(Op::ImageLs, &[]).await,
            ImageCommand::Show(a) => self.get::<ImageView>(Op::ImageShow, &[&a.image]).await,
            ImageCommand::Rm(a) => self.get::<ImageRemoved>(Op::ImageRm, &[&a.image]).await,
            ImageCommand::Publish(a) => {
                let (request, goes_on) = (a.request(), "the node goes on publishing it: see lanline image ls");
                let done: PublishResult = self.follow(Op::ImagePublish, &[&a.vm], &request, goes_on).await?;
                self.show(&done)
            }
            ImageCommand::Export(a) => {
                let (request, goes_on) = (a.request(&here()?)?, "the node goes on writing it");
                let done: ExportResult = self.follow(Op::ImageExport, &[&a.image], &request, goes_on).await?;
                self.show(&done)
            }
            ImageCommand::Gc(a) => self.post::<_, GcResult>(Op::ImageGc, &[], &a.request()).await,
            ImageCommand::Archive(a) => {
                let (request, goes_on) = (a.request(&here()?)?, "the node goes on moving it: see lanline image ls");
                let done: ArchiveResult = self.follow(Op::ImageArchive, &[&a.image], &request, goes_on).await?;
                self.show(&done)
            }
            ImageCommand::Verify(a) => {
                let goes_on = "the node goes on checking";
                self.show(
                    &self
                        .follow::<_, VerifyResult>(Op::ImageVerify, &[&a.image], &(), goes_on)
                        .await?,
                )
            }
            ImageCommand::Pull(a) => {
                let goes_on = "the node goes on fetching it: see lanline image ls";
                self.show(
                    &self
                        .follow::<_, PullResult>(Op::ImagePull, &[&a.image], &a.request(), goes_on)
                        .await?,
                )
            }
            ImageCommand::Mount(a) => {
                let goes_on = "the node goes on mounting it: see lanline image mounts";
                let request = a.request(&here()?)?;
                self.show(
                    &self
                        .follow::<_, MountRow>(Op::ImageMount, &[&a.image], &request, goes_on)
                        .await?,
                )
            }
            ImageCommand::Umount(a) => {
                let request = a.request(&here()?)?;
                let ended: MountRow = self.client.call(Op::ImageUmount, &[], Some(&request)).await?;
                self.show(&ended)
            }
            ImageCommand::Mounts => self.get::<Vec<MountRow>>(Op::ImageMounts, &[]).await,
        }
    }

    async fn image_add(&self, args: &AddArgs) -> Done {
        let request = args.request(&here()?)?;
        for file in [Some(&request.file), request.kernel.as_ref(), request.initrd.as_ref()]
            .into_iter()
            .flatten()
        {
            if let Err(e) = std::fs::metadata(file) {
                let folder = Path::new(file).parent().unwrap_or(Path::new("/"));
                let fault = Fault::new(FaultKind::NoMatch, format!("cannot read {file}: {e}"));
                return Err(fault.next(format!("ls '{}'", folder.display())).into());
            }
        }
        let goes_on = "the node goes on importing it: see lanline image ls";
        match self.follow::<_, ImageView>(Op::ImageAdd, &[], &request, goes_on).await {
            Ok(image) if self.json => self.show(&image),
            Ok(image) => Ok(terminal::answer(format!("{}\n", image.image.id).as_bytes())?),
            // The file is there for us: if a right is missing, it is the node's.
            Err(End::Fault(f)) if f.kind == FaultKind::Missing && std::fs::File::open(&request.file).is_ok() => {
                let next = format!(
                    "the node runs as another user; let it read the file: chmod o+r '{}'",
                    request.file
                );
                Err(Fault {
                    next: f.next.or(Some(next)),
                    ..f
                }
                .into())
            }
            Err(e) => Err(e),
        }
    }

    async fn join(&self, args: &JoinArgs) -> Done {
        let input = if args.from_input() { Some(read_ticket()?) } else { None };
        let request = args.request(input.as_deref());
        let goes_on = "the node goes on joining: see lanline lan show";
        self.show(&self.follow::<_, JoinResult>(Op::Join, &[], &request, goes_on).await?)
    }

    async fn run(&self, args: &RunArgs) -> Done {
        let goes_on = "no longer waiting; the guest keeps running, or is still being started: see lanline ls";
        let mut request = args.request();
        if let Some(file) = &args.cloud_init {
            let text = std::fs::read_to_string(file)
                .map_err(|e| Fault::new(FaultKind::Usage, format!("{}: {e}", file.display())))?;
            request.user_data = Some(text);
        }
        let result: RunResult = self.follow(Op::Run, &[], &request, goes_on).await?;
        if let Some(exec) = result.exec.as_ref().filter(|_| !self.json) {
            return self.exec_shown(exec);
        }
        self.show(&result)?;
        if let Some(exec) = &result.exec {
            return match exec.code {
                Some(0) => Ok(()),
                code => Err(End::Code(u8::try_from(code.unwrap_or(1) & 0xff).unwrap_or(1))),
            };
        }
        if args.explain {
            terminal::hint(&render::placement(&result, &self.err));
        }
        terminal::hint(&render::run_hints(&result, &self.err));
        Ok(())
    }

    async fn ping(&self, request: PingRequest) -> Done {
        let report: PingReport = self.client.call(Op::Ping, &[], Some(&request)).await?;
        self.show(&report)?;
        let silent = |r: &[PingReply]| r.iter().all(|r| r.rtt_ms.is_none());
        match (silent(&report.frame), silent(&report.control)) {
            (false, false) => Ok(()),
            (frame, _) => {
                let path = if frame { "frame" } else { "control" };
                let what = format!("nothing came back over the {path} path");
                Err(Fault::new(FaultKind::Unreachable, what)
                    .next("see how it is connected: lanline peers")
                    .into())
            }
        }
    }

    async fn config_show(&self, args: ShowArgs) -> Done {
        let view = match self.client.call(Op::ConfigShow, &[], EMPTY).await {
            Err(f) if f.kind == FaultKind::Unreachable => {
                terminal::hint("no node runs on this state folder; this is what one would start with\n");
                settings::load(&self.state, None, Flags::default())?.1
            }
            view => view?,
        };
        match self.json {
            true => self.show(&view),
            false => Ok(terminal::answer(
                render::settings(&view, args.origin, &self.out).as_bytes(),
            )?),
        }
    }

    async fn logs(&self, guest: &str, bytes: u64) -> Done {
        let query = format!("{}={bytes}", routes::MAX_BYTES);
        let answer = self.client.bytes(Op::GuestLogs, &[guest], &query, EMPTY).await?;
        self.show(&read::<GuestLogs>(&answer)?)
    }

    pub(super) async fn rm(&self, guest: &str, forget: bool) -> Done {
        let query = if forget {
            format!("{}=true", routes::FORGET)
        } else {
            String::new()
        };
        let answer = self.client.bytes(Op::GuestRm, &[guest], &query, EMPTY).await?;
        self.show(&read::<GuestRemoved>(&answer)?)
    }

    async fn console(&self, guest: &str) -> Done {
        if self.json {
            return Err(Fault::new(FaultKind::Usage, "a console is raw bytes and has no JSON form").into());
        }
        let stream = self.client.console(guest).await?;
        Ok(terminal::console(stream, guest).await?)
    }

    async fn down(&self) -> Done {
        let down: Down = self.client.call(Op::Down, &[], EMPTY).await?;
        let ended = async {
            while !server::is_free(&self.state) {
                tokio::time::sleep(defaults::DOWN_POLL).await;
            }
        };
        if tokio::time::timeout(defaults::DOWN_DEADLINE, ended).await.is_err() {
            let s = defaults::DOWN_DEADLINE.as_secs();
            let what = format!(
                "the node (pid {}) was asked to end and still runs after {s} s",
                down.pid
            );
            return Err(Fault::new(FaultKind::TimedOut, what)
                .next(format!("end it by force: kill -9 {}", down.pid))
                .into());
        }
        self.show(&down)
    }

    pub(super) async fn get<T: Human + Serialize + DeserializeOwned>(&self, op: Op, args: &[&str]) -> Done {
        self.show(&self.client.call::<(), T>(op, args, EMPTY).await?)
    }

    async fn post<B: Serialize, T: Human + Serialize + DeserializeOwned>(
        &self,
        op: Op,
        args: &[&str],
        body: &B,
    ) -> Done {
        self.show(&self.client.call::<B, T>(op, args, Some(body)).await?)
    }

    /// Long work, with its progress, until it ends or Ctrl-C.
    pub(super) async fn follow<B: Serialize, T: DeserializeOwned>(
        &self,
        op: Op,
        args: &[&str],
        body: &B,
        goes_on: &str,
    ) -> Result<T, End> {
        let mut reporter = Reporter::new();
        tokio::select! {
            end = self.client.stream(op, args, Some(body), |line| reporter.line(line)) => Ok(end?),
            Ok(()) = tokio::signal::ctrl_c() => Err(End::Interrupted(goes_on.to_owned())),
        }
    }

    pub(super) fn show<T: Human + Serialize>(&self, value: &T) -> Done {
        if !self.json {
            return Ok(terminal::answer(value.human(&self.out).as_bytes())?);
        }
        let mut text = serde_json::to_vec(value)
            .map_err(|e| Fault::new(FaultKind::Failed, format!("the answer cannot be written as JSON: {e}")))?;
        text.push(b'\n');
        Ok(terminal::answer(&text)?)
    }
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Fault> {
    let odd = |e| {
        Fault::new(
            FaultKind::Failed,
            format!("the node's answer is not what it should be: {e}"),
        )
    };
    serde_json::from_slice(answer).map_err(odd)
}

fn read_ticket() -> Result<String, Fault> {
    let mut text = String::new();
    match std::io::stdin()
        .take(defaults::MAX_TICKET_INPUT)
        .read_to_string(&mut text)
    {
        Ok(1..) => Ok(text),
        Ok(0) => Err(Fault::new(FaultKind::Usage, "no ticket came on standard input")),
        Err(e) => Err(Fault::new(
            FaultKind::Usage,
            format!("standard input cannot be read as text: {e}"),
        )),
    }
}

/// The folder that relative paths begin at.
fn here() -> Result<std::path::PathBuf, Fault> {
    std::env::current_dir().map_err(|e| Fault::new(FaultKind::Failed, format!("the current folder is not known: {e}")))
}
