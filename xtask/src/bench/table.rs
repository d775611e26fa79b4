//! Samples gathered into medians, shown as plain text and as markdown.
//!
//! A measurement that failed in some runs shows how often; in markdown the winner of a row is bold.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::parse::median;
use super::rows::{Better, Line, Row};

/// The limit, not a competitor: it wins no row.
const LIMIT: &str = "veth";

/// One measured value.
#[derive(Debug, Clone)]
pub(super) struct Sample<R = Row> {
    pub(super) row: R,
    pub(super) value: Value,
}

/// A number, words, or why there is neither.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Number(f64),
    Words(String),
    Failed(String),
}

impl<R: Line> fmt::Display for Sample<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = self.row.title();
        match &self.value {
            Value::Number(number) => write!(f, "{title}: {number:.*}", self.row.decimals()),
            Value::Words(words) => write!(f, "{title}: {words}"),
            Value::Failed(why) => write!(f, "{title}: failed: {why}"),
        }
    }
}

/// What all runs measured.
#[derive(Debug)]
pub(super) struct Table<R = Row> {
    backends: Vec<&'static str>,
    runs: usize,
    samples: BTreeMap<(R, &'static str), Vec<Value>>,
    notes: Vec<String>,
}

impl<R: Line> Table<R> {
    pub(super) fn new(backends: impl Iterator<Item = &'static str>, runs: usize) -> Self {
        Self {
            backends: backends.collect(),
            runs,
            samples: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, backend: &'static str, sample: Sample<R>) {
        self.samples
            .entry((sample.row, backend))
            .or_default()
            .push(sample.value);
    }

    /// Notes processor, kernel and load: figures without them mean nothing.
    pub(super) fn note_machine(&mut self) {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("unknown processor", |rest| {
                rest.trim_start_matches([' ', '\t', ':'])
            });
        let count = processors
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count();
        self.notes.push(format!(
            "{count} processors ({model}), Linux {}; medians of {} runs",
            kernel.trim(),
            self.runs
        ));
        self.note_load();
    }

    /// Notes the machine's load; other programs on it make every figure worse.
    pub(super) fn note_load(&mut self) {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        self.notes.push(format!("load averages: {}", load.trim()));
    }

    /// The table for a terminal.
    pub(super) fn text(&self) -> String {
        let mut lines: Vec<Vec<String>> = vec![self.head()];
        for row in self.rows() {
            lines.push(self.line(row, false));
        }
        let columns = self.backends.len() + 1;
        let width = |column: usize| {
            let longest = lines.iter().filter_map(|line| line.get(column));
            longest.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            for (cell, width) in line.iter().zip(&widths) {
                let pad = width.saturating_sub(cell.chars().count());
                text.push_str(cell);
                text.push_str(&" ".repeat(pad + 2));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        for note in &self.notes {
            text.push_str(note);
            text.push('\n');
        }
        text
    }

    /// The table for a document.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("| {} |\n", self.head().join(" | "));
        text.push('|');
        for _ in 0..=self.backends.len() {
            text.push_str("---|");
        }
        text.push('\n');
        for row in self.rows() {
            text.push_str("| ");
            text.push_str(&self.line(row, true).join(" | "));
            text.push_str(" |\n");
        }
        text.push('\n');
        for note in &self.notes {
            // Writing to a string cannot fail.
            writeln!(text, "- {note}").ok();
        }
        text
    }

    fn head(&self) -> Vec<String> {
        let backends = self.backends.iter().map(|name| (*name).to_owned());
        std::iter::once(String::new()).chain(backends).collect()
    }

    fn rows(&self) -> impl Iterator<Item = R> {
        R::all().filter(|row| self.samples.keys().any(|(measured, _)| measured == row))
    }

    fn line(&self, row: R, mark: bool) -> Vec<String> {
        let best = if mark { self.best(row) } else { None };
        let mut line = vec![row.title().to_owned()];
        for backend in &self.backends {
            let cell = self.cell(row, backend);
            let wins = best.as_ref().is_some_and(|best| *best == cell) && *backend != LIMIT;
            line.push(if wins { format!("**{cell}**") } else { cell });
        }
        line
    }

    fn cell(&self, row: R, backend: &str) -> String {
        let Some(values) = self.values(row, backend) else {
            return "–".to_owned();
        };
        let failed = values
            .iter()
            .filter(|value| matches!(value, Value::Failed(_)))
            .count();
        let mut cell = match self.median(row, backend) {
            Some(median) => format!("{median:.*}", row.decimals()),
            None => words(values),
        };
        if failed > 0 && failed < values.len() {
            write!(cell, " ({failed} of {} failed)", values.len()).ok();
        }
        cell
    }

    fn values(&self, row: R, backend: &str) -> Option<&[Value]> {
        let mut found = self.samples.iter();
        let (_, values) = found.find(|((r, b), _)| *r == row && *b == backend)?;
        Some(values)
    }

    fn median(&self, row: R, backend: &str) -> Option<f64> {
        let numbers: Vec<f64> = self
            .values(row, backend)?
            .iter()
            .filter_map(|value| match value {
                Value::Number(number) => Some(*number),
                Value::Words(_) | Value::Failed(_) => None,
            })
            .collect();
        median(&numbers)
    }

    /// The cell of the winner, as shown; equal cells all win.
    fn best(&self, row: R) -> Option<String> {
        let competitors = self.backends.iter().filter(|name| **name != LIMIT);
        let measured =
            competitors.filter_map(|name| Some((self.median(row, name)?, self.cell(row, name))));
        let order = |a: &(f64, String), b: &(f64, String)| a.0.total_cmp(&b.0);
        let (_, cell) = match row.better() {
            Better::Higher => measured.max_by(order),
            Better::Lower => measured.min_by(order),
            Better::Words => None,
        }?;
        Some(cell)
    }
}

/// The words said most often; a failure's reason if there is nothing else.
fn words(values: &[Value]) -> String {
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    for value in values {
        if let Value::Words(words) = value {
            *counted.entry(words).or_default() += 1;
        }
    }
    if let Some((most, _)) = counted.iter().max_by_key(|(_, count)| **count) {
        return (*most).to_owned();
    }
    "failed".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["veth", "one", "two"].into_iter(), 3);
        let add = |table: &mut Table, backend, row, values: &[f64]| {
            for value in values {
                let value = Value::Number(*value);
                table.add(backend, Sample { row, value });
            }
        };
        add(&mut table, "veth", Row::Up, &[60.0, 61.0, 59.0]);
        add(&mut table, "one", Row::Up, &[20.0, 1.0, 22.0]);
        add(&mut table, "two", Row::Up, &[10.0, 11.0, 9.0]);
        add(&mut table, "one", Row::UdpLoss, &[2.0]);
        add(&mut table, "two", Row::UdpLoss, &[1.0]);
        table
    }

    #[test]
    fn the_median_is_shown_and_the_winner_is_bold_but_the_limit_never() {
        let markdown = table().markdown();
        assert!(
            markdown.contains("Gbit/s | 60.0 | **20.0** | 10.0 |"),
            "{markdown}"
        );
        assert!(markdown.contains("% | – | 2.0 | **1.0** |"), "{markdown}");
    }

    #[test]
    fn a_failure_in_some_runs_is_counted_and_in_all_is_said() {
        let mut table = table();
        let failed = |row| Sample {
            row,
            value: Value::Failed("timed out".to_owned()),
        };
        table.add("one", failed(Row::Up));
        table.add("two", failed(Row::Down));
        assert_eq!(table.cell(Row::Up, "one"), "20.0 (1 of 4 failed)");
        assert_eq!(table.cell(Row::Down, "two"), "failed");
    }

    #[test]
    fn the_words_said_most_often_are_shown() {
        let mut table = table();
        for words in ["refused after 0.2 ms", "timed out", "timed out"] {
            let value = Value::Words(words.to_owned());
            let row = Row::Refused;
            table.add("one", Sample { row, value });
        }
        assert_eq!(table.cell(Row::Refused, "one"), "timed out");
    }

    #[test]
    fn columns_of_the_text_line_up() {
        let text = table().text();
        let head = text.lines().next().unwrap();
        let up = text.lines().nth(1).unwrap();
        let at = head.find("two").unwrap();
        assert_eq!(up.get(at..at + 4), Some("10.0"), "{text}");
    }
}
