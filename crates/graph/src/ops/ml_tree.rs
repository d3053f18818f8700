//! Ensembles of decision trees in the forms that `ai.onnx.ml` had before version 5.
//!
//! The file holds parallel lists, one entry per node, that name nodes by (tree, node).

use std::collections::{BTreeSet, HashMap, HashSet};

use super::ml_forest::{Aggregate, Forest, Mode, TreeNode, invalid, tensor_numbers, u32_of};
use super::ml_linear::{Labels, PostTransform, both_scores, narrow};
use super::{Built, Entry, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::Tensor;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("TreeEnsembleClassifier", 1, "numbers", classifier),
    Entry::new("TreeEnsembleRegressor", 1, "numbers", regressor),
];

fn mode(name: &str) -> Result<Mode, Refusal> {
    Ok(match name {
        "BRANCH_LEQ" => Mode::LessOrEqual,
        "BRANCH_LT" => Mode::Less,
        "BRANCH_GTE" => Mode::GreaterOrEqual,
        "BRANCH_GT" => Mode::Greater,
        "BRANCH_EQ" => Mode::Equal,
        "BRANCH_NEQ" => Mode::NotEqual,
        "LEAF" => Mode::Leaf,
        other => return invalid(format!("the mode of a node cannot be `{other}`")),
    })
}

/// An attribute that is a list of numbers, of FP32 or, from version 3 on, of FP64.
fn numbers(node: &Node<'_>, name: &str) -> Result<Vec<f64>, Refusal> {
    let wide = tensor_numbers(node, &format!("{name}_as_tensor"))?;
    Ok(if wide.is_empty() { node.floats(name).into_iter().map(f64::from).collect() } else { wide })
}

impl Forest {
    /// `kind` is the prefix of the attributes of the leaves: `class` or `target`.
    fn read(node: &Node<'_>, kind: &str, outputs: usize, aggregate: Aggregate) -> Result<Self, Refusal> {
        let ints = |name: &str| node.ints(name).unwrap_or_default();
        let (trees, ids) = (ints("nodes_treeids"), ints("nodes_nodeids"));
        let (features, yes, no) =
            (ints("nodes_featureids"), ints("nodes_truenodeids"), ints("nodes_falsenodeids"));
        let modes = node.strings("nodes_modes")?;
        let values = numbers(node, "nodes_values")?;
        let missing = ints("nodes_missing_value_tracks_true");
        let count = trees.len();
        let lengths = [ids.len(), features.len(), yes.len(), no.len(), modes.len(), values.len()];
        if count == 0 || lengths.iter().any(|&length| length != count) {
            return invalid("the lists of nodes are empty or differ in length");
        }
        let Ok(_) = u32::try_from(count) else { return invalid("there are too many nodes") };
        let mut places: HashMap<(i64, i64), u32> = HashMap::with_capacity(count);
        for (place, key) in (0..).zip(trees.iter().copied().zip(ids.iter().copied())) {
            if places.insert(key, place).is_some() {
                return invalid(format!("tree {} has two nodes {}", key.0, key.1));
            }
        }
        let (weights, leaves) = read_weights(node, kind, outputs, &places)?;
        let mut nodes = Vec::with_capacity(count);
        let mut is_root = vec![true; count];
        for at in 0..count {
            let mode = mode(&modes[at])?;
            let (yes, no) = if matches!(mode, Mode::Leaf) {
                leaves.get(&u32_of(at)).copied().unwrap_or((0, 0))
            } else {
                let child = |id: i64| places.get(&(trees[at], id)).copied();
                let (Some(yes), Some(no)) = (child(yes[at]), child(no[at])) else {
                    return invalid(format!("node {} of tree {} has no such child", ids[at], trees[at]));
                };
                for child in if yes == no { vec![yes] } else { vec![yes, no] } {
                    // With one parent each and a root without one, no walk comes back to where it was.
                    if !std::mem::replace(&mut is_root[child as usize], false) {
                        return invalid(format!("a node of tree {} has two parents", trees[at]));
                    }
                }
                (yes, no)
            };
            let Ok(feature) = u32::try_from(features[at]) else { return invalid("a feature is negative") };
            let missing_is_yes = missing.get(at).is_some_and(|&flag| flag != 0);
            nodes.push(TreeNode { mode, missing_is_yes, feature, value: values[at], yes, no });
        }
        let roots: Vec<u32> = (0..).zip(is_root).filter(|(_, root)| *root).map(|(at, _)| at).collect();
        let distinct: HashSet<i64> = trees.iter().copied().collect();
        if roots.len() != distinct.len() {
            return invalid(format!("{} trees have {} roots", distinct.len(), roots.len()));
        }
        let base = numbers(node, "base_values")?;
        Self::new(nodes, roots, weights, outputs, aggregate, base)
    }
}

/// The weights sorted by leaf, and where those of each leaf are.
#[expect(clippy::type_complexity, reason = "two halves of one table, used once")]
fn read_weights(
    node: &Node<'_>,
    kind: &str,
    outputs: usize,
    places: &HashMap<(i64, i64), u32>,
) -> Result<(Vec<(u32, f64)>, HashMap<u32, (u32, u32)>), Refusal> {
    let ints = |name: &str| node.ints(&format!("{kind}_{name}")).unwrap_or_default();
    let (trees, ids, classes) = (ints("treeids"), ints("nodeids"), ints("ids"));
    let weights = numbers(node, &format!("{kind}_weights"))?;
    if [ids.len(), classes.len(), weights.len()].iter().any(|&length| length != trees.len()) {
        return invalid("the lists of leaves differ in length");
    }
    let mut sorted = Vec::with_capacity(trees.len());
    for (at, &weight) in weights.iter().enumerate() {
        let Some(&place) = places.get(&(trees[at], ids[at])) else {
            return invalid(format!("tree {} has no node {}", trees[at], ids[at]));
        };
        let class = u32::try_from(classes[at]).ok().filter(|&class| (class as usize) < outputs);
        let Some(class) = class else {
            return invalid(format!("there is no class or target {}", classes[at]));
        };
        sorted.push((place, class, weight));
    }
    sorted.sort_by_key(|&(place, ..)| place);
    let mut ranges: HashMap<u32, (u32, u32)> = HashMap::new();
    for (at, &(place, ..)) in (0..).zip(&sorted) {
        ranges.entry(place).or_insert((at, at)).1 = at + 1;
    }
    Ok((sorted.into_iter().map(|(_, class, weight)| (class, weight)).collect(), ranges))
}

fn regressor(node: &Node<'_>) -> Built {
    let targets = usize::try_from(node.int("n_targets", 1)).ok().filter(|&targets| targets > 0);
    let Some(targets) = targets else { return invalid("`n_targets` must be positive") };
    let aggregate = match node.string("aggregate_function", "SUM")?.as_str() {
        "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Average,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return invalid(format!("`aggregate_function` cannot be `{other}`")),
    };
    let ensemble = Forest::read(node, "target", targets, aggregate)?;
    check_base(&ensemble)?;
    let post = PostTransform::read(node)?;
    operator(move |inputs| {
        let mut table = Vec::new();
        let rows = ensemble.for_rows(inputs.take(0)?, |scores, _| {
            let start = table.len();
            table.extend(scores.iter().copied().map(narrow));
            post.apply(&mut table[start..]);
        })?;
        Ok(Tensor::from_items(&[rows, targets], table).into())
    })
}

fn classifier(node: &Node<'_>) -> Built {
    let labels = Labels::read(node, "classlabels_int64s", "classlabels_strings")?;
    let classes = labels.len();
    if classes == 0 {
        return invalid("the classes have no labels");
    }
    let ensemble = Forest::read(node, "class", classes, Aggregate::Sum)?;
    let post = PostTransform::read(node)?;
    let weighted: BTreeSet<u32> = ensemble.weights.iter().map(|&(class, _)| class).collect();
    let positive = ensemble.weights.iter().all(|&(_, weight)| weight >= 0.0);
    let based = ensemble.base.len() == classes;
    // Two classes of which only one has weights, which decide between the two. The text of ONNX does not
    // say how; what follows is as in ONNX Runtime, and refused where that makes no sense.
    let one_of_two = classes == 2 && weighted.len() == 1;
    let first_only = one_of_two && weighted.contains(&0);
    let odd_base = if first_only { ensemble.base.len() > 1 } else { one_of_two && !ensemble.base.is_empty() };
    if odd_base || (first_only && post == PostTransform::Probit) {
        return Err(Refusal::Unsupported("one of two classes has no weights".to_owned()));
    }
    if !first_only {
        check_base(&ensemble)?;
    }
    let added = if first_only { ensemble.base.first().copied().unwrap_or(0.0) } else { 0.0 };
    operator(move |inputs| {
        let (mut table, mut winners) = (Vec::new(), Vec::new());
        let rows = ensemble.for_rows(inputs.take(0)?, |scores, touched| {
            let start = table.len();
            if first_only {
                let score = narrow(scores[0] + added);
                winners.push(second_wins(score, positive));
                table.extend(both_scores(score, positive, post));
                return;
            }
            table.extend(scores.iter().copied().map(narrow));
            winners.push(if one_of_two {
                second_wins(table[start + 1], positive)
            } else {
                leader(&table[start..], touched, based)
            });
            post.apply(&mut table[start..]);
        })?;
        Ok(Outputs::Many(vec![labels.tensor(&winners)?, Tensor::from_items(&[rows, classes], table)]))
    })
}

/// Base values are one for each output, or none.
fn check_base(forest: &Forest) -> Result<(), Refusal> {
    if forest.base.is_empty() || forest.base.len() == forest.outputs {
        return Ok(());
    }
    invalid(format!("{} base values are given for {} outputs", forest.base.len(), forest.outputs))
}

/// The winner of two classes, of which one score is known. Weights of which none is negative are
/// probabilities; others are distances from the boundary.
fn second_wins(score: f32, probability: bool) -> usize {
    usize::from(score > if probability { 0.5 } else { 0.0 })
}

/// The class with the first largest score. Without base values only classes that a leaf named take part.
fn leader(scores: &[f32], touched: &[bool], based: bool) -> usize {
    let taking_part = |class: &usize| based || touched[*class];
    let mut classes = (0..scores.len()).filter(taking_part);
    let first = classes.next().unwrap_or(0);
    classes.fold(first, |best, class| if scores[class] > scores[best] { class } else { best })
}
