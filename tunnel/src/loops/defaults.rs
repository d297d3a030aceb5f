//! Every bound and interval of the loop guard, with where the number comes from.

use std::time::Duration;

/// Between probes on a port that is not a guest's: two in a row may be lost and a loop is still found within 5 s.
pub const PROBE_EVERY: Duration = Duration::from_secs(2);
/// Between probes on a guest's port.
pub const GUEST_PROBE_EVERY: Duration = Duration::from_secs(5);
/// Shortest time between two probes on one port, whatever happens.
pub const PROBE_GAP: Duration = Duration::from_millis(250);
/// A member not heard for three intervals is gone from the segment; leaves 4 s of the 10 that a failover may take.
pub const PROBE_LOST: Duration = Duration::from_secs(6);
/// How long a new port only listens: three probes of its own go out; every member answers the first at once, and who
/// forwards each of them. So no single one that was lost, or came too early to be understood, makes two forwarders.
pub const LISTEN: Duration = Duration::from_secs(2);
/// How long a port must be the best of its segment before it steps in. Two that take themselves for it hear of each other
/// before either does: each has said what it reaches within a [`PROBE_GAP`] of its own wait, each claim is out within one
/// more, and the third is for the way there.
pub const STEP_IN: Duration = PROBE_GAP.saturating_mul(3);
/// How often a port that stands by or is cut is looked at.
pub const GUARD_TICK: Duration = Duration::from_millis(500);
/// Signatures that are checked a second on one port, some 60 us each: 1 % of a core.
pub const PROBE_CHECKS: u32 = 150;
/// Nodes that are remembered on one port; those not heard for the longest time give way.
pub const PROBERS: usize = 64;
/// An own probe that comes back within this time is a loop; later, somebody recorded it.
pub const PROBE_ECHO: Duration = Duration::from_secs(5);
/// Own probes of one port that are remembered: all of [`PROBE_ECHO`], even if each came as soon as may be.
pub const PROBES_KEPT: usize = 20;
/// After this, a node that comes with an older clock is believed again.
pub const PROBE_FORGET: Duration = Duration::from_secs(600);
/// First pause of a port that was cut for a loop, and the longest after doublings.
pub const CUT_FIRST: Duration = Duration::from_secs(10);
/// See [`CUT_FIRST`].
pub const CUT_LONGEST: Duration = Duration::from_secs(300);
/// A cut, or a change of forwarder, within this time of the last counts as the next in a row.
pub const CUT_WINDOW: Duration = Duration::from_secs(300);
/// Changes of forwarder within [`CUT_WINDOW`] that cost no pause: a failover and back, twice.
pub const FLAPS: usize = 4;
/// Addresses overheard on a port that stands by: as many as may be learned.
pub const OVERHEARD: usize = crate::defaults::FDB_LEARNED;
/// The same warning about a port comes at most this often.
pub const GUARD_WARN: Duration = Duration::from_secs(60);
/// Frames to everybody that are remembered for a second, to see whether they come back; twice what one sender's budget
/// lets pass.
pub const REPEAT_SLOTS: usize = 1_024;
/// Bytes of such a frame that are compared, and its length.
pub const REPEAT_BYTES: usize = 512;
/// Different frames that came both by a port and by a link within [`REPEAT_WINDOW`], and make a loop.
pub const REPEATS: u32 = 4;
/// See [`REPEATS`].
pub const REPEAT_WINDOW: Duration = Duration::from_secs(10);
/// Copies of one frame by two ways, a port and a link or two ports, within a second that make a loop.
pub const COPIES: u32 = 8;
/// DHCP servers and routers that are remembered.
pub const SERVERS: usize = 64;
/// For how long; routers announce themselves at least every 30 min (RFC 4861 §6.2.1), most every 10 or less.
pub const SERVER_KEPT: Duration = Duration::from_secs(1_800);
/// Addresses whose claimants are remembered.
pub const CLAIMS: usize = 1_024;
/// Claims further apart than this are a machine that moved.
pub const CLAIM_KEPT: Duration = Duration::from_secs(60);
/// The same clash is told again after this.
pub const CLASH_AGAIN: Duration = Duration::from_secs(3_600);
/// Own sealed packets that come in by a port within [`REPEAT_WINDOW`] before it is said: a bridge floods a handful.
pub const OWN_STREAM: u32 = 32;
