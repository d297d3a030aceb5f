//! What the node knows of the routers in front of it ([`crate::nat`]).

use std::time::Duration;

/// Own addresses that are looked at: some interfaces of both families, with privacy addresses.
pub const MAX_LOCAL: usize = 16;
/// Views of peers that are kept, and tests from outside: two would do to tell the kind.
pub const MAX_SEEN: usize = 16;
/// A view is forgotten after this time; identify and a link's keep-alives tell it again meanwhile.
pub const SEEN_FOR: Duration = Duration::from_secs(7 * 3_600);
/// Outer addresses told to peers as seen.
pub const SEEN_TOLD: usize = 3;
/// Ports told to peers as likely: with [`SEEN_TOLD`] it is what a peer pings in vain at most.
pub const PREDICTED: usize = 4;
/// Views of one outer address before a step is believed.
pub const STEP_VIEWS: usize = 3;
/// Largest step that can be guessed: with more, other machines' connections lie between.
pub const STEP_MAX: u16 = 8;
/// Destinations remembered to know which of a router's mappings was made when: some peers' candidates, and guesses.
pub const DESTINATIONS: usize = 512;
/// How long a router is asked to keep a mapping: RFC 6886 §3.3's two hours.
pub const MAP_FOR: Duration = Duration::from_secs(7_200);
/// A router that has no mapping for us is asked again after this time; a change of network asks at once.
pub const MAP_RETRY: Duration = Duration::from_secs(600);
/// First wait for a router's answer by PCP and NAT-PMP, doubled twice: RFC 6886 §3.1 begins with 250 ms.
pub const MAP_WAIT: Duration = Duration::from_millis(250);
/// See [`MAP_WAIT`].
pub const MAP_TRIES: usize = 2;
/// Longest search for a UPnP router, and longest wait for one answer of it.
pub const UPNP_WAIT: Duration = Duration::from_secs(3);
