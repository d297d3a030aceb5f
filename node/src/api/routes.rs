//! The one table of routes: the server's router, the client's paths and the OpenAPI document are all made of it.

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
    PingRequest, PlacementRequest, PlacementView, PolicyReport, PolicyRequest, PolicyView, PortRow, PublishResult,
    PullResult, QueryRequest, QueryView, Revoked, RunRequest, RunResult, SetRequest, Status, StopRequest, StopView,
    TicketOut, TraceRequest, TraceView, TrafficView, UsageRequest, UsageRow, VerifyResult,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};

/// HTTP method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Reads.
    Get,
    /// Does.
    Post,
    /// Removes.
    Delete,
}

impl Method {
    /// As HTTP writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// How a route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One JSON document.
    Json,
    /// NDJSON: lines of [`super::Line`], the last one carries the document.
    Stream,
    /// Text that is not JSON.
    Text,
    /// pcapng, as long as both sides want.
    Capture,
    /// `101 Switching Protocols`, then raw bytes both ways.
    Upgrade,
}

/// An operation; its text is the `operationId` of the OpenAPI document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is described by its row in ROUTES")]
pub enum Op {
    Status,
    Peers,
    Ping,
    Doctor,
    ConfigShow,
    Metrics,
    OpenApi,
    Down,
    Lans,
    LanCreate,
    LanShow,
    LanAttach,
    LanDetach,
    LanInvite,
    LanEvict,
    LanDrops,
    LanTraffic,
    LanTrace,
    AdvisePlacement,
    LanCapture,
    LanPolicy,
    LanMtu,
    Join,
    Hosts,
    Query,
    Offer,
    PolicyCheck,
    PolicyExplain,
    Usage,
    Grant,
    Grants,
    Revoke,
    ImageAdd,
    ImageLs,
    ImageShow,
    ImageVerify,
    ImageRm,
    ImagePull,
    ImageMount,
    ImageUmount,
    ImageMounts,
    ImagePublish,
    ImageExport,
    ImageGc,
    ImageArchive,
    Run,
    Guests,
    GuestInfo,
    GuestSet,
    GuestStop,
    GuestRm,
    GuestLogs,
    GuestLife,
    GuestMove,
    GuestSnapshots,
    GuestClone,
    GuestWait,
    GuestExec,
    GuestRead,
    GuestWrite,
    Console,
    Display,
}

/// Writes the schema of a type.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema<T: JsonSchema>(g: &mut SchemaGenerator) -> Schema {
    g.subschema_for::<T>()
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// What it does.
    pub op: Op,
    /// Its method.
    pub method: Method,
    /// Its path; `{x}` is a parameter, percent-encoded.
    pub path: &'static str,
    /// How it answers.
    pub shape: Shape,
    /// What it does, for people.
    pub summary: &'static str,
    /// Schema of its body, if it takes one.
    pub body: Option<SchemaOf>,
    /// Schema of its answer, if that is JSON.
    pub answer: Option<SchemaOf>,
    /// Query parameters: name and meaning.
    pub query: &'static [(&'static str, &'static str)],
}

impl Route {
    /// Names of the parameters in the path, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path
            .split('/')
            .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
    }

    /// The path with its parameters filled in and percent-encoded; missing ones stay empty.
    pub fn fill(&self, args: &[&str]) -> String {
        let mut args = args.iter();
        let part = |s: &str| match s.starts_with('{') {
            true => args.next().map(|a| percent_encode(a)).unwrap_or_default(),
            false => s.to_owned(),
        };
        self.path.split('/').map(part).collect::<Vec<_>>().join("/")
    }
}

/// The row of an operation.
pub fn route(op: Op) -> Option<&'static Route> {
    ROUTES.iter().find(|r| r.op == op)
}

/// Encodes what is not unreserved (RFC 3986 §2.3), for one segment of a path.
fn percent_encode(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for b in s.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(b)),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

const fn get<T: JsonSchema>(op: Op, path: &'static str, summary: &'static str) -> Route {
    let (method, shape) = (Method::Get, Shape::Json);
    Route {
        op,
        method,
        path,
        shape,
        summary,
        body: None,
        answer: Some(schema::<T>),
        query: &[],
    }
}

const fn post<B: JsonSchema, T: JsonSchema>(op: Op, path: &'static str, summary: &'static str) -> Route {
    let (method, shape) = (Method::Post, Shape::Json);
    Route {
        op,
        method,
        path,
        shape,
        summary,
        body: Some(schema::<B>),
        answer: Some(schema::<T>),
        query: &[],
    }
}

/// Query parameter of every stream.
pub const ON_DISCONNECT: &str = "on_disconnect";
/// Query parameter of the logs.
pub const MAX_BYTES: &str = "max_bytes";

const STREAM_QUERY: &[(&str, &str)] = &[(
    ON_DISCONNECT,
    "`continue` (default): the work goes on without a reader; `cancel`: it ends with the connection",
)];
/// Query parameter of a removal.
pub const FORGET: &str = "forget";
const RM_QUERY: &[(&str, &str)] = &[(
    FORGET,
    "`true`: a host that does not answer is not waited for; it is told when it comes back",
)];
const LOGS_QUERY: &[(&str, &str)] = &[(MAX_BYTES, "newest bytes of each log, at most 1048576; default 65536")];

const fn stream<B: JsonSchema, T: JsonSchema>(op: Op, path: &'static str, summary: &'static str) -> Route {
    Route {
        shape: Shape::Stream,
        query: STREAM_QUERY,
        ..post::<B, T>(op, path, summary)
    }
}

/// No body.
const fn bare(r: Route) -> Route {
    Route { body: None, ..r }
}

/// By another method.
const fn by(method: Method, r: Route) -> Route {
    Route { method, ..r }
}

/// Not JSON.
const fn raw(shape: Shape, r: Route) -> Route {
    Route {
        shape,
        answer: None,
        ..r
    }
}

/// Every route.
pub static ROUTES: &[Route] = &[
    get::<Status>(
        Op::Status,
        "/v1/status",
        "What this node is and how it stands in the mesh",
    ),
    get::<Vec<PeerRow>>(Op::Peers, "/v1/peers", "Connected peers"),
    post::<PingRequest, PingReport>(
        Op::Ping,
        "/v1/ping",
        "Round trips over the frame path and the control path",
    ),
    get::<DoctorReport>(
        Op::Doctor,
        "/v1/doctor",
        "What this machine can do, and how to make it better",
    ),
    get::<ConfigView>(Op::ConfigShow, "/v1/config", "Every setting with its origin"),
    raw(
        Shape::Text,
        get::<String>(Op::Metrics, "/metrics", "Counters as OpenMetrics text"),
    ),
    get::<serde_json::Value>(Op::OpenApi, "/openapi.json", "This document"),
    bare(post::<(), Down>(
        Op::Down,
        "/v1/down",
        "Ends the node; guests keep running",
    )),
    get::<Vec<LanRow>>(Op::Lans, "/v1/lans", "LANs that this node is a member of"),
    post::<LanCreate, LanRow>(Op::LanCreate, "/v1/lans", "Makes a LAN owned by this node"),
    get::<LanView>(Op::LanShow, "/v1/lans/{lan}", "Members, ports, FDB and drops of a LAN"),
    post::<LanAttach, PortRow>(
        Op::LanAttach,
        "/v1/lans/{lan}/attach",
        "Joins a LAN to an interface of this machine",
    ),
    post::<LanDetach, Detached>(
        Op::LanDetach,
        "/v1/lans/{lan}/detach",
        "Takes this machine's interfaces off a LAN",
    ),
    post::<LanInvite, TicketOut>(Op::LanInvite, "/v1/lans/{lan}/invite", "Makes a ticket"),
    post::<LanEvict, Evicted>(Op::LanEvict, "/v1/lans/{lan}/evict", "Ends a membership"),
    get::<DropsView>(
        Op::LanDrops,
        "/v1/lans/{lan}/drops",
        "What a LAN dropped here and why, and the last of it",
    ),
    get::<TrafficView>(
        Op::LanTraffic,
        "/v1/lans/{lan}/traffic",
        "Who talks to whom on a LAN, by what passes here",
    ),
    post::<TraceRequest, TraceView>(Op::LanTrace, "/v1/trace", "Where an address is, as both ends see it"),
    raw(
        Shape::Capture,
        post::<CaptureRequest, ()>(
            Op::LanCapture,
            "/v1/lans/{lan}/capture",
            "Frames as they pass, and those that were dropped, as pcapng",
        ),
    ),
    post::<LanMtuRequest, LanMtuView>(Op::LanMtu, "/v1/lans/{lan}/mtu", "Sets the MTU of a LAN, or shows it"),
    post::<LanPolicyRequest, LanPolicyView>(
        Op::LanPolicy,
        "/v1/lans/{lan}/policy",
        "Changes what guests may do on a LAN, or shows it",
    ),
    stream::<JoinRequest, JoinResult>(Op::Join, "/v1/join", "Redeems a ticket"),
    post::<PlacementRequest, PlacementView>(
        Op::AdvisePlacement,
        "/v1/advise/placement",
        "Which guest would gain from which move, by who talks to whom",
    ),
    get::<HostsView>(Op::Hosts, "/v1/hosts", "Who can run a guest, best first"),
    stream::<QueryRequest, QueryView>(
        Op::Query,
        "/v1/query",
        "Answers a question in SQL, or follows its answer",
    ),
    post::<OfferRequest, OfferView>(Op::Offer, "/v1/offer", "Lends this machine, or ends that"),
    post::<PolicyRequest, PolicyReport>(
        Op::PolicyCheck,
        "/v1/policy",
        "Checks the owner's policy, shows what it lends, puts it in force",
    ),
    get::<PolicyView>(
        Op::PolicyExplain,
        "/v1/policy",
        "What the owner's policy does now, and what each guest gets",
    ),
    post::<UsageRequest, Vec<UsageRow>>(
        Op::Usage,
        "/v1/usage",
        "What guests used here, and what this node's guests used elsewhere",
    ),
    post::<GrantRequest, GrantRow>(Op::Grant, "/v1/grants", "Lets a node start guests here"),
    get::<Vec<GrantRow>>(Op::Grants, "/v1/grants", "Grants given and held"),
    by(
        Method::Delete,
        get::<Revoked>(Op::Revoke, "/v1/grants/{grant}", "Ends a grant"),
    ),
    stream::<ImageAdd, ImageView>(
        Op::ImageAdd,
        "/v1/images",
        "Imports a disk file or an OCI layout of this machine",
    ),
    get::<Vec<ImageRow>>(Op::ImageLs, "/v1/images", "Images in the store"),
    get::<ImageView>(Op::ImageShow, "/v1/images/{image}", "One image"),
    bare(stream::<(), VerifyResult>(
        Op::ImageVerify,
        "/v1/images/{image}/verify",
        "Reads and checks every stored piece",
    )),
    by(
        Method::Delete,
        get::<ImageRemoved>(Op::ImageRm, "/v1/images/{image}", "Removes an image from the store"),
    ),
    stream::<ImagePull, PullResult>(Op::ImagePull, "/v1/images/{image}/pull", "Fetches an image from peers"),
    stream::<ImageMount, MountRow>(
        Op::ImageMount,
        "/v1/images/{image}/mount",
        "Mounts an image read-only; its bytes come as they are read",
    ),
    post::<ImageUmount, MountRow>(Op::ImageUmount, "/v1/umount", "Ends a mount"),
    get::<Vec<MountRow>>(Op::ImageMounts, "/v1/mounts", "Mounted images"),
    stream::<ImagePublish, PublishResult>(
        Op::ImagePublish,
        "/v1/guests/{guest}/publish",
        "Makes an image of the disk of a guest that has stopped",
    ),
    stream::<ImageExport, ExportResult>(
        Op::ImageExport,
        "/v1/images/{image}/export",
        "Writes an image to a file of this machine",
    ),
    post::<ImageGc, GcResult>(Op::ImageGc, "/v1/gc", "Makes room in the store"),
    stream::<ImageArchive, ArchiveResult>(
        Op::ImageArchive,
        "/v1/images/{image}/archive",
        "Moves the pieces of an image to another folder",
    ),
    stream::<RunRequest, RunResult>(
        Op::Run,
        "/v1/run",
        "Finds a host, starts a guest there and waits for its address",
    ),
    get::<Vec<GuestRow>>(Op::Guests, "/v1/guests", "Guests of this node, and all that run here"),
    get::<GuestView>(Op::GuestInfo, "/v1/guests/{guest}", "One guest"),
    post::<SetRequest, GuestView>(
        Op::GuestSet,
        "/v1/guests/{guest}/set",
        "Changes what a running guest gets",
    ),
    stream::<StopRequest, StopView>(
        Op::GuestStop,
        "/v1/guests/{guest}/stop",
        "Asks a guest to shut down, then ends it",
    ),
    Route {
        query: RM_QUERY,
        ..by(
            Method::Delete,
            get::<GuestRemoved>(
                Op::GuestRm,
                "/v1/guests/{guest}",
                "Removes a stopped guest with its disk",
            ),
        )
    },
    stream::<LifeRequest, LifeView>(
        Op::GuestLife,
        "/v1/guests/{guest}/life",
        "Starts, holds, saves, copies or restores a guest",
    ),
    stream::<MoveRequest, LifeView>(
        Op::GuestMove,
        "/v1/guests/{guest}/move",
        "Moves a guest to another host, with its disk and its memory",
    ),
    get::<Vec<SnapshotRow>>(Op::GuestSnapshots, "/v1/guests/{guest}/snapshots", "Copies of a guest"),
    stream::<CloneRequest, GuestView>(
        Op::GuestClone,
        "/v1/guests/{guest}/clone",
        "Makes a guest with the same disk on the same host",
    ),
    stream::<WaitRequest, GuestView>(
        Op::GuestWait,
        "/v1/guests/{guest}/wait",
        "Answers when a guest is in a state, has an address, or has an agent",
    ),
    stream::<ExecRequest, ExecView>(
        Op::GuestExec,
        "/v1/guests/{guest}/exec",
        "Runs a command in a guest, by its agent",
    ),
    post::<FileRead, FilePart>(
        Op::GuestRead,
        "/v1/guests/{guest}/read",
        "Reads a part of a file in a guest",
    ),
    post::<FileWrite, FileWritten>(
        Op::GuestWrite,
        "/v1/guests/{guest}/write",
        "Writes a part of a file in a guest",
    ),
    Route {
        query: LOGS_QUERY,
        ..get::<GuestLogs>(Op::GuestLogs, "/v1/guests/{guest}/logs", "The end of a guest's logs")
    },
    raw(
        Shape::Upgrade,
        get::<()>(
            Op::Console,
            "/v1/guests/{guest}/console",
            "A guest's console, as raw bytes",
        ),
    ),
    raw(
        Shape::Upgrade,
        get::<()>(Op::Display, "/v1/guests/{guest}/display", "A guest's screen, as VNC"),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn rows_are_unique() {
        let ops: BTreeSet<Op> = ROUTES.iter().map(|r| r.op).collect();
        let paths: BTreeSet<(Method, &str)> = ROUTES.iter().map(|r| (r.method, r.path)).collect();
        assert_eq!(ops.len(), ROUTES.len());
        assert_eq!(paths.len(), ROUTES.len());
        assert!(ROUTES.iter().all(|r| route(r.op).is_some_and(|x| x.path == r.path)));
    }

    #[test]
    fn a_name_stays_one_segment() {
        let r = route(Op::ImagePull).unwrap();
        assert_eq!(
            r.fill(&["a/b?c#d e:1@é"]),
            "/v1/images/a%2Fb%3Fc%23d%20e%3A1%40%C3%A9/pull"
        );
        assert_eq!(r.parameters().collect::<Vec<_>>(), ["image"]);
    }
}
