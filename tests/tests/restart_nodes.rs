//! Files that a guest knows and sharefs has no descriptor of, when sharefs is killed: each is found by its number as
//! before, and what another file has replaced is never that one. By handles (root) and by names; see
//! docs/decisions/0031-nodes-over-restarts.md.
//!
//! The guest is a front end of our own (`sharefs/examples/fsload`, `--outlive`): a kernel would look up again what it
//! is told is stale, and hide it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::user::{User, is_root};
use tests::{Context, Result, Skip, command, ensure, programs, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"

[guest.dev]

[share.plain]
path = "@shared/plain"
at = "/mnt/plain"

[share.layers]
path = "@shared/layers"
at = "/mnt/layers"
exclude = ["hidden"]
read-only-paths = ["frozen"]
owner-store = "xattr"
case = "insensitive"
names = "windows"
"#;

/// Descriptors of the daemon, all in all, and files that the guest gets to know: six for each descriptor that nodes may
/// have, which is half of them.
const LIMIT: u32 = 1024;
const FILES: usize = 3000;
const LONG: Duration = Duration::from_secs(240);

fn metric(world: &World, name: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    let name = format!("sharectl_sharefs_{name} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&name));
    Ok(value.map_or(Ok(0), str::parse)?)
}

/// One guest after the other, on a share each, with so many files. `die`: where each worker dies by itself, too
/// (`sharefs/src/keep/fault.rs`).
fn all_are_found(user: User, files: usize, die: Option<&str>) -> Result<()> {
    let mut world = World::of(user, CONFIG)?.most_descriptors(LIMIT);
    let order = world.path("die");
    world.set_variable("SHARECTL_SHAREFS_DIE", &order.display().to_string());
    let shares = ["plain", "layers"];
    for share in shares {
        world.share_folder(share)?;
    }
    let front = programs::example("sharefs", "fsload")?;
    world.start(Kind::Sharefs)?;
    let mut restarts = 0;
    for share in shares {
        if let Some(die) = die {
            world.write(&order, die)?;
            world.crash_worker()?;
        }
        let mut line = Command::new(&front);
        line.arg(world.runtime().join(format!("guest/dev/fs-{share}.sock")))
            .arg(world.share_folder(share)?)
            .arg(world.daemon(Kind::Sharefs)?.pid().to_string())
            .args(["--outlive", &files.to_string()]);
        let said = command::run(&mut line, LONG).with_context(|| share.to_owned())?;
        ensure!(said.contains("outlive"), "{said}");
        if die.is_some() {
            fs::remove_file(&order)?;
            world.crash_worker()?;
        }
        let more = metric(&world, "restarts_total")? - restarts;
        ensure!(more >= if die.is_some() { 20 } else { 3 }, "{more} deaths");
        restarts += more;
    }
    ensure!(metric(&world, "given_up_total")? == 0);
    ensure!(metric(&world, "descriptors_refused_total")? == 0);
    if die.is_none() {
        // Of what the guests knew nearly all had no descriptor, and was found again.
        ensure!(metric(&world, "nodes_reopened_total")? > files as u64 / 2);
    }
    ensure!(metric(&world, "descriptors")? < u64::from(LIMIT));
    Ok(())
}

#[test]
fn an_ordinary_users_daemon_finds_by_name_what_its_guest_knew() {
    whole_system(|| all_are_found(User::unprivileged(), FILES, None));
}

#[test]
fn a_root_daemon_finds_by_handle_what_its_guest_knew() {
    whole_system(|| {
        if !is_root() {
            return Err(Skip::because("a daemon of root's needs root"));
        }
        all_are_found(User::ourselves(), FILES, None)
    });
}

#[test]
fn a_death_between_any_two_stores_loses_no_node() {
    whole_system(|| {
        // Primes, so that each death is at another store of a request. Deaths are what takes the time: some forty a share.
        all_are_found(User::unprivileged(), 1500, Some("stored 1597"))?;
        if is_root() {
            all_are_found(User::ourselves(), 1500, Some("stored 1613"))?;
        }
        Ok(())
    });
}
