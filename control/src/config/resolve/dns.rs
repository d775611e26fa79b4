//! DNS of a network: records and split rules.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::problem::Findings;
use super::super::raw::{At, RawNetwork, Texts};
use super::super::{DnsSettings, RecordData, RecordName};
use super::networks::read_resolver;
use super::{is_reserved, read};
use crate::names::HostName;

pub(super) fn dns(raw: &RawNetwork, owner: &str, findings: &mut Findings<'_>) -> DnsSettings {
    let mut settings = DnsSettings {
        host_names: raw.host_names.unwrap_or(true),
        ..DnsSettings::default()
    };
    for (key, servers) in &raw.dns_rules {
        let Some(domain) = read::<HostName>(findings, owner, "dns-rules", key) else {
            continue;
        };
        let texts = servers.value().list();
        if texts.is_empty() {
            findings.add(
                Some(servers.offset()),
                format!("{owner}: dns-rules: \"{domain}\" names no resolver"),
                "write it like \"corp.example\" = [\"10.1.1.1\"], or remove it",
            );
        }
        let place = (
            format!("{owner}: dns-rules: \"{domain}\""),
            servers.offset(),
        );
        let servers = texts
            .iter()
            .filter_map(|text| read_resolver(findings, &place, text));
        settings.rules.insert(domain, servers.collect());
    }
    settings.records = records(raw, owner, findings);
    settings
}

fn records(
    raw: &RawNetwork,
    owner: &str,
    findings: &mut Findings<'_>,
) -> BTreeMap<RecordName, RecordData> {
    let mut records = BTreeMap::new();
    for (key, value) in &raw.records {
        let Some(name) = read::<RecordName>(findings, owner, "records", key) else {
            continue;
        };
        if is_reserved(&name.name) || name.name.as_str() == "gateway.internal" {
            findings.add(
                Some(key.offset()),
                format!("{owner}: records: the name {name} has a fixed meaning"),
                "choose another, e.g. one under .test",
            );
        }
        if let Some(data) = record_data(value, owner, &name, findings) {
            records.insert(name, data);
        }
    }
    records
}

fn record_data(
    value: &At<Texts>,
    owner: &str,
    name: &RecordName,
    findings: &mut Findings<'_>,
) -> Option<RecordData> {
    let texts = value.value().list();
    if let [text] = texts
        && text.parse::<IpAddr>().is_err()
        && let Ok(target) = HostName::parse(text)
        && (name.below || target != name.name)
    {
        return Some(RecordData::Alias(target));
    }
    let addresses: Result<Vec<IpAddr>, _> = texts.iter().map(|text| text.parse()).collect();
    match addresses {
        Ok(addresses) if !addresses.is_empty() => Some(RecordData::Addresses(addresses)),
        Ok(_) | Err(_) => {
            let shown: Vec<String> = texts
                .iter()
                .map(|text| format!("\"{}\"", text.escape_debug()))
                .collect();
            findings.add(
                Some(value.offset()),
                format!(
                    "{owner}: records: {name} cannot be {}",
                    if shown.is_empty() {
                        "nothing".to_owned()
                    } else {
                        shown.join(" and ")
                    }
                ),
                "write an address, a list of addresses, or one other name",
            );
            None
        }
    }
}
