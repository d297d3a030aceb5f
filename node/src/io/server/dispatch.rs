//! From an operation to the method of [`crate::api::Service`] that does it.

use super::{
    App,
    answer::{self, Input, json, metrics, stream},
};
use crate::api::{
    openapi,
    routes::{FORGET, MAX_BYTES, ON_DISCONNECT, Op, Shape, route},
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
            input.only(match op {
                Op::GuestLogs => &[MAX_BYTES],
                Op::GuestRm => &[FORGET],
                _ => &[],
            })?;
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
        Op::Query => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.query(req, p))
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
        Op::ImageMount => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.image_mount(subject, req, p))
        }
        Op::ImagePublish => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.image_publish(subject, req, p))
        }
        Op::ImageExport => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.image_export(subject, req, p))
        }
        Op::ImageArchive => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.image_archive(subject, req, p))
        }
        Op::Run => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.run(req, p))
        }
        Op::GuestStop => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.guest_stop(subject, req, p))
        }
        Op::GuestLife => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.guest_life(subject, req, p))
        }
        Op::GuestMove => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.guest_move(subject, req, p))
        }
        Op::GuestClone => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.guest_clone(subject, req, p))
        }
        Op::GuestWait => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.guest_wait(subject, req, p))
        }
        Op::GuestExec => {
            let req = input.body()?;
            stream(app, input, move |s, p| s.guest_exec(subject, req, p))
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
        Op::PolicyCheck => json(&s.policy_check(input.body()?).await?),
        Op::PolicyExplain => json(&s.policy_explain().await?),
        Op::Usage => json(&s.usage(input.body()?).await?),
        Op::GuestSet => {
            let req = input.body()?;
            json(&s.guest_set(input.subject, req).await?)
        }
        Op::Grant => json(&s.grant(input.body()?).await?),
        Op::Grants => json(&s.grants().await?),
        Op::Revoke => json(&s.revoke(input.subject).await?),
        Op::ImageLs => json(&s.image_ls().await?),
        Op::ImageShow => json(&s.image_show(input.subject).await?),
        Op::ImageUmount => json(&s.image_umount(input.body()?).await?),
        Op::ImageMounts => json(&s.image_mounts().await?),
        Op::ImageGc => json(&s.image_gc(input.body()?).await?),
        Op::ImageRm => json(&s.image_rm(input.subject).await?),
        Op::Guests => json(&s.guests().await?),
        Op::GuestInfo => json(&s.guest_info(input.subject).await?),
        Op::GuestRm => {
            let forget = input.flag(FORGET)?;
            json(&s.guest_rm(input.subject, forget).await?)
        }
        Op::GuestLogs => {
            let max = input.max_bytes()?;
            json(&s.guest_logs(input.subject, max).await?)
        }
        Op::GuestSnapshots | Op::GuestRead | Op::GuestWrite => guest(app, op, input).await,
        _ => lan(app, op, input).await,
    }
}

async fn guest(app: &App, op: Op, input: Input) -> Result<Response, Fault> {
    let s = &app.service;
    match op {
        Op::GuestSnapshots => json(&s.guest_snapshots(input.subject).await?),
        Op::GuestRead => {
            let req = input.body()?;
            json(&s.guest_read(input.subject, req).await?)
        }
        Op::GuestWrite => {
            let req = input.body()?;
            json(&s.guest_write(input.subject, req).await?)
        }
        _ => Err(misrouted(op)),
    }
}

async fn lan(app: &App, op: Op, input: Input) -> Result<Response, Fault> {
    let s = &app.service;
    match op {
        Op::LanDrops => json(&s.lan_drops(input.subject).await?),
        Op::LanTraffic => json(&s.lan_traffic(input.subject).await?),
        Op::LanTrace => json(&s.lan_trace(input.body()?).await?),
        Op::AdvisePlacement => json(&s.advise_placement(input.body()?).await?),
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
