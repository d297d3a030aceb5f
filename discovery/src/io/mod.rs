//! The shell around [`crate::engine::Engine`]: a task that carries out its calls, and the handle that the node uses.
//!
//! What it does not do: it listens nowhere. The node passes calls on `/lanline/index/2` to [`Discovery::handle_call`].

#![expect(
    clippy::disallowed_methods,
    reason = "this module is the crate's I/O: it reads the clocks, seeds choices from the system's entropy, runs tasks, and writes the sequence floor's file"
)]

mod floor;
mod over_overlay;
pub mod sensors;
pub mod sql;
mod task;

use crate::{
    defaults::EVENTS,
    engine::{Busy, Ended, Engine, FindId, Stats},
    publisher::PublishError,
    query::{Answer, Query, Row},
};
pub use floor::FloorError;
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{Notify, mpsc, oneshot};
use wire::{
    Name, NodeId, NodeKey, UnixMillis,
    advert::{Body, Slot},
};

/// What discovery needs of the mesh. `overlay::io::Overlay` implements it.
pub trait Network: Send + Sync + 'static {
    /// This node.
    fn node_id(&self) -> NodeId;
    /// One call on `/lanline/index/2` and its reply; connects if need be, by what is known and by `addrs`, which others
    /// said and which may be anything. The error is for the log.
    fn call(
        &self,
        peer: NodeId,
        addrs: Vec<String>,
        body: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, String>>;
    /// The connected peers, with round trips where measured.
    fn connected(&self) -> BoxFuture<'_, Vec<(NodeId, Option<Duration>)>>;
}

/// News for the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoveryEvent {
    /// An advert is new, or says something new; this node's own included.
    Changed(Box<Row>),
    /// A node no longer says anything about a subject.
    Gone {
        /// The node.
        node: NodeId,
        /// The subject.
        slot: Slot,
        /// Why.
        why: Ended,
    },
    /// The sequence floor cannot be written, so nothing new is published until it can; tried again by itself.
    CannotPublish(String),
}

/// Why a find has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// Too many finds at once.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The task is gone.
    #[error("discovery has ended on this node")]
    Ended,
}

/// Engine and waiting finds, behind one lock that is never held across an await.
pub(crate) struct Shared {
    engine: Mutex<Inner>,
    wake: Notify,
    look: Notify,
    settled: Notify,
}

pub(crate) struct Inner {
    engine: Engine,
    waiting: BTreeMap<FindId, oneshot::Sender<Answer>>,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wall clock now.
pub(crate) fn wall() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Discovery of this node. Clones are handles on the same; the task ends with [`Discovery::shutdown`].
#[derive(Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
}

impl Discovery {
    /// Starts the task on `rt`. `seq_floor_file` keeps sequence numbers rising over restarts; its folder must exist.
    pub fn start(
        rt: &tokio::runtime::Handle,
        network: Arc<dyn Network>,
        key: NodeKey,
        seq_floor_file: PathBuf,
    ) -> Result<(Self, mpsc::Receiver<DiscoveryEvent>), FloorError> {
        let floor = floor::read(&seq_floor_file)?;
        let engine = Engine::new(Instant::now(), key, floor, rand::random());
        let inner = Inner {
            engine,
            waiting: BTreeMap::new(),
            ended: false,
        };
        let shared = Arc::new(Shared {
            engine: Mutex::new(inner),
            wake: Notify::new(),
            look: Notify::new(),
            settled: Notify::new(),
        });
        let (events, receiver) = mpsc::channel(EVENTS);
        rt.spawn(task::run(shared.clone(), network, seq_floor_file, events));
        Ok((Self { shared }, receiver))
    }

    /// The node's name in all its adverts, and the addresses in its host advert.
    pub fn set_profile(&self, name: Option<Name>, addrs: Vec<String>) {
        self.shared
            .lock()
            .engine
            .set_profile(Instant::now(), wall(), name, addrs);
        self.shared.wake.notify_one();
    }

    /// Says `body` about `slot` from now on: pushed at once, renewed by itself, until [`Discovery::withdraw`]. Saying the
    /// same again does nothing, so it may be called as often as figures are read.
    pub fn publish(&self, slot: Slot, body: Body) -> Result<(), PublishError> {
        let mut inner = self.shared.lock();
        if inner.ended {
            return Err(PublishError::Ended);
        }
        inner.engine.publish(Instant::now(), wall(), slot, body)?;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Ends what was said about a subject, everywhere.
    pub fn withdraw(&self, slot: Slot) {
        self.shared.lock().engine.withdraw(Instant::now(), wall(), slot);
        self.shared.wake.notify_one();
    }

    /// Asks the mesh. Fetching takes at most 70 % of `deadline` (10 ms to 10 s); the answer says how complete it is.
    /// A [`wire::advert::Namespace`] alone asks for all of it. Dropping the future ends the find.
    pub async fn find(&self, query: impl Into<Query>, deadline: Duration) -> Result<Answer, FindError> {
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut inner = self.shared.lock();
            if inner.ended {
                return Err(FindError::Ended);
            }
            let id = inner.engine.find(Instant::now(), wall(), query.into(), deadline)?;
            inner.waiting.insert(id, sender);
            id
        };
        let guard = CancelOnDrop {
            shared: &self.shared,
            id,
        };
        self.shared.wake.notify_one();
        let answer = receiver.await.map_err(|_| FindError::Ended);
        drop(guard);
        answer
    }

    /// Answers a call of `peer` on `/lanline/index/2`. Never waits; takes a few milliseconds at the most.
    pub fn handle_call(&self, peer: NodeId, bytes: &[u8]) -> Vec<u8> {
        let reply = self
            .shared
            .lock()
            .engine
            .handle_call(Instant::now(), wall(), peer, bytes);
        self.shared.wake.notify_one();
        reply
    }

    /// Peers connected or disconnected: look now instead of within a second.
    pub fn neighbours_changed(&self) {
        self.shared.look.notify_one();
    }

    /// This node slept, or its own addresses changed: it looks around anew at once.
    pub fn rejoin(&self) {
        self.shared.lock().engine.rejoin(Instant::now());
        self.shared.wake.notify_one();
        self.shared.look.notify_one();
    }

    /// Everything that this node holds and that is alive, nearest first.
    pub fn snapshot(&self) -> Vec<Row> {
        self.shared.lock().engine.snapshot(Instant::now())
    }

    /// Figures for `status` and metrics.
    pub fn stats(&self) -> Stats {
        self.shared.lock().engine.stats()
    }

    /// Withdraws everything, waits until those told have answered or `deadline` has passed, and ends the task. True if
    /// everybody was told.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.shared.lock().engine.withdraw_all(Instant::now(), wall());
        self.shared.wake.notify_one();
        let settled = tokio::time::timeout(deadline, async {
            while !self.shared.lock().engine.is_settled() {
                self.shared.settled.notified().await;
            }
        });
        let told = settled.await.is_ok();
        self.shared.lock().ended = true;
        self.shared.wake.notify_one();
        told
    }
}

/// A find whose caller went away is forgotten.
struct CancelOnDrop<'a> {
    shared: &'a Shared,
    id: FindId,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.waiting.remove(&self.id);
        inner.engine.cancel(self.id);
    }
}
