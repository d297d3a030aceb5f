//! How a node comes into a LAN and is put out of it: making LANs and tickets, redeeming them, joining, evicting.
//!
//! Joining is three steps, so that the caller does the I/O between them: [`LanState::begin_join`] gives the call for
//! the inviter, the inviter's [`LanState::handle_call`] answers, and [`LanState::finish_join`] takes the answer. Each may
//! be done again after a crash or a lost answer: a ticket signs the same holder in once, and answers it every time.

use crate::{
    defaults::{LANS_MAX, STANDINGS_MAX, TICKET_LIFE_MAX, TICKET_USES_MAX},
    membership::{Lan, LanState, Now, StandingError, refused},
    ticket::{BookFull, Decision, Secret, Ticket, TicketError},
};
use std::{collections::BTreeSet, time::Duration};
use wire::{
    Fault, FaultKind, LanId, Name, NodeId, NodeKey, UnixMillis,
    membership::{AdmitCall, AdmitReply, Admitted, MAX_STANDINGS, PeerAddrs, Redeem, Role, Standing},
    units::show_duration,
};

/// Why a LAN cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// This node has a LAN of that name.
    #[error("this node already belongs to a LAN called '{0}'")]
    NameTaken(Name),
    /// Too many.
    #[error("this node belongs to {LANS_MAX} LANs, which is all that it can")]
    TooMany,
    /// The first record could not be signed.
    #[error(transparent)]
    Standing(#[from] StandingError),
}

/// What a ticket shall allow.
#[derive(Clone, Debug)]
pub struct InviteSpec {
    /// What its holder becomes.
    pub role: Role,
    /// How long it can be redeemed.
    pub life: Duration,
    /// How many nodes it signs in.
    pub uses: u32,
    /// Where this node can be dialled.
    pub addrs: Vec<String>,
    /// Eight random bytes.
    pub id: [u8; 8],
    /// Sixteen random bytes.
    pub secret: [u8; 16],
}

/// Why no ticket can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// The LAN is someone else's.
    #[error("only the owner of the LAN {lan} can invite; its owner is {owner}")]
    NotOwner {
        /// The LAN.
        lan: LanId,
        /// Who, as far as known.
        owner: String,
    },
    /// A ticket cannot make another owner.
    #[error("a ticket makes a member or a host, not an owner")]
    Role,
    /// No use or too many.
    #[error("a ticket can be used 1 to {TICKET_USES_MAX} times, not {0}")]
    Uses(u32),
    /// No life or too long.
    #[error("a ticket lives at least a second and at most {}", show_duration(TICKET_LIFE_MAX))]
    Life,
    /// Too many tickets.
    #[error(transparent)]
    Full(#[from] BookFull),
    /// The addresses do not fit.
    #[error(transparent)]
    Ticket(#[from] TicketError),
}

/// Why a node cannot be put out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvictError {
    /// The LAN is someone else's.
    #[error("only the owner of the LAN {0} can put a member out")]
    NotOwner(LanId),
    /// It would leave the LAN without a key.
    #[error("the owner of a LAN cannot be put out of it")]
    Owner,
    /// Not in it.
    #[error("{node} is not a member of the LAN {lan} (see 'lanline lan show {}')", .lan.name)]
    NotMember {
        /// The node.
        node: NodeId,
        /// The LAN.
        lan: LanId,
    },
    /// The record could not be signed.
    #[error(transparent)]
    Standing(#[from] StandingError),
}

/// Why joining did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The ticket itself.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// This node made it.
    #[error("this node made this ticket and owns the LAN; give the ticket to the node that shall join")]
    OwnTicket,
    /// Too many LANs.
    #[error("this node belongs to {LANS_MAX} LANs, which is all that it can")]
    TooMany,
    /// The inviter said no.
    #[error("{}", .0.what)]
    Refused(Fault),
    /// The inviter's answer does not fit the ticket.
    #[error("the inviter's answer is not what the ticket promises: {0}; ask for a new ticket")]
    WrongAnswer(String),
    /// The membership is over before it began: one of the two clocks is wrong.
    #[error("the inviter's clock is {} behind this machine's, so the membership is over before it began; set the clock that is wrong", show_duration(*.behind))]
    Clock {
        /// How long ago it ended, by this machine's clock.
        behind: Duration,
    },
}

impl From<CreateError> for Fault {
    fn from(e: CreateError) -> Self {
        let kind = match e {
            CreateError::NameTaken(_) => FaultKind::Usage,
            CreateError::TooMany => FaultKind::Refused,
            CreateError::Standing(_) => FaultKind::Failed,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<InviteError> for Fault {
    fn from(e: InviteError) -> Self {
        let kind = match e {
            InviteError::NotOwner { .. } | InviteError::Full(_) => FaultKind::Refused,
            InviteError::Role | InviteError::Uses(_) | InviteError::Life => FaultKind::Usage,
            InviteError::Ticket(_) => FaultKind::Failed,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<EvictError> for Fault {
    fn from(e: EvictError) -> Self {
        let kind = match e {
            EvictError::NotOwner(_) | EvictError::Owner => FaultKind::Refused,
            EvictError::NotMember { .. } => FaultKind::NoMatch,
            EvictError::Standing(_) => FaultKind::Failed,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<JoinError> for Fault {
    fn from(e: JoinError) -> Self {
        let kind = match e {
            JoinError::Refused(f) => return f,
            JoinError::Ticket(TicketError::Expired { .. }) | JoinError::TooMany => FaultKind::Refused,
            JoinError::Ticket(_) | JoinError::OwnTicket => FaultKind::Usage,
            JoinError::WrongAnswer(_) | JoinError::Clock { .. } => FaultKind::Failed,
        };
        Self::new(kind, e.to_string())
    }
}

impl LanState {
    /// Makes a LAN that this node owns. `secret` is 32 random bytes, the LAN's key.
    pub fn create(&mut self, now: Now, name: Name, secret: [u8; 32]) -> Result<LanId, CreateError> {
        self.now = now;
        if self.lans.keys().any(|l| l.name == name) {
            return Err(CreateError::NameTaken(name));
        }
        if self.lans.len() >= LANS_MAX {
            return Err(CreateError::TooMany);
        }
        let key = NodeKey::from_secret(&secret);
        let id = LanId {
            key: key.public(),
            name,
        };
        let mut lan = Lan::new(id.clone(), Some(key));
        lan.sign_in(
            now.wall,
            self.config.ttl,
            self.config.me,
            self.config.name.clone(),
            Role::Owner,
        )?;
        self.lans.insert(id.clone(), lan);
        self.schedule(&id);
        self.touch();
        Ok(id)
    }

    /// Makes a ticket. Save the state before the ticket is shown.
    pub fn invite(&mut self, now: Now, lan: &LanId, spec: InviteSpec) -> Result<Ticket, InviteError> {
        if !self.owns(lan) {
            let owner = self
                .lans
                .get(lan)
                .and_then(Lan::owner)
                .map_or("not known here".into(), |o| o.to_string());
            return Err(InviteError::NotOwner {
                lan: lan.clone(),
                owner,
            });
        }
        if spec.role == Role::Owner {
            return Err(InviteError::Role);
        }
        if !(1..=TICKET_USES_MAX).contains(&spec.uses) {
            return Err(InviteError::Uses(spec.uses));
        }
        if !(Duration::from_secs(1)..=TICKET_LIFE_MAX).contains(&spec.life) {
            return Err(InviteError::Life);
        }
        let ticket = Ticket {
            lan: lan.clone(),
            inviter: self.config.me,
            id: spec.id,
            secret: Secret(spec.secret),
            role: spec.role,
            expires: now.wall.plus(spec.life),
            addrs: spec.addrs,
        };
        ticket.encode()?;
        let serial = self.lans.get(lan).map_or(0, |l| l.last_serial);
        self.tickets.issue(now.wall, &ticket, spec.uses, serial)?;
        self.touch();
        Ok(ticket)
    }

    /// Puts a node out of a LAN that this node owns. Every reachable member hears of it at once, the node itself too.
    pub fn evict(&mut self, now: Now, id: &LanId, node: NodeId) -> Result<(), EvictError> {
        self.now = now;
        let (me, ttl) = (self.config.me, self.config.ttl);
        let Some(lan) = self.lans.get_mut(id).filter(|l| l.key.is_some()) else {
            return Err(EvictError::NotOwner(id.clone()));
        };
        if node == me {
            return Err(EvictError::Owner);
        }
        if lan.membership(now.wall, node).is_none() {
            return Err(EvictError::NotMember { node, lan: id.clone() });
        }
        lan.sign_out(now.wall, ttl, node)?;
        self.spread_own(id, node);
        self.schedule(id).enqueue(node, [node]);
        Ok(())
    }

    /// The call to send to the ticket's inviter.
    pub fn begin_join(&self, now: Now, ticket: &Ticket) -> Result<AdmitCall, JoinError> {
        ticket.check_clock(now.wall)?;
        if ticket.inviter == self.config.me {
            return Err(JoinError::OwnTicket);
        }
        if self.lans.len() >= LANS_MAX && !self.lans.contains_key(&ticket.lan) {
            return Err(JoinError::TooMany);
        }
        Ok(AdmitCall::Redeem(Box::new(Redeem {
            lan: ticket.lan.clone(),
            ticket: ticket.id,
            proof: ticket.proof(self.config.me),
            name: self.config.name.clone(),
            addrs: self.my_addrs().to_vec(),
        })))
    }

    /// Takes the inviter's answer. Save the state before saying that the LAN was joined.
    pub fn finish_join(&mut self, now: Now, ticket: &Ticket, reply: AdmitReply) -> Result<LanId, JoinError> {
        self.now = now;
        let me = self.config.me;
        let admitted = match reply {
            AdmitReply::Admitted(a) => *a,
            AdmitReply::Refused(f) => return Err(JoinError::Refused(f.sanitised())),
            _ => return Err(JoinError::WrongAnswer("it is about something else".into())),
        };
        let wrong = |e: &dyn std::fmt::Display| JoinError::WrongAnswer(e.to_string());
        let membership = admitted.membership.open_as(ticket.lan.key).map_err(|e| wrong(&e))?;
        if membership.member != me || membership.lan != ticket.lan {
            return Err(wrong(&"the membership is of another node or LAN"));
        }
        if membership.expires <= now.wall {
            return Err(JoinError::Clock {
                behind: now.wall.since(membership.expires),
            });
        }
        let id = ticket.lan.clone();
        if self.lans.len() >= LANS_MAX && !self.lans.contains_key(&id) {
            return Err(JoinError::TooMany);
        }
        let mut lan = self
            .lans
            .get(&id)
            .cloned()
            .unwrap_or_else(|| Lan::new(id.clone(), None));
        let more = admitted.standings.len() >= MAX_STANDINGS;
        let own = Standing::In(admitted.membership);
        for standing in std::iter::once(own).chain(admitted.standings) {
            lan.merge(me, now.wall, standing).map_err(|e| wrong(&e))?;
        }
        if lan.membership(now.wall, me).is_none() {
            return Err(wrong(&"this node was put out of the LAN since"));
        }
        self.lans.insert(id.clone(), lan);
        self.touch();
        self.learn_addrs(&id, admitted.addrs, ticket.inviter);
        self.spread(&id, &BTreeSet::new(), Some(ticket.inviter), crate::defaults::PUSH_HEARD);
        if more {
            self.schedule(&id).enqueue(ticket.inviter, []);
        }
        Ok(id)
    }

    /// Forgets a LAN, with its key if this node owns it.
    pub fn forget(&mut self, now: Now, id: &LanId) -> bool {
        self.now = now;
        let known = self.lans.contains_key(id);
        if known {
            self.drop_lan(id);
            self.touch();
        }
        known
    }

    pub(crate) fn handle_redeem(&mut self, now: Now, from: NodeId, ask: Redeem) -> AdmitReply {
        let me = self.config.me;
        if from == me || !self.owns(&ask.lan) {
            return refused("this node signs nobody in to that LAN; use a ticket of the LAN's owner");
        }
        let decision = match self.tickets.redeem(now.at, now.wall, me, from, &ask) {
            Ok(d) => d,
            Err(e) => {
                tracing::debug!(peer = %from, lan = %ask.lan, error = %e, "ticket refused");
                return AdmitReply::Refused(e.fault());
            }
        };
        match decision {
            Decision::New { role, serial } => {
                if let Err(reply) = self.admit(now, from, &ask, role, serial) {
                    return reply;
                }
            }
            Decision::Again => {}
        }
        self.admitted(now.wall, from, &ask)
    }

    /// Signs a ticket's holder in. An eviction since the ticket was made is stronger than the ticket.
    fn admit(&mut self, now: Now, from: NodeId, ask: &Redeem, role: Role, serial: u64) -> Result<(), AdmitReply> {
        let ttl = self.config.ttl;
        let Some(lan) = self.lans.get_mut(&ask.lan) else {
            return Err(refused("this node left the LAN"));
        };
        if lan.eviction(from).is_some_and(|e| e.serial > serial) {
            return Err(refused("the LAN's owner put this node out after this ticket was made"));
        }
        if lan.len() >= STANDINGS_MAX && lan.get(from).is_none() {
            return Err(refused(format!(
                "this LAN has {STANDINGS_MAX} members, which is all that it can have"
            )));
        }
        lan.sign_in(now.wall, ttl, from, ask.name.clone(), role)
            .map_err(|e| refused(e.to_string()))?;
        self.tickets.take(&ask.ticket, from);
        self.spread_own(&ask.lan, from);
        tracing::info!(lan = %ask.lan, member = %from, %role, "signed in by ticket");
        Ok(())
    }

    fn admitted(&mut self, now: UnixMillis, from: NodeId, ask: &Redeem) -> AdmitReply {
        let me = self.config.me;
        self.learn_addrs(
            &ask.lan,
            [PeerAddrs {
                node: from,
                addrs: ask.addrs.clone(),
            }],
            from,
        );
        let Some(lan) = self.lans.get(&ask.lan) else {
            return refused("this node left the LAN");
        };
        let membership = match lan.get(from).map(|h| h.standing.clone()) {
            Some(Standing::In(m)) if lan.membership(now, from).is_some() => m,
            _ => {
                return refused("the membership that this ticket gave has ended; ask the LAN's owner for a new ticket");
            }
        };
        // The owner first: whatever does not fit, the new member can ask it.
        let others = lan
            .get(me)
            .into_iter()
            .chain(lan.all().filter(|h| h.member() != from && h.member() != me));
        let (nodes, standings): (Vec<NodeId>, Vec<Standing>) = others
            .take(MAX_STANDINGS)
            .map(|h| (h.member(), h.standing.clone()))
            .unzip();
        let addrs = self.addrs_for(lan, nodes.iter());
        AdmitReply::Admitted(Box::new(Admitted {
            membership,
            standings,
            addrs,
        }))
    }
}
