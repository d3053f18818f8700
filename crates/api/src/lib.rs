//! The nouns of Stoker: custom resources, the wire types between its parts, and the strings that are API.
//!
//! - [`deployment`]: `ModelDeployment`, what a user writes, and its status.
//! - [`route`]: `ModelRoute`, the table that routers serve, one for each ModelDeployment.
//! - [`router`]: `ModelRouter`, the data plane of one namespace.
//! - [`revision`]: what a `ControllerRevision` stores, and how a revision gets its name.
//! - [`gateway`]: the few objects of the Gateway API that are read and written.
//! - [`artifact`]: model URIs and digests.
//! - [`scrape`]: what the operator asks a router, and what the router answers.
//! - [`exchange`]: what routers of a namespace tell each other.
//! - [`quantity`]: quantities of Kubernetes as numbers.
//! - [`pause`]: how long to wait before the API server is asked again.
//! - [`names`]: labels, annotations, condition types, reasons, ports and paths.
//!
//! | object | written by | holds |
//! |---|---|---|
//! | `ModelDeployment.spec`, annotations | the user, Git | the wish; the operator never writes either |
//! | `ControllerRevision`, immutable | operator | resolved spec and pod template of one revision |
//! | `ModelDeployment.status` | operator | run, step, elapsed seconds, verdict, rejected revisions; intent before effect |
//! | `ModelRoute.spec` | operator, only from that ModelDeployment's reconcile | a pure function of the three above |
//! | `ModelRoute.status` | routers, on transitions only | cuts |
//! | `ModelRouter.spec` | user; operator when missing | settings of the namespace's routers |

pub mod artifact;
pub mod deployment;
pub mod exchange;
pub mod gateway;
pub mod names;
pub mod pause;
pub mod quantity;
pub mod revision;
pub mod route;
pub mod router;
pub mod scrape;

pub use deployment::ModelDeployment;
pub use route::ModelRoute;
pub use router::ModelRouter;

/// The API group of all custom resources.
pub const GROUP: &str = "stoker.dev";
