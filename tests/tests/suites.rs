//! What programs of others make of a share in a real guest: what programs may rely on. See docs/suites.md.

use tests::suites::{Bed, Server, Work, ready};
use tests::{Context, Result, Skip, ensure, user, whole_system};

/// As many operations as take some seconds in an emulated guest.
const OPERATIONS: u32 = 5000;
const SEED: u32 = 20_261;
/// That can be run on this system and need no remount.
const ALL_PJDFSTESTS: usize = 384;

fn bed(server: Server) -> Result<Bed> {
    if !user::is_root() {
        return Err(Skip::because(
            "pjdfstest acts as several users: it must be run as root",
        ));
    }
    Bed::new(server)
}

/// So much of this work and of that.
fn everyday(bed: &Bed, works: &[(&str, usize)]) -> Result<()> {
    for &(name, size) in works {
        let work = Work::of(name).context("no such work")?;
        ready(work)?;
        let done = bed.work(work, size)?;
        ensure!(done.status == 0, "{name}: {}", done.stdout);
    }
    Ok(())
}

/// `not_ours`: what may fail in the guest before the daemon hears of it; see docs/suites.md.
fn suites(bed: &Bed, operations: u32, not_ours: &[&str]) -> Result<()> {
    let fsx = bed.fsx(SEED, operations)?;
    ensure!(fsx.status == 0, "fsx: {}", fsx.stdout);
    let score = bed.pjdfstest("")?;
    let failed: Vec<&str> = score.failed.iter().map(|(name, _)| name.as_str()).collect();
    let ours = failed.iter().find(|name| !not_ours.contains(name));
    ensure!(ours.is_none(), "pjdfstest: {score:?}");
    ensure!(
        score.passed + failed.len() >= ALL_PJDFSTESTS,
        "only {} passed",
        score.passed
    );
    Ok(())
}

#[test]
fn virtiofs_is_what_posix_and_programs_ask_for() {
    whole_system(|| {
        let bed = bed(Server::Sharefs)?;
        suites(&bed, OPERATIONS, &[])?;
        everyday(&bed, &[("sqlite", 5), ("git", 40), ("tar", 200)])
    });
}

#[test]
fn a_guest_that_gathers_writes_is_what_posix_and_programs_ask_for() {
    whole_system(|| {
        let bed = bed(Server::SharefsWriteback)?;
        // A new file's times are by the host's clock, later ones by the guest's, which may be behind.
        let by_clock = [
            "rename::changed_ctime_success::regular",
            "utimensat::utime_now",
        ];
        suites(&bed, OPERATIONS, &by_clock)?;
        everyday(&bed, &[("sqlite", 5), ("git", 40), ("tar", 200)])
    });
}

#[test]
fn ninep_is_what_posix_and_programs_ask_for() {
    whole_system(|| {
        let bed = bed(Server::Ninep)?;
        // Each operation is some messages through the virtual network.
        suites(&bed, OPERATIONS / 10, &["utimensat::subsecond"])?;
        everyday(&bed, &[("sqlite", 3), ("tar", 40)])
    });
}

#[test]
fn an_ordinary_users_daemon_with_owners_kept_is_what_posix_and_programs_ask_for() {
    whole_system(|| {
        let bed = bed(Server::SharefsOfUser)?;
        suites(&bed, OPERATIONS / 10, &[])?;
        everyday(&bed, &[("sqlite", 3), ("tar", 100)])
    });
}
