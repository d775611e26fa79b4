//! Ethernet addresses (IEEE 802 EUI-48).

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::GuestName;

/// A unicast or group Ethernet address, six bytes in wire order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// Why a text is not an Ethernet address for a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six octets in hex.
    #[error("\"{0}\" is not an Ethernet address like 52:54:00:12:34:56")]
    Form(String),
    /// A group address cannot belong to one guest (IEEE 802-2014, 8.2).
    #[error("{0} is a group address; the lowest bit of its first octet must be 0")]
    Group(MacAddress),
}

impl MacAddress {
    /// All ones.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The stable address of a guest whose configuration names none: QEMU's
    /// prefix 52:54:00 and 24 bits of a hash of the name.
    #[must_use]
    pub fn derived(guest: &GuestName) -> Self {
        let hash = fnv1a(guest.as_str().as_bytes());
        let [a, b, c, ..] = hash.to_le_bytes();
        Self([0x52, 0x54, 0x00, a, b, c])
    }

    /// Whether the address stands for a group of stations, or all of them.
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

/// FNV-1a, 64 bit: stable from release to release, unlike the standard hasher.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let form = || MacError::Form(text.escape_debug().to_string());
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(form)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(form());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| form())?;
        }
        if parts.next().is_some() {
            return Err(form());
        }
        let mac = Self(octets);
        if mac.is_group() {
            return Err(MacError::Group(mac));
        }
        Ok(mac)
    }
}

impl Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for MacAddress {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MacAddress".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_address_round_trip() {
        let mac: MacAddress = "52:54:00:Ab:cd:01".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:01");
        assert_eq!("52-54-00-ab-cd-01".parse(), Ok(mac));
    }

    #[test]
    fn bad_addresses_are_refused() {
        for text in [
            "",
            "52:54",
            "52:54:00:ab:cd:01:02",
            "5:4:0:a:c:1",
            "zz:54:00:ab:cd:01",
            "+2:54:00:ab:cd:01",
        ] {
            assert!(
                matches!(text.parse::<MacAddress>(), Err(MacError::Form(_))),
                "{text}"
            );
        }
        assert!(matches!(
            "01:00:5e:00:00:01".parse::<MacAddress>(),
            Err(MacError::Group(_))
        ));
    }

    #[test]
    fn derived_address_is_stable() {
        let guest = GuestName::parse("dev").unwrap();
        assert_eq!(MacAddress::derived(&guest), MacAddress::derived(&guest));
        assert_eq!(MacAddress::derived(&guest).0[..3], [0x52, 0x54, 0x00]);
    }
}
