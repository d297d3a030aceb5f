//! The LANs as they are kept over a restart.
//!
//! Layout: `lanline lans v1\n`, then one postcard value. Every record's signature is checked again when it is read, so
//! a damaged file is noticed. It holds LAN keys and tickets' secrets: the file must be readable by its owner only.

use super::{Lan, LanConfig, LanState, Now};
use crate::{defaults::SAVED_STATE_MAX, ticket::TicketBook};
use serde::{Deserialize, Serialize};
use wire::{
    LanId, NodeKey,
    codec::{self, DecodeError},
    membership::{PeerAddrs, Standing},
};

const MAGIC: &[u8] = b"lanline lans v1\n";

#[derive(Serialize, Deserialize)]
struct SavedLan {
    id: LanId,
    secret: Option<[u8; 32]>,
    last_serial: u64,
    standings: Vec<Standing>,
    addrs: Vec<PeerAddrs>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    lans: Vec<SavedLan>,
    tickets: TicketBook,
}

/// Why saved LANs cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// Another kind of file, or another version.
    #[error("this is not a file of saved LANs that this lanline reads (it must begin with 'lanline lans v1')")]
    Format,
    /// The bytes are damaged.
    #[error(
        "the file of saved LANs is damaged: {0}; restore it from a copy, or remove it and join again by new tickets"
    )]
    Damaged(#[from] DecodeError),
    /// A record in it is damaged.
    #[error(
        "the file of saved LANs is damaged in LAN {lan}: {why}; restore it from a copy, or remove it and join again"
    )]
    Record {
        /// The LAN.
        lan: LanId,
        /// What is wrong.
        why: String,
    },
}

impl LanState {
    /// Everything that must outlive a restart, the LANs' secret keys too. Write it atomically, readable by its owner only.
    pub fn export(&self) -> Result<Vec<u8>, SavedError> {
        let lan = |l: &Lan| SavedLan {
            id: l.id.clone(),
            secret: l.key.as_ref().map(NodeKey::secret),
            last_serial: l.last_serial,
            standings: l.all().map(|h| h.standing.clone()).collect(),
            addrs: l
                .addrs
                .iter()
                .map(|(n, a)| PeerAddrs {
                    node: *n,
                    addrs: a.clone(),
                })
                .collect(),
        };
        let saved = Saved {
            lans: self.lans.values().map(lan).collect(),
            tickets: self.tickets.clone(),
        };
        let mut out = MAGIC.to_vec();
        out.extend(codec::encode(&saved)?);
        Ok(out)
    }

    /// The state from [`LanState::export`]. Its events then say who is a member, as if all had just come.
    pub fn import(config: LanConfig, now: Now, bytes: &[u8]) -> Result<Self, SavedError> {
        let body = bytes.strip_prefix(MAGIC).ok_or(SavedError::Format)?;
        let saved: Saved = codec::decode(body, SAVED_STATE_MAX)?;
        let mut state = Self::new(config, now);
        state.tickets = saved.tickets;
        for saved in saved.lans {
            let damaged = |why: String| SavedError::Record {
                lan: saved.id.clone(),
                why,
            };
            let key = saved.secret.as_ref().map(NodeKey::from_secret);
            if key.as_ref().is_some_and(|k| k.public() != saved.id.key) {
                return Err(damaged("its key is not the LAN's".into()));
            }
            let mut lan = Lan::new(saved.id.clone(), key);
            for standing in saved.standings {
                lan.merge(state.config.me, now.wall, standing)
                    .map_err(|e| damaged(e.to_string()))?;
            }
            lan.last_serial = lan.last_serial.max(saved.last_serial);
            state.lans.insert(saved.id.clone(), lan);
            state.schedule(&saved.id);
            state.learn_addrs(&saved.id, saved.addrs, state.config.me);
        }
        Ok(state)
    }
}
