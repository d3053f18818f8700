//! Reads messages with a bound on what their bytes may grow to, and tells clients what is wrong with them.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, decode_key, skip_field};
use prost::{DecodeError, Message};
use tokio::runtime::{Handle, RuntimeFlavor};
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, EncodeBuf};
use tonic_prost::ProstEncoder;

/// Most fields of a message, each entry of a repeated one counted. An empty tensor takes 2 bytes on the wire and some
/// hundred in memory: without a bound a message of 32 MiB would become gigabytes. What is inside of a tensor grows by
/// no more than JSON does.
const FIELDS: usize = 4096;

/// Messages of more bytes hold up the thread that reads or writes them: others take over what waits for it.
const HEAVY: usize = 128 << 10;

/// How the calls' messages are read and written.
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        Encoder(ProstEncoder::new(BufferSettings::default()))
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoder(PhantomData)
    }
}

/// Writes the messages of a call.
pub struct Encoder<T>(ProstEncoder<T>);

impl<T: Message> tonic::codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        in_place(item.encoded_len(), || self.0.encode(item, buffer))
    }
}

/// Reads the messages of a call.
pub struct Decoder<U>(PhantomData<U>);

impl<U: Message + Default> tonic::codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Not copied: raw tensors are slices of what was received.
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        in_place(bytes.len(), || read(bytes)).map(Some)
    }
}

/// Does `work` on so many bytes. Where that takes long the runtime is told, so that other threads go on with the tasks of
/// this one. A runtime of one thread has no others.
fn in_place<R>(bytes: usize, work: impl FnOnce() -> R) -> R {
    let has_others =
        || Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > HEAVY && has_others() { tokio::task::block_in_place(work) } else { work() }
}

/// A message from its bytes. What is wrong with them is the client's to mend.
pub fn read<U: Message + Default>(bytes: Bytes) -> Result<U, Status> {
    let unreadable =
        |error: DecodeError| Status::invalid_argument(format!("the message cannot be read: {error}"));
    if fields(bytes.clone()).map_err(unreadable)? > FIELDS {
        return Err(Status::invalid_argument(format!(
            "the message has more than {FIELDS} fields; send fewer tensors, with more elements each"
        )));
    }
    U::decode(bytes).map_err(unreadable)
}

/// The fields of a message, those inside of them not counted. Stops above the bound.
fn fields(mut bytes: Bytes) -> Result<usize, DecodeError> {
    let mut count = 0;
    while bytes.has_remaining() && count <= FIELDS {
        let (tag, kind) = decode_key(&mut bytes)?;
        skip_field(kind, tag, &mut bytes, DecodeContext::default())?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::proto::inference::ModelInferRequest;
    use crate::proto::inference::model_infer_request::InferInputTensor;

    fn refused(bytes: &'static [u8]) -> Status {
        read::<ModelInferRequest>(Bytes::from_static(bytes)).unwrap_err()
    }

    #[test]
    fn a_message_is_read_and_its_raw_tensors_are_not_copied() {
        let raw = Bytes::from(vec![7; 1000]);
        let sent = ModelInferRequest { raw_input_contents: vec![raw], ..ModelInferRequest::default() };
        let bytes = Bytes::from(sent.encode_to_vec());
        let message: ModelInferRequest = read(bytes.clone()).unwrap();
        assert_eq!(message, sent);
        assert!(bytes.as_ptr_range().contains(&message.raw_input_contents[0].as_ptr()));
    }

    #[test]
    fn heavy_messages_do_not_hold_up_other_tasks() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let waits = runtime.spawn(async move {
            // Runs on the one thread that there is, which waits for it.
            tokio::spawn(async move { sender.send(()) });
            in_place(HEAVY + 1, || receiver.recv_timeout(std::time::Duration::from_secs(60)))
        });
        assert_eq!(runtime.block_on(waits).unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn heavy_messages_are_read_by_a_runtime_of_one_thread() {
        assert_eq!(in_place(HEAVY + 1, || 7), 7);
    }

    #[test]
    fn tensors_are_bounded_in_number() {
        let with = |count| {
            let inputs = vec![InferInputTensor::default(); count];
            ModelInferRequest { inputs, ..ModelInferRequest::default() }.encode_to_vec().into()
        };
        assert!(read::<ModelInferRequest>(with(FIELDS)).is_ok());
        let status = read::<ModelInferRequest>(with(FIELDS + 1)).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("more than 4096 fields"), "{status}");
    }

    #[test]
    fn bytes_that_are_no_message_are_the_client_s_fault() {
        // A length beyond the end; a field that is no number; a group that does not end; half of a key.
        for bytes in [&b"\x0a\x7fab"[..], b"\x0a\x01\xff", b"\x2b\x2b\x2b", b"\x80"] {
            let status = refused(bytes);
            assert_eq!(status.code(), Code::InvalidArgument, "{bytes:?}");
            assert!(status.message().starts_with("the message cannot be read: "), "{status}");
        }
    }
}
