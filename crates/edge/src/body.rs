//! Bodies from strangers: read with a bound, or thrown away with a bound.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::BoxError;

/// How much of a refused body is read and thrown away, so that the client gets to read the refusal.
const DISCARD_BYTES: u64 = 256 << 20;
/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Longer than allowed. What was not read yet is still in the connection.
    #[error("the body is longer than the limit of {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The connection failed.
    #[error("the body could not be read: {0}")]
    Broken(#[source] BoxError),
}

/// Reads a whole body of at most `limit` bytes. A body that comes in one piece is not copied.
pub async fn read_bounded<B>(body: &mut B, limit: usize) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(ReadError::TooLarge { limit });
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| ReadError::Broken(error.into()))?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            return Err(ReadError::TooLarge { limit });
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(usize::try_from(announced).unwrap_or(0).max(first.len() + data.len()));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// Reads the rest of a refused request's body and throws it away, within bounds, in a task of its own.
///
/// Closing a connection with unread data resets it, and a client that is still sending then never sees the answer. Do
/// not call it for a request with `Expect: 100-continue`: that client waits for the answer before it sends.
pub fn discard(mut body: Incoming) {
    tokio::spawn(tokio::time::timeout(DISCARD_TIME, async move {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(rest) = left.checked_sub(length) else { break };
            left = rest;
        }
    }));
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    fn pieces(parts: &[&'static str]) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
        let frames: Vec<_> =
            parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))).collect();
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn bodies_up_to_the_limit_are_read_whole() {
        assert_eq!(read_bounded(&mut Full::new(Bytes::from("12345")), 5).await.unwrap(), "12345");
        assert_eq!(read_bounded(&mut pieces(&["12", "", "3", "45"]), 5).await.unwrap(), "12345");
        assert_eq!(read_bounded(&mut pieces(&[]), 0).await.unwrap(), "");
    }

    #[tokio::test]
    async fn longer_bodies_are_refused_announced_or_not() {
        let announced = read_bounded(&mut Full::new(Bytes::from("123456")), 5).await;
        assert!(matches!(announced, Err(ReadError::TooLarge { limit: 5 })), "{announced:?}");
        let streamed = read_bounded(&mut pieces(&["123", "456"]), 5).await;
        assert!(matches!(streamed, Err(ReadError::TooLarge { limit: 5 })), "{streamed:?}");
    }
}
