//! A network card that goes into a bridge while this machine goes on using it: the transaction, from the node's side.
//!
//! Contact is a router of a default route by that card that answers the kernel's own ARP or ND, and one of the peers that
//! answered before. What was not there before is not asked for after.

use super::{Daemon, attach::Attachment, faults, guest_rows, lock};
use crate::{
    api,
    attach::{
        holdings::Holdings,
        journal::{Journal, Phase},
        plan::{self, Step},
    },
    io::attach::{
        Book, Settled, do_steps,
        guard::Guard,
        kernel::{self, Link},
        managed,
        netlink::Netlink,
    },
};
use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tunnel::io::PortInfo;
use wire::{Fault, FaultKind, LanId, NodeId};

/// How long a change waits for contact if nothing else is said.
const CONFIRM_WITHIN: Duration = Duration::from_secs(60);
/// Least and most that can be asked for: a router needs a second to answer, and the caller waits no longer than
/// `defaults::CALL_DEADLINE`.
const CONFIRM_LIMITS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(90));
/// How long one round of looking for contact lasts.
const ROUND: Duration = Duration::from_secs(2);
/// Peers that are asked for an answer; one is enough.
const PEERS: usize = 8;
/// `CAP_NET_ADMIN`.
const NET_ADMIN: u32 = 12;

/// What to change, and how.
#[derive(Clone, Debug)]
pub(super) struct Change {
    lan: LanId,
    what: Attachment,
    interface: String,
    within: Duration,
    force: bool,
}

impl Change {
    pub(super) fn new(lan: &LanId, what: &Attachment, req: &api::LanAttach) -> Result<Self, Fault> {
        let within = req.confirm_within_ms.map_or(CONFIRM_WITHIN, Duration::from_millis);
        if !(CONFIRM_LIMITS.0..=CONFIRM_LIMITS.1).contains(&within) {
            let (least, most) = (CONFIRM_LIMITS.0.as_secs(), CONFIRM_LIMITS.1.as_secs());
            return Err(Fault::new(
                FaultKind::Usage,
                format!("a change waits for contact for {least} s to {most} s"),
            ));
        }
        Ok(Self {
            lan: lan.clone(),
            what: what.clone(),
            interface: what.interface.clone().unwrap_or_default(),
            within,
            force: req.force,
        })
    }
}

/// An interface before a change.
enum Seat {
    /// It is a bridge, or is in this one already.
    In(String),
    /// It is free; the bridge is to have this name.
    Free(Box<Holdings>, String),
}

/// Changes that are under way.
#[derive(Default)]
pub(super) struct Changes {
    /// One interface is changed at a time.
    one: tokio::sync::Mutex<()>,
    /// Those that wait to be confirmed, by interface.
    unconfirmed: Mutex<BTreeMap<String, Arc<Notify>>>,
}

/// What must answer again after a change.
struct Contact {
    routers: Vec<IpAddr>,
    peers: Vec<NodeId>,
}

/// Goes back from changes that nobody confirmed, and says so.
pub(super) async fn settle_all(state: &Path) -> Result<(), Fault> {
    let state = state.to_owned();
    let found = blocking(move || crate::io::attach::settle_all(&state)).await?;
    for (interface, done) in found {
        match done {
            Ok(Settled::Undone) => {
                tracing::warn!(
                    interface,
                    "a change was not confirmed when the node ended; the old state is back"
                );
            }
            Ok(Settled::Void) => tracing::info!(interface, "the machine was started anew; it is attached again"),
            Ok(_) => {}
            Err(e) => tracing::error!(interface, error = %e, "the old state is not wholly back"),
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(f).await.map_err(|e| faults::failed(&e))?;
    done.map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => missing_right(),
        io::ErrorKind::NotFound => Fault::new(FaultKind::NoMatch, e.to_string()).next("list them with: ip -br link"),
        _ => Fault::new(FaultKind::Failed, e.to_string()),
    })
}

fn missing_right() -> Fault {
    Fault::new(FaultKind::Missing, "not allowed to change interfaces")
        .next("run the node as root, or give it the right: setcap cap_net_admin+ep $(command -v lanline)")
}

/// May this process change interfaces?
fn may_change() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << NET_ADMIN) != 0
}

/// Looks at an interface; an error if it cannot or should not be changed.
fn look(interface: &str, force: bool) -> io::Result<Result<Seat, Fault>> {
    let mut nl = Netlink::open()?;
    let links = kernel::links(&mut nl)?;
    let Some(link) = links.iter().find(|l| l.name == interface) else {
        let fault = Fault::new(FaultKind::NoMatch, format!("there is no interface '{interface}'"));
        return Ok(Err(fault.next("list them with: ip -br link")));
    };
    if link.is_bridge() {
        return Ok(Ok(Seat::In(interface.to_owned())));
    }
    if let Some(master) = link.master.and_then(|m| links.iter().find(|l| l.index == m)) {
        return Ok(if master.is_bridge() {
            Ok(Seat::In(master.name.clone()))
        } else {
            let what = format!("{interface} is a part of {}, which is no bridge", master.name);
            Err(Fault::new(FaultKind::Usage, what).next(format!("attach that: --interface {}", master.name)))
        });
    }
    if let Some(fault) = unfit(link) {
        return Ok(Err(fault));
    }
    let held = kernel::holdings(&mut nl, link)?;
    if let Some(fault) = contested(&held).filter(|_| !force) {
        return Ok(Err(fault));
    }
    if let Some(r) = held.routes.iter().find(|r| r.uses_object()) {
        let what = format!(
            "the route {} uses a next-hop object, which lanline does not move",
            r.text
        );
        let next = format!("make the bridge by hand, or: --interface {interface} --mode translate");
        return Ok(Err(Fault::new(FaultKind::Refused, what).next(next)));
    }
    let taken = |n: &String| links.iter().any(|l| l.name == *n);
    let mut names = (0..).map(|n: u32| format!("lanbr{n}"));
    let bridge = names.find(|n| !taken(n)).unwrap_or_default();
    Ok(Ok(Seat::Free(Box::new(held), bridge)))
}

/// Why this can be no port of a bridge.
fn unfit(link: &Link) -> Option<Fault> {
    let i = &link.name;
    if link.loopback || link.mac.is_none() {
        let what = format!("{i} is not an Ethernet interface");
        return Some(Fault::new(FaultKind::Usage, what).next("list them with: ip -br link"));
    }
    managed::is_wireless(i).then(|| {
        let what = format!("{i} is wireless: its access point takes frames from {i}'s own address alone, so no bridge");
        Fault::new(FaultKind::Refused, what).next(format!("join by translation: --interface {i} --mode translate"))
    })
}

/// Another program looks after the interface and would fight the change, or nobody would renew its address after it.
fn contested(h: &Holdings) -> Option<Fault> {
    let i = &h.interface;
    let other = format!("leave {i} as it is: --interface {i} --mode translate; or change it all the same: --force");
    if let Some(m) = managed::manager(Path::new("/"), h).filter(|m| m.acts) {
        let what = format!(
            "{} manages {i} and would undo the change, now or at the next boot",
            m.name
        );
        let next = format!("make a bridge there ({}), then: --bridge lanbr0; or {other}", m.advice);
        return Some(Fault::new(FaultKind::Refused, what).next(next));
    }
    let (addr, seconds) = managed::leased(h)?;
    let what = format!(
        "{i} has its address {addr} from a DHCP client, which would not renew it on a bridge: it would end in {seconds} s"
    );
    Some(Fault::new(FaultKind::Refused, what).next(format!(
        "make a bridge whose DHCP client runs on the bridge itself, then: --bridge lanbr0; or {other}"
    )))
}

/// What a person should know about the next boot.
fn outlook(h: &Holdings, bridge: &str) -> String {
    let i = &h.interface;
    let base =
        format!("{i} is in {bridge}, which has its addresses now; firewall rules that name {i} must name {bridge}");
    match managed::manager(Path::new("/"), h) {
        Some(m) => format!(
            "{base}; at the next boot {} sets up {i} as before and the node changes it again, to make it last: {}",
            m.name, m.advice
        ),
        None => format!("{base}; after a reboot the node does this again"),
    }
}

impl Daemon {
    /// Attaches an interface; answers the port and what to know about it.
    pub(super) async fn attach_interface(self: Arc<Self>, c: Change) -> Result<(PortInfo, Option<String>), Fault> {
        let _one = self.changes.one.lock().await;
        if !may_change() {
            return Err(missing_right());
        }
        let (interface, force) = (c.interface.clone(), c.force);
        match blocking(move || look(&interface, force)).await?? {
            Seat::In(bridge) => {
                let note = format!("{} is in bridge {bridge} already", c.interface);
                let info = self.open_port(&c.lan, &c.what, Some(bridge)).await?;
                Ok((info, Some(note)))
            }
            Seat::Free(held, bridge) => {
                let note = outlook(&held, &bridge);
                let info = self.change(&c, *held, bridge).await?;
                Ok((info, Some(note)))
            }
        }
    }

    /// As [`Daemon::attach_interface`], for one that was attached when the node ended.
    pub(super) async fn attach_interface_again(self: Arc<Self>, lan: LanId, what: Attachment) {
        let change = Change {
            interface: what.interface.clone().unwrap_or_default(),
            lan: lan.clone(),
            what: what.clone(),
            within: CONFIRM_WITHIN,
            // It was agreed to once.
            force: true,
        };
        if self.is_open(&lan, &what) || self.changes.one.try_lock().is_err() {
            return;
        }
        let done = self.clone().attach_interface(change).await;
        if done.as_ref().is_err_and(|f| f.kind == FaultKind::TimedOut) {
            self.give_up(&lan, &what);
        }
        self.tell_once((lan, what), done.err());
    }

    async fn change(&self, c: &Change, held: Holdings, bridge: String) -> Result<PortInfo, Fault> {
        let book = Book::of(&self.dir, &c.interface);
        let contact = self.contact(&held).await;
        tracing::info!(
            interface = c.interface,
            bridge,
            routers = contact.routers.len(),
            peers = contact.peers.len(),
            "an interface is changed"
        );
        let steps = plan::to_bridged(&held, &bridge);
        let journal = Journal {
            phase: Phase::Attaching,
            boot: blocking(kernel::boot_id).await?,
            bridge: bridge.clone(),
            holdings: held.clone(),
            confirm_within_ms: super::run::millis(c.within),
        };
        let (guard, until) = self.begin(&book, journal, c.within).await?;
        let opened = match perform(held, steps).await {
            Ok(()) => self.open_port(&c.lan, &c.what, Some(bridge.clone())).await,
            Err(f) => Err(f),
        };
        let end = match opened {
            Ok(port) => match self.kept(&book, &contact, &bridge, until).await {
                Ok(()) => Ok(port),
                Err(f) => {
                    self.close_port(&c.lan, &c.what).await;
                    Err(f)
                }
            },
            Err(f) => Err(f),
        };
        guard.look().await;
        end.map_err(|f| went_back(f, &book))
    }

    /// Writes the journal and arms the dead-man.
    async fn begin(&self, book: &Book, journal: Journal, within: Duration) -> Result<(Guard, Instant), Fault> {
        let write = book.clone();
        blocking(move || write.write(&journal)).await?;
        match Guard::arm(book, within).await {
            Ok(guard) => Ok((guard, Instant::now() + within)),
            Err(f) => {
                let book = book.clone();
                blocking(move || book.settle()).await?;
                Err(f)
            }
        }
    }

    /// Waits for contact by way of `device`, or for a person who says that all is well, and makes the change last.
    async fn kept(&self, book: &Book, contact: &Contact, device: &str, until: Instant) -> Result<(), Fault> {
        let word = Arc::new(Notify::new());
        lock(&self.changes.unconfirmed).insert(book.interface(), word.clone());
        let good = tokio::select! {
            good = self.regained(contact, device, until) => good,
            () = word.notified() => Ok(()),
        };
        lock(&self.changes.unconfirmed).remove(&book.interface());
        good?;
        let confirm = book.clone();
        match blocking(move || confirm.confirm()).await? {
            true => Ok(()),
            false => Err(Fault::new(
                FaultKind::TimedOut,
                "the dead-man went back before contact was found",
            )),
        }
    }

    async fn contact(&self, h: &Holdings) -> Contact {
        let (index, all) = (h.index, h.gateways());
        let routers = blocking(move || {
            let mut nl = Netlink::open()?;
            let mut out = Vec::new();
            for ip in all {
                if kernel::answers(&mut nl, index, ip, ROUND)? {
                    out.push(ip);
                }
            }
            Ok(out)
        });
        let peers = self
            .overlay
            .peers()
            .await
            .into_iter()
            .map(|p| p.id)
            .take(PEERS)
            .collect();
        Contact {
            routers: routers.await.unwrap_or_default(),
            peers: self.answering(peers).await,
        }
    }

    /// Those of the peers that answer on the control path.
    async fn answering(&self, peers: Vec<NodeId>) -> Vec<NodeId> {
        let asked = peers.into_iter().map(|p| async move {
            let back = self.control_ping(p, ROUND).await;
            back.ok().map(|_| p)
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Contact is there again; or at `until`, what is missing.
    async fn regained(&self, contact: &Contact, device: &str, until: Instant) -> Result<(), Fault> {
        loop {
            let routed = contact.routers.is_empty() || self.router_answers(contact, device).await;
            let peered = contact.peers.is_empty() || !self.answering(contact.peers.clone()).await.is_empty();
            if routed && peered {
                return Ok(());
            }
            if Instant::now() >= until {
                let what = match (routed, peered) {
                    (false, _) => "no router answered",
                    _ => "no peer that answered before did so again",
                };
                return Err(Fault::new(
                    FaultKind::TimedOut,
                    format!("contact was lost: {what} by way of {device}"),
                ));
            }
        }
    }

    async fn router_answers(&self, contact: &Contact, device: &str) -> bool {
        let (device, routers) = (device.to_owned(), contact.routers.clone());
        let asked = blocking(move || {
            let mut nl = Netlink::open()?;
            let Some(link) = kernel::link(&mut nl, &device)? else {
                return Ok(false);
            };
            for ip in routers {
                if kernel::answers(&mut nl, link.index, ip, ROUND)? {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        asked.await.unwrap_or(false)
    }

    /// A person says that the change is good.
    pub(super) async fn confirm_change(&self, lan: &LanId, interface: &str) -> Result<api::PortRow, Fault> {
        let Some(word) = lock(&self.changes.unconfirmed).get(interface).cloned() else {
            return Err(Fault::new(
                FaultKind::NoMatch,
                format!("no change of '{interface}' waits to be confirmed"),
            )
            .next(format!("look at it: lanline lan show {}", lan.name)));
        };
        word.notify_one();
        let id = lock(&self.attached).port_of(lan, interface);
        let ports = self.tunnel.ports(lan).await;
        let port = ports.iter().find(|p| Some(p.id) == id);
        port.map(guest_rows::port_row).ok_or_else(|| {
            Fault::new(
                FaultKind::Failed,
                format!("the change of {interface} is kept, but its port has gone meanwhile"),
            )
        })
    }

    /// Takes an interface out of a bridge of ours again. A bridge that was there before us, or that others use, stays.
    pub(super) async fn detach_interface(self: Arc<Self>, lan: LanId, what: Attachment) -> Result<(), Fault> {
        let _one = self.changes.one.lock().await;
        let interface = what.interface.clone().unwrap_or_default();
        let book = Book::of(&self.dir, &interface);
        let read = book.clone();
        let journal = blocking(move || read.read()).await?;
        let shared = lock(&self.attached).shared(&lan, &interface);
        self.close_port(&lan, &what).await;
        let Some(journal) = journal.filter(|j| j.phase == Phase::Attached && !shared) else {
            return Ok(());
        };
        let before = journal.clone();
        let Some(held) = blocking(move || bridge_now(&before)).await?? else {
            return Ok(());
        };
        let done = self.change_back(&book, journal, held).await;
        if done.is_err() {
            // The bridge is back, and so is its port.
            self.attach_again(&lan).await;
        }
        done
    }

    async fn change_back(&self, book: &Book, journal: Journal, now: Holdings) -> Result<(), Fault> {
        let mut contact = self.contact(&now).await;
        contact
            .routers
            .retain(|r| journal.holdings.gateways().contains(r) || now.gateways().contains(r));
        let held = journal.holdings.came_back(&journal.bridge, &now);
        let steps = plan::to_plain(&held, &journal.bridge);
        let within = Duration::from_millis(journal.confirm_within_ms);
        let journal = Journal {
            phase: Phase::Detaching,
            holdings: held.clone(),
            ..journal
        };
        let (guard, until) = self.begin(book, journal, within).await?;
        let device = held.interface.clone();
        let end = match perform(held, steps).await {
            Ok(()) => self.kept(book, &contact, &device, until).await,
            Err(f) => Err(f),
        };
        guard.look().await;
        end.map_err(|f| Fault {
            what: format!("{}; the bridge is back", f.what),
            ..f
        })
    }
}

async fn perform(h: Holdings, steps: Vec<Step>) -> Result<(), Fault> {
    blocking(move || do_steps(&h, &steps)).await
}

/// What our bridge has now; `None` if it is gone. An error if it has ports beside the interface.
fn bridge_now(j: &Journal) -> io::Result<Result<Option<Holdings>, Fault>> {
    let mut nl = Netlink::open()?;
    let links = kernel::links(&mut nl)?;
    let Some(bridge) = links.iter().find(|l| l.name == j.bridge) else {
        return Ok(Ok(None));
    };
    let others = links
        .iter()
        .filter(|l| l.master == Some(bridge.index) && l.index != j.holdings.index);
    let others: Vec<&str> = others.map(|l| l.name.as_str()).collect();
    if let Some(other) = others.first() {
        let what = format!(
            "bridge {} has other ports, which would lose it: {}",
            j.bridge,
            others.join(", ")
        );
        let next = format!("take them out first: ip link set {other} nomaster");
        return Ok(Err(Fault::new(FaultKind::Refused, what).next(next)));
    }
    kernel::holdings(&mut nl, bridge).map(|h| Ok(Some(h)))
}

fn went_back(f: Fault, book: &Book) -> Fault {
    let interface = book.interface();
    let what = match book.file().exists() {
        false => format!("{}; {interface} has its old state back", f.what),
        true => format!(
            "{}; {interface}'s old state is not wholly back, the next start of the node tries again",
            f.what
        ),
    };
    let next = f.next.clone().or_else(|| {
        Some(format!(
            "leave {interface} as it is: --interface {interface} --mode translate"
        ))
    });
    Fault { what, next, ..f }
}
