//! The user's side of `/lanline/guest/2` and `/lanline/console/1`: asking another node about guests.

use super::{Daemon, console::Screen, framed};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use wire::{
    Fault, FaultKind, NodeId,
    guest::{
        ConsoleOpen, ConsoleReply, GUEST_PROTOCOL, GuestCall, GuestResult, GuestUpdate, MAX_CONSOLE_BYTES,
        MAX_UPDATE_BYTES,
    },
};

/// A host that is alive says something at least this often while it works; see [`super::host::HEARTBEAT`].
pub(super) const SILENCE: Duration = Duration::from_secs(20);

/// What ended a call before its answer.
#[derive(Debug)]
pub(super) enum CallEnd {
    /// The host said no, or failed: its own words.
    Fault(Fault),
    /// The connection ended or fell silent: the call may be repeated.
    Broken(String),
}

impl CallEnd {
    /// As a person reads it, of `host`.
    pub(super) fn into_fault(self, host: &str) -> Fault {
        match self {
            Self::Fault(f) => f,
            Self::Broken(why) => Fault::new(FaultKind::Unreachable, format!("{host} does not answer: {why}"))
                .next("see whether it is connected: lanline peers"),
        }
    }
}

impl Daemon {
    /// Sends one call to `host` and hands every update before the last to `on`.
    pub(super) async fn call_host(
        &self,
        host: NodeId,
        call: &GuestCall,
        mut on: impl FnMut(GuestUpdate) + Send,
    ) -> Result<GuestResult, CallEnd> {
        if host == self.me {
            return self.call_here(call, on).await.map_err(CallEnd::Fault);
        }
        let broken = |e: &dyn std::fmt::Display| CallEnd::Broken(e.to_string());
        let mut stream = self
            .overlay
            .open_stream(host, GUEST_PROTOCOL)
            .await
            .map_err(|e| broken(&e))?;
        framed::write(&mut stream, call).await.map_err(|e| broken(&e))?;
        stream.shutdown().await.map_err(|e| broken(&e))?;
        let mut updates = framed::Reader::new(stream, MAX_UPDATE_BYTES);
        loop {
            let next = tokio::time::timeout(SILENCE, updates.next::<GuestUpdate>())
                .await
                .map_err(|_| broken(&format!("nothing came for {} s", SILENCE.as_secs())))?
                .map_err(|e| broken(&e))?
                .ok_or_else(|| broken(&"the connection ended before the answer"))?;
            match next.sanitised() {
                GuestUpdate::Done(result) => return Ok(result),
                GuestUpdate::Fault(f) => return Err(CallEnd::Fault(f)),
                other => on(other),
            }
        }
    }

    /// Runs a call on this node's own guests, with the same updates as over the mesh.
    async fn call_here(&self, call: &GuestCall, mut on: impl FnMut(GuestUpdate) + Send) -> Result<GuestResult, Fault> {
        let (tx, mut rx) = tokio::sync::mpsc::channel(super::host::UPDATE_QUEUE);
        let daemon = self.arc();
        let (me, call) = (self.me, call.clone());
        let work = tokio::spawn(async move { daemon.handle_guest_call(me, call, tx).await });
        while let Some(update) = rx.recv().await {
            match update {
                GuestUpdate::Done(result) => return Ok(result),
                GuestUpdate::Fault(f) => return Err(f),
                other => on(other),
            }
        }
        work.await
            .map_err(|e| Fault::new(FaultKind::Failed, format!("the call ended without an answer: {e}")))?;
        Err(Fault::new(FaultKind::Failed, "the call ended without an answer"))
    }

    /// Opens a guest's console or display at `host`; a console's stream carries its history first.
    pub(super) async fn call_console(
        &self,
        host: NodeId,
        open: &ConsoleOpen,
        screen: Screen,
    ) -> Result<Box<dyn crate::api::ConsoleStream>, CallEnd> {
        let broken = |e: &dyn std::fmt::Display| CallEnd::Broken(e.to_string());
        if host == self.me {
            return self.screen_here(self.me, open, screen).await.map_err(CallEnd::Fault);
        }
        let mut stream = self
            .overlay
            .open_stream(host, screen.protocol())
            .await
            .map_err(|e| broken(&e))?;
        framed::write(&mut stream, open).await.map_err(|e| broken(&e))?;
        let mut reader = framed::Reader::new(stream, MAX_CONSOLE_BYTES);
        let reply = tokio::time::timeout(SILENCE, reader.next::<ConsoleReply>())
            .await
            .map_err(|_| broken(&"the console did not open in time"))?
            .map_err(|e| broken(&e))?
            .ok_or_else(|| broken(&"the connection ended before the answer"))?;
        match reply {
            ConsoleReply::Open => {
                let (stream, early) = reader.into_parts();
                Ok(Box::new(super::console::Prefixed::new(early.freeze(), stream)))
            }
            ConsoleReply::Fault(f) => Err(CallEnd::Fault(f.sanitised())),
        }
    }
}
