//! Reads the answers that are compared: those of the Open Inference Protocol v2 as JSON.
//!
//! Binary tensors (`Inference-Header-Content-Length`) and compressed answers are not read; such pairs are counted as
//! incomparable.

use std::fmt;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use stoker_decide::compare::{Data, Tensor};

/// The header of binary tensors.
const BINARY: &str = "inference-header-content-length";

/// Whether the body behind this head may be read: a success, in JSON.
pub fn is_readable(status: StatusCode, headers: &HeaderMap) -> bool {
    let is_json =
        |value: &http::HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"application/json");
    status.is_success()
        && !headers.contains_key(CONTENT_ENCODING)
        && !headers.contains_key(BINARY)
        && headers.get(CONTENT_TYPE).is_none_or(is_json)
}

/// Reads the outputs of an answer.
pub fn read(pieces: &[Bytes]) -> Result<Vec<Tensor>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Answer {
        outputs: Vec<Output>,
    }
    let answer: Answer = match pieces {
        [whole] => serde_json::from_slice(whole),
        several => serde_json::from_slice(&several.concat()),
    }?;
    answer.outputs.into_iter().map(Output::tensor).collect()
}

/// An output as it is written.
#[derive(Deserialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    data: Elements,
}

impl Output {
    fn tensor(self) -> Result<Tensor, serde_json::Error> {
        let Self { name, datatype, shape, data } = self;
        let product = shape.iter().try_fold(1_u64, |product, length| product.checked_mul(*length));
        let found = data.0.len();
        if product != u64::try_from(found).ok() {
            return Err(serde_json::Error::custom(format_args!(
                "output {name:?} has shape {shape:?} and {found} elements"
            )));
        }
        let data = data.0.typed(&datatype).ok_or_else(|| {
            serde_json::Error::custom(format_args!("the data of output {name:?} is not of type {datatype:?}"))
        })?;
        Ok(Tensor { name, shape, data })
    }
}

/// The elements of an array, nested or not, in order.
struct Elements(Found);

/// What was seen so far. The type may be written behind the data, so the values tell.
enum Found {
    Nothing,
    Floats(Vec<f64>),
    Integers(Vec<i128>),
    Truths(Vec<bool>),
    Texts(Vec<String>),
}

impl Found {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Floats(items) => items.len(),
            Self::Integers(items) => items.len(),
            Self::Truths(items) => items.len(),
            Self::Texts(items) => items.len(),
        }
    }

    /// As the datatype wants them.
    fn typed(self, datatype: &str) -> Option<Data> {
        let kind = datatype.trim_end_matches(|c: char| c.is_ascii_digit());
        match (kind, self) {
            ("FP" | "BF", Self::Nothing) => Some(Data::Floats(Vec::new())),
            ("FP" | "BF", Self::Floats(items)) => Some(Data::Floats(items)),
            ("FP" | "BF", Self::Integers(items)) => Some(Data::Floats(to_floats(&items))),
            ("INT" | "UINT", Self::Nothing) => Some(Data::Integers(Vec::new())),
            ("INT" | "UINT", Self::Integers(items)) => Some(Data::Integers(items)),
            ("BOOL", Self::Nothing) => Some(Data::Truths(Vec::new())),
            ("BOOL", Self::Truths(items)) => Some(Data::Truths(items)),
            ("BYTES", Self::Nothing) => Some(Data::Texts(Vec::new())),
            ("BYTES", Self::Texts(items)) => Some(Data::Texts(items)),
            _ => None,
        }
    }
}

fn to_floats(items: &[i128]) -> Vec<f64> {
    items.iter().map(|item| *item as f64).collect()
}

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Found::Nothing;
        deserializer.deserialize_seq(Level(&mut found))?;
        Ok(Self(found))
    }
}

/// One array of the nesting, or one element. The JSON reader bounds the depth.
struct Level<'a>(&'a mut Found);

impl Level<'_> {
    fn float<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        if let Found::Integers(items) = self.0 {
            // Some encoders write 1.0 as 1.
            *self.0 = Found::Floats(to_floats(items));
        }
        match self.0 {
            Found::Nothing => *self.0 = Found::Floats(vec![value]),
            Found::Floats(items) => items.push(value),
            _ => return Err(E::custom("a number stands among other elements")),
        }
        Ok(())
    }

    fn integer<E: serde::de::Error>(self, value: i128) -> Result<(), E> {
        match self.0 {
            Found::Nothing => *self.0 = Found::Integers(vec![value]),
            Found::Integers(items) => items.push(value),
            Found::Floats(items) => items.push(value as f64),
            _ => return Err(E::custom("a number stands among other elements")),
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of numbers, truth values or strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_element_seed(Level(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.integer(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.integer(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.float(value)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        // What many encoders write for NaN, which JSON does not have.
        self.float(f64::NAN)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        match self.0 {
            Found::Nothing => *self.0 = Found::Truths(vec![value]),
            Found::Truths(items) => items.push(value),
            _ => return Err(E::custom("a truth value stands among other elements")),
        }
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        match self.0 {
            Found::Nothing => *self.0 = Found::Texts(vec![value.to_owned()]),
            Found::Texts(items) => items.push(value.to_owned()),
            _ => return Err(E::custom("a string stands among other elements")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn data(datatype: &str, shape: &str, data: &str) -> Result<Data, String> {
        let text = format!(
            r#"{{"model_name": "m", "outputs": [{{"name": "y", "shape": {shape}, "data": {data}, "datatype": "{datatype}"}}]}}"#
        );
        // In two pieces, as it may come.
        let whole = Bytes::from(text);
        let mut tensors = read(&[whole.slice(..20), whole.slice(20..)]).map_err(|error| error.to_string())?;
        assert_eq!(tensors.len(), 1);
        Ok(tensors.remove(0).data)
    }

    #[test]
    fn all_types_are_read_flat_or_nested() {
        let texts = |items: &[&str]| Data::Texts(items.iter().map(|item| (*item).to_owned()).collect());
        let cases = [
            ("FP32", "[3]", "[1, 2.5, -3]", Data::Floats(vec![1.0, 2.5, -3.0])),
            ("FP16", "[2]", "[1, 2]", Data::Floats(vec![1.0, 2.0])),
            ("BF16", "[0]", "[]", Data::Floats(vec![])),
            ("FP64", "[2, 2]", "[[0.5, 1], [2, 1e3]]", Data::Floats(vec![0.5, 1.0, 2.0, 1000.0])),
            ("INT64", "[2, 1]", "[[-1], [7]]", Data::Integers(vec![-1, 7])),
            ("UINT64", "[1]", "[18446744073709551615]", Data::Integers(vec![u64::MAX.into()])),
            ("BOOL", "[2]", "[true, false]", Data::Truths(vec![true, false])),
            ("BYTES", "[1, 2]", r#"["a", "b\n"]"#, texts(&["a", "b\n"])),
        ];
        for (datatype, shape, json, wanted) in cases {
            assert_eq!(data(datatype, shape, json), Ok(wanted), "{datatype} {json}");
        }
        let odd = data("FP32", "[2]", "[null, 1]").unwrap();
        assert!(matches!(odd, Data::Floats(items) if items[0].is_nan() && items[1..] == [1.0]));
    }

    #[test]
    fn what_is_not_of_the_protocol_is_an_error() {
        for (datatype, shape, json, part) in [
            ("FP32", "[2]", "[1]", "and 1 elements"),
            ("FP32", "[18446744073709551615, 2]", "[1]", "and 1 elements"),
            ("INT32", "[1]", "[1.5]", "not of type"),
            ("INT32", "[1]", "[\"a\"]", "not of type"),
            ("COMPLEX", "[1]", "[1]", "not of type"),
            ("FP32", "[2]", "[1, \"a\"]", "among other elements"),
            ("BYTES", "[2]", "[\"a\", 1]", "among other elements"),
            ("FP32", "[1]", "{}", "an array of numbers"),
            ("FP32", "[1]", "[{}]", "an array of numbers"),
        ] {
            let error = data(datatype, shape, json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
        for text in
            ["", "{}", "7", r#"{"error": "x"}"#, r#"{"outputs": [{"name": "y"}]}"#, r#"{"outputs": []"#]
        {
            assert!(read(&[Bytes::from(text)]).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(read(&[Bytes::from(format!(r#"{{"outputs": {deep}"#))]).is_err());
    }

    #[test]
    fn only_plain_json_of_success_is_read() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            pairs.collect::<HeaderMap>()
        };
        assert!(is_readable(StatusCode::OK, &headers(&[])));
        assert!(is_readable(
            StatusCode::OK,
            &headers(&[("content-type", "Application/JSON; charset=utf-8")])
        ));
        assert!(!is_readable(StatusCode::NOT_FOUND, &headers(&[])));
        for (name, value) in
            [("content-type", "application/octet-stream"), ("content-encoding", "gzip"), (BINARY, "12")]
        {
            assert!(!is_readable(StatusCode::OK, &headers(&[(name, value)])), "{name}");
        }
    }
}
