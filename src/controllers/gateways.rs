//! What happens at the gateways' side: a route that is changed or answered, a gateway that comes, goes or changes. It only
//! asks for looks; these read and decide.
//!
//! The kinds of the Gateway API may not be there at all, and may come later. So nothing is asked for before a ModelDeployment
//! names a gateway, and what fails is tried again after a pause.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::NamespaceResourceScope;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use stoker_api::ModelDeployment;
use stoker_api::gateway::{GRPCRoute, Gateway, HTTPRoute};
use stoker_api::names::labels;

use super::changes::Changes;
use crate::context::Context;
use crate::observe::gateway::{Found, find};

/// Between two looks at the gateways that are named, and before a watch is tried again.
const PAUSE: Duration = Duration::from_secs(10);

/// A gateway, by namespace and name.
type Key = (String, String);

/// ModelDeployments to look at.
#[derive(Default)]
pub struct Gateways {
    /// Read by the controller.
    pub changes: Changes,
    /// What was seen of each gateway last.
    marks: Mutex<BTreeMap<Key, Mark>>,
}

impl Gateways {
    fn marks(&self) -> MutexGuard<'_, BTreeMap<Key, Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look saw a gateway: what comes after that is a change, however soon.
    pub fn saw(&self, md: &ModelDeployment, found: &Found<Gateway>) {
        let Some(gateway) = &md.spec.traffic.gateway_ref else { return };
        let namespace = md.namespace().unwrap_or_default();
        let key = (gateway.namespace(&namespace).to_owned(), gateway.name.clone());
        self.marks().entry(key).or_insert_with(|| mark(found));
    }

    /// Whether a gateway is not what it was when it was seen last.
    fn has_changed(&self, gateway: Key, found: &Found<Gateway>) -> bool {
        let now = mark(found);
        let before = self.marks().insert(gateway, now.clone());
        before.is_some_and(|before| before != now)
    }
}

/// Follows until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: impl Future<Output = ()>) {
    let following = async {
        tokio::join!(
            follow_gateways(&ctx),
            follow_routes::<HTTPRoute>(&ctx),
            follow_routes::<GRPCRoute>(&ctx)
        );
    };
    tokio::select! {
        () = shutdown => {}
        () = following => {}
    }
}

/// What a look would see of a gateway: another value is a reason to look.
#[derive(Clone, Debug, PartialEq)]
enum Mark {
    /// Its version, without what changes whenever a route comes or goes.
    There(String),
    /// It cannot be had.
    Not(&'static str),
}

/// Asks for each gateway that is named, however many name it. A watch would tell of each route that comes or goes, and would
/// need the right to list the gateways of all namespaces.
async fn follow_gateways(ctx: &Context) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let named = ctx.fleet.gateways();
        ctx.gateways.marks().retain(|gateway, _| named.contains_key(gateway));
        for (gateway, deployments) in named {
            let found = find::<Gateway>(ctx, "get Gateway", &gateway.0, &gateway.1).await;
            if ctx.gateways.has_changed(gateway, &found) {
                for name in deployments {
                    ctx.gateways.changes.say(name);
                }
            }
        }
    }
}

fn mark(found: &Found<Gateway>) -> Mark {
    match found {
        Found::There(gateway) => {
            let status = gateway.status.as_ref();
            let of_listeners =
                status.iter().flat_map(|status| &status.listeners).flat_map(|one| &one.conditions);
            let conditions: Vec<_> =
                status.iter().flat_map(|status| &status.conditions).chain(of_listeners).collect();
            Mark::There(format!(
                "{:?} {:?} {conditions:?}",
                gateway.metadata.uid, gateway.metadata.generation
            ))
        }
        Found::Absent => Mark::Not("absent"),
        Found::NoApi => Mark::Not("no API"),
        Found::Unreadable(_) => Mark::Not("unreadable"),
    }
}

/// Watches the routes that we made, once there may be some.
async fn follow_routes<K>(ctx: &Context)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<PartialObjectMeta<K>> = ctx.scope();
    let ours = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::STOKER));
    loop {
        tokio::time::sleep(PAUSE).await;
        if ctx.fleet.gateways().is_empty() {
            continue;
        }
        let routes = watcher(api.clone(), ours.clone()).touched_objects();
        pin_mut!(routes);
        while let Some(route) = routes.next().await {
            match route {
                Ok(route) => owners(&route).for_each(|name| ctx.gateways.changes.say(name)),
                Err(error) => {
                    tracing::debug!(%error, kind = %K::kind(&()), "routes cannot be watched; tried again after a pause");
                    break;
                }
            }
        }
    }
}

/// The ModelDeployments that a route belongs to.
fn owners<K: Resource>(route: &K) -> impl Iterator<Item = super::changes::Name> {
    let namespace = route.namespace().unwrap_or_default();
    let kind = ModelDeployment::kind(&());
    let owners = route.owner_references().iter().filter(move |owner| owner.kind == kind);
    owners.map(move |owner| ObjectRef::new_with(&owner.name, ()).within(&namespace))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stoker_api::gateway::GatewaySpec;

    use super::*;

    fn gateway(change: impl FnOnce(&mut Value)) -> Mark {
        let programmed = json!({
            "type": "Programmed", "status": "True", "reason": "Programmed", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let mut object = json!({
            "metadata": {"name": "public", "uid": "u", "generation": 1, "resourceVersion": "1"},
            "spec": {"gatewayClassName": "contour"},
            "status": {"conditions": [programmed], "listeners": [{"name": "web", "attachedRoutes": 1, "conditions": []}]},
        });
        change(&mut object);
        mark(&Found::There(serde_json::from_value(object).unwrap()))
    }

    #[test]
    fn only_what_a_look_would_see_is_a_change() {
        let before = gateway(|_| {});
        // Each route that comes or goes changes this.
        let another_route = gateway(|object| {
            object["metadata"]["resourceVersion"] = json!("2");
            object["status"]["listeners"][0]["attachedRoutes"] = json!(2);
        });
        assert_eq!(before, another_route);
        let changed = [
            gateway(|object| object["metadata"]["generation"] = json!(2)),
            gateway(|object| object["metadata"]["uid"] = json!("another of its name")),
            gateway(|object| object["status"]["conditions"][0]["status"] = json!("False")),
            mark(&Found::Absent),
            mark(&Found::NoApi),
        ];
        assert!(changed.iter().all(|mark| *mark != before), "{changed:?}");
    }

    #[test]
    fn a_gateway_that_goes_right_after_a_look_is_a_change() {
        let md = json!({
            "metadata": {"name": "digits", "namespace": "team"},
            "spec": {"model": {"uri": "x"}, "traffic": {"hosts": ["a.example"], "gatewayRef": {"name": "public"}}},
        });
        let (md, gateways) = (serde_json::from_value(md).unwrap(), Gateways::default());
        let key = || ("team".to_owned(), "public".to_owned());
        let there = Gateway::new("public", GatewaySpec::default());
        gateways.saw(&md, &Found::There(Box::new(there.clone())));
        assert!(gateways.has_changed(key(), &Found::Absent));
        assert!(!gateways.has_changed(key(), &Found::Absent));
        // A look that saw it earlier than we did says nothing new.
        gateways.saw(&md, &Found::There(Box::new(there)));
        assert!(!gateways.has_changed(key(), &Found::Absent));
    }

    #[test]
    fn a_route_leads_to_the_model_deployment_that_it_belongs_to() {
        let owner = |kind: &str| json!({"apiVersion": "x/v1", "kind": kind, "name": "digits", "uid": "u"});
        let owners_of = |kind: &str| {
            let route = json!({"metadata": {"name": "r", "namespace": "team", "ownerReferences": [owner(kind)]}, "spec": {}});
            let route: HTTPRoute = serde_json::from_value(route).unwrap();
            owners(&route).map(|name| (name.namespace.unwrap(), name.name)).collect::<Vec<_>>()
        };
        assert_eq!(owners_of("ModelDeployment"), [("team".to_owned(), "digits".to_owned())]);
        assert_eq!(owners_of("Ingress"), []);
    }
}
