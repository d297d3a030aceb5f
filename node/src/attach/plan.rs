//! Steps from the plain layout (the interface has the addresses) to the bridged one (the bridge has them, and the interface
//! is its port), and back.
//!
//! No address is away at any time: it is on its new interface before it leaves the old one, so connections survive and
//! routes that name it as their source stay.

use super::holdings::{Addr, Holdings, Route};

/// Something that is done to the kernel. Done again, it does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes a bridge without spanning tree and without forward delay, up, whose Ethernet address stays whatever its
    /// ports are: the lease and the neighbours' caches stay good.
    MakeBridge {
        /// Its name.
        bridge: String,
        /// Its address.
        mac: [u8; 6],
        /// Its MTU, bytes.
        mtu: u32,
    },
    /// Removes a bridge with its addresses and routes.
    RemoveBridge {
        /// Its name.
        bridge: String,
    },
    /// Writes `/proc/sys/net/FAMILY/conf/DEVICE/KEY`.
    Set {
        /// Interface.
        device: String,
        /// `ipv4` or `ipv6`.
        family: String,
        /// Setting.
        key: String,
        /// Value.
        value: String,
    },
    /// Makes the interface a port of the bridge.
    Join {
        /// Interface.
        device: String,
        /// Bridge.
        bridge: String,
    },
    /// Takes the interface out of the bridge.
    Leave {
        /// Interface.
        device: String,
        /// Bridge.
        bridge: String,
    },
    /// Gives the interface an address.
    AddAddr {
        /// Interface.
        device: String,
        /// Address.
        addr: Addr,
    },
    /// Takes an address from the interface.
    RemoveAddr {
        /// Interface.
        device: String,
        /// Address.
        addr: Addr,
    },
    /// Makes a route by way of the interface.
    AddRoute {
        /// Interface.
        device: String,
        /// Route.
        route: Route,
    },
    /// Removes a route by way of the interface.
    RemoveRoute {
        /// Interface.
        device: String,
        /// Route.
        route: Route,
    },
}

/// The setting that keeps a bridge's port out of IPv6: without it the host would answer under two addresses.
pub const DISABLE_IPV6: &str = "disable_ipv6";

/// Addresses so that the kernel's list ends up in the order that was read: it appends IPv4 addresses and puts IPv6
/// addresses before the others of their scope.
fn in_making_order(addrs: &[Addr]) -> impl Iterator<Item = &Addr> {
    let v4 = addrs.iter().filter(|a| !a.v6);
    v4.chain(addrs.iter().rev().filter(|a| a.v6))
}

/// Routes so that each finds its router: those without one first.
fn routers_last(routes: &[Route]) -> impl Iterator<Item = &Route> {
    let near = routes.iter().filter(|r| r.gateways().is_empty());
    near.chain(routes.iter().filter(|r| !r.gateways().is_empty()))
}

fn give<'a>(h: &'a Holdings, device: &'a str) -> impl Iterator<Item = Step> + 'a {
    let addrs = in_making_order(&h.addrs).map(move |addr| Step::AddAddr {
        device: device.to_owned(),
        addr: addr.clone(),
    });
    addrs.chain(routers_last(&h.routes).map(move |route| Step::AddRoute {
        device: device.to_owned(),
        route: route.clone(),
    }))
}

/// To the bridged layout.
pub fn to_bridged(h: &Holdings, bridge: &str) -> Vec<Step> {
    let set = |device: &str, family: &str, key: &str, value: &str| Step::Set {
        device: device.to_owned(),
        family: family.to_owned(),
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let mut out = vec![Step::MakeBridge {
        bridge: bridge.to_owned(),
        mac: h.mac,
        mtu: h.mtu,
    }];
    out.extend(h.knobs.iter().map(|(f, k, v)| set(bridge, f, k, v)));
    out.push(Step::Join {
        device: h.interface.clone(),
        bridge: bridge.to_owned(),
    });
    out.extend(give(h, bridge));
    out.extend(h.routes.iter().map(|route| Step::RemoveRoute {
        device: h.interface.clone(),
        route: route.clone(),
    }));
    // Last made, first removed: secondary addresses go before their primary, which would take them along, and those that
    // are left stand in their order when the others come back.
    let mut made: Vec<&Addr> = in_making_order(&h.addrs).collect();
    made.reverse();
    out.extend(made.into_iter().map(|addr| Step::RemoveAddr {
        device: h.interface.clone(),
        addr: addr.clone(),
    }));
    if disable_ipv6(h).is_some() {
        out.push(set(&h.interface, "ipv6", DISABLE_IPV6, "1"));
    }
    out
}

/// To the plain layout, from wherever [`to_bridged`] got to.
pub fn to_plain(h: &Holdings, bridge: &str) -> Vec<Step> {
    let mut out = vec![Step::Leave {
        device: h.interface.clone(),
        bridge: bridge.to_owned(),
    }];
    if let Some(value) = disable_ipv6(h) {
        out.push(Step::Set {
            device: h.interface.clone(),
            family: "ipv6".to_owned(),
            key: DISABLE_IPV6.to_owned(),
            value: value.to_owned(),
        });
    }
    out.extend(give(h, &h.interface));
    out.push(Step::RemoveBridge {
        bridge: bridge.to_owned(),
    });
    out
}

fn disable_ipv6(h: &Holdings) -> Option<&str> {
    let hit = |(f, k, _): &&(String, String, String)| f == "ipv6" && k == DISABLE_IPV6;
    h.knobs.iter().find(hit).map(|(.., v)| v.as_str())
}
