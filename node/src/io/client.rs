//! The control API's client: what the command line and the tests talk to a node with.
//!
//! One connection a request: a unix socket costs nothing, and no state is shared between requests.

use crate::{
    api::{
        Line,
        routes::{self, Op, Route},
    },
    defaults::{self, CONTROL_SOCKET},
    io::server::CONSOLE_UPGRADE,
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};
use wire::{Fault, FaultKind};

/// A node's control socket, not yet opened.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Body of an answer that is not a success.
#[derive(Deserialize)]
struct FaultAnswer {
    fault: Fault,
}

/// Bytes that come in parts; dropping it ends what makes them.
#[derive(Debug)]
pub struct Parts {
    answer: Response<Incoming>,
    client: Client,
}

impl Parts {
    /// The next part; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            match self.answer.body_mut().frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(self.client.cut(&e)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// No body.
pub const EMPTY: Option<&()> = None;

impl Client {
    /// The node of this state folder.
    pub fn new(state: &Path) -> Self {
        Self {
            socket: state.join(CONTROL_SOCKET),
        }
    }

    /// A short operation: fills `args` into its path, sends `body`, reads the document.
    ///
    /// Errors: the node's own fault; `Unreachable` if no node answers; `TimedOut` after [`defaults::CALL_DEADLINE`].
    pub async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        op: Op,
        args: &[&str],
        body: Option<&B>,
    ) -> Result<T, Fault> {
        let bytes = self.bytes(op, args, "", body).await?;
        serde_json::from_slice(&bytes).map_err(|e| self.odd(&e))
    }

    /// As [`Client::call`], with a query (`a=b`), to the bytes of the answer.
    pub async fn bytes<B: Serialize>(
        &self,
        op: Op,
        args: &[&str],
        query: &str,
        body: Option<&B>,
    ) -> Result<Bytes, Fault> {
        let work = async {
            let answer = self.send(op, args, query, body).await?;
            self.read(answer).await
        };
        tokio::time::timeout(defaults::CALL_DEADLINE, work)
            .await
            .unwrap_or_else(|_| {
                let what = format!(
                    "the node at {} did not answer in {} s",
                    self.socket.display(),
                    defaults::CALL_DEADLINE.as_secs()
                );
                Err(Fault::new(FaultKind::TimedOut, what).next("look at its log; end it with: lanline down"))
            })
    }

    /// A long operation: hands each line but the last to `on`, and returns the result.
    ///
    /// Dropping the future leaves the work to the node, which goes on with it.
    pub async fn stream<B: Serialize, T: DeserializeOwned>(
        &self,
        op: Op,
        args: &[&str],
        body: Option<&B>,
        mut on: impl FnMut(Line),
    ) -> Result<T, Fault> {
        let mut answer = self.send(op, args, "", body).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer).await);
        }
        let mut buf = BytesMut::new();
        while let Some(frame) = answer.body_mut().frame().await {
            let frame = frame.map_err(|e| self.cut(&e))?;
            buf.extend_from_slice(frame.data_ref().map_or(&[], |d| d));
            while let Some(end) = buf.iter().position(|b| *b == b'\n') {
                match serde_json::from_slice(&buf.split_to(end + 1)).map_err(|e| self.odd(&e))? {
                    Line::Done { result } => return serde_json::from_value(result).map_err(|e| self.odd(&e)),
                    Line::Fault { fault } => return Err(fault),
                    line => on(line),
                }
            }
            if buf.len() > defaults::MAX_ANSWER {
                return Err(self.odd(&"a line without an end"));
            }
        }
        Err(self.cut(&"it ended before the work did"))
    }

    /// A stream of bytes, in parts as they come.
    pub async fn parts<B: Serialize>(&self, op: Op, args: &[&str], body: Option<&B>) -> Result<Parts, Fault> {
        let answer = self.send(op, args, "", body).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer).await);
        }
        Ok(Parts {
            answer,
            client: self.clone(),
        })
    }

    /// Opens a guest's console: raw bytes both ways.
    pub async fn console(&self, guest: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>, Fault> {
        self.upgraded(Op::Console, guest).await
    }

    /// Opens a guest's display: VNC both ways.
    pub async fn display(&self, guest: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>, Fault> {
        self.upgraded(Op::Display, guest).await
    }

    async fn upgraded(&self, op: Op, guest: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>, Fault> {
        let answer = self.send(op, &[guest], "", EMPTY).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(answer).await);
        }
        hyper::upgrade::on(answer)
            .await
            .map(TokioIo::new)
            .map_err(|e| self.cut(&e))
    }

    async fn send<B: Serialize>(
        &self,
        op: Op,
        args: &[&str],
        query: &str,
        body: Option<&B>,
    ) -> Result<Response<Incoming>, Fault> {
        let route = routes::route(op).ok_or_else(|| self.odd(&"this operation has no route"))?;
        let request = self.request(route, args, query, body)?;
        let stream = tokio::net::UnixStream::connect(&self.socket)
            .await
            .map_err(|e| self.closed(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.cut(&e))?;
        tokio::spawn(async move {
            if let Err(e) = connection.with_upgrades().await {
                tracing::debug!(error = %e, "the connection to the node ended");
            }
        });
        sender.send_request(request).await.map_err(|e| self.cut(&e))
    }

    fn request<B: Serialize>(
        &self,
        route: &Route,
        args: &[&str],
        query: &str,
        body: Option<&B>,
    ) -> Result<Request<Full<Bytes>>, Fault> {
        let bytes = match body {
            Some(b) => serde_json::to_vec(b).map_err(|e| self.odd(&e))?,
            None => Vec::new(),
        };
        let mut uri = route.fill(args);
        if !query.is_empty() {
            uri = format!("{uri}?{query}");
        }
        let mut request = Request::builder()
            .method(route.method.as_str())
            .uri(uri)
            .header(header::HOST, "localhost");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if matches!(route.op, Op::Console | Op::Display) {
            request = request
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, CONSOLE_UPGRADE);
        }
        request.body(Full::new(bytes.into())).map_err(|e| self.odd(&e))
    }

    async fn read(&self, answer: Response<Incoming>) -> Result<Bytes, Fault> {
        if !answer.status().is_success() {
            return Err(self.refusal(answer).await);
        }
        let body = Limited::new(answer.into_body(), defaults::MAX_ANSWER).collect().await;
        Ok(body.map_err(|e| self.odd(&e))?.to_bytes())
    }

    async fn refusal(&self, answer: Response<Incoming>) -> Fault {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), defaults::MAX_BODY)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        match body.ok().and_then(|b| serde_json::from_slice::<FaultAnswer>(&b).ok()) {
            Some(a) => a.fault,
            None => self.odd(&format!("HTTP status {status}")),
        }
    }

    fn closed(&self, e: &std::io::Error) -> Fault {
        let at = self.socket.display();
        match e.kind() {
            ErrorKind::PermissionDenied => Fault::new(FaultKind::Missing, format!("{at} belongs to another user"))
                .next("run this as the user that runs the node, for example with sudo"),
            ErrorKind::InvalidInput => Fault::new(FaultKind::Usage, format!("{at}: {e}")),
            _ => Fault::new(FaultKind::Unreachable, format!("no node answers at {at}"))
                .next(format!("start one with: lanline up{}", self.state_flag())),
        }
    }

    /// ` --state DIR` where the folder is not the one that `lanline up` would take by itself.
    fn state_flag(&self) -> String {
        let here = self.socket.parent().unwrap_or(Path::new("."));
        match crate::io::settings::state_folder(None) {
            Ok(usual) if usual == here => String::new(),
            _ => format!(" --state {}", here.display()),
        }
    }

    fn cut(&self, e: &dyn std::fmt::Display) -> Fault {
        let what = format!("the connection to the node at {} was cut: {e}", self.socket.display());
        Fault::new(FaultKind::Unreachable, what).next("see whether it still runs: lanline status")
    }

    fn odd(&self, e: &dyn std::fmt::Display) -> Fault {
        let what = format!(
            "the node at {} answers in a way that this lanline does not understand: {e}",
            self.socket.display()
        );
        Fault::new(FaultKind::Failed, what).next("use the same version of lanline for both: lanline --version")
    }
}
