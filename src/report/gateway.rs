//! The condition `GatewayReady`: what routes and gateway say, as a sentence that says what to do. Pure.
//!
//! `Ready` is about clients inside of the cluster and `GatewayReady` about those of the gateway; neither changes the other,
//! and no rollout waits for a gateway.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt};
use stoker_api::ModelDeployment;
use stoker_api::deployment::GatewayRef;
use stoker_api::gateway::{
    GRPCRoute, Gateway, HTTPRoute, ParentReference, RouteParentStatus, RouteStatus, conditions as said,
};
use stoker_api::names::{conditions, reasons};

use super::conditions::Wanted;
use crate::build::gateway::{Routes, parent};
use crate::observe::gateway::{Found, View};

/// Why a route could not be written or removed: the word and the sentence.
pub type Refusal = (&'static str, String);

/// What the condition says, if there is one. `wanted` are the routes as they should be, `refusal` what came of the last try to
/// write them.
pub fn judge(
    md: &ModelDeployment,
    wanted: &Routes,
    view: Option<&View>,
    refusal: Option<&Refusal>,
) -> Option<Wanted> {
    let view = view?;
    let told = match &md.spec.traffic.gateway_ref {
        Some(gateway) => Case { md, gateway }.told(wanted, view, refusal),
        None => leaving(md, view, refusal)?,
    };
    Some(Wanted { type_: conditions::GATEWAY_READY, status: told.0, reason: told.1, message: told.2 })
}

/// Status, reason, sentence.
type Told = (Option<bool>, &'static str, String);

/// The spec names no gateway any more: the condition stays as long as routes of ours may be there.
fn leaving(md: &ModelDeployment, view: &View, refusal: Option<&Refusal>) -> Option<Told> {
    let uid = md.uid().unwrap_or_default();
    let known_before = md.status.as_ref().is_some_and(|status| {
        status.conditions.iter().any(|condition| condition.type_ == conditions::GATEWAY_READY)
    });
    let unreadable = |why: &str| {
        (None, reasons::GATEWAY_UNREADABLE, format!("it is not known whether routes are left: {why}"))
    };
    match (&view.http, &view.grpc) {
        (Found::There(route), _) if is_ours(&**route, &uid) => {}
        (_, Found::There(route)) if is_ours(&**route, &uid) => {}
        (Found::Unreadable(why), _) | (_, Found::Unreadable(why)) if known_before => {
            return Some(unreadable(why));
        }
        _ => return None,
    }
    Some(if let Some((reason, message)) = refusal {
        (Some(false), reason, message.clone())
    } else {
        let message = "traffic.gatewayRef is gone, and the routes are being removed";
        (Some(false), reasons::ROUTE_LEAVING, message.to_owned())
    })
}

/// Whether an object belongs to the ModelDeployment with this uid.
pub fn is_ours<K: Resource>(object: &K, uid: &str) -> bool {
    object.meta().owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

/// What was asked for.
struct Case<'a> {
    md: &'a ModelDeployment,
    gateway: &'a GatewayRef,
}

/// What is the same in both kinds of routes.
struct Route<'a> {
    /// Kind and name, for sentences.
    title: String,
    hosts: &'a [String],
    generation: Option<i64>,
    status: Option<&'a RouteStatus>,
    /// It is as we want it, and ours.
    settled: bool,
}

impl Case<'_> {
    fn told(&self, wanted: &Routes, view: &View, refusal: Option<&Refusal>) -> Told {
        if wanted.http.is_none() && wanted.grpc.is_none() {
            let message = "all of traffic.hosts belong to other ModelDeployments, so there is no route; change traffic.hosts";
            return (Some(false), reasons::CONFLICTED, message.to_owned());
        }
        let missing = [
            ("HTTPRoute", wanted.http.is_some() && view.http == Found::NoApi),
            ("GRPCRoute", wanted.grpc.is_some() && view.grpc == Found::NoApi),
            ("Gateway", view.gateway == Found::NoApi),
        ];
        if let Some((kind, _)) = missing.into_iter().find(|(_, missing)| *missing) {
            let message = format!(
                "the cluster has no {kind} of gateway.networking.k8s.io/v1; install the Gateway API (GRPCRoute is in it from 1.1 on) \
                 and a controller for it, or take traffic.gatewayRef away"
            );
            return (Some(false), reasons::GATEWAY_API_MISSING, message);
        }
        if let Some((reason, message)) = refusal {
            return (Some(false), reason, message.clone());
        }
        let routes = [
            wanted.http.as_ref().map(|wanted| self.http(wanted, &view.http)),
            wanted.grpc.as_ref().map(|wanted| self.grpc(wanted, &view.grpc)),
        ];
        let mut known = Vec::new();
        for route in routes.into_iter().flatten() {
            match route {
                Ok(route) => known.push(route),
                Err(told) => return told,
            }
        }
        // A gateway that is not there says nothing about routes, and what its controller said before does not hold.
        if let Some(told) = self.gateway_is_missing(view) {
            return told;
        }
        if let Some(told) = known.iter().find_map(|route| self.not_taken(route)) {
            return told;
        }
        if let Some(told) = self.not_programmed(view) {
            return told;
        }
        let hosts: Vec<_> = known.iter().flat_map(|route| route.hosts).map(String::as_str).collect();
        let message = format!(
            "{} {} served through {}",
            hosts.join(", "),
            if hosts.len() == 1 { "is" } else { "are" },
            self.title()
        );
        (Some(true), reasons::GATEWAY_PROGRAMMED, message)
    }

    fn title(&self) -> String {
        let namespace = self.md.namespace().unwrap_or_default();
        format!("Gateway {}/{}", self.gateway.namespace(&namespace), self.gateway.name)
    }

    fn http<'v>(&self, wanted: &'v HTTPRoute, found: &'v Found<HTTPRoute>) -> Result<Route<'v>, Told> {
        let live = self.live(wanted, found)?;
        Ok(Route {
            title: title(wanted),
            hosts: &wanted.spec.hostnames,
            generation: live.metadata.generation,
            status: live.status.as_ref(),
            settled: live.spec == wanted.spec,
        })
    }

    fn grpc<'v>(&self, wanted: &'v GRPCRoute, found: &'v Found<GRPCRoute>) -> Result<Route<'v>, Told> {
        let live = self.live(wanted, found)?;
        Ok(Route {
            title: title(wanted),
            hosts: &wanted.spec.hostnames,
            generation: live.metadata.generation,
            status: live.status.as_ref(),
            settled: live.spec == wanted.spec,
        })
    }

    /// The route as it is, when it is ours.
    fn live<'v, K: Resource<DynamicType = ()>>(
        &self,
        wanted: &K,
        found: &'v Found<K>,
    ) -> Result<&'v K, Told> {
        let title = title(wanted);
        match found {
            Found::There(live) if is_ours(&**live, &self.md.uid().unwrap_or_default()) => Ok(live),
            Found::There(_) => Err((
                Some(false),
                reasons::CONFLICTED,
                format!(
                    "{title} exists and is not ours; delete it, or give the ModelDeployment another name"
                ),
            )),
            Found::Absent | Found::NoApi => {
                Err((None, reasons::GATEWAY_PENDING, format!("{title} is not written yet")))
            }
            Found::Unreadable(why) => {
                Err((None, reasons::GATEWAY_UNREADABLE, format!("{title} cannot be read: {why}")))
            }
        }
    }

    fn gateway_is_missing(&self, view: &View) -> Option<Told> {
        (view.gateway == Found::Absent).then(|| {
            let message = format!("{} does not exist; make it, or change traffic.gatewayRef", self.title());
            (Some(false), reasons::GATEWAY_NOT_FOUND, message)
        })
    }

    /// Why the gateway does not take a route as it is now, if so.
    fn not_taken(&self, route: &Route<'_>) -> Option<Told> {
        let (title, gateway) = (&route.title, self.title());
        if !route.settled {
            return Some((None, reasons::GATEWAY_PENDING, format!("{title} is being written")));
        }
        let namespace = self.md.namespace().unwrap_or_default();
        let ours = parent(self.gateway, &namespace);
        let answers = answers(route, &ours, &namespace);
        if answers.iter().any(Answer::takes_it) {
            return None;
        }
        // Of several controllers that answer, the one that says what is wrong.
        for (kind, reason) in [
            (said::ACCEPTED, reasons::ROUTE_NOT_ACCEPTED),
            (said::RESOLVED_REFS, reasons::ROUTE_NOT_RESOLVED),
        ] {
            if let Some(refused) = answers.iter().find_map(|answer| answer.refusal(kind)) {
                let verb = if kind == said::ACCEPTED { "does not take" } else { "cannot follow" };
                let advice = self.advice(&refused.reason, route);
                let why = quoted(refused);
                return Some((Some(false), reason, format!("{gateway} {verb} {title}: {why}; {advice}")));
            }
        }
        if let Some(partial) = answers.iter().find_map(Answer::partial) {
            let why = quoted(partial);
            let message = format!(
                "{gateway} takes only a part of {title}: {why}; {}",
                self.advice(&partial.reason, route)
            );
            return Some((Some(false), reasons::ROUTE_NOT_ACCEPTED, message));
        }
        let message = format!(
            "no controller has answered for {title} as it is now; see whether that of {gateway} runs, and whether it serves this kind of routes"
        );
        Some((None, reasons::GATEWAY_PENDING, message))
    }

    /// What to do about a reason that the specification names.
    fn advice(&self, reason: &str, route: &Route<'_>) -> String {
        let namespace = self.md.namespace().unwrap_or_default();
        match reason {
            "NoMatchingParent" => {
                "name a listener that the gateway has in traffic.gatewayRef.sectionName and port, or leave both out".to_owned()
            }
            "NotAllowedByListeners" => {
                let kind = route.title.split(' ').next().unwrap_or_default();
                format!("let the listener's allowedRoutes take {kind}s from namespace {namespace}, or name another listener")
            }
            "NoMatchingListenerHostname" => {
                format!("no listener has a hostname for {}: change traffic.hosts, or the listener", route.hosts.join(", "))
            }
            "BackendNotFound" => "it follows once the gateway's controller has seen the Service".to_owned(),
            "UnsupportedProtocol" => {
                "the gateway speaks no HTTP/2 without TLS to the Service: give gRPC hosts of its own in traffic.gatewayRef.grpc.hosts, \
                 or take traffic.gatewayRef.grpc away"
                    .to_owned()
            }
            "UnsupportedValue" => "leave out what the gateway does not know, such as traffic.gatewayRef.requestTimeout".to_owned(),
            _ => "see the documentation of the gateway's controller".to_owned(),
        }
    }

    /// Why the gateway, or the listener that was named, is not served, if so.
    fn not_programmed(&self, view: &View) -> Option<Told> {
        let title = self.title();
        let gateway: &Gateway = match &view.gateway {
            Found::There(gateway) => gateway,
            Found::Unreadable(why) => {
                let message = format!(
                    "{title} cannot be read: {why}; let the operator `get` gateways of that namespace"
                );
                return Some((None, reasons::GATEWAY_UNREADABLE, message));
            }
            // Told of before.
            Found::Absent | Found::NoApi => return None,
        };
        let status = gateway.status.clone().unwrap_or_default();
        let (title, conditions) = match &self.gateway.section_name {
            Some(section) => {
                let listener = status.listeners.into_iter().find(|listener| listener.name == *section);
                (
                    format!("listener {section} of {title}"),
                    listener.map(|listener| listener.conditions).unwrap_or_default(),
                )
            }
            None => (title, status.conditions),
        };
        let programmed = conditions.iter().find(|condition| {
            condition.type_ == said::PROGRAMMED && is_current(condition, gateway.metadata.generation)
        });
        match programmed {
            Some(condition) if condition.status == "True" => None,
            Some(condition) if condition.status == "False" => {
                let message =
                    format!("{title} is not served: {}; its owner must put that right", quoted(condition));
                Some((Some(false), reasons::GATEWAY_NOT_PROGRAMMED, message))
            }
            _ => {
                let class = &gateway.spec.gateway_class_name;
                let message = format!(
                    "{title} waits for its controller; see whether that of GatewayClass {class} runs"
                );
                Some((None, reasons::GATEWAY_PENDING, message))
            }
        }
    }
}

/// What one controller says about a route as it is now.
struct Answer<'a>(Vec<&'a Condition>);

impl<'a> Answer<'a> {
    fn find(&self, kind: &str, status: &str) -> Option<&'a Condition> {
        self.0.iter().find(|condition| condition.type_ == kind && condition.status == status).copied()
    }

    fn takes_it(&self) -> bool {
        let all = [said::ACCEPTED, said::RESOLVED_REFS].iter().all(|kind| self.find(kind, "True").is_some());
        all && self.partial().is_none()
    }

    fn refusal(&self, kind: &str) -> Option<&'a Condition> {
        self.find(kind, "False")
    }

    fn partial(&self) -> Option<&'a Condition> {
        self.find(said::PARTIALLY_INVALID, "True")
    }
}

/// The answers to our reference, without what was said about an earlier generation.
fn answers<'a>(route: &Route<'a>, ours: &ParentReference, namespace: &str) -> Vec<Answer<'a>> {
    let parents = route.status.map(|status| status.parents.as_slice()).unwrap_or_default();
    let asked = parents.iter().filter(|said: &&RouteParentStatus| said.parent_ref.is_same(ours, namespace));
    let current = |said: &'a RouteParentStatus| {
        Answer(said.conditions.iter().filter(|condition| is_current(condition, route.generation)).collect())
    };
    asked.map(current).collect()
}

/// Whether a condition is about the object as it is now.
fn is_current(condition: &Condition, generation: Option<i64>) -> bool {
    condition.observed_generation == generation
}

fn title<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{} {}", K::kind(&()), object.name_any())
}

/// A condition in its controller's words.
fn quoted(condition: &Condition) -> String {
    let message = condition.message.trim().trim_end_matches('.');
    if message.is_empty() { condition.reason.clone() } else { format!("{} ({message})", condition.reason) }
}

#[cfg(test)]
mod tests;
