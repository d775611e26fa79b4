//! One round without a daemon: `sharectl-hostsync sync|diff|clear`.
//!
//! It is how root writes `/etc/hosts` for a user whose daemon may not: root has its own
//! runtime folder, so the user's netd is out of its sight; then the configuration's guests
//! are the source, whose addresses on the host follow from the file alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use control::api::{Changes, HostsDiff};
use control::client::Client;
use control::config::{Config, HostsSource, SourceKind};
use control::names::HostName;
use control::paths::Daemon as Kind;

use crate::daemon::{Options, addresses, reserved};
use crate::files::{self, FileReport};
use crate::sources::added::Added;
use crate::sources::engine::Engine;
use crate::sources::follow::LeaseFile;
use crate::sources::{config, netd};
use crate::table::{self, Fact};

/// The names that should stand now.
pub async fn wanted(
    options: &Options,
    config: &Config,
    now: SystemTime,
) -> BTreeMap<HostName, IpAddr> {
    let mut facts = config::static_facts(config);
    let added: Added = Added::shelf(&options.state()).load();
    facts.extend_from_slice(added.facts());
    for source in config.hosts.sources.values().filter(|s| s.enabled) {
        facts.extend(read(options, config, source, now).await);
    }
    addresses(&table::decide(
        &facts,
        &config::rules(config, reserved()),
        now,
    ))
}

/// What one source says now; one that cannot be read says nothing, and is told of.
async fn read(
    options: &Options,
    config: &Config,
    source: &HostsSource,
    now: SystemTime,
) -> Vec<Fact> {
    let reading = match source.kind {
        SourceKind::Netd => {
            let client = Client::new(options.paths.control_socket(Kind::Netd));
            return netd::snapshot(&client).await.unwrap_or_else(|failure| {
                let reason = failure.message;
                tracing::debug!(reason, "the guests' names come from the configuration");
                config::guest_facts(config)
            });
        }
        SourceKind::Docker | SourceKind::Podman => match Engine::of(source) {
            Some(engine) => engine.reading().await,
            None => return Vec::new(),
        },
        SourceKind::Dhcpd | SourceKind::Dnsmasq | SourceKind::Libvirt | SourceKind::Bootpd => {
            match LeaseFile::of(source) {
                Some(file) => file.reading(now),
                None => return Vec::new(),
            }
        }
    };
    reading.map_or_else(
        |reason| {
            tracing::warn!(source = %source.name, "{reason}; its names are left out");
            Vec::new()
        },
        |reading| reading.facts,
    )
}

/// Brings every file to `wanted`; with nothing wanted, takes the blocks away.
#[must_use]
pub fn sync(options: &Options, config: &Config, wanted: &BTreeMap<HostName, IpAddr>) -> Changes {
    let keeper = options.keeper();
    let mut changes = Changes::default();
    for file in files::paths(&config.hosts.files) {
        let report = keeper.sync(&file, wanted);
        changes.changes.extend(report.mended());
        changes.changes.extend(report.change());
        changes.problems.extend(report.problem());
        changes.problems.extend(shadowed(&report));
    }
    changes
}

/// The names that a file already gives to somebody else.
fn shadowed(report: &FileReport) -> Vec<String> {
    let say = |left: &crate::section::LeftOut| {
        let file = report.file.display();
        format!(
            "{file}: {} stays as line {} has it ({})",
            left.name, left.line, left.address
        )
    };
    report.left_out.iter().map(say).collect()
}

/// How every file differs from `wanted`.
#[must_use]
pub fn diff(
    options: &Options,
    config: &Config,
    wanted: &BTreeMap<HostName, IpAddr>,
) -> Vec<HostsDiff> {
    let keeper = options.keeper();
    files::paths(&config.hosts.files)
        .iter()
        .map(|file| keeper.diff(file, wanted))
        .collect()
}
