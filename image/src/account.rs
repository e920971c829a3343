//! Accounts: the twelve digits that own images, snapshots, volumes and instances, as on EC2.
//!
//! A store asks for no proof of an account: its files belong to one user of the host, and the account only
//! says as whom that user acts.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DIGITS: usize = 12;

/// The number of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account(u64);

impl Account {
    /// The owner of what is made by nobody in particular.
    pub const NOBODY: Self = Self(0);
}

/// A text that is no account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid account: {text:?} (expecting {DIGITS} digits)")]
pub struct InvalidAccount {
    pub text: String,
}

impl FromStr for Account {
    type Err = InvalidAccount;

    fn from_str(text: &str) -> Result<Self, InvalidAccount> {
        let invalid = || InvalidAccount {
            text: text.to_owned(),
        };
        if text.len() != DIGITS || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        text.parse().map(Self).map_err(|_| invalid())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:0DIGITS$}", self.0))
    }
}

impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_digits_come_back_as_they_were() {
        for text in ["000000000000", "012345678901", "999999999999"] {
            let account: Account = text.parse().unwrap();
            assert_eq!(account.to_string(), text);
            let json = serde_json::to_string(&account).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Account>(&json).unwrap(), account);
        }
        assert_eq!(Account::NOBODY.to_string(), "000000000000");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "1",
            "0000000000000",
            "+00000000000",
            "00000000000a",
            "self",
        ] {
            let error = text.parse::<Account>().unwrap_err();
            assert!(
                error.to_string().ends_with("(expecting 12 digits)"),
                "{error}"
            );
            assert!(serde_json::from_str::<Account>(&format!("{text:?}")).is_err());
        }
    }
}
