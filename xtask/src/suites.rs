//! `cargo xtask suites`: the suites and programs of others on shares of our daemon and of its peers, for the
//! tables in docs/suites.md. What must hold of ours is a whole-system test (tests/tests/suites.rs).

use std::process::ExitCode;

use ::tests::suites::{self, Bed, DIOD, Score, Server, WORKS};
use ::tests::{limit, packages, user};
use anyhow::{Result, bail};

use crate::ui;

/// What virtiofsd links with.
const NEEDS: &[packages::Need] = &[
    packages::Need {
        program: "/usr/include/cap-ng.h",
        package: "libcap-ng-dev",
    },
    packages::Need {
        program: "/usr/include/seccomp.h",
        package: "libseccomp-dev",
    },
];

/// Arguments of `cargo xtask suites`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only our own daemon
    #[arg(long)]
    ours: bool,
    /// Daemons and doors, of: sharefs, sharefs-writeback, sharefs-of-user, sharefs-9p, virtiofsd, diod, qemu-9p
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Suites, of: fsx, pjdfstest, sqlite, git, tar, npm, cargo, postgresql, stress-ng
    #[arg(long, value_delimiter = ',')]
    run: Vec<String>,
    /// Seed of fsx
    #[arg(long, default_value_t = 20_261)]
    seed: u32,
    /// Operations of fsx
    #[arg(long, default_value_t = 20_000)]
    operations: u32,
    /// Only those of pjdfstest's tests whose name contains this
    #[arg(long, default_value = "")]
    tests: String,
    /// Files of tar's tree; a kernel has 70,000
    #[arg(long)]
    files: Option<usize>,
}

/// Runs the suites and prints the scores; failure when ours fails anything.
///
/// # Errors
/// When a guest does not start or a suite does not come to its end.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !user::is_root() {
        bail!("pjdfstest acts as several users: run it as root");
    }
    let mut code = ExitCode::SUCCESS;
    for server in arguments.servers()? {
        match server {
            Server::Virtiofsd => packages::ensure(NEEDS)?,
            Server::Diod => packages::ensure(&[DIOD])?,
            Server::Sharefs
            | Server::SharefsWriteback
            | Server::SharefsOfUser
            | Server::Ninep
            | Server::Qemu => {}
        }
        let mut all_is_well = true;
        let mut bed = Bed::new(server)?;
        for suite in arguments.suites()? {
            let begin = limit::now();
            let outcome = match arguments.one(&bed, server, suite) {
                Ok(outcome) => outcome,
                Err(error) => {
                    // The guest may hang, and with it all that comes after.
                    bed = Bed::new(server)?;
                    Outcome::Failed(vec![format!("{error:#}")])
                }
            };
            let seconds = begin.elapsed().as_secs();
            let (word, more) = match outcome {
                Outcome::Passed(word) => (word, Vec::new()),
                Outcome::Skipped(why) => (format!("skipped: {why}"), Vec::new()),
                Outcome::Failed(more) => {
                    all_is_well = false;
                    ("failed".to_owned(), more)
                }
            };
            ui::line(&format!("{}: {suite}: {word} ({seconds} s)", server.name()));
            for line in more {
                ui::line(&format!("    {line}"));
            }
        }
        if server.is_ours() && !all_is_well {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// What came of a suite.
enum Outcome {
    Passed(String),
    Skipped(String),
    Failed(Vec<String>),
}

impl Arguments {
    fn servers(&self) -> Result<Vec<Server>> {
        let known = Server::ALL.map(Server::name);
        if let Some(unknown) = unknown(&self.only, &known) {
            bail!("no daemon {unknown:?}; there are: {}", known.join(", "));
        }
        let wanted = |server: &Server| {
            (self.only.is_empty() || self.only.iter().any(|name| name == server.name()))
                && (server.is_ours() || !self.ours)
        };
        Ok(Server::ALL.into_iter().filter(wanted).collect())
    }

    fn suites(&self) -> Result<Vec<&'static str>> {
        let works = WORKS.iter().map(|work| work.name);
        let known: Vec<&str> = ["fsx", "pjdfstest"].into_iter().chain(works).collect();
        if let Some(unknown) = unknown(&self.run, &known) {
            bail!("no suite {unknown:?}; there are: {}", known.join(", "));
        }
        let wanted = |name: &&str| self.run.is_empty() || self.run.iter().any(|one| one == name);
        Ok(known.into_iter().filter(wanted).collect())
    }

    fn one(&self, bed: &Bed, server: Server, suite: &str) -> Result<Outcome> {
        if suite == "pjdfstest" {
            let Score {
                passed,
                skipped,
                failed,
            } = bed.pjdfstest(&self.tests)?;
            let counts = format!(
                "{passed} passed, {} failed, {skipped} skipped",
                failed.len()
            );
            if failed.is_empty() {
                return Ok(Outcome::Passed(counts));
            }
            let failed = failed.iter().map(|(name, why)| format!("{name}: {why}"));
            return Ok(Outcome::Failed(
                [counts].into_iter().chain(failed).collect(),
            ));
        }
        let (answer, what) = if suite == "fsx" {
            let answer = bed.fsx(self.seed, self.operations)?;
            let what = format!("seed {}, {} operations", self.seed, self.operations);
            (answer, what)
        } else {
            let Some(work) = suites::Work::of(suite) else {
                bail!("no suite {suite:?}");
            };
            suites::ready(work)?;
            if let Some(why) = work.hindrance(server) {
                return Ok(Outcome::Skipped(why));
            }
            let size = self.files.filter(|_| suite == "tar").unwrap_or(work.size);
            (bed.work(work, size)?, format!("{size} {}", work.unit))
        };
        if answer.status == 0 {
            return Ok(Outcome::Passed(format!("as it should be, {what}")));
        }
        let said: Vec<&str> = answer.stdout.lines().collect();
        let end = said
            .get(said.len().saturating_sub(12)..)
            .unwrap_or_default();
        Ok(Outcome::Failed(
            end.iter().map(ToString::to_string).collect(),
        ))
    }
}

fn unknown<'n>(names: &'n [String], known: &[&str]) -> Option<&'n String> {
    names.iter().find(|name| !known.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_and_suites_are_chosen_by_name_and_unknown_ones_refused() {
        let mut arguments = Arguments {
            ours: false,
            only: vec!["diod".to_owned(), "sharefs-9p".to_owned()],
            run: vec!["git".to_owned()],
            seed: 1,
            operations: 1,
            tests: String::new(),
            files: None,
        };
        let chosen = arguments.servers().unwrap();
        assert_eq!(chosen, [Server::Ninep, Server::Diod]);
        assert_eq!(arguments.suites().unwrap(), ["git"]);
        arguments.ours = true;
        assert_eq!(arguments.servers().unwrap(), [Server::Ninep]);
        arguments.only = vec!["samba".to_owned()];
        let error = arguments.servers().unwrap_err().to_string();
        assert!(error.contains("sharefs-of-user"), "{error}");
        arguments.run = vec!["ltp".to_owned()];
        assert!(arguments.suites().is_err());
    }
}
