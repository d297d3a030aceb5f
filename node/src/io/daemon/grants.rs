//! What this machine lends, to whom, and what this node may use elsewhere. Paper: §2.2, §4.
//!
//! A guest starts only by grant AND owner's offer AND admission; each refusal says which of the three, and what to do.

use super::{Daemon, faults, lock, persist};
use crate::api;
use overlay::grant::{Ask, GrantBook, GrantOffer};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use wire::{
    ByteSize, Fault, FaultKind, NodeId, codec,
    grant::{GrantCall, GrantId, GrantReply, GrantTerms, PROTOCOL, Right},
    guest::GuestSpecV1,
};

/// A grant's life if none was asked for.
const GRANT_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// Guests that a grant allows if no number was asked for.
const GRANT_VMS: u32 = 4;
/// Guests that an offer allows at a time.
const OFFER_VMS: u32 = 16;
/// How long the delivery of a grant may take.
const DELIVER: Duration = Duration::from_secs(5);

/// What the owner lends, as `offer.json` keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Offer {
    pub cpus: u32,
    pub memory: ByteSize,
    pub max_vms: u32,
}

/// Offer and grants.
pub(super) struct Lending {
    pub offer: Option<Offer>,
    pub grants: GrantBook,
}

impl Lending {
    pub(super) fn load(dir: &std::path::Path) -> Result<Self, Fault> {
        let grants = match persist::load_bytes(&dir.join("grants"))? {
            Some(bytes) => GrantBook::import(&bytes).map_err(|e| {
                Fault::new(FaultKind::Failed, format!("{}: {e}", dir.join("grants").display()))
                    .next("put back a copy of the file, or move it away; grants must then be made again")
            })?,
            None => GrantBook::default(),
        };
        Ok(Self {
            offer: persist::load(&dir.join("offer.json"))?.flatten(),
            grants,
        })
    }
}

impl From<Offer> for vm::admission::Offer {
    fn from(o: Offer) -> Self {
        Self {
            cpus: u16::try_from(o.cpus).unwrap_or(u16::MAX),
            memory: o.memory,
            max_vms: u16::try_from(o.max_vms).unwrap_or(u16::MAX),
            disk: None,
        }
    }
}

impl Daemon {
    /// The token that opens `host` to this node, if it holds one.
    pub(super) fn token_for(&self, host: NodeId) -> Option<Vec<u8>> {
        let ask = Ask::plain(Right::Instantiate);
        lock(&self.lending)
            .grants
            .token_for(host, &ask, super::now())
            .map(|(_, token)| token)
    }

    fn change_grants<T>(&self, f: impl FnOnce(&mut GrantBook) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut lending = lock(&self.lending);
        let mut next = lending.grants.clone();
        let out = f(&mut next)?;
        let bytes = next.export().map_err(|e| faults::failed(&e))?;
        persist::save_bytes(&self.dir.join("grants"), &bytes)?;
        lending.grants = next;
        Ok(out)
    }

    /// Grant AND offer AND admission, for a guest that `from` asks for.
    pub(super) fn authorise_start(&self, from: NodeId, spec: &GuestSpecV1, token: Option<&[u8]>) -> Result<(), Fault> {
        if self.caps.qemu.is_none() {
            return Err(Fault::new(
                FaultKind::Missing,
                format!("{} has no QEMU, so it cannot run guests", self.name),
            )
            .next("there, install it: apt-get install qemu-system-x86 qemu-utils; then start its node again"));
        }
        if from != self.me {
            let theirs: Vec<_> = self
                .guests
                .list()
                .into_iter()
                .filter(|g| g.owner == from && g.state.holds_capacity())
                .collect();
            let ask = Ask {
                right: Right::Instantiate,
                vms: theirs.len() as u32 + 1,
                cpus: theirs.iter().map(|g| u32::from(g.cpus)).sum::<u32>() + u32::from(spec.cpus),
                memory: ByteSize(
                    theirs
                        .iter()
                        .fold(spec.memory.0, |sum, g| sum.saturating_add(g.memory.0)),
                ),
                disk: ByteSize(0),
            };
            self.check_grant(from, token, &ask)?;
            self.policy_admits(from, spec.image, spec.memory)?;
        }
        self.check_lan(from, spec)
    }

    fn check_lan(&self, from: NodeId, spec: &GuestSpecV1) -> Result<(), Fault> {
        let Some(lan) = &spec.lan else { return Ok(()) };
        let state = lock(&self.lans);
        let wall = super::now();
        if !state.is_member(wall, lan, self.me) {
            return Err(Fault::new(
                FaultKind::Refused,
                format!("{} is not on the LAN {}", self.name, lan.name),
            )
            .next(format!(
                "invite it: lanline lan invite {} --for host; its owner then runs: lanline join TICKET",
                lan.name
            )));
        }
        if !state.is_member(wall, lan, from) {
            return Err(Fault::new(
                FaultKind::Refused,
                format!("your node is not a member of the LAN {}", lan.name),
            )
            .next("join it first: lanline join TICKET"));
        }
        Ok(())
    }

    /// Checks that `from` holds a grant of this host that allows `ask`.
    pub(super) fn check_grant(&self, from: NodeId, token: Option<&[u8]>, ask: &Ask) -> Result<GrantTerms, Fault> {
        let Some(token) = token else {
            return Err(overlay::grant::no_grant(self.name.as_str(), from));
        };
        let lending = lock(&self.lending);
        let checked = lending.grants.check(self.me, from, token, ask, super::now());
        checked.map_err(|e| e.fault(self.name.as_str(), from))
    }

    /// Lends this machine, or ends that.
    pub(super) fn set_offer(&self, req: &api::OfferRequest) -> Result<api::OfferView, Fault> {
        let path = self.dir.join("offer.json");
        if req.off {
            persist::save(&path, &None::<Offer>)?;
            lock(&self.lending).offer = None;
            self.guests.set_offer(None);
        } else {
            if self.caps.qemu.is_none() {
                return Err(
                    Fault::new(FaultKind::Missing, "this machine has no QEMU, so it cannot run guests")
                        .next("apt-get install qemu-system-x86 qemu-utils; then start the node again"),
                );
            }
            if let Some(text) = &req.policy {
                self.put_policy(text)?;
            }
            let default = || {
                (
                    u32::from(self.caps.cores).saturating_sub(1).max(1),
                    ByteSize(self.caps.memory.0 / 2),
                )
            };
            let (cpus, memory) = self.policy_room().unwrap_or_else(default);
            let offer = Offer {
                cpus: req.cpus.unwrap_or(cpus),
                memory: req
                    .memory_bytes
                    .map_or(ByteSize(memory.0.min(self.caps.memory.0)), ByteSize),
                max_vms: OFFER_VMS,
            };
            if offer.cpus == 0 || offer.memory.0 == 0 {
                return Err(Fault::new(
                    FaultKind::Usage,
                    "an offer of nothing; to lend nothing: lanline offer --off",
                ));
            }
            if offer.cpus > u32::from(self.caps.cores) || offer.memory > self.caps.memory {
                return Err(Fault::new(
                    FaultKind::Usage,
                    format!(
                        "this machine has {}",
                        super::find::room(u32::from(self.caps.cores), self.caps.memory.0)
                    ),
                )
                .next("offer at most that"));
            }
            persist::save(&path, &Some(offer))?;
            lock(&self.lending).offer = Some(offer);
            self.guests.set_offer(Some(offer.into()));
        }
        self.publish_soon();
        Ok(self.offer_view())
    }

    pub(super) fn offer_view(&self) -> api::OfferView {
        let offer = lock(&self.lending).offer;
        api::OfferView {
            on: offer.is_some(),
            cpus: offer.map_or(0, |o| o.cpus),
            memory_bytes: offer.map_or(0, |o| o.memory.0),
            accel: self.caps.accel.to_string(),
            accel_reason: self.caps.accel_reason.clone(),
            arch: self.caps.arch.clone(),
            qemu: self.caps.qemu.as_ref().map(|q| q.version.to_string()),
        }
    }

    /// Makes a grant, keeps it, and hands it over if its holder is connected.
    pub(super) fn make_grant(&self, req: &api::GrantRequest) -> Result<api::GrantRow, Fault> {
        let holder = self.resolve_node(&req.key)?;
        if holder == self.me {
            return Err(Fault::new(
                FaultKind::Usage,
                "this machine's own node needs no grant here",
            ));
        }
        let offer = lock(&self.lending).offer;
        let fallback = || (u32::from(self.caps.cores), self.caps.memory);
        let (cpus, memory) = offer.map_or_else(fallback, |o| (o.cpus, o.memory));
        let offer = GrantOffer {
            id: rand::random(),
            holder,
            max_vms: req.vms.unwrap_or(GRANT_VMS),
            max_cpus: req.cpus.unwrap_or(cpus),
            max_memory: req.memory_bytes.map_or(memory, ByteSize),
            max_disk: None,
            rights: Right::ALL.into_iter().collect(),
            life: req.expires_ms.map_or(GRANT_LIFE, Duration::from_millis),
        };
        let key = self.key.clone();
        self.change_grants(|g| g.issue(super::now(), &key, &offer).map_err(|e| faults::usage(&e)))?;
        let daemon = self.arc();
        tokio::spawn(async move { daemon.deliver_grants(holder).await });
        let id = GrantId(offer.id);
        let made = lock(&self.lending).grants.made().into_iter().find(|g| g.terms.id == id);
        made.map(|g| self.grant_row(&g.terms, false))
            .ok_or_else(|| Fault::new(FaultKind::Failed, "the grant was not kept"))
    }

    pub(super) fn grant_rows(&self) -> Vec<api::GrantRow> {
        let lending = lock(&self.lending);
        let (made, held) = (lending.grants.made(), lending.grants.held());
        drop(lending);
        let given: Vec<_> = made.into_iter().map(|g| self.grant_row(&g.terms, g.revoked)).collect();
        given
            .into_iter()
            .chain(held.into_iter().map(|t| self.grant_row(&t, false)))
            .collect()
    }

    fn grant_row(&self, t: &GrantTerms, revoked: bool) -> api::GrantRow {
        let given = t.issuer == self.me;
        let peer = if given { t.holder } else { t.issuer };
        api::GrantRow {
            id: t.id.to_string(),
            direction: if given {
                api::Direction::Given
            } else {
                api::Direction::Held
            },
            peer: peer.to_string(),
            name: self.name_of(peer),
            cpus: t.max_cpus,
            memory_bytes: t.max_memory.0,
            vms: t.max_vms,
            expires: t.expires.0,
            revoked,
        }
    }

    pub(super) fn revoke_grant(&self, id: &str) -> Result<api::Revoked, Fault> {
        let none = || {
            Fault::new(
                FaultKind::NoMatch,
                format!("this node gave no grant {}", wire::fault::plain(id)),
            )
            .next("see them: lanline grants")
        };
        let row = self.change_grants(|g| g.resolve(id).and_then(|id| g.revoke(id)).ok_or_else(none))?;
        let (id, holder) = (row.terms.id, row.terms.holder);
        let guests = self
            .guests
            .list()
            .into_iter()
            .filter(|g| g.owner == holder && g.state.holds_capacity());
        Ok(api::Revoked {
            id: id.to_string(),
            peer: holder.to_string(),
            guests: guests.map(|g| g.id.to_string()).collect(),
        })
    }

    /// Hands a connected node every grant that was made for it.
    pub(super) async fn deliver_grants(&self, holder: NodeId) {
        let tokens = lock(&self.lending).grants.tokens_for(holder, super::now());
        for token in tokens {
            let Ok(body) = codec::encode(&GrantCall::Deliver { token }) else {
                continue;
            };
            if let Err(e) = self.overlay.request(holder, PROTOCOL, body, DELIVER).await {
                tracing::debug!(peer = %holder, error = %e, "a grant was not delivered; it is when the node connects");
                return;
            }
        }
    }

    /// Answers `/lanline/grant/1` until the node ends.
    pub(super) async fn serve_grants(self: Arc<Self>) {
        let mut calls = self.overlay.serve(PROTOCOL);
        while let Some(inbound) = calls.recv().await {
            let Ok(call) = GrantCall::decode(&inbound.body) else {
                continue;
            };
            let (from, me) = (inbound.peer, self.me);
            // A grant is on disk before its host is told that it was kept; if that fails, the host tries again.
            let answered = self.change_grants(|g| Ok(g.handle_call(super::now(), me, from, call)));
            let reply = match answered {
                Ok(r) => r,
                Err(f) => GrantReply::Refused(f),
            };
            if matches!(reply, GrantReply::Kept) {
                tracing::info!(host = %from, "a grant arrived: this node may run guests there");
            }
            if let Ok(body) = codec::encode(&reply) {
                let _ = inbound.reply.send(body);
            }
        }
    }
}
