//! From a request to its input, and from a result to bytes: JSON, NDJSON, text, raw.

use super::App;
use crate::{
    api::{
        Answer, Line, Progress, Service,
        routes::{MAX_BYTES, ON_DISCONNECT, Op},
    },
    defaults,
};
use axum::{
    body::{Body, Bytes},
    extract::{Query, Request},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{Semaphore, mpsc};
use wire::{Fault, FaultKind};

/// A request, read whole.
pub(super) struct Input {
    /// The parameter of the path; empty where the path has none.
    pub subject: String,
    query: BTreeMap<String, String>,
    body: Bytes,
}

impl Input {
    /// Reads at most [`defaults::MAX_BODY`].
    pub async fn read(subject: String, req: Request) -> Result<Self, Fault> {
        let usage = |what: String| Fault::new(FaultKind::Usage, what);
        let query = Query::<BTreeMap<String, String>>::try_from_uri(req.uri())
            .map_err(|e| usage(format!("the query of this request: {e}")))?
            .0;
        let body = axum::body::to_bytes(req.into_body(), defaults::MAX_BODY)
            .await
            .map_err(|e| {
                usage(format!(
                    "the body of this request (at most {} bytes): {e}",
                    defaults::MAX_BODY
                ))
            })?;
        Ok(Self { subject, query, body })
    }

    /// The body as a document; an empty body is `{}`.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        let bytes: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        serde_json::from_slice(bytes).map_err(|e| {
            Fault::new(FaultKind::Usage, format!("the body of this request: {e}"))
                .next("GET /openapi.json has the schema of every body")
        })
    }

    /// Refuses query parameters other than `known`.
    pub fn only(&self, known: &[&str]) -> Result<(), Fault> {
        match self.query.keys().find(|k| !known.contains(&k.as_str())) {
            Some(k) => Err(Fault::new(
                FaultKind::Usage,
                format!("no query parameter '{k}' is known here"),
            )),
            None => Ok(()),
        }
    }

    /// How many bytes of logs.
    pub fn max_bytes(&self) -> Result<u64, Fault> {
        match self.query.get(MAX_BYTES) {
            None => Ok(defaults::LOG_BYTES),
            Some(v) => match v.parse() {
                Ok(n @ 1..=defaults::MAX_LOG_BYTES) => Ok(n),
                _ => {
                    let what = format!("{MAX_BYTES} is 1 to {}, not '{v}'", defaults::MAX_LOG_BYTES);
                    Err(Fault::new(FaultKind::Usage, what))
                }
            },
        }
    }

    /// A parameter that is `true` or `false`; `false` without one.
    pub fn flag(&self, name: &str) -> Result<bool, Fault> {
        match self.query.get(name).map(String::as_str) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(v) => Err(Fault::new(
                FaultKind::Usage,
                format!("{name} is 'true' or 'false', not '{v}'"),
            )),
        }
    }

    fn cancel_with_reader(&self) -> Result<bool, Fault> {
        match self.query.get(ON_DISCONNECT).map(String::as_str) {
            None | Some("continue") => Ok(false),
            Some("cancel") => Ok(true),
            Some(v) => Err(Fault::new(
                FaultKind::Usage,
                format!("{ON_DISCONNECT} is 'continue' or 'cancel', not '{v}'"),
            )),
        }
    }
}

fn respond(status: StatusCode, kind: &'static str, body: Body) -> Response {
    let mut r = Response::new(body);
    *r.status_mut() = status;
    r.headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    r
}

/// One JSON document.
pub(super) fn json<T: Serialize>(value: &T) -> Result<Response, Fault> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| Fault::new(FaultKind::Failed, format!("the answer cannot be written as JSON: {e}")))?;
    Ok(respond(StatusCode::OK, "application/json", bytes.into()))
}

/// OpenMetrics text. <https://prometheus.io/docs/specs/om/open_metrics_spec/>
pub(super) fn metrics(text: String) -> Response {
    respond(
        StatusCode::OK,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        text.into(),
    )
}

/// A capture: its bytes as they come, for as long as somebody reads them.
pub(super) async fn capture(app: &Arc<App>, input: Input) -> Result<Response, Fault> {
    let turn = turn(&app.streams, "long operations", defaults::MAX_STREAMS)?;
    let request = input.body()?;
    let capture = app.service.lan_capture(input.subject, request).await?;
    let bytes = capture.map(move |part| {
        let _held_until_the_end = &turn;
        Ok::<_, std::convert::Infallible>(part)
    });
    Ok(respond(
        StatusCode::OK,
        "application/x-pcapng",
        Body::from_stream(bytes),
    ))
}

/// A failure, with the HTTP status of its kind or a nearer one.
pub(super) fn fault_answer(fault: &Fault, status: Option<StatusCode>) -> Response {
    let by_kind = match fault.kind {
        FaultKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        FaultKind::Usage => StatusCode::BAD_REQUEST,
        FaultKind::Refused => StatusCode::FORBIDDEN,
        FaultKind::NoMatch => StatusCode::NOT_FOUND,
        FaultKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        FaultKind::Unreachable => StatusCode::BAD_GATEWAY,
        FaultKind::Missing => StatusCode::NOT_IMPLEMENTED,
    };
    let body = serde_json::json!({ "fault": fault }).to_string();
    respond(status.unwrap_or(by_kind), "application/json", body.into())
}

fn busy(what: &str, most: usize) -> Fault {
    Fault::new(
        FaultKind::Refused,
        format!("{most} {what} are under way on this node, no more are begun"),
    )
    .next("wait for one to end")
}

fn turn(of: &Arc<Semaphore>, what: &str, most: usize) -> Result<tokio::sync::OwnedSemaphorePermit, Fault> {
    of.clone().try_acquire_owned().map_err(|_| busy(what, most))
}

/// Long work: begins it as a task of the node and answers with its lines.
pub(super) fn stream<T, W>(app: &Arc<App>, input: &Input, work: W) -> Result<Response, Fault>
where
    T: Serialize + Send + 'static,
    W: for<'a> FnOnce(&'a dyn Service, Progress) -> Answer<'a, T> + Send + 'static,
{
    let cancel = input.cancel_with_reader()?;
    let turn = turn(&app.streams, "long operations", defaults::MAX_STREAMS)?;
    let (progress, lines) = Progress::channel();
    let app = app.clone();
    tokio::spawn(async move {
        let end = {
            let reader = progress.clone();
            tokio::select! {
                end = work(&*app.service, progress.clone()) => end,
                () = app.stop.cancelled() => Err(ending()),
                () = reader.reader_gone(), if cancel => return tracing::info!("long work was cancelled with its reader"),
            }
        };
        drop(turn);
        let last = end.and_then(|v| {
            let what = |e| Fault::new(FaultKind::Failed, format!("the result cannot be written as JSON: {e}"));
            serde_json::to_value(&v)
                .map(|result| Line::Done { result })
                .map_err(what)
        });
        progress.end(last.unwrap_or_else(|fault| Line::Fault { fault })).await;
    });
    Ok(respond(
        StatusCode::OK,
        "application/x-ndjson",
        Body::from_stream(ndjson(lines)),
    ))
}

fn ending() -> Fault {
    Fault::new(FaultKind::Failed, "the node was asked to end while this was under way")
        .next("start the node again, then repeat it: lanline up")
}

fn ndjson(lines: mpsc::Receiver<Line>) -> impl futures::Stream<Item = Result<Bytes, serde_json::Error>> {
    futures::stream::unfold(Some(lines), |lines| async {
        let mut lines = lines?;
        let line = lines.recv().await?;
        let last = matches!(line, Line::Done { .. } | Line::Fault { .. });
        let bytes = serde_json::to_vec(&line).map(|mut b| {
            b.push(b'\n');
            Bytes::from(b)
        });
        Some((bytes, (!last).then_some(lines)))
    })
}

/// A console or a display: raw bytes both ways until either side ends or the node does.
pub(super) async fn console(app: &Arc<App>, op: Op, guest: String, mut req: Request) -> Result<Response, Fault> {
    let asked = req
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|v| v.as_bytes() == CONSOLE_UPGRADE.as_bytes());
    if !asked {
        let what = format!("a console is raw bytes: send 'Connection: upgrade' and 'Upgrade: {CONSOLE_UPGRADE}'");
        return Ok(fault_answer(
            &Fault::new(FaultKind::Usage, what),
            Some(StatusCode::UPGRADE_REQUIRED),
        ));
    }
    let turn = turn(&app.consoles, "consoles", defaults::MAX_CONSOLES)?;
    let guest = match op {
        Op::Display => app.service.display(guest).await?,
        _ => app.service.console(guest).await?,
    };
    let upgrade = hyper::upgrade::on(&mut req);
    let stop = app.stop.clone();
    tokio::spawn(async move {
        let _turn = turn;
        let client = match upgrade.await {
            Ok(io) => hyper_util::rt::TokioIo::new(io),
            Err(e) => return tracing::debug!(error = %e, "the client left before the console began"),
        };
        let (mut from_client, mut to_client) = tokio::io::split(client);
        let (mut from_guest, mut to_guest) = tokio::io::split(guest);
        let end = tokio::select! {
            end = tokio::io::copy(&mut from_guest, &mut to_client) => end,
            end = tokio::io::copy(&mut from_client, &mut to_guest) => end,
            () = stop.cancelled() => Ok(0),
        };
        if let Err(e) = end {
            tracing::debug!(error = %e, "a console ended");
        }
        // The reader of the other side sees an end, not a reset.
        if let Err(e) = tokio::io::AsyncWriteExt::shutdown(&mut to_client).await {
            tracing::trace!(error = %e, "the client had left");
        }
    });
    let mut r = Response::new(Body::empty());
    *r.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    r.headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    r.headers_mut()
        .insert(header::UPGRADE, HeaderValue::from_static(CONSOLE_UPGRADE));
    Ok(r)
}

/// Name of the protocol that a console switches to.
pub const CONSOLE_UPGRADE: &str = "lanline-console";
