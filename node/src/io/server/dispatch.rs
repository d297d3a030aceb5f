//! From an operation to the method of [`crate::api::Service`] that does it.

use super::{
    App,
    answer::{self, Input, json, metrics, stream},
};
use crate::api::{
    openapi,
    routes::{MAX_BYTES, ON_DISCONNECT, Op, Shape, route},
};
use axum::response::Response;
use std::sync::Arc;
use wire::{Fault, FaultKind};

/// Does `op`. Short operations wait for a turn; long ones and consoles are refused when too many are under way.
pub(super) async fn dispatch(app: Arc<App>, op: Op, input: Input) -> Result<Response, Fault> {
    let shape = route(op).map_or(Shape::Json, |r| r.shape);
    match shape {
        Shape::Stream => {
            input.only(&[ON_DISCONNECT])?;
            long(&app, op, &input)
        }
        Shape::Capture => {
            input.only(&[])?;
            answer::capture(&app, input).await
        }
        _ => {
            input.only(if op == Op::GuestLogs { &[MAX_BYTES] } else { &[] })?;
            let _turn = app.requests.acquire().await.map_err(|_| misrouted(op))?;
            short(&app, op, input).await
        }
    }
}

fn misrouted(op: Op) -> Fault {
    Fault::new(
        FaultKind::Failed,
        format!("{op:?} has no handler of its shape; this is a defect of lanline"),
    )
}

fn long(app: &Arc<App>, op: Op, input: &Input) -> Result<Response, Fault> {
    let subject = input.subject.clone();
    match op {
        Op::Join => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.join(req, p))
        }
        Op::ImageAdd => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.image_add(req, p))
        }
        Op::ImageVerify => stream(app, input, move |s, p| s.image_verify(subject, p)),
        Op::ImagePull => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.image_pull(subject, req, p))
        }
        Op::Run => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.run(req, p))
        }
        Op::GuestStop => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.guest_stop(subject, req, p))
        }
        _ => Err(misrouted(op)),
    }
}

async fn short(app: &App, op: Op, input: Input) -> Result<Response, Fault> {
    let s = &app.service;
    match op {
        Op::Status => json(&s.status().await?),
        Op::Peers => json(&s.peers().await?),
        Op::Ping => json(&s.ping(input.body()?).await?),
        Op::Doctor => json(&s.doctor().await?),
        Op::ConfigShow => json(&s.config_show().await?),
        Op::Metrics => Ok(metrics(s.metrics().await?)),
        Op::OpenApi => json(&openapi::document()),
        Op::Down => json(&s.down().await?),
        Op::Hosts => json(&s.hosts().await?),
        Op::Offer => json(&s.offer(input.body()?).await?),
        Op::Grant => json(&s.grant(input.body()?).await?),
        Op::Grants => json(&s.grants().await?),
        Op::Revoke => json(&s.revoke(input.subject).await?),
        Op::ImageLs => json(&s.image_ls().await?),
        Op::ImageShow => json(&s.image_show(input.subject).await?),
        Op::ImageRm => json(&s.image_rm(input.subject).await?),
        Op::Guests => json(&s.guests().await?),
        Op::GuestInfo => json(&s.guest_info(input.subject).await?),
        Op::GuestRm => json(&s.guest_rm(input.subject).await?),
        Op::GuestLogs => {
            let max = input.max_bytes()?;
            json(&s.guest_logs(input.subject, max).await?)
        }
        _ => lan(app, op, input).await,
    }
}

async fn lan(app: &App, op: Op, input: Input) -> Result<Response, Fault> {
    let s = &app.service;
    match op {
        Op::LanDrops => json(&s.lan_drops(input.subject).await?),
        Op::LanTrace => json(&s.lan_trace(input.body()?).await?),
        Op::Lans => json(&s.lans().await?),
        Op::LanCreate => json(&s.lan_create(input.body()?).await?),
        Op::LanShow => json(&s.lan_show(input.subject).await?),
        Op::LanAttach => {
            let req = input.body()?;
            json(&s.lan_attach(input.subject, req).await?)
        }
        Op::LanDetach => {
            let req = input.body()?;
            json(&s.lan_detach(input.subject, req).await?)
        }
        Op::LanInvite => {
            let req = input.body()?;
            json(&s.lan_invite(input.subject, req).await?)
        }
        Op::LanEvict => {
            let req = input.body()?;
            json(&s.lan_evict(input.subject, req).await?)
        }
        Op::LanMtu => {
            let req = input.body()?;
            json(&s.lan_mtu(input.subject, req).await?)
        }
        Op::LanPolicy => {
            let req = input.body()?;
            json(&s.lan_policy(input.subject, req).await?)
        }
        _ => Err(misrouted(op)),
    }
}
