//! The cut: a router takes a harmful revision out of traffic by itself, with nobody else's help.
//!
//! ```text
//! own counts ──► detect (every 250 ms) ──► suspect ◄── exchange ◄── the other routers
//!                                            │ alarm, and a control that has pods
//!                                            ▼
//!    status of ModelRoute, peers, disk ──► latch ──► obey: every table of the run without the revision
//! ```
//! - [`suspect`]: the evidence about one revision, from own counts and from peers (pure).
//! - [`latch`]: which cuts hold (pure).
//! - [`obey`]: a table without the revisions that are cut (pure).
//! - [`detect`]: looks at all revisions that tables ask to watch.
//! - [`peers`]: tells the other routers.
//! - [`report`]: writes cuts to the status of a ModelRoute.
//! - [`metrics`]: what Prometheus reads about it.
//!
//! A cut holds for one run: a later table of the run changes nothing, a table of a higher run ends it. While no table has a
//! detector nothing of this does any work.

pub mod detect;
pub mod latch;
pub mod metrics;
pub mod obey;
pub mod peers;
pub mod report;
pub mod suspect;

use stoker_api::route::Detector;

/// A revision that a served table asks to watch.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// Name of the ModelRoute.
    pub route: String,
    /// Its uid.
    pub uid: String,
    /// The run that is served.
    pub run: u64,
    /// Whether the control has traffic of its own in this table.
    pub controlled: bool,
    /// What to look for.
    pub detector: Detector,
}

/// Where a cut comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelValue)]
pub enum Origin {
    /// This router's own alarm.
    Own,
    /// Another router.
    Peer,
    /// The status of the ModelRoute.
    Status,
    /// An earlier process on the same disk.
    Disk,
}
