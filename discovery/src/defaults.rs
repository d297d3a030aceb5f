//! Every bound and period of discovery, with where its number comes from.

use std::time::Duration;

/// Holders of one index key. Of 8, at 30 % dead and unrepaired, one answers with probability 0.99993.
pub const HOLDERS: usize = 8;
/// Most nodes of a mesh in which everybody holds everything; above, a node keeps what is near it.
pub const REPLICA_NODES: usize = 2_000;
/// Nodes at which a mesh goes back to full replicas: well below, so that it does not swing.
pub const REPLICA_NODES_BACK: usize = 1_600;
/// Above so many nodes adverts are filed in cells too: before the first node gives up its replica, so that there is no gap.
pub const INDEX_NODES: usize = 1_500;
/// Down to so many nodes they stay filed: the last node that searched has its replica again long before.
pub const INDEX_NODES_BACK: usize = 1_200;
/// Adverts that a cell holds: a fair sample of all, from which their number is known within 6 % (one standard deviation).
/// Renewals of a full cell cost its holder 256 x 400 B in 200 s, 0.5 kB/s, at any size of the mesh.
pub const SAMPLE: usize = 256;
/// Cells that a node holds for others: at eight holders and two levels of a dozen namespaces it is about 200.
pub const CELLS_TOTAL: usize = 4_096;
/// A cell that refused our rank is asked again after this.
pub const PLACE_AGAIN: Duration = Duration::from_secs(900);
/// A cell that was full is told to be a part for so long after it turned one away: until the last of these asked again, at the
/// first renewal after [`PLACE_AGAIN`].
pub const TURNED_AWAY: Duration = Duration::from_secs(PLACE_AGAIN.as_secs() + REFRESH_INDEX.as_secs());
/// A cell that has had room for all below it for so long, half a renewal, makes the levels below needless.
pub const ROOMY_AFTER: Duration = Duration::from_secs(100);
/// A cell that an advert came to over levels that it left out is looked at again after this, then after twice as long.
pub const PROBE_FIRST: Duration = Duration::from_secs(2);
/// Longest such wait: the next renewal tells the same.
pub const PROBE_LAST: Duration = Duration::from_secs(64);
/// A cell of more adverts is soon full: its publishers file one level further down.
pub const SAMPLE_HIGH: usize = SAMPLE / 4 * 3;
/// Calls that file adverts, under way at once.
pub const PLACE_CALLS: usize = 32;
/// Holders that a search asks of one cell: they hold the same, but for what came or failed in between.
pub const ASK_COPIES: usize = 2;
/// Cells that one search looks into; enough for 16,000 rows.
pub const SEARCH_CELLS: usize = 256;
/// Cells that one search looks into at once.
pub const SEARCH_PARALLEL: usize = 8;
/// Walks of one round of a question for few rows: fewer are quicker, more are fairer to hosts in unlike company.
pub const SEARCH_DRAW: f64 = 4.0;
/// Holders of cells that are remembered, and for how long.
pub const HOLDERS_CACHED: usize = 512;
/// See [`HOLDERS_CACHED`].
pub const HOLDERS_FRESH: Duration = Duration::from_secs(300);

/// Nodes of one bucket of the routing table.
pub const BUCKET: usize = 16;
/// A bucket of the routing table is looked up this often, in turn.
pub const BUCKET_REFRESH: Duration = Duration::from_secs(120);
/// Look-ups of the routing table right after a start, a quarter of a second apart: itself, then its four widest buckets.
pub const JOIN_LOOKUPS: u8 = 5;
/// Calls that one look-up has under way at once.
pub const LOOKUP_PARALLEL: usize = 8;
/// Most calls of one look-up.
pub const LOOKUP_ASK: usize = 64;
/// Look-ups under way at once, those of finds excepted.
pub const LOOKUPS: usize = 16;
/// Nodes taken as holders of a key around which nodes lie so densely that somebody made them for it: more than the usual
/// eight, so that honest ones are among them. As SR-DHT-Store, arXiv 2505.01139.
pub const CROWD: usize = 24;
/// Share of the space that the nearest nodes of a key would take by chance, under which they count as made for it. Eight nearer
/// than anybody stay under it in 98 of 100 cases, eight by chance in five (ADR 24).
pub const CROWDED: f64 = 0.5;
/// Deadline of one call of a look-up or a search: four times the median round trip between continents.
pub const RPC_DEADLINE: Duration = Duration::from_millis(800);
/// A call of a look-up or a search that takes longer is no longer waited for: the next node is asked besides.
pub const HEDGE_AFTER: Duration = Duration::from_millis(250);
/// In the index mode a holder takes an advert if fewer than this many nodes are nearer to one of its keys: twice the holders.
pub const NEAR_RANK: usize = 16;
/// Share of a find's deadline spent on fetching; the rest is for what the caller does with the rows.
pub const FETCH_SHARE: f64 = 0.7;

/// Adverts held of one node: its machine, and room for images and guests of one host.
pub const STORE_PER_NODE: usize = 64;
/// Adverts held in all: 2,000 members with 32 each; about 60 MB when every one is of the largest kind.
pub const STORE_TOTAL: usize = 65_536;
/// Sequence floors kept after adverts lapsed: as many as adverts.
pub const FLOORS_TOTAL: usize = 65_536;
/// How far ahead of our clock a publisher's clock may be, and how long past its end an advert may still arrive.
pub const CLOCK_SKEW: Duration = Duration::from_secs(600);

/// Life of a host's advert: a dead host is gone after two minutes.
pub const HOST_TTL: Duration = Duration::from_secs(120);
/// A host's advert is renewed after this; two renewals may be lost. Both grow with the mesh: see [`REFRESH_PER_NODE`].
pub const HOST_REFRESH: Duration = Duration::from_secs(40);
/// Where everybody holds everything, a host or guest is renewed this many seconds later for each node, so that renewals cost
/// each node the same at any size: 3 adverts a second, twice, 2.5 kB/s. It lives three times as long.
pub const REFRESH_PER_NODE: Duration = Duration::from_millis(330);
/// Longest time between two renewals of a host or guest: three of them are an image's life.
pub const REFRESH_MAX: Duration = Duration::from_secs(500);
/// Time between two renewals of a host or guest where adverts are filed in cells.
pub const REFRESH_INDEX: Duration = Duration::from_secs(200);
/// Sizes of a mesh in which a node whose neighbours are all the nodes that it knows does not renew what they hold; in which what a
/// connected node said does not lapse; in which a node tells all neighbours of all changes. Apart, for two nodes need not know
/// the same others.
pub const COMPANY: (usize, usize, usize) = (48, 64, 96);
/// Who is connected was there so long ago at the latest: a silent link or connection is asked after 50 s, given up 15 s later, and
/// looked at each second (`overlay::defaults::keep`, docs/adr/0016). A dead host is gone within its life all the same.
pub const HEARD_WITHIN: Duration = Duration::from_secs(70);
/// Connections are looked at each second; what they say counts for so long.
pub const LOOKED_WITHIN: Duration = Duration::from_secs(10);
/// An advert that all hold is renewed after this: what it costs 20 hosts is reckoned in docs/testing.md.
pub const CALM_RENEW: Duration = Duration::from_secs(2 * 3_600);
/// An advert may be passed on as alive so long after it was signed, if its node was known to be there within its life.
pub const VOUCHED: Duration = CALM_RENEW;
/// Renewals that were left out begin so long after not all hold all: a newcomer has everything long before.
pub const CALM_ENDS: Duration = Duration::from_secs(20);
/// A life that is prolonged by less is left as it is.
pub const CONFIRM_STEP: Duration = Duration::from_secs(5);
/// Who holds an advert that lapses within this asks for it: more than two tries.
pub const LAPSE_SOON: Duration = Duration::from_secs(30);
/// Between two such questions.
pub const LAPSE_EVERY: Duration = Duration::from_secs(10);
/// Nodes asked at once.
pub const LAPSE_ASKS: usize = 8;
/// Longest pause between two questions to one neighbour whether it knows a node that is not connected with this one.
pub const CALM_REFRESH_MAX: Duration = Duration::from_secs(1_920);
/// Life of an image's advert.
pub const IMAGE_TTL: Duration = Duration::from_secs(25 * 60);
/// An image's advert is renewed after this.
pub const IMAGE_REFRESH: Duration = Duration::from_secs(10 * 60);
/// Life of a guest's advert.
pub const GUEST_TTL: Duration = Duration::from_secs(120);
/// A guest's advert is renewed after this.
pub const GUEST_REFRESH: Duration = Duration::from_secs(40);
/// A renewal comes up to this share earlier, so that nodes started together do not renew together.
pub const REFRESH_SPREAD: f64 = 0.2;
/// Changes of one slot that follow each other within this time become one advert.
pub const PUBLISH_DEBOUNCE: Duration = Duration::from_millis(200);
/// Changes of figures that move all the time (load, pieces of an image on its way) are this far apart.
pub const PUBLISH_MINOR: Duration = Duration::from_secs(5);
/// A load that moved by less, in hundredths of a runnable task, waits for the renewal.
pub const LOAD_STEP_X100: u32 = 50;
/// Subjects that this node speaks of, tombstones included; more would be refused by every holder.
pub const OWN_SLOTS: usize = STORE_PER_NODE;
/// An advert of ours that we did not publish since the start is withdrawn after this: time to publish it again first.
pub const START_GRACE: Duration = Duration::from_secs(30);
/// Sequence numbers are persisted this far ahead, so that not every advert costs a write to disk.
pub const SEQ_AHEAD: u64 = 60_000;
/// A floor that could not be written is tried again after this.
pub const SEQ_RETRY: Duration = Duration::from_secs(5);

/// A wall clock that is off by more than time went on was set, or the machine slept.
pub const CLOCK_JUMP: Duration = Duration::from_secs(60);
/// A node looks around anew at most this often, however often its addresses change.
pub const REJOIN_APART: Duration = Duration::from_secs(10);

/// Holders of a key are looked up again after this.
pub const RESOLVE_EVERY: Duration = Duration::from_secs(600);
/// As above while fewer than [`HOLDERS`] are known: a young or small mesh.
pub const RESOLVE_SOON: Duration = Duration::from_secs(30);
/// Deadline of a look-up of the nodes nearest to a key, outside of a find.
pub const RESOLVE_DEADLINE: Duration = Duration::from_secs(3);
/// Deadline of one call outside of a find. A dead peer must not hold a slot for long; a relayed one needs a second.
pub const CALL_DEADLINE: Duration = Duration::from_secs(3);
/// A store at a holder that failed is tried again after this, doubling up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_secs(2);
/// Longest wait between tries.
pub const RETRY_MAX: Duration = Duration::from_secs(60);

/// Neighbours to which this node pushes its own changes at once.
pub const PUSH_OWN: usize = 8;
/// Neighbours to which it passes on the changes of others: a random graph of degree 4 reaches 98 % of the nodes,
/// anti-entropy the rest.
pub const PUSH_FOREIGN: usize = 4;
/// As above for a renewal that says nothing new: a random graph of degree 2 reaches 80 %, so of three renewals within a
/// life one node in a hundred misses all, and anti-entropy comes twice meanwhile. Halves the idle traffic.
pub const PUSH_RENEWAL: usize = 2;
/// An advert older than this is not passed on at once: it is no news.
pub const PUSH_MAX_AGE: Duration = Duration::from_secs(10);
/// Changes for one neighbour are gathered for this long.
pub const PUSH_GATHER: Duration = Duration::from_millis(20);
/// Changes that wait for one slow neighbour; beyond, anti-entropy brings them.
pub const PUSH_QUEUE: usize = 256;
/// One random neighbour is compared with this often.
pub const SYNC_EVERY: Duration = Duration::from_secs(30);
/// The same after comparisons in which nothing differed, at most; each has 2 kB.
pub const SYNC_CALM_MAX: Duration = Duration::from_secs(960);
/// Neighbours that wait for their first comparison after connecting.
pub const SYNC_QUEUE: usize = 16;
/// Rounds of one comparison: 512 summaries each, so 8,000 adverts in 16; the double for slack.
pub const SYNC_ROUNDS: u16 = 32;

/// Peers to which adverts are under way or waiting; 64 subjects of ours at 8 holders each.
pub const OUTBOX_PEERS: usize = 512;
/// A peer that failed this often in a row gets nothing more until something changes.
pub const OUTBOX_FAILS: u32 = 3;
/// Look-ups of our own keys under way at once.
pub const RESOLVES: usize = 4;

/// Digests answered to one node within [`DIGEST_WINDOW`]: one whole comparison and a few. Each costs a hash of all held.
pub const DIGESTS: u16 = SYNC_ROUNDS + 4;
/// See [`DIGESTS`].
pub const DIGEST_WINDOW: Duration = Duration::from_secs(20);

/// Neighbours (connected peers) that discovery looks at.
pub const NEIGHBOURS: usize = 256;
/// Unanswered tries to reach nodes at one IP address that others only say is theirs: two look-ups' worth of calls at once, for many
/// may live behind one router. Each is a handshake's first packets, some 3 kB.
pub const TOLD_TRIES: u16 = 32;
/// See [`TOLD_TRIES`].
pub const TOLD_WINDOW: Duration = Duration::from_secs(60);
/// IP addresses of which that is counted; the oldest gives way.
pub const TOLD_HOSTS: usize = 1_024;
/// A contact that failed this often in a row is forgotten.
pub const CONTACT_FAILS: u8 = 2;

/// Calls of ours under way at once, finds excepted.
pub const CALLS: usize = 64;
/// Calls that one find has under way at once.
pub const FIND_PARALLEL: usize = 8;
/// Most nodes that one find asks.
pub const FIND_ASK: usize = 16;
/// Rows that one find returns at most.
pub const FIND_ROWS: usize = 1_024;
/// Finds under way at once; the next is refused.
pub const FINDS: usize = 64;
/// Shortest and longest deadline of a find.
pub const FIND_DEADLINE_MIN: Duration = Duration::from_millis(10);
/// See [`FIND_DEADLINE_MIN`].
pub const FIND_DEADLINE_MAX: Duration = Duration::from_secs(10);

/// Events that wait for the node; beyond, the oldest kind of news (a change) is dropped and counted.
pub const EVENTS: usize = 1_024;

/// Longest question in SQL, bytes.
pub const SQL_BYTES: usize = 16 << 10;
/// Most words and signs of a question: chains such as `a + a + a` make a tree that is as deep as they are long.
pub const SQL_TOKENS: usize = 2_000;
/// Deepest nesting of a question; a person's own has three or four levels.
pub const SQL_DEPTH: usize = 40;
/// Most SELECTs in one question.
pub const SQL_SELECTS: usize = 16;
/// Cells loaded for one question, about 60 bytes each: 65,536 hosts with 15 columns, 60 MB.
pub const SQL_CELLS: usize = 1_000_000;
/// Rows of one answer.
pub const SQL_ROWS: usize = 10_000;
/// Bytes of one answer, cells only: fits the control API's documents with room.
pub const SQL_ANSWER_BYTES: usize = 4 << 20;
/// Instructions of SQLite's machine between two looks at the clock: about 50 microseconds.
pub const SQL_STEPS: i32 = 1_000;
/// Bytes of one text or blob inside SQLite; functions cannot make a longer one.
pub const SQL_VALUE_BYTES: i32 = 64 << 10;
/// Questions that run at a time; each holds a thread and its tables.
pub const SQL_RUNNING: usize = 4;
/// Shortest time for a question.
pub const SQL_WITHIN_MIN: Duration = Duration::from_millis(10);
/// Longest time for a question.
pub const SQL_WITHIN_MAX: Duration = Duration::from_secs(10);
/// Memory of SQLite in this process, all questions together, bytes: four of 60 MB.
pub const SQL_HEAP: i64 = 256 << 20;
