//! Compares two answers to one request: that of the revision that serves, and that of its shadow.
//!
//! Two questions, since models answer in two ways. *Agreement*: do both give the same labels? *Distance*: how far are
//! their numbers apart? A quantised model has a distance and should agree; a retrained one disagrees here and there; a
//! broken one in most places.

use std::collections::BTreeMap;

/// Numbers of a row that differ by less than this share of their size are equally large: which of two such numbers is
/// the largest is left to rounding (FP32 has a relative precision of 6e-8).
const TIE: f64 = 1e-6;

/// The largest [`Comparison::distance`]: numbers of equal size and opposite sign, or one that is not finite against
/// one that is.
pub const FARTHEST: f64 = 2.0;

/// One named output of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its shape; the product is the number of elements.
    pub shape: Vec<u64>,
    /// Its elements, the last dimension running fastest.
    pub data: Data,
}

/// The elements of a [`Tensor`]. Types that hold the same kind of value are one here: a candidate that answers in FP16
/// instead of FP32 is compared, not refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// FP16, FP32, FP64, BF16.
    Floats(Vec<f64>),
    /// INT8 to INT64 and UINT8 to UINT64.
    Integers(Vec<i128>),
    /// BOOL.
    Truths(Vec<bool>),
    /// BYTES.
    Texts(Vec<String>),
}

/// What two answers have to do with each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Whether they give the same labels. False as well when names, kinds or shapes of the outputs differ.
    pub agree: bool,
    /// The largest relative distance of their floating-point outputs: for each output `max |a-b| / max(|a|, |b|)`, both
    /// maxima over all elements, so that a tiny number beside large ones weighs little. From 0 to [`FARTHEST`]. `None`
    /// when there is no such output, or when the answers are not alike enough to tell.
    pub distance: Option<f64>,
}

impl Comparison {
    /// Answers with other outputs.
    const UNLIKE: Self = Self { agree: false, distance: None };
}

/// Compares the outputs of two answers; their order does not matter.
///
/// Labels are: every integer, truth value and text; and in floating-point outputs with two or more dimensions, of which
/// the last is longer than 1, the place of the largest element along it (scores of classes). Places of equally large
/// elements are equal. A floating-point output of one dimension is one number for each row of the request: it has no
/// label, and only a distance.
pub fn compare(primary: &[Tensor], shadow: &[Tensor]) -> Comparison {
    let mut others: BTreeMap<&str, &Tensor> =
        shadow.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    if primary.len() != shadow.len() || others.len() != shadow.len() {
        return Comparison::UNLIKE;
    }
    let mut result = Comparison { agree: true, distance: None };
    for tensor in primary {
        let Some(other) = others.remove(tensor.name.as_str()).filter(|other| other.shape == tensor.shape)
        else {
            return Comparison::UNLIKE;
        };
        let same = match (&tensor.data, &other.data) {
            (Data::Floats(a), Data::Floats(b)) if a.len() == b.len() => {
                result.distance = Some(result.distance.unwrap_or(0.0).max(distance(a, b)));
                tensor.classes().is_none_or(|classes| same_classes(a, b, classes))
            }
            (Data::Integers(a), Data::Integers(b)) => a == b,
            (Data::Truths(a), Data::Truths(b)) => a == b,
            (Data::Texts(a), Data::Texts(b)) => a == b,
            _ => return Comparison::UNLIKE,
        };
        result.agree &= same;
    }
    result
}

impl Tensor {
    /// How many classes the last dimension scores, if it does.
    fn classes(&self) -> Option<usize> {
        match self.shape.as_slice() {
            [_, .., last] => usize::try_from(*last).ok().filter(|last| *last > 1),
            _ => None,
        }
    }
}

/// Whether each row of `classes` elements has its largest at the same place.
fn same_classes(a: &[f64], b: &[f64], classes: usize) -> bool {
    a.chunks_exact(classes).zip(b.chunks_exact(classes)).all(|(a, b)| match (largest(a), largest(b)) {
        (Some(in_a), Some(in_b)) => in_a == in_b || (ties(b, in_a, in_b) && ties(a, in_b, in_a)),
        _ => false,
    })
}

/// Place of the largest element, the first of several; `None` when one is no number.
fn largest(row: &[f64]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (place, value) in row.iter().enumerate() {
        if value.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, high)| *value > high) {
            best = Some((place, *value));
        }
    }
    best.map(|(place, _)| place)
}

/// Whether an element is as large as the largest, but for rounding.
fn ties(row: &[f64], place: usize, largest: usize) -> bool {
    let (value, high) = (row[place], row[largest]);
    // Two infinities have no difference that is a number.
    value >= high || high - value <= TIE * value.abs().max(high.abs())
}

/// See [`Comparison::distance`].
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let (mut apart, mut size) = (0.0_f64, 0.0_f64);
    for (a, b) in a.iter().zip(b) {
        if a.is_finite() && b.is_finite() {
            apart = apart.max((a - b).abs());
            size = size.max(a.abs()).max(b.abs());
        } else if a.total_cmp(b).is_ne() && !(a.is_nan() && b.is_nan()) {
            return FARTHEST;
        }
    }
    // The difference of two huge numbers may be infinite.
    if apart > 0.0 { (apart / size).min(FARTHEST) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn floats(name: &str, shape: &[u64], data: &[f64]) -> Tensor {
        Tensor { name: name.into(), shape: shape.into(), data: Data::Floats(data.into()) }
    }

    fn with(data: Data) -> Vec<Tensor> {
        vec![Tensor { name: "label".into(), shape: vec![2], data }]
    }

    fn scores(a: &[f64], b: &[f64]) -> Comparison {
        let shape = [1, a.len() as u64];
        compare(&[floats("scores", &shape, a)], &[floats("scores", &shape, b)])
    }

    #[test]
    fn labels_agree_when_all_are_equal() {
        let texts = |words: [&str; 2]| Data::Texts(words.map(str::to_owned).to_vec());
        let cases = [
            (Data::Integers(vec![3, 4]), Data::Integers(vec![3, 4]), true),
            (Data::Integers(vec![3, 4]), Data::Integers(vec![3, 5]), false),
            (Data::Truths(vec![true, false]), Data::Truths(vec![true, false]), true),
            (Data::Truths(vec![true, false]), Data::Truths(vec![false, false]), false),
            (texts(["cat", "dog"]), texts(["cat", "dog"]), true),
            (texts(["cat", "dog"]), texts(["cat", "cow"]), false),
            // Another kind is another answer, though the value is the same.
            (Data::Integers(vec![1, 0]), Data::Truths(vec![true, false]), false),
            (Data::Integers(vec![1, 0]), Data::Floats(vec![1.0, 0.0]), false),
        ];
        for (a, b, agree) in cases {
            let result = compare(&with(a.clone()), &with(b.clone()));
            assert_eq!(result, Comparison { agree, distance: None }, "{a:?} {b:?}");
        }
    }

    #[test]
    fn scores_agree_when_the_same_class_wins_in_each_row() {
        let pair = |b: [f64; 6]| {
            let a = [0.7, 0.2, 0.1, 0.1, 0.3, 0.6];
            compare(&[floats("p", &[2, 3], &a)], &[floats("p", &[2, 3], &b)]).agree
        };
        assert!(pair([0.5, 0.3, 0.2, 0.2, 0.3, 0.5]));
        assert!(!pair([0.5, 0.3, 0.2, 0.2, 0.5, 0.3]));
        assert!(!pair([f64::NAN, 0.3, 0.2, 0.2, 0.3, 0.5]));
    }

    #[test]
    fn equally_large_scores_are_no_disagreement() {
        assert!(scores(&[0.5, 0.5], &[0.5 - 1e-9, 0.5]).agree);
        assert!(
            scores(&[0.0, 0.0, 0.0], &[0.0, 1e-300, 0.0]).agree
                == scores(&[0.0, 1e-300, 0.0], &[0.0; 3]).agree
        );
        assert!(!scores(&[0.501, 0.499], &[0.499, 0.501]).agree);
        assert!(scores(&[f64::INFINITY, 0.0], &[f64::INFINITY, 1.0]).agree);
    }

    #[test]
    fn numbers_without_classes_have_only_a_distance() {
        for shape in [&[3][..], &[3, 1]] {
            let result =
                compare(&[floats("y", shape, &[1.0, 2.0, 4.0])], &[floats("y", shape, &[1.0, 3.0, 2.0])]);
            assert!(result.agree, "{shape:?}");
            assert_eq!(result.distance, Some(0.5));
        }
    }

    #[test]
    fn the_distance_is_that_of_the_definition() {
        // The first: python3 -c "import numpy as n; a=n.array([1e-9,0.25,-4.0]); b=n.array([3e-9,0.5,-3.9]);
        //                        print(abs(a-b).max()/max(abs(a).max(),abs(b).max()))"
        let (nan, infinite) = (f64::NAN, f64::INFINITY);
        let cases: [(&[f64], &[f64], f64); 12] = [
            (&[1e-9, 0.25, -4.0], &[3e-9, 0.5, -3.9], 0.0625),
            (&[], &[], 0.0),
            (&[0.0, -0.0], &[-0.0, 0.0], 0.0),
            (&[1.0], &[-1.0], FARTHEST),
            (&[f64::MAX], &[-f64::MAX], FARTHEST),
            (&[nan, 1.0], &[nan, 1.0], 0.0),
            (&[infinite, 1.0], &[infinite, 2.0], 0.5),
            (&[infinite], &[-infinite], FARTHEST),
            (&[nan], &[1.0], FARTHEST),
            (&[1.0], &[nan], FARTHEST),
            (&[infinite], &[1.0], FARTHEST),
            (&[1.0], &[infinite], FARTHEST),
        ];
        for (a, b, wanted) in cases {
            assert!(distance(a, b).total_cmp(&wanted).is_eq(), "{a:?} {b:?}: {}", distance(a, b));
        }
    }

    #[test]
    fn other_outputs_never_agree() {
        let one = [floats("a", &[1], &[1.0])];
        let unlike = [
            vec![],
            vec![floats("b", &[1], &[1.0])],
            vec![floats("a", &[1, 1], &[1.0])],
            vec![floats("a", &[1], &[1.0]), floats("b", &[1], &[1.0])],
        ];
        for other in unlike {
            assert_eq!(compare(&one, &other), Comparison::UNLIKE, "{other:?}");
            assert_eq!(compare(&other, &one), Comparison::UNLIKE, "{other:?}");
        }
        // A name that is there twice stands for one output only.
        let twice = [one[0].clone(), one[0].clone()];
        let both = [one[0].clone(), floats("b", &[1], &[1.0])];
        assert_eq!(compare(&twice, &both), Comparison::UNLIKE);
        assert_eq!(compare(&both, &twice), Comparison::UNLIKE);
    }

    fn rows() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
        (1_usize..5).prop_flat_map(|rows| {
            let row = prop::collection::vec(-1e3_f64..1e3, rows * 3);
            (row.clone(), row)
        })
    }

    proptest! {
        #[test]
        fn it_is_symmetric_and_the_order_of_outputs_does_not_matter((a, b) in rows()) {
            let shape = [a.len() as u64 / 3, 3];
            let (label, other) = (with(Data::Integers(vec![1, 2])), with(Data::Integers(vec![1, 2])));
            let left = [vec![floats("p", &shape, &a)], label].concat();
            let right = [other, vec![floats("p", &shape, &b)]].concat();
            let result = compare(&left, &right);
            prop_assert_eq!(result, compare(&right, &left));
            prop_assert!(result.distance.is_some_and(|distance| (0.0..=FARTHEST).contains(&distance)));
            prop_assert_eq!(compare(&left, &left), Comparison { agree: true, distance: Some(0.0) });
        }

        #[test]
        fn the_scale_does_not_matter((a, b) in rows(), power in -20_i32..20) {
            // Powers of two are exact.
            let scaled = |row: &[f64]| row.iter().map(|value| value * f64::from(power).exp2()).collect::<Vec<_>>();
            prop_assert_eq!(scores(&a, &b), scores(&scaled(&a), &scaled(&b)));
        }
    }
}
