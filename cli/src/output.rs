//! What a command prints: tables or JSON on standard output, notes and errors
//! on standard error. Nothing else in this program writes to either.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{CliError, Outcome};
use crate::progress;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people.
    Table,
    /// One JSON value, for programs.
    Json,
}

/// Where results go and how they look.
pub(crate) struct Output {
    pub format: Format,
    /// Only names, and no word about what went well.
    pub quiet: bool,
    /// Nothing is done, so nothing is said of what was done.
    pub rehearsal: bool,
}

impl Output {
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A list: aligned columns, or a JSON array of the rows, or with `-q` the
    /// first column alone.
    pub(crate) fn list<T: Serialize + JsonSchema>(
        &self,
        header: &[&str],
        rows: &[T],
        cells: impl Fn(&T) -> Vec<String>,
    ) -> Outcome {
        if self.is_json() {
            return self.json(&rows);
        }
        let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
        if self.quiet {
            return self.text(&names(&rows));
        }
        self.text(&table(header, &rows))
    }

    /// Something was done: a sentence, or the JSON value that says the same.
    pub(crate) fn done(&self, sentence: &str, value: &(impl Serialize + JsonSchema)) -> Outcome {
        if self.rehearsal {
            return Ok(());
        }
        if self.is_json() {
            return self.json(value);
        }
        if self.quiet {
            return Ok(());
        }
        self.text(&format!("{sentence}\n"))
    }

    /// One value, of a type that can say its form: `sharectl schema` tells it.
    pub(crate) fn json(&self, value: &(impl Serialize + JsonSchema)) -> Outcome {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, value)?;
        writeln!(out)?;
        Ok(())
    }

    /// One line of a stream of JSON values.
    pub(crate) fn json_line(&self, value: &(impl Serialize + JsonSchema)) -> Outcome {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, value)?;
        writeln!(out)?;
        Ok(out.flush()?)
    }

    pub(crate) fn text(&self, text: &str) -> Outcome {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn bytes(&self, bytes: &[u8]) -> Outcome {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Something to know that is no result.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.rehearsal {
            to_stderr("note: ", "36", text);
        }
    }

    /// Something that did not go as wished, though the command goes on.
    pub(crate) fn warning(&self, text: &str) {
        to_stderr("warning: ", "33", text);
    }
}

/// The end of a failed command.
pub(crate) fn report(error: &CliError) {
    if error.quiet {
        return;
    }
    to_stderr("error: ", "31", &error.message);
    if let Some(hint) = &error.hint {
        to_stderr("hint: ", "36", hint);
    }
}

fn to_stderr(label: &str, colour: &str, text: &str) {
    progress::make_room();
    let mut err = io::stderr().lock();
    let plain = is_plain() || !err.is_terminal();
    // Text may repeat bytes of a file or a daemon: they must not steer the terminal.
    let text = printable(text);
    let written = if plain {
        writeln!(err, "{label}{text}")
    } else {
        writeln!(err, "\x1b[1;{colour}m{label}\x1b[0m{text}")
    };
    // There is no other place to complain to.
    written.ok();
}

/// Whether the user wants no colours (no-color.org).
pub(crate) fn is_plain() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// The text with control characters, but for line ends and tabs, made visible.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && letter != '\n' && letter != '\t' {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// Columns as wide as their widest cell, two spaces between, no trailing space.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let shown: Vec<Vec<String>> =
        std::iter::once(header.iter().map(|&cell| cell.to_owned()).collect())
            .chain(
                rows.iter()
                    .map(|row| row.iter().map(|cell| printable(cell)).collect()),
            )
            .collect();
    let width = |column: usize| {
        let cells = shown.iter().filter_map(|row: &Vec<String>| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for row in &shown {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The first column, a line each; what has no name is left out.
fn names(rows: &[Vec<String>]) -> String {
    let mut names: Vec<&String> = rows.iter().filter_map(|row| row.first()).collect();
    names.retain(|name| *name != "-");
    names.dedup();
    names.iter().map(|name| format!("{name}\n")).collect()
}

/// A cell that has nothing to say.
pub(crate) fn or_dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

/// The values, separated by commas, or a dash.
pub(crate) fn comma_list<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    or_dash(texts.join(","))
}

/// Bytes in three digits and a unit, as people compare them.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1_000 {
        return format!("{count} B");
    }
    let (mut unit, mut size) = (UNITS[0], count);
    for larger in &UNITS[1..] {
        if size < 1_000_000 {
            break;
        }
        size /= 1_000;
        unit = larger;
    }
    let (whole, tenth) = (size / 1_000, size % 1_000 / 100);
    if whole < 10 {
        format!("{whole}.{tenth} {unit}")
    } else {
        format!("{whole} {unit}")
    }
}

/// A time in its largest unit and the next.
pub(crate) fn seconds(count: u64) -> String {
    match count {
        0..60 => format!("{count}s"),
        60..3_600 => format!("{}m{}s", count / 60, count % 60),
        3_600..86_400 => format!("{}h{}m", count / 3_600, count % 3_600 / 60),
        _ => format!("{}d{}h", count / 86_400, count % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_space() {
        let rows = [
            vec!["a".to_owned(), "-".to_owned()],
            vec!["longer".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["NAME", "X"], &rows),
            "NAME    X\na       -\nlonger\n"
        );
    }

    #[test]
    fn names_alone_are_said_once_each() {
        let rows = ["a", "a", "-", "b"].map(|name| vec![name.to_owned(), "x".to_owned()]);
        assert_eq!(names(&rows), "a\nb\n");
    }

    #[test]
    fn sizes_and_times_are_short() {
        for (count, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (15_999, "15 kB"),
            (1_250_000, "1.2 MB"),
            (u64::MAX, "18446 PB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
        for (count, shown) in [(59, "59s"), (61, "1m1s"), (7_260, "2h1m"), (90_000, "1d1h")] {
            assert_eq!(seconds(count), shown);
        }
    }

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\nc");
    }
}
