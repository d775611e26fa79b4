//! The service manager, by its own command: systemctl(1), loginctl(1), journalctl(1).

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::units::Scope;
use crate::error::{CliError, Outcome};

/// A manager that may or may not run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manager {
    pub scope: Scope,
}

/// What the manager says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub active: String,
    pub enabled: String,
    pub pid: u32,
    pub restarts: u32,
    pub drop_ins: String,
    pub result: String,
}

impl Manager {
    /// Words that begin a command line, as a person would type it.
    pub(crate) fn line(self, words: &[&str]) -> String {
        format!("systemctl{} {}", self.flag(), words.join(" "))
    }

    fn flag(self) -> &'static str {
        match self.scope {
            Scope::User => " --user",
            Scope::System => "",
        }
    }

    /// Its folder for units of people.
    pub(crate) fn folder(self) -> PathBuf {
        match self.scope {
            Scope::System => "/etc/systemd/system".into(),
            Scope::User => {
                let base = std::env::var_os("XDG_CONFIG_HOME").filter(|base| !base.is_empty());
                let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
                base.map_or_else(|| home().join(".config"), PathBuf::from)
                    .join("systemd/user")
            }
        }
    }

    /// Its folder for units of packages.
    pub(crate) fn packaged(self) -> PathBuf {
        match self.scope {
            Scope::System => "/usr/lib/systemd/system".into(),
            Scope::User => "/usr/lib/systemd/user".into(),
        }
    }

    fn command(self, program: &str) -> Command {
        let mut command = Command::new(program);
        if self.scope == Scope::User {
            command.arg("--user");
        }
        command.stdin(Stdio::null());
        command
    }

    /// Whether there is such a manager, and it answers.
    ///
    /// # Errors
    /// Why not; exit code 3.
    pub(crate) fn answers(self) -> Outcome {
        let (whose, hint) = match self.scope {
            Scope::User => (
                "no systemd user manager",
                "it comes with a login; from su or sudo: export XDG_RUNTIME_DIR=/run/user/$(id -u); without systemd: sharectl up, or sharectl up --foreground under another supervisor",
            ),
            Scope::System => (
                "systemd",
                "without systemd: sharectl up, or sharectl up --foreground under another supervisor",
            ),
        };
        let said = match self
            .command("systemctl")
            .args(["show", "--property=Version"])
            .output()
        {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => last_line(&output.stderr),
            Err(error) => format!("systemctl: {error}"),
        };
        let message = match self.scope {
            Scope::User => format!("{whose} answers: {said}"),
            Scope::System => format!("{whose} does not answer: {said}"),
        };
        Err(CliError::not_running(message, hint))
    }

    /// Runs `systemctl` with these words.
    ///
    /// # Errors
    /// With what it says.
    pub(crate) fn systemctl(self, words: &[&str]) -> Outcome<String> {
        let line = self.line(words);
        let output = self
            .command("systemctl")
            .arg("--quiet")
            .args(words)
            .output()
            .map_err(|error| {
                CliError::failure(format!("{line}: {error}"), "is systemd installed?")
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(CliError::failure(
            format!("{line}: {}", last_line(&output.stderr)),
            "sharectl service status, and sharectl service logs",
        ))
    }

    /// What it knows of a unit.
    pub(crate) fn state(self, unit: &str) -> Outcome<State> {
        let text = self.systemctl(&[
            "show",
            "--property=ActiveState,UnitFileState,MainPID,NRestarts,DropInPaths,Result",
            unit,
        ])?;
        Ok(read(&text))
    }

    /// Whether the unit runs, or is about to.
    pub(crate) fn runs(self, unit: &str) -> bool {
        self.state(unit).is_ok_and(|state| {
            ["active", "activating", "reloading", "deactivating"].contains(&state.active.as_str())
        })
    }

    /// journalctl for these units, a JSON value a line on its standard output.
    pub(crate) fn journal(self, units: &[String], lines: usize, follow: bool) -> Command {
        let mut command = Command::new("journalctl");
        command
            .args(["--output=json", "--all", "--no-pager"])
            .arg(format!("--lines={lines}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        for unit in units {
            command.arg(match self.scope {
                Scope::User => format!("--user-unit={unit}"),
                Scope::System => format!("--unit={unit}"),
            });
        }
        if follow {
            command.arg("--follow");
        }
        command
    }
}

/// Whether this user's manager runs without a login.
pub(crate) fn lingers() -> bool {
    let uid = rustix::process::getuid().as_raw().to_string();
    let output = Command::new("loginctl")
        .args(["show-user", "--property=Linger", "--value", &uid])
        .stdin(Stdio::null())
        .output();
    output.is_ok_and(|output| output.stdout.starts_with(b"yes"))
}

/// Has this user's manager run from boot on, or only while the user is logged in.
pub(crate) fn linger(on: bool) -> Outcome {
    let verb = if on {
        "enable-linger"
    } else {
        "disable-linger"
    };
    let output = Command::new("loginctl")
        .args(["--no-ask-password", verb])
        .stdin(Stdio::null())
        .output();
    let said = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => last_line(&output.stderr),
        Err(error) => error.to_string(),
    };
    Err(CliError::failure(
        format!("loginctl {verb}: {said}"),
        format!("as root: sudo loginctl {verb} $(id -un)"),
    ))
}

fn read(text: &str) -> State {
    let mut state = State::default();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        let value = value.to_owned();
        match key {
            "ActiveState" => state.active = value,
            "UnitFileState" => state.enabled = value,
            "MainPID" => state.pid = value.parse().unwrap_or_default(),
            "NRestarts" => state.restarts = value.parse().unwrap_or_default(),
            "DropInPaths" => state.drop_ins = value,
            "Result" => state.result = value,
            // Newer managers may print more than was asked for.
            _ => (),
        }
    }
    state
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.trim().lines().next_back().unwrap_or("it failed");
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_read_as_systemctl_prints_it() {
        let text = "Result=success\nNRestarts=2\nMainPID=77\nActiveState=active\nUnitFileState=enabled\nDropInPaths=/a.conf /b.conf\nOdd\n";
        assert_eq!(
            read(text),
            State {
                active: "active".to_owned(),
                enabled: "enabled".to_owned(),
                pid: 77,
                restarts: 2,
                drop_ins: "/a.conf /b.conf".to_owned(),
                result: "success".to_owned(),
            }
        );
    }
}
