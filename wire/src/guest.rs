//! Guests over the mesh: what a caller asks of a host, and what the host answers.
//!
//! `/lanline/guest/2`: the caller opens a stream, sends one framed [`GuestCall`] and half-closes; the host answers
//! framed [`GuestUpdate`]s, the last of which is `Done` or `Fault`. The caller chooses the guest's id, so sending the
//! same `Start` again after a lost answer finds the guest that the first one made.
//! `/lanline/console/1`: one framed [`ConsoleOpen`], one framed [`ConsoleReply`], then raw bytes both ways, the kept
//! history first. `/lanline/display/1`: the same, then the guest's screen as VNC.

mod console;
mod disk;
mod life;
mod set;

pub use console::{ConsoleOpen, ConsoleReply};
pub use disk::{DiskStage, DiskView};
pub use life::{
    AgentAnswer, AgentAsk, DISPLAY_PROTOCOL, ExecResult, LifeVerb, MAX_ARG_BYTES, MAX_ARGS, MAX_EXEC_OUTPUT,
    MAX_MOVE_BYTES, MAX_PART, MAX_USER_DATA, MAX_WAIT_MS, MOVE_PROTOCOL, MoveItem, MoveOpen, MoveStep, SnapshotView,
    Until,
};
pub use set::GuestSet;

use crate::{
    fault::{Fault, FaultKind, plain},
    ids::{GuestId, ImageId, LanId, Name, NodeId},
    mac::MacAddr,
    settings::{Setting, check_settings},
    units::{ByteSize, UnixMillis},
};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// Protocol id of guest calls.
pub const GUEST_PROTOCOL: &str = "/lanline/guest/2";
/// Protocol id of consoles.
pub const CONSOLE_PROTOCOL: &str = "/lanline/console/1";
/// Largest [`GuestCall`], bytes: a part of a file of [`MAX_PART`] and its path, or a token of [`MAX_TOKEN`], a
/// cloud-init document, a few hundred bytes of spec and as much port policy as a LAN's settings hold, with room to grow.
pub const MAX_CALL_BYTES: usize = 288 * 1024;
/// Largest [`GuestUpdate`], bytes: two logs of [`MAX_LOG_BYTES`], or [`MAX_LISTED`] views of at most 4 KiB.
pub const MAX_UPDATE_BYTES: usize = 768 * 1024;
/// Largest [`ConsoleOpen`] and [`ConsoleReply`], bytes.
pub const MAX_CONSOLE_BYTES: usize = 8 * 1024;
/// Longest grant token, bytes; biscuit tokens of ours stay under 4 KiB.
pub const MAX_TOKEN: usize = 4 * 1024;
/// Longest image reference, bytes: two names and two separators, or an id.
pub const MAX_IMAGE_REF: usize = 256;
/// Most holders of the image that a caller may name.
pub const MAX_HINTS: usize = 16;
/// Most bytes of one log in an answer.
pub const MAX_LOG_BYTES: usize = 256 * 1024;
/// Most guests in one answer; a host runs fewer.
pub const MAX_LISTED: usize = 128;
/// Most addresses kept for one guest.
pub const MAX_IPS: usize = 8;

/// A guest as a caller asks for it, version 1. Hostile until the host has turned it into its own form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSpecV1 {
    /// What its owner calls it; unique among one owner's guests on a host.
    pub name: Name,
    /// The image, by the hash of its manifest.
    pub image: ImageId,
    /// How the caller named the image; for display only.
    pub image_ref: String,
    /// LAN to join; none: the guest has no NIC.
    pub lan: Option<LanId>,
    /// Virtual CPUs.
    pub cpus: u16,
    /// RAM.
    pub memory: ByteSize,
    /// Size of its disk if larger than the image's.
    pub disk: Option<ByteSize>,
    /// Nodes that the caller knows to hold the image, at most [`MAX_HINTS`].
    pub hints: Vec<NodeId>,
}

/// What a caller asks of a host; one a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestCall {
    /// Make and start a guest. With an id that the host already knows: follow that one.
    Start {
        /// Chosen by the caller.
        id: GuestId,
        /// What to start.
        spec: Box<GuestSpecV1>,
        /// The grant, at most [`MAX_TOKEN`] bytes; none: the caller is the host's owner or a named member.
        token: Option<Vec<u8>>,
        /// Port policy that the caller asks for, within that of the LAN and of the host.
        net_policy: Vec<Setting>,
    },
    /// Start a stopped or crashed guest again.
    Restart {
        /// The guest.
        guest: GuestId,
    },
    /// The caller's guests on this host.
    List,
    /// One guest.
    Info {
        /// The guest.
        guest: GuestId,
    },
    /// Shut a guest down; its disk stays.
    Stop {
        /// The guest.
        guest: GuestId,
        /// Do not ask the guest, end it.
        force: bool,
    },
    /// Stop a guest and delete all of it.
    Remove {
        /// The guest.
        guest: GuestId,
    },
    /// The ends of its console output and of its hypervisor's log.
    Logs {
        /// The guest.
        guest: GuestId,
        /// At most this many bytes of each, and at most [`MAX_LOG_BYTES`].
        max_bytes: u32,
    },
    /// Hold, save, copy, or undo that.
    Life {
        /// The guest.
        guest: GuestId,
        /// What.
        verb: LifeVerb,
    },
    /// Its copies.
    Snapshots {
        /// The guest.
        guest: GuestId,
    },
    /// Make another guest with the same disk on the same host; it is stopped. With an id that the host knows: that one.
    Clone {
        /// The guest whose disk it is.
        guest: GuestId,
        /// Id of the new one, chosen by the caller.
        id: GuestId,
        /// Its name.
        name: Name,
        /// The grant, at most [`MAX_TOKEN`] bytes.
        token: Option<Vec<u8>>,
    },
    /// Answer when it has come to that; at most this long.
    Wait {
        /// The guest.
        guest: GuestId,
        /// What to wait for.
        until: Until,
        /// Milliseconds, at most [`MAX_WAIT_MS`].
        timeout_ms: u64,
    },
    /// Ask the agent in it.
    Agent {
        /// The guest.
        guest: GuestId,
        /// The grant, at most [`MAX_TOKEN`] bytes.
        token: Option<Vec<u8>>,
        /// What.
        ask: AgentAsk,
    },
    /// As `Start`, with a document for cloud-init in the guest.
    StartSeeded {
        /// Chosen by the caller.
        id: GuestId,
        /// What to start.
        spec: Box<GuestSpecV1>,
        /// The grant, at most [`MAX_TOKEN`] bytes.
        token: Option<Vec<u8>>,
        /// Port policy that the caller asks for.
        net_policy: Vec<Setting>,
        /// The document, at most [`MAX_USER_DATA`] bytes.
        user_data: Vec<u8>,
    },
    /// A step of its move to another host.
    Move {
        /// The guest.
        guest: GuestId,
        /// Which.
        step: MoveStep,
    },
    /// Change what a running guest gets, within what it was started with.
    Set {
        /// The guest.
        guest: GuestId,
        /// What.
        change: GuestSet,
    },
    /// As `Start`, from the memory that the image holds: the guest goes on where its image was made. Sent again it does
    /// what `Start` does.
    StartWarm {
        /// Id of the new guest.
        id: GuestId,
        /// What it should be; processors and memory must be those of the image.
        spec: Box<GuestSpecV1>,
        /// The grant; none if the host is the caller's own.
        token: Option<Vec<u8>>,
        /// Its port policy.
        net_policy: Vec<Setting>,
    },
    /// As `Start`, `StartSeeded` or `StartWarm`; and its disk is to need neither node nor image any more, as with
    /// `Persist`.
    StartPersistent {
        /// Chosen by the caller.
        id: GuestId,
        /// What to start.
        spec: Box<GuestSpecV1>,
        /// The grant, at most [`MAX_TOKEN`] bytes.
        token: Option<Vec<u8>>,
        /// Port policy that the caller asks for.
        net_policy: Vec<Setting>,
        /// A document for cloud-init, at most [`MAX_USER_DATA`] bytes.
        user_data: Option<Vec<u8>>,
        /// From the memory that the image holds.
        warm: bool,
    },
    /// Make its disk independent: the whole image is fetched and copied into it, while it runs. Answered when that is
    /// written down.
    Persist {
        /// The guest.
        guest: GuestId,
    },
    /// How far the disks of the caller's guests on this host are.
    Disks,
}

impl GuestCall {
    /// The guest that the call is about; `None` for a list.
    pub fn guest(&self) -> Option<GuestId> {
        match self {
            Self::Start { id, .. }
            | Self::StartSeeded { id, .. }
            | Self::StartWarm { id, .. }
            | Self::StartPersistent { id, .. } => Some(*id),
            Self::List | Self::Disks => None,
            Self::Restart { guest }
            | Self::Info { guest }
            | Self::Stop { guest, .. }
            | Self::Remove { guest }
            | Self::Logs { guest, .. }
            | Self::Life { guest, .. }
            | Self::Snapshots { guest }
            | Self::Clone { guest, .. }
            | Self::Wait { guest, .. }
            | Self::Agent { guest, .. }
            | Self::Move { guest, .. }
            | Self::Set { guest, .. }
            | Self::Persist { guest } => Some(*guest),
        }
    }

    /// Checks the bounds that decoding alone does not. The host calls it before anything else.
    pub fn check(&self) -> Result<(), Fault> {
        let (spec, token, net_policy) = match self {
            Self::Start {
                spec,
                token,
                net_policy,
                ..
            }
            | Self::StartWarm {
                spec,
                token,
                net_policy,
                ..
            } => (spec, token, net_policy),
            Self::StartSeeded {
                spec,
                token,
                net_policy,
                user_data,
                ..
            } => {
                check_user_data(user_data)?;
                (spec, token, net_policy)
            }
            Self::StartPersistent {
                spec,
                token,
                net_policy,
                user_data,
                ..
            } => {
                check_user_data(user_data.as_deref().unwrap_or_default())?;
                (spec, token, net_policy)
            }
            Self::Agent { ask, token, .. } if token.as_ref().is_none_or(|t| t.len() <= MAX_TOKEN) => {
                return ask.check();
            }
            Self::Clone { token, .. } if token.as_ref().is_none_or(|t| t.len() <= MAX_TOKEN) => return Ok(()),
            Self::Move {
                step: MoveStep::Arrive { token, spec, .. },
                ..
            } => {
                let (long, hints) = (spec.image_ref.len() > MAX_IMAGE_REF, spec.hints.len() > MAX_HINTS);
                if long || hints || token.as_ref().is_some_and(|t| t.len() > MAX_TOKEN) {
                    return Err(Fault::new(FaultKind::Usage, "the guest's spec breaks a bound"));
                }
                return Ok(());
            }
            Self::Agent { .. } | Self::Clone { .. } => {
                return Err(Fault::new(FaultKind::Usage, "the grant token is too long"));
            }
            _ => return Ok(()),
        };
        check_settings(net_policy).map_err(|e| Fault::new(FaultKind::Usage, format!("the port policy: {e}")))?;
        let too_long = |what: &str, len: usize, cap: usize| {
            Fault::new(
                FaultKind::Usage,
                format!("{what} has {len} bytes or entries, at most {cap} are allowed"),
            )
        };
        match token {
            Some(t) if t.len() > MAX_TOKEN => return Err(too_long("the grant token", t.len(), MAX_TOKEN)),
            _ => {}
        }
        if spec.image_ref.len() > MAX_IMAGE_REF {
            return Err(too_long("the image reference", spec.image_ref.len(), MAX_IMAGE_REF));
        }
        if spec.hints.len() > MAX_HINTS {
            return Err(too_long("the list of image holders", spec.hints.len(), MAX_HINTS));
        }
        Ok(())
    }
}

fn check_user_data(text: &[u8]) -> Result<(), Fault> {
    if text.len() <= MAX_USER_DATA {
        return Ok(());
    }
    let what = format!(
        "the cloud-init document has {} bytes, at most {MAX_USER_DATA} are allowed",
        text.len()
    );
    Err(Fault::new(FaultKind::Usage, what))
}

/// A step of starting a guest, in the order in which they come; `Fetching` and `Fetched` are left out if the image is
/// there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Grant, policy and free capacity allow it; the capacity is held.
    Admitted,
    /// Pieces of the image are coming.
    Fetching,
    /// What a boot needs before it begins is here and verified; the rest of the image comes while the guest runs.
    Fetched,
    /// The hypervisor is being started.
    Starting,
    /// The guest's CPUs run.
    Running,
    /// Its first address on the LAN was seen; the note says which.
    Address,
}

/// How far the fetch of an image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageProgress {
    /// Pieces of the whole image.
    pub pieces_total: u64,
    /// Pieces that are here and verified.
    pub pieces_have: u64,
    /// Bytes of the whole image as stored.
    pub bytes_total: u64,
    /// Bytes here.
    pub bytes_have: u64,
    /// Bytes per second, lately.
    pub rate: u64,
    /// Peers that are sending.
    pub peers: u32,
    /// Milliseconds to go at this rate, if it can be told.
    pub eta_ms: Option<u64>,
}

/// What a host answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestUpdate {
    /// A step was reached.
    Step {
        /// Which.
        step: Step,
        /// Milliseconds since the host took the call.
        at_ms: u64,
        /// A few words for a person, or empty.
        note: String,
    },
    /// The image is coming.
    Progress(ImageProgress),
    /// It is done; nothing follows.
    Done(GuestResult),
    /// It failed or was refused; nothing follows.
    Fault(Fault),
    /// What the host is waiting for; also sent at least every few seconds, so that silence means a broken path.
    Waiting {
        /// A few words for a person.
        what: String,
    },
    /// What came of the image by now, and from whom; said again at the end.
    Fetched(FetchReport),
}

/// Most sources that a [`FetchReport`] lists.
pub const MAX_SOURCES: usize = 64;

/// Where the pieces of an image came from, for one start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchReport {
    /// Bytes fetched, as they travelled.
    pub bytes: u64,
    /// Of those, bytes that came twice.
    pub duplicate_bytes: u64,
    /// Bytes by source, at most [`MAX_SOURCES`].
    pub from: Vec<(NodeId, u64)>,
}

impl GuestUpdate {
    /// As received from a peer: texts bounded and free of control characters, logs excepted (their reader filters).
    #[must_use]
    pub fn sanitised(self) -> Self {
        match self {
            Self::Step { step, at_ms, note } => Self::Step {
                step,
                at_ms,
                note: plain(&note),
            },
            Self::Fault(f) => Self::Fault(f.sanitised()),
            Self::Waiting { what } => Self::Waiting { what: plain(&what) },
            Self::Fetched(mut r) => {
                r.from.truncate(MAX_SOURCES);
                Self::Fetched(r)
            }
            Self::Done(GuestResult::Guest(v)) => Self::Done(GuestResult::Guest(Box::new(v.sanitised()))),
            Self::Done(GuestResult::List(v)) => {
                let v = v.into_iter().take(MAX_LISTED).map(GuestView::sanitised).collect();
                Self::Done(GuestResult::List(v))
            }
            Self::Done(GuestResult::Disks(v)) => {
                let v = v.into_iter().take(MAX_LISTED).map(DiskView::sanitised).collect();
                Self::Done(GuestResult::Disks(v))
            }
            other => other,
        }
    }
}

/// The value of a call that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestResult {
    /// To `Start`, `StartSeeded`, `Restart`, `Info`, `Life`, `Clone` and `Wait`.
    Guest(Box<GuestView>),
    /// To `List`.
    List(Vec<GuestView>),
    /// To `Stop`.
    Stopped(StopReport),
    /// To `Remove`; also if there was nothing to remove.
    Removed,
    /// To `Logs`.
    Logs(GuestLogs),
    /// To `Snapshots`.
    Snapshots(Vec<SnapshotView>),
    /// To `Agent`.
    Agent(AgentAnswer),
    /// To `Disks`.
    Disks(Vec<DiskView>),
}

/// The ends of a guest's two logs, raw bytes as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestLogs {
    /// What the guest wrote on its console.
    pub console: Vec<u8>,
    /// What its hypervisor wrote on stderr.
    pub hypervisor: Vec<u8>,
}

/// What it took to stop a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopHow {
    /// It was not running.
    AlreadyStopped,
    /// The guest shut itself down when asked.
    Obeyed,
    /// The guest did not react within the grace; the hypervisor was told to quit.
    Quit,
    /// The hypervisor did not react either and was killed.
    Killed,
}

impl fmt::Display for StopHow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlreadyStopped => "it was not running",
            Self::Obeyed => "the guest shut itself down",
            Self::Quit => "the hypervisor was told to quit",
            Self::Killed => "the hypervisor was killed",
        })
    }
}

/// How a stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReport {
    /// What it took.
    pub how: StopHow,
    /// From the request to the end of the process, milliseconds.
    pub took_ms: u64,
}

/// State of a guest; the only words for it anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestState {
    /// Admitted, its image is on the way.
    Fetching,
    /// Its hypervisor is being started.
    Starting,
    /// Its CPUs run.
    Running,
    /// Its CPUs stand still: by command, or because its disk does not answer (the note says).
    Paused,
    /// Saved with its memory; no process.
    Hibernated,
    /// On the way to another host.
    Moving,
    /// Ended in order; its disk is kept.
    Stopped,
    /// Ended by itself, not in order; the note says how.
    Crashed,
    /// The process is there but does not answer, or its record cannot be used; the note says.
    Error,
    /// It may run here or elsewhere; a person decides.
    InDoubt,
}

/// States with their words, in the order of declaration.
const STATE_WORDS: [(GuestState, &str); 10] = [
    (GuestState::Fetching, "fetching"),
    (GuestState::Starting, "starting"),
    (GuestState::Running, "running"),
    (GuestState::Paused, "paused"),
    (GuestState::Hibernated, "hibernated"),
    (GuestState::Moving, "moving"),
    (GuestState::Stopped, "stopped"),
    (GuestState::Crashed, "crashed"),
    (GuestState::Error, "error"),
    (GuestState::InDoubt, "in-doubt"),
];

impl GuestState {
    /// Holds CPU and memory of its host in this state.
    pub fn holds_capacity(self) -> bool {
        !matches!(self, Self::Stopped | Self::Crashed | Self::Hibernated)
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        STATE_WORDS.iter().find(|(s, _)| *s == self).map_or("error", |(_, w)| w)
    }
}

impl fmt::Display for GuestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Not a state's word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a state; states are fetching starting running paused hibernated moving stopped crashed error in-doubt"
)]
pub struct BadState(String);

impl FromStr for GuestState {
    type Err = BadState;

    fn from_str(s: &str) -> Result<Self, BadState> {
        STATE_WORDS
            .iter()
            .find(|(_, w)| *w == s)
            .map(|(s, _)| *s)
            .ok_or_else(|| BadState(plain(s)))
    }
}

/// What executes a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The CPU itself, through /dev/kvm.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accel {
    /// As QEMU spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A guest as its host shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestView {
    /// Id.
    pub id: GuestId,
    /// Name.
    pub name: Name,
    /// Who asked for it.
    pub owner: NodeId,
    /// Where it is.
    pub host: NodeId,
    /// State.
    pub state: GuestState,
    /// Image.
    pub image: ImageId,
    /// The image as its owner named it.
    pub image_ref: String,
    /// Its LAN.
    pub lan: Option<LanId>,
    /// Its NIC's address.
    pub mac: MacAddr,
    /// Addresses seen on the LAN, the newest first, at most [`MAX_IPS`].
    pub ips: Vec<IpAddr>,
    /// Virtual CPUs.
    pub cpus: u16,
    /// RAM.
    pub memory: ByteSize,
    /// What executes it.
    pub accel: Accel,
    /// When it was admitted.
    pub created: UnixMillis,
    /// When its CPUs last began to run after a start.
    pub started: Option<UnixMillis>,
    /// Why it is in its state, where that is not plain.
    pub note: Option<String>,
    /// Process id at its host, while there is one.
    pub pid: Option<u32>,
}

impl GuestView {
    /// As received from a peer: texts bounded and free of control characters.
    #[must_use]
    pub fn sanitised(mut self) -> Self {
        self.image_ref = plain(&self.image_ref);
        self.note = self.note.as_deref().map(plain);
        self.ips.truncate(MAX_IPS);
        self
    }
}

#[cfg(test)]
#[path = "guest_tests.rs"]
mod tests;
