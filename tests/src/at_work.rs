//! A guest at work on its shares, for tests that kill and replace who serves them: programs that look at each result, and
//! others that hold files and locks. In the guest, the host's root is at /host, and has Perl.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::daemons::{Kind, World};
use crate::guest::Guest;

/// For what a guest does while its shares are away most of the time.
pub const LONG: Duration = Duration::from_secs(120);

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

/// All values of a number of sharefs's together; 0 where there is none yet.
///
/// # Errors
/// When sharefs does not answer.
pub fn number(world: &World, name: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    Ok(sum(&page, name))
}

/// The same of a page of metrics.
#[must_use]
pub fn sum(page: &str, name: &str) -> u64 {
    let lines = page.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

/// Awaits a condition in the guest, and says more if it does not come.
///
/// # Errors
/// When it has not come within 20 s.
pub fn soon(guest: &Guest, condition: &str, more: &str) -> Result<()> {
    let wait = format!(
        "for i in $(seq 200); do {condition} && exit 0; usleep 100000; done; {more} >&2; exit 1"
    );
    let answer = guest.run_within(LONG, &format!("({wait})"))?;
    ensure!(answer.status == 0, "{condition}: {answer:?}");
    Ok(())
}

/// Has the guest hold files and locks of the share at /mnt/d, and wait for one of the locks.
///
/// # Errors
/// When one of the two programs does not get that far.
pub fn hold(guest: &Guest) -> Result<()> {
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
///
/// # Errors
/// When anything that was held is not as it was.
pub fn finish(guest: &Guest) -> Result<()> {
    guest.ok("[ ! -e /mnt/d/got ] && touch /mnt/d/finish")?;
    soon(guest, "[ -e /mnt/d/finished ]", "cat /tmp/holder")?;
    soon(guest, "[ -e /mnt/d/got ]", "cat /tmp/waiter")
}

/// Begins the work in a share of the guest.
///
/// # Errors
/// When the guest does not obey.
pub fn begin(guest: &Guest, folder: &str) -> Result<()> {
    let text = WORK.replace('\'', r"'\''");
    guest.ok(&format!(
        "printf '%s' '{text}' > /tmp/work && (sh /tmp/work {folder} < /dev/null > /tmp/said 2>&1 &)"
    ))?;
    Ok(())
}

/// Ends it; how often it went round, and never wrongly.
///
/// # Errors
/// When a result was not what it has to be.
pub fn end(guest: &Guest, folder: &str) -> Result<u64> {
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
