//! What is counted here, by network and link. See `control::metrics` for the format.

use std::collections::BTreeMap;

use control::metrics::{Kind, Page};

use crate::datapath::Snapshot;
use crate::services::network::{RunningNetwork, ServicesView};
use crate::services::state::State;

/// One number of a network.
struct Number {
    kind: Kind,
    name: String,
    help: &'static str,
    value: u64,
}

/// The whole page.
pub async fn page(state: &State) -> String {
    let mut page = Page::new("netd", env!("CARGO_PKG_VERSION"), state.events.newest());
    for network in state.networks() {
        let (snapshot, view) = look(&network).await;
        let name = network.name().as_str();
        for number in numbers(&network, snapshot.as_ref(), view.as_ref()) {
            let family = (number.kind, number.name.as_str(), number.help);
            page.add(family, &[("network", name)], number.value);
        }
        for link in snapshot.iter().flat_map(|snapshot| &snapshot.links) {
            let guest = link.guest.as_ref().map_or("", |guest| guest.as_str());
            let number = link.link.0.to_string();
            let labels = [("network", name), ("link", &number), ("guest", guest)];
            for (counter, help, value) in link.counters.described() {
                let counter = format!("link_{counter}");
                page.add((Kind::Counter, &counter, help), &labels, value);
            }
        }
    }
    page.finish()
}

/// All numbers of one network by name, as in `GET /v1/networks`.
pub async fn counters(network: &RunningNetwork) -> BTreeMap<String, u64> {
    let (snapshot, view) = look(network).await;
    numbers(network, snapshot.as_ref(), view.as_ref())
        .into_iter()
        .map(|number| (number.name, number.value))
        .collect()
}

async fn look(network: &RunningNetwork) -> (Option<Snapshot>, Option<ServicesView>) {
    (network.snapshot().await.ok(), network.services().await.ok())
}

fn numbers(
    network: &RunningNetwork,
    snapshot: Option<&Snapshot>,
    view: Option<&ServicesView>,
) -> Vec<Number> {
    let mut found = Vec::new();
    let mut add = |kind, name: &str, help, value| {
        found.push(Number {
            kind,
            name: name.to_owned(),
            help,
            value,
        });
    };
    use Kind::{Counter, Gauge};
    if let Some(snapshot) = snapshot {
        for (name, help, value) in snapshot.counters.described() {
            add(Counter, name, help, value);
        }
        let (flows, mappings) = (snapshot.tcp_flows as u64, snapshot.udp_mappings as u64);
        let (buffered, links) = (snapshot.buffered_bytes as u64, snapshot.links.len() as u64);
        add(Gauge, "tcp_flows", "TCP flows there are.", flows);
        add(Gauge, "udp_mapped", "UDP mappings there are.", mappings);
        add(
            Gauge,
            "buffered_bytes",
            "Payload bytes resting in buffers.",
            buffered,
        );
        add(Gauge, "links", "Links in use.", links);
    }
    if let Some(view) = view {
        for (name, help, value) in view.dhcp.described() {
            add(Counter, &format!("dhcp_{name}"), help, value);
        }
        for (name, help, value) in view.dhcp6.described() {
            add(Counter, &format!("dhcp6_{name}"), help, value);
        }
        let counts = &view.counts;
        add(
            Gauge,
            "leases_ipv6",
            "IPv6 addresses leased.",
            counts.ipv6 as u64,
        );
        add(
            Gauge,
            "leases_offered",
            "Addresses offered and not yet taken.",
            counts.offered as u64,
        );
        add(
            Gauge,
            "leases_bound",
            "Addresses leased.",
            counts.bound as u64,
        );
        add(
            Gauge,
            "leases_declined",
            "Addresses that a client found in use.",
            counts.declined as u64,
        );
        add(
            Gauge,
            "leases_free",
            "Addresses of the pool that are free.",
            counts.free as u64,
        );
    }
    let dns = network.resolver().counters();
    add(
        Counter,
        "dns_forwarded",
        "DNS queries passed on.",
        dns.forwarded,
    );
    add(
        Counter,
        "dns_cached",
        "DNS queries answered from the cache.",
        dns.cached,
    );
    add(
        Counter,
        "dns_failed",
        "DNS queries that nobody answered.",
        dns.failed,
    );
    add(
        Counter,
        "dns_crowded",
        "DNS queries refused because too many waited.",
        dns.crowded,
    );
    add(
        Counter,
        "dns_joined",
        "DNS queries that waited for the answer to the same question.",
        dns.joined,
    );
    add(
        Counter,
        "dns_asked",
        "Questions sent to resolvers.",
        dns.asked,
    );
    add(
        Counter,
        "dns_forged",
        "Datagrams that answered another question than ours.",
        dns.forged,
    );
    add(
        Gauge,
        "dns_cache_entries",
        "DNS answers kept.",
        dns.cache_entries,
    );
    found
}
