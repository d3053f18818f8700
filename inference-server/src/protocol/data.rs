//! The `data` of a tensor: a JSON array, flat or nested, read straight into a typed vector.
//!
//! No JSON tree is built on the way. What is read is bounded by the request's body: an element takes at least two
//! bytes of JSON. The nesting is recorded, so that rows of different lengths are refused.

mod numbers;

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, SeqAccess, Unexpected, Visitor};
use stoker_graph::{DType, Data};

pub(super) use numbers::behind_space;

/// The lengths of the arrays at each depth.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Nesting {
    /// Length of the arrays at depth 0, 1, ...; all arrays of one depth have the same.
    lengths: Vec<Option<usize>>,
    /// Depth of the elements, once one was seen.
    leaf: Option<usize>,
}

impl Nesting {
    /// The shape that the nesting implies. A flat array has one dimension.
    pub fn shape(&self) -> Vec<usize> {
        self.lengths.iter().map(|length| length.unwrap_or(0)).collect()
    }

    /// Notes an element at `depth`.
    fn element<E: Error>(&mut self, depth: usize) -> Result<(), E> {
        match self.leaf {
            Some(leaf) if leaf == depth => Ok(()),
            None if depth == 0 => Err(E::custom("`data` must be an array")),
            None if self.lengths.len() <= depth => {
                self.leaf = Some(depth);
                Ok(())
            }
            _ => Err(E::custom("`data` mixes elements and arrays at one depth")),
        }
    }

    /// Notes that an array begins at `depth`.
    fn open<E: Error>(&mut self, depth: usize) -> Result<(), E> {
        if self.leaf.is_some_and(|leaf| leaf <= depth) {
            return Err(E::custom("`data` mixes elements and arrays at one depth"));
        }
        if self.lengths.len() <= depth {
            self.lengths.push(None);
        }
        Ok(())
    }

    /// Notes that an array of `length` entries ends at `depth`.
    fn close<E: Error>(&mut self, depth: usize, length: usize) -> Result<(), E> {
        match self.lengths.get_mut(depth) {
            Some(Some(known)) if *known != length => Err(E::custom(format_args!(
                "`data` is ragged: an array of {length} entries follows one of {known} at depth {depth}"
            ))),
            Some(slot) => {
                *slot = Some(length);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// What a macro makes of the variant of a type of numbers; the other types have arms of their own.
macro_rules! of_numbers {
    ($dtype:expr, $read:ident, $($others:tt)*) => {
        match $dtype {
            DType::U8 => $read!(U8),
            DType::U16 => $read!(U16),
            DType::U32 => $read!(U32),
            DType::U64 => $read!(U64),
            DType::I8 => $read!(I8),
            DType::I16 => $read!(I16),
            DType::I32 => $read!(I32),
            DType::I64 => $read!(I64),
            DType::F32 => $read!(F32),
            DType::F64 => $read!(F64),
            $($others)*
        }
    };
}

/// Reads one `data` array as elements of a type.
pub struct Elements(pub DType);

impl<'de> DeserializeSeed<'de> for Elements {
    type Value = (Data, Nesting);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        /// Reads into a vector of one type.
        fn read<'de, T: Element, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<(Vec<T>, Nesting), D::Error> {
            let mut items = Vec::new();
            let mut nesting = Nesting::default();
            Level { items: &mut items, nesting: &mut nesting, depth: 0, element: PhantomData }
                .deserialize(deserializer)?;
            Ok((items, nesting))
        }
        macro_rules! read_as {
            ($variant:ident) => {
                read(deserializer).map(|(items, nesting)| (Data::$variant(items), nesting))
            };
        }
        of_numbers!(self.0, read_as,
            DType::Bool => read_as!(Bool),
            DType::String => read_as!(String),
            // The request was refused before, with what to do.
            other => Err(D::Error::custom(format!("{other} cannot be sent as JSON"))),
        )
    }
}

/// The elements of the array of numbers that a text begins with, its nesting, and the length of its text, quickly. `None` where there is
/// anything but numbers of the type in even arrays: [`Elements`] says what is wrong, if anything is. `expected` is how many there may be.
pub fn numbers(dtype: DType, text: &[u8], expected: usize) -> Option<(Data, Nesting, usize)> {
    macro_rules! read_as {
        ($variant:ident) => {
            numbers::read(text, expected)
                .map(|(items, nesting, length)| (Data::$variant(items), nesting, length))
        };
    }
    of_numbers!(dtype, read_as, _ => None)
}

/// An element type: which JSON values it takes. `None` is a value that it does not take.
trait Element: Sized {
    /// What the type takes, for messages.
    const TAKES: &'static str;

    /// From a JSON integer that is not negative.
    fn from_unsigned(_: u64) -> Option<Self> {
        None
    }
    /// From a negative JSON integer.
    fn from_signed(_: i64) -> Option<Self> {
        None
    }
    /// From a JSON number with a fraction or an exponent.
    fn from_float(_: f64) -> Option<Self> {
        None
    }
    /// From `true` or `false`.
    fn from_bool(_: bool) -> Option<Self> {
        None
    }
    /// From a JSON string.
    fn from_text(_: &str) -> Option<Self> {
        None
    }
}

impl Element for bool {
    const TAKES: &'static str = "BOOL (true or false)";
    fn from_bool(value: bool) -> Option<Self> {
        Some(value)
    }
}

impl Element for String {
    const TAKES: &'static str = "BYTES (a string)";
    fn from_text(value: &str) -> Option<Self> {
        Some(value.to_owned())
    }
}

macro_rules! integer {
    ($type:ty, $takes:literal) => {
        impl Element for $type {
            const TAKES: &'static str = $takes;
            fn from_unsigned(value: u64) -> Option<Self> {
                Self::try_from(value).ok()
            }
            fn from_signed(value: i64) -> Option<Self> {
                Self::try_from(value).ok()
            }
        }
    };
}
integer!(u8, "UINT8 (an integer from 0 to 255)");
integer!(u16, "UINT16 (an integer from 0 to 65535)");
integer!(u32, "UINT32 (an integer from 0 to 4294967295)");
integer!(u64, "UINT64 (an integer from 0 to 18446744073709551615)");
integer!(i16, "INT16 (an integer from -32768 to 32767)");
integer!(i8, "INT8 (an integer from -128 to 127)");
integer!(i32, "INT32 (an integer from -2147483648 to 2147483647)");
integer!(i64, "INT64 (an integer from -9223372036854775808 to 9223372036854775807)");

impl Element for f32 {
    const TAKES: &'static str = "FP32 (a number up to 3.4e38)";
    fn from_unsigned(value: u64) -> Option<Self> {
        Some(value as Self)
    }
    fn from_signed(value: i64) -> Option<Self> {
        Some(value as Self)
    }
    fn from_float(value: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "what leaves the range is infinite and refused")]
        let narrow = value as Self;
        narrow.is_finite().then_some(narrow)
    }
}

impl Element for f64 {
    const TAKES: &'static str = "FP64 (a number)";
    fn from_unsigned(value: u64) -> Option<Self> {
        Some(value as Self)
    }
    fn from_signed(value: i64) -> Option<Self> {
        Some(value as Self)
    }
    fn from_float(value: f64) -> Option<Self> {
        value.is_finite().then_some(value)
    }
}

/// One array of the nesting, or one element.
struct Level<'a, T> {
    items: &'a mut Vec<T>,
    nesting: &'a mut Nesting,
    depth: usize,
    element: PhantomData<T>,
}

impl<T: Element> Level<'_, T> {
    /// Appends an element, or says why it cannot be one.
    fn push<E: Error>(self, item: Option<T>, found: Unexpected<'_>) -> Result<(), E> {
        let Some(item) = item else { return Err(E::invalid_value(found, &T::TAKES)) };
        self.nesting.element(self.depth)?;
        self.items.push(item);
        Ok(())
    }
}

impl<'de, T: Element> DeserializeSeed<'de> for Level<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Element> Visitor<'de> for Level<'_, T> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} or an array of them", T::TAKES)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Self { items, nesting, depth, element } = self;
        nesting.open(depth)?;
        let mut length = 0;
        while entries
            .next_element_seed(Level {
                items: &mut *items,
                nesting: &mut *nesting,
                depth: depth + 1,
                element,
            })?
            .is_some()
        {
            length += 1;
        }
        nesting.close(depth, length)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.push(T::from_unsigned(value), Unexpected::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.push(T::from_signed(value), Unexpected::Signed(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.push(T::from_float(value), Unexpected::Float(value))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.push(T::from_bool(value), Unexpected::Bool(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        // A wrong type is named, its text is not: it may be long.
        self.push(T::from_text(value), Unexpected::Other("a string"))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(E::custom(format_args!(
            "null is not {}: JSON has no NaN and no infinity, and many encoders write null for them",
            T::TAKES
        )))
    }
}

#[cfg(test)]
#[path = "data/tests.rs"]
mod tests;
