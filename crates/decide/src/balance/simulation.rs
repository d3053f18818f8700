//! Four pods and one or more routers in simulated time: the rule against those that it was chosen from.
//!
//! Requests come as a Poisson process; a pod serves one after the other, with exponential times. Everything follows from a
//! seed. The other rules are here for comparison alone.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;

/// Mean service time of a good pod.
const SERVICE: f64 = 0.005;
const PODS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    /// Two at random, the one with fewer requests.
    TwoChoices,
    /// The one with the fewest requests.
    LeastRequests,
    /// Least expected delay by a mean that a larger sample takes over at once and that decays in 10 s.
    Peak,
    /// What routers do.
    Ours,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    /// How many times slower the first pod is.
    slower: f64,
    /// Of the capacity of all pods.
    load: f64,
    routers: usize,
    /// Share of the requests that the first pod fails at once.
    failing: f64,
    /// For half of the time the first pod takes two seconds for a request.
    stalls: bool,
}

/// One slow pod, one router, 70 % load.
const SLOW: Case = Case { slower: 3.0, load: 0.7, routers: 1, failing: 0.0, stalls: false };
const EQUAL: Case = Case { slower: 1.0, load: 0.6, ..SLOW };

/// What one router knows of one pod.
#[derive(Clone, Copy)]
struct View {
    pod: Pod,
    peak: f64,
    peak_at: f64,
}

struct Sent {
    at: f64,
    router: usize,
    ahead: u32,
}

struct Outcome {
    /// In mean service times.
    p99: f64,
    /// Within a second, of all.
    in_time: f64,
    /// Share of the first pod.
    first: f64,
}

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0, 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.bits() % bound as u64).unwrap()
    }

    fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -self.uniform().ln() * mean
    }
}

fn simulate(rule: Rule, case: Case, requests: usize, seed: u64) -> Outcome {
    let new = View {
        pod: Pod {
            service: ServiceTime::default(),
            in_flight: 0,
            busy_since: Duration::ZERO,
            ready_since: Duration::ZERO,
            health: Health::default(),
            barred: false,
        },
        peak: 0.0,
        peak_at: 0.0,
    };
    let (mut arrivals, mut services, mut draws) =
        (Random(seed), Random(seed + 1_000_000), Random(seed + 2_000_000));
    let mut views = vec![[new; PODS]; case.routers];
    let mut queues: [VecDeque<Sent>; PODS] = Default::default();
    let rate = case.load / SERVICE * (PODS as f64 - 1.0 + 1.0 / case.slower);
    // (time in nanoseconds, number, pod whose request ends; PODS is an arrival)
    let mut events = BinaryHeap::from([Reverse((0_u64, 0_usize, PODS))]);
    let (mut latencies, mut arrived, mut first) = (Vec::new(), 0, 0);
    let nanos = |seconds: f64| u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).unwrap();
    let mut takes = |index: usize, at: f64| match index {
        0 if case.stalls && at % 60.0 > 30.0 => 2.0,
        0 => services.exponential(SERVICE * case.slower),
        _ => services.exponential(SERVICE),
    };
    while let Some(Reverse((at, _, who))) = events.pop() {
        let (now, at) = (Duration::from_nanos(at), at as f64 / 1e9);
        // The pod that has something to begin now.
        let begins = if who < PODS {
            let sent = queues[who].pop_front().unwrap();
            let view = &mut views[sent.router][who];
            view.pod.in_flight -= 1;
            let response = at - sent.at;
            view.pod.service = view.pod.service.answered(Duration::from_secs_f64(response), sent.ahead, now);
            sample_peak(view, response / f64::from(sent.ahead + 1), at);
            latencies.push(response);
            (!queues[who].is_empty()).then_some(who)
        } else {
            arrived += 1;
            if arrived < requests {
                events.push(Reverse((nanos(at + arrivals.exponential(1.0 / rate)), arrived, PODS)));
            }
            let router = arrivals.below(case.routers);
            let index = pick(rule, &views[router], at, &mut draws);
            first += usize::from(index == 0);
            if index == 0 && case.failing > 0.0 && draws.uniform() < case.failing {
                fail(&mut views[router], now);
                None
            } else {
                let view = &mut views[router][index];
                if view.pod.in_flight == 0 {
                    view.pod.busy_since = now;
                }
                queues[index].push_back(Sent { at, router, ahead: view.pod.in_flight });
                view.pod.in_flight += 1;
                (queues[index].len() == 1).then_some(index)
            }
        };
        if let Some(index) = begins {
            events.push(Reverse((nanos(at + takes(index, at)), arrived, index)));
        }
    }
    let in_time = latencies.iter().filter(|latency| **latency < 1.0).count() as f64 / requests as f64;
    latencies.sort_unstable_by(f64::total_cmp);
    let p99 = latencies[latencies.len() * 99 / 100] / SERVICE;
    Outcome { p99, in_time, first: first as f64 / requests as f64 }
}

/// The first pod fails a request at once. It is not ejected: here only steering is looked at.
fn fail(views: &mut [View; PODS], now: Duration) {
    let best = views.iter().filter_map(|view| view.pod.service.seconds()).min_by(f32::total_cmp);
    let view = &mut views[0];
    view.pod.service = view.pod.service.failed(Duration::ZERO, 0, best, now);
    sample_peak(view, f64::from(best.unwrap_or(delay::UNKNOWN)) * 10.0, now.as_secs_f64());
}

fn sample_peak(view: &mut View, sample: f64, at: f64) {
    let weight = (-(at - view.peak_at) / 10.0).exp();
    let mean =
        if sample > view.peak * weight { sample } else { view.peak * weight + sample * (1.0 - weight) };
    (view.peak, view.peak_at) = (mean, at);
}

fn pick(rule: Rule, views: &[View; PODS], at: f64, draws: &mut Random) -> usize {
    let requests = |index: usize| views[index].pod.in_flight;
    match rule {
        Rule::Ours => {
            let pods = views.iter().map(|view| view.pod);
            choose(pods, Duration::from_secs_f64(at), draws.bits()).unwrap().index
        }
        Rule::TwoChoices => {
            let (one, other) = (draws.below(PODS), draws.below(PODS - 1));
            let other = if other >= one { other + 1 } else { other };
            if requests(one) <= requests(other) { one } else { other }
        }
        Rule::LeastRequests => {
            let random = draws.bits();
            (0..PODS).min_by_key(|index| (requests(*index), mix(random, *index))).unwrap()
        }
        Rule::Peak => {
            let expected = |index: usize| {
                let View { peak, peak_at, .. } = views[index];
                let idle = if requests(index) == 0 { (-(at - peak_at) / 10.0).exp() } else { 1.0 };
                peak * idle * f64::from(requests(index) + 1)
            };
            (0..PODS).min_by(|a, b| expected(*a).total_cmp(&expected(*b))).unwrap()
        }
    }
}

/// The mean of three seeds.
fn p99(rule: Rule, case: Case) -> f64 {
    (1..=3).map(|seed| simulate(rule, case, 60_000, seed * 77).p99).sum::<f64>() / 3.0
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures that the module's documentation names")]
fn the_rule_beats_those_that_it_was_chosen_from() {
    let cases = [
        ("one 3x slower, one router", SLOW),
        ("one 3x slower, three routers", Case { routers: 3, ..SLOW }),
        ("all alike, one router", EQUAL),
        ("one fails 1 %", Case { failing: 0.01, ..EQUAL }),
    ];
    for (name, case) in cases {
        let [two, least, peak, ours] =
            [Rule::TwoChoices, Rule::LeastRequests, Rule::Peak, Rule::Ours].map(|rule| p99(rule, case));
        println!("{name}: two choices {two:.1}, least requests {least:.1}, peak {peak:.1}, ours {ours:.1}");
        if case.slower > 1.0 {
            assert!(ours <= 0.6 * two, "{name}: {ours} of {two}");
        }
        assert!(ours <= two && ours <= 1.05 * least && ours <= 1.03 * peak, "{name}");
    }
}

#[test]
fn a_pod_that_fails_quickly_does_not_attract_requests() {
    let first = simulate(Rule::Ours, Case { failing: 0.5, ..EQUAL }, 60_000, 5).first;
    assert!(first < 0.05, "{first}");
    let attracted = simulate(Rule::LeastRequests, Case { failing: 0.5, ..EQUAL }, 60_000, 5).first;
    assert!(attracted > 0.3, "{attracted}");
    // One that fails now and then keeps most of its share.
    let first = simulate(Rule::Ours, Case { failing: 0.01, ..EQUAL }, 60_000, 5).first;
    assert!(first > 0.18, "{first}");
}

#[test]
fn a_pod_that_stalls_holds_up_few_requests_and_gets_its_share_back() {
    let case = Case { load: 0.2, stalls: true, ..EQUAL };
    let in_time = simulate(Rule::Ours, case, 100_000, 9).in_time;
    assert!(in_time >= 0.999, "{in_time}");
    // It is good for half of the time, and found out to be soon.
    let first = simulate(Rule::Ours, case, 100_000, 9).first;
    assert!((0.05..0.13).contains(&first), "{first}");
}

#[test]
fn pods_that_are_alike_share_alike() {
    for load in [0.05, 0.5, 0.8] {
        let first = simulate(Rule::Ours, Case { load, ..EQUAL }, 60_000, 3).first;
        assert!((first - 0.25).abs() < 0.03, "{load}: {first}");
    }
}
