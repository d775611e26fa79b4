//! The daemon: a configuration becomes doors for guests, and requests on the control socket are answered.
//!
//! Guests are served by threads of their own (serve/); nothing here is on their way.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::api::{Changes, DaemonStatus, GuestMountStatus, ShareStatus};
use control::config::{Config, ConfigErrors, Surroundings, Texts};
use control::events::{EventBody, EventLog, timestamp_now};
use control::failure::{Failure, FailureKind};
use control::following::{Following, Reason};
use control::paths::{Daemon, Paths};
use control::reloads::Reloads;
use control::server::Api;
use control::signals::{Order, Orders};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

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
    following: Arc<Following>,
    reloads: Arc<Reloads>,
}

/// A configuration that runs, its texts where they are known, and what is wrong with the file if it is not what
/// that says now.
#[derive(Debug)]
pub struct Configuration {
    config: Config,
    texts: Option<Texts>,
    refused: Option<ConfigErrors>,
}

/// Reads the configuration. A worker that follows another goes on with the one that was in force where the file
/// has mistakes by now.
///
/// # Errors
/// The file's mistakes, where nothing was in force before.
pub fn configuration(path: &Path) -> Result<Configuration, ConfigErrors> {
    let left = keep::config::left().and_then(|text| Texts::unpack(&text));
    // Without a file, or with an empty one, nothing is shared. Where there was more, its disk may be away, or an
    // editor at work, and guests wait.
    let has_text = |texts: &Texts| {
        texts
            .main
            .as_ref()
            .is_some_and(|text| !text.trim().is_empty())
    };
    let had_text = left.as_ref().is_some_and(has_text);
    let read = load(path).and_then(|(texts, config)| match &texts.main {
        None if had_text => Err(ConfigErrors::one(path, None, "the file is gone")),
        Some(_) if had_text && !has_text(&texts) => {
            Err(ConfigErrors::one(path, None, "the file is empty"))
        }
        Some(_) | None => Ok((texts, config)),
    });
    let errors = match read {
        Ok((texts, config)) => {
            keep::config::put(&texts.pack());
            return Ok(Configuration {
                config,
                texts: Some(texts),
                refused: None,
            });
        }
        Err(errors) => errors,
    };
    let in_force = left.and_then(|texts| {
        let config = Config::of_texts(&texts, path, &Surroundings::of_process()).ok()?;
        Some((texts, config))
    });
    match in_force {
        Some((texts, config)) => {
            tracing::error!("{errors}");
            tracing::warn!("guests go on with the configuration as it was before");
            Ok(Configuration {
                config,
                texts: Some(texts),
                refused: Some(errors),
            })
        }
        None => Err(errors),
    }
}

fn load(path: &Path) -> Result<(Texts, Config), ConfigErrors> {
    let texts = Texts::read(path)?;
    let config = Config::of_texts(&texts, path, &Surroundings::of_process())?;
    Ok((texts, config))
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
            problems: self.problems(),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.following.problems();
        problems.extend(self.shares().problems());
        problems.extend(keep::process::not_begun());
        problems
    }

    /// Reads the file again; one with mistakes changes nothing.
    async fn reload(self, reason: Reason) -> Result<Changes, Failure> {
        let work = move || {
            let _turn = self.reloads.blocking_turn()?;
            let config = self.following.read(reason).inspect_err(|failure| {
                self.events.publish(EventBody::ConfigRefused {
                    message: failure.message.clone(),
                });
            })?;
            if let Some(texts) = self.following.in_force() {
                keep::config::put(&texts.pack());
            }
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

    /// The same where nobody waits for the answer: a mount may take its time, and the loop must not.
    async fn reload_and_tell(self, reason: Reason) {
        // A refusal is in the log already.
        if let Ok(Changes { changes, problems }) = self.reload(reason).await {
            changes.iter().for_each(|change| tracing::info!("{change}"));
            problems
                .iter()
                .for_each(|problem| tracing::warn!("{problem}"));
        }
    }

    /// Ends all that runs, and all that a reload makes that is under way still.
    async fn stop(&self) {
        self.reloads.end().await;
        self.shares().close();
    }

    /// Reloads whenever the files change.
    async fn follow_config(self, mut changes: mpsc::Receiver<()>) {
        while changes.recv().await.is_some() {
            self.clone().reload_and_tell(Reason::Noticed).await;
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
    Configuration {
        config,
        texts,
        refused,
    }: Configuration,
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
        following: Following::of((Daemon::Sharefs, &paths.config), (texts, &config), refused),
        reloads: Arc::default(),
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
    let follower = tokio::spawn(state.clone().follow_config(state.following.changes()));
    loop {
        match orders.next().await {
            Order::Stop => break,
            Order::Reload => drop(tokio::spawn(state.clone().reload_and_tell(Reason::Asked))),
        }
    }
    follower.abort();
    drop(stop);
    if let Err(error) = serving.await {
        tracing::debug!(%error, "control server");
    }
    state.stop().await;
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
            |state, _, ()| state.reload(Reason::Asked),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A daemon in that folder, which nothing was made of yet.
    fn begin(folder: &tempfile::TempDir) -> State {
        let at = |name: &str| folder.path().join(name);
        let paths = Paths {
            config: at("config.toml"),
            runtime: at("run"),
            state: at("state"),
        };
        for made in ["shared", "run"] {
            std::fs::create_dir(at(made)).unwrap();
        }
        let shared = at("shared").display().to_string();
        let text = format!("[guest.dev]\n[share.d]\npath = {shared:?}\n");
        std::fs::write(&paths.config, text).unwrap();
        let (texts, config) = load(&paths.config).unwrap();
        let events = EventLog::new();
        let descriptors = Descriptors::new(1000);
        let mounter = Mounter::absent();
        let shares = Shares::new(paths.clone(), events.clone(), descriptors, mounter);
        let following = Following::of(
            (Daemon::Sharefs, &paths.config),
            (Some(texts), &config),
            None,
        );
        State {
            shares: Arc::new(Mutex::new(shares)),
            following,
            reloads: Arc::default(),
            paths,
            events,
            started: timestamp_now(),
        }
    }

    /// Names of families in what is written of them.
    fn families(text: &str) -> impl Iterator<Item = &str> {
        let word = |byte: char| byte.is_ascii_lowercase() || byte == '_';
        text.split(move |byte| !word(byte))
            .filter(|word| word.starts_with("sharectl_sharefs_") && !word.ends_with('_'))
    }

    #[test]
    fn every_number_that_is_written_about_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let page = metrics::page(&begin(&folder).shares(), 0);
        let counted: Vec<&str> = families(&page).collect();
        let written = concat!(
            include_str!("../README.md"),
            include_str!("../../docs/restarts.md")
        );
        assert!(families(written).count() >= 6);
        for family in families(written) {
            assert!(counted.contains(&family), "{family}");
        }
    }

    #[tokio::test]
    async fn a_reload_that_comes_behind_the_stop_makes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let state = begin(&folder);
        let reload = || state.clone().reload(Reason::Asked);
        let doors = || std::fs::read_dir(at("run/guest/dev")).map_or(0, Iterator::count);
        reload().await.unwrap();
        assert_eq!(state.shares().status().len(), 1);
        assert!(doors() > 0);
        state.stop().await;
        assert_eq!(doors(), 0);
        let said = reload().await;
        assert_eq!(doors(), 0, "{said:?}");
        assert_eq!(said.unwrap_err().kind, FailureKind::NotRunning);
    }
}
