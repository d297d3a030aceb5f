//! Every default and bound of the node's edge, with where the number comes from; docs/defaults.md tells people.

use std::time::Duration;

/// Progress lines that wait for a slow reader; older work goes on without them. A bar redraws 10 times a second, so
/// this is 6 s of a reader that does not read.
pub const PROGRESS_QUEUE: usize = 64;
/// Largest request body on the control socket, bytes. The largest real one is a ticket of a few hundred bytes.
pub const MAX_BODY: usize = 1 << 20;
/// Largest answer, or line of a stream, that the client reads, bytes: 2,000 members with their rows are about 1 MiB.
pub const MAX_ANSWER: usize = 16 << 20;
/// Requests that are worked on at once; more wait for a turn. People and scripts are few; a runaway loop is bounded.
pub const MAX_REQUESTS: usize = 64;
/// Consoles that are open at once; they last for hours, so they do not take the turns of requests.
pub const MAX_CONSOLES: usize = 32;

/// Address and port of the mesh: one UDP port for all of it, in no registry of well-known ones.
pub const LISTEN: &str = "0.0.0.0:4400";
/// Nodes of one network segment find each other without being told.
pub const MDNS: bool = true;
/// What the image store may take: some thirty cloud images; a disk that is smaller is the bound itself.
pub const STORE_QUOTA: wire::ByteSize = wire::ByteSize(64 << 30);
/// What a person would want to know and no more; no addresses (they begin at `debug`).
pub const LOG_LEVEL: &str = "info";
/// Bootstrap addresses that are taken; a mesh needs one that answers.
pub const MAX_BOOTSTRAP: usize = 64;
/// Largest settings file, bytes; all settings with comments take a tenth of it.
pub const MAX_SETTINGS_FILE: u64 = 64 << 10;
/// Long operations under way at once, beyond which more are refused: each has its own bounds further in.
pub const MAX_STREAMS: usize = 32;
/// Lock of a state folder.
pub const LOCK_FILE: &str = "lock";
/// The control socket, in the state folder.
pub const CONTROL_SOCKET: &str = "control.sock";
/// What open control connections get when the node ends; the whole end has 5 s (docs/cli.md).
pub const END_GRACE: Duration = Duration::from_secs(1);
/// Newest bytes of a log that are answered when nothing is said: about a thousand lines.
pub const LOG_BYTES: u64 = 64 << 10;
/// The most bytes of a log that are answered.
pub const MAX_LOG_BYTES: u64 = 1 << 20;
/// How long the client waits for a node to answer a short request. The longest, a ping of 100, takes half a minute.
pub const CALL_DEADLINE: Duration = Duration::from_secs(120);
/// How long `down` waits for the node to have ended: its own 5 s, and as much again for a busy machine.
pub const DOWN_DEADLINE: Duration = Duration::from_secs(10);
