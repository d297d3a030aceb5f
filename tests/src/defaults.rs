//! The lab's numbers, each with its reason.

use std::time::Duration;

/// One-way delay of a lab link: 10 ms each way, so a link adds the 20 ms to a round trip, and two nodes behind
/// one link each are 40 ms apart.
pub const LINK_DELAY: Duration = Duration::from_millis(10);

/// Rate of a lab link, bits a second, each way.
pub const LINK_RATE: u64 = 100_000_000;

/// Queue of a lab link in bytes, each way: 20 ms at 100 Mb/s, one round trip of the link. A home router's is of this
/// order or larger.
pub const LINK_QUEUE: u64 = 250_000;

/// Frames that one link and direction may hold in flight, whatever the delay asks for: 1 s of 64-byte frames at
/// 100 Mb/s is 195,000; a link that holds more is a test gone wrong.
pub const LINK_FRAMES: usize = 200_000;

/// The lab's internet: the benchmarking range (RFC 2544, RFC 6890), routed nowhere.
pub const INTERNET_PREFIX: [u8; 2] = [198, 18];

/// The home LAN, 192.168.77.0/24; its router is .1.
pub const HOME_PREFIX: [u8; 3] = [192, 168, 77];

/// UDP and TCP port that lab nodes listen on; each has a namespace of its own, so all use one.
pub const NODE_PORT: u16 = 7000;

/// How long a debug node may take to say it is ready.
pub const READY_LIMIT: Duration = Duration::from_secs(20);

/// How long one command of the CLI may take before the lab calls it hung. A guard, not an expectation.
pub const CLI_LIMIT: Duration = Duration::from_secs(180);

/// How often a condition is looked at while waiting for it.
pub const POLL_EVERY: Duration = Duration::from_millis(20);

/// An unprivileged user and group: Debian's and Ubuntu's `nobody` and `nogroup`.
pub const UNPRIVILEGED: u32 = 65_534;
