//! From an element type, known when a graph runs, to the Rust type of its elements.

/// Runs `$body` with `$E` as the type of `$dtype` where that is an integer of whole bytes.
macro_rules! for_integers {
    ($dtype:expr, $E:ident => $body:expr, $other:ident => $else:expr) => {{
        match $dtype {
            $crate::value::DType::I64 => {
                type $E = i64;
                $body
            }
            $crate::value::DType::I32 => {
                type $E = i32;
                $body
            }
            $crate::value::DType::I16 => {
                type $E = i16;
                $body
            }
            $crate::value::DType::I8 => {
                type $E = i8;
                $body
            }
            $crate::value::DType::U64 => {
                type $E = u64;
                $body
            }
            $crate::value::DType::U32 => {
                type $E = u32;
                $body
            }
            $crate::value::DType::U16 => {
                type $E = u16;
                $body
            }
            $crate::value::DType::U8 => {
                type $E = u8;
                $body
            }
            $other => $else,
        }
    }};
}
pub(crate) use for_integers;

/// Runs `$body` with `$E` as the storage type of `$dtype`. Truth values and the types of less than a byte
/// are stored as `u8`, as are the 8-bit floating-point types: see [`Tensor::storage`].
///
/// [`Tensor::storage`]: crate::tensor::Tensor::storage
macro_rules! for_storage {
    ($dtype:expr, $E:ident => $body:expr, text => $text:expr) => {{
        match $dtype {
            $crate::value::DType::F32 => {
                type $E = f32;
                $body
            }
            $crate::value::DType::F64 => {
                type $E = f64;
                $body
            }
            $crate::value::DType::F16 => {
                type $E = half::f16;
                $body
            }
            $crate::value::DType::BF16 => {
                type $E = half::bf16;
                $body
            }
            $crate::value::DType::String => $text,
            other => $crate::storage::for_integers!(other, $E => $body, _bits => {
                type $E = u8;
                $body
            }),
        }
    }};
}
pub(crate) use for_storage;
