//! The binary tensor extension: JSON first, and the raw bytes of tensors behind it.
//!
//! A header says how long the JSON is. Each input of the JSON that has the parameter `binary_data_size` instead of `data`
//! owns that many of the bytes behind it, in the order of the inputs.

use http::HeaderMap;

use super::parameters::InputParameters;
use super::request::RequestError;

/// The header with the length of the JSON, in bytes; in requests and answers.
pub const HEADER: &str = "inference-header-content-length";
/// The header as people write it, for messages.
const SHOWN: &str = "Inference-Header-Content-Length";

/// What the header of a request says, as it stands there. Two headers would leave open where the JSON ends.
pub fn header(headers: &HeaderMap) -> Result<Option<&[u8]>, RequestError> {
    let mut values = headers.get_all(HEADER).iter();
    let first = values.next().map(http::HeaderValue::as_bytes);
    match values.next() {
        None => Ok(first),
        Some(_) => Err(error(format!("the header {SHOWN} is there more than once; send one"))),
    }
}

/// Divides a body into its JSON and the raw bytes behind it. Without a header all of it is JSON.
pub fn divide<'a>(body: &'a [u8], header: Option<&[u8]>) -> Result<(&'a [u8], &'a [u8]), RequestError> {
    let Some(header) = header else { return Ok((body, &[])) };
    let length = length(header)?;
    body.split_at_checked(length).ok_or_else(|| {
        error(format!(
            "the header {SHOWN} says that the JSON has {length} bytes, but the body has {}",
            body.len()
        ))
    })
}

/// The length of the JSON that a header gives.
fn length(header: &[u8]) -> Result<usize, RequestError> {
    let digits = !header.is_empty() && header.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(header).ok().filter(|_| digits).and_then(|text| text.parse().ok());
    match number {
        Some(0) => Err(error(format!(
            "the header {SHOWN} is 0: a body without JSON is not read here; describe the input in JSON before its bytes"
        ))),
        Some(length) => Ok(length),
        None => Err(error(format!("the header {SHOWN} must be the length of the JSON in bytes, an integer"))),
    }
}

/// The raw bytes behind the JSON, given out to one input after the other.
pub struct Tail<'a> {
    rest: &'a [u8],
    /// What was given out.
    taken: usize,
}

impl<'a> Tail<'a> {
    /// All of them.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, taken: 0 }
    }

    /// The bytes of the input `name`; none when its elements are in the JSON.
    pub fn take(
        &mut self,
        name: &str,
        parameters: &InputParameters,
    ) -> Result<Option<&'a [u8]>, RequestError> {
        let Some(size) = parameters.binary_data_size else { return Ok(None) };
        let cut = usize::try_from(size).ok().and_then(|size| self.rest.split_at_checked(size));
        let Some((own, rest)) = cut else {
            return Err(error(format!(
                "input `{name}` has the `binary_data_size` {size}, but {} bytes are left behind the JSON; is the header \
                 {SHOWN} there and right?",
                self.rest.len()
            )));
        };
        self.taken += own.len();
        self.rest = rest;
        Ok(Some(own))
    }

    /// Nothing may be left when all inputs have theirs.
    pub fn finish(self) -> Result<(), RequestError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let Self { rest, taken } = self;
        let all = rest.len() + taken;
        Err(error(format!(
            "{all} bytes follow the JSON, but the inputs' `binary_data_size` add up to {taken}"
        )))
    }
}

fn error(reason: String) -> RequestError {
    RequestError::Binary { reason }
}

#[cfg(test)]
#[path = "binary/tests.rs"]
mod tests;
