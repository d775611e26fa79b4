//! What a verb would do, noted instead of done: the one mechanism behind `--dry-run`. Changes of files, requests to
//! daemons and all else pass through the context, which either does them or adds them here.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::error::Outcome;
use crate::import::difference;
use crate::output::{Output, printable};

/// One thing that would be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "do")]
#[schemars(rename = "RehearsedStep")]
pub(crate) enum Step {
    /// A file gets another text.
    Write {
        file: PathBuf,
        /// Unified, in lines of text.
        diff: String,
    },
    /// A daemon is asked for a change.
    Ask {
        daemon: &'static str,
        method: &'static str,
        path: String,
        /// Null where the request has none.
        body: Value,
    },
    /// Anything else: what follows "would".
    Act { what: String },
    /// Something to know about it that is no step.
    Note { what: String },
}

impl Step {
    /// `file` gets `new` in place of `old`, which is empty for a file that is not there.
    pub(crate) fn write(file: &Path, old: &str, new: &str) -> Self {
        Self::Write {
            file: file.to_owned(),
            diff: difference(old, new, &file.display().to_string()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Write { diff, .. } => diff.clone(),
            Self::Ask {
                daemon,
                method,
                path,
                body,
            } => {
                let body = if body.is_null() {
                    String::new()
                } else {
                    format!(" {body}")
                };
                format!("would ask {daemon}: {method} {path}{body}\n")
            }
            Self::Act { what } => format!("would {what}\n"),
            Self::Note { what } => format!("{what}\n"),
        }
    }

    /// A file that would stay as it is.
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Write { diff, .. } if diff.is_empty())
    }
}

/// What `--dry-run` prints.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Rehearsal<'s> {
    dry_run: bool,
    /// In their order.
    steps: Vec<&'s Step>,
}

/// Prints the steps, in order.
pub(crate) fn show(out: &Output, steps: &[Step]) -> Outcome {
    let steps: Vec<&Step> = steps.iter().filter(|step| !step.is_nothing()).collect();
    if out.is_json() {
        return out.json(&Rehearsal {
            dry_run: true,
            steps,
        });
    }
    if steps.is_empty() {
        return out.text("nothing would change\n");
    }
    let text: String = steps.iter().map(|step| step.text()).collect();
    out.text(&printable(&text))
}
