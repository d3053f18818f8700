//! Runs: golden ones first, then one for each fault at each write.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream};
use serde_json::json;

use super::ground::Ground;
use super::picture::Picture;
use super::report::Report;
use super::scenario::{STORY, Scenario};
use super::stage::{Stage, quiescent};
use crate::namespace::TestNamespace;
use crate::proxy::{Disturbance, Fault, Proxy, Write};

/// An operator that has come to rest writes nothing for this long: several looks, had it anything to look after.
const REST: Duration = Duration::from_secs(3);
/// What is asked for at the end of a golden run.
const LONG_REST: Duration = Duration::from_secs(15);
/// Between two looks at a story.
const LOOK: Duration = Duration::from_millis(500);
/// Differences that are told of one run.
const LINES: usize = 12;
/// Runs differ in a write or two (how often a look comes between two events), so a few more than the golden run had are tried.
const BEYOND: usize = 2;
/// Faults that leave the operator alive happen to every third write of a run, from the first, the second and the third on: three
/// runs for what would else be as many as there are writes.
const STRIDE: usize = 3;

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every fault at every write.
    Full,
    /// Two deaths in each story and one other fault, each fault at least once.
    Short,
}

/// The sweep.
pub struct Sweep<'a> {
    ground: &'a Ground,
    parallel: usize,
}

/// How a story ends undisturbed, and the writes that it takes.
struct Golden {
    scenario: Scenario,
    picture: Picture,
    writes: Vec<String>,
}

/// One run that is to be made.
#[derive(Clone, Copy)]
struct Trial<'a> {
    golden: &'a Golden,
    name: &'static str,
    disturbance: Disturbance,
}

/// What came of a run.
pub struct Outcome {
    /// The story.
    pub scenario: &'static str,
    /// The fault's name.
    pub fault: &'static str,
    /// What was to happen.
    pub disturbance: Disturbance,
    /// The writes that were disturbed; none where the story had fewer.
    pub struck: Vec<String>,
    /// What differs from the golden run; empty when nothing does.
    pub divergences: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Disturbance { from, every, .. } = self.disturbance;
        write!(f, "{}: {} at write {from}", self.scenario, self.fault)?;
        match (every, self.struck.first()) {
            (Some(every), _) => write!(f, " and every {every} writes later, {} in all", self.struck.len()),
            (None, Some(struck)) => write!(f, " ({struck})"),
            (None, None) => Ok(()),
        }
    }
}

/// The end of one run, before it is compared.
struct End {
    picture: Picture,
    writes: Vec<Write>,
    struck: Vec<String>,
    wrong: Vec<String>,
}

impl<'a> Sweep<'a> {
    /// With so many runs side by side. Logs of runs that diverged stay in the ground's folder.
    pub fn new(ground: &'a Ground, parallel: usize) -> Result<Self> {
        ensure!(parallel > 0, "at least one run at a time is needed");
        Ok(Self { ground, parallel })
    }

    /// Makes all runs. `told` hears of each that is done.
    pub async fn sweep(
        &self,
        scenarios: &[Scenario],
        extent: Extent,
        faults: &[(&'static str, Fault)],
        mut told: impl FnMut(&str),
    ) -> Result<Report> {
        let started = Instant::now();
        let goldens = self.goldens(scenarios, extent, &mut told).await?;
        let trials: Vec<_> = goldens.iter().flat_map(|golden| trials(golden, extent, faults)).collect();
        told(&format!("{} runs with a fault, {} side by side", trials.len(), self.parallel));
        let mut report = Report::default();
        let mut outcomes =
            stream::iter(trials).map(|trial| self.attempt(trial)).buffer_unordered(self.parallel);
        while let Some(outcome) = outcomes.next().await {
            let outcome = outcome?;
            let verdict = match (outcome.struck.is_empty(), outcome.divergences.is_empty()) {
                (_, false) => format!("DIVERGED\n    {}", outcome.divergences.join("\n    ")),
                (true, true) => "the same end; the story had fewer writes".to_owned(),
                (false, true) => "the same end".to_owned(),
            };
            told(&format!("{outcome}: {verdict}, {:.0} s", outcome.took.as_secs_f64()));
            report.add(outcome);
        }
        drop(outcomes);
        for golden in goldens.iter().filter(|_| extent == Extent::Full) {
            report.expect(golden.scenario.name(), &golden.writes);
        }
        report.finish(scenarios.len(), started.elapsed());
        Ok(report)
    }

    /// Each story twice, undisturbed, with the same end.
    async fn goldens(
        &self,
        scenarios: &[Scenario],
        extent: Extent,
        told: &mut impl FnMut(&str),
    ) -> Result<Vec<Golden>> {
        let times = if extent == Extent::Short { 1 } else { 2 };
        let rest = if extent == Extent::Short { REST } else { LONG_REST };
        let runs = scenarios.iter().flat_map(|scenario| std::iter::repeat_n(*scenario, times));
        let runs = runs.map(|scenario| async move {
            let end = self.run(scenario, None, None, rest).await;
            (scenario, end.with_context(|| format!("{}, undisturbed", scenario.name())))
        });
        let mut ends = stream::iter(runs).buffered(self.parallel);
        let mut goldens: Vec<Golden> = Vec::new();
        while let Some((scenario, end)) = ends.next().await {
            let end = end?;
            ensure!(end.wrong.is_empty(), "{}, undisturbed: {}", scenario.name(), end.wrong.join("; "));
            let lines: Vec<String> = end.writes.into_iter().map(|write| write.what).collect();
            told(&format!(
                "{}, undisturbed: {} writes\n    {}",
                scenario.name(),
                lines.len(),
                lines.join("\n    ")
            ));
            match goldens.iter_mut().find(|golden| golden.scenario == scenario) {
                None => goldens.push(Golden { scenario, picture: end.picture, writes: lines }),
                Some(golden) => {
                    let differences = golden.picture.differences(&end.picture, LINES);
                    ensure!(
                        differences.is_empty(),
                        "{}: two undisturbed runs end differently:\n    {}",
                        scenario.name(),
                        differences.join("\n    ")
                    );
                    if lines.len() > golden.writes.len() {
                        golden.writes = lines;
                    }
                }
            }
        }
        Ok(goldens)
    }

    async fn attempt(&self, trial: Trial<'_>) -> Result<Outcome> {
        let (started, scenario) = (Instant::now(), trial.golden.scenario);
        let end = self.run(scenario, Some(trial.disturbance), Some(&trial.golden.picture), REST).await;
        let (struck, divergences) = match end {
            Ok(end) => {
                let mut wrong = end.wrong;
                wrong.extend(trial.golden.picture.differences(&end.picture, LINES));
                (end.struck, wrong)
            }
            Err(error) => (Vec::new(), vec![format!("{error:#}")]),
        };
        Ok(Outcome {
            scenario: scenario.name(),
            fault: trial.name,
            disturbance: trial.disturbance,
            struck,
            divergences,
            took: started.elapsed(),
        })
    }

    /// One story in a namespace of its own, to the end that `golden` shows, or that looks like one.
    async fn run(
        &self,
        scenario: Scenario,
        disturbance: Option<Disturbance>,
        golden: Option<&Picture>,
        rest: Duration,
    ) -> Result<End> {
        let namespace = TestNamespace::create(self.ground.client.clone(), scenario.name()).await?;
        let stage = Stage::new(self.ground, &namespace);
        let folder = stage.folder()?;
        let end = Box::pin(self.play(stage, &namespace, scenario, disturbance, golden, rest)).await;
        let well = end.as_ref().is_ok_and(|end| {
            end.wrong.is_empty() && golden.is_none_or(|golden| golden.differences(&end.picture, 1).is_empty())
        });
        self.ground.node.vacate(&namespace.name);
        namespace.delete().await;
        if well {
            // Logs that nobody will read.
            std::fs::remove_dir_all(&folder).ok();
            std::fs::remove_dir_all(self.ground.folder.join("pods").join(&namespace.name)).ok();
        }
        end.with_context(|| format!("namespace {}, logs in {}", namespace.name, folder.display()))
    }

    async fn play(
        &self,
        mut stage: Stage<'_>,
        namespace: &TestNamespace,
        scenario: Scenario,
        disturbance: Option<Disturbance>,
        golden: Option<&Picture>,
        rest: Duration,
    ) -> Result<End> {
        let proxy = Proxy::start(self.ground.upstream.clone()).await?;
        // Its first write comes many requests later.
        let operator = stage.operator("operator", &proxy, |_| ())?;
        proxy.set_victim(operator.kill());
        if scenario.begins_served() {
            let spec = scenario.spec(&stage);
            stage.subject.serve(&spec).await.context("before the story")?;
            scenario.prepare(&stage).await.context("before the story")?;
            quiescent(&proxy, Duration::from_millis(1500), STORY).await.context("before the story")?;
            stage.begin_load().await?;
        }
        proxy.arm(disturbance);
        scenario.act(&mut stage).await?;
        let picture = self.settle(&stage, &proxy, namespace, scenario, golden, rest).await?;
        stage.end_load().await?;
        let mut wrong = Vec::new();
        let harmful = scenario.harmful(stage.status().await?.as_ref());
        if let Some(ledger) = stage.ledger() {
            let failed = ledger.failed_but_for(harmful.as_deref());
            if failed > 0 || ledger.answers().is_empty() {
                wrong.push(format!("{failed} requests failed: {}", ledger.explain()));
            }
        }
        wrong.extend(operator.ends().into_iter().map(|how| format!("the operator ended by itself: {how}")));
        Ok(End { picture, writes: proxy.writes(), struck: proxy.struck(), wrong })
    }

    /// Waits for the end of the story and for the operator's rest, and takes the picture then.
    async fn settle(
        &self,
        stage: &Stage<'_>,
        proxy: &Proxy,
        namespace: &TestNamespace,
        scenario: Scenario,
        golden: Option<&Picture>,
        rest: Duration,
    ) -> Result<Picture> {
        let end = Instant::now() + STORY;
        let mut picture = None;
        while Instant::now() < end {
            let over = if scenario == Scenario::Delete {
                stage.is_gone().await?
            } else {
                scenario.is_over(stage.status().await?.as_ref())
            };
            if !over {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            quiescent(proxy, REST, STORY).await?;
            let mut now = Picture::take(&self.ground.client, &namespace.name).await?;
            now.note("pods that were started", json!(self.ground.node.started(&namespace.name)));
            let same = match golden {
                Some(golden) => golden.differences(&now, 1).is_empty(),
                // Undisturbed: nothing is on its way out any more.
                None => !now.is_moving() && picture.as_ref() == Some(&now),
            };
            picture = Some(now);
            if same {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        quiescent(proxy, rest, STORY).await?;
        let status = stage.status().await?;
        let said = status.map(|status| format!("{}: {}", status.phase.as_str(), status.message));
        picture
            .with_context(|| format!("the story did not end within {} s; status: {said:?}", STORY.as_secs()))
    }
}

/// The runs of a story.
fn trials<'a>(golden: &'a Golden, extent: Extent, faults: &[(&'static str, Fault)]) -> Vec<Trial<'a>> {
    let writes = golden.writes.len();
    let trial = |name, fault, from, every| {
        let disturbance = Disturbance { fault, from, every };
        Trial { golden, name, disturbance }
    };
    if extent == Extent::Full {
        let of = |(name, fault): &(&'static str, Fault)| {
            let (name, fault) = (*name, *fault);
            // The dead write nothing, so each death needs a run of its own.
            let (last, every) = if fault.kills() { (writes + BEYOND, None) } else { (STRIDE, Some(STRIDE)) };
            (1..=last).map(move |from| trial(name, fault, from, every)).collect::<Vec<_>>()
        };
        return faults.iter().flat_map(of).collect();
    }
    // Two deaths, and another fault in each story.
    let shift = Scenario::ALL.iter().position(|one| *one == golden.scenario).unwrap_or_default();
    let (kills, others): (Vec<_>, Vec<_>) = faults.iter().copied().partition(|(_, fault)| fault.kills());
    let deaths = kills.iter().cycle().skip(shift).zip([writes / 3, writes * 2 / 3]);
    let deaths = deaths.map(|((name, fault), from)| trial(*name, *fault, from.max(1), None));
    let other = others.get(shift % others.len().max(1));
    let other = other.map(|(name, fault)| trial(*name, *fault, 1 + shift % STRIDE, Some(STRIDE)));
    deaths.take(2 * kills.len().min(1)).chain(other).collect()
}
