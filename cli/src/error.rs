//! Why a command failed, as the person at the terminal gets it: one message,
//! one hint, one exit code.

use std::fmt;
use std::io;

use control::config::ConfigErrors;
use control::failure::{Failure, FailureKind};

/// What the shell sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Tried and failed.
    Failure = 1,
    /// The command line makes no sense; nothing was tried.
    Usage = 2,
    /// A daemon that is needed does not run.
    NotRunning = 3,
    /// Somebody or something else has it already.
    Conflict = 4,
    /// What was waited for did not come in time.
    TimedOut = 5,
}

/// A failed command.
#[derive(Debug)]
pub(crate) struct CliError {
    pub exit: Exit,
    pub message: String,
    pub hint: Option<String>,
    /// The reader of our output went away: nothing to say, and no failure.
    pub quiet: bool,
}

/// What every verb returns.
pub(crate) type Outcome<T = ()> = Result<T, CliError>;

impl CliError {
    fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: Some(hint.into()),
            quiet: false,
        }
    }

    pub(crate) fn failure(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message, hint)
    }

    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, hint)
    }

    pub(crate) fn not_running(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::NotRunning, message, hint)
    }

    pub(crate) fn conflict(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Conflict, message, hint)
    }

    pub(crate) fn timed_out(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::TimedOut, message, hint)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        let (exit, next) = match failure.kind {
            FailureKind::NotRunning => (Exit::NotRunning, "start the daemons: sharectl up"),
            FailureKind::Conflict => (Exit::Conflict, "sharectl status shows who has it"),
            FailureKind::NotFound => (Exit::Failure, "sharectl status lists what there is"),
            FailureKind::Forbidden => (
                Exit::Failure,
                "run it as the user whose daemons these are, or as root",
            ),
            FailureKind::Invalid => (Exit::Failure, "sharectl config check"),
            FailureKind::Internal | FailureKind::Unsupported => {
                (Exit::Failure, "sharectl doctor, and sharectl logs")
            }
        };
        let hint = failure.hint.unwrap_or_else(|| next.to_owned());
        Self::new(exit, failure.message, hint)
    }
}

impl From<ConfigErrors> for CliError {
    fn from(errors: ConfigErrors) -> Self {
        let hint = format!(
            "mend {}, then: sharectl config check",
            errors.file.display()
        );
        Self::failure(errors.to_string(), hint)
    }
}

/// Writing our own output failed; other input and output is wrapped where it happens.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        let quiet = error.kind() == io::ErrorKind::BrokenPipe;
        Self {
            quiet,
            ..Self::failure(
                format!("cannot write the output: {error}"),
                "is the disk full?",
            )
        }
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        if error.is_io() {
            return io::Error::from(error).into();
        }
        Self::failure(
            format!("cannot write the answer as JSON: {error}"),
            "use --format table, and report this",
        )
    }
}
