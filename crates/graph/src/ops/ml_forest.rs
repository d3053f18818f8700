//! Decision trees as they are walked, and `TreeEnsemble`, which holds them in nearly that form.
//!
//! Inner nodes and leaves are in one array in which children are positions, so that a request only walks. Rows of FP32
//! take many walks at a time: see `ml_walk`. What is here, one walk after the other, is what tests compare that with.

use super::ml_linear::{PostTransform, rows_of};
use super::ml_walk::{LANES, Walks};
use super::{Built, Entry, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, check_work, fault, items};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::new("TreeEnsemble", 5, "FP16 FP32 FP64", tree_ensemble)];

/// How a node compares the feature with its value.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
    Leaf,
}

impl Mode {
    #[expect(clippy::float_cmp, reason = "the file asks for exact equality")]
    fn holds(self, x: f64, value: f64) -> bool {
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

/// One node; of a leaf, `yes..no` are its weights. The value is an FP32 or FP64 number of the file: wide
/// enough that a feature of either type is compared with it exactly.
#[derive(Clone, Copy)]
pub(super) struct TreeNode {
    pub(super) value: f64,
    pub(super) feature: u32,
    pub(super) yes: u32,
    pub(super) no: u32,
    pub(super) mode: Mode,
    /// Where a feature goes that is not a number and for which the comparison does not hold.
    pub(super) missing_is_yes: bool,
}

impl TreeNode {
    /// A leaf with the weights at these positions.
    pub(super) fn leaf(from: u32, to: u32) -> Self {
        Self { value: 0.0, feature: 0, yes: from, no: to, mode: Mode::Leaf, missing_is_yes: false }
    }
}

/// So many rows go through all trees together, and stay in the cache meanwhile.
const BLOCK: usize = 128;
/// Of so many rows the scores are held at a time.
const BATCH: usize = 8192;
/// A thread is given so many steps of walks at least: below, waking it takes longer than it saves.
const SHARE: usize = 1 << 15;

/// How the trees' weights come together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

impl Aggregate {
    /// Takes the weight of a leaf into a score, which others were taken into where it is `touched`.
    fn take(self, score: &mut f64, touched: &mut bool, weight: f64) {
        *score = match self {
            Self::Sum | Self::Average => *score + weight,
            Self::Min if *touched => score.min(weight),
            Self::Max if *touched => score.max(weight),
            Self::Min | Self::Max => weight,
        };
        *touched = true;
    }
}

/// Trees that together give scores.
pub(super) struct Forest {
    pub(super) nodes: Vec<TreeNode>,
    pub(super) roots: Vec<u32>,
    /// (class or target, weight), leaf by leaf.
    pub(super) weights: Vec<(u32, f64)>,
    /// How many classes or targets there are.
    pub(super) outputs: usize,
    pub(super) aggregate: Aggregate,
    /// What is added to each score in the end; a list of another length is not used.
    pub(super) base: Vec<f64>,
    /// How many features the trees look at.
    features: usize,
    /// How many nodes a row may go through, all trees together.
    steps: usize,
    /// The same trees for many walks at a time, where they go into that form.
    walks: Option<Walks>,
}

pub(super) fn invalid<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(reason.into()))
}

impl Forest {
    /// Checks that every walk from a root ends in a leaf. The caller has checked all positions.
    pub(super) fn new(
        nodes: Vec<TreeNode>,
        roots: Vec<u32>,
        weights: Vec<(u32, f64)>,
        outputs: usize,
        aggregate: Aggregate,
        base: Vec<f64>,
    ) -> Result<Self, Refusal> {
        let Some(steps) = longest_walks(&nodes, &roots) else {
            return invalid("a tree leads back to one of its own nodes");
        };
        let splits = nodes.iter().filter(|node| !matches!(node.mode, Mode::Leaf));
        let features = splits.map(|node| node.feature as usize + 1).max().unwrap_or(0);
        let walks = Walks::new(&nodes, &roots, &weights);
        Ok(Self { nodes, roots, weights, outputs, aggregate, base, features, steps, walks })
    }

    /// The form in which rows of FP32 take many walks at a time.
    #[cfg(test)]
    pub(super) fn walks(&self) -> Option<&Walks> {
        self.walks.as_ref()
    }

    /// The weights of the leaf that a row falls into.
    fn leaf<X: Copy + Into<f64>>(&self, root: u32, row: &[X]) -> &[(u32, f64)] {
        let mut node = &self.nodes[root as usize];
        while !matches!(node.mode, Mode::Leaf) {
            let x: f64 = row[node.feature as usize].into();
            let yes = node.mode.holds(x, node.value) || (node.missing_is_yes && x.is_nan());
            node = &self.nodes[if yes { node.yes } else { node.no } as usize];
        }
        &self.weights[node.yes as usize..node.no as usize]
    }

    /// The scores of a row, base values included, and which outputs any leaf named.
    fn score<X: Copy + Into<f64>>(&self, row: &[X], scores: &mut [f64], touched: &mut [bool]) {
        scores.fill(0.0);
        touched.fill(false);
        for &root in &self.roots {
            for &(output, weight) in self.leaf(root, row) {
                let output = output as usize;
                self.aggregate.take(&mut scores[output], &mut touched[output], weight);
            }
        }
        self.finish(scores);
    }

    /// What is done to the scores of a row when all leaves are in them.
    fn finish(&self, scores: &mut [f64]) {
        if self.aggregate == Aggregate::Average {
            for score in &mut *scores {
                *score /= self.roots.len() as f64;
            }
        }
        if self.base.len() == scores.len() {
            scores.iter_mut().zip(&self.base).for_each(|(score, base)| *score += base);
        }
    }

    /// Calls `each` with the scores of every row, and with which outputs any leaf named.
    pub(super) fn for_rows(&self, x: Tensor, each: impl FnMut(&[f64], &[bool])) -> Result<usize, Fault> {
        let dtype = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let (table, rows, width) = rows_of(x, dtype)?;
        if width < self.features {
            fault!("the trees look at {} features, but the input has {width}", self.features);
        }
        check_size(&[rows, self.outputs])?;
        check_work(&[rows, self.steps])?;
        match &self.walks {
            _ if dtype == DType::F64 => self.score_all(items::<f64>(&table), rows, width, each),
            Some(walks) => self.score_together(walks, items::<f32>(&table), width, each),
            None => self.score_all(items::<f32>(&table), rows, width, each),
        }
        Ok(rows)
    }

    fn score_all<X: Copy + Into<f64>>(
        &self,
        table: &[X],
        rows: usize,
        width: usize,
        mut each: impl FnMut(&[f64], &[bool]),
    ) {
        let (mut scores, mut touched) = (vec![0.0; self.outputs], vec![false; self.outputs]);
        for row in 0..rows {
            self.score(&table[row * width..(row + 1) * width], &mut scores, &mut touched);
            each(&scores, &touched);
        }
    }
}

impl Forest {
    /// What [`Forest::score_all`] does, with many walks at a time, and on all threads where there are enough of them.
    fn score_together(
        &self,
        walks: &Walks,
        table: &[f32],
        width: usize,
        mut each: impl FnMut(&[f64], &[bool]),
    ) {
        for rows in table.chunks(BATCH * width) {
            let count = rows.len() / width;
            let size = count * self.outputs;
            let (mut scores, mut touched) = (vec![0.0; size], vec![false; size]);
            let shares = (count.saturating_mul(self.steps) / SHARE).clamp(1, rayon::current_num_threads());
            // Whole groups of walks for each.
            let share = count.div_ceil(shares).next_multiple_of(LANES);
            let parts = rows
                .chunks(share * width)
                .zip(scores.chunks_mut(share * self.outputs))
                .zip(touched.chunks_mut(share * self.outputs));
            // The first part stays on this thread.
            rayon::in_place_scope(|scope| {
                let mut own = None;
                for ((rows, scores), touched) in parts {
                    if own.is_none() {
                        own = Some((rows, scores, touched));
                    } else {
                        scope.spawn(move |_| self.score_part(walks, rows, width, scores, touched));
                    }
                }
                if let Some((rows, scores, touched)) = own {
                    self.score_part(walks, rows, width, scores, touched);
                }
            });
            for (scores, touched) in scores.chunks_exact(self.outputs).zip(touched.chunks_exact(self.outputs))
            {
                each(scores, touched);
            }
        }
    }

    /// The scores of some rows, block by block.
    fn score_part(
        &self,
        walks: &Walks,
        table: &[f32],
        width: usize,
        scores: &mut [f64],
        touched: &mut [bool],
    ) {
        let blocks = table
            .chunks(BLOCK * width)
            .zip(scores.chunks_mut(BLOCK * self.outputs))
            .zip(touched.chunks_mut(BLOCK * self.outputs));
        for ((rows, scores), touched) in blocks {
            let mut take = |row: usize, output: u32, weight: f64| {
                let at = row * self.outputs + output as usize;
                self.aggregate.take(&mut scores[at], &mut touched[at], weight);
            };
            match walks {
                Walks::Linked(linked) => linked.for_leaves(rows, width, |row, leaf| {
                    self.weights[leaf].iter().for_each(|&(output, weight)| take(row, output, weight));
                }),
                // One sum stays in a register.
                Walks::Full(full) if self.outputs == 1 && self.aggregate == Aggregate::Sum => {
                    full.for_weights(rows, width, |row, _, weights| {
                        scores[row] = weights.iter().fold(scores[row], |sum, weight| sum + weight);
                        touched[row] = true;
                    });
                }
                Walks::Full(full) => full.for_weights(rows, width, |row, outputs, weights| {
                    outputs.iter().zip(weights).for_each(|(&output, &weight)| take(row, output, weight));
                }),
            }
            scores.chunks_exact_mut(self.outputs).for_each(|scores| self.finish(scores));
        }
    }
}

/// How many nodes the longest walks from all roots go through together; `None` when one of them comes back to
/// where it was. Trees may share nodes.
fn longest_walks(nodes: &[TreeNode], roots: &[u32]) -> Option<usize> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Seen {
        Never,
        OnTheWay,
        Done,
    }
    let mut seen = vec![Seen::Never; nodes.len()];
    let mut longest = vec![1usize; nodes.len()];
    let mut open: Vec<u32> = roots.to_vec();
    while let Some(&at) = open.last() {
        let node = &nodes[at as usize];
        let is_leaf = matches!(node.mode, Mode::Leaf);
        if seen[at as usize] == Seen::Never {
            seen[at as usize] = Seen::OnTheWay;
            for child in [node.yes, node.no] {
                // Of a leaf, these are weights.
                if is_leaf {
                    break;
                }
                match seen[child as usize] {
                    Seen::Never => open.push(child),
                    Seen::OnTheWay => return None,
                    Seen::Done => {}
                }
            }
        } else {
            // All below has been seen, or this is a second way to a node that has.
            seen[at as usize] = Seen::Done;
            if !is_leaf {
                longest[at as usize] = 1 + longest[node.yes as usize].max(longest[node.no as usize]);
            }
            open.pop();
        }
    }
    Some(roots.iter().map(|&root| longest[root as usize]).fold(0, usize::saturating_add))
}

/// An attribute that is a tensor of numbers; empty when the file does not set it.
pub(super) fn tensor_numbers(node: &Node<'_>, name: &str) -> Result<Vec<f64>, Refusal> {
    let tensor = node.tensor(name)?;
    tensor.map_or(Ok(Vec::new()), |tensor| tensor.to_f64s().map_err(|fault| Refusal::Invalid(fault.0)))
}

/// Inner nodes and leaves are two lists in the file, and each child says in which of them it is.
fn tree_ensemble(node: &Node<'_>) -> Built {
    let targets = usize::try_from(node.int("n_targets", 1)).ok().filter(|&targets| targets > 0);
    let Some(targets) = targets else { return invalid("`n_targets` must be positive") };
    let aggregate = match node.int("aggregate_function", 1) {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        other => return invalid(format!("`aggregate_function` cannot be {other}")),
    };
    let post = match node.int("post_transform", 0) {
        0 => PostTransform::None,
        1 => PostTransform::Softmax,
        2 => PostTransform::Logistic,
        3 => PostTransform::SoftmaxZero,
        4 => PostTransform::Probit,
        other => return invalid(format!("`post_transform` cannot be {other}")),
    };
    let (nodes, weights) = read_nodes(node, targets)?;
    let inner = node.ints("nodes_featureids").map_or(0, |ids| ids.len());
    let root = |&root: &i64| u32::try_from(root).ok().filter(|&root| (root as usize) < inner);
    let roots: Option<Vec<u32>> = node.ints("tree_roots").unwrap_or_default().iter().map(root).collect();
    let Some(roots) = roots.filter(|roots| !roots.is_empty()) else {
        return invalid("`tree_roots` is empty, or a root is no node");
    };
    let forest = Forest::new(nodes, roots, weights, targets, aggregate, Vec::new())?;
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let dtype = x.dtype();
        let mut table = Vec::new();
        let rows = forest.for_rows(x, |scores, _| {
            let start = table.len();
            table.extend_from_slice(scores);
            post.apply(&mut table[start..]);
        })?;
        Ok(super::cast::cast(Tensor::from_items(&[rows, targets], table), dtype)?.into())
    })
}

/// The inner nodes, then the leaves, then what sets of members need.
#[expect(clippy::type_complexity, reason = "two halves of one forest, used once")]
fn read_nodes(node: &Node<'_>, targets: usize) -> Result<(Vec<TreeNode>, Vec<(u32, f64)>), Refusal> {
    let ints = |name: &str| node.ints(name).unwrap_or_default();
    let modes = node.tensor("nodes_modes")?.map(|modes| modes.to_i64s()).transpose();
    let modes = modes.map_err(|fault| Refusal::Invalid(fault.0))?.unwrap_or_default();
    let values = tensor_numbers(node, "nodes_splits")?;
    let features = ints("nodes_featureids");
    let (yes, no) = (ints("nodes_truenodeids"), ints("nodes_falsenodeids"));
    let (yes_leaf, no_leaf) = (ints("nodes_trueleafs"), ints("nodes_falseleafs"));
    let missing = ints("nodes_missing_value_tracks_true");
    let count = features.len();
    let lengths = [modes.len(), values.len(), yes.len(), no.len(), yes_leaf.len(), no_leaf.len()];
    if count == 0 || lengths.iter().any(|&length| length != count) {
        return invalid("the lists of nodes are empty or differ in length");
    }
    let (leaf_targets, leaf_weights) = (ints("leaf_targetids"), tensor_numbers(node, "leaf_weights")?);
    if leaf_targets.len() != leaf_weights.len() {
        return invalid("the lists of leaves differ in length");
    }
    let members = tensor_numbers(node, "membership_values")?;
    let mut sets = members.split(|member| member.is_nan());
    let total =
        [leaf_weights.len(), members.len()].iter().try_fold(count, |sum, &more| sum.checked_add(more));
    let Some(mut next) =
        total.and_then(|total| u32::try_from(total).ok()).map(|_| u32_of(count + leaf_weights.len()))
    else {
        return invalid("there are too many nodes");
    };
    let child = |id: i64, leaf: i64| {
        let (first, length) = if leaf == 0 { (0, count) } else { (count, leaf_weights.len()) };
        match usize::try_from(id) {
            Ok(id) if id < length => Ok(u32_of(first + id)),
            _ => invalid(format!("there is no node or leaf {id}")),
        }
    };
    let (mut nodes, mut chains) = (Vec::with_capacity(count), Vec::new());
    for at in 0..count {
        let Ok(feature) = u32::try_from(features[at]) else { return invalid("a feature is negative") };
        let mode = match modes[at] {
            0 => Mode::LessOrEqual,
            1 => Mode::Less,
            2 => Mode::GreaterOrEqual,
            3 => Mode::Greater,
            4 | 6 => Mode::Equal,
            5 => Mode::NotEqual,
            other => return invalid(format!("the mode of a node cannot be {other}")),
        };
        let (yes, no) = (child(yes[at], yes_leaf[at])?, child(no[at], no_leaf[at])?);
        let missing_is_yes = missing.get(at).is_some_and(|&flag| flag != 0);
        let single = TreeNode { value: values[at], feature, yes, no, mode, missing_is_yes };
        if modes[at] != 6 {
            nodes.push(single);
            continue;
        }
        // Membership is equality with one after the other. Nothing is equal to NaN, the set of none.
        let set = sets.next().unwrap_or_default();
        let (first, rest) = set.split_first().map_or((f64::NAN, set), |(&first, rest)| (first, rest));
        nodes.push(TreeNode { value: first, no: if rest.is_empty() { no } else { next }, ..single });
        for (place, &value) in rest.iter().enumerate() {
            next += 1;
            chains.push(TreeNode { value, no: if place + 1 == rest.len() { no } else { next }, ..single });
        }
    }
    let mut weights = Vec::with_capacity(leaf_weights.len());
    for (&target, &weight) in leaf_targets.iter().zip(&leaf_weights) {
        let Some(target) = u32::try_from(target).ok().filter(|&target| (target as usize) < targets) else {
            return invalid(format!("there is no target {target}"));
        };
        nodes.push(TreeNode::leaf(u32_of(weights.len()), u32_of(weights.len() + 1)));
        weights.push((target, weight));
    }
    nodes.append(&mut chains);
    Ok((nodes, weights))
}

/// A position among the nodes, which has been checked to fit.
pub(super) fn u32_of(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Mode, TreeNode, longest_walks};

    fn split(yes: u32, no: u32) -> TreeNode {
        TreeNode { value: 0.0, feature: 0, yes, no, mode: Mode::Less, missing_is_yes: false }
    }

    #[test]
    fn shared_nodes_end_and_circles_do_not() {
        let leaf = TreeNode::leaf(0, 1);
        assert_eq!(longest_walks(&[split(1, 2), split(2, 3), split(3, 3), leaf], &[0, 1]), Some(4 + 3));
        assert_eq!(longest_walks(&[split(1, 3), split(2, 3), split(0, 3), leaf], &[0]), None);
        assert_eq!(longest_walks(&[split(0, 1), leaf], &[0]), None);
        assert_eq!(longest_walks(&[split(0, 1), leaf], &[]), Some(0));
    }
}
