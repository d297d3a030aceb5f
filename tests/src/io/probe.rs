//! Small questions to a path while something else fills it: pings, ARP, DHCP, a numbered stream of UDP packets.

use super::{
    netns::{Netns, RunAs},
    sh,
};
use crate::bench::parse::{self, Rtt};
use anyhow::{Context, Result};
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

/// `count` pings, `every` apart; an error if none comes back.
pub fn ping(ns: &Netns, addr: IpAddr, count: u32, every: Duration) -> Result<Rtt> {
    let (n, gap) = (count.to_string(), format!("{:.3}", every.as_secs_f64()));
    let said = busybox(
        ns,
        &["ping", "-c", &n, "-i", &gap, "-W", "2", &addr.to_string()],
        every * count,
    )?;
    parse::ping(&said).with_context(|| format!("no ping came back from {addr}: {said}"))
}

/// How many of `count` ARP requests, a second apart, are answered.
pub fn arp(ns: &Netns, dev: &str, addr: IpAddr, count: u32) -> Result<u32> {
    let n = count.to_string();
    let limit = Duration::from_secs(u64::from(count));
    let said = busybox(ns, &["arping", "-c", &n, "-I", dev, &addr.to_string()], limit)?;
    let answered = said.lines().filter(|l| l.starts_with("Unicast reply")).count();
    Ok(u32::try_from(answered)?)
}

/// Asks for a lease as a new client would, once a second at most `tries` times; true if one comes.
pub fn dhcp(ns: &Netns, dev: &str, tries: u32) -> Result<bool> {
    let mut c = ns.command(Path::new("busybox"), RunAs::Root)?;
    let n = tries.to_string();
    // `true` takes the lease and does nothing with it.
    c.args([
        "udhcpc",
        "-f",
        "-q",
        "-n",
        "-i",
        dev,
        "-t",
        &n,
        "-T",
        "1",
        "-s",
        "/bin/true",
    ]);
    Ok(sh::run_within(c, Duration::from_secs(u64::from(tries) + 20))?.code == 0)
}

/// What busybox prints; some of its tools end with 1 if a single answer is missing.
fn busybox(ns: &Netns, args: &[&str], takes: Duration) -> Result<String> {
    let mut c = ns.command(Path::new("busybox"), RunAs::Root)?;
    c.args(args);
    Ok(sh::run_within(c, takes + Duration::from_secs(20))?.stdout)
}

/// A numbered stream: which packets arrive, and in which order.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// Packets.
    pub count: u32,
    /// Bytes of payload of each, at least 4.
    pub len: usize,
    /// Time between two.
    pub every: Duration,
}

/// What became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamReport {
    /// Packets that arrived, each counted once.
    pub arrived: u32,
    /// Packets that arrived after one with a higher number: the reordered ones of RFC 4737 §3.
    pub reordered: u32,
    /// Packets that arrived again.
    pub duplicates: u32,
    /// Most numbers that were missing in a row.
    pub longest_run_lost: u32,
}

/// How long the receiver waits for the next packet: longer than the 3 s that frames may take to find another way.
const LINGER: Duration = Duration::from_millis(3_500);

impl Stream {
    /// Sends it from one namespace to an address of another.
    pub fn run(&self, from: &Netns, to: &Netns, addr: IpAddr) -> Result<StreamReport> {
        self.run_in_trains(1, from, to, addr)
    }

    /// The same, with `train` packets at a time as fast as they go, and then a pause: as many a second all the same.
    pub fn run_in_trains(&self, train: u32, from: &Netns, to: &Netns, addr: IpAddr) -> Result<StreamReport> {
        let rx = to.enter(|| Ok(UdpSocket::bind(SocketAddr::new(addr, 0))?))?;
        let there = rx.local_addr()?;
        let tx = from.enter(move || {
            let any: IpAddr = match there {
                SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            let s = UdpSocket::bind(SocketAddr::new(any, 0))?;
            s.connect(there)?;
            Ok(s)
        })?;
        rx.set_read_timeout(Some(LINGER))?;
        let this = *self;
        let sender = std::thread::spawn(move || this.send(&tx, train.max(1)));
        let numbers = self.receive(&rx)?;
        sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok(judge(&numbers, self.count))
    }

    fn send(self, tx: &UdpSocket, train: u32) -> Result<()> {
        let mut packet = vec![0; self.len.max(4)];
        let began = Instant::now();
        for n in 0..self.count {
            if let Some(head) = packet.get_mut(..4) {
                head.copy_from_slice(&n.to_be_bytes());
            }
            tx.send(&packet)?;
            if (n + 1).is_multiple_of(train) {
                sh::pause((self.every * (n + 1)).saturating_sub(began.elapsed()));
            }
        }
        Ok(())
    }

    fn receive(self, rx: &UdpSocket) -> Result<Vec<u32>> {
        let mut numbers = Vec::new();
        let mut buf = vec![0; 65_536];
        // As long as a packet comes within the time, more may follow.
        while let Ok(n) = rx.recv(&mut buf) {
            let head = buf.get(..n.min(4)).unwrap_or_default();
            numbers.push(u32::from_be_bytes(
                head.try_into().context("a packet without a number")?,
            ));
            if numbers.len() > self.count as usize * 4 {
                break; // Nobody duplicates that much.
            }
        }
        Ok(numbers)
    }
}

fn judge(numbers: &[u32], count: u32) -> StreamReport {
    let mut seen = vec![false; count as usize];
    let mut out = StreamReport::default();
    let mut highest = None;
    for n in numbers {
        let Some(was) = seen.get_mut(*n as usize) else { continue };
        if std::mem::replace(was, true) {
            out.duplicates += 1;
            continue;
        }
        out.arrived += 1;
        if highest.is_some_and(|h| *n < h) {
            out.reordered += 1;
        } else {
            highest = Some(*n);
        }
    }
    let runs = seen.split(|got| *got).map(<[bool]>::len).max();
    out.longest_run_lost = u32::try_from(runs.unwrap_or(0)).unwrap_or(u32::MAX);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_stream_tells_loss_order_and_duplicates_apart() {
        let r = judge(&[0, 1, 1, 3, 2, 7], 8);
        let want = StreamReport {
            arrived: 5,
            reordered: 1,
            duplicates: 1,
            longest_run_lost: 3,
        };
        assert_eq!(r, want);
        assert_eq!(judge(&[], 4).longest_run_lost, 4);
        assert_eq!(
            judge(&[0, 1, 2, 3], 4),
            StreamReport {
                arrived: 4,
                ..StreamReport::default()
            }
        );
    }
}
