//! Who gets the candidate: testers by a header, and units that stay with the revision that they came to.

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::{try_join, try_join_all};
use serde_json::{Value, json};
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_e2e::digits;
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{PATIENCE, Subject, patient_spec, revision};

use crate::client::Client;

/// Each assignment is asked for so many times: by as many testers, or by as many users. That none of 60 users is among the 20 %
/// of a step has a chance of one in 600,000.
const TIMES: usize = 60;

/// Serves v1, to be rolled out by `steps`.
async fn serve(subject: &Subject<'_>, traffic: &Value, steps: &Value) -> Result<()> {
    let mut spec = patient_spec("configmap://digits/v1.onnx");
    spec["traffic"] = traffic.clone();
    spec["rollout"]["steps"] = steps.clone();
    spec["rollout"]["minRequests"] = json!(10);
    subject.serve(&spec).await?;
    Ok(())
}

/// Waits until the run pauses at this step; all routers serve its table by then.
async fn paused_at(subject: &Subject<'_>, step: u32) -> Result<ModelDeploymentStatus> {
    let is_paused = |status: &ModelDeploymentStatus| {
        status.run.as_ref().is_some_and(|run| run.step == step)
            && status.message.contains("pauses until someone asks for `resume`")
    };
    let paused = subject.until(&format!("pauses at step {step}"), PATIENCE, is_paused).await?;
    Ok(paused.status.unwrap_or_default())
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn testers_get_the_candidate_before_anybody_else_does() {
    case("testers", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1), ("v2.onnx", digits::V2)]).await?;
        let digits = Subject::new(namespace, "digits");
        let traffic = json!({"match": [{"name": "x-tester", "value": "yes"}]});
        let steps = json!([{"pause": {}}, {"weight": 20, "duration": "1h"}]);
        serve(&digits, &traffic, &steps).await?;
        let v1 = revision("stable", digits.status().await?.stable.as_ref())?;
        let load = digits.load(30).await?;
        let client = Client::new(digits.address().await?, namespace, "digits")?;
        let all_get = async |value: &str, wanted: &str| {
            for _ in 0..TIMES {
                let got = client.infer(Some(("x-tester", value))).await?.revision;
                ensure!(got == wanted, "x-tester: {value} was answered by {got:?} and not by {wanted}");
            }
            Ok(())
        };
        all_get("yes", &v1).await.context("without a candidate")?;

        digits.set_uri("configmap://digits/v2.onnx").await?;
        let paused = paused_at(&digits, 1).await?;
        let v2 = revision("candidate", paused.candidate.as_ref())?;
        ensure!(paused.message.contains("gets 0 %"), "{}", paused.message);
        all_get("yes", &v2).await.context("at the first step")?;
        all_get("no", &v1).await.context("at the first step")?;
        ensure!(load.ledger().of(&v2).next().is_none(), "somebody else got it: {}", load.ledger().explain());

        digits.ask("resume", "1", |status| status.weight == Some(20)).await?;
        all_get("yes", &v2).await.context("while the weight changes")?;
        // Who was aborted leaves when all routers serve the table without it.
        let over = |status: &ModelDeploymentStatus| status.run.is_none() && status.leaving.is_empty();
        digits.ask("abort", "2", over).await?;
        all_get("yes", &v1).await.context("after the run")?;
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_unit_that_got_the_candidate_keeps_it_while_the_weight_grows() {
    case("sticky", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1), ("v2.onnx", digits::V2)]).await?;
        let by_header = stays(namespace, "users", json!({"header": "x-user"}), |number| {
            Some(("x-user", format!("user-{number}")))
        });
        // A browser comes without the cookie, and is given one.
        let by_cookie = stays(namespace, "browsers", json!({"cookie": "visitor"}), |_| None);
        try_join(by_header, by_cookie).await?;
        Ok(())
    });
}

/// Somebody who comes again, and where they were sent at first.
struct Unit {
    header: (&'static str, String),
    revision: String,
}

impl Unit {
    /// Comes for the first time.
    async fn new(client: &Client, own: Option<(&'static str, String)>) -> Result<Self> {
        let answer = client.infer(own.as_ref().map(|(name, value)| (*name, value.as_str()))).await?;
        let header = match (own, answer.cookie) {
            (Some(own), None) => own,
            (None, Some(given)) => {
                let pair = given.split(';').next().unwrap_or_default().to_owned();
                ensure!(pair.starts_with("visitor="), "the cookie is {given:?}");
                ensure!(!given.contains(&answer.revision), "the cookie names a revision: {given:?}");
                ("cookie", pair)
            }
            (own, cookie) => bail!("a request with {own:?} was given the cookie {cookie:?}"),
        };
        Ok(Self { header, revision: answer.revision })
    }

    /// Comes again. Returns the revision that answers now.
    async fn again(&self, client: &Client) -> Result<String> {
        let (name, value) = &self.header;
        let answer = client.infer(Some((name, value))).await?;
        ensure!(answer.cookie.is_none(), "{value:?} was given another cookie: {:?}", answer.cookie);
        Ok(answer.revision)
    }
}

/// A rollout to 20 and to 60 %, with units that `own` gives a header, or none.
async fn stays(
    namespace: &TestNamespace,
    name: &str,
    sticky: Value,
    own: impl Fn(usize) -> Option<(&'static str, String)>,
) -> Result<()> {
    let subject = Subject::new(namespace, name);
    let weight = |percent: u32| json!({"weight": percent, "duration": "1s"});
    let steps = json!([weight(20), {"pause": {}}, weight(60), {"pause": {}}]);
    serve(&subject, &json!({"sticky": sticky}), &steps).await?;
    let load = subject.load(40).await?;
    let client = Client::new(subject.address().await?, namespace, name)?;
    subject.set_uri("configmap://digits/v2.onnx").await?;
    let v2 = revision("candidate", paused_at(&subject, 2).await?.candidate.as_ref())?;

    let units = try_join_all((0..TIMES).map(|number| Unit::new(&client, own(number)))).await?;
    let (chosen, others): (Vec<_>, Vec<_>) = units.into_iter().partition(|unit| unit.revision == v2);
    ensure!(
        !chosen.is_empty() && !others.is_empty(),
        "{name}: {} of {TIMES} got the candidate",
        chosen.len()
    );
    for unit in chosen.iter().chain(&others) {
        let (now, Unit { header, revision }) = (unit.again(&client).await?, unit);
        ensure!(now == *revision, "{name}: {header:?} went from {revision} to {now} at the same weight");
    }

    // All the time in which the weight grows, they come again.
    subject.request("resume", "1").await?;
    loop {
        let status = subject.status().await?;
        let run = status.run.with_context(|| format!("{name}: the run ended: {}", status.message))?;
        for unit in &chosen {
            let now = unit.again(&client).await?;
            ensure!(now == v2, "{name}: {:?} went back from the candidate to {now}", unit.header);
        }
        if run.step == 4 {
            break;
        }
    }
    paused_at(&subject, 4).await?;
    let mut moved = 0;
    for unit in &others {
        moved += usize::from(unit.again(&client).await? == v2);
    }
    ensure!(moved > 0, "{name}: none of {} followed when the weight grew from 20 to 60 %", others.len());
    load.finish_without_failure().await?;
    Ok(())
}
