//! Frames into datagrams: packing small ones, cutting super-frames, fragmenting what does not fit.
//!
//! Invariant: every datagram that leaves is at most the link's room, and all of a run but the last are filled as far as
//! the cut allows, because transports batch datagrams of one size (notes: quinn ends a batch at a shorter one).
//!
//! - A frame that fits an empty datagram is never cut; it shares a datagram with others.
//! - A super-frame is cut into slices that carry all its headers. TCP is cut at its segments where they fill
//!   datagrams, UDP where they fit one; else they are cut anywhere.
//! - Any other frame goes in fragments, which need each other. On a path that loses, a frame a little longer than a
//!   datagram has its tail sent twice: heads in full datagrams, then all their tails in one, then that one again. So it is
//!   lost about as often as a frame in one datagram, and not twice as often (docs/adr/0012). UDP super-frames of such frames
//!   are cut into them there.

use crate::{
    DropReason,
    defaults::{MIN_FILL, MIN_ROOM, TAIL_PART},
    packet::{Headers, Packet},
    segment,
};
use wire::{
    frame::{
        DATAGRAM_HEAD, FragmentMeta, Gso, LanTag, PartialCsum, RECORD_HEAD, SLICE_META, Scope, SliceMeta, put_echo,
        put_echo_reply, put_fragment, put_frame, put_head, put_slice,
    },
    link::{Burst, SEAL_HEAD, SEAL_TAIL},
};

/// Meta of a fragment without its checksum, bytes.
const FRAGMENT_META: usize = 8;
/// A partial checksum in a frame's or fragment's meta, bytes.
const CSUM_META: usize = 4;

/// Makes datagrams for one link.
#[derive(Debug)]
pub struct Packer {
    room: usize,
    /// The open datagram's LAN.
    open: Option<LanTag>,
    burst: Burst,
    next_id: u32,
    scratch: Vec<u8>,
    /// Short tails are sent twice.
    repeats: bool,
    /// Tails whose heads are packed, as records, and their LAN. While there are any, no datagram is open.
    tails: Vec<u8>,
    tails_of: LanTag,
}

impl Packer {
    /// For a link whose datagrams hold `room` bytes now.
    pub fn new(room: usize) -> Self {
        Self {
            room,
            open: None,
            burst: Burst::default(),
            next_id: 0,
            scratch: Vec::new(),
            repeats: false,
            tails: Vec::new(),
            tails_of: LanTag(0),
        }
    }

    /// The link's room has changed; the open datagram is closed if it might not fit.
    pub fn set_room(&mut self, room: usize) {
        if room != self.room {
            self.settle();
            self.close();
            self.room = room;
        }
    }

    /// Whether the tail of a frame that is a little longer than a datagram is sent twice from now on.
    pub fn set_repeats(&mut self, repeats: bool) {
        self.repeats = repeats;
    }

    /// Bytes that are packed and not sent, the open datagram included.
    pub fn pending_bytes(&self) -> usize {
        // Tails go twice, each time in a datagram.
        let tails = match self.tails.len() {
            0 => 0,
            n => 2 * (n + DATAGRAM_HEAD + SEAL_HEAD + SEAL_TAIL),
        };
        self.burst.bytes() + tails
    }

    /// Adds a frame of a LAN.
    pub fn push(&mut self, tag: LanTag, packet: &Packet<'_>) -> Result<(), DropReason> {
        if self.room < MIN_ROOM {
            return Err(DropReason::PathTooSmall);
        }
        match packet.gso() {
            Some((gso, csum, h)) => self.push_super(tag, packet, gso, csum, &h),
            None => self.push_frame(tag, packet.csum(), packet.bytes()),
        }
    }

    fn push_frame(&mut self, tag: LanTag, csum: Option<PartialCsum>, frame: &[u8]) -> Result<(), DropReason> {
        let csum_len = if csum.is_some() { CSUM_META } else { 0 };
        let need = RECORD_HEAD + csum_len + frame.len();
        if DATAGRAM_HEAD + need <= self.room {
            self.join(tag);
            if self.left() < need {
                self.close();
            }
            self.begin(tag);
            put_frame(self.burst.body(), csum, frame);
            return Ok(());
        }
        let total = u16::try_from(frame.len()).map_err(|_| DropReason::Oversize)?;
        let overhead = RECORD_HEAD + FRAGMENT_META + csum_len;
        let id = self.id();
        let whole = FragmentMeta {
            id,
            offset: 0,
            total,
            csum,
        };
        let most = self.room - DATAGRAM_HEAD - overhead;
        if self.repeats && frame.len() - most.min(frame.len()) <= most / TAIL_PART {
            self.push_twice(tag, whole, frame, most);
            return Ok(());
        }
        self.join(tag);
        let mut rest = frame;
        while !rest.is_empty() {
            if self.left() < overhead + MIN_FILL.min(rest.len()) {
                self.close();
            }
            let n = self.left().saturating_sub(overhead).min(rest.len());
            let (data, tail) = rest.split_at(n);
            self.begin(tag);
            let offset = total - u16::try_from(rest.len()).unwrap_or(total);
            put_fragment(self.burst.body(), &FragmentMeta { offset, ..whole }, data);
            rest = tail;
        }
        Ok(())
    }

    /// A frame of a head that fills a datagram and a tail that waits for those of the next frames.
    fn push_twice(&mut self, tag: LanTag, whole: FragmentMeta, frame: &[u8], most: usize) {
        let (head, tail) = frame.split_at(most.min(frame.len()));
        let record = self.room - DATAGRAM_HEAD - most + tail.len();
        if self.tails_of != tag || DATAGRAM_HEAD + self.tails.len() + record > self.room {
            self.settle();
        }
        self.close();
        self.begin(tag);
        put_fragment(self.burst.body(), &whole, head);
        self.close();
        let offset = u16::try_from(head.len()).unwrap_or(whole.total);
        put_fragment(&mut self.tails, &FragmentMeta { offset, ..whole }, tail);
        self.tails_of = tag;
    }

    /// Packs the tails that wait, twice. The second of the two datagrams stays open for what follows.
    fn settle(&mut self) {
        if self.tails.is_empty() {
            return;
        }
        for _ in 0..2 {
            self.close();
            self.begin(self.tails_of);
            self.burst.body().extend_from_slice(&self.tails);
        }
        self.tails.clear();
    }

    /// What follows goes behind the tails that wait, and into the open datagram if that is of the same LAN.
    fn join(&mut self, tag: LanTag) {
        self.settle();
        if self.open != Some(tag) {
            self.close();
        }
    }

    fn push_super(
        &mut self,
        tag: LanTag,
        packet: &Packet<'_>,
        gso: Gso,
        csum: PartialCsum,
        h: &Headers,
    ) -> Result<(), DropReason> {
        let (headers, payload) = packet.bytes().split_at(h.len);
        let overhead = RECORD_HEAD + SLICE_META + headers.len();
        let whole = self.room.saturating_sub(DATAGRAM_HEAD + overhead);
        let size = usize::from(gso.size);
        if !h.tcp && size > whole && self.repeats {
            return self.push_segments(tag, packet);
        }
        let whole_segments = if h.tcp { fills(size, whole) } else { size <= whole };
        let unit = if whole_segments { size } else { 1 };
        self.join(tag);
        if unit > 1 && self.left() < overhead + payload.len() {
            // Datagrams that hold whole segments are alike only if the first is a fresh one.
            self.close();
        }
        let id = self.id();
        let mut rest = payload;
        while !rest.is_empty() {
            let enough = overhead + MIN_FILL.max(unit).min(rest.len());
            if self.left() < enough {
                self.close();
            }
            let avail = self.left().saturating_sub(overhead);
            let n = if rest.len() <= avail {
                rest.len()
            } else {
                avail / unit * unit
            };
            let (data, tail) = rest.split_at(n);
            let offset = u16::try_from(payload.len() - rest.len()).map_err(|_| DropReason::Oversize)?;
            let hdr_len = u16::try_from(headers.len()).map_err(|_| DropReason::BadOffload)?;
            self.begin(tag);
            let meta = SliceMeta {
                id,
                offset,
                hdr_len,
                gso,
                csum,
                last: tail.is_empty(),
            };
            put_slice(self.burst.body(), &meta, headers, data);
            rest = tail;
        }
        Ok(())
    }

    /// A super-frame whose segments do not fit a datagram: each is made a frame of its own.
    fn push_segments(&mut self, tag: LanTag, packet: &Packet<'_>) -> Result<(), DropReason> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut result = Ok(());
        segment::plain(packet, &mut scratch, &mut |frame| {
            result = result.and_then(|()| self.push_frame(tag, None, frame));
        });
        self.scratch = scratch;
        result
    }

    /// Adds a datagram of the link's own: an echo request.
    pub fn push_echo(&mut self, token: u64) {
        self.push_link(|out| put_echo(out, token));
    }

    /// Adds a datagram of the link's own: an echo reply.
    pub fn push_echo_reply(&mut self, token: u64) {
        self.push_link(|out| put_echo_reply(out, token));
    }

    fn push_link(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        self.settle();
        self.close();
        self.burst.begin();
        put_head(self.burst.body(), Scope::Link);
        put(self.burst.body());
        self.close();
    }

    /// Closes the open datagram and gives all that is packed, in order, for a link to take from.
    pub fn burst(&mut self) -> &mut Burst {
        self.settle();
        self.close();
        &mut self.burst
    }

    fn id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// Bytes left in the open datagram; a fresh one's if none is open.
    fn left(&self) -> usize {
        self.room
            - if self.open.is_some() {
                self.burst.open_len()
            } else {
                DATAGRAM_HEAD
            }
    }

    fn begin(&mut self, tag: LanTag) {
        if self.open.is_none() {
            self.burst.begin();
            put_head(self.burst.body(), Scope::Lan(tag));
            self.open = Some(tag);
        }
    }

    fn close(&mut self) {
        self.open = None;
        self.burst.close();
    }
}

/// Do whole segments fill a datagram of so many payload bytes by three quarters? Then TCP is cut at them: a lost datagram
/// costs the sender what was in it. Cut elsewhere it costs the two segments that it had parts of, since a sender counts a
/// segment as arrived only as a whole.
fn fills(segment: usize, payload: usize) -> bool {
    segment > 0 && payload / segment * segment * 4 >= payload * 3
}
