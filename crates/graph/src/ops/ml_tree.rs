//! Ensembles of decision trees of `ai.onnx.ml`.
//!
//! The file holds parallel lists, one entry per node, that name nodes by (tree, node). At load they
//! become one array in which children are positions, so that a request only walks.

use std::collections::{HashMap, HashSet};

use super::ml_linear::{Labels, PostTransform, feature_rows, winner};
use super::{Built, Entry, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, fault, items};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("TreeEnsembleClassifier", 1, "numbers", classifier),
    Entry::new("TreeEnsembleRegressor", 1, "numbers", regressor),
];

/// How a node compares the feature with its value.
#[derive(Clone, Copy)]
enum Mode {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
    Leaf,
}

impl Mode {
    fn read(name: &str) -> Result<Self, Refusal> {
        Ok(match name {
            "BRANCH_LEQ" => Self::LessOrEqual,
            "BRANCH_LT" => Self::Less,
            "BRANCH_GTE" => Self::GreaterOrEqual,
            "BRANCH_GT" => Self::Greater,
            "BRANCH_EQ" => Self::Equal,
            "BRANCH_NEQ" => Self::NotEqual,
            "LEAF" => Self::Leaf,
            other => return Err(Refusal::Unsupported(format!("the node mode `{other}` is not supported"))),
        })
    }

    #[expect(clippy::float_cmp, reason = "the file asks for exact equality")]
    fn holds(self, x: f32, value: f32) -> bool {
        match self {
            Self::LessOrEqual => x <= value,
            Self::Less => x < value,
            Self::GreaterOrEqual => x >= value,
            Self::Greater => x > value,
            Self::Equal => x == value,
            Self::NotEqual => x != value,
            Self::Leaf => true,
        }
    }
}

/// One node; of a leaf, `yes..no` are its weights.
struct TreeNode {
    mode: Mode,
    missing_is_yes: bool,
    feature: u32,
    value: f32,
    yes: u32,
    no: u32,
}

/// How the trees' weights come together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

struct Ensemble {
    nodes: Vec<TreeNode>,
    roots: Vec<u32>,
    /// (class or target, weight), leaf by leaf.
    weights: Vec<(u32, f32)>,
    /// How many features the trees look at.
    features: usize,
    /// How many classes or targets there are.
    outputs: usize,
    aggregate: Aggregate,
    base: Vec<f32>,
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(reason.into()))
}

/// An attribute that is a list of numbers, of FP32 or, from version 3 on, of FP64.
fn numbers(node: &Node<'_>, name: &str) -> Result<Vec<f32>, Refusal> {
    match node.tensor(&format!("{name}_as_tensor"))? {
        #[expect(clippy::cast_possible_truncation, reason = "trees are walked in FP32")]
        Some(tensor) => {
            let wide = tensor.to_f64s().map_err(|fault| Refusal::Invalid(fault.0))?;
            Ok(wide.into_iter().map(|x| x as f32).collect())
        }
        None => Ok(node.floats(name)),
    }
}

impl Ensemble {
    /// `kind` is the prefix of the attributes of the leaves: `class` or `target`.
    fn read(node: &Node<'_>, kind: &str, outputs: usize, aggregate: Aggregate) -> Result<Self, Refusal> {
        if node.has("nodes_values_as_tensor") && node.has(&format!("{kind}_weights_as_tensor")) {
            return Err(Refusal::Unsupported(
                "trees of FP64 are not supported; export them with FP32".to_owned(),
            ));
        }
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
        let (weights, leaves) = Self::read_weights(node, kind, outputs, &places)?;
        let mut nodes = Vec::with_capacity(count);
        let mut is_root = vec![true; count];
        for at in 0..count {
            let mode = Mode::read(&modes[at])?;
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
        let splits = nodes.iter().filter(|node| !matches!(node.mode, Mode::Leaf));
        let features = splits.map(|node| node.feature as usize + 1).max().unwrap_or(0);
        let roots: Vec<u32> = (0..).zip(is_root).filter(|(_, root)| *root).map(|(at, _)| at).collect();
        let distinct: HashSet<i64> = trees.iter().copied().collect();
        if roots.len() != distinct.len() {
            return invalid(format!("{} trees have {} roots", distinct.len(), roots.len()));
        }
        let base = numbers(node, "base_values")?;
        Ok(Self { nodes, roots, weights, features, outputs, aggregate, base })
    }

    /// The weights sorted by leaf, and where those of each leaf are.
    #[expect(clippy::type_complexity, reason = "two halves of one table, used once")]
    fn read_weights(
        node: &Node<'_>,
        kind: &str,
        outputs: usize,
        places: &HashMap<(i64, i64), u32>,
    ) -> Result<(Vec<(u32, f32)>, HashMap<u32, (u32, u32)>), Refusal> {
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

    /// The weights of the leaf that a row falls into.
    fn leaf(&self, root: u32, row: &[f32]) -> &[(u32, f32)] {
        let mut node = &self.nodes[root as usize];
        while !matches!(node.mode, Mode::Leaf) {
            let x = row[node.feature as usize];
            let yes = node.mode.holds(x, node.value) || (node.missing_is_yes && x.is_nan());
            node = &self.nodes[if yes { node.yes } else { node.no } as usize];
        }
        &self.weights[node.yes as usize..node.no as usize]
    }

    /// The scores of a row, base values included, and which outputs any leaf named.
    fn score(&self, row: &[f32], scores: &mut [f64], touched: &mut [bool]) {
        scores.fill(0.0);
        touched.fill(false);
        for &root in &self.roots {
            for &(output, weight) in self.leaf(root, row) {
                let output = output as usize;
                let (weight, score) = (f64::from(weight), &mut scores[output]);
                *score = match self.aggregate {
                    Aggregate::Sum | Aggregate::Average => *score + weight,
                    Aggregate::Min if touched[output] => score.min(weight),
                    Aggregate::Max if touched[output] => score.max(weight),
                    Aggregate::Min | Aggregate::Max => weight,
                };
                touched[output] = true;
            }
        }
        if self.aggregate == Aggregate::Average {
            for score in &mut *scores {
                *score /= self.roots.len() as f64;
            }
        }
        if self.base.len() == scores.len() {
            scores.iter_mut().zip(&self.base).for_each(|(score, &base)| *score += f64::from(base));
        }
    }

    /// Calls `each` with the scores of every row.
    fn for_rows(&self, x: Tensor, mut each: impl FnMut(&[f64], &[bool])) -> Result<usize, Fault> {
        let (table, rows, width) = feature_rows(x)?;
        if width < self.features {
            fault!("the trees look at {} features, but the input has {width}", self.features);
        }
        check_size(&[rows, self.outputs])?;
        let (mut scores, mut touched) = (vec![0.0; self.outputs], vec![false; self.outputs]);
        for row in items::<f32>(&table).chunks_exact(width.max(1)) {
            self.score(row, &mut scores, &mut touched);
            each(&scores, &touched);
        }
        Ok(rows)
    }
}

fn u32_of(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "sums are made in FP64, answers are FP32")]
fn narrow(score: f64) -> f32 {
    score as f32
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
    let ensemble = Ensemble::read(node, "target", targets, aggregate)?;
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
    let ensemble = Ensemble::read(node, "class", classes, Aggregate::Sum)?;
    let post = PostTransform::read(node)?;
    let weighted: std::collections::BTreeSet<u32> =
        ensemble.weights.iter().map(|&(class, _)| class).collect();
    // Two classes of which only one has weights: the other has what is left.
    let single = if classes == 2 && weighted.len() == 1 { weighted.first().copied() } else { None };
    let positive_weights = ensemble.weights.iter().all(|&(_, weight)| weight >= 0.0);
    operator(move |inputs| {
        let (mut table, mut winners) = (Vec::new(), Vec::new());
        let rows = ensemble.for_rows(inputs.take(0)?, |scores, _| {
            let start = table.len();
            if let Some(class) = single {
                let score = narrow(single_score(scores, class as usize, &ensemble.base));
                let (second, both) = binary(score, positive_weights, post);
                winners.push(usize::from(second));
                table.extend(both);
                return;
            }
            table.extend(scores.iter().copied().map(narrow));
            winners.push(winner(&table[start..]));
            post.apply(&mut table[start..]);
        })?;
        Ok(Outputs::Many(vec![labels.tensor(&winners), Tensor::from_items(&[rows, classes], table)]))
    })
}

/// The score of the only class with weights, with the base value where the file gives only one.
fn single_score(scores: &[f64], class: usize, base: &[f32]) -> f64 {
    match base {
        [one] => scores[class] + f64::from(*one),
        _ => scores[class],
    }
}

/// Whether the second class wins, and both scores. Weights that are all positive are probabilities;
/// others are distances from the boundary.
fn binary(score: f32, probability: bool, post: PostTransform) -> (bool, [f32; 2]) {
    if probability {
        let mut both = [1.0 - score, score];
        if post == PostTransform::Logistic {
            return (score > 0.5, super::ml_linear::binary_scores(score, post));
        }
        post.apply(&mut both);
        return (score > 0.5, both);
    }
    (score > 0.0, super::ml_linear::binary_scores(score, post))
}
