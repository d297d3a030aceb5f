//! Talking to the agent in a guest, one caller at a time.

use super::{error::VerbError, folder::Folder, guests::Guests};
use crate::{
    agent::{self, AgentError, MARK, Order},
    args::files,
    defaults::{AGENT_DEADLINE, AGENT_GREETING, AGENT_POLL, AGENT_POLL_MAX, MAX_AGENT_LINE},
};
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{sleep, timeout},
};
use wire::{guest::ExecResult, ids::GuestId};

/// A connection to an agent that has answered.
struct Agent {
    stream: UnixStream,
    buf: Vec<u8>,
}

impl Agent {
    async fn open(folder: &Folder) -> Result<Self, AgentError> {
        let hello = async {
            let stream = UnixStream::connect(folder.socket(files::AGENT))
                .await
                .map_err(|_| AgentError::Silent)?;
            folder.check_peer(&stream).map_err(|_| AgentError::Silent)?;
            let mut agent = Self {
                stream,
                buf: Vec::new(),
            };
            let id = u64::from(rand::random::<u32>());
            agent.send(&Order::Sync(id)).await?;
            loop {
                // What an earlier caller did not take comes first and is passed over.
                let line = agent.line().await?;
                let marked = line.contains(&MARK);
                if marked && agent::answer(&line).is_ok_and(|v| v.as_u64() == Some(id)) {
                    return Ok(agent);
                }
            }
        };
        timeout(AGENT_GREETING, hello).await.unwrap_or(Err(AgentError::Silent))
    }

    async fn send(&mut self, order: &Order<'_>) -> Result<(), AgentError> {
        self.stream
            .write_all(&order.line())
            .await
            .map_err(|_| AgentError::Silent)
    }

    async fn line(&mut self) -> Result<Vec<u8>, AgentError> {
        let mut scanned = 0;
        loop {
            if let Some(end) = self.buf[scanned..].iter().position(|b| *b == b'\n') {
                if scanned + end > MAX_AGENT_LINE {
                    return Err(AgentError::TooMuch);
                }
                let rest = self.buf.split_off(scanned + end + 1);
                return Ok(std::mem::replace(&mut self.buf, rest));
            }
            scanned = self.buf.len();
            if scanned > MAX_AGENT_LINE {
                return Err(AgentError::TooMuch);
            }
            if self
                .stream
                .read_buf(&mut self.buf)
                .await
                .map_err(|_| AgentError::Silent)?
                == 0
            {
                return Err(AgentError::Silent);
            }
        }
    }

    async fn ask(&mut self, order: Order<'_>) -> Result<Value, AgentError> {
        let asked = async {
            self.send(&order).await?;
            agent::answer(&self.line().await?)
        };
        timeout(AGENT_DEADLINE, asked).await.unwrap_or(Err(AgentError::Silent))
    }
}

impl Guests {
    /// Is an agent there?
    pub async fn agent_answers(&self, id: GuestId) -> Result<(), VerbError> {
        let (folder, turn) = self.agent_of(id)?;
        let _turn = turn.lock().await;
        Agent::open(&folder).await.map(|_| ()).map_err(VerbError::from)
    }

    /// Runs a command in a guest and waits for its end.
    pub async fn agent_exec(
        &self,
        id: GuestId,
        argv: &[String],
        input: &[u8],
        limit: Duration,
    ) -> Result<ExecResult, VerbError> {
        let (folder, turn) = self.agent_of(id)?;
        let pid = {
            let _turn = turn.lock().await;
            let mut agent = Agent::open(&folder).await?;
            agent::number(&agent.ask(Order::Exec { argv, input }).await?["pid"])?
        };
        let (until, mut pause) = (Instant::now() + limit, AGENT_POLL);
        loop {
            {
                // Others get their turn in between.
                let _turn = turn.lock().await;
                let told = Agent::open(&folder).await?.ask(Order::ExecStatus(pid)).await?;
                if let Some(end) = agent::exec_ended(&told)? {
                    return Ok(end);
                }
            }
            if Instant::now() >= until {
                return Err(AgentError::Late(limit.as_secs()).into());
            }
            sleep(pause).await;
            pause = (pause * 2).min(AGENT_POLL_MAX);
        }
    }

    /// Reads a part of a file in a guest; the second value: there is no more.
    pub async fn agent_read(&self, id: GuestId, path: &str, offset: u64) -> Result<(Vec<u8>, bool), VerbError> {
        let (folder, turn) = self.agent_of(id)?;
        let _turn = turn.lock().await;
        let mut agent = Agent::open(&folder).await?;
        let handle = agent::number(&agent.ask(Order::Open(path, "r")).await?)?;
        let read = async {
            agent.ask(Order::Seek(handle, offset)).await?;
            agent::part(&agent.ask(Order::Read(handle)).await?)
        }
        .await;
        agent.ask(Order::Close(handle)).await?;
        Ok(read?)
    }

    /// Writes a part of a file in a guest; at 0 the file is made anew.
    pub async fn agent_write(&self, id: GuestId, path: &str, offset: u64, data: &[u8]) -> Result<(), VerbError> {
        let (folder, turn) = self.agent_of(id)?;
        let _turn = turn.lock().await;
        let mut agent = Agent::open(&folder).await?;
        let mode = if offset == 0 { "w" } else { "r+" };
        let handle = agent::number(&agent.ask(Order::Open(path, mode)).await?)?;
        let written = async {
            agent.ask(Order::Seek(handle, offset)).await?;
            agent.ask(Order::Write(handle, data)).await
        }
        .await;
        agent.ask(Order::Close(handle)).await?;
        written?;
        Ok(())
    }

    /// Sets a guest's clock to this host's: it stood still with the guest's CPUs.
    pub async fn agent_set_time(&self, id: GuestId) -> Result<(), VerbError> {
        let (folder, turn) = self.agent_of(id)?;
        let _turn = turn.lock().await;
        let mut agent = Agent::open(&folder).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        agent.ask(Order::SetTime(now)).await?;
        Ok(())
    }
}
