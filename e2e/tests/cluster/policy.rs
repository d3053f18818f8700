//! The policy of requests: who may ask for an action by annotation, and in whose name.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use stoker_api::ModelDeployment;
use stoker_api::names::annotations;
use stoker_e2e::cluster::{connect_as, until};
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{PATIENCE, Subject, short_spec};

/// What people ask about.
const NAME: &str = "digits";

/// Somebody with rights in one namespace.
struct Person {
    name: &'static str,
    api: Api<ModelDeployment>,
}

impl Person {
    /// Gives the ClusterRoles to a user of this name, and waits until the API server knows of all the verbs.
    async fn with(
        namespace: &TestNamespace,
        name: &'static str,
        roles: &[&str],
        verbs: &[&str],
    ) -> Result<Self> {
        let bindings = Api::<RoleBinding>::namespaced(namespace.client.clone(), &namespace.name);
        for role in roles {
            let binding = serde_json::from_value(json!({
                "metadata": {"generateName": format!("{role}-")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
            }))?;
            bindings.create(&PostParams::default(), &binding).await.context("creating a RoleBinding")?;
        }
        let reviews = Api::<SubjectAccessReview>::all(namespace.client.clone());
        for verb in verbs {
            let review: SubjectAccessReview = serde_json::from_value(json!({
                "metadata": {},
                "spec": {"user": name, "resourceAttributes": {
                    "group": "stoker.dev", "resource": "modeldeployments", "namespace": namespace.name, "verb": verb,
                }},
            }))?;
            until(&format!("{name} may {verb}"), PATIENCE, async || {
                let answer = reviews.create(&PostParams::default(), &review).await?;
                Ok(answer.status.is_some_and(|status| status.allowed).then_some(()))
            })
            .await?;
        }
        let client = connect_as(name, &["system:authenticated"]).await?;
        Ok(Self { name, api: Api::namespaced(client, &namespace.name) })
    }

    /// Changes annotations; null takes one away. The inner error is the API server's sentence.
    async fn annotates(&self, values: &Value) -> Result<Result<(), String>> {
        let change = json!({"metadata": {"annotations": values}});
        match self.api.patch(NAME, &PatchParams::default(), &Patch::Merge(&change)).await {
            Ok(_) => Ok(Ok(())),
            Err(kube::Error::Api(refusal)) => Ok(Err(refusal.message.clone())),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks under the own name.
    async fn asks(&self, request: &str, reason: Option<&str>) -> Result<Result<(), String>> {
        let mut values = json!({annotations::REQUEST: request, annotations::REQUESTED_BY: self.name});
        if let Some(reason) = reason {
            values[annotations::REASON] = json!(reason);
        }
        self.annotates(&values).await
    }
}

fn passes(what: &str, answer: Result<(), String>) -> Result<()> {
    answer.map_err(anyhow::Error::msg).with_context(|| format!("{what} was refused"))
}

fn refused(what: &str, answer: Result<(), String>, sentence: &str) -> Result<()> {
    let Err(message) = answer else { bail!("{what} passed") };
    ensure!(message.contains(sentence), "{what}: no {sentence:?} in {message:?}");
    Ok(())
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn nobody_asks_in_the_name_of_another() {
    case("forged", async |namespace| {
        Subject::new(namespace, NAME).apply(&short_spec("configmap://digits/v1.onnx")).await?;
        let subject = format!("{}/{NAME}", namespace.name);
        let ann = Person::with(namespace, "ann", &["edit"], &["patch"]).await?;
        let bob = Person::with(namespace, "bob", &["edit"], &["patch"]).await?;

        let forged = json!({annotations::REQUEST: "abort 1", annotations::REQUESTED_BY: "bob"});
        let sentence = format!(
            "stoker.dev/requested-by of {subject} says bob, but ann asks for `abort`; write stoker.dev/requested-by: ann"
        );
        refused("a forged name", ann.annotates(&forged).await?, &sentence)?;
        let unsigned = json!({annotations::REQUEST: "abort 1"});
        let sentence = format!("stoker.dev/requested-by of {subject} is missing, but ann asks for `abort`");
        refused("no name", ann.annotates(&unsigned).await?, &sentence)?;
        passes("the own name", ann.asks("abort 1", None).await?)?;

        // Ann's name stands there now.
        let sentence = format!("requested-by of {subject} says ann, but bob asks for `retry`");
        let next = json!({annotations::REQUEST: "retry 2"});
        refused("a request under the name that stands there", bob.annotates(&next).await?, &sentence)?;
        let sentence = format!("requested-by of {subject} says ann, but bob asks for `abort`");
        let reason = json!({annotations::REASON: "because bob says so"});
        refused("another reason for ann's request", bob.annotates(&reason).await?, &sentence)?;

        // The operator takes the first word by any white space: the policy must read the same.
        for odd in [" abort 3", "abort\t3", "abort\u{a0}3", "abort 3\nabort", "Abort 3", "abort/ 3", ""] {
            let sentence = format!("stoker.dev/request of {subject} is not in the form `<verb>[/<revision>]");
            refused(&format!("{odd:?}"), ann.asks(odd, None).await?, &sentence)?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn promoting_and_approving_are_rights_of_their_own() {
    case("rights", async |namespace| {
        Subject::new(namespace, NAME).apply(&short_spec("configmap://digits/v1.onnx")).await?;
        let subject = format!("{}/{NAME}", namespace.name);
        let ann = Person::with(namespace, "ann", &["edit"], &["patch"]).await?;
        let bob = Person::with(namespace, "bob", &["stoker-promoter"], &["patch", "promote"]).await?;
        let cyd = Person::with(namespace, "cyd", &["stoker-approver"], &["patch", "approve"]).await?;
        let dee = Person::with(namespace, "dee", &["admin"], &["patch", "promote", "approve"]).await?;

        for verb in ["promote", "promote-full"] {
            let sentence = format!(
                "ann may not ask for `{verb}` of {subject}: the right to the verb promote on modeldeployments.stoker.dev is missing; ClusterRole stoker-promoter grants it"
            );
            refused(verb, ann.asks(&format!("{verb} 1"), None).await?, &sentence)?;
        }
        let sentence = format!("ann may not ask for `promote` of {subject}");
        refused("with a revision", ann.asks("promote/digits-0123456789 1", None).await?, &sentence)?;
        passes("what needs no right", ann.asks("pause 1", None).await?)?;

        for person in [&bob, &dee] {
            for verb in ["promote", "promote-full", "promote/digits-0123456789"] {
                let request = format!("{verb} {}", person.name);
                passes(&request, person.asks(&request, None).await?)?;
            }
        }
        let sentence = format!(
            "bob may not ask for `approve` of {subject}: the right to the verb approve on modeldeployments.stoker.dev is missing; ClusterRole stoker-approver grants it"
        );
        refused("a promoter's approval", bob.asks("approve 1", Some("looks fine")).await?, &sentence)?;
        let sentence = format!("cyd may not ask for `promote` of {subject}");
        refused("an approver's promotion", cyd.asks("promote 1", None).await?, &sentence)?;

        let sentence = format!("an approval of {subject} wants a reason; write stoker.dev/reason");
        refused("an approval without a reason", cyd.asks("approve 1", None).await?, &sentence)?;
        refused("an approval for a blank", cyd.asks("approve 1", Some("  ")).await?, &sentence)?;
        let long = "ä".repeat(129);
        let sentence = format!("stoker.dev/reason of {subject} has 258 bytes; at most 256 are kept");
        refused("a long reason", cyd.asks("approve 1", Some(&long)).await?, &sentence)?;
        passes("an approval", cyd.asks("approve 1", Some("errors are those of a client")).await?)?;
        passes("an admin's approval", dee.asks("approve 2", Some("checked by hand")).await?)?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn an_old_request_is_in_nobodys_way() {
    case("old-request", async |namespace| {
        let digits = Subject::new(namespace, NAME);
        let mut spec = short_spec("configmap://digits/v1.onnx");
        digits.apply(&spec).await?;
        let ann = Person::with(namespace, "ann", &["edit"], &["patch"]).await?;
        // As a GitOps controller: it changes what Git holds, and neither knows of requests nor may promote.
        let git = Person::with(namespace, "gitops", &["edit"], &["patch", "create"]).await?;
        passes("the request", ann.asks("abort 1", None).await?)?;

        spec["replicas"] = json!(2);
        let object = json!({
            "apiVersion": "stoker.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": NAME, "labels": {"from": "git"}, "annotations": {"team": "vision"}},
            "spec": spec,
        });
        let params = PatchParams::apply("gitops-controller").force();
        git.api.patch(NAME, &params, &Patch::Apply(&object)).await.context("the apply was refused")?;
        passes("another annotation", git.annotates(&json!({"team": "vision-2"})).await?)?;
        // The operator writes its answer as before.
        let seen = digits.until("answers the new spec", PATIENCE, |_| true).await?;
        let annotated = seen.metadata.annotations.unwrap_or_default();
        ensure!(annotated.get(annotations::REQUEST).map(String::as_str) == Some("abort 1"), "{annotated:?}");

        let none =
            json!({annotations::REQUEST: null, annotations::REQUESTED_BY: null, annotations::REASON: null});
        passes("taking the request away", git.annotates(&none).await?)?;
        Ok(())
    });
}
