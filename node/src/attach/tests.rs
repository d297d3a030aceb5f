//! The plan against a model of the kernel, with its side effects, and hostile messages.

use super::{
    attr::{self, Raw},
    holdings::{Addr, Device, Holdings, IFADDRMSG, RTMSG, Route},
    journal::{Journal, Phase, Verdict},
    plan::{self, DISABLE_IPV6, Step},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Iface {
    master: Option<String>,
    v4: Vec<Addr>,
    v6: Vec<Addr>,
    no_v6: bool,
}

/// Interfaces and routes, with what Linux does by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kernel {
    ifaces: BTreeMap<String, Iface>,
    routes: Vec<(String, Route)>,
}

impl Kernel {
    fn new(h: &Holdings) -> Self {
        let iface = Iface {
            master: None,
            v4: h.addrs.iter().filter(|a| !a.v6).cloned().collect(),
            v6: h.addrs.iter().filter(|a| a.v6).cloned().collect(),
            no_v6: false,
        };
        let mut routes: Vec<_> = h.routes.iter().map(|r| ("eth0".to_owned(), r.clone())).collect();
        routes.sort();
        Self {
            ifaces: BTreeMap::from([("eth0".to_owned(), iface)]),
            routes,
        }
    }

    /// The last address of a family takes the routes of that family along.
    fn after_removal(&mut self, device: &str) {
        let i = &self.ifaces[device];
        let (v4, v6) = (i.v4.is_empty(), i.no_v6);
        self.routes
            .retain(|(d, r)| d != device || !(if r.v6 { v6 } else { v4 }));
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::MakeBridge { bridge, .. } => drop(self.ifaces.entry(bridge.clone()).or_default()),
            Step::RemoveBridge { bridge } => {
                self.ifaces.remove(bridge);
                self.routes.retain(|(d, _)| d != bridge);
                self.ifaces.values_mut().for_each(|i| {
                    i.master.take_if(|m| m == bridge);
                });
            }
            Step::Set { device, key, value, .. } if key == DISABLE_IPV6 => {
                let i = self.ifaces.get_mut(device).unwrap();
                i.no_v6 = value == "1";
                if i.no_v6 {
                    i.v6.clear();
                    self.after_removal(device);
                }
            }
            Step::Set { .. } => {}
            Step::Join { device, bridge } => {
                assert!(self.ifaces.contains_key(bridge), "joins a bridge that is not there");
                self.ifaces.get_mut(device).unwrap().master = Some(bridge.clone());
            }
            Step::Leave { device, bridge } => {
                self.ifaces.get_mut(device).unwrap().master.take_if(|m| m == bridge);
            }
            Step::AddAddr { device, addr } => {
                let i = self.ifaces.get_mut(device).unwrap();
                match (addr.v6, i.no_v6) {
                    (true, true) => panic!("an IPv6 address where IPv6 is off"),
                    (true, false) if !i.v6.contains(addr) => i.v6.insert(0, addr.clone()),
                    (false, _) if !i.v4.contains(addr) => i.v4.push(addr.clone()),
                    _ => {}
                }
            }
            Step::RemoveAddr { device, addr } => {
                let i = self.ifaces.get_mut(device).unwrap();
                i.v4.retain(|a| a != addr);
                i.v6.retain(|a| a != addr);
                self.after_removal(device);
            }
            Step::AddRoute { device, route } => {
                let entry = (device.clone(), route.clone());
                if !self.routes.contains(&entry) {
                    self.routes.push(entry);
                    self.routes.sort();
                }
            }
            Step::RemoveRoute { device, route } => self.routes.retain(|(d, r)| (d, r) != (device, route)),
        }
    }

    fn after(mut self, steps: &[Step]) -> Self {
        steps.iter().for_each(|s| self.apply(s));
        self
    }

    /// Every address is somewhere.
    fn reachable(&self, h: &Holdings) -> bool {
        let on = |a: &Addr| self.ifaces.values().any(|i| i.v4.contains(a) || i.v6.contains(a));
        h.addrs.iter().all(on)
    }
}

fn addr(v6: bool, n: u8) -> Addr {
    Addr {
        text: if v6 {
            format!("2001:db8::{n:x}/64")
        } else {
            format!("192.0.2.{n}/24")
        },
        v6,
        raw: Raw(vec![n]),
    }
}

fn holdings() -> impl Strategy<Value = Holdings> {
    let addrs = prop::collection::btree_map((any::<bool>(), 1..9u8), Just(()), 1..8);
    let routes = prop::collection::btree_map((any::<bool>(), 0..20u8), Just(()), 0..8);
    (addrs, routes, any::<bool>()).prop_map(|(a, r, mut knob)| {
        let addrs: Vec<Addr> = a.into_keys().map(|(v6, n)| addr(v6, n)).collect();
        // A route of a family exists only where an address of it does.
        let has = |v6: bool| addrs.iter().any(|a| a.v6 == v6);
        let routes = r.into_keys().filter(|(v6, _)| has(*v6));
        knob |= has(true);
        Holdings {
            interface: "eth0".into(),
            index: 2,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1_500,
            routes: routes
                .map(|(v6, n)| Route {
                    text: format!("{n}"),
                    v6,
                    raw: Raw(vec![n]),
                })
                .collect(),
            addrs,
            knobs: if knob {
                vec![("ipv6".into(), DISABLE_IPV6.into(), "0".into())]
            } else {
                Vec::new()
            },
            at: 0,
        }
    })
}

proptest! {
    #[test]
    fn any_part_of_the_way_and_back_is_the_old_state(h in holdings(), n in 0..100usize, twice: bool) {
        let there = plan::to_bridged(&h, "lanbr0");
        let n = n % (there.len() + 1);
        let back = plan::to_plain(&h, "lanbr0");
        let mut k = Kernel::new(&h).after(&there[..n]).after(&back);
        if twice {
            k = k.after(&back);
        }
        prop_assert_eq!(k, Kernel::new(&h));
    }

    #[test]
    fn any_part_of_the_way_out_and_in_again_is_the_bridge(h in holdings(), n in 0..100usize, m in 0..100usize) {
        let (there, back) = (plan::to_bridged(&h, "lanbr0"), plan::to_plain(&h, "lanbr0"));
        let bridged = Kernel::new(&h).after(&there);
        let k = bridged.clone().after(&back[..n % (back.len() + 1)]).after(&there);
        prop_assert_eq!(&k, &bridged);
        // A way back that is itself cut off is gone again.
        let k = k.after(&back[..m % (back.len() + 1)]).after(&back);
        prop_assert_eq!(k, Kernel::new(&h));
    }

    #[test]
    fn no_address_is_away_at_any_time(h in holdings()) {
        let mut k = Kernel::new(&h);
        for step in plan::to_bridged(&h, "lanbr0").iter().chain(&plan::to_plain(&h, "lanbr0")) {
            k.apply(step);
            prop_assert!(k.reachable(&h), "after {:?}", step);
        }
    }

    #[test]
    fn messages_of_any_bytes_are_read_without_harm(b in prop::collection::vec(any::<u8>(), 0..200), index: u32) {
        let to = Device { name: "lanbr0", index: 7 };
        if let Some(a) = Addr::read(&b, index) {
            let _ = (a.on("eth0", to, true, 10), a.ip(), a.valid_s());
        }
        let mut b = b;
        if let Some(oif) = b.get_mut(RTMSG..RTMSG + 8) {
            oif[..4].copy_from_slice(&[8, 0, 4, 0]);
            oif[4..].copy_from_slice(&index.to_ne_bytes());
        }
        if let Some(r) = Route::read(&b, index) {
            let _ = (r.on(index, 7, 10), r.gateways(), r.is_default());
        }
        let _ = attr::attrs(&b).count();
    }

    #[test]
    fn a_journal_is_read_as_it_was_written(h in holdings(), raw in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut h = h;
        h.addrs[0].raw = Raw(raw);
        let j = Journal { phase: Phase::Attaching, boot: "b".into(), bridge: "lanbr0".into(), holdings: h, confirm_within_ms: 5 };
        let text = serde_json::to_string(&j).unwrap();
        prop_assert_eq!(serde_json::from_str::<Journal>(&text).unwrap(), j);
    }
}

#[test]
fn only_what_was_not_confirmed_in_this_boot_is_undone() {
    let h = Holdings {
        interface: "eth0".into(),
        index: 2,
        mac: [2; 6],
        mtu: 1_500,
        addrs: vec![addr(false, 1)],
        routes: Vec::new(),
        knobs: Vec::new(),
        at: 0,
    };
    let j = |phase| Journal {
        phase,
        boot: "this".into(),
        bridge: "lanbr0".into(),
        holdings: h.clone(),
        confirm_within_ms: 0,
    };
    assert_eq!(
        j(Phase::Attaching).verdict("this"),
        Verdict::Undo(plan::to_plain(&h, "lanbr0"))
    );
    assert_eq!(
        j(Phase::Detaching).verdict("this"),
        Verdict::Undo(plan::to_bridged(&h, "lanbr0"))
    );
    assert_eq!(j(Phase::Attached).verdict("this"), Verdict::Keep);
    assert_eq!(j(Phase::Attaching).verdict("next"), Verdict::Void);
}

fn address_message(label: &str, valid: u32) -> Vec<u8> {
    let mut m = vec![libc::AF_INET as u8, 24, 0x80, 0];
    m.extend_from_slice(&2u32.to_ne_bytes());
    attr::push(&mut m, libc::IFA_LOCAL, &[192, 0, 2, 5]);
    attr::push(&mut m, libc::IFA_LABEL, format!("{label}\0").as_bytes());
    let times: Vec<u8> = [valid / 2, valid, 0, 0].iter().flat_map(|t| t.to_ne_bytes()).collect();
    attr::push(&mut m, libc::IFA_CACHEINFO, &times);
    m
}

#[test]
fn an_address_moves_with_its_label_and_what_is_left_of_its_life() {
    let a = Addr::read(&address_message("eth0:1", 100), 2).unwrap();
    assert_eq!((a.text.as_str(), a.valid_s()), ("192.0.2.5/24", Some(100)));
    assert_eq!(Addr::read(&a.raw.0, 3), None);
    let to = Device {
        name: "lanbr0",
        index: 9,
    };
    let moved = a.on("eth0", to, true, 60).unwrap();
    assert_eq!(attr::u32_at(&moved, 4), Some(9));
    assert_eq!(attr::find(&moved, IFADDRMSG, libc::IFA_LABEL), Some(&b"lanbr0:1\0"[..]));
    let life = attr::find(&moved, IFADDRMSG, libc::IFA_CACHEINFO).unwrap();
    assert_eq!((attr::u32_at(life, 0), attr::u32_at(life, 4)), (Some(0), Some(40)));
    assert_eq!(a.on("eth0", to, true, 100), None, "it has run out");
    let forever = Addr::read(&address_message("eth0", u32::MAX), 2).unwrap();
    assert_eq!(
        forever
            .on("eth0", Device { name: "eth0", index: 2 }, false, 1 << 40)
            .unwrap()
            .len(),
        forever.raw.0.len()
    );
}
