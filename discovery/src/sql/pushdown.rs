//! Predicates that hold for every row of an answer, by table: what may be asked of peers, and what need not be loaded.
//!
//! Invariant: only conjuncts that are never true of NULL are taken, so a row that fails one of them cannot be part of
//! the answer, an outer join's null side included.

use super::{
    rows::Cell,
    schema::{Kind, Table, TableId},
};
use crate::query::{Filter, Query};
use sqlparser::ast::{BinaryOperator as Op, Expr, UnaryOperator, Value};
use std::{cmp::Ordering, fmt, time::Duration};
use wire::{ByteSize, Name, advert::Namespace, cell::CLASSES, guest::Accel};

/// How a column is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// One of these; a single one is equality.
    In(Vec<Cell>),
    /// At least this.
    AtLeast(Cell),
    /// At most this.
    AtMost(Cell),
    /// More than this.
    Above(Cell),
    /// Less than this.
    Below(Cell),
}

/// A column and what it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicate {
    /// Place of the column in its table.
    pub column: usize,
    /// Its name, for people.
    pub name: &'static str,
    /// What it must be.
    pub test: Test,
}

impl Predicate {
    /// Whether a row can be part of the answer.
    pub fn fits(&self, row: &[Cell]) -> bool {
        let Some(cell) = row.get(self.column) else { return false };
        let is = |other: &Cell, wanted: &[Ordering]| cell.compare(other).is_some_and(|o| wanted.contains(&o));
        match &self.test {
            Test::In(all) => all.iter().any(|c| is(c, &[Ordering::Equal])),
            Test::AtLeast(c) => is(c, &[Ordering::Equal, Ordering::Greater]),
            Test::AtMost(c) => is(c, &[Ordering::Equal, Ordering::Less]),
            Test::Above(c) => is(c, &[Ordering::Greater]),
            Test::Below(c) => is(c, &[Ordering::Less]),
        }
    }

    fn equal_text(&self) -> Option<&str> {
        match &self.test {
            Test::In(all) => match all.as_slice() {
                [Cell::Text(t)] => Some(t),
                _ => None,
            },
            _ => None,
        }
    }

    /// The largest whole number that fits.
    fn most(&self) -> Option<i64> {
        match &self.test {
            Test::AtMost(Cell::Int(n)) => Some(*n),
            Test::Below(Cell::Int(n)) => n.checked_sub(1),
            Test::In(all) => match all.as_slice() {
                [Cell::Int(n)] => Some(*n),
                _ => None,
            },
            _ => None,
        }
    }

    /// The longest time that fits, of a column in milliseconds.
    fn at_most_ms(&self) -> Option<Duration> {
        let ms = match &self.test {
            Test::AtMost(Cell::Real(x)) | Test::Below(Cell::Real(x)) => *x,
            _ => return None,
        };
        Duration::try_from_secs_f64(ms / 1e3).ok()
    }

    /// The least whole number that fits.
    fn least(&self) -> Option<i64> {
        match &self.test {
            Test::AtLeast(Cell::Int(n)) => Some(*n),
            Test::Above(Cell::Int(n)) => n.checked_add(1),
            Test::In(all) => match all.as_slice() {
                [Cell::Int(n)] => Some(*n),
                _ => None,
            },
            _ => None,
        }
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, cell) = match &self.test {
            Test::In(all) => match all.as_slice() {
                [one] => ("=", one),
                many => {
                    let list: Vec<String> = many.iter().map(ToString::to_string).collect();
                    return write!(f, "{} IN ({})", self.name, list.join(", "));
                }
            },
            Test::AtLeast(c) => (">=", c),
            Test::AtMost(c) => ("<=", c),
            Test::Above(c) => (">", c),
            Test::Below(c) => ("<", c),
        };
        write!(f, "{} {sign} {cell}", self.name)
    }
}

/// The tables that a WHERE speaks of.
#[derive(Default)]
pub(super) struct Scope {
    tables: Vec<(String, &'static Table, usize)>,
    /// Something whose columns are not known here: names without a table may be its own.
    opaque: bool,
}

impl Scope {
    pub(super) fn add(&mut self, name: &str, table: &'static Table, index: usize) {
        self.tables.push((name.to_ascii_lowercase(), table, index));
    }

    pub(super) fn add_opaque(&mut self) {
        self.opaque = true;
    }

    /// The one column that a name stands for: use of a table, place, name and type.
    fn column(&self, e: &Expr) -> Option<(usize, usize, &'static str, Kind)> {
        let mut found = match e {
            Expr::Nested(x) => return self.column(x),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, column] => {
                    let wanted = table.value.to_ascii_lowercase();
                    let mine = self.tables.iter().filter(|t| t.0 == wanted);
                    mine.filter_map(|t| Some((t.2, t.1.column(&column.value)?)))
                        .collect::<Vec<_>>()
                }
                _ => return None,
            },
            Expr::Identifier(i) if !self.opaque => self
                .tables
                .iter()
                .filter_map(|t| Some((t.2, t.1.column(&i.value)?)))
                .collect(),
            _ => return None,
        };
        let (index, (place, column)) = found.pop()?;
        found.is_empty().then_some((index, place, column.name, column.kind))
    }
}

/// The conjuncts of `e` that compare one column with literals of its type, with the use of a table they speak of.
pub(super) fn predicates(e: &Expr, scope: &Scope) -> Vec<(usize, Predicate)> {
    let mut found = Vec::new();
    collect(e, scope, &mut found);
    found
}

fn collect(e: &Expr, scope: &Scope, out: &mut Vec<(usize, Predicate)>) {
    match e {
        Expr::Nested(x) => collect(x, scope, out),
        Expr::BinaryOp {
            left,
            op: Op::And,
            right,
        } => {
            collect(left, scope, out);
            collect(right, scope, out);
        }
        Expr::BinaryOp { left, op, right } => {
            let one = compare(scope, left, op, right);
            out.extend(one.or_else(|| compare(scope, right, &flipped(op)?, left)));
        }
        Expr::Between {
            expr,
            negated: false,
            low,
            high,
        } => {
            out.extend(compare(scope, expr, &Op::GtEq, low));
            out.extend(compare(scope, expr, &Op::LtEq, high));
        }
        Expr::InList {
            expr,
            list,
            negated: false,
        } => {
            let Some((index, column, name, kind)) = scope.column(expr) else {
                return;
            };
            let cells: Option<Vec<Cell>> = list.iter().map(|x| literal(x, kind)).collect();
            out.extend(cells.map(|c| {
                (
                    index,
                    Predicate {
                        column,
                        name,
                        test: Test::In(c),
                    },
                )
            }));
        }
        _ => {}
    }
}

fn compare(scope: &Scope, column: &Expr, op: &Op, value: &Expr) -> Option<(usize, Predicate)> {
    let (index, column, name, kind) = scope.column(column)?;
    let cell = literal(value, kind)?;
    let test = match op {
        Op::Eq => Test::In(vec![cell]),
        Op::GtEq => Test::AtLeast(cell),
        Op::LtEq => Test::AtMost(cell),
        Op::Gt => Test::Above(cell),
        Op::Lt => Test::Below(cell),
        _ => return None,
    };
    Some((index, Predicate { column, name, test }))
}

fn flipped(op: &Op) -> Option<Op> {
    Some(match op {
        Op::Eq => Op::Eq,
        Op::GtEq => Op::LtEq,
        Op::LtEq => Op::GtEq,
        Op::Gt => Op::Lt,
        Op::Lt => Op::Gt,
        _ => return None,
    })
}

/// A literal that SQLite compares with a column of this type without converting it.
fn literal(e: &Expr, kind: Kind) -> Option<Cell> {
    match e {
        Expr::Nested(x) => literal(x, kind),
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => match literal(expr, kind)? {
            Cell::Int(n) => n.checked_neg().map(Cell::Int),
            Cell::Real(x) => Some(Cell::Real(-x)),
            _ => None,
        },
        Expr::Value(v) => match (&v.value, kind) {
            (Value::SingleQuotedString(s), Kind::Text) => Some(Cell::Text(s.replace("''", "'"))),
            (Value::Number(n, _), Kind::Int) => n.parse().ok().map(Cell::Int),
            (Value::Number(n, _), Kind::Real) => n.parse().ok().filter(|x: &f64| x.is_finite()).map(Cell::Real),
            _ => None,
        },
        _ => None,
    }
}

/// The typed question to the index that brings every row of a table which the predicates let through, if one key does.
/// Never SQL text: a peer is asked for a key, and what it says is filtered here.
pub fn ask(table: TableId, predicates: &[Predicate]) -> Option<Query> {
    let text = |name: &str| {
        predicates
            .iter()
            .find(|p| p.name == name)
            .and_then(Predicate::equal_text)
    };
    let namespace = match table {
        TableId::Hosts => node(text("id")).unwrap_or(Namespace::Hosts),
        TableId::Futures | TableId::Loads => node(text("host")).unwrap_or(Namespace::Hosts),
        TableId::Images => image(text("id")).or_else(|| image_name(text("name")))?,
        TableId::Holders => image(text("image"))
            .or_else(|| image_name(text("name")))
            .or_else(|| node(text("host")))?,
        TableId::Vms => text("id")
            .and_then(|t| t.parse().ok().map(Namespace::Guest))
            .or_else(|| node(text("host")))?,
        TableId::Links => return None,
    };
    Some(Query {
        filter: filter(table, predicates),
        ..Query::all(namespace)
    })
}

fn node(text: Option<&str>) -> Option<Namespace> {
    text?.parse().ok().map(Namespace::Node)
}

fn image(text: Option<&str>) -> Option<Namespace> {
    text?.parse().ok().map(Namespace::Image)
}

fn image_name(text: Option<&str>) -> Option<Namespace> {
    text?.parse::<Name>().ok().map(|n| Namespace::image_name(&n))
}

fn accel(text: &str) -> Option<Accel> {
    [Accel::Kvm, Accel::Tcg].into_iter().find(|a| a.to_string() == text)
}

fn filter(table: TableId, predicates: &[Predicate]) -> Filter {
    let mut f = Filter::default();
    if !matches!(table, TableId::Hosts | TableId::Futures) {
        return f;
    }
    for p in predicates {
        match (table, p.name) {
            (_, "arch") => f.arch = f.arch.take().or_else(|| p.equal_text()?.parse().ok()),
            (TableId::Hosts, "cores_free") => {
                f.min_cpus_free = p.least().and_then(|n| u16::try_from(n).ok()).max(f.min_cpus_free);
            }
            (TableId::Hosts, "mem_free_mb") => {
                let bytes = p.least().and_then(|n| u64::try_from(n).ok()?.checked_mul(1 << 20));
                f.min_memory_free = bytes.map(ByteSize).max(f.min_memory_free);
            }
            (TableId::Hosts, "accel") => f.accel = f.accel.or_else(|| accel(p.equal_text()?)),
            (TableId::Hosts, "disk_free_mb") => {
                let bytes = p.least().and_then(|n| u64::try_from(n).ok()?.checked_mul(1 << 20));
                f.min_disk_free = bytes.map(ByteSize).max(f.min_disk_free);
            }
            (_, "price") => {
                let most = p.most().map(|n| u32::try_from(n.max(0)).unwrap_or(u32::MAX));
                f.max_price = f.max_price.into_iter().chain(most).min();
            }
            (_, "rtt_ms") => f.max_rtt = f.max_rtt.into_iter().chain(p.at_most_ms()).min(),
            (TableId::Futures, "class") => {
                let at = p.equal_text().and_then(|t| CLASSES.iter().position(|c| c.0 == t));
                f.class = at.and_then(|n| u8::try_from(n + 1).ok()).unwrap_or(0).max(f.class);
            }
            _ => {}
        }
    }
    f.room_for_guest = table == TableId::Futures;
    f
}
