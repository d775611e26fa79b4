//! fsx and pjdfstest in a real guest on a share: what programs may rely on. See docs/suites.md.

use tests::suites::{Bed, Server};
use tests::{Skip, ensure, user, whole_system};

/// As many operations as take some seconds in an emulated guest.
const OPERATIONS: u32 = 5000;
const SEED: u32 = 20_261;

#[test]
fn fsx_finds_no_byte_that_differs_and_pjdfstest_nothing_that_posix_forbids() {
    whole_system(|| {
        if !user::is_root() {
            return Err(Skip::because(
                "pjdfstest acts as several users: the daemon must be root",
            ));
        }
        let bed = Bed::new(Server::Sharefs)?;
        let fsx = bed.fsx(SEED, OPERATIONS)?;
        ensure!(fsx.status == 0, "fsx: {}", fsx.stdout);
        let score = bed.pjdfstest("")?;
        ensure!(score.failed.is_empty(), "pjdfstest: {score:?}");
        ensure!(score.passed > 350, "only {} passed", score.passed);
        println!("{} passed, {} skipped", score.passed, score.skipped);
        Ok(())
    });
}
