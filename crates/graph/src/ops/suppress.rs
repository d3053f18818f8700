//! Boxes that overlap better ones are left out.

use super::{Built, Entry, Inputs, Refusal, operator};
use crate::load::Node;
use crate::tensor::{Fault, Tensor, check_size, check_work, contiguous, fault, items, to_i64};

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[Entry::widening("NonMaxSuppression", 10, "FP32", suppress)];

/// A box between two corners.
#[derive(Clone, Copy)]
struct Bounds {
    low: [f32; 2],
    high: [f32; 2],
}

impl Bounds {
    /// Of two opposite corners `(y1, x1, y2, x2)`, or of `(x, y, width, height)` around a centre.
    fn new(numbers: &[f32], centred: bool) -> Self {
        let (a, b, c, d) = (numbers[0], numbers[1], numbers[2], numbers[3]);
        if centred {
            let (half_width, half_height) = (c / 2.0, d / 2.0);
            Self { low: [a - half_width, b - half_height], high: [a + half_width, b + half_height] }
        } else {
            Self { low: [a.min(c), b.min(d)], high: [a.max(c), b.max(d)] }
        }
    }

    fn area(&self) -> f32 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }

    /// True when the boxes share more than `limit` of what they cover together.
    fn overlaps(&self, other: &Self, limit: f32) -> bool {
        let side = |axis: usize| self.high[axis].min(other.high[axis]) - self.low[axis].max(other.low[axis]);
        let (first, second) = (side(0), side(1));
        if !(first > 0.0 && second > 0.0) {
            return false;
        }
        let shared = first * second;
        let (own, others) = (self.area(), other.area());
        let together = own + others - shared;
        shared > 0.0 && own > 0.0 && others > 0.0 && together > 0.0 && shared / together > limit
    }
}

/// For each image and class the best boxes, from the best on: rows of image, class and box.
fn suppress(node: &Node<'_>) -> Built {
    let centred = match node.int("center_point_box", 0) {
        0 => false,
        1 => true,
        other => return Err(Refusal::Invalid(format!("`center_point_box` cannot be {other}"))),
    };
    operator(move |inputs| {
        let most = match inputs.optional(2).map(|most| most.to_i64s()).transpose()?.as_deref() {
            None | Some([]) => 0,
            Some(&[most, ..]) => usize::try_from(most).unwrap_or(0),
        };
        let limit = number(inputs, 3)?.unwrap_or(0.0);
        let least = number(inputs, 4)?;
        let (boxes, scores) = (inputs.float(0)?, inputs.float(1)?);
        let (boxes_shape, scores_shape) = (boxes.layout().shape().to_vec(), scores.layout().shape().to_vec());
        let (&[images, count, 4], &[score_images, classes, score_count]) =
            (boxes_shape.as_slice(), scores_shape.as_slice())
        else {
            fault!("boxes of {boxes_shape:?} with scores of {scores_shape:?} are not possible");
        };
        if images != score_images || count != score_count {
            fault!("scores of {scores_shape:?} do not fit boxes of {boxes_shape:?}");
        }
        let (boxes, scores) = (contiguous(&single(boxes)?), contiguous(&single(scores)?));
        let (boxes, scores) = (items::<f32>(&boxes), items::<f32>(&scores));
        let mut kept: Vec<i64> = Vec::new();
        let mut steps = 0;
        if count > 0 {
            for (index, scores) in scores.chunks_exact(count).enumerate() {
                let (image, class) = (index / classes, index % classes);
                let boxes = &boxes[image * count * 4..][..count * 4];
                for chosen in best(boxes, scores, centred, most, limit, least, &mut steps)? {
                    kept.extend([to_i64(image), to_i64(class), to_i64(chosen)]);
                }
                check_size(&[kept.len()])?;
            }
        }
        let shape = [kept.len() / 3, 3];
        check_size(&shape)?;
        Ok(Tensor::from_items(&shape, kept).into())
    })
}

/// Input `index` as one number.
fn number(inputs: &mut Inputs<'_>, index: usize) -> Result<Option<f32>, Fault> {
    let Some(tensor) = inputs.optional(index).filter(|tensor| tensor.len() > 0) else { return Ok(None) };
    Ok(items::<f32>(&contiguous(&single(tensor.float()?)?)).first().copied())
}

/// A tensor in single precision, which is what the operator is defined for.
fn single(x: burn::backend::flex::FlexTensor) -> Result<burn::backend::flex::FlexTensor, Fault> {
    super::cast::cast(x.into(), crate::value::DType::F32)?.dense()
}

/// The boxes of one class that are kept, the best first; of equal ones the first. `steps` counts the work of
/// all classes.
fn best(
    boxes: &[f32],
    scores: &[f32],
    centred: bool,
    most: usize,
    limit: f32,
    least: Option<f32>,
    steps: &mut usize,
) -> Result<Vec<usize>, Fault> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    if let Some(least) = least {
        order.retain(|&index| scores[index] > least);
    }
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut kept: Vec<(usize, Bounds)> = Vec::new();
    for index in order {
        if kept.len() >= most {
            break;
        }
        // Each box is compared with all that are kept.
        *steps += kept.len();
        check_work(&[*steps])?;
        let bounds = Bounds::new(&boxes[index * 4..][..4], centred);
        if !kept.iter().any(|(_, better)| bounds.overlaps(better, limit)) {
            kept.push((index, bounds));
        }
    }
    Ok(kept.into_iter().map(|(index, _)| index).collect())
}
