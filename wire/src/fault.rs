//! What a person is told when something did not work: what happened, why, and the next command to type.
//!
//! Each crate has its own error enums; `node` turns them into a [`Fault`] at its edge, and a host's fault travels to
//! the user's terminal unchanged. The kind decides the exit code (docs/cli.md).

use serde::{Deserialize, Serialize};
use std::fmt;

/// Kind of failure; its number is the exit code of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// It was tried and failed.
    Failed,
    /// The request itself makes no sense.
    Usage,
    /// A grant, a policy or a membership forbids it.
    Refused,
    /// Nothing fits the question.
    NoMatch,
    /// The deadline passed; it may still finish.
    TimedOut,
    /// The node or peer cannot be reached.
    Unreachable,
    /// A privilege or a tool is missing on the machine named.
    Missing,
}

impl FaultKind {
    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::NoMatch => 4,
            Self::TimedOut => 5,
            Self::Unreachable => 6,
            Self::Missing => 7,
        }
    }
}

/// Longest `what` and `next` that is taken from a peer, bytes.
pub const MAX_TEXT: usize = 1_000;

/// A failure as a person reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Kind; decides the exit code.
    pub kind: FaultKind,
    /// What happened and why, one or two plain sentences.
    pub what: String,
    /// What to do next, if there is something: a command or an action.
    pub next: Option<String>,
}

impl Fault {
    /// A fault with no advice.
    pub fn new(kind: FaultKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            next: None,
        }
    }

    /// Adds the next step.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// As received from a peer: bounded, and free of control characters that a terminal would obey.
    #[must_use]
    pub fn sanitised(self) -> Self {
        Self {
            kind: self.kind,
            what: plain(&self.what),
            next: self.next.as_deref().map(plain),
        }
    }
}

/// A terminal obeys no such character, and shows it where it stands: neither a control character nor one that turns the order
/// of a line around, breaks it, or shows nothing (Unicode UAX 9 and UTR 36).
pub fn is_shown(c: char) -> bool {
    let hidden = matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    !c.is_control() && !hidden
}

/// Text from a peer as a terminal may show it: only what [`is_shown`], at most [`MAX_TEXT`] bytes.
pub fn plain(s: &str) -> String {
    let mut out = String::new();
    for c in s.chars() {
        let c = if is_shown(c) { c } else { ' ' };
        if out.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        out.push(c);
    }
    out
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.next {
            Some(n) => write!(f, "\n  next: {n}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_text_cannot_drive_the_terminal() {
        let f = Fault::new(FaultKind::Refused, "\x1b]0;owned\x07no\n")
            .next("x".repeat(5_000))
            .sanitised();
        assert!(!f.what.chars().any(char::is_control));
        assert!(f.next.is_some_and(|n| n.len() == MAX_TEXT));
    }

    #[test]
    fn abuse_34_a_peers_text_stands_where_it_is_and_hides_nothing() {
        for c in "\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}\u{ad}\u{e0041}\u{9b}\u{7f}\t".chars() {
            assert!(!is_shown(c), "{c:?}");
        }
        assert_eq!(plain("free\u{202e}00001\u{202c}"), "free 00001 ");
        let fine = "été ✓ 日本 🦀 עברית";
        assert_eq!(plain(fine), fine);
    }
}
