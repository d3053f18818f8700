//! Doubles for models that keep their rows apart, mix them, or fail.

use stoker_graph::RunError;

use super::*;
use crate::batch::Stop;

const LONG: Duration = Duration::from_hours(1);

fn signature(batch_axis: bool) -> Signature {
    let info = |name: &str| ValueInfo::tensor(name, DType::F32, vec![None, Some(3)]);
    Signature { inputs: vec![info("x")], outputs: vec![info("y")], batch_axis }
}

/// Computes outputs from the rows.
struct Model<F>(F);

impl<F: Fn(&[f32]) -> Result<Vec<f32>, RunError> + Send + Sync + 'static> Runner for Model<F> {
    fn run(&self, mut inputs: Vec<(String, Value)>, _: Stop<'_>) -> Result<Vec<(String, Value)>, RunError> {
        let (_, value) = inputs.remove(0);
        let Data::F32(items) = value.data() else { panic!("FP32 is declared") };
        let shape = value.shape().to_vec();
        Ok(vec![("y".to_owned(), Value::new(shape, Data::F32((self.0)(items)?)).unwrap())])
    }
}

#[test]
fn every_doubling_is_run_and_independent_rows_may_be_joined() {
    let warmth =
        warm(&Model(|x: &[f32]| Ok(x.iter().map(|x| x * 2.0).collect())), &signature(true), 20, LONG);
    assert_eq!(
        (&warmth.sizes[..], &warmth.failure, warmth.joinable),
        (&[1, 2, 4, 8, 16, 20][..], &None, true)
    );
    let timed: Vec<usize> = warmth.times.iter().map(|(rows, _)| *rows).collect();
    assert_eq!(timed, warmth.sizes, "each size was timed");
}

#[test]
fn a_model_that_mixes_rows_is_found_out() {
    // Normalises over the whole batch, as an export in training mode does.
    let mixes = |x: &[f32]| {
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        Ok(x.iter().map(|x| x - mean).collect())
    };
    assert!(!warm(&Model(mixes), &signature(true), 8, LONG).joinable);
}

#[test]
fn a_model_without_a_batch_axis_is_run_once() {
    let warmth = warm(&Model(|x: &[f32]| Ok(x.to_vec())), &signature(false), 8, LONG);
    assert_eq!((&warmth.sizes[..], warmth.failure, warmth.joinable), (&[1][..], None, false));
}

#[test]
fn failing_on_zeros_is_told_and_not_held_against_the_model() {
    let failing = |_: &[f32]| {
        Err(RunError::Node { node: "g".to_owned(), op: "Gather".to_owned(), reason: "index 7".to_owned() })
    };
    let warmth = warm(&Model(failing), &signature(true), 8, LONG);
    assert!(warmth.joinable && warmth.sizes.is_empty());
    assert!(warmth.failure.unwrap().contains("1 row(s) of zeros: node `g`"));
}

#[test]
fn a_model_that_takes_longer_than_the_patience_is_run_once() {
    let warmth = warm(&Model(|x: &[f32]| Ok(x.to_vec())), &signature(true), 8, Duration::ZERO);
    assert_eq!((&warmth.sizes[..], warmth.failure, warmth.joinable), (&[1][..], None, true));
    assert_eq!(warmth.times.len(), 1);
}

#[test]
fn each_size_is_run_twice_so_that_the_time_is_that_of_a_warm_run() {
    let rows = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&rows);
    let model = Model(move |x: &[f32]| {
        if x.iter().all(|x| *x == 0.0) {
            seen.lock().unwrap().push(x.len() / 3);
        }
        Ok(x.to_vec())
    });
    warm(&model, &signature(true), 4, LONG);
    assert_eq!(*rows.lock().unwrap(), [1, 1, 2, 2, 4, 4]);
}

#[test]
fn every_type_that_is_served_is_warmed() {
    for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_small()) {
        let info = ValueInfo::tensor("x", dtype, vec![None, Some(3)]);
        let value = input(&info, true, 2, &|row, element| i8::try_from(row + element).unwrap()).unwrap();
        assert_eq!((value.dtype(), value.shape()), (dtype, &[2, 3][..]));
    }
}

#[test]
fn half_precision_may_round_and_not_differ() {
    let half = |item| Value::new(vec![1], Data::F16(vec![half::f16::from_f32(item)])).unwrap();
    assert!(close(&half(1.0), &half(1.005)) && !close(&half(1.0), &half(1.1)));
    let brain = |item| Value::new(vec![1], Data::BF16(vec![half::bf16::from_f32(item)])).unwrap();
    assert!(close(&brain(1.0), &brain(1.05)) && !close(&brain(1.0), &brain(1.5)));
}
