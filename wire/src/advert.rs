//! Adverts: what a node says about itself to whoever looks for a host, an image or a guest; and the calls that carry them.
//!
//! One advert speaks of one subject, its [`Slot`]; the pair (node, slot) is replaced by a higher `seq` and by nothing
//! else. A holder recomputes the [`IndexKey`]s from the content, so nobody can store an advert under a key of their choice.

use crate::{
    cell::{Cell, Coord, Wanted},
    fault::is_shown,
    guest::{Accel, GuestState},
    ids::{GuestId, ImageId, LanId, Name, NodeId},
    sign::{PublicKey, Record, RecordError, Signed},
    units::{ByteSize, UnixMillis},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Stream protocol of the index calls.
pub const INDEX_PROTOCOL: &str = "/lanline/index/2";
/// Most addresses in one advert.
pub const MAX_ADDRS: usize = 4;
/// Longest address, bytes: a relayed multiaddr over IPv6 with its two peer ids, as memberships carry it.
pub const MAX_ADDR_BYTES: usize = crate::membership::MAX_ADDR_TEXT;
/// Longest free text (why an accelerator, which QEMU), bytes.
pub const MAX_TEXT: usize = 80;
/// Longest name of a predictor, bytes.
pub const MAX_MODEL: usize = 10;
/// Most LANs that one host names.
pub const MAX_LANS: usize = 8;
/// Longest life that an advert may claim, seconds: 25 minutes for an image, and 10 more for the tombstone that outlives it.
pub const MAX_TTL_S: u32 = 2_100;
/// Most adverts in one store call.
pub const MAX_STORE: usize = 32;
/// Most adverts that one get may ask for.
pub const MAX_GET: usize = 64;
/// Most subjects that one pull may ask for.
pub const MAX_PULL: usize = 32;
/// Buckets of an anti-entropy digest; 8,000 adverts (a full replica of 2,000 members) put 31 into each.
pub const DIGEST_BUCKETS: usize = 256;
/// Most summaries in one answer to a digest: 40 KB.
pub const MAX_SUMMARIES: usize = 512;
/// Most nodes in one [`IndexReply::Contacts`]: a bucket.
pub const MAX_CONTACTS: usize = 16;
/// Most addresses of one contact.
pub const MAX_CONTACT_ADDRS: usize = 2;
/// Most cells in one place call.
pub const MAX_CELLS: usize = 16;
/// Most paths in one sample.
pub const MAX_PATHS: usize = 256;
/// Largest index call, bytes: 32 adverts of at most 1,024 and their envelopes are 36 KB.
pub const MAX_CALL_BYTES: usize = 48 << 10;
/// Largest index reply, bytes.
pub const MAX_REPLY_BYTES: usize = 64 << 10;

/// First eight bytes of [`LanId::digest`]: tells members apart from strangers without naming the LAN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LanTag(pub [u8; 8]);

impl From<&LanId> for LanTag {
    fn from(lan: &LanId) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = lan.digest();
        Self([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Debug for LanTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What one advert is about; with the node's id its identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Slot {
    /// The machine that the node lends.
    Host,
    /// An image that the node holds, wholly or in part.
    Image(ImageId),
    /// A guest that the node runs.
    Guest(GuestId),
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Image(i) => write!(f, "image {i}"),
            Self::Guest(g) => write!(f, "guest {g}"),
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a machine expects of its run queue, smoothed over 5 s: runnable tasks in hundredths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadForecast {
    /// Processors of the machine, which share this load; not all of them may be on loan.
    pub cpus: u16,
    /// When the advert was signed.
    pub now_x100: u32,
    /// 10 s later.
    pub p10_x100: u32,
    /// 60 s later.
    pub p60_x100: u32,
    /// Standard deviation of that one's error.
    pub err60_x100: u32,
    /// Predictor that made it; at most [`MAX_MODEL`] bytes.
    pub model: String,
}

/// A machine on loan and what is free of it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostOffer {
    /// Instruction set as QEMU names it, for example `x86_64`.
    pub arch: Name,
    /// Processors that guests may have in all.
    pub cpus_total: u16,
    /// Processors not promised to a guest.
    pub cpus_free: u16,
    /// Memory that guests may have in all.
    pub memory_total: ByteSize,
    /// Memory not promised to a guest.
    pub memory_free: ByteSize,
    /// Accelerator that a guest gets here.
    pub accel: Accel,
    /// Why that one; at most [`MAX_TEXT`] bytes.
    pub accel_reason: String,
    /// QEMU's version; at most [`MAX_TEXT`] bytes.
    pub qemu: String,
    /// Guests that run.
    pub vms: u16,
    /// Guests that the owner allows.
    pub max_vms: u16,
    /// Run queue over one minute, in hundredths.
    pub load1_x100: u32,
    /// What it expects of its load; absent until it has watched for some minutes, and where the kernel does not say.
    pub forecast: Option<LoadForecast>,
    /// LANs on which this node is a member, at most [`MAX_LANS`].
    pub lans: Vec<LanTag>,
    /// Room that guests' disks may fill.
    pub disk_free: ByteSize,
    /// What an hour of one processor costs, in thousandths of whatever the owner counts in; 0: nothing.
    pub price: u32,
    /// Longest time that a guest is lent the machine for, seconds; 0: no end.
    pub lease_max_s: u32,
    /// Where it stands in the network, once it has measured enough.
    pub coord: Option<Coord>,
}

/// An image at a node, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The image.
    pub image: ImageId,
    /// What this node calls it.
    pub name: Option<Name>,
    /// Tag under that name.
    pub tag: Option<Name>,
    /// Size of the disk that a guest sees.
    pub size: ByteSize,
    /// Bytes that the node stores for it.
    pub stored: ByteSize,
    /// Pieces of the image.
    pub pieces_total: u32,
    /// Pieces that this node has checked and serves.
    pub pieces_have: u32,
    /// A kernel comes with it.
    pub kernel: bool,
}

impl Holding {
    /// Has every piece.
    pub fn complete(&self) -> bool {
        self.pieces_have >= self.pieces_total
    }
}

/// A guest at a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The guest.
    pub guest: GuestId,
    /// Its name; absent unless `public`.
    pub name: Option<Name>,
    /// State.
    pub state: GuestState,
    /// What it was started from.
    pub image: ImageId,
    /// LAN that its NIC is on.
    pub lan: Option<LanTag>,
    /// When it came into this state.
    pub since: UnixMillis,
    /// Its owner lets everybody see its name.
    pub public: bool,
}

/// The typed part of an advert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// See [`HostOffer`].
    Host(HostOffer),
    /// See [`Holding`].
    Image(Holding),
    /// See [`Running`].
    Guest(Running),
    /// Tombstone: what was said about this subject is over.
    Gone(Slot),
}

impl Body {
    /// The subject.
    pub fn slot(&self) -> Slot {
        match self {
            Self::Host(_) => Slot::Host,
            Self::Image(h) => Slot::Image(h.image),
            Self::Guest(r) => Slot::Guest(r.guest),
            Self::Gone(s) => *s,
        }
    }

    /// A tombstone.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }

    /// Where it belongs in the index, apart from its node's own key.
    pub(crate) fn namespaces(&self) -> Vec<Namespace> {
        match self {
            Self::Host(h) => [Namespace::Hosts]
                .into_iter()
                .chain(h.lans.iter().map(|l| Namespace::Lan(*l)))
                .collect(),
            Self::Image(h) => [Namespace::Image(h.image)]
                .into_iter()
                .chain(h.name.as_ref().map(Namespace::image_name))
                .collect(),
            Self::Guest(r) => [Namespace::Guest(r.guest)]
                .into_iter()
                .chain(r.lan.map(Namespace::Lan))
                .collect(),
            Self::Gone(Slot::Host) => vec![Namespace::Hosts],
            Self::Gone(Slot::Image(i)) => vec![Namespace::Image(*i)],
            Self::Gone(Slot::Guest(g)) => vec![Namespace::Guest(*g)],
        }
    }
}

/// What can be asked for by equality.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Namespace {
    /// Every machine on loan.
    Hosts,
    /// Who holds an image.
    Image(ImageId),
    /// Images of a name, in lower case: [`Namespace::image_name`].
    ImageName(String),
    /// Everything that a node says.
    Node(NodeId),
    /// Where a guest runs.
    Guest(GuestId),
    /// Hosts and guests on a LAN.
    Lan(LanTag),
    /// Hosts of an instruction set and accelerator, by free processors and memory.
    Kind(Name, Accel),
    /// Hosts by room for disks.
    Disk,
    /// Hosts by price.
    Price,
    /// Hosts by the largest size of guest that fits.
    Class,
    /// Hosts by longest lease.
    Lease,
    /// Hosts by place in the network.
    Near,
}

impl Namespace {
    /// Images called `name`; case does not matter.
    pub fn image_name(name: &Name) -> Self {
        Self::ImageName(name.as_str().to_ascii_lowercase())
    }

    /// The key: BLAKE3 derive-key, context `lanline/ix/1`, over a tag byte and the value.
    pub fn key(&self) -> IndexKey {
        let mut h = blake3::Hasher::new_derive_key("lanline/ix/1");
        match self {
            Self::Hosts => h.update(&[0]),
            Self::Image(i) => h.update(&[1]).update(&i.0),
            Self::ImageName(n) => h.update(&[2]).update(n.as_bytes()),
            Self::Node(n) => h.update(&[3]).update(&n.0),
            Self::Guest(g) => h.update(&[4]).update(&g.0),
            Self::Lan(l) => h.update(&[5]).update(&l.0),
            Self::Kind(arch, accel) => h.update(&[6, *accel as u8]).update(arch.as_str().as_bytes()),
            Self::Disk => h.update(&[7]),
            Self::Price => h.update(&[8]),
            Self::Class => h.update(&[9]),
            Self::Lease => h.update(&[10]),
            Self::Near => h.update(&[11]),
        };
        IndexKey(*h.finalize().as_bytes())
    }
}

/// A point of the index: the nodes nearest to it hold what belongs there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IndexKey(pub [u8; 32]);

impl fmt::Debug for IndexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0[..8]))
    }
}

/// What a node says about one subject, until when. Signed by the node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// Who speaks; must be the signer.
    pub node: NodeId,
    /// Rises with every advert of (node, slot), over restarts too.
    pub seq: u64,
    /// When it was signed, by the node's clock.
    pub issued: UnixMillis,
    /// Life from `issued`, seconds; 1 to [`MAX_TTL_S`].
    pub ttl_s: u32,
    /// What the node calls itself.
    pub name: Option<Name>,
    /// Where the node can be dialled, multiaddrs, best first; at most [`MAX_ADDRS`].
    pub addrs: Vec<String>,
    /// The subject.
    pub body: Body,
}

impl Record for Advert {
    const KIND: &'static str = "advert";
    const VERSION: u16 = 3;
    const MAX_BYTES: usize = 1_024;
}

/// Why an advert's content is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvertError {
    /// Envelope, signature or encoding.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Signed by another node than the one it speaks of.
    #[error("an advert about a node is signed by another node")]
    Foreign,
    /// A life of nothing, or longer than [`MAX_TTL_S`].
    #[error("an advert claims a life of {0} s; 1 to {MAX_TTL_S} are allowed")]
    Ttl(u32),
    /// More than a field may hold, or text that a terminal would obey.
    #[error("an advert's {0} is longer than allowed or holds control characters")]
    Field(&'static str),
}

impl Advert {
    /// The subject.
    pub fn slot(&self) -> Slot {
        self.body.slot()
    }

    /// Every index key under which this advert belongs, without repeats; at most 2 + [`MAX_LANS`].
    pub fn keys(&self) -> Vec<IndexKey> {
        let mut keys: Vec<IndexKey> = self.body.namespaces().iter().map(Namespace::key).collect();
        keys.push(Namespace::Node(self.node).key());
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Opens a signed advert: bound, signature, signer, field bounds. It does not judge time or sequence.
    pub fn open(signed: &Signed<Self>) -> Result<Self, AdvertError> {
        let advert = signed.open()?;
        if signed.signer() != PublicKey::from(advert.node) {
            return Err(AdvertError::Foreign);
        }
        advert.check()?;
        Ok(advert)
    }

    /// The field bounds of this file; a publisher's own advert must pass them too.
    pub fn check(&self) -> Result<(), AdvertError> {
        if self.ttl_s == 0 || self.ttl_s > MAX_TTL_S {
            return Err(AdvertError::Ttl(self.ttl_s));
        }
        if self.addrs.len() > MAX_ADDRS || !self.addrs.iter().all(|a| is_plain(a, MAX_ADDR_BYTES)) {
            return Err(AdvertError::Field("addresses"));
        }
        match &self.body {
            Body::Host(h) if h.coord.is_some_and(|c| c.height_us > crate::cell::PLACE_SIDE_US) => {
                Err(AdvertError::Field("place"))
            }
            Body::Host(h) if h.lans.len() > MAX_LANS => Err(AdvertError::Field("list of LANs")),
            Body::Host(h) if !is_plain(&h.accel_reason, MAX_TEXT) => Err(AdvertError::Field("accelerator reason")),
            Body::Host(h) if !is_plain(&h.qemu, MAX_TEXT) => Err(AdvertError::Field("QEMU version")),
            Body::Host(h) if h.forecast.as_ref().is_some_and(|f| !is_plain(&f.model, MAX_MODEL)) => {
                Err(AdvertError::Field("predictor"))
            }
            Body::Guest(r) if !r.public && r.name.is_some() => Err(AdvertError::Field("name of a private guest")),
            _ => Ok(()),
        }
    }
}

fn is_plain(s: &str, max: usize) -> bool {
    s.len() <= max && s.chars().all(is_shown)
}

/// Text as an advert may carry it: only what [`is_shown`], cut at a character boundary at [`MAX_TEXT`] bytes.
pub fn short_text(s: &str) -> String {
    let mut out = String::new();
    for c in s.chars().filter(|c| is_shown(*c)) {
        if out.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        out.push(c);
    }
    out
}

/// An advert on its way, and how old its carrier reckons it: what is passed on must not grow younger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The advert as its node signed it.
    pub advert: Signed<Advert>,
    /// Since it left its node, milliseconds, by the carriers' monotonic clocks.
    pub age_ms: u32,
}

/// What a holder knows of one subject, without the advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Summary {
    /// Who speaks.
    pub node: NodeId,
    /// About what.
    pub slot: Slot,
    /// Highest sequence held.
    pub seq: u64,
}

/// A call on [`INDEX_PROTOCOL`]; at most [`MAX_CALL_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexCall {
    /// Hold these. Answered by [`IndexReply::Stored`], one answer each, in order.
    Store {
        /// At most [`MAX_STORE`].
        adverts: Vec<Carried>,
    },
    /// A sample of what is held under a key. Answered by [`IndexReply::Rows`].
    Get {
        /// Of [`Namespace::key`].
        key: IndexKey,
        /// At most [`MAX_GET`].
        limit: u16,
        /// Chooses the sample when more is held than asked for.
        nonce: u64,
    },
    /// Anti-entropy, first step: hashes of everything that the caller holds. Answered by [`IndexReply::Differ`].
    Digest {
        /// Key of the hashes, so that nobody can prepare adverts whose hashes cancel out.
        nonce: u64,
        /// Bucket from which the answer begins, for a caller that was cut off by the bound before.
        from: u16,
        /// Exactly [`DIGEST_BUCKETS`] sums.
        buckets: Vec<u64>,
    },
    /// Anti-entropy, second step: the adverts of these subjects. Answered by [`IndexReply::Rows`].
    Pull {
        /// At most [`MAX_PULL`].
        wants: Vec<(NodeId, Slot)>,
    },
    /// Kademlia's FIND_NODE. Answered by [`IndexReply::Contacts`].
    Near {
        /// Any point: [`crate::cell`]'s keys and nodes have theirs by SHA-256.
        point: [u8; 32],
        /// Where the caller can be dialled, at most [`MAX_CONTACT_ADDRS`]; none if it is not to be passed on.
        addrs: Vec<String>,
    },
    /// File an advert under cells. Answered by [`IndexReply::Placed`], one answer each, in order.
    Place {
        /// At most [`MAX_CELLS`].
        cells: Vec<Cell>,
        /// Boxed for its size.
        advert: Box<Carried>,
    },
    /// What is filed under a cell. Answered by [`IndexReply::Sample`].
    Ask {
        /// The cell.
        cell: Cell,
        /// What a row must be.
        wanted: Box<Wanted>,
        /// At most [`MAX_GET`].
        limit: u16,
        /// Only what comes after this in the order asked for, for the next page; 0 for the first.
        after: u64,
        /// 0: by rank. Else by SplitMix64's finaliser over the rank XOR this, so that the first few are any few.
        nonce: u64,
    },
}

/// A node that another one knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// The node.
    pub node: NodeId,
    /// Where it said that it can be dialled; at most [`MAX_CONTACT_ADDRS`].
    pub addrs: Vec<String>,
}

/// What became of an advert under one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// [`StoreAnswer::Full`]: its rank is above the cell's threshold, so it belongs only further down.
    pub answer: StoreAnswer,
    /// Adverts that exist under the cell, as the holder reckons.
    pub estimate: u32,
    /// The cell's sample is full: what ranks above is only further down.
    pub full: bool,
}

/// What became of one stored advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreAnswer {
    /// Held, now or already.
    Accepted,
    /// Expired, or as high a sequence was seen before.
    Stale,
    /// The holder is not near any of its keys.
    NotMine,
    /// The holder has no room for it.
    Full,
    /// Malformed, forged, or from the future.
    Invalid,
}

/// The reply to a call; at most [`MAX_REPLY_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexReply {
    /// To a store.
    Stored(Vec<StoreAnswer>),
    /// To a get or a pull.
    Rows {
        /// Bounded by the call's limit and by the reply's bytes.
        adverts: Vec<Carried>,
        /// How many the holder has for the question.
        total_estimate: u32,
    },
    /// To a digest: the subjects in buckets that differ.
    Differ {
        /// Sums of buckets that were compared and differ, by subject; at most [`MAX_SUMMARIES`].
        summaries: Vec<Summary>,
        /// Buckets that these cover, as a range from `from`.
        upto: u16,
        /// Which buckets below `upto` differ, in order.
        buckets: Vec<u16>,
    },
    /// The call was not understood or broke a bound.
    Refused,
    /// To a near, nearest first; at most [`MAX_CONTACTS`].
    Contacts(Vec<Contact>),
    /// To a place.
    Placed(Vec<Placed>),
    /// To an ask.
    Sample {
        /// By rank; bounded by the call's limit and by the reply's bytes.
        adverts: Vec<Carried>,
        /// Ranks above the last row's are left.
        more: bool,
        /// Adverts that exist under the cell, as the holder reckons.
        estimate: u32,
        /// Adverts that it holds under the cell, and how many of these fit.
        held: u32,
        /// See `held`.
        fits: u32,
        /// Paths of those that fit if the sample is full, so that the caller can go to where they are; at most
        /// [`MAX_PATHS`].
        paths: Vec<u32>,
    },
}

#[cfg(test)]
#[path = "advert_tests.rs"]
mod tests;
