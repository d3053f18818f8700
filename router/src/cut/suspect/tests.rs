//! Evidence from several routers: nothing is lost, nothing counts twice.

use std::time::Duration;

use super::*;

fn settings(slow_above_ms: Option<f64>) -> Settings {
    Settings {
        revision: "b".into(),
        control: "a".into(),
        alarm_log10: 6.0,
        slow_above_ms,
        whole: None,
        observe: false,
    }
}

fn counts(attempts: u64, errors: u64, millis: u64) -> Counts {
    let mut counts = Counts { attempts, errors, ..Counts::default() };
    for _ in errors..attempts {
        counts.latency.record(Duration::from_millis(millis));
    }
    counts
}

/// A router that has seen so much harm.
fn seen(looks: u64) -> Suspect {
    let mut suspect = Suspect::default();
    for look in 1..=looks {
        suspect.look(counts(10 * look, 3 * look, 5), counts(90 * look, 0, 5), &settings(None), true);
    }
    suspect
}

#[test]
fn harm_raises_an_alarm_with_figures_and_it_stays() {
    let mut suspect = seen(6);
    let alarm = suspect.alarm().expect("30 % against 0 %").clone();
    assert!(
        alarm.because.starts_with("candidate failed ") && alarm.because.contains("alarm at 10^6.0"),
        "{}",
        alarm.because
    );
    suspect.look(counts(10_060, 18, 5), counts(90_540, 0, 5), &settings(None), true);
    assert!(suspect.log10() < 6.0, "{}", suspect.log10());
    assert_eq!(suspect.alarm(), Some(&alarm));
    assert!(suspect.withhold(Withheld::Observe) && !suspect.withhold(Withheld::Observe));
    assert!(suspect.withhold(Withheld::NoControl));
}

#[test]
fn both_arms_failing_alike_is_no_harm() {
    let mut suspect = Suspect::default();
    for look in 1..=50 {
        suspect.look(counts(10 * look, 5 * look, 5), counts(90 * look, 45 * look, 5), &settings(None), true);
    }
    assert_eq!(suspect.alarm(), None);
}

#[test]
fn slow_answers_are_judged_from_the_moment_at_which_the_limit_is_known() {
    let mut suspect = Suspect::default();
    suspect.look(counts(100, 0, 500), counts(900, 0, 5), &settings(None), true);
    let before = suspect.log10();
    assert!(before < 0.0, "{before}");
    // The hundred slow answers of before are not held against it.
    suspect.look(counts(101, 0, 500), counts(909, 0, 5), &settings(Some(100.0)), true);
    assert_eq!(suspect.alarm(), None);
    let mut slow = Suspect::default();
    slow.look(counts(100, 0, 500), counts(900, 0, 5), &settings(Some(100.0)), true);
    assert!(slow.alarm().is_some_and(|alarm| alarm.because.contains("slower than 100 ms: 100 and 0")));
}

#[test]
fn a_router_that_saw_nothing_learns_from_a_peer_what_the_peer_knows() {
    let peer = seen(6);
    let mut idle = Suspect::default();
    assert!(idle.hear("peer", 1, peer.sum(), &settings(None)));
    assert!(idle.alarm().is_some());
}

#[test]
fn three_thirds_are_as_good_as_one_whole() {
    let share: Vec<Suspect> = (0..3).map(|_| seen(2)).collect();
    assert!(share.iter().all(|own| own.alarm().is_none()), "a third of it is not enough");
    let mut joined = share[0].clone();
    joined.hear("second", 1, share[1].sum(), &settings(None));
    joined.hear("third", 1, share[2].sum(), &settings(None));
    let added = share.iter().map(Suspect::log10).sum::<f64>();
    assert!(joined.alarm().is_some(), "{} of {added}", joined.log10());
}

#[test]
fn lost_overtaken_and_repeated_messages_change_nothing_in_the_end() {
    let settings = settings(None);
    let sums: Vec<_> = (1..=4).map(|looks| seen(looks).sum()).collect();
    let told = |messages: &[(u64, usize)]| {
        let mut suspect = Suspect::default();
        for (number, look) in messages {
            suspect.hear("peer", *number, sums[*look], &settings);
        }
        suspect.log10()
    };
    let whole = told(&[(1, 0), (2, 1), (3, 2), (4, 3)]);
    for messages in [
        &[(4, 3)][..],
        &[(1, 0), (4, 3)],
        &[(1, 0), (3, 2), (2, 1), (4, 3)],
        &[(1, 0), (1, 0), (4, 3), (4, 3), (2, 1)],
    ] {
        assert!((told(messages) - whole).abs() < 1e-9, "{messages:?}: {} and {whole}", told(messages));
    }
}

#[test]
fn a_peer_that_restarted_is_another_process() {
    let settings = settings(None);
    let mut suspect = Suspect::default();
    suspect.hear("old", 9, seen(2).sum(), &settings);
    let before = suspect.log10();
    assert!(suspect.hear("new", 1, seen(1).sum(), &settings));
    assert!(suspect.log10() > before);
}

#[test]
fn processes_are_bounded_and_those_known_are_still_heard() {
    let settings = settings(None);
    let mut suspect = Suspect::default();
    let heard = (0..2 * PROCESSES)
        .filter(|number| suspect.hear(&format!("p{number}"), 1, seen(1).sum(), &settings))
        .count();
    assert_eq!(heard, PROCESSES);
    assert!(suspect.hear("p0", 2, seen(2).sum(), &settings));
}
