//! Questions: what is allowed, what is pushed down, and that the answers are those of a plain loop over the rows.

use crate::{
    defaults::{SQL_BYTES, SQL_CELLS, SQL_ROWS},
    io::sql::{self, Result as Table},
    sql::{
        SqlError, parse, plan,
        pushdown::ask,
        rows::{Cell, Data, is_whole},
        schema::{TABLES, TableId, by_id},
    },
};
use proptest::prelude::*;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use wire::advert::Namespace;

/// Hosts and holders of random figures; ids from a small set, so that joins meet.
fn data(hosts: &[(u8, i64, i64)], holders: &[(u8, u8, bool)]) -> Data {
    let mut data = Data::default();
    let host = |(id, cores, mem): &(u8, i64, i64)| {
        let mut row = vec![Cell::Null; by_id(TableId::Hosts).columns.len()];
        let at = |name| by_id(TableId::Hosts).column(name).unwrap().0;
        row[at("id")] = Cell::text(id);
        row[at("cores_free")] = Cell::Int(*cores);
        row[at("mem_free_mb")] = Cell::Int(*mem);
        row
    };
    let holder = |(image, host, complete): &(u8, u8, bool)| {
        let mut row = vec![Cell::Null; by_id(TableId::Holders).columns.len()];
        let at = |name| by_id(TableId::Holders).column(name).unwrap().0;
        row[at("image")] = Cell::text(image);
        row[at("host")] = Cell::text(host);
        row[at("complete")] = Cell::from(*complete);
        row
    };
    data.tables.insert(TableId::Hosts, hosts.iter().map(host).collect());
    data.tables
        .insert(TableId::Holders, holders.iter().map(holder).collect());
    data
}

fn answer(text: &str, data: &Data) -> Result<Table, SqlError> {
    sql::run(&parse(text)?, data, || false)
}

fn refused(text: &str) -> String {
    match parse(text) {
        Ok(q) => panic!("accepted: {}", q.sql),
        Err(e) => {
            assert!(!e.instead.is_empty(), "{e} says nothing to write instead");
            e.to_string()
        }
    }
}

#[test]
fn a_question_of_every_allowed_kind_is_answered() {
    let data = data(&[(1, 4, 100), (2, 8, 50)], &[(7, 1, true), (7, 9, false)]);
    for (text, rows) in [
        ("SELECT * FROM hosts", 2),
        ("SELECT id, cores_free FROM hosts WHERE mem_free_mb > 60", 1),
        (
            "SELECT h.id FROM hosts h JOIN holders x ON x.host = h.id WHERE x.complete = 1",
            1,
        ),
        (
            "SELECT h.id, x.image FROM hosts h LEFT JOIN holders x ON x.host = h.id ORDER BY h.id DESC",
            2,
        ),
        ("SELECT count(*), sum(cores_free) FROM hosts", 1),
        (
            "SELECT cores_free > 5 AS big, count(*) FROM hosts GROUP BY 1 HAVING count(*) > 0",
            2,
        ),
        ("SELECT id FROM hosts WHERE id IN (SELECT host FROM holders)", 1),
        (
            "SELECT id FROM hosts h WHERE NOT EXISTS (SELECT 1 FROM holders x WHERE x.host = h.id)",
            1,
        ),
        (
            "WITH big AS (SELECT * FROM hosts WHERE cores_free >= 8) SELECT id FROM big",
            1,
        ),
        ("WITH big AS (SELECT * FROM hosts) SELECT count(*) FROM big", 1),
        (
            "SELECT upper(id) || '!' FROM hosts WHERE id LIKE '1%' LIMIT 1 OFFSET 0",
            1,
        ),
        (
            "SELECT CASE WHEN cores_free > 5 THEN 'big' ELSE 'small' END FROM hosts",
            2,
        ),
        (
            "SELECT round(avg(mem_free_mb), 1), substr('abc', 2), trim(' x '), CAST(1.5 AS INTEGER) FROM hosts",
            1,
        ),
        (
            "SELECT DISTINCT t.n FROM (SELECT cores_free * 0 AS n FROM hosts) AS t;",
            1,
        ),
    ] {
        match answer(text, &data) {
            Ok(t) => assert_eq!(t.rows.len(), rows, "{text}"),
            Err(e) => panic!("{text}: {e}"),
        }
    }
}

#[test]
fn refusals_name_the_place_and_the_way_out() {
    let e = parse("SELECT id FROM hosts\nWHERE load_extension('x') = 1").unwrap_err();
    assert_eq!(e.at, Some((2, 7)), "{e}");
    assert!(e.instead.contains("coalesce"), "{}", e.instead);
    assert!(refused("SELECT * FROM machines").contains("no table machines"));
    assert!(
        parse("SELECT * FROM machines")
            .unwrap_err()
            .instead
            .contains("hosts, futures")
    );
}

#[test]
fn what_is_not_a_plain_select_is_refused() {
    let deep = format!("SELECT {}1{} FROM hosts", "(".repeat(500), ")".repeat(500));
    let long = format!("SELECT '{}' FROM hosts", "x".repeat(1 << 20));
    let chain = format!("SELECT 1{} FROM hosts", "+1".repeat(SQL_BYTES / 4));
    let selects = format!(
        "SELECT 1 FROM hosts WHERE 1 {}",
        "AND EXISTS (SELECT 1 FROM vms)".repeat(40)
    );
    for text in [
        "",
        ";",
        "SELECT 1",
        "SELECT",
        "ATTACH 'x' AS y",
        "ATTACH DATABASE '/etc/passwd' AS p",
        "PRAGMA writable_schema = 1",
        "PRAGMA table_info(hosts)",
        "VACUUM INTO '/tmp/x'",
        "DELETE FROM hosts",
        "INSERT INTO hosts SELECT * FROM hosts",
        "UPDATE hosts SET id = 1",
        "DROP TABLE hosts",
        "CREATE TABLE x (a)",
        "SELECT 1 FROM hosts; DELETE FROM hosts",
        "SELECT 1 FROM hosts; SELECT 1 FROM hosts",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) SELECT n FROM c",
        "WITH c AS (SELECT 1 FROM hosts UNION ALL SELECT 1 FROM c) SELECT 1 FROM c",
        "SELECT 1 FROM hosts UNION SELECT 1 FROM vms",
        "SELECT zeroblob(1000000000) FROM hosts",
        "SELECT randomblob(1000000000) FROM hosts",
        "SELECT printf('%1000000000d', 1) FROM hosts",
        "SELECT format('%9999999d', 1) FROM hosts",
        "SELECT group_concat(id) FROM hosts",
        "SELECT hex(id) FROM hosts",
        "SELECT row_number() OVER (ORDER BY id) FROM hosts",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM main.hosts",
        "SELECT * FROM pragma_table_info('hosts')",
        "SELECT * FROM generate_series(1, 10)",
        "SELECT * FROM hosts NATURAL JOIN vms",
        "SELECT * FROM hosts RIGHT JOIN vms ON 1",
        "SELECT ? FROM hosts",
        "SELECT x'00' FROM hosts",
        "SELECT id COLLATE nocase FROM hosts",
        "SELECT id FROM hosts WHERE id MATCH 'x'",
        "SELECT id FROM hosts WHERE id REGEXP '(a+)+'",
        "SELECT id FROM hosts WHERE id GLOB '*'",
        "WITH hosts AS (SELECT 1 FROM vms) SELECT * FROM hosts",
        "VALUES (1)",
        "EXPLAIN DELETE FROM hosts",
        "SELECT 'unfinished FROM hosts",
        deep.as_str(),
        long.as_str(),
        chain.as_str(),
        selects.as_str(),
    ] {
        refused(text);
    }
}

#[test]
fn sqlite_itself_stops_what_the_parser_would_let_through() {
    let empty = Data::default();
    let unchecked = |sql: &str| {
        let question = crate::sql::Question {
            sql: sql.to_owned(),
            ..parse("SELECT id FROM hosts").unwrap()
        };
        sql::run(&question, &empty, || false).map(|t| t.rows)
    };
    assert_eq!(unchecked("SELECT 1 FROM hosts"), Ok(vec![]));
    for sql in [
        "ATTACH ':memory:' AS x",
        "PRAGMA query_only = 0",
        "PRAGMA hard_heap_limit = 0",
        "SELECT * FROM sqlite_master",
        "SELECT count(*) FROM sqlite_schema",
        "SELECT zeroblob(100000000)",
        "SELECT randomblob(10)",
        "SELECT printf('%10000d', 1)",
        "SELECT load_extension('x')",
        "SELECT * FROM pragma_table_info('hosts')",
        "INSERT INTO hosts (id) VALUES ('x')",
        "DELETE FROM hosts",
        "CREATE TEMP TABLE x (a)",
        "SELECT 1; DELETE FROM hosts",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) SELECT n FROM c",
    ] {
        assert!(unchecked(sql).is_err(), "SQLite carried out: {sql}");
    }
}

#[test]
fn a_long_pattern_and_a_long_value_are_refused() {
    let data = data(&[(1, 1, 1)], &[]);
    let pattern = format!("SELECT id FROM hosts WHERE id LIKE '{}x'", "%a".repeat(200));
    assert!(answer(&pattern, &data).is_err());
    let text = "x".repeat(10_000);
    let long = format!("SELECT t.a||t.a||t.a||t.a||t.a||t.a||t.a||t.a FROM (SELECT '{text}' AS a FROM hosts) AS t");
    assert!(answer(&long, &data).is_err());
}

#[test]
fn a_cross_join_ends_when_it_is_told_to() {
    let hosts: Vec<_> = (0..100).map(|i| (i, 1, 1)).collect();
    let data = data(&hosts, &[]);
    let bomb = "SELECT count(*) FROM hosts a, hosts b, hosts c, hosts d, hosts e";
    let steps = Arc::new(AtomicU32::new(0));
    let seen = steps.clone();
    let table = sql::run(&parse(bomb).unwrap(), &data, move || {
        seen.fetch_add(1, Ordering::Relaxed) >= 50
    })
    .unwrap();
    assert!(table.stopped && table.rows.is_empty(), "{table:?}");
    assert_eq!(
        steps.load(Ordering::Relaxed),
        51,
        "it went on after it was told to stop"
    );

    let wide = "SELECT a.id FROM hosts a, hosts b, hosts c";
    let table = answer(wide, &data).unwrap();
    assert!(table.cut && table.rows.len() == SQL_ROWS);
}

#[test]
fn a_sort_of_too_much_ends_at_the_limit_of_memory() {
    let hosts: Vec<_> = (0..200).map(|i| (i, 1, 1)).collect();
    let data = data(&hosts, &[]);
    let pad = "x".repeat(8_000);
    let bomb = format!("SELECT a.id||b.id||c.id||'{pad}' AS t FROM hosts a, hosts b, hosts c ORDER BY t DESC");
    let e = answer(&bomb, &data).unwrap_err();
    assert!(e.to_string().contains("needs more than 256 MiB"), "{e}");
    assert!(
        answer("SELECT id FROM hosts", &data).is_ok(),
        "the limit did not give the memory back"
    );
}

#[test]
fn predicates_become_keys_and_typed_filters() {
    let q = parse(
        "SELECT h.id FROM hosts h JOIN holders x ON x.host = h.id AND x.name = 'debian' \
         WHERE h.arch = 'x86_64' AND 4 <= h.cores_free AND mem_free_mb > 1023 AND (h.load < 2 OR h.me = 1)",
    )
    .unwrap();
    let [hosts, holders] = q.needs.as_slice() else {
        panic!("{:?}", q.needs)
    };
    let query = ask(hosts.table, &hosts.predicates).unwrap();
    assert_eq!(query.namespace, Namespace::Hosts);
    assert_eq!(query.filter.min_cpus_free, Some(4));
    assert_eq!(query.filter.min_memory_free.map(|b| b.0), Some(1_024 << 20));
    assert_eq!(query.filter.arch.map(|a| a.to_string()).as_deref(), Some("x86_64"));
    assert_eq!(hosts.predicates.len(), 3, "{:?}", hosts.predicates);
    let query = ask(holders.table, &holders.predicates).unwrap();
    assert_eq!(query.namespace, Namespace::ImageName("debian".into()));
    let steps = plan::steps(&parse("EXPLAIN SELECT * FROM vms").unwrap().needs);
    assert!(steps[0].needs_replica && steps[0].ask.is_none());
}

#[test]
fn nothing_is_pushed_down_that_could_lose_a_row() {
    for text in [
        "SELECT 1 FROM hosts WHERE cores_free > 3 OR mem_free_mb > 3",
        "SELECT 1 FROM hosts WHERE NOT (cores_free > 3)",
        "SELECT 1 FROM hosts WHERE cores_free NOT BETWEEN 1 AND 2",
        "SELECT 1 FROM hosts WHERE id = 5",
        "SELECT 1 FROM hosts WHERE cores_free = '5'",
        "SELECT 1 FROM hosts WHERE cores_free > 1.5",
        "SELECT 1 FROM hosts WHERE cores_free IS NULL",
        "SELECT 1 FROM holders x LEFT JOIN hosts h ON h.cores_free > 3",
        "SELECT 1 FROM hosts a, hosts b WHERE a.cores_free > 3 AND b.cores_free > 5",
    ] {
        let q = parse(text).unwrap();
        assert!(q.needs.iter().all(|n| n.predicates.is_empty()), "{text}: {:?}", q.needs);
    }
}

/// A row of hosts and one of holders, as small numbers.
type Rows = (Vec<(u8, i64, i64)>, Vec<(u8, u8, bool)>);

fn rows() -> impl Strategy<Value = Rows> {
    (
        prop::collection::vec((0u8..6, 0i64..8, 0i64..8), 0..12),
        prop::collection::vec((0u8..4, 0u8..6, any::<bool>()), 0..12),
    )
}

fn pairs(t: Table) -> Vec<(String, String)> {
    let mut all: Vec<_> = t.rows.iter().map(|r| (r[0].to_string(), r[1].to_string())).collect();
    all.sort();
    all
}

/// Keeps the rows that the predicates let through, as loading does.
fn narrowed(text: &str, whole: &Data) -> Data {
    let q = parse(text).unwrap();
    let mut out = Data::default();
    for n in &q.needs {
        let all = whole.tables.get(&n.table).cloned().unwrap_or_default();
        let kept = all.into_iter().filter(|r| n.predicates.iter().all(|p| p.fits(r)));
        out.tables.insert(n.table, kept.collect());
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_join_is_that_of_two_loops((hosts, holders) in rows(), least in 0i64..8, image in 0u8..4) {
        let text = format!(
            "SELECT h.id, x.image FROM hosts h JOIN holders x ON x.host = h.id \
             WHERE h.cores_free >= {least} AND x.image <> '{image}' AND x.complete = 1"
        );
        let mut expected = Vec::new();
        for (id, cores, _) in &hosts {
            for (i, host, complete) in &holders {
                if host == id && *cores >= least && *i != image && *complete {
                    expected.push((Cell::text(id).to_string(), Cell::text(i).to_string()));
                }
            }
        }
        expected.sort();
        let whole = data(&hosts, &holders);
        prop_assert_eq!(pairs(answer(&text, &narrowed(&text, &whole)).unwrap()), expected);
    }

    #[test]
    fn pushing_down_changes_no_answer((hosts, holders) in rows(), a in 0i64..8, b in 0i64..8, c in 0usize..5) {
        let text = [
            format!("SELECT h.id, x.image FROM hosts h LEFT JOIN holders x ON x.host = h.id AND x.complete = 1 WHERE cores_free > {a}"),
            format!("SELECT h.id, x.image FROM hosts h LEFT JOIN holders x ON x.host = h.id WHERE x.image IN ('{a}', '{b}')"),
            format!("SELECT h.id, count(*) FROM hosts h WHERE h.mem_free_mb BETWEEN {a} AND {b} AND NOT EXISTS \
                     (SELECT 1 FROM holders WHERE host = h.id AND image = '{a}') GROUP BY h.id"),
            format!("WITH big AS (SELECT id FROM hosts WHERE cores_free < {a}) SELECT big.id, host FROM big, holders WHERE {b} > 3 AND host >= '2'"),
            format!("SELECT a.id, b.id FROM hosts a JOIN hosts b ON a.cores_free = b.mem_free_mb AND a.cores_free <= {a} AND b.mem_free_mb > {b}"),
        ][c].clone();
        let whole = data(&hosts, &holders);
        prop_assert_eq!(
            pairs(answer(&text, &narrowed(&text, &whole)).unwrap()),
            pairs(answer(&text, &whole).unwrap())
        );
    }

    #[test]
    fn with_silent_peers_the_rows_are_some_of_all((hosts, holders) in rows(), silent in 0u8..64) {
        let text = "SELECT h.id, x.image FROM hosts h JOIN holders x ON x.host = h.id WHERE h.cores_free > 1";
        let speaks = |id: u8| silent & (1 << id) == 0;
        let some_hosts: Vec<_> = hosts.iter().copied().filter(|h| speaks(h.0)).collect();
        let some_holders: Vec<_> = holders.iter().copied().filter(|h| speaks(h.1)).collect();
        let mut all = pairs(answer(text, &data(&hosts, &holders)).unwrap());
        for pair in pairs(answer(text, &data(&some_hosts, &some_holders)).unwrap()) {
            let at = all.iter().position(|p| *p == pair);
            prop_assert!(at.is_some(), "{pair:?} is not part of the whole answer");
            all.remove(at.unwrap());
        }
    }

    #[test]
    fn text_of_others_comes_back_as_it_is(text in any::<String>()) {
        let mut hosts = data(&[(1, 1, 1)], &[]);
        hosts.tables.get_mut(&TableId::Hosts).unwrap()[0][1] = Cell::Text(text.clone());
        let t = answer("SELECT name FROM hosts WHERE id = '1'", &hosts).unwrap();
        prop_assert_eq!(&t.rows[0][0], &Cell::Text(text.clone()));
        let quoted = format!("SELECT '{}' FROM hosts", text.replace('\'', "''"));
        if let Ok(q) = parse(&quoted)
            && !text.contains('\0')
        {
            let t = sql::run(&q, &hosts, || false).unwrap();
            prop_assert_eq!(&t.rows[0][0], &Cell::Text(text));
        }
    }

    #[test]
    fn any_text_is_answered_or_refused(text in "(SELECT|FROM|hosts|vms|WHERE|id|[(),*=.;'\"-]|[0-9]|AND|JOIN|ON|WITH|AS|\\PC| ){0,40}") {
        if let Ok(q) = parse(&text) {
            drop(sql::run(&q, &Data::default(), || false));
            prop_assert!(parse(&q.sql).is_ok(), "what was accepted is refused when written out: {}", q.sql);
        }
    }
}

#[test]
fn tables_are_whole_and_loading_is_bounded() {
    for t in TABLES {
        assert_eq!(by_id(t.id).name, t.name);
        assert!(!is_whole(t.id, &[]));
    }
    let need = parse("SELECT * FROM links").unwrap().needs;
    let links = (0..SQL_CELLS / by_id(TableId::Links).columns.len() + 5).map(|_| crate::sql::rows::Link {
        peer: wire::NodeId([1; 32]),
        rtt: None,
        loss: None,
        rate_kbps: None,
        path: "direct",
    });
    let own = crate::sql::rows::Own {
        links: links.collect(),
        ..Default::default()
    };
    let data = crate::sql::rows::load(&need, &[], &own);
    assert!(data.dropped >= 5 && data.rows() + data.dropped == own.links.len());
    assert!(data.tables[&TableId::Links].iter().all(|r| is_whole(TableId::Links, r)));
}

#[test]
fn the_document_has_every_column() {
    let doc = include_str!("../../../docs/query.md");
    for t in TABLES {
        let section = doc
            .split(&format!("\n### {}\n", t.name))
            .nth(1)
            .unwrap_or_else(|| panic!("no {}", t.name));
        let section = section.split("\n### ").next().unwrap();
        let rows: Vec<&str> = section.lines().filter(|l| l.starts_with("| `")).collect();
        let columns = t
            .columns
            .iter()
            .map(|c| format!("| `{}` | {} | {} |", c.name, c.kind.word(), c.doc));
        assert_eq!(rows, columns.collect::<Vec<_>>(), "docs/query.md, {}", t.name);
    }
    for f in crate::sql::schema::SCALARS.iter().chain(crate::sql::schema::AGGREGATES) {
        assert!(doc.contains(&format!("`{f}`")), "docs/query.md lacks {f}");
    }
}
