//! Many machines that fetch one file from one of them, by different programs, over the same emulated lines.

use super::{
    lab::Lab,
    netns::{Netns, RunAs},
    sh::{self, until},
};
use crate::netem::Params;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Who carries the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum By {
    /// Ours.
    Lanline,
    /// A BitTorrent client of note, with a tracker.
    Aria2,
    /// A web server and clients.
    Http,
}

impl By {
    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lanline => "lanline",
            Self::Aria2 => "aria2 (BitTorrent)",
            Self::Http => "HTTP",
        }
    }
}

/// One distribution.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// By whom.
    pub by: By,
    /// Machines that fetch.
    pub leechers: usize,
    /// Share of frames lost on each line.
    pub loss: f64,
    /// Seconds until the last had all.
    pub last: f64,
    /// The same over the lower bound.
    pub over_bound: f64,
    /// Frame bytes that the seed sent, in copies of the file.
    pub copies: f64,
    /// Bytes that came twice, of all; only lanline says it.
    pub duplicates: Option<f64>,
}

/// What is carried, over which lines.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Machines that fetch.
    pub leechers: usize,
    /// Bytes of the file.
    pub bytes: usize,
    /// Each line, each way: bits a second.
    pub rate: u64,
    /// Each line, each way.
    pub delay: Duration,
    /// Share of frames lost.
    pub loss: f64,
}

impl Case {
    /// max(F/us, F/dmin, N F/(us + sum u)) with equal lines, seconds; for a server alone N F/us.
    pub fn bound(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.rate as f64
    }

    /// How long a run may take before it counts as failed.
    fn patience(&self, by: By) -> Duration {
        let times = if by == By::Http { self.leechers as f64 } else { 1.0 };
        Duration::from_secs_f64(self.bound() * times * 6.0 + 60.0)
    }
}

struct Machines {
    seed: (Netns, Ipv4Addr, super::emulator::LinkHandle),
    others: Vec<(Netns, Ipv4Addr)>,
}

/// Runs one distribution in a lab of its own. `peer`: the program of `images/examples/peer.rs`.
pub fn distribute(by: By, case: &Case, peer: &Path) -> Result<Run> {
    let mut lab = Lab::new("swarms")?;
    let mut line = Params::clear();
    (line.delay, line.rate, line.loss) = (case.delay, Some(case.rate), case.loss);
    let machine = |lab: &mut Lab, name: &str| -> Result<_> {
        let ns = lab.namespace(name)?;
        let (addr, handle) = lab.connect(&ns, &line)?;
        Ok((ns, addr, handle))
    };
    let seed = machine(&mut lab, "seed")?;
    let mut others = Vec::new();
    for n in 0..case.leechers {
        let (ns, addr, _) = machine(&mut lab, &format!("m{n}"))?;
        others.push((ns, addr));
    }
    let machines = Machines { seed, others };
    let dir = lab.dir().to_owned();
    let file = dir.join("file");
    fs::write(&file, noise(case.bytes))?;
    let mut job = Job {
        dir: &dir,
        file: &file,
        machines: &machines,
        children: Vec::new(),
        case,
        by,
    };
    let done = match by {
        By::Lanline => job.lanline(peer),
        By::Aria2 => job.aria2(),
        By::Http => job.http(),
    };
    for mut c in job.children.drain(..) {
        // Ended by its namespace's end at the latest.
        c.kill().ok();
        c.wait().ok();
    }
    if let Err(e) = &done {
        lab.fail(&format!("{e:#}"));
    }
    done
}

struct Job<'a> {
    dir: &'a Path,
    file: &'a Path,
    machines: &'a Machines,
    children: Vec<Child>,
    case: &'a Case,
    by: By,
}

impl Job<'_> {
    fn spawn(&self, ns: &Netns, program: &Path, args: &[String], out: &str) -> Result<Child> {
        let mut c = ns.command(program, RunAs::Root)?;
        let to = |end: &str| File::create(self.dir.join(format!("{out}.{end}")));
        c.args(args).stdin(Stdio::null()).stdout(to("out")?).stderr(to("err")?);
        c.current_dir(self.dir)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))
    }

    fn sent(&self) -> u64 {
        self.machines.seed.2.counters().0.delivered_bytes
    }

    /// Waits until `done` says so of every machine; the time of the last.
    fn wait(&mut self, mut done: impl FnMut(&Self, usize) -> Result<bool>) -> Result<Run> {
        let (begun, before) = (Instant::now(), self.sent());
        let mut left: BTreeSet<usize> = (0..self.case.leechers).collect();
        let limit = self.case.patience(self.by);
        let what = format!("{} to reach {} machines", self.by.name(), self.case.leechers);
        until(limit, &what, || {
            let mut ended = Vec::new();
            for n in &left {
                if done(self, *n)? {
                    ended.push(*n);
                }
            }
            ended.iter().for_each(|n| {
                left.remove(n);
            });
            Ok(left.is_empty().then_some(()))
        })?;
        let last = begun.elapsed().as_secs_f64();
        Ok(Run {
            by: self.by,
            leechers: self.case.leechers,
            loss: self.case.loss,
            last,
            over_bound: last / self.case.bound(),
            copies: (self.sent() - before) as f64 / self.case.bytes as f64,
            duplicates: None,
        })
    }

    fn lanline(&mut self, peer: &Path) -> Result<Run> {
        let text = |p: PathBuf| p.to_string_lossy().into_owned();
        let store = text(self.dir.join("seed.store"));
        let imported = sh::run(
            &peer.to_string_lossy(),
            &["import", &store, &text(self.file.to_owned())],
        )?;
        let id = imported.trim().to_owned();
        let (ns, addr, _) = &self.machines.seed;
        let at = |n: usize, a: &Ipv4Addr| format!("{n}@{}", SocketAddrV4::new(*a, 7000));
        let listen = |a: &Ipv4Addr| SocketAddrV4::new(*a, 7000).to_string();
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
        let seeding = self.spawn(ns, peer, &words(&["serve", &store, "1", &listen(addr)]), "seed")?;
        self.children.push(seeding);
        let mut all = vec![at(1, addr)];
        all.extend(self.machines.others.iter().enumerate().map(|(n, (_, a))| at(n + 2, a)));
        for (n, (ns, a)) in self.machines.others.iter().enumerate() {
            let me = (n + 2).to_string();
            let store = text(self.dir.join(format!("m{n}.store")));
            let mut args = words(&["pull", &store, &id, &me, &listen(a)]);
            args.extend(all.iter().filter(|p| !p.starts_with(&format!("{me}@"))).cloned());
            let child = self.spawn(ns, peer, &args, &format!("m{n}"))?;
            self.children.push(child);
        }
        let mut run = self.wait(|job, n| Ok(!fs::read(job.dir.join(format!("m{n}.out")))?.is_empty()))?;
        let (mut twice, mut bytes) = (0.0, 0.0);
        for n in 0..self.case.leechers {
            let said: serde_json::Value = serde_json::from_slice(&fs::read(self.dir.join(format!("m{n}.out")))?)?;
            twice += said["duplicate_bytes"].as_f64().context("no duplicate_bytes")?;
            bytes += said["bytes"].as_f64().context("no bytes")?;
        }
        run.duplicates = Some(twice / bytes.max(1.0));
        Ok(run)
    }

    fn aria2(&mut self) -> Result<Run> {
        let aria2 = sh::tool("aria2c").context("aria2c is missing; install aria2")?;
        let torrent = self.dir.join("file.torrent");
        let (ns, addr, _) = &self.machines.seed;
        let announce = format!("http://{}/announce", SocketAddrV4::new(*addr, 6969));
        let (to, file) = (torrent.to_string_lossy(), self.file.to_string_lossy());
        sh::run("mktorrent", &["-l", "16", "-a", &announce, "-o", &to, &file])?;
        tracker(ns, SocketAddrV4::new(*addr, 6969))?;
        let args = |folder: &Path| -> Vec<String> {
            let folder = format!("--dir={}", folder.display());
            [
                &folder,
                "--enable-dht=false",
                "--enable-dht6=false",
                "--bt-enable-lpd=false",
                "--enable-peer-exchange=true",
                "--bt-max-peers=0",
                "--bt-request-peer-speed-limit=1000M",
                "--file-allocation=none",
                "--seed-ratio=0.0",
                "--listen-port=6881",
                "--check-integrity=true",
                "--console-log-level=error",
                "--summary-interval=0",
                &to,
            ]
            .map(ToOwned::to_owned)
            .to_vec()
        };
        let seeding = self.spawn(ns, &aria2, &args(self.dir), "seed")?;
        self.children.push(seeding);
        // Until the tracker knows the seed, a client would wait for its next announcement.
        until(Duration::from_secs(30), "the seed to announce itself", || {
            Ok(PEERS
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .len()
                .checked_sub(1)
                .map(|_| ()))
        })?;
        for (n, (ns, _)) in self.machines.others.iter().enumerate() {
            let folder = self.dir.join(format!("a{n}"));
            fs::create_dir_all(&folder)?;
            let child = self.spawn(ns, &aria2, &args(&folder), &format!("m{n}"))?;
            self.children.push(child);
        }
        let bytes = self.case.bytes as u64;
        self.wait(|job, n| {
            let folder = job.dir.join(format!("a{n}"));
            let len = fs::metadata(folder.join("file")).map_or(0, |m| m.len());
            // The control file goes when all is there and was checked.
            Ok(len == bytes && !folder.join("file.aria2").exists())
        })
    }

    fn http(&mut self) -> Result<Run> {
        let busybox = sh::tool("busybox").context("busybox is missing")?;
        let (ns, addr, _) = &self.machines.seed;
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
        let listen = SocketAddrV4::new(*addr, 8000).to_string();
        let home = self.dir.to_string_lossy().into_owned();
        let serving = self.spawn(
            ns,
            &busybox,
            &words(&["httpd", "-f", "-p", &listen, "-h", &home]),
            "seed",
        )?;
        self.children.push(serving);
        until(Duration::from_secs(10), "the web server", || {
            Ok(ns
                .enter(|| Ok(TcpStream::connect(SocketAddrV4::new(*addr, 8000)).is_ok()))?
                .then_some(()))
        })?;
        let url = format!("http://{listen}/file");
        for (n, (ns, _)) in self.machines.others.iter().enumerate() {
            let to = self.dir.join(format!("h{n}")).to_string_lossy().into_owned();
            let child = self.spawn(ns, &busybox, &words(&["wget", "-q", "-O", &to, &url]), &format!("m{n}"))?;
            self.children.push(child);
        }
        let bytes = self.case.bytes as u64;
        self.wait(|job, n| Ok(fs::metadata(job.dir.join(format!("h{n}"))).map_or(0, |m| m.len()) == bytes))
    }
}

/// Who has announced itself to the tracker of this process; one swarm at a time.
static PEERS: Mutex<BTreeSet<SocketAddrV4>> = Mutex::new(BTreeSet::new());

/// A tracker as BEP 3 and BEP 23 have it, for one torrent; ends with the process.
fn tracker(ns: &Netns, listen: SocketAddrV4) -> Result<()> {
    PEERS.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let listener = Arc::new(ns.enter(|| Ok(TcpListener::bind(listen)?))?);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that talks nonsense gets no answer.
            answer(stream).ok();
        }
    });
    Ok(())
}

fn answer(mut s: TcpStream) -> Result<()> {
    s.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut head = Vec::new();
    let mut buf = [0; 2_048];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match s.read(&mut buf)? {
            0 => bail!("cut short"),
            n => head.extend_from_slice(buf.get(..n).unwrap_or_default()),
        }
    }
    let text = String::from_utf8_lossy(&head);
    let port = text
        .split(['?', '&', ' '])
        .find_map(|p| p.strip_prefix("port=")?.parse::<u16>().ok());
    let std::net::SocketAddr::V4(from) = s.peer_addr()? else {
        bail!("not IPv4")
    };
    let me = SocketAddrV4::new(*from.ip(), port.context("no port")?);
    let mut peers = PEERS.lock().unwrap_or_else(PoisonError::into_inner);
    peers.insert(me);
    let others = peers.iter().filter(|p| **p != me);
    let compact: Vec<u8> = others
        .flat_map(|p| [&p.ip().octets()[..], &p.port().to_be_bytes()].concat())
        .collect();
    drop(peers);
    let mut body = format!("d8:intervali10e12:min intervali5e5:peers{}:", compact.len()).into_bytes();
    body.extend_from_slice(&compact);
    body.push(b'e');
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    s.write_all(&[head.as_bytes(), &body].concat())?;
    Ok(())
}

/// Bytes that do not compress, the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}
