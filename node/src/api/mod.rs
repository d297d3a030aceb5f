//! The control API: what the node answers on `control.sock`, and the only source of every `--json` document.
//!
//! It does not: no socket, no HTTP, no printing. `io::server` serves [`Service`] along the table in [`routes`],
//! `io::client` calls the same table, `render` turns the same types into text for people.
//!
//! Shape: ids are text as people see them, sizes end in `_bytes`, spans in `_ms` (or `_s`), moments are milliseconds
//! since the Unix epoch in fields whose comment says so. A field that is not known is `null`, never a made-up value.

pub mod guest;
pub mod image;
pub mod lan;
pub mod line;
pub mod machine;
pub mod openapi;
pub mod policy;
pub mod resource;
pub mod routes;
pub mod see;
pub mod service;

pub use guest::{
    Address, GuestLogs, GuestNote, GuestRemoved, GuestRow, GuestView, RunRequest, RunResult, StopRequest, StopView,
    WaitFor,
};
pub use image::{ImageAdd, ImagePull, ImageRemoved, ImageRow, ImageView, Part, PullResult, VerifyResult};
pub use lan::{
    AttachMode, Detached, Evicted, FdbKind, FdbRow, JoinRequest, JoinResult, LanAttach, LanCreate, LanDetach, LanEvict,
    LanInvite, LanRow, LanView, MemberRow, PortKind, PortRow, Role, TicketOut,
};
pub use line::{Line, Progress, ProgressLine, StepLine, Unit};
pub use machine::{
    Check, ConfigView, DoctorReport, Down, GuestCounts, Origin, PathView, PeerRow, PingReply, PingReport, PingRequest,
    SettingRow, Status, Verdict,
};
pub use policy::{
    HeldHow, HeldRow, LanMtuRequest, LanMtuView, LanPolicyRequest, LanPolicyView, PolicyOrigin, PolicyRow,
};
pub use resource::{Direction, GrantRequest, GrantRow, HostRow, HostsView, OfferRequest, OfferView, Revoked};
pub use see::{
    CaptureRequest, Captured, DropRow, DropsView, LinkView, RecentDrop, TraceEnd, TracePort, TraceRequest, TraceView,
    Way,
};
pub use service::{Answer, Capture, ConsoleStream, Service};
