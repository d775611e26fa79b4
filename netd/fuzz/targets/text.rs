//! Texts: the configuration file, words of commands, files of the host, lines of other programs.

use std::path::Path;

use control::config::{Config, Surroundings};
use control::egress::EgressRule;
use control::mac::MacAddress;
use control::names::{GuestName, HostName, NetworkName, ShareName};
use control::port::PortSpec;
use control::rate::BitRate;
use netd::services::{hosts_file, resolv_conf};

/// A configuration: every problem has a message, a right one can be shown as JSON.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let around = Surroundings {
        home: Some("/home/ann".into()),
        uid: 1000,
        gid: 1000,
        ..Surroundings::of_process()
    };
    match Config::parse(text, Path::new("fuzz.toml"), &around) {
        Ok(config) => {
            assert!(!config.networks.is_empty(), "there is always a network");
            serde_json::to_string(&config).expect("a checked configuration can be shown");
        }
        Err(errors) => assert!(!errors.to_string().is_empty(), "an error says something"),
    }
}

/// Anything a person types: what is accepted is written as it is read.
pub(crate) fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    drop(resolv_conf::parse(text));
    drop(hosts_file::parse(text));
    macro_rules! round_trip {
        ($parsed:expr, $again:expr) => {
            if let Ok(value) = $parsed {
                let shown = value.to_string();
                let again = $again(&shown).unwrap_or_else(|error| {
                    panic!("{text:?} was read, its own form {shown:?} was not: {error}")
                });
                assert_eq!(again, value);
            }
        };
    }
    round_trip!(text.parse::<PortSpec>(), |shown: &str| shown
        .parse::<PortSpec>());
    round_trip!(text.parse::<MacAddress>(), |shown: &str| shown
        .parse::<MacAddress>());
    round_trip!(text.parse::<EgressRule>(), |shown: &str| shown
        .parse::<EgressRule>());
    round_trip!(text.parse::<BitRate>(), |shown: &str| shown
        .parse::<BitRate>());
    round_trip!(HostName::parse(text), HostName::parse);
    round_trip!(GuestName::parse(text), GuestName::parse);
    round_trip!(NetworkName::parse(text), NetworkName::parse);
    round_trip!(ShareName::parse(text), ShareName::parse);
}
