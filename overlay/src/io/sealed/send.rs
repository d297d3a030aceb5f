//! What a session sends.

use super::{Blocked, SEND, State};
use crate::io::seal_socket::SealSocket;
use quinn::udp::Transmit;
use std::{io, net::SocketAddr, time::Instant};
use wire::{
    frame::PathMessage,
    link::{Burst, SEAL_HEAD, SEAL_TAIL, Sent},
};

impl State {
    fn transmit<'a>(&self, contents: &'a [u8], segment: Option<usize>) -> Transmit<'a> {
        Transmit {
            destination: self.route.remote,
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: self.route.source,
        }
    }

    /// Seals and sends a message of the link's own, padded to `size` bytes of UDP payload.
    pub(super) fn tell(&mut self, socket: &SealSocket, now: Instant, to: SocketAddr, m: &PathMessage, size: usize) {
        if self.ended.is_some() || !self.sealer.handle_time(now, self.tx.reported()) {
            return;
        }
        let mut d = vec![0; SEAL_HEAD];
        m.put(&mut d);
        d.resize((d.len() + SEAL_TAIL).max(size), 0);
        self.tx.handle_aside(self.sealer.next_counter());
        self.sealer.seal(true, &mut d);
        let mut transmit = self.transmit(&d, None);
        let active = to == self.route.remote;
        if !active {
            transmit.destination = to;
            transmit.src_ip = self.spares.get(&to).and_then(|r| r.source);
        }
        match socket.send(&transmit) {
            Ok(()) => {
                self.tx_bytes += d.len() as u64;
                self.sent += 1;
                if active {
                    self.route.pace.handle_sent(now, d.len());
                }
            }
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                self.route
                    .mtu
                    .handle_refused(now, u16::try_from(size).unwrap_or(u16::MAX));
            }
            // Told again: reports are periodic, pings and probes have tries. Of candidates many lead nowhere.
            Err(e) => {
                self.forget_source(to, &e);
                if active {
                    self.drop_as("path_message_unsent", 1);
                }
            }
        }
    }

    /// What could not be sent from an own address is sent from any next time: the machine may have that one no more.
    fn forget_source(&mut self, to: SocketAddr, why: &io::Error) {
        if why.kind() == io::ErrorKind::WouldBlock {
            return;
        }
        if to == self.route.remote {
            self.route.source = None;
        } else if let Some(r) = self.spares.get_mut(&to) {
            r.source = None;
        }
    }

    fn note_sent(&mut self, now: Instant, first: u64, n: usize, bytes: usize) {
        self.tx.handle_sent(now, first, n as u64);
        self.last_frame = first + (n as u64).saturating_sub(1);
        self.route.pace.handle_sent(now, bytes);
        self.sent += n as u64;
        self.tx_bytes += bytes as u64;
    }

    /// Sends from the front of the burst until it is empty or the path takes no more.
    pub(super) fn send(&mut self, socket: &SealSocket, burst: &mut Burst, sent: &mut Sent) {
        let now = Instant::now();
        if !self.sealer.handle_time(now, self.tx.reported()) {
            return self.end("the peer says nothing of what it gets");
        }
        self.blocked = Blocked::No;
        let most = usize::from(self.route.mtu.size());
        let mut largest = 0;
        while let Some(len) = burst.first_len() {
            if len > most {
                sent.too_large += 1;
                burst.advance(1);
                continue;
            }
            let budget = self.route.pace.budget(now);
            if budget == 0 {
                self.blocked = Blocked::Pace;
                break;
            }
            let (bytes, n) = burst.run(socket.segments(), SEND.min(budget));
            let first = self.sealer.next_counter();
            let Self { sealer, .. } = self;
            let mut fresh = 0;
            burst.seal(n, |d| {
                sealer.seal(false, d);
                fresh += 1;
            });
            match socket.send(&self.transmit(burst.front(bytes), (n > 1).then_some(len))) {
                Ok(()) => {
                    sent.taken += n;
                    largest = largest.max(len);
                    // Those sealed before an earlier refusal have their counters just below.
                    self.note_sent(now, first - (n - fresh) as u64, n, bytes);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = Blocked::Socket;
                    break;
                }
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                    sent.too_large += n;
                    self.route
                        .mtu
                        .handle_refused(now, u16::try_from(len).unwrap_or(u16::MAX));
                }
                // The segments go one by one from here on.
                Err(_) if n > 1 && socket.segments() == 1 => continue,
                // No route, no buffer, a filter: as if the network had lost it.
                Err(e) => {
                    self.forget_source(self.route.remote, &e);
                    self.drop_as("link_unsent", n as u64);
                    self.paths.handle_unsent(now);
                    self.settle(socket, now);
                }
            }
            burst.advance(n);
        }
        if largest > 0 {
            self.paths.handle_frames_sent(now);
            self.route
                .mtu
                .handle_sent(now, u16::try_from(largest).unwrap_or(u16::MAX));
        }
    }
}
