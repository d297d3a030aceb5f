//! The control API: what the node answers on `control.sock`, and the only source of every `--json` document.
//!
//! It does not: no socket, no HTTP, no printing. `io::server` serves [`Service`] along the table in [`routes`],
//! `io::client` calls the same table, `render` turns the same types into text for people.
//!
//! Shape: ids are text as people see them, sizes end in `_bytes`, spans in `_ms` (or `_s`), moments are milliseconds
//! since the Unix epoch in fields whose comment says so. A field that is not known is `null`, never a made-up value.

pub mod advise;
pub mod guest;
pub mod image;
pub mod lan;
pub mod life;
pub mod line;
pub mod machine;
pub mod openapi;
pub mod owner;
pub mod placement;
pub mod policy;
pub mod query;
pub mod relay;
pub mod resource;
pub mod routes;
pub mod see;
pub mod service;
pub mod traffic;

pub use advise::{AdviceRow, AdviceView, LoadView};
pub use guest::{
    Address, DiskRow, DiskWord, GuestLogs, GuestNote, GuestRemoved, GuestRow, GuestView, PlaceRow, RunRequest,
    RunResult, StopRequest, StopView, WaitFor,
};
pub use image::{
    ArchiveResult, BootProfile, ExportAs, ExportResult, GcResult, HolderRow, ImageAdd, ImageArchive, ImageExport,
    ImageGc, ImageMount, ImagePublish, ImagePull, ImageRemoved, ImageRow, ImageUmount, ImageView, MountRow, Part,
    PublishResult, PullResult, SwarmHealth, Thinned, VerifyResult,
};
pub use lan::{
    AttachMode, Detached, Evicted, FdbKind, FdbRow, JoinRequest, JoinResult, LanAttach, LanCreate, LanDetach, LanEvict,
    LanInvite, LanRow, LanView, MemberRow, PortKind, PortRow, Role, TicketOut,
};
pub use life::{
    CloneRequest, ExecRequest, ExecView, FilePart, FileRead, FileWrite, FileWritten, LifeAct, LifeRequest, LifeView,
    MoveRequest, SnapshotRow, WaitRequest,
};
pub use line::{Line, Progress, ProgressLine, StepLine, Unit};
pub use machine::{
    Check, ConfigView, DoctorReport, Down, GuestCounts, NatView, Origin, PathView, PeerRow, PingReply, PingReport,
    PingRequest, SettingRow, Status, Verdict,
};
pub use owner::{
    EnforcerRow, PolicyReport, PolicyRequest, PolicySpan, PolicyView, PolicyWhy, RuleRow, SetRequest, SliceRow,
    UsageRequest, UsageRow,
};
pub use placement::{MoveRow, PlacementRequest, PlacementView, StayRow, TalkedTo};
pub use policy::{
    HeldHow, HeldRow, LanMtuRequest, LanMtuView, LanPolicyRequest, LanPolicyView, PolicyBrief, PolicyOrigin, PolicyRow,
};
pub use query::{ChangeLine, QueryRequest, QueryView};
pub use relay::RelayView;
pub use resource::{Direction, GrantRequest, GrantRow, HostRow, HostsView, OfferRequest, OfferView, Revoked};
pub use see::{
    CaptureRequest, Captured, DropRow, DropsView, LinkView, PathRow, RecentDrop, TraceEnd, TracePort, TraceRequest,
    TraceView, Way,
};
pub use service::{Answer, Capture, ConsoleStream, Service};
pub use traffic::{DemandView, FlowView, HeavyRow, TalkRow, TrafficView};
