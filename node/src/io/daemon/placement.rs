//! `advise placement`: what all members of a LAN see of this node's guests and of each other, put together.

use super::{Daemon, lock, run::millis, views::as_ms, views::count};
use crate::{
    api,
    defaults::{TALK_WAIT, TALKED_TO},
    placement::{Advice, Flow, Guest, Host, Move, Stays, Way, Ways, advise},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tunnel::{Place, matrix::PairRow};
use wire::{
    Fault, FaultKind, GuestId, LanId, NodeId,
    advert::LanTag,
    codec,
    link::PathInfo,
    talk::{MAX_ASK_BYTES, MAX_SAY_BYTES, TALK_PROTOCOL, Talk, TalkAsk, TalkSay, TalkWay},
};

/// What came together for one LAN.
#[derive(Default)]
struct Heard {
    flows: BTreeMap<GuestId, Vec<Flow>>,
    ways: Ways,
    asked: u32,
    answered: u32,
}

impl Heard {
    fn add(&mut self, from: NodeId, say: &TalkSay) {
        for w in &say.ways {
            let way = Way {
                rtt: Duration::from_micros(w.rtt_us.into()),
                loss: f64::from(w.loss_permille) / 1e3,
                limit: w.limit_bytes_s,
            };
            if w.to != from {
                self.ways.add(from, w.to, way);
            }
        }
        for t in &say.talks {
            self.flows.entry(t.guest).or_default().push(Flow {
                with: t.with,
                bytes_s: t.bytes_s as f64,
                lately: t.lately_bytes_s as f64,
                packets_s: t.packets_min as f64 / 60.0,
            });
        }
    }
}

impl Daemon {
    pub(super) async fn placement(&self, req: &api::PlacementRequest) -> Result<api::PlacementView, Fault> {
        let began = Instant::now();
        let lans: Vec<LanId> = match &req.lan {
            Some(name) => vec![self.find_lan(name)?],
            None => {
                let mine = lock(&self.lans).lans();
                mine.into_iter().filter(|l| l.role.is_some()).map(|l| l.lan).collect()
            }
        };
        if lans.is_empty() {
            return Err(Fault::new(FaultKind::NoMatch, "this node is on no LAN yet")
                .next("make one: lanline lan create NAME; or join one: lanline join TICKET"));
        }
        let mut view = api::PlacementView {
            lans: lans.iter().map(|l| l.name.to_string()).collect(),
            moves: Vec::new(),
            stays: Vec::new(),
            asked: 0,
            answered: 0,
            elapsed_ms: 0,
        };
        let rows = self.all_guests().await;
        let found = self.find_hosts(TALK_WAIT).await;
        for lan in &lans {
            self.place(lan, &rows, &found.hosts, &mut view).await;
        }
        let worth = |m: &api::MoveRow| m.gain_ms * m.packets_s;
        view.moves.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        view.elapsed_ms = millis(began.elapsed());
        Ok(view)
    }

    async fn place(
        &self,
        lan: &LanId,
        rows: &[api::GuestRow],
        candidates: &[super::find::Candidate],
        view: &mut api::PlacementView,
    ) {
        let heard = self.hear_all(lan).await;
        view.asked += heard.asked;
        view.answered += heard.answered;
        let mine = |r: &&api::GuestRow| r.mine && r.state == "running" && r.lan.as_deref() == Some(lan.name.as_str());
        let guests: Vec<Guest> = rows.iter().filter(mine).filter_map(|r| guest_of(r, &heard)).collect();
        let hosts: Vec<Host> = candidates.iter().filter_map(|c| self.host_of(c, lan)).collect();
        let names: BTreeMap<String, &api::GuestRow> = rows.iter().map(|r| (r.id.clone(), r)).collect();
        let Advice { moves, stays } = advise(&guests, &hosts, &heard.ways);
        let name = |id: GuestId| {
            names
                .get(&id.to_string())
                .map_or_else(|| id.to_string(), |r| r.name.clone())
        };
        for m in &moves {
            let flows = guests.iter().find(|g| g.id == m.guest).map_or(&[][..], |g| &g.flows);
            view.moves
                .push(self.move_row(m, name(m.guest), lan, flows, &heard.ways));
        }
        view.stays.extend(stays.into_iter().map(|(id, why)| api::StayRow {
            guest: id.to_string(),
            name: name(id),
            why: words(why).to_owned(),
        }));
    }

    fn host_of(&self, c: &super::find::Candidate, lan: &LanId) -> Option<Host> {
        let o = c.offer.as_ref()?;
        let granted = c.id == self.me || self.token_for(c.id).is_some();
        Some(Host {
            id: c.id,
            cpus: o.cpus_free.into(),
            memory: o.memory_free.0,
            slots: u32::from(o.max_vms.saturating_sub(o.vms)),
            allowed: granted && o.lans.contains(&LanTag::from(lan)),
        })
    }

    fn move_row(&self, m: &Move, name: String, lan: &LanId, flows: &[Flow], ways: &Ways) -> api::MoveRow {
        let known = |n: NodeId| self.name_of(n).unwrap_or_else(|| n.short());
        let rtt = |a, b| ways.get(a, b).map(|w| as_ms(w.rtt));
        let mut talks: Vec<api::TalkedTo> = flows
            .iter()
            .map(|f| api::TalkedTo {
                node: f.with.to_string(),
                name: self.name_of(f.with),
                bytes_s: f.bytes_s,
                rtt_ms: rtt(m.from, f.with),
                rtt_ms_after: rtt(m.to, f.with),
            })
            .collect();
        talks.sort_by(|a, b| b.bytes_s.total_cmp(&a.bytes_s));
        talks.truncate(TALKED_TO);
        api::MoveRow {
            guest: m.guest.to_string(),
            name,
            lan: lan.name.to_string(),
            from: m.from.to_string(),
            from_name: known(m.from),
            to: m.to.to_string(),
            to_name: known(m.to),
            before_ms: as_ms(m.before),
            after_ms: as_ms(m.after),
            gain_ms: as_ms(m.gain()),
            network_bytes_s: m.network_before,
            network_bytes_s_after: m.network_after,
            packets_s: m.packets_s,
            confidence: m.confidence,
            talks,
        }
    }

    /// Asks every member of a LAN what it sees, and looks itself.
    async fn hear_all(&self, lan: &LanId) -> Heard {
        let mut heard = Heard::default();
        heard.add(self.me, &self.talk_here(lan, self.me).await);
        let members: Vec<NodeId> = {
            let state = lock(&self.lans);
            let all = state.members(super::now(), lan);
            all.into_iter().map(|m| m.node).filter(|n| *n != self.me).collect()
        };
        let asked = members
            .iter()
            .map(|n| async move { (*n, self.ask_talk(lan, *n).await) });
        heard.asked = count(members.len());
        for (member, say) in futures::future::join_all(asked).await {
            match say {
                Ok(say) => {
                    heard.answered += 1;
                    heard.add(member, &say.bounded());
                }
                Err(why) => tracing::debug!(%member, %why, "a member does not say who talks to whom"),
            }
        }
        heard
    }

    async fn ask_talk(&self, lan: &LanId, member: NodeId) -> Result<TalkSay, String> {
        let body = codec::encode(&TalkAsk { lan: lan.digest() }).map_err(|e| e.to_string())?;
        let asked = self.overlay.request(member, TALK_PROTOCOL, body, TALK_WAIT).await;
        let reply = asked.map_err(|e| e.to_string())?;
        codec::decode(&reply, MAX_SAY_BYTES).map_err(|_| "its answer cannot be read".to_owned())
    }

    /// What is seen here of a member's guests, and of all members.
    async fn talk_here(&self, lan: &LanId, owner: NodeId) -> TalkSay {
        let ports = self.tunnel.ports(lan).await;
        let matrix = self.tunnel.talkers(lan).await;
        let links = self.tunnel.lan_links(lan).await;
        let guest = |p: &PairRow| {
            let port = ports.iter().find(|q| q.id == p.pair.port)?;
            let guest = self.guests.info(port.guest?)?;
            (guest.owner == owner).then_some(guest.id)
        };
        let mut talks: BTreeMap<(GuestId, NodeId), Talk> = BTreeMap::new();
        for p in &matrix.pairs {
            let Some(guest) = guest(p) else { continue };
            let with = match p.pair.with {
                Place::Node(n) => n,
                Place::Port(_) => self.me,
            };
            let talk = talks.entry((guest, with)).or_insert(Talk {
                guest,
                with,
                bytes_s: 0,
                lately_bytes_s: 0,
                packets_min: 0,
            });
            let [_, ten, minute] = [0, 1, 2].map(|i| sum(p, i));
            talk.bytes_s += minute.0 as u64;
            talk.lately_bytes_s += ten.0 as u64;
            talk.packets_min += (minute.1 * 60.0) as u64;
        }
        let mut talks: Vec<Talk> = talks.into_values().collect();
        talks.sort_by_key(|t| std::cmp::Reverse(t.bytes_s));
        TalkSay {
            talks,
            ways: links.iter().map(|l| way_of(l.peer, &l.path)).collect(),
            at: super::now(),
        }
        .bounded()
    }

    /// Answers members who ask about their guests until the node ends.
    pub(super) async fn serve_talks(self: Arc<Self>) {
        let mut calls = self.overlay.serve(TALK_PROTOCOL);
        while let Some(inbound) = calls.recv().await {
            match self.answer_talk(inbound.peer, &inbound.body).await {
                Ok(reply) => {
                    // Whoever asked may have gone.
                    let _ = inbound.reply.send(reply);
                }
                Err(why) => tracing::debug!(peer = %inbound.peer, why, "a question about traffic is refused"),
            }
        }
    }

    async fn answer_talk(&self, peer: NodeId, body: &[u8]) -> Result<Vec<u8>, &'static str> {
        let ask: TalkAsk = codec::decode(body, MAX_ASK_BYTES).map_err(|_| "malformed")?;
        let lan = self.lan_of_member(&ask.lan, peer)?;
        let say = self.talk_here(&lan, peer).await;
        codec::encode(&say).map_err(|_| "the answer cannot be encoded")
    }
}

/// Bytes and packets a second, both ways, by one horizon.
fn sum(p: &PairRow, horizon: usize) -> (f64, f64) {
    let rates = [&p.sent, &p.received].map(|f| f.rates.get(horizon).copied().unwrap_or_default());
    let [out, back] = rates;
    (out.bytes + back.bytes, out.packets + back.packets)
}

fn way_of(to: NodeId, p: &PathInfo) -> TalkWay {
    TalkWay {
        to,
        rtt_us: u32::try_from(p.rtt.as_micros()).unwrap_or(u32::MAX),
        loss_permille: p.paths.first().map_or(0, |a| a.loss_permille),
        limit_bytes_s: p.pace,
    }
}

fn guest_of(r: &api::GuestRow, heard: &Heard) -> Option<Guest> {
    let id: GuestId = r.id.parse().ok()?;
    Some(Guest {
        id,
        host: r.host.parse().ok()?,
        cpus: r.cpus,
        memory: r.memory_bytes,
        flows: heard.flows.get(&id).cloned().unwrap_or_default(),
    })
}

fn words(why: Stays) -> &'static str {
    match why {
        Stays::Quiet => "it hardly talks to anybody on the LAN",
        Stays::NoHost => "no other host of the LAN has room for it and a grant for this node",
        Stays::Unknown => "how far the other hosts are from whom it talks to is not known",
        Stays::Best => "it is well placed: no other host would be better by enough",
    }
}
