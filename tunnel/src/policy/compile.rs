//! From settings to the flat form that frames are checked by.

use super::{
    ra,
    rules::{self, Seen},
    settings::{Decided, Limit, PortPolicy, SettingError},
};
use crate::{
    DropReason,
    defaults::{GUEST_IPS, GUEST_MACS},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, net::IpAddr};
use wire::{MacAddr, frame::Frame};

/// The lowest rate limit, bits a second: below it not even a lease is renewed in time.
pub const MIN_RATE: u64 = 8_000;
/// The highest limit of broadcasts a second; beyond it the limit of every port is lower anyway.
pub const MAX_BROADCAST: u64 = 1_000_000;

/// Settings of a LAN on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LanPolicy {
    /// For all guests.
    pub guests: PortPolicy,
    /// Settings that a guest's own may widen, too; all others it may only narrow.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub free: BTreeSet<String>,
    /// A guest may be given a copy of all frames.
    #[serde(skip_serializing_if = "is_false")]
    pub allow_monitor: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(b: &bool) -> bool {
    !*b
}

/// Why settings cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Two layers clash.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A limit that nothing can live with, or beyond what is kept.
    #[error("{key} is {value}; it can be {low} to {high}")]
    Limit {
        /// The key.
        key: &'static str,
        /// What was set.
        value: String,
        /// Least.
        low: u64,
        /// Most.
        high: u64,
    },
    /// An access VLAN and tags.
    #[error("vlan {0} and vlans together: a port is in one VLAN untagged, or tags several; unset one of them")]
    VlanAndVlans(u16),
    /// A mirror without leave.
    #[error(
        "this LAN gives no guest a copy of all frames; allow it for the LAN first: lanline lan policy NAME --set \
         allow_monitor=on"
    )]
    Monitor,
    /// No way to any IPv4 address.
    #[error(
        "dhcp_filter and dhcp_force together leave no way to an IPv4 address; unset one of them, set addresses, or set \
         filter_ipv4=on if that is meant"
    )]
    NoAddress,
    /// An address that no host has.
    #[error("{0} in addresses is not the address of one host")]
    Address(IpAddr),
    /// A group or zero.
    #[error("{0} cannot be a guest's Ethernet address")]
    Mac(MacAddr),
    /// None, or more than a port may have.
    #[error("a guest has 1 to {GUEST_MACS} Ethernet addresses, not {0}")]
    Macs(usize),
}

macro_rules! flags {
    ($($bit:literal $name:ident = $key:ident,)+) => {
        /// Rules that are on or off, in one word.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Flags(u32);

        impl Flags {
            $(
                #[doc = concat!("See [`PortPolicy::", stringify!($key), "`].")]
                pub const $name: Self = Self(1 << $bit);
            )+

            fn of(d: &Decided) -> Self {
                let mut all = Self(0);
                $(if d.$key.0 {
                    all.0 |= Self::$name.0;
                })+
                all
            }
        }
    };
}

flags! {
    0 NO_DHCP = dhcp_filter,
    1 NO_DHCP_SERVER = no_dhcp_server,
    2 DHCP_FORCE = dhcp_force,
    3 NO_DHCP6 = dhcpv6_filter,
    4 NO_DHCP6_SERVER = no_dhcpv6_server,
    5 NO_RA = ra_filter,
    6 NO_RS_RA = rs_ra_filter,
    7 NO_DEFAULT_ROUTER = no_default_router,
    8 NO_BRIDGE = no_bridge,
    9 NO_ROUTING = no_routing,
    10 NO_ROUTING6 = no_routing_v6,
    11 CHECK_MAC = check_mac,
    12 CHECK_IP = check_ip,
    13 CHECK_IP6 = check_ipv6,
    14 ARP_DHCP_ONLY = arp_dhcp_only,
    15 PRIVACY = privacy,
    16 NO_SERVER = no_server,
    17 NO_SERVER6 = no_server_v6,
    18 NO_IP4 = filter_ipv4,
    19 NO_IP6 = filter_ipv6,
    20 NO_OTHER = filter_non_ip,
    21 NO_SWITCH = filter_switch_protocols,
    22 MONITOR = monitor,
}

impl Flags {
    /// Any of these?
    pub fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    /// Both together.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Rules of a port, ready to check frames by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledPolicy {
    pub(super) macs: Vec<MacAddr>,
    pub(super) flags: Flags,
    /// Access VLAN; 0: none.
    pub(super) vlan: u16,
    /// VLANs that may be tagged.
    pub(super) vlans: Vec<u16>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) max_macs: usize,
    pub(super) max_ips: usize,
    pub(super) max_ipv6: usize,
    pub(super) max_broadcast: Option<u32>,
    /// Bytes a second.
    pub(super) max_upload: Option<u64>,
    /// Bytes a second.
    pub(super) max_download: Option<u64>,
}

impl CompiledPolicy {
    /// The safe default for a guest with this address.
    pub fn for_guest(mac: MacAddr) -> Self {
        Self::of(&PortPolicy::for_guests(), vec![mac])
    }

    /// Rules that this node applies to frames of guests behind other members: those of the LAN, without state.
    pub fn for_remote(lan: &LanPolicy) -> Result<Self, CompileError> {
        let decided = lan.guests.over(&PortPolicy::for_guests());
        check(&decided, true)?;
        Ok(Self::of(&decided, Vec::new()))
    }

    /// Checks a frame of a guest behind another member by the rules that need no memory. The IP address that it claims
    /// in ARP or neighbour discovery, if it does, is for the caller to compare with what it knows.
    pub fn check_remote(&self, frame: &Frame<'_>) -> Result<Option<IpAddr>, DropReason> {
        let claim = match rules::read(self.flags, frame)? {
            Seen::Arp(sha, spa) => Some((Some(sha), IpAddr::from(spa), Flags::CHECK_IP)),
            Seen::V6(_, Some(nd), _) if nd.kind == ra::kind::NA => {
                let target = nd.target.map(IpAddr::from);
                target.map(|t| (nd.lladdrs[1], t, Flags::CHECK_IP6))
            }
            _ => None,
        };
        let Some((mac, ip, watched)) = claim else {
            return Ok(None);
        };
        if self.flags.has(Flags::CHECK_MAC) && mac.is_some_and(|m| m != frame.src()) {
            return Err(DropReason::GuestNeighbourSpoof);
        }
        Ok((!ip.is_unspecified() && self.flags.has(watched)).then_some(ip))
    }

    /// Its addresses.
    pub fn macs(&self) -> &[MacAddr] {
        &self.macs
    }

    /// The VLAN of its untagged frames.
    pub fn access_vlan(&self) -> Option<u16> {
        (self.vlan != 0).then_some(self.vlan)
    }

    /// It gets a copy of everything and sends nothing.
    pub fn is_monitor(&self) -> bool {
        self.flags.has(Flags::MONITOR)
    }

    fn of(d: &Decided, macs: Vec<MacAddr>) -> Self {
        let bytes = |l: &Limit| l.0.map(|bits| bits / 8);
        let count = |l: &Limit, most: usize| l.0.map_or(most, |n| usize::try_from(n).unwrap_or(most)).min(most);
        Self {
            macs,
            flags: Flags::of(d),
            vlan: d.vlan.0.unwrap_or(0),
            vlans: d.vlans.0.iter().copied().collect(),
            addresses: d.addresses.0.iter().copied().collect(),
            max_macs: count(&d.max_macs, GUEST_MACS),
            max_ips: count(&d.max_ips, GUEST_IPS),
            max_ipv6: count(&d.max_ipv6, GUEST_IPS),
            max_broadcast: d.max_broadcast.0.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            max_upload: bytes(&d.max_upload),
            max_download: bytes(&d.max_download),
        }
    }
}

/// Compiles the rules of a guest's port: the LAN's settings, narrowed by the guest's own.
pub fn compile(lan: &LanPolicy, guest: &PortPolicy, macs: &[MacAddr]) -> Result<CompiledPolicy, CompileError> {
    compile_asked(lan, guest, &PortPolicy::default(), macs)
}

/// The same, narrowed once more by what was asked for when the guest was started.
pub fn compile_asked(
    lan: &LanPolicy,
    guest: &PortPolicy,
    asked: &PortPolicy,
    macs: &[MacAddr],
) -> Result<CompiledPolicy, CompileError> {
    if macs.is_empty() || macs.len() > GUEST_MACS {
        return Err(CompileError::Macs(macs.len()));
    }
    if let Some(bad) = macs.iter().find(|m| !m.is_valid_source()) {
        return Err(CompileError::Mac(*bad));
    }
    let decided = decide(lan, guest, asked)?;
    check(&decided, lan.allow_monitor)?;
    Ok(CompiledPolicy::of(&decided, macs.to_vec()))
}

/// A wish for a start that could not be had: it asks for more than the LAN and the host's settings leave.
pub fn check_asked(lan: &LanPolicy, guest: &PortPolicy, asked: &PortPolicy) -> Result<(), CompileError> {
    Ok(asked.check_leaves(&decide(lan, guest, asked)?)?)
}

pub(super) fn decide(lan: &LanPolicy, guest: &PortPolicy, asked: &PortPolicy) -> Result<Decided, CompileError> {
    let of_lan = lan.guests.over(&PortPolicy::for_guests());
    Ok(asked.within(&guest.within(&of_lan, &lan.free)?, &BTreeSet::new())?)
}

fn check(d: &Decided, allow_monitor: bool) -> Result<(), CompileError> {
    let limits = [
        ("max_macs", &d.max_macs, 1, GUEST_MACS as u64),
        ("max_ips", &d.max_ips, 1, GUEST_IPS as u64),
        ("max_ipv6", &d.max_ipv6, 1, GUEST_IPS as u64),
        ("max_upload", &d.max_upload, MIN_RATE, u64::MAX),
        ("max_download", &d.max_download, MIN_RATE, u64::MAX),
        ("max_broadcast", &d.max_broadcast, 1, MAX_BROADCAST),
    ];
    for (key, limit, low, high) in limits {
        // Without a limit, what is kept is bounded all the same.
        if let Some(n) = limit.0.filter(|n| !(low..=high).contains(n)) {
            let value = n.to_string();
            return Err(CompileError::Limit { key, value, low, high });
        }
    }
    if let (Some(v), false) = (d.vlan.0, d.vlans.0.is_empty()) {
        return Err(CompileError::VlanAndVlans(v));
    }
    if d.monitor.0 && !allow_monitor {
        return Err(CompileError::Monitor);
    }
    let four = d.addresses.0.iter().any(IpAddr::is_ipv4);
    if d.dhcp_filter.0 && d.dhcp_force.0 && !four && !d.filter_ipv4.0 {
        return Err(CompileError::NoAddress);
    }
    match d.addresses.0.iter().find(|a| !is_host(**a)) {
        Some(bad) => Err(CompileError::Address(*bad)),
        None => Ok(()),
    }
}

/// May it be one host's address?
pub(super) fn is_host(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => !(a.octets()[0] == 0 || a.is_multicast() || a.is_broadcast() || a.is_loopback()),
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_multicast() || a.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn policy(sets: &[(&str, &str)]) -> PortPolicy {
        let mut p = PortPolicy::default();
        sets.iter().for_each(|(k, v)| p.set(k, v).unwrap());
        p
    }

    fn lan(sets: &[(&str, &str)]) -> LanPolicy {
        LanPolicy {
            guests: policy(sets),
            ..LanPolicy::default()
        }
    }

    #[test]
    fn softethers_list_is_covered() {
        let softether = [
            "DHCPFilter",
            "DHCPNoServer",
            "DHCPForce",
            "NoBridge",
            "NoRouting",
            "CheckMac",
            "CheckIP",
            "ArpDhcpOnly",
            "PrivacyFilter",
            "NoServer",
            "NoBroadcastLimiter",
            "MonitorPort",
            "MaxMac",
            "MaxIP",
            "MaxUpload",
            "MaxDownload",
            "RAFilter",
            "RSandRAFilter",
            "DHCPv6Filter",
            "DHCPv6NoServer",
            "CheckIPv6",
            "MaxIPv6",
            "FilterIPv4",
            "FilterIPv6",
            "FilterNonIP",
            "NoIPv6DefaultRouterInRA",
            "VLanId",
            "NoRoutingV6",
            "NoServerV6",
        ];
        for name in softether {
            assert!(PortPolicy::KEYS.iter().any(|k| k.softether == name), "{name}");
        }
        assert!(PortPolicy::KEYS.iter().all(|k| k.meaning.len() > 5));
    }

    #[test]
    fn the_stricter_wins_unless_the_lan_says_otherwise() {
        let mut home = lan(&[("max_upload", "20M"), ("no_server", "on"), ("max-ips", "2")]);
        let own = policy(&[
            ("max_upload", "50M"),
            ("no_server", "off"),
            ("max_ips", "1"),
            ("privacy", "on"),
        ]);
        let d = decide(&home, &own, &PortPolicy::default()).unwrap();
        assert_eq!((d.max_upload.0, d.max_ips.0), (Some(20_000_000), Some(1)));
        assert!(d.no_server.0 && d.privacy.0 && d.no_dhcp_server.0);
        home.free.insert("max_upload".into());
        let d = decide(&home, &own, &PortPolicy::default()).unwrap();
        assert_eq!(d.max_upload.0, Some(50_000_000));
    }

    #[test]
    fn what_cannot_hold_is_said_in_words() {
        let compiled = |l: &LanPolicy, g: &[(&str, &str)]| compile(l, &policy(g), &[MAC]).unwrap_err().to_string();
        let home = lan(&[("vlan", "10")]);
        assert!(compiled(&home, &[("vlan", "20")]).contains("leave one of them out"));
        assert!(compiled(&LanPolicy::default(), &[("max_macs", "0")]).contains("1 to 8"));
        assert!(compiled(&LanPolicy::default(), &[("max_upload", "10")]).contains("8000"));
        assert!(compiled(&lan(&[("vlans", "10,20"), ("vlan", "5")]), &[]).contains("unset one"));
        assert!(compiled(&lan(&[("monitor", "on")]), &[]).contains("allow_monitor"));
        assert!(compiled(&LanPolicy::default(), &[("dhcp_filter", "on"), ("dhcp_force", "on")]).contains("no way"));
        assert!(compiled(&lan(&[("addresses", "224.0.0.1")]), &[]).contains("224.0.0.1"));
        assert_eq!(compile(&home, &PortPolicy::default(), &[]), Err(CompileError::Macs(0)));
        let group = MacAddr([1, 0, 0, 0, 0, 1]);
        assert_eq!(
            compile(&home, &PortPolicy::default(), &[group]),
            Err(CompileError::Mac(group))
        );
        let mut p = PortPolicy::default();
        for (k, v) in [
            ("speed", "9"),
            ("vlan", "4095"),
            ("vlans", "1,0"),
            ("max_ips", "9T"),
            ("ra_filter", "maybe"),
        ] {
            assert!(p.set(k, v).unwrap_err().to_string().len() > 20);
        }
        assert_eq!(p, PortPolicy::default(), "nothing of it was taken");
        assert!(p.unset("speed").is_err());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut p = policy(&[
            ("vlans", "7,9"),
            ("addresses", "192.0.2.1,fd00::1"),
            ("max_upload", "none"),
        ]);
        let text = serde_json::to_string(&p).unwrap();
        assert_eq!(serde_json::from_str::<PortPolicy>(&text).unwrap(), p, "{text}");
        assert!(serde_json::from_str::<PortPolicy>("{\"speed\":1}").is_err());
        p.unset("vlans").unwrap();
        assert_eq!(p.given().len(), 2);
        for (key, value) in PortPolicy::for_guests().rows() {
            let mut q = PortPolicy::default();
            q.set(key, &value).unwrap();
            assert_eq!(q.given(), [(key, value)]);
        }
    }

    proptest! {
        #[test]
        fn no_settings_make_it_panic_or_exceed_what_is_kept(
            sets in proptest::collection::vec((0usize..PortPolicy::KEYS.len(), "[a-z0-9,.:kMG]{0,9}|on|off|none"), 0..12),
            split in 0usize..12,
        ) {
            let (mut l, mut g) = (PortPolicy::default(), PortPolicy::default());
            for (i, (key, value)) in sets.iter().enumerate() {
                let to = if i < split { &mut l } else { &mut g };
                let _ = to.set(PortPolicy::KEYS[*key].name, value);
            }
            let l = LanPolicy { guests: l, allow_monitor: true, ..LanPolicy::default() };
            if let Ok(c) = compile(&l, &g, &[MAC]) {
                prop_assert!((1..=GUEST_MACS).contains(&c.max_macs));
                prop_assert!((1..=GUEST_IPS).contains(&c.max_ips) && (1..=GUEST_IPS).contains(&c.max_ipv6));
                prop_assert!(crate::policy::explain(&l, &g).is_ok());
            }
        }
    }
}
