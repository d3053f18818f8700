//! Linear models and scalings of `ai.onnx.ml`, as scikit-learn's exporter writes them.
//!
//! All of them take numbers of any type and give FP32, as the domain prescribes.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::FloatTensorOps;
use num_traits::Float;

use super::normalise::{Norm, rows_over_norm};
use super::{Built, Entry, Outputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Item, Tensor, check_size, contiguous, fault, items};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Scaler", 1, "numbers", scaler),
    Entry::new("Normalizer", 1, "numbers", normalizer),
    Entry::new("Binarizer", 1, "numbers", binarizer),
    Entry::new("Imputer", 1, "numbers", imputer),
    Entry::new("LinearRegressor", 1, "numbers", regressor),
    Entry::new("LinearClassifier", 1, "numbers", classifier),
];

/// What happens to the scores of a row at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PostTransform {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
    Probit,
}

impl PostTransform {
    pub(super) fn read(node: &Node<'_>) -> Result<Self, Refusal> {
        Ok(match node.string("post_transform", "NONE")?.as_str() {
            "NONE" => Self::None,
            "LOGISTIC" => Self::Logistic,
            "SOFTMAX" => Self::Softmax,
            "SOFTMAX_ZERO" => Self::SoftmaxZero,
            "PROBIT" => Self::Probit,
            other => return Err(Refusal::Invalid(format!("`post_transform` cannot be `{other}`"))),
        })
    }

    /// Changes the scores of one row.
    pub(super) fn apply<F: Real>(self, row: &mut [F]) {
        match self {
            Self::None => {}
            Self::Logistic => row.iter_mut().for_each(|x| *x = logistic(*x)),
            Self::Softmax => softmax(row, |_| true),
            // Scores that are zero stay zero and take no share.
            Self::SoftmaxZero => softmax(row, |x| x.abs() > <F as From<f32>>::from(1e-7)),
            Self::Probit => row.iter_mut().for_each(|x| *x = probit(*x)),
        }
    }
}

/// The numbers that scores are: FP32 and FP64.
pub(super) trait Real: Float + From<f32> {}

impl Real for f32 {}
impl Real for f64 {}

/// 1 / (1 + e^-x), from the side that does not overflow.
fn logistic<F: Real>(x: F) -> F {
    let share = F::one() / (F::one() + (-x.abs()).exp());
    if x < F::zero() { F::one() - share } else { share }
}

fn softmax<F: Real>(row: &mut [F], takes_part: impl Fn(F) -> bool) {
    let largest = row.iter().copied().fold(F::neg_infinity(), F::max);
    let mut sum = F::zero();
    for x in row.iter_mut() {
        *x = if takes_part(*x) { (*x - largest).exp() } else { F::zero() };
        sum = sum + *x;
    }
    for x in row {
        *x = *x / sum;
    }
}

/// The inverse of the normal distribution by Winitzki's formula for the inverse error function.
fn probit<F: Real>(x: F) -> F {
    let constant = |number: f32| <F as From<f32>>::from(number);
    let y = constant(2.0) * x - F::one();
    let log = ((F::one() - y) * (F::one() + y)).ln();
    let v = constant(2.0) / constant(std::f32::consts::PI * 0.147) + constant(0.5) * log;
    let root = (-v + (v * v - log / constant(0.147)).sqrt()).sqrt();
    constant(std::f32::consts::SQRT_2) * y.signum() * root
}

/// Rows of features as FP32. A vector is one row; more than two dimensions are a fault.
pub(super) fn feature_rows(x: Tensor) -> Result<(FlexTensor, usize, usize), Fault> {
    rows_of(x, DType::F32)
}

/// Rows of features as another type: what they are, how many there are, and how long each is.
pub(super) fn rows_of(x: Tensor, dtype: DType) -> Result<(FlexTensor, usize, usize), Fault> {
    let (rows, width) = match *x.shape() {
        [width] => (1, width),
        [rows, width] => (rows, width),
        _ => fault!("rows of features are needed, not {}", x.describe()),
    };
    let table = super::cast::cast(x, dtype)?.reshape(&[rows, width])?;
    Ok((contiguous(&table.dense()?), rows, width))
}

/// A list with one number for all features, or one for each.
fn per_feature(list: &[f32], feature: usize) -> f32 {
    if let [one] = list { *one } else { list[feature] }
}

/// (x - offset) * scale.
fn scaler(node: &Node<'_>) -> Built {
    let (offset, scale) = (node.floats("offset"), node.floats("scale"));
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape().to_vec();
        let width = shape.last().copied().unwrap_or(1);
        if [&offset, &scale].iter().any(|list| list.len() != 1 && list.len() != width) {
            fault!("{} offsets and {} scales are given for {width} features", offset.len(), scale.len());
        }
        // ONNX Runtime computes FP64 in FP64, and gives FP32.
        if x.dtype() == DType::F64 {
            let dense = contiguous(&x.dense()?);
            let scaled = |(at, &x): (usize, &f64)| {
                let feature = at % width;
                let number = |list: &[f32]| f64::from(per_feature(list, feature));
                narrow((x - number(&offset)) * number(&scale))
            };
            let all = items::<f64>(&dense).iter().enumerate().map(scaled).collect();
            return Ok(Tensor::from_items(&shape, all).into());
        }
        let dense = contiguous(&super::cast::cast(x, DType::F32)?.dense()?);
        let of_row = |list: &[f32]| -> Vec<f32> { (0..width).map(|at| per_feature(list, at)).collect() };
        let (offsets, scales) = (of_row(&offset), of_row(&scale));
        let rows = items::<f32>(&dense).chunks_exact(width.max(1));
        let mut all = Vec::with_capacity(rows.len() * width);
        for row in rows {
            let features = row.iter().zip(&offsets).zip(&scales);
            all.extend(features.map(|((x, offset), scale)| (x - offset) * scale));
        }
        Ok(Tensor::from_items(&shape, all).into())
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the domain gives FP32")]
pub(super) fn narrow(number: f64) -> f32 {
    number as f32
}

fn normalizer(node: &Node<'_>) -> Built {
    let norm = match node.string("norm", "MAX")?.as_str() {
        "MAX" => Norm::Max,
        "L1" => Norm::L1,
        "L2" => Norm::L2,
        other => return Err(Refusal::Invalid(format!("`norm` cannot be `{other}`"))),
    };
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let shape = x.shape().to_vec();
        let (rows, _, width) = feature_rows(x)?;
        Ok(rows_over_norm::<f32>(&rows, width, norm).reshape(&shape)?.into())
    })
}

/// 1 where a number is above the threshold, else 0, in the type of the input.
fn binarizer(node: &Node<'_>) -> Built {
    let threshold = f64::from(node.float("threshold", 0.0));
    operator(move |inputs| {
        let x = inputs.take(0)?;
        let above = x.to_f64s()?.into_iter().map(|x| u8::from(x > threshold)).collect();
        Ok(super::cast::cast(Tensor::from_items(x.shape(), above), x.dtype())?.into())
    })
}

/// Puts a number in the place of those that are missing. The type stays.
fn imputer(node: &Node<'_>) -> Built {
    let floats = node.floats("imputed_value_floats");
    let ints = node.ints("imputed_value_int64s").unwrap_or_default();
    let missing_float = node.float("replaced_value_float", 0.0);
    let missing_int = node.int("replaced_value_int64", 0);
    operator(move |inputs| {
        let x = inputs.take(0)?;
        match x.dtype() {
            DType::I64 | DType::I32 => {
                let (dtype, shape) = (x.dtype(), x.shape().to_vec());
                let filled = filled(&shape, &x.to_i64s()?, &ints, |x| x == missing_int)?;
                Ok(super::cast::cast(filled, dtype)?.into())
            }
            DType::F64 => {
                let fill: Vec<f64> = floats.iter().copied().map(f64::from).collect();
                Ok(fill_reals(x, &fill, f64::from(missing_float))?.into())
            }
            _ => Ok(fill_reals(super::cast::cast(x, DType::F32)?, &floats, missing_float)?.into()),
        }
    })
}

fn fill_reals<F: Item + Float>(x: Tensor, fill: &[F], missing: F) -> Result<Tensor, Fault> {
    let dense = contiguous(&x.dense()?);
    let is_missing = |x: F| if missing.is_nan() { x.is_nan() } else { x == missing };
    filled(dense.layout().shape(), items::<F>(&dense), fill, is_missing)
}

/// The numbers with one of `fill`, or that of the last dimension's position, for each that is missing.
fn filled<T: Item>(
    shape: &[usize],
    numbers: &[T],
    fill: &[T],
    is_missing: impl Fn(T) -> bool,
) -> Result<Tensor, Fault> {
    let width = shape.last().copied().unwrap_or(1);
    if fill.len() != 1 && fill.len() != width {
        fault!("{} values are given for {width} features", fill.len());
    }
    let number = |(at, &x): (usize, &T)| if is_missing(x) { fill[at % width % fill.len()] } else { x };
    Ok(Tensor::from_items(shape, numbers.iter().enumerate().map(number).collect()))
}

/// A weight per feature and target, with an intercept per target: kept as burn multiplies it.
struct Linear {
    /// [features, targets]
    weights: FlexTensor,
    intercepts: Vec<f32>,
    features: usize,
    targets: usize,
}

impl Linear {
    /// The file holds one row of weights per target.
    fn new(coefficients: &[f32], intercepts: Vec<f32>, targets: usize) -> Result<Self, Refusal> {
        if targets == 0 || coefficients.is_empty() || !coefficients.len().is_multiple_of(targets) {
            let count = coefficients.len();
            return Err(Refusal::Invalid(format!("{count} coefficients do not fit {targets} targets")));
        }
        let features = coefficients.len() / targets;
        let mut weights = vec![0.0; coefficients.len()];
        for (at, &coefficient) in coefficients.iter().enumerate() {
            weights[at % features * targets + at / features] = coefficient;
        }
        if !intercepts.is_empty() && intercepts.len() != targets {
            return Err(Refusal::Invalid(format!("{} intercepts for {targets} targets", intercepts.len())));
        }
        let weights = Tensor::from_items(&[features, targets], weights).dense();
        let weights = weights.map_err(|fault| Refusal::Invalid(fault.0))?;
        Ok(Self { weights, intercepts, features, targets })
    }

    /// One row of scores per row of features.
    fn scores(&self, x: Tensor) -> Result<(Vec<f32>, usize), Fault> {
        let (table, rows, width) = feature_rows(x)?;
        if width != self.features {
            fault!("the model has {} features, but the input has {width}", self.features);
        }
        let count = check_size(&[rows, self.targets])?;
        if count == 0 {
            return Ok((Vec::new(), rows));
        }
        let product = Flex::float_matmul(table, self.weights.clone());
        let mut scores = crate::tensor::into_vec::<f32>(product)?;
        if !self.intercepts.is_empty() {
            for row in scores.chunks_exact_mut(self.targets) {
                row.iter_mut().zip(&self.intercepts).for_each(|(score, intercept)| *score += intercept);
            }
        }
        Ok((scores, rows))
    }
}

fn regressor(node: &Node<'_>) -> Built {
    let targets = usize::try_from(node.int("targets", 1)).unwrap_or(0);
    let linear = Linear::new(&node.floats("coefficients"), node.floats("intercepts"), targets)?;
    let post = PostTransform::read(node)?;
    operator(move |inputs| {
        let (mut scores, rows) = linear.scores(inputs.take(0)?)?;
        scores.chunks_exact_mut(linear.targets).for_each(|row| post.apply(row));
        Ok(Tensor::from_items(&[rows, linear.targets], scores).into())
    })
}

/// The labels of classes: numbers or text.
pub(super) enum Labels {
    Ints(Vec<i64>),
    Strings(Vec<String>),
}

impl Labels {
    /// Reads the two attributes, of which one holds the labels.
    pub(super) fn read(node: &Node<'_>, ints: &str, strings: &str) -> Result<Self, Refusal> {
        let texts = node.strings(strings)?;
        Ok(if texts.is_empty() {
            Self::Ints(node.ints(ints).unwrap_or_default())
        } else {
            Self::Strings(texts)
        })
    }

    /// How many classes there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Ints(labels) => labels.len(),
            Self::Strings(labels) => labels.len(),
        }
    }

    /// The labels of classes by position; a class without a label is named by its position.
    pub(super) fn tensor(&self, classes: &[usize]) -> Result<Tensor, Fault> {
        let position = |class: usize| crate::tensor::to_i64(class);
        match self {
            Self::Ints(labels) => Ok(Tensor::from_items(
                &[classes.len()],
                classes.iter().map(|&class| labels.get(class).copied().unwrap_or(position(class))).collect(),
            )),
            Self::Strings(labels) => {
                let none = String::new();
                let label = |&class: &usize| labels.get(class).unwrap_or(&none);
                Tensor::copied_text(&[classes.len()], classes.iter().map(label))
            }
        }
    }
}

/// The position of the first largest score.
pub(super) fn winner(row: &[f32]) -> usize {
    let mut best = 0;
    for (class, score) in row.iter().enumerate().skip(1) {
        if *score > row[best] {
            best = class;
        }
    }
    best
}

fn classifier(node: &Node<'_>) -> Built {
    let labels = Labels::read(node, "classlabels_ints", "classlabels_strings")?;
    let intercepts = node.floats("intercepts");
    let coefficients = node.floats("coefficients");
    let scores_per_row = if intercepts.is_empty() { labels.len().max(1) } else { intercepts.len() };
    let linear = Linear::new(&coefficients, intercepts, scores_per_row)?;
    let post = PostTransform::read(node)?;
    // One score for two classes is that of the second; the first has what is left.
    let binary = linear.targets == 1 && labels.len() == 2;
    if binary && post == PostTransform::Probit {
        return Err(Refusal::Unsupported("PROBIT of one score for two classes is not supported".to_owned()));
    }
    operator(move |inputs| {
        let (scores, rows) = linear.scores(inputs.take(0)?)?;
        let width = if binary { 2 } else { linear.targets };
        let mut table = Vec::with_capacity(rows * width);
        let mut classes = Vec::with_capacity(rows);
        for row in scores.chunks_exact(linear.targets) {
            if binary {
                let score = row[0];
                classes.push(usize::from(score > 0.0));
                table.extend(both_scores(score, true, post));
            } else {
                classes.push(winner(row));
                let start = table.len();
                table.extend_from_slice(row);
                post.apply(&mut table[start..]);
            }
        }
        Ok(Outputs::Many(vec![labels.tensor(&classes)?, Tensor::from_items(&[rows, width], table)]))
    })
}

/// The scores of both classes from the one that decides between them, as ONNX Runtime has them: no other
/// transform than the logistic function is applied. `share` says that the first has what is left to 1.
pub(super) fn both_scores(score: f32, share: bool, post: PostTransform) -> [f32; 2] {
    match post {
        PostTransform::Logistic => [logistic(-score), logistic(score)],
        _ if share => [1.0 - score, score],
        _ => [-score, score],
    }
}
