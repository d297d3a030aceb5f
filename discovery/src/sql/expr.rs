//! Which expressions may be asked: a list of what is allowed, so that what the parser learns later is refused.

use super::{check::Checker, error::SqlError, schema};
use sqlparser::ast::{
    BinaryOperator as Op, CastKind, DataType, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, Spanned, UnaryOperator, Value,
};

impl Checker {
    /// Looks at an expression and everything in it.
    pub(super) fn expr(&mut self, e: &Expr) -> Result<(), SqlError> {
        match e {
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => self.names(e),
            Expr::Value(v) => literal(&v.value).map_err(|what| SqlError::at(v.span.start, what, LITERALS)),
            Expr::Nested(x)
            | Expr::IsFalse(x)
            | Expr::IsNotFalse(x)
            | Expr::IsTrue(x)
            | Expr::IsNotTrue(x)
            | Expr::IsNull(x)
            | Expr::IsNotNull(x) => self.expr(x),
            Expr::IsDistinctFrom(a, b) | Expr::IsNotDistinctFrom(a, b) => self.both(a, b),
            Expr::InList { expr, list, .. } => {
                self.expr(expr)?;
                list.iter().try_for_each(|x| self.expr(x))
            }
            Expr::InSubquery { expr, subquery, .. } => {
                self.expr(expr)?;
                self.query(subquery)
            }
            Expr::Exists { subquery, .. } | Expr::Subquery(subquery) => self.query(subquery),
            Expr::Between { expr, low, high, .. } => {
                self.expr(expr)?;
                self.both(low, high)
            }
            Expr::BinaryOp { left, op, right } => {
                operator(op).map_err(|what| SqlError::at(e.span().start, what, OPERATORS))?;
                self.both(left, right)
            }
            Expr::Like {
                any: false,
                expr,
                pattern,
                escape_char,
                ..
            } => {
                self.both(expr, pattern)?;
                escape_char.as_deref().map_or(Ok(()), |x| self.expr(x))
            }
            Expr::UnaryOp {
                op: UnaryOperator::Plus | UnaryOperator::Minus | UnaryOperator::Not,
                expr,
            } => self.expr(expr),
            Expr::Cast {
                kind: CastKind::Cast,
                expr,
                data_type,
                format: None,
            } => {
                cast(data_type).map_err(|what| SqlError::at(e.span().start, what, "cast to INTEGER, REAL or TEXT"))?;
                self.expr(expr)
            }
            _ => self.compound(e),
        }
    }

    fn both(&mut self, a: &Expr, b: &Expr) -> Result<(), SqlError> {
        self.expr(a)?;
        self.expr(b)
    }

    /// The longer forms: calls, CASE, and what the parser makes of some function names.
    fn compound(&mut self, e: &Expr) -> Result<(), SqlError> {
        match e {
            Expr::Function(f) => self.call(e, f),
            Expr::Case {
                operand,
                conditions,
                else_result,
                ..
            } => {
                for x in operand.iter().chain(else_result) {
                    self.expr(x)?;
                }
                conditions.iter().try_for_each(|c| self.both(&c.condition, &c.result))
            }
            Expr::Substring {
                expr,
                substring_from,
                substring_for,
                special: true,
                ..
            } => {
                self.expr(expr)?;
                let rest = substring_from.iter().chain(substring_for);
                rest.into_iter().try_for_each(|x| self.expr(x))
            }
            Expr::Trim {
                trim_where: None,
                trim_what: None,
                expr,
                trim_characters,
            } => {
                self.expr(expr)?;
                let more = trim_characters.iter().flatten();
                more.into_iter().try_for_each(|x| self.expr(x))
            }
            other => Err(SqlError::at(
                other.span().start,
                format!("{} is not supported here", excerpt(other)),
                "use columns, numbers, 'text', comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, EXISTS, CASE or a listed function",
            )),
        }
    }

    fn call(&mut self, e: &Expr, f: &Function) -> Result<(), SqlError> {
        let name = f.name.to_string().to_ascii_lowercase();
        let refuse = |what: String, instead: String| Err(SqlError::at(e.span().start, what, instead));
        let aggregate = schema::AGGREGATES.contains(&name.as_str());
        if !aggregate && !schema::SCALARS.contains(&name.as_str()) {
            return refuse(
                format!("the function {} is not allowed", clip(&name)),
                format!("these are: {}", schema::functions()),
            );
        }
        if f.over.is_some() || !f.within_group.is_empty() || f.null_treatment.is_some() || f.uses_odbc_syntax {
            return refuse(
                format!("{name} is called over a window"),
                "use GROUP BY, or ORDER BY with LIMIT".into(),
            );
        }
        let (FunctionArguments::None, FunctionArguments::List(list)) = (&f.parameters, &f.args) else {
            return refuse(
                format!("the arguments of {name} are not a list"),
                format!("write {name}(column)"),
            );
        };
        if !list.clauses.is_empty() || (list.duplicate_treatment == Some(DuplicateTreatment::Distinct) && !aggregate) {
            return refuse(format!("{name} takes no clauses"), format!("write {name}(column)"));
        }
        self.aggregates |= aggregate;
        if let Some(filter) = &f.filter {
            self.expr(filter)?;
        }
        for arg in &list.args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(x)) => self.expr(x)?,
                FunctionArg::Unnamed(FunctionArgExpr::Wildcard) if name == "count" => {}
                _ => {
                    return refuse(
                        format!("an argument of {name} is not an expression"),
                        format!("write {name}(column)"),
                    );
                }
            }
        }
        Ok(())
    }
}

const LITERALS: &str = "write a number, 'text in single quotes', NULL, TRUE or FALSE";
const OPERATORS: &str = "use = <> < <= > >= AND OR + - * / % or ||";

fn literal(v: &Value) -> Result<(), String> {
    match v {
        Value::Number(..) | Value::SingleQuotedString(_) | Value::Boolean(_) | Value::Null => Ok(()),
        Value::Placeholder(p) => Err(format!("{} is a placeholder, and nothing is bound to it", clip(p))),
        other => Err(format!("the literal {} is not supported", clip(&other.to_string()))),
    }
}

fn operator(op: &Op) -> Result<(), String> {
    match op {
        Op::Plus
        | Op::Minus
        | Op::Multiply
        | Op::Divide
        | Op::Modulo
        | Op::StringConcat
        | Op::Gt
        | Op::Lt
        | Op::GtEq
        | Op::LtEq
        | Op::Eq
        | Op::NotEq
        | Op::And
        | Op::Or => Ok(()),
        other => Err(format!("the operator {other} is not supported")),
    }
}

fn cast(to: &DataType) -> Result<(), String> {
    match to {
        DataType::Integer(_) | DataType::Int(_) | DataType::Real | DataType::Text => Ok(()),
        other => Err(format!("a cast to {} is not supported", clip(&other.to_string()))),
    }
}

/// The beginning of an expression, for a message.
fn excerpt(e: &Expr) -> String {
    clip(&e.to_string())
}

/// At most 40 characters, none of which a terminal would obey.
pub(super) fn clip(s: &str) -> String {
    let mut out: String = s.chars().filter(|c| !c.is_control()).take(40).collect();
    if s.chars().count() > 40 {
        out.push_str("...");
    }
    out
}
