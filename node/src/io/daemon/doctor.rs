//! `lanline doctor`: what this machine can do, each with a verdict and a fix.

use super::Daemon;
use crate::api::{Check, DoctorReport, Verdict};
use std::{fs, path::Path};
use vm::io::HostCaps;

/// Receive buffer that the frame plane wants, bytes: 8 MiB hold 50 ms at 1.3 Gb/s.
const WANTED_RMEM: u64 = 8 << 20;

pub(super) fn check(name: &str, verdict: Verdict, found: impl Into<String>, fix: Option<&str>) -> Check {
    Check {
        name: name.into(),
        verdict,
        found: found.into(),
        fix: fix.map(str::to_owned),
    }
}

impl Daemon {
    /// Looks at this machine and at how the mesh sees it.
    pub(super) async fn examine(&self) -> DoctorReport {
        let caps = self.caps.clone();
        let mut checks = tokio::task::spawn_blocking(move || machine_checks(&caps))
            .await
            .unwrap_or_default();
        checks.push(disk_check(&self.dir));
        checks.extend(self.network_checks().await);
        checks.extend(self.reach_checks().await);
        DoctorReport { checks }
    }

    async fn network_checks(&self) -> Vec<Check> {
        let net = match self.overlay.status().await {
            Ok(net) => net,
            Err(e) => {
                return vec![check(
                    "network",
                    Verdict::Fail,
                    e.to_string(),
                    Some("start the node again: lanline up"),
                )];
            }
        };
        let peers = self.overlay.peers().await;
        let mut out = vec![check(
            "listen",
            if net.listen.is_empty() {
                Verdict::Fail
            } else {
                Verdict::Ok
            },
            format!("{} address(es)", net.listen.len()),
            net.listen
                .is_empty()
                .then_some("choose a free port: lanline up --listen 0.0.0.0:4401"),
        )];
        out.push(match net.reachability.split_whitespace().next() {
            Some("public") => check("reachable", Verdict::Ok, net.reachability.clone(), None),
            Some("private" | "behind" | "relayed") => check(
                "reachable",
                Verdict::Warn,
                net.reachability.clone(),
                Some("forward this node's UDP port on the router, or rely on hole punching and members that relay"),
            ),
            _ => check(
                "reachable",
                Verdict::Warn,
                "not known yet: no peer has tried from outside",
                None,
            ),
        });
        let members = self.member_ids();
        let connected = peers.iter().filter(|p| members.contains(&p.id)).count();
        out.push(check(
            "members",
            if connected == 0 && !members.is_empty() {
                Verdict::Warn
            } else {
                Verdict::Ok
            },
            format!("{connected} of {} other member(s) connected", members.len()),
            (connected == 0 && !members.is_empty()).then_some("look at: lanline peers"),
        ));
        out
    }
}

fn machine_checks(caps: &HostCaps) -> Vec<Check> {
    vec![
        tap_check(),
        qemu_check(caps),
        accel_check(caps),
        buffer_check(),
        cgroup_check(),
    ]
}

fn tap_check() -> Check {
    match tunnel::io::tap::Tap::open(None, None) {
        Ok(tap) => {
            let offloads = super::guest_rows::offload_words(tap.offloads());
            check("tap", Verdict::Ok, format!("can be opened, {offloads}"), None)
        }
        Err(e) => check(
            "tap",
            Verdict::Warn,
            format!("{e}; guests need none, bridging this machine's LAN does"),
            Some("run the node as root, or give it the right: setcap cap_net_admin+ep $(command -v lanline)"),
        ),
    }
}

fn qemu_check(caps: &HostCaps) -> Check {
    match &caps.qemu {
        Some(q) => check("qemu", Verdict::Ok, format!("version {}", q.version), None),
        None => check(
            "qemu",
            Verdict::Warn,
            caps.missing.clone().unwrap_or_else(|| "not found".into())
                + "; this machine can hold images and bridge, but not run guests",
            Some("apt-get install qemu-system-x86 qemu-utils"),
        ),
    }
}

fn accel_check(caps: &HostCaps) -> Check {
    let kvm = caps.accel == wire::guest::Accel::Kvm;
    check(
        "accel",
        if kvm { Verdict::Ok } else { Verdict::Warn },
        format!("{}: {}", caps.accel, caps.accel_reason),
        (!kvm).then_some("guests run 5 to 20 times slower without KVM: switch on VT-x or AMD-V in the firmware"),
    )
}

fn buffer_check() -> Check {
    let max = fs::read_to_string("/proc/sys/net/core/rmem_max")
        .ok()
        .and_then(|s| s.trim().parse::<u64>().ok());
    match max {
        Some(n) if n >= WANTED_RMEM || rustix::process::geteuid().is_root() => check(
            "udp-buffers",
            Verdict::Ok,
            format!("up to {}", wire::ByteSize(n.max(WANTED_RMEM))),
            None,
        ),
        Some(n) => check(
            "udp-buffers",
            Verdict::Warn,
            format!("at most {}; bursts above that are lost", wire::ByteSize(n)),
            Some("sysctl -w net.core.rmem_max=8388608 net.core.wmem_max=8388608"),
        ),
        None => check("udp-buffers", Verdict::Warn, "the limit cannot be read", None),
    }
}

fn cgroup_check() -> Check {
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let v1 = Path::new("/sys/fs/cgroup/cpu").exists();
    let found = match (v2, v1) {
        (true, _) => "version 2",
        (_, true) => "version 1",
        _ => "none",
    };
    check(
        "cgroup",
        if v1 || v2 { Verdict::Ok } else { Verdict::Warn },
        found,
        None,
    )
}

fn disk_check(dir: &Path) -> Check {
    match rustix::fs::statvfs(dir) {
        Ok(s) => {
            let free = s.f_bavail.saturating_mul(s.f_frsize);
            let low = free < 2 << 30;
            check(
                "disk",
                if low { Verdict::Warn } else { Verdict::Ok },
                format!("{} free in {}", wire::ByteSize(free), dir.display()),
                low.then_some("free some space, or choose another folder: lanline up --state DIR"),
            )
        }
        Err(e) => check("disk", Verdict::Fail, format!("{}: {e}", dir.display()), None),
    }
}
