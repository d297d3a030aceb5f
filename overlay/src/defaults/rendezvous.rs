//! Finding a peer that moved when this node did ([`crate::rendezvous`]).

use std::time::Duration;

/// Members are asked when a link is in trouble for so long: where one side moved it answers within a round trip, and a silent
/// path is not left earlier ([`super::paths::SILENT`]).
pub const AFTER: Duration = Duration::from_millis(300);
/// Members asked for one peer: each knows where it is, unless it moved away from that member, too.
pub const HELPERS: usize = 3;
/// The same in one trouble, those that fell silent meanwhile counted.
pub const HELPERS_EVER: usize = 4 * HELPERS;
/// When a member is asked, ms, until it answers.
pub const ASK_MS: [u64; 4] = [0, 500, 2_000, 6_000];
/// A member remembers a question for so long, and who asked believes answers for as long: most of [`super::LINK_IDLE`].
pub const KEEP: Duration = Duration::from_secs(10);
/// Answers to one question: where the peer was, where it is, what it says, and once more to whoever moved.
pub const ANSWERS: u32 = 4;
/// Peers that are sought at once: a machine that is cut off from more has nobody to ask.
pub const SEEKS: usize = 64;
/// Questions remembered at once.
pub const WATCHES: usize = 512;
/// Questions of one member remembered at once.
pub const WATCHES_PER_ASKER: usize = SEEKS;
