//! `docs/config.toml` against the program: every value in it is the built-in default,
//! every key of the schema is in it, and every example behind `#` is accepted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use control::config::{Config, Surroundings};

const REFERENCE: &str = include_str!("../../docs/config.toml");

fn parse(text: &str) -> Config {
    let surroundings = Surroundings {
        home: Some(PathBuf::from("/home/ann")),
        uid: 1000,
        gid: 1000,
        machine: Some("4d31f0a2c0de4b0f9f6c3d2e1a0b9c8d".to_owned()),
        drives: Default::default(),
    };
    Config::parse(text, Path::new("docs/config.toml"), &surroundings)
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// A line that is a key behind "# ", and its table.
fn examples() -> Vec<(String, String)> {
    let mut table = String::new();
    let mut found = Vec::new();
    for line in REFERENCE.lines() {
        if line.starts_with('[') {
            table = line.to_owned();
        }
        let Some(code) = line.strip_prefix("# ") else {
            continue;
        };
        let key = code.split(" = ").next().unwrap_or_default();
        let is_key = code.contains(" = ")
            && key
                .trim_matches('"')
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c));
        if is_key {
            found.push((table.clone(), code.to_owned()));
        }
    }
    found
}

#[test]
fn leaving_every_key_out_is_the_same() {
    let written = parse(REFERENCE);
    let empty = parse("");
    assert_eq!(written.networks, empty.networks);
    assert_eq!(written.hosts, empty.hosts);
    let mut least = parse("[guest.dev]\n[share.src]\npath = \"~/src\"\n");
    assert_eq!(written.guests, least.guests);
    for (name, share) in &mut least.shares {
        share.line = written.shares[name].line;
    }
    assert_eq!(written.shares, least.shares);
}

#[test]
fn every_example_is_accepted_and_changes_something() {
    let plain = parse(REFERENCE);
    let examples = examples();
    assert!(!examples.is_empty());
    for (table, code) in examples {
        if code.starts_with("interface = ") {
            // Only for bridged networks, which have few other keys.
            let bridged = "[network.vmnet0]\n";
            assert_ne!(parse(&format!("{bridged}{code}\n")), parse(bridged));
            continue;
        }
        let with = REFERENCE.replace(&format!("\n# {code}\n"), &format!("\n{code}\n"));
        assert_ne!(with, REFERENCE, "{code}");
        assert_ne!(parse(&with), plain, "{code} in {table}");
    }
}

#[test]
fn every_key_of_the_schema_is_written_in_its_table_and_no_other() {
    let schema = control::config::schema();
    let definitions = &schema["$defs"];
    let keys_of = |definition: &str| -> BTreeSet<String> {
        let properties = definitions[definition]["properties"].as_object().unwrap();
        properties.keys().cloned().collect()
    };
    for (table, definition, inner) in [
        // The last ones are keys that are tables of their own.
        (
            "[network.vmnet8]",
            "RawNetwork",
            &["dns-rules", "records", "services"][..],
        ),
        ("[guest.dev]", "RawGuest", &["mounts"]),
        ("[share.src]", "RawShare", &[]),
        ("[hosts]", "RawHosts", &["source", "static"]),
    ] {
        let start = REFERENCE.find(&format!("\n{table}\n")).unwrap() + table.len() + 2;
        let section = REFERENCE[start..].split("\n[").next().unwrap();
        let mut written: BTreeSet<String> = section
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()))
            .collect();
        let commented = examples().into_iter().filter(|(place, _)| place == table);
        written.extend(commented.map(|(_, code)| code.split(" = ").next().unwrap().to_owned()));
        for key in inner {
            let table = table.trim_end_matches(']');
            assert!(REFERENCE.contains(&format!("\n{table}.{key}]\n")), "{key}");
            written.insert((*key).to_owned());
        }
        assert_eq!(written, keys_of(definition), "{table}");
    }
    let tables = schema["properties"].as_object().unwrap();
    let tables: Vec<&str> = tables.keys().map(String::as_str).collect();
    assert_eq!(tables, ["guest", "hosts", "network", "share"]);
}
