//! `when = "solar_w > 500 || price < 0.15"`: comparisons of readings with numbers.
//!
//! A small part of CEL (<https://cel.dev>), with its words and precedence: names, numbers, `< <= > >= == !=`, `!`, `&&`,
//! `||`, parentheses. Nothing else: an owner's file computes nothing.

use std::collections::BTreeMap;

/// Names that the node gives; others come from files in the folder that `sensors` names.
pub const VARIABLES: [&str; 7] = [
    "idle_s",
    "battery",
    "metered",
    "temp_c",
    "load",
    "psi_cpu",
    "mem_free_mb",
];

/// Deepest nesting.
const MAX_DEPTH: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cmp {
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Cmp(Operand, Cmp, Operand),
    Truth(String),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Name(String),
    Number(f64),
}

/// An expression that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    text: String,
    root: Node,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Number(f64),
    Op(&'static str),
}

const OPS: [&str; 11] = ["<=", ">=", "==", "!=", "&&", "||", "<", ">", "!", "(", ")"];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(c) = rest.chars().next() {
        let len = if let Some(op) = OPS.iter().find(|o| rest.starts_with(**o)) {
            out.push(Token::Op(op));
            op.len()
        } else if c.is_ascii_alphabetic() || c == '_' {
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            out.push(Token::Name(rest[..end].to_owned()));
            end
        } else if c.is_ascii_digit() || c == '-' || c == '.' {
            let end = rest[1..]
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .map_or(rest.len(), |e| e + 1);
            let n = rest[..end]
                .parse()
                .map_err(|_| format!("'{}' is not a number", &rest[..end]))?;
            out.push(Token::Number(n));
            end
        } else {
            return Err(format!("'{c}' has no meaning here"));
        };
        rest = rest[len..].trim_start();
    }
    Ok(out)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn take(&mut self, op: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some(Token::Op(o)) if *o == op);
        self.at += usize::from(found);
        found
    }

    fn or(&mut self, depth: usize) -> Result<Node, String> {
        let mut left = self.and(depth)?;
        while self.take("||") {
            left = Node::Or(Box::new(left), Box::new(self.and(depth)?));
        }
        Ok(left)
    }

    fn and(&mut self, depth: usize) -> Result<Node, String> {
        let mut left = self.one(depth)?;
        while self.take("&&") {
            left = Node::And(Box::new(left), Box::new(self.one(depth)?));
        }
        Ok(left)
    }

    fn one(&mut self, depth: usize) -> Result<Node, String> {
        if depth >= MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH}"));
        }
        if self.take("!") {
            return Ok(Node::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(") {
            let inner = self.or(depth + 1)?;
            return self
                .take(")")
                .then_some(inner)
                .ok_or_else(|| "a ')' is missing".to_owned());
        }
        let left = self.operand()?;
        let cmp = [
            ("<=", Cmp::Le),
            (">=", Cmp::Ge),
            ("==", Cmp::Eq),
            ("!=", Cmp::Ne),
            ("<", Cmp::Lt),
            (">", Cmp::Gt),
        ];
        for (op, cmp) in cmp {
            if self.take(op) {
                return Ok(Node::Cmp(left, cmp, self.operand()?));
            }
        }
        match left {
            Operand::Name(n) => Ok(Node::Truth(n)),
            Operand::Number(n) => Err(format!("{n} stands alone; compare it with a name")),
        }
    }

    fn operand(&mut self) -> Result<Operand, String> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        match token {
            Some(Token::Name(n)) => Ok(Operand::Name(n)),
            Some(Token::Number(n)) => Ok(Operand::Number(n)),
            Some(Token::Op(o)) => Err(format!("'{o}' stands where a name or a number should")),
            None => Err("it ends where a name or a number should be".into()),
        }
    }
}

impl Expr {
    /// Reads an expression; the error says what is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut p = Parser {
            tokens: tokens(text)?,
            at: 0,
        };
        let root = p.or(0)?;
        if p.at < p.tokens.len() {
            return Err("something stands behind its end".into());
        }
        Ok(Self {
            text: text.trim().to_owned(),
            root,
        })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Names in it.
    pub fn names(&self) -> Vec<&str> {
        fn of<'a>(n: &'a Node, out: &mut Vec<&'a str>) {
            match n {
                Node::Cmp(a, _, b) => {
                    for o in [a, b] {
                        if let Operand::Name(n) = o {
                            out.push(n);
                        }
                    }
                }
                Node::Truth(n) => out.push(n),
                Node::Not(a) => of(a, out),
                Node::And(a, b) | Node::Or(a, b) => {
                    of(a, out);
                    of(b, out);
                }
            }
        }
        let mut out = Vec::new();
        of(&self.root, &mut out);
        out
    }

    /// Its truth by these readings; `None`: a reading that decides is missing.
    pub fn eval(&self, readings: &BTreeMap<String, f64>) -> Option<bool> {
        eval(&self.root, readings)
    }
}

fn eval(n: &Node, r: &BTreeMap<String, f64>) -> Option<bool> {
    let value = |o: &Operand| match o {
        Operand::Number(n) => Some(*n),
        Operand::Name(n) => r.get(n).copied(),
    };
    match n {
        Node::Truth(n) => r.get(n).map(|v| *v != 0.0),
        Node::Not(a) => eval(a, r).map(|b| !b),
        Node::And(a, b) => match (eval(a, r), eval(b, r)) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (a, b) => Some(a? && b?),
        },
        Node::Or(a, b) => match (eval(a, r), eval(b, r)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (a, b) => Some(a? || b?),
        },
        Node::Cmp(a, cmp, b) => {
            let (a, b) = (value(a)?, value(b)?);
            Some(match cmp {
                Cmp::Lt => a < b,
                Cmp::Le => a <= b,
                Cmp::Gt => a > b,
                Cmp::Ge => a >= b,
                Cmp::Eq => a == b,
                Cmp::Ne => a != b,
            })
        }
    }
}
