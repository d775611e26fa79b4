//! The host's resolvers: /etc/resolv.conf read as resolv.conf(5) says, and followed as it changes
//! (VPN up, laptop moved), whichever way the host replaces it: rename, symlink, rewrite in place.
//! Only `nameserver` lines matter here; search lists are the guests' own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use crate::services::following;

/// Where the host says whom it asks.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// More are never asked: within two seconds there is no time for them.
const MOST: usize = 6;
const DNS_PORT: u16 = 53;

/// The resolvers of a resolv.conf text, in order, each once.
#[must_use]
pub fn parse(text: &str) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(address) = words.next().and_then(parse_address) else {
            tracing::debug!("a nameserver line of resolv.conf names no address");
            continue;
        };
        if !found.contains(&address) && found.len() < MOST {
            found.push(address);
        }
    }
    found
}

fn parse_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        // 0.0.0.0 means this host, as glibc reads it.
        let address = if address == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            address
        };
        return Some(SocketAddr::new(address, DNS_PORT));
    }
    let (address, scope) = text.split_once('%')?;
    let scope = match scope.parse() {
        Ok(index) => index,
        Err(_) => interface_index(scope)?,
    };
    let address = SocketAddrV6::new(address.parse().ok()?, DNS_PORT, 0, scope);
    Some(SocketAddr::V6(address))
}

fn interface_index(name: &str) -> Option<u32> {
    // A name with a slash is none (and would lead elsewhere).
    let plain = !name.contains('/') && name != "..";
    let path = Path::new("/sys/class/net").join(name).join("ifindex");
    plain
        .then(|| std::fs::read_to_string(path).ok())?
        .and_then(|text| text.trim().parse().ok())
}

/// Reads the file now; none when it is not there: the host has no resolver then.
#[must_use]
pub fn read(path: &Path) -> Vec<SocketAddr> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "cannot read the host's resolvers");
            Vec::new()
        }
    }
}

/// Follows the file for ever; ends only when the kernel gives no inotify or nobody listens any more.
pub async fn follow(path: PathBuf, resolvers: watch::Sender<Vec<SocketAddr>>) {
    let told = &resolvers;
    let look = |path: &Path| {
        let found = read(path);
        told.send_if_modified(|known| {
            let changed = *known != found;
            if changed {
                tracing::info!(count = found.len(), "the host's resolvers changed");
                *known = found;
            }
            changed
        });
    };
    following::follow(&path, "the host's resolvers", look, resolvers.closed()).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn nameserver_lines_are_read_as_resolv_conf_5_says() {
        let text = "# nameserver 9.9.9.9\nsearch example.com\nnameserver 192.0.2.1\n  nameserver\t192.0.2.2 ; note\n\
                    nameserver 2001:db8::1\nnameserver fe80::1%7\nnameserver x\nnameserver 192.0.2.1\nnameserver 0.0.0.0\nnameserver";
        let expected = [
            "192.0.2.1:53",
            "192.0.2.2:53",
            "[2001:db8::1]:53",
            "[fe80::1%7]:53",
            "127.0.0.1:53",
        ];
        let expected: Vec<SocketAddr> = expected.iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(parse(text), expected);
    }

    #[tokio::test]
    async fn every_way_of_replacing_the_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let real = run.join("stub.conf");
        std::fs::write(&real, "nameserver 192.0.2.1\n").unwrap();
        let path = folder.path().join("resolv.conf");
        std::os::unix::fs::symlink("run/stub.conf", &path).unwrap();
        let (sender, mut receiver) = watch::channel(Vec::new());
        let task = tokio::spawn(follow(path.clone(), sender));
        let mut expect = async |address: Option<&str>| {
            let wanted: Vec<SocketAddr> = address.iter().map(|a| a.parse().unwrap()).collect();
            let found = tokio::time::timeout(
                Duration::from_secs(10),
                receiver.wait_for(|now| *now == wanted),
            )
            .await;
            assert!(found.is_ok(), "never saw {address:?}");
        };
        expect(Some("192.0.2.1:53")).await;
        // Rewritten in place, where the link leads.
        std::fs::write(&real, "nameserver 192.0.2.2\n").unwrap();
        expect(Some("192.0.2.2:53")).await;
        // A new file renamed over the link.
        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, "nameserver 192.0.2.3\n").unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        expect(Some("192.0.2.3:53")).await;
        std::fs::remove_file(&path).unwrap();
        expect(None).await;
        std::fs::write(&path, "nameserver 192.0.2.4\n").unwrap();
        expect(Some("192.0.2.4:53")).await;
        task.abort();
    }
}
