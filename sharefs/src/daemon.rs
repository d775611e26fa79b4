//! The daemon: a configuration becomes doors for guests, and requests on the control socket are answered.
//!
//! Guests are served by threads of their own (serve/); nothing here is on their way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control::api::{Changes, DaemonStatus, GuestMountStatus, ShareStatus};
use control::config::Config;
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
}

impl State {
    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> DaemonStatus {
        DaemonStatus {
            daemon: "sharefs".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started.clone(),
            config: self.paths.config.clone(),
            newest_event: self.events.newest(),
            problems: self.shares().problems(),
        }
    }

    /// Reads the file again; one with mistakes changes nothing.
    async fn reload(self) -> Result<Changes, Failure> {
        let work = move || {
            let config = Config::load(&self.paths.config).map_err(|errors| {
                let message = errors.to_string();
                self.events.publish(EventBody::ConfigRefused {
                    message: message.clone(),
                });
                Failure::new(FailureKind::Invalid, message)
            })?;
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
    config: Config,
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
    };
    for change in state.shares().apply(&config, now()).changes {
        tracing::info!("{change}");
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

fn restart() -> Result<(), Failure> {
    keep::process::make_room().map_err(|_| {
        Failure::new(
            FailureKind::Unsupported,
            "this sharefs runs without a keeper, and cannot be followed by another".to_owned(),
        )
    })
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
            |_, _, ()| async { restart() },
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
