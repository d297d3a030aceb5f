//! What is said to the agent in a guest, and what of its answers is taken: the protocol of QEMU's guest agent, one JSON
//! object a line. <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>
//!
//! The agent is the guest's and the guest may be hostile: lines are bounded, numbers are checked, texts are plain, and
//! nothing that it says opens anything on the host.

use crate::defaults::MAX_AGENT_LINE;
use data_encoding::BASE64;
use serde_json::{Value, json};
use wire::guest::{ExecResult, MAX_EXEC_OUTPUT, MAX_PART};

/// Stands before a synchronised answer; JSON never holds it.
pub const MARK: u8 = 0xff;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order<'a> {
    /// Throw away what was half said before, and answer with this number behind a [`MARK`].
    Sync(u64),
    /// Run a program.
    Exec {
        /// It and its arguments.
        argv: &'a [String],
        /// What it reads.
        input: &'a [u8],
    },
    /// Is it done?
    ExecStatus(i64),
    /// Open a file; a mode of `fopen`.
    Open(&'a str, &'static str),
    /// Go to a place in an open file.
    Seek(i64, u64),
    /// Read a part.
    Read(i64),
    /// Write a part.
    Write(i64, &'a [u8]),
    /// Close it.
    Close(i64),
    /// Set the clock, nanoseconds since 1970.
    SetTime(i64),
}

impl Order<'_> {
    /// The line.
    pub fn line(&self) -> Vec<u8> {
        let (name, arguments) = match self {
            Self::Sync(id) => ("guest-sync-delimited", json!({ "id": id })),
            Self::Exec { argv, input } => {
                let (path, rest) = argv.split_first().map_or(("", &[][..]), |(p, r)| (p.as_str(), r));
                let mut a = json!({ "path": path, "arg": rest, "capture-output": true });
                if !input.is_empty() {
                    a["input-data"] = BASE64.encode(input).into();
                }
                ("guest-exec", a)
            }
            Self::ExecStatus(pid) => ("guest-exec-status", json!({ "pid": pid })),
            Self::Open(path, mode) => ("guest-file-open", json!({ "path": path, "mode": mode })),
            Self::Seek(handle, to) => (
                "guest-file-seek",
                json!({ "handle": handle, "offset": to, "whence": "set" }),
            ),
            Self::Read(handle) => ("guest-file-read", json!({ "handle": handle, "count": MAX_PART })),
            Self::Write(handle, data) => (
                "guest-file-write",
                json!({ "handle": handle, "buf-b64": BASE64.encode(data) }),
            ),
            Self::Close(handle) => ("guest-file-close", json!({ "handle": handle })),
            Self::SetTime(ns) => ("guest-set-time", json!({ "time": ns })),
        };
        let mut line = json!({ "execute": name, "arguments": arguments })
            .to_string()
            .into_bytes();
        line.push(b'\n');
        if matches!(self, Self::Sync(_)) {
            // Ends a line that an earlier caller left unfinished.
            line.insert(0, MARK);
        }
        line
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// Nobody is there, or nobody listens.
    #[error("no agent answers in the guest")]
    Silent,
    /// It says no.
    #[error("the guest's agent says: {0}")]
    Refused(String),
    /// What it says is not the protocol.
    #[error("the guest's agent says something that is not its protocol: {0}")]
    Nonsense(&'static str),
    /// It says too much.
    #[error(
        "the guest's agent answered with more than {MAX_AGENT_LINE} bytes; write to a file and fetch that with 'lanline cp'"
    )]
    TooMuch,
    /// A command did not end in time.
    #[error("the command still runs in the guest after {0} s; it goes on there")]
    Late(u64),
}

/// The value of an answer.
pub fn answer(line: &[u8]) -> Result<Value, AgentError> {
    let line = line.rsplit(|b| *b == MARK).next().unwrap_or_default();
    let value: Value = serde_json::from_slice(line).map_err(|_| AgentError::Nonsense("not JSON"))?;
    if let Some(why) = value.get("error") {
        let why = why["desc"].as_str().unwrap_or("no reason");
        return Err(AgentError::Refused(wire::fault::plain(why)));
    }
    value
        .get("return")
        .cloned()
        .ok_or(AgentError::Nonsense("neither return nor error"))
}

/// A whole number: a process id or a file handle.
pub fn number(value: &Value) -> Result<i64, AgentError> {
    value.as_i64().ok_or(AgentError::Nonsense("a number is missing"))
}

/// How a command ended; `None`: it runs.
pub fn exec_ended(value: &Value) -> Result<Option<ExecResult>, AgentError> {
    let exited = value["exited"]
        .as_bool()
        .ok_or(AgentError::Nonsense("'exited' is missing"))?;
    if !exited {
        return Ok(None);
    }
    let int = |name: &str| value[name].as_i64().and_then(|n| i32::try_from(n).ok());
    let (stdout, more_out) = output(&value["out-data"])?;
    let (stderr, more_err) = output(&value["err-data"])?;
    let said = |name: &str| value[name].as_bool().unwrap_or(false);
    Ok(Some(ExecResult {
        code: int("exitcode"),
        signal: int("signal"),
        stdout,
        stderr,
        truncated: more_out || more_err || said("out-truncated") || said("err-truncated"),
    }))
}

fn output(value: &Value) -> Result<(Vec<u8>, bool), AgentError> {
    let mut bytes = decoded(value)?;
    let more = bytes.len() > MAX_EXEC_OUTPUT;
    bytes.truncate(MAX_EXEC_OUTPUT);
    Ok((bytes, more))
}

fn decoded(value: &Value) -> Result<Vec<u8>, AgentError> {
    let text = value.as_str().unwrap_or_default();
    BASE64
        .decode(text.as_bytes())
        .map_err(|_| AgentError::Nonsense("not base64"))
}

/// A part of a file, and whether it was the last.
pub fn part(value: &Value) -> Result<(Vec<u8>, bool), AgentError> {
    let data = decoded(&value["buf-b64"])?;
    if data.len() > MAX_PART {
        return Err(AgentError::Nonsense("more than was asked for"));
    }
    let end = value["eof"].as_bool().unwrap_or(data.is_empty());
    Ok((data, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn orders_are_one_line_whatever_they_hold() {
        let argv = ["sh".to_owned(), "-c".to_owned(), "echo \"a\nb\"".to_owned()];
        let line = Order::Exec {
            argv: &argv,
            input: b"\n\xff",
        }
        .line();
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        let back: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(back["arguments"]["arg"][1], "echo \"a\nb\"");
        assert_eq!(back["arguments"]["input-data"], "Cv8=");
        assert_eq!(Order::Sync(7).line()[0], MARK);
    }

    #[test]
    fn an_agent_that_lies_gets_no_further_than_its_caps() {
        let big = BASE64.encode(&vec![b'x'; MAX_EXEC_OUTPUT + 1]);
        let said = json!({ "exited": true, "exitcode": 1_i64 << 40, "out-data": big, "err-data": "AA==" });
        let r = exec_ended(&said).unwrap().unwrap();
        assert_eq!((r.code, r.stdout.len(), r.truncated), (None, MAX_EXEC_OUTPUT, true));
        assert_eq!(exec_ended(&json!({ "exited": false })), Ok(None));
        for bad in [json!({}), json!({ "exited": true, "out-data": "%" }), json!([1])] {
            assert!(exec_ended(&bad).is_err(), "{bad}");
        }
        let more = json!({ "buf-b64": BASE64.encode(&vec![0; MAX_PART + 1]), "eof": false });
        assert!(part(&more).is_err());
        assert_eq!(part(&json!({ "count": 0 })), Ok((vec![], true)));
        let refused = answer(b"\xff{\"error\":{\"desc\":\"no\\u001b[2J\"}}");
        assert_eq!(refused, Err(AgentError::Refused("no [2J".into())));
    }

    proptest! {
        #[test]
        fn no_answer_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(v) = answer(&line) {
                let _ = (exec_ended(&v), part(&v), number(&v));
            }
        }
    }
}
