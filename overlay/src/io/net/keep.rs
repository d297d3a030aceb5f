//! Asks control connections whether they live, as seldom as that can be.

use super::Net;
use crate::{
    defaults,
    io::port::close,
    keep::{Look, Verdict, Watched},
    path, paths,
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use wire::link::PathClass;

/// How long the machine is up, sleep included, which the monotonic clock leaves out.
fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

impl Net {
    /// Looks at all control connections, if that is due.
    pub(super) fn look_at_control(&mut self, now: Instant) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + defaults::keep::EVERY;
        self.notice_sleep();
        let mut live = BTreeSet::new();
        for (peer, conn) in self.port.all_control() {
            let key = (peer, conn.stable_id());
            live.insert(key);
            let look = self.look_of(key.0, &conn);
            let watched = self.watched.entry(key).or_insert_with(|| Watched::new(now, look));
            match watched.handle_look(now, look) {
                Verdict::Fine => {}
                // A peer without lanline takes none, and asks by itself.
                Verdict::Ask => drop(conn.send_datagram(bytes::Bytes::new())),
                Verdict::Dead => {
                    tracing::debug!(%peer, "closed: a control connection is silent");
                    conn.close(close::SILENT.into(), b"no answer");
                }
            }
        }
        self.watched.retain(|k, _| live.contains(k));
        self.go_around(now);
        for peer in self.peers.keys() {
            if let (Some(node), Some(conn)) = (path::node_id(peer), self.port.any_control(peer).last()) {
                self.port.set_rtt(node, Some(conn.rtt()));
            }
        }
    }

    /// This node is seen elsewhere, or its addresses changed: who does not hear of it sends to where nobody is.
    pub(super) fn doubt_control(&mut self) {
        self.watched.values_mut().for_each(Watched::handle_doubt);
        self.next_look = Instant::now();
    }

    /// Closes connections that were taken in at an address that this machine has no more: QUIC answers from there alone.
    pub(super) fn close_stranded(&self) {
        let own = self.port.interfaces.addrs();
        for (peer, conn) in self.port.all_control() {
            let at = conn.local_ip().map(|ip| ip.to_canonical());
            if conn.side() == quinn::Side::Server && at.is_some_and(|ip| !ip.is_unspecified() && !own.contains(&ip)) {
                tracing::debug!(%peer, "closed: this machine has the connection's address no more");
                conn.close(close::SILENT.into(), b"moved");
            }
        }
    }

    /// The machine slept: peers may have given this node up, and routers forgot it. All are asked at once.
    fn notice_sleep(&mut self) {
        let now = uptime();
        let slept = self
            .uptime
            .zip(now)
            .is_some_and(|(old, new)| new.saturating_sub(old) > defaults::keep::SLEPT);
        self.uptime = now;
        if slept {
            tracing::info!("the machine slept, or the node was stopped: peers are asked again");
            self.port.sealed.doubt_all();
            self.doubt_control();
            self.redial.handle_network_change(Instant::now());
            self.port_map.ask_again();
        }
    }

    fn look_of(&self, peer: libp2p::PeerId, conn: &quinn::Connection) -> Look {
        let (stats, remote) = (conn.stats(), conn.remote_address());
        let session = path::node_id(&peer).and_then(|n| self.port.session(n));
        let near = paths::class_of(remote, &self.port.sealed.surroundings.borrow().networks) == PathClass::SameLan;
        let listens = self.peers.get(&peer).is_some_and(|p| {
            let at = path::quic_addr(remote);
            p.listen.contains(&at)
        });
        Look {
            came: stats.udp_rx.datagrams,
            asked: stats.frame_tx.stream + stats.frame_tx.datagram + stats.frame_tx.ping,
            dialled: conn.side() == quinn::Side::Client,
            linked: session.is_some_and(|s| s.is_at(remote)),
            mapped: !near && (self.is_behind_nat() || !listens),
        }
    }
}
