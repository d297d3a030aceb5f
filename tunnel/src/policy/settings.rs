//! What can be set for a port, and how settings of a LAN and of a guest become one.
//!
//! A setting that nobody gave is `None`: the next outer layer decides, at last [`PortPolicy::for_guests`]. Settings have
//! the shape of their strictness: a [`Rule`] forbids when it is on, a [`Leave`] allows when it is on, a [`Limit`] is
//! stricter the lower it is. So that a guest's own settings can only narrow what its LAN allows (`compile`).

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

/// Most entries of a list in a setting: VLANs or addresses of one port.
pub const MAX_LIST: usize = 32;

/// Forbids something when it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rule(pub bool);

/// Allows something when it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Leave(pub bool);

/// At most so many; `None`: no limit. In JSON a number or `"none"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Limit(pub Option<u64>);

/// One VLAN, 1 to 4094; `None`: none. In JSON a number or `"none"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Access(pub Option<u16>);

/// VLANs that may be tagged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeSet<u16>")]
pub struct Vlans(pub BTreeSet<u16>);

/// IP addresses that are given by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeSet<IpAddr>")]
pub struct Addresses(pub BTreeSet<IpAddr>);

/// A number or a word, as JSON has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Word(String),
}

impl Written {
    fn of(n: Option<u64>) -> Self {
        n.map_or_else(|| Self::Word("none".into()), Self::Number)
    }

    fn read<T: Value>(self) -> Result<T, String> {
        let text = match self {
            Self::Number(n) => n.to_string(),
            Self::Word(w) => w,
        };
        T::read(&text).ok_or_else(|| format!("not {}", T::FORM))
    }
}

impl TryFrom<Written> for Limit {
    type Error = String;
    fn try_from(w: Written) -> Result<Self, String> {
        w.read()
    }
}

impl TryFrom<Written> for Access {
    type Error = String;
    fn try_from(w: Written) -> Result<Self, String> {
        w.read()
    }
}

/// Lists from JSON have the bounds of those that are written by hand.
impl TryFrom<BTreeSet<u16>> for Vlans {
    type Error = String;
    fn try_from(list: BTreeSet<u16>) -> Result<Self, String> {
        let fits = list.len() <= MAX_LIST && list.iter().all(|v| is_vlan(*v));
        fits.then_some(Self(list)).ok_or_else(|| format!("not {}", Self::FORM))
    }
}

impl TryFrom<BTreeSet<IpAddr>> for Addresses {
    type Error = String;
    fn try_from(list: BTreeSet<IpAddr>) -> Result<Self, String> {
        let fits = list.len() <= MAX_LIST;
        fits.then_some(Self(list)).ok_or_else(|| format!("not {}", Self::FORM))
    }
}

impl From<Limit> for Written {
    fn from(l: Limit) -> Self {
        Self::of(l.0)
    }
}

impl From<Access> for Written {
    fn from(a: Access) -> Self {
        Self::of(a.0.map(u64::from))
    }
}

/// A kind of value: how it is written, and which of two is stricter.
trait Value: Sized + Clone {
    /// What a person may write, for the message when something else was written.
    const FORM: &'static str;
    fn read(text: &str) -> Option<Self>;
    fn show(&self) -> String;
    /// `None`: neither holds both.
    fn stricter(&self, other: &Self) -> Option<Self>;
    /// Whether asking for this and getting `got`, which is stricter, is to be told a leave that is not given. A limit that
    /// turns out lower holds what was asked.
    fn leaves_out(&self, _got: &Self) -> bool {
        false
    }
}

fn read_bool(text: &str) -> Option<bool> {
    match text {
        "on" | "true" | "yes" => Some(true),
        "off" | "false" | "no" => Some(false),
        _ => None,
    }
}

fn show_bool(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

impl Value for Rule {
    const FORM: &'static str = "on or off";
    fn read(text: &str) -> Option<Self> {
        read_bool(text).map(Self)
    }
    fn show(&self) -> String {
        show_bool(self.0)
    }
    fn stricter(&self, other: &Self) -> Option<Self> {
        Some(Self(self.0 || other.0))
    }
    fn leaves_out(&self, got: &Self) -> bool {
        got.0 && !self.0
    }
}

impl Value for Leave {
    const FORM: &'static str = "on or off";
    fn read(text: &str) -> Option<Self> {
        read_bool(text).map(Self)
    }
    fn show(&self) -> String {
        show_bool(self.0)
    }
    fn stricter(&self, other: &Self) -> Option<Self> {
        Some(Self(self.0 && other.0))
    }
    fn leaves_out(&self, got: &Self) -> bool {
        self.0 && !got.0
    }
}

impl Value for Limit {
    const FORM: &'static str = "a number such as 20, 500k, 20M or 1G, or none";
    fn read(text: &str) -> Option<Self> {
        if text == "none" {
            return Some(Self(None));
        }
        let (digits, factor) = match text.strip_suffix(['k', 'M', 'G']) {
            None => (text, 1),
            Some(d) => (
                d,
                match text.as_bytes().last() {
                    Some(b'k') => 1_000,
                    Some(b'M') => 1_000_000,
                    _ => 1_000_000_000,
                },
            ),
        };
        digits.parse::<u64>().ok()?.checked_mul(factor).map(|n| Self(Some(n)))
    }
    fn show(&self) -> String {
        self.0.map_or_else(|| "none".into(), |n| n.to_string())
    }
    fn stricter(&self, other: &Self) -> Option<Self> {
        Some(match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        })
    }
}

impl Value for Access {
    const FORM: &'static str = "a VLAN from 1 to 4094, or none";
    fn read(text: &str) -> Option<Self> {
        if text == "none" {
            return Some(Self(None));
        }
        text.parse().ok().filter(|v| is_vlan(*v)).map(|v| Self(Some(v)))
    }
    fn show(&self) -> String {
        self.0.map_or_else(|| "none".into(), |n| n.to_string())
    }
    fn stricter(&self, other: &Self) -> Option<Self> {
        match (self.0, other.0) {
            (Some(a), Some(b)) if a != b => None,
            (a, b) => Some(Self(a.or(b))),
        }
    }
}

/// A number that a VLAN may have (802.1Q §9.6).
pub fn is_vlan(v: u16) -> bool {
    (1..=4094).contains(&v)
}

fn read_list<T: FromStr + Ord>(text: &str) -> Option<BTreeSet<T>> {
    if text == "none" {
        return Some(BTreeSet::new());
    }
    text.split(',').map(|part| part.trim().parse().ok()).collect()
}

fn show_list<T: fmt::Display>(list: &BTreeSet<T>) -> String {
    if list.is_empty() {
        return "none".into();
    }
    list.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

impl Value for Vlans {
    const FORM: &'static str = "VLANs from 1 to 4094 such as 10,20 (at most 32), or none";
    fn read(text: &str) -> Option<Self> {
        Self::try_from(read_list(text)?).ok()
    }
    fn show(&self) -> String {
        show_list(&self.0)
    }
    fn stricter(&self, other: &Self) -> Option<Self> {
        Some(Self(self.0.intersection(&other.0).copied().collect()))
    }
    fn leaves_out(&self, got: &Self) -> bool {
        !self.0.is_subset(&got.0)
    }
}

impl Value for Addresses {
    const FORM: &'static str = "IP addresses such as 192.0.2.7,2001:db8::7 (at most 32), or none";
    fn read(text: &str) -> Option<Self> {
        Self::try_from(read_list(text)?).ok()
    }
    fn show(&self) -> String {
        show_list(&self.0)
    }
    /// Addresses that a LAN's owner gives and those of one guest add up: who may give any is decided before.
    fn stricter(&self, other: &Self) -> Option<Self> {
        Some(Self(self.0.intersection(&other.0).copied().collect()))
    }
    fn leaves_out(&self, got: &Self) -> bool {
        !self.0.is_subset(&got.0)
    }
}

/// Why settings do not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// No such key.
    #[error("there is no setting '{0}'; see them all: lanline lan policy NAME")]
    Unknown(String),
    /// Not a value of its kind.
    #[error("{key} cannot be '{value}'; write {form}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// What was written.
        value: String,
        /// What may be written.
        form: &'static str,
    },
    /// Two layers ask for what cannot be had together.
    #[error("{key} is {lan} for the LAN and {guest} here: leave one of them out")]
    Clash {
        /// The key.
        key: &'static str,
        /// The LAN's.
        lan: String,
        /// The guest's.
        guest: String,
    },
    /// A guest may only narrow.
    #[error("{key} is {lan} there and cannot be {asked}: who starts a guest can only narrow what it may do")]
    NoLeave {
        /// The key.
        key: &'static str,
        /// What holds without the wish.
        lan: String,
        /// The wish.
        asked: String,
    },
}

/// A setting, for people and documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// SoftEther's name of the same, or `-`.
    pub softether: &'static str,
}

macro_rules! port_policy {
    ($($softether:literal $(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:expr,)+) => {
        /// Settings of a port; those that are not given are `None`.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct PortPolicy {
            $($(#[doc = $doc])+ #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$kind>,)+
        }

        /// Every setting of a port, decided.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Decided {
            $($(#[doc = $doc])+ pub $name: $kind,)+
        }

        impl PortPolicy {
            /// All settings, in order.
            pub const KEYS: &'static [Key] = &[$(Key {
                name: stringify!($name),
                meaning: concat!($($doc),+).trim_ascii(),
                softether: $softether,
            }),+];

            /// What holds for a guest of which nobody said anything.
            pub fn for_guests() -> Decided {
                Decided { $($name: $default,)+ }
            }

            /// Sets one by name; `-` in a name is read as `_`.
            pub fn set(&mut self, key: &str, value: &str) -> Result<(), SettingError> {
                let (key, value) = (key.trim().replace('-', "_"), value.trim());
                $(if key == stringify!($name) {
                    self.$name = Some(<$kind as Value>::read(value).ok_or_else(|| SettingError::BadValue {
                        key: stringify!($name),
                        value: value.chars().filter(|c| !c.is_control()).take(40).collect(),
                        form: <$kind as Value>::FORM,
                    })?);
                    return Ok(());
                })+
                Err(unknown(&key))
            }

            /// Takes one back by name.
            pub fn unset(&mut self, key: &str) -> Result<(), SettingError> {
                let key = key.trim().replace('-', "_");
                $(if key == stringify!($name) {
                    self.$name = None;
                    return Ok(());
                })+
                Err(unknown(&key))
            }

            /// Those that are given: name and value as it is written.
            pub fn given(&self) -> Vec<(&'static str, String)> {
                let mut out = Vec::new();
                $(out.extend(self.$name.as_ref().map(|v| (stringify!($name), Value::show(v))));)+
                out
            }

            /// Everything decided: these where given, else `base`.
            pub fn over(&self, base: &Decided) -> Decided {
                Decided { $($name: self.$name.clone().unwrap_or_else(|| base.$name.clone()),)+ }
            }

            /// A guest's settings within `lan`'s: the stricter of both, but for the keys in `free` the guest's.
            pub fn within(&self, lan: &Decided, free: &BTreeSet<String>) -> Result<Decided, SettingError> {
                Ok(Decided { $($name: match &self.$name {
                    None => lan.$name.clone(),
                    Some(own) if free.contains(stringify!($name)) => own.clone(),
                    Some(own) => lan.$name.stricter(own).ok_or_else(|| SettingError::Clash {
                        key: stringify!($name),
                        lan: lan.$name.show(),
                        guest: own.show(),
                    })?,
                },)+ })
            }
        }

        impl PortPolicy {
            /// Settings that two layers give, as one: where both give one, the stricter.
            pub fn and(&self, other: &Self) -> Result<Self, SettingError> {
                Ok(Self { $($name: match (&self.$name, &other.$name) {
                    (Some(a), Some(b)) => Some(a.stricter(b).ok_or_else(|| SettingError::Clash {
                        key: stringify!($name),
                        lan: a.show(),
                        guest: b.show(),
                    })?),
                    (a, b) => a.clone().or_else(|| b.clone()),
                },)+ })
            }

            /// An error for the first of these that asks for a leave which `got` does not hold.
            pub fn check_leaves(&self, got: &Decided) -> Result<(), SettingError> {
                $(if let Some(asked) = self.$name.as_ref().filter(|a| a.leaves_out(&got.$name)) {
                    return Err(SettingError::NoLeave {
                        key: stringify!($name),
                        lan: got.$name.show(),
                        asked: asked.show(),
                    });
                })+
                Ok(())
            }
        }

        impl Decided {
            /// All of them: name and value as it is written.
            pub fn rows(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($name), Value::show(&self.$name)),)+]
            }
        }
    };
}

fn unknown(key: &str) -> SettingError {
    SettingError::Unknown(key.chars().filter(|c| !c.is_control()).take(40).collect())
}

port_policy! {
    "DHCPFilter"
    /// No DHCP at all, in either direction.
    dhcp_filter: Rule = Rule(false),
    "DHCPNoServer"
    /// It does not answer DHCP, as server or as relay.
    no_dhcp_server: Rule = Rule(true),
    "DHCPForce"
    /// IPv4 only with an address that a DHCP server gave it, or that `addresses` lists.
    dhcp_force: Rule = Rule(false),
    "DHCPv6Filter"
    /// No DHCPv6 at all, in either direction.
    dhcpv6_filter: Rule = Rule(false),
    "DHCPv6NoServer"
    /// It does not answer DHCPv6, as server or as relay.
    no_dhcpv6_server: Rule = Rule(true),
    "RAFilter"
    /// It does not advertise itself as an IPv6 router.
    ra_filter: Rule = Rule(true),
    "RSandRAFilter"
    /// No router solicitations from it and no router advertisements to it.
    rs_ra_filter: Rule = Rule(false),
    "NoIPv6DefaultRouterInRA"
    /// Router advertisements reach it without a default router.
    no_default_router: Rule = Rule(false),
    "NoBridge"
    /// Only its given Ethernet address, no others behind it.
    no_bridge: Rule = Rule(true),
    "NoRouting"
    /// IPv4 only from addresses that it holds, so that it routes for nobody.
    no_routing: Rule = Rule(true),
    "NoRoutingV6"
    /// IPv6 only from addresses that it holds, so that it routes for nobody.
    no_routing_v6: Rule = Rule(true),
    "CheckMac"
    /// No Ethernet address that is somebody else's, also inside ARP, ND and DHCP.
    check_mac: Rule = Rule(true),
    "CheckIP"
    /// No IPv4 address that is somebody else's.
    check_ip: Rule = Rule(true),
    "CheckIPv6"
    /// No IPv6 address that is somebody else's.
    check_ipv6: Rule = Rule(true),
    "ArpDhcpOnly"
    /// Of broadcasts and multicasts only ARP, DHCP and neighbour discovery.
    arp_dhcp_only: Rule = Rule(false),
    "PrivacyFilter"
    /// Nothing between it and other guests.
    privacy: Rule = Rule(false),
    "NoServer"
    /// It accepts no TCP connection over IPv4.
    no_server: Rule = Rule(false),
    "NoServerV6"
    /// It accepts no TCP connection over IPv6.
    no_server_v6: Rule = Rule(false),
    "FilterIPv4"
    /// No IPv4 and no ARP.
    filter_ipv4: Rule = Rule(false),
    "FilterIPv6"
    /// No IPv6.
    filter_ipv6: Rule = Rule(false),
    "FilterNonIP"
    /// Nothing but IPv4, ARP and IPv6.
    filter_non_ip: Rule = Rule(false),
    "-"
    /// Nothing that switches say to each other: LLC (spanning tree, CDP), LLDP, PAUSE, LACP, 802.1X, loopback tests.
    filter_switch_protocols: Rule = Rule(true),
    "NoBroadcastLimiter"
    /// Broadcasts and multicasts a second from it; ARP, DHCP and ND have a budget of their own.
    max_broadcast: Limit = Limit(Some(100)),
    "MonitorPort"
    /// It receives all frames that pass this node, and sends none; the LAN must set `allow_monitor`.
    monitor: Leave = Leave(false),
    "MaxMac"
    /// Ethernet addresses behind it, its own among them.
    max_macs: Limit = Limit(Some(8)),
    "MaxIP"
    /// IPv4 addresses.
    max_ips: Limit = Limit(Some(8)),
    "MaxIPv6"
    /// IPv6 addresses.
    max_ipv6: Limit = Limit(Some(16)),
    "MaxUpload"
    /// Bits a second from it.
    max_upload: Limit = Limit(None),
    "MaxDownload"
    /// Bits a second to it.
    max_download: Limit = Limit(None),
    "VLanId"
    /// Its untagged frames are in this VLAN of the LAN, and it sees no other.
    vlan: Access = Access(None),
    "-"
    /// VLANs that it may tag and receive tagged.
    vlans: Vlans = Vlans(BTreeSet::new()),
    "-"
    /// IP addresses that it may use without a lease; only the LAN's settings give any.
    addresses: Addresses = Addresses(BTreeSet::new()),
}
