//! Control connections that nothing runs over ([`crate::keep`]).

use std::time::Duration;

/// How often connections are looked at; nothing is sent by that.
pub const EVERY: Duration = Duration::from_secs(1);
/// Where a router stands between, whoever dialled asks after so much silence: common NATs forget a UDP mapping after 30 s.
/// 19 such connections cost 8 MB a day.
pub const IDLE_NAT: Duration = Duration::from_secs(26);
/// Where none does: so soon a peer is missed that died while nothing was said.
pub const IDLE: Duration = Duration::from_secs(40);
/// Who was dialled waits so many times longer, and so has nothing to ask.
pub const LATER: f64 = 1.25;
/// The machine slept if so much time passed between two looks.
pub const SLEPT: Duration = Duration::from_secs(8);
/// What was sent and is unanswered for so long makes a connection be asked.
pub const UNSURE: Duration = Duration::from_secs(4);
/// A question that is unanswered for so long ends it: an outage of a dozen seconds is lived through.
pub const DEAD: Duration = Duration::from_secs(12);
/// So often it must have been looked at meanwhile.
pub const LOOKS: u32 = 8;
