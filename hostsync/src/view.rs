//! What the daemon shows of itself: the state that control requests read.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control::api::HostLine;
use control::metrics::{Kind, Page};

use crate::files::FileReport;
use crate::table::Table;

/// Shared between the daemon's loop, which writes it, and control requests, which read it.
#[derive(Debug, Clone, Default)]
pub struct View {
    shared: Arc<Mutex<Shown>>,
}

/// What is shown.
#[derive(Debug, Default)]
pub struct Shown {
    /// The names as decided last.
    pub table: Table,
    /// The files to keep.
    pub files: Vec<PathBuf>,
    /// What became of each file at the last sync.
    pub reports: Vec<FileReport>,
    /// Why netd cannot be reached; `None` while it can.
    pub netd_away: Option<String>,
    /// Why the file on disk is not the configuration that runs.
    pub config_refused: Option<String>,
    /// Who undoes what is written, while somebody does.
    pub disputed: Option<String>,
    /// Files that cannot be watched, and why.
    pub unwatched: Vec<String>,
    /// Whether the block was taken away on request, until the next sync.
    pub cleared: bool,
    /// Counters since the start.
    pub counts: Counts,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Rounds over all files.
    pub syncs: u64,
    /// Files changed.
    pub writes: u64,
    /// Files that could not be brought to what they should be.
    pub failures: u64,
    /// Snapshots from netd.
    pub snapshots: u64,
}

impl View {
    /// The state; held only for as long as it takes to copy something.
    pub fn lock(&self) -> MutexGuard<'_, Shown> {
        // Each change is a plain assignment, so a panic elsewhere leaves it whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    /// What is wrong now, in the user's words.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(self.config_refused.clone());
        if let Some(why) = &self.netd_away {
            problems.push(format!(
                "{why}; the guests' names stand as netd said them last"
            ));
        }
        problems.extend(self.reports.iter().filter_map(FileReport::problem));
        problems.extend(self.disputed.clone());
        problems.extend(self.unwatched.iter().cloned());
        problems
    }

    /// Every name that any source claims: where it stands, or why it does not.
    #[must_use]
    pub fn lines(&self) -> Vec<HostLine> {
        let mut lines: Vec<HostLine> = self
            .table
            .wanted
            .iter()
            .map(|(name, claim)| {
                let (mut written, mut left_out) = (Vec::new(), Vec::new());
                for report in &self.reports {
                    let file = report.file.display();
                    if report.has(name, claim.address) {
                        written.push(report.file.clone());
                    } else if let Some(why) = report.why_not(name) {
                        left_out.push(why);
                    } else if self.cleared {
                        left_out.push(format!("{file}: cleared until the next sync"));
                    } else if let Err(error) = &report.outcome {
                        left_out.push(format!("{file}: {error}"));
                    } else {
                        left_out.push(format!("{file}: about to be written"));
                    }
                }
                HostLine {
                    name: name.clone(),
                    address: claim.address,
                    source: claim.from.to_string(),
                    written,
                    left_out,
                }
            })
            .collect();
        lines.extend(self.table.lost.iter().map(|lost| HostLine {
            name: lost.fact.name.clone(),
            address: lost.fact.address,
            source: lost.fact.from.to_string(),
            written: Vec::new(),
            left_out: vec![lost.why.to_string()],
        }));
        lines.sort_by(|one, other| one.name.cmp(&other.name));
        lines
    }

    /// What is counted here; see `control::metrics` for the format.
    #[must_use]
    pub fn metrics(&self, events: u64) -> String {
        use Kind::{Counter, Gauge};
        let written: usize = self.reports.iter().map(|report| report.written.len()).sum();
        let counts = self.counts;
        let mut page = Page::new("hostsync", env!("CARGO_PKG_VERSION"), events);
        for (family, value) in [
            (
                (Gauge, "names", "Names that shall stand in the files."),
                count(self.table.wanted.len()),
            ),
            (
                (Gauge, "names_lost", "Claims that won no name."),
                count(self.table.lost.len()),
            ),
            (
                (Gauge, "lines", "Lines that stand, over all files."),
                count(written),
            ),
            (
                (Gauge, "netd_connected", "Whether netd is followed."),
                u64::from(self.netd_away.is_none()),
            ),
            ((Counter, "syncs", "Rounds over all files."), counts.syncs),
            ((Counter, "writes", "Files changed."), counts.writes),
            (
                (Counter, "failures", "Files that could not be changed."),
                counts.failures,
            ),
            (
                (Counter, "snapshots", "Snapshots of netd's guests."),
                counts.snapshots,
            ),
        ] {
            page.add(family, &[], value);
        }
        page.finish()
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
