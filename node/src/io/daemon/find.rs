//! Finding hosts and images: questions to the index, answers ranked for one user. Paper: §3.2.

use super::Daemon;
use crate::api::RunRequest;
use discovery::query::{Answer, Query};
use std::time::Duration;
use wire::{
    ByteSize, Fault, FaultKind, ImageId, LanId, Name, NodeId,
    advert::{Body, HostOffer, LanTag, Namespace},
};

/// Time for a question about an image's name or holders.
pub(super) const FIND_IMAGE: Duration = Duration::from_millis(1_500);

/// A machine that could run the guest.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub id: NodeId,
    pub name: String,
    pub offer: Option<HostOffer>,
    pub rtt: Option<Duration>,
    pub age: Duration,
}

/// Hosts, best first, and how complete the list is.
#[derive(Debug)]
pub(super) struct FoundHosts {
    pub hosts: Vec<Candidate>,
    pub asked: u32,
    pub answered: u32,
    pub took: Duration,
}

/// An image that a reference stands for.
#[derive(Debug)]
pub(super) struct FoundImage {
    pub id: ImageId,
    pub name: Option<Name>,
    pub tag: Option<Name>,
    /// As the person may see it.
    pub shown: String,
    /// Nodes that said they hold some of it, nearest first.
    pub holders: Vec<NodeId>,
}

impl Candidate {
    /// A host that no advert was found of: it is asked all the same, as the person named it.
    pub(super) fn unknown(id: NodeId, name: Option<String>) -> Self {
        Self {
            id,
            name: name.unwrap_or_else(|| id.to_string()),
            offer: None,
            rtt: None,
            age: Duration::ZERO,
        }
    }

    /// For the person who waits: `attic-nuc (12 ms, tcg)`.
    pub(super) fn describe(&self) -> String {
        let rtt = self.rtt.map(|d| format!("{:.0} ms", d.as_secs_f64() * 1e3));
        let accel = self.offer.as_ref().map(|o| o.accel.to_string());
        let facts: Vec<_> = [rtt, accel].into_iter().flatten().collect();
        if facts.is_empty() {
            self.name.clone()
        } else {
            format!("{} ({})", self.name, facts.join(", "))
        }
    }

    /// Room for the guest, and on its LAN.
    pub(super) fn fits(&self, req: &RunRequest, lan: Option<&LanId>) -> bool {
        let Some(o) = &self.offer else { return false };
        let on_lan = lan.is_none_or(|l| o.lans.contains(&LanTag::from(l)));
        u32::from(o.cpus_free) >= req.cpus && o.memory_free.0 >= req.memory_bytes && o.vms < o.max_vms && on_lan
    }
}

impl Daemon {
    /// Every machine on loan that answers within `within`; those we hold a grant for first, then the nearest.
    pub(super) async fn find_hosts(&self, within: Duration) -> FoundHosts {
        let answer = self.ask_index(Namespace::Hosts, within).await;
        let mut hosts: Vec<Candidate> = answer
            .rows
            .into_iter()
            .filter_map(|row| {
                let rtt = row.nearness();
                let Body::Host(offer) = row.advert.body else {
                    return None;
                };
                let name = row
                    .advert
                    .name
                    .map(|n| n.to_string())
                    .or_else(|| self.name_of(row.advert.node));
                Some(Candidate {
                    id: row.advert.node,
                    name: name.unwrap_or_else(|| row.advert.node.short()),
                    offer: Some(offer),
                    rtt,
                    age: row.age,
                })
            })
            .collect();
        hosts.sort_by_key(|c| {
            (
                self.token_for(c.id).is_none() && c.id != self.me,
                c.rtt.unwrap_or(Duration::MAX),
                c.id,
            )
        });
        FoundHosts {
            hosts,
            asked: count(answer.asked),
            answered: count(answer.answered),
            took: answer.took,
        }
    }

    /// One question to the index. Where it cannot be asked, the answer is empty and incomplete, and the log says why.
    pub(super) async fn ask_index(&self, namespace: Namespace, within: Duration) -> Answer {
        self.discovery
            .find(Query::all(namespace), within)
            .await
            .unwrap_or_else(|e| {
                tracing::warn!(error = %e, "the index cannot be asked");
                Answer {
                    rows: Vec::new(),
                    asked: 1,
                    answered: 0,
                    complete: false,
                    estimated_total: 0,
                    coverage: 0.0,
                    keys: Vec::new(),
                    oldest_age: None,
                    took: Duration::ZERO,
                }
            })
    }

    /// What a reference stands for: an image of this node, else what the mesh says.
    pub(super) async fn find_image(&self, reference: &str) -> Result<FoundImage, Fault> {
        let (text, at) = match reference.split_once('@') {
            Some((t, peer)) => (t, Some(self.resolve_node(peer)?)),
            None => (reference, None),
        };
        if let Some(id) = self.local_image(text).filter(|_| at.is_none_or(|p| p == self.me)) {
            let info = self.store_info(id).await;
            let (name, tag) = info.and_then(|i| parse_ref(i.names.first()?).ok()).unzip();
            let holders = self.holders(id, FIND_IMAGE).await;
            return Ok(FoundImage {
                id,
                shown: shown(name.as_ref(), tag.as_ref(), id),
                name,
                tag,
                holders,
            });
        }
        if let Ok(id) = text.parse::<ImageId>() {
            let holders = self.holders(id, FIND_IMAGE).await;
            return Ok(FoundImage {
                id,
                name: None,
                tag: None,
                shown: id.to_string(),
                holders,
            });
        }
        self.image_by_name(text, at).await
    }

    async fn image_by_name(&self, text: &str, at: Option<NodeId>) -> Result<FoundImage, Fault> {
        let (name, tag) = parse_ref(text)?;
        let answer = self.ask_index(Namespace::image_name(&name), FIND_IMAGE).await;
        let mut found: Vec<(ImageId, Option<Name>, NodeId, u64)> = Vec::new();
        for row in answer.rows {
            let Body::Image(h) = row.advert.body else { continue };
            let tag_fits = h.tag.as_ref().map_or("latest", Name::as_str) == tag.as_str();
            if h.name.as_ref() == Some(&name) && tag_fits && at.is_none_or(|p| p == row.advert.node) {
                found.push((h.image, h.tag, row.advert.node, row.advert.issued.0));
            }
        }
        let mut ids: Vec<ImageId> = found.iter().map(|f| f.0).collect();
        ids.sort_unstable();
        ids.dedup();
        match ids.as_slice() {
            [] => Err(unknown_image(text)),
            [id] => {
                let holders = self.holders(*id, FIND_IMAGE).await;
                let shown = shown(Some(&name), Some(&tag), *id);
                Ok(FoundImage {
                    id: *id,
                    name: Some(name),
                    tag: Some(tag),
                    shown,
                    holders,
                })
            }
            many => Err(Fault::new(
                FaultKind::Usage,
                format!("{} different images are called {name}:{tag} on this mesh", many.len()),
            )
            .next(format!(
                "say whose you mean, {name}:{tag}@NODE, or give the id: {}",
                many[0]
            ))),
        }
    }

    /// Nodes that say they hold some of an image, nearest first; never this one.
    pub(super) async fn holders(&self, image: ImageId, within: Duration) -> Vec<NodeId> {
        let answer = self.ask_index(Namespace::Image(image), within).await;
        let has_some = |b: &Body| matches!(b, Body::Image(h) if h.pieces_have > 0);
        answer
            .rows
            .into_iter()
            .filter(|r| r.advert.node != self.me && has_some(&r.advert.body))
            .map(|r| r.advert.node)
            .collect()
    }
}

/// `name` or `name:tag`; no tag means `latest`.
pub(super) fn parse_ref(text: &str) -> Result<(Name, Name), Fault> {
    let (name, tag) = text.split_once(':').unwrap_or((text, "latest"));
    let bad =
        |e: wire::ids::BadId| Fault::new(FaultKind::Usage, e.to_string()).next("write an image as name or name:tag");
    Ok((name.parse().map_err(bad)?, tag.parse().map_err(bad)?))
}

fn shown(name: Option<&Name>, tag: Option<&Name>, id: ImageId) -> String {
    match (name, tag) {
        (Some(n), Some(t)) => format!("{n}:{t}"),
        (Some(n), None) => n.to_string(),
        (None, _) => id.to_string(),
    }
}

/// No node that could be asked has it.
pub(super) fn unknown_image(text: &str) -> Fault {
    let text = wire::fault::plain(text);
    Fault::new(
        FaultKind::NoMatch,
        format!("no image called {text} is here or at any node that answered"),
    )
    .next("see what there is: lanline image ls; or bring one: lanline image add FILE --name NAME")
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// One line for a size and its unit, as hosts are described.
pub(super) fn room(cpus: u32, memory: u64) -> String {
    format!("{cpus} processor(s) and {}", ByteSize(memory))
}
