//! Every bound and default of the overlay, with where its number comes from.

// ---- the port, the swarm, links (src/io) ----

use std::time::Duration;

/// First guess of a path's round trip. quinn's 333 ms makes a lost first packet, usual while a hole is punched, cost a
/// second; 100 ms measured 307 ms to punch against 1,006 ms.
pub const INITIAL_RTT: Duration = Duration::from_millis(100);
/// A link that hears nothing from its peer for so long, by any path, though it asks, is dead: ten lost pings on each path.
pub const LINK_IDLE: Duration = Duration::from_secs(15);
/// A QUIC connection without packets for so long is forgotten. Nothing is sent by QUIC itself to keep one: of a control
/// connection [`keep`] decides, and a frame connection is there to say goodbye and to be reset by a peer that started anew.
pub const QUIC_IDLE: Duration = Duration::from_secs(24 * 3600);
/// Longest QUIC handshake; libp2p's own figure, and DCUtR counts on it.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// Inbound handshakes at once; more wait in no queue but are refused. 64 cost about 80 ms of CPU (1.2 ms each, measured).
pub const MAX_HANDSHAKES: usize = 64;
/// Finished handshakes that wait for the swarm.
pub const ACCEPT_QUEUE: usize = 64;
/// Largest UDP payload that path MTU discovery tries: Ethernet's 1,500 less IPv4 and UDP headers.
pub const MTU_UPPER: u16 = 1_472;
/// UDP payload that every path must carry (RFC 9000 §14).
pub const MTU_INITIAL: u16 = 1_200;
/// Bytes of QUIC datagrams held: they are empty, and nobody reads them.
pub const POKE_BUFFER: usize = 1_024;
/// A link whose frames no report answers for this long, and two round trips, asks QUIC whether the peer is there: ten
/// reports are missing by then.
pub const POKE_AFTER: Duration = Duration::from_millis(500);
/// Bytes of received datagrams that wait for the tunnel on one link: four turns of the socket.
pub const LINK_INBOX: usize = 4 * 1024 * 1024;
/// Socket buffers asked from the kernel (it may give less).
pub const SOCKET_BUFFER: usize = 8 * 1024 * 1024;
/// Unacknowledged bytes of one control stream: 100 Mb/s at 800 ms; libp2p's own figure.
pub const STREAM_WINDOW: u32 = 10_000_000;
/// Unacknowledged bytes of all streams of a control connection.
pub const CONNECTION_WINDOW: u32 = 15_000_000;
/// Streams that a peer may have open on one connection; libp2p's own figure.
pub const MAX_STREAMS: u32 = 256;
/// Hole punches under way at once.
pub const MAX_PUNCHES: usize = 64;
/// Hole punches to one IP address at once: homes behind one carrier's address, and a victim's share of what can be asked.
pub const MAX_PUNCHES_PER_IP: usize = 8;
/// How long a punch waits for the peer's connection; DCUtR tries three times.
pub const PUNCH_FOR: Duration = HANDSHAKE;
/// Bytes of one punch packet: random, so that nothing takes it for a protocol.
pub const PUNCH_BYTES: usize = 64;
/// Shortest and longest pause between punch packets, milliseconds; random, so that the two sides do not stay in step.
pub const PUNCH_PAUSE_MS: (u64, u64) = (10, 200);
/// How often the machine's addresses are looked at: of the two seconds that a change of network may cost, a quarter.
pub const ADDRESS_SCAN: Duration = Duration::from_millis(500);
/// The slice of the processor that the net thread asks for: Linux' shortest. On a machine whose processors are all taken a frame
/// else waits for the end of somebody's slice, three milliseconds and more.
pub const NET_SLICE: Duration = Duration::from_micros(100);

/// Relays are tried for a peer that has not answered so long: a QUIC handshake across an ocean takes as long.
pub const RELAYS_AFTER: Duration = Duration::from_millis(500);
/// Dials to one peer beside the first: relays, and addresses that came in meanwhile.
pub const SIDE_DIALS: usize = 4;
/// While nobody is connected, what is being dialled is dialled once more after this.
pub const AGAIN_ALONE: Duration = Duration::from_secs(1);
/// While nobody is connected, so many targets are dialled without growing pauses.
pub const ALONE: usize = 3;
/// For how long that is: some 50 kB/s on a dead line.
pub const ALONE_FOR: Duration = Duration::from_secs(120);
/// First and longest pause before UDP is tried again to a peer that answers over TCP alone.
pub const UDP_RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));
/// How long the end waits for the router to take its port mapping back.
pub const UNMAP_FOR: Duration = Duration::from_millis(500);

/// Commands that wait for the swarm.
pub const COMMANDS: usize = 256;
/// Events that wait for the node; beyond it, connects and disconnects of a peer cancel out.
pub const EVENTS: usize = 256;
/// Incoming links that wait for the node; the oldest is closed for the newest.
pub const PENDING_LINKS: usize = 64;
/// Inbound streams of one protocol that wait to be served; beyond it they are refused.
pub const ACCEPTED_STREAMS: usize = 64;
/// Streams that one connection may be opening at once.
pub const OPENING_STREAMS: usize = 64;
/// Callers that may wait for one peer to be connected.
pub const WAITERS: usize = 256;
/// Longest time to connect to a peer, all ways tried.
pub const CONNECT_FOR: Duration = Duration::from_secs(20);
/// How long a stream that this node finished is read on for the peer's agreement to its protocol: a few round trips.
pub const LAST_WORDS: Duration = Duration::from_secs(5);
/// Bytes of that: an agreement has two lines of multistream-select, of at most 140 bytes each.
pub const LAST_WORDS_BYTES: usize = 1_024;
/// Longest negotiation of a stream's protocol.
pub const OPEN_FOR: Duration = Duration::from_secs(10);
/// Largest message of `request` and `serve`, bytes.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// Requests of one peer that are served at once on one protocol; more are refused.
pub const SERVED_PER_PEER: usize = 16;
/// Requests that are served at once on one protocol, all peers.
pub const SERVED: usize = 256;
/// A request must have arrived whole within this time: bounds a peer that dribbles.
pub const REQUEST_ARRIVES: Duration = Duration::from_secs(15);
/// The node must have answered within this time; the caller's own deadline is usually shorter.
pub const REPLY_READY: Duration = Duration::from_secs(120);

/// Half-open connections, each way (notes on swarm composition: a 60-node lab stays under 20).
pub const MAX_PENDING: u32 = 64;
/// Established connections from strangers.
pub const MAX_IN: u32 = 256;
/// Connections to one peer: a relayed and two direct ones are normal after a hole punch.
pub const MAX_PER_PEER: u32 = 5;
/// An idle connection that nobody needs is closed after this time.
pub const IDLE: Duration = Duration::from_secs(60);
/// Lanline nodes that are no members whose idle connections stay up all the same: they may have no other way in. An idle
/// connection costs 17 B/s and 85 kB (measured).
pub const KEPT_STRANGERS: usize = 64;
/// Interval of pings over TCP and circuits, which notice the end of a connection and keep its mapping; QUIC needs none.
pub const PING: Duration = Duration::from_secs(60);
/// The same over QUIC: a year, in fact none but the first.
pub const PING_QUIC: Duration = Duration::from_secs(365 * 86_400);
/// identify says everything again after this; what changes is pushed at once, and it says it with each new connection.
pub const IDENTIFY_EVERY: Duration = Duration::from_secs(6 * 3_600);
/// mDNS asks again after this: a node that comes asks by itself, and all hear the answers.
pub const MDNS_EVERY: Duration = Duration::from_secs(3_600);
/// How long mDNS answers hold.
pub const MDNS_TTL: Duration = Duration::from_secs(2 * 3_600);
/// Peers whose properties are kept while connected; above all limits together.
pub const MAX_PEERS: usize = 4_096;
/// Protocols and addresses taken from one identify message.
pub const MAX_IDENTIFY: usize = 32;
/// Longest agent text kept of a peer, bytes.
pub const MAX_AGENT: usize = 64;
/// Own addresses as peers saw them, that are kept.
pub const MAX_OBSERVED: usize = 16;

/// Kademlia: results wanted and table's bucket (notes: r = 8 holders, 16 keeps memory small).
pub const KAD_REPLICATION: usize = 8;
/// Kademlia: bucket size.
pub const KAD_BUCKET: usize = 16;
/// Kademlia: requests in flight of one lookup (α).
pub const KAD_PARALLELISM: usize = 8;
/// Kademlia: longest lookup.
pub const KAD_QUERY: Duration = Duration::from_secs(3);
/// Kademlia: longest exchange with one peer; the stock 10 s lets a few dead peers stall a lookup.
pub const KAD_SUBSTREAM: Duration = Duration::from_millis(1_200);
/// Kademlia: table refresh. A peer that connects is entered at once, so a small mesh needs none; a round in one of 20 costs
/// some 20 kB.
pub const KAD_REFRESH: Duration = Duration::from_secs(3_600);
/// Lookups that callers may have under way.
pub const KAD_QUERIES: usize = 64;

/// Relays that a node without a public address keeps a reservation with: one may go away.
pub const RELAYS: usize = 2;
/// Pause before a member whose direct control connection is silent is dialled again where its frames go, doubled up to the
/// second.
pub const AROUND: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Relays tried for a peer that nothing else reaches.
pub const RELAY_GUESSES: usize = 3;
/// A relay that refused is asked again after this time.
pub const RELAY_RETRY: Duration = Duration::from_secs(60);
/// How often the need of a relay is judged.
pub const RELAY_CHECK: Duration = Duration::from_secs(2);
/// Bytes that one relayed circuit may carry: 16 GiB, for a member's work day; a stranger can take no more.
pub const CIRCUIT_BYTES: u64 = 16 << 30;
/// How long one circuit lives at most.
pub const CIRCUIT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Circuits relayed at once.
pub const CIRCUITS: usize = 64;
/// Circuits relayed at once for one peer.
pub const CIRCUITS_PER_PEER: usize = 8;

/// Largest datagram that a stream carries, bytes: what UDP carries on Ethernet, so that the tunnel cuts as it does there.
pub const STREAM_DATAGRAM: usize = 1_500;
/// Bytes that wait for a stream before the sender is told to wait: 100 ms at 20 Mb/s.
pub const STREAM_QUEUE: usize = 256 * 1024;
/// Bytes written to a stream at once: what waits below it no longer counts its age, so it is short.
pub const STREAM_WRITE: usize = 16 * 1024;
/// What waited longer for a stream is dropped: a telephone call is better off without it, and TCP sends again anyway.
pub const STREAM_LATE: Duration = Duration::from_millis(200);
/// A stream that carried nothing for so long ends: three keep-alives of a link over it.
pub const STREAM_IDLE: Duration = Duration::from_secs(120);
/// How long a stream's goodbye may take.
pub const STREAM_CLOSE: Duration = Duration::from_secs(1);
/// Carriers of this node: as many as connections from strangers.
pub const CARRIERS: usize = 256;
/// Carriers to one peer: channels that both sides asked for when the path between them failed, and streams each way.
pub const CARRIERS_PER_PEER: usize = 2 * RELAY_WAYS + 4;
/// Tasks that wait for room on one carrier: a link's, and those of relayed links over it.
pub const CARRIER_WAITERS: usize = 64;
/// QUIC packets that came by carriers and wait for quinn: some handshakes.
pub const CARRIED_QUIC: usize = 256;
/// Relaying for others, all together, bytes a second: 20 Mb/s, a good part of a home's uplink; the owner may say otherwise.
pub const RELAY_BYTES_PER_S: u64 = 2_500_000;
/// Relaying for others, all together, bytes a month: 100 GB, a tenth of common caps.
pub const RELAY_BYTES_PER_MONTH: u64 = 100_000_000_000;
/// One stranger's share where the owner lends to anyone, bytes a second: 1 Mb/s, enough for a terminal.
pub const RELAY_STRANGER_BYTES_PER_S: u64 = 125_000;
/// All strangers' share, however many they say they are, bytes a second: 4 Mb/s.
pub const RELAY_STRANGERS_BYTES_PER_S: u64 = 500_000;
/// A bucket holds at least so much: four of the longest segmented sends, which pass whole or not at all.
pub const RELAY_BURST: u64 = 4 * 65_536;
/// What counts as a month: 30 days, of no one's calendar.
pub const RELAY_MONTH: Duration = Duration::from_secs(30 * 86_400);
/// Channels that pass through this node: a LAN of 20 that all need relays has 190 pairs.
pub const RELAY_CHANNELS: usize = 512;
/// Channels of one node through this one: two to each member of a LAN of 32.
pub const RELAY_CHANNELS_PER_NODE: usize = 64;
/// Channels of strangers through this node.
pub const RELAY_STRANGER_CHANNELS: usize = 32;
/// Channels of one stranger through this node.
pub const RELAY_CHANNELS_PER_STRANGER: usize = 4;
/// Tenants whose buckets are remembered without a channel.
pub const RELAY_TENANTS: usize = 1_024;
/// Addresses at which one end is believed to be: its connections' (at most five), and streams.
pub const RELAY_PLACES: usize = 8;
/// A channel that nobody renews ends after this time; renewed three times in it, which costs 2 B/s. An end that knows that it
/// needs it no more closes it.
pub const RELAY_CHANNEL_FOR: Duration = Duration::from_secs(900);
/// Channels kept to a peer without a direct path: one relay may die, and frames must move on within 3 s.
pub const RELAY_WARM: usize = 2;
/// Channels open to one peer beyond which no detour is asked for: a round of those that were drawn, and what is kept warm.
pub const RELAY_WAYS: usize = detour::ROUND + RELAY_WARM;
/// A channel that neither end used for so long is closed, unless it is one of those kept warm: a detour that was tried in
/// vain, or is needed no more.
pub const RELAY_UNUSED: Duration = Duration::from_secs(90);
/// Peers for which relays are sought at once.
pub const RELAY_WANTS: usize = 256;
/// Relays known at once.
pub const RELAY_OFFERS: usize = 64;
/// A relay that refused for a peer is asked again for that peer after this time.
pub const RELAY_ASK_AGAIN: Duration = Duration::from_secs(10);
/// Pause after a channel that was refused or lived shortly, doubled each time up to the second.
pub const RELAY_BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A channel that ends sooner than this after it began counts as a failure.
pub const RELAY_CALM: Duration = Duration::from_secs(10);
/// Failures count together if no more time than this lies between them.
pub const RELAY_FORGIVEN: Duration = Duration::from_secs(60);
/// Channels that were closed before the answer that names them came: as many as can be asked for at once of one relay.
pub const RELAY_CLOSED: usize = 64;
/// Of two peers the one with the higher id asks this much later, so that not both do.
pub const RELAY_YIELD: Duration = Duration::from_secs(3);
/// Channels outlive their use by this time: a path that just came may go again.
pub const RELAY_LINGER: Duration = Duration::from_secs(30);
/// A relay whose round trip nobody measured counts as this far away.
pub const RELAY_RTT_UNKNOWN: Duration = Duration::from_millis(300);
/// How long a voucher runs: over a restart, an update, a night.
pub const RELAY_VOUCHER_FOR: Duration = Duration::from_secs(86_400);
/// Other relays that a relay asks for a way to a node that it does not know.
pub const RELAY_NEXT: usize = 3;
/// An unknown channel that is used for so long makes its user be told. What was asked for or is being set up is used earlier
/// than its number is known here: datagrams overtake the answer.
pub const RELAY_STRAY: Duration = Duration::from_secs(1);
/// Unknown channels whose users are told: a made-up flood of them costs no more than that.
pub const RELAY_UNKNOWN: usize = 64;
/// Longest answer of a relay or of a far end.
pub const RELAY_ANSWER: Duration = Duration::from_secs(5);
/// How often relays, places and needs are looked at.
pub const RELAY_LOOK: Duration = Duration::from_millis(500);
/// An address to which a peer's connection moved is used for relaying only after it stayed so long: by then QUIC has
/// validated it, or gone back (RFC 9000 §8.2.4).
pub const RELAY_SETTLED: Duration = Duration::from_secs(1);
/// Channels to this node from nodes that are no members (a membership may be under way).
pub const RELAY_STRANGER_ENDS: usize = 8;
/// How long a new link waits for a relay before it takes a circuit.
pub const RELAY_WAIT: Duration = Duration::from_secs(5);
/// How long it waits for an answer through one of them: a handshake of three round trips of half a second.
pub const RELAY_TRY: Duration = Duration::from_millis(1_500);
/// How often what was carried this month is written down, if it changed.
pub const RELAY_WRITE: Duration = Duration::from_secs(60);
/// What an idle member of a LAN of 20 may cost in a day, both ways, bytes of IP: 10 MB. The links' keep-alives (or, without
/// links, those of control connections), the rounds of membership, all of discovery where every member lends its machine, and
/// what comes daily or hourly: identify, ARP, mDNS. docs/testing.md has the table.
pub const IDLE_DAY: [u64; 4] = [8_300_000, 300_000, 700_000, 700_000];
/// What a call costs on the wire besides its bytes and its reply's, both ways together: stream negotiation (95 bytes), five packets
/// with 49 bytes of IPv4, UDP and QUIC each, and acknowledgements. Counted in the lab: 344 bytes, and 387 where one more comes.
pub const AROUND_A_CALL: u64 = 400;
/// Links from peers that are no members yet (a membership may be under way); members are not counted.
pub const STRANGER_LINKS: usize = 8;

/// Peers in the peer book.
pub const BOOK_PEERS: usize = 256;
/// Addresses kept of one peer.
pub const BOOK_ADDRS: usize = 8;
/// Largest peer book that is read, bytes: twice what 256 full entries take.
pub const BOOK_BYTES: u64 = 1024 * 1024;
/// The book is written this long after a change, so that a busy minute costs one write.
pub const BOOK_DEBOUNCE: Duration = Duration::from_secs(2);
/// With fewer connected peers than this, remembered ones are dialled.
pub const NEIGHBOURS: usize = 8;
/// First and longest pause before a member or a bootstrap is dialled again: one that comes back dials by itself, and a dial in
/// vain costs some 20 kB.
pub const REDIAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(1_800));
/// The longest while there is no neighbour at all.
pub const REDIAL_ALONE: Duration = Duration::from_secs(60);
/// Longest pause before a remembered peer is dialled again.
pub const REDIAL_REMEMBERED: Duration = Duration::from_secs(1_800);
/// Dials that the redialler has under way at once.
pub const REDIALS_AT_ONCE: usize = 16;

// ---- membership, tickets, grants (pure) ----

/// How long a membership lasts; it is renewed at half of it. A member that is away for longer needs a new ticket.
pub const MEMBERSHIP_TTL: Duration = Duration::from_secs(30 * 86_400);
/// Shortest membership that an owner may set: below it the renewal at half-life and the sync schedule would collide.
pub const MEMBERSHIP_TTL_MIN: Duration = Duration::from_secs(120);
/// How long a record is kept after it ran out: clocks that differ by less forget at about the same time.
pub const STANDING_KEEP: Duration = Duration::from_secs(7 * 86_400);
/// LANs that one node belongs to: each is a switch of its own with its own broadcast traffic.
pub const LANS_MAX: usize = 32;
/// Nodes that one LAN has a record of, evicted ones too: above it broadcast replication, not the records, is the limit.
pub const STANDINGS_MAX: usize = 2_048;
/// How often a member compares its records with others': three rounds fit into the 60 s in which an eviction must act.
pub const SYNC_EVERY: Duration = Duration::from_secs(20);
/// Rounds without news after which the pauses grow: a lost push is found out in one of them.
pub const SYNC_CALM_AFTER: u32 = 3;
/// Longest pause between two rounds without news: a round costs about a kilobyte with each member asked.
pub const SYNC_CALM_MAX: Duration = Duration::from_secs(640);
/// Members asked in one round, the owner first: what one did not hear in a round is known to two others.
pub const SYNC_PARTNERS: usize = 3;
/// Members told at once when this node itself signed something.
pub const PUSH_OWN: usize = 64;
/// Members told at once of something heard: 8 reach 2,048 in four hops.
pub const PUSH_HEARD: usize = 8;
/// Calls under way at once, all LANs.
pub const CALLS_MAX: usize = 16;
/// A call without answer or error after this time is given up; the caller's own deadline should be shorter.
pub const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Calls to one member between two rounds, at most: 2,048 records need eight full messages each way.
pub const FOLLOW_UPS_MAX: u8 = 18;
/// Longest pause before an unreachable member is asked again; when it connects, it is asked at once.
pub const SYNC_BACKOFF_MAX: Duration = Duration::from_secs(600);
/// Largest saved state that is read, bytes: 32 LANs of 2,048 records of 360 bytes and their addresses, rounded up.
pub const SAVED_STATE_MAX: usize = 128 << 20;

/// Largest text that is read as a ticket, bytes: the largest ticket has 2,600 letters, and mail may wrap and indent it.
pub const TICKET_TEXT_MAX: usize = 8 * 1024;
/// How long after its end a ticket is refused without asking the inviter: two clocks may each be a day off.
pub const TICKET_CLOCK_SLACK: Duration = Duration::from_secs(2 * 86_400);
/// Tickets that a node remembers.
pub const TICKETS_MAX: usize = 256;
/// Nodes that one ticket may sign in: as many as a LAN can have.
pub const TICKET_USES_MAX: u32 = 2_048;
/// Longest life of a ticket.
pub const TICKET_LIFE_MAX: Duration = Duration::from_secs(365 * 86_400);
/// How long a ticket is remembered after its end, so that its holder hears 'ended' instead of 'unknown'.
pub const TICKET_KEEP: Duration = Duration::from_secs(7 * 86_400);
/// Wrong proofs of one peer within [`WRONG_PROOF_WINDOW`] before it has to wait.
pub const WRONG_PROOFS_MAX: usize = 5;
/// See [`WRONG_PROOFS_MAX`].
pub const WRONG_PROOF_WINDOW: Duration = Duration::from_secs(60);
/// Peers whose wrong proofs are counted; about as many as can be connected at once.
pub const WRONG_PROOF_PEERS_MAX: usize = 1_024;

/// Blocks of a grant's token: the host's, and four times narrowed (user, project, guest, program).
pub const GRANT_BLOCKS_MAX: usize = 5;
/// Datalog facts in one check of a grant; the template needs 9.
pub const GRANT_FACTS_MAX: u64 = 200;
/// Datalog rounds in one check; the template needs 1.
pub const GRANT_ITERATIONS_MAX: u64 = 50;
/// Time for one evaluation. A whole check takes 1.5 ms with one block and 5 ms with five (unoptimised build, two shared
/// cores); the crate's default of 1 ms refuses good tokens on a busy machine.
pub const GRANT_CHECK_FOR: Duration = Duration::from_millis(50);
/// A check that ran out of time is made again this often: the machine was busy, the template is the same for all.
pub const GRANT_CHECK_TRIES: usize = 3;
/// Grants that a host remembers to have made, revoked ones too.
pub const GRANTS_MADE_MAX: usize = 1_024;
/// Tokens that a node keeps from other hosts.
pub const GRANTS_HELD_MAX: usize = 1_024;
/// Tokens that a node keeps from one host.
pub const GRANTS_HELD_PER_HOST: usize = 4;
/// How long a grant is listed after it ended.
pub const GRANT_KEEP: Duration = Duration::from_secs(30 * 86_400);

pub mod detour;
pub mod keep;
pub mod nat;
pub mod paths;
pub mod rendezvous;

/// The governor of a link's rate ([`crate::pace`]). Delays are in seconds, rates in bytes a second.
pub mod pace {
    use std::time::Duration;

    /// A standing queue that makes a link paced: above it a voice call feels it; below it radio links and busy
    /// processors make delays of their own.
    pub const ENGAGE: f64 = 0.015;
    /// The same where the path loses too: a short queue that overflows.
    pub const ENGAGE_LOSSY: f64 = 0.010;
    /// Loss that says nothing about a queue: what radio links have at their worst.
    pub const TOLERATED_LOSS: f64 = 0.08;
    /// Standing queue that is aimed at: less could not be told from noise, and the link would run dry.
    pub const TARGET: f64 = 0.004;
    /// A queue of so much above the target would stop the link: larger is slower, smaller oscillates, since a report is
    /// a round trip and a period old.
    pub const GAIN: f64 = 0.250;
    /// Growth a report at [`PUSH_RATE`]; it falls with the root of the rate, which is what makes shares equal.
    pub const PUSH: f64 = 0.03;
    /// 20 Mb/s.
    pub const PUSH_RATE: f64 = 2.5e6;
    /// Most growth a report: with a lag of two reports a step of an eighth makes 25 ms of queue once.
    pub const MAX_STEP: f64 = 0.125;
    /// Slowest: 256 kb/s, a voice call and ARP.
    pub const MIN_RATE: f64 = 32_000.0;
    /// 1.6 Gb/s: a link that delivers more is never limited. There a delay is processor time and socket buffers.
    pub const FAST: f64 = 200e6;
    /// Delivery is averaged over this.
    pub const WINDOW: Duration = Duration::from_millis(200);
    /// One bin of a floor, and how many make ten minutes; RFC 6817 §4.2 has the same.
    pub const BIN: Duration = Duration::from_secs(60);
    /// See [`BIN`].
    pub const BINS: usize = 11;
    /// Fastest rise of a floor, microseconds a second: twice the 100 ppm by which bad clocks drift apart.
    pub const DRIFT: f64 = 200.0;
    /// A queue that stands so long, while far less is sent, is not ours.
    pub const STUBBORN_FOR: Duration = Duration::from_secs(3);
    /// For how long a link is then left alone: flows inside compete as they would without us.
    pub const HOLD: Duration = Duration::from_secs(20);
    /// Reports remembered for [`STUBBORN_FOR`]; at the fastest 20 come a second.
    pub const STUBBORN_REPORTS: usize = 64;
    /// How often a paced link looks for the path's own delay, as BBR does; a tenth of a second in ten seconds.
    pub const DRAIN_EVERY: Duration = Duration::from_secs(10);
    /// Rate while it looks.
    pub const DRAIN_FACTOR: f64 = 0.75;
    /// Demand below the rate for so long makes the link unlimited again.
    pub const RELEASE: Duration = Duration::from_secs(10);
    /// Without a report for so long, or four round trips, a paced link halves its rate, and again after as long.
    pub const SILENCE: Duration = Duration::from_millis(600);
}
