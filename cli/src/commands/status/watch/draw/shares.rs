//! Shares: what each carries now, all doors together (overview) and door by door (a page of its own).

use control::api::{ShareStatus, ShareTraffic};
use control::names::GuestName;

use super::super::history::{History, Rates, door};
use super::super::sample::Sample;
use super::{Column, SMALL, bars};
use crate::output::bytes;

pub(super) const SHARES: [Column; 7] = [
    ("SHARE", 10),
    ("OPS/s", 7),
    ("READ/s", 8),
    ("WRITE/s", 8),
    ("FOLDER", 20),
    ("AT", 20),
    ("STATE", 18),
];

/// A share on the overview.
pub(super) fn share(history: &History, share: &ShareStatus) -> Vec<String> {
    let mut now = Now::default();
    for traffic in &share.traffic {
        now.add(&Now::of(history, share, traffic));
    }
    let mounts = share.mount.iter().filter(|mount| mount.mounted);
    let devices = share.devices.iter().filter(|device| device.connected);
    let guests = devices.map(|device| &device.guest);
    let mut users: Vec<String> = guests
        .chain(&share.ninep_guests)
        .map(ToString::to_string)
        .collect();
    users.sort();
    users.dedup();
    users.extend(mounts.map(|_| HOST.to_owned()));
    let state = match (&share.problem, users.is_empty()) {
        (Some(problem), _) => problem.clone(),
        (None, true) => "not used".to_owned(),
        (None, false) => format!("used by {}", users.join(", ")),
    };
    let mut row = vec![share.name.to_string()];
    row.extend(now.shown());
    row.extend([
        share.path.display().to_string(),
        share.at.display().to_string(),
        state,
    ]);
    row
}

pub(super) const DOORS: [Column; 10] = [
    ("SHARE", 10),
    ("BY", 10),
    ("DOOR", 8),
    ("OPS/s", 7),
    ("READ/s", 8),
    ("WRITE/s", 8),
    ("OPS", 9),
    ("READ", 8),
    ("WRITTEN", 8),
    ("", SMALL),
];

/// Who uses a share and how: a row each, and one for a share that nobody can use.
pub(super) fn doors(history: &History, share: &ShareStatus) -> Vec<Vec<String>> {
    let row = |traffic: &ShareTraffic| {
        let by = traffic.guest.as_ref();
        let mut row = vec![
            share.name.to_string(),
            by.map_or_else(|| HOST.to_owned(), ToString::to_string),
            traffic.door.to_string(),
        ];
        row.extend(Now::of(history, share, traffic).shown());
        row.extend([
            traffic.operations.to_string(),
            bytes(traffic.bytes_read),
            bytes(traffic.bytes_written),
            bars(
                history
                    .operations
                    .rates(&door(share, traffic))
                    .into_iter()
                    .flatten()
                    .copied(),
            ),
        ]);
        row
    };
    if share.traffic.is_empty() {
        let mut row = vec!["-".to_owned(); DOORS.len() - 1];
        row[0] = share.name.to_string();
        return vec![row];
    }
    share.traffic.iter().map(row).collect()
}

/// Requests a second of one guest at all doors of all shares.
pub(super) fn operations_of(history: &History, sample: &Sample, guest: &GuestName) -> u64 {
    let shares = sample.report.shares.iter();
    let lines = shares.flat_map(|share| share.traffic.iter().map(move |line| (share, line)));
    let own = lines.filter(|(_, line)| line.guest.as_ref() == Some(guest));
    own.map(|(share, line)| Now::of(history, share, line).operations)
        .sum()
}

const HOST: &str = "this host";

/// Of a second.
#[derive(Default)]
struct Now {
    operations: u64,
    read: u64,
    written: u64,
}

impl Now {
    fn of(history: &History, share: &ShareStatus, traffic: &ShareTraffic) -> Self {
        let key = door(share, traffic);
        let newest = |rates: Option<&Rates>| rates.and_then(Rates::back).copied().unwrap_or(0);
        Self {
            operations: newest(history.operations.rates(&key)),
            read: newest(history.read.rates(&key)),
            written: newest(history.written.rates(&key)),
        }
    }

    fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.read += other.read;
        self.written += other.written;
    }

    fn shown(&self) -> [String; 3] {
        [
            self.operations.to_string(),
            bytes(self.read),
            bytes(self.written),
        ]
    }
}
