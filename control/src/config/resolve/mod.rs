//! From the text to checked values: each rule of the file in one place.

mod bridged;
mod dhcp;
mod dns;
mod egress;
mod guest_mounts;
mod guests;
mod hosts;
mod ipv6;
mod mounts;
mod networks;
mod paths;
mod projects;
mod services;
mod shares;
mod sources;

use std::str::FromStr;

use super::problem::{Findings, Problem};
use super::raw::{At, RawConfig};
use super::{Config, Surroundings, Texts};
use crate::names::HostName;

pub(in crate::config) fn resolve(
    texts: &Texts,
    surroundings: &Surroundings,
) -> Result<Config, Vec<Problem>> {
    let (whole, parts) = projects::join(texts);
    let text = texts.main.as_deref().unwrap_or_default();
    let mut findings = Findings::new(&whole);
    parts.into_iter().for_each(|part| findings.begin(part));
    let raw: RawConfig = match toml::from_str(text) {
        Ok(raw) => raw,
        Err(error) => {
            let hint = "sharectl config schema, or docs/config.toml, lists every key";
            findings.add(error.span().map(|s| s.start), error.message().trim(), hint);
            return Err(findings.finish());
        }
    };
    let projects = projects::read(texts, &mut findings);
    let networks = networks::networks(&raw, surroundings, &mut findings);
    let around = (&projects[..], surroundings);
    let guests = guests::guests(&raw, &networks, around, &mut findings);
    let shares = shares::shares(&raw, &guests, around, &mut findings);
    guest_mounts::check(&raw, &guests, &shares, &mut findings);
    let hosts = hosts::hosts(&raw.hosts, &guests, surroundings, &mut findings);
    let accepted = projects::accepted(&projects, &guests, &shares);
    let config = Config {
        networks,
        guests,
        shares,
        hosts,
        projects: accepted,
    };
    let problems = findings.finish();
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}

/// Reads one value with its own parser; a failure becomes a finding at its place.
pub(super) fn read<T>(
    findings: &mut Findings<'_>,
    owner: &str,
    key: &str,
    raw: &At<String>,
) -> Option<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    match raw.value().parse() {
        Ok(value) => Some(value),
        Err(error) => {
            findings.add(Some(raw.offset()), format!("{owner}: {key}: {error}"), "");
            None
        }
    }
}

/// Reads an address, whose own parser says neither the value nor the form.
pub(super) fn read_address<T: FromStr>(
    findings: &mut Findings<'_>,
    (owner, key): (&str, &str),
    raw: &At<String>,
    example: &str,
) -> Option<T> {
    let address = raw.value().parse().ok();
    if address.is_none() {
        findings.add(
            Some(raw.offset()),
            format!(
                "{owner}: {key} \"{}\" is not an address",
                raw.value().escape_debug()
            ),
            format!("write it like \"{example}\""),
        );
    }
    address
}

/// One word out of a closed list.
pub(super) fn read_word<T: Copy>(
    findings: &mut Findings<'_>,
    (owner, key): (&str, &str),
    raw: &At<String>,
    words: &[(&str, T)],
) -> Option<T> {
    let found = words.iter().find(|(word, _)| word == raw.value());
    if found.is_none() {
        let known: Vec<_> = words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        findings.add(
            Some(raw.offset()),
            format!(
                "{owner}: {key} = \"{}\" is not known",
                raw.value().escape_debug()
            ),
            format!("write one of {}", known.join(", ")),
        );
    }
    found.map(|(_, value)| *value)
}

/// Names that must keep their meaning on every machine (RFC 6761 section 6.3).
pub(super) fn is_reserved(name: &HostName) -> bool {
    let text = name.as_str();
    text == "localhost"
        || text.ends_with(".localhost")
        || text.starts_with("localhost.")
        || text == "host.internal"
}
