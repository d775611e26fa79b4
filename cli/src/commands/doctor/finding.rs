//! What a check saw, and what would mend it.

use schemars::JsonSchema;
use serde::Serialize;

use super::fix::Repair;

/// How it is with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    Ok,
    /// Something is missing that only some uses need.
    Warn,
    Fail,
    /// There is nothing to look at, or it cannot be looked at.
    Skipped,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Finding {
    /// The check's own id, or CHECK.THING where it looks at several; the same in every run and version.
    pub id: String,
    /// The same for people.
    pub title: String,
    pub state: State,
    /// What was seen.
    pub evidence: String,
    /// The command or change that mends it.
    pub fix: Option<String>,
    /// What `--fix` does about it.
    #[serde(skip)]
    pub repair: Option<Repair>,
}

impl Finding {
    fn new(
        id: impl Into<String>,
        title: impl Into<String>,
        state: State,
        evidence: String,
    ) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            state,
            evidence,
            fix: None,
            repair: None,
        }
    }

    /// The thing that a check looks at as a whole has the check's id.
    pub(super) fn about(id: &str, title: &str) -> Subject {
        Subject {
            id: id.to_owned(),
            title: title.to_owned(),
        }
    }

    /// `--fix` does this about it.
    pub(super) fn mended_by(mut self, repair: Repair) -> Self {
        self.repair = Some(repair);
        self
    }
}

/// What a finding is about, before it is known how it is.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    id: String,
    title: String,
}

impl Subject {
    /// One of several things that a check looks at.
    pub(super) fn of(check: &str, thing: impl std::fmt::Display) -> Self {
        Self {
            id: format!("{check}.{thing}"),
            title: format!("{} {thing}", check.replace('-', " ")),
        }
    }

    pub(super) fn ok(self, evidence: impl Into<String>) -> Finding {
        Finding::new(self.id, self.title, State::Ok, evidence.into())
    }

    pub(super) fn skipped(self, why: impl Into<String>) -> Finding {
        Finding::new(self.id, self.title, State::Skipped, why.into())
    }

    pub(super) fn warns(self, evidence: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding {
            fix: Some(fix.into()),
            ..Finding::new(self.id, self.title, State::Warn, evidence.into())
        }
    }

    pub(super) fn fails(self, evidence: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding {
            state: State::Fail,
            ..self.warns(evidence, fix)
        }
    }
}
