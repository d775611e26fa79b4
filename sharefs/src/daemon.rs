//! The daemon: a configuration becomes doors for guests, and requests on the control socket are answered.
//!
//! Guests are served by threads of their own (serve/); nothing here is on their way.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::api::{Changes, DaemonStatus, GuestMountStatus, ShareStatus};
use control::config::{Config, ConfigErrors, Problem, Surroundings};
use control::events::{EventBody, EventLog, timestamp_now};
use control::failure::{Failure, FailureKind};
use control::paths::Paths;
use control::server::Api;
use control::signals::{Order, Orders};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use crate::keep;
use crate::metrics;
use crate::mounter::Mounter;
use crate::shares::Shares;
use crate::tree::Timestamp;
use crate::tree::host::descriptors::Descriptors;

/// What handlers share.
#[derive(Clone)]
struct State {
    shares: Arc<Mutex<Shares>>,
    paths: Paths,
    events: EventLog,
    started: String,
    /// What is wrong with the file, while the configuration in force is not what it says.
    refused: Arc<Mutex<Option<String>>>,
}

/// A configuration, and what is wrong with the file if it is not what that says now.
pub type Configuration = (Config, Option<ConfigErrors>);

/// Reads the configuration. A worker that follows another goes on with the one that was in force where the file
/// has mistakes by now.
///
/// # Errors
/// The file's mistakes, where nothing was in force before.
pub fn configuration(path: &Path) -> Result<Configuration, ConfigErrors> {
    let left = keep::config::left();
    // Without a file nothing is shared. Where there was one, its disk may be away, and guests wait.
    let is_gone = left.as_ref().is_some_and(|text| !text.is_empty()) && !path.exists();
    let read = if is_gone { Err(gone(path)) } else { load(path) };
    let errors = match read {
        Ok(config) => return Ok((config, None)),
        Err(errors) => errors,
    };
    let in_force =
        left.and_then(|text| Config::parse(&text, path, &Surroundings::of_process()).ok());
    match in_force {
        Some(config) => {
            tracing::error!("{errors}");
            tracing::warn!("guests go on with the configuration as it was before");
            Ok((config, Some(errors)))
        }
        None => Err(errors),
    }
}

fn gone(path: &Path) -> ConfigErrors {
    let problem = Problem {
        line: None,
        message: "there is no such file any more".to_owned(),
        hint: None,
    };
    ConfigErrors {
        file: path.to_owned(),
        problems: vec![problem],
    }
}

/// What the file says, which is in force from now on.
fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let text = Config::text(path)?;
    let config = Config::parse(&text, path, &Surroundings::of_process())?;
    keep::config::put(&text);
    Ok(config)
}

/// One sentence for `sharectl status`.
fn refusal(errors: &ConfigErrors) -> String {
    let first = errors.problems.first();
    let line = first.and_then(|problem| problem.line);
    format!(
        "{}{}: {}; sharefs goes on with what the file said before: sharectl config check, mend it, then sharectl restart sharefs",
        errors.file.display(),
        line.map_or_else(String::new, |line| format!(":{line}")),
        first.map_or("it cannot be read", |problem| &problem.message),
    )
}

impl State {
    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, Option<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> DaemonStatus {
        let refused = self.refused().clone();
        DaemonStatus {
            daemon: "sharefs".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started.clone(),
            config: self.paths.config.clone(),
            newest_event: self.events.newest(),
            problems: refused
                .into_iter()
                .chain(self.shares().problems())
                .collect(),
        }
    }

    /// Reads the file again; one with mistakes changes nothing.
    async fn reload(self) -> Result<Changes, Failure> {
        let work = move || {
            let config = load(&self.paths.config).map_err(|errors| {
                let message = errors.to_string();
                self.events.publish(EventBody::ConfigRefused {
                    message: message.clone(),
                });
                Failure::new(FailureKind::Invalid, message)
            })?;
            *self.refused() = None;
            let changes = self.shares().apply(&config, now());
            self.events.publish(EventBody::ConfigReloaded {
                changes: changes.changes.clone(),
            });
            Ok(changes)
        };
        // Closing a door waits for its thread.
        match tokio::task::spawn_blocking(work).await {
            Ok(answer) => answer,
            Err(error) => Err(Failure::internal(format!(
                "the reload did not end: {error}"
            ))),
        }
    }
}

/// Serves until told to stop. `listener` is bound already, `mounter` started, and the process set up by `main`.
///
/// `ready` is called when every door that can be opened is open.
///
/// # Errors
/// When signals cannot be taken over.
pub async fn run(
    paths: Paths,
    (config, errors): Configuration,
    (listener, mounter): (UnixListener, Mounter),
    ready: impl FnOnce(),
) -> std::io::Result<()> {
    let mut orders = Orders::listen()?;
    let events = EventLog::new();
    let shares = Shares::new(
        paths.clone(),
        events.clone(),
        Descriptors::of_process(),
        mounter,
    );
    let state = State {
        shares: Arc::new(Mutex::new(shares)),
        paths,
        events: events.clone(),
        started: timestamp_now(),
        refused: Arc::new(Mutex::new(errors.as_ref().map(refusal))),
    };
    for change in state.shares().apply(&config, now()).changes {
        tracing::info!("{change}");
    }
    if let Some(errors) = errors {
        let message = errors.to_string();
        events.publish(EventBody::ConfigRefused { message });
    }
    events.publish(EventBody::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    keep::begin_to_serve();
    ready();

    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let serving = tokio::spawn(control::server::serve(listener, api(&state), stopped));
    loop {
        match orders.next().await {
            Order::Stop => break,
            Order::Reload => match state.clone().reload().await {
                Ok(changes) => {
                    let Changes { changes, problems } = changes;
                    changes.iter().for_each(|change| tracing::info!("{change}"));
                    problems
                        .iter()
                        .for_each(|problem| tracing::warn!("{problem}"));
                }
                Err(failure) => tracing::error!("{}", failure.message),
            },
        }
    }
    drop(stop);
    if let Err(error) = serving.await {
        tracing::debug!(%error, "control server");
    }
    state.shares().close();
    Ok(())
}

fn now() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timestamp {
        seconds: now.tv_sec,
        nanoseconds: u32::try_from(now.tv_nsec).unwrap_or_default(),
    }
}

/// The keeper looks at the program first, and this process does not hear the answer if that will do.
async fn restart() -> Result<(), Failure> {
    const LOOK: Duration = Duration::from_millis(20);
    let refused = |message: String| Failure::new(FailureKind::Unsupported, message);
    let before = keep::process::unsuited();
    keep::process::make_room().map_err(|_| {
        let message = "this sharefs runs without a keeper, and cannot be followed by another";
        refused(message.to_owned())
    })?;
    // Longer than the keeper waits for the program.
    for _ in 0..500 {
        tokio::time::sleep(LOOK).await;
        match keep::process::unsuited() {
            now if now.0 == before.0 => {}
            (_, None) => {
                return Err(refused(
                    "the program that is installed does not say how it keeps the state of guests: it is not \
                     sharefs, or a much older one"
                        .to_owned(),
                ));
            }
            (_, Some(layout)) => {
                return Err(refused(format!(
                    "the program that is installed keeps the state of guests in another way (layout {layout:x}, \
                     here {:x}): they would lose what they have mounted and open",
                    keep::layout()
                )));
            }
        }
    }
    Err(Failure::internal("the keeper does not answer".to_owned()))
}

fn api(state: &State) -> Api<State> {
    Api::new("sharectl-sharefs", state.clone())
        .get::<DaemonStatus, _, _>("/v1/status", "The daemon", |state, _| async move {
            Ok(state.status())
        })
        .get::<Vec<ShareStatus>, _, _>(
            "/v1/shares",
            "Shares and their devices",
            |state, _| async move { Ok(state.shares().status()) },
        )
        .get::<Vec<GuestMountStatus>, _, _>(
            "/v1/guest-mounts",
            "Guests' folders on the host",
            |state, _| async move { Ok(state.shares().guest_mounts()) },
        )
        .post::<(), Changes, _, _>(
            "/v1/reload",
            "Read the configuration again",
            |state, _, ()| state.reload(),
        )
        .post::<(), (), _, _>(
            "/v1/restart",
            "Make room for the program that is installed now; guests wait until it goes on",
            |_, _, ()| restart(),
        )
        .text(
            "/metrics",
            "Counters in Prometheus' format",
            |state| async move {
                let events = state.events.newest();
                Ok(metrics::page(&state.shares(), events))
            },
        )
        .events(state.events.clone())
}
