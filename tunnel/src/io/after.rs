//! Frames that are sent after an address which moved: out to its new member, and in from its old one.

use super::fabric::{Fabric, ToLink};
use crate::{DropReason, capture::Way, packet::Packet, switch::Ingress, unpack::Received};
use std::time::Instant;
use wire::{NodeId, frame::LanTag};

impl Fabric {
    /// The tag of the LAN here to which a datagram belongs, whether its frames are sent after an address or not.
    pub(super) fn lan_of(&self, tag: LanTag) -> Option<LanTag> {
        [tag, tag.forwarded()].into_iter().find(|t| self.lans.contains_key(t))
    }

    /// A frame that came over a link under the tag for forwarded frames: it goes to a port or nowhere.
    #[cold]
    pub(super) fn deliver_forwarded(&mut self, now: Instant, from: NodeId, rx: Received<'_>) {
        let tag = rx.tag.forwarded();
        let Some(lan) = self.lans.get_mut(&tag) else { return };
        lan.traffic.entry(from).or_default().received(rx.bytes.len());
        let packet = match Packet::check(rx.bytes, rx.offload) {
            Ok(p) => p,
            Err(why) => {
                lan.switch.drops_mut().count(why);
                return self.recorder.refused(now, tag, Ingress::Link(from), rx.bytes, why);
            }
        };
        let decided = lan.switch.handle_forwarded(now, from, &packet);
        let at = (Ingress::Link(from), Way::In);
        self.recorder.packet(now, tag, at, &packet, decided.map(drop));
        if let Ok(port) = decided {
            self.write_to(now, tag, port, &packet);
        }
    }

    /// Gives what is to be sent after addresses that moved to `to_link`.
    pub(super) fn deliver_forwards(&mut self, now: Instant, to_link: &mut ToLink<'_>) {
        for (tag, lan) in &mut self.lans {
            while let Some(f) = lan.switch.poll_forward() {
                let packet = match Packet::check(&f.frame, f.offload) {
                    Ok(p) => p,
                    Err(why) => {
                        lan.switch.drops_mut().count(why);
                        continue;
                    }
                };
                let sent: Result<(), DropReason> = to_link(f.to, tag.forwarded(), &packet);
                if sent.is_ok() {
                    lan.traffic.entry(f.to).or_default().sent(packet.bytes().len());
                }
                let at = (Ingress::Link(f.to), Way::Out);
                self.recorder.packet(now, *tag, at, &packet, sent);
            }
        }
    }
}
