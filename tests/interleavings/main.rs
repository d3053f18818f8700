//! Every interleaving of operators, routers and an API server, up to a depth: the rules that none of them may break.
//!
//! The real code decides ([`stoker_decide::rollout`]), makes tables ([`stoker_operator::build::route`]), stores status
//! ([`stoker_api`]) and obeys cuts ([`stoker_router::table::keeper`]). What is a model: the API server (versions, conflicts, stale
//! reads, a restore), the order in which things happen, and pods, which are ready when they are there. Time passes with each
//! look, and routers see harm whenever they like.
//!
//! Faults, of which a trace has a bounded number: an operator or a router dies at any point between two writes (a reply that is lost
//! after the commit is the same), a router reads an old table, the API server is restored from a backup, a second operator acts
//! beside the first, the spec changes, a person asks for something.
//!
//! `make interleavings` goes deeper than a test run does.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]
#![expect(clippy::print_stderr, reason = "how many worlds there were is worth a line")]

mod objects;
mod router;
mod rules;
mod world;

use std::time::Duration;

use stateright::{Checker, Model, Property};

use rules::Rule;
use world::{Action, World};

/// Actions that follow each other in a trace, where [`DEPTH_VARIABLE`] does not say how many.
const DEPTH: usize = 6;
/// As [`DEPTH`], for the worlds with pods by share, which are as many again.
const DEPTH_BY_SHARE: usize = 5;
const DEPTH_VARIABLE: &str = "STOKER_INTERLEAVINGS_DEPTH";
/// A check that takes longer fails: it has not seen everything.
const LONGEST: Duration = Duration::from_hours(2);

/// The worlds that can come out of some beginnings.
struct Interleavings {
    beginnings: Vec<World>,
}

impl Model for Interleavings {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        self.beginnings.clone()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.actions());
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let next = world.after(action);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties: Vec<Property<Self>> = Rule::ALL.iter().map(|rule| rule.property()).collect();
        // A check that never sees what it is about would prove nothing.
        properties.push(Property::sometimes("a cut candidate was taken back", |_, world: &World| {
            world.status().rejected.iter().any(|rejected| rejected.because.contains("cut by"))
        }));
        properties.push(Property::sometimes("a candidate is in its guard", |_, world: &World| {
            world.status().guard.is_some()
        }));
        properties.push(Property::sometimes("a table was restored", |_, world: &World| world.is_restored()));
        properties.push(Property::sometimes("two operators have decided", |_, world: &World| {
            world.deciding() == 2
        }));
        properties
            .push(Property::sometimes("someone went back", |_, world: &World| world.status().pin.is_some()));
        if self.beginnings.iter().any(World::is_by_share) {
            properties.push(Property::sometimes("traffic goes back as pods come", |_, world: &World| {
                world.status().capacity.is_some_and(|capacity| capacity.refill.is_some())
            }));
        }
        properties
    }
}

fn check(beginnings: Vec<World>, depth: usize) {
    assert!(!beginnings.is_empty());
    let depth = std::env::var(DEPTH_VARIABLE).map_or(depth, |text| text.parse().expect(DEPTH_VARIABLE));
    let checker = Interleavings { beginnings }
        .checker()
        .threads(2)
        .target_max_depth(depth)
        .timeout(LONGEST)
        .spawn_bfs()
        .join();
    eprintln!(
        "{} worlds, {} different, {} actions deep",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    for (name, path) in checker.discoveries() {
        if let Some(rule) = Rule::ALL.iter().find(|rule| rule.name() == name) {
            let actions: Vec<_> = path.clone().into_actions();
            panic!(
                "{name}: {}\nafter {actions:#?}\n{:#?}",
                rule.broken(path.last_state()).unwrap_or_default(),
                path.last_state()
            );
        }
    }
    checker.assert_properties();
    assert_eq!(checker.max_depth(), depth, "it ended too early");
}

#[test]
fn the_rules_hold_in_every_interleaving() {
    check(world::beginnings(2, false), DEPTH);
}

#[test]
fn the_rules_hold_in_every_interleaving_while_pods_go_by_share() {
    check(world::beginnings(2, true), DEPTH_BY_SHARE);
}

/// The checker finds what it looks for: a world in which the rules are broken by hand.
#[test]
fn a_broken_rule_is_found() {
    let world = world::beginnings(0, false).into_iter().next().unwrap().with_pods_lost();
    assert!(Rule::ALL.iter().any(|rule| rule.broken(&world).is_some()));
}
