//! Which of a guest's bytes a terminal may see.
//!
//! A guest is a stranger: it may move the cursor and colour its text, but not set the window's title, write to the
//! clipboard, make the terminal answer with text it chose, or leave it waiting inside a string. ECMA-48 §5.6 and §8.3.

/// Longest string that is swallowed whole, bytes; a longer one was never meant to end, and the text behind it is shown.
const MAX_STRING: usize = 4_096;
const ESC: u8 = 0x1b;

/// What passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Text, colours and cursor movement: for a console.
    Display,
    /// Text, ends of line and tabs: for logs.
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ground,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte.
    EscapeMore,
    /// In a control sequence.
    Csi,
    /// In OSC, DCS, APC, PM or SOS: swallowed.
    String,
    /// ESC inside a string: its end, or the beginning of something else.
    StringEscape,
    /// In a UTF-8 character: continuation bytes left, and whether its first byte was 0xc2.
    Utf8(u8, bool),
}

/// A filter of one stream. State is kept between calls, so a sequence may be cut anywhere.
#[derive(Clone, Debug)]
pub struct Filter {
    keep: Keep,
    state: State,
    /// Bytes of the sequence so far that are shown if the sequence is.
    held: Vec<u8>,
    swallowed: usize,
}

impl Filter {
    /// A filter at the beginning of a stream.
    pub fn new(keep: Keep) -> Self {
        Self {
            keep,
            state: State::Ground,
            held: Vec::new(),
            swallowed: 0,
        }
    }

    /// What of `bytes`, and of what was held back before, may be shown now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for b in bytes {
            self.byte(*b, &mut out);
        }
        out
    }

    fn byte(&mut self, b: u8, out: &mut Vec<u8>) {
        match self.state {
            State::String | State::StringEscape => self.string(b, out),
            State::Utf8(left, c1) => self.utf8(b, left, c1, out),
            State::Ground => self.ground(b, out),
            State::Escape | State::EscapeMore | State::Csi => self.sequence(b, out),
        }
    }

    fn ground(&mut self, b: u8, out: &mut Vec<u8>) {
        match b {
            ESC => self.begin(b, State::Escape),
            // ENQ asks for an answer; SO and SI change the character set of all that follows.
            0x05 | 0x0e | 0x0f => {}
            b'\n' | b'\r' | b'\t' => out.push(b),
            0x00..=0x1f | 0x7f if self.keep == Keep::Text => {}
            0x00..=0x7f => out.push(b),
            0xc2..=0xdf => self.begin(b, State::Utf8(1, b == 0xc2)),
            0xe0..=0xef => self.begin(b, State::Utf8(2, false)),
            0xf0..=0xf4 => self.begin(b, State::Utf8(3, false)),
            // A lone continuation byte: some terminals take it for a C1 control.
            _ => {}
        }
    }

    fn begin(&mut self, b: u8, state: State) {
        self.held.clear();
        self.held.push(b);
        self.state = state;
    }

    fn utf8(&mut self, b: u8, left: u8, c1: bool, out: &mut Vec<u8>) {
        if !(0x80..=0xbf).contains(&b) {
            self.state = State::Ground;
            return self.ground(b, out);
        }
        if c1 && b < 0xa0 {
            return self.c1(b);
        }
        self.held.push(b);
        match left {
            1 => self.release(out),
            _ => self.state = State::Utf8(left - 1, false),
        }
    }

    /// U+0080 to U+009F: the same as ESC and a letter.
    fn c1(&mut self, b: u8) {
        self.state = State::Ground;
        match b {
            0x90 | 0x98 | 0x9d | 0x9e | 0x9f => self.swallow(),
            0x9b => {
                self.begin(ESC, State::Csi);
                self.held.push(b'[');
            }
            _ => {}
        }
    }

    fn swallow(&mut self) {
        self.swallowed = 0;
        self.state = State::String;
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.state = State::Ground;
    }

    fn sequence(&mut self, b: u8, out: &mut Vec<u8>) {
        match (self.state, b) {
            (_, ESC) => self.begin(b, State::Escape),
            // CAN and SUB end a sequence; other controls inside it act at once.
            (_, 0x18 | 0x1a) => self.state = State::Ground,
            (_, b'\n' | b'\r' | b'\t') => out.push(b),
            (_, 0x00..=0x1f | 0x7f) => {}
            (_, 0x80..) => {
                self.state = State::Ground;
                self.ground(b, out);
            }
            (State::Escape, b'[') => self.hold(b, State::Csi),
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => self.swallow(),
            (State::Escape | State::EscapeMore, 0x20..=0x2f) => self.hold(b, State::EscapeMore),
            (State::Csi, 0x20..=0x3f) => self.hold(b, State::Csi),
            (state, _) => {
                let report = state == State::Csi && matches!(b, b'c' | b'n' | b't' | b'x' | b'y');
                let answers = report || (state == State::Escape && b == b'Z');
                self.held.push(b);
                match self.keep == Keep::Display && !answers {
                    true => self.release(out),
                    false => self.state = State::Ground,
                }
            }
        }
    }

    fn hold(&mut self, b: u8, state: State) {
        self.held.push(b);
        self.state = if self.held.len() < MAX_STRING {
            state
        } else {
            State::Ground
        };
    }

    fn string(&mut self, b: u8, out: &mut Vec<u8>) {
        self.swallowed += 1;
        match (self.state, b) {
            (State::StringEscape, b'\\') | (State::String, 0x07 | 0x18 | 0x1a) => self.state = State::Ground,
            (State::StringEscape, _) => {
                self.begin(ESC, State::Escape);
                self.sequence(b, out);
            }
            (_, ESC) => self.state = State::StringEscape,
            _ if self.swallowed >= MAX_STRING => self.state = State::Ground,
            _ => {}
        }
    }
}

/// A whole text, as [`Keep::Text`] lets it through.
pub fn text(s: &str) -> String {
    String::from_utf8_lossy(&Filter::new(Keep::Text).push(s.as_bytes())).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(keep: Keep, b: &[u8]) -> Vec<u8> {
        Filter::new(keep).push(b)
    }

    #[test]
    fn titles_clipboard_and_answers_do_not_pass() {
        for (bytes, rest) in [
            (&b"a\x1b]0;owned\x07b"[..], &b"ab"[..]),
            (b"a\x1b]52;c;ZXZpbA==\x1b\\b", b"ab"),
            (b"a\x1bP$q\"p\x1b\\b", b"ab"),
            (b"a\x1b_x\x1b\\\x1b^y\x1b\\\x1bXz\x1b\\b", b"ab"),
            (b"a\xc2\x9d0;t\x07b\xc2\x90q\x1b\\c", b"abc"),
            (b"a\x1b[6nb\x1b[cc\x1b[21td\x1bZe\x05f", b"abcdef"),
            (b"a\xc2\x9b6nb\x9d0;xc", b"ab0;xc"),
            (b"a\x1b]never ends\x1b[31mred", b"a\x1b[31mred"),
        ] {
            assert_eq!(shown(Keep::Display, bytes), rest, "{bytes:?}");
        }
    }

    #[test]
    fn colours_cursor_and_letters_pass() {
        let fine = "\x1b[1;31mred\x1b[0m\r\n\x1b[2J\x1b[10;20Hé ✓ 🦀\t\x07\x1b(B\x1bM".as_bytes();
        assert_eq!(shown(Keep::Display, fine), fine);
        assert_eq!(text("\x1b[31mred\x1b[0m\x07 é\r\n\ta\x1b]0;x\x07b"), "red é\r\n\tab");
    }

    #[test]
    fn an_endless_string_does_not_hide_the_rest() {
        let mut bytes = b"\x1b]0;".to_vec();
        bytes.resize(MAX_STRING + 100, b'x');
        bytes.extend_from_slice(b"\nlogin: ");
        assert!(shown(Keep::Display, &bytes).ends_with(b"\nlogin: "));
        let mut endless = b"\x1b[".to_vec();
        endless.resize(3 * MAX_STRING, b'1');
        let mut f = Filter::new(Keep::Display);
        f.push(&endless);
        assert!(f.held.len() <= MAX_STRING);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same(b in proptest::collection::vec(prop_oneof![Just(ESC), Just(b'['), Just(b']'), Just(7u8), any::<u8>()], 0..200), cut in 1usize..9) {
            for keep in [Keep::Display, Keep::Text] {
                let mut f = Filter::new(keep);
                let parts: Vec<u8> = b.chunks(cut).flat_map(|p| f.push(p)).collect();
                prop_assert_eq!(&parts, &shown(keep, &b));
                for w in parts.windows(2) {
                    prop_assert!(!(w[0] == ESC && b"]PX^_".contains(&w[1])));
                    prop_assert!(!(w[0] == 0xc2 && (0x80..0xa0).contains(&w[1])));
                }
                if keep == Keep::Text {
                    prop_assert!(!parts.contains(&ESC));
                }
            }
        }
    }
}
