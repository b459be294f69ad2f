//! Registrations: a device, the provider it earns for, the program that admits it.

use alloy_primitives::Address;

use crate::{
    canonical_json,
    digest::{context, digest},
    evm::{EvmError, EvmSecret, registration_digest, verify_evm},
    ids::{DeviceId, Digest, NetworkId, OperatorKey},
    signature::{Algorithm, DeviceSecret, PublicKey, SignatureError, verify_operator},
    v1::SignedRegistration,
    wire::{LayoutError, Reader, put_bytes},
};

/// The only version of the body so far.
pub const REGISTRATION_VERSION: u8 = 1;
/// The most bytes of a program's name.
pub const PROGRAM_BYTES_MAX: usize = 64;
/// The most bytes of the attributes.
pub const ATTRIBUTES_BYTES_MAX: usize = 1024;

/// What a registration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The device's key.
    pub public_key: PublicKey,
    /// 1 for the first registration of the device; only the last one plus 1 applies.
    pub counter: u32,
    /// Who is paid.
    pub provider: Address,
    /// The device that this one takes the place of; zero if none.
    pub replaces: DeviceId,
    /// The program that admits it.
    pub program: String,
    /// A canonical JSON object of the program's own.
    pub attributes: String,
}

/// Why a registration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// The body does not have the layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The device's or the admitter's signature is refused.
    #[error("the {who}'s signature is refused: {cause}")]
    Signature {
        /// Whose it should be.
        who: &'static str,
        /// Why it is not.
        cause: SignatureError,
    },
    /// The provider's signature is refused.
    #[error("the provider's signature is refused: {0}")]
    Provider(#[from] EvmError),
}

/// The three who must agree to a registration.
pub struct RegistrationSigners<'a> {
    /// Holds the device's key.
    pub device: &'a DeviceSecret,
    /// Is paid.
    pub provider: &'a EvmSecret,
    /// Admits devices to the program.
    pub admitter: &'a ed25519_dalek::SigningKey,
}

impl Registration {
    /// The canonical bytes.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        self.check()?;
        let mut out = vec![REGISTRATION_VERSION, self.public_key.algorithm.code()];
        out.extend_from_slice(&self.public_key.bytes);
        out.extend_from_slice(&self.counter.to_le_bytes());
        out.extend_from_slice(self.provider.as_slice());
        out.extend_from_slice(&self.replaces.0);
        put_bytes(&mut out, self.program.as_bytes());
        put_bytes(&mut out, self.attributes.as_bytes());
        Ok(out)
    }

    /// Reads canonical bytes, and refuses all others.
    pub fn parse(bytes: &[u8]) -> Result<Self, RegistrationError> {
        let mut reader = Reader::new("the registration", bytes);
        let version = reader.u8()?;
        if version != REGISTRATION_VERSION {
            return Err(LayoutError::field("registration version", version, "not 1").into());
        }
        let algorithm = Algorithm::from_code(reader.u8()?).map_err(RegistrationError::device)?;
        let registration = Self {
            public_key: PublicKey { algorithm, bytes: reader.array()? },
            counter: reader.u32()?,
            provider: Address::from(reader.array::<20>()?),
            replaces: DeviceId(reader.array()?),
            program: text("program", reader.bytes()?)?,
            attributes: text("attributes", reader.bytes()?)?,
        };
        reader.end()?;
        registration.check()?;
        Ok(registration)
    }

    /// The device that is registered.
    pub fn device_id(&self) -> DeviceId {
        self.public_key.device_id()
    }

    fn check(&self) -> Result<(), LayoutError> {
        if self.counter == 0 {
            return Err(LayoutError::field("registration counter", 0, "counters start at 1"));
        }
        if self.provider == Address::ZERO {
            return Err(LayoutError::field("provider", self.provider, "rewards to it would be lost"));
        }
        if !is_program_name(&self.program) {
            return Err(LayoutError::field("program", &self.program, "not 1 to 64 of a-z, 0-9 and -"));
        }
        let object = canonical_json::from_bytes::<serde_json::Map<_, _>>(self.attributes.as_bytes());
        if self.attributes.len() > ATTRIBUTES_BYTES_MAX || object.is_err() {
            return Err(LayoutError::field(
                "attributes",
                &self.attributes,
                "not a canonical JSON object within 1024 bytes",
            ));
        }
        Ok(())
    }
}

impl RegistrationError {
    fn device(cause: SignatureError) -> Self {
        Self::Signature { who: "device", cause }
    }
}

/// Signs a registration by all three.
pub fn sign_registration(
    network: &NetworkId,
    chain_id: u64,
    registration: &Registration,
    signers: &RegistrationSigners<'_>,
) -> Result<SignedRegistration, LayoutError> {
    use ed25519_dalek::Signer as _;

    let body = registration.encode()?;
    let provider_digest = registration_digest(chain_id, network, &registration.device_id(), registration);
    let admitter_digest = signed_digest(context::REGISTRATION_ADMITTER, network, &body);
    Ok(SignedRegistration {
        device_signature: signers
            .device
            .sign(&signed_digest(context::REGISTRATION_DEVICE, network, &body))
            .to_vec()
            .into(),
        provider_signature: signers.provider.sign(&provider_digest).to_vec().into(),
        admitter_signature: signers.admitter.sign(&admitter_digest.0).to_bytes().to_vec().into(),
        body: body.into(),
    })
}

/// Checks the device's and the provider's signatures. The admitter's is `verify_admitter`, for it
/// needs to know the program.
pub fn verify_registration(
    network: &NetworkId,
    chain_id: u64,
    signed: &SignedRegistration,
) -> Result<Registration, RegistrationError> {
    let registration = Registration::parse(&signed.body)?;
    registration
        .public_key
        .verifying_key()
        .and_then(|key| {
            key.verify(
                &signed_digest(context::REGISTRATION_DEVICE, network, &signed.body),
                &signed.device_signature,
            )
        })
        .map_err(RegistrationError::device)?;
    let provider_digest = registration_digest(chain_id, network, &registration.device_id(), &registration);
    verify_evm(registration.provider, &provider_digest, &signed.provider_signature)?;
    Ok(registration)
}

/// Checks the admitter's signature.
pub fn verify_admitter(
    network: &NetworkId,
    admitter: &OperatorKey,
    signed: &SignedRegistration,
) -> Result<(), RegistrationError> {
    let digest = signed_digest(context::REGISTRATION_ADMITTER, network, &signed.body);
    verify_operator(admitter, &digest, &signed.admitter_signature)
        .map_err(|cause| RegistrationError::Signature { who: "admitter", cause })
}

/// Whether a program may have this name: 1 to 64 of a-z, 0-9 and -.
pub(crate) fn is_program_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= PROGRAM_BYTES_MAX && name.bytes().all(allowed)
}

fn signed_digest(context: &str, network: &NetworkId, body: &[u8]) -> Digest {
    digest(context, &[&network.0, body])
}

fn text(field: &'static str, bytes: &[u8]) -> Result<String, LayoutError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| LayoutError::field(field, hex::encode(bytes), "not UTF-8"))
}

#[cfg(test)]
mod tests;
