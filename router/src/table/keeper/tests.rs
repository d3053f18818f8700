//! Tables of order: what is served after which readings.

use serde_json::json;

use super::*;

fn table(uid: &str, generation: i64, schema: u32) -> ModelRoute {
    serde_json::from_value(json!({
        "apiVersion": "stoker.dev/v1alpha1",
        "kind": "ModelRoute",
        "metadata": {"name": "digits", "namespace": "team", "uid": uid, "generation": generation,
            "annotations": {"large": "x"}},
        "spec": {"schema": schema, "run": 1, "step": 0,
            "rules": [{"salt": "s", "arms": [{"revision": "digits-a", "ppm": 1_000_000}]}]},
    }))
    .unwrap()
}

fn keeper() -> Keeper {
    Keeper::new(Arc::default(), "team", Counts::default())
}

fn serving(keeper: &Keeper) -> Option<(String, i64)> {
    let tables = keeper.plane.tables();
    tables.route("digits").map(|route| (route.version.uid.clone(), route.version.generation))
}

fn live(keeper: &Keeper, table: ModelRoute) -> Offer {
    keeper.offer(table, Origin::Live(keeper.changes()))
}

#[test]
fn higher_generations_are_served_and_lower_ones_read_again() {
    let keeper = keeper();
    assert_eq!(keeper.offer(table("u", 3, 1), Origin::Watch), Offer::Served);
    assert_eq!(keeper.offer(table("u", 3, 1), Origin::Watch), Offer::Known);
    assert_eq!(keeper.offer(table("u", 4, 1), Origin::Watch), Offer::Served);
    assert_eq!(keeper.offer(table("u", 3, 1), Origin::Watch), Offer::ReadAgain);
    assert_eq!(serving(&keeper), Some(("u".into(), 4)));
    assert_eq!(keeper.counts.regressions.get(), 0);
    // A live read says the same: the cluster was restored.
    assert_eq!(live(&keeper, table("u", 3, 1)), Offer::Served);
    assert_eq!(serving(&keeper), Some(("u".into(), 3)));
    assert_eq!(keeper.counts.regressions.get(), 1);
}

#[test]
fn a_live_read_that_was_overtaken_is_not_believed() {
    let keeper = keeper();
    keeper.offer(table("u", 3, 1), Origin::Watch);
    let seen = keeper.changes();
    keeper.offer(table("u", 5, 1), Origin::Watch);
    assert_eq!(keeper.offer(table("u", 4, 1), Origin::Live(seen)), Offer::ReadAgain);
    assert_eq!(serving(&keeper), Some(("u".into(), 5)));
    // Nor does it bring back what was deleted meanwhile.
    let seen = keeper.changes();
    keeper.removed("digits", None);
    assert_eq!(keeper.offer(table("u", 6, 1), Origin::Live(seen)), Offer::ReadAgain);
    assert_eq!(serving(&keeper), None);
}

#[test]
fn another_object_of_the_same_name_needs_a_live_read() {
    let keeper = keeper();
    keeper.offer(table("old", 9, 1), Origin::Watch);
    assert_eq!(keeper.offer(table("new", 1, 1), Origin::Watch), Offer::ReadAgain);
    assert_eq!(live(&keeper, table("new", 1, 1)), Offer::Served);
    assert_eq!(serving(&keeper), Some(("new".into(), 1)));
    assert_eq!(keeper.counts.regressions.get(), 0);
    // The deletion of the old one comes late.
    keeper.removed("digits", Some("old"));
    assert_eq!(serving(&keeper), Some(("new".into(), 1)));
    keeper.removed("digits", Some("new"));
    assert_eq!(serving(&keeper), None);
}

#[test]
fn a_table_of_a_newer_form_leaves_the_last_good_one() {
    let keeper = keeper();
    assert_eq!(keeper.offer(table("u", 1, 2), Origin::Watch), Offer::Refused);
    assert_eq!((serving(&keeper), keeper.refusal("digits").is_some()), (None, true));
    assert_eq!(keeper.offer(table("u", 2, 1), Origin::Watch), Offer::Served);
    assert_eq!(keeper.offer(table("u", 3, 2), Origin::Watch), Offer::Refused);
    assert_eq!(serving(&keeper), Some(("u".into(), 2)));
    assert!(keeper.refusal("digits").is_some_and(|why| why.contains("generation 3")));
    assert_eq!(keeper.offer(table("u", 4, 1), Origin::Watch), Offer::Served);
    assert_eq!(keeper.refusal("digits"), None);
}

#[test]
fn a_list_removes_what_it_does_not_have_and_reports_what_is_odd() {
    let keeper = keeper();
    keeper.offer(table("u", 5, 1), Origin::Watch);
    assert_eq!(keeper.listed(vec![table("u", 4, 1)]), ["digits"]);
    assert_eq!(serving(&keeper), Some(("u".into(), 5)));
    assert!(keeper.listed(Vec::<ModelRoute>::new()).is_empty());
    assert_eq!(serving(&keeper), None);
}

#[test]
fn it_is_ready_with_a_list_of_both_or_with_saved_tables() {
    let fresh = keeper();
    assert!(fresh.readiness().is_err());
    fresh.listed(vec![table("u", 5, 1)]);
    assert!(fresh.readiness().is_err());
    fresh.slices_listed(&[]);
    assert_eq!(fresh.readiness(), Ok(()));

    let restored = keeper();
    restored.restore(fresh.to_save());
    assert_eq!(restored.readiness(), Ok(()));
    assert_eq!(serving(&restored), Some(("u".into(), 5)));
}

#[test]
fn only_what_is_needed_is_saved() {
    let keeper = keeper();
    keeper.offer(table("u", 5, 1), Origin::Watch);
    let saved = keeper.to_save();
    assert_eq!(saved.routes[0].metadata.annotations, None);
    assert_eq!(saved.routes[0].metadata.generation, Some(5));
}

#[test]
fn the_older_table_has_a_host_that_two_claim() {
    let keeper = keeper();
    let claim = |name: &str, created: &str| {
        let mut object = table(name, 1, 1);
        object.metadata.name = Some(name.into());
        object.metadata.creation_timestamp = Some(serde_json::from_value(json!(created)).unwrap());
        object.spec.hosts = vec!["shop.example.com".into(), "b".into()];
        object
    };
    keeper.offer(claim("a", "2026-01-02T00:00:00Z"), Origin::Watch);
    keeper.offer(claim("b", "2026-01-01T00:00:00Z"), Origin::Watch);
    let tables = keeper.plane.tables();
    assert_eq!(tables.by_host("shop.example.com").unwrap().route.name, "b");
    // A name goes before what a table asks for.
    assert_eq!(tables.by_host("b").unwrap().route.name, "b");
    assert_eq!(tables.by_host("a.team.svc.cluster.local").unwrap().route.name, "a");
}
