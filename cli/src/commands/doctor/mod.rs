//! `sharectl doctor`: what could be wrong, looked at one by one, each with
//! what was seen and the command that mends it. It changes nothing.

mod machine;
mod ours;
mod sandbox;

use std::process::ExitCode;

use serde::Serialize;

use crate::context::Context;
use crate::error::Outcome;
use crate::output::printable;

/// Look for what is wrong, and say how to mend it
///
/// Every check is made as the user who runs this. The exit code is 1 when a
/// check failed; a warning is something that only some uses need.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl doctor\n  sharectl doctor --format json")]
pub(crate) struct Args {}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Ok,
    /// Something is missing that only some uses need.
    Warning,
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub name: &'static str,
    pub state: State,
    /// What was seen.
    pub evidence: String,
    /// The command or change that mends it.
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, evidence: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            evidence: evidence.into(),
            fix: None,
        }
    }

    fn warning(name: &'static str, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Warning,
            evidence: evidence.into(),
            fix: Some(fix.into()),
        }
    }

    fn failed(name: &'static str, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            state: State::Failed,
            ..Self::warning(name, evidence, fix)
        }
    }
}

#[derive(Serialize)]
struct Numbered {
    number: usize,
    #[serde(flatten)]
    check: Check,
}

pub(crate) fn run(context: &Context, _: Args) -> Outcome<ExitCode> {
    let progress = context.progress("the checks");
    let ours = ours::checks(context).into_iter();
    let checks = ours.chain(sandbox::check(context)).chain(machine::checks());
    let checks: Vec<Numbered> = checks
        .zip(1..)
        .map(|(check, number)| Numbered { number, check })
        .collect();
    drop(progress);
    if context.out.is_json() {
        context.out.json(&checks)?;
    } else {
        context.out.text(&as_text(&checks, context.out.quiet))?;
    }
    let failed = checks
        .iter()
        .any(|numbered| numbered.check.state == State::Failed);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// With `quiet` only what is not well.
fn as_text(checks: &[Numbered], quiet: bool) -> String {
    let mut text = String::new();
    for Numbered { number, check } in checks {
        let state = match check.state {
            State::Ok if quiet => continue,
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed => "FAILED",
        };
        let evidence =
            printable(&check.evidence).replace('\n', "\n                                   ");
        text.push_str(&format!(
            "{number:>2}  {state:<7}  {:<20}  {evidence}\n",
            check.name
        ));
        if let Some(fix) = &check.fix {
            text.push_str(&format!("{:>33}  fix: {}\n", "", printable(fix)));
        }
    }
    let count = |state: State| {
        checks
            .iter()
            .filter(|numbered| numbered.check.state == state)
            .count()
    };
    text.push_str(&format!(
        "{} failed, {} warnings, {} ok\n",
        count(State::Failed),
        count(State::Warning),
        count(State::Ok)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_has_number_evidence_and_fix() {
        let checks = [
            Numbered {
                number: 1,
                check: Check::ok("a", "seen"),
            },
            Numbered {
                number: 2,
                check: Check::failed("b", "one\ntwo", "do this"),
            },
        ];
        let expected = [
            " 1  ok       a                     seen",
            " 2  FAILED   b                     one",
            "                                   two",
            "                                   fix: do this",
            "1 failed, 0 warnings, 1 ok",
            "",
        ];
        assert_eq!(
            as_text(&checks, false).lines().collect::<Vec<_>>(),
            expected[..5]
        );
        assert_eq!(
            as_text(&checks, true).lines().collect::<Vec<_>>(),
            expected[1..5]
        );
    }
}
