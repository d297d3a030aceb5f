//! Questions to relays and to far ends.

use crate::{
    defaults,
    io::{overlay::Overlay, relayed::Relayed},
    relay::{Account, Ask, ChannelEnds},
};
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wire::{
    NodeId, codec,
    relay::{
        EndCall, EndReply, MAX_END_BYTES, MAX_REPLY_BYTES, Opened, RELAY_END_PROTOCOL, RELAY_PROTOCOL, RelayCall,
        RelayRefusal, RelayReply,
    },
};

pub(super) fn seconds(d: Duration) -> u32 {
    u32::try_from(d.as_secs()).unwrap_or(u32::MAX)
}

pub(super) fn wall() -> Duration {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default()
}

pub(super) fn answer<T: Serialize>(reply: oneshot::Sender<Vec<u8>>, said: &T) {
    // An error means that nobody waits any more. Encoding plain data does not fail.
    let _ = reply.send(codec::encode(said).unwrap_or_default());
}

pub(super) async fn call_relay(overlay: &Overlay, relay: NodeId, call: &RelayCall) -> Result<RelayReply, &'static str> {
    let body = codec::encode(call).map_err(|_| "the call could not be encoded")?;
    let reply = overlay
        .request(relay, RELAY_PROTOCOL, body, defaults::RELAY_ANSWER)
        .await;
    let reply = reply.map_err(|e| {
        tracing::debug!(?relay, error = %e, "the relay does not answer");
        "no answer"
    })?;
    codec::decode(&reply, MAX_REPLY_BYTES).map_err(|_| "an answer of another version")
}

/// Tells a relay that a channel is over.
pub(super) fn close(overlay: Overlay, relay: NodeId, channel: u64) {
    tokio::spawn(async move {
        let answer = call_relay(&overlay, relay, &RelayCall::Close { channel }).await;
        tracing::debug!(?relay, ?answer, "channel closed");
    });
}

pub(super) async fn open(overlay: &Overlay, relay: NodeId, call: &RelayCall) -> Result<Opened, &'static str> {
    match call_relay(overlay, relay, call).await? {
        RelayReply::Opened(opened) => Ok(opened),
        RelayReply::Refused(why) => Err(why.name()),
        _ => Err("an answer to something else"),
    }
}

/// The far end is connected here: it is told and asked.
pub(super) async fn open_to_end(
    overlay: &Overlay,
    relayed: &Relayed,
    now: Instant,
    ask: &Ask,
    account: Account,
    near: u64,
) -> Result<(), RelayRefusal> {
    let far = rand::random();
    relayed
        .relay()
        .open(now, ask, ask.to, account, ChannelEnds { near, far })?;
    let call = EndCall::Incoming {
        from: ask.origin,
        channel: far,
    };
    let body = codec::encode(&call).unwrap_or_default();
    let said = overlay
        .request(ask.to, RELAY_END_PROTOCOL, body, defaults::RELAY_ANSWER)
        .await;
    match said.map(|b| codec::decode::<EndReply>(&b, MAX_END_BYTES)) {
        Ok(Ok(EndReply::Taken)) => Ok(()),
        Ok(_) | Err(_) => {
            let _ = relayed.relay().close(ask.asker, near);
            Err(RelayRefusal::EndRefuses)
        }
    }
}

/// The far end is not connected here: other relays are asked, one after another.
pub(super) async fn open_to_relay(
    overlay: &Overlay,
    relayed: &Relayed,
    now: Instant,
    ask: &Ask,
    account: Account,
    near: u64,
    relays: Vec<NodeId>,
) -> Result<(), RelayRefusal> {
    for relay in relays {
        let call = RelayCall::Open {
            to: ask.to,
            origin: Some(ask.origin),
            hops: ask.hops - 1,
            voucher: None,
        };
        let Ok(opened) = open(overlay, relay, &call).await else {
            continue;
        };
        let far = opened.channel;
        // A number that is taken here is a relay's mistake or its try to take over a channel.
        if relayed.ends().contains_key(&far) {
            continue;
        }
        return relayed
            .relay()
            .open(now, ask, relay, account, ChannelEnds { near, far });
    }
    Err(RelayRefusal::NoWay)
}
