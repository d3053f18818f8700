//! What the operator asks a router, and what other routers tell it, on a port of its own with mutual TLS.
//!
//! `POST /stoker/v1/scrape` answers about one route; `GET /stoker/v1/table` shows all tables to people. Both are for the
//! operator alone. `POST /stoker/v1/exchange` is for the routers of the same namespace alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stoker_api::exchange::{self, EXCHANGE_PATH};
use stoker_api::names::{objects, router_identity};
use stoker_api::scrape::{ArmState, SCRAPE_PATH, ScrapeReply, ScrapeRequest, TableVersion};
use stoker_edge::body::read_bounded;
use stoker_edge::reply::{self, Reply};
use stoker_edge::tls::Peer;

use crate::cut::detect::Detectors;
use crate::metrics::Counts;
use crate::plane::Plane;
use crate::table::keeper::Keeper;
use crate::table::snapshot::{Arm, Rule};
use crate::watch::{self, Lookup};

/// Where all tables are shown.
pub const TABLE_PATH: &str = "/stoker/v1/table";
/// Longest body of a scrape.
const LONGEST: usize = 16 << 10;
/// A table is read live at most this often, however often the operator asks.
const READ_PAUSE: Duration = Duration::from_millis(250);

/// Answers the operator and other routers. Shared by all connections.
pub struct Admin {
    plane: Arc<Plane>,
    keeper: Arc<Keeper>,
    detectors: Arc<Detectors>,
    counts: Counts,
    lookup: Lookup,
    /// The name that the other routers prove to have.
    fellow: String,
    read: Mutex<HashMap<String, Instant>>,
}

/// All tables of a router.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TableReply<'a> {
    process: &'a str,
    tables: Vec<TableState>,
}

/// One table, for people.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TableState {
    route: String,
    uid: String,
    generation: i64,
    run: u64,
    step: u32,
    hosts: Vec<String>,
    weights: Vec<Weight>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<RuleState>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mirrors: Vec<MirrorState>,
    arms: Vec<ArmState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// The share of an arm, for people.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Weight {
    revision: String,
    ppm: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<String>,
}

/// A rule with headers, for people.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleState {
    headers: BTreeMap<String, String>,
    weights: Vec<Weight>,
}

/// Who gets copies, for people.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MirrorState {
    revision: String,
    ppm: u32,
    waiting: usize,
}

/// The shares of the arms of a rule.
fn weights(arms: &[Arm]) -> Vec<Weight> {
    let weights = arms.iter().map(|arm| Weight {
        revision: arm.revision.name.clone(),
        ppm: arm.ppm,
        fallback: arm.fallback.map(|index| arms[index].revision.name.clone()),
    });
    weights.collect()
}

/// A rule with headers.
fn chosen(rule: &Rule) -> RuleState {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = rule.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
    RuleState { headers: headers.collect(), weights: weights(&rule.arms) }
}

impl Admin {
    /// Answers by the state of `plane`, for a router of `namespace`.
    pub fn new(
        plane: Arc<Plane>,
        keeper: Arc<Keeper>,
        detectors: Arc<Detectors>,
        counts: Counts,
        lookup: Lookup,
        namespace: &str,
    ) -> Self {
        let fellow = router_identity(namespace);
        Self { plane, keeper, detectors, counts, lookup, fellow, read: Mutex::default() }
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Incoming>) -> Reply {
        let (parts, mut body) = request.into_parts();
        let caller = parts.extensions.get::<Peer>();
        let is = |name: &str| caller.is_some_and(|caller| caller.is_named(name));
        match (&parts.method, parts.uri.path()) {
            (&Method::POST, EXCHANGE_PATH) if !is(&self.fellow) => {
                reply::error(StatusCode::FORBIDDEN, "this is for the routers of the same namespace")
            }
            (&Method::POST, SCRAPE_PATH) | (&Method::GET, TABLE_PATH) if !is(objects::OPERATOR_IDENTITY) => {
                reply::error(StatusCode::FORBIDDEN, "this is for the operator")
            }
            (&Method::POST, EXCHANGE_PATH) => match read(&mut body, exchange::LONGEST, "an exchange").await {
                Err(refusal) => refusal,
                Ok(told) => reply::json(StatusCode::OK, &self.detectors.hear(told)),
            },
            (&Method::POST, SCRAPE_PATH) => match read(&mut body, LONGEST, "a scrape request").await {
                Err(refusal) => refusal,
                Ok(asked) => reply::json(StatusCode::OK, &self.scrape(&asked).await),
            },
            (&Method::GET, TABLE_PATH) => reply::json(StatusCode::OK, &self.tables()),
            _ => reply::error(
                StatusCode::NOT_FOUND,
                "there are POST /stoker/v1/scrape, POST /stoker/v1/exchange and GET /stoker/v1/table",
            ),
        }
    }

    /// What this router knows of a route; reads its table live when the operator expects a newer one.
    pub async fn scrape(&self, asked: &ScrapeRequest) -> ScrapeReply {
        if let Some(expected) = &asked.expect
            && self.is_behind(&asked.route, expected)
            && self.may_read(&asked.route)
        {
            watch::read_live(&self.keeper, &self.lookup, &self.counts, &asked.route).await;
        }
        // Cuts before the table: who reads that a run is over must not read a cut of it as one of the next.
        let cuts = self.keeper.cuts(&asked.route);
        let suspicions = self.detectors.suspicions().into_iter();
        ScrapeReply {
            process: self.detectors.process().to_owned(),
            serving: self.serving(&asked.route),
            refused: self.keeper.refusal(&asked.route),
            arms: self.plane.arms(&asked.route),
            counts: self.plane.ledger.read(&asked.route),
            demand: Some(self.plane.demand(&asked.route)),
            cuts,
            suspicions: suspicions
                .filter(|(route, _)| *route == asked.route)
                .map(|(_, known)| known)
                .collect(),
            shadows: self.plane.shadows.read(&asked.route),
        }
    }

    fn serving(&self, route: &str) -> Option<TableVersion> {
        self.plane.tables().route(route).map(|route| route.version.clone())
    }

    fn is_behind(&self, route: &str, expected: &TableVersion) -> bool {
        self.serving(route).is_none_or(|now| now.uid != expected.uid || now.generation < expected.generation)
    }

    /// Keeps the API server from being asked at the rate of the operator's questions.
    fn may_read(&self, route: &str) -> bool {
        let now = Instant::now();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.retain(|_, at| now.duration_since(*at) < READ_PAUSE);
        let allowed = !read.contains_key(route);
        if allowed {
            read.insert(route.to_owned(), now);
        }
        allowed
    }

    fn tables(&self) -> TableReply<'_> {
        let tables = self.plane.tables();
        let tables = tables.routes().map(|route| TableState {
            route: route.name.clone(),
            uid: route.version.uid.clone(),
            generation: route.version.generation,
            run: route.run,
            step: route.step,
            hosts: route.hosts.clone(),
            weights: weights(route.main_arms()),
            rules: route.rules.iter().filter(|rule| !rule.is_evidence()).map(chosen).collect(),
            mirrors: route
                .mirrors()
                .map(|mirror| MirrorState {
                    revision: mirror.revision.name.clone(),
                    ppm: mirror.ppm,
                    waiting: mirror.revision.lane.waiting(),
                })
                .collect(),
            arms: self.plane.arms(&route.name),
            refused: self.keeper.refusal(&route.name),
        });
        TableReply { process: self.detectors.process(), tables: tables.collect() }
    }
}

/// Reads what a caller says, or refuses it.
async fn read<T: DeserializeOwned>(body: &mut Incoming, longest: usize, what: &str) -> Result<T, Reply> {
    let refuse = |why: String| reply::error(StatusCode::BAD_REQUEST, &why);
    let text = read_bounded(body, longest).await.map_err(|error| refuse(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| refuse(format!("not {what}: {error}")))
}
