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
/// Routers forward the port if asked: a node behind a symmetric one is then reached directly.
pub const PORT_MAPPING: bool = true;
/// TCP port on which WebSocket is listened for; 0: none. 443 is what strict networks let out, and other programs want it too.
pub const WEB_PORT: u16 = 0;
/// What the image store may take: some thirty cloud images; a disk that is smaller is the bound itself.
pub const STORE_QUOTA: wire::ByteSize = wire::ByteSize(64 << 30);
/// Mb/s of pieces that are sent at most; 0: as the line allows. What a guest elsewhere waits for is sent at once, the rest pays.
pub const STORE_UPLOAD_MBPS: u32 = 0;
/// What a person would want to know and no more; no addresses (they begin at `debug`).
pub const LOG_LEVEL: &str = "info";
/// What goes before every log filter: the network library says addresses at `info` and `warn`. `libp2p=info` in the
/// filter itself wins over it.
pub const LOG_QUIET: &str = "libp2p=error";
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
/// Parts that a pull can be split into: more seeders than that are not prepared by hand.
pub const MAX_PARTS: u32 = 64;
/// Virtual processors of a guest when nothing is said: every host has one.
pub const GUEST_CPUS: u32 = 1;
/// Memory of a guest when nothing is said: a distribution's cloud image boots in it.
pub const GUEST_MEMORY: wire::ByteSize = wire::ByteSize(512 << 20);
/// How long `run` waits for an address when nothing is said: an emulated cloud image needs about two minutes to boot.
pub const RUN_TIMEOUT_MS: u64 = 180_000;
/// How long `wait` and `exec` wait when nothing is said: an emulated guest boots in less.
pub const WAIT_MS: u64 = 60_000;
/// How long `console` goes on showing output after its input ended, counted from the last output.
pub const CONSOLE_LINGER: Duration = Duration::from_secs(1);
/// How often a progress line is redrawn at most: what an eye can follow.
pub const REDRAW: Duration = Duration::from_millis(100);
/// Longest ticket that is read from standard input, bytes.
pub const MAX_TICKET_INPUT: u64 = 16 << 10;
/// How often `down` looks whether the node has ended.
pub const DOWN_POLL: Duration = Duration::from_millis(50);
/// Parts of a capture that wait for its reader; with what the tunnel holds for it, 8 MiB of frames in all.
pub const CAPTURE_PARTS: usize = 16;
/// Bytes of a capture that make a part without waiting for more: one write of a reader's pipe.
pub const CAPTURE_PART_BYTES: usize = 64 << 10;
/// How often a capture says how many frames it lost, if that changed.
pub const CAPTURE_STATISTICS: Duration = Duration::from_secs(1);
/// How long `lan trace` waits for the member that has the address.
pub const TRACE_WAIT: Duration = Duration::from_secs(3);
/// How long `advise placement` waits for members and hosts.
pub const TALK_WAIT: Duration = Duration::from_secs(3);
/// Nodes that a guest talks to, as `advise placement` lists them.
pub const TALKED_TO: usize = 8;
/// How often `lan show --watch` looks again.
pub const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Words about the MTU of a LAN that are remembered: each member of a large LAN has one, in each of a few LANs.
pub const MTU_WORDS: usize = 8_192;
/// Settings of a newer version in a LAN's policy that are named; more are counted by nobody.
pub const POLICY_NOTES: usize = 8;
/// How often the MTU of the interfaces in LANs is looked at: a person who changes one waits no longer, and an idle node wakes
/// six times a minute for it.
pub const MTU_LOOK: Duration = Duration::from_secs(10);
/// How long after its start a node gives back the memory that only the start needed: by then it has joined what it was in.
pub const LEAN_AFTER: Duration = Duration::from_secs(10);
/// How often the sensors are read: host load has most of its structure above a second.
pub const SENSE_EVERY: Duration = Duration::from_secs(1);
