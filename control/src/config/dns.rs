//! What the file says of DNS beside the guests' own names: records, and who answers for which domain.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::names::{HostName, NameError};

/// DNS of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DnsSettings {
    /// Domains that others than [`super::Network::dns`] answer for; the longest that fits is taken.
    pub rules: BTreeMap<HostName, Vec<SocketAddr>>,
    /// Names of the file's own.
    pub records: BTreeMap<RecordName, RecordData>,
    /// Whether names of the host's /etc/hosts are answered.
    pub host_names: bool,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            rules: BTreeMap::new(),
            records: BTreeMap::new(),
            host_names: true,
        }
    }
}

/// `api.test`, or `*.apps.test` for every name below `apps.test`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordName {
    /// The name, without the star.
    pub name: HostName,
    /// Every name below it, and not the name itself.
    pub below: bool,
}

impl RecordName {
    /// Checks `text`.
    ///
    /// # Errors
    /// As [`HostName::parse`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (text, below) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        HostName::parse(text).map(|name| Self { name, below })
    }
}

impl std::str::FromStr for RecordName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.below { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

impl Serialize for RecordName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for RecordName {
    fn schema_name() -> Cow<'static, str> {
        "RecordName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A host name, or `*.NAME` for every name below it.",
        })
    }
}

/// What stands behind a record's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RecordData {
    /// A and AAAA.
    Addresses(Vec<IpAddr>),
    /// CNAME.
    Alias(HostName),
}
