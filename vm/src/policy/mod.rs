//! The owner's policy: what of a machine is lent, when, and what takes it back. Paper: §3.2 (a constraint language for
//! owners, with a compiler).
//!
//! ```text
//! text ──read──► Policy ──compile(machine)──► Compiled ──plan(moment, active rules)──► Plan ──divide(guests)──► Slices
//!                                                ▲
//!                         readings ──Governor (hysteresis)── active rules
//! ```
//!
//! It enforces nothing (`enforce` does) and reads no clock, file or sensor: time and readings are arguments. Two kinds of
//! rules: one without `if_` *sets* values (a later one wins), one with `if_` only *tightens* (the smaller value, the
//! stricter action). So an owner's limits can be read from the top, and a condition never gives more away.
//!
//! Invariant, checked by a property test: whatever the policy, the moment and the guests, the slices of all guests
//! together never exceed the plan's processors, and the plan's never the machine's.

mod calendar;
mod compile;
mod divide;
mod expr;
mod govern;
mod preset;
mod read;
mod value;

pub use calendar::{Moment, next_change};
pub use compile::{Because, ClassPlan, Compiled, Machine, Plan};
pub use divide::{Asker, MIN_SLICE, Slice, divide};
pub use expr::{Expr, VARIABLES};
pub use govern::{Governor, Readings, Sense};
pub use preset::PRESETS;
pub use read::read;
pub use value::{Amount, BitRate, Days, Hours, Millicores, Share};

use std::time::Duration;

/// What is wrong with a policy's text, where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}{}: {what}", .key.as_ref().map(|k| format!(", {k}")).unwrap_or_default())]
pub struct PolicyError {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1, in characters.
    pub column: u32,
    /// The key that it is about.
    pub key: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to write.
    pub fix: String,
}

/// What happens to guests while a rule holds; later ones are stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// No guest is admitted; those that run stay.
    Refuse,
    /// Guests stand still.
    Pause,
    /// Guests are moved to another host; where none takes them they are hibernated.
    Move,
    /// Guests are saved and end.
    Hibernate,
}

impl Action {
    /// As a policy writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse-new",
            Self::Pause => "pause",
            Self::Move => "move",
            Self::Hibernate => "hibernate",
        }
    }
}

/// What becomes of a guest whose lease is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExpire {
    /// It is saved and ends.
    #[default]
    Hibernate,
    /// It is shut down.
    Stop,
}

/// What kind of work a guest does, as its user says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Somebody sits before it.
    Interactive,
    /// Nobody waits for single answers.
    #[default]
    Batch,
}

impl Class {
    /// As a policy writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }
}

/// Which mechanism holds guests to their slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnforcerChoice {
    /// The best that the machine grants.
    #[default]
    Auto,
    /// SCHED_DEADLINE on the threads of virtual processors.
    Deadline,
    /// cgroup v2 or v1.
    Cgroup,
    /// SIGSTOP and SIGCONT under a closed loop.
    Sigstop,
}

/// The `[host]` table: holds always, and is what rules start from.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Processors for all guests together.
    pub cpu: Share,
    /// Weight of all guests together against the owner's own programs, which have 100.
    pub weight: u32,
    /// Period over which the ceiling holds.
    pub smooth: Duration,
    /// Mechanism.
    pub enforcer: EnforcerChoice,
    /// Guests that may run at once.
    pub max_vms: u16,
    /// Of these, guests of one user.
    pub vms_per_user: Option<u16>,
    /// Memory of all guests together.
    pub memory: Amount,
    /// Memory that stays available for the owner's own programs.
    pub memory_min_free: Amount,
    /// Disk of all guests together.
    pub disk: Option<Amount>,
    /// Free space in the file system below which no guest is started.
    pub disk_min_free: Amount,
    /// What all guests together may send.
    pub net_up: Option<BitRate>,
    /// What all guests together may receive.
    pub net_down: Option<BitRate>,
    /// What all guests together may send and receive in a calendar month, bytes.
    pub net_month: Option<u64>,
    /// What may be sent of image pieces to other nodes, all together.
    pub images_up: Option<BitRate>,
    /// Nodes of the same owner: for pieces all others wait for their turn. None: all members are.
    pub own_nodes: Option<Vec<wire::NodeId>>,
    /// Who may start guests beside having a grant; none: everybody with a grant.
    pub allow: Option<Vec<String>>,
    /// Image ids that may be started; none: all.
    pub images: Option<Vec<String>>,
    /// May users open their guests' consoles here?
    pub console: bool,
    /// Price of an hour of one processor, thousandths of what the owner counts in; told in adverts, charged by nobody here.
    pub price: u32,
    /// Longest life of a guest, from its first start.
    pub lease_max: Option<Duration>,
    /// What becomes of it then.
    pub on_expire: OnExpire,
    /// Folder of files that each hold one number, for `when`.
    pub sensors: Option<String>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            cpu: Share::Percent(10_000),
            weight: 100,
            smooth: Duration::from_millis(100),
            enforcer: EnforcerChoice::Auto,
            max_vms: 16,
            vms_per_user: None,
            memory: Amount::Percent(5_000),
            memory_min_free: Amount::Bytes(0),
            disk: None,
            disk_min_free: Amount::Bytes(crate::defaults::MIN_FREE_DISK.0),
            net_up: None,
            net_down: None,
            net_month: None,
            images_up: None,
            own_nodes: None,
            allow: None,
            images: None,
            console: true,
            price: 0,
            lease_max: None,
            on_expire: OnExpire::Hibernate,
            sensors: None,
        }
    }
}

/// What must be so for a rule to hold; all that are given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    /// Somebody used keyboard, mouse or terminal within this time.
    pub user_active: Option<Duration>,
    /// The machine runs on battery (`true`) or on mains.
    pub battery: Option<bool>,
    /// The connection is metered.
    pub metered: Option<bool>,
    /// The hottest part is above this, degrees Celsius.
    pub temp_over: Option<f64>,
    /// The processors that the owner's own programs use are more than this.
    pub load_over: Option<Share>,
}

impl Conditions {
    /// None is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A `[[rule]]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Line where it begins; 0: in a preset.
    pub line: u32,
    /// Days of the week.
    pub days: Option<Days>,
    /// Hours of the day, local time.
    pub hours: Option<Hours>,
    /// Kind of guest that `period`, `slice`, `reserve` and `max` are for.
    pub class: Option<Class>,
    /// A comparison of readings.
    pub when: Option<Expr>,
    /// Conditions.
    pub conditions: Conditions,
    /// How long conditions must hold before the rule does; none: by the kind of condition.
    pub after: Option<Duration>,
    /// How long they must have ended before the rule ends.
    pub resume_after: Option<Duration>,
    /// Processors.
    pub cpu: Option<Share>,
    /// Weight.
    pub weight: Option<u32>,
    /// Period of the ceiling.
    pub smooth: Option<Duration>,
    /// Memory.
    pub memory: Option<Amount>,
    /// Send rate.
    pub net_up: Option<BitRate>,
    /// Receive rate.
    pub net_down: Option<BitRate>,
    /// Send rate of image pieces.
    pub images_up: Option<BitRate>,
    /// Action.
    pub action: Option<Action>,
    /// Period of a guest of the class.
    pub period: Option<Duration>,
    /// Processor time in each period.
    pub slice: Option<Duration>,
    /// The slice is promised, not only allowed.
    pub reserve: bool,
    /// Guests of the class that may run at once.
    pub max: Option<u16>,
}

impl Rule {
    /// It only tightens.
    pub fn tightens(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Whether it holds depends on readings.
    pub fn is_conditional(&self) -> bool {
        self.tightens() || self.when.is_some()
    }
}

/// A policy as its text says, checked in itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// `[host]`.
    pub host: Host,
    /// Rules, those of the preset first.
    pub rules: Vec<Rule>,
    /// Preset that it builds on.
    pub preset: Option<String>,
}

#[cfg(test)]
#[path = "../tests/policy.rs"]
mod tests;
