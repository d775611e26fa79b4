//! Shares by 9P: a real guest's kernel mounts them from the gateway over TCP.

use std::fs;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::limit::wait_for;
use tests::{Result, ensure, packages, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
[guest.two]
[guest.none]

[share.d]
path = "@shared/d"
at = "/mnt/d"
guest-owner = "0:0"
guests = ["dev", "two"]
ninep = true

[share.frozen]
path = "@shared/frozen"
at = "/mnt/frozen"
guest-owner = "0:0"
read-only = true
guests = ["dev"]
ninep = true

[share.host]
path = "/"
at = "/host"
read-only = true
guest-owner = "0:0"
"#;

const LONG: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);
/// For the programs of the host: the one share that comes by virtiofs.
const HOST: &[(&str, &str)] = &[("host", "/host")];

fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    world.share_folder("d")?;
    let frozen = world.share_folder("frozen")?;
    world.write(&frozen.join("kept"), "as it was")?;
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    Ok(world)
}

/// A guest with an address and 9P in its kernel.
fn boot(world: &World, name: &str, shares: &[(&str, &str)]) -> Result<Guest> {
    let guest = world
        .machine(name, shares)?
        .module("9p")
        .module("9pnet_fd")
        .boot()?;
    guest.address(SOON)?;
    Ok(guest)
}

/// Mounts a share as `sharectl describe` says.
fn mount(guest: &Guest, share: &str, at: &str, more: &str) -> Result<()> {
    guest.ok(&format!("mkdir -p {at} && {}", line(share, at, more)))?;
    Ok(())
}

fn line(share: &str, at: &str, more: &str) -> String {
    format!(
        "mount -t 9p -o trans=tcp,version=9p2000.L,msize=1048576,cache=mmap,aname={share}{more} 192.168.130.1 {at}"
    )
}

/// The number of a metric, all labels added up.
fn metric(world: &World, name: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    let lines = page
        .lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name));
    Ok(lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum())
}

/// 9P requests of one kind so far.
fn operation(world: &World, operation: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    let wanted = format!("operation=\"{operation}\"");
    let lines = page.lines().filter(|line| {
        line.starts_with("sharectl_sharefs_ninep_requests_total{") && line.contains(&wanted)
    });
    Ok(lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum())
}

/// Runs a Perl program of the host's in /mnt of the guest's host root; each line of it must hold.
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
fn files_cross_both_ways_over_the_virtual_network() {
    whole_system(|| {
        let world = world()?;
        let d = world.share_folder("d")?;
        let frozen = world.share_folder("frozen")?;
        world.write(&d.join("from-host"), "host")?;
        let guest = boot(&world, "dev", HOST)?;
        mount(&guest, "d", "/mnt/d", "")?;
        mount(&guest, "/frozen", "/mnt/frozen", "")?;

        let described = world.sharectl(&["describe", "d"])?.stdout;
        ensure!(described.contains(&line("d", "/mnt/d", "")), "{described}");
        let arguments = world.sharectl(&["guest", "args", "dev"])?;
        ensure!(
            arguments
                .stderr
                .contains(&line("frozen", "/mnt/frozen", ""))
                && !arguments.stdout.contains("9p"),
            "{arguments:?}"
        );

        ensure!(guest.ok("cat /mnt/d/from-host")? == "host");
        guest.ok("echo guest > /mnt/d/from-guest")?;
        ensure!(fs::read_to_string(d.join("from-guest"))? == "guest\n");
        guest.ok("mkdir -p /mnt/d/a/b && mv /mnt/d/from-guest /mnt/d/a/b/moved")?;
        guest.ok("ln -s b/moved /mnt/d/a/link && cat /mnt/d/a/link")?;
        guest.ok("ln /mnt/d/a/b/moved /mnt/d/hard && mkfifo /mnt/d/fifo && test -p /mnt/d/fifo")?;
        guest.ok("mv /mnt/d/a/b /mnt/d/c && test -e /mnt/d/c/moved && ! test -e /mnt/d/a/b")?;
        ensure!(fs::read_link(d.join("a/link"))?.to_str() == Some("b/moved"));
        guest.ok("dd if=/dev/urandom of=/mnt/d/big bs=1M count=8 2> /dev/null && sync")?;
        let there = guest.ok("sha256sum < /mnt/d/big | cut -d ' ' -f 1")?;
        let mut sum = std::process::Command::new("sha256sum");
        let here = tests::command::run(sum.arg(d.join("big")), SOON)?;
        ensure!(here.starts_with(&there), "{here} here, {there} there");
        guest.ok("df /mnt/d | grep -q /mnt/d && rm -r /mnt/d/a /mnt/d/c /mnt/d/big /mnt/d/hard")?;
        ensure!(!d.join("c").exists() && !d.join("big").exists());

        ensure!(guest.ok("cat /mnt/frozen/kept")? == "as it was");
        for attempt in [
            "echo x > kept",
            "echo x > new",
            "rm kept",
            "mkdir new",
            "mv kept new",
        ] {
            let answer = guest.run(&format!("cd /mnt/frozen && {attempt}"))?;
            ensure!(
                answer.status != 0 && answer.stderr.contains("Read-only file system"),
                "{attempt}: {answer:?}"
            );
        }
        ensure!(fs::read_to_string(frozen.join("kept"))? == "as it was");

        // A reload that changes nothing disturbs nobody; a share that is taken away is gone at once.
        world
            .ask(Kind::Sharefs, "POST", "/v1/reload", None)?
            .success()?;
        guest.ok("cat /mnt/d/from-host /mnt/frozen/kept")?;
        world.set_config(&CONFIG.replace(
            "read-only = true\nguests = [\"dev\"]\nninep = true",
            "read-only = true\nguests = [\"dev\"]",
        ))?;
        world
            .ask(Kind::Sharefs, "POST", "/v1/reload", None)?
            .success()?;
        guest.ok("ls /mnt/d > /dev/null && ! cat /mnt/frozen/kept 2> /dev/null")?;
        guest.ok("umount /mnt/d && umount -l /mnt/frozen")?;
        wait_for("its connections to end", SOON, || {
            Ok((metric(&world, "sharectl_sharefs_ninep_connected")? == 0).then_some(()))
        })?;
        ensure!(metric(&world, "sharectl_sharefs_ninep_malformed_total")? == 0);
        ensure!(metric(&world, "sharectl_sharefs_ninep_unknown_total")? == 0);
        Ok(())
    });
}

#[test]
fn programs_find_what_they_expect_over_9p() {
    whole_system(|| {
        let world = world()?;
        let guest = boot(&world, "dev", HOST)?;
        mount(&guest, "d", "/host/mnt", ",access=client")?;
        guest.ok("mount -t proc proc /host/proc && mount -t tmpfs tmp /host/tmp")?;
        // The same as over virtiofs: what lives, what appends, names, modes, links, times.
        perl(
            &guest,
            r#"
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
            must(rename("m", "n") && -d "n", "rename"); must(rmdir("n"), "rmdir");
            must(chmod(04755, "log") && ((stat "log")[2] & 07777) == 04755, "set-id bit");
            must(!chown(7, 7, "log") && $!{EPERM}, "to another");
            must(!open(my $x, "<", "nothing") && $!{ENOENT}, "no such file");
            sysopen(my $e, "log", O_RDWR|O_CREAT|O_EXCL) and die "exclusive";
            must($!{EEXIST}, "exclusive: $!");
        "#,
        )?;
        // Three thousand entries, each once; and none is lost while some are removed.
        perl(
            &guest,
            r#"
            mkdir "big"; for (0..2999) { open(my $f, ">", "big/$_ \xff\n") or die "$_: $!"; }
            opendir(my $o, "big"); my @n = grep { !/^\.\.?$/ } readdir $o; must(@n == 3000, "all of " . @n);
            my %once; $once{$_}++ for @n; must(keys %once == 3000, "each once");
            opendir($o, "big"); my %seen;
            while (defined(my $n = readdir $o)) { next if $n =~ /^\.\.?$/; $seen{$n} = 1; unlink "big/$n" if $n =~ /^\d*7 /; }
            must(keys %seen == 3000, "none lost: " . keys %seen);
            opendir($o, "big"); @n = grep { !/^\.\.?$/ } readdir $o; must(@n == 2700, "left: " . @n);
            for (@n) { unlink "big/$_" or die; } must(rmdir("big"), "empty");
        "#,
        )?;
        // Extended attributes: set, list, get, replace, remove (setxattr(2) and the like by number).
        perl(
            &guest,
            r#"
            my ($f, $n, $v) = ("log", "user.colour", "green"); my $b = "\0" x 64;
            must(syscall(188, $f, $n, $v, 5, 0) == 0, "setxattr");
            must(syscall(191, $f, $n, $b, 64) == 5 && substr($b, 0, 5) eq "green", "getxattr");
            must(syscall(188, $f, $n, $v, 5, 1) == -1 && $!{EEXIST}, "XATTR_CREATE");
            $b = "\0" x 64; must(syscall(194, $f, $b, 64) > 0 && $b =~ /user\.colour\0/, "listxattr");
            must(syscall(197, $f, $n) == 0, "removexattr");
            must(syscall(191, $f, $n, $b, 64) == -1 && $!{ENODATA}, "gone: $!");
        "#,
        )?;
        // Unpacked by the host's tar, and as it was.
        guest.ok("chroot /host sh -c 'cd /usr/share && tar c base-files | tar x -C /mnt && diff -r base-files /mnt/base-files'")?;
        Ok(())
    });
}

#[test]
fn locks_of_two_guests_exclude_each_other_and_a_wait_ends() {
    whole_system(|| {
        let world = world()?;
        world.write(&world.share_folder("d")?.join("lock"), "x")?;
        let guests = [boot(&world, "dev", HOST)?, boot(&world, "two", HOST)?];
        for guest in &guests {
            mount(guest, "d", "/host/mnt", "")?;
        }
        let [one, two] = &guests;
        for (name, take, no_wait, wait, free) in [
            (
                "flock",
                "flock($f, LOCK_EX)",
                "flock($f, LOCK_EX|LOCK_NB)",
                "flock($f, LOCK_EX)",
                "flock($f, LOCK_UN)",
            ),
            (
                "fcntl",
                "ask($f, F_SETLKW, F_WRLCK, 5, 10)",
                "ask($f, F_SETLK, F_WRLCK, 8, 1)",
                "ask($f, F_SETLKW, F_WRLCK, 8, 1)",
                "ask($f, F_SETLKW, F_UNLCK, 5, 10)",
            ),
        ] {
            let open = r#"sub ask { my ($f, $how, $kind, $start, $length) = @_;
                          my $lock = pack("s s x4 q q i x4", $kind, 0, $start, $length, 0); fcntl($f, $how, $lock) }
                          open(my $f, "+<", "lock") or die "open: $!";"#;
            let other = r#"open(my $g, "+<", "lock") or die "open: $!";"#;
            // One holds it for as long as the file "held" is there; the other finds out, waits, and gets it.
            let hold = format!(
                r#"{open} must({take}, "{name}"); open(my $h, ">", "held"); close $h;
                   while (-e "held") {{ select(undef, undef, undef, 0.05) }} must({free}, "free"); "#
            );
            std::thread::scope(|scope| -> Result<()> {
                let holder = scope.spawn(|| perl(one, &hold));
                let tried = perl(
                    two,
                    &format!(
                        r#"for (1..200) {{ last if -e "held"; select(undef, undef, undef, 0.05) }}
                           {open} must(!{no_wait} && $!{{EAGAIN}}, "{name} is held: $!");
                           my $child = fork; if (!$child) {{ {other} my $f = $g; {wait}; exit 3 }}
                           select(undef, undef, undef, 0.5); kill 9, $child; waitpid($child, 0);
                           must($? == 9, "a waiting program can be killed: $?");
                           unlink "held"; my $start = time; must({wait}, "waited");
                           must(time - $start < 10, "the lock came when it was free");"#
                    ),
                );
                fs::remove_file(world.share_folder("d")?.join("held")).ok();
                let held = holder.join();
                tried?;
                held.map_err(|_| anyhow::anyhow!("the holder panicked"))??;
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_guest_gets_to_its_own_shares_and_no_further() {
    whole_system(|| {
        let world = world()?;
        let two = boot(&world, "two", &[])?;
        mount(&two, "d", "/mnt/d", "")?;
        two.ok("umount /mnt/d")?;
        // Its only share need not be named; others are not there for it.
        let unnamed = line("", "/mnt/d", "").replace(",aname=", "");
        two.ok(&format!("{unnamed} && umount /mnt/d"))?;
        for share in ["frozen", "host", "../d", "nothing"] {
            let answer = two.run(&line(share, "/mnt/d", ""))?;
            ensure!(
                answer.status != 0 && answer.stderr.contains("No such file"),
                "{share}: {answer:?}"
            );
        }
        ensure!(metric(&world, "sharectl_sharefs_ninep_refused_attaches_total")? == 4);
        // A guest without such a share finds the port closed, and not a moment later.
        let none = boot(&world, "none", &[])?;
        let answer = none.run("mkdir -p /mnt/d; time nc -w 5 192.168.130.1 564 < /dev/null")?;
        ensure!(
            answer.status != 0 && answer.stderr.contains("refused"),
            "{answer:?}"
        );
        let answer = none.run(&line("d", "/mnt/d", ""))?;
        ensure!(
            answer.status != 0 && answer.stderr.contains("refused"),
            "{answer:?}"
        );
        Ok(())
    });
}

/// What diod's load generator asks for: a share of the name `ctl` with `zero` to read and `null` to write.
const CTL: &str = r#"
[share.ctl]
path = "@shared/ctl"
at = "/mnt/ctl"
guest-owner = "0:0"
guests = ["dev"]
ninep = true
"#;

#[test]
fn diods_own_clients_read_list_load_and_mount_our_shares() {
    whole_system(|| {
        packages::ensure(packages::NINEP)?;
        let world = world()?;
        let (d, ctl) = (world.share_folder("d")?, world.share_folder("ctl")?);
        world.set_config(&format!("{CONFIG}{CTL}"))?;
        world
            .ask(Kind::Sharefs, "POST", "/v1/reload", None)?
            .success()?;
        world
            .ask(Kind::Netd, "POST", "/v1/reload", None)?
            .success()?;
        let mut big = Vec::new();
        (0..300_000_u32).for_each(|number| big.extend(number.to_le_bytes()));
        world.write(&d.join("big"), &big)?;
        world.write(&d.join("small"), "small\n")?;
        for number in 0..500 {
            world.write(&d.join(format!("{number:060}")), "")?;
        }
        world.write(&ctl.join("null"), "")?;
        world.write(&ctl.join("zero"), vec![0; 1 << 20])?;

        // Over the unix socket, with messages of any length, and over the network of the guest.
        let socket = world
            .runtime()
            .join("guest/dev/9p.sock")
            .display()
            .to_string();
        let uid = world.user().uid.to_string();
        let client = |program: &str, share: &str, more: &[&str]| {
            let mut line = world.command(program);
            line.args(["-s", &socket, "-a", share, "-u", &uid, "-t", "20"])
                .args(more);
            tests::command::output(&mut line, SOON)
        };
        for longest in ["4096", "65536", "1048576", "4000000"] {
            let read = client("diodcat", "d", &["-m", longest, "small", "big", "small"])?;
            let read = read.success()?;
            ensure!(
                read.starts_with("small\n") && read.ends_with("small\n"),
                "{longest}"
            );
            let names = client("diodls", "d", &["-m", longest, "/"])?.success()?;
            ensure!(
                names.lines().filter(|name| name.len() == 60).count() == 500,
                "{names}"
            );
        }
        let listed = client("diodls", "d", &["-l", "small"])?.success()?;
        ensure!(
            listed.starts_with("-rw-r--r--") && listed.contains(" 6 "),
            "{listed}"
        );
        let kept = client("diodcat", "frozen", &["kept"])?.success()?;
        ensure!(kept == "as it was", "{kept}");
        for (share, file) in [("d", "nothing"), ("nothing", "small"), ("../d", "small")] {
            let refused = client("diodcat", share, &[file])?;
            ensure!(
                !refused.status.success() && refused.stderr.contains("No such file"),
                "{share} {file}: {refused:?}"
            );
        }
        let before = metric(&world, "sharectl_sharefs_ninep_requests_total")?;
        let mut line = world.command("diodload");
        tests::command::output(line.args(["-s", &socket, "-r", "1", "-n", "8", "-g"]), SOON)?
            .success()?;
        let after = metric(&world, "sharectl_sharefs_ninep_requests_total")?;
        ensure!(
            after > before + 100,
            "{before} requests before, {after} after"
        );
        ensure!(metric(&world, "sharectl_sharefs_ninep_malformed_total")? == 0);
        ensure!(metric(&world, "sharectl_sharefs_ninep_unknown_total")? == 0);

        // In a guest: mount.diod hands the kernel a socket (trans=fd), which is how any socket gets there.
        let guest = boot(&world, "dev", HOST)?;
        guest.ok("mount -t proc proc /host/proc && mount -t tmpfs tmp /host/tmp")?;
        guest.ok("chroot /host /usr/sbin/diodls -s 192.168.130.1 -a d / | grep -qx small")?;
        guest.ok("chroot /host /sbin/mount.diod -n -o msize=65512 192.168.130.1:d /mnt")?;
        guest.ok("grep -q 'trans=fd' /proc/mounts && test \"$(cat /host/mnt/small)\" = small")?;
        guest.ok("echo guest > /host/mnt/from-guest && cmp /host/mnt/big /host/mnt/big && umount /host/mnt")?;
        ensure!(fs::read_to_string(d.join("from-guest"))? == "guest\n");
        // Each user of the guest is an attach of its own (access=user); a lock of another owner is told (F_GETLK).
        fs::set_permissions(&d, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        mount(&guest, "d", "/host/mnt", ",access=user")?;
        guest.ok("ls /host/mnt > /dev/null")?; // root's own attach
        let attaches = |world: &World| operation(world, "attach");
        let before = attaches(&world)?;
        perl(
            &guest,
            r#"
            $) = "7 7"; $> = 7; open(my $f, ">", "by-user") or die "as user 7: $!"; print $f "seven\n"; close $f or die;
            must(-e "small" && `cat by-user` eq "seven\n", "its own"); $> = 0;
            my $range = sub { pack("s s x4 q q i x4", shift, 0, @_, 0) };
            open(my $h, "+<", "big") or die; must(fcntl($h, F_SETLK, $range->(F_WRLCK, 5, 10)), "lock: $!");
            my $child = fork // die;
            if (!$child) {
                open(my $g, "+<", "big") or die; my $asked = $range->(F_WRLCK, 0, 100);
                must(fcntl($g, F_GETLK, $asked), "getlk: $!");
                my ($kind, undef, $start, $length) = unpack("s s x4 q q", $asked);
                must($kind == F_WRLCK && $start == 5 && $length == 10, "told $kind $start $length"); exit 0;
            }
            waitpid($child, 0); must($? == 0, "child: $?");
        "#,
        )?;
        ensure!(
            attaches(&world)? == before + 1,
            "{before}, then {}",
            attaches(&world)?
        );
        guest.ok("umount /host/mnt")?;
        // What a program opens, it can hand over itself: the way for a VMM's vsock, too. (The host's mount is
        // set-id, and of nobody in the guest.)
        guest.ok("cp /bin/busybox /host/tmp/busybox")?;
        guest.ok(
            "chroot /host /usr/bin/socat TCP:192.168.130.1:564 \
             'EXEC:/tmp/busybox mount -i -t 9p -o trans=fd\\,rfdno=0\\,wfdno=1\\,version=9p2000.L\\,msize=1048576\\,aname=d d /mnt,nofork'",
        )?;
        guest.ok("test \"$(cat /host/mnt/small)\" = small && cmp /host/mnt/big /host/mnt/big && umount /host/mnt")?;
        Ok(())
    });
}
