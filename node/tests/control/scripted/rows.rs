//! The rows that the scripted node answers with.

use node::api::*;
use wire::{Fault, FaultKind};

pub const ME: &str = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5";
pub const PEER: &str = "12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq";
pub const IMAGE: &str = "4qv7k2m3n5p6q7r2s3t4u5v6w7x2y3z4a5b6c7d2e3f4g5h6i7ja";
pub const GUEST: &str = "6f1b0a52-3a7e-4d55-9d0c-0123456789ab";

pub fn kind(name: &str) -> Option<FaultKind> {
    serde_json::from_value(serde_json::Value::String(name.strip_prefix("fault-")?.to_owned())).ok()
}

/// Fails if the argument says so, else gives `value`.
pub(super) fn by<T: Send + 'static>(arg: &str, value: T) -> Answer<'static, T> {
    let end = match kind(arg) {
        Some(k) => Err(Fault::new(k, format!("scripted {arg}")).next("do something else")),
        None => Ok(value),
    };
    Box::pin(async move { end })
}

pub(super) fn lan(name: &str) -> LanRow {
    LanRow {
        name: name.into(),
        id: format!("{name}.abcdefghij"),
        role: Role::Owner,
        members: 3,
        connected: 2,
        ports: 1,
        expires: None,
    }
}

pub(super) fn port(name: &str) -> PortRow {
    PortRow {
        id: 7,
        name: name.into(),
        kind: PortKind::Tap,
        bridge: None,
        up: true,
        state: "forwarding".into(),
        mac: "02:00:00:00:00:07".into(),
        offloads: vec![],
        note: None,
        rx_frames: 1,
        tx_frames: 2,
        rx_bytes: 60,
        tx_bytes: 120,
    }
}

pub(super) fn image(name: &str) -> ImageRow {
    ImageRow {
        id: IMAGE.into(),
        names: vec![name.into()],
        size_bytes: 1 << 30,
        stored_bytes: 50 << 20,
        pieces_total: 800,
        pieces_have: 800,
        complete: true,
        added: 1,
    }
}

pub(super) fn mount_row(dir: &str) -> MountRow {
    MountRow {
        id: IMAGE.into(),
        dir: dir.into(),
        files: vec!["disk.raw".into()],
    }
}

pub(super) fn image_view(name: &str) -> ImageView {
    ImageView {
        image: image(name),
        kernel: true,
        initrd: false,
        cmdline: None,
        health: None,
        providers: vec![PEER.into()],
        profile: None,
    }
}

pub(super) fn guest(name: &str) -> GuestRow {
    GuestRow {
        id: GUEST.into(),
        name: name.into(),
        state: "running".into(),
        host: PEER.into(),
        host_name: "attic".into(),
        owner: ME.into(),
        mine: true,
        ip: Some("192.168.1.57".into()),
        mac: "02:00:5e:10:00:01".into(),
        lan: Some("home".into()),
        image: "tiny:latest".into(),
        cpus: 1,
        memory_bytes: 512 << 20,
        accel: "tcg".into(),
        uptime_ms: Some(61_000),
        disk: None,
        note: None,
    }
}

pub(super) fn grant(id: &str) -> GrantRow {
    GrantRow {
        id: id.into(),
        direction: Direction::Given,
        peer: PEER.into(),
        name: None,
        cpus: 2,
        memory_bytes: 1 << 30,
        vms: 4,
        expires: u64::MAX,
        revoked: false,
    }
}

pub(super) fn span() -> PolicySpan {
    PolicySpan {
        from: 0,
        to: None,
        begins: "Mon 00:00".into(),
        cpus: 1.0,
        weight: 10,
        period_ms: 100.0,
        memory_bytes: 1 << 30,
        max_vms: 2,
        net_up_bps: None,
        net_down_bps: None,
        action: None,
        why: vec![],
    }
}
