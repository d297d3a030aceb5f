//! How far a guest's disk is from needing nothing but itself.

use crate::{fault::plain, ids::GuestId};
use serde::{Deserialize, Serialize};

/// Where a guest's disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskStage {
    /// What it did not write is read from its image, through the node.
    OnDemand,
    /// It is to become persistent; its image is still being fetched.
    Fetching,
    /// The image is here, and is being copied into it.
    Copying,
    /// It is to become persistent, and something stands against it for now; the note says what.
    Waiting,
    /// It needs neither node nor image.
    Persistent,
}

/// The disk of one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// Whose.
    pub guest: GuestId,
    /// Where it is.
    pub stage: DiskStage,
    /// Bytes that are there: of the image on its host, or, while it is copied, of the disk.
    pub have: u64,
    /// Of so many.
    pub total: u64,
    /// Why it waits, and what helps.
    pub note: Option<String>,
}

impl DiskView {
    /// As received from a peer.
    #[must_use]
    pub fn sanitised(mut self) -> Self {
        self.note = self.note.as_deref().map(plain);
        self
    }
}
