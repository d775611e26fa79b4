//! What goes to the terminal: the only place of xtask that prints, apart from the benches' tables.
//!
//! Colour and live lines only on a terminal and without `NO_COLOR` (no-color.org).

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// How a piece of text is set off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Headings.
    Bold,
    /// What matters less.
    Faint,
    /// It works.
    Good,
    /// It does not.
    Bad,
    /// Look at this.
    Notice,
}

/// Whether a person is watching.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Text in a style, or plain where colour is not wanted.
pub(crate) fn paint(style: Style, text: &str) -> String {
    let wanted = is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if !wanted {
        return text.to_owned();
    }
    let code = match style {
        Style::Bold => "1",
        Style::Faint => "2",
        Style::Good => "32",
        Style::Bad => "31",
        Style::Notice => "33",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// A line.
pub(crate) fn line(text: &str) {
    raw(&format!("{text}\n"));
}

/// Text without a line end.
pub(crate) fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever closed our output does not want to hear of it.
    drop(out.write_all(text.as_bytes()));
    drop(out.flush());
}

/// A line about what went wrong, on standard error.
pub(crate) fn complain(text: &str) {
    let mut out = std::io::stderr().lock();
    drop(writeln!(out, "{} {text}", paint(Style::Bad, "error:")));
}

/// A time as a person reads it: 3 digits at most, the unit with it.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.0005 {
        "<1 ms".to_owned()
    } else if seconds < 0.0995 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = time.as_secs();
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// Rows as a table with aligned columns, a heading and a line below it.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let columns = heading.len();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| visible(cell))
            .chain(heading.get(column).map(|cell| visible(cell)))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let lay = |cells: &mut dyn Iterator<Item = String>| {
        let mut text = String::from(" ");
        for (cell, width) in cells.zip(&widths) {
            text.push(' ');
            text.push_str(&cell);
            text.push_str(&" ".repeat(width.saturating_sub(visible(&cell)) + 1));
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![paint(
        Style::Bold,
        &lay(&mut heading.iter().map(|cell| (*cell).to_owned())),
    )];
    let rule: usize = widths.iter().map(|width| width + 2).sum();
    lines.push(format!(" {}", paint(Style::Faint, &"─".repeat(rule))));
    lines.extend(rows.iter().map(|row| lay(&mut row.iter().cloned())));
    lines.join("\n")
}

/// Characters of a text that take room: all but escape sequences.
fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut in_escape = false;
    for letter in text.chars() {
        match (in_escape, letter) {
            (false, '\x1b') => in_escape = true,
            (true, 'm') => in_escape = false,
            (false, _) => count += 1,
            (true, _) => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_no_more_digits_than_needed() {
        assert_eq!(time(Duration::from_micros(7)), "<1 ms");
        assert_eq!(time(Duration::from_millis(7)), "7 ms");
        assert_eq!(time(Duration::from_millis(4321)), "4.3 s");
        assert_eq!(time(Duration::from_secs(185)), "3 min 05 s");
    }

    #[test]
    fn colour_takes_no_room() {
        assert_eq!(visible("\x1b[32mok\x1b[0m"), 2);
    }
}
