//! What routers of a namespace tell each other on their admin ports (mutual TLS), while some table has a detector.
//!
//! `POST /stoker/v1/exchange` with an [`Exchange`] gives an [`ExchangeReply`]. A router tells the running sum of what its own
//! counts added to the evidence since its process started; the receiver adds the difference to what it last heard of that
//! process. So a message that is lost or late only costs delay, one that was overtaken changes nothing, and a router that
//! restarts is another process.

use serde::{Deserialize, Serialize};
use stoker_decide::harm::Increment;

use crate::route::Cut;

/// Path of the exchange on a router's admin port.
pub const EXCHANGE_PATH: &str = "/stoker/v1/exchange";
/// Longest message, in bytes. [`ENTRIES`] of the longest names and reasons stay below it.
pub const LONGEST: usize = 2 << 20;
/// Most entries of each list in one message. A router with more tells the others in the next ones.
pub const ENTRIES: usize = 512;

/// What one router knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exchange {
    /// Chosen anew at each start of the router process.
    pub process: String,
    /// Grows with each message of the process.
    pub number: u64,
    /// Evidence from its own counts.
    #[serde(default)]
    pub sums: Vec<Sum>,
    /// The cuts that it obeys, whoever made them.
    #[serde(default)]
    pub cuts: Vec<KnownCut>,
}

/// What the counts of one router process added to the evidence about one revision in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sum {
    /// uid of the ModelRoute.
    pub uid: String,
    /// The run.
    pub run: u64,
    /// The revision.
    pub revision: String,
    /// All increments since the process started.
    pub sum: Increment,
}

/// A cut with the table that it is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownCut {
    /// uid of the ModelRoute.
    pub uid: String,
    /// The cut.
    pub cut: Cut,
}

/// The answer to an [`Exchange`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeReply {
    /// The process that answers: a router finds out so which of the addresses is its own.
    pub process: String,
}
