//! `cargo xtask tidy`: the rules of docs/architecture.md and the house style that a machine can check.
//!
//! No network, no build. Each rule is a function from the source tree to findings.

mod crates;
mod docs;
mod licences;
mod source;
mod tree;

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use crate::ui::{self, Style};
use tree::Tree;

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// The file, relative to the workspace.
    file: String,
    /// The line, counted from 1; 0 when it is about the whole file.
    line: usize,
    /// What is wrong and what would be right.
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

/// Checks everything; failure when a rule is broken.
pub(crate) fn run() -> Result<ExitCode> {
    let tree = Tree::read(&tests::place::workspace())?;
    let mut findings = source::check(&tree);
    findings.extend(docs::check(&tree));
    findings.extend(crates::check()?);
    findings.extend(licences::check()?);
    findings.sort();

    for notice in source::long_files(&tree) {
        ui::line(&format!("{} {notice}", ui::paint(Style::Notice, "long:")));
    }
    for finding in &findings {
        ui::line(&format!("{} {finding}", ui::paint(Style::Bad, "broken:")));
    }
    ui::line(&format!(
        "{} files looked at, {} rules broken",
        tree.files.len(),
        findings.len()
    ));
    Ok(if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
