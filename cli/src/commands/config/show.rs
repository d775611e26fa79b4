//! `sharectl config show`: what the file means, with every default filled in.

use std::net::SocketAddr;
use std::time::Duration;

use control::config::{
    CachePolicy, CaseRule, Config, Devices, Guest, HostsFile, NameRule, Network, NetworkKind,
    Owner, OwnerStore, Share,
};
use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use crate::context::Context;
use crate::edit::{Draft, document};
use crate::error::Outcome;

/// Show the configuration as it takes effect, with defaults filled in
///
/// What is printed is a configuration file itself. With --format json the same
/// in the words of the control protocol.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl config show\n  sharectl config show --origin")]
pub(crate) struct Args {
    /// Say behind each value whether the file has it or it is built in
    #[arg(long)]
    origin: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    if context.out.is_json() {
        return context.out.json(&config);
    }
    let mut shown = as_document(&config)?;
    if args.origin {
        let written = Draft::open(&context.paths.config)?.document;
        let file = context.paths.config.display().to_string();
        mark(shown.as_table_mut(), Some(written.as_table()), &file);
    }
    context.out.text(&shown.to_string())
}

/// The whole configuration in the file's own words.
fn as_document(config: &Config) -> Outcome<DocumentMut> {
    let mut shown = DocumentMut::new();
    for network in config.networks.values() {
        document::add_entry(
            &mut shown,
            "network",
            network.name.as_str(),
            network_fields(network),
        )?;
    }
    for guest in config.guests.values() {
        document::add_entry(
            &mut shown,
            "guest",
            guest.name.as_str(),
            guest_fields(guest),
        )?;
    }
    for share in config.shares.values() {
        document::add_entry(
            &mut shown,
            "share",
            share.name.as_str(),
            share_fields(share),
        )?;
    }
    let files = config.hosts.files.iter().map(|file| match file {
        HostsFile::Auto => "auto".to_owned(),
        HostsFile::Windows => "windows".to_owned(),
        HostsFile::Path(path) => path.display().to_string(),
    });
    document::set_value(&mut shown, &["hosts"], "files", texts(files))?;
    let windows = config.hosts.windows_address.to_string();
    document::set_value(&mut shown, &["hosts"], "windows-address", windows)?;
    for (name, address) in &config.hosts.entries {
        document::set_value(
            &mut shown,
            &["hosts", "static"],
            name.as_str(),
            address.to_string(),
        )?;
    }
    Ok(shown)
}

fn texts<T: ToString>(values: impl IntoIterator<Item = T>) -> Value {
    Value::Array(
        values
            .into_iter()
            .map(|value| value.to_string())
            .collect::<Array>(),
    )
}

fn network_fields(network: &Network) -> Vec<(&'static str, Value)> {
    let interface = network
        .interface
        .as_ref()
        .map(|interface| ("interface", interface.into()));
    if network.kind == NetworkKind::Bridged {
        let mut fields = vec![("type", network.kind.to_string().into())];
        fields.extend(interface);
        fields.push(("domain", network.domain.to_string().into()));
        fields.extend(network.mtu.map(|mtu| ("mtu", i64::from(mtu).into())));
        fields.extend(listen(network));
        return fields;
    }
    let mut fields = vec![
        ("type", network.kind.to_string().into()),
        ("host-access", network.host_access.to_string().into()),
        ("subnet", network.subnet.to_string().into()),
        (
            "ipv6",
            network
                .ipv6
                .map_or_else(|| "off".into(), |prefix| prefix.to_string().into()),
        ),
        ("domain", network.domain.to_string().into()),
        (
            "mtu",
            network
                .mtu
                .map_or_else(|| "auto".into(), |mtu| i64::from(mtu).into()),
        ),
        ("host-loopback", network.host_loopback.into()),
        ("lease-time", duration(network.lease_time).into()),
    ];
    if !network.dns.is_empty() {
        fields.push(("dns", texts(network.dns.iter().map(SocketAddr::to_string))));
    }
    for (key, values) in [
        ("ntp", texts(&network.ntp)),
        ("routes", texts(&network.routes)),
        ("search", texts(&network.search)),
    ] {
        if values.as_array().is_some_and(|values| !values.is_empty()) {
            fields.push((key, values));
        }
    }
    fields.extend(listen(network));
    fields
}

fn listen(network: &Network) -> Option<(&'static str, Value)> {
    let address = network.listen?;
    Some(("listen", address.to_string().into()))
}

fn guest_fields(guest: &Guest) -> Vec<(&'static str, Value)> {
    let mut fields = vec![
        ("network", guest.network.to_string().into()),
        ("mac", guest.mac.to_string().into()),
    ];
    fields.extend(
        guest
            .address
            .map(|address| ("address", address.to_string().into())),
    );
    fields.push(("host-address", guest.host_address.to_string().into()));
    let devices = Devices::ALL
        .iter()
        .find(|(_, devices)| *devices == guest.devices);
    fields.extend(devices.map(|(word, _)| ("devices", (*word).into())));
    fields.push(("names", texts(&guest.names)));
    fields.push(("publish", texts(&guest.publish)));
    fields
}

fn share_fields(share: &Share) -> Vec<(&'static str, Value)> {
    let mut fields = vec![
        ("path", share.path.display().to_string().into()),
        ("at", share.at.display().to_string().into()),
        ("read-only", share.read_only.into()),
    ];
    for (key, patterns) in [
        ("exclude", &share.exclude),
        ("read-only-paths", &share.read_only_paths),
    ] {
        if !patterns.is_empty() {
            fields.push((key, texts(patterns)));
        }
    }
    fields.push(("names", word(&NameRule::WORDS, share.names).into()));
    fields.push(("case", word(&CaseRule::WORDS, share.case).into()));
    fields.extend(
        share
            .guests
            .as_ref()
            .map(|guests| ("guests", texts(guests))),
    );
    let (owner, ids) = match share.owner {
        Owner::Map { uid, gid } => ("map", Some((uid, gid))),
        Owner::Squash { uid, gid } => ("squash", Some((uid, gid))),
        Owner::Pass => ("pass", None),
    };
    fields.push(("owner", owner.into()));
    fields.extend(ids.map(|(uid, gid)| ("guest-owner", format!("{uid}:{gid}").into())));
    let store = word(&OwnerStore::WORDS, share.owner_store);
    fields.push(("owner-store", store.into()));
    fields.push(("acl", share.acl.into()));
    fields.push(("writeback", share.writeback.into()));
    let cache = match share.cache {
        CachePolicy::Never => "never",
        CachePolicy::Auto => "auto",
        CachePolicy::Always => "always",
    };
    fields.push(("cache", cache.into()));
    fields
}

/// The word that a choice has in the file.
fn word<T: PartialEq>(words: &[(&'static str, T)], chosen: T) -> &'static str {
    let found = words.iter().find(|(_, choice)| *choice == chosen);
    found.map_or("", |(word, _)| word)
}

/// In the largest unit that is exact.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    for (unit, length) in [("d", 24 * 3600), ("h", 3600), ("m", 60)] {
        if seconds > 0 && seconds.is_multiple_of(length) {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}

fn mark(shown: &mut dyn TableLike, written: Option<&dyn TableLike>, file: &str) {
    for (key, item) in shown.iter_mut() {
        let there = written.and_then(|table| table.get(key.get()));
        match item {
            Item::Value(value) => {
                let origin = if there.is_some() { file } else { "built in" };
                value.decor_mut().set_suffix(format!("  # {origin}"));
            }
            Item::Table(table) => mark(table, there.and_then(Item::as_table_like), file),
            Item::None | Item::ArrayOfTables(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use control::config::Surroundings;

    use super::*;

    #[test]
    fn what_is_shown_means_the_same() {
        let surroundings = Surroundings {
            home: Some("/home/ann".into()),
            uid: 1000,
            gid: 1000,
            machine: Some("4d31f0a2c0de4b0f9f6c3d2e1a0b9c8d".to_owned()),
            drives: Default::default(),
        };
        let parse = |text: &str| Config::parse(text, Path::new("c.toml"), &surroundings).unwrap();
        let text = r#"
            [network.vmnet8]
            mtu = 1500
            lease-time = "90m"
            dns = ["9.9.9.9"]
            ntp = ["192.168.130.9", "fd00::9"]
            routes = ["10.8.0.0/16 via 192.168.130.9"]
            search = ["corp.example"]
            listen = "127.0.0.1:4000"
            [network.vmnet1]
            type = "host-only"
            [guest.dev]
            network = "vmnet8"
            devices = "each"
            names = ["local.test"]
            publish = ["8080:80", "127.0.0.1:5353:53/udp"]
            [share.d]
            path = "~/d"
            guests = ["dev"]
            owner = "squash"
            guest-owner = "5:6"
            cache = "never"
            exclude = ["node_modules", "!a[b]/"]
            read-only-paths = ["config/**"]
            names = "windows"
            case = "insensitive"
            owner-store = "xattr"
            [hosts]
            files = ["auto", "/tmp/hosts"]
            [hosts.static]
            "nas.test" = "192.168.1.5"
        "#;
        for text in [text, ""] {
            let mut config = parse(text);
            let shown = as_document(&config).unwrap().to_string();
            let mut again = parse(&shown);
            // Only the lines differ.
            for config in [&mut config, &mut again] {
                config.shares.values_mut().for_each(|share| share.line = 0);
            }
            assert_eq!(again, config, "{shown}");
        }
    }

    #[test]
    fn durations_take_the_largest_exact_unit() {
        for (seconds, text) in [(90, "90s"), (120, "2m"), (43_200, "12h"), (86_400, "1d")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
