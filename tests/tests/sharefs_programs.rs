//! What programs do to files, done on a share in a real guest by the host's own tools: the host's file
//! system is a read-only share of its own, and the guest changes its root to it.

use std::fs;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::{Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"

[guest.dev]
[guest.two]

[share.d]
path = "@shared/d"
at = "/mnt/d"
guest-owner = "0:0"

[share.host]
path = "/"
at = "/host"
read-only = true
guest-owner = "0:0"
"#;

const SHARES: &[(&str, &str)] = &[("d", "/mnt/d"), ("host", "/host")];
const LONG: Duration = Duration::from_secs(120);

/// A world with the shares' daemon; guests here have no network.
fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    world.share_folder("d")?;
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    Ok(world)
}

/// A guest that can run the host's programs, with the share at /mnt.
fn guest(world: &World, name: &str) -> Result<Guest> {
    let guest = world.machine(name, SHARES)?.boot()?;
    guest.ok("mount --bind /mnt/d /host/mnt && mount -t proc proc /host/proc && mount -t tmpfs tmp /host/tmp")?;
    Ok(guest)
}

/// Runs a Perl program in /mnt of the guest's host root; each line of it must hold.
fn perl(guest: &Guest, program: &str) -> Result<String> {
    let prelude = "use strict; use warnings; use Fcntl qw(:DEFAULT :flock :seek); use POSIX ();\
                   chdir '/mnt' or die; sub must { my ($true, $what) = @_; $true or die \"$what: $!\\n\"; }\n";
    let text = format!("{prelude}{program}").replace('\'', r"'\''");
    let answer = guest.run_within(
        LONG,
        &format!("chroot /host /usr/bin/perl -e '{text}' 2>&1"),
    )?;
    ensure!(answer.status == 0, "{program}\n{}", answer.stdout);
    Ok(answer.stdout)
}

#[test]
fn programs_find_what_they_expect_of_a_file_system() {
    whole_system(|| {
        let world = world()?;
        let d = world.share_folder("d")?;
        let guest = guest(&world, "dev")?;

        // A removed file lives as long as it is open; append goes to the end; sizes and times are kept.
        perl(
            &guest,
            r#"
            sysopen(my $f, "u", O_RDWR|O_CREAT|O_EXCL, 0640) or die; unlink "u" or die;
            must(syswrite($f, "abc") == 3, "write"); sysseek($f, 0, SEEK_SET);
            my $read; must(sysread($f, $read, 9) == 3 && $read eq "abc", "read back");
            must((stat $f)[3] == 0, "no link is left");
            must(!sysopen(my $g, "u", O_RDONLY) && $!{ENOENT}, "it has no name");
            open(my $h, ">>", "log") or die; open(my $i, ">>", "log") or die;
            for (1..50) { syswrite($h, "h$_\n"); syswrite($i, "i$_\n"); }
            close $h; close $i; must((() = `cat log`) == 100, "lines of both");
            must(utime(5, 6, "log"), "utime"); my @s = stat "log"; must($s[8] == 5 && $s[9] == 6, "times");
            must(truncate("log", 10), "truncate"); must(-s "log" == 10, "size");
            umask 027; must(mkdir("m", 0777), "mkdir"); must(((stat "m")[2] & 0777) == 0750, "umask");
            sysopen(my $r, "read-only", O_WRONLY|O_CREAT, 0444) or die "create 0444: $!";
            must(syswrite($r, "x") == 1, "the creator writes");
            must(symlink("gone", "s") && readlink("s") eq "gone" && !-e "s", "dangling link");
            must(link("log", "hard") && (stat "log")[3] == 2, "hard link");
            must(POSIX::mkfifo("fifo", 0600) && -p "fifo", "fifo");
            must(rename("m", "n") && -d "n", "rename");
            must(!rmdir(".") , "not the root"); must(rmdir("n"), "rmdir");
            must(chmod(04755, "log") && ((stat "log")[2] & 07777) == 04755, "set-id bit");
            must(chown(0, 0, "log"), "chown to the owner it has"); must(!chown(7, 7, "log") && $!{EPERM}, "to another");
        "#,
        )?;

        // A folder of two thousand, with names that are no text, listed and removed.
        perl(
            &guest,
            r#"
            mkdir "big"; for (0..1999) { open(my $f, ">", "big/$_ \xff\n") or die "$_: $!"; }
            opendir(my $o, "big"); my @n = grep { !/^\.\.?$/ } readdir $o; must(@n == 2000, "all of " . @n);
            my %once; $once{$_}++ for @n; must(keys %once == 2000, "each once");
            for (@n) { unlink "big/$_" or die; } must(rmdir("big"), "empty");
        "#,
        )?;
        ensure!(!d.join("big").exists());

        // The host's tar unpacks a tree of its own, with owners, modes and links as they were.
        guest.ok("chroot /host sh -c 'cd /usr/share && tar c base-files | tar x -C /mnt && diff -r base-files /mnt/base-files'")?;
        guest.ok("chroot /host rm -r /mnt/base-files /mnt/read-only")?;
        ensure!(fs::metadata(d.join("log"))?.len() == 10);
        Ok(())
    });
}

#[test]
fn locks_are_heeded_between_programs_guests_and_the_host() {
    whole_system(|| {
        let world = world()?;
        let d = world.share_folder("d")?;
        world.write(&d.join("lock"), "")?;
        let (one, two) = (guest(&world, "dev")?, guest(&world, "two")?);

        // Between two programs of one guest: fcntl's ranges and flock, refused and waited for.
        perl(
            &one,
            r#"
            sub set { my ($f, $kind, $start, $length, $wait) = @_;
                fcntl($f, $wait ? F_SETLKW : F_SETLK, pack("s s x4 q q i x4", $kind, 0, $start, $length, 0)) }
            sysopen(my $f, "lock", O_RDWR) or die; must(set($f, F_WRLCK, 0, 10), "lock");
            pipe(my $r, my $w);
            my $child = fork // die;
            unless ($child) {
                sysopen(my $g, "lock", O_RDWR) or die; must(!set($g, F_RDLCK, 5, 1), "refused");
                must(set($g, F_WRLCK, 10, 0), "behind it"); syswrite($w, "x");
                must(set($g, F_WRLCK, 0, 1, 1), "waited"); POSIX::_exit(0);
            }
            sysread($r, my $b, 1); must(waitpid($child, POSIX::WNOHANG()) == 0, "it waits");
            must(set($f, F_UNLCK, 0, 0), "unlock"); must(waitpid($child, 0) == $child && $? == 0, "it got it");
        "#,
        )?;

        // Between two guests.
        one.ok("chroot /host sh -c 'exec 9<> /mnt/lock; flock 9; touch /mnt/held; (sleep 100 9>&9) & echo $! > /tmp/holder'")?;
        let refused = two.run("chroot /host flock -n /mnt/lock true")?;
        ensure!(refused.status == 1, "{refused:?}");
        let host = fs::File::options().write(true).open(d.join("lock"))?;
        ensure!(
            host.try_lock().is_err(),
            "the host's programs are kept out too"
        );
        one.ok("kill $(cat /host/tmp/holder)")?;
        two.ok("chroot /host flock -w 20 /mnt/lock true")?;
        host.try_lock()?;
        let refused = two.run("chroot /host flock -n /mnt/lock true")?;
        ensure!(refused.status == 1, "{refused:?}");
        Ok(())
    });
}

#[test]
fn of_two_programs_that_wait_for_each_others_ranges_one_is_told_and_the_other_goes_on() {
    whole_system(|| {
        let world = world()?;
        let guest = guest(&world, "dev")?;
        perl(
            &guest,
            r#"
            sub lock_byte { my ($file, $at) = @_;
                return fcntl($file, F_SETLKW, pack("s s x4 q q i x4", F_WRLCK, 0, $at, 1, 0)); }
            pipe(my $from_child, my $to_parent) or die; pipe(my $from_parent, my $to_child) or die;
            my $word; my $child = fork;
            sysopen(my $file, "circle", O_RDWR|O_CREAT) or die;
            if (!$child) {
                must(lock_byte($file, 1), "child's own"); syswrite($to_parent, "x");
                sysread($from_parent, $word, 1);
                exit(lock_byte($file, 0) ? 0 : $!{EDEADLK} ? 35 : 1);
            }
            must(lock_byte($file, 0), "parent's own"); syswrite($to_child, "x");
            sysread($from_child, $word, 1);
            my $got = lock_byte($file, 1); must($got || $!{EDEADLK}, "parent waits");
            close $file; waitpid($child, 0);
            must(($? >> 8) == ($got ? 35 : 0), "got " . ($got ? 1 : 0) . ", the child ended with " . ($? >> 8));
            "#,
        )?;
        Ok(())
    });
}
