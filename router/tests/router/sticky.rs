//! Rules by header, and units that stay where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use http::{Method, StatusCode};
use stoker_api::ModelRoute;
use stoker_api::route::{HeaderMatch, RouteRule, Unit};

use crate::world::{Got, Http, Pod, World, answer, closed_port, echo_headers, http, settings, table};

const INFER: &str = "/v2/models/digits/infer";

/// A table of stable `digits-a` and candidate `digits-b` at `ppm`, in run `run`.
fn split(generation: i64, run: u64, ppm: u32, unit: Option<Unit>) -> ModelRoute {
    let step = u32::try_from(generation).unwrap();
    let arms = [("digits-a", 1_000_000 - ppm, None), ("digits-b", ppm, Some("digits-a"))];
    let mut table = table("digits", generation, (run, step), &arms);
    table.spec.rules[0].unit = unit;
    table
}

/// The same with a rule for testers before, whose requests go to the candidate.
fn with_testers(mut table: ModelRoute, headers: &[(&str, &str)]) -> ModelRoute {
    let headers =
        headers.iter().map(|(name, value)| HeaderMatch { name: (*name).into(), value: (*value).into() });
    let mut arms = table.spec.rules[0].arms.clone();
    (arms[0].ppm, arms[1].ppm) = (0, 1_000_000);
    table.spec.rules.insert(
        0,
        RouteRule { headers: headers.collect(), salt: "testers".into(), arms, ..RouteRule::default() },
    );
    table
}

fn header_unit() -> Unit {
    Unit { header: Some("x-user-id".into()), cookie: None }
}

fn cookie_unit() -> Unit {
    Unit { header: None, cookie: Some("digits-unit".into()) }
}

async fn ask(world: &World, client: &Http, headers: &[(&str, &str)]) -> Got {
    let headers = [&[("host", "digits")], headers].concat();
    world.ask(client, Method::POST, INFER, &headers, "{}").await.unwrap()
}

/// All attempts of a revision, evidence or not.
fn total(world: &World, revision: &str) -> (u64, u64) {
    let totals = world.router.plane.ledger.totals("digits");
    totals.get(revision).map_or((0, 0), |tally| (tally.attempts, tally.errors))
}

/// Evidence about a revision, over all steps.
fn evidence(world: &World, revision: &str) -> (u64, u64) {
    let counts = world.router.plane.ledger.read("digits");
    let own = counts.iter().filter(|arm| arm.revision == revision);
    own.fold((0, 0), |sum, arm| (sum.0 + arm.attempts, sum.1 + arm.errors))
}

#[tokio::test]
async fn testers_get_their_arm_and_are_no_evidence() {
    let (stable, candidate) = (Pod::good().await, Pod::with(answer(StatusCode::NOT_FOUND)).await);
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[candidate.address])]);
    world.serve(with_testers(split(1, 1, 0, None), &[("x-tester", "yes"), ("x-team", "vision")]));
    let client = http();
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[], "digits-a"),
        (&[("x-tester", "yes")], "digits-a"),
        (&[("x-tester", "yes"), ("x-team", "speech")], "digits-a"),
        (&[("x-tester", "yes "), ("x-team", "visions")], "digits-a"),
        (&[("x-tester", "yes"), ("x-team", "vision")], "digits-b"),
        (&[("x-team", "speech"), ("x-tester", "no"), ("x-team", "vision"), ("X-Tester", "yes")], "digits-b"),
    ];
    for (headers, revision) in cases {
        assert_eq!(ask(&world, &client, headers).await.revision(), revision, "{headers:?}");
    }
    assert_eq!((evidence(&world, "digits-a"), total(&world, "digits-a")), ((4, 0), (4, 0)));
    // The errors of the candidate are known, and count neither for nor against it.
    assert_eq!((evidence(&world, "digits-b"), total(&world, "digits-b")), ((0, 0), (2, 2)));

    // Without pods the testers' arm falls back like any other.
    world.pods(&[("digits-a", &[stable.address])]);
    let got = ask(&world, &client, &[("x-tester", "yes"), ("x-team", "vision")]).await;
    assert_eq!((got.status, got.revision()), (200, "digits-a"));
    assert_eq!((evidence(&world, "digits-a"), total(&world, "digits-a")), ((4, 0), (5, 0)));
}

#[tokio::test]
async fn a_revision_that_only_testers_get_has_its_pods() {
    let (stable, candidate) = (Pod::good().await, Pod::good().await);
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[candidate.address])]);
    let mut table = with_testers(split(1, 1, 0, None), &[("x-tester", "yes")]);
    table.spec.rules[1].arms.truncate(1);
    world.serve(table);
    let client = http();
    for _ in 0..3 {
        assert_eq!(ask(&world, &client, &[("x-tester", "yes")]).await.revision(), "digits-b");
        // A reading of the state forgets what no table names.
        assert_eq!(world.in_flight("digits-b"), Some(0));
    }
    assert!(world.router.keeper.to_save().pods.contains_key("digits-b"));
}

#[tokio::test]
async fn users_move_only_to_the_candidate_while_its_weight_grows() {
    let (stable, candidate) = (Pod::good().await, Pod::good().await);
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[candidate.address])]);
    let client = http();
    let users: Vec<String> = (0..60).map(|user| format!("user-{user}@example.com")).collect();
    let (mut moved, mut halves) = (BTreeSet::new(), Vec::new());
    let mut generation = 0;
    for run in [1, 2] {
        moved.clear();
        for ppm in [0, 100_000, 500_000, 1_000_000] {
            generation += 1;
            world.serve(split(generation, run, ppm, Some(header_unit())));
            for user in &users {
                for _ in 0..3 {
                    let got = ask(&world, &client, &[("x-user-id", user)]).await;
                    match got.revision() {
                        "digits-b" => moved.insert(user.clone()),
                        "digits-a" => {
                            assert!(!moved.contains(user), "{user} came back at {ppm} ppm");
                            continue;
                        }
                        other => panic!("{other}"),
                    };
                }
            }
            if ppm == 500_000 {
                halves.push(moved.clone());
            }
            assert_eq!(moved.len() == users.len(), ppm == 1_000_000, "{} at {ppm} ppm", moved.len());
            assert_eq!(moved.is_empty(), ppm == 0, "{} at {ppm} ppm", moved.len());
        }
    }
    // The next run tries it with other users.
    assert_ne!(halves[0], halves[1]);
}

#[tokio::test]
async fn a_cookie_keeps_its_bearer_at_an_arm_and_names_none() {
    let (stable, candidate) = (Pod::with(echo_headers()).await, Pod::with(echo_headers()).await);
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[stable.address]), ("digits-b", &[candidate.address])]);
    world.serve(split(1, 1, 500_000, Some(cookie_unit())));
    let client = http();
    let mut arms = BTreeMap::<String, u32>::new();
    for _ in 0..40 {
        let first = ask(&world, &client, &[("cookie", "theme=dark")]).await;
        let set = first.headers["set-cookie"].to_str().unwrap().to_owned();
        let (pair, attributes) = set.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax");
        let id = pair.strip_prefix("digits-unit=").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{set}");

        let cookies = format!("theme=dark; {pair}; lang=en");
        for _ in 0..3 {
            let again = ask(&world, &client, &[("cookie", &cookies)]).await;
            assert_eq!(again.revision(), first.revision());
            assert!(!again.headers.contains_key("set-cookie"), "{:?}", again.headers);
            let seen: BTreeMap<String, String> = serde_json::from_slice(&again.body).unwrap();
            assert_eq!(seen["cookie"], "theme=dark; lang=en", "the pod sees all cookies but the router's");
        }
        *arms.entry(first.revision().to_owned()).or_default() += 1;
    }
    assert_eq!(arms.len(), 2, "{arms:?}");

    let bad = ask(&world, &client, &[("cookie", "digits-unit=digits-b")]).await;
    assert!(bad.headers["set-cookie"].to_str().unwrap().starts_with("digits-unit="));
    for (proto, secure) in [("https", true), ("HTTPS, http", true), ("http", false), ("http, https", false)] {
        let got = ask(&world, &client, &[("x-forwarded-proto", proto)]).await;
        let set = got.headers["set-cookie"].to_str().unwrap().to_owned();
        assert_eq!(set.ends_with("; Secure"), secure, "{proto}: {set}");
    }
}

#[tokio::test]
async fn a_unit_counts_at_most_once_a_second() {
    let pod = Pod::with(answer(StatusCode::INTERNAL_SERVER_ERROR)).await;
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[pod.address])]);
    world.serve(split(1, 1, 0, Some(header_unit())));
    let client = http();
    let start = Instant::now();
    for _ in 0..50 {
        ask(&world, &client, &[("x-user-id", "loop")]).await;
    }
    // As many seconds as began meanwhile.
    let seconds = start.elapsed().as_secs() + 2;
    let (attempts, errors) = evidence(&world, "digits-a");
    assert!((1..=seconds).contains(&attempts) && errors == attempts, "{errors} of {attempts}");
    assert_eq!(total(&world, "digits-a"), (50, 50));

    // Others count, and so do requests that name no unit.
    for user in 0..10 {
        ask(&world, &client, &[("x-user-id", &user.to_string())]).await;
        ask(&world, &client, &[]).await;
    }
    assert_eq!(evidence(&world, "digits-a"), (attempts + 20, errors + 20));
}

#[tokio::test]
async fn a_unit_that_is_tried_twice_counts_once() {
    let good = Pod::good().await;
    let world = World::new(settings()).await;
    world.pods(&[("digits-a", &[good.address, closed_port().await])]);
    world.serve(split(1, 1, 0, Some(header_unit())));
    let client = http();
    for user in 0..10 {
        assert_eq!(ask(&world, &client, &[("x-user-id", &user.to_string())]).await.status, 200);
    }
    let (attempts, errors) = total(&world, "digits-a");
    assert!(errors > 0 && attempts == 10 + errors, "{errors} of {attempts}");
    assert_eq!(evidence(&world, "digits-a"), (10, errors));
}
