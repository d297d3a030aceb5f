//! `query`.

use super::values::millis;
use crate::api::QueryRequest;
use clap::Args;

/// `query`.
#[derive(Clone, Debug, Args)]
pub struct QueryArgs {
    /// One SELECT; after EXPLAIN it shows what would be asked of whom.
    pub sql: String,
    /// Answer within this, with what came by then; 10ms to 10s.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = millis)]
    pub within: u64,
    /// Go on and print every change of the answer, until Ctrl-C.
    #[arg(long)]
    pub follow: bool,
}

/// Arguments of `futures`.
#[derive(Clone, Debug, Args)]
pub struct FuturesArgs {
    /// Only hosts whose round trip is at most this: measured, or expected by where both stand in the network.
    #[arg(long, value_name = "TIME", value_parser = millis)]
    pub max_rtt: Option<u64>,
}

impl QueryArgs {
    /// As the node is asked.
    pub fn request(&self) -> QueryRequest {
        QueryRequest {
            sql: self.sql.clone(),
            within_ms: Some(self.within),
            follow: self.follow,
        }
    }
}
