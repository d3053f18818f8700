//! Changes of element type.

use half::{bf16, f16};
use num_traits::{AsPrimitive, Zero};

use super::digits::{self, Written};
use super::small::{Narrowing, PowerRounding, decode, encode, low_bits};
use super::{ALL, Built, Entry, Refusal, operator};
use crate::load::{Node, element_type_name};
use crate::tensor::{
    Fault, Item, Tensor, TextBudget, contiguous, for_integers, for_storage, into_vec, items, native_type,
};
use crate::value::DType;

/// The operators of this family.
pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Cast", 1, ALL, build),
    Entry::new("CastLike", 15, ALL, |node| {
        let how = narrowing(node)?;
        operator(move |inputs| {
            let dtype = inputs.take(1)?.dtype();
            Ok(cast_as(inputs.take(0)?, dtype, how)?.into())
        })
    }),
];

fn build(node: &Node<'_>) -> Built {
    // Before opset 6 the type was a name.
    let name = node.string("to", "")?;
    let named = DType::ALL.into_iter().find(|dtype| !name.is_empty() && onnx_name(*dtype) == name);
    let number = i32::try_from(node.int("to", 0)).unwrap_or(0);
    let Some(dtype) = named.or_else(|| DType::from_onnx(number)) else {
        let name = element_type_name(number);
        return Err(Refusal::Unsupported(format!("a cast to element type {name} is not supported")));
    };
    let how = narrowing(node)?;
    operator(move |inputs| Ok(cast_as(inputs.take(0)?, dtype, how)?.into()))
}

/// The names that the first versions of `Cast` use.
fn onnx_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "FLOAT",
        DType::F64 => "DOUBLE",
        DType::F16 => "FLOAT16",
        DType::String => "STRING",
        other => other.oip_name(),
    }
}

fn narrowing(node: &Node<'_>) -> Result<Narrowing, Refusal> {
    let power = match node.string("round_mode", "up")?.as_str() {
        "up" => PowerRounding::Up,
        "down" => PowerRounding::Down,
        "nearest" => PowerRounding::Nearest,
        other => return Err(Refusal::Invalid(format!("`round_mode` cannot be `{other}`"))),
    };
    Ok(Narrowing { saturate: node.flag("saturate", true), power })
}

/// The elements as another type, with ONNX's defaults.
pub(crate) fn cast(tensor: Tensor, dtype: DType) -> Result<Tensor, Fault> {
    cast_as(tensor, dtype, Narrowing::default())
}

/// The elements as another type. Floating-point numbers are cut towards zero and kept in range;
/// integers are cut to the width; truth is any number but zero.
pub(super) fn cast_as(tensor: Tensor, dtype: DType, how: Narrowing) -> Result<Tensor, Fault> {
    let from = tensor.dtype();
    if from == dtype {
        return Ok(tensor);
    }
    let shape = tensor.shape().to_vec();
    if dtype == DType::String {
        TextBudget::default().cells(tensor.len())?;
    }
    match tensor {
        Tensor::Text(text) => from_text(text.items(), dtype, &shape, how),
        Tensor::Small(small, bits) => {
            let bits = contiguous(&bits);
            // Small integers are written as integers.
            let written = matches!(small, DType::U2 | DType::U4 | DType::I2 | DType::I4);
            if dtype == DType::String && written {
                return cast_as(cast_as(Tensor::Small(small, bits), DType::I8, how)?, dtype, how);
            }
            let numbers = items::<u8>(&bits).iter().map(|&bits| decode(small, bits)).collect();
            cast_as(Tensor::from_items(&shape, numbers), dtype, how)
        }
        Tensor::Dense(dense) => {
            let dense = contiguous(&dense);
            for_storage!(from, S => Ok(convert::<S>(items::<S>(&dense), from, dtype, &shape, how)),
                text => Ok(Tensor::from_text(&shape, Vec::new())))
        }
    }
}

/// The elements as floating-point numbers of one type, row-major; a fault for a tensor of other numbers or text.
pub(crate) fn numbers<E: Item>(tensor: Tensor) -> Result<Vec<E>, Fault> {
    if !matches!(tensor.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
        return Err(Fault(format!("a floating-point tensor is needed, not {}", tensor.describe())));
    }
    into_vec(cast(tensor, native_type::<E>())?.dense()?)
}

/// Anything that Rust converts with `as`.
trait Source:
    Copy
    + Zero
    + PartialEq
    + Written
    + AsPrimitive<f32>
    + AsPrimitive<f64>
    + AsPrimitive<f16>
    + AsPrimitive<bf16>
    + AsPrimitive<i64>
    + AsPrimitive<i32>
    + AsPrimitive<i16>
    + AsPrimitive<i8>
    + AsPrimitive<u64>
    + AsPrimitive<u32>
    + AsPrimitive<u16>
    + AsPrimitive<u8>
{
}

impl<S> Source for S where
    S: Copy
        + Zero
        + PartialEq
        + Written
        + AsPrimitive<f32>
        + AsPrimitive<f64>
        + AsPrimitive<f16>
        + AsPrimitive<bf16>
        + AsPrimitive<i64>
        + AsPrimitive<i32>
        + AsPrimitive<i16>
        + AsPrimitive<i8>
        + AsPrimitive<u64>
        + AsPrimitive<u32>
        + AsPrimitive<u16>
        + AsPrimitive<u8>
{
}

fn convert<S: Source>(source: &[S], from: DType, dtype: DType, shape: &[usize], how: Narrowing) -> Tensor {
    fn each<S: Copy + AsPrimitive<T>, T: Item>(source: &[S], shape: &[usize]) -> Tensor {
        Tensor::from_items(shape, source.iter().map(|x| x.as_()).collect())
    }
    match dtype {
        DType::Bool => Tensor::from_bools(shape, source.iter().map(|x| u8::from(!x.is_zero())).collect()),
        DType::F32 => each::<S, f32>(source, shape),
        DType::F64 => each::<S, f64>(source, shape),
        DType::F16 => each::<S, f16>(source, shape),
        DType::BF16 => each::<S, bf16>(source, shape),
        DType::I64 => each::<S, i64>(source, shape),
        DType::I32 => each::<S, i32>(source, shape),
        DType::I16 => each::<S, i16>(source, shape),
        DType::I8 => each::<S, i8>(source, shape),
        DType::U64 => each::<S, u64>(source, shape),
        DType::U32 => each::<S, u32>(source, shape),
        DType::U16 => each::<S, u16>(source, shape),
        DType::U8 => each::<S, u8>(source, shape),
        DType::String if from == DType::Bool => {
            let word = |x: &S| if x.is_zero() { "False" } else { "True" };
            Tensor::from_text(shape, source.iter().map(|x| word(x).to_owned()).collect())
        }
        DType::String => Tensor::from_text(shape, source.iter().map(|x| x.text()).collect()),
        // Integers lose their upper bits, which single precision has no room for.
        DType::U2 | DType::U4 | DType::I2 | DType::I4 if from.is_integer() => {
            let bits = source.iter().map(|x| low_bits(dtype, AsPrimitive::<i64>::as_(*x))).collect();
            Tensor::of_type::<u8>(dtype, shape, bits)
        }
        small => {
            let bits = source.iter().map(|x| encode(small, AsPrimitive::<f32>::as_(*x), how)).collect();
            Tensor::of_type::<u8>(small, shape, bits)
        }
    }
}

/// Strings as numbers: read in the type itself, so that no digit is lost on the way.
fn from_text(texts: &[String], dtype: DType, shape: &[usize], how: Narrowing) -> Result<Tensor, Fault> {
    fn each<T: Item>(
        texts: &[String],
        shape: &[usize],
        read: impl Fn(&str) -> Result<T, Fault>,
    ) -> Result<Tensor, Fault> {
        Ok(Tensor::from_items(shape, texts.iter().map(|text| read(text)).collect::<Result<_, _>>()?))
    }
    for_integers!(dtype, E => each::<E>(texts, shape, |text| {
        let outside = || Fault(format!("`{text}` is out of range for {dtype}"));
        E::try_from(digits::parse_whole(text)?).map_err(|_| outside())
    }), other => match other {
        DType::F64 => each::<f64>(texts, shape, digits::parse_real),
        DType::Bool => {
            let truths: Result<Vec<bool>, Fault> = texts.iter().map(|text| digits::parse_truth(text)).collect();
            Ok(Tensor::from_bools(shape, truths?.into_iter().map(u8::from).collect()))
        }
        DType::F32 => each::<f32>(texts, shape, digits::parse_real),
        narrower => cast_as(each::<f32>(texts, shape, digits::parse_real)?, narrower, how),
    })
}
