//! Steps as they happen, and all of them as a table at the end.
//!
//! On a terminal a step shows while it runs and is then written over by its result.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use tests::limit;

use crate::interrupt;
use crate::ui::{self, Style};

/// One shown step.
struct Shown {
    title: &'static str,
    result: Result<Found, String>,
    time: Duration,
}

/// All steps so far.
#[derive(Default)]
pub(super) struct Show {
    steps: Vec<Shown>,
}

/// What a step found.
pub(super) struct Found {
    text: String,
    time: Option<Duration>,
    note: Option<String>,
}

impl Found {
    /// How long the thing itself took, where that is not the whole step.
    pub(super) fn in_time(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.time = time.into();
        self
    }

    /// How it came about; left out of the table.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

impl From<String> for Found {
    fn from(text: String) -> Self {
        Self {
            text,
            time: None,
            note: None,
        }
    }
}

impl Show {
    /// Runs a step; its failure is shown and kept, and the next step may go on. After Ctrl-C it does
    /// nothing and answers no.
    pub(super) fn step<F: Into<Found>>(
        &mut self,
        title: &'static str,
        step: impl FnOnce() -> Result<F>,
    ) -> bool {
        if interrupt::seen() {
            return false;
        }
        if ui::is_terminal() {
            ui::raw(&ui::paint(Style::Faint, &format!("  … {title}")));
        }
        let begun = limit::now();
        let result: Result<Found, String> =
            step().map(Into::into).map_err(|error| format!("{error:#}"));
        let measured = result.as_ref().ok().and_then(|found| found.time);
        let time = measured.unwrap_or_else(|| begun.elapsed());
        if ui::is_terminal() {
            // To the line's start, and clear it.
            ui::raw("\r\x1b[2K");
        }
        let shown = Shown {
            title,
            result,
            time,
        };
        ui::line(&shown.line());
        let good = shown.result.is_ok();
        self.steps.push(shown);
        good
    }

    /// The table, and the whole time.
    pub(super) fn table(&self, whole: Duration) -> String {
        let rows: Vec<Vec<String>> = self
            .steps
            .iter()
            .map(|step| {
                let (mark, text) = match &step.result {
                    Ok(found) => (ui::paint(Style::Good, "✓"), found.text.as_str()),
                    Err(_) => (ui::paint(Style::Bad, "✗"), "failed, see above"),
                };
                vec![
                    mark,
                    step.title.to_owned(),
                    text.to_owned(),
                    ui::time(step.time),
                ]
            })
            .collect();
        let failed = self
            .steps
            .iter()
            .filter(|step| step.result.is_err())
            .count();
        let verdict = if interrupt::seen() {
            ui::paint(Style::Notice, "stopped before the end")
        } else if failed == 0 {
            ui::paint(Style::Good, "everything works")
        } else {
            ui::paint(Style::Bad, &format!("{failed} failed"))
        };
        format!(
            "\n{}\n\n  {verdict}, {} after the build\n",
            ui::table(&["", "what", "seen", "time"], &rows),
            ui::time(whole)
        )
    }

    /// The exit code for all of it.
    pub(super) fn verdict(&self) -> ExitCode {
        if self.steps.iter().all(|step| step.result.is_ok()) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl Shown {
    fn line(&self) -> String {
        match &self.result {
            Ok(found) => {
                let note = found.note.as_ref().map_or_else(String::new, |note| {
                    format!("\n      {}", ui::paint(Style::Faint, note))
                });
                format!(
                    "  {} {:<31} {}  {}{note}",
                    ui::paint(Style::Good, "✓"),
                    self.title,
                    found.text,
                    ui::paint(Style::Faint, &ui::time(self.time))
                )
            }
            Err(error) => format!(
                "  {} {}\n      {}",
                ui::paint(Style::Bad, "✗"),
                self.title,
                error.replace('\n', "\n      ")
            ),
        }
    }
}
