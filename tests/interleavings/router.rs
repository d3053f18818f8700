//! A router of the model: the real table and its keeper, between two saves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use stoker_router::metrics::Counts;
use stoker_router::plane::Plane;
use stoker_router::table::disk::Saved;
use stoker_router::table::keeper::Keeper;

/// A router: what it serves and what is on its disk, both as it would save them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Router {
    /// What it serves.
    pub memory: String,
    /// What it would start from.
    pub disk: String,
}

/// What a router serves.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// The generation of its table.
    pub generation: Option<i64>,
    /// Parts per million by revision, cuts obeyed.
    pub weights: BTreeMap<String, u32>,
    /// The cuts of this run that it knows.
    pub cuts: BTreeSet<String>,
}

impl Router {
    /// One that knows of no table.
    pub fn new() -> Self {
        let empty = Saved { namespace: "team".into(), ..Saved::default() };
        let memory = serde_json::to_string(&empty).unwrap();
        Self { disk: memory.clone(), memory }
    }

    /// The real thing, as it would be after a start from this memory, when it has seen these pods.
    pub fn keeper(&self, pods: &[EndpointSlice]) -> (Keeper, Arc<Plane>) {
        let plane = Arc::new(Plane::default());
        let keeper = Keeper::new(Arc::clone(&plane), "team", Counts::default());
        keeper.restore(serde_json::from_str(&self.memory).unwrap());
        if !pods.is_empty() {
            keeper.slices_listed(pods);
        }
        (keeper, plane)
    }

    /// Keeps what the real thing would save, but for pods: it sees them anew each time.
    pub fn remember(&mut self, keeper: &Keeper) {
        let saved = Saved { pods: BTreeMap::new(), ..keeper.to_save() };
        self.memory = serde_json::to_string(&saved).unwrap();
    }

    /// What it serves by now.
    pub fn served(&self, pods: &[EndpointSlice]) -> Served {
        let (keeper, plane) = self.keeper(pods);
        let tables = plane.tables();
        let Some(route) = tables.route("m") else { return Served::default() };
        let spec = keeper.to_save().routes.into_iter().next().unwrap().spec;
        let revisions: BTreeSet<&String> =
            spec.main_rule().unwrap().arms.iter().map(|arm| &arm.revision).collect();
        Served {
            generation: Some(route.version.generation),
            weights: revisions.into_iter().map(|name| (name.clone(), weight(route, name))).collect(),
            cuts: keeper.cuts("m").into_iter().map(|cut| cut.revision).collect(),
        }
    }
}

/// What a revision gets by the rule for everybody.
fn weight(route: &stoker_router::table::snapshot::Route, revision: &str) -> u32 {
    let arms = route.rules.last().into_iter().flat_map(|rule| &rule.arms);
    arms.filter(|arm| arm.revision.name == revision).map(|arm| arm.ppm).sum()
}
