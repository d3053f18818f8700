//! The JSON of an infer request, as it stands there. What it means is checked in the module above.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use stoker_graph::{DType, Data};

use crate::protocol::data::{Elements, Nesting};
use crate::protocol::parameters::{InputParameters, Object, OutputParameters, RequestParameters};
use crate::protocol::signature::has_json;

/// A request as it stands in the body.
pub(super) struct RawBody<'de> {
    pub(super) id: Option<String>,
    pub(super) parameters: Object<RequestParameters>,
    pub(super) inputs: Vec<RawTensor<'de>>,
    pub(super) outputs: Option<Vec<RawOutput>>,
}

/// One entry of `inputs`.
pub(super) struct RawTensor<'de> {
    pub(super) name: Cow<'de, str>,
    pub(super) datatype: Cow<'de, str>,
    pub(super) shape: Vec<usize>,
    pub(super) parameters: Object<InputParameters>,
    /// None when the elements are raw bytes behind the JSON.
    pub(super) data: Option<RawData<'de>>,
}

/// The elements: read already, or left as text because `data` came before `datatype`.
pub(super) enum RawData<'de> {
    Read(Data, Nesting),
    Text(&'de RawValue),
}

/// One entry of `outputs`.
#[derive(Deserialize)]
pub(super) struct RawOutput {
    pub(super) name: String,
    #[serde(default)]
    pub(super) parameters: Object<OutputParameters>,
}

/// Reads the JSON of a request, whatever its form.
pub(super) fn read(json: &[u8]) -> Result<RawBody<'_>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let raw = Body.deserialize(&mut deserializer)?;
    deserializer.end().map(|()| raw)
}

/// Reads the outer object.
struct Body;

impl<'de> DeserializeSeed<'de> for Body {
    type Value = RawBody<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Body {
    type Value = RawBody<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with `inputs`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut id, mut inputs, mut outputs) = (None, None, None);
        let mut parameters = Object::default();
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Id => id = map.next_value()?,
                Key::Parameters => parameters = map.next_value()?,
                Key::Inputs => inputs = Some(map.next_value_seed(Tensors)?),
                Key::Outputs => outputs = map.next_value()?,
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let inputs = inputs.ok_or_else(|| A::Error::missing_field("inputs"))?;
        Ok(RawBody { id, parameters, inputs, outputs })
    }
}

/// The members of the outer object that matter here.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Id,
    Parameters,
    Inputs,
    Outputs,
    #[serde(other)]
    Other,
}

/// Reads `inputs`.
struct Tensors;

impl<'de> DeserializeSeed<'de> for Tensors {
    type Value = Vec<RawTensor<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Tensors {
    type Value = Vec<RawTensor<'de>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of tensors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut tensors = Vec::new();
        while let Some(tensor) = entries.next_element_seed(Tensor)? {
            tensors.push(tensor);
        }
        Ok(tensors)
    }
}

/// Reads one tensor.
struct Tensor;

impl<'de> DeserializeSeed<'de> for Tensor {
    type Value = RawTensor<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

/// The members of a tensor that matter here.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum TensorKey {
    Name,
    Datatype,
    Shape,
    Parameters,
    Data,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for Tensor {
    type Value = RawTensor<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a tensor: an object with `name`, `shape`, `datatype` and `data`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut name, mut datatype, mut shape, mut data) = (None, None::<String>, None, None);
        let mut parameters = Object::<InputParameters>::default();
        while let Some(key) = map.next_key::<TensorKey>()? {
            match key {
                TensorKey::Name => name = Some(map.next_value::<String>()?),
                TensorKey::Datatype => datatype = Some(map.next_value()?),
                TensorKey::Shape => shape = Some(map.next_value()?),
                TensorKey::Parameters => parameters = map.next_value()?,
                TensorKey::Data => {
                    // A datatype that is not known, or that JSON has no form for, is refused later, by name, against
                    // what the model declares.
                    let known = datatype.as_deref().and_then(DType::from_oip_name);
                    data = Some(match known.filter(|&dtype| has_json(dtype)) {
                        Some(dtype) => {
                            let (data, nesting) = map.next_value_seed(Elements(dtype))?;
                            RawData::Read(data, nesting)
                        }
                        None => RawData::Text(map.next_value()?),
                    });
                }
                TensorKey::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let missing = A::Error::missing_field;
        // Elements that are not in the JSON are raw bytes behind it, or their parameters are wrong, which is told first.
        let elsewhere =
            parameters.0.as_ref().map_or(true, |parameters| parameters.binary_data_size.is_some());
        if data.is_none() && !elsewhere {
            return Err(missing("data"));
        }
        Ok(RawTensor {
            name: name.ok_or_else(|| missing("name"))?.into(),
            datatype: datatype.ok_or_else(|| missing("datatype"))?.into(),
            shape: shape.ok_or_else(|| missing("shape"))?,
            parameters,
            data,
        })
    }
}
