//! The lease journal: one JSON object a line, appended before the client hears ACK.
//!
//! A line is one `write(2)` to a file opened for appending, so `kill -9` loses nothing; a power cut may
//! lose the last seconds, since syncing the disk at each lease would stop the packet thread. The file is
//! written anew, through a synced temporary file, when most of its lines are history. A torn or foreign
//! line is skipped when reading, never the lines after it. Not here: what a lease is (`engine::lease`).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control::mac::MacAddress;
use control::names::{GuestName, HostName};
use serde::{Deserialize, Serialize};

use crate::engine::lease::{ClientKey, LeaseChange, LeaseState, LeaseTable, SavedLease};

/// Rewritten when it has this many lines more than twice the live ones.
const SLACK: usize = 4_096;
/// No honest journal has more; the rest of a longer file is not read.
const READ_LIMIT: u64 = 64 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    /// The leased address.
    address: Ipv4Addr,
    mac: MacAddress,
    /// Option 61 in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guest: Option<GuestName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<HostName>,
    /// When it ends or ended, seconds since 1970.
    until: u64,
}

/// The clock as both readers see it, taken at one moment.
#[derive(Clone, Copy, Debug)]
pub struct ClockPair {
    /// What the engine counts in.
    pub monotonic: Instant,
    /// What the file says.
    pub wall: SystemTime,
}

impl ClockPair {
    /// Now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the journal is where engine time meets calendar time"
    )]
    pub fn read() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// An engine time as calendar time.
    #[must_use]
    pub fn wall_of(&self, at: Instant) -> SystemTime {
        match at.checked_duration_since(self.monotonic) {
            Some(ahead) => self.wall + ahead,
            None => self.wall - self.monotonic.saturating_duration_since(at),
        }
    }

    /// A calendar time as engine time; what lies before the machine's start is now.
    #[must_use]
    pub fn monotonic_of(&self, at: SystemTime) -> Instant {
        match at.duration_since(self.wall) {
            Ok(ahead) => self.monotonic + ahead,
            Err(behind) => self
                .monotonic
                .checked_sub(behind.duration())
                .unwrap_or(self.monotonic),
        }
    }
}

/// The journal of one network.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
    /// Said once, until a write succeeds again.
    failing: bool,
}

impl Journal {
    /// Opens or makes the file and puts its leases into `table`.
    ///
    /// # Errors
    /// When the folder cannot be made or the file cannot be read or written.
    pub fn open(path: &Path, table: &mut LeaseTable, clock: ClockPair) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            control::paths::make_private_folder(folder)?;
        }
        table.restore(read(&text_of(path)?, clock), clock.monotonic);
        let mut journal = Self {
            path: path.to_owned(),
            file: append(path)?,
            lines: 0,
            failing: false,
        };
        // Also mends a torn last line, which the next append would continue.
        journal.rewrite(table, clock)?;
        Ok(journal)
    }

    /// Writes a change down. A full disk must not take the network away: it is said, and the lease stands.
    pub fn append(&mut self, change: &LeaseChange, clock: ClockPair) {
        let line = match change {
            LeaseChange::Bound { address, lease, .. } => Line {
                address: *address,
                mac: lease.client.mac,
                client: lease.client.identifier.as_deref().map(to_hex),
                guest: lease.guest.clone(),
                name: lease.host_name.clone(),
                until: seconds(clock.wall_of(lease.until)),
            },
            LeaseChange::Ended {
                address,
                client,
                guest,
                ..
            } => Line {
                address: *address,
                mac: client.mac,
                client: client.identifier.as_deref().map(to_hex),
                guest: guest.clone(),
                name: None,
                until: seconds(clock.wall),
            },
        };
        let outcome = to_bytes(&line).and_then(|bytes| self.file.write_all(&bytes));
        self.lines += 1;
        self.tell(outcome);
    }

    /// Rewrites the file when it has grown much beyond what is alive; call it after appending.
    pub fn compact_if_grown(&mut self, table: &LeaseTable, clock: ClockPair) {
        if self.lines > SLACK + 2 * table.leases().count() {
            let outcome = self.rewrite(table, clock);
            // Do not try again at every lease.
            self.lines = 0;
            self.tell(outcome);
        }
    }

    fn rewrite(&mut self, table: &LeaseTable, clock: ClockPair) -> io::Result<()> {
        let fresh = self.path.with_extension("jsonl.new");
        let mut bytes = Vec::new();
        let mut lines = 0;
        for (address, lease) in table.leases() {
            if !matches!(lease.state, LeaseState::Bound | LeaseState::Past) {
                continue;
            }
            let line = Line {
                address,
                mac: lease.client.mac,
                client: lease.client.identifier.as_deref().map(to_hex),
                guest: lease.guest.clone(),
                name: lease.host_name.clone(),
                until: seconds(clock.wall_of(lease.until)),
            };
            bytes.extend(to_bytes(&line)?);
            lines += 1;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        self.file = append(&self.path)?;
        self.lines = lines;
        Ok(())
    }

    fn tell(&mut self, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::warn!(path = %self.path.display(), %error, "cannot write the lease journal; leases given now are forgotten at a restart");
            }
            Err(_) => {}
        }
    }
}

/// Which address each MAC had last, without opening the journal for writing; empty if there is none.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn last_addresses(path: &Path, clock: ClockPair) -> io::Result<BTreeMap<MacAddress, Ipv4Addr>> {
    let mut saved: Vec<_> = read(&text_of(path)?, clock).into_iter().collect();
    saved.sort_by_key(|(_, lease)| lease.until);
    Ok(saved
        .into_iter()
        .map(|(address, lease)| (lease.client.mac, address))
        .collect())
}

fn text_of(path: &Path) -> io::Result<String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(READ_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// The last line about an address counts. Addresses of ended leases are memories.
fn read(text: &str, clock: ClockPair) -> BTreeMap<Ipv4Addr, SavedLease> {
    let mut found = BTreeMap::new();
    let mut skipped = 0_usize;
    for text in text.lines().filter(|line| !line.trim().is_empty()) {
        let line = serde_json::from_str::<Line>(text).ok();
        let Some((line, identifier)) = line.and_then(|line| {
            let identifier = line.client.as_deref().map(from_hex);
            match identifier {
                Some(None) => None,
                Some(Some(bytes)) => Some((line, Some(bytes))),
                None => Some((line, None)),
            }
        }) else {
            skipped += 1;
            continue;
        };
        let wall = UNIX_EPOCH.checked_add(Duration::from_secs(line.until.min(MOST_SECONDS)));
        let saved = SavedLease {
            client: ClientKey {
                mac: line.mac,
                identifier,
            },
            guest: line.guest,
            host_name: line.name,
            until: clock.monotonic_of(wall.unwrap_or(clock.wall)),
        };
        found.insert(line.address, saved);
    }
    if skipped > 0 {
        tracing::info!(
            skipped,
            "lines of the lease journal that cannot be read were skipped"
        );
    }
    found
}

/// The year 2514: far enough, and within every clock's range.
const MOST_SECONDS: u64 = 1 << 34;

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn to_bytes(line: &Line) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Box<[u8]>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || digits.len() > 510 {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lease::{Client, LeaseSettings};

    fn table() -> LeaseTable {
        LeaseTable::new(LeaseSettings {
            subnet: "10.0.0.0/24".parse().unwrap(),
            pool: Ipv4Addr::new(10, 0, 0, 128)..=Ipv4Addr::new(10, 0, 0, 253),
            kept: vec![Ipv4Addr::new(10, 0, 0, 1)],
            reservations: Vec::new(),
        })
    }

    fn bind(
        table: &mut LeaseTable,
        journal: &mut Journal,
        last: u8,
        seconds: u64,
        clock: ClockPair,
    ) -> Ipv4Addr {
        let client = Client {
            mac: MacAddress([2, 0, 0, 0, 0, last]),
            identifier: Some(&[1, last, 0xff]),
            link_guest: None,
        };
        let now = clock.monotonic;
        let address = table.offer(&client, None, now).unwrap();
        let name = HostName::parse("web").ok();
        table
            .bind(
                &client,
                address,
                name,
                now + Duration::from_secs(seconds),
                now,
            )
            .unwrap();
        let changes: Vec<_> = table.take_changes().collect();
        for change in &changes {
            journal.append(change, clock);
        }
        journal.compact_if_grown(table, clock);
        address
    }

    fn later(clock: ClockPair, seconds: u64) -> ClockPair {
        let by = Duration::from_secs(seconds);
        ClockPair {
            monotonic: clock.monotonic + by,
            wall: clock.wall + by,
        }
    }

    #[test]
    fn leases_are_there_again_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases/vmnet8.jsonl");
        let clock = ClockPair::read();
        let mut first = table();
        let mut journal = Journal::open(&path, &mut first, clock).unwrap();
        let long = bind(&mut first, &mut journal, 1, 3600, clock);
        let short = bind(&mut first, &mut journal, 2, 60, clock);
        // No drop, no stop: the file as it is now is what a killed daemon leaves.
        let mut second = table();
        let reopened = Journal::open(&path, &mut second, later(clock, 100)).unwrap();
        assert_eq!(second.owner_of(long), Some(MacAddress([2, 0, 0, 0, 0, 1])));
        assert_eq!(second.owner_of(short), None);
        let (_, lease) = second.leases().find(|(a, _)| *a == long).unwrap();
        assert_eq!(lease.host_name.as_ref().map(HostName::as_str), Some("web"));
        assert_eq!(
            lease.client.identifier.as_deref(),
            Some([1, 1, 0xff].as_slice())
        );
        let left = lease.until.duration_since(later(clock, 100).monotonic);
        assert!((3499..=3500).contains(&left.as_secs()), "{left:?}");
        // The ended one is remembered for its client.
        let again = Client {
            mac: MacAddress([2, 0, 0, 0, 0, 2]),
            identifier: Some(&[1, 2, 0xff]),
            link_guest: None,
        };
        assert_eq!(
            second.offer(&again, None, later(clock, 100).monotonic),
            Ok(short)
        );
        drop((journal, reopened));
    }

    #[test]
    fn torn_and_foreign_lines_cost_only_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases/vmnet8.jsonl");
        let clock = ClockPair::read();
        let mut first = table();
        let mut journal = Journal::open(&path, &mut first, clock).unwrap();
        let kept = bind(&mut first, &mut journal, 1, 3600, clock);
        let mut bytes = b"\xff\xfe garbage\n{\"address\":\"10.0.0.200\",\"mac\":\"02:00:00:00:00:07\",\"client\":\"zz\",\"until\":99999999999}\n".to_vec();
        bytes.extend(std::fs::read(&path).unwrap());
        bytes.extend_from_slice(b"{\"address\":\"10.0.0.13");
        std::fs::write(&path, &bytes).unwrap();
        let mut second = table();
        let mut journal = Journal::open(&path, &mut second, clock).unwrap();
        assert_eq!(second.leases().count(), 1);
        let other = bind(&mut second, &mut journal, 9, 3600, clock);
        let mut third = table();
        drop(Journal::open(&path, &mut third, clock).unwrap());
        assert!(third.owner_of(kept).is_some() && third.owner_of(other).is_some());
    }

    #[test]
    fn file_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases/vmnet8.jsonl");
        let clock = ClockPair::read();
        let mut leases = table();
        let mut journal = Journal::open(&path, &mut leases, clock).unwrap();
        for _ in 0..SLACK + 100 {
            bind(&mut leases, &mut journal, 1, 3600, clock);
        }
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 200, "{lines}");
    }
}
