//! What provers say of a root: the statement's digest, the signatures, the pointer to the latest.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256};
use fieldproof_proto::{
    canonical_json::CanonicalError,
    control::decimal,
    evm::{EVM_SIGNATURE_BYTES, EvmError, EvmSecret, RootAttestation, attestation_digest, verify_evm},
    ids::Digest,
    manifest::{RootStatement, object_name, to_object},
};
use fieldproof_runtime::store::Store;
use serde::{Deserialize, Serialize};

use crate::objects::{self, ObjectError};

/// A prover's signature over a root statement, as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// The format of this object.
    pub format: AttestationFormat,
    /// The digest of the statement's canonical bytes.
    pub statement: Digest,
    /// Who signed.
    pub signer: Address,
    /// r ‖ s ‖ v over the statement's EIP-712 digest, in hexadecimal.
    pub signature: String,
}

/// The version of the attestation format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttestationFormat {
    /// The first.
    #[serde(rename = "fieldproof-attestation-1")]
    V1,
}

/// The last root whose posting is final: `roots/latest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatestRoot {
    /// The root.
    pub statement: RootStatement,
    /// Its place in the contract.
    #[serde(with = "decimal")]
    pub index: u64,
    /// The transaction that posted it.
    pub transaction: B256,
}

/// Why an attestation does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// It is of another statement.
    #[error("it is of statement `{found}`, not of `{expected}`")]
    Statement {
        /// The statement it is of.
        found: Digest,
        /// The statement it should be of.
        expected: Digest,
    },
    /// The signature is refused.
    #[error(transparent)]
    Signature(#[from] EvmError),
    /// A statement without canonical form.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

impl Attestation {
    /// Signs a statement. The same key gives the same bytes.
    pub fn sign(statement: &RootStatement, secret: &EvmSecret) -> Result<Self, CanonicalError> {
        let (_, digest) = to_object(statement)?;
        let signature = hex::encode(secret.sign(&signing_digest(statement)));
        Ok(Self { format: AttestationFormat::V1, statement: digest, signer: secret.address(), signature })
    }

    /// The signature, if it is the signer's and of this statement.
    pub fn verify(&self, statement: &RootStatement) -> Result<[u8; EVM_SIGNATURE_BYTES], AttestationError> {
        let (_, expected) = to_object(statement)?;
        if self.statement != expected {
            return Err(AttestationError::Statement { found: self.statement, expected });
        }
        let mut signature = [0; EVM_SIGNATURE_BYTES];
        hex::decode_to_slice(&self.signature, &mut signature).map_err(|_| EvmError::Signature)?;
        verify_evm(self.signer, &signing_digest(statement), &signature)?;
        Ok(signature)
    }
}

/// What a prover signs of a statement: the contract's `attestationHash`.
pub fn signing_digest(statement: &RootStatement) -> B256 {
    let attestation = RootAttestation {
        throughEpoch: statement.through_epoch,
        revision: statement.revision,
        root: statement.root,
        prevRoot: statement.previous_root,
        manifest: statement.manifest.0.into(),
        leafCount: statement.leaf_count,
        token: statement.token,
        total: U256::from(statement.total),
    };
    attestation_digest(statement.chain_id, statement.distributor, &attestation)
}

/// The signatures of these attestors over a statement that are in the store, rising by signer. One
/// that is not valid is left out, and told: anyone may have written it.
pub async fn signatures(
    store: &Store,
    statement: &RootStatement,
    attestors: &[Address],
) -> Result<BTreeMap<Address, [u8; EVM_SIGNATURE_BYTES]>, ObjectError> {
    let mut found = BTreeMap::new();
    for attestor in attestors {
        let name = object_name::attestation(statement.through_epoch, statement.revision, attestor);
        let Some(bytes) = store.get(&name).await? else { continue };
        let signature = objects::parse::<Attestation>(&name, &bytes).and_then(|attestation| {
            if attestation.signer != *attestor {
                return Err(ObjectError::invalid(&name, format!("it is by `{}`", attestation.signer)));
            }
            attestation.verify(statement).map_err(|error| ObjectError::invalid(&name, error))
        });
        match signature {
            Ok(signature) => {
                found.insert(*attestor, signature);
            }
            Err(error) => tracing::debug!(%error, "an attestation does not count"),
        }
    }
    Ok(found)
}
