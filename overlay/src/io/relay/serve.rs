//! What others ask: whoever wants to be carried, and relays that bring somebody.

use super::{
    Look, Relaying,
    calls::{answer, open_to_end, open_to_relay, seconds, wall},
};
use crate::{
    defaults,
    io::{Inbound, overlay::Overlay},
    relay::Ask,
};
use std::time::Instant;
use tokio::sync::oneshot;
use wire::{
    NodeId, Signed, UnixMillis, codec,
    relay::{
        EndCall, EndReply, MAX_CALL_BYTES, MAX_END_BYTES, Opened, RELAY_END_PROTOCOL, RelayCall, RelayRefusal,
        RelayReply, Voucher,
    },
};

impl Relaying {
    /// A relay speaks to the far end, or to one that asked.
    pub(super) fn on_end_call(&mut self, call: Inbound) {
        let (now, relay) = (Instant::now(), call.peer);
        let reply = match codec::decode::<EndCall>(&call.body, MAX_END_BYTES) {
            Ok(EndCall::Incoming { from, channel }) if self.takes(relay, from) => {
                let taken = self.begin(now, (from, relay), channel, false);
                if taken {
                    self.port.sealed.relayed.wanted().handle_opened(now, from, relay, false);
                }
                if taken { EndReply::Taken } else { EndReply::Refused }
            }
            Ok(EndCall::Incoming { .. }) | Err(_) => EndReply::Refused,
            Ok(EndCall::Closed { channel }) => {
                if let Some(pair) = self.channels.handle_closed(relay, channel) {
                    self.end(now, pair, false);
                } else {
                    let other = self.port.sealed.relayed.relay().close(relay, channel);
                    self.port
                        .sealed
                        .relayed
                        .tell(other.ok().flatten().into_iter().collect());
                }
                EndReply::Taken
            }
        };
        answer(call.reply, &reply);
    }

    /// Whether a node may come to this one through a relay.
    fn takes(&self, relay: NodeId, from: NodeId) -> bool {
        if !self.channels.takes((from, relay)) {
            return false;
        }
        let stranger = |n: &NodeId| !self.port.is_member(*n);
        let strangers = self.ends.keys().filter(|(peer, _)| stranger(peer)).count();
        from != self.port.me
            && from != relay
            && !self.port.is_blocked(from)
            && !self.port.is_blocked(relay)
            && (!stranger(&from) || strangers < defaults::RELAY_STRANGER_ENDS)
    }

    /// Somebody asks this node to relay.
    pub(super) fn on_call(&mut self, call: Inbound) {
        let (now, asker) = (Instant::now(), call.peer);
        let port = self.port.clone();
        let relayed = &port.sealed.relayed;
        let refused = RelayReply::Refused;
        match codec::decode::<RelayCall>(&call.body, MAX_CALL_BYTES) {
            Ok(RelayCall::Open {
                to,
                origin,
                hops,
                voucher,
            }) => {
                let ask = Ask {
                    asker,
                    origin: origin.unwrap_or(asker),
                    to,
                    hops,
                    voucher: voucher.and_then(|v| self.own_voucher(&v)),
                };
                self.on_open(now, ask, call.reply);
            }
            Ok(RelayCall::Renew { channel }) => {
                let renewed = relayed.relay().renew(now, asker, channel);
                let said = renewed.map_or_else(refused, |d| RelayReply::Renewed(seconds(d)));
                answer(call.reply, &said);
            }
            Ok(RelayCall::Close { channel }) => {
                let closed = relayed.relay().close(asker, channel);
                let said = match closed {
                    Ok(other) => {
                        relayed.tell(other.into_iter().collect());
                        RelayReply::Closed
                    }
                    Err(why) => refused(why),
                };
                answer(call.reply, &said);
            }
            Err(e) => {
                tracing::debug!(?asker, error = %e, "a call to the relay is no such");
                relayed.relay().count("relay_bad_call", 1);
            }
        }
    }

    /// A voucher that this node signed, and that still runs.
    fn own_voucher(&self, v: &Signed<Voucher>) -> Option<Voucher> {
        let v = v.open_as(self.key.public()).ok()?;
        (u128::from(v.expires.0) > wall().as_millis()).then_some(v)
    }

    /// Judges, and on a yes asks whoever is next on the way.
    fn on_open(&mut self, now: Instant, ask: Ask, reply: oneshot::Sender<Vec<u8>>) {
        let refuse = |why| RelayReply::Refused(why);
        let port = self.port.clone();
        let relayed = &port.sealed.relayed;
        let judged = relayed.relay().judge(&ask);
        let account = match judged {
            Ok(a) => a,
            Err(why) => return answer(reply, &refuse(why)),
        };
        let Some(overlay) = self.overlay.get() else { return };
        let direct = |n: &NodeId| self.looks.get(n).is_some_and(|l| l.direct);
        if !direct(&ask.asker) || (!direct(&ask.to) && ask.hops < 2) {
            relayed.relay().count(RelayRefusal::NoWay.name(), 1);
            return answer(reply, &refuse(RelayRefusal::NoWay));
        }
        let next = (!direct(&ask.to)).then(|| self.next_relays(&ask));
        self.need_place(&overlay, ask.asker);
        self.need_place(&overlay, ask.to);
        let voucher = Voucher {
            from: ask.origin,
            to: ask.to,
            tenant: account.tenant,
            bytes_per_s: account.bytes_per_s,
            expires: UnixMillis(u64::try_from((wall() + defaults::RELAY_VOUCHER_FOR).as_millis()).unwrap_or(u64::MAX)),
        };
        let Ok(voucher) = Signed::new(&voucher, &self.key) else {
            return answer(reply, &refuse(RelayRefusal::NotLent));
        };
        let near = rand::random();
        tokio::spawn(async move {
            let relayed = &overlay.port.upgrade()?.sealed.relayed;
            let opened = match next {
                None => open_to_end(&overlay, relayed, now, &ask, account, near).await,
                Some(relays) => open_to_relay(&overlay, relayed, now, &ask, account, near, relays).await,
            };
            let said = match opened {
                Ok(()) => RelayReply::Opened(Opened {
                    channel: near,
                    bytes_per_s: account.bytes_per_s,
                    expires_s: seconds(defaults::RELAY_CHANNEL_FOR),
                    voucher,
                }),
                Err(why) => {
                    relayed.relay().count(why.name(), 1);
                    RelayReply::Refused(why)
                }
            };
            relayed.work.notify_one();
            answer(reply, &said);
            Some(())
        });
    }

    /// Relays that may know the far end, best first.
    fn next_relays(&self, ask: &Ask) -> Vec<NodeId> {
        let fits = |l: &&Look| l.relays && l.direct && ![ask.asker, ask.origin, ask.to].contains(&l.node);
        let mut list: Vec<&Look> = self.looks.values().filter(fits).collect();
        list.sort_by_key(|l| (l.rank, l.rtt.unwrap_or(defaults::RELAY_RTT_UNKNOWN), l.node));
        list.into_iter().map(|l| l.node).take(defaults::RELAY_NEXT).collect()
    }

    /// Tells an end that its channel is gone.
    pub(super) fn tell(&self, overlay: &Overlay, node: NodeId, channel: u64) {
        if !self.looks.contains_key(&node) {
            return;
        }
        let overlay = overlay.clone();
        tokio::spawn(async move {
            let body = codec::encode(&EndCall::Closed { channel }).unwrap_or_default();
            let told = overlay
                .request(node, RELAY_END_PROTOCOL, body, defaults::RELAY_ANSWER)
                .await;
            if let Err(e) = told {
                tracing::debug!(?node, error = %e, "not told that its channel is gone");
            }
        });
    }
}
