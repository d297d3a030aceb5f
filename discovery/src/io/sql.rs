//! Runs a checked question on an SQLite that holds nothing but its rows, and in which nothing but reading is possible.
//!
//! Layers, each enough alone against most of what the others stop: [`crate::sql::parse`] lets only a listed tree
//! through; the database is in memory and made for this question; an authorizer allows SELECT, the seven tables and the
//! listed functions; limits bound text, depth, program and values; a handler looks at the clock every
//! [`SQL_STEPS`] instructions; a heap limit holds for all of SQLite in this process.

use crate::{
    defaults::{SQL_ANSWER_BYTES, SQL_BYTES, SQL_DEPTH, SQL_HEAP, SQL_ROWS, SQL_STEPS, SQL_VALUE_BYTES},
    sql::{
        Question, SqlError,
        rows::{Cell, Data},
        schema,
    },
};
use rusqlite::{
    Connection, ErrorCode, Statement,
    config::DbConfig,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::{ToSqlOutput, ValueRef},
};

/// Rows that SQLite gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Result {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows, as wide as `columns`.
    pub rows: Vec<Vec<Cell>>,
    /// It was told to stop before it was done; the rows are those that it had by then.
    pub stopped: bool,
    /// Rows beyond [`SQL_ROWS`] or [`SQL_ANSWER_BYTES`] exist and are not here.
    pub cut: bool,
}

/// Answers `question` from `data`. `stop` is asked every [`SQL_STEPS`] instructions. Blocks: run it on a thread that may.
pub fn run(
    question: &Question,
    data: &Data,
    stop: impl FnMut() -> bool + Send + 'static,
) -> std::result::Result<Result, SqlError> {
    let mut connection = filled(data).map_err(|e| failed(&e))?;
    lock_down(&mut connection, stop).map_err(|e| failed(&e))?;
    let mut statement = match connection.prepare(&question.sql) {
        Ok(s) => s,
        Err(e) if is_interrupt(&e) => return Ok(stopped()),
        Err(e) => return Err(failed(&e)),
    };
    collect(&mut statement)
}

fn stopped() -> Result {
    Result {
        stopped: true,
        ..Result::default()
    }
}

fn is_interrupt(e: &rusqlite::Error) -> bool {
    e.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

/// The tables with their rows.
fn filled(data: &Data) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory()?;
    // What is sorted or grouped stays in memory, where the limit counts it, and never fills a disk.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "hard_heap_limit", SQL_HEAP)?;
    let transaction = connection.transaction()?;
    for table in schema::TABLES {
        transaction.execute(&table.create(), [])?;
        let Some(rows) = data.tables.get(&table.id) else {
            continue;
        };
        let marks = vec!["?"; table.columns.len()].join(", ");
        let mut insert = transaction.prepare(&format!("INSERT INTO \"{}\" VALUES ({marks})", table.name))?;
        for row in rows {
            insert.execute(rusqlite::params_from_iter(row))?;
        }
    }
    transaction.commit()?;
    Ok(connection)
}

/// From here on the connection can only read, within limits, until `stop` says so.
fn lock_down(c: &mut Connection, stop: impl FnMut() -> bool + Send + 'static) -> rusqlite::Result<()> {
    c.pragma_update(None, "query_only", true)?;
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    for off in [
        DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
        DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA,
        DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
        DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW,
        // A name in double quotes that is no column must be an error and not a text.
        DbConfig::SQLITE_DBCONFIG_DQS_DML,
        DbConfig::SQLITE_DBCONFIG_DQS_DDL,
    ] {
        c.set_db_config(off, false)?;
    }
    let most = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    for (limit, value) in [
        // The tree written out again may be longer than what was typed: brackets and spaces.
        (Limit::SQLITE_LIMIT_SQL_LENGTH, most(4 * SQL_BYTES)),
        (Limit::SQLITE_LIMIT_LENGTH, SQL_VALUE_BYTES),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, most(SQL_DEPTH * 4)),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 5),
        (Limit::SQLITE_LIMIT_VDBE_OP, 50_000),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_COLUMN, 128),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 16),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 0),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        c.set_limit(limit, value)?;
    }
    c.authorizer(Some(allowed))?;
    c.progress_handler(SQL_STEPS, Some(stop))
}

/// What may be compiled: reading of the tables, and the listed functions.
fn allowed(context: AuthContext<'_>) -> Authorization {
    let ok = match context.action {
        AuthAction::Select => true,
        // No column: the table is only counted; a WITH is named here too.
        AuthAction::Read {
            table_name,
            column_name,
        } => {
            let own = schema::table(table_name).is_some_and(|t| t.column(column_name).is_some());
            own || (column_name.is_empty() && !table_name.to_ascii_lowercase().starts_with("sqlite_"))
        }
        AuthAction::Function { function_name } => {
            let name = function_name.to_ascii_lowercase();
            let listed = schema::SCALARS.iter().chain(schema::AGGREGATES);
            name == "like" || listed.into_iter().any(|f| *f == name)
        }
        _ => false,
    };
    match ok {
        true => Authorization::Allow,
        false => Authorization::Deny,
    }
}

fn collect(statement: &mut Statement<'_>) -> std::result::Result<Result, SqlError> {
    let mut out = Result {
        columns: statement.column_names().map(str::to_owned).collect(),
        ..Result::default()
    };
    let width = out.columns.len();
    let (mut bytes, mut rows) = (0, statement.query([]).map_err(|e| failed(&e))?);
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(out),
            Err(e) if is_interrupt(&e) => {
                out.stopped = true;
                return Ok(out);
            }
            Err(e) => return Err(failed(&e)),
        };
        let mut cells = Vec::with_capacity(width);
        for i in 0..width {
            let cell = cell(row.get_ref(i).map_err(|e| failed(&e))?);
            bytes += size(&cell);
            cells.push(cell);
        }
        if out.rows.len() >= SQL_ROWS || bytes > SQL_ANSWER_BYTES {
            out.cut = true;
            return Ok(out);
        }
        out.rows.push(cells);
    }
}

fn size(c: &Cell) -> usize {
    match c {
        Cell::Text(t) => t.len() + size_of::<Cell>(),
        _ => size_of::<Cell>(),
    }
}

fn cell(v: ValueRef<'_>) -> Cell {
    match v {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(n) => Cell::Int(n),
        ValueRef::Real(x) => Cell::Real(x),
        ValueRef::Text(t) | ValueRef::Blob(t) => Cell::Text(String::from_utf8_lossy(t).into_owned()),
    }
}

impl rusqlite::ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(n) => ValueRef::Integer(*n),
            Self::Real(x) => ValueRef::Real(*x),
            Self::Text(t) => ValueRef::Text(t.as_bytes()),
        }))
    }
}

/// What SQLite says, in words that point on.
fn failed(e: &rusqlite::Error) -> SqlError {
    match e.sqlite_error_code() {
        Some(ErrorCode::OutOfMemory) => SqlError::new(
            format!("the question needs more than {} MiB", SQL_HEAP >> 20),
            "narrow it with WHERE before it is sorted or grouped",
        ),
        Some(ErrorCode::TooBig) => SqlError::new("a value or a pattern is too long", "ask for shorter ones"),
        Some(ErrorCode::AuthorizationForStatementDenied) => SqlError::new(
            "this is not allowed in a question",
            "only read the tables of: lanline query --help",
        ),
        _ => SqlError::new(
            format!("SQLite refuses the question: {}", plain(e)),
            "the columns of each table: docs/query.md",
        ),
    }
}

fn plain(e: &rusqlite::Error) -> String {
    let text = match e {
        rusqlite::Error::SqliteFailure(_, Some(m)) => m.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
