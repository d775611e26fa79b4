//! Choices of a share beside owners and cache: its names, and what is kept beside its files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which names a share's folder can hold on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NameRule {
    /// All that Linux knows.
    Plain,
    /// Those of Windows: others are written with characters of a private range in their place.
    Windows,
}

/// Whether names that differ only in case are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CaseRule {
    /// They are two.
    Exact,
    /// They are one; how a name was first written is kept.
    Insensitive,
}

/// Where owners, modes and devices are kept that the host's files cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OwnerStore {
    /// Nowhere: such a change is refused.
    None,
    /// In an extended attribute of the file.
    Xattr,
}

impl NameRule {
    /// Each with its word in the file.
    pub const WORDS: [(&str, Self); 2] = [("plain", Self::Plain), ("windows", Self::Windows)];
}

impl CaseRule {
    /// Each with its word in the file.
    pub const WORDS: [(&str, Self); 2] =
        [("exact", Self::Exact), ("insensitive", Self::Insensitive)];
}

impl OwnerStore {
    /// Each with its word in the file.
    pub const WORDS: [(&str, Self); 2] = [("none", Self::None), ("xattr", Self::Xattr)];
}
