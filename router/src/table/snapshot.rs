//! The tables of the namespace at one moment, as the hot path reads them. Never changed, only replaced.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use stoker_api::scrape::TableVersion;
use stoker_decide::traffic;

use crate::count::ArmCount;
use crate::live::Revision;
use crate::live::retries::Retries;
use crate::table::hosts;

/// One arm of a table.
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
    /// Mixed into the choice of the arm.
    pub salt: String,
    /// Hosts besides those that the name gives.
    pub hosts: Vec<String>,
    /// Who shares the traffic.
    pub arms: Vec<Arm>,
    /// How many requests may be sent a second time. The next table of the model goes on with it.
    pub retries: Arc<Retries>,
}

impl Route {
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

/// All tables of the namespace.
#[derive(Debug, Default)]
pub struct Snapshot {
    namespace: String,
    routes: BTreeMap<String, Arc<Route>>,
    hosts: HashMap<String, Arc<Route>>,
}

impl Snapshot {
    /// `routes` in order of age: where two claim a host, the older one has it. Hosts that a name gives go before those
    /// that a table asks for.
    pub fn new(namespace: &str, routes: Vec<Arc<Route>>) -> Self {
        let mut by_host = HashMap::new();
        for route in &routes {
            for host in hosts::of_name(&route.name, namespace) {
                by_host.insert(host, Arc::clone(route));
            }
        }
        for route in &routes {
            for host in &route.hosts {
                by_host.entry(host.to_ascii_lowercase()).or_insert_with(|| Arc::clone(route));
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
    pub fn by_host(&self, host: &str) -> Option<&Arc<Route>> {
        let host = hosts::normal(host);
        self.hosts.get(host.as_ref()).or_else(|| self.route(hosts::name_in(&host, &self.namespace)?))
    }

    /// All tables, by name.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Arc<Route>> {
        self.routes.values()
    }
}
