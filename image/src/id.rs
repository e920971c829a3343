//! Ids: a prefix that names the kind of object, then 17 lower-case hex digits.
//!
//! Implements the id rules of Amazon EC2 (`ami-0123456789abcdef0`). EC2's old ids of eight digits
//! are refused on purpose: a volume's id must fill its disk's 20-byte serial number exactly.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Hex digits after the prefix.
const DIGITS: usize = 17;

/// A text that is not an id of the kind that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid id: {text:?} (expecting \"{prefix}\" and {DIGITS} lower-case hex digits)")]
pub struct InvalidId {
    pub text: String,
    /// The prefix that the id should have, with its dash.
    pub prefix: &'static str,
}

/// The digits of `text` as a number, if it is `prefix` and exactly 17 lower-case hex digits.
fn parse(text: &str, prefix: &'static str) -> Result<u128, InvalidId> {
    let invalid = || InvalidId {
        text: text.to_owned(),
        prefix,
    };
    let digits = text.strip_prefix(prefix).ok_or_else(invalid)?;
    let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != DIGITS || !digits.bytes().all(lower_hex) {
        return Err(invalid());
    }
    u128::from_str_radix(digits, 16).map_err(|_| invalid())
}

/// 68 random bits from the kernel.
fn random() -> u128 {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // Fails only when a signal came before the kernel's pool was ready, early at boot: ask again.
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    u128::from_le_bytes(bytes) >> (128 - 4 * DIGITS)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// What every such id begins with.
            pub const PREFIX: &'static str = $prefix;

            /// A new random id.
            pub fn generate() -> Self {
                Self(random())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!("{}{:0width$x}", $prefix, self.0, width = DIGITS))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse(text, $prefix).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

ids! {
    /// A machine image.
    ImageId "ami-";
    /// A snapshot: the immutable content that a volume starts from.
    SnapshotId "snap-";
    /// A volume.
    VolumeId "vol-";
    /// An instance.
    InstanceId "i-";
    /// A kernel (`aki-`).
    KernelId "aki-";
    /// An initial RAM disk (`ari-`).
    RamdiskId "ari-";
}

impl VolumeId {
    /// The serial number of the volume's disk: the id without its dash, as EC2's disks have it.
    pub fn serial(&self) -> [u8; 20] {
        let mut serial = [0; 20];
        let text = self.to_string();
        let bytes = text.bytes().filter(|&b| b != b'-');
        for (to, from) in serial.iter_mut().zip(bytes) {
            *to = from;
        }
        serial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_and_parse_are_inverse() {
        for id in [ImageId(0), ImageId((1 << 68) - 1), ImageId::generate()] {
            assert_eq!(id.to_string().parse::<ImageId>().unwrap(), id);
        }
        assert_eq!(SnapshotId(0xa).to_string(), "snap-0000000000000000a");
        assert_eq!(
            format!("{:>23}|", SnapshotId(0xa)),
            " snap-0000000000000000a|"
        );
    }

    #[test]
    fn generated_ids_differ_and_parse() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| VolumeId::generate()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(
            ids.iter()
                .all(|id| id.to_string().parse::<VolumeId>() == Ok(*id))
        );
    }

    #[test]
    fn other_texts_are_refused_with_the_expected_prefix() {
        for text in [
            "",
            "ami-",
            "ami-0123456789abcdef",
            "ami-0123456789abcdef00",
            "ami-0123456789ABCDEF0",
            "ami-+123456789abcdef0",
            "snap-0123456789abcdef0",
            "0123456789abcdef0",
            "ami-0123456789abcdefé",
        ] {
            let error = text.parse::<ImageId>().unwrap_err();
            assert_eq!(error.text, text);
            assert!(error.to_string().contains("expecting \"ami-\""), "{error}");
        }
    }

    #[test]
    fn the_serial_is_the_volume_id_without_its_dash() {
        let id: VolumeId = "vol-0123456789abcdef0".parse().unwrap();
        assert_eq!(&id.serial(), b"vol0123456789abcdef0");
    }

    #[test]
    fn json_is_the_text() {
        let id: InstanceId = serde_json::from_str("\"i-0123456789abcdef0\"").unwrap();
        assert_eq!(
            serde_json::to_string(&id).unwrap(),
            "\"i-0123456789abcdef0\""
        );
        assert!(serde_json::from_str::<InstanceId>("\"i-1\"").is_err());
    }
}
