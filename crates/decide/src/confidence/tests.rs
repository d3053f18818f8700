//! Golden values, and that counts add.

use proptest::prelude::*;

use super::*;

#[test]
fn golden_confidences() {
    let cases: [(&[f64], f64, f64, f64, usize); 7] = [
        // (row, top, margin, entropy, class); entropy is -sum(p * log(p)) / log(len(p)) with numpy 2 in float64.
        (&[0.7, 0.2, 0.1], 0.7, 0.5, 0.729_846_699_162_097_4, 0),
        (&[0.2, 0.1, 0.7], 0.7, 0.5, 0.729_846_699_162_097_4, 2),
        (&[0.5, 0.5], 0.5, 0.0, 1.0, 0),
        (&[0.25, 0.25, 0.25, 0.25], 0.25, 0.0, 1.0, 0),
        (&[0.0, 1.0, 0.0], 1.0, 1.0, 0.0, 1),
        (&[0.9, 0.05, 0.03, 0.02], 0.9, 0.85, 0.308_771_561_656_007_4, 0),
        (&[0.01, 0.99], 0.99, 0.98, 0.080_793_135_895_911_18, 1),
    ];
    for (row, top, margin, entropy, class) in cases {
        let found = Confidence::of(row.iter().copied()).unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(found.top, top) && near(found.margin, margin), "{row:?}: {found:?}");
        assert!(near(found.entropy, entropy), "{row:?}: {found:?}");
        assert_eq!(found.class, class, "{row:?}");
    }
}

#[test]
fn rows_that_are_no_probabilities_have_no_confidence() {
    let cases: [&[f64]; 9] = [
        &[],
        &[1.0],
        &[0.5, 0.4],
        &[0.6, 0.5],
        &[-0.1, 1.1],
        &[2.3, -1.3],
        &[f64::NAN, 1.0],
        &[f64::INFINITY, 0.0],
        &[0.0, 0.0],
    ];
    for row in cases {
        assert_eq!(Confidence::of(row.iter().copied()), None, "{row:?}");
    }
    // What single precision makes of a softmax is within the tolerance.
    let rounded = [0.333_333_34_f32; 3].map(f64::from);
    assert!(Confidence::of(rounded).unwrap().entropy > 0.999_999);
}

#[test]
fn a_number_on_an_edge_is_in_the_bucket_below() {
    let mut distribution = Distribution::default();
    for number in [0.0, 0.001, 0.5, 0.500_1, 1.0, 7.0, -3.0, f64::NAN] {
        distribution.record(number);
    }
    let filled: Vec<_> = distribution.buckets().filter(|(_, count)| *count > 0).collect();
    assert_eq!(filled, [(0.001, 3), (0.5, 1), (0.6, 1), (1.0, 2)]);
    assert_eq!(distribution.count(), 7);
    assert!((distribution.sum() - 3.001_1).abs() < 1e-12, "{}", distribution.sum());
}

#[test]
fn classes_beyond_the_bound_are_one_count() {
    let mut classes = Classes::default();
    for class in 0..150 {
        assert_eq!(classes.record(class), class < 100);
        classes.record(class % 10);
    }
    assert_eq!((classes.named().count(), classes.other()), (MOST_CLASSES, 50));
    assert_eq!(classes.named().find(|(class, _)| *class == 3), Some((3, 16)));
    let mut merged = classes.clone();
    merged.merge(&classes);
    assert_eq!((merged.named().count(), merged.other()), (MOST_CLASSES, 100));
}

/// Candidate, rows, and those that are probabilities.
type View = (usize, u64, u64);

#[test]
fn the_output_of_probabilities_is_found() {
    let seen = |views: &[View], candidates: usize| {
        let mut chooser = Chooser::new(candidates);
        for (candidate, rows, fit) in views {
            chooser.see(*candidate, *rows, *fit);
        }
        chooser.choice()
    };
    let cases: [(&[View], usize, Choice); 8] = [
        (&[], 0, Choice::Nothing),
        (&[], 2, Choice::Open),
        (&[(0, 15, 15)], 1, Choice::Open),
        (&[(0, 15, 15), (0, 1, 1)], 1, Choice::Candidate(0)),
        (&[(0, 15, 15), (0, 1, 0)], 1, Choice::Nothing),
        // Scores first, their softmax second.
        (&[(0, 20, 0), (1, 20, 20)], 2, Choice::Candidate(1)),
        (&[(0, 20, 20), (1, 20, 20)], 2, Choice::Candidate(0)),
        // A candidate that is not there changes nothing.
        (&[(7, 20, 20)], 1, Choice::Open),
    ];
    for (views, candidates, choice) in cases {
        assert_eq!(seen(views, candidates), choice, "{views:?} of {candidates}");
    }
}

proptest! {
    #[test]
    fn confidences_are_within_their_bounds(weights in prop::collection::vec(0.0..1.0_f64, 2..20)) {
        let sum: f64 = weights.iter().sum();
        prop_assume!(sum > 1e-6);
        let found = Confidence::of(weights.iter().map(|weight| weight / sum)).unwrap();
        let unit = 0.0..=1.0;
        prop_assert!(unit.contains(&found.top) && unit.contains(&found.margin) && unit.contains(&found.entropy));
        prop_assert!(found.margin <= found.top && found.top * weights.len() as f64 >= 1.0 - 1e-9);
    }

    #[test]
    fn merged_distributions_are_what_one_would_hold(
        a in prop::collection::vec(0.0..1.0_f64, 0..50),
        b in prop::collection::vec(0.0..1.0_f64, 0..50),
    ) {
        let of = |numbers: &[f64]| {
            let mut distribution = Distribution::default();
            for number in numbers {
                distribution.record(*number);
            }
            distribution
        };
        let mut merged = of(&a);
        merged.merge(&of(&b));
        let both = of(&[a, b].concat());
        prop_assert_eq!(merged.counts, both.counts);
        prop_assert!((merged.sum() - both.sum()).abs() < 1e-9);
    }

    #[test]
    fn merged_classes_lose_no_count(
        a in prop::collection::vec(-80_i64..80, 0..300),
        b in prop::collection::vec(-80_i64..80, 0..300),
    ) {
        let of = |classes: &[i64]| {
            let mut counts = Classes::default();
            for class in classes {
                counts.record(*class);
            }
            counts
        };
        let mut merged = of(&a);
        merged.merge(&of(&b));
        let total = merged.named().map(|(_, count)| count).sum::<u64>() + merged.other();
        prop_assert_eq!(total, (a.len() + b.len()) as u64);
        prop_assert!(merged.named().count() <= MOST_CLASSES);
    }
}
