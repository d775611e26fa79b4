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

/// Holds two locks until it is killed.
const HOLD: &str = "use Fcntl qw(:DEFAULT :flock); open(F, q(+<), q(/mnt/lock)) or die; flock(F, LOCK_EX|LOCK_NB) or die; sysopen(G, q(/mnt/range), O_RDWR) or die; my $range = pack(q(s s x4 q q i x4), F_WRLCK, 0, 0, 6, 0); fcntl(G, F_SETLK, $range) or die; open(H, q(>), q(/mnt/held)); sleep 10000;";

fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    world.share_folder("d")?;
    world.share_folder("layers")?;
    world.start(Kind::Netd)?;
    Ok(world)
}

fn number(world: &World, name: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    let line = page.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("no {name}"))
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
        // Open, locked, written to and without a name.
        guest.ok("exec 5> /mnt/d/open && echo one >&5 && echo gone > /mnt/d/nameless && exec 6< /mnt/d/nameless && rm /mnt/d/nameless")?;
        // Two locks, of a program of the host's: flock's and a range of fcntl's.
        guest.ok("mount --bind /mnt/d /host/mnt && mount -t proc proc /host/proc && echo locked > /mnt/d/lock && echo locked > /mnt/d/range")?;
        guest.ok(&format!(
            "chroot /host perl -e '{HOLD}' < /dev/null > /tmp/holder 2>&1 & echo $! > /tmp/pid"
        ))?;
        guest.ok("for i in 1 2 3 4 5 6 7 8 9 10; do [ -e /mnt/d/held ] || sleep 1; done; cat /tmp/holder >&2; [ -e /mnt/d/held ]")?;
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
                let before = number(&world, "sharectl_sharefs_requests")?;
                world.crash_worker()?;
                wait_for("the guest to go on", LONG, || {
                    let now = number(&world, "sharectl_sharefs_requests")?;
                    Ok((now > 0 && now != before).then_some(()))
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
        let answer = world.ask(
            Kind::Sharefs,
            "POST",
            "/v1/restart",
            Some(&serde_json::Value::Null),
        );
        drop(answer);
        world.wait_for_worker_after(old)?;
        ensure!(end(&guest, "/mnt/d")? > 0);
        ensure!(number(&world, "sharectl_sharefs_handovers")? == 1);
        ensure!(
            world.daemon(Kind::Sharefs)?.started() == keeper
                && world.daemon(Kind::Sharefs)?.is_running()?
        );

        ensure!(is_locked()?, "the lock is held");
        guest.ok("echo two >&5 && exec 5>&-")?;
        ensure!(fs::read_to_string(d.join("open"))? == "one\ntwo\n");
        ensure!(guest.ok("cat <&6")? == "gone");
        guest.ok("kill $(cat /tmp/pid); until [ -z \"$(jobs -r)\" ]; do usleep 50000; done")?;
        wait_for("the locks to end", LONG, || {
            let ended = !is_locked().unwrap_or(true);
            Ok(ended.then_some(()))
        })?;

        // The guest lives as others do: it ends well, and what it left is forgotten.
        ensure!(world.daemon(Kind::Sharefs)?.stop()?.success());
        Ok(())
    });
}
