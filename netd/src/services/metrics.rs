//! Counters as Prometheus text (exposition format 0.0.4): `netd_*`, with the network as a label.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::services::network::RunningNetwork;
use crate::services::state::State;

/// Name to lines; a name's lines must stand together.
type Families = BTreeMap<String, (&'static str, Vec<String>)>;

/// The whole page.
pub async fn page(state: &State) -> String {
    let mut families = Families::new();
    for network in state.networks() {
        collect(&network, &mut families).await;
    }
    let newest = state.events.newest();
    families.insert(
        "netd_events_total".to_owned(),
        ("counter", vec![newest.to_string()]),
    );
    let mut page = String::new();
    for (name, (kind, lines)) in families {
        // Writing to a String cannot fail.
        writeln!(page, "# TYPE {name} {kind}").ok();
        for line in lines {
            let gap = if line.starts_with('{') { "" } else { " " };
            writeln!(page, "{name}{gap}{line}").ok();
        }
    }
    page
}

/// All numbers of one network by name, as in `GET /v1/networks`.
pub async fn counters(network: &RunningNetwork) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut add = |name: &str, value: u64| {
        found.insert(name.to_owned(), value);
    };
    if let Ok(snapshot) = network.snapshot().await {
        for (name, value) in snapshot.counters.entries() {
            add(name, value);
        }
        add("tcp_flows", snapshot.tcp_flows as u64);
        add("udp_mapped", snapshot.udp_mappings as u64);
        add("buffered_bytes", snapshot.buffered_bytes as u64);
        add("links", snapshot.links.len() as u64);
    }
    if let Ok(view) = network.services().await {
        for (name, value) in view.dhcp.entries() {
            add(&format!("dhcp_{name}"), value);
        }
        add("leases_offered", view.counts.offered as u64);
        add("leases_bound", view.counts.bound as u64);
        add("leases_declined", view.counts.declined as u64);
        add("leases_free", view.counts.free as u64);
    }
    let dns = network.resolver().counters();
    add("dns_forwarded", dns.forwarded);
    add("dns_cached", dns.cached);
    add("dns_failed", dns.failed);
    add("dns_crowded", dns.crowded);
    add("dns_cache_entries", dns.cache_entries);
    found
}

/// What goes up and down; everything else only goes up.
const GAUGES: [&str; 9] = [
    "tcp_flows",
    "udp_mapped",
    "buffered_bytes",
    "links",
    "leases_offered",
    "leases_bound",
    "leases_declined",
    "leases_free",
    "dns_cache_entries",
];

async fn collect(network: &RunningNetwork, families: &mut Families) {
    let name = network.name();
    for (counter, value) in counters(network).await {
        let gauge = GAUGES.contains(&counter.as_str());
        let (kind, ending) = if gauge {
            ("gauge", "")
        } else {
            ("counter", "_total")
        };
        let family = families
            .entry(format!("netd_{counter}{ending}"))
            .or_insert((kind, Vec::new()));
        family.1.push(format!("{{network=\"{name}\"}} {value}"));
    }
    let Ok(snapshot) = network.snapshot().await else {
        return;
    };
    for link in &snapshot.links {
        // Guest names have no character that needs escaping.
        let guest = link.guest.as_ref().map_or("", |guest| guest.as_str());
        for (counter, value) in link.counters.entries() {
            let family = families
                .entry(format!("netd_link_{counter}_total"))
                .or_insert(("counter", Vec::new()));
            let labels = format!(
                "network=\"{name}\",link=\"{}\",guest=\"{guest}\"",
                link.link.0
            );
            family.1.push(format!("{{{labels}}} {value}"));
        }
    }
}
