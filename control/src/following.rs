//! The configuration as a daemon follows it: noticed when it changes, compared with what runs, and kept from
//! stopping what runs when it is wrong.
//!
//! Files are watched by name (`crate::watch`), so an editor may replace them, write them anew in place, or have
//! them behind symbolic links. A command that has changed the file asks for a reload itself; the watch then
//! finds nothing new.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::{Config, ConfigErrors, Surroundings, Texts, projects_folder};
use crate::events::timestamp_now;
use crate::failure::Failure;
use crate::paths::Daemon;
use crate::watch::Watcher;

/// Nothing has happened to the files for so long: the editor is done.
const SETTLE: Duration = Duration::from_millis(200);
/// A file that is written without rest is looked at all the same.
const LONGEST_SETTLE: Duration = Duration::from_secs(2);
/// After a watch that broke, before the next.
const MEND_PAUSE: Duration = Duration::from_secs(5);
/// A diff beyond this is cut in the log.
const MOST_LINES: usize = 200;

/// Why the files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Somebody asked: a file that is not there reads as an empty one.
    Asked,
    /// They changed: a file that is gone, or empty as while it is written anew, changes nothing.
    Noticed,
}

/// The configuration on the disk beside the one that runs.
#[derive(Debug)]
pub struct Following {
    daemon: Daemon,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What was found at the last look.
    seen: Option<Result<Texts, ConfigErrors>>,
    /// The texts of what runs; none where that is not known.
    good: Option<Texts>,
    runs: Config,
    /// Since when the disk has something else than what runs, and why.
    refused: Option<(String, ConfigErrors)>,
    /// Why changes are not noticed.
    blind: Option<String>,
}

impl Following {
    /// `config` was read from `path` a moment ago, and runs.
    #[must_use]
    pub fn new(daemon: Daemon, path: &Path, config: &Config) -> Arc<Self> {
        // Changed meanwhile: then the first look finds something new.
        let texts = Texts::read(path).ok().filter(|texts| {
            let again = Config::of_texts(texts, path, &Surroundings::of_process());
            again.is_ok_and(|again| again == *config)
        });
        Self::of((daemon, path), (texts, config), None)
    }

    /// `config` runs, and `refused` tells why it is not what the files say now. Without `texts` of what runs the
    /// first look finds a change.
    #[must_use]
    pub fn of(
        (daemon, path): (Daemon, &Path),
        (texts, config): (Option<Texts>, &Config),
        refused: Option<ConfigErrors>,
    ) -> Arc<Self> {
        // What was refused is looked at once more, since it may be mended by now.
        let seen = texts.clone().filter(|_| refused.is_none()).map(Ok);
        Arc::new(Self {
            daemon,
            // A bare name has no folder to be watched.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            state: Mutex::new(State {
                seen,
                good: texts,
                runs: config.clone(),
                refused: refused.map(|errors| (timestamp_now(), errors)),
                blind: None,
            }),
        })
    }

    /// The texts of what runs; none where that is not known.
    #[must_use]
    pub fn in_force(&self) -> Option<Texts> {
        self.lock().good.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a plain assignment, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files again, and says in the log what is new. What this returns is to run from now on.
    ///
    /// # Errors
    /// Every mistake of the files; what runs is to go on then.
    pub fn read(&self, reason: Reason) -> Result<Config, Failure> {
        let found = Texts::read(&self.path);
        let mut state = self.lock();
        state.seen = Some(found.clone());
        let checked = found.and_then(|texts| {
            if reason == Reason::Noticed {
                self.refuse_nothing(&texts, &state)?;
            }
            let config = Config::of_texts(&texts, &self.path, &Surroundings::of_process())?;
            Ok((texts, config))
        });
        match checked {
            Ok((texts, config)) => {
                self.log_change(&state, &texts, &config);
                state.refused = None;
                state.good = Some(texts);
                state.runs = config.clone();
                Ok(config)
            }
            Err(errors) => {
                tracing::warn!(
                    "the configuration is refused, what runs goes on: {}",
                    short(&errors)
                );
                let message = errors.to_string();
                let since = match state.refused.take() {
                    Some((since, _)) => since,
                    None => timestamp_now(),
                };
                state.refused = Some((since, errors));
                Err(Failure::invalid(message)
                    .with_hint("sharectl config check; what ran before goes on"))
            }
        }
    }

    /// As [`Following::read`], without holding up whoever waits: the files may be on a slow disk.
    ///
    /// # Errors
    /// As there.
    pub async fn read_apart(self: &Arc<Self>, reason: Reason) -> Result<Config, Failure> {
        let following = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || following.read(reason)).await;
        read.unwrap_or_else(|error| {
            Err(Failure::internal(format!(
                "reading the configuration: {error}"
            )))
        })
    }

    /// An empty file is a good configuration, and would stop everything.
    fn refuse_nothing(&self, texts: &Texts, state: &State) -> Result<(), ConfigErrors> {
        let before = state.good.as_ref().and_then(|good| good.main.as_deref());
        if before.is_none_or(|before| before.trim().is_empty()) {
            return Ok(());
        }
        let what = match texts.main.as_deref().map(str::trim) {
            None => "the file is gone",
            Some("") => "the file is empty",
            Some(_) => return Ok(()),
        };
        let mut errors = ConfigErrors::one(&self.path, None, what);
        for problem in &mut errors.problems {
            let hint = "put it back, or start from nothing: sharectl down && sharectl up";
            problem.hint = Some(hint.to_owned());
        }
        Err(errors)
    }

    fn log_change(&self, state: &State, texts: &Texts, config: &Config) {
        let healed = state.refused.is_some();
        let nothing = Texts::default();
        let diff = state
            .good
            .as_ref()
            .unwrap_or(&nothing)
            .diff(texts, &self.path);
        match (diff.is_empty(), state.runs == *config) {
            (true, _) if healed => {
                tracing::info!("the configuration is good again, and as it runs")
            }
            (true, _) => tracing::debug!("the configuration was read again; it is as before"),
            (false, true) => {
                tracing::info!(
                    "the configuration changed, not what it means:\n{}",
                    cut(&diff)
                );
            }
            (false, false) => tracing::info!("the configuration changed:\n{}", cut(&diff)),
        }
        for sentence in not_live(self.daemon, &state.runs, config) {
            tracing::warn!("{sentence}");
        }
    }

    /// What a person should know of it.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let state = self.lock();
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        let name = name.display();
        let refused = state.refused.as_ref().map(|(since, errors)| {
            format!(
                "{name} has an error since {since}: running with the last good one; {}",
                short(errors)
            )
        });
        refused.into_iter().chain(state.blind.clone()).collect()
    }

    /// The last refusal, in full.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let state = self.lock();
        state.refused.as_ref().map(|(_, errors)| errors.to_string())
    }

    async fn differs(&self) -> bool {
        let path = self.path.clone();
        let found = tokio::task::spawn_blocking(move || Texts::read(&path)).await;
        // A look that failed is taken for a change: the reader tells what is wrong.
        found.map_or(true, |found| self.lock().seen.as_ref() != Some(&found))
    }

    /// Watches the files for as long as somebody listens: a message when they are no longer what was read
    /// last. Must be called inside a tokio runtime.
    #[must_use]
    pub fn changes(self: &Arc<Self>) -> mpsc::Receiver<()> {
        // One that waits stands for all: the reader looks at the files as they are then.
        let (changed, changes) = mpsc::channel(1);
        let following = Arc::clone(self);
        tokio::spawn(async move {
            let closed = changed.clone();
            tokio::select! {
                () = following.follow(&changed) => {}
                () = closed.closed() => {}
            }
        });
        changes
    }

    async fn follow(&self, changed: &mpsc::Sender<()>) {
        loop {
            if let Err(error) = self.watch(changed).await {
                let blind = format!(
                    "changes of {} are not noticed by themselves: {error}",
                    self.path.display()
                );
                if self.lock().blind.replace(blind.clone()).as_ref() != Some(&blind) {
                    tracing::warn!("{blind}");
                }
            }
            tokio::time::sleep(MEND_PAUSE).await;
        }
    }

    async fn watch(&self, changed: &mpsc::Sender<()>) -> std::io::Result<()> {
        let mut watcher = Watcher::new()?;
        let projects = projects_folder(&self.path).join("*.toml");
        loop {
            // Watch first, look then: a change between the two is seen.
            watcher.follow_all(&[&self.path, &projects])?;
            self.lock().blind = None;
            if self.differs().await && changed.try_send(()).is_err() {
                // Full: the reader is told already.
                tracing::trace!("the configuration changed once more");
            }
            watcher.changed().await?;
            settle(&mut watcher).await?;
        }
    }
}

/// Waits until the files are left alone.
async fn settle(watcher: &mut Watcher) -> std::io::Result<()> {
    let quiet = async {
        while let Ok(more) = tokio::time::timeout(SETTLE, watcher.changed()).await {
            more?;
        }
        Ok(())
    };
    tokio::time::timeout(LONGEST_SETTLE, quiet)
        .await
        .unwrap_or(Ok(()))
}

/// The first mistake in one line, and how many more there are.
fn short(errors: &ConfigErrors) -> String {
    let text = errors.to_string();
    let first = text.lines().next().unwrap_or_default();
    match errors.problems.len() {
        0 | 1 => first.to_owned(),
        all => format!("{first} (and {} more: sharectl config check)", all - 1),
    }
}

fn cut(diff: &str) -> String {
    let mut lines: Vec<&str> = diff.lines().take(MOST_LINES + 1).collect();
    if lines.len() > MOST_LINES {
        lines.truncate(MOST_LINES);
        lines.push("...");
    }
    lines.join("\n")
}

/// What has changed that takes effect only when something is started again; each is one daemon's to tell.
fn not_live(daemon: Daemon, old: &Config, new: &Config) -> Vec<String> {
    let mut sentences = Vec::new();
    for guest in new.guests.values() {
        let Some(before) = old.guests.get(&guest.name) else {
            continue;
        };
        let name = &guest.name;
        let of_vm = match daemon {
            Daemon::Netd => [
                (before.mac != guest.mac, "its mac"),
                (before.link != guest.link, "its link"),
            ],
            Daemon::Sharefs => [
                (before.devices != guest.devices, "its devices"),
                (
                    old.shares_of(name).next().is_none() && new.shares_of(name).next().is_some(),
                    "its first share",
                ),
            ],
            Daemon::Hostsync => [(false, ""); 2],
        };
        for (_, what) in of_vm.iter().filter(|(changed, _)| *changed) {
            sentences.push(format!(
                "guest {name}: {what} takes effect when its VM is started again (sharectl guest run {name})"
            ));
        }
    }
    for network in new.networks.values() {
        let before = old.networks.get(&network.name);
        let moved = before.is_some_and(|before| {
            (before.subnet, before.ipv6, before.mtu) != (network.subnet, network.ipv6, network.mtu)
        });
        if moved && daemon == Daemon::Netd {
            let name = &network.name;
            sentences.push(format!(
                "network {name}: guests that run take the new addresses and MTU when they ask for a lease again"
            ));
        }
    }
    sentences
}

#[cfg(test)]
mod tests;
