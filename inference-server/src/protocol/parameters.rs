//! Parameters of requests, of their inputs and of the outputs that they ask for.
//!
//! Those that this server does not know are tolerated, as the protocol says. A known one of a wrong type is refused, and
//! so is one that asks for something that would otherwise be silently left out.

use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The value of a parameter, from any transport.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// True or false.
    Bool(bool),
    /// An integer.
    Integer(i128),
    /// A number with a fraction.
    Float(f64),
    /// A text.
    Text(String),
    /// Something else: a list, an object.
    Other,
}

/// Why a parameter is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the parameter `{name}` {problem}")]
pub struct ParameterError {
    name: &'static str,
    problem: String,
}

/// Parameters of a request as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestParameters {
    /// 1 first, then 2, and so on; 0 when nothing was said.
    pub priority: u32,
    /// How long the client waits.
    pub timeout: Option<Duration>,
    /// True when outputs are wanted as raw bytes where they do not say otherwise themselves.
    pub binary_data_output: bool,
}

/// Parameters of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputParameters {
    /// How many raw bytes behind the JSON are this input's; none when its elements are in the JSON.
    pub binary_data_size: Option<u64>,
}

/// Parameters of an output that a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputParameters {
    /// Whether it is wanted as raw bytes; none when the request as a whole says so.
    pub binary_data: Option<bool>,
}

/// A place in a request that has parameters.
pub trait Parameters: Default {
    /// Takes one parameter. Unknown ones change nothing.
    fn set(&mut self, name: &str, value: &Parameter) -> Result<(), ParameterError>;
}

impl Parameters for RequestParameters {
    fn set(&mut self, name: &str, value: &Parameter) -> Result<(), ParameterError> {
        match name {
            "priority" => self.priority = integer("priority", value)?,
            "timeout" => {
                let micros: u64 = integer("timeout", value)?;
                self.timeout = (micros > 0).then(|| Duration::from_micros(micros));
            }
            "binary_data_output" => self.binary_data_output = boolean("binary_data_output", value)?,
            "sequence_id" => match value {
                Parameter::Integer(0) => {}
                Parameter::Text(text) if text.is_empty() => {}
                Parameter::Integer(_) | Parameter::Text(_) => {
                    return Err(refused(
                        "sequence_id",
                        "is not served: this server keeps nothing from one request to the next; leave it out",
                    ));
                }
                other => return Err(wrong("sequence_id", "an integer or a string", other)),
            },
            _ => {}
        }
        Ok(())
    }
}

impl Parameters for InputParameters {
    fn set(&mut self, name: &str, value: &Parameter) -> Result<(), ParameterError> {
        match name {
            "binary_data_size" => self.binary_data_size = Some(integer("binary_data_size", value)?),
            "shared_memory_region" => return Err(shared_memory()),
            _ => {}
        }
        Ok(())
    }
}

impl Parameters for OutputParameters {
    fn set(&mut self, name: &str, value: &Parameter) -> Result<(), ParameterError> {
        match name {
            "binary_data" => self.binary_data = Some(boolean("binary_data", value)?),
            "shared_memory_region" => return Err(shared_memory()),
            "classification" if *value != Parameter::Integer(0) => {
                return Err(refused(
                    "classification",
                    "is not served: ask for the output's values, and take the highest of them",
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The refusal of tensors outside of the request.
fn shared_memory() -> ParameterError {
    refused("shared_memory_region", "is not served: send and receive tensors in the body")
}

fn refused(name: &'static str, problem: &str) -> ParameterError {
    ParameterError { name, problem: problem.to_owned() }
}

/// The refusal of a value of a wrong type.
fn wrong(name: &'static str, expected: &str, value: &Parameter) -> ParameterError {
    let actual = match value {
        Parameter::Bool(value) => value.to_string(),
        Parameter::Integer(value) => value.to_string(),
        Parameter::Float(value) => value.to_string(),
        // A text is not repeated: it may be long.
        Parameter::Text(_) => "a string".to_owned(),
        Parameter::Other => "neither of truth value, number and string".to_owned(),
    };
    ParameterError { name, problem: format!("must be {expected}, but is {actual}") }
}

/// An integer of a type without a sign.
fn integer<T: TryFrom<i128> + Bounded>(name: &'static str, value: &Parameter) -> Result<T, ParameterError> {
    match value {
        Parameter::Integer(number) => T::try_from(*number).ok(),
        _ => None,
    }
    .ok_or_else(|| wrong(name, &format!("an integer from 0 to {}", T::LARGEST), value))
}

/// What messages say of a type.
trait Bounded {
    /// The largest number of the type.
    const LARGEST: u64;
}

impl Bounded for u32 {
    const LARGEST: u64 = Self::MAX as u64;
}

impl Bounded for u64 {
    const LARGEST: u64 = Self::MAX;
}

fn boolean(name: &'static str, value: &Parameter) -> Result<bool, ParameterError> {
    match value {
        Parameter::Bool(value) => Ok(*value),
        other => Err(wrong(name, "true or false", other)),
    }
}

/// An object of parameters in JSON, or why the first of them that is wrong is refused. `null` is as if there were none.
///
/// The refusal is kept beside the JSON's own errors, which say where in the text they are.
#[derive(Debug)]
pub struct Object<P>(pub Result<P, ParameterError>);

impl<P: Parameters> Default for Object<P> {
    fn default() -> Self {
        Self(Ok(P::default()))
    }
}

impl<'de, P: Parameters> Deserialize<'de> for Object<P> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self::default())
    }
}

impl<'de, P: Parameters> Visitor<'de> for Object<P> {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of parameters")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            // `null` is as if the parameter were not there.
            if let Some(value) = map.next_value_seed(Value)?
                && let Ok(parameters) = &mut self.0
                && let Err(error) = parameters.set(&name, &value)
            {
                self.0 = Err(error);
            }
        }
        Ok(self)
    }
}

/// Reads the value of a parameter; none is `null`.
struct Value;

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Option<Parameter>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Option<Parameter>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the value of a parameter")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Parameter::Bool(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(Parameter::Integer(value.into())))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(Parameter::Integer(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(Parameter::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Some(Parameter::Text(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Some(Parameter::Other))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Some(Parameter::Other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<P: Parameters>(text: &str) -> Result<P, String> {
        let object: Object<P> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        object.0.map_err(|error| error.to_string())
    }

    #[test]
    fn known_parameters_are_read_and_unknown_ones_tolerated() {
        let text = r#"{"priority": 3, "timeout": 2500, "binary_data_output": true, "sequence_id": 0,
            "sequence_start": false, "mine": [1, {"a": null}], "other": {"b": [2]}, "third": 1.5, "fourth": null}"#;
        let wanted = RequestParameters {
            priority: 3,
            timeout: Some(Duration::from_micros(2500)),
            binary_data_output: true,
        };
        assert_eq!(read(text), Ok(wanted));
        for text in
            ["{}", "null", r#"{"priority": 0, "timeout": 0, "sequence_id": ""}"#, r#"{"priority": null}"#]
        {
            assert_eq!(read(text), Ok(RequestParameters::default()), "{text}");
        }
        assert_eq!(
            read(r#"{"binary_data_size": 18446744073709551615, "x": 1}"#),
            Ok(InputParameters { binary_data_size: Some(u64::MAX) })
        );
        assert_eq!(
            read(r#"{"binary_data": false, "classification": 0}"#),
            Ok(OutputParameters { binary_data: Some(false) })
        );
    }

    #[test]
    fn wrong_types_and_what_is_not_served_are_refused_by_name() {
        let of_request = [
            (r#"{"priority": -1}"#, "`priority` must be an integer from 0 to 4294967295, but is -1"),
            (r#"{"priority": 4294967296}"#, "but is 4294967296"),
            (r#"{"priority": "high"}"#, "but is a string"),
            (r#"{"priority": 1.5}"#, "but is 1.5"),
            (
                r#"{"timeout": true}"#,
                "`timeout` must be an integer from 0 to 18446744073709551615, but is true",
            ),
            (r#"{"timeout": [1]}"#, "but is neither"),
            (r#"{"binary_data_output": 1}"#, "`binary_data_output` must be true or false, but is 1"),
            (r#"{"sequence_id": 7}"#, "`sequence_id` is not served"),
            (r#"{"sequence_id": "a"}"#, "`sequence_id` is not served"),
            (r#"{"sequence_id": 1.5}"#, "`sequence_id` must be an integer or a string"),
            ("[]", "an object of parameters"),
        ];
        for (text, part) in of_request {
            let message = read::<RequestParameters>(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
        let of_input = [
            (r#"{"binary_data_size": -1}"#, "`binary_data_size` must be"),
            (r#"{"shared_memory_region": "r"}"#, "`shared_memory_region` is not served"),
        ];
        for (text, part) in of_input {
            let message = read::<InputParameters>(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
        let of_output = [
            (r#"{"binary_data": "yes"}"#, "`binary_data` must be true or false"),
            (r#"{"classification": 3}"#, "`classification` is not served"),
            (r#"{"shared_memory_region": "r"}"#, "`shared_memory_region` is not served"),
        ];
        for (text, part) in of_output {
            let message = read::<OutputParameters>(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
