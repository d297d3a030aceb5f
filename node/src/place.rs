//! Which host a guest goes to: fit first, then what its user will feel. Paper: §3.2, §4 (step 1).
//!
//! Each fact about a host costs something, in milliseconds that its user would wait at a prompt or so; the sum ranks.
//! The same facts, in words, are the explanation. It asks nobody: adverts, round trips and holders are arguments.

use crate::api::PlaceRow;
use std::time::Duration;
use wire::{
    NodeId,
    advert::{HostOffer, LoadForecast},
    guest::Accel,
};

/// Emulation: every step of an interactive guest takes five to twenty times as long.
const EMULATED: f64 = 300.0;
/// No piece of the image is there: the first minute is spent fetching, behind what it fetches from.
const NO_IMAGE: f64 = 100.0;
/// A round trip that was never measured is taken for one across a continent.
const FAR: f64 = 80.0;
/// For each processor that is wanted and expected to be busy.
const BUSY: f64 = 200.0;
/// No grant is held: it will most probably refuse.
const NO_GRANT: f64 = 10_000.0;

/// A host as its user's node knows it.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: &'a str,
    /// What it offers; none: it was named by a person, and no advert of it was found.
    pub offer: Option<&'a HostOffer>,
    /// Round trip from the user's node.
    pub rtt: Option<Duration>,
    /// It said that it holds some of the image.
    pub holds_image: bool,
    /// A grant is held, or it is this node.
    pub granted: bool,
}

fn load(f: &LoadForecast, cpus: u32) -> (f64, String) {
    let [now, then, err] = [f.now_x100, f.p60_x100, f.err60_x100].map(|v| f64::from(v) / 100.0);
    let all = f64::from(f.cpus);
    // The pessimistic end counts: a guest stays for longer than a minute.
    let short = (then + err + f64::from(cpus) - all).clamp(0.0, f64::from(cpus));
    let words = format!("load {now:.1} now, {then:.1} ± {err:.1} of {all:.0} expected in a minute");
    (short * BUSY, words)
}

/// What a host costs its user, and why.
pub fn weigh(f: &Facts<'_>, cpus: u32) -> PlaceRow {
    let (mut cost, mut why) = (0.0, Vec::new());
    match f.rtt {
        Some(rtt) => {
            cost += rtt.as_secs_f64() * 1e3;
            why.push(format!("{:.0} ms from you", rtt.as_secs_f64() * 1e3));
        }
        None => {
            cost += FAR;
            why.push("its distance is not known".into());
        }
    }
    if f.holds_image {
        why.push("holds the image".into());
    } else {
        cost += NO_IMAGE;
        why.push("must fetch the image".into());
    }
    match f.offer {
        Some(o) => {
            if o.accel == Accel::Tcg {
                cost += EMULATED;
            }
            why.push(if o.accel == Accel::Kvm { "kvm" } else { "emulates (tcg)" }.into());
            match &o.forecast {
                Some(l) => {
                    let (c, words) = load(l, cpus);
                    cost += c;
                    why.push(words);
                }
                None => why.push("says nothing of its load".into()),
            }
        }
        None => why.push("no advert of it was found".into()),
    }
    if !f.granted {
        cost += NO_GRANT;
        why.push("you hold no grant for it".into());
    }
    PlaceRow {
        host: f.id.to_string(),
        host_name: f.name.to_owned(),
        cost_ms: (cost * 10.0).round() / 10.0,
        why: why.join(", "),
    }
}

/// Ranks: indices into `hosts`, best first, and how each was weighed, in that order.
pub fn rank(hosts: &[Facts<'_>], cpus: u32) -> Vec<(usize, PlaceRow)> {
    let mut all: Vec<(usize, PlaceRow)> = hosts.iter().map(|f| weigh(f, cpus)).enumerate().collect();
    all.sort_by(|a, b| {
        a.1.cost_ms
            .total_cmp(&b.1.cost_ms)
            .then_with(|| hosts[a.0].id.cmp(&hosts[b.0].id))
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::ByteSize;

    fn offer(accel: Accel, p60: u32) -> HostOffer {
        HostOffer {
            arch: "x86_64".parse().unwrap(),
            cpus_total: 4,
            cpus_free: 4,
            memory_total: ByteSize(4 << 30),
            memory_free: ByteSize(4 << 30),
            accel,
            accel_reason: String::new(),
            qemu: String::new(),
            vms: 0,
            max_vms: 4,
            load1_x100: 0,
            forecast: Some(LoadForecast {
                cpus: 4,
                now_x100: 40,
                p10_x100: p60,
                p60_x100: p60,
                err60_x100: 20,
                model: "LAST".into(),
            }),
            lans: vec![],
            disk_free: ByteSize(64 << 30),
            price: 0,
            lease_max_s: 0,
            coord: None,
        }
    }

    fn host<'a>(n: u8, o: &'a HostOffer, rtt: u64, holds_image: bool) -> Facts<'a> {
        Facts {
            id: NodeId([n; 32]),
            name: "h",
            offer: Some(o),
            rtt: Some(Duration::from_millis(rtt)),
            holds_image,
            granted: true,
        }
    }

    #[test]
    fn near_idle_and_with_the_image_is_best_and_a_grant_comes_before_all() {
        let (kvm, tcg, busy) = (offer(Accel::Kvm, 50), offer(Accel::Tcg, 50), offer(Accel::Kvm, 400));
        let mut hosts = vec![
            host(1, &tcg, 1, true),
            host(2, &kvm, 40, false),
            host(3, &kvm, 60, true),
            host(4, &busy, 1, true),
        ];
        hosts.push(Facts {
            granted: false,
            ..host(5, &kvm, 1, true)
        });
        let order: Vec<u8> = rank(&hosts, 1).iter().map(|(i, _)| hosts[*i].id.0[0]).collect();
        assert_eq!(order, [3, 2, 4, 1, 5]);
    }

    #[test]
    fn the_explanation_says_every_fact() {
        let kvm = offer(Accel::Kvm, 50);
        let row = weigh(&host(1, &kvm, 12, true), 1);
        assert_eq!(
            row.why,
            "12 ms from you, holds the image, kvm, load 0.4 now, 0.5 ± 0.2 of 4 expected in a minute"
        );
        assert!((row.cost_ms - 12.0).abs() < 1e-9);
        let named = Facts {
            offer: None,
            rtt: None,
            granted: false,
            ..host(1, &kvm, 12, false)
        };
        assert_eq!(
            weigh(&named, 1).why,
            "its distance is not known, must fetch the image, no advert of it was found, you hold no grant for it"
        );
    }
}
