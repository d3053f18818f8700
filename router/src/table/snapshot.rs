//! The tables of the namespace at one moment, as the hot path reads them. Never changed, only replaced.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use stoker_api::names::PREVIEW_SUFFIX;
use stoker_api::scrape::TableVersion;
use stoker_decide::traffic;

use crate::count::ArmCount;
use crate::live::Revision;
use crate::live::demand::Demand;
use crate::live::retries::Retries;
use crate::shadow::count::ShadowCount;
use crate::table::hosts;
use crate::unit::Source;

/// One arm of a rule.
#[derive(Debug)]
pub struct Arm {
    /// The revision as it is by now.
    pub revision: Arc<Revision>,
    /// Its share in parts per million.
    pub ppm: u32,
    /// Position of the arm that takes the share while this one has no ready pod.
    pub fallback: Option<usize>,
    /// Where its attempts are counted.
    pub count: Arc<ArmCount>,
    /// Who gets copies of its requests, if anybody does.
    pub mirrors: Option<Arc<[Arc<Mirror>]>>,
    /// Its share is a rest, left to it while the arm that it goes to has too few ready pods.
    pub is_rest: bool,
}

/// A revision that gets copies of an arm's requests.
#[derive(Debug)]
pub struct Mirror {
    /// Name of the ModelRoute.
    pub route: String,
    /// The revision as it is by now.
    pub revision: Arc<Revision>,
    /// Share of the arm's requests that is copied, in parts per million.
    pub ppm: u32,
    /// Where the copies are counted.
    pub count: Arc<ShadowCount>,
}

/// What of a request decides where it goes, once its model is known.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// It came by the address for previews.
    pub preview: bool,
}

/// One way to split requests.
#[derive(Debug)]
pub struct Rule {
    /// It is for requests that came by the address for previews.
    pub preview: bool,
    /// Headers that a request must have, with their values.
    pub headers: Vec<(HeaderName, Vec<u8>)>,
    /// What stays at one arm; none: each request is drawn by itself.
    pub unit: Option<Source>,
    /// Mixed into the choice of the arm.
    pub salt: String,
    /// Who shares the traffic.
    pub arms: Vec<Arm>,
}

impl Rule {
    /// Whether a request is meant: of each header at least one value is equal.
    fn takes(&self, Asked { headers, preview }: Asked<'_>) -> bool {
        self.preview == preview
            && self
                .headers
                .iter()
                .all(|(name, wanted)| headers.get_all(name).iter().any(|value| value.as_bytes() == wanted))
    }

    /// Whether what goes by it is drawn and not chosen, so that it says something about revisions.
    pub fn is_evidence(&self) -> bool {
        !self.preview && self.headers.is_empty()
    }

    /// The arm that `unit` belongs to.
    pub fn choose(&self, unit: u128) -> Option<usize> {
        traffic::choose(unit, &self.salt, self.arms.iter().map(|arm| (arm.revision.name.as_str(), arm.ppm)))
    }

    /// An arm and those that take its share, one after the other.
    pub fn chain(&self, first: usize) -> impl Iterator<Item = &Arm> {
        let next = |index: &usize| self.arms.get(*index).and_then(|arm| arm.fallback);
        // A circle of fallbacks ends after each arm had its turn.
        std::iter::successors(Some(first), next)
            .take(self.arms.len())
            .filter_map(|index| self.arms.get(index))
    }
}

/// The table of one model.
#[derive(Debug)]
pub struct Route {
    /// Name of the ModelRoute and of its ModelDeployment.
    pub name: String,
    /// Which table it is.
    pub version: TableVersion,
    /// The run that the table belongs to.
    pub run: u64,
    /// The step of the run.
    pub step: u32,
    /// Hosts besides those that the name gives.
    pub hosts: Vec<String>,
    /// It has an address for previews.
    pub preview: bool,
    /// How requests are split: by the first rule that takes them. The last one takes all, but for those of previews.
    pub rules: Vec<Rule>,
    /// How many requests may be sent a second time. The next table of the model goes on with it.
    pub retries: Arc<Retries>,
    /// What comes for the model. The next table goes on with it.
    pub demand: Arc<Demand>,
    /// There are no pods, because there were no requests: the number of this sleep.
    pub asleep: Option<u64>,
    /// The latency target as pods are told it, where the model has one.
    pub latency_target: Option<HeaderValue>,
}

impl Route {
    /// The rule for a request.
    pub fn rule(&self, asked: Asked<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.takes(asked))
    }

    /// Whether there is a candidate to preview.
    pub fn is_previewed(&self) -> bool {
        self.rules.iter().any(|rule| rule.preview)
    }

    /// The arms of the rule that takes what no other takes: those that are compared.
    pub fn main_arms(&self) -> &[Arm] {
        self.rules.last().map(|rule| &rule.arms[..]).unwrap_or_default()
    }

    /// Who gets copies.
    pub fn mirrors(&self) -> impl Iterator<Item = &Arc<Mirror>> {
        self.main_arms().iter().filter_map(|arm| arm.mirrors.as_deref()).flatten()
    }

    /// Whether a revision gets requests or copies of them by any rule.
    pub fn names(&self, revision: &str) -> bool {
        self.rules.iter().flat_map(|rule| &rule.arms).any(|arm| arm.revision.name == revision)
            || self.mirrors().any(|mirror| mirror.revision.name == revision)
    }
}

/// A model and the door that a request came by.
#[derive(Clone, Debug)]
pub struct Found {
    /// The table.
    pub route: Arc<Route>,
    /// It came by the address for previews.
    pub preview: bool,
}

impl Found {
    fn new(route: &Arc<Route>, preview: bool) -> Self {
        Self { route: Arc::clone(route), preview }
    }
}

/// All tables of the namespace.
#[derive(Debug, Default)]
pub struct Snapshot {
    namespace: String,
    routes: BTreeMap<String, Arc<Route>>,
    hosts: HashMap<String, Found>,
}

impl Snapshot {
    /// `routes` in order of age: where two claim a host, the older one has it. Hosts that a name gives go before those of previews, and
    /// these before those that a table asks for.
    pub fn new(namespace: &str, routes: Vec<Arc<Route>>) -> Self {
        let mut by_host = HashMap::new();
        for route in &routes {
            for host in hosts::of_name(&route.name, namespace) {
                by_host.insert(host, Found::new(route, false));
            }
        }
        for route in routes.iter().filter(|route| route.preview) {
            for host in hosts::of_name(&hosts::of_preview(&route.name), namespace) {
                by_host.entry(host).or_insert_with(|| Found::new(route, true));
            }
        }
        for route in &routes {
            for host in &route.hosts {
                by_host.entry(host.to_ascii_lowercase()).or_insert_with(|| Found::new(route, false));
            }
        }
        let routes = routes.into_iter().map(|route| (route.name.clone(), route)).collect();
        Self { namespace: namespace.to_owned(), routes, hosts: by_host }
    }

    /// The table of a model.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.get(name)
    }

    /// The table that a host (or :authority) belongs to.
    pub fn by_host(&self, host: &str) -> Option<Found> {
        let host = hosts::normal(host);
        let known = self.hosts.get(host.as_ref()).cloned();
        known.or_else(|| self.by_name(hosts::name_in(&host, &self.namespace)?))
    }

    /// The table that a model's name, or that of its preview, belongs to.
    pub fn by_name(&self, name: &str) -> Option<Found> {
        let of_preview = || self.route(name.strip_suffix(PREVIEW_SUFFIX)?).filter(|route| route.preview);
        let own = self.route(name).map(|route| Found::new(route, false));
        own.or_else(|| Some(Found::new(of_preview()?, true)))
    }

    /// All tables, by name.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Arc<Route>> {
        self.routes.values()
    }
}
