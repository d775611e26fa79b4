//! Shares mounted on the host itself: by root and by an ordinary user, used by real programs, over
//! daemons that are killed and configurations that change. Each test has a mount namespace of its own.

use std::path::PathBuf;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::limit::wait_for;
use tests::user::User;
use tests::{Context, Result, command, ensure, mounts, packages, whole_system};

const CONFIG: &str = r#"
[share.d]
path = "@shared/d"
"#;

const LONG: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(10);

/// A world with sharefs; everything runs as `user`.
fn world(user: User) -> Result<World> {
    packages::ensure(packages::MOUNTS)?;
    mounts::private()?;
    let mut world = World::of(user, CONFIG)?;
    world.start(Kind::Sharefs)?;
    Ok(world)
}

fn ordinary() -> User {
    User::unprivileged().with_set_uid()
}

/// Runs lines of shell as the world's user, in its folder: the share is `shared/d`, its mount `m`.
fn shell(world: &World, lines: &str) -> Result<String> {
    let mut line = world.command("sh");
    let program = format!("set -e\numask 022\n{lines}");
    command::output(line.args(["-c", &program]), LONG)?
        .success()
        .with_context(|| lines.to_owned())
}

fn mount(world: &World) -> Result<PathBuf> {
    let place = world.path("m");
    let said = world.sharectl(&["share", "mount", "d", &place.display().to_string()])?;
    said.success()?;
    Ok(place)
}

/// `sharectl` is refused and says so.
fn refused(world: &World, arguments: &[&str], said: &str) -> Result<()> {
    let output = world.sharectl(arguments)?;
    ensure!(!output.status.success(), "accepted: {arguments:?}");
    let all = format!("{}{}", output.stdout, output.stderr);
    ensure!(all.contains(said), "{arguments:?} says\n{all}");
    Ok(())
}

/// The mount in `GET /v1/shares`.
fn status(world: &World) -> Result<serde_json::Value> {
    let shares = world.get(Kind::Sharefs, "/v1/shares")?;
    Ok(shares[0]["mount"].clone())
}

/// Whether the namespace has a mount of ours.
fn is_mounted() -> Result<bool> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
    Ok(table.contains(" fuse.sharectl "))
}

/// What programs do, through the mount and beside it.
fn programs(user: User) -> Result<()> {
    let mut world = world(user)?;
    mount(&world)?;
    shell(
        &world,
        r#"
        echo there > shared/d/a && test "$(cat m/a)" = there
        echo back > m/b && test "$(cat shared/d/b)" = back
        mkdir -p m/x/y && mv m/b m/x/y/c && test "$(cat shared/d/x/y/c)" = back && ! test -e shared/d/b
        ln m/a m/x/hard && test "$(stat -c %h shared/d/a)" = 2 && ln -s ../a m/x/soft && test "$(cat m/x/soft)" = there
        chmod 640 m/a && test "$(stat -c '%a %u' shared/d/a)" = "640 $(id -u)"
        test "$(stat -c %u:%g m/a)" = "$(stat -c %u:%g shared/d/a)"
        dd if=/dev/urandom of=m/big bs=1M count=20 status=none && cmp m/big shared/d/big
        cp m/big m/big2 && truncate -s 1M m/big2 && cmp -n 1048576 shared/d/big2 m/big && rm m/big m/big2
        ! mkdir m/x 2> /dev/null && ! rmdir m/x 2> /dev/null
        "#,
    )?;
    shell(
        &world,
        r#"
        mkdir m/many && cd m/many && seq 3000 | xargs touch && cd ../..
        test "$(find m/many -type f | wc -l)" = 3000
        test "$(ls -lR m/many | grep -c '^-')" = 3000
        find m/many | sort > in-mount; (cd shared/d; find many) | sed 's,^,m/,' | sort > in-folder; cmp in-mount in-folder
        rm -r m/many && ! test -e shared/d/many
        "#,
    )?;
    shell(
        &world,
        r#"
        export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        git init -q m/repo && cd m/repo && seq 500 | split -l 1 -a 3 - f && git add . && git commit -qm one
        git mv faaa g && git commit -qam two && git gc -q && git fsck --strict 2>&1 && test -z "$(git status --porcelain)"
        cd ../.. && git -c safe.directory='*' -C shared/d/repo log --oneline | wc -l | grep -qx 2
        "#,
    )?;
    // A write-ahead log's index is a shared writable mapping of two processes.
    shell(
        &world,
        r#"
        sqlite3 m/db 'PRAGMA journal_mode=WAL; PRAGMA mmap_size=1000000; CREATE TABLE t(n); INSERT INTO t VALUES(1);' | grep -q wal
        for n in 1 2; do
            (for i in $(seq 20); do sqlite3 -cmd '.timeout 20000' m/db 'PRAGMA mmap_size=1000000; INSERT INTO t VALUES(2);' > /dev/null; done) &
        done; wait
        test "$(sqlite3 m/db 'SELECT count(*) FROM t; PRAGMA integrity_check;' | tr '\n' ' ')" = '41 ok '
        test "$(sqlite3 shared/d/db 'SELECT count(*) FROM t;')" = 41
        "#,
    )?;
    locks(&world)?;
    ensure!(status(&world)?["mounted"] == true);
    world.daemon(Kind::Sharefs)?.stop()?;
    ensure!(!is_mounted()?, "a daemon that stops unmounts");
    ensure!(shell(&world, "ls -A m")?.is_empty());
    Ok(())
}

/// One lock for the mount and the folder; a program that waits for one can be interrupted and killed.
fn locks(world: &World) -> Result<()> {
    let perl = r#"
        use strict; use warnings; use Fcntl qw(:DEFAULT :flock :seek);
        open my $in, '+<', 'm/a' or die; open my $beside, '+<', 'shared/d/a' or die;
        my $whole = sub { pack 's s l! l! i', shift, SEEK_SET, 0, 0, 0 };
        my ($write, $none) = ($whole->(F_WRLCK), $whole->(F_UNLCK));
        # A child says by a byte that it has come so far.
        pipe my $hear, my $say or die; my $wait = sub { sysread $hear, my $byte, 1 or die 'it is gone' };
        fcntl $beside, F_SETLK, $write or die "beside: $!";
        my $child = fork // die;
        if (!$child) {
            !fcntl $in, F_SETLK, $write or die 'two have it';
            my $came = time; local $SIG{ALRM} = sub { die "rang\n" };
            alarm 1; eval { fcntl $in, F_SETLKW, $write; die "not interrupted: $!\n" };
            $@ eq "rang\n" or die $@; my $took = time - $came; $took < 10 or die "took $took";
            syswrite $say, '1'; fcntl $in, F_SETLKW, $write or die "wait: $!"; exit 0;
        }
        $wait->(); fcntl $beside, F_SETLK, $none or die; waitpid $child, 0; $? == 0 or die "child: $?";

        my $other = fork // die;
        if (!$other) { open my $f, '+<', 'm/a' or die; flock $f, LOCK_EX or die; syswrite $say, '2'; sleep 100; exit 0; }
        $wait->();
        my $waiter = fork // die;
        if (!$waiter) { open my $f, '+<', 'm/a' or die; syswrite $say, '3'; flock $f, LOCK_EX; exit 3; }
        $wait->(); select undef, undef, undef, 0.3;
        my $before = time; kill 9, $waiter; waitpid $waiter, 0;
        $? == 9 && time - $before < 10 or die "a waiter cannot be killed: $?";
        kill 9, $other; waitpid $other, 0; flock $in, LOCK_EX or die; print "done\n";
    "#;
    let mut line = world.command("perl");
    let said = command::output(line.args(["-e", perl]), LONG)?.success()?;
    ensure!(said == "done\n", "{said}");
    Ok(())
}

#[test]
fn programs_of_an_ordinary_user_work_in_a_mount_by_fusermount3() {
    whole_system(|| programs(ordinary()));
}

#[test]
fn programs_of_root_work_in_a_mount_by_the_kernel() {
    whole_system(|| programs(User::ourselves()));
}

#[test]
fn a_killed_daemons_mount_is_back_at_its_next_start_and_goes_with_its_share() {
    for user in [ordinary(), User::ourselves()] {
        whole_system(|| {
            let mut world = world(user)?;
            let place = mount(&world)?;
            shell(&world, "echo 1 > m/log")?;
            let mut inside = sleeper_in_the_mount(&world)?;
            world.daemon(Kind::Sharefs)?.kill()?;
            ensure!(shell(&world, "ls m").is_err(), "a dead mount answers");
            world.start(Kind::Sharefs)?;
            shell(&world, "echo 2 >> m/log")?;
            ensure!(shell(&world, "cat shared/d/log")? == "1\n2\n");
            inside.kill()?;
            inside.wait()?;
            // One whose worker is killed mounts again by itself.
            world.crash_worker()?;
            shell(&world, "cmp m/log shared/d/log")?;

            // A reload for something else disturbs no open file.
            shell(
                &world,
                "exec 5>> m/log; echo 3 >&5; mkdir -p shared/e; sharectl share add shared/e; echo 4 >&5",
            )?;
            ensure!(shell(&world, "cat shared/d/log")? == "1\n2\n3\n4\n");

            // Whoever unmounts it is believed, and it is told.
            let by_hand = if world.user() == User::ourselves() {
                "umount -l m"
            } else {
                "fusermount3 -u -z m"
            };
            shell(&world, by_hand)?;
            wait_for("it to be told", SOON, || {
                Ok((status(&world)?["mounted"] == false).then_some(()))
            })?;
            let told = world.sharectl(&["status"])?.stdout;
            let words = format!(
                "somebody unmounted {0}: sharectl share mount d {0}",
                place.display()
            );
            ensure!(told.contains(&words), "{told}");
            wait_for("the event", SOON, || {
                let events = world.sharectl(&["events", "sharefs"])?.stdout;
                Ok(events.contains("share-unmounted").then_some(()))
            })?;
            mount(&world)?;
            shell(&world, "test \"$(tail -n 1 m/log)\" = 4")?;

            world.sharectl(&["share", "rm", "d"])?.success()?;
            ensure!(!is_mounted()?, "a share that is gone is mounted");

            // Killed, and then no longer wanted: the dead mount goes all the same.
            world
                .sharectl(&["share", "mount", "e", &place.display().to_string()])?
                .success()?;
            world.daemon(Kind::Sharefs)?.kill()?;
            ensure!(is_mounted()?);
            world.sharectl(&["share", "unmount", "e"])?.success()?;
            world.start(Kind::Sharefs)?;
            ensure!(!is_mounted()?, "a dead mount stays");
            Ok(())
        });
    }
}

/// A sleeping program whose folder is the mount.
fn sleeper_in_the_mount(world: &World) -> Result<std::process::Child> {
    let mut line = world.command("sh");
    let child = line.args(["-c", "cd m && exec sleep 60"]).spawn()?;
    let folder = format!("/proc/{}/cwd", child.id());
    wait_for("a program in the mount", SOON, || {
        let at = std::fs::read_link(&folder).unwrap_or_default();
        Ok(at.ends_with("m").then_some(()))
    })?;
    Ok(child)
}

#[test]
fn mount_points_that_will_not_do_are_refused_with_the_reason() {
    whole_system(|| {
        let world = world(ordinary())?;
        shell(
            &world,
            "mkdir full; touch full/x; mkdir shared/d/in; ln -s shared/d/in link; mkdir alias taken",
        )?;
        let path = |name: &str| world.path(name).display().to_string();
        command::run(
            std::process::Command::new("mount").args(["--bind", &path("shared/d"), &path("alias")]),
            SOON,
        )?;
        command::run(
            std::process::Command::new("mount").args(["-t", "tmpfs", "none", &path("taken")]),
            SOON,
        )?;
        for (place, said) in [
            ("shared/d/in", "is inside the folder"),
            ("shared", "would hide the folder"),
            ("link", "is in the shared folder"),
            ("alias/in", "is in the shared folder"),
            ("full", "is not empty"),
            ("full/x", "is not a folder"),
            (
                "taken",
                "has a mount already: none (tmpfs) by somebody else",
            ),
        ] {
            refused(&world, &["share", "mount", "d", &path(place)], said)?;
        }
        // Root's, whatever this machine's /root is like.
        let locked = world.path("locked");
        command::run(
            std::process::Command::new("mkdir")
                .args(["-m", "700"])
                .arg(&locked),
            SOON,
        )?;
        refused(
            &world,
            &["share", "mount", "d", &path("locked/d")],
            &format!("cannot look at {}", locked.display()),
        )?;
        refused(
            &world,
            &["share", "mount", "d", "/opt/no-such-place"],
            "sudo mkdir -p /opt/no-such-place && sudo chown",
        )?;
        refused(
            &world,
            &["share", "mount", "d", &path("m"), "--all-users"],
            "echo user_allow_other | sudo tee -a /etc/fuse.conf",
        )?;
        ensure!(!is_mounted()?);
        let told = status(&world)?;
        ensure!(
            told["mounted"] == false && told["problem"].is_string(),
            "{told}"
        );
        // Nothing of this is final.
        refused(
            &world,
            &["share", "unmount", "nonesuch"],
            "no share \"nonesuch\"",
        )?;
        world.sharectl(&["share", "unmount", "d"])?.success()?;
        refused(&world, &["share", "unmount", "d"], "is not to be mounted")?;
        refused(
            &world,
            &["share", "mount", "d"],
            "say where the host shall have it too",
        )?;
        let dry = world.sharectl(&["share", "mount", "d", &path("m"), "--dry-run"])?;
        ensure!(dry.success()?.contains("+mount = "));
        ensure!(!is_mounted()?);
        let waited = world.sharectl(&["share", "mount", "d", &path("m"), "--wait=20s"])?;
        ensure!(waited.success()?.contains("mounted at"));
        ensure!(is_mounted()?);
        mount(&world)?;
        Ok(())
    });
}

#[test]
fn a_mount_of_root_for_all_users_keeps_to_the_permissions() {
    whole_system(|| {
        let world = world(User::ourselves())?;
        let place = world.path("m").display().to_string();
        let said = world.sharectl(&["share", "mount", "d", &place, "--all-users"])?;
        ensure!(said.success()?.contains("for all users"));
        shell(
            &world,
            "echo open > m/open; echo closed > m/closed; chmod 600 m/closed; mkdir m/for-all; chmod 1777 m/for-all",
        )?;
        let user = User::unprivileged();
        let program = format!(
            "cd {place} && cat open && ! cat closed 2> /dev/null && ! touch new 2> /dev/null && \
             echo mine > for-all/mine && stat -c %u for-all/mine && ! rm open 2> /dev/null"
        );
        let mut line = user.command("sh");
        let said = command::output(line.args(["-c", &program]), LONG)?.success()?;
        ensure!(said == format!("open\n{}\n", user.uid), "{said}");
        ensure!(shell(&world, "stat -c %u shared/d/for-all/mine")?.trim() == user.uid.to_string());
        Ok(())
    });
}

#[test]
fn a_mount_that_is_put_inside_its_own_share_is_a_closed_place_and_nothing_waits() {
    whole_system(|| {
        let world = world(User::ourselves())?;
        mount(&world)?;
        shell(&world, "mkdir -p shared/d/again; echo x > shared/d/file")?;
        shell(&world, "mount --bind m shared/d/again")?;
        // Through the mount, the folder and the mount in it: nobody asks itself.
        let said = shell(
            &world,
            "for i in 1 2 3 4 5 6 7 8; do find m shared/d > /dev/null 2>&1 & done; wait; \
             ! ls m/again 2>&1 && cat m/file && cat shared/d/again/file",
        )?;
        ensure!(said.contains("Too many levels of symbolic links"), "{said}");
        ensure!(said.ends_with("x\nx\n"), "{said}");
        ensure!(status(&world)?["mounted"] == true);
        Ok(())
    });
}

#[test]
fn a_read_only_share_is_a_read_only_mount() {
    whole_system(|| {
        let world = world(ordinary())?;
        shell(
            &world,
            "echo x > shared/d/file; sharectl share rm d; sharectl share add shared/d --read-only",
        )?;
        mount(&world)?;
        shell(
            &world,
            "cat m/file && ! touch m/file 2> /dev/null && grep -q ' m\\| .*/m ro,' /proc/self/mountinfo",
        )?;
        Ok(())
    });
}

#[test]
fn a_machine_without_dev_fuse_is_told_what_it_lacks() {
    whole_system(|| {
        let world = world(ordinary())?;
        // The namespace's own /dev, with what programs cannot do without.
        let line = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/zero c 1 5 && \
                    mknod -m 666 /dev/urandom c 1 9";
        command::run(std::process::Command::new("sh").args(["-c", line]), SOON)?;
        let place = world.path("m").display().to_string();
        refused(
            &world,
            &["share", "mount", "d", &place],
            "there is no /dev/fuse: sudo modprobe fuse",
        )?;
        command::run(std::process::Command::new("umount").arg("/dev"), SOON)?;
        mount(&world)?;
        Ok(())
    });
}

#[test]
fn another_sharefs_that_stands_still_keeps_nobody_from_mounting() {
    whole_system(|| {
        let mut stopped = world(ordinary())?;
        let taken = mount(&stopped)?;
        let pid = i32::try_from(stopped.daemon(Kind::Sharefs)?.pid())?;
        let pid = rustix::process::Pid::from_raw(pid).context("its process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
        // Looked at, such a mount waits for ever.
        let mut other = World::of(ordinary(), CONFIG)?;
        other.start(Kind::Sharefs)?;
        mount(&other)?;
        shell(
            &other,
            "echo x > m/file && test \"$(cat shared/d/file)\" = x",
        )?;
        let place = taken.display().to_string();
        refused(
            &other,
            &["share", "mount", "d", &place],
            "has a mount already: d by another sharefs",
        )?;
        other.sharectl(&["share", "unmount", "d"])?.success()?;
        other.daemon(Kind::Sharefs)?.stop()?;
        rustix::process::kill_process(pid, rustix::process::Signal::CONT)?;
        shell(
            &stopped,
            "echo y > m/file && test \"$(cat shared/d/file)\" = y",
        )?;
        Ok(())
    });
}

#[test]
fn access_control_lists_are_set_through_a_mount_and_are_the_hosts() {
    whole_system(|| {
        packages::ensure(packages::LISTS)?;
        packages::ensure(packages::MOUNTS)?;
        mounts::private()?;
        let mut world = World::of(ordinary(), &format!("{CONFIG}acl = true\n"))?;
        world.start(Kind::Sharefs)?;
        mount(&world)?;
        shell(
            &world,
            r#"
            echo x > m/f && setfacl -m u:1234:r,g:77:- m/f
            getfacl -cn shared/d/f | grep -qx user:1234:r-- && getfacl -cn m/f | grep -qx group:77:---
            setfacl -x u:1234 shared/d/f && ! getfacl -cn m/f | grep -q 1234
            mkdir m/with m/without && setfacl -d -m u:1234:rwx,o::- m/with
            (umask 077 && touch m/with/new m/without/new)
            test "$(stat -c %a shared/d/with/new) $(stat -c %a shared/d/without/new)" = '660 600'
            "#,
        )?;
        Ok(())
    });
}
