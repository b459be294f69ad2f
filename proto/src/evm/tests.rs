#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

#[test]
fn an_address_of_a_known_secret() {
    let mut scalar = [0; 32];
    scalar[31] = 1;
    let secret = EvmSecret::from_bytes(&scalar).unwrap();
    assert_eq!(secret.address().to_string().to_lowercase(), "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf");
    assert_eq!(secret.to_bytes(), scalar);
    assert_eq!(EvmSecret::from_bytes(&[0; 32]).err(), Some(EvmError::Secret));
    assert_eq!(EvmSecret::from_bytes(&[0xff; 32]).err(), Some(EvmError::Secret));
}

#[test]
fn an_attestation_binds_every_field() {
    let attestation = || RootAttestation {
        throughEpoch: 1,
        revision: 2,
        root: B256::repeat_byte(3),
        prevRoot: B256::repeat_byte(4),
        manifest: B256::repeat_byte(5),
        leafCount: 6,
        token: Address::repeat_byte(7),
        total: alloy_primitives::U256::from(8),
    };
    let contract = Address::repeat_byte(9);
    let digest = attestation_digest(1, contract, &attestation());
    assert_ne!(attestation_digest(2, contract, &attestation()), digest);
    assert_ne!(attestation_digest(1, Address::repeat_byte(8), &attestation()), digest);
    let changes: [fn(&mut RootAttestation); 8] = [
        |a| a.throughEpoch = 9,
        |a| a.revision = 9,
        |a| a.root = B256::ZERO,
        |a| a.prevRoot = B256::ZERO,
        |a| a.manifest = B256::ZERO,
        |a| a.leafCount = 9,
        |a| a.token = Address::ZERO,
        |a| a.total = alloy_primitives::U256::ZERO,
    ];
    for change in changes {
        let mut changed = attestation();
        change(&mut changed);
        assert_ne!(attestation_digest(1, contract, &changed), digest);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn p1_one_flipped_bit_anywhere_fails(scalar in 1_u8.., digest in any::<[u8; 32]>(), bit in 0_usize..520) {
        let secret = EvmSecret::from_bytes(&[scalar.min(0xfe); 32]).unwrap();
        let signature = secret.sign(&digest.into());
        prop_assert!(verify_evm(secret.address(), &digest.into(), &signature).is_ok());
        let mut changed = signature;
        changed[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(verify_evm(secret.address(), &digest.into(), &changed).is_err());
        let mut changed = digest;
        changed[bit % 32] ^= 1 << (bit % 8);
        prop_assert!(verify_evm(secret.address(), &changed.into(), &signature).is_err());
    }

    #[test]
    fn random_bytes_never_panic(
        signature in prop::collection::vec(any::<u8>(), 60..70), digest in any::<[u8; 32]>(),
    ) {
        prop_assert!(verify_evm(Address::repeat_byte(1), &digest.into(), &signature).is_err());
    }
}
