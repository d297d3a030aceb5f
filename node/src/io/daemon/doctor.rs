//! `lanline doctor`: what this machine can do, each with a verdict and a fix.

use super::Daemon;
use crate::api::{Check, DoctorReport, Verdict};
use std::{fs, path::Path};
use vm::io::HostCaps;

/// Members whose way is told in full.
const SHOWN_PATHS: usize = 4;
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
        checks.push(enforcer_check(&self.owner.found()));
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
                // What helps depends on the router: the check of that says it.
                Some(match net.nat.advice {
                    Some(_) => "see `nat` below",
                    None => {
                        "forward this node's UDP port on the router, or rely on hole punching and members that relay"
                    }
                }),
            ),
            _ => check(
                "reachable",
                Verdict::Warn,
                "not known yet: no peer has tried from outside",
                None,
            ),
        });
        out.push(relay_check(&self.relay_view()));
        out.push(nat_check(&net.nat));
        out.extend(self.path_check().await);
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

impl Daemon {
    /// How frames reach the members that are linked; those that take no direct way by name.
    async fn path_check(&self) -> Option<Check> {
        let links = self.tunnel.links().await;
        let why = self.why_paths().await;
        let direct = |p: &wire::link::PathInfo| p.kind == wire::link::PathKind::Direct;
        let bad: Vec<String> = links
            .iter()
            .filter(|(_, p)| !direct(p))
            .filter_map(|(n, _)| {
                let name = self.name_of(*n).unwrap_or_else(|| n.short());
                Some(format!("{name}: {}", why.get(n)?.text))
            })
            .collect();
        let better: Vec<&str> = why.values().filter_map(|w| w.better.as_deref()).collect();
        let all = links.len();
        (all > 0).then(|| {
            let found = format!("frames go directly to {} of {all} member(s)", all - bad.len());
            let found = [vec![found], bad.iter().take(SHOWN_PATHS).cloned().collect()]
                .concat()
                .join("; ");
            let verdict = if bad.is_empty() { Verdict::Ok } else { Verdict::Warn };
            check("paths", verdict, found, better.first().copied())
        })
    }
}

fn relay_check(r: &crate::api::RelayView) -> Check {
    let said = crate::render::relay_words(r);
    match r.month_bytes >= r.month_limit_bytes && r.lend != "off" {
        true => check(
            "relaying",
            Verdict::Warn,
            said,
            Some("members that need a relay must find another; a larger relay.gb-month in lanline.toml lends more"),
        ),
        false => check("relaying", Verdict::Ok, said, None),
    }
}

fn nat_check(nat: &overlay::nat::NatReport) -> Check {
    let verdict = if nat.is_bad() { Verdict::Warn } else { Verdict::Ok };
    let found = format!("{}: {}; {}", nat.says, nat.because, nat.mapping);
    check("nat", verdict, found, nat.advice.as_deref())
}

fn machine_checks(caps: &HostCaps) -> Vec<Check> {
    vec![tap_check(), qemu_check(caps), accel_check(caps), buffer_check()]
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

/// What holds guests to the owner's policy here, and why not something better.
fn enforcer_check(found: &vm::enforce::Found) -> Check {
    let rows = super::owner::enforcers(found);
    let have: Vec<&str> = rows.iter().filter(|r| r.granted).map(|r| r.name.as_str()).collect();
    let lack = rows
        .iter()
        .filter_map(|r| Some(format!("{} is not to be had: it {}", r.name, r.why.as_ref()?)));
    let best = vm::enforce::choose(found, vm::policy::EnforcerChoice::Auto, false).backend;
    let mut said = vec![format!("guests are held by {best}; to be had: {}", have.join(", "))];
    said.extend(lack);
    let poor = best == vm::enforce::Backend::Sigstop;
    check(
        "enforcer",
        if poor { Verdict::Warn } else { Verdict::Ok },
        said.join("; "),
        poor.then_some("start the node as a systemd service with Delegate=yes, or as root; SIGSTOP holds guests too, but knows no weights"),
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
