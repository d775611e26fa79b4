//! What every verb works with: the places, the output, the configuration and
//! the way to the daemons.

use std::cell::RefCell;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use control::api::{Changes, DaemonStatus};
use control::client::Client;
use control::config::{Config, Guest};
use control::failure::{Failure, FailureKind};
use control::names::GuestName;
use control::paths::{Daemon, Paths};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::edit::Draft;
use crate::error::{CliError, Exit, Outcome};
use crate::output::Output;
use crate::progress::Progress;
use crate::rehearsal::{self, Step};
use crate::suggest::nearest;

/// How long a listing waits for a daemon before it goes on without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that was resolved before the verb began.
pub(crate) struct Context {
    pub paths: Paths,
    pub out: Output,
    /// Daemons of which the user knows that they are down.
    told: RefCell<Vec<Daemon>>,
    /// What would be done, under `--dry-run`.
    steps: RefCell<Vec<Step>>,
}

impl Context {
    pub(crate) fn new(paths: Paths, out: Output) -> Self {
        Self {
            paths,
            out,
            told: RefCell::new(Vec::new()),
            steps: RefCell::new(Vec::new()),
        }
    }

    /// Whether nothing is to be done, only noted by [`Context::would`].
    pub(crate) fn is_rehearsal(&self) -> bool {
        self.out.rehearsal
    }

    /// Notes what would be done.
    pub(crate) fn would(&self, step: Step) {
        self.steps.borrow_mut().push(step);
    }

    /// As [`Context::would`]: what follows the word "would".
    pub(crate) fn would_act(&self, what: impl Into<String>) {
        self.would(Step::Act { what: what.into() });
    }

    /// Under `--dry-run`, prints what would have been done.
    pub(crate) fn show_rehearsal(&self) -> Outcome {
        if self.is_rehearsal() {
            return rehearsal::show(&self.out, &self.steps.borrow());
        }
        Ok(())
    }

    pub(crate) fn config(&self) -> Outcome<Config> {
        Ok(Config::load(&self.paths.config)?)
    }

    /// Under `--dry-run` one that refuses changes: a verb that forgot to ask [`Context::post`] fails.
    pub(crate) fn client(&self, daemon: Daemon) -> Client {
        let client = Client::new(self.paths.control_socket(daemon));
        if self.is_rehearsal() {
            return client.only_reading();
        }
        client
    }

    /// What goes on, for who waits longer than a second at a terminal.
    pub(crate) fn progress(&self, what: impl Into<String>) -> Progress {
        Progress::begin(&self.out, what)
    }

    /// Has a daemon do something; no answer under `--dry-run`, where it is noted.
    ///
    /// # Errors
    /// When nobody can wait here. The daemon's own refusal is inside.
    pub(crate) fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        daemon: Daemon,
        path: &str,
        body: &B,
    ) -> Outcome<Result<Option<T>, Failure>> {
        self.order(daemon, ("POST", path, body), async |client| {
            client.post(path, body).await
        })
    }

    /// As [`Context::post`], to take something away.
    ///
    /// # Errors
    /// As [`Context::post`].
    pub(crate) fn delete<B: Serialize, T: DeserializeOwned>(
        &self,
        daemon: Daemon,
        path: &str,
        body: &B,
    ) -> Outcome<Result<Option<T>, Failure>> {
        self.order(daemon, ("DELETE", path, body), async |client| {
            client.delete(path, body).await
        })
    }

    fn order<B: Serialize, T>(
        &self,
        daemon: Daemon,
        (method, path, body): (&'static str, &str, &B),
        send: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
    ) -> Outcome<Result<Option<T>, Failure>> {
        let client = self.client(daemon);
        if !self.is_rehearsal() {
            let _progress = self.progress(format!("{daemon} to answer"));
            return Ok(self.wait(send(&client))?.map(Some));
        }
        // A daemon that does not run fails here as it would fail then.
        let runs: Result<DaemonStatus, Failure> = self.wait(client.get("/v1/status"))?;
        if let Err(failure) = runs {
            return Ok(Err(failure));
        }
        self.would(Step::Ask {
            daemon: daemon.name(),
            method,
            path: path.to_owned(),
            body: serde_json::to_value(body)?,
        });
        Ok(Ok(None))
    }

    /// Runs `future` to its end on this thread; no other thread is made.
    ///
    /// # Errors
    /// When the kernel has no epoll or eventfd to give.
    pub(crate) fn wait<F: Future>(&self, future: F) -> Outcome<F::Output> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| {
            CliError::failure(
                format!("cannot wait for the daemons: {error}"),
                "ulimit -n, is it very low?",
            )
        })?;
        Ok(runtime.block_on(future))
    }

    /// Asks a daemon; one that does not answer in time counts as not running.
    pub(crate) fn ask<T: DeserializeOwned>(
        &self,
        daemon: Daemon,
        path: &str,
    ) -> Result<T, CliError> {
        let _progress = self.progress(format!("{daemon} to answer"));
        self.wait(self.asking(daemon, path))?
    }

    /// As [`Context::ask`], for who has more to wait for.
    pub(crate) async fn asking<T: DeserializeOwned>(
        &self,
        daemon: Daemon,
        path: &str,
    ) -> Result<T, CliError> {
        let client = self.client(daemon);
        match tokio::time::timeout(PATIENCE, client.get(path)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(CliError::not_running(
                format!("{daemon} does not answer within {} s", PATIENCE.as_secs()),
                format!("sharectl logs {daemon}, then: sharectl down && sharectl up"),
            )),
        }
    }

    /// As [`Context::ask`] for a listing that can do without: a daemon that is
    /// down is said on standard error and gives nothing.
    pub(crate) fn ask_if_up<T: DeserializeOwned>(&self, daemon: Daemon, path: &str) -> Option<T> {
        match self.ask(daemon, path) {
            Ok(answer) => Some(answer),
            Err(error) => {
                if !self.told.borrow().contains(&daemon) {
                    self.told.borrow_mut().push(daemon);
                    let what = match error.exit {
                        Exit::NotRunning => format!("{daemon} is not running"),
                        Exit::Failure | Exit::Usage | Exit::Conflict | Exit::TimedOut => {
                            error.to_string()
                        }
                    };
                    self.out
                        .warning(&format!("{what}; this is what the configuration says"));
                }
                None
            }
        }
    }

    pub(crate) fn status(&self, daemon: Daemon) -> Result<DaemonStatus, CliError> {
        self.ask(daemon, "/v1/status")
    }

    /// Has the daemons that run read the changed file; says which of the
    /// `concerned` ones do not run.
    pub(crate) fn reload(&self, concerned: &[Daemon]) -> Outcome {
        let mut absent = Vec::new();
        for daemon in Daemon::ALL {
            let answer: Result<Option<Changes>, Failure> = self.post(daemon, "/v1/reload", &())?;
            match answer {
                Ok(None) => {}
                Ok(Some(done)) => {
                    for problem in done.problems {
                        self.out.warning(&format!("{daemon}: {problem}"));
                    }
                }
                Err(failure) if failure.kind == FailureKind::NotRunning => {
                    if concerned.contains(&daemon) {
                        absent.push(daemon.name());
                    }
                }
                Err(failure) => self.out.warning(&format!("{daemon}: {failure}")),
            }
        }
        if !absent.is_empty() {
            let verb = if absent.len() == 1 { "is" } else { "are" };
            let absent =
                absent
                    .join(" and ")
                    .replacen(" and ", ", ", absent.len().saturating_sub(2));
            let what = format!("{absent} {verb} not running; it takes effect at: sharectl up");
            self.out.note(&what);
            self.would(Step::Note { what });
        }
        Ok(())
    }

    /// Changes the file and has the daemons follow.
    pub(crate) fn change(&self, edit: impl FnOnce(&mut Draft) -> Outcome) -> Outcome<Config> {
        let mut draft = Draft::open(&self.paths.config)?;
        edit(&mut draft)?;
        draft.commit(self)
    }

    /// The guest of the configuration, or the one that was probably meant.
    pub(crate) fn guest<'c>(&self, config: &'c Config, name: &GuestName) -> Outcome<&'c Guest> {
        let known = || config.guests.keys().map(GuestName::as_str);
        config.guests.get(name).ok_or_else(|| {
            let add = format!("sharectl guest add {name}");
            unknown("guest", name.as_str(), known(), &self.paths.config, &add)
        })
    }
}

/// There is no such thing in the configuration.
pub(crate) fn unknown<'n>(
    kind: &str,
    typed: &str,
    known: impl Iterator<Item = &'n str>,
    config: &Path,
    add: &str,
) -> CliError {
    let message = format!("no {kind} \"{typed}\" in {}", config.display());
    let hint = match nearest(typed, known) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if !config.exists() => format!("make the file: sharectl init, then: {add}"),
        None => format!("add it: {add}"),
    };
    CliError::failure(message, hint)
}

/// A change ended at something that is no table in the file.
impl From<crate::edit::document::NotATable> for CliError {
    fn from(error: crate::edit::document::NotATable) -> Self {
        Self::failure(error.to_string(), "sharectl config check")
    }
}
