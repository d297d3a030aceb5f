//! The path set of a link ([`crate::paths`]).

use std::time::Duration;

/// Paths of one link: two full lists of candidates. The deadest gives way to a new one.
pub const PATHS: usize = 32;
/// When a candidate is pinged, ms after it was heard of: holes on both sides are open after one round trip, and a late or
/// lost list is caught up with by the last two.
pub const PUNCH_MS: [u64; 6] = [0, 60, 150, 300, 600, 1_200];
/// A candidate that has not answered so long after its last ping is dead: twice the round trip of a satellite.
pub const PUNCH_WAIT: Duration = Duration::from_millis(1_200);
/// Ports that each side guesses of the other where both routers count their ports up: some dozen that others took on one side, or
/// half a dozen on the other, between the forecast and the guesses are borne.
pub const GUESSES: u16 = 16;
/// Mappings that may have been counted though the router made none: an address of the peer's home to which nothing gets out.
pub const GUESS_BELOW: u16 = 2;
/// When a guess is pinged, ms after the peer's forecast came: the second ping finds the hole that the peer's own guess made.
/// 16 guesses are a third of [`UNPROVED`].
pub const GUESS_MS: [u64; 2] = [0, 300];
/// Guesses begin so long after a link did, and later rounds of pings to what the peer named so long after guesses: the other is
/// over then.
pub const GUESS_AFTER: Duration = Duration::from_millis(2_400);
/// Guesses are tried again no sooner: routers have forgotten the holes of those before.
pub const GUESS_EVERY: Duration = Duration::from_secs(60);
/// A forecast holds for so long: nothing but the peer's answer is waited for.
pub const FORECAST_FOR: Duration = Duration::from_secs(2);
/// Pings and pongs to addresses that nobody proved: at once, and a second. 16 candidates get 6 each: 6 kB, which is all
/// that a lying peer can make a node send at somebody.
pub const UNPROVED: (u32, u32) = (96, 1);
/// Keep-alive of an idle link by the side that dialled, where a router maps addresses: common ones forget a mapping after
/// 30 s. 19 such links cost 8 MB a day.
pub const KEEP_MAPPED: Duration = Duration::from_secs(28);
/// The same where each sees the other at an address of its own: firewalls forget a flow after 2 min or more, so this is only
/// how soon a peer is missed that died while nothing was said.
pub const KEEP_OPEN: Duration = Duration::from_secs(40);
/// The note (what this node's claims add up to) is told at least so often, also while frames make keep-alives needless: four
/// keep-alives, so that this never costs more than an idle link.
pub const NOTE_EVERY: Duration = Duration::from_secs(112);
/// The other side waits so many times longer: the first side's ping, which it answers, makes its own needless.
pub const KEEP_LATER: f64 = 1.2;
/// A link is busy for so long after its last frame: an idle one does not seek a better path.
pub const BUSY: Duration = Duration::from_secs(60);
/// One frame is forgotten in so long, when a link's frames are counted to tell chatter from traffic.
pub const CHATTER_EVERY: Duration = Duration::from_secs(8);
/// More frames than that, beyond those forgotten, are traffic, and paths are measured; fewer (7 in a minute: ARP, keep-alives of
/// TCP) are chatter, and cost no pings.
pub const CHATTER: u32 = 8;
/// Frames remembered at most: what measures a link for as long as [`BUSY`] after its last.
pub const CHATTER_MOST: u32 = 16;
/// How often the active path of a busy link is pinged, for round trip and jitter.
pub const MEASURE: Duration = Duration::from_secs(5);
/// How often a spare of a busy link is pinged, so that its mapping stays.
pub const SPARE_EVERY: Duration = Duration::from_secs(20);
/// Spares that are kept so: one may go with the active path, being the same uplink.
pub const SPARES: usize = 2;
/// An unanswered ping is sent again after this.
pub const AGAIN: Duration = Duration::from_millis(500);
/// So many unanswered pings in a row end a spare; half of it is trouble for the active path.
pub const UNANSWERED: u32 = 4;
/// How often paths are pinged in trouble, at first and after [`TROUBLE_FAST`].
pub const TROUBLE_EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));
/// See [`TROUBLE_EVERY`].
pub const TROUBLE_FAST: Duration = Duration::from_secs(5);
/// How often dead paths are tried again in trouble: a round of pings takes most of it.
pub const TROUBLE_RETRY: Duration = Duration::from_secs(2);
/// The active path is left so long after trouble began, or three round trips within these bounds, if another answers.
/// With half a second until trouble is seen it is 2 s at most, of the 3 s that the issue allows.
pub const SILENT: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(1));
/// Where a peer that is heard from a new address, but not by frames, is followed: two round trips within these bounds
/// after, if the active path said nothing meanwhile.
pub const ROAM: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Another path has to be better by this and by [`HYSTERESIS_SHARE`].
pub const HYSTERESIS: Duration = Duration::from_millis(5);
/// See [`HYSTERESIS`].
pub const HYSTERESIS_SHARE: f64 = 0.2;
/// Pings that two paths get side by side before one takes over from the other, and the pause between them.
pub const CONTEST_PINGS: u32 = 4;
/// See [`CONTEST_PINGS`].
pub const CONTEST_EVERY: Duration = Duration::from_millis(100);
/// A path that lost a contest, or was left, is not tried again so soon; doubled each time up to the second.
pub const CONTEST_PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// A link without a direct path tries all candidates again after this, doubled each time up to the second.
pub const REPUNCH: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// The same while the link is idle: a round costs 6 kB, and nobody waits for it.
pub const REPUNCH_IDLE: Duration = Duration::from_secs(3_600);
/// The longest pause of that for a heavy pair: 16 candidates for half a minute of a stream that takes a detour.
pub const REPUNCH_HEAVY: Duration = Duration::from_secs(30);
/// When the list of own candidates is sent, ms, until it is acknowledged.
pub const ANNOUNCE_MS: [u64; 4] = [0, 300, 1_000, 3_000];
/// Messages that wait to be sent: every path's ping and as many answers.
pub const OUT: usize = 4 * PATHS;
/// Relays are kept for so long after the direct path works again: what failed once may fail again soon.
pub const RELAY_KEEP: Duration = Duration::from_secs(30);
