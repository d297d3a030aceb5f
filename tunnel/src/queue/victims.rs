//! What a queue dropped, for people: heads of the last few frames.

use super::Queued;
use crate::{DropReason, defaults::QUEUE_VICTIMS, peek};
use wire::frame::LanTag;

/// A frame that a queue dropped, or a segment of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Its LAN.
    pub tag: LanTag,
    /// Why.
    pub reason: DropReason,
    /// Its first bytes, at most [`peek::HEAD`].
    pub head: Vec<u8>,
}

/// The last of them, until somebody asks.
#[derive(Debug, Default)]
pub(super) struct Victims(Vec<Victim>);

impl Victims {
    /// Notes one, unless nobody asked for too long: the counters have all of them.
    pub(super) fn note(&mut self, reason: DropReason, frame: &Queued) {
        if self.0.len() < QUEUE_VICTIMS {
            self.0.push(Victim {
                tag: frame.tag,
                reason,
                head: frame.bytes.get(..peek::HEAD).unwrap_or(&frame.bytes).to_vec(),
            });
        }
    }

    /// Gives them away.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Victim> {
        self.0.drain(..)
    }
}
