//! Every bound and interval of this crate, with where the number comes from.

use crate::budget::{Limits, Rate};
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
/// An advert that its member does not stand by goes after this: what its claims add up to is said every 112 s at the
/// slowest, and five of these are lost or tell another set.
pub const ADVERT_EXPIRY: Duration = Duration::from_secs(600);
/// How often what a member says its claims add up to is compared with what was heard; what is on its way then has so long
/// until the next look.
pub const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// Whole sets that are asked of a member, and that it gets, at once: a few that differ by chance, or by a fault.
pub const ASKS: u32 = 4;
/// After that one in so long, whatever a member says: 1,280 addresses are 25 kB, which is 1.7 kb/s.
pub const ASK_EVERY: Duration = Duration::from_secs(120);
/// How often a claim that was refused is judged again: no advert repeats it.
pub const JUDGE_AGAIN: Duration = Duration::from_secs(60);
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

/// What a guest may send to everybody, by class. A guest is one machine: booting, Linux sends some 5 ARP, 15 ND, 4 DHCP
/// and 10 reports in its first seconds, and a resolver that walks its /24 sends 254 ARP requests at once.
pub const GUEST_LIMITS: Limits = [
    Rate::of(50, 128, 6),    // Arp: a walk over a /24 in one burst
    Rate::of(30, 160, 4),    // Nd
    Rate::of(5, 640, 4),     // Dhcp: 4 tries of RFC 2131 §4.1 at once; starvation of a pool of 100 takes 20 s of alarms
    Rate::of(20, 512, 4),    // Membership
    Rate::of(30, 512, 4),    // Discovery: RFC 6762 §6 answers at most once a second for each record
    Rate::of(50, 512, 4),    // Broadcast
    Rate::of(500, 1_000, 2), // Multicast: 4 Mb/s, one video or eight audio streams; only listeners get it
    Rate::of(100, 1_000, 4), // Unknown: a TCP flow's first window, until its peer has spoken
    Rate::of(50, 128, 6),    // ArpUnknown
    Rate::of(10, 160, 6),    // NdUnknown: a /64 is walked in 58 billion years
];

/// The same for a port on a physical LAN and for a peer: up to a few hundred machines are behind it. A home LAN of 50
/// devices shows some 20 broadcasts a second, 200 after a power cut.
pub const SHARED_LIMITS: Limits = [
    Rate::of(100, 128, 4),   // Arp
    Rate::of(100, 160, 4),   // Nd
    Rate::of(30, 640, 4),    // Dhcp
    Rate::of(60, 512, 4),    // Membership: 50 hosts answer one query
    Rate::of(100, 512, 4),   // Discovery
    Rate::of(100, 512, 4),   // Broadcast: 0.4 Mb/s, 2 % of a 20 Mb/s uplink to each member
    Rate::of(500, 1_000, 2), // Multicast
    Rate::of(200, 1_000, 4), // Unknown: 1.6 Mb/s
    Rate::of(100, 128, 4),   // ArpUnknown
    Rate::of(20, 160, 6),    // NdUnknown
];

/// The budget of a whole LAN on one node in times of [`SHARED_LIMITS`]: eight busy senders at once. Beyond it a sender
/// within its own budget waits for the others.
pub const LAN_TIMES: u32 = 8;

/// Pairs of IP and MAC that suppression knows in one LAN; two for each of a /19, 150 bytes each.
pub const NEIGHBOURS: usize = 16_384;
/// MACs remembered with one IP address: two make it ambiguous, two more are room for who left.
pub const CLAIMANTS: usize = 4;
/// How long after a neighbour's own last ARP or ND message it is answered for. Linux asks again 15 to 45 s after it last
/// heard of a neighbour; a host that died is believed for one minute at most.
pub const CONFIRMED: Duration = Duration::from_secs(60);
/// Requests that go to a silent neighbour alone before everybody gets them: a host asks three times (RFC 4861 §10).
pub const UNANSWERED: u32 = 3;

/// Query interval of IGMP and MLD (RFC 3376 §8.2, RFC 3810 §9.2).
pub const QUERY_EVERY: Duration = Duration::from_secs(125);
/// How long a host may wait before it answers. RFC 3376 §8.3 has 10 s, so that many hosts do not answer at once; behind
/// a guest's port there is one.
pub const QUERY_RESPONSE: Duration = Duration::from_secs(2);
/// Queries after which a guest's port counts as asked: the robustness variable (RFC 3376 §8.7).
pub const STARTUP_QUERIES: u32 = 2;
/// Pause between them: a quarter of the query interval (RFC 3376 §8.6).
pub const STARTUP_QUERY_EVERY: Duration = Duration::from_secs(31);
/// Time to answer the last of them: IGMPv1 hosts do not read [`QUERY_RESPONSE`] and take 10 s.
pub const STARTUP_ANSWER: Duration = Duration::from_secs(11);
/// Life of a membership that is not reported again: twice the query interval and 10 s (RFC 3376 §8.4).
pub const GROUP_LIFE: Duration = Duration::from_secs(260);
/// Life of a group after one listener left: somebody else behind the port answers in [`QUERY_RESPONSE`].
pub const LAST_MEMBER: Duration = Duration::from_secs(3);
/// Groups of one guest's port; Linux' own bound is 20 (`igmp_max_memberships`).
pub const GROUPS_PER_PORT: usize = 64;
/// Groups of all other members together in one LAN; 20 bytes each. A member that finds no room gets every group.
pub const GROUPS_PER_LAN: usize = 4_096;
/// Records in one report: as many as fit 1,500 bytes.
pub const GROUP_RECORDS: usize = 183;
/// Changes of groups are told at most this often.
pub const GROUP_GAP: Duration = Duration::from_millis(200);

/// Frames taken from one port before the others get their turn: as many as the datagrams of one merged super-frame.
pub const READ_FRAMES: usize = COALESCE_DATAGRAMS;
/// Pause after a round in which nothing came but a whole turn of frames from each port that gave any: a flood of small frames. It
/// spaces what then goes out, so that it does not arrive as one burst: a socket's buffer of Linux' default size holds 277 small
/// datagrams, a TAP 1,000 frames. The kernel's timer slack makes some 60 µs of it, so one port gives up to about 500,000 frames/s.
pub const FLOOD_PAUSE: Duration = Duration::from_micros(1);
/// Frames over budget that end a port's turn: what is left waits in the kernel's queue, where dropping costs nothing.
pub const READ_DROPS: usize = 32;

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
/// UDP datagrams in one merged super-frame: Linux' GRO takes as many (`UDP_GRO_CNT_MAX`), and each kernel can cut them.
pub const COALESCE_DATAGRAMS: usize = 64;
/// Longest frame that every link takes in one datagram, less some for heads: 1,200 bytes of QUIC's smallest path. A
/// longer segment is made ready to be cut.
pub const COALESCE_ALONE: usize = 1_100;

/// A frame's tail is sent twice only if it is at most this part of its head: 303 of 1,211 bytes of a full frame on the
/// least path of IPv6, 1,280.
pub const TAIL_PART: usize = 3;
/// From this share of lost datagrams on tails are sent twice: half of 0.1 %, the least loss that anybody should notice.
pub const TAIL_LOSS: f64 = 0.000_5;

/// Frames of one link that wait for fragments.
pub const PARTIAL_FRAMES: usize = 64;
/// Frames of one link that are remembered when they are whole, so that a part that comes again begins no new one: the
/// 15 whose tails share a datagram, and as many again for each of three that come late.
pub const DONE_FRAMES: usize = 64;
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
/// Receive buffer of a packet socket, bytes: 5 ms at 6 Gb/s.
pub const PACKET_BUFFER: i32 = 4 << 20;
/// MTU of a TAP.
pub const TAP_MTU: u16 = 1_500;

/// Heads of dropped frames that one queue keeps until the pump asks, which it does each time it sends.
pub const QUEUE_VICTIMS: usize = 32;
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

/// IP addresses of guests behind one station: as many as the LAN may have Ethernet addresses on one node.
pub const TRANSLATE_IPS: usize = 1_024;
/// Of those, one guest's: IPv4, link-local, and an IPv6 privacy address a day for a week in each of a few prefixes.
pub const TRANSLATE_IPS_PER_MAC: usize = 64;
/// Guests that asked for a lease and whose answer is looked for.
pub const TRANSLATE_CLIENTS: usize = 256;
/// How long a guest's address is known that nobody uses: routers keep ARP entries for up to four hours and ask the station
/// again before they ask everybody.
pub const TRANSLATE_AGEING: Duration = Duration::from_secs(4 * 3_600);
/// How often old ones are looked for.
pub const TRANSLATE_SWEEP: Duration = Duration::from_secs(60);

/// IP addresses of one guest port that settings may allow, of each family.
pub const GUEST_IPS: usize = 64;
/// New addresses a second that a guest may claim, and the burst: a boot claims two or three, and each costs a search.
pub const CLAIMS: (u32, u32) = (4, 32);
/// A claimed address that was silent for so long gives way to a new one: privacy addresses are used for hours
/// (RFC 8981 §3.8), an idle one needs no place.
pub const CLAIM_IDLE: Duration = Duration::from_secs(600);
/// How long after its lease an address still passes: clocks differ, and a renewal may be under way.
pub const LEASE_GRACE: Duration = Duration::from_secs(60);
/// How long a neighbour has to object to an address that is tried: RFC 4862's 1 s, and a slow path.
pub const DAD_WAIT: Duration = Duration::from_secs(3);
/// Client identifiers of one guest: firmware, initrd and system each have their own.
pub const CLIENT_IDS: usize = 8;
/// A client identifier that was silent for so long gives way to a new one.
pub const CLIENT_ID_IDLE: Duration = Duration::from_secs(3_600);
/// DHCP transactions of a guest that may be answered.
pub const DHCP_ASKED: usize = 8;
/// Addresses of routers and DHCP servers that are remembered, and how long after the last word of them.
pub const INFRA: (usize, Duration) = (64, Duration::from_secs(86_400));
/// Searches a second, and in a burst, for what guests behind other members claim in ARP and ND; each looks at all
/// addresses of a LAN. Beyond it only routers' and servers' addresses are guarded.
pub const REMOTE_LOOKS: (u32, u32) = (100, 400);
/// Prefixes that routers announced and that are remembered.
pub const ON_LINK: usize = 32;
/// Burst of a rate limit: a quarter second of it, and never less than two super-frames.
pub const RATE_BURST: (Duration, u64) = (Duration::from_millis(250), 128 * 1024);

/// How often rates of talkers are made while somebody talks: the shortest horizon.
pub const RATE_EVERY: Duration = Duration::from_secs(1);
/// Time constants of a talker's rates: what is felt, what a decision needs, and what a placement lasts for.
pub const HORIZONS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];
/// Pairs of talkers of a LAN that are kept apart: a node with eight guests that each talk to all of 31 others; the rest is
/// summed. A pair is 300 bytes.
pub const PAIRS: usize = 256;
/// The quietest pairs that make room at once when there is none: an eighth.
pub const EVICTED_PAIRS: usize = PAIRS / 8;
/// Bytes a second over ten seconds from which a pair is heavy: 1 Mb/s, a video call.
pub const HEAVY: f64 = 125_000.0;
/// Below this it is no longer heavy: half, so that a rate at the threshold does not flap.
pub const STAYS_HEAVY: f64 = HEAVY / 2.0;
/// Bytes a second at which a pair is idle: an ARP request and its answer in a second or two.
pub const IDLE: f64 = 64.0;
/// Up to this an idle one stays idle: twice as much.
pub const STAYS_IDLE: f64 = 2.0 * IDLE;
/// How long more must last until it counts: longer than the page of a shop, shorter than a person's patience with a copy.
pub const HEAVY_AFTER: Duration = Duration::from_secs(5);
/// How long less must last until it counts: a pause in a film, or between the rounds of a computation.
pub const LESS_AFTER: Duration = Duration::from_secs(30);
