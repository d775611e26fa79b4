//! Shares mounted on the host while sharefs is killed and replaced: programs at work there see a pause, and
//! nothing else. Each test has a mount namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::daemons::{Kind, World};
use tests::limit::wait_for;
use tests::user::User;
use tests::{Context, Result, command, ensure, mounts, packages, programs, whole_system};

const CONFIG: &str = r#"
[share.d]
path = "@shared/d"
mount = "@m"

[share.layers]
path = "@shared/layers"
mount = "@l"
exclude = ["hidden"]
read-only-paths = ["frozen"]
case = "insensitive"
names = "windows"
"#;

const LONG: Duration = Duration::from_secs(120);

/// Works in its folder until there is the file that it is told of: everything that a request of FUSE does to a name or a file, and
/// each result looked at. It says how often it went round, or dies with what was wrong.
const WORK: &str = r#"
use strict; use warnings; use Fcntl qw(:DEFAULT :flock :seek); $| = 1;
my ($me, $stop) = @ARGV; my $rounds = 0; my $block = join '', map { chr($_ % 251) } 0 .. 262143;
sub check { my ($done, $what) = @_; $done or die "round $rounds: $what: $!\n" }
sub all { my $name = shift; open my $f, '<', $name or die "round $rounds: open $name: $!\n"; local $/; my $text = <$f>; $text }
until (-e $stop) {
    my $t = "t$me";
    check(mkdir($t), 'mkdir');
    for my $i (1 .. 5) {
        check(sysopen(my $f, "$t/f$i", O_RDWR | O_CREAT | O_EXCL), 'create');
        check(syswrite($f, "$rounds $i\n"), 'write'); close $f;
        check(rename("$t/f$i", "$t/g$i"), 'rename');
        die "round $rounds: read\n" unless all("$t/g$i") eq "$rounds $i\n";
    }
    check(link("$t/g1", "$t/hard"), 'link'); check(symlink('g2', "$t/soft"), 'symlink');
    check((readlink("$t/soft") || '') eq 'g2', 'readlink');
    check(sysopen(my $log, "$stop-log$me", O_WRONLY | O_CREAT | O_APPEND), 'open to append');
    check(syswrite($log, "$rounds\n"), 'append'); close $log;
    check(sysopen(my $same, "$stop-same$me", O_WRONLY | O_CREAT | O_APPEND), 'open to append the same');
    check(syswrite($same, "same\n"), 'append the same'); close $same;
    check(sysopen(my $big, "$t/big", O_RDWR | O_CREAT | O_EXCL), 'create big');
    check(syswrite($big, $block) == length $block, 'write big'); close $big;
    die "round $rounds: big\n" unless all("$t/big") eq $block;
    check(opendir(my $d, $t), 'opendir'); my @names = grep { !/^\./ } readdir $d; closedir $d;
    die "round $rounds: list @names\n" unless @names == 8;
    check(chmod(0600, "$t/g1"), 'chmod');
    check(((stat "$t/g1")[2] & 0777) == 0600, 'stat'); check(truncate("$t/g2", 3), 'truncate');
    for my $name (map { "$t/$_" } qw(hard soft big g1 g2 g3 g4 g5)) { check(unlink($name), "unlink $name") }
    check(rmdir($t), 'rmdir'); $rounds++;
}
print "good $rounds\n";
"#;

/// Holds locks, an open file, one without a name and a folder that it is in until there is a file `finish`, and a
/// second process waits for a lock of it meanwhile; a third too, which an alarm interrupts.
const HOLD: &str = r#"
use strict; use warnings; use Fcntl qw(:DEFAULT :flock :seek); $| = 1;
my $until = sub { my $name = shift; select undef, undef, undef, 0.02 until -e $name };
my ($own, $none) = map { pack 's s l! l! i', $_, SEEK_SET, 0, 6, 0 } F_WRLCK, F_UNLCK;
sub touch { my $name = shift; sysopen(my $f, $name, O_WRONLY | O_CREAT) or die "$name: $!" }
mkdir 'in' or die; chdir 'in' or die;
sysopen(my $lock, '../lock', O_RDWR | O_CREAT) or die; flock $lock, LOCK_EX or die;
sysopen(my $range, '../range', O_RDWR | O_CREAT) or die;
fcntl $range, F_SETLK, $own or die;
sysopen(my $nameless, '../nameless', O_RDWR | O_CREAT | O_EXCL) or die; syswrite $nameless, 'still here'; unlink '../nameless' or die;
sysopen(my $open, '../open', O_WRONLY | O_CREAT) or die; syswrite $open, "one\n";
my $waiter = fork // die;
if (!$waiter) {
    sysopen(my $f, '../range', O_RDWR) or die; touch('../awaits');
    fcntl $f, F_SETLKW, $own or die "wait: $!"; touch('../got'); exit 0;
}
my $interrupted = fork // die;
if (!$interrupted) {
    sysopen(my $f, '../lock', O_RDWR) or die; touch('../awaits-too');
    local $SIG{USR1} = sub { die "rang\n" }; eval { flock $f, LOCK_EX or die "flock: $!\n" };
    die $@ unless $@ eq "rang\n"; touch('../interrupted'); exit 0;
}
$until->('../awaits'); $until->('../awaits-too'); select undef, undef, undef, 0.2; touch('../held');
$until->('../interrupt'); kill 'USR1', $interrupted; waitpid $interrupted, 0; $? == 0 or die "interrupted: $?";
$until->('../finish');
syswrite $open, "two\n" or die "write: $!"; sysseek $nameless, 0, SEEK_SET; sysread $nameless, my $read, 100 or die "read: $!";
syswrite $open, $read or die; -e '../got' and die 'two have the lock';
fcntl $range, F_SETLK, $none or die "unlock: $!";
waitpid $waiter, 0; $? == 0 or die "waiter: $?"; print "finished\n";
"#;

fn world(user: User) -> Result<World> {
    packages::ensure(packages::MOUNTS)?;
    mounts::private()?;
    let mut world = World::of(user, CONFIG)?;
    world.set_variable(
        "SHARECTL_SHAREFS_DIE",
        &world.path("die").display().to_string(),
    );
    world.start(Kind::Sharefs)?;
    Ok(world)
}

fn ordinary() -> User {
    User::unprivileged().with_set_uid()
}

/// A program of the world's user, in a folder of the world.
fn perl(world: &World, folder: &str, program: &str, arguments: &[&str]) -> Result<Child> {
    let mut line = world.command("perl");
    // By itself: whoever starts it may not enter the mount.
    let program = format!("chdir shift or die; {program}");
    line.args(["-e", &program]).arg(world.path(folder));
    line.args(arguments);
    Ok(line.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// What it says, once it has ended well.
fn said(mut child: Child) -> Result<String> {
    wait_for("a program in the mount to end", LONG, || {
        Ok(child.try_wait()?.is_some().then_some(()))
    })?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn number(world: &World, name: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    let lines = page.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(values.sum())
}

/// Requests for a lock that were waited for, or would have been.
fn waits(world: &World) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    let lines = page
        .lines()
        .filter(|line| line.contains("operation=\"setlkw\""));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(values.sum())
}

/// The program that holds what it can, once it does.
fn hold(world: &World) -> Result<Child> {
    let mut holder = perl(world, "m", HOLD, &[])?;
    let held = world.path("shared/d/held");
    wait_for("a program to hold all", LONG, || {
        Ok((held.exists() || holder.try_wait()?.is_some()).then_some(()))
    })?;
    if held.exists() {
        return Ok(holder);
    }
    Err(said(holder).err().context("it ended")?)
}

fn exists(world: &World, name: &str) -> Result<()> {
    let path = world.path(name);
    wait_for(name, LONG, || Ok(path.exists().then_some(())))
}

/// Programs at work.
struct Work {
    programs: Vec<Child>,
    /// The file that ends them, and how those begin that they leave: others each time, since a mount may say for a
    /// second what was.
    stop: String,
}

/// Three programs at work in a folder that is mounted.
fn begin(world: &World, mount: &str, turn: usize) -> Result<Work> {
    let stop = format!("stop{turn}");
    let programs = ["1", "2", "3"].iter();
    let programs = programs.map(|number| perl(world, mount, WORK, &[number, &stop]));
    Ok(Work {
        programs: programs.collect::<Result<_>>()?,
        stop,
    })
}

/// Ends them: each went round, and what it appended is there once.
fn end(world: &World, folder: &str, mut work: Work) -> Result<()> {
    for (index, worker) in work.programs.iter_mut().enumerate() {
        let log = world
            .path(folder)
            .join(format!("{}-log{}", work.stop, index + 1));
        wait_for("a first round", LONG, || {
            Ok((log.exists() || worker.try_wait()?.is_some()).then_some(()))
        })?;
    }
    world.write(&world.path(folder).join(&work.stop), "")?;
    for (index, worker) in work.programs.into_iter().enumerate() {
        let text = said(worker)?;
        let rounds = text.trim().strip_prefix("good ");
        let rounds: u64 = rounds
            .and_then(|rounds| rounds.parse().ok())
            .with_context(|| text.clone())?;
        let log = world
            .path(folder)
            .join(format!("{}-log{}", work.stop, index + 1));
        let lines: Vec<u64> = fs::read_to_string(&log)?
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        ensure!(
            rounds > 0 && lines == (0..rounds).collect::<Vec<_>>(),
            "{lines:?} in {rounds} rounds"
        );
        // A line that stands there already is not taken for the one that is to come.
        let same = log.with_file_name(format!("{}-same{}", work.stop, index + 1));
        let same = fs::read_to_string(same)?.lines().count();
        ensure!(
            same as u64 == rounds,
            "{same} of the same in {rounds} rounds"
        );
    }
    Ok(())
}

fn outlive(user: User) -> Result<()> {
    let mut world = world(user)?;
    let holder = hold(&world)?;
    for (mount, folder) in [("m", "shared/d"), ("l", "shared/layers")] {
        let work = begin(&world, mount, 0)?;
        for _ in 0..20 {
            let before = number(&world, "sharectl_sharefs_requests")?;
            world.crash_worker()?;
            // A new process counts from nothing.
            wait_for("programs to go on", LONG, || {
                let now = number(&world, "sharectl_sharefs_requests")?;
                Ok((now > 50 && before > 0).then_some(()))
            })?;
        }
        world.sharectl(&["restart", "sharefs"])?.success()?;
        end(&world, folder, work)?;
    }
    ensure!(number(&world, "sharectl_sharefs_restarts")? == 40);
    ensure!(number(&world, "sharectl_sharefs_handovers")? == 2);
    ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);

    world.write(&world.path("shared/d/interrupt"), "")?;
    exists(&world, "shared/d/interrupted")?;
    world.crash_worker()?;
    world.write(&world.path("shared/d/finish"), "")?;
    ensure!(said(holder)? == "finished\n");
    ensure!(fs::read_to_string(world.path("shared/d/open"))? == "one\ntwo\nstill here");

    // It ends as any other does.
    world.daemon(Kind::Sharefs)?.stop()?;
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    ensure!(!table.contains(" fuse.sharectl "), "{table}");
    Ok(())
}

#[test]
fn programs_of_an_ordinary_user_outlive_killed_daemons_and_another_program() {
    whole_system(|| outlive(ordinary()));
}

#[test]
fn programs_of_root_outlive_killed_daemons_and_another_program() {
    whole_system(|| outlive(User::ourselves()));
}

#[test]
fn a_request_is_done_once_wherever_its_daemon_died() {
    whole_system(|| {
        let mut world = world(ordinary())?;
        let holder = hold(&world)?;
        for (turn, die) in ["taken 13", "done 11", "done 17", "told 13"]
            .into_iter()
            .enumerate()
        {
            die_at_work(&mut world, die, turn)?;
        }
        ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);
        world.write(&world.path("shared/d/interrupt"), "")?;
        exists(&world, "shared/d/interrupted")?;
        world.write(&world.path("shared/d/finish"), "")?;
        ensure!(said(holder)? == "finished\n");
        // Before it is begun, and again when it was done again. A lock that waits would be what every second worker
        // dies of, and given up.
        die_at_work(&mut world, "taken 13\ndone 1", 4)?;
        ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);
        Ok(())
    });
}

/// More than forty deaths at a point while three programs are at work, in each of two mounts.
fn die_at_work(world: &mut World, die: &str, turn: usize) -> Result<()> {
    let order = world.path("die");
    for (mount, folder) in [("m", "shared/d"), ("l", "shared/layers")] {
        let before = world.worker_deaths()?;
        world.write(&order, die)?;
        world.crash_worker()?;
        let work = begin(world, mount, turn)?;
        wait_for("deaths", LONG, || {
            Ok((world.worker_deaths()? > before + 40).then_some(()))
        })?;
        fs::remove_file(&order)?;
        end(world, folder, work).with_context(|| format!("{die:?} in {mount}"))?;
    }
    Ok(())
}

/// Behind the last of the deaths that were ordered, at least four since `before`, the mount is served and nothing was given up.
fn lives_on(world: &mut World, before: u64) -> Result<()> {
    fs::remove_file(world.path("die"))?;
    world.crash_worker()?;
    let deaths = number(world, "sharectl_sharefs_restarts")? - before;
    ensure!(deaths >= 4, "{deaths}");
    ensure!(number(world, "sharectl_sharefs_given_up")? == 0);
    still_serves(world, "alive")
}

#[test]
fn a_request_that_kills_whoever_takes_it_up_is_an_error_and_the_mount_lives_on() {
    whole_system(|| {
        let mut world = world(ordinary())?;
        let order = world.path("die");
        // It has a file open, and asks for nothing until it is told to: a name that begins in its folder would be a
        // request for that folder every second.
        let (held, go) = (world.path("held"), world.path("go"));
        let wait = format!(
            "open my $f, '>>', 'log' or die; open my $h, '>', '{}' or die; \
             select undef, undef, undef, 0.02 until -e '{}'; syswrite $f, 'end' or die;",
            held.display(),
            go.display()
        );
        let holder = perl(&world, "m", &wait, &[])?;
        exists(&world, "held")?;
        let before = number(&world, "sharectl_sharefs_restarts")?;
        world.write(&order, "done 1")?;
        world.crash_worker()?;
        let mut line = world.command("stat");
        let refused = command::output(line.arg("m/nonesuch"), LONG)?;
        ensure!(refused.stderr.contains("Input/output error"), "{refused:?}");
        lives_on(&mut world, before)?;
        world.write(&world.path("go"), "")?;
        said(holder)?;
        ensure!(fs::read_to_string(world.path("shared/d/log"))? == "end");
        Ok(())
    });
}

#[test]
fn a_lock_that_kills_whoever_asks_for_it_is_an_error_and_the_mount_lives_on() {
    whole_system(|| refuse_deadly_lock("done 1"));
}

#[test]
fn a_lock_that_kills_whoever_asks_for_it_once_more_is_an_error_and_the_mount_lives_on() {
    whole_system(|| refuse_deadly_lock("retried 1"));
}

/// Workers die of the lock at that point, whenever they come there.
fn refuse_deadly_lock(point: &str) -> Result<()> {
    let mut world = world(ordinary())?;
    let order = world.path("die");
    world.write(&world.path("shared/d/range"), "")?;
    // Not by way of the mount, whose folder is asked for every second then.
    let at = |name: &str| world.path(name).display().to_string();
    let wait_until =
        |name: &str| format!("select undef, undef, undef, 0.02 until -e '{}';", at(name));
    let lock = "use Fcntl qw(:DEFAULT :seek); $| = 1; my $own = pack 's s l! l! i', F_WRLCK, SEEK_SET, 0, 6, 0; \
                    open my $f, '+<', 'range' or die; sub touch { open my $t, '>', shift or die }";
    // Beside the mount, so that it asks sharefs for nothing.
    let holder = format!(
        "{lock} fcntl $f, F_SETLK, $own or die; touch('{}'); {}",
        at("held"),
        wait_until("free")
    );
    let holder = perl(&world, "shared/d", &holder, &[])?;
    exists(&world, "held")?;
    let waiter = format!(
        "{lock} touch('{}'); fcntl $f, F_SETLKW, $own and die 'it has the lock'; print \"$!\\n\"; \
             touch('{}'); {} fcntl $f, F_SETLKW, $own or die \"again: $!\"; print \"had\\n\"",
        at("awaits"),
        at("refused"),
        wait_until("go")
    );
    let waiter = perl(&world, "m", &waiter, &[])?;
    exists(&world, "awaits")?;
    wait_for("the lock to be asked for", LONG, || {
        Ok((waits(&world)? > 0).then_some(()))
    })?;
    // Taken up by worker after worker, it is the only request there is.
    for _ in 0..4 {
        world.crash_worker()?;
    }
    ensure!(!world.path("refused").exists(), "no worker died of it");
    let before = number(&world, "sharectl_sharefs_restarts")?;
    world.write(&order, point)?;
    world.crash_worker()?;
    exists(&world, "refused")?;
    lives_on(&mut world, before)?;
    world.write(&world.path("free"), "")?;
    said(holder)?;
    world.write(&world.path("go"), "")?;
    let text = said(waiter)?;
    ensure!(text == "Input/output error\nhad\n", "{text}");
    Ok(())
}

#[test]
fn a_mount_that_is_not_wanted_any_more_ends_behind_a_killed_daemon() {
    whole_system(|| {
        let mut world = world(ordinary())?;
        let shell = |world: &World, lines: &str| {
            let mut line = world.command("sh");
            command::output(line.args(["-c", lines]), LONG)
        };
        ensure!(shell(&world, "echo x > m/file && cat l/../m/file")?.success()? == "x\n");
        let text = fs::read_to_string(world.path("config.toml"))?;
        // One is read-only from now on, and the other is gone; nobody told the process that dies.
        let (first, _) = text.split_once("[share.layers]").context("two shares")?;
        world.write(
            &world.path("config.toml"),
            format!("{first}read-only = true\n"),
        )?;
        world.crash_worker()?;
        ensure!(shell(&world, "cat m/file")?.success()? == "x\n");
        ensure!(!shell(&world, "echo y > m/file")?.status.success());
        let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
        let ours = table
            .lines()
            .filter(|line| line.contains(" fuse.sharectl "));
        ensure!(ours.count() == 1, "{table}");
        Ok(())
    });
}

/// Puts another folder in place of a share's, which leads into a mount.
fn lead_into(world: &World, share: &str, mount: &str) -> Result<()> {
    let path = world.path(share);
    fs::rename(&path, path.with_extension("before"))?;
    std::os::unix::fs::symlink(world.path(mount), &path)?;
    Ok(())
}

#[test]
fn shares_whose_paths_lead_into_mounts_that_nobody_serves_yet_do_not_keep_a_daemon_from_starting() {
    whole_system(|| {
        let world = world(ordinary())?;
        let ours = || -> Result<Vec<String>> {
            let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
            let lines = table.lines().map(str::to_owned);
            Ok(lines
                .filter(|line| line.contains(" fuse.sharectl "))
                .collect())
        };
        let crash = || -> Result<()> {
            let status = || world.get(Kind::Sharefs, "/v1/status");
            let old = status()?["pid"]
                .as_i64()
                .and_then(|pid| i32::try_from(pid).ok());
            let old = old.and_then(Pid::from_raw).context("a pid")?;
            kill_process(old, Signal::KILL)?;
            wait_for("the next worker", LONG, || {
                let now = status().ok().and_then(|status| status["pid"].as_i64());
                Ok(now
                    .filter(|now| *now != i64::from(old.as_raw_nonzero().get()))
                    .map(drop))
            })
        };
        ensure!(ours()?.len() == 2);
        // The first that is taken up waits for the second, and is in a mount of sharefs itself then.
        fs::create_dir(world.path("shared/layers/d"))?;
        lead_into(&world, "shared/d", "l/d")?;
        crash()?;
        let mut line = world.command("sh");
        line.args(["-c", "echo x > l/file && cat shared/layers/file"]);
        ensure!(command::output(&mut line, LONG)?.success()? == "x\n");
        let problems = world.get(Kind::Sharefs, "/v1/status")?["problems"].to_string();
        ensure!(
            problems.contains("is in a mount of sharefs itself"),
            "{problems}"
        );
        ensure!(ours()?.len() == 1, "{:?}", ours()?);

        // Each waits for the other: both are given up, and what is shared otherwise is served.
        fs::remove_file(world.path("shared/d"))?;
        fs::rename(world.path("shared/d.before"), world.path("shared/d"))?;
        world.sharectl(&["share", "mount", "d"])?.success()?;
        ensure!(ours()?.len() == 2);
        fs::create_dir(world.path("shared/d/layers"))?;
        lead_into(&world, "shared/layers", "m/layers")?;
        lead_into(&world, "shared/d", "l/d")?;
        crash()?;
        wait_for("both to end", LONG, || Ok(ours()?.is_empty().then_some(())))?;
        ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);
        fs::remove_file(world.path("shared/d"))?;
        fs::rename(world.path("shared/d.before"), world.path("shared/d"))?;
        world.sharectl(&["share", "mount", "d"])?.success()?;
        still_serves(&world, "again")
    });
}

/// A line in the mount, by way of the share's own folder.
fn still_serves(world: &World, text: &str) -> Result<()> {
    let mut line = world.command("sh");
    let script = format!("echo {text} > m/{text} && cat shared/d/{text}");
    let said = command::output(line.args(["-c", &script]), LONG)?.success()?;
    ensure!(said.trim() == text, "{said}");
    Ok(())
}

#[test]
fn a_file_with_mistakes_does_not_end_what_a_killed_daemon_served() {
    whole_system(|| {
        let mut world = world(ordinary())?;
        let holder = hold(&world)?;
        let path = world.path("config.toml");
        let text = fs::read_to_string(&path)?;
        world.write(&path, format!("{text}\nmistake = 1\n"))?;
        for _ in 0..2 {
            world.crash_worker()?;
            still_serves(&world, "before")?;
        }
        let status = world.get(Kind::Sharefs, "/v1/status")?;
        let told = status["problems"].to_string();
        ensure!(
            told.contains("mistake") && told.contains("running with the last good one"),
            "{told}"
        );
        let shown = world.sharectl(&["status"])?;
        ensure!(
            format!("{}{}", shown.stdout, shown.stderr).contains("mistake"),
            "{shown:?}"
        );
        fs::remove_file(&path)?;
        world.crash_worker()?;
        still_serves(&world, "without")?;
        let status = world.get(Kind::Sharefs, "/v1/status")?;
        let told = status["problems"].to_string();
        ensure!(told.contains("the file is gone"), "{told}");
        world.write(&path, "\n")?;
        world.crash_worker()?;
        still_serves(&world, "empty")?;
        let status = world.get(Kind::Sharefs, "/v1/status")?;
        let told = status["problems"].to_string();
        ensure!(told.contains("the file is empty"), "{told}");
        // Mended, it is in force again, by the command that the problem names.
        world.write(&path, text.replace("mount = \"@l\"\n", ""))?;
        world.sharectl(&["restart", "sharefs"])?.success()?;
        let status = world.get(Kind::Sharefs, "/v1/status")?;
        ensure!(
            status["problems"].as_array().is_some_and(Vec::is_empty),
            "{status}"
        );
        world.write(&world.path("shared/d/interrupt"), "")?;
        world.write(&world.path("shared/d/finish"), "")?;
        ensure!(said(holder)? == "finished\n");
        // What starts for the first time has nothing to go on with.
        world.write(&path, "mistake = 1\n")?;
        ensure!(world.crash(Kind::Sharefs).is_err());
        Ok(())
    });
}

/// Our four programs in a folder of the world, which the test may replace.
fn install(world: &World) -> Result<PathBuf> {
    let bin = world.path("bin");
    fs::create_dir(&bin)?;
    for name in [
        "sharectl",
        "sharectl-netd",
        "sharectl-sharefs",
        "sharectl-hostsync",
    ] {
        fs::copy(programs::folder()?.join(name), bin.join(name))?;
    }
    Ok(bin)
}

/// Puts another program at a path, as package managers do: its old file lives on while it runs.
fn replace(program: &Path, bytes: &[u8]) -> Result<()> {
    let new = program.with_extension("new");
    fs::copy(program, &new)?;
    fs::write(&new, bytes)?;
    fs::rename(&new, program)?;
    Ok(())
}

#[test]
fn up_hands_over_to_a_program_that_was_installed_and_never_to_one_that_keeps_state_otherwise() {
    whole_system(|| {
        packages::ensure(packages::MOUNTS)?;
        mounts::private()?;
        let config = format!("{CONFIG}\n[hosts]\nfiles = [\"@hosts\"]\n");
        let world = World::of(ordinary(), &config)?;
        world.write(&world.path("hosts"), "127.0.0.1 localhost\n")?;
        let bin = install(&world)?;
        let call = |arguments: &[&str]| {
            let mut line = world.command(bin.join("sharectl"));
            command::output(line.args(arguments), LONG)
        };
        let _down = Down(&world, bin.join("sharectl"));
        call(&["up"])?.success()?;
        let pid = || -> Result<u64> {
            let status = world.get(Kind::Sharefs, "/v1/status")?;
            status["pid"].as_u64().context("a pid")
        };
        let holder = hold(&world)?;
        let first = pid()?;
        let said_by_up = call(&["up"])?.success()?;
        ensure!(
            !said_by_up.contains("handed over") && pid()? == first,
            "{said_by_up}"
        );

        // Another build: the same program, and some bytes that nobody reads.
        let program = bin.join("sharectl-sharefs");
        let mut bytes = fs::read(&program)?;
        bytes.extend(b"another build");
        replace(&program, &bytes)?;
        let said_by_up = call(&["up"])?.success()?;
        ensure!(said_by_up.contains("handed over"), "{said_by_up}");
        let second = pid()?;
        ensure!(second != first);
        let runs = fs::read(format!("/proc/{second}/exe"))?;
        ensure!(runs == bytes, "the new program runs");
        still_serves(&world, "second")?;
        ensure!(!call(&["up"])?.success()?.contains("handed over"));

        // One with another number of the layout, in all the places where the compiler has put it.
        let layout =
            command::output(world.command(&program).arg("--kept-layout"), LONG)?.success()?;
        let layout = u64::from_str_radix(layout.trim(), 16)?;
        let other = with_layout(&bytes, layout, layout + 1);
        replace(&program, &other)?;
        let now = command::output(world.command(&program).arg("--kept-layout"), LONG)?.success()?;
        ensure!(u64::from_str_radix(now.trim(), 16)? == layout + 1, "{now}");
        for (arguments, words) in [
            (&["up"][..], "runs on as the program that was there before"),
            (&["restart", "sharefs"][..], "sharectl down && sharectl up"),
        ] {
            let answer = call(arguments)?;
            let text = format!("{}{}", answer.stdout, answer.stderr);
            let why = "keeps the state of guests in another way";
            ensure!(text.contains(words) && text.contains(why), "{text}");
        }
        // And something that is no sharefs at all.
        replace(&program, b"#!/bin/sh\nexec sleep 60\n")?;
        let answer = call(&["restart", "sharefs"])?;
        ensure!(
            !answer.status.success() && answer.stderr.contains("does not say how"),
            "{answer:?}"
        );
        ensure!(pid()? == second, "whoever was there still is");
        still_serves(&world, "third")?;

        replace(&program, &bytes)?;
        call(&["restart", "sharefs"])?.success()?;
        world.write(&world.path("shared/d/interrupt"), "")?;
        world.write(&world.path("shared/d/finish"), "")?;
        ensure!(said(holder)? == "finished\n");
        Ok(())
    });
}

#[test]
fn a_program_that_cannot_be_begun_leaves_the_one_before_as_it_was() {
    whole_system(|| {
        packages::ensure(packages::MOUNTS)?;
        mounts::private()?;
        let world = World::of(ordinary(), CONFIG)?;
        let bin = install(&world)?;
        let call = |arguments: &[&str]| {
            let mut line = world.command(bin.join("sharectl"));
            command::output(line.args(arguments), LONG)
        };
        let _down = Down(&world, bin.join("sharectl"));
        call(&["up"])?.success()?;
        let pid = || -> Result<u32> {
            let status = world.get(Kind::Sharefs, "/v1/status")?;
            let pid = status["pid"].as_u64().context("a pid")?;
            Ok(u32::try_from(pid)?)
        };
        let first = pid()?;
        let before = left_to_programs(first)?;
        // It says that it can go on, and is no program any more when it is to.
        let program = bin.join("sharectl-sharefs");
        let layout =
            command::output(world.command(&program).arg("--kept-layout"), LONG)?.success()?;
        let script = format!("#!/bin/sh\necho {}; chmod 600 \"$0\"\n", layout.trim());
        replace(&program, script.as_bytes())?;
        world.user().own(&program)?;
        let said = call(&["restart", "sharefs"])?;
        let told = format!("{} could not be started", program.display());
        ensure!(
            !said.status.success()
                && said.stderr.contains(&told)
                && said.stderr.contains("that ran before goes on"),
            "{said:?}"
        );
        ensure!(
            world.get(Kind::Sharefs, "/v1/status")?["problems"]
                .to_string()
                .contains(&told)
        );
        let counted = (
            number(&world, "sharectl_sharefs_handovers")?,
            number(&world, "sharectl_sharefs_restarts")?,
        );
        ensure!(counted == (0, 1), "{counted:?}");
        world.wait_for_worker_after(first)?;
        let after = left_to_programs(pid()?)?;
        ensure!(
            after == before,
            "{after:?}, and before {before:?}: {said:?}"
        );
        still_serves(&world, "again")?;
        // Also without a file of its own that it could start to unmount.
        call(&["down"])?.success()?;
        let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
        ensure!(!table.contains(" fuse.sharectl "), "{table}");
        Ok(())
    });
}

/// What a program that a daemon, or its keeper, starts would get of it: numbers of descriptors, signals that are ignored.
fn left_to_programs(worker: u32) -> Result<[(Vec<String>, String); 2]> {
    const CLOSED: u64 = 0o2_000_000;
    let of = |pid: u32| -> Result<(Vec<String>, String)> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            let entry = entry?;
            let Ok(text) = fs::read_to_string(entry.path()) else {
                continue;
            };
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u64::from_str_radix(flags.context("flags")?.trim(), 8)?;
            if flags & CLOSED == 0 {
                numbers.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        numbers.sort();
        Ok((numbers, of_status(pid, "SigIgn:")?))
    };
    let keeper = of_status(worker, "PPid:")?.parse()?;
    Ok([of(worker)?, of(keeper)?])
}

fn of_status(pid: u32, field: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    Ok(value.context("no such field")?.trim().to_owned())
}

fn with_layout(program: &[u8], old: u64, new: u64) -> Vec<u8> {
    let (old, new) = (old.to_le_bytes(), new.to_le_bytes());
    let mut patched = program.to_vec();
    let mut at = 0;
    while let Some(found) = patched
        .get(at..)
        .and_then(|rest| rest.windows(8).position(|bytes| bytes == old))
    {
        at += found;
        patched.splice(at..at + 8, new);
        at += 8;
    }
    patched
}

/// Nothing of it is left, however the test ends.
struct Down<'w>(&'w World, PathBuf);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let mut line = self.0.command(&self.1);
        let down = command::output(line.arg("down"), LONG);
        drop(down);
    }
}
