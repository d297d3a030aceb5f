//! Why a frame went no further. The name is the counter's name, the label in metrics and the field in the trace.

use serde::{Serialize, Serializer};
use std::{collections::BTreeMap, fmt};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame, a datagram or an advert was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }

            /// Does it end a frame or a datagram? The others are refused adverts, and frames that went on.
            pub fn ends_frame(self) -> bool {
                !matches!(self, Self::FdbFull | Self::AdvertRefused | Self::AdvertStale | Self::AdvertJump)
            }

            /// The reason of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|r| r.name() == name)
            }

            /// The counter's name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// Shorter than its headers.
    Runt = "runt",
    /// Longer than a frame can be.
    Oversize = "oversize",
    /// VLAN 4095, or more than two tags.
    BadTag = "bad_tag",
    /// Offload claims that the frame's bytes contradict.
    BadOffload = "bad_offload",
    /// The source address is a group, or zero.
    BadSource = "bad_source",
    /// To an address that bridges never forward (802.1Q table 8-1).
    ReservedMac = "reserved_mac",
    /// A guest's frame with a source that it was not given.
    SpoofedSource = "spoofed_source",
    /// A frame whose source is a guest's given address, from elsewhere.
    StaticMac = "static_mac",
    /// A frame from a link whose source lives on a port here: a loop, or a move that is not advertised yet.
    SourceIsLocal = "source_is_local",
    /// The address moves too often and stays where it was.
    FrozenMac = "frozen_mac",
    /// A guest's own address, which a member took over: the guest runs elsewhere, or somebody claims so.
    FencedMac = "fenced_mac",
    /// From a link, and its destination is behind a link.
    SplitHorizon = "split_horizon",
    /// Its destination is where it came from.
    SamePort = "same_port",
    /// Nobody to send it to: no other port, no member's link.
    Nowhere = "nowhere",
    /// Its destination's member has no link just now.
    NoLink = "no_link",
    /// More ARP than one sender may send.
    ArpBudget = "arp_budget",
    /// More neighbour and router discovery than one sender may send.
    NdBudget = "nd_budget",
    /// More DHCP than one sender may send.
    DhcpBudget = "dhcp_budget",
    /// More IGMP and MLD than one sender may send.
    MembershipBudget = "membership_budget",
    /// More mDNS and SSDP than one sender may send.
    DiscoveryBudget = "discovery_budget",
    /// More broadcast than one sender may send.
    BroadcastBudget = "broadcast_budget",
    /// More multicast than one sender may send.
    MulticastBudget = "multicast_budget",
    /// More to addresses in no table than one sender may send.
    UnknownBudget = "unknown_budget",
    /// More ARP requests for addresses that nobody has than one sender may send.
    ArpUnknownBudget = "arp_unknown_budget",
    /// More neighbour solicitations for addresses that nobody has than one sender may send: a scan.
    NdUnknownBudget = "nd_unknown_budget",
    /// Within its sender's budget, but all senders of the LAN together are over theirs.
    LanBudget = "lan_budget",
    /// Multicast that nobody who could get it listens to.
    NoListener = "no_listener",
    /// A guest that joins more groups than a port, or a node, may have; the report itself went on.
    TooManyGroups = "too_many_groups",
    /// A guest that asks for listeners, as only multicast routers do.
    GuestMcastQuery = "guest_mcast_query",
    /// A port by translation carries ARP and untagged IP alone.
    TranslateNotIp = "translate_not_ip",
    /// To, or in the name of, an address of the machine whose card the port uses.
    TranslateHostAddress = "translate_host_address",
    /// From the segment, for no guest that is known: most of it is the machine's own.
    TranslateNotMapped = "translate_not_mapped",
    /// A guest that answers DHCP.
    GuestDhcpServer = "guest_dhcp_server",
    /// A guest that advertises itself as router.
    GuestRouterAdvert = "guest_router_advert",
    /// A guest's ARP or ND that speaks for another address.
    GuestNeighbourSpoof = "guest_neighbour_spoof",
    /// A guest's packet whose headers cannot be followed to their end.
    GuestHiddenHeaders = "guest_hidden_headers",
    /// A guest's VLAN tag that it may not use.
    GuestTag = "guest_tag",
    /// A guest's packet from an IP address that it does not hold.
    GuestAddress = "guest_address",
    /// A guest that takes an IP address that is somebody else's.
    GuestAddressTaken = "guest_address_taken",
    /// More IP addresses than the guest may have.
    GuestAddressCap = "guest_address_cap",
    /// More Ethernet addresses than may be behind the guest.
    GuestMacCap = "guest_mac_cap",
    /// A guest that takes an Ethernet address that is somebody else's.
    GuestMacTaken = "guest_mac_taken",
    /// A guest that asks a DHCP server in another's name, or in too many names.
    GuestDhcpIdentity = "guest_dhcp_identity",
    /// A guest's DHCP message that can be read in two ways or not at all.
    GuestBadDhcp = "guest_bad_dhcp",
    /// A guest that tells others of a better router.
    GuestRedirect = "guest_redirect",
    /// A guest that speaks to switches: spanning tree, LLDP, PAUSE and their like.
    GuestSwitchProtocol = "guest_switch_protocol",
    /// More broadcasts and multicasts than the guest may send.
    GuestBroadcastCap = "guest_broadcast_cap",
    /// More bytes than the guest may send.
    GuestUploadCap = "guest_upload_cap",
    /// More bytes than the guest may be sent.
    GuestDownloadCap = "guest_download_cap",
    /// A kind of frame that the guest's settings filter out.
    GuestFiltered = "guest_filtered",
    /// A connection to a guest that may not serve.
    GuestServer = "guest_server",
    /// A frame between guests that are kept apart.
    GuestPrivacy = "guest_privacy",
    /// A frame of a VLAN that the guest is not in.
    GuestVlan = "guest_vlan",
    /// A frame from a port that only listens.
    GuestMonitor = "guest_monitor",
    /// Longer than the LAN's MTU.
    OverMtu = "over_mtu",
    /// A datagram for a LAN that this node is not in.
    UnknownLan = "unknown_lan",
    /// A datagram from a peer that is not a member of its LAN.
    NotMember = "not_member",
    /// A datagram that cannot be read to its end.
    Malformed = "malformed",
    /// A record of a later version, or one that does not belong where it stands.
    UnknownRecord = "unknown_record",
    /// A fragment that contradicts the others of its frame.
    BadFragment = "bad_fragment",
    /// A frame whose other fragments never came.
    FragmentTimeout = "fragment_timeout",
    /// A frame whose fragments had to give way to newer ones.
    FragmentOverflow = "fragment_overflow",
    /// The oldest of the fattest flow in a link's full queue.
    QueueFull = "queue_full",
    /// Its flow kept a queue for too long, and does not speak ECN.
    Codel = "codel",
    /// It waited for a link that ended.
    LinkGone = "link_gone",
    /// The path's MTU shrank while the datagram waited.
    LinkTooLarge = "link_too_large",
    /// The path's MTU is below what is worth cutting frames for.
    PathTooSmall = "path_too_small",
    /// The port's interface is down.
    PortDown = "port_down",
    /// The kernel refused the frame.
    PortRejected = "port_rejected",
    /// The port's queue was full.
    PortFull = "port_full",
    /// The guest's socket is not connected.
    GuestAway = "guest_away",
    /// More frames for addresses that just moved than wait, or than are sent after them, at once.
    MoveOverflow = "move_overflow",
    /// A frame for an address that left, and nobody said in time where it is.
    MoveTimeout = "move_timeout",
    /// A frame that was sent after an address which did not move here from its sender just now.
    ForwardRefused = "forward_refused",
    /// More frames made by the switch itself than wait for the pump at once.
    MadeOverflow = "made_overflow",
    /// The table of addresses is full; the frame itself went on.
    FdbFull = "fdb_full",
    /// A loop probe: looked at, forwarded nowhere.
    LoopProbe = "loop_probe",
    /// A loop probe that its sender did not sign.
    ProbeForged = "probe_forged",
    /// A loop probe that was heard before.
    ProbeReplayed = "probe_replayed",
    /// More loop probes on one port than are checked.
    ProbeBudget = "probe_budget",
    /// The port is new and only listens who else is there.
    PortListening = "port_listening",
    /// Another member carries the frames of the port's physical LAN.
    PortStandby = "port_standby",
    /// The port is cut: it is part of a loop.
    PortLoop = "port_loop",
    /// This node's own sealed traffic, about to enter its own tunnel.
    SelfEncapsulation = "self_encapsulation",
    /// An advert that may not displace what is known.
    AdvertRefused = "advert_refused",
    /// An advert with an older mobility sequence than is known.
    AdvertStale = "advert_stale",
    /// An advert whose mobility sequence is further ahead than moves could have made it.
    AdvertJump = "advert_jump",
}

impl DropReason {
    /// Its sender, or its LAN, was over budget.
    pub fn is_budget(self) -> bool {
        (Self::ArpBudget..=Self::LanBudget).contains(&self)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for DropReason {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl From<wire::frame::FrameError> for DropReason {
    fn from(e: wire::frame::FrameError) -> Self {
        use wire::frame::FrameError as E;
        match e {
            E::Runt => Self::Runt,
            E::Oversize => Self::Oversize,
            E::ReservedVlan | E::TooManyTags => Self::BadTag,
            E::UnknownOffload => Self::BadOffload,
        }
    }
}

/// One counter for each reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops(Vec<u64>);

impl Default for Drops {
    fn default() -> Self {
        Self(vec![0; DropReason::ALL.len()])
    }
}

impl Drops {
    /// One more.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// So many more.
    pub fn add(&mut self, reason: DropReason, n: u64) {
        if let Some(c) = self.0.get_mut(reason as usize) {
            *c = c.saturating_add(n);
        }
    }

    /// How many.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Adds all of another's counters.
    pub fn merge(&mut self, other: &Self) {
        for r in DropReason::ALL {
            self.add(*r, other.get(*r));
        }
    }

    /// Those that are not zero, by name.
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        DropReason::ALL
            .iter()
            .map(|r| (r.name(), self.get(*r)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_counters_are_apart() {
        let names: std::collections::BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        let mut d = Drops::default();
        for (i, r) in DropReason::ALL.iter().enumerate() {
            d.add(*r, i as u64);
        }
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(d.get(*r), i as u64);
            assert_eq!(DropReason::from_name(r.name()), Some(*r));
            assert!(r.meaning().ends_with('.') && r.meaning().len() > 10, "{r}");
        }
    }
}
