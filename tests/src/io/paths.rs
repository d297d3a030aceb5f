//! Two nodes at given places, a third on the internet that owns their LAN: how soon frames flow, by which path, how fast.

use super::{
    flow::Flow,
    lab::{Lab, Machine},
    nat::{Shared, Site},
    netns::Netns,
    node::{Node, NodeSpec},
    sh,
};
use crate::{bench::paths::Pair, netem::Params};
use anyhow::{Context, Result};
use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Two places of their own.
    Apart(Site, Site),
    /// Two that share something.
    Sharing(Shared),
}

impl Case {
    /// Every pair of places, then what two may share.
    pub fn all() -> Vec<Self> {
        let all = Site::ALL;
        let pairs = all.iter().enumerate().flat_map(|(i, a)| {
            let rest = all.iter().skip(i);
            rest.map(move |b| Self::Apart(*a, *b))
        });
        pairs.chain(Shared::ALL.map(Self::Sharing)).collect()
    }

    /// The two places in words.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Apart(a, b) => (a.name(), b.name()),
            Self::Sharing(s) => (s.name(), "the same"),
        }
    }

    fn can_be_direct(self) -> bool {
        match self {
            Self::Apart(a, b) => a.can_be_direct(b),
            Self::Sharing(s) => s != Shared::CarrierNoHairpin,
        }
    }
}

/// The LAN's network, and the two ends on it.
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 99, 1), Ipv4Addr::new(192, 168, 99, 2)];
const BROADCAST: Ipv4Addr = Ipv4Addr::new(192, 168, 99, 255);
/// Where both ends call and answer.
const CALL_PORT: u16 = 9_009;
/// Pause between two calls: what the figure may be too long by.
const CALL_EVERY: Duration = Duration::from_millis(20);

/// How patient a run is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the first frame.
    pub first: Duration,
    /// For a path that is not direct yet, after the first frame.
    pub direct: Duration,
    /// How long the TCP stream runs; `None` leaves it out.
    pub stream: Option<Duration>,
}

/// The three nodes, in the LAN `home`; the second is not in it yet.
struct Scene {
    owner: Node,
    nodes: [Node; 2],
}

/// Measures one pair in a lab of its own. What goes wrong is in the answer, not an error, unless the lab itself failed.
pub fn measure(lab: &mut Lab, case: Case, patience: Patience) -> Result<Pair> {
    let scene = Scene::build(lab, case)?;
    let (one, two) = case.names();
    let mut pair = Pair {
        one: one.to_owned(),
        two: two.to_owned(),
        can_be_direct: case.can_be_direct(),
        first_frame: None,
        first_path: None,
        direct_after: None,
        path: None,
        mbps: None,
        why: None,
    };
    if let Err(e) = scene.run(patience, &mut pair) {
        pair.why = Some(short(&format!("{e:#}")));
    }
    Ok(pair)
}

/// What a command said, without the command.
fn short(why: &str) -> String {
    let said = why.rsplit_once("stderr:").map_or(why, |(_, said)| said);
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Scene {
    fn build(lab: &mut Lab, case: Case) -> Result<Self> {
        let line = Params::home_line();
        let middle = lab.machine("owner", &line)?;
        lab.add_v6(&middle)?;
        let owner = lab.node(&middle, "owner", NodeSpec::dual_stack())?;
        owner.start()?;
        owner.ok(&["lan", "create", "home"])?;
        let machines: Vec<Arc<Machine>> = match case {
            Case::Apart(a, b) => vec![lab.site(a, "one", &line)?, lab.site(b, "two", &line)?],
            Case::Sharing(s) => lab.sharing(s, &["one", "two"], &line)?,
        };
        let [one, two] = machines.as_slice() else {
            anyhow::bail!("a pair has two machines");
        };
        let mut start = |m: &Arc<Machine>| -> Result<Node> {
            let node = lab.node(m, &m.name.clone(), NodeSpec::dual_stack())?;
            node.start()?;
            Ok(node)
        };
        let nodes = [start(one)?, start(two)?];
        Ok(Self { owner, nodes })
    }

    /// Joins, attaches and gives the end its address.
    fn enter(&self, which: usize) -> Result<()> {
        let (Some(node), Some(addr)) = (self.nodes.get(which), ENDS.get(which)) else {
            anyhow::bail!("a pair has two ends");
        };
        node.ok(&["join", &self.owner.ok(&["lan", "invite", "home"])?])?;
        node.ok(&["lan", "attach", "home", "--tap", "t0"])?;
        let net = format!("{addr}/24");
        node.machine().ns.ip(&["addr", "add", &net, "brd", "+", "dev", "t0"])?;
        Ok(())
    }

    fn run(&self, patience: Patience, pair: &mut Pair) -> Result<()> {
        let [one, two] = &self.nodes;
        self.enter(0).context("the first node cannot join")?;
        let _answers = Answerer::start(&one.machine().ns)?;
        let began = Instant::now();
        self.enter(1).context("the second node cannot join")?;
        call(&two.machine().ns, patience.first)?;
        pair.first_frame = Some(began.elapsed().as_secs_f64());
        pair.first_path = self.path()?;
        let direct = sh::eventually(patience.direct, "a direct path", || {
            Ok((self.path()?.as_deref() == Some("direct")).then_some(began.elapsed()))
        });
        pair.direct_after = direct.ok().map(|d| d.as_secs_f64());
        pair.path = self.path()?;
        if let Some(stream) = patience.stream {
            pair.mbps = Some(self.stream(stream).context("the TCP stream")?);
        }
        Ok(())
    }

    /// The frame path from the second node to the first, in one word.
    fn path(&self) -> Result<Option<String>> {
        let [one, two] = &self.nodes;
        let id = one.id()?;
        let lan = two.json(&["lan", "show", "home"])?;
        let members = lan["member_list"].as_array().context("no members")?;
        let row = members.iter().find(|m| m["id"] == *id);
        Ok(row.and_then(|m| m["path"].as_str()).map(str::to_owned))
    }

    fn stream(&self, length: Duration) -> Result<f64> {
        let [one, two] = &self.nodes;
        let [there, _] = ENDS;
        let flow = Flow::open(&two.machine().ns, &one.machine().ns, there.into(), None)?.saturate();
        sh::pause(length);
        let got = flow.stop()?;
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let bits = got.bytes as f64 * 8.0;
        Ok(bits / got.took.as_secs_f64() / 1e6)
    }
}

/// Answers each call on a LAN by another broadcast, until dropped.
struct Answerer {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Answerer {
    fn start(ns: &Netns) -> Result<Self> {
        let socket = broadcaster(ns)?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut buf = [0; 16];
                while !stop.load(Ordering::Relaxed) {
                    // A time-out or a network that is down: the next call will be heard, or the next answer leaves.
                    if let Ok((n, _)) = socket.recv_from(&mut buf)
                        && buf.get(..n) == Some(b"call")
                    {
                        socket.send_to(b"answer", (BROADCAST, CALL_PORT)).ok();
                    }
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            t.join().ok();
        }
    }
}

fn broadcaster(ns: &Netns) -> Result<UdpSocket> {
    let socket = ns.enter(|| Ok(UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, CALL_PORT)))?))?;
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(CALL_EVERY))?;
    Ok(socket)
}

/// Calls until the first answer. Broadcasts need no ARP, whose second between two tries would be all that is measured.
fn call(ns: &Netns, limit: Duration) -> Result<()> {
    let socket = broadcaster(ns)?;
    let mut buf = [0; 16];
    sh::until(limit, "the first frame there and back", || {
        socket.send_to(b"call", (BROADCAST, CALL_PORT)).ok();
        match socket.recv_from(&mut buf) {
            Ok((n, _)) => Ok((buf.get(..n) == Some(b"answer")).then_some(())),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(e) => Err(e.into()),
        }
    })
}
