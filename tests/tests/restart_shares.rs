//! sharefs killed, and replaced by another program, while guests are at work on their shares: they see a
//! pause, and nothing else.

use std::fs;

use tests::at_work::{LONG, begin, end, finish, hold, number, soon};
use tests::daemons::{Kind, World};
use tests::limit::wait_for;
use tests::{Context, Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
[guest.two]

[share.d]
path = "@shared/d"
at = "/mnt/d"

[share.layers]
path = "@shared/layers"
at = "/mnt/layers"
exclude = ["hidden"]
read-only-paths = ["frozen"]
owner-store = "xattr"
case = "insensitive"
names = "windows"

[share.host]
path = "/"
at = "/host"
read-only = true
"#;

const SHARES: &[(&str, &str)] = &[
    ("d", "/mnt/d"),
    ("layers", "/mnt/layers"),
    ("host", "/host"),
];

fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    world.share_folder("d")?;
    world.share_folder("layers")?;
    world.start(Kind::Netd)?;
    Ok(world)
}

#[test]
fn a_guest_at_work_outlives_killed_daemons_and_another_program() {
    whole_system(|| {
        let mut world = world()?;
        world.start(Kind::Sharefs)?;
        let d = world.share_folder("d")?;
        let guest = world.machine("dev", SHARES)?.boot()?;
        hold(&guest)?;
        let is_locked = || -> Result<bool> {
            let refused = |name: &str, try_lock: fn(&fs::File) -> rustix::io::Result<()>| {
                let file = fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(d.join(name))?;
                Ok(try_lock(&file).is_err())
            };
            let whole: Result<bool> = refused("lock", |file| {
                rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            });
            let range: Result<bool> = refused("range", |file| {
                rustix::fs::fcntl_lock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            });
            let (whole, range) = (whole?, range?);
            ensure!(whole == range, "flock {whole}, fcntl {range}");
            Ok(whole)
        };
        ensure!(is_locked()?);

        for folder in ["/mnt/d", "/mnt/layers"] {
            begin(&guest, folder)?;
            for _ in 0..5 {
                world.crash_worker()?;
                wait_for("the guest to go on", LONG, || {
                    Ok((number(&world, "sharectl_sharefs_requests")? > 100).then_some(()))
                })?;
                ensure!(is_locked()?, "the lock is held");
            }
            ensure!(end(&guest, folder)? > 0);
        }
        ensure!(number(&world, "sharectl_sharefs_restarts")? == 10);

        // The same by a program that takes over.
        begin(&guest, "/mnt/d")?;
        let (keeper, old) = (
            world.daemon(Kind::Sharefs)?.started(),
            world.daemon(Kind::Sharefs)?.pid(),
        );
        world.sharectl(&["restart", "sharefs"])?.success()?;
        ensure!(world.daemon(Kind::Sharefs)?.pid() != old);
        ensure!(end(&guest, "/mnt/d")? > 0);
        ensure!(number(&world, "sharectl_sharefs_handovers")? == 1);
        ensure!(
            world.daemon(Kind::Sharefs)?.started() == keeper
                && world.daemon(Kind::Sharefs)?.is_running()?
        );

        ensure!(is_locked()?, "the locks are held");
        finish(&guest)?;
        ensure!(fs::read_to_string(d.join("open"))? == "one\ntwo\nstill here");
        wait_for("the locks to end", LONG, || {
            let ended = !is_locked().unwrap_or(true);
            Ok(ended.then_some(()))
        })?;

        // The guest lives as others do: it ends well, and what it left is forgotten.
        ensure!(world.daemon(Kind::Sharefs)?.stop()?.success());
        Ok(())
    });
}

#[test]
fn a_request_is_done_once_wherever_its_daemon_died() {
    whole_system(|| {
        let mut world = world()?;
        let order = world.path("die");
        world.set_variable("SHARECTL_SHAREFS_DIE", &order.display().to_string());
        world.start(Kind::Sharefs)?;
        let guest = world.machine("dev", SHARES)?.boot()?;
        hold(&guest)?;
        for (point, count) in [
            ("taken", 7),
            ("done", 5),
            ("done", 11),
            ("answered", 7),
            ("told", 7),
        ] {
            for folder in ["/mnt/d", "/mnt/layers"] {
                let before = world.worker_deaths()?;
                world.write(&order, format!("{point} {count}"))?;
                world.crash_worker()?;
                begin(&guest, folder)?;
                wait_for("deaths", LONG, || {
                    Ok((world.worker_deaths()? > before + 20).then_some(()))
                })?;
                fs::remove_file(&order)?;
                let rounds =
                    end(&guest, folder).with_context(|| format!("{point} {count} in {folder}"))?;
                ensure!(rounds > 0);
            }
        }
        finish(&guest)?;
        ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);
        Ok(())
    });
}

/// Descriptors of the daemon, all in all, and files that the guest gets to know.
const CROWD: (u32, usize) = (2048, 6000);

#[test]
fn a_guest_that_knows_more_files_than_can_be_held_finds_them_all_behind_a_killed_daemon() {
    whole_system(|| {
        let mut world = World::new(CONFIG)?.most_descriptors(CROWD.0);
        let d = world.share_folder("d")?;
        world.share_folder("layers")?;
        // A file's length says which it is.
        let text = "x".repeat(CROWD.1);
        for index in 0..CROWD.1 {
            let path = d.join(format!("f{index}"));
            fs::write(&path, text.get(..index).unwrap_or_default())?;
            world.user().own(&path)?;
        }
        let below = d.join("above/below");
        fs::create_dir_all(&below)?;
        fs::write(below.join("file"), "as before")?;
        for path in [&d.join("above"), &below, &below.join("file")] {
            world.user().own(path)?;
        }
        world.start(Kind::Netd)?;
        world.start(Kind::Sharefs)?;
        let guest = world.machine("dev", SHARES)?.boot()?;
        // A program that is at work in a folder, which it knows by no name.
        guest.ok(
            "mkdir /tmp/h && cd /mnt/d/above/below && (while [ ! -e /tmp/h/stop ]; do \
             while [ ! -e /tmp/h/look ]; do usleep 50000; done; rm /tmp/h/look; \
             (cat file && ls . | wc -l && echo new > new && rm new) > /tmp/h/saw 2>&1; \
             touch /tmp/h/seen; done) < /dev/null > /tmp/h/loop 2>&1 &",
        )?;
        let at_work = || -> Result<()> {
            guest.ok("rm -f /tmp/h/seen && touch /tmp/h/look")?;
            soon(&guest, "[ -e /tmp/h/seen ]", "cat /tmp/h/loop")?;
            let saw = guest.ok("cat /tmp/h/saw")?;
            ensure!(saw.trim() == "as before1", "{saw}");
            Ok(())
        };
        at_work()?;
        let list = "cd /mnt/d && ls -lR . | awk '/ f[0-9]/ { n++; if (\"f\" $5 != $NF) bad++ } END { print n, bad + 0 }'";
        let seen = guest.run_within(LONG, list)?;
        ensure!(seen.stdout.trim() == format!("{} 0", CROWD.1), "{seen:?}");
        // One of the last is open, and has lost its name; one of the first and one of the last are replaced.
        guest.ok(
            "cd /mnt/d && (exec 5< f5990 && rm f5990 && touch /tmp/h/open && \
             while [ ! -e /tmp/h/go ]; do usleep 50000; done; cat <&5 | wc -c > /tmp/h/read) \
             < /dev/null > /tmp/h/said 2>&1 &",
        )?;
        soon(&guest, "[ -e /tmp/h/open ]", "cat /tmp/h/said")?;
        let (known, kept) = (
            number(&world, "sharectl_sharefs_nodes_known")?,
            number(&world, "sharectl_sharefs_nodes_kept")?,
        );
        ensure!(known > u64::from(CROWD.0) && kept > CROWD.1 as u64 && kept <= known);
        ensure!(number(&world, "sharectl_sharefs_nodes_let_go")? > 0);
        for round in 1..=3 {
            guest.ok(&format!("mv /mnt/d/above* /mnt/d/above{round}"))?;
            if round == 2 {
                world.sharectl(&["restart", "sharefs"])?.success()?;
            } else {
                world.crash_worker()?;
            }
            at_work()?;
            guest.ok(&format!("mv /mnt/d/above* /mnt/d/above-{round}"))?;
            at_work()?;
            for name in ["f10", "f5900"] {
                fs::remove_file(d.join(name))?;
                fs::write(d.join(name), "new".repeat(round))?;
            }
            let seen = guest.run_within(LONG, list)?;
            ensure!(
                seen.stdout.trim() == format!("{} 2", CROWD.1 - 1),
                "{seen:?}"
            );
            let seen = guest.ok("cat /mnt/d/f10 /mnt/d/f5900 && wc -c < /mnt/d/f5800")?;
            ensure!(
                seen.trim() == format!("{}5800", "new".repeat(2 * round)),
                "{seen}"
            );
            ensure!(number(&world, "sharectl_sharefs_descriptors")? < u64::from(CROWD.0) * 2);
        }
        guest.ok("touch /tmp/h/go /tmp/h/stop /tmp/h/look")?;
        soon(&guest, "[ -s /tmp/h/read ]", "cat /tmp/h/said")?;
        let read = guest.ok("cat /tmp/h/read /tmp/h/said")?;
        ensure!(read.trim() == "5990", "{read}");
        ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);
        Ok(())
    });
}
