//! Every bound and interval of this crate, with where the number comes from.

use std::time::Duration;

/// Ageing of a learned address: the bridge's and 802.1Q's default, also EVPN practice.
pub const AGEING: Duration = Duration::from_secs(300);
/// How often ageing and other slow chores run; an entry lives at most this much too long.
pub const SWEEP: Duration = Duration::from_secs(5);
/// Learned addresses per LAN on this node: a /22 is full at 1,022 hosts.
pub const FDB_LEARNED: usize = 1_024;
/// Addresses that one member may advertise in one LAN: as many as it may learn, and its guests.
pub const FDB_PER_NODE: usize = 1_280;
/// Advertised addresses of all members together in one LAN; 100 bytes each, so some 1.6 MB.
pub const FDB_REMOTE: usize = 16_384;
/// Addresses of one guest port: its own and a few for nested interfaces.
pub const GUEST_MACS: usize = 8;
/// Addresses that one guest's port may enter in the table, over all VLANs; the table itself has [`FDB_LEARNED`].
pub const FDB_PER_GUEST: usize = 64;
/// How long the sequence of an address that is nowhere is remembered; as long as a learned address itself. Whoever comes
/// back with a lower one within that time is told so and goes above it.
pub const SEQ_KEPT: Duration = AGEING;
/// How often, at most, an address goes above a sequence that another member claims to know; nobody's answer may keep this
/// node talking.
pub const RAISE_GAP: Duration = Duration::from_secs(5);
/// How far above the known sequence a claim may be. At the fastest that [`MOVES`] allows, an address that roams in one
/// half of a parted LAN for 27 days stays below it.
pub const SEQ_JUMP: u32 = 1 << 16;
/// Addresses that are watched for moving too often: four times what one full LAN segment has.
pub const FDB_MOVING: usize = 4_096;
/// Moves within [`MOVE_WINDOW`] that freeze an address: RFC 7432 §15.1, N = 5, M = 180 s.
pub const MOVES: usize = 5;
/// See [`MOVES`].
pub const MOVE_WINDOW: Duration = Duration::from_secs(180);
/// How long a frozen address stays where it was; as long as the window, so that a healed loop heals the LAN.
pub const FREEZE: Duration = Duration::from_secs(180);
/// An address that freezes again at once stays frozen twice as long, so many times: 48 minutes at most.
pub const FREEZE_DOUBLED: u32 = 4;
/// Adverts of a member whose link is down are kept for this long, so that a link that flaps makes nobody flood. Below the
/// 10 s in which another member must be able to take over a LAN port.
pub const LINK_STALE: Duration = Duration::from_secs(5);
/// After its link came back a member says everything again; what it did not say again within this time is no longer there.
pub const LINK_CONFIRM: Duration = Duration::from_secs(10);
/// An advert that is not said again goes after this: three refreshes lost, and a little.
pub const ADVERT_EXPIRY: Duration = Duration::from_secs(200);
/// Full set of adverts again: repairs an update that was lost with a control connection.
pub const REFRESH: Duration = Duration::from_secs(60);
/// Adverts of one LAN go out at most this often; the first after a quiet time at once. A change that waits this long
/// costs nobody anything, and updates that overtake each other on the way stay rare.
pub const ADVERT_GAP: Duration = Duration::from_millis(50);
/// Adverts of guests and of moves that need not wait for [`ADVERT_GAP`], a second.
pub const URGENT_RATE: u32 = 20;
/// Burst of the same.
pub const URGENT_BURST: u32 = 20;
/// Adverts in one event.
pub const ADVERTS_PER_EVENT: usize = wire::frame::MAX_ADVERTS;

/// Ports of one node: 256 guests is far beyond what a lending host runs.
pub const PORTS: usize = 256;
/// LANs of one node.
pub const LANS: usize = 64;
/// Links of one node; as many as a LAN may have members in full mesh (design §6 draws the line at 2,000).
pub const LINKS: usize = 2_048;

/// Broadcast, unknown and multicast frames a second from one port or one peer; a home LAN of 50 devices shows about 20.
pub const BUM_RATE: u32 = 200;
/// Burst of the same.
pub const BUM_BURST: u32 = 400;
/// ARP, ND and DHCP frames a second from one port or peer, in a bucket of their own.
pub const ESSENTIAL_RATE: u32 = 100;
/// Burst of the same.
pub const ESSENTIAL_BURST: u32 = 200;

/// Frames that the switch made and that wait for the pump, which takes them within the same wake-up.
pub const MADE_FRAMES: usize = 1_024;
/// How long what is on its way to an address that moved is sent after it: many round trips, and far more than an advert takes.
pub const FORWARD_AFTER_MOVE: Duration = Duration::from_secs(2);
/// How long the new place takes such frames: the above, and what the advert took to the old place.
pub const ARRIVED_LATELY: Duration = Duration::from_secs(5);
/// Addresses that moved lately, each way: as many as one LAN segment may have.
pub const MOVED_LATELY: usize = 1_024;
/// Frames that wait for the new place of an address that left; a guest's TCP has about so many in flight at 20 Mb/s.
pub const HOLD_FRAMES: usize = 64;
/// Bytes of the same.
pub const HOLD_BYTES: usize = 256 * 1024;
/// Bytes that are sent after moved addresses in one wake-up: sixteen super-frames.
pub const FORWARD_BYTES: usize = 1 << 20;
/// Announcements of moves a second to the LAN ports of this node: a whole rack that migrates within some seconds.
pub const ANNOUNCE_RATE: u32 = 20;
/// Burst of the same: one move with all its addresses, seven times.
pub const ANNOUNCE_BURST: u32 = 64;

/// Bytes that wait for one link: the product of 100 Mb/s and 160 ms; CoDel keeps the delay short, not this.
pub const LINK_QUEUE_BYTES: usize = 2 * 1024 * 1024;
/// Bytes that wait for all links together: eight full ones; a node has 40 MiB in all.
pub const ALL_QUEUES_BYTES: usize = 16 * 1024 * 1024;
/// Frames that wait for one link; each costs some 170 bytes beside its own.
pub const LINK_QUEUE_FRAMES: usize = 4_096;
/// Flows told apart on one link: RFC 8290 §5.2.
pub const FLOWS: usize = 1_024;
/// An Ethernet frame of MTU 1500, bytes: what a flow may send in its turn (RFC 8290 §5.2), and what is no queue yet.
pub const MTU_FRAME: usize = 1_514;
/// Delay that a flow's queue should not keep above: RFC 8289 §4.4.
pub const CODEL_TARGET: Duration = Duration::from_millis(5);
/// For how long it may: a round trip over the internet, RFC 8289 §4.3.
pub const CODEL_INTERVAL: Duration = Duration::from_millis(100);
/// A queue that nothing used for so long gives its 100 KiB of tables back; CoDel's memory is 1.6 s.
pub const QUEUE_IDLE: Duration = Duration::from_secs(10);
/// Bytes of ARP, ND and DHCP that wait for one link, ahead of the rest.
pub const LINK_URGENT_BYTES: usize = 16 * 1024;
/// Smallest datagram that is worth cutting frames for; a QUIC path has 1,200 and more (RFC 9000 §14).
pub const MIN_ROOM: usize = 576;
/// A frame is cut to fill a datagram's end only where this much fits; below it the headers would outweigh the gain.
pub const MIN_FILL: usize = 256;
/// Longest L2 to L4 headers of a super-frame: 22 Ethernet, 40 IPv6, 64 of extensions, 60 TCP.
pub const MAX_HEADERS: usize = 192;
/// Smallest TCP segment that a super-frame may ask for: Linux' `tcp_min_snd_mss`.
pub const MIN_TCP_GSO: u16 = 48;
/// Most datagrams in one UDP super-frame: Linux' `UDP_MAX_SEGMENTS`.
pub const MAX_UDP_SEGMENTS: usize = 128;
/// IPv6 extension headers that are walked.
pub const MAX_EXTENSIONS: usize = 8;

/// Flows of one port whose segments are merged at the same time: Linux' GRO has as many a bucket.
pub const COALESCE_FLOWS: usize = 8;
/// Smallest payload of a segment that is merged, bytes: half of TCP's default; smaller ones are not bulk.
pub const COALESCE_MIN: usize = 268;

/// Frames of one link that wait for fragments.
pub const PARTIAL_FRAMES: usize = 64;
/// Fragments of one frame: 64 KiB over the smallest room takes 117.
pub const FRAGMENTS: usize = 128;
/// How long a frame waits for its fragments: longer than any reordering, shorter than a retransmission timer's back-off.
pub const FRAGMENT_WAIT: Duration = Duration::from_secs(1);

/// Bytes read from one port before the links get their turn: one super-frame; more makes bursts (notes: dataplane §7).
pub const READ_BUDGET: usize = 64 * 1024;
/// Datagrams taken from one link before the others get their turn.
pub const RECV_BATCH: usize = 128;
/// Rounds over ports and links in one wake-up before the task yields.
pub const ROUNDS: usize = 4;
/// How soon a link without send room is asked again, where nothing else wakes the pump.
pub const ROOM_POLL: Duration = Duration::from_millis(1);
/// How long ports wait for a link without room. The overlay's sender needs some 100 us of this thread to send what it
/// holds; 2 ms are twenty turns, and below what a person or a TCP timer can tell.
pub const PATIENCE: Duration = Duration::from_millis(2);
/// A link that had no room for longer than [`PATIENCE`] is slow because of its path. Ports do not wait for it any more
/// until it has had room for so long: a second, so that a paced link does not stop them with every refill.
pub const SLOW_FOR: Duration = Duration::from_secs(1);
/// A link with so much room takes a super-frame whole, which is 64 KiB: whatever takes 64 KiB in a turn of the pump sends
/// it in a few milliseconds.
pub const LARGE_ROOM: usize = 64 * 1024;
/// Commands that wait for the pump.
pub const COMMANDS: usize = 256;
/// Events that wait for their reader.
pub const EVENTS: usize = 1_024;
/// Echo requests without an answer on one link.
pub const ECHOES: usize = 64;
/// How long an unanswered echo is remembered: longer than any deadline that makes sense.
pub const ECHO_KEPT: Duration = Duration::from_secs(30);

/// Bytes that wait for a guest's socket.
pub const GUEST_OUT_BYTES: usize = 256 * 1024;
/// First and last pause between attempts at a guest's socket.
pub const GUEST_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How often a TAP is asked whether it is still there; one ioctl. A deleted one shows neither as readable nor as ended.
pub const TAP_CHECK: Duration = Duration::from_secs(2);
/// MTU of a TAP.
pub const TAP_MTU: u16 = 1_500;

/// Captures at once on one node: one for each of a few people, each costs a copy of every frame that it selects.
pub const CAPTURES: usize = 4;
/// Bytes of frames that one capture holds for its reader: 10 ms at 3 Gb/s, and four of them fit the memory goal.
pub const CAPTURE_BYTES: usize = 4 << 20;
/// Batches of one capture that wait for its reader; a wake-up makes one.
pub const CAPTURE_BATCHES: usize = 1_024;
/// Dropped frames of one LAN that are remembered with their heads, 160 bytes each.
pub const RECENT_DROPS: usize = 256;
/// How many of the newest are compared before another is added; a storm has few faces.
pub const RECENT_ALIKE: usize = 16;
