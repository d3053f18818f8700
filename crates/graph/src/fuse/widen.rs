//! Constants of half precision that are computed with in single precision, made so once.

use super::Flow;
use crate::ops::cast::cast;
use crate::plan::Source;
use crate::tensor::Tensor;
use crate::value::DType;

/// Widens the constants that only operators read which would do it for each request.
pub(super) fn widen(flow: &mut Flow<'_>, outputs: &[Source]) {
    let mut readers: Vec<Vec<(usize, usize)>> = vec![Vec::new(); flow.constants.len()];
    let mut kept = vec![false; flow.constants.len()];
    for (at, step) in flow.steps.iter().enumerate() {
        for (input, &source) in step.inputs.iter().enumerate() {
            if let Source::Constant(index) = source {
                readers[index].push((at, input));
                kept[index] |= !step.widens;
            }
        }
    }
    for &source in outputs {
        if let Source::Constant(index) = source {
            kept[index] = true;
        }
    }
    for (index, readers) in readers.iter().enumerate() {
        let dtype = flow.constants[index].dtype();
        if kept[index] || readers.is_empty() || !matches!(dtype, DType::F16 | DType::BF16) {
            continue;
        }
        let narrow: &Tensor = &flow.constants[index];
        let (elements, wide) = (narrow.len(), cast(narrow.clone(), DType::F32));
        let (Ok(wide), Some(())) = (wide, flow.spend(elements)) else { continue };
        flow.constants[index] = wide;
        for &(at, input) in readers {
            flow.steps[at].operator.widened(input, dtype);
        }
    }
}
