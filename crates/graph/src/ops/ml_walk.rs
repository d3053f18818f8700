//! Trees as a request of FP32 features walks them: nodes side by side, and eight walks at a time. [`Full`] are laid out
//! tighter still; what is here takes all others.
//!
//! One walk waits for memory at each node, and a processor guesses wrong where it goes at every second of them. Here a
//! step has no branch: the right child is beside the left one, a leaf is its own left child, and eight walks take their
//! steps by turns. They are of eight rows through one tree, which stays in the cache, or of one row through eight trees.
//!
//! [`Forest::leaf`](super::ml_forest::Forest) is the same step by step, and takes what does not go into this form.

use std::ops::Range;

use super::ml_forest::{Mode, TreeNode};
use super::ml_full::Full;

/// How many walks are under way at a time: as many as keep their places in registers.
pub(super) const LANES: usize = 8;
/// Steps after which walks that have all arrived are over.
const STRIDE: usize = 4;
/// The bit of `feature` that sends a feature that is no number to the right.
const MISSING_IS_RIGHT: u32 = 1 << 31;

/// A node: to the right where the feature is greater than the threshold. A leaf has an infinite threshold and is its own
/// left child.
#[derive(Clone, Copy)]
struct Split {
    threshold: f32,
    feature: u32,
    left: u32,
    /// Of a leaf, its number among the leaves.
    leaf: u32,
}

/// A tree: its root, and the most steps to a leaf.
#[derive(Clone, Copy)]
pub(super) struct Tree {
    pub(super) root: u32,
    pub(super) depth: usize,
}

/// (class or target, weight), leaf by leaf.
pub(super) type Weights = [(u32, f64)];

/// Trees for many walks at a time.
pub(super) enum Walks {
    /// Those that have nearly all the nodes that there is room for.
    Full(Full),
    /// All others.
    Linked(Linked),
}

impl Walks {
    /// `None` where a node asks for equality, where a threshold is no number, or where trees share nodes.
    pub(super) fn new(nodes: &[TreeNode], roots: &[u32], weights: &Weights) -> Option<Self> {
        let linked = Linked::new(nodes, roots)?;
        Some(Full::of(&linked, weights).map_or(Self::Linked(linked), Self::Full))
    }
}

/// Trees in which a node says where its children are.
pub(super) struct Linked {
    splits: Vec<Split>,
    trees: Vec<Tree>,
    /// Which weights each leaf has.
    leaves: Vec<(u32, u32)>,
}

/// A node as [`Full`] reads it.
pub(super) struct LinkedNode {
    pub(super) threshold: f32,
    pub(super) feature: u32,
    pub(super) missing_is_right: bool,
    /// The left child; the right one is beside it.
    pub(super) left: u32,
    /// Of a leaf, which weights it has.
    pub(super) leaf: Option<Range<usize>>,
}

impl Linked {
    /// In the order of the file.
    pub(super) fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// Which weights a leaf has.
    fn weights_of(&self, leaf: Split) -> Range<usize> {
        let (from, to) = self.leaves[leaf.leaf as usize];
        from as usize..to as usize
    }

    /// How many there are, leaves included.
    pub(super) fn nodes(&self) -> usize {
        self.splits.len()
    }

    pub(super) fn node(&self, at: u32) -> LinkedNode {
        let split = self.splits[at as usize];
        LinkedNode {
            threshold: split.threshold,
            feature: split.feature & !MISSING_IS_RIGHT,
            missing_is_right: split.feature & MISSING_IS_RIGHT != 0,
            left: split.left,
            leaf: (split.left == at).then(|| self.weights_of(split)),
        }
    }

    fn new(nodes: &[TreeNode], roots: &[u32]) -> Option<Self> {
        // Without a feature, a leaf has none to look at.
        nodes.iter().find(|node| !matches!(node.mode, Mode::Leaf))?;
        let mut linked = Self {
            splits: Vec::with_capacity(nodes.len()),
            trees: Vec::with_capacity(roots.len()),
            leaves: Vec::new(),
        };
        for &root in roots {
            let tree = linked.add(nodes, root)?;
            linked.trees.push(tree);
        }
        Some(linked)
    }

    /// Adds a tree, level by level.
    fn add(&mut self, nodes: &[TreeNode], root: u32) -> Option<Tree> {
        let first = self.splits.len();
        let mut depth = 0;
        let mut level = vec![root];
        while !level.is_empty() {
            // Where trees share nodes there would be more than there are.
            if self.splits.len() + level.len() > nodes.len() {
                return None;
            }
            let mut below = Vec::new();
            // All of the level before its children, which begin after it.
            let children = self.splits.len() + level.len();
            for at in level {
                let node = nodes[at as usize];
                if matches!(node.mode, Mode::Leaf) {
                    let left = u32::try_from(self.splits.len()).ok()?;
                    let leaf = u32::try_from(self.leaves.len()).ok()?;
                    self.splits.push(Split { threshold: f32::INFINITY, feature: 0, left, leaf });
                    self.leaves.push((node.yes, node.no));
                    continue;
                }
                let left = u32::try_from(children + below.len()).ok()?;
                let (threshold, swapped) = threshold(node.mode, node.value)?;
                let (yes, no) = (node.yes, node.no);
                below.extend(if swapped { [no, yes] } else { [yes, no] });
                let missing = if node.missing_is_yes == swapped { MISSING_IS_RIGHT } else { 0 };
                let feature = Some(node.feature).filter(|feature| feature & MISSING_IS_RIGHT == 0)?;
                self.splits.push(Split { threshold, feature: feature | missing, left, leaf: 0 });
            }
            depth += usize::from(!below.is_empty());
            level = below;
        }
        Some(Tree { root: u32::try_from(first).ok()?, depth })
    }

    /// Calls `each` with a row and which weights the leaf has that it falls into, for all rows and trees: for a row, trees
    /// are in their order. `table` is row-major, of rows of `width` features, which are all that nodes look at.
    pub(super) fn for_leaves(&self, table: &[f32], width: usize, each: impl FnMut(usize, Range<usize>)) {
        if table.iter().any(|x| x.is_nan()) {
            self.walk::<true>(table, width, each);
        } else {
            self.walk::<false>(table, width, each);
        }
    }

    fn walk<const HOLES: bool>(
        &self,
        table: &[f32],
        width: usize,
        mut each: impl FnMut(usize, Range<usize>),
    ) {
        let rows = table.len() / width.max(1);
        let together = rows - rows % LANES;
        let start = |row: usize| &table[row * width..(row + 1) * width];
        for tree in &self.trees {
            for first in (0..together).step_by(LANES) {
                let lanes: [&[f32]; LANES] = std::array::from_fn(|lane| start(first + lane));
                let places = self.arrive::<HOLES, LANES>([tree.root; LANES], lanes, tree.depth);
                for (lane, weights) in places.into_iter().enumerate() {
                    each(first + lane, weights);
                }
            }
        }
        for row in together..rows {
            let features = start(row);
            let mut groups = self.trees.chunks_exact(LANES);
            for group in &mut groups {
                let depth = group.iter().map(|tree| tree.depth).max().unwrap_or(0);
                let roots = std::array::from_fn(|lane| group[lane].root);
                for weights in self.arrive::<HOLES, LANES>(roots, [features; LANES], depth) {
                    each(row, weights);
                }
            }
            for tree in groups.remainder() {
                let [weights] = self.arrive::<HOLES, 1>([tree.root], [features], tree.depth);
                each(row, weights);
            }
        }
    }

    /// Which weights the leaves have where some walks end, of which none takes more than `depth` steps.
    #[inline]
    fn arrive<const HOLES: bool, const N: usize>(
        &self,
        mut places: [u32; N],
        rows: [&[f32]; N],
        depth: usize,
    ) -> [Range<usize>; N] {
        let mut left = depth;
        while left > 0 {
            let before = places;
            for _ in 0..left.min(STRIDE) {
                for (place, row) in places.iter_mut().zip(rows) {
                    let split = self.splits[*place as usize];
                    let x = row[(split.feature & !MISSING_IS_RIGHT) as usize];
                    let mut right = x > split.threshold;
                    if HOLES {
                        right |= x.is_nan() && split.feature & MISSING_IS_RIGHT != 0;
                    }
                    *place = split.left.wrapping_add(u32::from(right));
                }
            }
            if places == before {
                break;
            }
            left = left.saturating_sub(STRIDE);
        }
        places.map(|place| self.weights_of(self.splits[place as usize]))
    }
}

/// The FP32 number that a feature which goes to the right is greater than, and whether the right child is where the
/// comparison holds. The value may be wider: what lies between it and the next FP32 number is no feature.
fn threshold(mode: Mode, value: f64) -> Option<(f32, bool)> {
    if value.is_nan() {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "to the nearest, and then to the one that is wanted")]
    let near = value as f32;
    let at_most = if f64::from(near) > value { near.next_down() } else { near };
    let below = if f64::from(near) >= value { near.next_down() } else { near };
    // Nothing is below it.
    let below = (value > f64::NEG_INFINITY).then_some(below);
    match mode {
        Mode::LessOrEqual => Some((at_most, false)),
        Mode::Less => below.map(|below| (below, false)),
        Mode::GreaterOrEqual => below.map(|below| (below, true)),
        Mode::Greater => Some((at_most, true)),
        Mode::Equal | Mode::NotEqual | Mode::Leaf => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ml_forest::{Aggregate, Forest};
    use super::*;
    use crate::tensor::Tensor;

    const FEATURES: u32 = 5;
    const MODES: [Mode; 4] = [Mode::LessOrEqual, Mode::Less, Mode::GreaterOrEqual, Mode::Greater];
    /// Features and thresholds that meet, and thresholds between two features.
    const NUMBERS: [f64; 9] = [
        f64::NEG_INFINITY,
        -1e40,
        -1.0,
        -0.0,
        0.0,
        1.0,
        1.000_000_000_01,
        3.402_823_466_385_288_6e38,
        f64::INFINITY,
    ];

    /// A tree as numbers say: each takes an open place, as a split or as a leaf. A full one takes the places level by level, and
    /// each of its leaves has one weight, for `output`.
    fn grow(
        choices: &[u32],
        full: Option<u32>,
        outputs: u32,
        nodes: &mut Vec<TreeNode>,
        weights: &mut Vec<(u32, f64)>,
    ) {
        let mut open = vec![nodes.len()];
        nodes.push(TreeNode::leaf(0, 0));
        for &choice in choices {
            let place = if full.is_some() { 0 } else { choice as usize % open.len() };
            let place = open.remove(place);
            let value = NUMBERS[choice as usize / 3 % NUMBERS.len()];
            let mode = MODES[choice as usize / 5 % MODES.len()];
            // Nothing is below it.
            let mode = if value == f64::NEG_INFINITY { Mode::LessOrEqual } else { mode };
            let (yes, no) = (nodes.len(), nodes.len() + 1);
            nodes.extend([TreeNode::leaf(0, 0); 2]);
            open.extend([yes, no]);
            let place_of = |place: usize| u32::try_from(place).expect("small");
            nodes[place] = TreeNode {
                value,
                feature: choice / 7 % FEATURES,
                yes: place_of(yes),
                no: place_of(no),
                mode,
                missing_is_yes: choice % 2 == 0,
            };
        }
        for (at, place) in open.into_iter().enumerate() {
            let from = u32::try_from(weights.len()).expect("small");
            let count = if full.is_some() { 1 } else { u32::try_from(at % 3).expect("small") };
            let output = |more| full.unwrap_or(from + more) % outputs;
            weights.extend((0..count).map(|more| (output(more), f64::from(from) * 0.37 - 3.0)));
            nodes[place] = TreeNode::leaf(from, from + count);
        }
    }

    proptest! {
        #[test]
        fn many_walks_at_a_time_end_where_single_ones_do(
            mut trees in prop::collection::vec(prop::collection::vec(any::<u32>(), 1..40), 1..80),
            features in prop::collection::vec(0usize..=NUMBERS.len(), 1..60),
            rows in 1usize..40,
            aggregate in 0usize..4,
            outputs in 1u32..4,
            full: bool,
        ) {
            let (mut nodes, mut weights, mut roots) = (Vec::new(), Vec::new(), Vec::new());
            let splits = trees[0].len();
            for (tree, choices) in (0..).zip(&mut trees) {
                roots.push(u32::try_from(nodes.len()).expect("small"));
                if full {
                    *choices = choices.iter().copied().cycle().take(splits).collect();
                }
                grow(choices, full.then_some(tree), outputs, &mut nodes, &mut weights);
            }
            let aggregate = [Aggregate::Sum, Aggregate::Average, Aggregate::Min, Aggregate::Max][aggregate];
            let base = vec![0.5, 1.0, 2.0];
            let forest = Forest::new(nodes, roots, weights, outputs as usize, aggregate, base).expect("trees");
            prop_assert!(forest.walks().is_some());
            prop_assert!(!full || matches!(forest.walks(), Some(Walks::Full(_))));
            #[expect(clippy::cast_possible_truncation, reason = "features are FP32 numbers")]
            let feature = |&at: &usize| NUMBERS.get(at).map_or(f32::NAN, |&number| number as f32);
            let width = FEATURES as usize + 1;
            let table: Vec<f32> = features.iter().map(feature).cycle().take(rows * width).collect();
            let wide: Vec<f64> = table.iter().map(|&x| x.into()).collect();
            // Of FP64 features each walk is taken step by step.
            let scores = |x: Tensor| {
                let mut seen = Vec::new();
                let rows = forest.for_rows(x, |scores, touched| seen.push((scores.to_vec(), touched.to_vec())));
                (rows.expect("as many features"), seen)
            };
            let together = scores(Tensor::from_items(&[rows, width], table));
            prop_assert_eq!(together, scores(Tensor::from_items(&[rows, width], wide)));
        }
    }

    #[test]
    fn what_is_no_comparison_by_size_is_walked_step_by_step() {
        let leaves = [TreeNode::leaf(0, 0), TreeNode::leaf(0, 0)];
        let split = |mode, value| TreeNode { value, feature: 0, yes: 1, no: 2, mode, missing_is_yes: false };
        let walks = |node: TreeNode| Linked::new(&[&[node], &leaves[..]].concat(), &[0]).is_some();
        assert!(walks(split(Mode::Less, 1.0)));
        assert!(!walks(split(Mode::Equal, 1.0)));
        assert!(!walks(split(Mode::Less, f64::NAN)));
        assert!(!walks(split(Mode::Less, f64::NEG_INFINITY)));
        assert!(Linked::new(&leaves, &[0]).is_none(), "leaves look at no feature");
        let shared = TreeNode { no: 1, ..split(Mode::Less, 1.0) };
        assert!(Linked::new(&[shared, TreeNode { yes: 2, no: 2, ..shared }, leaves[0]], &[0]).is_none());
    }
}
