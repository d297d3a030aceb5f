//! `query`, `futures` and `images`: a question, its answer, and its changes.

use super::verbs::{Done, End, Session};
use crate::{
    api::{Line, QueryRequest, QueryView, routes::Op},
    io::terminal,
    render,
};
use wire::{Fault, FaultKind};

/// `lanline futures`, of all hosts or of those within a round trip, ms.
pub(super) fn futures(max_rtt: Option<u64>) -> String {
    let near = max_rtt.map_or_else(String::new, |ms| format!("WHERE rtt_ms <= {ms} "));
    format!(
        "SELECT name, class, vcpus, mem_mb, count, accel, rtt_ms, host FROM futures {near}\
         ORDER BY rtt_ms IS NULL, rtt_ms, name, host, vcpus, mem_mb"
    )
}
/// `lanline images`.
pub(super) const IMAGES: &str = "SELECT id, name, tag, size, holders, complete FROM images ORDER BY name, tag, id";

/// A question of a verb.
pub(super) fn ask(sql: &str) -> QueryRequest {
    QueryRequest {
        sql: sql.to_owned(),
        ..QueryRequest::default()
    }
}

impl Session {
    /// Asks; prints the answer, or every change of it until Ctrl-C.
    pub(super) async fn query(&self, request: &QueryRequest, follow: bool) -> Done {
        let broken = tokio::sync::Notify::new();
        let mut failed = None;
        let work = self
            .client
            .stream::<_, QueryView>(Op::Query, &[], Some(request), |line| {
                if let Line::Change(c) = line
                    && failed.is_none()
                    && let Err(e) = self.tell(&c)
                {
                    failed = Some(e);
                    broken.notify_one();
                }
            });
        let view = tokio::select! {
            view = work => view?,
            () = broken.notified() => return Err(failed.unwrap_or_else(|| Fault::new(FaultKind::Failed, "the answer cannot be written")).into()),
            Ok(()) = tokio::signal::ctrl_c() => {
                return match follow {
                    true => Ok(()),
                    false => Err(End::Interrupted("no longer waiting for the answer".into())),
                };
            }
        };
        match follow {
            true => Ok(()),
            false => self.show(&view),
        }
    }

    fn tell(&self, change: &crate::api::ChangeLine) -> Result<(), Fault> {
        let text = match self.json {
            false => render::change(change, &self.out),
            true => serde_json::to_string(change)
                .map(|s| s + "\n")
                .map_err(|e| Fault::new(FaultKind::Failed, format!("the answer cannot be written as JSON: {e}")))?,
        };
        terminal::answer(text.as_bytes())
    }
}
