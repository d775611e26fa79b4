//! Which rows are measured in which session of a backend, and what becomes of failures.
//! How each is measured stands in `probe`.
//!
//! A measurement that fails becomes a word in its cell; the others go on.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;

use super::backend::Backend;
use super::bed::Bed;
use super::probe::{Bench, Way};
use super::rows::Row;
use super::table::{Sample, Value};

/// The two sizes of frame: what a daemon that cannot segment needs, and what guests have by default.
const LARGE: u32 = 65_520;
const SMALL: u32 = 1_500;

/// What is measured and for how long.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) seconds: u64,
    pub(super) rows: Vec<Row>,
}

/// Where the bench's own programs are.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) netload: PathBuf,
    pub(super) prototype: PathBuf,
    pub(super) shim: PathBuf,
}

/// Measures the rows of `plan` on a backend, in as few sessions as keep them from disturbing each
/// other: one for each MTU, and a fresh one for memory; each on a bed of its own.
///
/// # Errors
/// When a bed cannot be made.
pub(super) fn measure(
    programs: &Programs,
    backend: &dyn Backend,
    plan: &Plan,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for (mtu, rows, measure) in [
        (LARGE, LARGE_ROWS, large as Measure),
        (SMALL, SMALL_ROWS, small),
        (LARGE, MEMORY_ROWS, memory),
    ] {
        let wanted: BTreeSet<Row> = rows
            .iter()
            .filter(|row| plan.rows.contains(row))
            .copied()
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let mut sheet = Sheet {
            wanted,
            samples: Vec::new(),
        };
        let bed = Bed::make()?;
        match Bench::start(&bed, programs, backend, mtu, plan.seconds) {
            Ok(bench) => measure(&bench, &mut sheet),
            Err(error) => sheet.fail(rows, &error.context("does not start")),
        }
        samples.append(&mut sheet.samples);
    }
    Ok(samples)
}

type Measure = fn(&Bench<'_>, &mut Sheet);

const LARGE_ROWS: &[Row] = &[
    Row::Refused,
    Row::Nobody,
    Row::Source,
    Row::RateOut,
    Row::RateIn,
    Row::RoundOutMedian,
    Row::RoundOutTail,
    Row::RoundInMedian,
    Row::RoundInTail,
    Row::UdpLoss,
    Row::UdpCost,
    Row::Up,
    Row::UpCost,
    Row::Down,
    Row::DownCost,
    Row::Published,
    Row::PublishedCost,
    Row::Loopback,
    Row::UpFour,
    Row::DownFour,
];

const SMALL_ROWS: &[Row] = &[
    Row::SmallUp,
    Row::SmallUpCost,
    Row::SmallDown,
    Row::SmallDownCost,
    Row::SmallPublished,
    Row::SmallUpFour,
    Row::SmallDownFour,
];

const MEMORY_ROWS: &[Row] = &[
    Row::MemoryStart,
    Row::WakeUps,
    Row::MemoryThousand,
    Row::MemoryFiveThousand,
    Row::IdleCost,
];

fn large(bench: &Bench<'_>, sheet: &mut Sheet) {
    sheet.words(Row::Refused, || bench.refused());
    sheet.words(Row::Nobody, || bench.nobody());
    sheet.words(Row::Source, || bench.source());
    sheet.numbers(&[Row::RateOut], || bench.rate(Way::Out));
    sheet.numbers(&[Row::RateIn], || bench.rate(Way::In));
    sheet.numbers(&[Row::RoundOutMedian, Row::RoundOutTail], || {
        bench.rounds(Way::Out)
    });
    sheet.numbers(&[Row::RoundInMedian, Row::RoundInTail], || {
        bench.rounds(Way::In)
    });
    sheet.numbers(&[Row::UdpLoss, Row::UdpCost], || bench.udp());
    sheet.numbers(&[Row::Up, Row::UpCost], || bench.up(1));
    sheet.numbers(&[Row::Down, Row::DownCost], || bench.down(1));
    sheet.numbers(&[Row::Published, Row::PublishedCost], || bench.published());
    sheet.numbers(&[Row::Loopback], || bench.loopback());
    sheet.numbers(&[Row::UpFour], || bench.up(4));
    sheet.numbers(&[Row::DownFour], || bench.down(4));
}

fn small(bench: &Bench<'_>, sheet: &mut Sheet) {
    sheet.numbers(&[Row::SmallUp, Row::SmallUpCost], || bench.up(1));
    sheet.numbers(&[Row::SmallDown, Row::SmallDownCost], || bench.down(1));
    sheet.numbers(&[Row::SmallPublished], || bench.published());
    sheet.numbers(&[Row::SmallUpFour], || bench.up(4));
    sheet.numbers(&[Row::SmallDownFour], || bench.down(4));
}

/// Resident memory at the start and with idle connections, then the share of one processor that the
/// idle ones cost. Rows that were reached stand even if a later one fails.
fn memory(bench: &Bench<'_>, sheet: &mut Sheet) {
    let mut client = match bench.idle_client() {
        Ok(Some(client)) => client,
        Ok(None) => return,
        Err(error) => return sheet.fail(MEMORY_ROWS, &error),
    };
    sheet.numbers(&[Row::MemoryStart], || bench.resident());
    sheet.numbers(&[Row::WakeUps], || bench.wake_ups());
    sheet.numbers(&[Row::MemoryThousand], || {
        bench.resident_with(&mut client, 1000.0)
    });
    sheet.numbers(&[Row::MemoryFiveThousand], || {
        bench.resident_with(&mut client, 5000.0)
    });
    sheet.numbers(&[Row::IdleCost], || bench.idle_cost());
}

/// The samples of one session.
struct Sheet {
    wanted: BTreeSet<Row>,
    samples: Vec<Sample>,
}

impl Sheet {
    /// Measures several rows at once; values beyond the rows are not wanted, and none at all means
    /// that the row does not apply to this backend.
    fn numbers(&mut self, rows: &[Row], measure: impl FnOnce() -> Result<Vec<f64>>) {
        if !rows.iter().any(|row| self.wanted.contains(row)) {
            return;
        }
        match measure() {
            Ok(values) => {
                for (row, value) in rows.iter().zip(values) {
                    self.add(*row, Value::Number(value));
                }
            }
            Err(error) => self.fail(rows, &error),
        }
    }

    fn words(&mut self, row: Row, measure: impl FnOnce() -> Result<Option<String>>) {
        if !self.wanted.contains(&row) {
            return;
        }
        match measure() {
            Ok(Some(words)) => self.add(row, Value::Words(words)),
            Ok(None) => {}
            Err(error) => self.add(row, Value::Failed(format!("{error:#}"))),
        }
    }

    fn add(&mut self, row: Row, value: Value) {
        if self.wanted.contains(&row) {
            self.samples.push(Sample { row, value });
        }
    }

    fn fail(&mut self, rows: &[Row], error: &anyhow::Error) {
        for row in rows {
            self.add(*row, Value::Failed(format!("{error:#}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::bench::rows::Line as _;

    #[test]
    fn every_row_belongs_to_exactly_one_session() {
        for row in Row::ALL {
            let sessions = [LARGE_ROWS, SMALL_ROWS, MEMORY_ROWS];
            let count = sessions.iter().filter(|rows| rows.contains(row)).count();
            assert_eq!(count, 1, "{}", row.title());
        }
    }
}
