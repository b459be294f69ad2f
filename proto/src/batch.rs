//! The signed batch: its fixed header, its digest, its signature.

use crate::{
    digest::{context, digest},
    ids::{DeviceId, Digest, NetworkId},
    payload::{PAYLOAD_BYTES_MAX, Payload, PayloadError, READINGS_MAX, TIME_MS_MAX},
    signature::{Algorithm, DeviceSecret, PublicKey, SignatureError},
    v1::SignedBatch,
    wire::{LayoutError, Reader, length_prefix},
};

/// The only version of the header so far.
pub const HEADER_VERSION: u8 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 143;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;
/// The most bytes an encoded `SignedBatch` may have: its parts and the protobuf framing.
pub const BATCH_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + HEADER_BYTES + SIGNATURE_BYTES + 64;

/// Where a batch stands among the batches of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Rises at every restart of the device.
    pub boot: u64,
    /// From 0 within a boot, without gaps.
    pub seq: u64,
}

/// The header: what a batch says of itself. 143 bytes, little-endian, in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The first four bytes of the network id.
    pub network_tag: [u8; 4],
    /// The device's key.
    pub public_key: PublicKey,
    /// The counter of the registration that the device goes by.
    pub registration: u32,
    /// Where the batch stands.
    pub place: Place,
    /// The digest of the device's previous batch, across boots too; zero for its very first.
    pub previous: Digest,
    /// Readings in the payload.
    pub reading_count: u32,
    /// Time of the first reading in milliseconds since 1970.
    pub first_time_ms: u64,
    /// Time of the last reading in milliseconds since 1970.
    pub last_time_ms: u64,
    /// Digest of the sealed data kept beside the evidence; zero if there is none.
    pub sealed: Digest,
}

/// Why bytes are not a batch, or not one that counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The header does not have the layout.
    #[error(transparent)]
    Header(#[from] LayoutError),
    /// The header names another network.
    #[error("the batch is of network `{found}…`, this is `{expected}…`")]
    Network {
        /// The tag in the header, in hexadecimal.
        found: String,
        /// The tag of this network.
        expected: String,
    },
    /// The payload is not canonical.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// Header and payload contradict each other.
    #[error("the header says {field} `{header}`, the payload has `{payload}`")]
    Mismatch {
        /// What they disagree about.
        field: &'static str,
        /// The header's value.
        header: u64,
        /// The payload's value.
        payload: u64,
    },
    /// The key or the signature is refused.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

impl BatchHeader {
    /// The fixed bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.push(HEADER_VERSION);
        out.extend_from_slice(&self.network_tag);
        out.push(self.public_key.algorithm.code());
        out.extend_from_slice(&self.public_key.bytes);
        out.extend_from_slice(&self.registration.to_le_bytes());
        out.extend_from_slice(&self.place.boot.to_le_bytes());
        out.extend_from_slice(&self.place.seq.to_le_bytes());
        out.extend_from_slice(&self.previous.0);
        out.extend_from_slice(&self.reading_count.to_le_bytes());
        out.extend_from_slice(&self.first_time_ms.to_le_bytes());
        out.extend_from_slice(&self.last_time_ms.to_le_bytes());
        out.extend_from_slice(&self.sealed.0);
        out.try_into().expect("the fields are 143 bytes together")
    }

    /// Reads a header and checks each field by itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let mut reader = Reader::new("the header", bytes);
        let version = reader.u8()?;
        if version != HEADER_VERSION {
            return Err(LayoutError::field("header version", version, "not 1").into());
        }
        let header = Self {
            network_tag: reader.array()?,
            public_key: PublicKey { algorithm: algorithm(reader.u8()?)?, bytes: reader.array()? },
            registration: reader.u32()?,
            place: Place { boot: reader.u64()?, seq: reader.u64()? },
            previous: Digest(reader.array()?),
            reading_count: reader.u32()?,
            first_time_ms: reader.u64()?,
            last_time_ms: reader.u64()?,
            sealed: Digest(reader.array()?),
        };
        reader.end()?;
        header.check()?;
        Ok(header)
    }

    /// The device that the header names.
    pub fn device_id(&self) -> DeviceId {
        self.public_key.device_id()
    }

    fn check(&self) -> Result<(), LayoutError> {
        if self.registration == 0 {
            return Err(LayoutError::field("registration counter", 0, "counters start at 1"));
        }
        if self.reading_count == 0 || self.reading_count > READINGS_MAX {
            return Err(LayoutError::field("reading count", self.reading_count, "not 1 to 16384"));
        }
        if self.last_time_ms > TIME_MS_MAX || self.first_time_ms > self.last_time_ms {
            return Err(LayoutError::field(
                "last time",
                self.last_time_ms,
                "not between the first time and the year 9999",
            ));
        }
        if self.place.boot == u64::MAX || self.place.seq == u64::MAX {
            return Err(LayoutError::field("place", u64::MAX, "boot and seq are below 2^64 - 1"));
        }
        Ok(())
    }
}

/// The algorithm byte of a header. An unknown one is a matter of form, not of the signature.
fn algorithm(code: u8) -> Result<Algorithm, LayoutError> {
    Algorithm::from_code(code)
        .map_err(|_| LayoutError::field("algorithm", code, "not 1 (Ed25519) or 2 (P-256)"))
}

/// The identity of a batch, and what its signature signs.
pub fn batch_digest(network: &NetworkId, header: &[u8], payload: &[u8]) -> Digest {
    digest(context::BATCH, &[&network.0, &length_prefix(header), header, &length_prefix(payload), payload])
}

/// A batch whose form is right: header and payload are canonical and agree. The signature has not
/// been checked.
#[derive(Debug, Clone)]
pub struct WellFormedBatch {
    /// The header.
    pub header: BatchHeader,
    /// The readings.
    pub payload: Payload,
    /// The identity.
    pub digest: Digest,
}

impl WellFormedBatch {
    /// Checks the form of a batch of `network`.
    pub fn parse(network: &NetworkId, batch: &SignedBatch) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(&batch.header)?;
        if header.network_tag != network.tag() {
            return Err(BatchError::Network {
                found: hex::encode(header.network_tag),
                expected: hex::encode(network.tag()),
            });
        }
        let payload = Payload::decode(&batch.payload, header.first_time_ms)?;
        let mismatch = |field, header, payload| Err(BatchError::Mismatch { field, header, payload });
        let last_time_ms = *payload.times_ms.last().expect("a payload has at least one time");
        if last_time_ms != header.last_time_ms {
            return mismatch("last time", header.last_time_ms, last_time_ms);
        }
        let reading_count = payload.reading_count();
        if reading_count != u64::from(header.reading_count) {
            return mismatch("reading count", header.reading_count.into(), reading_count);
        }
        let digest = batch_digest(network, &batch.header, &batch.payload);
        Ok(Self { header, payload, digest })
    }
}

/// What a device knows when it makes a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchFacts {
    /// The network it is signed for.
    pub network: NetworkId,
    /// The counter of the device's registration.
    pub registration: u32,
    /// Where the batch stands.
    pub place: Place,
    /// The digest of the batch before it.
    pub previous: Digest,
}

/// Makes and signs a batch. Returns it with its digest.
pub fn sign_batch(
    secret: &DeviceSecret,
    facts: &BatchFacts,
    payload: &Payload,
) -> Result<(SignedBatch, Digest), PayloadError> {
    let payload_bytes = payload.encode()?;
    let header = BatchHeader {
        network_tag: facts.network.tag(),
        public_key: secret.public_key(),
        registration: facts.registration,
        place: facts.place,
        previous: facts.previous,
        reading_count: u32::try_from(payload.reading_count()).expect("an encoded payload is bounded"),
        first_time_ms: *payload.times_ms.first().expect("an encoded payload has a time"),
        last_time_ms: *payload.times_ms.last().expect("an encoded payload has a time"),
        sealed: Digest::ZERO,
    };
    let header_bytes = header.encode();
    let digest = batch_digest(&facts.network, &header_bytes, &payload_bytes);
    let batch = SignedBatch {
        header: header_bytes.to_vec().into(),
        payload: payload_bytes.into(),
        signature: secret.sign(&digest).to_vec().into(),
    };
    Ok((batch, digest))
}

#[cfg(test)]
mod tests;
