//! Questions in SQL: typed questions to the index, rows into a database of their own, the answer and how good it is.

use super::{Daemon, convert, lock, run::millis, views::count};
use crate::api::{self, ChangeLine, Line, PathView, Progress, QueryView};
use discovery::{
    defaults::{SQL_WITHIN_MAX, SQL_WITHIN_MIN},
    index::Mode,
    io::sql,
    query::{Answer, Query},
    sql::{
        Question, SqlError, parse,
        plan::{self, Gathered, Step},
        rows::{Cell, Link, Own},
    },
};
use futures::future::join_all;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use wire::{Fault, FaultKind};

/// Time for a question that names none.
const WITHIN: Duration = Duration::from_millis(500);
/// Changes of adverts that come together are answered once.
const SETTLE: Duration = Duration::from_millis(250);
/// A followed question is asked again after this even if no advert moved: figures of this node do.
const FOLLOW_EVERY: Duration = Duration::from_secs(5);

/// A row, as the API has it.
type Row = Vec<Value>;

impl Daemon {
    /// Answers a question, once or until nobody reads.
    pub(super) async fn query(&self, req: api::QueryRequest, progress: &Progress) -> Result<QueryView, Fault> {
        let question = parse(&req.sql).map_err(|e| refused(&e))?;
        let within = req.within_ms.map_or(WITHIN, Duration::from_millis);
        if !(SQL_WITHIN_MIN..=SQL_WITHIN_MAX).contains(&within) {
            return Err(Fault::new(
                FaultKind::Usage,
                format!("a question may take 10 ms to 10 s, not {} ms", within.as_millis()),
            )
            .next("give it time with: --within 500ms"));
        }
        match req.follow {
            false => self.query_once(&question, within).await,
            true => self.query_follow(&question, within, progress).await,
        }
    }

    async fn query_once(&self, question: &Question, within: Duration) -> Result<QueryView, Fault> {
        let (started, steps) = (Instant::now(), plan::steps(&question.needs));
        let deadline = started + within;
        let permit = tokio::time::timeout(within, self.queries.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(
                Fault::new(FaultKind::TimedOut, "too many questions run on this node").next("ask again in a moment")
            );
        };
        let gathered = self.gather(&steps, deadline).await;
        let (data, oldest) = plan::load(&question.needs, &gathered, &self.own().await);
        if question.explain {
            let rows = explained(&steps, &gathered, &data);
            return Ok(view(rows, &gathered, oldest, 0, started));
        }
        let (dropped, asked) = (data.dropped, question.clone());
        let table = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            sql::run(&asked, &data, move || Instant::now() >= deadline)
        })
        .await
        .map_err(|e| Fault::new(FaultKind::Failed, format!("the question was cut off: {e}")))?
        .map_err(|e| refused(&e))?;
        let mut view = view(table, &gathered, oldest, dropped, started);
        view.approximate = question.aggregates && !view.complete;
        Ok(view)
    }

    /// Everything that is held here, and what the index has under the keys of the question.
    async fn gather(&self, steps: &[Step], deadline: Instant) -> Gathered {
        let mut asks: Vec<Query> = Vec::new();
        for ask in steps.iter().filter_map(|s| s.ask.as_ref()) {
            if !asks.contains(ask) {
                asks.push(ask.clone());
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let answers = join_all(asks.into_iter().map(|ask| self.ask_key(ask, left))).await;
        let stats = self.discovery.stats();
        let replica = stats.mode == Mode::Replica && (stats.neighbours == 0 || stats.syncs > 0);
        plan::gather(self.discovery.snapshot(), answers, steps, replica)
    }

    async fn ask_key(&self, ask: Query, within: Duration) -> (Query, Option<Answer>) {
        let answer = self.discovery.find(ask.clone(), within).await;
        if let Err(e) = &answer {
            tracing::warn!(error = %e, "the index cannot be asked");
        }
        (ask, answer.ok())
    }

    /// What this node knows by itself.
    async fn own(&self) -> Own {
        let links = self.overlay.peers().await.into_iter().map(|p| Link {
            peer: p.id,
            rtt: p.rtt,
            loss: (p.sent > 0).then(|| p.lost as f64 / p.sent as f64),
            rate_kbps: lock(&self.link_rates).kbps(&p.id),
            path: match convert::path(p.path) {
                PathView::Direct => "direct",
                PathView::Tcp => "tcp",
                PathView::Relayed => "relayed",
            },
        });
        Own {
            me: Some(self.me),
            links: links.collect(),
            guests: self
                .registry()
                .all()
                .into_iter()
                .filter_map(|g| Some((g.guest_id()?, g.name)))
                .collect(),
            names: BTreeMap::new(),
            wall_ms: super::now().0,
        }
    }

    /// Sends what changed, again and again.
    async fn query_follow(
        &self,
        question: &Question,
        within: Duration,
        progress: &Progress,
    ) -> Result<QueryView, Fault> {
        let (started, mut changes) = (Instant::now(), self.advert_changes.subscribe());
        let (mut before, mut first) = (Vec::new(), true);
        loop {
            changes.mark_unchanged();
            let view = self.query_once(question, within).await?;
            let (added, removed) = difference(&before, &view.rows);
            if first || !added.is_empty() || !removed.is_empty() {
                let line = ChangeLine {
                    columns: view.columns.clone(),
                    added,
                    removed,
                    complete: view.complete,
                    at_ms: millis(started.elapsed()),
                };
                if !progress.tell(Line::Change(line)).await {
                    return Ok(view);
                }
            }
            (before, first) = (view.rows.clone(), false);
            tokio::select! {
                _ = changes.changed() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(FOLLOW_EVERY) => {}
                () = progress.reader_gone() => return Ok(view),
                () = self.stop.cancelled() => return Ok(view),
            }
        }
    }
}

fn refused(e: &SqlError) -> Fault {
    Fault::new(FaultKind::Usage, e.to_string()).next(e.instead.clone())
}

fn view(table: sql::Result, g: &Gathered, oldest: Option<Duration>, dropped: usize, started: Instant) -> QueryView {
    let missing = dropped + usize::from(table.cut);
    QueryView {
        rows: table
            .rows
            .into_iter()
            .map(|r| r.into_iter().map(json).collect())
            .collect(),
        columns: table.columns,
        complete: g.complete && missing == 0 && !table.stopped,
        asked: count(g.asked),
        answered: count(g.answered),
        coverage: g.coverage,
        estimated_total: g.estimated_total as u64,
        oldest_age_ms: oldest.map(millis),
        deadline_hit: table.stopped,
        rows_dropped: missing as u64,
        approximate: false,
        elapsed_ms: millis(started.elapsed()),
    }
}

fn json(c: Cell) -> Value {
    match c {
        Cell::Null => Value::Null,
        Cell::Int(n) => n.into(),
        Cell::Real(x) => serde_json::Number::from_f64(x).map_or(Value::Null, Value::Number),
        Cell::Text(t) => t.into(),
    }
}

/// A key of the index, for people: how deep in it, how many are there.
fn key(k: &discovery::query::KeyAsked) -> String {
    let at = match k.cell.level {
        0 => String::new(),
        n => format!(" level {n} cell {:x}", k.cell.prefix),
    };
    match k.answered {
        true => format!("{:?}{at}: {} of about {}", k.cell.space, k.rows, k.estimate),
        false => format!("{:?}{at}: no answer", k.cell.space),
    }
}

/// The plan as a table: a row for each table of the question.
fn explained(steps: &[Step], g: &Gathered, data: &discovery::sql::rows::Data) -> sql::Result {
    let row = |s: &Step| {
        let came = s
            .ask
            .as_ref()
            .and_then(|q| g.keys.iter().find(|(n, _)| *n == q.namespace));
        let key = s.ask.as_ref().map(|q| match came.map_or(&[][..], |(_, all)| all) {
            [] => format!("{:?}, not asked", q.namespace),
            all => all.iter().map(key).collect::<Vec<_>>().join("; "),
        });
        let kept = discovery::sql::schema::table(s.table).and_then(|t| data.tables.get(&t.id));
        vec![
            Cell::text(s.table),
            Cell::Text(s.predicates.join(" AND ")),
            key.clone().map_or(Cell::Null, Cell::Text),
            came.map_or(Cell::Null, |(_, all)| {
                Cell::int(all.iter().map(|k| k.rows).sum::<usize>())
            }),
            kept.map_or(Cell::Int(0), |r| Cell::int(r.len())),
            Cell::text(match (s.needs_replica, s.ask.is_some()) {
                (_, true) => "index and what is held here",
                (true, false) => "what is held here",
                (false, false) => "measured by this node",
            }),
        ]
    };
    sql::Result {
        columns: ["table", "pushed_down", "key", "rows_under_key", "rows_loaded", "from"]
            .map(str::to_owned)
            .into(),
        rows: steps.iter().map(row).collect(),
        ..sql::Result::default()
    }
}

/// Rows that came and rows that went, each as often as it did.
fn difference(before: &[Row], after: &[Row]) -> (Vec<Row>, Vec<Row>) {
    let mut counts: BTreeMap<String, (i64, &Row)> = BTreeMap::new();
    for (rows, by) in [(after, 1), (before, -1)] {
        for row in rows {
            counts.entry(Value::from(row.clone()).to_string()).or_insert((0, row)).0 += by;
        }
    }
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for (n, row) in counts.into_values() {
        let side = if n > 0 { &mut added } else { &mut removed };
        side.extend((0..n.unsigned_abs()).map(|_| row.clone()));
    }
    (added, removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_counts_equal_rows() {
        let row = |n: i64| vec![Value::from(n), Value::from("x")];
        let (added, removed) = difference(&[row(1), row(1), row(2)], &[row(1), row(3), row(2), row(3)]);
        assert_eq!(added, [row(3), row(3)]);
        assert_eq!(removed, [row(1)]);
        assert_eq!(difference(&[row(1)], &[row(1)]), (vec![], vec![]));
    }
}
