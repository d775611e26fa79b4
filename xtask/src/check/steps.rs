//! The steps: what each runs and how long it may take.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Signal, kill_process_group};
use tests::guest::disk;
use tests::programs::{self, Cargo};
use tests::{command, debian, packages, place, skip, suites, systemd};

use super::count::Count;
use crate::{tidy, ui};

/// A step of `cargo xtask test`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Step {
    /// Install what tests and guests need
    Install,
    /// cargo fmt --check
    Fmt,
    /// clippy, warnings are errors
    Clippy,
    /// The source's own rules
    Tidy,
    /// Unit and crate tests
    Unit,
    /// rustdoc, warnings are errors
    Docs,
    /// Whole-system tests: guests, network namespaces, the real daemons
    System,
    /// The demo, with the programs of the tests
    Demo,
}

/// Why a step failed, and what it counted so far.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) count: Count,
    pub(super) message: String,
    /// Names of failed tests.
    pub(super) tests: Vec<String>,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            count: Count::default(),
            message: format!("{error:#}"),
            tests: Vec::new(),
        }
    }
}

impl Step {
    /// All, cheapest first.
    pub(super) const ALL: [Self; 8] = [
        Self::Install,
        Self::Fmt,
        Self::Clippy,
        Self::Tidy,
        Self::Unit,
        Self::Docs,
        Self::System,
        Self::Demo,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Install => "packages",
            Self::Fmt => "format",
            Self::Clippy => "lints",
            Self::Tidy => "tidy",
            Self::Unit => "unit tests",
            Self::Docs => "docs",
            Self::System => "whole system",
            Self::Demo => "demo",
        }
    }

    /// A cold machine with two slow cores, and more than twice over.
    fn limit(self) -> Duration {
        Duration::from_secs(60)
            * match self {
                Self::Fmt | Self::Tidy | Self::Demo => 5,
                Self::Clippy | Self::Docs => 15,
                Self::Unit => 20,
                Self::Install => 30,
                Self::System => 60,
            }
    }

    /// Runs it; `name` chooses tests, `skips` is the file that collects skipped ones.
    pub(super) fn run(self, name: Option<&str>, skips: &Path) -> Result<Count, Failure> {
        match self {
            Self::Install => {
                let needs = [
                    packages::GUEST,
                    packages::CLIENTS,
                    packages::CONFIGURATION,
                    packages::READERS,
                    packages::TERMINALS,
                    packages::NAMES,
                    packages::CONTAINERS,
                    packages::FILTERS,
                    packages::MOUNTS,
                    packages::HOSTS,
                    packages::SHELLS,
                    packages::COMPOSE,
                    packages::NINEP,
                    packages::LISTS,
                    packages::CHECKSUMS,
                    packages::LIBVIRT,
                    debian::NEEDS,
                    disk::NEEDS,
                    systemd::NEEDS,
                ]
                .concat();
                packages::ensure(&needs)?;
                // Built before a guest waits for them; only root runs them.
                if tests::user::is_root() {
                    for suite in [suites::FSX, suites::PJDFSTEST] {
                        suite.installed()?;
                    }
                    systemd::root()?;
                    disk::image()?;
                }
                Ok(Count::ONE)
            }
            Self::Fmt => self.check(cargo(&["fmt", "--all", "--check"])),
            Self::Clippy => self.check(cargo(&[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ])),
            Self::Tidy => {
                if tidy::run()? == ExitCode::SUCCESS {
                    Ok(Count::ONE)
                } else {
                    Err(anyhow::anyhow!("rules broken, see above").into())
                }
            }
            Self::Docs => {
                let mut line = cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--locked"]);
                // The readers are those who work here.
                line.arg("--document-private-items");
                line.env(
                    "RUSTDOCFLAGS",
                    "-Dwarnings -Arustdoc::private-intra-doc-links",
                );
                self.check(line)
            }
            Self::Demo => {
                let ourselves = std::env::current_exe().context("find this program")?;
                let mut line = Command::new(ourselves);
                line.args(["demo", "--once"])
                    .env(programs::VARIABLE, programs::build("dev", Cargo::Quiet)?);
                self.check(line)
            }
            Self::Unit => self.tests(&["--workspace", "--exclude", "tests"], name, skips),
            Self::System => self.tests(&["--package", "tests"], name, skips),
        }
    }

    fn check(self, mut line: Command) -> Result<Count, Failure> {
        line.stdout(Stdio::inherit());
        self.finish(line).map(|_| Count::ONE)
    }

    fn tests(self, which: &[&str], name: Option<&str>, skips: &Path) -> Result<Count, Failure> {
        let mut line = cargo(&["test", "--quiet", "--locked", "--no-fail-fast"]);
        line.args(which);
        line.args(name).env(skip::SKIPS_VARIABLE, skips);
        if self == Self::System {
            // Once for all test programs, each of which would ask cargo again.
            line.env(programs::VARIABLE, programs::build("dev", Cargo::Quiet)?);
        }
        line.stdout(Stdio::piped());
        self.finish(line)
    }

    /// Runs a command in a process group of its own, counting the tests it reports; at the limit the
    /// whole group is killed.
    fn finish(self, mut line: Command) -> Result<Count, Failure> {
        let mut child = line
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start: {}", command::shown(&line)))?;
        let group = command::pid_of(&child)?;
        let output = child.stdout.take();
        let counter = std::thread::spawn(move || {
            let mut count = Count::default();
            let mut failed = Vec::new();
            for text in output
                .into_iter()
                .flat_map(|output| BufReader::new(output).lines())
            {
                let text = text.unwrap_or_default();
                count.read(&text);
                failed.extend(text.strip_suffix(" --- FAILED").map(str::to_owned));
                ui::line(&text);
            }
            (count, failed)
        });
        let status = command::wait(&mut child, self.limit())?;
        if status.is_none() {
            // What has ended meanwhile cannot be killed.
            let _ = kill_process_group(group, Signal::KILL);
            child.wait().context("wait")?;
        }
        let (count, tests) = counter.join().unwrap_or_default();
        let message = match status {
            Some(status) if status.success() => return Ok(count),
            Some(status) => format!("{}: {status}", command::shown(&line)),
            None => format!(
                "{}: not done in {}",
                command::shown(&line),
                ui::time(self.limit())
            ),
        };
        Err(Failure {
            count,
            message,
            tests,
        })
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut line = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    line.current_dir(place::workspace()).args(arguments);
    line
}
