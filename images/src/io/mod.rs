//! What touches the world: files of the store, sockets of peers and QEMU, the qcow2 converter, clocks and tasks.

#![expect(
    clippy::disallowed_methods,
    reason = "this module is the crate's I/O: store files, the qemu-img child, NBD sockets, peer streams, clocks, tasks"
)]

mod archive;
mod cache;
mod commit;
mod convert;
mod disk;
mod export;
mod gc;
mod import;
mod index;
mod mount;
mod names;
pub mod nbd;
mod oci;
mod packs;
mod profiles;
mod publish;
mod pull;
mod reader;
mod room;
mod serve;
mod state;
mod store;
mod stream;
mod survey;
mod uploads;

#[cfg(test)]
mod tests;

pub use archive::{ArchiveReport, archive_peer};
pub use export::ExportFormat;
pub use gc::{GcReport, GcSpec, MIN_COPIES, RemoveReport};
pub use import::{ImportError, ImportSpec, Progress, Stage};
pub use mount::{ImageMount, MountError, clear_stale, mount};
pub use names::NameError;
pub use nbd::{NbdError, NbdExport};
pub use profiles::{BootProfile, Recording};
pub use publish::{Memory, PublishSpec, Published};
pub use pull::{
    Assembled, Connect, PeerHint, PeerStream, PullError, PullProgress, PullReport, PullSpec, Want, pull, supply,
};
pub use reader::{ImageReader, Look, PieceSource, ReadError, Swarm};
pub use serve::{serve, serve_peer};
pub use store::{ImageInfo, Store, StoreConfig, StoreError, VerifyReport};
pub use stream::SessionError;
pub use survey::{Health, PeerHealth, survey};
pub use uploads::Standing;

/// A future that can be sent to another thread.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
