//! How often nodes are looked for at one IP address that others only say is theirs. A liar that names a victim's address as
//! that of many made-up nodes gets the victim few packets from each node that it lies to.
//!
//! Not counted: nodes that are connected, or that called or answered before (they are in the routing table).
//!
//! Invariant: at most [`TOLD_TRIES`] unanswered tries at one IP address within [`TOLD_WINDOW`], and [`TOLD_HOSTS`] of these.

use crate::defaults::{TOLD_HOSTS, TOLD_TRIES, TOLD_WINDOW};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

/// Unanswered tries by IP address.
#[derive(Debug, Default)]
pub struct Ways {
    hosts: BTreeMap<IpAddr, (Instant, u16)>,
}

/// The IP address of a multiaddr, whichever way it is written. `None` for names: nobody is looked up by the word of others.
pub fn host_of(addr: &str) -> Option<IpAddr> {
    let mut parts = addr.strip_prefix('/')?.split('/');
    let (kind, ip) = (parts.next()?, parts.next()?);
    match kind {
        "ip4" => ip.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "ip6" => ip.parse::<Ipv6Addr>().ok().map(|ip| ip.to_canonical()),
        _ => None,
    }
}

impl Ways {
    /// Of addresses that others say, those that may be tried now; a try of each is counted.
    pub fn take(&mut self, now: Instant, addrs: Vec<String>) -> Vec<String> {
        let mut addrs = addrs;
        addrs.retain(|a| host_of(a).is_some_and(|host| self.count(now, host)));
        addrs
    }

    fn count(&mut self, now: Instant, host: IpAddr) -> bool {
        let over = |since: Instant| now.saturating_duration_since(since) >= TOLD_WINDOW;
        if let Some((since, tries)) = self.hosts.get_mut(&host) {
            if over(*since) {
                (*since, *tries) = (now, 0);
            }
            *tries = tries.saturating_add(1);
            return *tries <= TOLD_TRIES;
        }
        if self.hosts.len() >= TOLD_HOSTS {
            self.hosts.retain(|_, (since, _)| !over(*since));
        }
        if self.hosts.len() >= TOLD_HOSTS {
            let oldest = self.hosts.iter().min_by_key(|(_, (since, _))| *since).map(|(h, _)| *h);
            oldest.and_then(|h| self.hosts.remove(&h));
        }
        self.hosts.insert(host, (now, 1));
        true
    }

    /// Who was tried at these addresses answered: no more than its own try is forgiven, for it may have named a victim besides.
    pub fn answered(&mut self, addrs: &[String]) {
        for host in addrs.iter().filter_map(|a| host_of(a)) {
            if let Some((_, tries)) = self.hosts.get_mut(&host) {
                *tries = tries.saturating_sub(1);
            }
        }
    }

    /// IP addresses that are remembered.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_ip_address_and_never_a_name() {
        let ip = |s: &str| s.parse().ok();
        assert_eq!(host_of("/ip4/192.0.2.1/udp/1/quic-v1"), ip("192.0.2.1"));
        for one in ["2001:db8::1", "2001:DB8:0::1", "2001:db8:0:0:0:0:0:1"] {
            assert_eq!(
                host_of(&format!("/ip6/{one}/tcp/1")),
                ip("2001:db8::1"),
                "spelling is no way around the bound"
            );
        }
        assert_eq!(host_of("/ip6/::ffff:192.0.2.1/tcp/1"), ip("192.0.2.1"));
        for bad in [
            "",
            "/",
            "/ip4/",
            "/ip4",
            "/dns4/example.org/tcp/1",
            "/unix/x",
            "ip4/1.2.3.4",
            "/ip4/1.2.3/udp/1",
            "/ip4/example.org/udp/1",
        ] {
            assert_eq!(host_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn tries_at_one_host_and_hosts_are_bounded() {
        let (mut w, now) = (Ways::default(), Instant::now());
        let at = |n: usize| vec![format!("/ip4/192.0.2.1/udp/{n}/quic-v1")];
        let some = (0..1_000).filter(|n| !w.take(now, at(*n)).is_empty()).count();
        assert_eq!(some, usize::from(TOLD_TRIES), "whatever the port");
        assert!(!w.take(now + TOLD_WINDOW, at(0)).is_empty());
        let mut good = Ways::default();
        for n in 0..1_000 {
            let tried = good.take(now, at(n));
            assert!(!tried.is_empty(), "who answers is no victim");
            good.answered(&tried);
        }
        for n in 0..2 * TOLD_HOSTS {
            w.take(
                now,
                vec![format!(
                    "/ip4/10.{}.{}.{}/udp/1/quic-v1",
                    n >> 16,
                    n >> 8 & 255,
                    n & 255
                )],
            );
            assert!(w.len() <= TOLD_HOSTS);
        }
        assert_eq!(w.len(), TOLD_HOSTS);
    }
}
