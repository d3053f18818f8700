//! The cache as requests use it: never a wrong answer, one run for those that come together, and no error for others.

use prometheus_client::registry::Registry;
use proptest::prelude::*;
use stoker_graph::Data;

use super::*;
use crate::metrics::ModelLabels;

const LIFE: Duration = Duration::from_secs(100);

fn settings() -> Settings {
    Settings { budget: 256 << 10, time_to_live: LIFE, worth: WorthSettings::default() }
}

/// A cache with the registry of its counts.
fn cache_with(settings: Settings, fingerprint: Fingerprint, now: Instant) -> (Arc<Cache>, Registry) {
    let mut registry = Registry::default();
    let metrics = CacheFamilies::new(&mut registry).of(&ModelLabels { model: "m".into() });
    let model = Digest::from_raw([1; 32]);
    (Arc::new(Cache::new(settings, model, fingerprint, metrics, now)), registry)
}

fn cache(now: Instant) -> (Arc<Cache>, Registry) {
    cache_with(settings(), keyed_fingerprint(), now)
}

/// A count of the cache.
fn count(registry: &Registry, name: &str) -> i64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let series = match name.split_once('{') {
        Some((family, labels)) => format!("{family}{{model=\"m\",{labels}"),
        None => format!("{name}{{model=\"m\"}}"),
    };
    let line = text.lines().find(|line| line.split_once(' ').is_some_and(|(start, _)| start == series));
    line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).split_once(' ').unwrap().1.parse().unwrap()
}

fn numbers(items: &[f32]) -> Value {
    Value::new(vec![items.len()], Data::F32(items.to_vec())).unwrap()
}

fn outputs(items: &[f32]) -> Vec<(usize, Value)> {
    vec![(0, numbers(items))]
}

fn key(cache: &Cache, items: &[f32]) -> Arc<Key> {
    cache.key(vec![numbers(items)], vec![0])
}

fn lead(begin: Begin) -> Lead {
    match begin {
        Begin::Lead(lead) => lead,
        Begin::Hit(_) => panic!("a hit"),
        Begin::Follow(_) => panic!("a follower"),
        Begin::Alone => panic!("alone"),
    }
}

fn follower(begin: Begin) -> Follower {
    match begin {
        Begin::Follow(follower) => follower,
        _ => panic!("nobody to follow"),
    }
}

/// The outputs of a hit.
fn hit(begin: Begin) -> Option<Vec<(usize, Value)>> {
    match begin {
        Begin::Hit(hit) => Some(hit.outputs()),
        _ => None,
    }
}

fn keep(cache: &Arc<Cache>, key: &Arc<Key>, answer: &[f32], now: Instant) {
    lead(cache.begin(key, Directives::default(), now)).succeed(
        &outputs(answer),
        Duration::from_millis(1),
        now,
    );
}

#[test]
fn keys_are_the_same_to_the_bit_and_in_all_parts() {
    let model = Digest::from_raw([1; 32]);
    let of = |data: Data| Key::new(model, vec![Value::new(vec![data.len()], data).unwrap()], vec![0, 1]);
    let shaped = |shape: &[usize]| {
        Key::new(model, vec![Value::new(shape.to_vec(), Data::U8(vec![0; 4])).unwrap()], vec![0])
    };
    let text = |items: &[&str]| of(Data::String(items.iter().map(|item| (*item).to_owned()).collect()));
    let others = [
        (of(Data::F32(vec![0.0])), of(Data::F32(vec![-0.0]))),
        (of(Data::F32(vec![f32::NAN])), of(Data::F32(vec![f32::from_bits(f32::NAN.to_bits() ^ 1)]))),
        (of(Data::U32(vec![1])), of(Data::I32(vec![1]))),
        (of(Data::U8(vec![1])), of(Data::Bool(vec![true]))),
        (text(&["ab", "c"]), text(&["a", "bc"])),
        (shaped(&[4]), shaped(&[2, 2])),
        (shaped(&[4, 1]), shaped(&[1, 4])),
        (Key::new(model, vec![], vec![0, 1]), Key::new(model, vec![], vec![1, 0])),
        (Key::new(model, vec![], vec![0]), Key::new(Digest::from_raw([2; 32]), vec![], vec![0])),
        (
            Key::new(model, vec![numbers(&[1.0])], vec![]),
            Key::new(model, vec![numbers(&[1.0]), numbers(&[1.0])], vec![]),
        ),
    ];
    let fingerprint = keyed_fingerprint();
    for (a, b) in &others {
        assert!(!a.is_same(b) && fingerprint(a) != fingerprint(b), "{a:?} and {b:?}");
        assert!(a.is_same(a) && b.is_same(b), "{a:?} and {b:?}");
    }
    let nan = || of(Data::F32(vec![f32::NAN]));
    assert!(nan().is_same(&nan()) && fingerprint(&nan()) == fingerprint(&nan()));
    // Another process has another key.
    assert_ne!(keyed_fingerprint()(&nan()), fingerprint(&nan()));
}

#[test]
fn memory_of_keys_counts_what_they_hold() {
    let model = Digest::from_raw([1; 32]);
    let bytes =
        |data: Data| Key::new(model, vec![Value::new(vec![data.len()], data).unwrap()], vec![0]).bytes();
    let base = bytes(Data::F32(Vec::new()));
    assert_eq!(bytes(Data::F32(vec![0.0; 100])) - base, 400);
    let mut roomy = Vec::with_capacity(1000);
    roomy.push(0.0_f64);
    assert_eq!(bytes(Data::F64(roomy)) - base, 8000);
    let text = "x".repeat(500);
    assert!(bytes(Data::String(vec![text])) - base >= 524);
}

#[test]
fn an_answer_is_given_again_until_its_time_is_over() {
    let now = Instant::now();
    let (cache, registry) = cache(now);
    let (one, other) = (key(&cache, &[1.0]), key(&cache, &[2.0]));
    keep(&cache, &one, &[10.0], now);
    assert_eq!(hit(cache.begin(&one, Directives::default(), now)), Some(outputs(&[10.0])));
    assert!(hit(cache.begin(&other, Directives::default(), now)).is_none());
    match cache.begin(&one, Directives::default(), now + LIFE / 2) {
        Begin::Hit(hit) => assert_eq!(hit.age, LIFE / 2),
        _ => panic!("it is in the cache"),
    }
    assert!(hit(cache.begin(&one, Directives::default(), now + LIFE)).is_none());
    let counts =
        ["cache_hits_total", "cache_misses_total", "cache_expired_total", "cache_entries", "cache_enabled"];
    assert_eq!(counts.map(|name| count(&registry, name)), [2, 3, 1, 0, 1]);
}

#[test]
fn directives_are_obeyed() {
    let now = Instant::now();
    let (cache, registry) = cache(now);
    let one = key(&cache, &[1.0]);
    assert!(matches!(cache.begin(&one, Directives::BYPASS, now), Begin::Alone));
    keep(&cache, &one, &[10.0], now);
    assert!(matches!(cache.begin(&one, Directives::BYPASS, now), Begin::Alone));
    let later = now + Duration::from_secs(10);
    let aged = |seconds| Directives { max_age: Some(Duration::from_secs(seconds)), ..Directives::default() };
    assert!(hit(cache.begin(&one, aged(10), later)).is_some());
    drop(lead(cache.begin(&one, aged(9), later)));
    // `no-cache`: it runs, waits for nobody, and the new answer is kept.
    let no_cache = Directives { reads: false, ..Directives::default() };
    let (first, second) =
        (lead(cache.begin(&one, no_cache, later)), lead(cache.begin(&one, no_cache, later)));
    first.succeed(&outputs(&[11.0]), Duration::from_millis(1), later);
    second.succeed(&outputs(&[12.0]), Duration::from_millis(1), later);
    assert_eq!(hit(cache.begin(&one, Directives::default(), later)), Some(outputs(&[12.0])));
    assert_eq!(count(&registry, "cache_bypassed_total{reason=\"request\"}"), 2);
}

#[tokio::test]
async fn those_who_come_while_it_runs_wait_for_one_run() {
    let now = Instant::now();
    let (cache, registry) = cache(now);
    let one = key(&cache, &[1.0]);
    let first = lead(cache.begin(&one, Directives::default(), now));
    let followers: Vec<_> =
        (0..100).map(|_| follower(cache.begin(&one, Directives::default(), now))).collect();
    first.succeed(&outputs(&[10.0]), Duration::from_millis(1), now);
    for follower in followers {
        match follower.end().await {
            Followed::Answered(given) => assert_eq!(given, outputs(&[10.0])),
            Followed::Failed | Followed::GivenUp => panic!("it was answered"),
        }
    }
    let counts = ["cache_misses_total", "cache_coalesced_total", "cache_hits_total"];
    assert_eq!(counts.map(|name| count(&registry, name)), [1, 100, 0]);
}

#[tokio::test]
async fn a_lead_that_fails_or_goes_away_leaves_its_place_to_another() {
    let now = Instant::now();
    let (cache, registry) = cache(now);
    let one = key(&cache, &[1.0]);
    let begin = || cache.begin(&one, Directives::default(), now);
    let (gone, waits) = (lead(begin()), follower(begin()));
    drop(gone);
    assert!(matches!(waits.end().await, Followed::GivenUp));
    let (fails, waits) = (lead(begin()), follower(begin()));
    fails.fail();
    assert!(matches!(waits.end().await, Followed::Failed));
    // Nothing is kept of either.
    let (third, waits) = (lead(begin()), follower(begin()));
    third.succeed(&outputs(&[10.0]), Duration::from_millis(1), now);
    assert!(matches!(waits.end().await, Followed::Answered(_)));
    assert_eq!((count(&registry, "cache_entries"), count(&registry, "cache_misses_total")), (1, 3));
}

#[test]
fn keys_under_way_are_part_of_the_budget() {
    let now = Instant::now();
    let (cache, registry) = cache(now);
    let large = vec![1.0; settings().budget / 8 / 4];
    assert!(matches!(cache.begin(&key(&cache, &large), Directives::default(), now), Begin::Alone));
    assert_eq!(count(&registry, "cache_bypassed_total{reason=\"large\"}"), 1);

    let mut leads = Vec::new();
    let mut item = 0.0;
    let alone = loop {
        item += 1.0;
        match cache.begin(&key(&cache, &[item; 500]), Directives::default(), now) {
            Begin::Lead(lead) => leads.push(lead),
            Begin::Alone => break leads.len(),
            _ => panic!("no two keys are the same"),
        }
        assert!(count(&registry, "cache_bytes") <= 256 << 10);
    };
    assert!((10..20).contains(&alone), "{alone} keys of 2 kB in 32 KiB");
    assert_eq!(count(&registry, "cache_bypassed_total{reason=\"busy\"}"), 1);
    drop(leads);
    assert_eq!(count(&registry, "cache_bytes"), 0);
    assert!(matches!(cache.begin(&key(&cache, &[0.5; 500]), Directives::default(), now), Begin::Lead(_)));
}

#[test]
fn a_cache_that_costs_more_than_it_saves_is_switched_off_and_tried_again() {
    let now = Instant::now();
    let worth = WorthSettings { window: 10, patience: 2, ..WorthSettings::default() };
    let (cache, registry) = cache_with(Settings { worth, ..settings() }, keyed_fingerprint(), now);
    let mut item = 0.0;
    // No request comes twice.
    let mut leads = || {
        let mut leads = 0;
        loop {
            item += 1.0;
            match cache.begin(&key(&cache, &[item]), Directives::default(), now) {
                Begin::Lead(lead) => lead.succeed(&outputs(&[item]), Duration::from_millis(1), now),
                Begin::Alone => return leads,
                _ => panic!("no two keys are the same"),
            }
            leads += 1;
        }
    };
    assert_eq!(leads(), 20);
    let counts = ["cache_switched_off_total", "cache_enabled"];
    assert_eq!(counts.map(|name| count(&registry, name)), [1, 0]);
    let later = now + worth.first_pause;
    assert!(matches!(cache.begin(&key(&cache, &[0.5]), Directives::default(), later), Begin::Lead(_)));
    assert_eq!(count(&registry, "cache_enabled"), 1);
}

/// What a request does in the property below.
#[derive(Clone, Debug)]
enum Step {
    Begin { name: u8, no_cache: bool },
    Succeed(prop::sample::Index),
    Fail(prop::sample::Index),
    GiveUp(prop::sample::Index),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..12, prop::bool::weighted(0.1)).prop_map(|(name, no_cache)| Step::Begin { name, no_cache }),
        4 => any::<prop::sample::Index>().prop_map(Step::Succeed),
        1 => any::<prop::sample::Index>().prop_map(Step::Fail),
        1 => any::<prop::sample::Index>().prop_map(Step::GiveUp),
        1 => (0_u64..60).prop_map(Step::Wait),
    ]
}

proptest! {
    /// With a hash of `bits` bits keys collide all the time: still each request gets its own answer, not older than the
    /// time to live, and the budget holds.
    #[test]
    fn no_request_ever_gets_the_answer_of_another(
        bits in 0_u32..4,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut now = Instant::now();
        let strong = keyed_fingerprint();
        let weak: Fingerprint = Box::new(move |key| strong(key) & ((1 << bits) - 1));
        let (cache, _registry) = cache_with(settings(), weak, now);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut leads, mut followers) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Begin { name, no_cache } => {
                    let directives = Directives { reads: !no_cache, ..Directives::default() };
                    match cache.begin(&key(&cache, &[f32::from(name)]), directives, now) {
                        Begin::Hit(hit) => {
                            prop_assert!(hit.age < LIFE && !no_cache);
                            prop_assert_eq!(hit.outputs(), outputs(&[f32::from(name); 50]));
                        }
                        Begin::Lead(lead) => leads.push((name, lead)),
                        Begin::Follow(follower) => {
                            prop_assert!(!no_cache && leads.iter().any(|(leading, _)| *leading == name));
                            followers.push((name, follower));
                        }
                        Begin::Alone => {}
                    }
                }
                Step::Succeed(which) if !leads.is_empty() => {
                    let (name, lead) = leads.swap_remove(which.index(leads.len()));
                    lead.succeed(&outputs(&[f32::from(name); 50]), Duration::from_secs(1), now);
                }
                Step::Fail(which) if !leads.is_empty() => {
                    leads.swap_remove(which.index(leads.len())).1.fail();
                }
                Step::GiveUp(which) if !leads.is_empty() => drop(leads.swap_remove(which.index(leads.len()))),
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Succeed(_) | Step::Fail(_) | Step::GiveUp(_) => {}
            }
            let state = cache.lock();
            prop_assert!(state.store.bytes() + state.flights.bytes() <= settings().budget);
        }
        drop(leads);
        for (name, follower) in followers {
            if let Followed::Answered(given) = runtime.block_on(follower.end()) {
                prop_assert_eq!(given, outputs(&[f32::from(name); 50]));
            }
        }
        // Whatever happened, nothing is under way any more.
        let state = cache.lock();
        prop_assert_eq!(state.flights.bytes(), 0);
    }
}
