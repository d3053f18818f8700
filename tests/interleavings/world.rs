//! Operators, routers and an API server, and what each of them may do next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use stoker_api::ModelDeployment;
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_api::exchange::KnownCut;
use stoker_api::route::Cut;
use stoker_api::scrape::{ScrapeReply, TableVersion};
use stoker_decide::rollout::{self, Pods, Request, Seen, State, Wish};
use stoker_decide::verdict::Verdict;
use stoker_operator::build::route::{self, Given};
use stoker_operator::observe::routers::RouterView;
use stoker_router::cut::Origin as CutOrigin;
use stoker_router::table::keeper::{Keeper, Offer, Origin};

use super::objects::{Scale, Table, new_cut, slices};
use super::router::{Router, Served};

/// The revisions that the spec may ask for.
const REVISIONS: [&str; 3] = ["m-a", "m-b", "m-c"];
/// Rounds after which a world without faults must have come to rest.
const ROUNDS: usize = 60;
/// What a person may ask for.
const REQUESTS: [&str; 4] = ["promote-full", "abort", "undo", "retry"];
const TICK: Duration = Duration::from_secs(1);

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    api: Api,
    operators: [Option<Decided>; 2],
    routers: [Router; 2],
    /// Faults that may still happen.
    faults: u8,
    /// Whether pods go by share of the traffic: `rollout.capacity: Proportional`.
    by_share: bool,
    /// Whether something went by an old picture, so that pods by share may lag: a second operator, a router's old table, a restore.
    is_behind: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Api {
    /// The last resourceVersion.
    version: u64,
    /// Which of [`REVISIONS`] the spec asks for.
    target: usize,
    /// The annotation with a request.
    asked: Option<String>,
    /// The status of the ModelDeployment, as JSON, and its version.
    status: (u64, String),
    route: Option<Table>,
    /// The table before, which a stale read may still show.
    old: Option<Table>,
    /// The pods of each revision.
    pods: BTreeMap<String, Scale>,
    /// What a restore brings back; none once that happened.
    backup: Option<Box<Api>>,
    restored: bool,
}

/// What an operator has decided and not written yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Decided {
    stage: Stage,
    /// The picture that it decided from.
    status: (u64, String),
    route: Option<(u64, String)>,
    pods: BTreeMap<String, Scale>,
    /// What it wants.
    new_status: String,
    new_route: Option<String>,
    sizes: BTreeMap<String, u32>,
    table_is_written: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Status,
    Table,
    Pods,
    Removal,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// An operator looks and decides; the flag is whether the evidence is good.
    Look(usize, bool),
    /// It makes its next write.
    Write(usize),
    /// It dies. What it has written stays.
    OperatorDies(usize),
    /// The spec asks for another revision.
    Spec(usize),
    /// A person asks for one of [`REQUESTS`].
    Ask(usize),
    /// A router reads the table, or an older one.
    Read(usize, bool),
    /// It sees harm.
    Harm(usize),
    /// It tells the other one of its cuts.
    Tell(usize),
    /// It writes its cuts to status.
    Report(usize),
    /// It saves.
    Save(usize),
    /// It dies and starts from its disk.
    RouterDies(usize),
    /// The API server is restored from a backup.
    Restore,
}

impl World {
    /// What may happen next.
    pub fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for router in 0..2 {
            actions.extend([Action::Read(router, false), Action::Tell(router), Action::Report(router)]);
            actions.extend([Action::Harm(router), Action::Save(router)]);
        }
        match self.operators[0] {
            None => actions.extend([Action::Look(0, true), Action::Look(0, false)]),
            Some(_) => actions.push(Action::Write(0)),
        }
        // Whoever has decided may go on at any later time, as one that was paused does.
        actions.extend(self.operators[1].as_ref().map(|_| Action::Write(1)));
        if self.faults > 0 {
            actions.extend([Action::OperatorDies(0), Action::Restore, Action::Look(1, true)]);
            actions.extend([0, 1].map(Action::RouterDies));
            actions.extend([0, 1].map(|router| Action::Read(router, true)));
            actions.extend((0..REVISIONS.len()).map(Action::Spec));
            actions.extend((0..REQUESTS.len()).map(Action::Ask));
        }
        actions
    }

    /// The world after something happened; the same when it cannot happen.
    pub fn after(&self, action: Action) -> Self {
        let mut next = self.clone();
        let is_fault = match action {
            Action::Look(operator, good) => {
                next.look(operator, good);
                operator == 1
            }
            Action::Write(operator) => {
                next.write(operator);
                false
            }
            Action::OperatorDies(operator) => {
                next.operators[operator] = None;
                true
            }
            Action::Spec(target) => {
                next.api.target = target;
                next.api.version += 1;
                next.api.status.0 = next.api.version;
                target != self.api.target
            }
            Action::Ask(request) => {
                next.api.version += 1;
                next.api.asked = Some(format!("{} {}", REQUESTS[request], next.api.version));
                next.api.status.0 = next.api.version;
                true
            }
            Action::Read(router, stale) => {
                next.read(router, stale);
                stale
            }
            Action::Harm(router) => {
                next.harm(router);
                false
            }
            Action::Tell(router) => {
                let known = next.keeper(router).known_cuts();
                let keeper = next.keeper(1 - router);
                keeper.cut(known, CutOrigin::Peer);
                next.routers[1 - router].remember(&keeper);
                false
            }
            Action::Report(router) => {
                next.report(router);
                false
            }
            Action::Save(router) => {
                let Router { memory, disk } = &mut next.routers[router];
                disk.clone_from(memory);
                false
            }
            Action::RouterDies(router) => {
                let Router { memory, disk } = &mut next.routers[router];
                memory.clone_from(disk);
                true
            }
            Action::Restore => {
                if let Some(backup) = next.api.backup.take() {
                    let version = next.api.version;
                    next.api = Api { version, restored: true, backup: None, ..*backup };
                }
                true
            }
        };
        if *self == next || (matches!(action, Action::Spec(_)) && !is_fault) {
            return self.clone();
        }
        let by_old_picture = match action {
            Action::Look(operator, _) => operator == 1,
            Action::Read(_, stale) => stale,
            Action::RouterDies(_) | Action::Restore => true,
            _ => false,
        };
        next.is_behind |= self.by_share && by_old_picture;
        if is_fault {
            let Some(left) = self.faults.checked_sub(1) else { return self.clone() };
            next.faults = left;
        }
        next
    }

    /// The status as it stands.
    pub fn status(&self) -> ModelDeploymentStatus {
        serde_json::from_str(&self.api.status.1).unwrap()
    }

    /// Whether the API server was restored from a backup.
    pub fn is_restored(&self) -> bool {
        self.api.restored
    }

    /// Operators that have decided and not written all of it.
    pub fn deciding(&self) -> usize {
        self.operators.iter().flatten().count()
    }

    /// The run and the step of the table in the API server.
    pub fn table(&self) -> Option<(u64, u32)> {
        let spec = self.api.route.as_ref()?.spec();
        Some((spec.run, spec.step))
    }

    /// Revisions that have pods.
    pub fn pods(&self) -> BTreeSet<&str> {
        self.api.pods.keys().map(String::as_str).collect()
    }

    /// How many pods a revision has.
    pub fn replicas_of(&self, revision: &str) -> u32 {
        self.api.pods.get(revision).map_or(0, |scale| scale.replicas)
    }

    /// How many pods the whole demand needs. With shares, half of it needs one.
    pub fn replicas(&self) -> u32 {
        if self.by_share { 2 } else { 1 }
    }

    /// Whether every share of the traffic must have its pods.
    pub fn is_by_share(&self) -> bool {
        self.by_share && !self.is_behind
    }

    /// What each router serves by now.
    pub fn served(&self) -> Vec<Served> {
        let slices = self.slices();
        self.routers.iter().map(|router| router.served(&slices)).collect()
    }

    /// What routers see of pods. With pods for everything they need not know how many there are.
    fn slices(&self) -> Vec<EndpointSlice> {
        if self.by_share { slices(&self.api.pods) } else { Vec::new() }
    }

    fn keeper(&self, router: usize) -> Keeper {
        self.routers[router].keeper(&self.slices()).0
    }

    /// The revision that the spec asks for.
    pub fn target(&self) -> &'static str {
        REVISIONS[self.api.target]
    }

    /// This world without any pod.
    pub fn with_pods_lost(mut self) -> Self {
        self.api.pods.clear();
        self
    }

    /// What becomes of it when nothing else goes wrong; none when it does not come to rest.
    pub fn settled(&self) -> Option<Self> {
        let mut world = Self { faults: 0, ..self.clone() };
        // What a paused operator had in mind comes first, and then it ends.
        while world.operators[1].is_some() {
            world.write(1);
        }
        for _ in 0..ROUNDS {
            let before = world.clone();
            world.round();
            if before == world {
                return Some(world);
            }
        }
        None
    }

    /// Everybody does what is next, once.
    fn round(&mut self) {
        while self.operators[0].is_some() {
            self.write(0);
        }
        for router in 0..2 {
            for action in [
                Action::Read(router, false),
                Action::Tell(router),
                Action::Report(router),
                Action::Save(router),
            ] {
                *self = self.after(action);
            }
        }
        self.look(0, true);
        while self.operators[0].is_some() {
            self.write(0);
        }
    }

    fn deployment(&self) -> ModelDeployment {
        serde_json::from_value(json!({
            "apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "m", "namespace": "team", "uid": "uid-m"},
            "spec": {
                "replicas": self.replicas(),
                "model": {"uri": "configmap://m/m.onnx"},
                "rollout": {
                    "capacity": if self.by_share { "Proportional" } else { "Full" },
                    "steps": [{"weight": 10, "duration": "1s"}, {"weight": 50, "duration": "1s"}],
                    "guard": {"duration": "2s", "holdback": 1},
                },
                "rollback": {"keepWarm": "3s"},
            },
            "status": self.status(),
        }))
        .unwrap()
    }

    /// The state that status tells; with an empty one what the table serves, and then the flag is set.
    fn state(&self) -> (State, bool) {
        let state = self.status().state();
        let lost = state.stable.is_none() && state.runs == 0;
        let recovered =
            self.api.route.as_ref().filter(|_| lost).and_then(|table| route::recover(&table.object()));
        match recovered {
            Some((stable, runs)) => (State { stable: Some(stable), runs, ..State::default() }, true),
            None => (state, false),
        }
    }

    fn look(&mut self, operator: usize, good: bool) {
        let (md, (state, recovered)) = (self.deployment(), self.state());
        let rollout = md.spec.resolved_rollout();
        let pods = self.summaries(&state);
        let revisions: BTreeSet<String> = REVISIONS.map(str::to_owned).into();
        let unverified = self.unverified(&md, &state);
        let verdict =
            if good { Verdict::Pass("it is good".into()) } else { Verdict::Fail("it is bad".into()) };
        let cut = state.revocable().and_then(|revocable| self.cut(state.runs, &revocable.revision));
        let mut status = self.status();
        let asked = self.api.asked.as_ref().filter(|asked| status.handled_request.as_ref() != Some(asked));
        let request = asked.filter(|_| !recovered).map(|text| Request::parse(text, "someone").unwrap());
        let decision = rollout::decide(
            &Wish::from(&md.spec),
            &state,
            &Seen {
                target: self.target(),
                target_waits: None,
                pods: &pods,
                revisions: &revisions,
                unverified: unverified.as_deref(),
                unreachable: None,
                in_flight: &BTreeMap::new(),
                verdict: state.compared().is_some().then_some(&verdict),
                bad_ppm: 0,
                cut: cut.as_deref(),
                queued: None,
                frozen: None,
                alerts: None,
                request: request.as_ref(),
                elapsed: TICK,
            },
        );
        status.handled_request = asked.cloned().or(status.handled_request.take());
        status.store(&decision.state, &rollout);
        let (taken, replicas) = (BTreeMap::new(), self.replicas().into());
        let given = Given { taken: &taken, alarm_log10: 6.0, replicas: &replicas, asleep: None };
        let table = route::route(&md, &decision.state, &given);
        self.operators[operator] = Some(Decided {
            stage: Stage::Status,
            status: self.api.status.clone(),
            route: self.api.route.as_ref().map(|table| (table.version, table.spec.clone())),
            pods: self.api.pods.clone(),
            new_status: serde_json::to_string(&status).unwrap(),
            new_route: table.map(|table| serde_json::to_string(&table.spec).unwrap()),
            sizes: decision
                .state
                .sizes(&replicas)
                .into_iter()
                .map(|(revision, size)| (revision.to_owned(), size))
                .collect(),
            table_is_written: true,
        });
    }

    /// All pods that are there are ready.
    fn summaries(&self, state: &State) -> BTreeMap<String, Pods> {
        let sizes = state.sizes(&self.replicas().into());
        let summary = |(revision, scale): (&String, &Scale)| {
            let wanted = sizes.get(revision.as_str()).copied().unwrap_or(self.replicas());
            (revision.clone(), Pods { wanted, ready: scale.replicas, ..Pods::default() })
        };
        self.api.pods.iter().map(summary).collect()
    }

    /// Why the table of this state is not served everywhere, if so.
    fn unverified(&self, md: &ModelDeployment, state: &State) -> Option<String> {
        let (taken, replicas) = (BTreeMap::new(), self.replicas().into());
        let given = Given { taken: &taken, alarm_log10: 6.0, replicas: &replicas, asleep: None };
        let wanted = route::route(md, state, &given)?;
        let live = self.api.route.as_ref().filter(|live| live.spec() == wanted.spec);
        let Some(live) = live else { return Some("the table is not written yet".to_owned()) };
        let replies = self.served().into_iter().enumerate().map(|(index, served)| {
            let serving =
                served.generation.map(|generation| TableVersion { uid: "uid-r".into(), generation });
            (format!("r{index}"), Ok(ScrapeReply { serving, ..ScrapeReply::default() }))
        });
        let expect = TableVersion { uid: "uid-r".into(), generation: live.generation };
        RouterView { replies: replies.collect() }.unverified(&expect)
    }

    /// Why routers gave a revision no more traffic in a run, if they did.
    fn cut(&self, run: u64, revision: &str) -> Option<String> {
        let told = (0..2).flat_map(|router| self.keeper(router).cuts("m"));
        let told = told.map(|cut| (cut.run, cut.revision));
        let written = self.api.route.iter().flat_map(|table| table.cuts.clone());
        let is_it = |(of, name): (u64, String)| of == run && name == revision;
        told.chain(written).any(is_it).then(|| "it failed (cut by router r)".to_owned())
    }

    fn write(&mut self, operator: usize) {
        let Some(mut decided) = self.operators[operator].take() else { return };
        match decided.stage {
            Stage::Status => {
                if decided.new_status != decided.status.1 {
                    if self.api.status.0 != decided.status.0 {
                        return;
                    }
                    self.api.version += 1;
                    self.api.status = (self.api.version, decided.new_status.clone());
                }
                decided.stage = Stage::Table;
            }
            Stage::Table => {
                decided.table_is_written = self.write_table(&decided);
                decided.stage = Stage::Pods;
            }
            Stage::Pods => {
                for (revision, size) in &decided.sizes {
                    let seen = decided.pods.get(revision).map(|scale| scale.replicas);
                    // What is as it should be is not written again.
                    if !self.api.pods.contains_key(revision) || seen != Some(*size) {
                        self.api.version += 1;
                        let scale = Scale { version: self.api.version, replicas: *size };
                        self.api.pods.insert(revision.clone(), scale);
                    }
                }
                if !decided.table_is_written {
                    return;
                }
                decided.stage = Stage::Removal;
            }
            Stage::Removal => {
                // Only what is still as it was seen is removed.
                let unwanted = |name: &String, scale: &Scale| {
                    !decided.sizes.contains_key(name) && decided.pods.get(name) == Some(scale)
                };
                self.api.pods.retain(|name, scale| !unwanted(name, scale));
                return;
            }
        }
        self.operators[operator] = Some(decided);
    }

    /// Writes a table under the version that was read; false when somebody else wrote meanwhile.
    fn write_table(&mut self, decided: &Decided) -> bool {
        let Some(spec) = decided.new_route.clone() else { return true };
        if decided.route.as_ref().is_some_and(|(_, seen)| *seen == spec) {
            return true;
        }
        let live = self.api.route.as_ref();
        if live.map(|table| table.version) != decided.route.as_ref().map(|(version, _)| *version) {
            return false;
        }
        self.api.version += 1;
        let generation = live.map_or(1, |table| table.generation + 1);
        let cuts = live.map(|table| table.cuts.clone()).unwrap_or_default();
        let table = Table { version: self.api.version, generation, spec, cuts };
        self.api.old = self.api.route.replace(table);
        true
    }

    fn read(&mut self, router: usize, stale: bool) {
        let table = if stale { &self.api.old } else { &self.api.route };
        let Some(object) = table.as_ref().map(Table::object) else { return };
        let keeper = self.keeper(router);
        let seen = keeper.changes();
        if keeper.offer(object, Origin::Watch) == Offer::ReadAgain
            && let Some(now) = &self.api.route
        {
            keeper.offer(now.object(), Origin::Live(seen));
        }
        self.routers[router].remember(&keeper);
    }

    /// A router that sends something to a watched revision finds that it does harm.
    fn harm(&mut self, router: usize) {
        let keeper = self.keeper(router);
        let subjects = keeper.subjects().borrow().clone();
        let weights = self.routers[router].served(&self.slices()).weights;
        let harmful = subjects.iter().find(|subject| {
            weights.get(&subject.detector.revision).is_some_and(|ppm| *ppm > 0)
                && self.api.pods.contains_key(&subject.detector.control)
        });
        let Some(subject) = harmful else { return };
        let cut = new_cut(subject.run, &subject.detector.revision);
        keeper.cut([KnownCut { uid: subject.uid.clone(), cut }], CutOrigin::Own);
        self.routers[router].remember(&keeper);
    }

    fn report(&mut self, router: usize) {
        let keeper = self.keeper(router);
        let cuts: Vec<Cut> = keeper.unreported().into_iter().flat_map(|open| open.cuts).collect();
        let Some(table) = &mut self.api.route else { return };
        let before = table.cuts.clone();
        table.cuts.extend(cuts.into_iter().map(|cut| (cut.run, cut.revision)));
        let run = table.spec().run;
        table.cuts.retain(|(of, _)| *of >= run);
        if table.cuts != before {
            self.api.version += 1;
            table.version = self.api.version;
        }
    }
}

/// Worlds to begin with: `m-a` serves, and `m-b` is wanted; as far as each round brings that.
pub fn beginnings(faults: u8, by_share: bool) -> Vec<World> {
    let status = ModelDeploymentStatus::default();
    let api = Api {
        version: 1,
        target: 0,
        asked: None,
        status: (1, serde_json::to_string(&status).unwrap()),
        route: None,
        old: None,
        pods: BTreeMap::new(),
        backup: None,
        restored: false,
    };
    let routers = [Router::new(), Router::new()];
    let empty = World { api, operators: [None, None], routers, faults, by_share, is_behind: false };
    let mut world = empty.settled().expect("a world without faults comes to rest");
    world.faults = faults;
    world.api.backup = Some(Box::new(world.api.clone()));
    world.api.target = 1;
    let mut all = vec![world.clone()];
    while world.status().stable.as_deref() != Some(REVISIONS[1]) || world.status().guard.is_some() {
        let before = world.clone();
        world.round();
        assert_ne!(before, world, "the rollout stands still");
        all.push(world.clone());
    }
    all
}
