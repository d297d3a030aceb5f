//! Whether a member's claims have all been heard: what it says they add up to, against what was heard of it.
//!
//! A note may be older than the last update, and an update may be on its way while a note overtakes it. So a difference
//! counts only if it was the same at two looks in a row, and nothing of that member's changed meanwhile; and what follows
//! it is bounded, whatever the member says.
//!
//! ```text
//!          the note is another than heard         the same two at the next look
//!   Same ──────────────────────────────> Doubt ────────────────────────────────> ask, if allowed
//!     ^─────────── they are equal ─────────┴── either changed: wait for the next note
//! ```

use crate::defaults::{ASK_EVERY, ASKS};
use std::time::Instant;

/// How often something may be asked, or answered: [`ASKS`] at once, then one in [`ASK_EVERY`].
#[derive(Debug)]
pub struct Allowance {
    left: u32,
    filled: Option<Instant>,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            left: ASKS,
            filled: None,
        }
    }
}

impl Allowance {
    /// Takes one; false if there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let filled = *self.filled.get_or_insert(now);
        let since = now.saturating_duration_since(filled).as_secs() / ASK_EVERY.as_secs();
        let more = u32::try_from(since).unwrap_or(u32::MAX);
        if self.left.saturating_add(more) >= ASKS {
            (self.left, self.filled) = (ASKS, Some(now));
        } else {
            (self.left, self.filled) = (self.left + more, Some(filled + ASK_EVERY * more));
        }
        let has = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has
    }
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// At this time it had said nothing that was not heard.
    Same(Instant),
    /// Nothing, as yet.
    Unsure,
    /// Ask for the whole set.
    Ask,
}

/// One member.
#[derive(Debug, Default)]
pub struct Compare {
    /// What was heard of it added up to this at the last look.
    mine: Option<u32>,
    /// When the note of the last look came.
    heard: Option<Instant>,
    doubt: Option<(u32, u32)>,
    asks: Allowance,
}

impl Compare {
    /// Looks; to be called every [`crate::defaults::COMPARE_EVERY`]. `note`: what the member said last, and when that
    /// came; `mine`: what was heard of it.
    pub fn handle_look(&mut self, now: Instant, note: Option<(u32, Instant)>, mine: u32) -> Verdict {
        let steady = self.mine.replace(mine) == Some(mine);
        let Some((theirs, heard)) = note else {
            return Verdict::Unsure;
        };
        let new = self.heard.replace(heard) != Some(heard);
        if theirs == mine {
            self.doubt = None;
            return Verdict::Same(heard);
        }
        if self.doubt.take() == Some((theirs, mine)) {
            return if self.asks.take(now) {
                Verdict::Ask
            } else {
                Verdict::Unsure
            };
        }
        self.doubt = (new && steady).then_some((theirs, mine));
        Verdict::Unsure
    }
}
