//! A guest that knows many more files than its daemon may hold descriptors, on a share of an ordinary user's
//! daemon and of root's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::user::{User, is_root};
use tests::{Result, Skip, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"

[guest.dev]

[share.d]
path = "@shared/d"
at = "/mnt/d"
guest-owner = "0:0"
cache = "always"
"#;

/// Descriptors of the daemon, all in all.
const LIMIT: u32 = 4096;
/// Folders, and files in each.
const TREE: (usize, usize) = (20, 1000);
const LONG: Duration = Duration::from_secs(240);

/// File `number` is so long: a guest that sees another file sees another length.
fn length(number: usize) -> usize {
    number % 101
}

fn fill(world: &World, shared: &Path) -> Result<()> {
    let text = "x".repeat(101);
    for folder in 0..TREE.0 {
        let path = shared.join(format!("d{folder}"));
        fs::create_dir(&path)?;
        world.user().own(&path)?;
        for number in 0..TREE.1 {
            let number = folder * TREE.1 + number;
            let name = path.join(format!("f{number}"));
            let content = text.get(..length(number)).unwrap_or_default();
            fs::write(&name, content)?;
            world.user().own(&name)?;
        }
    }
    Ok(())
}

fn metric(world: &World, name: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    let name = format!("sharectl_sharefs_{name} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&name));
    Ok(value.map_or(Ok(0), str::parse)?)
}

fn all_are_found(user: User) -> Result<()> {
    let mut world = World::of(user, CONFIG)?.most_descriptors(LIMIT);
    let shared = world.share_folder("d")?;
    fill(&world, &shared)?;
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    let guest = world.machine("dev", &[("d", "/mnt/d")])?.boot()?;

    let files = TREE.0 * TREE.1;
    let bytes: usize = (0..files).map(length).sum();
    // Each file's attributes, from the listing; then of each once more by its name.
    let sum = "awk '/^-/ { n++; s += $5 } END { print n, s }'";
    let seen = guest.run_within(LONG, &format!("cd /mnt/d && ls -lR . | {sum}"))?;
    ensure!(seen.stdout.trim() == format!("{files} {bytes}"), "{seen:?}");
    // A folder open the whole time, a working directory, and a file that is held open without its name.
    let seen = guest.run_within(
        LONG,
        "cd /mnt/d/d0 && exec 5<>f100 && rm f100 && mv f1 /mnt/d/d1/moved && mv /mnt/d/d2 /mnt/d/two
         cat /mnt/d/*/f*0 | wc -c
         echo held >&5 && stat -L -c %s /proc/self/fd/5 && wc -c < /mnt/d/d1/moved && wc -c < /mnt/d/two/f2050
         cd .. && ls d0 | wc -l",
    )?;
    let sum: usize = (0..files).step_by(10).map(length).sum::<usize>() - length(100);
    ensure!(
        seen.stdout.split_whitespace().eq([
            sum.to_string().as_str(),
            &length(100).max(5).to_string(),
            &length(1).to_string(),
            &length(2050).to_string(),
            &(TREE.1 - 2).to_string(),
        ]),
        "{seen:?}"
    );
    // The host takes a file away and puts another in its place: never the old one's answer for the new.
    fs::remove_file(shared.join("d7/f7007"))?;
    fs::write(shared.join("d7/new"), "of the host")?;
    guest.ok("cat /mnt/d/d7/new | grep -q 'of the host'")?;

    let held = metric(&world, "descriptors")?;
    ensure!(held < u64::from(LIMIT), "{held} descriptors");
    ensure!(
        metric(&world, "nodes_known")? > u64::from(LIMIT),
        "the guest knows too few to prove it"
    );
    ensure!(metric(&world, "nodes_evicted_total")? > files as u64 / 2);
    ensure!(metric(&world, "nodes_reopened_total")? > 0);
    ensure!(metric(&world, "descriptors_refused_total")? == 0);
    Ok(())
}

#[test]
fn a_guest_knows_more_files_than_an_ordinary_users_daemon_may_open() {
    whole_system(|| all_are_found(User::unprivileged()));
}

#[test]
fn a_guest_knows_more_files_than_a_root_daemon_may_open() {
    whole_system(|| {
        if !is_root() {
            return Err(Skip::because("a daemon of root's needs root"));
        }
        all_are_found(User::ourselves())
    });
}
