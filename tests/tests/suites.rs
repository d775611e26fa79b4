//! What programs of others make of a share in a real guest: what programs may rely on. See docs/suites.md.

use tests::suites::{Bed, Server, Work, ready};
use tests::{Context, Result, Skip, ensure, user, whole_system};

/// As many operations as take some seconds in an emulated guest.
const OPERATIONS: u32 = 5000;
const SEED: u32 = 20_261;
/// Of everyday work, so much.
const SMALL: &[(&str, usize)] = &[("sqlite", 10), ("git", 60), ("tar", 400)];

fn bed(server: Server) -> Result<Bed> {
    if !user::is_root() {
        return Err(Skip::because(
            "pjdfstest acts as several users: it must be run as root",
        ));
    }
    Bed::new(server)
}

fn everyday(bed: &Bed) -> Result<()> {
    for (name, size) in SMALL {
        let work = Work::of(name).context("no such work")?;
        ready(work)?;
        let done = bed.work(work, *size)?;
        ensure!(done.status == 0, "{name}: {}", done.stdout);
    }
    Ok(())
}

fn suites(bed: &Bed, at_least: usize) -> Result<()> {
    let fsx = bed.fsx(SEED, OPERATIONS)?;
    ensure!(fsx.status == 0, "fsx: {}", fsx.stdout);
    let score = bed.pjdfstest("")?;
    ensure!(score.failed.is_empty(), "pjdfstest: {score:?}");
    ensure!(score.passed >= at_least, "only {} passed", score.passed);
    Ok(())
}

#[test]
fn virtiofs_is_what_posix_and_programs_ask_for() {
    whole_system(|| {
        let bed = bed(Server::Sharefs)?;
        suites(&bed, 384)?;
        everyday(&bed)
    });
}

#[test]
fn ninep_is_what_posix_and_programs_ask_for() {
    whole_system(|| {
        let bed = bed(Server::Ninep)?;
        suites(&bed, 350)?;
        everyday(&bed)
    });
}

#[test]
fn an_ordinary_users_daemon_with_owners_kept_is_what_posix_and_programs_ask_for() {
    whole_system(|| {
        let bed = bed(Server::SharefsOfUser)?;
        suites(&bed, 350)?;
        everyday(&bed)
    });
}
