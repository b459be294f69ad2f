//! Protobuf messages on the wire; bytes that are none are the caller's fault.
//!
//! tonic's own codec answers INTERNAL to bytes that do not decode. That says the server is broken
//! and asks the client to try again; INVALID_ARGUMENT says whose fault it is.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

/// The codec of the generated server.
pub(crate) struct IngestCodec<T, U>(PhantomData<(T, U)>);

/// Decodes requests.
pub(crate) struct IngestDecoder<U>(PhantomData<U>);

impl<T, U> Default for IngestCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for IngestCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = IngestDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        IngestDecoder(PhantomData)
    }
}

impl<U: Message + Default> Decoder for IngestDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buffer)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("the message is not valid protobuf: {error}")))
    }
}
