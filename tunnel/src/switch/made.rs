//! Frames that the switch itself makes: answers, announcements, probes.

use super::{Egress, PortId, Switch};
use crate::{DropReason, defaults::MADE_FRAMES};
use bytes::Bytes;
use wire::NodeId;

/// Where a made frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One port here, if it carries frames.
    Port(PortId),
    /// One port here, whatever it carries: only what takes it for a loop or a twin may say anything there.
    Probe(PortId),
    /// One member.
    Link(NodeId),
    /// Every port here.
    Ports,
    /// Every member with a link.
    Links,
}

/// A frame that the switch made. It is whole: no segmentation and no checksum is left to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Where it goes; it passes no stage of the switch on its way.
    pub to: Target,
    /// Its bytes, from the destination address to the end of the payload, at most what fits the LAN's MTU.
    pub frame: Bytes,
}

impl Switch {
    /// Queues a frame for [`Switch::poll_made`]. Beyond [`MADE_FRAMES`] it is dropped by name.
    pub(super) fn make(&mut self, to: Target, frame: Bytes) {
        if self.made.len() >= MADE_FRAMES {
            return self.drops.count(DropReason::MadeOverflow);
        }
        self.made.push_back(Made { to, frame });
    }

    /// Is it a port that lets frames out and in?
    pub(super) fn carries(&self, port: PortId) -> bool {
        self.ports.contains_key(&port) && self.guard.blocks(port).is_none()
    }

    /// The next frame that a timer, an advert or a command made. Drain it after every call.
    pub fn poll_made(&mut self) -> Option<Made> {
        self.made.pop_front()
    }

    /// Replaces `out` by the ports and members that a made frame reaches now. What is no port and no member any more
    /// gets nothing, and neither does a port that carries nothing: what is put on a loop there comes back by another port.
    pub fn resolve(&self, to: Target, out: &mut Egress) {
        out.clear();
        match to {
            Target::Probe(port) => out.ports.extend(self.ports.contains_key(&port).then_some(port)),
            Target::Port(port) => out.ports.extend(self.carries(port).then_some(port)),
            Target::Ports => out.ports.extend(self.ports.keys().filter(|p| self.carries(**p))),
            Target::Link(peer) => {
                let reached = self.members.contains(&peer) && self.links.contains(&peer);
                out.links.extend(reached.then_some(peer));
            }
            Target::Links => out.links.extend(self.members.intersection(&self.links)),
        }
    }
}
