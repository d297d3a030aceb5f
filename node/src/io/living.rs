//! `start` to `display` as typed: what the verbs of a guest's life do at this end.

use super::verbs::{Done, End, Session};
use crate::{
    api::{
        ExecRequest, ExecView, FilePart, FileRead, FileWrite, FileWritten, GuestView, LifeAct, LifeRequest, LifeView,
        SnapshotRow, routes::Op,
    },
    cli::{Command, CpArgs, DisplayArgs, ExecArgs, Place, SnapshotArgs, SshArgs},
    defaults,
    io::{
        client::{Client, EMPTY},
        terminal,
    },
};
use data_encoding::BASE64;
use std::{
    io::{Read, Write},
    path::Path,
};
use wire::{Fault, FaultKind, guest::MAX_PART};

fn io_fault(path: &Path, e: &std::io::Error) -> Fault {
    let kind = if e.kind() == std::io::ErrorKind::NotFound {
        FaultKind::NoMatch
    } else {
        FaultKind::Failed
    };
    Fault::new(kind, format!("{}: {e}", path.display()))
}

fn bytes_of(text: &str) -> Result<Vec<u8>, Fault> {
    let odd = |e| Fault::new(FaultKind::Failed, format!("the node's answer is not base64: {e}"));
    BASE64.decode(text.as_bytes()).map_err(odd)
}

impl Session {
    pub(super) async fn guest(&self, command: Command) -> Done {
        match command {
            Command::Start(a) => self.live(&a.guest, LifeAct::Start).await,
            Command::Restart(a) => self.live(&a.guest, LifeAct::Restart).await,
            Command::Pause(a) => self.live(&a.guest, LifeAct::Pause).await,
            Command::Resume(a) => self.live(&a.guest, LifeAct::Resume).await,
            Command::Hibernate(a) => self.live(&a.guest, LifeAct::Hibernate).await,
            Command::Restore(a) => self.life(&a.guest, &a.request()).await,
            Command::Snapshot(a) => self.snapshot(&a).await,
            Command::Clone(a) => {
                let goes_on = "the node goes on copying it: see lanline ls";
                self.show(
                    &self
                        .follow::<_, GuestView>(Op::GuestClone, &[&a.guest], &a.request(), goes_on)
                        .await?,
                )
            }
            Command::Move(a) => {
                let goes_on = "the node goes on moving it: see lanline ls";
                self.show(
                    &self
                        .follow::<_, LifeView>(Op::GuestMove, &[&a.guest], &a.request(), goes_on)
                        .await?,
                )
            }
            Command::Wait(a) => {
                let goes_on = "no longer waiting";
                self.show(
                    &self
                        .follow::<_, GuestView>(Op::GuestWait, &[&a.guest], &a.request(), goes_on)
                        .await?,
                )
            }
            Command::Exec(a) => self.exec(&a).await,
            Command::Cp(a) => self.cp(&a).await,
            Command::Ssh(a) => self.ssh(&a).await,
            Command::Display(a) => self.display(&a).await,
            Command::Rm(a) => self.rm(&a.guest, a.forget).await,
            other => {
                let what = format!("'{other:?}' is no verb of a guest; this is a defect of lanline");
                Err(Fault::new(FaultKind::Failed, what).into())
            }
        }
    }

    async fn live(&self, guest: &str, act: LifeAct) -> Done {
        self.life(guest, &LifeRequest { act, snapshot: None }).await
    }

    async fn life(&self, guest: &str, request: &LifeRequest) -> Done {
        let goes_on = "the node goes on with it: see lanline ls";
        self.show(
            &self
                .follow::<_, LifeView>(Op::GuestLife, &[guest], request, goes_on)
                .await?,
        )
    }

    async fn snapshot(&self, args: &SnapshotArgs) -> Done {
        match args.request() {
            Some(request) => self.life(&args.guest, &request).await,
            None => self.get::<Vec<SnapshotRow>>(Op::GuestSnapshots, &[&args.guest]).await,
        }
    }

    /// Shows a command's output as it is, and ends as it ended.
    pub(super) fn exec_shown(&self, view: &ExecView) -> Done {
        if self.json {
            self.show(view)?;
        } else {
            terminal::answer(&bytes_of(&view.stdout_base64)?)?;
            terminal::hint(&String::from_utf8_lossy(&bytes_of(&view.stderr_base64)?));
            if view.truncated {
                terminal::hint("lanline: there was more output; write it to a file and fetch that with lanline cp\n");
            }
        }
        match (view.code, view.signal) {
            (Some(0), _) => Ok(()),
            (Some(code), _) => Err(End::Code(u8::try_from(code & 0xff).unwrap_or(1))),
            // As shells have it.
            (None, Some(signal)) => Err(End::Code(u8::try_from(128 + (signal & 0x7f)).unwrap_or(1))),
            (None, None) => Err(End::Code(1)),
        }
    }

    async fn exec(&self, args: &ExecArgs) -> Done {
        let mut input = Vec::new();
        if args.input {
            let read = std::io::stdin().take(MAX_PART as u64 + 1).read_to_end(&mut input);
            read.map_err(|e| Fault::new(FaultKind::Usage, format!("standard input: {e}")))?;
        }
        let request = ExecRequest {
            argv: args.argv.clone(),
            input_base64: BASE64.encode(&input),
            timeout_ms: args.timeout.unwrap_or(defaults::WAIT_MS),
        };
        let goes_on = "no longer waiting; the command goes on in the guest";
        let view: ExecView = self.follow(Op::GuestExec, &[&args.guest], &request, goes_on).await?;
        self.exec_shown(&view)
    }

    async fn cp(&self, args: &CpArgs) -> Done {
        let bytes = match (Place::parse(&args.from), Place::parse(&args.to)) {
            (Place::Guest { guest, path }, Place::Here(to)) => {
                let to = match (to.is_dir(), path.rsplit('/').next()) {
                    (true, Some(name)) if !name.is_empty() => to.join(name),
                    _ => to,
                };
                self.fetch(&guest, &path, &to).await?
            }
            (Place::Here(from), Place::Guest { guest, path }) => {
                let path = match (path.strip_suffix('/'), from.file_name()) {
                    (Some(_), Some(name)) => format!("{path}{}", name.to_string_lossy()),
                    _ => path,
                };
                self.put(&from, &guest, &path).await?
            }
            _ => {
                return Err(
                    Fault::new(FaultKind::Usage, "one of the two is a file here, the other VM:/path")
                        .next("for example: lanline cp web:/var/log/syslog .")
                        .into(),
                );
            }
        };
        self.show(&FileWritten { bytes })
    }

    /// A file of a guest appears here only when it is whole.
    async fn fetch(&self, guest: &str, path: &str, to: &Path) -> Result<u64, Fault> {
        let near = to
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let temp = near.join(format!(".lanline-{:016x}", rand::random::<u64>()));
        let got = async {
            let mut file = std::fs::File::create_new(&temp).map_err(|e| io_fault(&temp, &e))?;
            let mut offset = 0u64;
            loop {
                let request = FileRead {
                    path: path.to_owned(),
                    offset,
                };
                let part: FilePart = self.client.call(Op::GuestRead, &[guest], Some(&request)).await?;
                let data = bytes_of(&part.data_base64)?;
                file.write_all(&data).map_err(|e| io_fault(&temp, &e))?;
                offset += data.len() as u64;
                if part.end || data.is_empty() {
                    break;
                }
            }
            file.sync_all().map_err(|e| io_fault(&temp, &e))?;
            std::fs::rename(&temp, to).map_err(|e| io_fault(to, &e))?;
            Ok(offset)
        }
        .await;
        if got.is_err() {
            // It may not have been made.
            let _ = std::fs::remove_file(&temp);
        }
        got
    }

    async fn put(&self, from: &Path, guest: &str, path: &str) -> Result<u64, Fault> {
        let mut file = std::fs::File::open(from).map_err(|e| io_fault(from, &e))?;
        let mut offset = 0u64;
        loop {
            let mut part = Vec::with_capacity(MAX_PART);
            let read = (&mut file).take(MAX_PART as u64).read_to_end(&mut part);
            read.map_err(|e| io_fault(from, &e))?;
            // An empty file is made too.
            if part.is_empty() && offset > 0 {
                return Ok(offset);
            }
            let request = FileWrite {
                path: path.to_owned(),
                offset,
                data_base64: BASE64.encode(&part),
            };
            let written: FileWritten = self.client.call(Op::GuestWrite, &[guest], Some(&request)).await?;
            offset += written.bytes;
            if written.bytes == 0 {
                return Ok(offset);
            }
        }
    }

    /// Becomes ssh to the guest's address on the LAN.
    async fn ssh(&self, args: &SshArgs) -> Done {
        let (user, guest) = match args.guest.rsplit_once('@') {
            Some((user, guest)) => (Some(user), guest),
            None => (None, args.guest.as_str()),
        };
        let view: GuestView = self.client.call(Op::GuestInfo, &[guest], EMPTY).await?;
        let Some(ip) = view.guest.ip else {
            let what = format!("no address of {guest} is known; it is {}", view.guest.state);
            return Err(Fault::new(FaultKind::NoMatch, what)
                .next(format!(
                    "wait for it: lanline wait {guest} ip; or: lanline console {guest}"
                ))
                .into());
        };
        let ip: std::net::IpAddr = ip.parse().map_err(|e| {
            Fault::new(
                FaultKind::Failed,
                format!("its host says that its address is '{ip}': {e}"),
            )
        })?;
        let to = user.map_or_else(|| ip.to_string(), |u| format!("{u}@{ip}"));
        use std::os::unix::process::CommandExt;
        // A guest's keys are known by its name, not by an address that others had before it.
        let alias = format!("HostKeyAlias=lanline-{}", view.guest.id);
        let failed = std::process::Command::new("ssh")
            .args(["-o", &alias, "--", &to])
            .args(&args.args)
            .exec();
        Err(
            Fault::new(FaultKind::Missing, format!("ssh cannot be started: {failed}"))
                .next("install it: apt-get install openssh-client")
                .into(),
        )
    }

    /// Listens for VNC viewers until Ctrl-C.
    async fn display(&self, args: &DisplayArgs) -> Done {
        // Says at once if there is no such guest, or it does not run.
        drop(self.client.display(&args.guest).await?);
        let goes_on = "the display is closed; the guest keeps running";
        let serve = async {
            match args.port {
                Some(port) => serve_port(&self.client, &args.guest, port).await,
                None => serve_socket(&self.client, &args.guest).await,
            }
        };
        tokio::select! {
            end = serve => Ok(end?),
            Ok(()) = tokio::signal::ctrl_c() => Err(End::Interrupted(goes_on.into())),
        }
    }
}

fn listening(e: &std::io::Error) -> Fault {
    Fault::new(FaultKind::Failed, format!("cannot listen for viewers: {e}"))
}

async fn serve_port(client: &Client, guest: &str, port: u16) -> Result<(), Fault> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|e| listening(&e))?;
    let at = listener.local_addr().map_err(|e| listening(&e))?;
    terminal::answer(format!("{at}\n").as_bytes())?;
    terminal::hint("open it with a VNC viewer; every user of this machine can. Ctrl-C ends it\n");
    loop {
        let (viewer, _) = listener.accept().await.map_err(|e| listening(&e))?;
        tokio::spawn(view(client.clone(), guest.to_owned(), viewer));
    }
}

async fn serve_socket(client: &Client, guest: &str) -> Result<(), Fault> {
    let dir = tempfile_dir().map_err(|e| listening(&e))?;
    let path = dir.0.join("vnc.sock");
    let listener = tokio::net::UnixListener::bind(&path).map_err(|e| listening(&e))?;
    terminal::answer(format!("{}\n", path.display()).as_bytes())?;
    terminal::hint(
        "open it with a VNC viewer, for example: remote-viewer or vncviewer; with --port on a port. Ctrl-C ends it\n",
    );
    loop {
        let (viewer, _) = listener.accept().await.map_err(|e| listening(&e))?;
        tokio::spawn(view(client.clone(), guest.to_owned(), viewer));
    }
}

async fn view(client: Client, guest: String, mut viewer: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    match client.display(&guest).await {
        Ok(mut screen) => {
            if let Err(e) = tokio::io::copy_bidirectional(&mut viewer, &mut screen).await {
                tracing::debug!(error = %e, "a viewer left");
            }
        }
        Err(f) => terminal::hint(&format!("the display cannot be opened: {f}\n")),
    }
}

/// A folder that only this user can enter, removed at the end.
struct OwnFolder(std::path::PathBuf);

impl Drop for OwnFolder {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(error = %e, "the folder of the display's socket is left");
        }
    }
}

fn tempfile_dir() -> std::io::Result<OwnFolder> {
    use std::os::unix::fs::DirBuilderExt;
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, Into::into);
    let path = base.join(format!("lanline-{:016x}", rand::random::<u64>()));
    std::fs::DirBuilder::new().mode(0o700).create(&path)?;
    Ok(OwnFolder(path))
}
