//! Receipts and rejections: what makes one true, and the form in which they are stored.

use fieldproof_proto::{
    ids::{DeviceId, NetworkId, OperatorKey},
    receipt::{Receipt, Rejection},
};

use crate::error::AnswerError;

/// The most bytes of a stored answer.
pub(crate) const ANSWER_BYTES_MAX: u64 = 1024;
/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;

/// What every answer to this device must say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerFacts {
    pub(crate) network: NetworkId,
    pub(crate) device: DeviceId,
    pub(crate) ingester: OperatorKey,
}

/// A signed answer, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Receipt(Receipt),
    Rejection(Rejection),
}

/// The bytes of an answer, as they came and as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnswerBytes {
    pub(crate) is_receipt: bool,
    pub(crate) body: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

impl AnswerBytes {
    /// Checks that the signature is good.
    pub(crate) fn verify(&self) -> Result<Answer, AnswerError> {
        Ok(if self.is_receipt {
            Answer::Receipt(Receipt::verify(&self.body, &self.signature)?)
        } else {
            Answer::Rejection(Rejection::verify(&self.body, &self.signature)?)
        })
    }

    /// The bytes of a frame: kind, signature, body. A signature that was verified has 64 bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&[u8::from(self.is_receipt)], &self.signature[..], &self.body[..]].concat()
    }

    /// Reads a frame.
    pub(crate) fn decode(frame: &[u8]) -> Option<Self> {
        let (kind, rest) = frame.split_first()?;
        let (signature, body) = rest.split_at_checked(SIGNATURE_BYTES)?;
        Some(Self { is_receipt: *kind == 1, body: body.to_vec(), signature: signature.to_vec() })
    }
}

impl AnswerFacts {
    /// Checks that the answer is to this device, from this ingester.
    pub(crate) fn check(&self, answer: &Answer) -> Result<(), AnswerError> {
        let (network, device, found) = match answer {
            Answer::Receipt(receipt) => (receipt.network, receipt.device, receipt.ingester),
            Answer::Rejection(rejection) => (rejection.network, rejection.device, rejection.ingester),
        };
        if network != self.network || device != self.device {
            return Err(AnswerError::NotOurs(device));
        }
        if found != self.ingester {
            return Err(AnswerError::Key { found, expected: self.ingester });
        }
        Ok(())
    }
}
