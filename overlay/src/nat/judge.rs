//! The kind of NAT, how it is known, and what would help.

use super::{Anchor, Nat, RouterSays, Seen, canonical};
use crate::{defaults, path};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use wire::link::PathKind;

/// Who may send to a mapping (RFC 4787 §5), as far as a test told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// Nobody tested it.
    Unknown,
    /// A port that was never sent to got through: the filter looks at addresses at most.
    Lax,
    /// Only who was sent to gets through.
    Strict,
}

/// What stands between this node and the Internet, IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum NatKind {
    /// Too little is known.
    Unknown,
    /// Peers see one of this node's own addresses.
    None {
        /// A firewall may still stand before it.
        filter: Filter,
    },
    /// One mapping for all peers ("cone").
    Cone {
        /// Who may send to it.
        filter: Filter,
    },
    /// A mapping for each peer, whose ports go up by the same step.
    SymmetricEasy {
        /// The step.
        step: u16,
    },
    /// A mapping for each peer that cannot be guessed.
    Symmetric,
    /// Nothing comes back by UDP.
    UdpBlocked,
    /// No IPv4 at all.
    NoIpv4,
}

/// What people are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatReport {
    /// The kind.
    #[serde(flatten)]
    pub kind: NatKind,
    /// A second NAT behind the first: the router's own outer address is not the one that peers see.
    pub double: bool,
    /// In a few words.
    pub says: String,
    /// How that is known.
    pub because: String,
    /// What the router maps to this node, and by which protocol; or why not.
    pub mapping: String,
    /// What would make this node easier to reach; nothing if nothing would.
    pub advice: Option<String>,
}

impl NatReport {
    /// Why frames to a peer do not run directly, as far as this side can tell; `None` for a direct path.
    pub fn why(&self, path: PathKind) -> Option<String> {
        let here = match (path, self.kind) {
            (PathKind::Direct, _) => return None,
            (_, NatKind::UdpBlocked) => "UDP is blocked on this side".to_owned(),
            (PathKind::Tcp, _) => "UDP does not get there; it is tried again within two minutes".to_owned(),
            (PathKind::Relayed, NatKind::Symmetric | NatKind::SymmetricEasy { .. }) => {
                "this side's router maps each peer anew, and the other side's does not let strangers in".to_owned()
            }
            (PathKind::Relayed, NatKind::NoIpv4) => {
                "this side has IPv6 alone, and the other side has none or lets nothing in".to_owned()
            }
            (PathKind::Relayed, _) => {
                "the other side's router maps each peer anew, blocks UDP, or has another IP family".to_owned()
            }
        };
        Some(match &self.advice {
            Some(advice) => format!("{here}; better: {advice}"),
            None => format!("{here}; better: what `lanline doctor` says on the other side"),
        })
    }

    /// True if there is something to do about it.
    pub fn is_bad(&self) -> bool {
        self.double || matches!(self.kind, NatKind::UdpBlocked | NatKind::Symmetric | NatKind::NoIpv4)
    }
}

impl Nat {
    fn v4(&self) -> impl DoubleEndedIterator<Item = &Seen> + Clone {
        self.seen.iter().filter(|s| s.addr.is_ipv4())
    }

    /// The kind of NAT.
    pub fn kind(&self) -> NatKind {
        let Some(last) = self.v4().next_back() else {
            let v4 = self.local.iter().any(SocketAddr::is_ipv4);
            return match (v4, self.over_tcp.is_empty(), self.seen.is_empty()) {
                (true, false, true) => NatKind::UdpBlocked,
                (false, _, _) if !self.local.is_empty() => NatKind::NoIpv4,
                _ => NatKind::Unknown,
            };
        };
        let filter = self.filter(last.addr);
        if self.local.contains(&last.addr) {
            return NatKind::None { filter };
        }
        let (first, mut others) = (last, self.v4().rev().skip(1).filter(|s| s.by.ip() != last.by.ip()));
        // What a local neighbour sees says nothing of the router.
        match others.find(|s| path::is_private(s.addr.ip()) == path::is_private(first.addr.ip())) {
            None => NatKind::Unknown,
            Some(s) if s.addr == first.addr => NatKind::Cone { filter },
            Some(_) => self
                .step(defaults::nat::STEP_VIEWS)
                .map_or(NatKind::Symmetric, |step| NatKind::SymmetricEasy { step }),
        }
    }

    fn filter(&self, addr: SocketAddr) -> Filter {
        match self.tested.iter().find(|(a, _)| *a == addr) {
            None => Filter::Unknown,
            Some((_, true)) => Filter::Lax,
            Some((_, false)) => Filter::Strict,
        }
    }

    /// By how much the router's ports go up from mapping to mapping, if they do: so many views of one outer address.
    fn step(&self, views_needed: usize) -> Option<u16> {
        let last = self.v4().next_back()?.addr.ip();
        let mut views: Vec<(u64, u16)> = self
            .v4()
            .filter(|s| s.addr.ip() == last)
            .map(|s| (s.nth, s.addr.port()))
            .collect();
        views.sort_unstable();
        let views: Vec<(u64, u16)> = views.into_iter().rev().take(defaults::nat::STEP_VIEWS).rev().collect();
        if views.len() < views_needed {
            return None;
        }
        // Mappings between two views are this node's own; other machines behind the router take ports, too: small and rising is
        // what can be guessed.
        let steps = views.iter().zip(views.iter().skip(1)).map(|((n, a), (m, b))| {
            let made = u16::try_from(m.saturating_sub(*n)).ok()?.max(1);
            Some(b.wrapping_sub(*a) / made).filter(|s| (1..=defaults::nat::STEP_MAX).contains(s))
        });
        steps.collect::<Option<Vec<u16>>>()?.into_iter().min()
    }

    /// A mapping that is known, if the ones after it can be guessed. Two views whose ports differ by little are enough: a guess
    /// costs a few pings.
    pub fn anchor(&self) -> Option<Anchor> {
        let last = self.v4().max_by_key(|s| s.nth)?;
        let step = match self.kind() {
            NatKind::SymmetricEasy { step } => step,
            NatKind::Symmetric => self.step(2)?,
            // One view tells no kind. Routers that map each peer anew count up by one, if they can be guessed at all.
            NatKind::Unknown if path::is_private(last.addr.ip()) == path::is_private(last.by.ip()) => 1,
            _ => return None,
        };
        let (addr, nth) = (last.addr, last.nth);
        Some(Anchor { addr, nth, step })
    }

    /// Outer addresses that the router is likely to use next, at most [`defaults::nat::PREDICTED`].
    pub(super) fn predicted(&self) -> Vec<SocketAddr> {
        let Some(last) = self.anchor() else {
            return Vec::new();
        };
        let next = |n: u16| {
            last.addr
                .port()
                .checked_add(last.step.checked_mul(n)?)
                .map(|p| SocketAddr::new(last.addr.ip(), p))
        };
        (1u16..).take(defaults::nat::PREDICTED).map_while(next).collect()
    }

    /// True if the router's own outer address is not where peers see this node, or is no public one.
    fn is_double(&self) -> bool {
        let RouterSays::Mapped(outer, _) = self.router else {
            return false;
        };
        let seen = self.v4().next_back().map(|s| s.addr.ip());
        path::is_private(outer.ip()) || seen.is_some_and(|ip| ip != outer.ip() && !path::is_private(ip))
    }

    /// All of it for people.
    pub fn report(&self) -> NatReport {
        let (kind, double) = (self.kind(), self.is_double());
        let (says, because) = self.words(kind);
        NatReport {
            kind,
            double,
            says: if double { format!("double NAT; {says}") } else { says },
            because,
            mapping: match &self.router {
                RouterSays::NotAsked => "the router was not asked".to_owned(),
                RouterSays::Mapped(_, by) => format!("the router forwards this node's port ({})", by.name()),
                RouterSays::No(why) => why.clone(),
            },
            advice: self.advice(kind, double),
        }
    }

    fn words(&self, kind: NatKind) -> (String, String) {
        let peers = self.v4().count();
        let filter = |f| match f {
            Filter::Unknown => "nobody has tested who may send to it",
            Filter::Lax => "a test from another port got through",
            Filter::Strict => "a test from another port did not get through",
        };
        let (says, because) = match kind {
            NatKind::Unknown => (
                "not known yet",
                format!("{peers} peer(s) told what they see, it takes two on other networks"),
            ),
            NatKind::None { filter: f } => ("no NAT", format!("peers see this machine's own address; {}", filter(f))),
            NatKind::Cone { filter: Filter::Lax } => (
                "one mapping for all peers, lax filter (full cone or address-restricted)",
                format!("{peers} peers see the same port; {}", filter(Filter::Lax)),
            ),
            NatKind::Cone { filter: f } => (
                "one mapping for all peers (port-restricted)",
                format!("{peers} peers see the same port; {}", filter(f)),
            ),
            NatKind::SymmetricEasy { step } => (
                "a mapping for each peer, ports can be guessed (symmetric, easy)",
                format!("peers see ports that go up by {step}"),
            ),
            NatKind::Symmetric => (
                "a mapping for each peer (symmetric)",
                format!("{peers} peers see different ports, in no order"),
            ),
            NatKind::UdpBlocked => (
                "UDP is blocked",
                format!(
                    "{} peer(s) with a UDP port answered over TCP alone",
                    self.over_tcp.len()
                ),
            ),
            NatKind::NoIpv4 => ("no IPv4", "this machine has IPv6 addresses alone".to_owned()),
        };
        (says.to_owned(), because)
    }

    fn advice(&self, kind: NatKind, double: bool) -> Option<String> {
        let port = self.local.iter().map(SocketAddr::port).next().unwrap_or(0);
        let mapped = matches!(self.router, RouterSays::Mapped(..));
        let v6 = self.local.iter().any(|a| a.is_ipv6() && path::is_public(a.ip()));
        let or_v6 = if v6 { "" } else { ", or IPv6 on both sides" };
        match kind {
            NatKind::UdpBlocked => Some(format!(
                "let UDP out on this network (any port, or to the ports of your members); until then frames go over TCP or a member that relays; where only the web gets out, a member with a public address has to set web_port = 443{}",
                if v6 { "" } else { ", and IPv6 may be open" }
            )),
            _ if double => Some(format!(
                "the provider's NAT cannot be opened from here: ask the provider for a public IPv4 address{or_v6}, or let a member with a public address relay"
            )),
            NatKind::Symmetric | NatKind::SymmetricEasy { .. } if !mapped => Some(format!(
                "forward UDP port {port} to this machine on the router, or switch on UPnP, NAT-PMP or PCP there{or_v6}; until then peers behind strict routers are reached through a member that relays"
            )),
            NatKind::Cone { filter } if filter != Filter::Lax && !mapped => Some(format!(
                "nothing is needed for most peers; to be reached from behind symmetric routers too, forward UDP port {port} on the router, or switch on UPnP, NAT-PMP or PCP there"
            )),
            NatKind::None { filter: Filter::Strict } => {
                Some(format!("open UDP port {port} in this machine's firewall"))
            }
            NatKind::NoIpv4 => Some("peers without IPv6 are reached through a member that has both".to_owned()),
            _ => None,
        }
    }

    /// Where a peer sees this node, newest first; for people.
    pub fn outer(&self) -> Vec<SocketAddr> {
        self.seen.iter().rev().map(|s| canonical(s.addr)).collect()
    }
}
