//! Trees that are full or nearly so, laid out so that a child's place is computed instead of read.
//!
//! The children of node `p` are `2p` and `2p + 1`, as in a heap, and every walk takes as many steps. So a node is eight bytes,
//! a step is a comparison and a sum, and no walk asks whether it has arrived. A leaf above the last level is a node
//! from which all go to the left, and stands below it again. A leaf is the one weight that it has: where trees give
//! several, or none, they stay [`Linked`].

use super::ml_walk::{Linked, Weights};

/// Walks of one row through so many trees are under way at a time.
const TREES: usize = 16;
/// Walks of so many rows through one tree are under way at a time.
const ROWS: usize = 8;
/// Of so many trees the weights are handed over at a time.
const BUFFER: usize = 64;
/// Trees of so many steps at most.
const DEEPEST: u32 = 8;
/// Full trees may have so many times the nodes that there are.
const FILLED: usize = 3;

/// A node: to the right where the feature is greater than the threshold.
#[derive(Clone, Copy)]
struct Split {
    threshold: f32,
    feature: u16,
    missing_is_right: bool,
}

/// From such a node all go to the left.
const PASSED: Split = Split { threshold: f32::INFINITY, feature: 0, missing_is_right: false };

/// Trees of which each has room for `1 << depth` leaves.
pub(super) struct Full {
    depth: u32,
    /// `1 << depth` for each tree; the first of them is nobody's.
    splits: Vec<Split>,
    /// `1 << depth` for each tree.
    leaves: Vec<f64>,
    /// To which output each tree gives.
    outputs: Vec<u32>,
}

impl Full {
    /// `None` where the trees are too deep, or so uneven that full ones would be mostly empty, or where the leaves of a
    /// tree have not one weight each, all for the same output.
    pub(super) fn of(linked: &Linked, weights: &Weights) -> Option<Self> {
        let trees = linked.trees();
        let depth = u32::try_from(trees.iter().map(|tree| tree.depth).max()?).ok()?;
        let most = linked.nodes().saturating_mul(FILLED);
        if !(1..=DEEPEST).contains(&depth) || trees.len() << (depth + 1) > most {
            return None;
        }
        let size = 1 << depth;
        let mut full = Self {
            depth,
            splits: vec![PASSED; trees.len() * size],
            leaves: vec![0.0; trees.len() * size],
            outputs: Vec::with_capacity(trees.len()),
        };
        for (tree, start) in trees.iter().zip((0..).step_by(size)) {
            let mut output = None;
            let mut open = vec![(1, tree.root)];
            while let Some((place, from)) = open.pop() {
                let node = linked.node(from);
                let (left, right) = if let Some(leaf) = node.leaf {
                    let &[(of, weight)] = &weights[leaf] else { return None };
                    if *output.get_or_insert(of) != of {
                        return None;
                    }
                    if place >= size {
                        full.leaves[start + place - size] = weight;
                        continue;
                    }
                    (from, from)
                } else {
                    full.splits[start + place] = Split {
                        threshold: node.threshold,
                        feature: u16::try_from(node.feature).ok()?,
                        missing_is_right: node.missing_is_right,
                    };
                    (node.left, node.left + 1)
                };
                open.extend([(2 * place, left), (2 * place + 1, right)]);
            }
            full.outputs.push(output?);
        }
        Some(full)
    }

    /// Calls `each` with a row, some outputs and what to add to each of them: for a row, in the order of the trees.
    /// `table` is row-major, of rows of `width` features, which are all that nodes look at.
    pub(super) fn for_weights(
        &self,
        table: &[f32],
        width: usize,
        mut each: impl FnMut(usize, &[u32], &[f64]),
    ) {
        if table.iter().any(|x| x.is_nan()) {
            self.walk_all::<true>(table, width, &mut each);
        } else {
            self.walk_all::<false>(table, width, &mut each);
        }
    }

    fn walk_all<const HOLES: bool>(
        &self,
        table: &[f32],
        width: usize,
        each: &mut impl FnMut(usize, &[u32], &[f64]),
    ) {
        match self.depth {
            1 => self.walk::<HOLES, 2>(table, width, each),
            2 => self.walk::<HOLES, 4>(table, width, each),
            3 => self.walk::<HOLES, 8>(table, width, each),
            4 => self.walk::<HOLES, 16>(table, width, each),
            5 => self.walk::<HOLES, 32>(table, width, each),
            6 => self.walk::<HOLES, 64>(table, width, each),
            7 => self.walk::<HOLES, 128>(table, width, each),
            _ => self.walk::<HOLES, 256>(table, width, each),
        }
    }

    /// `SIZE` is `1 << depth`: a place that is smaller needs no check.
    fn walk<const HOLES: bool, const SIZE: usize>(
        &self,
        table: &[f32],
        width: usize,
        each: &mut impl FnMut(usize, &[u32], &[f64]),
    ) {
        let (splits, leaves) = (self.splits.as_chunks::<SIZE>().0, self.leaves.as_chunks::<SIZE>().0);
        let rows = table.len() / width.max(1);
        let together = rows - rows % ROWS;
        let parts = splits.chunks(BUFFER).zip(leaves.chunks(BUFFER)).zip(self.outputs.chunks(BUFFER));
        for ((splits, leaves), outputs) in parts {
            for first in (0..together).step_by(ROWS) {
                let mut found = [[0.0; BUFFER]; ROWS];
                let table = &table[first * width..(first + ROWS) * width];
                through_one_tree::<HOLES, SIZE>(splits, leaves, table, width, &mut found);
                for (row, found) in found.iter().enumerate() {
                    each(first + row, outputs, &found[..outputs.len()]);
                }
            }
            for row in together..rows {
                let mut found = [0.0; BUFFER];
                let features = &table[row * width..(row + 1) * width];
                through_many_trees::<HOLES, SIZE>(splits, leaves, features, &mut found);
                each(row, outputs, &found[..outputs.len()]);
            }
        }
    }
}

/// The weights that some rows have of each tree, one tree after the other.
#[inline(never)] // or the places of the walks do not stay in registers
fn through_one_tree<const HOLES: bool, const SIZE: usize>(
    splits: &[[Split; SIZE]],
    leaves: &[[f64; SIZE]],
    table: &[f32],
    width: usize,
    found: &mut [[f64; BUFFER]; ROWS],
) {
    let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &table[row * width..(row + 1) * width]);
    for ((tree, leaves), at) in splits.iter().zip(leaves).zip(0..BUFFER) {
        let places = arrive::<HOLES, SIZE, ROWS>([tree; ROWS], rows);
        for row in 0..ROWS {
            found[row][at] = leaves[places[row] as usize % SIZE];
        }
    }
}

/// The weights that a row has of each tree, some trees at a time.
#[inline(never)] // or the places of the walks do not stay in registers
fn through_many_trees<const HOLES: bool, const SIZE: usize>(
    splits: &[[Split; SIZE]],
    leaves: &[[f64; SIZE]],
    row: &[f32],
    found: &mut [f64; BUFFER],
) {
    let (groups, rest) = splits.as_chunks::<TREES>();
    let (leaves_of_groups, leaves_of_rest) = leaves.as_chunks::<TREES>();
    let (found_of_groups, found_of_rest) = found.split_at_mut(groups.len() * TREES);
    let found_of_groups = found_of_groups.as_chunks_mut::<TREES>().0;
    for ((trees, leaves), found) in groups.iter().zip(leaves_of_groups).zip(found_of_groups) {
        let places = arrive::<HOLES, SIZE, TREES>(trees.each_ref(), [row; TREES]);
        for tree in 0..TREES {
            found[tree] = leaves[tree][places[tree] as usize % SIZE];
        }
    }
    for ((tree, leaves), found) in rest.iter().zip(leaves_of_rest).zip(found_of_rest) {
        let [place] = arrive::<HOLES, SIZE, 1>([tree], [row]);
        *found = leaves[place as usize % SIZE];
    }
}

/// Where some walks end: a leaf's place is what is left when it is divided by `SIZE`.
#[inline]
fn arrive<const HOLES: bool, const SIZE: usize, const N: usize>(
    trees: [&[Split; SIZE]; N],
    rows: [&[f32]; N],
) -> [u32; N] {
    let mut places = [1u32; N];
    for _ in 0..SIZE.ilog2() {
        for walk in 0..N {
            let split = &trees[walk][places[walk] as usize % SIZE];
            let x = rows[walk][usize::from(split.feature)];
            #[expect(
                clippy::neg_cmp_op_on_partial_ord,
                reason = "one instruction; what is no number comes next"
            )]
            let mut right = !(x <= split.threshold);
            if HOLES {
                right &= split.missing_is_right || !x.is_nan();
            }
            places[walk] = places[walk].wrapping_mul(2).wrapping_add(u32::from(right));
        }
    }
    places
}
