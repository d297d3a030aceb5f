//! What a question asks of the mesh, before and after: the keys, the rows, and how much of it came.

use super::{
    check::Need,
    pushdown,
    rows::{Data, Own},
    schema,
};
use crate::query::{Answer, KeyAsked, Query, Row};
use std::{collections::BTreeMap, time::Duration};
use wire::{
    NodeId,
    advert::{Namespace, Slot},
};

/// How the rows of a table are come by.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The table.
    pub table: &'static str,
    /// Predicates that every row must meet, as text.
    pub predicates: Vec<String>,
    /// The typed question to the index; absent: only what is held here.
    pub ask: Option<Query>,
    /// Every row of the table may be held here only: no key brings the others.
    pub needs_replica: bool,
}

/// The steps of a question, a table each.
pub fn steps(needs: &[Need]) -> Vec<Step> {
    needs
        .iter()
        .map(|n| {
            let ask = pushdown::ask(n.table, &n.predicates);
            Step {
                table: schema::by_id(n.table).name,
                predicates: n.predicates.iter().map(ToString::to_string).collect(),
                needs_replica: ask.is_none() && n.table != schema::TableId::Links,
                ask,
            }
        })
        .collect()
}

/// What came for a question.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// Adverts, each subject once, its newest.
    pub adverts: Vec<Row>,
    /// Nodes asked, this one included, over all keys.
    pub asked: usize,
    /// Nodes that answered in time, likewise.
    pub answered: usize,
    /// Nothing that exists is known to be missing.
    pub complete: bool,
    /// Share of what exists that came, 0 to 1, as far as anybody knows.
    pub coverage: f64,
    /// Keys asked, the question's namespace first, with what came under each.
    pub keys: Vec<(Namespace, Vec<KeyAsked>)>,
    /// Rows that exist under the keys, as far as anybody knows.
    pub estimated_total: usize,
}

/// Puts together what is held here and what the index answered. `replica`: this node holds every advert of the mesh.
pub fn gather(held: Vec<Row>, answers: Vec<(Query, Option<Answer>)>, steps: &[Step], replica: bool) -> Gathered {
    let mut out = Gathered {
        asked: 1,
        answered: 1,
        complete: replica || steps.iter().all(|s| !s.needs_replica),
        coverage: 1.0,
        ..Gathered::default()
    };
    let mut all: BTreeMap<(NodeId, Slot), Row> = held.into_iter().map(|r| (subject(&r), r)).collect();
    for (query, answer) in answers {
        let Some(a) = answer else {
            (out.complete, out.coverage) = (false, 0.0);
            out.keys.push((query.namespace, Vec::new()));
            continue;
        };
        out.asked += a.asked.saturating_sub(1);
        out.answered += a.answered.saturating_sub(1);
        out.complete &= a.complete;
        out.coverage = out.coverage.min(a.coverage);
        out.estimated_total += a.estimated_total;
        out.keys.push((query.namespace, a.keys));
        for row in a.rows {
            let newer = all
                .get(&subject(&row))
                .is_none_or(|old| old.advert.seq < row.advert.seq);
            if newer {
                all.insert(subject(&row), row);
            }
        }
    }
    if out.complete {
        out.coverage = 1.0;
    }
    out.adverts = all.into_values().filter(|r| !r.advert.body.is_gone()).collect();
    out
}

fn subject(r: &Row) -> (NodeId, Slot) {
    (r.advert.node, r.advert.slot())
}

/// Rows for the tables, and the age of the oldest word that was used.
pub fn load(needs: &[Need], gathered: &Gathered, own: &Own) -> (Data, Option<Duration>) {
    let data = super::rows::load(needs, &gathered.adverts, own);
    let used = gathered.adverts.iter().filter(|r| matters(needs, r));
    (data, used.map(|r| r.age).max())
}

fn matters(needs: &[Need], row: &Row) -> bool {
    use schema::TableId as T;
    let slot = row.advert.slot();
    needs.iter().any(|n| {
        matches!(
            (n.table, slot),
            (T::Hosts | T::Futures | T::Loads, Slot::Host)
                | (T::Images | T::Holders, Slot::Image(_))
                | (T::Vms, Slot::Guest(_))
        )
    })
}
