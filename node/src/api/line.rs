//! The event stream of long work: what the CLI draws as a bar, and what any other client may read line by line.

use crate::defaults::PROGRESS_QUEUE;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use wire::Fault;

/// What `done` and `total` of a progress line count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes.
    #[default]
    Bytes,
    /// Pieces of an image, 64 KiB each.
    Pieces,
    /// Things, for example hosts that answered.
    Count,
    /// Milliseconds waited, of the most that will be waited.
    Millis,
}

/// How far a piece of work is. A later line of the same `what` replaces an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProgressLine {
    /// What is being done, a verb and its object: `fetching debian:12`.
    pub what: String,
    /// Done so far, in `unit`.
    pub done: u64,
    /// All there is to do, in `unit`; `null` while it is not known.
    pub total: Option<u64>,
    /// What the two count.
    pub unit: Unit,
    /// Units a second, over the last seconds; `null` where a rate says nothing.
    pub rate: Option<u64>,
    /// Peers that deliver now; `null` where there are none to count.
    pub peers: Option<u32>,
    /// Time left, milliseconds; `null` while it cannot be told.
    pub eta_ms: Option<u64>,
    /// One more thing a person would want to know while waiting.
    pub note: Option<String>,
}

/// Something is behind us: shown as a line with a check mark, and kept in the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepLine {
    /// Which step: for `run` one of `host`, `image`, `started`, `address`.
    pub step: String,
    /// When, milliseconds since the work began.
    pub at_ms: u64,
    /// The step in words, with its figures: `chose attic-nuc (12 ms, tcg)`.
    pub note: String,
}

/// One line of a stream. `done` or `fault` is the last one; a stream that ends with neither was cut off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// How far it is.
    Progress(ProgressLine),
    /// A step is behind us.
    Step(StepLine),
    /// The answer of a question that is followed changed. Never dropped: the work waits for the reader.
    Change(super::ChangeLine),
    /// It is done; the result is the document that the same verb prints under `--json`.
    Done {
        /// The result; its schema is named by the operation.
        result: serde_json::Value,
    },
    /// It failed.
    Fault {
        /// What happened, why and what to do.
        #[schemars(with = "super::openapi::FaultSchema")]
        fault: Fault,
    },
}

/// Where long work reports. Cheap to clone; never blocks the work: when nobody reads, a line is dropped, and every
/// fact that matters is in the result too.
#[derive(Clone, Debug)]
pub struct Progress {
    tx: mpsc::Sender<Line>,
}

impl Progress {
    /// A sink and the end that is read, [`PROGRESS_QUEUE`] lines deep.
    pub fn channel() -> (Self, mpsc::Receiver<Line>) {
        let (tx, rx) = mpsc::channel(PROGRESS_QUEUE);
        (Self { tx }, rx)
    }

    /// A sink that nobody reads, for work that nobody waits for.
    pub fn nobody() -> Self {
        Self::channel().0
    }

    /// How far it is.
    pub fn progress(&self, line: ProgressLine) {
        self.offer(Line::Progress(line));
    }

    /// A step is behind us, `at_ms` after the work began.
    pub fn step(&self, step: impl Into<String>, at_ms: u64, note: impl Into<String>) {
        self.offer(Line::Step(StepLine {
            step: step.into(),
            at_ms,
            note: note.into(),
        }));
    }

    /// What must not be lost; waits until there is room. False if nobody reads any more.
    pub async fn tell(&self, line: Line) -> bool {
        self.tx.send(line).await.is_ok()
    }

    /// What is being waited for, when there is nothing to count.
    pub fn waiting(&self, what: impl Into<String>) {
        self.progress(ProgressLine {
            what: what.into(),
            unit: Unit::Count,
            ..ProgressLine::default()
        });
    }

    /// Ends when the reader has gone, for work that should stop with it.
    pub async fn reader_gone(&self) {
        self.tx.closed().await;
    }

    /// The last line; waits until there is room for it, or nobody reads.
    pub(crate) async fn end(self, line: Line) {
        if self.tx.send(line).await.is_err() {
            tracing::debug!("long work ended and nobody waits for it");
        }
    }

    fn offer(&self, line: Line) {
        if let Err(mpsc::error::TrySendError::Full(line)) = self.tx.try_send(line) {
            tracing::trace!(?line, "progress line dropped: the reader is slower than the work");
        }
    }
}
