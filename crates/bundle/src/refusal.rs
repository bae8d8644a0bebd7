//! Why a bundle, a keyring or a chunk is not taken: a code for programs, a text for people.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What programs branch on; written in kebab-case.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// It is no bundle at all.
    BadMagic,
    /// A format or flags that this program does not know.
    BadFormat,
    /// A length beyond its limit.
    TooLong,
    /// The bytes end too early.
    Truncated,
    /// Lengths of the header that don't agree with the signed manifest, or with the file.
    BadHeader,
    /// There is no signature at all.
    Unsigned,
    /// None of the signatures is by a key of the keyring.
    UnknownKey,
    /// A signature by a key that the keyring gives another role.
    WrongRole,
    /// Good signatures, but too few.
    Threshold,
    /// A signature by a known key that does not fit the bytes.
    BadSignature,
    /// Signatures that can't be read.
    BadSignatures,
    /// The device has no keyring.
    NoKeyring,
    /// A keyring that can't be read.
    BadKeyring,
    /// A keyring that is not newer than the one in force.
    NotNewer,
    /// A manifest that can't be read.
    BadManifest,
    /// A permission that can't be read.
    BadPermission,
    /// For another product.
    WrongProduct,
    /// For other revisions of the product.
    WrongRevision,
    /// A lower rollback index than the device's floor.
    Rollback,
    /// What runs is not what the component requires.
    Requires,
    /// A component that the device does not have.
    UnknownComponent,
    /// More bytes than the device's slot has.
    SlotTooSmall,
    /// A page table or page that is not what was signed.
    BadIndex,
    /// A chunk that is not what the index says.
    BadChunk,
    /// A whole image that is not what was signed.
    BadImage,
    /// A code of a newer program.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// As it is written in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadMagic => "bad-magic",
            Self::BadFormat => "bad-format",
            Self::TooLong => "too-long",
            Self::Truncated => "truncated",
            Self::BadHeader => "bad-header",
            Self::Unsigned => "unsigned",
            Self::UnknownKey => "unknown-key",
            Self::WrongRole => "wrong-role",
            Self::Threshold => "threshold",
            Self::BadSignature => "bad-signature",
            Self::BadSignatures => "bad-signatures",
            Self::NoKeyring => "no-keyring",
            Self::BadKeyring => "bad-keyring",
            Self::NotNewer => "not-newer",
            Self::BadManifest => "bad-manifest",
            Self::BadPermission => "bad-permission",
            Self::WrongProduct => "wrong-product",
            Self::WrongRevision => "wrong-revision",
            Self::Rollback => "rollback",
            Self::Requires => "requires",
            Self::UnknownComponent => "unknown-component",
            Self::SlotTooSmall => "slot-too-small",
            Self::BadIndex => "bad-index",
            Self::BadChunk => "bad-chunk",
            Self::BadImage => "bad-image",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal.
#[derive(Clone, Debug, Deserialize, Eq, Error, PartialEq, Serialize)]
#[error("{text} ({code})")]
pub struct Refusal {
    pub code: Code,
    /// The thing, its value, the limit and the cure.
    pub text: String,
}

impl Refusal {
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_shown_as_json_writes_it() {
        for code in [Code::BadMagic, Code::NoKeyring, Code::SlotTooSmall, Code::BadSignatures] {
            assert_eq!(serde_json::to_string(&code).expect("a word"), format!("\"{code}\""));
        }
        let newer: Code = serde_json::from_str("\"bad-moon\"").expect("any word is taken");
        assert_eq!(newer, Code::Unknown);
    }
}
