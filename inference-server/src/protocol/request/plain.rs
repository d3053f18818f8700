//! Requests in the form that most clients send, read without a general parser: texts without escapes, the datatype before the data,
//! numbers as data.
//!
//! Whatever else there is, wrong or only unusual, is given up (`None`) and left to the general parser of `body`, which reads the
//! same of a request and has the messages.

use serde::de::{DeserializeOwned, IgnoredAny};
use stoker_graph::DType;

use super::body::{RawBody, RawData, RawTensor};
use crate::protocol::data;
use crate::protocol::parameters::Object;

/// A request as it stands in the body.
pub(super) fn read(json: &[u8]) -> Option<RawBody<'_>> {
    let mut cursor = Cursor { text: json, at: 0 };
    let (mut id, mut parameters, mut inputs, mut outputs) = (None, Object::default(), None, None);
    cursor.object(|key, cursor| {
        match key {
            "id" => id = Some(cursor.string()?.to_owned()),
            "parameters" => parameters = cursor.general()?,
            "inputs" => inputs = Some(tensors(cursor)?),
            "outputs" => outputs = cursor.general()?,
            _ => drop(cursor.general::<IgnoredAny>()?),
        }
        Some(())
    })?;
    cursor.end()?;
    Some(RawBody { id, parameters, inputs: inputs?, outputs })
}

fn tensors<'a>(cursor: &mut Cursor<'a>) -> Option<Vec<RawTensor<'a>>> {
    let mut tensors = Vec::new();
    cursor.array(|cursor| {
        tensors.push(tensor(cursor)?);
        Some(())
    })?;
    Some(tensors)
}

fn tensor<'a>(cursor: &mut Cursor<'a>) -> Option<RawTensor<'a>> {
    let (mut name, mut datatype, mut shape, mut data) = (None, None, None::<Vec<usize>>, None);
    let mut parameters = Object::default();
    cursor.object(|key, cursor| {
        match key {
            "name" => name = Some(cursor.string()?),
            "datatype" => datatype = Some(cursor.string()?),
            "shape" => shape = Some(lengths(cursor)?),
            "parameters" => parameters = cursor.general()?,
            "data" => {
                let shape = shape.as_deref().unwrap_or_default();
                let expected =
                    shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length))?;
                let (elements, nesting, length) =
                    data::numbers(DType::from_oip_name(datatype?)?, cursor.rest(), expected)?;
                data = Some(RawData::Read(elements, nesting));
                cursor.at += length;
            }
            _ => drop(cursor.general::<IgnoredAny>()?),
        }
        Some(())
    })?;
    // Without data there are raw bytes, or something is missing.
    Some(RawTensor {
        name: name?.into(),
        datatype: datatype?.into(),
        shape: shape?,
        parameters,
        data: Some(data?),
    })
}

fn lengths(cursor: &mut Cursor<'_>) -> Option<Vec<usize>> {
    let mut lengths = Vec::with_capacity(4);
    cursor.array(|cursor| {
        let rest = cursor.rest();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(rest.get(..digits)?).ok()?;
        if digits > 1 && text.starts_with('0') {
            return None;
        }
        lengths.push(text.parse().ok()?);
        cursor.at += digits;
        Some(())
    })?;
    Some(lengths)
}

/// A place in the text.
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// What is from here on.
    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next byte that is no space, which is passed over.
    fn next(&mut self) -> Option<u8> {
        let at = data::behind_space(self.text, self.at);
        self.at = at + 1;
        self.text.get(at).copied()
    }

    /// The same, where it must be this byte.
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// To the first byte that is no space.
    fn pass_space(&mut self) -> Option<u8> {
        let next = self.next()?;
        self.at -= 1;
        Some(next)
    }

    /// Nothing more comes.
    fn end(&mut self) -> Option<()> {
        self.next().is_none().then_some(())
    }

    /// A text without escapes.
    fn string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let rest = self.rest();
        let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))?;
        if rest.get(length) != Some(&b'"') {
            return None;
        }
        self.at += length + 1;
        std::str::from_utf8(rest.get(..length)?).ok()
    }

    /// An object, of which `member` reads each value.
    fn object(&mut self, mut member: impl FnMut(&'a str, &mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.pass_space()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            self.pass_space()?;
            member(key, self)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// An array, of which `entry` reads each.
    fn array(&mut self, mut entry: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'[')?;
        if self.pass_space()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.pass_space()?;
            entry(self)?;
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    /// A value of any form, by the general parser.
    fn general<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut values = serde_json::Deserializer::from_slice(self.rest()).into_iter();
        let value = values.next()?.ok()?;
        self.at += values.byte_offset();
        Some(value)
    }
}
