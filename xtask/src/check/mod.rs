//! `cargo xtask test`: every check, cheapest first, each as a step with a time limit.
//!
//! A failed step does not stop the others: one run tells everything. The last line is
//! `N passed, N failed, N skipped`: tests by their number, every other step as one.

mod count;
mod steps;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use tests::{limit, netns, place, skip};

use crate::ui::{self, Style};
use count::Count;
use steps::Step;

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Steps to run [default: all]
    #[arg(value_enum)]
    steps: Vec<Step>,
    /// Of unit and system tests only those whose name contains this
    #[arg(long)]
    name: Option<String>,
}

/// What a step came to.
struct Outcome {
    step: Step,
    count: Count,
    time: Duration,
    /// What to name when it failed: tests, or why.
    failed: Vec<String>,
}

/// Runs the steps; failure when anything failed.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let steps = if arguments.steps.is_empty() {
        Step::ALL.to_vec()
    } else {
        arguments.steps.clone()
    };
    let skips = place::staging()?.join("skips");
    let started = limit::now();
    let mut outcomes = Vec::new();
    for step in steps {
        ui::line(&ui::paint(Style::Bold, &format!("── {}", step.title())));
        let begun = limit::now();
        let (count, failed) = match step.run(arguments.name.as_deref(), &skips) {
            Ok(count) => (count, Vec::new()),
            Err(failure) => {
                ui::complain(&failure.message);
                let mut count = failure.count;
                count.failed = count.failed.max(1);
                let mut failed = failure.tests;
                if failed.is_empty() {
                    failed.push(failure.message);
                }
                (count, failed)
            }
        };
        outcomes.push(Outcome {
            step,
            count,
            time: begun.elapsed(),
            failed,
        });
    }
    place::sweep();
    if tests::user::is_root() {
        netns::sweep();
    }
    let skipped = skipped(&skips)?;
    Ok(report(&outcomes, &skipped, started.elapsed()))
}

/// The skips that the tests wrote down, each `TEST: WHY`.
fn skipped(file: &PathBuf) -> Result<Vec<String>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("read {} ({})", file.display(), skip::SKIPS_VARIABLE))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn report(outcomes: &[Outcome], skipped: &[String], time: Duration) -> ExitCode {
    let mut total = Count::default();
    let mut rows = Vec::new();
    for outcome in outcomes {
        total += outcome.count;
        let (style, word) = if !outcome.failed.is_empty() {
            (Style::Bad, "FAILED")
        } else {
            (Style::Good, "ok")
        };
        rows.push(vec![
            outcome.step.title().to_owned(),
            ui::paint(style, word),
            outcome.count.passed.to_string(),
            outcome.count.failed.to_string(),
            ui::time(outcome.time),
        ]);
    }
    // A skipped test has passed for libtest, which knows no skip at run time.
    total.passed = total.passed.saturating_sub(skipped.len());
    total.skipped += skipped.len();
    ui::line("");
    ui::line(&ui::table(&["step", "", "passed", "failed", "time"], &rows));
    ui::line(&format!("\n  all together {}", ui::time(time)));
    for outcome in outcomes {
        for name in &outcome.failed {
            let name = name.lines().next().unwrap_or_default();
            ui::line(&format!("  failed: {}: {name}", outcome.step.title()));
        }
    }
    for skip in skipped {
        ui::line(&format!("  skipped: {skip}"));
    }
    ui::line("");
    ui::line(&total.to_string());
    if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
