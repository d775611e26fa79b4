//! `cargo xtask suites`: the file system suites of others, on our virtiofs and on virtiofsd's, for the
//! table in docs/suites.md. What must hold of ours is a whole-system test (tests/tests/suites.rs).

use std::process::ExitCode;

use anyhow::{Result, bail};
use tests::suites::{Bed, Score, Server};
use tests::{limit, packages, user};

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
    /// Seed of fsx
    #[arg(long, default_value_t = 20_261)]
    seed: u32,
    /// Operations of fsx
    #[arg(long, default_value_t = 20_000)]
    operations: u32,
    /// Only those of pjdfstest's tests whose name contains this
    #[arg(long, default_value = "")]
    tests: String,
}

/// Runs the suites and prints the scores; failure when ours fails anything.
///
/// # Errors
/// When a guest does not start or a suite does not come to its end.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !user::is_root() {
        bail!("pjdfstest acts as several users: run it as root");
    }
    let mut servers = vec![Server::Sharefs];
    if !arguments.ours {
        packages::ensure(NEEDS)?;
        servers.push(Server::Virtiofsd);
    }
    let mut code = ExitCode::SUCCESS;
    for server in servers {
        let bed = Bed::new(server)?;
        let begin = limit::now();
        let fsx = bed.fsx(arguments.seed, arguments.operations)?;
        let seconds = begin.elapsed().as_secs();
        ui::line(&format!(
            "{server:?}: fsx, seed {}, {} operations: {} ({seconds} s)",
            arguments.seed,
            arguments.operations,
            if fsx.status == 0 {
                "no difference"
            } else {
                &fsx.stdout
            },
        ));
        let begin = limit::now();
        let Score {
            passed,
            skipped,
            failed,
        } = bed.pjdfstest(&arguments.tests)?;
        let seconds = begin.elapsed().as_secs();
        ui::line(&format!(
            "{server:?}: pjdfstest: {passed} passed, {} failed, {skipped} skipped ({seconds} s)",
            failed.len()
        ));
        for (name, why) in &failed {
            ui::line(&format!("    {name}: {why}"));
        }
        if server == Server::Sharefs && (fsx.status != 0 || !failed.is_empty()) {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
