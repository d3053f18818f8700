//! The budget, the time to live, and who gives way, in simulated time.

use proptest::prelude::*;
use stoker_graph::Data;

use super::*;
use crate::artifact::Digest;

const BUDGET: usize = 64 << 10;
const LIFE: Duration = Duration::from_secs(100);

/// An answer of `count` numbers to the request `name`.
fn kept(name: i64, count: usize, now: Instant) -> Arc<Kept> {
    let value = |items: Vec<i64>| Value::new(vec![items.len()], Data::I64(items)).unwrap();
    let key = Arc::new(Key::new(Digest::from_raw([7; 32]), vec![value(vec![name])], vec![0]));
    Arc::new(Kept::new(key, &[(0, value(vec![name; count]))], LIFE, hash(name), now))
}

/// A hash whose upper bits differ, as those of a real one do.
fn hash(name: i64) -> u128 {
    u128::from(name.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64
        | u128::from(name.unsigned_abs())
}

/// Walks over the order and the tables: all must say the same.
fn check(store: &Store, reserved: usize) {
    let (mut count, mut bytes, mut at, mut before) = (0, 0, store.oldest, None);
    while let Some(place) = at {
        let Place { hash, kept, newer, older, .. } = &store.places[place];
        assert_eq!((*older, store.index.get(hash)), (before, Some(&place)));
        bytes += kept.as_ref().unwrap().bytes;
        count += 1;
        (before, at) = (Some(place), *newer);
    }
    assert_eq!((count, bytes, before), (store.index.len(), store.bytes, store.newest));
    assert_eq!(count + store.free.len(), store.places.len());
    assert!(store.hand.is_none_or(|hand| store.places[hand].kept.is_some()), "the hand points at nothing");
    assert!(store.bytes() + reserved <= store.budget, "{} + {reserved} bytes", store.bytes());
    assert!(store.places.capacity() <= store.places_limit && store.free.capacity() <= store.places_limit);
    assert!(store.index.capacity() <= 2 * store.places_limit);
}

fn finds(store: &mut Store, name: i64, now: Instant) -> bool {
    matches!(store.find(hash(name), now), Found::Fresh(_))
}

#[test]
fn answers_end_within_a_tenth_of_their_time_and_not_all_at_once() {
    let now = Instant::now();
    let ends: Vec<Duration> = (0..200).map(|name| kept(name, 1, now).until - now).collect();
    assert!(ends.iter().all(|end| (LIFE.mul_f64(0.9)..=LIFE).contains(end)), "{ends:?}");
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(*last > *first + LIFE / 20, "{first:?} to {last:?}");

    let mut store = Store::new(BUDGET);
    store.insert(hash(1), kept(1, 1, now), 0, now);
    assert!(finds(&mut store, 1, now + LIFE.mul_f64(0.89)));
    assert!(matches!(store.find(hash(1), now + LIFE), Found::Stale(_)));
    assert!(matches!(store.find(hash(1), now + LIFE), Found::Nothing));
    check(&store, 0);
}

#[test]
fn what_is_asked_for_stays_and_the_rest_gives_way() {
    let now = Instant::now();
    let mut store = Store::new(BUDGET);
    let mut evicted = 0;
    for name in 0..1000 {
        // One is asked for all the time.
        finds(&mut store, 0, now);
        evicted += store.insert(hash(name), kept(name, 20, now), 0, now).evicted.len();
        check(&store, 0);
    }
    assert!(finds(&mut store, 0, now), "the one that is asked for");
    assert!(!finds(&mut store, 1, now) && finds(&mut store, 999, now));
    assert!(evicted > 500 && store.len() + evicted == 1000, "{evicted} and {}", store.len());
}

#[test]
fn the_hand_does_not_walk_for_long() {
    let now = Instant::now();
    let mut store = Store::new(BUDGET);
    for name in 0..1000 {
        store.insert(hash(name), kept(name, 1, now), 0, now);
    }
    let names: Vec<i64> = (0..1000).filter(|name| finds(&mut store, *name, now)).collect();
    // All were asked for just now: still one gives way, after so many second chances.
    store.insert(hash(5000), kept(5000, 1, now), 0, now);
    let marks = store.places.iter().filter(|place| place.asked_for).count();
    assert!(names.len() > 50 && marks + SECOND_CHANCES + 3 >= names.len(), "{marks} of {}", names.len());
    check(&store, 0);
}

#[test]
fn those_whose_time_is_over_go_before_others() {
    let begin = Instant::now();
    let mut store = Store::new(BUDGET);
    for name in 0..10 {
        store.insert(hash(name), kept(name, 1, begin), 0, begin);
    }
    let later = begin + LIFE;
    let removed = store.insert(hash(100), kept(100, 1, later), 0, later);
    assert_eq!((removed.expired.len(), removed.evicted.len()), (EXPIRED_AT_A_TIME, 0));
    assert_eq!(store.make_room(0, later).expired.len(), EXPIRED_AT_A_TIME);
    assert_eq!((store.make_room(0, later).expired.len(), store.len()), (2, 1));
    check(&store, 0);
}

#[test]
fn what_is_too_large_or_has_no_room_is_not_kept() {
    let now = Instant::now();
    for budget in [0, 1, 1000, 4000] {
        let mut store = Store::new(budget);
        store.insert(hash(1), kept(1, 1, now), 0, now);
        assert_eq!((store.len(), store.bytes()), (0, 0), "{budget} bytes");
    }
    let mut store = Store::new(BUDGET);
    store.insert(hash(1), kept(1, 1, now), 0, now);
    store.insert(hash(2), kept(2, BUDGET / 8 / 8, now), 0, now);
    assert!(finds(&mut store, 1, now) && !finds(&mut store, 2, now));
    // Larger than what others leave: they go, and it stays out.
    store.insert(hash(3), kept(3, 100, now), BUDGET, now);
    assert!(!finds(&mut store, 3, now) && store.len() == 0);
}

#[derive(Clone, Debug)]
enum Step {
    Insert { name: i64, count: usize },
    Find(i64),
    Reserve(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_i64..200, 1_usize..400).prop_map(|(name, count)| Step::Insert { name, count }),
        4 => (0_i64..200).prop_map(Step::Find),
        1 => (0_usize..BUDGET / 8).prop_map(Step::Reserve),
        1 => (0_u64..30).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn the_budget_and_the_time_hold_whatever_happens(steps in prop::collection::vec(step(), 1..400)) {
        let mut now = Instant::now();
        let mut store = Store::new(BUDGET);
        let mut reserved = 0;
        for step in steps {
            match step {
                Step::Insert { name, count } => {
                    store.insert(hash(name), kept(name, count, now), reserved, now);
                }
                Step::Find(name) => {
                    if let Found::Fresh(kept) = store.find(hash(name), now) {
                        prop_assert!(now - kept.since() < LIFE);
                        let outputs = kept.outputs();
                        let own = matches!(outputs[0].1.data(), Data::I64(items) if items[0] == name);
                        prop_assert!(own);
                    }
                }
                Step::Reserve(bytes) => {
                    reserved = bytes;
                    store.make_room(reserved, now);
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
            }
            check(&store, reserved);
        }
    }
}
