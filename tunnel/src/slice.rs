//! Frames into datagrams: packing small ones, cutting super-frames, fragmenting what does not fit.
//!
//! Invariant: every datagram that leaves is at most the link's room, and all of a run but the last are filled as far as
//! the cut allows, because transports batch datagrams of one size (notes: quinn ends a batch at a shorter one).
//!
//! - A frame that fits an empty datagram is never cut; it shares a datagram with others.
//! - A super-frame is cut into slices that carry all its headers. TCP is cut at its segments where they fill
//!   datagrams, else anywhere; UDP at its segment size.
//! - Any other frame goes in fragments, which need each other.

use crate::{
    DropReason,
    defaults::{MIN_FILL, MIN_ROOM},
    packet::{Headers, Packet},
    segment,
};
use wire::{
    frame::{
        DATAGRAM_HEAD, FragmentMeta, Gso, LanTag, PartialCsum, RECORD_HEAD, SLICE_META, Scope, SliceMeta, put_echo,
        put_echo_reply, put_fragment, put_frame, put_head, put_slice,
    },
    link::Burst,
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
        }
    }

    /// The link's room has changed; the open datagram is closed if it might not fit.
    pub fn set_room(&mut self, room: usize) {
        if room != self.room {
            self.close();
            self.room = room;
        }
    }

    /// Bytes that are packed and not sent, the open datagram included.
    pub fn pending_bytes(&self) -> usize {
        self.burst.bytes()
    }

    /// Adds a frame of a LAN.
    pub fn push(&mut self, tag: LanTag, packet: &Packet<'_>) -> Result<(), DropReason> {
        if self.room < MIN_ROOM {
            return Err(DropReason::PathTooSmall);
        }
        if self.open != Some(tag) {
            self.close();
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
        let mut rest = frame;
        while !rest.is_empty() {
            if self.left() < overhead + MIN_FILL.min(rest.len()) {
                self.close();
            }
            let n = self.left().saturating_sub(overhead).min(rest.len());
            let (data, tail) = rest.split_at(n);
            self.begin(tag);
            let offset = total - u16::try_from(rest.len()).unwrap_or(total);
            put_fragment(
                self.burst.body(),
                &FragmentMeta {
                    id,
                    offset,
                    total,
                    csum,
                },
                data,
            );
            rest = tail;
        }
        Ok(())
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
        let unit = if segment::keeps_boundaries(gso.kind) || fills(usize::from(gso.size), whole) {
            usize::from(gso.size)
        } else {
            1
        };
        if unit > whole {
            return self.push_segments(tag, packet);
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
        self.close();
        self.burst.begin();
        put_head(self.burst.body(), Scope::Link);
        put(self.burst.body());
        self.close();
    }

    /// Closes the open datagram and gives all that is packed, in order, for a link to take from.
    pub fn burst(&mut self) -> &mut Burst {
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
