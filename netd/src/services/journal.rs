//! The lease journal: one JSON object a line, appended before the client hears ACK.
//!
//! A line is one `write(2)` to a file opened for appending, so `kill -9` loses nothing; a power cut may
//! lose the last seconds, since syncing the disk at each lease would stop the packet thread. The file is
//! written anew, through a synced temporary file, when most of its lines are history. A torn or foreign
//! line is skipped when reading, never the lines after it. Not here: what a lease is (`engine::lease`).

mod clock;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use control::mac::MacAddress;
use control::names::{GuestName, HostName};
use serde::{Deserialize, Serialize};

pub use clock::ClockPair;
use clock::Written;

use crate::engine::lease::{
    ClientKey, Ipv6Hold, Lease, LeaseChange, LeaseState, LeaseTable, SavedLease,
};

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
    /// The same since the machine's start, and which start that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uptime: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
    /// The IPv6 side of the address, while somebody holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipv6: Option<Ipv6Line>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ipv6Line {
    /// In hex.
    duid: String,
    iaid: u32,
    until: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uptime: Option<u64>,
}

impl Line {
    fn new(address: Ipv4Addr, client: &ClientKey, ends: Instant, clock: ClockPair) -> Self {
        let until = clock.write(ends);
        Self {
            address,
            mac: client.mac,
            client: client.identifier.as_deref().map(to_hex),
            guest: None,
            name: None,
            until: until.calendar,
            uptime: until.uptime,
            boot: clock.boot.map(|(boot, _)| format!("{boot:016x}")),
            ipv6: None,
        }
    }

    fn with_ipv6(mut self, hold: Option<&Ipv6Hold>, clock: ClockPair) -> Self {
        self.ipv6 = hold.filter(|hold| !hold.declined).map(|hold| {
            let until = clock.write(hold.until);
            Ipv6Line {
                duid: to_hex(&hold.duid),
                iaid: hold.iaid,
                until: until.calendar,
                uptime: until.uptime,
            }
        });
        self
    }

    fn of_lease(address: Ipv4Addr, lease: &Lease, clock: ClockPair) -> Self {
        // Only a lease that is bound ends at a time to come.
        let ends = match lease.state {
            LeaseState::Bound => lease.until,
            LeaseState::Offered
            | LeaseState::Declined
            | LeaseState::Past
            | LeaseState::Ipv6Only => lease.until.min(clock.monotonic),
        };
        let line = Self {
            guest: lease.guest.clone(),
            name: lease.host_name.clone(),
            ..Self::new(address, &lease.client, ends, clock)
        };
        line.with_ipv6(lease.ipv6.as_ref(), clock)
    }

    /// `None` for a line that we did not write so.
    fn into_saved(self, clock: ClockPair) -> Option<SavedLease> {
        let identifier = match self.client.as_deref() {
            Some(hex) => Some(from_hex(hex)?),
            None => None,
        };
        let boot = self
            .boot
            .as_deref()
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let read_back = |calendar, uptime| clock.read_back(boot, Written { calendar, uptime });
        let ipv6 = match self.ipv6 {
            Some(line) => Some(Ipv6Hold {
                duid: from_hex(&line.duid)?,
                iaid: line.iaid,
                until: read_back(line.until, line.uptime),
                declined: false,
            }),
            None => None,
        };
        Some(SavedLease {
            client: ClientKey {
                mac: self.mac,
                identifier,
            },
            guest: self.guest,
            host_name: self.name,
            until: read_back(self.until, self.uptime),
            ipv6,
        })
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
            LeaseChange::Bound { address, lease, .. }
            | LeaseChange::Ipv6Bound { address, lease, .. }
            | LeaseChange::Ipv6Ended { address, lease, .. } => {
                Line::of_lease(*address, lease, clock)
            }
            LeaseChange::Ended {
                address,
                client,
                guest,
                ipv6,
                ..
            } => Line {
                guest: guest.clone(),
                ..Line::new(*address, client, clock.monotonic, clock)
            }
            .with_ipv6(ipv6.as_ref(), clock),
        };
        let outcome = to_bytes(&line).and_then(|bytes| self.file.write_all(&bytes));
        self.lines += 1;
        self.tell(outcome);
    }

    /// Rewrites the file when it has grown much beyond what is alive; call it after appending.
    pub fn compact_if_grown(&mut self, table: &LeaseTable, clock: ClockPair) {
        if self.lines > SLACK + 2 * table.entries() {
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
            match lease.state {
                LeaseState::Bound | LeaseState::Past | LeaseState::Ipv6Only => {}
                LeaseState::Offered | LeaseState::Declined if lease.ipv6.is_some() => {}
                LeaseState::Offered | LeaseState::Declined => continue,
            }
            let line = Line::of_lease(address, lease, clock);
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
        let Some((address, saved)) =
            line.and_then(|line| Some((line.address, line.into_saved(clock)?)))
        else {
            skipped += 1;
            continue;
        };
        found.insert(address, saved);
    }
    if skipped > 0 {
        tracing::info!(
            skipped,
            "lines of the lease journal that cannot be read were skipped"
        );
    }
    found
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
    use std::time::Duration;

    use crate::engine::lease::{Client, Ipv6Client, LeaseSettings};
    use crate::engine::services::LinkId;

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
            link: LinkId(1),
            link_guest: None,
        };
        let now = clock.monotonic;
        let address = table.offer(&client, None, now).unwrap().address;
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
            boot: clock.boot.map(|(boot, uptime)| (boot, uptime + by)),
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
            link: LinkId(1),
            link_guest: None,
        };
        let offer = second.offer(&again, None, later(clock, 100).monotonic);
        assert_eq!(offer.map(|offer| offer.address), Ok(short));
        drop((journal, reopened));
    }

    #[test]
    fn steps_of_the_calendar_and_the_hosts_sleep_end_no_lease() {
        const HOUR: u64 = 3600;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases/vmnet8.jsonl");
        let clock = ClockPair::read();
        let mut first = table();
        let mut journal = Journal::open(&path, &mut first, clock).unwrap();
        let address = bind(&mut first, &mut journal, 1, HOUR, clock);
        let written = std::fs::read(&path).unwrap();
        // The calendar a year ahead (a wrong clock set right; or a night's sleep, which stops the
        // monotonic clock), then a year back; each time netd starts again 100 s later.
        let year = Duration::from_secs(365 * 24 * HOUR);
        for wall in [clock.wall + year, clock.wall - year] {
            let now = ClockPair {
                wall,
                ..later(clock, 100)
            };
            let mut table = table();
            drop(Journal::open(&path, &mut table, now).unwrap());
            let (_, lease) = table.leases().find(|(a, _)| *a == address).unwrap();
            let left = lease.until.duration_since(now.monotonic).as_secs();
            assert!((HOUR - 101..=HOUR - 100).contains(&left), "{left}");
        }
        std::fs::write(&path, &written).unwrap();
        // After a new start of the machine only the calendar says what time it is.
        for (wall, holds) in [(100, true), (2 * HOUR, false)] {
            let other = ClockPair {
                wall: clock.wall + Duration::from_secs(wall),
                boot: Some((1, Duration::from_secs(5))),
                ..later(clock, 5)
            };
            let mut table = table();
            drop(Journal::open(&path, &mut table, other).unwrap());
            // Opening writes the file anew, by this start's clock.
            std::fs::write(&path, &written).unwrap();
            assert_eq!(table.owner_of(address).is_some(), holds, "after {wall} s");
        }
    }

    #[test]
    fn ipv6_sides_are_there_again_with_and_without_an_ipv4_lease() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases/vmnet8.jsonl");
        let clock = ClockPair::read();
        let now = clock.monotonic;
        let mut first = table();
        let mut journal = Journal::open(&path, &mut first, clock).unwrap();
        let both = bind(&mut first, &mut journal, 1, 3600, clock);
        let client = |last| Ipv6Client {
            mac: MacAddress([2, 0, 0, 0, 0, last]),
            duid: b"\0\x03\0\x01abcdef",
            iaid: 7,
            link: LinkId(1),
        };
        let until = now + Duration::from_secs(3600);
        first.ipv6_bind(&client(1), both, until, now).unwrap();
        let alone = first.ipv6_address_for(&client(2), now).unwrap();
        first.ipv6_bind(&client(2), alone, until, now).unwrap();
        for change in first.take_changes() {
            journal.append(&change, clock);
        }
        let mut second = table();
        let later = later(clock, 100);
        drop(Journal::open(&path, &mut second, later).unwrap());
        assert_eq!(second.ipv6_held_by(&client(1)), Some(both));
        assert_eq!(second.ipv6_held_by(&client(2)), Some(alone));
        assert_eq!(second.owner_of(both), Some(client(1).mac));
        assert_eq!(second.owner_of(alone), Some(client(2).mac));
        // The IPv4 side's end leaves the other.
        second.expire(later.monotonic + Duration::from_secs(3400));
        assert_eq!(second.ipv6_held_by(&client(1)), Some(both));
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
