//! The keys of a development network, all derived from its seed. Never for a network with money.

use ed25519_dalek::SigningKey;
use fieldproof_proto::{evm::EvmSecret, ids::OperatorKey, signature::DeviceSecret};

/// The first account of every anvil, which also pays on the embedded chain. Everybody knows it.
pub const CHAIN_KEY: [u8; 32] = [
    0xac, 0x09, 0x74, 0xbe, 0xc3, 0x9a, 0x17, 0xe3, 0x6b, 0xa4, 0xa6, 0xb4, 0xd2, 0x38, 0xff, 0x94, 0x4b,
    0xac, 0xb4, 0x78, 0xcb, 0xed, 0x5e, 0xfc, 0xae, 0x78, 0x4d, 0x7b, 0xf4, 0xf2, 0xff, 0x80,
];

/// Derives keys from a seed.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// What `--seed` gave.
    pub seed: u64,
}

impl Keys {
    /// Signs control records.
    pub fn operator(&self) -> SigningKey {
        SigningKey::from_bytes(&self.derive("operator", 0))
    }

    /// Admits devices.
    pub fn admitter(&self) -> SigningKey {
        SigningKey::from_bytes(&self.derive("admitter", 0))
    }

    /// Signs receipts.
    pub fn ingester(&self) -> SigningKey {
        SigningKey::from_bytes(&self.derive("ingester", 0))
    }

    /// Watches over the contract.
    pub fn guardian(&self) -> EvmSecret {
        self.evm("guardian", 0)
    }

    /// Owns devices.
    pub fn provider(&self, number: u32) -> EvmSecret {
        self.evm("provider", number)
    }

    /// One device in four speaks P-256, the others Ed25519.
    pub fn device(&self, number: u32) -> DeviceSecret {
        let secret = self.derive("device", number);
        if number % 4 == 3 {
            DeviceSecret::p256(secret).expect("a digest is a scalar of P-256 but for one in 2^32")
        } else {
            DeviceSecret::ed25519(secret)
        }
    }

    fn evm(&self, role: &str, number: u32) -> EvmSecret {
        let secret = self.derive(role, number);
        EvmSecret::from_bytes(&secret).expect("a digest is a scalar of secp256k1 but for one in 2^127")
    }

    /// Bytes that only this seed, role and number give.
    pub fn derive(&self, role: &str, number: u32) -> [u8; 32] {
        let name = format!("{role} {number} of seed {}", self.seed);
        fieldproof_proto::digest::digest("fieldproof 2026-11 development key v1", &[name.as_bytes()]).0
    }
}

/// The public half of an operator's key.
pub fn public(key: &SigningKey) -> OperatorKey {
    OperatorKey(key.verifying_key().to_bytes())
}
