//! The error of every control answer: what failed, why, and what to do next.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose problem a failure is; decides the HTTP status and the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The request or the configuration is wrong (HTTP 400).
    Invalid,
    /// The caller has not the right (HTTP 403).
    Forbidden,
    /// No such guest, share, port, route (HTTP 404).
    NotFound,
    /// Somebody else has it already (HTTP 409).
    Conflict,
    /// Our own fault, or the machine's (HTTP 500).
    Internal,
    /// This daemon, kernel or VMM cannot do that (HTTP 501).
    Unsupported,
    /// The daemon that should answer is not there (HTTP 503).
    NotRunning,
}

impl FailureKind {
    /// The HTTP status that carries this kind.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Internal => 500,
            Self::Unsupported => 501,
            Self::NotRunning => 503,
        }
    }
}

/// What was tried and why it failed, with the next step apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Whose problem it is.
    pub kind: FailureKind,
    /// What was tried, with which value, and why it failed.
    pub message: String,
    /// The command or change that mends it, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// The same failure with the next step named.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Invalid, message)
    }

    /// What was asked for is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(FailureKind::NotFound, message)
    }

    /// Somebody else has it.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Conflict, message)
    }

    /// Our own fault, or the machine's.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Internal, message)
    }
}
