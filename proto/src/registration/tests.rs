#![allow(clippy::unwrap_used)]

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;

const CHAIN_ID: u64 = 31_337;
const NETWORK: NetworkId = NetworkId([9; 32]);

fn provider() -> EvmSecret {
    EvmSecret::from_bytes(&[3; 32]).unwrap()
}

fn registration(device: &DeviceSecret) -> Registration {
    Registration {
        public_key: device.public_key(),
        counter: 1,
        provider: provider().address(),
        replaces: DeviceId::ZERO,
        program: "energy".to_owned(),
        attributes: r#"{"hex":"8a2a1072b59ffff"}"#.to_owned(),
    }
}

fn signed(device: &DeviceSecret) -> SignedRegistration {
    let signers =
        RegistrationSigners { device, provider: &provider(), admitter: &SigningKey::from_bytes(&[4; 32]) };
    sign_registration(&NETWORK, CHAIN_ID, &registration(device), &signers).unwrap()
}

#[test]
fn p1_all_three_signatures_bind_every_bit_of_the_body() {
    let admitter = OperatorKey(SigningKey::from_bytes(&[4; 32]).verifying_key().to_bytes());
    for device in [DeviceSecret::ed25519([1; 32]), DeviceSecret::p256([2; 32]).unwrap()] {
        let signed = signed(&device);
        assert_eq!(verify_registration(&NETWORK, CHAIN_ID, &signed).unwrap(), registration(&device));
        verify_admitter(&NETWORK, &admitter, &signed).unwrap();
        for bit in 0..signed.body.len() * 8 {
            let mut body = signed.body.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let changed = SignedRegistration { body: body.into(), ..signed.clone() };
            assert!(verify_registration(&NETWORK, CHAIN_ID, &changed).is_err(), "bit {bit}");
            assert!(verify_admitter(&NETWORK, &admitter, &changed).is_err(), "bit {bit}");
        }
        let other = NetworkId([8; 32]);
        assert!(verify_registration(&other, CHAIN_ID, &signed).is_err());
        assert!(verify_admitter(&other, &admitter, &signed).is_err());
    }
}

#[test]
fn each_signature_is_needed() {
    let signed = signed(&DeviceSecret::ed25519([1; 32]));
    let device = SignedRegistration { device_signature: signed.admitter_signature.clone(), ..signed.clone() };
    let error = verify_registration(&NETWORK, CHAIN_ID, &device).unwrap_err();
    assert!(matches!(error, RegistrationError::Signature { who: "device", .. }));
    let mut provider = signed.clone();
    provider.provider_signature =
        [&signed.provider_signature[..64], &[27 ^ 28 ^ signed.provider_signature[64]]].concat().into();
    let error = verify_registration(&NETWORK, CHAIN_ID, &provider).unwrap_err();
    assert!(matches!(error, RegistrationError::Provider(_)));
    assert!(matches!(
        verify_registration(&NETWORK, CHAIN_ID + 1, &signed).unwrap_err(),
        RegistrationError::Provider(EvmError::Signer { .. })
    ));
    let admitter = OperatorKey(SigningKey::from_bytes(&[5; 32]).verifying_key().to_bytes());
    assert!(verify_admitter(&NETWORK, &admitter, &signed).is_err());
}

proptest! {
    #[test]
    fn r1_every_body_has_exactly_one_encoding(at in 0_usize..200, other in any::<u8>()) {
        let mut body = registration(&DeviceSecret::ed25519([1; 32])).encode().unwrap();
        let at = at % body.len();
        body[at] = other;
        if let Ok(parsed) = Registration::parse(&body) {
            prop_assert_eq!(parsed.encode().unwrap(), body);
        }
    }

    #[test]
    fn random_bytes_never_panic(mut body in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(version) = body.first_mut() {
            *version = REGISTRATION_VERSION;
        }
        prop_assert!(Registration::parse(&body).is_err());
    }
}
