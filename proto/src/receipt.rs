//! What ingest signs: receipts (these batches are in the log) and rejections (this one never will be).

use ed25519_dalek::{Signer as _, SigningKey};

use crate::{
    batch::Place,
    digest::{context, digest},
    ids::{DeviceId, Digest, NetworkId, OperatorKey},
    signature::{SignatureError, verify_operator},
    wire::{LayoutError, Reader},
};

/// The version byte of receipts and rejections.
const VERSION: u8 = 1;

/// A promise that the batches `from_seq..=to_seq` of one boot are in the log, linked by their
/// previous digests up to the one at `to_seq`, whose record is at `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The network.
    pub network: NetworkId,
    /// The generation of the topic.
    pub generation: u32,
    /// The device's partition.
    pub partition: u32,
    /// The offset of the record of the batch at `to_seq`.
    pub offset: u64,
    /// The device.
    pub device: DeviceId,
    /// The boot of all batches covered.
    pub boot: u64,
    /// The first batch covered.
    pub from_seq: u64,
    /// The last batch covered.
    pub to_seq: u64,
    /// The digest of the batch at `to_seq`.
    pub digest: Digest,
    /// The ingester that saw them acknowledged.
    pub ingester: OperatorKey,
}

/// A refusal of one batch that no resending changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// The network.
    pub network: NetworkId,
    /// The device of the stream.
    pub device: DeviceId,
    /// Where the batch says it stands; zero if its header cannot be read.
    pub place: Place,
    /// The digest over the batch's bytes, whatever they are.
    pub digest: Digest,
    /// Why.
    pub code: RejectionCode,
    /// The ingester that refuses.
    pub ingester: OperatorKey,
}

/// Why a batch is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectionCode {
    /// Header or payload is not canonical, or they contradict each other.
    Malformed,
    /// The batch names another network.
    WrongNetwork,
    /// The signature does not verify.
    BadSignature,
    /// More bytes than a batch may have.
    TooLarge,
    /// No header, no payload, or no readings.
    Empty,
    /// The batch is of another device than the stream.
    WrongDevice,
}

impl RejectionCode {
    /// All of them, in the order of their numbers from 1.
    pub const ALL: [Self; 6] = [
        Self::Malformed,
        Self::WrongNetwork,
        Self::BadSignature,
        Self::TooLarge,
        Self::Empty,
        Self::WrongDevice,
    ];

    /// The name in counters and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongNetwork => "wrong_network",
            Self::BadSignature => "bad_signature",
            Self::TooLarge => "too_large",
            Self::Empty => "empty",
            Self::WrongDevice => "wrong_device",
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::Malformed => 1,
            Self::WrongNetwork => 2,
            Self::BadSignature => 3,
            Self::TooLarge => 4,
            Self::Empty => 5,
            Self::WrongDevice => 6,
        }
    }
}

/// A body and its signature, as they travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBody {
    /// The fixed bytes.
    pub body: Vec<u8>,
    /// Ed25519 by the ingester.
    pub signature: [u8; 64],
}

/// Why a receipt or a rejection is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The body does not have the layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The ingester did not sign it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

impl Receipt {
    /// The fixed bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.network.0);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.device.0);
        out.extend_from_slice(&self.boot.to_le_bytes());
        out.extend_from_slice(&self.from_seq.to_le_bytes());
        out.extend_from_slice(&self.to_seq.to_le_bytes());
        out.extend_from_slice(&self.digest.0);
        out.extend_from_slice(&self.ingester.0);
        out
    }

    /// Signs it.
    pub fn sign(&self, key: &SigningKey) -> SignedBody {
        sign(context::RECEIPT, self.encode(), key)
    }

    /// Reads a receipt and checks that the ingester it names signed it. Whether that ingester is
    /// certified is for the reader to know.
    pub fn verify(body: &[u8], signature: &[u8]) -> Result<Self, ReceiptError> {
        let mut reader = Reader::new("the receipt", body);
        version(&mut reader)?;
        let receipt = Self {
            network: NetworkId(reader.array()?),
            generation: reader.u32()?,
            partition: reader.u32()?,
            offset: reader.u64()?,
            device: DeviceId(reader.array()?),
            boot: reader.u64()?,
            from_seq: reader.u64()?,
            to_seq: reader.u64()?,
            digest: Digest(reader.array()?),
            ingester: OperatorKey(reader.array()?),
        };
        reader.end()?;
        if receipt.from_seq > receipt.to_seq {
            return Err(LayoutError::field("from_seq", receipt.from_seq, "above to_seq").into());
        }
        verify_operator(&receipt.ingester, &digest(context::RECEIPT, &[body]), signature)?;
        Ok(receipt)
    }
}

impl Rejection {
    /// The fixed bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.network.0);
        out.extend_from_slice(&self.device.0);
        out.extend_from_slice(&self.place.boot.to_le_bytes());
        out.extend_from_slice(&self.place.seq.to_le_bytes());
        out.extend_from_slice(&self.digest.0);
        out.extend_from_slice(&self.code.number().to_le_bytes());
        out.extend_from_slice(&self.ingester.0);
        out
    }

    /// Signs it.
    pub fn sign(&self, key: &SigningKey) -> SignedBody {
        sign(context::REJECTION, self.encode(), key)
    }

    /// Reads a rejection and checks that the ingester it names signed it.
    pub fn verify(body: &[u8], signature: &[u8]) -> Result<Self, ReceiptError> {
        let mut reader = Reader::new("the rejection", body);
        version(&mut reader)?;
        let rejection = Self {
            network: NetworkId(reader.array()?),
            device: DeviceId(reader.array()?),
            place: Place { boot: reader.u64()?, seq: reader.u64()? },
            digest: Digest(reader.array()?),
            code: {
                let number = reader.u16()?;
                RejectionCode::ALL
                    .into_iter()
                    .find(|code| code.number() == number)
                    .ok_or_else(|| LayoutError::field("rejection code", number, "unknown"))?
            },
            ingester: OperatorKey(reader.array()?),
        };
        reader.end()?;
        verify_operator(&rejection.ingester, &digest(context::REJECTION, &[body]), signature)?;
        Ok(rejection)
    }
}

fn sign(context: &str, body: Vec<u8>, key: &SigningKey) -> SignedBody {
    let signature = key.sign(&digest(context, &[&body]).0).to_bytes();
    SignedBody { body, signature }
}

fn version(reader: &mut Reader<'_>) -> Result<(), LayoutError> {
    match reader.u8()? {
        VERSION => Ok(()),
        other => Err(LayoutError::field("version", other, "not 1")),
    }
}

#[cfg(test)]
mod tests;
