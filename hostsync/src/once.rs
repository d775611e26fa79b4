//! One round without a daemon: `sharectl-hostsync sync|diff|clear`, and the files that others mean.
//!
//! It is how root writes `/etc/hosts` for a user whose daemon may not: root has its own
//! runtime folder, so the user's netd is out of its sight; then the configuration's guests
//! are the source, whose addresses on the host follow from the file alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use control::api::{Changes, HostsDiff};
use control::client::Client;
use control::config::{Config, HostsSource, SourceKind};
use control::names::HostName;
use control::paths::Daemon as Kind;

use crate::daemon::{Options, addresses, reserved};
use crate::files::{FileReport, Keeper};
use crate::sources::added::Added;
use crate::sources::engine::Engine;
use crate::sources::follow::LeaseFile;
use crate::sources::{config, netd};
use crate::table::{self, Fact};
use crate::writer::follow;

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
    let keeper = options.keeper(config);
    let mut changes = Changes::default();
    for file in keeper.paths(&config.hosts.files) {
        let report = keeper.sync(&file, wanted);
        changes.changes.extend(report.mended());
        changes.changes.extend(report.change());
        changes.problems.extend(report.problem());
        changes.problems.extend(shadowed(&report));
        let file = file.display();
        let notes = report.notes.iter();
        changes
            .changes
            .extend(notes.map(|note| format!("{file}: {note}")));
    }
    changes
}

/// The names that a file already gives to somebody else, and those that we may not have.
fn shadowed(report: &FileReport) -> Vec<String> {
    let file = report.file.display();
    let left = report.left_out.iter().map(|left| {
        format!(
            "{file}: {} stays as line {} has it ({})",
            left.name, left.line, left.address
        )
    });
    let refused = report
        .refused
        .iter()
        .map(|refused| format!("{file}: {} is not written: {}", refused.name, refused.why));
    left.chain(refused).collect()
}

/// How every file differs from `wanted`.
#[must_use]
pub fn diff(
    options: &Options,
    config: &Config,
    wanted: &BTreeMap<HostName, IpAddr>,
) -> Vec<HostsDiff> {
    let keeper = options.keeper(config);
    keeper
        .paths(&config.hosts.files)
        .iter()
        .map(|file| keeper.diff(file, wanted))
        .collect()
}

/// The files that a command means: those of the configuration, or one of them.
///
/// # Errors
/// When the one is not in the configuration: what sharectl does not keep, it does not touch.
pub fn chosen(
    keeper: &Keeper,
    config: &Config,
    only: Option<&Path>,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = keeper.paths(&config.hosts.files);
    if let Some(only) = only {
        let same = |path: &PathBuf| path == only || follow(path).is_ok_and(|real| real == only);
        paths.retain(same);
        anyhow::ensure!(
            !paths.is_empty(),
            "{} is not in [hosts] files of the configuration",
            only.display()
        );
    }
    Ok(paths)
}
