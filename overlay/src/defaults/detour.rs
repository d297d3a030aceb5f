//! Which members are tried as relays while the path to a peer is bad ([`crate::detour`]).

use std::time::Duration;

/// Members asked at random in one round: with four, one-hop source routing found a way around nearly every failure that
/// has one (Gummadi et al., OSDI 2004).
pub const DRAW: usize = 4;
/// Members that helped before and are remembered for one peer; the last of them is asked in the first round.
pub const HELPED: usize = 4;
/// Members asked in one round: the draw, one that helped before, and the nearest one.
pub const ROUND: usize = DRAW + 2;
/// Other members are asked after this, while nothing answers: by then a channel that works was opened and pinged, at a
/// round trip of 250 ms.
pub const NEXT_ROUND: Duration = Duration::from_secs(1);
/// When all were asked in vain, or the path is only bad, they are asked again after this; doubled up to the second.
pub const AGAIN: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));
/// A share lost above this makes a path lossy: TCP is slow by then.
pub const LOSSY: f64 = 0.05;
/// A direct path is slow at so many times its own best of late, and [`SLOW_MORE`].
pub const SLOW: u32 = 2;
/// See [`SLOW`].
pub const SLOW_MORE: Duration = Duration::from_millis(30);
/// For how long the best round trip of a direct path is remembered, at least; twice that at most.
pub const BASELINE: Duration = Duration::from_secs(600);
/// How often a heavy pair tries one member for a shorter way.
pub const IMPROVE_EVERY: Duration = Duration::from_secs(30);
/// Trouble that is over for so long ends its episode; what comes after begins anew.
pub const CALM: Duration = Duration::from_secs(10);
/// Helpers looked at: as many as relays are known at once.
pub const HELPERS: usize = super::RELAY_OFFERS;
/// How often a busy link is looked at while nothing changes.
pub const LOOK: Duration = Duration::from_secs(1);
