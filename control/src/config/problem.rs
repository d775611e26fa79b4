//! What is wrong with a configuration: file, line, value, fix.

use std::fmt;
use std::path::PathBuf;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, where it is another than the configuration itself: what was accepted of a project.
    pub file: Option<PathBuf>,
    /// The line it is on, from 1; none where the whole file is meant.
    pub line: Option<usize>,
    /// What is wrong, with the value.
    pub message: String,
    /// What would mend it.
    pub hint: Option<String>,
}

/// Every mistake found in one file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file as the user knows it.
    pub file: PathBuf,
    /// In the order of their lines.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let file = problem.file.as_ref().unwrap_or(&self.file);
            write!(f, "{}", file.display())?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": {}", problem.message)?;
            if let Some(hint) = &problem.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigErrors> for crate::failure::Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::invalid(errors.to_string()).with_hint("sharectl config check")
    }
}

/// Collects problems while a file is read; knows how byte offsets become lines.
pub(super) struct Findings<'t> {
    text: &'t str,
    parts: Vec<Part>,
    problems: Vec<Problem>,
}

/// From an offset on, the text is that of another file.
pub(super) struct Part {
    pub(super) start: usize,
    pub(super) file: PathBuf,
    /// What mends any mistake of it.
    pub(super) hint: String,
}

impl<'t> Findings<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            parts: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// What follows from `part.start` on is another file's; parts come in order.
    pub(super) fn begin(&mut self, part: Part) {
        self.parts.push(part);
    }

    fn part(&self, offset: usize) -> Option<&Part> {
        self.parts.iter().rfind(|part| part.start <= offset)
    }

    /// The line, from 1, of a byte offset.
    pub(super) fn line(&self, offset: usize) -> usize {
        let start = self.part(offset).map_or(0, |part| part.start);
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        before.iter().filter(|b| **b == b'\n').count() + 1
    }

    pub(super) fn add(
        &mut self,
        offset: Option<usize>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let mut hint = hint.into();
        let part = offset.and_then(|offset| self.part(offset));
        if let Some(part) = part.filter(|part| !part.hint.is_empty()) {
            if !hint.is_empty() {
                hint.push_str(", or ");
            }
            hint.push_str(&part.hint);
        }
        let file = part.map(|part| part.file.clone());
        self.problems.push(Problem {
            file,
            line: offset.map(|o| self.line(o)),
            message: message.into(),
            hint: (!hint.is_empty()).then_some(hint),
        });
    }

    pub(super) fn finish(mut self) -> Vec<Problem> {
        self.problems
            .sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
        self.problems
    }
}
