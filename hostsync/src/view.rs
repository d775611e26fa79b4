//! What the daemon shows of itself: the state that control requests read.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control::api::{HostLine, ResolverStatus, SourceStatus};
use control::config::SourceKind;
use control::events::timestamp;
use control::following::Following;
use control::metrics::{Kind, Page};

use crate::dns::server::Counters as DnsCounters;
use crate::files::FileReport;
use crate::table::{Rules, Table};

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
    /// By what rule.
    pub rules: Rules,
    /// How each source is.
    pub sources: Vec<SourceStatus>,
    /// Where DNS is answered, for which domains; its counters are apart.
    pub resolver: ResolverStatus,
    /// What was asked.
    pub dns_counters: Arc<DnsCounters>,
    /// The configuration on the disk beside the one that runs.
    pub following: Option<Arc<Following>>,
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
    /// Messages from sources.
    pub readings: u64,
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
        let following = self.following.iter();
        problems.extend(following.flat_map(|following| following.problems()));
        problems.extend(self.sources.iter().filter_map(source_problem));
        problems.extend(self.resolver.problems.iter().cloned());
        problems.extend(self.reports.iter().filter_map(FileReport::problem));
        problems.extend(self.disputed.clone());
        problems.extend(self.unwatched.iter().cloned());
        problems
    }

    /// Every name that any source claims: where it stands, or why it does not.
    #[must_use]
    pub fn lines(&self) -> Vec<HostLine> {
        let plain = self.table.wanted.iter().map(|entry| (entry, false));
        let below = self.table.below.iter().map(|entry| (entry, true));
        let mut lines: Vec<HostLine> = plain
            .chain(below)
            .map(|((name, claim), wildcard)| {
                let (mut written, mut left_out) = (Vec::new(), Vec::new());
                for report in self.reports.iter().filter(|_| !wildcard) {
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
                if wildcard && self.resolver.listening.is_empty() {
                    left_out.push("hosts files know no wildcards, and dns is off".to_owned());
                }
                let hint = (wildcard && !left_out.is_empty())
                    .then(|| "dns = \"on\" in [hosts], then: sharectl host dns enable".to_owned());
                HostLine {
                    name: name.clone(),
                    address: claim.address,
                    source: claim.from.to_string(),
                    origin: Some(claim.from.origin()),
                    written,
                    left_out,
                    wildcard,
                    priority: self.rules.priority(&claim.from),
                    since: claim.since.map(timestamp),
                    until: claim.until.map(timestamp),
                    hint,
                }
            })
            .collect();
        lines.extend(self.table.lost.iter().map(|lost| HostLine {
            name: lost.fact.name.clone(),
            address: lost.fact.address,
            source: lost.fact.from.to_string(),
            origin: Some(lost.fact.from.origin()),
            written: Vec::new(),
            left_out: vec![lost.why.to_string()],
            wildcard: lost.fact.below,
            priority: self.rules.priority(&lost.fact.from),
            since: lost.fact.since.map(timestamp),
            until: lost.fact.until.map(timestamp),
            hint: lost.why.hint(&lost.fact),
        }));
        lines.sort_by(|one, other| (&one.name, one.wildcard).cmp(&(&other.name, other.wildcard)));
        lines
    }

    /// Where DNS is answered, and how much.
    #[must_use]
    pub fn resolver(&self) -> ResolverStatus {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ResolverStatus {
            answered: read(&self.dns_counters.answered),
            refused: read(&self.dns_counters.refused),
            malformed: read(&self.dns_counters.malformed),
            ..self.resolver.clone()
        }
    }

    /// What is counted here; see `control::metrics` for the format.
    #[must_use]
    pub fn metrics(&self, events: u64) -> String {
        use Kind::{Counter, Gauge};
        let written: usize = self.reports.iter().map(|report| report.written.len()).sum();
        let counts = self.counts;
        let netd = self.sources.iter().find(|s| s.kind == SourceKind::Netd);
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
                u64::from(netd.is_some_and(|netd| netd.away_since.is_none())),
            ),
            ((Counter, "syncs", "Rounds over all files."), counts.syncs),
            ((Counter, "writes", "Files changed."), counts.writes),
            (
                (Counter, "failures", "Files that could not be changed."),
                counts.failures,
            ),
            (
                (Counter, "readings", "Messages of all sources."),
                counts.readings,
            ),
        ] {
            page.add(family, &[], value);
        }
        for source in &self.sources {
            let labels = [("source", source.name.as_str())];
            let connected = u64::from(source.away_since.is_none());
            for (family, value) in [
                (
                    (Gauge, "source_connected", "Whether a source can be read."),
                    connected,
                ),
                (
                    (Gauge, "source_names", "Names that a source claims."),
                    count(source.names),
                ),
                (
                    (
                        Gauge,
                        "source_skipped",
                        "Entries of its last reading that could not be used.",
                    ),
                    source.skipped,
                ),
                (
                    (Counter, "source_readings", "How often a source was read."),
                    source.readings,
                ),
            ] {
                page.add(family, &labels, value);
            }
        }
        let resolver = self.resolver();
        for (outcome, value) in [
            ("answered", resolver.answered),
            ("refused", resolver.refused),
            ("malformed", resolver.malformed),
        ] {
            let family = (
                Counter,
                "dns_questions",
                "Messages to the resolver, by outcome.",
            );
            page.add(family, &[("outcome", outcome)], value);
        }
        page.finish()
    }
}

/// Why a source cannot be read, and what that means.
fn source_problem(source: &SourceStatus) -> Option<String> {
    let reason = source.reason.as_ref()?;
    let said = match (source.kind, &source.until) {
        (SourceKind::Netd, None) => "the guests' names stand as netd said them last".to_owned(),
        (_, None) => format!("its {} names stand as it said them last", source.names),
        (_, Some(_)) if source.names == 0 => "it gave no names yet".to_owned(),
        (_, Some(until)) => format!("its {} names stand until {until}", source.names),
    };
    Some(if source.kind == SourceKind::Netd {
        format!("{reason}; {said}")
    } else {
        format!("source {}: {reason}; {said}", source.name)
    })
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
