//! The names that a shell completes: those of the configuration and of the daemons that run. Nothing here may
//! disturb somebody who types: what cannot be found out within [`PATIENCE`] is left out, without a word.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Command;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use control::api::{GuestStatus, HostLine, NetworkStatus, PortStatus, ShareStatus};
use control::client::Client;
use control::config::Config;
use control::names::GuestName;
use control::paths::{Daemon, Paths};
use control::port::{PortSpec, Protocol};
use serde::de::DeserializeOwned;

/// The environment variable by which a shell's script asks for words.
pub(crate) const VARIABLE: &str = "SHARECTL_COMPLETE";
/// For all that is asked of daemons for one argument.
const PATIENCE: Duration = Duration::from_millis(200);
/// Words that a range of ports makes; it can have 65535.
const MOST_OF_A_RANGE: usize = 16;

/// The answer to a shell's script that asks for words; none when this is a command as any other.
pub(crate) fn answered(line: &[OsString]) -> Option<ExitCode> {
    std::env::var_os(VARIABLE)?;
    let here = std::env::current_dir().ok();
    let answer = CompleteEnv::with_factory(crate::verbs::command)
        .var(VARIABLE)
        .try_complete(line.iter().cloned(), here.as_deref());
    match answer {
        Ok(false) => None,
        Ok(true) => Some(ExitCode::SUCCESS),
        // Whoever types gets no words then, and nothing on the screen.
        Err(_) => Some(ExitCode::FAILURE),
    }
}

/// What an argument names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Guest,
    Share,
    Network,
    Host,
    /// GUEST:/, where a path in it begins.
    GuestRoot,
    /// As it is published.
    Spec,
    /// PORT/PROTOCOL.
    Port,
    /// GUEST/PORT.
    GuestPort,
    /// Anything that describe knows.
    Any,
}

/// By the argument's place: its verb, where only that verb has it so, and its name.
fn kind(verb: &str, argument: &str) -> Option<Kind> {
    match (verb, argument) {
        // What is new has no name yet.
        ("guest add", "guest") | ("network create", "network") | ("share add", "name") => None,
        ("wait-ready", "ports") => Some(Kind::GuestPort),
        ("guest mount", "what") => Some(Kind::GuestRoot),
        ("describe", "name") => Some(Kind::Any),
        ("host rm", "name") => Some(Kind::Host),
        ("port unpublish", "spec") => Some(Kind::Spec),
        ("port explain", "port") => Some(Kind::Port),
        ("guest unmount", "what") | (_, "guest" | "guests") => Some(Kind::Guest),
        (_, "share" | "shares") => Some(Kind::Share),
        (_, "network" | "move_to") => Some(Kind::Network),
        _ => None,
    }
}

/// The tree with a source of names at each argument that takes one.
pub(crate) fn with_names(command: Command) -> Command {
    below(command, "")
}

fn below(command: Command, verb: &str) -> Command {
    let command = command.mut_args(|argument| match kind(verb, argument.get_id().as_str()) {
        Some(kind) => argument.add(ArgValueCandidates::new(move || candidates(kind))),
        None => argument,
    });
    command.mut_subcommands(|inner| {
        let name = format!("{verb} {}", inner.get_name());
        below(inner, name.trim_start())
    })
}

fn candidates(kind: Kind) -> Vec<CompletionCandidate> {
    let line: Vec<OsString> = std::env::args_os().collect();
    let known = Known::now(Paths::from_env(named_config(&line)));
    let mut found = match kind {
        Kind::Guest => known.guests(),
        Kind::GuestRoot => {
            let guests = known.guests().into_iter();
            guests.map(|guest| format!("{guest}:/")).collect()
        }
        Kind::Share => known.shares(),
        Kind::Network => known.networks(),
        Kind::Host => known.hosts(),
        Kind::Spec => {
            let ports = known.ports().into_iter();
            ports.map(|(_, spec)| spec.to_string()).collect()
        }
        Kind::Port => {
            let ports = known.host_ports();
            ports
                .map(|(_, port, protocol)| format!("{port}/{protocol}"))
                .collect()
        }
        Kind::GuestPort => {
            let ports = known.host_ports();
            ports
                .map(|(guest, port, _)| format!("{guest}/{port}"))
                .collect()
        }
        Kind::Any => [
            known.guests(),
            known.shares(),
            known.networks(),
            known.hosts(),
        ]
        .concat(),
    };
    found.sort();
    found.dedup();
    found.into_iter().map(CompletionCandidate::new).collect()
}

/// The file that the line being typed names.
fn named_config(line: &[OsString]) -> Option<PathBuf> {
    let mut words = line.iter();
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().map(|file| at_home(file));
        }
        if let Some(file) = word
            .to_str()
            .and_then(|word| word.strip_prefix("--config="))
        {
            return Some(at_home(OsStr::new(file)));
        }
    }
    None
}

/// A shell that completes has not replaced `~` yet.
fn at_home(file: &OsStr) -> PathBuf {
    let file = Path::new(file);
    match (file.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(below), Some(home)) => PathBuf::from(home).join(below),
        (Ok(_), None) | (Err(_), _) => file.to_owned(),
    }
}

/// The configuration and the daemons, for as long as somebody who types waits for them.
struct Known {
    paths: Paths,
    config: Option<Config>,
    /// None where nobody can wait here.
    runtime: Option<tokio::runtime::Runtime>,
    until: tokio::time::Instant,
}

impl Known {
    fn now(paths: Paths) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Self {
            config: Config::load(&paths.config).ok(),
            paths,
            runtime: runtime.ok(),
            until: tokio::time::Instant::now() + PATIENCE,
        }
    }

    fn guests(&self) -> Vec<String> {
        let running: Vec<GuestStatus> = self.ask(Daemon::Netd, "/v1/guests");
        let running = running.into_iter().filter_map(|guest| guest.name);
        self.with_written(running, |config| config.guests.keys().cloned().collect())
    }

    fn shares(&self) -> Vec<String> {
        let running: Vec<ShareStatus> = self.ask(Daemon::Sharefs, "/v1/shares");
        let running = running.into_iter().map(|share| share.name);
        self.with_written(running, |config| config.shares.keys().cloned().collect())
    }

    fn networks(&self) -> Vec<String> {
        let running: Vec<NetworkStatus> = self.ask(Daemon::Netd, "/v1/networks");
        let running = running.into_iter().map(|network| network.name);
        self.with_written(running, |config| config.networks.keys().cloned().collect())
    }

    fn hosts(&self) -> Vec<String> {
        let running: Vec<HostLine> = self.ask(Daemon::Hostsync, "/v1/hosts");
        let running = running.into_iter().map(|line| line.name);
        self.with_written(running, |config| {
            config.hosts.entries.keys().cloned().collect()
        })
    }

    fn with_written<T: ToString>(
        &self,
        running: impl Iterator<Item = T>,
        written: impl Fn(&Config) -> Vec<T>,
    ) -> Vec<String> {
        let written = self.config.as_ref().map(written).unwrap_or_default();
        running
            .chain(written)
            .map(|name| name.to_string())
            .collect()
    }

    fn ports(&self) -> Vec<(GuestName, PortSpec)> {
        let running: Vec<PortStatus> = self.ask(Daemon::Netd, "/v1/ports");
        let running = running.into_iter().map(|port| (port.guest, port.spec));
        let mut found: Vec<_> = running.collect();
        for guest in self.config.iter().flat_map(|config| config.guests.values()) {
            let written = guest.publish.iter();
            found.extend(written.map(|spec| (guest.name.clone(), spec.clone())));
        }
        found
    }

    /// Single ports of the host that lead to guests.
    fn host_ports(&self) -> impl Iterator<Item = (GuestName, u16, Protocol)> + use<> {
        self.ports().into_iter().flat_map(|(guest, spec)| {
            let hosts = spec.pairs().filter_map(|(host, _)| host);
            let single = hosts.take(MOST_OF_A_RANGE);
            single.map(move |port| (guest.clone(), port, spec.protocol))
        })
    }

    /// Nothing where the daemon is not there, is slow or does not understand.
    fn ask<T: DeserializeOwned>(&self, daemon: Daemon, path: &str) -> Vec<T> {
        let Some(runtime) = &self.runtime else {
            return Vec::new();
        };
        let client = Client::new(self.paths.control_socket(daemon));
        let answer = async { tokio::time::timeout_at(self.until, client.get(path)).await };
        match runtime.block_on(answer) {
            Ok(Ok(list)) => list,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_typed_line_is_the_one_that_is_read() {
        let line = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (text, expected) in [
            (
                "sharectl -- sharectl --config a.toml guest rm",
                Some("a.toml"),
            ),
            (
                "sharectl -- sharectl guest rm --config=b.toml",
                Some("b.toml"),
            ),
            ("sharectl -- sharectl guest rm", None),
            ("sharectl -- sharectl guest --config", None),
        ] {
            assert_eq!(
                named_config(&line(text)),
                expected.map(PathBuf::from),
                "{text}"
            );
        }
    }

    /// So that a new verb that takes a guest, share or network completes it too, or says that its is a new one.
    #[test]
    fn every_argument_that_is_called_as_a_thing_completes_it() {
        fn walk(command: &Command, verb: &str, seen: &mut usize) {
            for argument in command.get_arguments() {
                let names = argument.get::<ArgValueCandidates>().is_some();
                let id = argument.get_id().as_str();
                let new = ["guest add", "network create"].contains(&verb);
                if ["guest", "guests", "share", "network"].contains(&id) && !new {
                    assert!(names, "{verb}: {id}");
                    *seen += 1;
                }
            }
            for inner in command.get_subcommands() {
                walk(
                    inner,
                    format!("{verb} {}", inner.get_name()).trim_start(),
                    seen,
                );
            }
        }
        let mut seen = 0;
        walk(&crate::verbs::command(), "", &mut seen);
        assert!(seen > 25, "{seen}");
    }
}
