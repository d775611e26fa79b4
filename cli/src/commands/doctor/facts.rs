//! What all checks start from, and how they ask without being held up.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use control::config::{Config, ConfigErrors};
use control::paths::{Daemon, Paths};
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Format, Output};

/// The machine, the places and the configuration, as they are when the look begins.
pub(super) struct Facts {
    pub paths: Paths,
    pub config: Result<Config, ConfigErrors>,
    /// `/`, or the folder that stands in for it where another machine's case is replayed.
    pub root: PathBuf,
}

impl Facts {
    pub(super) fn gather(paths: &Paths) -> Self {
        let root = std::env::var_os("SHARECTL_MACHINE_ROOT").filter(|root| !root.is_empty());
        Self {
            config: Config::load(&paths.config),
            paths: paths.clone(),
            root: root.map_or_else(|| PathBuf::from("/"), PathBuf::from),
        }
    }

    /// A file of the machine, `etc/resolv.conf`; nothing where it cannot be read.
    pub(super) fn read(&self, path: &str) -> String {
        let bytes = std::fs::read(self.root.join(path)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A context of its own for each check, which has its own thread.
    pub(super) fn context(&self) -> Context {
        let out = Output {
            format: Format::Table,
            quiet: true,
            rehearsal: false,
        };
        Context::new(self.paths.clone(), out)
    }

    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        daemon: Daemon,
        path: &str,
    ) -> Result<T, CliError> {
        self.context().ask(daemon, path)
    }
}

/// What a program did within its time.
#[derive(Debug)]
pub(super) enum Ran {
    Ended(std::process::Output),
    /// It was killed.
    TooLong,
    /// It cannot be started.
    Not(std::io::Error),
}

/// Runs a program; after `limit` it is killed and no longer waited for.
pub(super) fn run(command: std::process::Command, limit: Duration) -> Ran {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Ran::Not(error),
    };
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    match runtime.block_on(async { tokio::time::timeout(limit, command.output()).await }) {
        Ok(Ok(output)) => Ran::Ended(output),
        Ok(Err(error)) => Ran::Not(error),
        Err(_) => Ran::TooLong,
    }
}

/// The answer of something that may hang for ever in the kernel; none after `limit`.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = sync_channel(1);
    let begun = thread::Builder::new().spawn(move || {
        // Nobody waits any more after the limit.
        tell.send(look()).ok();
    });
    begun.ok()?;
    told.recv_timeout(limit).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;
    use std::process::Command;

    use control::config::Surroundings;

    use super::*;

    /// A machine in a folder, with its file system's root, runtime and state folders in it.
    pub(in super::super) struct Bed {
        pub folder: tempfile::TempDir,
        pub facts: Facts,
    }

    impl Bed {
        pub(in super::super) fn with(config: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            let config = config.replace("@", &folder.path().display().to_string());
            let facts = Facts {
                paths: Paths {
                    config: at("config.toml"),
                    runtime: at("run"),
                    state: at("state"),
                },
                config: Config::parse(&config, Path::new("c.toml"), &Surroundings::of_process()),
                root: at("root"),
            };
            assert!(facts.config.is_ok(), "{:?}", facts.config);
            for made in [&facts.paths.runtime, &facts.paths.state, &facts.root] {
                std::fs::create_dir(made).unwrap();
            }
            Self { folder, facts }
        }

        /// A file of the machine.
        pub(in super::super) fn file(&self, path: &str, text: &str) {
            let path = self.facts.root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn a_program_that_does_not_end_is_not_waited_for() {
        let mut sleeper = Command::new("sleep");
        sleeper.arg("30");
        assert!(matches!(
            run(sleeper, Duration::from_millis(100)),
            Ran::TooLong
        ));
        let said = run(Command::new("true"), Duration::from_secs(20));
        assert!(matches!(said, Ran::Ended(output) if output.status.success()));
        assert!(matches!(
            run(Command::new("/nowhere"), Duration::from_secs(1)),
            Ran::Not(_)
        ));
    }

    #[test]
    fn a_look_that_hangs_is_given_up() {
        let (_held, never) = sync_channel::<()>(0);
        let look = move || never.recv().is_ok();
        assert_eq!(within(Duration::from_millis(50), look), None);
        assert_eq!(within(Duration::from_secs(20), || 7), Some(7));
    }
}
