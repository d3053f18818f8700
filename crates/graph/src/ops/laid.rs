//! Products and convolutions by weights that are laid out at load, and what is done to their sums before they are stored.

use burn::backend::flex::FlexTensor;
use stoker_kernels::{Filters, Finish, Isa, Matrix, Span, View};

use super::arithmetic::add;
use super::convolution::Sizes;
use super::{Activation, Inputs};
use crate::tensor::{Fault, Tensor, check_size, contiguous, fault, items, type_of};
use crate::value::DType;

/// The input of a product or a convolution that is a tensor to add, where a load found one. The one before is the bias.
pub(crate) const ADDEND: usize = 3;

/// What follows the sums of a product or a convolution.
pub(super) struct Rest {
    bias: Option<FlexTensor>,
    addend: Option<FlexTensor>,
    activation: Option<Activation>,
}

impl Rest {
    /// What a request gives, and the activation that the load appended.
    pub(super) fn take(inputs: &mut Inputs<'_>, activation: Option<Activation>) -> Result<Self, Fault> {
        let bias = inputs.optional(2).map(Tensor::dense).transpose()?;
        let addend = inputs.optional(ADDEND).map(Tensor::dense).transpose()?;
        Ok(Self { bias, addend, activation })
    }

    /// The bias.
    pub(super) fn bias(&self) -> Option<&FlexTensor> {
        self.bias.as_ref()
    }

    /// True where an activation follows, and nothing else.
    pub(super) fn is_activation(&self) -> bool {
        self.bias.is_none() && self.addend.is_none() && self.activation.is_some()
    }

    /// The bias, for change.
    pub(super) fn bias_mut(&mut self) -> &mut Option<FlexTensor> {
        &mut self.bias
    }

    /// The bias, which is somebody else's matter from now on.
    pub(super) fn take_bias(&mut self) -> Option<FlexTensor> {
        self.bias.take()
    }

    /// Calls a kernel with what it can do of this in its own pass, and does what is left. `is_bias` says whether the bias
    /// is one that the kernel knows, and `shape` is that of the result.
    fn around(
        mut self,
        shape: &[usize],
        is_bias: impl Fn(&FlexTensor) -> bool,
        kernel: impl FnOnce(Finish<'_>) -> Vec<f32>,
    ) -> Result<FlexTensor, Fault> {
        let single = |tensor: &FlexTensor| type_of(tensor) == DType::F32;
        let bias = self.bias.take_if(|bias| single(bias) && is_bias(bias)).map(|bias| contiguous(&bias));
        // In their order: what comes after something that is left is left too.
        let own = |addend: &mut FlexTensor| single(addend) && addend.layout().shape()[..] == *shape;
        let addend = if self.bias.is_none() { self.addend.take_if(own) } else { None };
        let addend = addend.map(|addend| contiguous(&addend));
        let mut bounds = None;
        if self.bias.is_none() && self.addend.is_none() {
            bounds = self.activation.and_then(Activation::bounds);
            if bounds.is_some() {
                self.activation = None;
            }
        }
        let (bias, addend) = (bias.as_ref().map(items::<f32>), addend.as_ref().map(items::<f32>));
        let sums = kernel(Finish { bias, addend, bounds });
        self.finish(Tensor::from_items(shape, sums).dense()?)
    }

    /// Does all of this to sums.
    pub(super) fn finish(self, mut sums: FlexTensor) -> Result<FlexTensor, Fault> {
        if self.addend.is_none() {
            return super::epilogue::finished_product(sums, self.bias, self.activation);
        }
        if let Some(bias) = self.bias {
            sums = super::epilogue::finished_product(sums, Some(bias), None)?;
        }
        match (self.addend, self.activation) {
            (Some(addend), Some(activation)) => super::epilogue::finished_sum(sums, addend, activation),
            (Some(addend), None) => add(sums, addend),
            (None, _) => Ok(sums),
        }
    }
}

/// A tensor whose elements are at places that the kernels can name; a copy where they are not.
pub(super) fn spread(tensor: &FlexTensor) -> FlexTensor {
    let known = tensor.layout().strides().iter().all(|&stride| stride >= 0);
    if known { tensor.clone() } else { contiguous(tensor) }
}

/// Matrices that stand in a tensor given by [`spread`].
pub(super) struct Stack<'a> {
    items: &'a [f32],
    /// By dimension of the stack.
    strides: Vec<usize>,
    matrix: View<'a>,
}

impl<'a> Stack<'a> {
    /// Those of a tensor of at least two dimensions.
    pub(super) fn new(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let mut strides: Vec<usize> = layout.strides().iter().map(|stride| stride.unsigned_abs()).collect();
        let items = tensor.storage::<f32>().get(layout.start_offset()..).unwrap_or_default();
        let matrix = strides.split_off(strides.len() - 2);
        let shape = &layout.shape()[strides.len()..];
        let matrix = View { items, rows: shape[0], columns: shape[1], strides: [matrix[0], matrix[1]] };
        Self { items, strides, matrix }
    }

    /// The matrix at a place in a stack of that shape.
    pub(super) fn view(&self, mut at: usize, stack: &[usize]) -> View<'a> {
        let mut start = 0;
        for (&length, &stride) in stack.iter().zip(&self.strides).rev() {
            start += at % length * stride;
            at /= length;
        }
        View { items: self.items.get(start..).unwrap_or_default(), ..self.matrix }
    }

    /// The only one.
    fn only(&self) -> View<'a> {
        self.matrix
    }
}

/// The right side of a product.
pub(super) struct LaidMatrix(Matrix);

impl LaidMatrix {
    /// That of a constant matrix of single precision, times a factor. `None` where it is none, or where there is no room.
    pub(super) fn new(matrix: &Tensor, transposed: bool, factor: f32, spare: &mut usize) -> Option<Self> {
        if matrix.dtype() != DType::F32 || matrix.rank() != 2 || matrix.len() == 0 {
            return None;
        }
        let dense = spread(&matrix.clone().dense().ok()?);
        let view = Stack::new(&dense).only();
        let view = if transposed { view.transposed() } else { view };
        let isa = Isa::best();
        *spare = spare.checked_sub(Matrix::laid_len(isa, view.rows, view.columns)?)?;
        let mut laid = Matrix::new(isa, view);
        #[expect(clippy::float_cmp, reason = "exactly one changes nothing")]
        if factor != 1.0 {
            laid.scale(factor);
        }
        Some(Self(laid))
    }

    /// How many columns it has.
    pub(super) fn columns(&self) -> usize {
        self.0.columns()
    }

    /// `left` times the matrix, by NumPy's rules for vectors and stacks of matrices, and what follows.
    pub(super) fn product(&self, left: &FlexTensor, rest: Rest) -> Result<FlexTensor, Fault> {
        let (dtype, shape) = (type_of(left), left.layout().shape());
        let (depth, columns) = (self.0.rows(), self.0.columns());
        let Some((&last, stack)) = shape.split_last() else { fault!("a scalar has no matrix product") };
        if dtype != DType::F32 {
            fault!("both inputs must have one type, not {dtype} and {}", DType::F32);
        }
        if last != depth {
            fault!("{shape:?} times [{depth}, {columns}]: {last} columns meet {depth} rows");
        }
        let result = [stack, &[columns]].concat();
        check_size(&result)?;
        let left = if let [_] = stack { spread(left) } else { contiguous(left) };
        let rows = match stack {
            [_] => Stack::new(&left).only(),
            _ => View::new(items::<f32>(&left), stack.iter().product(), depth),
        };
        let is_row = |bias: &FlexTensor| {
            let row = bias.layout().shape();
            row.len() <= result.len()
                && row.last() == Some(&columns)
                && bias.layout().num_elements() == columns
        };
        rest.around(&result, is_row, |finish| self.0.product(rows, finish))
    }
}

/// The weights of a convolution over one or two spatial dimensions.
pub(super) struct LaidFilters {
    filters: Filters,
    /// The shape of the weights.
    shape: Vec<usize>,
}

impl LaidFilters {
    /// Those of a constant of single precision. `None` where it is not of such a shape, or where there is no room.
    pub(super) fn new(weights: &Tensor, groups: usize, spare: &mut usize) -> Option<Self> {
        let shape = weights.shape().to_vec();
        let (outputs, channels, kernel) = match shape[..] {
            [outputs, channels, width] => (outputs, channels, [1, width]),
            [outputs, channels, height, width] => (outputs, channels, [height, width]),
            _ => return None,
        };
        if weights.dtype() != DType::F32 || weights.len() == 0 || !outputs.is_multiple_of(groups) {
            return None;
        }
        *spare = spare.checked_sub(weights.len())?;
        let weights = contiguous(&weights.clone().dense().ok()?);
        let mut filters = Filters::new(Isa::best(), items(&weights), outputs, channels, kernel, groups);
        let more = filters.transformed_len().and_then(|more| spare.checked_sub(more));
        if let Some(left) = more {
            *spare = left;
            filters.transform(items(&weights));
        }
        Some(Self { filters, shape })
    }

    /// The shape of the weights.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The weights themselves.
    pub(super) fn filters(&self) -> &Filters {
        &self.filters
    }

    /// The convolution of `x`, whose sizes were checked, and what follows.
    pub(super) fn convolve(&self, sizes: &Sizes, x: &FlexTensor, rest: Rest) -> Result<FlexTensor, Fault> {
        let x = contiguous(x);
        let span = span(sizes)?;
        let is_bias = |bias: &FlexTensor| bias.layout().shape()[..] == [sizes.output[1]];
        rest.around(&sizes.output, is_bias, |finish| self.filters.convolve(items(&x), &span, finish))
    }
}

/// How the window of a convolution over one or two spatial dimensions moves.
pub(super) fn span(sizes: &Sizes) -> Result<Span, Fault> {
    let (down, across) = match &sizes.spans[..] {
        [across] => (None, across),
        [down, across, ..] => (Some(down), across),
        [] => fault!("the input has no spatial dimension"),
    };
    let both = |of: fn(&super::window::Span) -> usize, missing: usize| [down.map_or(missing, of), of(across)];
    let lengths = &sizes.input[2..];
    Ok(Span {
        images: sizes.input[0],
        input: [if lengths.len() > 1 { lengths[0] } else { 1 }, *lengths.last().unwrap_or(&1)],
        stride: both(|span| span.stride, 1),
        dilation: both(|span| span.dilation, 1),
        pad: both(|span| span.pad.0, 0),
        output: both(|span| span.output, 1),
    })
}
