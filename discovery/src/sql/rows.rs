//! Rows of the tables, from adverts that were checked and from the node's own figures.

use super::schema::{self, TableId};
use crate::{defaults::SQL_CELLS, query::Row, sql::check::Need};
use std::{cmp::Ordering, collections::BTreeMap, fmt, time::Duration};
use wire::{
    GuestId, ImageId, Name, NodeId,
    advert::{Advert, Body, Holding, HostOffer, Running},
    cell::CLASSES,
};

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing is known.
    Null,
    /// A whole number.
    Int(i64),
    /// A number with a fraction, never NaN.
    Real(f64),
    /// Text, with whatever its author put into it.
    Text(String),
}

impl Cell {
    /// Order within one type, text by its bytes as SQLite does; none between types or with NULL.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Real(a), Self::Real(b)) => a.partial_cmp(b),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// A number as far as SQLite holds it.
    pub fn int(n: impl TryInto<i64>) -> Self {
        Self::Int(n.try_into().unwrap_or(i64::MAX))
    }

    /// Anything with a name.
    pub fn text(t: impl fmt::Display) -> Self {
        Self::Text(t.to_string())
    }

    fn ms(d: Duration) -> Self {
        Self::int(d.as_millis())
    }

    fn maybe<T>(value: Option<T>, make: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Null, make)
    }
}

impl From<bool> for Cell {
    fn from(b: bool) -> Self {
        Self::Int(i64::from(b))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Int(n) => write!(f, "{n}"),
            Self::Real(x) => write!(f, "{x}"),
            Self::Text(t) => write!(f, "'{}'", t.replace('\'', "''")),
        }
    }
}

/// A path that this node measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The other end.
    pub peer: NodeId,
    /// Round trip.
    pub rtt: Option<Duration>,
    /// Share of packets lost, 0 to 1.
    pub loss: Option<f64>,
    /// Rate that the path last carried, kbit/s.
    pub rate_kbps: Option<u64>,
    /// direct, tcp or relayed.
    pub path: &'static str,
}

/// What the node knows by itself.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// This node.
    pub me: Option<NodeId>,
    /// Guests of this node wherever they run, by what it calls them.
    pub guests: BTreeMap<GuestId, Name>,
    /// Its paths.
    pub links: Vec<Link>,
    /// Names of nodes that do not say their own.
    pub names: BTreeMap<NodeId, String>,
    /// Wall clock, milliseconds since 1970.
    pub wall_ms: u64,
}

/// Rows by table, as far as a question needs them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Data {
    /// The rows of each table that is needed, each as wide as its table.
    pub tables: BTreeMap<TableId, Vec<Vec<Cell>>>,
    /// Rows that had no room: more than [`SQL_CELLS`] cells.
    pub dropped: usize,
    cells: usize,
}

impl Data {
    /// Keeps a row if no predicate speaks against it and there is room.
    fn add(&mut self, need: &Need, row: Vec<Cell>) {
        if !need.predicates.iter().all(|p| p.fits(&row)) {
            return;
        }
        if self.cells + row.len() > SQL_CELLS {
            self.dropped += 1;
            return;
        }
        self.cells += row.len();
        self.tables.entry(need.table).or_default().push(row);
    }

    /// Rows in all tables.
    pub fn rows(&self) -> usize {
        self.tables.values().map(Vec::len).sum()
    }
}

/// The rows that a question needs.
pub fn load(needs: &[Need], adverts: &[Row], own: &Own) -> Data {
    let mut data = Data::default();
    for need in needs {
        data.tables.entry(need.table).or_default();
        match need.table {
            TableId::Images => images(need, adverts, &mut data),
            TableId::Links => own.links.iter().for_each(|l| data.add(need, link(l, own))),
            _ => adverts.iter().for_each(|r| advert(need, r, own, &mut data)),
        }
    }
    data
}

fn advert(need: &Need, row: &Row, own: &Own, data: &mut Data) {
    match (need.table, &row.advert.body) {
        (TableId::Hosts, Body::Host(h)) => data.add(need, host(row, h, own)),
        (TableId::Futures, Body::Host(h)) => futures(row, h, own).for_each(|r| data.add(need, r)),
        (TableId::Loads, Body::Host(h)) => data.add(need, load_of(row, h)),
        (TableId::Holders, Body::Image(h)) => data.add(need, holder(row, h, own)),
        (TableId::Vms, Body::Guest(g)) => data.add(need, guest(row, g, own)),
        _ => {}
    }
}

fn name_of(a: &Advert, own: &Own) -> Cell {
    match (&a.name, own.names.get(&a.node)) {
        (Some(n), _) => Cell::text(n),
        (None, Some(n)) => Cell::text(n),
        (None, None) => Cell::Null,
    }
}

fn rtt(row: &Row) -> Cell {
    Cell::maybe(row.nearness(), |d| Cell::Real(d.as_secs_f64() * 1e3))
}

/// 0 for what was measured.
fn rtt_error(row: &Row) -> Cell {
    let error = row.rtt.map(|_| Duration::ZERO).or(row.expected.map(|e| e.1));
    Cell::maybe(error, |d| Cell::Real(d.as_secs_f64() * 1e3))
}

fn load1(h: &HostOffer) -> Cell {
    Cell::Real(f64::from(h.load1_x100) / 100.0)
}

fn host(row: &Row, h: &HostOffer, own: &Own) -> Vec<Cell> {
    let a = &row.advert;
    vec![
        Cell::text(a.node),
        name_of(a, own),
        Cell::text(&h.arch),
        Cell::text(h.accel),
        Cell::text(&h.qemu),
        Cell::int(h.cpus_total),
        Cell::int(h.cpus_free),
        Cell::int(h.memory_total.0 >> 20),
        Cell::int(h.memory_free.0 >> 20),
        Cell::int(h.vms),
        Cell::int(h.max_vms),
        Cell::int(h.disk_free.0 >> 20),
        Cell::int(h.price),
        Cell::maybe(Some(h.lease_max_s).filter(|s| *s > 0), Cell::int),
        load1(h),
        rtt(row),
        rtt_error(row),
        Cell::from(own.me == Some(a.node)),
        Cell::ms(row.age),
    ]
}

fn futures(row: &Row, h: &HostOffer, own: &Own) -> impl Iterator<Item = Vec<Cell>> {
    let memory = h.memory_free.0 >> 20;
    CLASSES.iter().filter_map(move |(class, vcpus, mem)| {
        let count = h.count_of(*vcpus, *mem);
        (count > 0).then(|| {
            vec![
                Cell::text(row.advert.node),
                name_of(&row.advert, own),
                Cell::text(class),
                Cell::int(*vcpus),
                Cell::int(*mem),
                Cell::int(count),
                Cell::int(h.cpus_free),
                Cell::int(memory),
                Cell::text(&h.arch),
                Cell::text(h.accel),
                Cell::int(h.price),
                Cell::maybe(Some(h.lease_max_s).filter(|s| *s > 0), Cell::int),
                rtt(row),
                Cell::ms(row.age),
            ]
        })
    })
}

fn load_of(row: &Row, h: &HostOffer) -> Vec<Cell> {
    let f = h.forecast.as_ref();
    let tasks = |x100: u32| Cell::Real(f64::from(x100) / 100.0);
    vec![
        Cell::text(row.advert.node),
        f.map_or_else(|| load1(h), |f| tasks(f.now_x100)),
        Cell::maybe(f, |f| tasks(f.p10_x100)),
        Cell::maybe(f, |f| tasks(f.p60_x100)),
        Cell::maybe(f, |f| tasks(f.err60_x100)),
        Cell::maybe(f, |f| Cell::text(&f.model)),
        Cell::ms(row.age),
    ]
}

fn holder(row: &Row, h: &Holding, own: &Own) -> Vec<Cell> {
    let pct = match h.pieces_total {
        0 => 100.0,
        n => (f64::from(h.pieces_have) / f64::from(n) * 100.0).min(100.0),
    };
    vec![
        Cell::text(h.image),
        Cell::text(row.advert.node),
        name_of(&row.advert, own),
        Cell::maybe(h.name.as_ref(), Cell::text),
        Cell::maybe(h.tag.as_ref(), Cell::text),
        Cell::Real(pct),
        Cell::int(h.stored.0),
        Cell::from(h.complete()),
        rtt(row),
        Cell::ms(row.age),
    ]
}

fn guest(row: &Row, g: &Running, own: &Own) -> Vec<Cell> {
    let mine = own.guests.get(&g.guest);
    vec![
        Cell::text(g.guest),
        Cell::text(row.advert.node),
        Cell::maybe(g.name.as_ref().or(mine), Cell::text),
        Cell::text(g.image),
        Cell::text(g.state),
        Cell::from(mine.is_some()),
        Cell::int(g.since.0),
        Cell::ms(row.age),
    ]
}

fn link(l: &Link, own: &Own) -> Vec<Cell> {
    vec![
        Cell::maybe(own.me, Cell::text),
        Cell::text(l.peer),
        Cell::maybe(l.rtt, |d| Cell::int(d.as_micros())),
        Cell::maybe(l.rate_kbps, Cell::int),
        Cell::maybe(l.loss.filter(|x| x.is_finite()), Cell::Real),
        Cell::text(l.path),
        Cell::int(own.wall_ms),
    ]
}

/// Holders are counted by what they say alike: one that lies about a size makes a row of its own.
type Alike = (ImageId, Option<Name>, Option<Name>, u64, u32, bool);

fn images(need: &Need, adverts: &[Row], data: &mut Data) {
    let mut all: BTreeMap<Alike, (usize, usize, Duration)> = BTreeMap::new();
    for row in adverts {
        let Body::Image(h) = &row.advert.body else { continue };
        let alike = (
            h.image,
            h.name.clone(),
            h.tag.clone(),
            h.size.0,
            h.pieces_total,
            h.kernel,
        );
        let seen = all.entry(alike).or_insert((0, 0, row.age));
        seen.0 += 1;
        seen.1 += usize::from(h.complete());
        seen.2 = seen.2.min(row.age);
    }
    for ((id, name, tag, size, pieces, kernel), (holders, complete, age)) in all {
        let row = vec![
            Cell::text(id),
            Cell::maybe(name, Cell::text),
            Cell::maybe(tag, Cell::text),
            Cell::int(size),
            Cell::int(pieces),
            Cell::from(kernel),
            Cell::int(holders),
            Cell::int(complete),
            Cell::ms(age),
        ];
        data.add(need, row);
    }
}

/// Checks that a row is as wide as its table; for tests of what fills them.
pub fn is_whole(table: TableId, row: &[Cell]) -> bool {
    row.len() == schema::by_id(table).columns.len()
}
