//! Device keys and the one set of signatures that every verifier accepts.
//!
//! Ed25519: RFC 8032 with the cofactorless equation, a canonical public key A and R, no key or R of
//! small order, S below the group order. P-256: ECDSA with SHA-256 over the 32 bytes of the digest,
//! r ‖ s, s in the lower half. What a signature signs is always a 32-byte digest with a context of
//! its own. There is no batch verification: its answer could differ between machines.

use ed25519_dalek::Signer as _;
use p256::ecdsa::signature::Signer as _;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;

use crate::{
    digest::{context, digest},
    ids::{DeviceId, Digest, OperatorKey},
};

/// A signature scheme of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-256, as secure elements speak it.
    P256,
}

/// A device's public key as it stands in headers: the algorithm and 33 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PublicKey {
    /// The scheme.
    pub algorithm: Algorithm,
    /// Ed25519: the 32 bytes of RFC 8032 and a zero. P-256: the compressed point of SEC 1.
    pub bytes: [u8; PublicKey::BYTES],
}

/// A public key, parsed and checked, ready to verify.
#[derive(Clone)]
pub struct VerifyingKey(Parsed);

#[derive(Clone)]
enum Parsed {
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
    /// The uncompressed point, the form that ring takes.
    P256([u8; 65]),
}

/// Why a key or a signature is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The algorithm byte names no algorithm.
    #[error("the algorithm is `{0}`, not 1 (Ed25519) or 2 (P-256)")]
    Algorithm(u8),
    /// The public key is not a canonical point, or one of small order.
    #[error("the public key is not a valid point in canonical form")]
    Key,
    /// The signature has another length than 64 bytes.
    #[error("the signature has {0} bytes, not 64")]
    Length(usize),
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Invalid,
}

/// A device's secret key.
#[derive(Clone)]
pub enum DeviceSecret {
    /// Ed25519.
    Ed25519(Box<ed25519_dalek::SigningKey>),
    /// P-256.
    P256(Box<p256::ecdsa::SigningKey>),
}

impl PublicKey {
    /// Bytes of a key in its fixed-width form.
    pub const BYTES: usize = 33;

    /// The device that owns this key.
    pub fn device_id(&self) -> DeviceId {
        DeviceId(digest(context::DEVICE, &[&[self.algorithm.code()], &self.bytes]).0)
    }

    /// Parses and checks the key: canonical, and not of small order.
    pub fn verifying_key(&self) -> Result<VerifyingKey, SignatureError> {
        match self.algorithm {
            Algorithm::Ed25519 => {
                let [point @ .., 0] = &self.bytes else { return Err(SignatureError::Key) };
                Ok(VerifyingKey(Parsed::Ed25519(Box::new(ed25519_key(point)?))))
            }
            Algorithm::P256 => {
                // SEC 1 tag 5 is the "compact" form: 33 bytes too, and a second name for the same key.
                if !matches!(self.bytes[0], 2 | 3) {
                    return Err(SignatureError::Key);
                }
                let key = p256::PublicKey::from_sec1_bytes(&self.bytes).map_err(|_| SignatureError::Key)?;
                let point = key.to_encoded_point(false);
                let uncompressed = point.as_bytes().try_into().map_err(|_| SignatureError::Key)?;
                Ok(VerifyingKey(Parsed::P256(uncompressed)))
            }
        }
    }
}

impl Algorithm {
    /// The byte that stands for the algorithm in headers.
    pub fn code(self) -> u8 {
        match self {
            Self::Ed25519 => 1,
            Self::P256 => 2,
        }
    }

    /// The algorithm behind a byte.
    pub fn from_code(code: u8) -> Result<Self, SignatureError> {
        match code {
            1 => Ok(Self::Ed25519),
            2 => Ok(Self::P256),
            other => Err(SignatureError::Algorithm(other)),
        }
    }
}

impl VerifyingKey {
    /// Whether `signature` signs `message`.
    pub fn verify(&self, message: &Digest, signature: &[u8]) -> Result<(), SignatureError> {
        let signature: &[u8; 64] =
            signature.try_into().map_err(|_| SignatureError::Length(signature.len()))?;
        match &self.0 {
            Parsed::Ed25519(key) => key
                .verify_strict(&message.0, &ed25519_dalek::Signature::from_bytes(signature))
                .map_err(|_| SignatureError::Invalid),
            Parsed::P256(key) => {
                if !p256_s_is_low(signature) {
                    return Err(SignatureError::Invalid);
                }
                ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, key)
                    .verify(&message.0, signature)
                    .map_err(|_| SignatureError::Invalid)
            }
        }
    }
}

impl DeviceSecret {
    /// The Ed25519 key with this seed.
    pub fn ed25519(seed: [u8; 32]) -> Self {
        Self::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// The P-256 key with this scalar, if it is one.
    pub fn p256(scalar: [u8; 32]) -> Result<Self, SignatureError> {
        let key = p256::ecdsa::SigningKey::from_bytes(&scalar.into()).map_err(|_| SignatureError::Key)?;
        Ok(Self::P256(Box::new(key)))
    }

    /// The public key.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; PublicKey::BYTES];
        let algorithm = match self {
            Self::Ed25519(key) => {
                bytes[..32].copy_from_slice(key.verifying_key().as_bytes());
                Algorithm::Ed25519
            }
            Self::P256(key) => {
                bytes.copy_from_slice(key.verifying_key().to_encoded_point(true).as_bytes());
                Algorithm::P256
            }
        };
        PublicKey { algorithm, bytes }
    }

    /// Signs a digest.
    pub fn sign(&self, message: &Digest) -> [u8; 64] {
        match self {
            Self::Ed25519(key) => key.sign(&message.0).to_bytes(),
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(&message.0);
                signature.normalize_s().unwrap_or(signature).to_bytes().into()
            }
        }
    }
}

/// Whether `signature` by an operator's key (operator, admitter, ingester; always Ed25519) signs
/// `message`.
pub fn verify_operator(key: &OperatorKey, message: &Digest, signature: &[u8]) -> Result<(), SignatureError> {
    VerifyingKey(Parsed::Ed25519(Box::new(ed25519_key(&key.0)?))).verify(message, signature)
}

/// A point that is canonical and not of small order.
fn ed25519_key(bytes: &[u8; 32]) -> Result<ed25519_dalek::VerifyingKey, SignatureError> {
    if !ed25519_y_is_canonical(bytes) {
        return Err(SignatureError::Key);
    }
    let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| SignatureError::Key)?;
    if key.is_weak() { Err(SignatureError::Key) } else { Ok(key) }
}

/// Whether y, without the sign bit, is below the field prime 2^255 - 19.
fn ed25519_y_is_canonical(bytes: &[u8; 32]) -> bool {
    let all_ones_above = bytes[1..31].iter().all(|byte| *byte == 0xff) && bytes[31] & 0x7f == 0x7f;
    !(all_ones_above && bytes[0] >= 0xed)
}

/// Whether s is at most half of the order of P-256.
fn p256_s_is_low(signature: &[u8; 64]) -> bool {
    /// (n - 1) / 2 for the order n of P-256, FIPS 186-5.
    const HALF_ORDER: [u8; 32] = [
        0x7f, 0xff, 0xff, 0xff, 0x80, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xde,
        0x73, 0x7d, 0x56, 0xd3, 0x8b, 0xcf, 0x42, 0x79, 0xdc, 0xe5, 0x61, 0x7e, 0x31, 0x92, 0xa8,
    ];
    signature[32..] <= HALF_ORDER[..]
}

#[cfg(test)]
mod tests;
