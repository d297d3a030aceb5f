//! A port by translation: a packet socket and the table that says whose a frame is.

use super::{PortError, fabric::classify_write, packet::PacketSocket, tap::Offloads};
use crate::{DropReason, defaults::TAP_CHECK, mactrans::MacTrans, packet::Packet};
use std::{
    io,
    task::{Context, Poll},
    time::Instant,
};
use tokio::io::unix::AsyncFd;
use wire::{
    MacAddr,
    frame::{Offload, VnetHdr},
};

/// The port.
pub(super) struct Station {
    socket: AsyncFd<PacketSocket>,
    trans: MacTrans,
    check_at: Instant,
}

fn system(what: &str, source: io::Error) -> PortError {
    PortError::System {
        what: what.into(),
        source,
    }
}

impl Station {
    /// On an interface of this machine.
    pub(super) fn open(now: Instant, interface: &str) -> Result<Self, PortError> {
        let mut socket = PacketSocket::open(interface)?;
        let (mac, hosts) = socket
            .refresh()
            .map_err(|e| system("read the interface's addresses", e))?;
        let mut trans = MacTrans::new(now, mac);
        socket
            .start(&hosts)
            .map_err(|e| system("take frames from the interface", e))?;
        trans.set_station(mac, hosts);
        Ok(Self {
            socket: socket.watch().map_err(|e| system("watch the interface", e))?,
            trans,
            check_at: now + TAP_CHECK,
        })
    }

    pub(super) fn name(&self) -> &str {
        self.socket.get_ref().name()
    }

    pub(super) fn mac(&self) -> MacAddr {
        self.socket.get_ref().mac()
    }

    /// The kernel does for the card what the card cannot.
    pub(super) fn offloads(&self) -> Offloads {
        Offloads {
            vnet_hdr: true,
            csum: true,
            tso: true,
            uso: true,
            given_up: Vec::new(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.check_at.min(self.trans.poll_timeout())
    }

    /// Looks whether the interface is there and has other addresses than before.
    pub(super) fn handle_timeout(&mut self, now: Instant, dead: &mut Option<String>) {
        self.trans.handle_timeout(now);
        if self.check_at > now {
            return;
        }
        self.check_at = now + TAP_CHECK;
        let before = self.mac();
        match self.socket.get_mut().refresh() {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {
                *dead = Some(format!("the interface was deleted or renamed ({e})"));
            }
            Err(e) => tracing::warn!(interface = self.name(), error = %e, "its addresses cannot be read"),
            Ok((mac, hosts)) if mac != before || hosts != *self.trans.hosts() => {
                if let Err(e) = self.socket.get_ref().set_station(&hosts) {
                    tracing::warn!(interface = self.name(), error = %e, "the filter cannot be renewed");
                }
                self.trans.set_station(mac, hosts);
            }
            Ok(_) => {}
        }
    }

    /// Reads one frame and makes it the LAN's; `None` when none waits, an error when it is not for the LAN.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        buf: &mut [u8],
        dead: &mut Option<String>,
    ) -> Option<Result<(VnetHdr, usize), DropReason>> {
        loop {
            let mut guard = match self.socket.poll_read_ready(cx) {
                Poll::Ready(Ok(guard)) => guard,
                Poll::Ready(Err(e)) => {
                    *dead = Some(e.to_string());
                    return None;
                }
                Poll::Pending => return None,
            };
            match guard.try_io(|s| s.get_ref().read(buf)) {
                Ok(Ok((hdr, n))) => {
                    let done = self.trans.incoming(now, buf.get_mut(..n).unwrap_or_default());
                    return Some(done.map(|()| (hdr, n)));
                }
                // The card is down, or the kernel could not describe a frame: the next event tells.
                Ok(Err(e)) => tracing::debug!(interface = self.name(), error = %e, "no frame could be read"),
                Err(_would_block) => {}
            }
        }
    }

    /// Sends one frame in the station's name.
    pub(super) fn write(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        scratch: &mut Vec<u8>,
        dead: &mut Option<String>,
    ) -> Result<(), DropReason> {
        scratch.clear();
        scratch.extend_from_slice(packet.bytes());
        self.trans.outgoing(now, scratch, packet.csum())?;
        let hdr_len = packet.gso().map_or(0, |(_, _, h)| h.len as u16);
        let offload: Offload = packet.offload();
        let sent = self.socket.get_ref().write(VnetHdr::new(offload, hdr_len), scratch);
        sent.map_err(|e| classify_write(&e, dead))
    }
}
