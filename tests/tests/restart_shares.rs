//! sharefs killed, and replaced by another program, while guests are at work on their shares: they see a
//! pause, and nothing else.

use std::fs;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest::Guest;
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
const LONG: Duration = Duration::from_secs(120);

/// Works in the folder it is given until there is a file `stop`, and leaves a line of what went wrong, or
/// of how often it went round.
const WORK: &str = r#"
cd $1; rounds=0; fail() { echo "round $rounds: $*" > result; exit 1; }
while [ ! -e stop ]; do
    mkdir t || fail mkdir
    for i in 1 2 3 4 5; do
        (set -C; echo "$rounds $i" > t/f$i) || fail create
        mv t/f$i t/g$i || fail rename
    done
    ln t/g1 t/hard || fail link
    ln -s g2 t/soft || fail symlink
    [ "$(cat t/g? t/soft | wc -l)" = 6 ] || fail read
    echo "$rounds" >> log || fail append
    [ "$(ls t | wc -l)" = 7 ] || fail list
    chmod 600 t/g1 || fail chmod
    rm t/hard t/soft t/g? || fail unlink
    rmdir t || fail rmdir
    rounds=$((rounds + 1))
done
echo "good $rounds" > result
"#;

/// Holds two locks, an open file and one without a name, until there is a file `finish`; then it goes on with
/// the files.
const HOLD: &str = r#"
use Fcntl qw(:DEFAULT :flock :seek); chdir "/mnt" or die;
sysopen(F, "lock", O_RDWR|O_CREAT) or die; flock(F, LOCK_EX|LOCK_NB) or die;
sysopen(G, "range", O_RDWR|O_CREAT) or die; my $range = pack("s s x4 q q i x4", F_WRLCK, 0, 0, 6, 0);
fcntl(G, F_SETLK, $range) or die;
sysopen(N, "nameless", O_RDWR|O_CREAT|O_EXCL) or die; syswrite(N, "still here"); unlink "nameless" or die;
sysopen(O, "open", O_WRONLY|O_CREAT) or die; syswrite(O, "one\n");
sysopen(H, "held", O_WRONLY|O_CREAT) or die; close H;
select(undef, undef, undef, 0.05) until -e "finish";
syswrite(O, "two\n") or die; sysseek(N, 0, SEEK_SET); sysread(N, my $read, 100) or die;
syswrite(O, $read) or die; sysopen(H, "finished", O_WRONLY|O_CREAT) or die;
"#;

/// Waits for a lock that another program holds.
const AWAIT: &str = r#"
use Fcntl qw(:DEFAULT :flock); chdir "/mnt" or die; sysopen(F, "lock", O_RDWR) or die;
sysopen(H, "awaits", O_WRONLY|O_CREAT) or die; flock(F, LOCK_EX) or die "flock: $!";
sysopen(H, "got", O_WRONLY|O_CREAT) or die;
"#;

fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    world.share_folder("d")?;
    world.share_folder("layers")?;
    world.start(Kind::Netd)?;
    Ok(world)
}

/// All values of a number together; 0 where there is none yet.
fn number(world: &World, name: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    Ok(sum(&page, name))
}

fn sum(page: &str, name: &str) -> u64 {
    let lines = page.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

/// Awaits a condition in the guest, and says more if it does not come.
fn soon(guest: &Guest, condition: &str, more: &str) -> Result<()> {
    let wait = format!(
        "for i in $(seq 200); do {condition} && exit 0; usleep 100000; done; {more} >&2; exit 1"
    );
    let answer = guest.run_within(LONG, &format!("({wait})"))?;
    ensure!(answer.status == 0, "{condition}: {answer:?}");
    Ok(())
}

/// Has the guest hold what `HOLD` holds, and wait for a lock of it.
fn hold(guest: &Guest) -> Result<()> {
    guest.ok("mount --bind /mnt/d /host/mnt && mount -t proc proc /host/proc")?;
    guest.ok(&format!(
        "chroot /host perl -e '{HOLD}' < /dev/null > /tmp/holder 2>&1 &"
    ))?;
    soon(guest, "[ -e /mnt/d/held ]", "cat /tmp/holder")?;
    guest.ok(&format!(
        "chroot /host perl -e '{AWAIT}' < /dev/null > /tmp/waiter 2>&1 &"
    ))?;
    soon(guest, "[ -e /mnt/d/awaits ]", "cat /tmp/waiter")?;
    Ok(())
}

/// Ends that. The wait has lasted until now, and ends too.
fn finish(guest: &Guest) -> Result<()> {
    guest.ok("[ ! -e /mnt/d/got ] && touch /mnt/d/finish")?;
    soon(guest, "[ -e /mnt/d/finished ]", "cat /tmp/holder")?;
    soon(guest, "[ -e /mnt/d/got ]", "cat /tmp/waiter")
}

/// Begins the work in a share of the guest.
fn begin(guest: &Guest, folder: &str) -> Result<()> {
    let text = WORK.replace('\'', r"'\''");
    guest.ok(&format!(
        "printf '%s' '{text}' > /tmp/work && (sh /tmp/work {folder} < /dev/null > /tmp/said 2>&1 &)"
    ))?;
    Ok(())
}

/// Ends it; how often it went round, and never wrongly.
fn end(guest: &Guest, folder: &str) -> Result<u64> {
    guest.ok(&format!("touch {folder}/stop"))?;
    let answer = guest.run_within(
        LONG,
        &format!(
            "while [ ! -e {folder}/result ]; do usleep 50000; done; cat {folder}/result /tmp/said"
        ),
    )?;
    let rounds = answer.stdout.trim().strip_prefix("good ");
    let rounds: u64 = rounds
        .and_then(|rounds| rounds.parse().ok())
        .with_context(|| answer.stdout.clone())?;
    let log = guest.ok(&format!("cat {folder}/log"))?;
    let lines: Vec<u64> = log.lines().filter_map(|line| line.parse().ok()).collect();
    ensure!(
        lines == (0..rounds).collect::<Vec<_>>(),
        "appended {lines:?} in {rounds} rounds"
    );
    guest.ok(&format!("rm {folder}/stop {folder}/result {folder}/log"))?;
    Ok(rounds)
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
                let before = number(&world, "sharectl_sharefs_restarts")?;
                world.write(&order, format!("{point} {count}"))?;
                world.crash_worker()?;
                begin(&guest, folder)?;
                wait_for("deaths", LONG, || {
                    let Ok(answer) = world.ask(Kind::Sharefs, "GET", "/metrics", None) else {
                        return Ok(None);
                    };
                    Ok(
                        (sum(&answer.body, "sharectl_sharefs_restarts") > before + 20)
                            .then_some(()),
                    )
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
