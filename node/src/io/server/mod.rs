//! The control API on `control.sock`: HTTP/1 along [`ROUTES`], one handler for all, failures as [`Fault`] documents.
//!
//! What is bounded: a body by [`defaults::MAX_BODY`], requests, streams and consoles at once by their constants. A
//! stream's work belongs to the node, not to the connection: it goes on when its reader leaves, unless that asked with
//! `?on_disconnect=cancel`. Whoever may open the socket may do everything, so its mode is the access control.

mod answer;
mod claim;
mod dispatch;

pub use claim::{Claim, ControlSocket, claim, is_free};

use crate::{
    api::{
        Service,
        routes::{Method, Op, ROUTES},
    },
    defaults,
};
pub use answer::CONSOLE_UPGRADE;

use answer::fault_answer;
use axum::{
    Router,
    extract::{RawPathParams, Request, State},
    http::StatusCode,
    response::Response,
    routing::{MethodFilter, on},
};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wire::{Fault, FaultKind};

/// What handlers share.
pub(super) struct App {
    service: Arc<dyn Service>,
    stop: CancellationToken,
    requests: Semaphore,
    streams: Arc<Semaphore>,
    consoles: Arc<Semaphore>,
}

/// Serves until `stop`, then gives open connections [`defaults::END_GRACE`] to finish, and removes the socket.
///
/// Streams that still run then end with a fault line that says that the node ends.
pub async fn serve(socket: ControlSocket, service: Arc<dyn Service>, stop: CancellationToken) -> Result<(), Fault> {
    let broken = |e: std::io::Error| Fault::new(FaultKind::Failed, format!("the control socket: {e}"));
    let listener = tokio::net::UnixListener::from_std(socket.listener).map_err(broken)?;
    let app = Arc::new(App {
        service,
        stop: stop.clone(),
        requests: Semaphore::new(defaults::MAX_REQUESTS),
        streams: Arc::new(Semaphore::new(defaults::MAX_STREAMS)),
        consoles: Arc::new(Semaphore::new(defaults::MAX_CONSOLES)),
    });
    let serving = axum::serve(listener, router(app)).with_graceful_shutdown(stop.clone().cancelled_owned());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(defaults::END_GRACE).await;
    };
    tokio::select! {
        end = serving => end.map_err(broken)?,
        () = late => tracing::debug!("connections to the control socket were still open"),
    }
    drop(socket.file);
    Ok(())
}

fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let op = route.op;
        let handler = move |State(app): State<Arc<App>>, params: RawPathParams, req: Request| one(app, op, params, req);
        let filter = match route.method {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
            Method::Delete => MethodFilter::DELETE,
        };
        router = router.route(route.path, on(filter, handler));
    }
    let unknown = |what: &'static str, status| {
        let f = Fault::new(FaultKind::Usage, what).next("GET /openapi.json lists every operation");
        async move { fault_answer(&f, Some(status)) }
    };
    router
        .fallback(move || unknown("no operation has this path", StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(move || {
            unknown(
                "no operation has this path with this method",
                StatusCode::METHOD_NOT_ALLOWED,
            )
        })
        .with_state(app)
}

async fn one(app: Arc<App>, op: Op, params: RawPathParams, req: Request) -> Response {
    let subject = params.iter().next().map(|(_, v)| v.to_owned()).unwrap_or_default();
    let answer = match op {
        Op::Console | Op::Display => answer::console(&app, op, subject, req).await,
        _ => match answer::Input::read(subject, req).await {
            Ok(input) => dispatch::dispatch(app, op, input).await,
            Err(e) => Err(e),
        },
    };
    answer.unwrap_or_else(|e| {
        tracing::debug!(?op, kind = ?e.kind, what = %e.what, "a request failed");
        fault_answer(&e, None)
    })
}
