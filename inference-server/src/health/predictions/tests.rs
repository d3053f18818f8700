//! What is sampled, which output is chosen, and what is counted.

use prometheus_client::registry::Registry;

use super::*;

fn signature(outputs: &[(&str, DType, &[Option<usize>])]) -> Signature {
    let infos = outputs.iter().map(|(name, dtype, shape)| ValueInfo::tensor(*name, *dtype, shape.to_vec()));
    Signature { inputs: Vec::new(), outputs: infos.collect(), batch_axis: true }
}

/// Sampler and looker for a model, and the registry of its counts.
fn watched(signature: &Signature) -> (Arc<Sampler>, Predictions, Registry) {
    let mut registry = Registry::default();
    let metrics = PredictionMetrics::new(&mut registry);
    let (sampler, predictions) = Predictions::new(&metrics, "m", "v", signature).unwrap();
    (sampler, predictions, registry)
}

fn text(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

fn floats(width: usize, items: Vec<f32>) -> Value {
    Value::new(vec![items.len() / width, width], Data::F32(items)).unwrap()
}

fn labels(items: Vec<i64>) -> Value {
    Value::new(vec![items.len()], Data::I64(items)).unwrap()
}

#[test]
fn a_classifier_s_probabilities_and_labels_are_counted() {
    let signature = signature(&[
        ("label", DType::I64, &[None]),
        ("scores", DType::F32, &[None, Some(2)]),
        ("probabilities", DType::F32, &[None, Some(2)]),
    ]);
    let (sampler, mut predictions, registry) = watched(&signature);
    let outputs = |rows: usize| {
        [labels(vec![3; rows]), floats(2, [4.0, -2.0].repeat(rows)), floats(2, [0.75, 0.25].repeat(rows))]
    };
    sampler.see(&outputs(10));
    assert!(predictions.look());
    // Too few rows to say which output it is.
    assert!(!text(&registry).contains("prediction_top_score_count{"), "{}", text(&registry));
    sampler.see(&outputs(10));
    assert!(predictions.look());
    assert_eq!(sampler.chosen.get(), Some(&Some(2)));
    sampler.see(&outputs(30));
    assert!(predictions.look());
    let labels = "model=\"m\",version=\"v\",output=\"probabilities\"";
    for line in [
        // The rows that decided are in it.
        format!("prediction_top_score_count{{{labels}}} 50"),
        format!("prediction_top_score_sum{{{labels}}} 37.5"),
        format!("prediction_top_score_bucket{{le=\"0.7\",{labels}}} 0"),
        format!("prediction_top_score_bucket{{le=\"0.8\",{labels}}} 50"),
        format!("prediction_top_score_bucket{{le=\"+Inf\",{labels}}} 50"),
        format!("prediction_margin_sum{{{labels}}} 25.0"),
        // 0.8112781 bits of entropy: -(0.75 log2 0.75 + 0.25 log2 0.25).
        format!("prediction_entropy_bucket{{le=\"0.9\",{labels}}} 50"),
        "prediction_classes_total{model=\"m\",version=\"v\",output=\"label\",class=\"3\"} 50".to_owned(),
        "prediction_rows_total{model=\"m\",version=\"v\"} 50".to_owned(),
        "prediction_rows_examined_total{model=\"m\",version=\"v\"} 50".to_owned(),
    ] {
        assert!(text(&registry).contains(&line), "{line} is not in\n{}", text(&registry));
    }
    // A row that is none is counted as such.
    sampler.see(&[self::labels(vec![1]), floats(2, vec![0.0, 0.0]), floats(2, vec![f32::NAN, 1.0])]);
    assert!(predictions.look());
    assert!(
        text(&registry).contains(&format!("prediction_rows_unfit_total{{{labels}}} 1")),
        "{}",
        text(&registry)
    );
}

#[test]
fn without_labels_the_most_probable_class_is_counted() {
    let (sampler, mut predictions, registry) = watched(&signature(&[("p", DType::F32, &[None, None])]));
    sampler.see(&[floats(3, [0.1, 0.2, 0.7].repeat(20))]);
    assert!(predictions.look());
    assert!(text(&registry).contains("output=\"p\",class=\"2\"} 20"), "{}", text(&registry));
}

#[test]
fn what_is_no_classifier_is_left_alone() {
    let none = signature(&[
        ("x", DType::F32, &[None]),
        ("y", DType::String, &[None]),
        ("z", DType::F32, &[None, Some(1)]),
    ]);
    assert!(Predictions::new(&PredictionMetrics::default(), "m", "v", &none).is_none());

    let (sampler, mut predictions, registry) = watched(&signature(&[("y", DType::F32, &[None, Some(2)])]));
    sampler.see(&[floats(2, vec![3.0, 4.0])]);
    assert!(predictions.look());
    assert_eq!(sampler.chosen.get(), Some(&None));
    sampler.see(&[floats(2, [0.5, 0.5].repeat(40))]);
    assert!(predictions.look() && sampler.lock().is_empty());
    assert!(!text(&registry).contains("prediction_top_score_count{"));
}

#[test]
fn samples_are_bounded_in_rows_elements_and_number() {
    let (sampler, mut predictions, registry) = watched(&signature(&[("p", DType::F32, &[None, None])]));
    sampler.see(&[floats(2, [0.5, 0.5].repeat(1000))]);
    assert_eq!(sampler.lock()[0].tables[0].items.len(), 2 * 63, "every 16th of 1000 rows");
    sampler.see(&[floats(1024, vec![1.0 / 1024.0; 1024 * 10])]);
    assert_eq!(sampler.lock()[1].rows, 3, "every third of 10 rows");
    sampler.see(&[floats(WIDEST + 1, vec![0.0; WIDEST + 1])]);
    assert_eq!(sampler.lock().len(), 2, "too wide");
    for _ in 0..100 {
        sampler.see(&[floats(2, vec![0.5, 0.5])]);
    }
    assert_eq!(sampler.lock().len(), WAITING);
    assert!(predictions.look());
    let examined = 63 + 3 + (WAITING - 2);
    let text = text(&registry);
    for line in [
        "prediction_rows_total{model=\"m\",version=\"v\"} 1111".to_owned(),
        format!("prediction_rows_examined_total{{model=\"m\",version=\"v\"}} {examined}"),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    drop(sampler);
    assert!(!predictions.look(), "the thread ends with the server");
}

#[test]
fn strides_reach_all_rows_in_turn() {
    let rows = |turn| strided(10, 4, turn).collect::<Vec<_>>();
    assert_eq!([rows(0), rows(1), rows(2)], [vec![0, 3, 6, 9], vec![1, 4, 7], vec![2, 5, 8]]);
    assert_eq!(strided(3, 64, 5).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(strided(0, 64, 5).count(), 0);
}
