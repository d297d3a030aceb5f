//! Every bound and default of this crate, and where its number comes from.

use std::time::Duration;

/// Bytes after which a new pack file is begun: large enough that 10 GB are 40 files, small enough to copy or drop one.
pub const PACK_BYTES: u64 = 256 << 20;
/// Stored bytes that are made durable together: one `fdatasync` and one index commit per 8 MiB cost under 1 % at 1 Gb/s
/// (a sync per 16 KiB piece was measured at 3.2 MB/s by iroh).
pub const BATCH_BYTES: usize = 8 << 20;
/// Longest that a verified piece waits to be made durable; what a crash can make us fetch again. Only durable pieces are
/// announced, so this is also how long neighbours wait before they can swap.
pub const BATCH_AGE: Duration = Duration::from_millis(200);
/// A frame is stored compressed only if that saves at least one part in this many (10 %): below, decoding costs more
/// than the bytes.
pub const MIN_GAIN: usize = 10;
/// zstd level at publish: 142 MB/s a core and ratio 2.7 at 64 KiB.
pub const ZSTD_LEVEL: i32 = 3;
/// Bytes left free on the store's file system, so that a guest's own disk can still grow.
pub const FREE_RESERVE: u64 = 256 << 20;
/// Percent of the quota above which the store asks to be collected.
pub const COLLECT_AT: u64 = 90;
/// Percent of the quota down to which it then is: a tenth of the quota is room for a while.
pub const COLLECT_TO: u64 = 80;
/// Longest that a pull waits for room before it ends with the reason: time for the collector to ask the index for copies.
pub const ROOM_WAIT: Duration = Duration::from_secs(30);
/// Decoded pieces kept in memory: a boot reads 41 MB.
pub const CACHE_BYTES: usize = 64 << 20;
/// Images whose maps are in memory at once; above it, the ones that nobody uses are dropped.
pub const MAX_OPEN_IMAGES: usize = 64;
/// Largest kernel or initrd: an initrd that holds a whole distribution is under 1 GiB.
pub const MAX_BOOT_FILE: u64 = 1 << 30;
/// Fewest letters of an image id that `resolve` takes as its beginning: 40 bits.
pub const MIN_ID_PREFIX: usize = 8;
/// Address space of the qcow2 converter: it was seen to need 130 MiB, its caches grow with the image.
pub const CONVERT_MEMORY: u64 = 2 << 30;
/// CPU time of the converter: 60 s and one for each of these many bytes (it does over 200 MB/s).
pub const CONVERT_BYTES_PER_CPU_SECOND: u64 = 16 << 20;

/// Descriptions of an OCI layout, each: 512 layers take 150 KB.
pub const OCI_JSON_BYTES: u64 = 4 << 20;
/// Images and indices that one OCI index may list.
pub const OCI_MANIFESTS: usize = 1_024;
/// Indices within indices that are followed; tools write one.
pub const OCI_NESTED: usize = 3;
/// Layers of an OCI image; overlayfs takes 500, docker 127.
pub const OCI_LAYERS: usize = 512;
/// Entries of all layers together: a desktop with its development tools has 300,000.
pub const OCI_ENTRIES: usize = 500_000;
/// Names, targets of links and attributes of all entries together: 250 bytes each.
pub const OCI_TEXT_BYTES: usize = 128 << 20;
/// All layers unpacked, those that later ones hide too: what a bomb costs in reading; nothing of it is written.
pub const OCI_UNPACKED_BYTES: u64 = 128 << 30;
/// Longest path in a layer: behind the store's own folder it stays under Linux' 4,096.
pub const OCI_PATH_BYTES: usize = 3_000;
/// Folders above an entry.
pub const OCI_DEPTH: usize = 256;
/// Longest name that ext4 takes.
pub const OCI_NAME_BYTES: usize = 255;
/// Longest extended header of an entry: names and attributes, of which ext4 keeps 64 KiB.
pub const OCI_HEADER_BYTES: u64 = 256 << 10;
/// Memory that unpacking a zstd layer may take as its window, as a power of two: zstd's own limit without '--long'.
pub const OCI_WINDOW_LOG: u32 = 27;
/// Address space of 'mke2fs' and 'debugfs': some bytes for each inode and block of a large image.
pub const FORMAT_MEMORY: u64 = 4 << 30;

/// Open wants of one session; above it the asker is cut off. `boxo` allows 1,024, `libtorrent` 2,000.
pub const MAX_WANTS: usize = 1_024;
/// Wants a second that one session may call urgent for long: a boot under emulation asks 40, a fast one 200.
pub const URGENT_PER_SECOND: f64 = 200.0;
/// The same at once.
pub const URGENT_BURST: f64 = 200.0;
/// Strangers that are answered at once, by what they gave lately.
pub const UNCHOKED: usize = 8;
/// And so many more by turns, so that a newcomer gets something to give.
pub const UNCHOKED_BY_TURN: usize = 1;
/// How often that is decided anew; long enough for a TCP or QUIC flow to reach its rate.
pub const CHOKE_EVERY: Duration = Duration::from_secs(10);
/// How often the turn goes on.
pub const TURN_EVERY: Duration = Duration::from_secs(30);
/// What a peer gave counts half after this long.
pub const CREDIT_HALF_LIFE: Duration = Duration::from_secs(60);
/// Longest that what was promised to the line may lie ahead of the owner's upload cap.
pub const UPLOAD_AHEAD: Duration = Duration::from_millis(250);
/// Bytes by which one peer may be ahead of its fair share of the cap for what its guests wait for: half of what a boot reads.
pub const URGENT_LEAD: u64 = 8 << 20;
/// Sessions that one store answers at once.
pub const MAX_SESSIONS: usize = 256;
/// A peer that opened a stream says `Hello` within this.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer that the peer does not take within this ends the session: 64 KiB in 60 s is 1 KB/s.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// New pieces are announced together, at most this often: 20 small messages a second and peer.
pub const HAVE_INTERVAL: Duration = Duration::from_millis(50);

/// Sessions of one peer among those: one for each image that it pulls at once.
pub const MAX_PEER_SESSIONS: usize = 16;

/// Largest image that is pulled: its maps take 100 MB of memory here. Larger ones can be imported.
pub const MAX_PULL_BYTES: u64 = 2 << 40;
/// Peers of one pull.
pub const MAX_PULL_PEERS: usize = 64;
/// Bytes asked from one peer and not yet here, at most: what 1 Gb/s holds at 32 ms. Deeper makes urgent reads wait.
pub const WINDOW_MAX: u64 = 4 << 20;
/// The same, at least, in pieces: one under way and one asked.
pub const WINDOW_MIN_PIECES: u64 = 2;
/// Added to the RTT in the window, so that a peer on the same LAN is not starved by our own scheduling.
pub const WINDOW_SLACK: Duration = Duration::from_millis(20);
/// RTT assumed of a peer before it was measured.
pub const RTT_UNKNOWN: Duration = Duration::from_millis(50);
/// Shortest wait before a piece is taken from a peer that does not deliver and asked elsewhere.
pub const STEAL_AFTER: Duration = Duration::from_secs(3);
/// A peer that had pieces to deliver and delivered none for this long is left.
pub const STALL_AFTER: Duration = Duration::from_secs(15);
/// Askers of one piece at once: the first and two duplicates.
pub const MAX_ASKERS: usize = 3;
/// Bad pieces after which a peer is banned for this pull; after the first it is on parole (one piece at a time).
pub const BAD_PIECES_TO_BAN: u32 = 2;
/// Claims that a peer took back by `NotHave` before it is left.
pub const MAX_LIES: u32 = 64;
/// How often a peer may announce each piece of an image on average: once when it comes and once when it goes, twice over.
pub const MAX_ANNOUNCED: u64 = 4;
/// Entries of the rarity order that one pick looks at before it asks the peer's own map.
pub const PICK_SCAN: usize = 256;
/// A pull with nobody to ask gives up after this long without any news.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Time for a connection to a hinted peer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a peer whose session ended without fault is left alone before it is tried again; doubles each time.
pub const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// Session attempts to one peer in one pull without a piece between them.
pub const MAX_ATTEMPTS: u32 = 6;
/// Segments asked from one peer at once: 4 x 32 KiB.
pub const SEGMENTS_IN_FLIGHT: usize = 4;
/// Missing pieces of the boot profile among which the rarest goes first: at least, and at most. In the simulation 16 and 64
/// both come within 1.1 of the bound; strict order takes 1.4 to 3.3 times it, rarest first alone 9.4 times.
pub const PROFILE_WINDOW_MIN: usize = 16;
/// See above.
pub const PROFILE_WINDOW_MAX: usize = 64;
/// So many of the last [`PROFILE_JUMP_OF`] pieces that a reader waited for lie beyond the window: the boot is further on.
pub const PROFILE_JUMP_HITS: usize = 3;
/// See above.
pub const PROFILE_JUMP_OF: usize = 8;
/// Round trip up to which two nodes count as being at one site.
pub const NEAR_RTT: Duration = Duration::from_millis(2);
/// Longest that a piece which a neighbour fetches is not asked from afar.
pub const HOLD_FOR: Duration = Duration::from_secs(3);
/// A second request for what a reader waits for goes out after this at the earliest.
pub const HEDGE_FLOOR: Duration = Duration::from_millis(5);
/// Second requests may cost one part in so many of the bytes fetched (5 %), beyond [`HEDGE_ALLOWANCE`].
pub const HEDGE_SHARE: u64 = 20;
/// Bytes of second requests that are free: at the beginning nothing was fetched yet.
pub const HEDGE_ALLOWANCE: u64 = 1 << 20;
/// Demands that readers may have open in one pull; QEMU asks 16 at a time.
pub const MAX_DEMANDS: usize = 1_024;

/// Pages of held parents that one pull remembers: 8 GiB of bytes that are not zero, in 50 MB of memory.
pub const MAX_INDEXED_PAGES: usize = 2 << 20;
/// Questions for page lists that one peer has open: 4 x 64 pieces are 16 MiB of image.
pub const LISTS_IN_FLIGHT: usize = 4;
/// A page list that is not here after this long is not waited for: the piece is fetched whole.
pub const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages above which a piece is fetched whole: its frame was compressed once, at publish, and packs better.
pub const MAX_PARTIAL_PAGES: u32 = 12;
/// Clients of one NBD export at once; QEMU uses one, `qemu-img` up to 16.
pub const NBD_CLIENTS: usize = 16;
/// Requests of one NBD client served at once; QEMU sends at most 16.
pub const NBD_IN_FLIGHT: usize = 16;
/// Largest NBD read, bytes; QEMU's own limit.
pub const NBD_MAX_READ: u32 = 32 << 20;
/// A read of a byte that nobody can deliver fails only after this long: a guest rather waits.
pub const READ_DEADLINE: Duration = Duration::from_secs(300);

/// Pieces of one boot profile: 512 MiB read by a boot; a Debian 12 reads 752 pieces.
pub const PROFILE_TOUCHES: usize = 8_192;
/// One part in so many of an image's pieces that a profile may have fetched early: 25 %, which bounds what a hostile one
/// wastes. Boots read 9 % of a Debian 12.
pub const PROFILE_SHARE: usize = 4;
/// Reports that are kept and merged of one image, one a node.
pub const MAX_REPORTS: usize = 16;
/// A boot is recorded until its guest is ready, but no longer than this: under emulation a Debian takes 40 s.
pub const RECORD_FOR: Duration = Duration::from_secs(120);
/// Profiles asked of peers in one pull.
pub const MAX_PROFILES_ASKED: usize = 16;
/// After the store was found full, how long pieces are only passed through before storing is tried again.
pub const FULL_PAUSE: Duration = Duration::from_secs(10);
/// Reads of one mounted image served at once; the kernel asks a dozen ahead of each program that reads.
pub const MOUNT_READS: usize = 64;
