//! Every decision of Stoker, pure.
//!
//! Numbers, state and time go in; a named decision with its reason comes out. Nothing here reads a clock, draws a random
//! number or does I/O, so the same code runs in the operator, in the router and in the server, and is tested as tables.
//!
//! - [`address`]: which network addresses a stranger's name may lead to.
//! - [`alert`]: which firing alerts concern a rollout.
//! - [`agreement`]: do the answers to copies of requests agree.
//! - [`histogram`]: latencies as the native Prometheus schema 3, merged exactly.
//! - [`traffic`]: which arm serves a request.
//! - [`autoscale`]: how many pods a revision needs.
//! - [`balance`]: which pod of the arm, and when another one is tried.
//! - [`batching`]: how large batches are and which requests are taken, by one latency target.
//! - [`caching`]: is a cache of predictions worth its lookups.
//! - [`compare`]: whether two answers to one request say the same.
//! - [`confidence`]: how sure a classifier is of its answers.
//! - [`download`]: whether a download is worth its time.
//! - [`evidence`]: what routers counted, joined over restarts of routers.
//! - [`harm`]: is the candidate worse than stable, at any sample size.
//! - [`metric`]: what a number from a monitoring system says about a candidate.
//! - [`verdict`]: Pass, Fail, Inconclusive or Error for the step of a rollout.
//! - [`analysis`]: one look at a run, from routers' totals to the verdict.
//! - [`refill`]: how traffic goes back to a revision that has too few pods.
//! - [`rollout`]: the state machine of a ModelDeployment.
//! - [`text`]: texts of bounded length.

pub mod address;
pub mod agreement;
pub mod alert;
pub mod analysis;
pub mod autoscale;
pub mod balance;
pub mod batching;
pub mod caching;
pub mod compare;
pub mod confidence;
pub mod download;
pub mod evidence;
pub mod harm;
pub mod histogram;
pub mod metric;
pub mod refill;
pub mod rollout;
pub mod text;
pub mod traffic;
pub mod verdict;
