//! From text to a question that may be asked: one SELECT over the known tables, checked node by node.

use super::{
    error::SqlError,
    expr::clip,
    pushdown::{self, Predicate, Scope},
    schema::{self, TableId},
};
use crate::defaults::{SQL_BYTES, SQL_DEPTH, SQL_SELECTS, SQL_TOKENS};
use sqlparser::{
    ast::{
        DescribeAlias, Distinct, Expr, GroupByExpr, Join, JoinConstraint, JoinOperator, LimitClause, ObjectName,
        OrderByKind, Query, Select, SelectFlavor, SelectItem, SetExpr, Spanned, Statement, TableAlias, TableFactor,
    },
    dialect::SQLiteDialect,
    parser::Parser,
    tokenizer::{Token, Tokenizer, TokenizerError},
};

/// What a question needs of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    /// The table.
    pub table: TableId,
    /// A row that fails one of these cannot be part of the answer. Empty: every row matters.
    pub predicates: Vec<Predicate>,
}

/// A question that may be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// What SQLite is given: the checked tree written out again, so nothing unchecked is in it.
    pub sql: String,
    /// Tables, each once, in the order of [`TableId`].
    pub needs: Vec<Need>,
    /// It counts or sums, so over partial data its numbers are only about right.
    pub aggregates: bool,
    /// Only the plan is wanted: `EXPLAIN SELECT ...`.
    pub explain: bool,
}

/// Walks the tree.
#[derive(Default)]
pub(super) struct Checker {
    pub(super) aggregates: bool,
    selects: usize,
    ctes: Vec<String>,
    needs: Vec<Need>,
}

const SHAPE: &str = "write one SELECT ... FROM ... WHERE ... GROUP BY ... ORDER BY ... LIMIT ...";

/// Reads and checks a question.
pub fn parse(text: &str) -> Result<Question, SqlError> {
    if text.len() > SQL_BYTES {
        return Err(SqlError::new(
            format!("the question has {} bytes; {SQL_BYTES} are allowed", text.len()),
            "ask a shorter one",
        ));
    }
    let dialect = SQLiteDialect {};
    // Doubled quotes stay doubled: the parser prints a text that holds them as if they were doubled already.
    let tokens = Tokenizer::new(&dialect, text)
        .with_unescape(false)
        .tokenize_with_location()
        .map_err(|TokenizerError { message, location }| SqlError::at(location, clip(&message), SHAPE))?;
    let words = tokens
        .iter()
        .filter(|t| !matches!(t.token, Token::Whitespace(_)))
        .count();
    if words > SQL_TOKENS {
        return Err(SqlError::new(
            format!("the question has {words} words and signs; {SQL_TOKENS} are allowed"),
            "ask a shorter one",
        ));
    }
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(SQL_DEPTH)
        .with_tokens_with_locations(tokens);
    let statements = parser.parse_statements().map_err(syntax)?;
    if statements.len() > 1 || parser.peek_token().token != Token::EOF {
        return Err(SqlError::new("more than one statement", "ask one question at a time"));
    }
    match statements.into_iter().next() {
        None => Err(SqlError::new("the question is empty", SHAPE)),
        Some(Statement::Query(q)) => checked(&q, false),
        Some(Statement::Explain {
            describe_alias: DescribeAlias::Explain,
            analyze: false,
            verbose: false,
            estimate: false,
            statement,
            format: None,
            options: None,
            ..
        }) => match *statement {
            Statement::Query(q) => checked(&q, true),
            other => Err(not_a_question(&other)),
        },
        Some(other) => Err(not_a_question(&other)),
    }
}

fn syntax(e: sqlparser::parser::ParserError) -> SqlError {
    use sqlparser::parser::ParserError as P;
    match e {
        P::RecursionLimitExceeded => SqlError::new(
            format!("the question is nested deeper than {SQL_DEPTH} levels"),
            "ask a flatter one",
        ),
        P::TokenizerError(m) | P::ParserError(m) => {
            let plain: String = m.chars().filter(|c| !c.is_control()).take(160).collect();
            SqlError::new(format!("this is not SQL: {plain}"), SHAPE)
        }
    }
}

fn not_a_question(s: &Statement) -> SqlError {
    let text = s.to_string();
    let verb = text.split_whitespace().next().unwrap_or("this");
    SqlError::new(format!("{} is not a question", clip(verb)), SHAPE)
}

fn checked(q: &Query, explain: bool) -> Result<Question, SqlError> {
    let mut c = Checker::default();
    c.query(q)?;
    let mut needs: Vec<Need> = Vec::new();
    for need in c.needs {
        match needs.iter_mut().find(|n| n.table == need.table) {
            // Two uses of one table: both together may need any row that either needs.
            Some(n) => n.predicates.clear(),
            None => needs.push(need),
        }
    }
    needs.sort_by_key(|n| n.table);
    Ok(Question {
        sql: q.to_string(),
        needs,
        aggregates: c.aggregates,
        explain,
    })
}

fn refuse<T>(node: &impl Spanned, what: &str, instead: &str) -> Result<T, SqlError> {
    Err(SqlError::at(node.span().start, what, instead))
}

impl Checker {
    /// Looks at a SELECT with its WITH, ORDER BY and LIMIT; also one that stands in another.
    pub(super) fn query(&mut self, q: &Query) -> Result<(), SqlError> {
        self.selects += 1;
        if self.selects > SQL_SELECTS {
            return refuse(q, &format!("more than {SQL_SELECTS} SELECTs"), "ask a simpler question");
        }
        let plain = q.fetch.is_none()
            && q.locks.is_empty()
            && q.for_clause.is_none()
            && q.settings.is_none()
            && q.format_clause.is_none()
            && q.pipe_operators.is_empty();
        if !plain {
            return refuse(
                q,
                "FETCH, FOR, SETTINGS, FORMAT and pipes are not supported",
                "use LIMIT",
            );
        }
        let outer = self.ctes.len();
        self.with(q)?;
        match &*q.body {
            SetExpr::Select(s) => self.select(s)?,
            SetExpr::SetOperation { op, .. } => {
                return refuse(q, &format!("{op} is not supported"), "use OR, or ask twice");
            }
            SetExpr::Values(_) => return refuse(q, "VALUES is not supported", "select from a table"),
            _ => return refuse(q, "only a SELECT can be asked", SHAPE),
        }
        self.order(q)?;
        self.limit(q)?;
        self.ctes.truncate(outer);
        Ok(())
    }

    fn with(&mut self, q: &Query) -> Result<(), SqlError> {
        let Some(with) = &q.with else { return Ok(()) };
        if with.recursive {
            return refuse(with, "WITH RECURSIVE is not supported", "write WITH without RECURSIVE");
        }
        for cte in &with.cte_tables {
            let name = cte.alias.name.value.to_ascii_lowercase();
            if schema::table(&name).is_some() {
                return refuse(cte, "a WITH has the name of a table", "give it another name");
            }
            if cte.from.is_some() || cte.alias.at.is_some() {
                return refuse(cte, "this WITH is not supported", "write WITH name AS (SELECT ...)");
            }
            self.query(&cte.query)?;
            self.ctes.push(name);
        }
        Ok(())
    }

    fn order(&mut self, q: &Query) -> Result<(), SqlError> {
        let Some(order) = &q.order_by else { return Ok(()) };
        let (OrderByKind::Expressions(all), None) = (&order.kind, &order.interpolate) else {
            return refuse(order, "this ORDER BY is not supported", "name the columns");
        };
        for o in all {
            let sort = !matches!(o.options.sort, Some(sqlparser::ast::OrderBySort::Using(_)));
            if o.with_fill.is_some() || !sort {
                return refuse(
                    &o.expr,
                    "this ORDER BY is not supported",
                    "write a column, then ASC or DESC",
                );
            }
            self.expr(&o.expr)?;
        }
        Ok(())
    }

    fn limit(&mut self, q: &Query) -> Result<(), SqlError> {
        match &q.limit_clause {
            None => Ok(()),
            Some(LimitClause::LimitOffset {
                limit,
                offset,
                limit_by,
            }) if limit_by.is_empty() => {
                let all = limit.iter().chain(offset.iter().map(|o| &o.value));
                all.into_iter().try_for_each(|e| self.expr(e))
            }
            Some(_) => refuse(q, "this LIMIT is not supported", "write LIMIT n, or LIMIT n OFFSET m"),
        }
    }

    fn select(&mut self, s: &Select) -> Result<(), SqlError> {
        only_what_sqlite_has(s)?;
        if s.from.is_empty() {
            let names: Vec<&str> = schema::TABLES.iter().map(|t| t.name).collect();
            return refuse(
                s,
                "the SELECT has no FROM",
                &format!("select from {}", names.join(", ")),
            );
        }
        let mut scope = Scope::default();
        for from in &s.from {
            self.factor(&from.relation, &mut scope)?;
            for join in &from.joins {
                self.join(join, &mut scope)?;
            }
        }
        for item in &s.projection {
            self.item(item)?;
        }
        if let Some(e) = &s.selection {
            self.expr(e)?;
            let found = pushdown::predicates(e, &scope);
            for (index, predicate) in found {
                if let Some(n) = self.needs.get_mut(index) {
                    n.predicates.push(predicate);
                }
            }
        }
        if let GroupByExpr::Expressions(all, more) = &s.group_by {
            if !more.is_empty() {
                return refuse(s, "this GROUP BY is not supported", "name the columns");
            }
            all.iter().try_for_each(|e| self.expr(e))?;
        } else {
            return refuse(s, "GROUP BY ALL is not supported", "name the columns");
        }
        s.having.as_ref().map_or(Ok(()), |e| self.expr(e))
    }

    fn item(&mut self, item: &SelectItem) -> Result<(), SqlError> {
        match item {
            SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => self.expr(e),
            SelectItem::QualifiedWildcard(_, o) | SelectItem::Wildcard(o) => {
                let plain = o.opt_ilike.is_none()
                    && o.opt_exclude.is_none()
                    && o.opt_except.is_none()
                    && o.opt_replace.is_none()
                    && o.opt_rename.is_none()
                    && o.opt_alias.is_none();
                match plain {
                    true => Ok(()),
                    false => refuse(item, "this * is not supported", "name the columns"),
                }
            }
            SelectItem::ExprWithAliases { .. } => refuse(item, "one column has several names", "give it one name"),
        }
    }

    fn join(&mut self, join: &Join, scope: &mut Scope) -> Result<(), SqlError> {
        use JoinOperator as J;
        let (outer, on) = match &join.join_operator {
            J::Join(c) | J::Inner(c) | J::CrossJoin(c) => (false, c),
            J::Left(c) | J::LeftOuter(c) => (true, c),
            _ => return refuse(join, "this kind of join is not supported", "use JOIN or LEFT JOIN"),
        };
        if join.global {
            return refuse(join, "GLOBAL is not supported", "use JOIN or LEFT JOIN");
        }
        self.factor(&join.relation, scope)?;
        match on {
            JoinConstraint::None => Ok(()),
            JoinConstraint::On(e) => {
                self.expr(e)?;
                if !outer {
                    for (index, predicate) in pushdown::predicates(e, scope) {
                        if let Some(n) = self.needs.get_mut(index) {
                            n.predicates.push(predicate);
                        }
                    }
                }
                Ok(())
            }
            JoinConstraint::Using(_) => Ok(()),
            JoinConstraint::Natural => refuse(join, "NATURAL is not supported", "write ON a.x = b.y"),
        }
    }

    fn factor(&mut self, f: &TableFactor, scope: &mut Scope) -> Result<(), SqlError> {
        match f {
            TableFactor::Table {
                name,
                alias,
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample: None,
                index_hints,
            } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => {
                self.named(f, name, alias.as_ref(), scope)
            }
            TableFactor::Derived {
                lateral: false,
                subquery,
                alias,
                sample: None,
            } => {
                plain_alias(f, alias.as_ref())?;
                self.query(subquery)?;
                scope.add_opaque();
                Ok(())
            }
            TableFactor::NestedJoin {
                table_with_joins: t,
                alias: None,
            } => {
                self.factor(&t.relation, scope)?;
                t.joins.iter().try_for_each(|j| self.join(j, scope))
            }
            _ => refuse(f, "this is not a table", "name a table, or write (SELECT ...) AS name"),
        }
    }

    fn named(
        &mut self,
        f: &TableFactor,
        name: &ObjectName,
        alias: Option<&TableAlias>,
        scope: &mut Scope,
    ) -> Result<(), SqlError> {
        plain_alias(f, alias)?;
        let [part] = name.0.as_slice() else {
            return refuse(
                f,
                &format!("{} has more than one part", clip(&name.to_string())),
                "name a table",
            );
        };
        let Some(ident) = part.as_ident() else {
            return refuse(f, "this is not a table", "name a table");
        };
        if self.ctes.contains(&ident.value.to_ascii_lowercase()) {
            scope.add_opaque();
            return Ok(());
        }
        let Some(table) = schema::table(&ident.value) else {
            let names: Vec<&str> = schema::TABLES.iter().map(|t| t.name).collect();
            let what = format!("there is no table {}", clip(&ident.value));
            return refuse(f, &what, &format!("the tables are {}", names.join(", ")));
        };
        let known_as = alias.map_or(table.name, |a| a.name.value.as_str());
        scope.add(known_as, table, self.needs.len());
        self.needs.push(Need {
            table: table.id,
            predicates: Vec::new(),
        });
        Ok(())
    }

    /// A column; SQLite says if it does not exist, this says only what no column can be.
    pub(super) fn names(&self, e: &Expr) -> Result<(), SqlError> {
        match e {
            Expr::CompoundIdentifier(parts) if parts.len() > 2 => {
                refuse(e, "a column has at most one dot", "write table.column")
            }
            _ => Ok(()),
        }
    }
}

fn plain_alias(f: &TableFactor, alias: Option<&TableAlias>) -> Result<(), SqlError> {
    match alias {
        Some(a) if !a.columns.is_empty() || a.at.is_some() => {
            refuse(f, "an alias with columns is not supported", "write AS name")
        }
        _ => Ok(()),
    }
}

fn only_what_sqlite_has(s: &Select) -> Result<(), SqlError> {
    let plain = s.optimizer_hints.is_empty()
        && s.select_modifiers.is_none()
        && !matches!(s.distinct, Some(Distinct::On(_)))
        && s.top.is_none()
        && s.exclude.is_none()
        && s.into.is_none()
        && s.lateral_views.is_empty()
        && s.prewhere.is_none()
        && s.connect_by.is_empty()
        && s.cluster_by.is_empty()
        && s.distribute_by.is_empty()
        && s.sort_by.is_empty()
        && s.named_window.is_empty()
        && s.qualify.is_none()
        && s.value_table_mode.is_none()
        && s.flavor == SelectFlavor::Standard;
    match plain {
        true => Ok(()),
        false => refuse(s, "this SELECT has clauses that are not supported", SHAPE),
    }
}
