//! Keys and digests as the EVM knows them: addresses, recoverable signatures, EIP-712.

use alloy_primitives::{Address, B256, Signature};
use alloy_sol_types::{Eip712Domain, SolStruct, eip712_domain, sol};

use crate::ids::{DeviceId, NetworkId};

/// Bytes of a recoverable signature: r ‖ s ‖ v.
pub const EVM_SIGNATURE_BYTES: usize = 65;

sol! {
    /// What a provider signs to take a device onto its account.
    #[derive(Debug)]
    struct Registration {
        bytes32 network;
        bytes32 device;
        uint32 counter;
        string program;
        bytes32 replaces;
        string attributes;
    }

    /// What a prover signs of a root.
    #[derive(Debug, PartialEq, Eq)]
    struct RootAttestation {
        uint64 throughEpoch;
        uint32 revision;
        bytes32 root;
        bytes32 prevRoot;
        bytes32 manifest;
        uint64 leafCount;
        address token;
        uint256 total;
    }
}

/// A secret key on secp256k1, of a provider or of a prover.
#[derive(Clone)]
pub struct EvmSecret(k256::ecdsa::SigningKey);

/// Why a signature or a key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvmError {
    /// A secret that is zero or not below the group order.
    #[error("the secret is not a scalar of secp256k1")]
    Secret,
    /// A signature of another form, or one that no key makes.
    #[error("the signature is not 65 bytes r, s, v of secp256k1 with s in the lower half")]
    Signature,
    /// A signature by somebody else.
    #[error("the signature is by `{found}`, not by `{expected}`")]
    Signer {
        /// Who signed.
        found: Address,
        /// Who should have.
        expected: Address,
    },
}

impl EvmSecret {
    /// The key with this scalar.
    pub fn from_bytes(scalar: &[u8; 32]) -> Result<Self, EvmError> {
        k256::ecdsa::SigningKey::from_slice(scalar).map(Self).map_err(|_| EvmError::Secret)
    }

    /// The scalar. For handing the key to a wallet.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes().into()
    }

    /// The address of the key.
    pub fn address(&self) -> Address {
        Address::from_public_key(self.0.verifying_key())
    }

    /// Signs a digest: r ‖ s ‖ v with v 27 or 28.
    pub fn sign(&self, digest: &B256) -> [u8; EVM_SIGNATURE_BYTES] {
        let (signature, recovery) = self
            .0
            .sign_prehash_recoverable(digest.as_slice())
            .expect("a 32-byte digest can always be signed");
        Signature::from((signature, recovery)).as_bytes()
    }
}

/// Checks that `signature` over `digest` is by `expected`. High s is refused: a second form of the
/// same signature would be somebody else's to choose.
pub fn verify_evm(expected: Address, digest: &B256, signature: &[u8]) -> Result<(), EvmError> {
    let signature: &[u8; EVM_SIGNATURE_BYTES] = signature.try_into().map_err(|_| EvmError::Signature)?;
    if !matches!(signature[64], 27 | 28) {
        return Err(EvmError::Signature);
    }
    let signature = Signature::from_raw_array(signature).map_err(|_| EvmError::Signature)?;
    if signature.normalize_s().is_some() {
        return Err(EvmError::Signature);
    }
    let found = signature.recover_address_from_prehash(digest).map_err(|_| EvmError::Signature)?;
    if found == expected { Ok(()) } else { Err(EvmError::Signer { found, expected }) }
}

/// What a provider signs of a registration. The domain has no contract: nothing on chain reads it.
pub fn registration_digest(
    chain_id: u64,
    network: &NetworkId,
    device: &DeviceId,
    registration: &crate::registration::Registration,
) -> B256 {
    let domain: Eip712Domain = eip712_domain! { name: "Fieldproof", version: "1", chain_id: chain_id, };
    Registration {
        network: network.0.into(),
        device: device.0.into(),
        counter: registration.counter,
        program: registration.program.clone(),
        replaces: registration.replaces.0.into(),
        attributes: registration.attributes.clone(),
    }
    .eip712_signing_hash(&domain)
}

/// What a prover signs of a root for the distributor at `contract`.
pub fn attestation_digest(chain_id: u64, contract: Address, attestation: &RootAttestation) -> B256 {
    let domain: Eip712Domain = eip712_domain! {
        name: "Fieldproof",
        version: "1",
        chain_id: chain_id,
        verifying_contract: contract,
    };
    attestation.eip712_signing_hash(&domain)
}

#[cfg(test)]
mod tests;
