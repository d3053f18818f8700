//! Support vector machines of `ai.onnx.ml`.
//!
//! The text of ONNX says little about them; what is not said is as in ONNX Runtime, which follows libsvm
//! (Chang and Lin, "LIBSVM: A Library for Support Vector Machines"). Sums are made in FP64, as libsvm
//! makes them.

use super::ml_linear::{Labels, PostTransform, both_scores, feature_rows, narrow, winner};
use super::{Built, Entry, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, check_work, fault, items};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("SVMClassifier", 1, "numbers", classifier),
    Entry::new("SVMRegressor", 1, "numbers", regressor),
];

fn invalid<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(reason.into()))
}

/// How alike two rows of features are.
#[derive(Clone, Copy)]
enum Kernel {
    Linear,
    Poly { gamma: f64, offset: f64, degree: f64 },
    Radial { gamma: f64 },
    Sigmoid { gamma: f64, offset: f64 },
}

impl Kernel {
    fn read(node: &Node<'_>) -> Result<Self, Refusal> {
        let (gamma, offset, degree) = match node.floats("kernel_params")[..] {
            [] => (0.0, 0.0, 0.0),
            [gamma, offset, degree, ..] => (f64::from(gamma), f64::from(offset), f64::from(degree)),
            _ => return invalid("`kernel_params` must be three numbers"),
        };
        Ok(match node.string("kernel_type", "LINEAR")?.as_str() {
            "LINEAR" => Self::Linear,
            "POLY" => Self::Poly { gamma, offset, degree },
            "RBF" => Self::Radial { gamma },
            "SIGMOID" => Self::Sigmoid { gamma, offset },
            other => return invalid(format!("`kernel_type` cannot be `{other}`")),
        })
    }

    fn apply(self, left: &[f32], right: &[f32]) -> f64 {
        match self {
            Self::Linear => dot(left, right),
            Self::Poly { gamma, offset, degree } => (gamma * dot(left, right) + offset).powf(degree),
            Self::Radial { gamma } => {
                let pairs = left.iter().zip(right);
                let distance: f64 = pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
                (-gamma * distance).exp()
            }
            Self::Sigmoid { gamma, offset } => (gamma * dot(left, right) + offset).tanh(),
        }
    }
}

fn dot(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Rows of numbers: support vectors, or the weights of linear models.
struct Rows {
    numbers: Vec<f32>,
    width: usize,
}

impl Rows {
    /// Divides a list into `count` rows, which must fit.
    fn new(what: &str, numbers: Vec<f32>, count: usize) -> Result<Self, Refusal> {
        if count == 0 || numbers.is_empty() || !numbers.len().is_multiple_of(count) {
            return invalid(format!("{} {what} do not make {count} rows", numbers.len()));
        }
        let width = numbers.len() / count;
        Ok(Self { numbers, width })
    }

    /// The kernel of each row with a row of features.
    fn kernels(&self, kernel: Kernel, features: &[f32]) -> Vec<f64> {
        self.numbers.chunks_exact(self.width).map(|row| kernel.apply(features, row)).collect()
    }
}

/// Calls `each` with every row of features, of which there must be `width` in each, and whose work is that
/// many steps. Gives how many rows there are.
fn for_rows(x: Tensor, width: usize, work: usize, mut each: impl FnMut(&[f32])) -> Result<usize, Fault> {
    let (table, rows, given) = feature_rows(x)?;
    if given != width {
        fault!("the model has {width} features, but the input has {given}");
    }
    check_work(&[rows, work])?;
    items::<f32>(&table).chunks_exact(width).for_each(&mut each);
    Ok(rows)
}

/// Without support vectors the coefficients are the weights of a linear model.
fn regressor(node: &Node<'_>) -> Built {
    let coefficients = node.floats("coefficients");
    let Some(&offset) = node.floats("rho").first() else { return invalid("`rho` is missing") };
    let Ok(supports) = usize::try_from(node.int("n_supports", 0)) else {
        return invalid("`n_supports` is negative");
    };
    let (kernel, rows) = if supports == 0 {
        (Kernel::Linear, Rows::new("coefficients", coefficients.clone(), 1)?)
    } else {
        (Kernel::read(node)?, Rows::new("support vectors", node.floats("support_vectors"), supports)?)
    };
    if supports > 0 && coefficients.len() != supports {
        return invalid(format!("{} coefficients for {supports} support vectors", coefficients.len()));
    }
    let one_class = node.flag("one_class", false);
    let post = PostTransform::read(node)?;
    operator(move |inputs| {
        let mut scores = Vec::new();
        let count = for_rows(inputs.take(0)?, rows.width, rows.numbers.len(), |features| {
            let kernels = rows.kernels(kernel, features);
            let sum: f64 = if supports == 0 {
                kernels.iter().sum()
            } else {
                kernels.iter().zip(&coefficients).map(|(kernel, &weight)| kernel * f64::from(weight)).sum()
            };
            let score = sum + f64::from(offset);
            let mut score = [narrow(score)];
            if one_class {
                score = [if score[0] > 0.0 { 1.0 } else { -1.0 }];
            } else {
                post.apply(&mut score);
            }
            scores.extend(score);
        })?;
        Ok(Tensor::from_items(&[count, 1], scores).into())
    })
}

/// A machine for each pair of classes.
struct Pairs {
    kernel: Kernel,
    vectors: Rows,
    /// Where the support vectors of each class begin; at the end, how many there are.
    starts: Vec<usize>,
    /// A row for each class but one, and a column for each support vector: in column `v` of class `c`
    /// stand the weights against the other classes, in their order.
    coefficients: Vec<f32>,
    offsets: Vec<f32>,
    /// Slope and offset of the logistic function that makes a probability of the score of each pair.
    probabilities: Vec<(f32, f32)>,
}

impl Pairs {
    fn read(node: &Node<'_>, classes: usize) -> Result<Self, Refusal> {
        let counts = super::shape::lengths(&node.ints("vectors_per_class").unwrap_or_default());
        let counts = counts.map_err(|fault| Refusal::Invalid(fault.0))?;
        if counts.len() != classes || classes < 2 {
            return invalid(format!("{classes} classes have {} counts of vectors", counts.len()));
        }
        let mut starts = vec![0usize];
        let mut total = 0usize;
        for count in counts {
            let Some(sum) = total.checked_add(count) else { return invalid("there are too many vectors") };
            total = sum;
            starts.push(total);
        }
        let vectors = Rows::new("support vectors", node.floats("support_vectors"), total)?;
        let coefficients = node.floats("coefficients");
        let pairs = classes * (classes - 1) / 2;
        let offsets = node.floats("rho");
        if coefficients.len() / (classes - 1) < total || offsets.len() < pairs {
            return invalid("there are too few `coefficients` or `rho`");
        }
        let (slopes, shifts) = (node.floats("prob_a"), node.floats("prob_b"));
        if slopes.len() != shifts.len() || (!slopes.is_empty() && slopes.len() < pairs) {
            return invalid("`prob_a` and `prob_b` do not fit the classes");
        }
        let probabilities = slopes.into_iter().zip(shifts).collect();
        Ok(Self { kernel: Kernel::read(node)?, vectors, starts, coefficients, offsets, probabilities })
    }

    fn classes(&self) -> usize {
        self.starts.len() - 1
    }

    /// The part of the decision between `class` and `other` that the vectors of `class` make.
    fn half(&self, kernels: &[f64], class: usize, other: usize) -> f64 {
        // A class has no row against itself.
        let row = if other < class { other } else { other - 1 };
        let range = self.starts[class]..self.starts[class + 1];
        let weights = &self.coefficients[row * kernels.len()..][range.clone()];
        weights.iter().zip(&kernels[range]).map(|(&weight, kernel)| f64::from(weight) * kernel).sum()
    }

    /// The score of each pair of classes, and the class that wins most of them. A positive score is for
    /// the first of the two.
    fn decide(&self, features: &[f32]) -> (Vec<f64>, usize) {
        let kernels = self.vectors.kernels(self.kernel, features);
        let classes = self.classes();
        let mut votes = vec![0usize; classes];
        let mut scores = Vec::with_capacity(self.offsets.len());
        for first in 0..classes {
            for second in first + 1..classes {
                let offset = f64::from(self.offsets[scores.len()]);
                let sum = self.half(&kernels, first, second) + self.half(&kernels, second, first) + offset;
                votes[if sum > 0.0 { first } else { second }] += 1;
                scores.push(sum);
            }
        }
        let most = votes.iter().copied().max().unwrap_or(0);
        (scores, votes.iter().position(|&count| count == most).unwrap_or(0))
    }

    /// The probability of each class from those of the pairs.
    fn probabilities(&self, scores: &[f64]) -> Vec<f64> {
        let classes = self.classes();
        let mut pairwise = vec![0.0; classes * classes];
        let mut pair = scores.iter().zip(&self.probabilities);
        for first in 0..classes {
            for second in first + 1..classes {
                let Some((score, &(slope, shift))) = pair.next() else { continue };
                let logit = score * f64::from(slope) + f64::from(shift);
                let share = (1.0 / (1.0 + logit.exp())).clamp(1e-7, 1.0 - 1e-7);
                pairwise[first * classes + second] = share;
                pairwise[second * classes + first] = 1.0 - share;
            }
        }
        couple(&pairwise, classes)
    }
}

/// Probabilities of classes that fit those of all pairs best: Wu, Lin and Weng, "Probability Estimates for
/// Multi-class Classification by Pairwise Coupling", algorithm 2, with the bounds of libsvm.
fn couple(pairwise: &[f64], classes: usize) -> Vec<f64> {
    let (count, r) = (classes as f64, |i: usize, j: usize| pairwise[i * classes + j]);
    let mut q = vec![0.0; classes * classes];
    for i in 0..classes {
        for j in (0..classes).filter(|&j| j != i) {
            q[i * classes + i] += r(j, i) * r(j, i);
            q[i * classes + j] = -r(j, i) * r(i, j);
        }
    }
    let mut p = vec![1.0 / count; classes];
    for _ in 0..classes.max(100) {
        let mut qp: Vec<f64> =
            q.chunks_exact(classes).map(|row| row.iter().zip(&p).map(|(q, p)| q * p).sum()).collect();
        let mut pqp: f64 = p.iter().zip(&qp).map(|(p, qp)| p * qp).sum();
        let error = qp.iter().map(|qp| (qp - pqp).abs()).fold(0.0, f64::max);
        if error < 0.005 / count {
            break;
        }
        for i in 0..classes {
            let own = q[i * classes + i];
            let step = (pqp - qp[i]) / own;
            p[i] += step;
            pqp = (pqp + step * (step * own + 2.0 * qp[i])) / (1.0 + step) / (1.0 + step);
            for j in 0..classes {
                qp[j] = (qp[j] + step * q[i * classes + j]) / (1.0 + step);
                p[j] /= 1.0 + step;
            }
        }
    }
    p
}

/// Without support vectors each class has a linear model.
fn classifier(node: &Node<'_>) -> Built {
    let labels = Labels::read(node, "classlabels_ints", "classlabels_strings")?;
    let classes = labels.len();
    if classes == 0 {
        return invalid("the classes have no labels");
    }
    let post = PostTransform::read(node)?;
    if node.ints("vectors_per_class").unwrap_or_default().iter().all(|&count| count == 0) {
        return linear_classifier(node, labels, post);
    }
    let pairs = Pairs::read(node, classes)?;
    let coupled = !pairs.probabilities.is_empty();
    if classes == 2 && !coupled && post == PostTransform::Probit {
        return Err(Refusal::Unsupported("PROBIT of one score for two classes is not supported".to_owned()));
    }
    let width = if coupled || classes == 2 { classes } else { classes * (classes - 1) / 2 };
    // The kernels; a weight of each vector against each class; the rounds of coupling.
    let rounds = if coupled { classes.max(100).saturating_mul(classes).saturating_mul(classes) } else { 0 };
    let work = pairs.vectors.numbers.len().saturating_add(pairs.coefficients.len()).saturating_add(rounds);
    operator(move |inputs| {
        let x = inputs.take(0)?;
        check_size(&[x.shape().first().copied().unwrap_or(0), width])?;
        let (mut table, mut winners) = (Vec::new(), Vec::new());
        let rows = for_rows(x, pairs.vectors.width, work, |features| {
            let (scores, winner) = pairs.decide(features);
            winners.push(winner);
            let start = table.len();
            if coupled {
                table.extend(pairs.probabilities(&scores).into_iter().map(narrow));
                post.apply(&mut table[start..]);
            } else if let ([score], true) = (&scores[..], classes == 2) {
                table.extend(both_scores(narrow(*score), post != PostTransform::None, post));
            } else {
                table.extend(scores.into_iter().map(narrow));
                post.apply(&mut table[start..]);
            }
        })?;
        Ok(Outputs::Many(vec![labels.tensor(&winners)?, Tensor::from_items(&[rows, width], table)]))
    })
}

/// One score for each class; the largest wins. Of two classes the second wins already where the largest
/// score is positive, or at least one half when no weight is negative.
fn linear_classifier(node: &Node<'_>, labels: Labels, post: PostTransform) -> Built {
    let classes = labels.len();
    let coefficients = node.floats("coefficients");
    let positive = coefficients.iter().all(|&weight| weight >= 0.0);
    let weights = Rows::new("coefficients", coefficients, classes)?;
    let Some(&offset) = node.floats("rho").first() else { return invalid("`rho` is missing") };
    let second_first = classes == 2 && node.floats("prob_a").is_empty();
    operator(move |inputs| {
        let x = inputs.take(0)?;
        check_size(&[x.shape().first().copied().unwrap_or(0), classes])?;
        let (mut table, mut winners) = (Vec::new(), Vec::new());
        let rows = for_rows(x, weights.width, weights.numbers.len(), |features| {
            let start = table.len();
            let scores = weights.kernels(Kernel::Linear, features);
            table.extend(scores.into_iter().map(|score| narrow(score + f64::from(offset))));
            let best = winner(&table[start..]);
            let largest = table[start + best];
            let enough = if positive { largest >= 0.5 } else { largest > 0.0 };
            winners.push(if second_first && enough { 1 } else { best });
            if classes > 1 || post == PostTransform::Probit {
                post.apply(&mut table[start..]);
            }
        })?;
        Ok(Outputs::Many(vec![labels.tensor(&winners)?, Tensor::from_items(&[rows, classes], table)]))
    })
}

#[cfg(test)]
mod tests {
    use super::couple;

    #[test]
    fn pairs_that_agree_give_their_own_probabilities() {
        // Of three classes with the shares 0.5, 0.3 and 0.2 each pair knows the share of its two.
        let shares = [0.5, 0.3, 0.2];
        let pairwise: Vec<f64> = (0..9)
            .map(|at| if at / 3 == at % 3 { 0.0 } else { shares[at / 3] / (shares[at / 3] + shares[at % 3]) })
            .collect();
        for (found, share) in couple(&pairwise, 3).into_iter().zip(shares) {
            assert!((found - share).abs() < 5e-3, "{found} for {share}");
        }
    }
}
