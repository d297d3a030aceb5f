//! Every bound and period of discovery, with where its number comes from.

use std::time::Duration;

/// Holders of one index key. Of 8, at 30 % dead and unrepaired, one answers with probability 0.99993.
pub const HOLDERS: usize = 8;
/// Most nodes of a mesh in which everybody holds everything; above, a node keeps what is near it.
pub const REPLICA_NODES: usize = 2_000;
/// Nodes at which a mesh goes back to full replicas: well below, so that it does not swing.
pub const REPLICA_NODES_BACK: usize = 1_600;
/// In the index mode a holder takes an advert if fewer than this many known nodes are nearer to one of its keys.
pub const NEAR_RANK: usize = 32;
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
/// A host's advert is renewed after this; two renewals may be lost.
pub const HOST_REFRESH: Duration = Duration::from_secs(40);
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
/// Nodes that the local router remembers.
pub const CONTACTS: usize = 4_096;
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
