//! What a node can do, as one trait: implemented by the daemon, and by a scripted node in the tests of server and CLI.

use super::life::{
    CloneRequest, ExecRequest, ExecView, FilePart, FileRead, FileWrite, FileWritten, LifeRequest, LifeView,
    MoveRequest, SnapshotRow, WaitRequest,
};
use super::{
    ArchiveResult, CaptureRequest, ConfigView, Detached, DoctorReport, Down, DropsView, Evicted, ExportResult,
    GcResult, GrantRequest, GrantRow, GuestLogs, GuestRemoved, GuestRow, GuestView, HostsView, ImageAdd, ImageArchive,
    ImageExport, ImageGc, ImageMount, ImagePublish, ImagePull, ImageRemoved, ImageRow, ImageUmount, ImageView,
    JoinRequest, JoinResult, LanAttach, LanCreate, LanDetach, LanEvict, LanInvite, LanMtuRequest, LanMtuView,
    LanPolicyRequest, LanPolicyView, LanRow, LanView, MountRow, OfferRequest, OfferView, PeerRow, PingReport,
    PingRequest, PlacementRequest, PlacementView, PolicyReport, PolicyRequest, PolicyView, PortRow, Progress,
    PublishResult, PullResult, QueryRequest, QueryView, Revoked, RunRequest, RunResult, SetRequest, Status,
    StopRequest, StopView, TicketOut, TraceRequest, TraceView, TrafficView, UsageRequest, UsageRow, VerifyResult,
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
    /// `lanline lan traffic`.
    fn lan_traffic(&self, lan: String) -> Answer<'_, TrafficView>;
    /// `lanline lan trace`.
    fn lan_trace(&self, req: TraceRequest) -> Answer<'_, TraceView>;
    /// `lanline advise placement`.
    fn advise_placement(&self, req: PlacementRequest) -> Answer<'_, PlacementView>;
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
    /// `lanline query`, `lanline futures`, `lanline images`; with `follow` it ends when nobody reads.
    fn query(&self, req: QueryRequest, progress: Progress) -> Answer<'_, QueryView>;
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
    /// `lanline image publish`.
    fn image_publish(&self, guest: String, req: ImagePublish, progress: Progress) -> Answer<'_, PublishResult>;
    /// `lanline image export`.
    fn image_export(&self, image: String, req: ImageExport, progress: Progress) -> Answer<'_, ExportResult>;
    /// `lanline image gc`.
    fn image_gc(&self, req: ImageGc) -> Answer<'_, GcResult>;
    /// `lanline image archive`.
    fn image_archive(&self, image: String, req: ImageArchive, progress: Progress) -> Answer<'_, ArchiveResult>;

    /// `lanline image mount`.
    fn image_mount(&self, image: String, req: ImageMount, progress: Progress) -> Answer<'_, MountRow>;
    /// `lanline image umount`.
    fn image_umount(&self, req: ImageUmount) -> Answer<'_, MountRow>;
    /// `lanline image mounts`.
    fn image_mounts(&self) -> Answer<'_, Vec<MountRow>>;

    /// `lanline run`.
    fn run(&self, req: RunRequest, progress: Progress) -> Answer<'_, RunResult>;
    /// `lanline ls`: guests of this node wherever they run, and all that run here.
    fn guests(&self) -> Answer<'_, Vec<GuestRow>>;
    /// `lanline info`.
    fn guest_info(&self, guest: String) -> Answer<'_, GuestView>;
    /// `lanline policy check`, `lanline policy simulate`; with `store` also `lanline policy edit`.
    fn policy_check(&self, req: PolicyRequest) -> Answer<'_, PolicyReport>;
    /// `lanline policy explain`.
    fn policy_explain(&self) -> Answer<'_, PolicyView>;
    /// `lanline usage`.
    fn usage(&self, req: UsageRequest) -> Answer<'_, Vec<UsageRow>>;
    /// `lanline set`.
    fn guest_set(&self, guest: String, req: SetRequest) -> Answer<'_, GuestView>;
    /// `lanline stop`.
    fn guest_stop(&self, guest: String, req: StopRequest, progress: Progress) -> Answer<'_, StopView>;
    /// `lanline rm`; a running guest is refused.
    fn guest_rm(&self, guest: String, forget: bool) -> Answer<'_, GuestRemoved>;
    /// `lanline start`, `restart`, `pause`, `resume`, `hibernate`, `restore`, `snapshot`.
    fn guest_life(&self, guest: String, req: LifeRequest, progress: Progress) -> Answer<'_, LifeView>;
    /// `lanline move`.
    fn guest_move(&self, guest: String, req: MoveRequest, progress: Progress) -> Answer<'_, LifeView>;
    /// `lanline snapshot` without a name: the oldest first.
    fn guest_snapshots(&self, guest: String) -> Answer<'_, Vec<SnapshotRow>>;
    /// `lanline clone`.
    fn guest_clone(&self, guest: String, req: CloneRequest, progress: Progress) -> Answer<'_, GuestView>;
    /// `lanline wait`.
    fn guest_wait(&self, guest: String, req: WaitRequest, progress: Progress) -> Answer<'_, GuestView>;
    /// `lanline exec`.
    fn guest_exec(&self, guest: String, req: ExecRequest, progress: Progress) -> Answer<'_, ExecView>;
    /// `lanline cp`, from a guest.
    fn guest_read(&self, guest: String, req: FileRead) -> Answer<'_, FilePart>;
    /// `lanline cp`, to a guest.
    fn guest_write(&self, guest: String, req: FileWrite) -> Answer<'_, FileWritten>;
    /// `lanline logs`: at most `max_bytes` of the console's newest output.
    fn guest_logs(&self, guest: String, max_bytes: u64) -> Answer<'_, GuestLogs>;
    /// `lanline console`.
    fn console(&self, guest: String) -> Answer<'_, Box<dyn ConsoleStream>>;
    /// `lanline display`: VNC.
    fn display(&self, guest: String) -> Answer<'_, Box<dyn ConsoleStream>>;
}
