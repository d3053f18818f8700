//! What an edge of a graph carries while it runs: a tensor, a list of tensors, or nothing.

use std::sync::Arc;

use crate::tensor::{Fault, MAX_TENSOR_BYTES, Tensor};
use crate::value::{AnyValue, DType, Value};

/// What a tensor of a list is counted as at least: so much memory it takes besides its elements.
const LEAST_ELEMENTS: usize = 128;

/// Tensors of one element type. A clone shares them.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// The element type, which an empty list has too.
    pub(crate) dtype: DType,
    /// The tensors.
    pub(crate) items: Arc<Vec<Tensor>>,
}

impl Sequence {
    /// A list of tensors of the type `dtype`; a fault for a tensor of another type, and where all together
    /// are larger than one tensor may be.
    pub(crate) fn new(dtype: DType, items: Vec<Tensor>) -> Result<Self, Fault> {
        if let Some(other) = items.iter().find(|item| item.dtype() != dtype) {
            return Err(Fault(format!("a list of {dtype} cannot hold {}", other.describe())));
        }
        Self::check(items.len(), items.iter().map(Tensor::weight).sum())?;
        Ok(Self { dtype, items: Arc::new(items) })
    }

    /// A fault where a list of so many tensors with so many elements together would be too large.
    pub(crate) fn check(tensors: usize, elements: usize) -> Result<(), Fault> {
        let most = MAX_TENSOR_BYTES / 8;
        if elements > most || tensors > most / LEAST_ELEMENTS {
            return Err(Fault(format!("a list of {tensors} tensors with {elements} elements is too large")));
        }
        Ok(())
    }
}

/// What an edge carries.
#[derive(Clone, Debug)]
pub(crate) enum Held {
    /// A tensor.
    Tensor(Tensor),
    /// A list of tensors.
    Sequence(Sequence),
    /// An optional value that is not there.
    Nothing,
}

impl Held {
    /// The tensor; a fault for anything else.
    pub(crate) fn tensor(self) -> Result<Tensor, Fault> {
        match self {
            Self::Tensor(tensor) => Ok(tensor),
            other => Err(Fault(format!("a tensor is needed, not {}", other.describe()))),
        }
    }

    /// The list; a fault for anything else.
    pub(crate) fn sequence(self) -> Result<Sequence, Fault> {
        match self {
            Self::Sequence(sequence) => Ok(sequence),
            other => Err(Fault(format!("a list of tensors is needed, not {}", other.describe()))),
        }
    }

    /// Kind, type and size in words, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Tensor(tensor) => tensor.describe(),
            Self::Sequence(sequence) => {
                format!("a list of {} {} tensors", sequence.items.len(), sequence.dtype)
            }
            Self::Nothing => "an empty optional".to_owned(),
        }
    }
}

impl From<Tensor> for Held {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

impl TryFrom<AnyValue> for Held {
    type Error = Fault;

    fn try_from(item: AnyValue) -> Result<Self, Fault> {
        Ok(match item {
            AnyValue::Tensor(value) => Self::Tensor(value.into()),
            AnyValue::Sequence(dtype, values) => {
                Self::Sequence(Sequence::new(dtype, values.into_iter().map(Tensor::from).collect())?)
            }
            AnyValue::Nothing => Self::Nothing,
        })
    }
}

impl TryFrom<Held> for AnyValue {
    type Error = Fault;

    fn try_from(held: Held) -> Result<Self, Fault> {
        Ok(match held {
            Held::Tensor(tensor) => Self::Tensor(tensor.try_into()?),
            Held::Sequence(Sequence { dtype, items }) => {
                let values: Result<Vec<Value>, Fault> =
                    Arc::unwrap_or_clone(items).into_iter().map(Value::try_from).collect();
                Self::Sequence(dtype, values?)
            }
            Held::Nothing => Self::Nothing,
        })
    }
}
