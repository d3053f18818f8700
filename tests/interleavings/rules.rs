//! The rules that hold in every world.

use stateright::{Model, Property};

use super::Interleavings;
use super::world::World;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A router that knows of a cut sends the revision nothing in that run; with pods by share, no more than stable lacks pods for.
    CutsHold,
    /// Weights sum to the whole.
    WholeTraffic,
    /// What has weight has pods, unless the API server has forgotten them.
    WeightHasPods,
    /// With pods by share: what has weight has the pods that its share needs, as long as nobody goes by an old picture.
    ShareHasPods,
    /// The table is never ahead of status: intent is written before its effect.
    IntentFirst,
    /// Without further faults everything comes to rest: all routers serve the last table, what has weight has pods, and stable is
    /// what the spec asks for or that was taken back. Nothing is written any more.
    ComesToRest,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::CutsHold,
        Self::WholeTraffic,
        Self::WeightHasPods,
        Self::ShareHasPods,
        Self::IntentFirst,
        Self::ComesToRest,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::CutsHold => "cuts hold",
            Self::WholeTraffic => "whole traffic",
            Self::WeightHasPods => "weight has pods",
            Self::ShareHasPods => "share has pods",
            Self::IntentFirst => "intent first",
            Self::ComesToRest => "comes to rest",
        }
    }

    /// For the checker.
    pub fn property(self) -> Property<Interleavings>
    where
        Interleavings: Model<State = World>,
    {
        match self {
            Self::CutsHold => {
                Property::always(self.name(), |_, world| Self::CutsHold.broken(world).is_none())
            }
            Self::WholeTraffic => {
                Property::always(self.name(), |_, world| Self::WholeTraffic.broken(world).is_none())
            }
            Self::WeightHasPods => {
                Property::always(self.name(), |_, world| Self::WeightHasPods.broken(world).is_none())
            }
            Self::ShareHasPods => {
                Property::always(self.name(), |_, world| Self::ShareHasPods.broken(world).is_none())
            }
            Self::IntentFirst => {
                Property::always(self.name(), |_, world| Self::IntentFirst.broken(world).is_none())
            }
            Self::ComesToRest => {
                Property::always(self.name(), |_, world| Self::ComesToRest.broken(world).is_none())
            }
        }
    }

    /// How a world breaks it, if it does.
    pub fn broken(self, world: &World) -> Option<String> {
        match self {
            Self::CutsHold => cuts_hold(world),
            Self::WholeTraffic => whole_traffic(world),
            Self::WeightHasPods => weight_has_pods(world),
            Self::ShareHasPods => share_has_pods(world),
            Self::IntentFirst => intent_first(world),
            Self::ComesToRest => comes_to_rest(world),
        }
    }
}

fn cuts_hold(world: &World) -> Option<String> {
    let whole = world.replicas();
    world.served().into_iter().enumerate().find_map(|(index, served)| {
        // Where everybody is cut there is nobody else to send to.
        let another = served.weights.keys().find(|name| !served.cuts.contains(*name))?;
        let lacking = whole.saturating_sub(world.replicas_of(another).max(1));
        let allowed = 1_000_000 * lacking / whole;
        let mut sent = served.cuts.iter();
        let sent = sent.find(|name| served.weights.get(*name).is_some_and(|ppm| *ppm > allowed))?;
        Some(format!("router {index} sends {:?} and knows that {sent} is cut", served.weights))
    })
}

fn whole_traffic(world: &World) -> Option<String> {
    world.served().into_iter().find_map(|served| {
        let sum: u32 = served.weights.values().sum();
        (served.generation.is_some() && sum != 1_000_000).then(|| format!("{:?}", served.weights))
    })
}

fn weight_has_pods(world: &World) -> Option<String> {
    if world.is_restored() {
        return None;
    }
    let pods = world.pods();
    world.served().into_iter().enumerate().find_map(|(index, served)| {
        let without = served.weights.iter().find(|(name, ppm)| **ppm > 0 && !pods.contains(name.as_str()))?;
        // Nothing serves yet while the first revision starts.
        world.status().stable.as_ref()?;
        Some(format!(
            "router {index} sends {} ppm to {}, which has no pods; there are {pods:?}",
            without.1, without.0
        ))
    })
}

fn share_has_pods(world: &World) -> Option<String> {
    if !world.is_by_share() {
        return None;
    }
    // Nothing serves yet while the first revision starts.
    world.status().stable.as_ref()?;
    world.served().into_iter().enumerate().find_map(|(index, served)| {
        served.weights.iter().find_map(|(name, ppm)| {
            let needed = (u64::from(world.replicas()) * u64::from(*ppm)).div_ceil(1_000_000);
            let there = world.replicas_of(name);
            (u64::from(there) < needed).then(|| {
                format!("router {index} sends {ppm} ppm to {name}, which needs {needed} pods and has {there}")
            })
        })
    })
}

fn intent_first(world: &World) -> Option<String> {
    let (run, step) = world.table().filter(|_| !world.is_restored())?;
    let status = world.status();
    let ahead = run > status.runs;
    ahead.then(|| format!("the table is of run {run}, step {step}, and status knows {} runs", status.runs))
}

fn comes_to_rest(world: &World) -> Option<String> {
    let Some(rest) = world.settled() else { return Some("it never comes to rest".to_owned()) };
    let status = rest.status();
    let (target, stable) = (rest.target(), status.stable.clone().unwrap_or_default());
    let settled = stable == target
        || status.rejected.iter().any(|rejected| rejected.revision == target)
        || status.pin.is_some();
    if status.run.is_some() || status.guard.is_some() || !settled {
        return Some(format!("it rests with stable {stable}, and the spec wants {target}: {status:?}"));
    }
    let served = rest.served();
    if served[0].generation != served[1].generation {
        return Some(format!("the routers rest with different tables: {served:?}"));
    }
    served
        .iter()
        .find_map(|served| {
            let all = served.weights.get(&stable).is_some_and(|ppm| *ppm == 1_000_000);
            (!all).then(|| format!("stable is {stable} and a router rests with {:?}", served.weights))
        })
        .or_else(|| {
            let there = rest.replicas_of(&stable);
            (there < rest.replicas()).then(|| format!("stable {stable} has {there} pods at rest"))
        })
}
