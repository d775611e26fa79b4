//! Services of the host that guests find on host.internal: `[network.NAME.services]`.

use std::collections::BTreeMap;

use super::super::problem::Findings;
use super::super::raw::{At, Table};
use super::read;
use crate::port::Endpoint;

pub(super) fn services(
    raw: &Table<At<String>>,
    owner: &str,
    findings: &mut Findings<'_>,
) -> BTreeMap<u16, Endpoint> {
    let mut services = BTreeMap::new();
    for (key, text) in raw {
        let port = key.value().parse().ok().filter(|port| *port != 0);
        let Some(port): Option<u16> = port else {
            let message = format!(
                "{owner}: services: \"{}\" is not a port between 1 and 65535",
                key.value().escape_debug()
            );
            let hint = "write it like \"2375\" = \"unix:/run/user/1000/docker.sock\"";
            findings.add(Some(key.offset()), message, hint);
            continue;
        };
        let name = format!("services.{port}");
        let Some(endpoint) = read::<Endpoint>(findings, owner, &name, text) else {
            continue;
        };
        match &endpoint {
            Endpoint::Address(address)
                if address.ip().is_unspecified() || address.ip().is_multicast() =>
            {
                findings.add(
                    Some(text.offset()),
                    format!("{owner}: {name}: {} names no host", address.ip()),
                    "for the host itself write 127.0.0.1 or [::1]",
                );
            }
            Endpoint::Address(_) | Endpoint::Unix(_) => {
                services.insert(port, endpoint);
            }
        }
    }
    services
}
