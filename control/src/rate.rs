//! How fast a guest may send and receive: `100Mbit/s`.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

/// Below this a guest cannot even be told what is wrong.
const SLOWEST: u64 = 64_000;
/// Above this nothing is limited.
const FASTEST: u64 = 1_000_000_000_000;
const UNITS: [(&str, u64); 4] = [
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1_000),
    ("bit/s", 1),
];

/// Bits of payload a second, 64 kbit/s to 1000 Gbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate(u64);

/// Why a text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a rate from 64kbit/s to 1000Gbit/s, e.g. \"100Mbit/s\" or \"1.5Gbit/s\"")]
pub struct RateError(String);

impl BitRate {
    /// In bytes a second.
    #[must_use]
    pub fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }
}

impl FromStr for BitRate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let bad = || RateError(text.escape_debug().to_string());
        let unit = UNITS.iter().find_map(|(unit, factor)| {
            let number = text.strip_suffix(unit)?;
            Some((number.trim_end_matches(' '), *factor))
        });
        let (number, factor) = unit.ok_or_else(bad)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| {
            let good = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            good.then(|| text.parse::<u64>().ok()).flatten()
        };
        let (whole, fraction) = (
            digits(whole).ok_or_else(bad)?,
            digits(part).ok_or_else(bad)?,
        );
        let scale = 10_u128.pow(u32::try_from(part.len()).map_err(|_| bad())?);
        let bits = u128::from(whole) * u128::from(factor)
            + u128::from(fraction) * u128::from(factor) / scale;
        let bits = u64::try_from(bits).map_err(|_| bad())?;
        if (SLOWEST..=FASTEST).contains(&bits) {
            Ok(Self(bits))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS
            .into_iter()
            .find(|(_, factor)| {
                self.0 >= *factor && self.0.is_multiple_of((*factor / 1_000).max(1))
            })
            .unwrap_or(("bit/s", 1));
        let (whole, rest) = (self.0 / factor, self.0 % factor);
        if rest == 0 {
            return write!(f, "{whole}{unit}");
        }
        let fraction = format!("{:03}", rest / (factor / 1_000).max(1));
        write!(f, "{whole}.{}{unit}", fraction.trim_end_matches('0'))
    }
}

impl Serialize for BitRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A guest's limits; none: as fast as it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RateLimit {
    /// From the guest.
    #[schemars(with = "Option<String>")]
    pub up: Option<BitRate>,
    /// To the guest.
    #[schemars(with = "Option<String>")]
    pub down: Option<BitRate>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_and_are_shown_as_they_read() {
        for (text, bits, shown) in [
            ("100Mbit/s", 100_000_000, "100Mbit/s"),
            ("100 Mbit/s", 100_000_000, "100Mbit/s"),
            ("1.5Gbit/s", 1_500_000_000, "1.5Gbit/s"),
            ("64kbit/s", 64_000, "64kbit/s"),
            ("64001bit/s", 64_001, "64.001kbit/s"),
            ("1000Gbit/s", 1_000_000_000_000, "1000Gbit/s"),
            ("1.25Mbit/s", 1_250_000, "1.25Mbit/s"),
        ] {
            let rate: BitRate = text.parse().unwrap();
            assert_eq!((rate.0, rate.to_string().as_str()), (bits, shown), "{text}");
            assert_eq!(shown.parse(), Ok(rate));
        }
    }

    #[test]
    fn other_texts_are_refused_with_their_value() {
        for text in [
            "",
            "100",
            "Mbit/s",
            "100MB/s",
            "63kbit/s",
            "1001Gbit/s",
            "-5Mbit/s",
            "1e9bit/s",
            "1.Mbit/s",
            ".5Mbit/s",
            "1..5Mbit/s",
            "99999999999999999999Gbit/s",
            "é/s",
        ] {
            let error = text.parse::<BitRate>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("\"{text}\"")), "{error}");
        }
    }
}
