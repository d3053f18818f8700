//! Looks at all revisions that tables ask to watch, four times a second, and cuts those that do harm.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use stoker_api::exchange::{ENTRIES, Exchange, ExchangeReply, KnownCut, Sum};
use stoker_api::route::Cut;
use stoker_api::scrape::Suspicion;
use stoker_decide::text;
use stoker_edge::tls::Tls;
use tokio::time::MissedTickBehavior;

use super::latch::{LONGEST_NAME, LONGEST_REASON};
use super::peers::Couriers;
use super::suspect::{Suspect, Withheld};
use super::{Origin, Subject};
use crate::metrics::Counts;
use crate::plane::Plane;
use crate::table::keeper::Keeper;

/// Time between two looks, and between two messages to peers.
const TICK: Duration = Duration::from_millis(250);
/// Longest id of another process, in bytes.
const LONGEST_PROCESS: usize = 64;

/// One revision in one run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    uid: String,
    run: u64,
    revision: String,
}

impl Key {
    fn of(subject: &Subject) -> Self {
        let (uid, revision) = (subject.uid.clone(), subject.detector.revision.clone());
        Self { uid, run: subject.run, revision }
    }
}

/// All detectors of this process.
#[derive(Debug)]
pub struct Detectors {
    plane: Arc<Plane>,
    keeper: Arc<Keeper>,
    counts: Counts,
    process: String,
    name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    suspects: BTreeMap<Key, Suspect>,
    /// What is watched, as of the last look.
    subjects: Arc<Vec<Subject>>,
    /// Messages that were written.
    number: u64,
}

impl Detectors {
    /// Detectors of the tables that `keeper` serves. `name` is what people call this router.
    pub fn new(plane: Arc<Plane>, keeper: Arc<Keeper>, counts: Counts, name: &str) -> Self {
        let process = format!("{:032x}", rand::random::<u128>());
        Self { plane, keeper, counts, process, name: name.to_owned(), state: Mutex::default() }
    }

    /// The id of this process: no other has it.
    pub fn process(&self) -> &str {
        &self.process
    }

    /// Looks and tells the peers for as long as a table has a detector, and waits for one else; ends never. Without
    /// certificates nobody is told. `namespace`: whose routers the peers are.
    pub async fn run(self: Arc<Self>, tls: Option<Tls>, namespace: String) {
        let mut subjects = self.keeper.subjects();
        while subjects.wait_for(|watched| !watched.is_empty()).await.is_ok() {
            let mut couriers = tls
                .as_ref()
                .map(|tls| Couriers::new(tls.clone(), &namespace, &self.process, self.counts.cut.clone()));
            let mut tick = tokio::time::interval(TICK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !subjects.borrow().is_empty() {
                tick.tick().await;
                self.look();
                if let Some(couriers) = &mut couriers {
                    couriers.send(&self.keeper.peers(), || self.letter());
                }
            }
            self.counts.cut.peers.set(0);
        }
    }

    /// Takes a look at everything that is watched.
    pub fn look(&self) {
        let subjects = self.keeper.subjects().borrow().clone();
        let mut state = self.lock();
        self.turn_to(&mut state, &subjects);
        for subject in subjects.iter() {
            let Subject { route, run, detector, controlled, .. } = subject;
            let totals = |revision: &str| self.plane.ledger.in_steps(route, *run, revision);
            let (candidate, control) = (totals(&detector.revision), totals(&detector.control));
            let suspect = state.suspects.entry(Key::of(subject)).or_default();
            suspect.look(candidate, control, detector, *controlled);
            self.act(subject, suspect);
        }
    }

    /// A peer told what it knows. Its cuts are obeyed at once, its evidence is looked at with the next look.
    pub fn hear(&self, told: Exchange) -> ExchangeReply {
        let reply = ExchangeReply { process: self.process.clone() };
        // A router that does not know its own address calls itself once.
        if told.process == self.process || told.process.len() > LONGEST_PROCESS {
            return reply;
        }
        self.counts.cut.heard.inc();
        self.keeper.cut(told.cuts, Origin::Peer);
        let subjects = self.keeper.subjects().borrow().clone();
        let mut state = self.lock();
        self.turn_to(&mut state, &subjects);
        for Sum { uid, run, revision, sum } in told.sums {
            let is_it = |subject: &&Subject| {
                subject.uid == uid && subject.run == run && subject.detector.revision == revision
            };
            // What no table of ours watches is told again when one does.
            let Some(subject) = subjects.iter().find(is_it) else { continue };
            let suspect = state.suspects.entry(Key::of(subject)).or_default();
            suspect.hear(&told.process, told.number, sum, &subject.detector);
        }
        reply
    }

    /// What to tell peers now.
    pub fn message(&self) -> Exchange {
        let cuts: Vec<KnownCut> = self.keeper.known_cuts();
        let mut state = self.lock();
        let number = state.number;
        state.number += 1;
        // Where there are too many for one message, each message goes on where the last one ended.
        let turn = |length: usize| match length {
            0..=ENTRIES => 0,
            more => (usize::try_from(number).unwrap_or(0) % more) * ENTRIES % more,
        };
        let (sums, told) = (state.suspects.len(), cuts.len());
        let sums = state.suspects.iter().cycle().skip(turn(sums)).take(sums.min(ENTRIES));
        let sums = sums.map(|(key, suspect)| Sum {
            uid: key.uid.clone(),
            run: key.run,
            revision: key.revision.clone(),
            sum: suspect.sum(),
        });
        Exchange {
            process: self.process.clone(),
            number,
            sums: sums.collect(),
            cuts: cuts.into_iter().cycle().skip(turn(told)).take(told.min(ENTRIES)).collect(),
        }
    }

    /// The evidence about all that is watched, with the names of routes.
    pub fn suspicions(&self) -> Vec<(String, Suspicion)> {
        let state = self.lock();
        let known = |subject: &Subject| {
            let suspect = state.suspects.get(&Key::of(subject))?;
            let suspicion = Suspicion {
                run: subject.run,
                revision: subject.detector.revision.clone(),
                harm_log10: suspect.log10(),
                alarm: suspect.alarm().is_some(),
            };
            Some((subject.route.clone(), suspicion))
        };
        state.subjects.iter().filter_map(known).collect()
    }

    /// [`Detectors::message`] as it is sent.
    fn letter(&self) -> Bytes {
        match serde_json::to_vec(&self.message()) {
            Ok(text) => text.into(),
            Err(error) => {
                tracing::error!(%error, "what is known about harm could not be written as JSON");
                Bytes::new()
            }
        }
    }

    /// Cuts what did harm, or says why not. What was withheld is looked at again each time.
    fn act(&self, subject: &Subject, suspect: &mut Suspect) {
        let Subject { route, uid, run, detector, .. } = subject;
        let Some(alarm) = suspect.alarm() else { return };
        if self.keeper.is_cut(uid, *run, &detector.revision) {
            return;
        }
        let because = text::cut(&alarm.because, LONGEST_REASON).to_owned();
        let why = if detector.observe {
            Withheld::Observe
        } else if self.keeper.is_cut(uid, *run, &detector.control) || !self.is_ready(route, &detector.control)
        {
            Withheld::NoControl
        } else {
            let cut = Cut {
                run: *run,
                revision: detector.revision.clone(),
                because,
                by: text::cut(&self.name, LONGEST_NAME).to_owned(),
                at: Time(Timestamp::now()),
                bad_ppm: alarm.bad_ppm,
            };
            self.keeper.cut([KnownCut { uid: uid.clone(), cut }], Origin::Own);
            return;
        };
        if suspect.withhold(why) {
            self.counts.cut.withheld(why);
            let what = match why {
                Withheld::Observe => "the table says to observe",
                Withheld::NoControl => "its control has no ready pod; it is cut as soon as there is one",
            };
            let revision = &detector.revision;
            tracing::warn!(route, run, revision, because, "harm, and no cut: {what}");
        }
    }

    fn is_ready(&self, route: &str, revision: &str) -> bool {
        let revisions = self.plane.revisions();
        let known = revisions.get(&(route.to_owned(), revision.to_owned()));
        known.is_some_and(|revision| revision.ready_endpoints() > 0)
    }

    /// Forgets evidence about runs that are over when what is watched has changed. Evidence lasts for the run, also
    /// through a step that does not watch.
    fn turn_to(&self, state: &mut State, subjects: &Arc<Vec<Subject>>) {
        if Arc::ptr_eq(&state.subjects, subjects) {
            return;
        }
        state.subjects = Arc::clone(subjects);
        let tables = self.plane.tables();
        let runs: BTreeMap<&str, u64> =
            tables.routes().map(|route| (route.version.uid.as_str(), route.run)).collect();
        state.suspects.retain(|key, _| runs.get(key.uid.as_str()) == Some(&key.run));
    }

    /// A panic while adding leaves evidence that is a little behind.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
