//! gvproxy's DNS routes: `GET /services/dns/all`, `POST /services/dns/add` (gvisor-tap-vsock, pkg/services/dns
//! and pkg/types). A zone is names of its own below one domain; what it does not name there is its default
//! address, or does not exist. Added zones hold on every network until the daemon ends. Patterns (`Regexp`)
//! are not served.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use control::failure::{Failure, FailureKind};
use control::names::HostName;
use control::server::Api;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::dns_names::{Entry, NameTable, Source, Target};
use crate::services::state::State;

/// Names that can be added.
const MOST_RECORDS: usize = 65_536;

/// gvproxy's own field names; it takes them in any spelling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
struct Zone {
    #[serde(rename = "Name", alias = "name")]
    name: String,
    #[serde(rename = "Records", alias = "records", default)]
    records: Option<Vec<Record>>,
    /// Empty: none.
    #[serde(
        rename = "DefaultIP",
        alias = "defaultIP",
        alias = "defaultIp",
        alias = "defaultip",
        default
    )]
    default_address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
struct Record {
    #[serde(rename = "Name", alias = "name", default)]
    name: String,
    #[serde(rename = "IP", alias = "ip", alias = "Ip", default)]
    address: String,
    #[serde(
        rename = "Regexp",
        alias = "regexp",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pattern: Option<String>,
}

/// Zones that were added.
#[derive(Debug, Default)]
pub(super) struct AddedZones(Mutex<(Vec<Zone>, Arc<NameTable>)>);

impl AddedZones {
    /// Their names.
    pub(super) fn table(&self) -> Arc<NameTable> {
        Arc::clone(&self.lock().1)
    }

    fn all(&self) -> Vec<Zone> {
        self.lock().0.clone()
    }

    /// Adds to the zone of the same name, new records first: they win.
    fn add(&self, mut zone: Zone) -> Result<(), Failure> {
        let mut added = self.lock();
        let mut zones = added.0.clone();
        if let Some(known) = zones.iter_mut().find(|known| known.name == zone.name) {
            let mut records = zone.records.take().unwrap_or_default();
            records.extend(known.records.take().unwrap_or_default());
            *known = Zone {
                records: Some(records),
                ..zone
            };
        } else {
            zones.push(zone);
        }
        let records = zones
            .iter()
            .map(|zone| 1 + zone.records.as_ref().map_or(0, Vec::len));
        if records.sum::<usize>() > MOST_RECORDS {
            return Err(Failure::invalid(format!(
                "no more than {MOST_RECORDS} records are kept"
            )));
        }
        let table = table(&zones)?;
        *added = (zones, Arc::new(table));
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<Zone>, Arc<NameTable>)> {
        // Changed whole, or not.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn table(zones: &[Zone]) -> Result<NameTable, Failure> {
    let mut names = NameTable::default();
    for zone in zones {
        let domain = name(&zone.name)?;
        names.own(&domain);
        for record in zone.records.iter().flatten() {
            if record.pattern.is_some() {
                return Err(Failure::new(
                    FailureKind::Unsupported,
                    format!("a pattern (Regexp) of zone {domain} is not served"),
                )
                .with_hint("write the names, or the zone's DefaultIP for all others"));
            }
            let address = address(&record.address)?;
            let name = name(&record.name)?
                .under(&domain)
                .map_err(|error| Failure::invalid(error.to_string()))?;
            names.call(address, &name);
            names.add(&name, entry(address));
        }
        if !zone.default_address.is_empty() {
            names.add_below(&domain, entry(address(&zone.default_address)?));
        }
    }
    Ok(names)
}

fn entry(address: IpAddr) -> Entry {
    Entry {
        target: Target::addresses([address]),
        source: Source::Added,
    }
}

fn name(text: &str) -> Result<HostName, Failure> {
    HostName::parse(text).map_err(|error| Failure::invalid(error.to_string()))
}

fn address(text: &str) -> Result<IpAddr, Failure> {
    text.parse()
        .map_err(|_| Failure::invalid(format!("\"{}\" is not an address", text.escape_debug())))
}

pub(super) fn add_routes(api: Api<Arc<State>>) -> Api<Arc<State>> {
    api.get(
        "/services/dns/all",
        "gvproxy: zones that were added",
        async |state: Arc<State>, _| Ok::<_, Failure>(state.added.all()),
    )
    .post(
        "/services/dns/add",
        "gvproxy: add a zone, or records to it, until netd ends",
        async |state: Arc<State>, _, zone: Zone| {
            state.added.add(zone)?;
            state.feed_names();
            Ok::<_, Failure>(())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dns::encode_name;

    #[test]
    fn zones_grow_as_gvproxys_and_bad_ones_change_nothing() {
        let zones = AddedZones::default();
        let add = |text: &str| zones.add(serde_json::from_str(text).unwrap());
        add(r#"{"Name":"crc.testing.","Records":[{"Name":"host","IP":"192.168.127.254"},{"Name":"api","IP":"192.168.127.2"}]}"#).unwrap();
        add(r#"{"name":"crc.testing.","records":[{"name":"api","ip":"192.168.127.3"}],"defaultIP":"192.168.127.9"}"#).unwrap();
        add(r#"{"Name":"empty.testing.","Records":null,"DefaultIP":""}"#).unwrap();
        for bad in [
            r#"{"Name":"crc.testing.","Records":[{"Regexp":"a.*","IP":"1.2.3.4"}]}"#,
            r#"{"Name":"crc.testing.","Records":[{"Name":"a","IP":"1.2.3"}]}"#,
            r#"{"Name":"a b"}"#,
        ] {
            assert!(add(bad).is_err(), "{bad}");
        }
        let table = zones.table();
        let find = |name: &str| {
            let wire = encode_name(&HostName::parse(name).unwrap());
            let entry = table.find(&wire).or_else(|| table.find_below(&wire));
            entry.map(|entry| entry.target.clone())
        };
        let is = |address: &str| Some(Target::addresses([address.parse().unwrap()]));
        assert_eq!(find("host.crc.testing"), is("192.168.127.254"));
        assert_eq!(find("api.crc.testing"), is("192.168.127.3"));
        assert_eq!(find("x.y.crc.testing"), is("192.168.127.9"));
        assert_eq!(find("crc.testing"), None);
        let shown = serde_json::to_string(&zones.all()[0]).unwrap();
        assert_eq!(
            shown,
            r#"{"Name":"crc.testing.","Records":[{"Name":"api","IP":"192.168.127.3"},{"Name":"host","IP":"192.168.127.254"},{"Name":"api","IP":"192.168.127.2"}],"DefaultIP":"192.168.127.9"}"#
        );
    }
}
