//! The task: drains the engine, carries out what it wants, sleeps until its next timer.

use super::{DiscoveryEvent, Network, Shared, floor, wall};
use crate::engine::{Event, Token, Transmit};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{debug, trace, warn};
use wire::NodeId;

/// Connected peers are looked at this often, and whenever the node says that they changed.
const NEIGHBOURS_EVERY: Duration = Duration::from_secs(1);
/// A call or look-up may overrun its deadline by this before it is cut off here.
const SLACK: Duration = Duration::from_millis(250);

/// What a finished job hands back to the engine.
enum Done {
    Reply(Token, Option<Vec<u8>>),
    Persisted(u64, Result<(), String>),
    Neighbours(Vec<(NodeId, Option<Duration>)>),
}

pub(super) async fn run(
    shared: Arc<Shared>,
    network: Arc<dyn Network>,
    floor_file: PathBuf,
    events: mpsc::Sender<DiscoveryEvent>,
) {
    let mut jobs: JoinSet<Done> = JoinSet::new();
    let mut look = tokio::time::interval(NEIGHBOURS_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looking = false;
    loop {
        let Some((work, news, wake_at)) = step(&shared) else {
            return;
        };
        for transmit in work {
            spawn(&mut jobs, &network, &floor_file, transmit);
        }
        for event in news {
            tell(&events, event);
        }
        let sleep = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let mut want_look = false;
        tokio::select! {
            () = sleep => shared.lock().engine.handle_timeout(Instant::now(), wall()),
            () = shared.wake.notified() => {}
            _ = look.tick() => want_look = true,
            () = shared.look.notified() => want_look = true,
            Some(done) = jobs.join_next(), if !jobs.is_empty() => {
                if let Ok(done) = done {
                    looking &= !matches!(done, Done::Neighbours(_));
                    finish(&shared, &events, done);
                }
            }
        }
        if want_look && !looking {
            looking = true;
            let network = network.clone();
            jobs.spawn(async move { Done::Neighbours(network.connected().await) });
        }
    }
}

type Step = (Vec<Transmit>, Vec<Event>, Option<Instant>);

/// Drains the engine; answers of finds go to their callers at once. `None` once shut down.
fn step(shared: &Shared) -> Option<Step> {
    let mut inner = shared.lock();
    if inner.ended {
        inner.waiting.clear();
        return None;
    }
    let work: Vec<Transmit> = std::iter::from_fn(|| inner.engine.poll_transmit()).collect();
    let mut news = Vec::new();
    while let Some(event) = inner.engine.poll_event() {
        match event {
            Event::Answer(id, answer) => {
                debug!(
                    rows = answer.rows.len(),
                    asked = answer.asked,
                    answered = answer.answered,
                    "find answered"
                );
                if let Some(caller) = inner.waiting.remove(&id) {
                    // A caller that went away in this moment needs no answer.
                    let _ = caller.send(answer);
                }
            }
            event => news.push(event),
        }
    }
    if inner.engine.is_settled() {
        shared.settled.notify_one();
    }
    let next = inner.engine.poll_timeout();
    if let Some((_, reason)) = next {
        trace!(?reason, "next timer");
    }
    Some((work, news, next.map(|(at, _)| at)))
}

fn tell(events: &mpsc::Sender<DiscoveryEvent>, event: Event) {
    let event = match event {
        Event::Changed(row) => DiscoveryEvent::Changed(row),
        Event::Gone { node, slot, why } => DiscoveryEvent::Gone { node, slot, why },
        Event::Answer(..) => return,
    };
    if events.try_send(event).is_err() {
        debug!("an advert's change was not told: the node does not take events");
    }
}

fn spawn(jobs: &mut JoinSet<Done>, network: &Arc<dyn Network>, floor_file: &Path, transmit: Transmit) {
    let network = network.clone();
    match transmit {
        Transmit::Call {
            token,
            to,
            addrs,
            bytes,
            within,
        } => {
            jobs.spawn(async move {
                let reply = tokio::time::timeout(within + SLACK, network.call(to, addrs, bytes, within)).await;
                let reply = reply.unwrap_or_else(|_| Err("overdue".into()));
                let reply = reply.inspect_err(|why| debug!(peer = ?to, why, "index call failed"));
                Done::Reply(token, reply.ok())
            });
        }
        Transmit::Persist { floor } => {
            let path = floor_file.to_path_buf();
            jobs.spawn(async move {
                let written = tokio::task::spawn_blocking(move || floor::write(&path, floor)).await;
                let written = match written {
                    Ok(result) => result.map_err(|e| e.to_string()),
                    Err(_) => Err("the runtime is shutting down".to_owned()),
                };
                Done::Persisted(floor, written)
            });
        }
    }
}

fn finish(shared: &Shared, events: &mpsc::Sender<DiscoveryEvent>, done: Done) {
    let now = Instant::now();
    let mut inner = shared.lock();
    match done {
        Done::Reply(token, reply) => inner.engine.handle_reply(now, wall(), token, reply.as_deref()),
        Done::Neighbours(peers) => inner.engine.handle_neighbours(now, wall(), &peers),
        Done::Persisted(floor, written) => {
            inner.engine.handle_persisted(now, wall(), floor, written.is_ok());
            if let Err(why) = written {
                warn!(why, "cannot publish: the sequence floor was not written");
                // A node that does not take events has the warning in its log.
                let _ = events.try_send(DiscoveryEvent::CannotPublish(why));
            }
        }
    }
}
