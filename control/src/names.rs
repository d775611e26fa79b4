//! Names that were checked once and are never plain text again.
//!
//! [`HostName`] follows RFC 952 as relaxed by RFC 1123 section 2.1, with the
//! length limits of RFC 1035 section 2.3.4. The other names become parts of
//! file names, socket paths and QEMU arguments, so their alphabet is smaller.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was there.
    #[error("a {kind} name must not be empty")]
    Empty {
        /// What the name was for.
        kind: &'static str,
    },
    /// Over the limit.
    #[error("{kind} name \"{text}\" has {length} characters, the limit is {limit}")]
    TooLong {
        /// What the name was for.
        kind: &'static str,
        /// The name, cut to the limit.
        text: String,
        /// How long it is, in bytes.
        length: usize,
        /// How long it may be, in bytes.
        limit: usize,
    },
    /// A character outside the alphabet, or in the wrong place.
    #[error("{kind} name \"{text}\" may not have {found:?} there: {rule}")]
    BadCharacter {
        /// What the name was for.
        kind: &'static str,
        /// The whole text, escaped.
        text: String,
        /// The offending character.
        found: char,
        /// What is allowed.
        rule: &'static str,
    },
    /// Two dots in a row, or one at the start.
    #[error("host name \"{text}\" has an empty label")]
    EmptyLabel {
        /// The whole text.
        text: String,
    },
    /// An address is not a name.
    #[error("\"{text}\" is an address, not a host name")]
    Address {
        /// The whole text.
        text: String,
    },
}

const LABEL_LIMIT: usize = 63;
const HOST_NAME_LIMIT: usize = 253;
const LABEL_RULE: &str = "letters, digits and inner hyphens";

/// A DNS host name in lower case without the final dot, 1 to 253 bytes, labels of 1 to 63.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct HostName(String);

impl HostName {
    /// Checks `text` and folds it to lower case; one final dot is accepted and removed.
    ///
    /// # Errors
    /// Says which character or label breaks RFC 1123's rules. An IPv4 address is refused too.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        const KIND: &str = "host";
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(NameError::Empty { kind: KIND });
        }
        check_length(KIND, name, HOST_NAME_LIMIT)?;
        for label in name.split('.') {
            if label.is_empty() {
                return Err(NameError::EmptyLabel {
                    text: name.escape_debug().to_string(),
                });
            }
            check_length(KIND, label, LABEL_LIMIT)?;
            let outer_hyphen = label.starts_with('-') || label.ends_with('-');
            let bad = label
                .chars()
                .find(|c| !c.is_ascii_alphanumeric() && *c != '-')
                .or(if outer_hyphen { Some('-') } else { None });
            if let Some(found) = bad {
                return Err(NameError::BadCharacter {
                    kind: KIND,
                    text: name.escape_debug().to_string(),
                    found,
                    rule: LABEL_RULE,
                });
            }
        }
        if name.parse::<std::net::Ipv4Addr>().is_ok() {
            return Err(NameError::Address {
                text: name.to_owned(),
            });
        }
        Ok(Self(name.to_ascii_lowercase()))
    }

    /// The name as text, lower case, no final dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `self.domain`, e.g. `dev` and `test` make `dev.test`.
    ///
    /// # Errors
    /// [`NameError::TooLong`] when the two together pass 253 bytes.
    pub fn under(&self, domain: &Self) -> Result<Self, NameError> {
        Self::parse(&format!("{}.{}", self.0, domain.0))
    }

    /// Whether this is `domain` itself or a name below it.
    #[must_use]
    pub fn is_within(&self, domain: &Self) -> bool {
        self.0
            .strip_suffix(domain.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

fn check_length(kind: &'static str, text: &str, limit: usize) -> Result<(), NameError> {
    if text.len() <= limit {
        return Ok(());
    }
    Err(NameError::TooLong {
        kind,
        text: text.chars().take(limit).collect(),
        length: text.len(),
        limit,
    })
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for HostName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl<'de> Deserialize<'de> for HostName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The alphabet of names that end up in paths and VMM arguments.
fn check_plain(kind: &'static str, text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { kind });
    }
    check_length(kind, text, limit)?;
    let first_bad = text.starts_with('-').then_some('-');
    let bad = first_bad.or_else(|| {
        text.chars()
            .find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'))
    });
    match bad {
        None => Ok(()),
        Some(found) => Err(NameError::BadCharacter {
            kind,
            text: text.escape_debug().to_string(),
            found,
            rule: "lower-case letters, digits and hyphens, not first",
        }),
    }
}

macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $limit:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The most bytes such a name may have.
            pub const LIMIT: usize = $limit;

            /// Checks `text`: lower-case letters, digits and hyphens, none in front.
            ///
            /// # Errors
            /// Says which character is wrong, or that the text is empty or too long.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check_plain($kind, text, $limit)?;
                Ok(Self(text.to_owned()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

plain_name!(
    /// A guest, as in `[guest.dev]`; also its first DNS label, so 63 bytes at most.
    /// The socket paths made from it must fit `sun_path` (108 bytes), hence 24.
    GuestName, "guest", 24
);
plain_name!(
    /// A network, as in `[network.vmnet8]`.
    NetworkName, "network", 15
);
plain_name!(
    /// A share, as in `[share.d]`; also its virtiofs tag, which the virtio
    /// specification (5.11.4) limits to 36 bytes; socket paths leave it 31.
    ShareName, "share", 31
);
plain_name!(
    /// A project that is up, after its folder's name.
    ProjectName, "project", 31
);
plain_name!(
    /// A source of names, as in `[hosts.source.docker]`.
    SourceName, "source", 24
);

impl GuestName {
    /// The guest's name as a DNS label.
    #[must_use]
    pub fn as_host_name(&self) -> HostName {
        HostName(self.0.trim_end_matches('-').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_fold_case_and_lose_the_final_dot() {
        for (text, expected) in [
            ("Local.Test.", "local.test"),
            ("a", "a"),
            ("1-2.x9", "1-2.x9"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(HostName::parse(text).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn hostile_host_names_are_refused() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(63).as_str(); 4].join(".") + ".b";
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "-a",
            "a-",
            "a b",
            "a\nb",
            "127.0.0.1 evil\n1.2.3.4 bank.example",
            "a#b",
            "a_b",
            "bücher",
            "a\0",
            "10.0.0.1",
            long_label.as_str(),
            long_name.as_str(),
        ] {
            assert!(HostName::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn plain_names_are_safe_in_paths_and_arguments() {
        for text in ["", "-x", "A", "a/b", "..", "a,b", "a b", "a=b", "é"] {
            assert!(ShareName::parse(text).is_err(), "{text:?} was accepted");
        }
        assert_eq!(GuestName::parse("dev-2").unwrap().as_str(), "dev-2");
    }

    #[test]
    fn within_respects_label_borders() {
        let domain = HostName::parse("test").unwrap();
        assert!(HostName::parse("a.test").unwrap().is_within(&domain));
        assert!(domain.is_within(&domain));
        assert!(!HostName::parse("atest").unwrap().is_within(&domain));
    }
}
