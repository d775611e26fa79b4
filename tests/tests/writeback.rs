//! Shares whose guest gathers writes (`writeback = true`): how few requests are left, what the host has and when,
//! what programs of the guest see meanwhile, and what is not lost.

use std::fs;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::{Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"

[guest.dev]
devices = "each"

[share.later]
path = "@shared/later"
at = "/mnt/later"
guest-owner = "0:0"
writeback = true

[share.through]
path = "@shared/through"
at = "/mnt/through"
guest-owner = "0:0"

[share.host]
path = "/"
at = "/host"
read-only = true
guest-owner = "0:0"
"#;

const SHARES: &[(&str, &str)] = &[
    ("later", "/mnt/later"),
    ("through", "/mnt/through"),
    ("host", "/host"),
];
const LONG: Duration = Duration::from_secs(120);

fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    world.share_folder("later")?;
    world.share_folder("through")?;
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    Ok(world)
}

/// A guest that writes back only when it is asked to, and runs the host's programs with the shares below /mnt.
fn guest(world: &World) -> Result<Guest> {
    let guest = world.machine_of_devices("dev", SHARES)?.boot()?;
    guest.ok(
        "mount --rbind /mnt /host/mnt && echo 360000 > /proc/sys/vm/dirty_writeback_centisecs && \
         echo 360000 > /proc/sys/vm/dirty_expire_centisecs",
    )?;
    Ok(guest)
}

fn perl(guest: &Guest, program: &str) -> Result<String> {
    let prelude = "use strict; use warnings; use Fcntl qw(:DEFAULT :seek); chdir '/mnt/later' or die; $| = 1;\
                   sub must { my ($true, $what) = @_; $true or die \"$what: $!\\n\"; }\n";
    let text = format!("{prelude}{program}").replace('\'', r"'\''");
    let shell = format!("chroot /host /usr/bin/perl -e '{text}' 2>&1");
    let answer = guest.run_within(LONG, &shell)?;
    ensure!(answer.status == 0, "{program}\n{}", answer.stdout);
    Ok(answer.stdout)
}

/// Writes to two files, more after a while, and holds them open.
const HOLD: &str = r#"
use Fcntl; chdir "/mnt/later" or die; sub mark { open(my $mark, ">", "/tmp/$_[0]") or die; }
sub await { my $left = 1200; select(undef, undef, undef, 0.05) until -e "/tmp/$_[0]" or !$left--; }
sysopen(A, "log", O_WRONLY|O_APPEND) or die; sysopen(B, "new", O_WRONLY|O_CREAT) or die;
syswrite(A, "line $_\n") or die for 1..500; syswrite(B, "fresh\n") or die; mark("written");
await("more"); syswrite(A, "more\n") or die "more: $!"; mark("added");
await("finish"); close A or die "close: $!"; close B or die "close: $!"; mark("finished");
"#;

/// Awaits a condition in the guest, and tells what the holder said if it does not come.
fn soon(guest: &Guest, condition: &str) -> Result<()> {
    let wait = format!(
        "for i in $(seq 200); do {condition} && exit 0; usleep 100000; done; cat /host/tmp/said >&2; exit 1"
    );
    let answer = guest.run_within(LONG, &format!("({wait})"))?;
    ensure!(answer.status == 0, "{condition}: {answer:?}");
    Ok(())
}

/// WRITE requests of a share.
fn writes(world: &World, share: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    let labels = [
        format!("share=\"{share}\""),
        "operation=\"write\"".to_owned(),
    ];
    let lines = page.lines().filter(|line| {
        line.starts_with("sharectl_sharefs_requests_total{")
            && labels.iter().all(|label| line.contains(label))
    });
    Ok(lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum())
}

#[test]
fn small_writes_are_few_requests_and_the_host_has_them_after_a_sync() {
    whole_system(|| {
        let world = world()?;
        let guest = guest(&world)?;
        for (share, fewest, most) in [("through", 2500, u64::MAX), ("later", 1, 100)] {
            let folder = world.share_folder(share)?;
            let before = writes(&world, share)?;
            // Bytes one by one; then a database's way: pages here and there, made sure of every 50.
            guest.ok(&format!(
                "cd /mnt/{share} && dd if=/bin/busybox of=bytes bs=1 count=2000 conv=fsync 2> /dev/null && \
                 dd if=/bin/busybox bs=2000 count=1 2> /dev/null | cmp - bytes"
            ))?;
            let pages = r#"
                sysopen(my $f, "../SHARE/pages", O_RDWR|O_CREAT) or die;
                for my $i (0..599) {
                    sysseek($f, ($i * 37 % 600) * 100, SEEK_SET); syswrite($f, sprintf("%099d\n", $i)) == 100 or die;
                    if ($i % 50 == 49) { use IO::Handle; $f->sync or die "fsync: $!"; }
                }"#;
            perl(&guest, &pages.replace("SHARE", share))?;
            let made = writes(&world, share)? - before;
            eprintln!("{share}: 2,600 writes of the guest, {made} requests");
            ensure!((fewest..=most).contains(&made), "{share}: {made} requests");
            ensure!(fs::metadata(folder.join("bytes"))?.len() == 2000);
            let pages = fs::read_to_string(folder.join("pages"))?;
            ensure!(pages.len() == 60_000 && pages.lines().count() == 600);
            for i in 0..600 {
                let line = &pages[(i * 37 % 600) * 100..][..100];
                ensure!(line == format!("{i:099}\n"), "{share}: {line} at {i}");
            }
        }
        Ok(())
    });
}

#[test]
fn programs_of_the_guest_see_what_the_host_has_not_got_yet() {
    whole_system(|| {
        let world = world()?;
        let later = world.share_folder("later")?;
        let guest = guest(&world)?;
        // Written in part, for writing only: the guest reads the rest of the page by the same handle.
        world.write(&later.join("part"), "0123456789")?;
        let text = perl(
            &guest,
            r#"
            sysopen(my $part, "part", O_WRONLY) or die; sysseek($part, 4, SEEK_SET);
            must(syswrite($part, "XY") == 2, "a part of a page");
            open(my $read, "<", "part") or die; print <$read>;

            sysopen(my $held, "held", O_RDWR|O_CREAT) or die; syswrite($held, "data");
            must((stat "held")[7] == 4, "its size");
            must(sysseek($held, 0, 3) eq "0 but true", "SEEK_DATA finds what only the guest has");
            must(truncate($held, 2), "truncate");
            must((stat "held")[7] == 2, "its size, cut");
            truncate($held, 5); sysseek($held, 0, SEEK_SET);
            my $all; must(sysread($held, $all, 9) == 5 && $all eq "da\0\0\0", "cut and made longer");

            my @children;
            for my $who ("a", "b") {
                my $child = fork; push @children, $child; next if $child;
                sysopen(my $log, "log", O_WRONLY|O_CREAT|O_APPEND) or die;
                for (1..300) { syswrite($log, "$who$_\n") or die; }
                exit 0;
            }
            for (@children) { waitpid($_, 0); must($? == 0, "appends"); }
            open(my $log, "<", "log") or die; my %seen = map { $_ => 1 } <$log>;
            must(keys %seen == 600, "each line once, and whole");
            "#,
        )?;
        ensure!(text == "0123XY6789", "{text:?}");
        let log = fs::read_to_string(later.join("log"))?;
        let mut lines: Vec<&str> = log.lines().collect();
        lines.sort_unstable();
        lines.dedup();
        ensure!(lines.len() == 600, "{} lines", lines.len());
        ensure!(fs::read_to_string(later.join("part"))? == "0123XY6789");
        ensure!(fs::read_to_string(later.join("held"))? == "da\0\0\0");
        // Times are the guest's, and arrive.
        guest.ok("cd /mnt/later && echo x > dated && touch -d '2001-02-03 04:05:06' dated && sync && echo 3 > /proc/sys/vm/drop_caches")?;
        ensure!(guest.ok("stat -c %Y /mnt/later/dated")? == "981173106");
        Ok(())
    });
}

#[test]
fn what_a_guest_has_not_sent_survives_a_killed_daemon() {
    whole_system(|| {
        let mut world = world()?;
        let later = world.share_folder("later")?;
        let guest = guest(&world)?;
        // A program keeps open what it writes: a file that is closed is sent.
        guest.ok(&format!(
            "mount -t tmpfs tmp /host/tmp && echo begun > /mnt/later/log && \
             (chroot /host perl -e '{HOLD}' < /dev/null > /host/tmp/said 2>&1 &)"
        ))?;
        soon(&guest, "[ -e /host/tmp/written ]")?;
        ensure!(
            fs::read_to_string(later.join("log"))? == "begun\n",
            "the host has it already: nothing is gathered"
        );
        world.crash_worker()?;
        guest.ok("touch /host/tmp/more")?;
        soon(&guest, "[ -e /host/tmp/added ]")?;
        world.crash_worker()?;
        guest.ok("sync")?;
        let log = fs::read_to_string(later.join("log"))?;
        ensure!(
            log.lines().count() == 502 && log.ends_with("line 500\nmore\n"),
            "{log}"
        );
        ensure!(fs::read_to_string(later.join("new"))? == "fresh\n");
        // What was agreed on is agreed on still.
        let before = writes(&world, "later")?;
        guest
            .ok("dd if=/bin/busybox of=/mnt/later/after bs=1 count=1000 conv=fsync 2> /dev/null")?;
        let made = writes(&world, "later")? - before;
        ensure!(made < 50, "{made} requests");
        guest.ok("touch /host/tmp/finish")?;
        soon(&guest, "[ -e /host/tmp/finished ]")?;
        Ok(())
    });
}

#[test]
fn a_file_that_the_host_changes_keeps_its_length_until_the_guest_forgets_it() {
    whole_system(|| {
        let world = world()?;
        let later = world.share_folder("later")?;
        world.write(&later.join("known"), "short")?;
        let guest = guest(&world)?;
        ensure!(guest.ok("cat /mnt/later/known")? == "short");
        world.write(&later.join("known"), "longer now")?;
        world.write(&later.join("unknown"), "longer now")?;
        let seen = guest.ok("sleep 1.1; cat /mnt/later/known; echo; cat /mnt/later/unknown")?;
        ensure!(seen == "longe\nlonger now", "{seen}");
        guest.ok("sync && echo 3 > /proc/sys/vm/drop_caches")?;
        ensure!(guest.ok("cat /mnt/later/known")? == "longer now");
        Ok(())
    });
}
