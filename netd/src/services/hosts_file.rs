//! The host's own names: hosts(5), read for guests and followed as it changes. sharectl's own lines
//! (hostsync's blocks) are left out: they are for the host, where a guest has another address.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::names::HostName;
use tokio::sync::watch;

use crate::engine::dns_names::{Entry, NameTable, Source, Target};
use crate::services::following;

/// The host's hosts file.
pub const HOSTS_FILE: &str = "/etc/hosts";
/// Block lists have a million bytes; beyond this it is no hosts file.
const SIZE_LIMIT: u64 = 16 << 20;
/// The first and last lines of hostsync's blocks (hostsync/src/section/markers.rs), without a tag.
const BEGIN: &str = "# BEGIN sharectl";
const END: &str = "# END sharectl";

/// The names of a hosts file's text.
#[must_use]
pub fn parse(text: &str) -> NameTable {
    let mut names = NameTable::default();
    let mut inside_block = false;
    for line in text.trim_start_matches('\u{feff}').lines() {
        match line.trim_end() {
            line if is_marker(line, BEGIN) => inside_block = true,
            line if is_marker(line, END) => inside_block = false,
            _ if inside_block => {}
            line => read_line(line, &mut names),
        }
    }
    names
}

/// The marker, and at most one tag.
fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
}

fn read_line(line: &str, names: &mut NameTable) {
    let mut words = line
        .split('#')
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace();
    // With a scope (fe80::1%lo0) it means nothing on another machine.
    let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
        return;
    };
    if address.is_multicast() {
        return;
    }
    for name in words.filter_map(|name| HostName::parse(name).ok()) {
        if means_each_machine(&name) {
            continue;
        }
        let entry = Entry {
            target: Target::addresses([address]),
            source: Source::HostsFile,
        };
        names.add(&name, entry);
        if !address.is_loopback() && !address.is_unspecified() {
            names.call(address, &name);
        }
    }
}

/// Names by which each machine means itself: the guest has its own.
fn means_each_machine(name: &HostName) -> bool {
    let first = name.as_str().split('.').next().unwrap_or_default();
    let last = name.as_str().rsplit('.').next().unwrap_or_default();
    last == "localhost"
        || matches!(
            first,
            "localhost"
                | "localhost4"
                | "localhost6"
                | "ip6-localhost"
                | "ip6-loopback"
                | "broadcasthost"
        )
}

/// Reads the file now; no names when it is not there.
#[must_use]
pub fn read(path: &Path) -> NameTable {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let outcome =
        std::fs::File::open(path).and_then(|file| file.take(SIZE_LIMIT).read_to_end(&mut bytes));
    if let Err(error) = outcome {
        tracing::debug!(path = %path.display(), %error, "cannot read the host's names");
    }
    parse(&String::from_utf8_lossy(&bytes))
}

/// Follows the file for ever; ends only when the kernel gives no inotify or nobody listens any more.
pub async fn follow(path: PathBuf, names: watch::Sender<Arc<NameTable>>) {
    let told = &names;
    let look = |path: &Path| {
        let found = read(path);
        tracing::debug!(names = found.len(), "the host's names were read");
        told.send_replace(Arc::new(found));
    };
    following::follow(&path, "the host's names", look, names.closed()).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dns::encode_name;
    use std::time::Duration;

    fn addresses(names: &NameTable, name: &str) -> Vec<String> {
        let wire = encode_name(&HostName::parse(name).unwrap());
        match names.find(&wire).map(|entry| &entry.target) {
            Some(Target::Addresses { v4, v6 }) => v4
                .iter()
                .map(ToString::to_string)
                .chain(v6.iter().map(ToString::to_string))
                .collect(),
            Some(Target::Alias(_)) | None => Vec::new(),
        }
    }

    #[test]
    fn lines_are_read_as_hosts_5_says_without_ours() {
        let text = "\u{feff}127.0.0.1 localhost localhost.localdomain box\r\n::1\tip6-localhost box\n\
                    # BEGIN sharectl\n127.64.0.9\tdev.test\n# END sharectl\n\
                    # BEGIN sharectl work\n127.64.0.8 lab.test\n# END sharectl work\n\
                    10.0.0.7 Db.Corp.Example db # main\n10.0.0.8 db.corp.example\n\
                    fe80::1%lo0 scoped\nff02::1 ip6-allnodes\n10.0.0.9\nnonsense db2\n10.0.0.300 x\n\
                    10.0.0.5 bad_name ok-name\n0.0.0.0 ads.example\n# BEGIN sharectling\n10.0.0.6 after.test\n";
        let names = parse(text);
        for (name, expected) in [
            ("localhost", &[][..]),
            ("localhost.localdomain", &[]),
            ("ip6-localhost", &[]),
            ("box", &["127.0.0.1", "::1"]),
            ("dev.test", &[]),
            ("lab.test", &[]),
            ("db.corp.example", &["10.0.0.7", "10.0.0.8"]),
            ("db", &["10.0.0.7"]),
            ("scoped", &[]),
            ("ip6-allnodes", &[]),
            ("ok-name", &["10.0.0.5"]),
            ("ads.example", &["0.0.0.0"]),
            ("after.test", &["10.0.0.6"]),
        ] {
            assert_eq!(addresses(&names, name), expected, "{name}");
        }
        let reverse = names.name_of("10.0.0.7".parse().unwrap()).unwrap();
        assert_eq!(reverse, b"\x02db\x04corp\x07example\0");
        assert_eq!(names.name_of("127.0.0.1".parse().unwrap()), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in ".*") {
            let _names = parse(&text);
        }
    }

    #[tokio::test]
    async fn change_in_place_and_by_rename_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        std::fs::write(&path, "10.0.0.1 a.example\n").unwrap();
        let (sender, mut receiver) = watch::channel(Arc::default());
        let task = tokio::spawn(follow(path.clone(), sender));
        let mut expect = async |address: &str| {
            let seen = receiver.wait_for(|names| addresses(names, "a.example") == [address]);
            let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
            assert!(seen.is_ok(), "never saw {address}");
        };
        expect("10.0.0.1").await;
        std::fs::write(&path, "10.0.0.2 a.example\n").unwrap();
        expect("10.0.0.2").await;
        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, "10.0.0.3 a.example\n").unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        expect("10.0.0.3").await;
        std::fs::write(&path, "10.0.0.4 a.example\n").unwrap();
        expect("10.0.0.4").await;
        task.abort();
    }
}
