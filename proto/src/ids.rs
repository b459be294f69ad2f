//! Names: newtypes over fixed bytes, written as lower-case hexadecimal.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A text that is not the hexadecimal form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {bytes} bytes in hexadecimal")]
pub struct IdError {
    /// The text as given.
    pub text: String,
    /// How many bytes the id has.
    pub bytes: usize,
}

/// Declares an id: a newtype over bytes with a hexadecimal form.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// All bytes zero: the id of nothing.
            pub const ZERO: Self = Self([0; $bytes]);

            /// The id in these bytes, if there are exactly as many as it has.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| IdError { text: text.to_owned(), bytes: $bytes })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

id! {
    /// A 32-byte digest of any kind.
    Digest, 32
}
id! {
    /// A network: the digest of its genesis.
    NetworkId, 32
}
id! {
    /// A device: derived from its algorithm and public key.
    DeviceId, 32
}
id! {
    /// An Ed25519 public key of the operator's side: operator, admitter, ingester.
    OperatorKey, 32
}

impl NetworkId {
    /// The first four bytes, which every batch header carries so that a batch of another network
    /// is named as such instead of as a bad signature.
    pub fn tag(&self) -> [u8; 4] {
        [self.0[0], self.0[1], self.0[2], self.0[3]]
    }
}

impl DeviceId {
    /// The partition of the topic `telemetry` that holds everything about this device: the first
    /// eight bytes, big-endian, modulo the number of partitions. The id is a digest, so this
    /// spreads evenly without another hash.
    pub fn partition(&self, partition_count: std::num::NonZeroU32) -> u32 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        let partition = u64::from_be_bytes(first) % u64::from(partition_count.get());
        u32::try_from(partition).expect("a remainder by a u32 is a u32")
    }
}
