//! The relay for frames: what this node carries for others, and whom it asks to carry for itself.
//!
//! A relay knows channels and nothing else: it passes opaque datagrams between two ends, to places where it knows these ends
//! to be, within budgets. [`Relay`] is that side, [`Wanted`] the asking one, and [`Channels`] what ends here. All are pure: ids, places and time come from
//! outside.

mod budget;
mod channels;
mod judge;
mod table;
mod wanted;

#[cfg(test)]
mod ends;
#[cfg(test)]
mod tests;

pub use budget::{Bucket, Month};
pub use channels::{Channels, Held, Pair, Start, Strays};
pub use judge::{Account, Lans, Mode, Settings};
pub use table::{Ask, ChannelEnds, Forwarded, Place, Refused, Relay, RelayFigures};
pub use wanted::{Ask as WantedAsk, Offer, Rank, Wanted};
