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

/// Open wants of one session; above it the asker is cut off. `boxo` allows 1,024, `libtorrent` 2,000.
pub const MAX_WANTS: usize = 1_024;
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
/// Demands that readers may have open in one pull; QEMU asks 16 at a time.
pub const MAX_DEMANDS: usize = 1_024;

/// Clients of one NBD export at once; QEMU uses one, `qemu-img` up to 16.
pub const NBD_CLIENTS: usize = 16;
/// Requests of one NBD client served at once; QEMU sends at most 16.
pub const NBD_IN_FLIGHT: usize = 16;
/// Largest NBD read, bytes; QEMU's own limit.
pub const NBD_MAX_READ: u32 = 32 << 20;
/// A read of a byte that nobody can deliver fails only after this long: a guest rather waits.
pub const READ_DEADLINE: Duration = Duration::from_secs(300);
