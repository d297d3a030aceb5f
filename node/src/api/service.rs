//! What a node can do, as one trait: implemented by the daemon, and by a scripted node in the tests of server and CLI.

use super::{
    CaptureRequest, ConfigView, Detached, DoctorReport, Down, DropsView, Evicted, GrantRequest, GrantRow, GuestLogs,
    GuestRemoved, GuestRow, GuestView, HostsView, ImageAdd, ImagePull, ImageRemoved, ImageRow, ImageView, JoinRequest,
    JoinResult, LanAttach, LanCreate, LanDetach, LanEvict, LanInvite, LanMtuRequest, LanMtuView, LanPolicyRequest,
    LanPolicyView, LanRow, LanView, OfferRequest, OfferView, PeerRow, PingReport, PingRequest, PortRow, Progress,
    PullResult, Revoked, RunRequest, RunResult, Status, StopRequest, StopView, TicketOut, TraceRequest, TraceView,
    VerifyResult,
};
use futures::{future::BoxFuture, stream::BoxStream};
use wire::Fault;

/// The answer of an operation, later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Fault>>;

/// A pcapng file as it grows, each part a number of whole blocks; dropping it ends the capture.
pub type Capture = BoxStream<'static, bytes::Bytes>;

/// A guest's console: what is read is what the guest printed (its recent history first), what is written is typed.
pub trait ConsoleStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> ConsoleStream for T {}

/// One method per operation of [`super::routes::ROUTES`].
///
/// The server calls each method at most [`crate::defaults::MAX_REQUESTS`] times at once, on the node's runtime, after
/// the request's body was read and parsed. Text arguments are as the person typed them: `lan`, `peer`, `guest` and
/// `image` are names or ids, and the implementation resolves them. A future that takes a [`Progress`] is driven to its
/// end even if the client goes away, unless the client asked for the opposite; then it is dropped at an await point.
pub trait Service: Send + Sync + 'static {
    /// `lanline status`.
    fn status(&self) -> Answer<'_, Status>;
    /// `lanline peers`; connected peers, in the order of their ids.
    fn peers(&self) -> Answer<'_, Vec<PeerRow>>;
    /// `lanline ping`.
    fn ping(&self, req: PingRequest) -> Answer<'_, PingReport>;
    /// `lanline doctor`.
    fn doctor(&self) -> Answer<'_, DoctorReport>;
    /// `lanline config show`.
    fn config_show(&self) -> Answer<'_, ConfigView>;
    /// OpenMetrics text, ended by `# EOF`.
    fn metrics(&self) -> Answer<'_, String>;
    /// `lanline down`: answers, then the node ends.
    fn down(&self) -> Answer<'_, Down>;

    /// `lanline lan show` without a name.
    fn lans(&self) -> Answer<'_, Vec<LanRow>>;
    /// `lanline lan create`.
    fn lan_create(&self, req: LanCreate) -> Answer<'_, LanRow>;
    /// `lanline lan show NAME`.
    fn lan_show(&self, lan: String) -> Answer<'_, LanView>;
    /// `lanline lan attach`.
    fn lan_attach(&self, lan: String, req: LanAttach) -> Answer<'_, PortRow>;
    /// `lanline lan detach`.
    fn lan_detach(&self, lan: String, req: LanDetach) -> Answer<'_, Detached>;
    /// `lanline lan invite`.
    fn lan_invite(&self, lan: String, req: LanInvite) -> Answer<'_, TicketOut>;
    /// `lanline lan evict`.
    fn lan_evict(&self, lan: String, req: LanEvict) -> Answer<'_, Evicted>;
    /// `lanline lan drops`.
    fn lan_drops(&self, lan: String) -> Answer<'_, DropsView>;
    /// `lanline lan trace`.
    fn lan_trace(&self, req: TraceRequest) -> Answer<'_, TraceView>;
    /// `lanline lan capture`.
    fn lan_capture(&self, lan: String, req: CaptureRequest) -> Answer<'_, Capture>;
    /// `lanline lan mtu`.
    fn lan_mtu(&self, lan: String, req: LanMtuRequest) -> Answer<'_, LanMtuView>;
    /// `lanline lan policy`.
    fn lan_policy(&self, lan: String, req: LanPolicyRequest) -> Answer<'_, LanPolicyView>;
    /// `lanline join`.
    fn join(&self, req: JoinRequest, progress: Progress) -> Answer<'_, JoinResult>;

    /// `lanline hosts`.
    fn hosts(&self) -> Answer<'_, HostsView>;
    /// `lanline offer`.
    fn offer(&self, req: OfferRequest) -> Answer<'_, OfferView>;
    /// `lanline grant`.
    fn grant(&self, req: GrantRequest) -> Answer<'_, GrantRow>;
    /// `lanline grants`: given first, then held.
    fn grants(&self) -> Answer<'_, Vec<GrantRow>>;
    /// `lanline revoke`.
    fn revoke(&self, id: String) -> Answer<'_, Revoked>;

    /// `lanline image add`.
    fn image_add(&self, req: ImageAdd, progress: Progress) -> Answer<'_, ImageView>;
    /// `lanline image ls`.
    fn image_ls(&self) -> Answer<'_, Vec<ImageRow>>;
    /// `lanline image show`.
    fn image_show(&self, image: String) -> Answer<'_, ImageView>;
    /// `lanline image verify`.
    fn image_verify(&self, image: String, progress: Progress) -> Answer<'_, VerifyResult>;
    /// `lanline image rm`.
    fn image_rm(&self, image: String) -> Answer<'_, ImageRemoved>;
    /// `lanline image pull`.
    fn image_pull(&self, image: String, req: ImagePull, progress: Progress) -> Answer<'_, PullResult>;

    /// `lanline run`.
    fn run(&self, req: RunRequest, progress: Progress) -> Answer<'_, RunResult>;
    /// `lanline ls`: guests of this node wherever they run, and all that run here.
    fn guests(&self) -> Answer<'_, Vec<GuestRow>>;
    /// `lanline info`.
    fn guest_info(&self, guest: String) -> Answer<'_, GuestView>;
    /// `lanline stop`.
    fn guest_stop(&self, guest: String, req: StopRequest, progress: Progress) -> Answer<'_, StopView>;
    /// `lanline rm`; a running guest is refused.
    fn guest_rm(&self, guest: String) -> Answer<'_, GuestRemoved>;
    /// `lanline logs`: at most `max_bytes` of the console's newest output.
    fn guest_logs(&self, guest: String, max_bytes: u64) -> Answer<'_, GuestLogs>;
    /// `lanline console`.
    fn console(&self, guest: String) -> Answer<'_, Box<dyn ConsoleStream>>;
}
