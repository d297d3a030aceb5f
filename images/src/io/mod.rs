//! What touches the world: files of the store, sockets of peers and QEMU, the qcow2 converter, clocks and tasks.

#![expect(
    clippy::disallowed_methods,
    reason = "this module is the crate's I/O: store files, the qemu-img child, NBD sockets, peer streams, clocks, tasks"
)]

mod cache;
mod commit;
mod convert;
mod disk;
mod gc;
mod import;
mod index;
pub mod nbd;
mod packs;
mod pull;
mod reader;
mod serve;
mod state;
mod store;
mod stream;

#[cfg(test)]
mod tests;

pub use gc::RemoveReport;
pub use import::{ImportError, ImportSpec, Progress, Stage};
pub use nbd::{NbdError, NbdExport};
pub use pull::{Connect, PeerHint, PeerStream, PullError, PullProgress, PullReport, PullSpec, pull};
pub use reader::{ImageReader, PieceSource, ReadError, Swarm};
pub use serve::serve_peer;
pub use store::{ImageInfo, Store, StoreConfig, StoreError, VerifyReport};
pub use stream::SessionError;

/// A future that can be sent to another thread.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
