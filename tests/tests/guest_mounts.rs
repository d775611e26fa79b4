//! Guests' folders on the host: served by diod, and by our own 9P server, in namespaces and in a real guest, and used
//! by real programs; guests that go, come back, stand still and lie.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::limit::wait_for;
use tests::netns::Netns;
use tests::user::User;
use tests::{Context, Result, command, ensure, mounts, packages, whole_system};

/// One guest, and no share: where the whole host is shared, no mount point would do.
const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
"#;

/// The share is what the guest's own server has: our own, by way of the guest.
const OURS: &str = r#"
[share.served]
path = "@shared/served"
guest-owner = "0:0"
ninep = true
"#;

const LONG: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

/// A world with netd and sharefs; everything runs as `user`.
fn world(user: User, config: &str) -> Result<World> {
    packages::ensure(packages::GUEST)?;
    packages::ensure(packages::MOUNTS)?;
    packages::ensure(packages::NINEP)?;
    mounts::private()?;
    let mut world = World::of(user, config)?;
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    fs::create_dir_all(world.path("served"))?;
    user.own(&world.path("served"))?;
    Ok(world)
}

fn ordinary() -> User {
    User::unprivileged().with_set_uid()
}

/// Runs lines of shell as the world's user, in its folder: the guest's folder is `served`, its mount `m`. Each line
/// must hold, whole.
fn shell(world: &World, lines: &str) -> Result<String> {
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut program = "umask 022\n".to_owned();
    for (number, line) in lines.enumerate() {
        program.push_str(&format!(
            "{{ {line}\n}} || {{ echo line {number} >&2; exit 9; }}\n"
        ));
    }
    let mut line = world.command("sh");
    command::output(line.args(["-c", &program]), LONG)?
        .success()
        .with_context(|| program.clone())
}

/// A program that serves, ended with the value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// diod in a namespace that is a guest; it takes any user at its word. As a unit of systemd has it: with SIGPIPE
/// ignored, of which it dies where it has several answers for a client that is gone.
fn diod(namespace: &Netns, folder: &Path, port: u16) -> Result<Server> {
    let mut line = namespace.command("sh");
    line.args([
        "-c",
        "trap '' PIPE; exec diod \"$@\"",
        "diod",
        "-f",
        "-n",
        "-N",
        "-L",
        "stderr",
        "-l",
        &format!("0.0.0.0:{port}"),
        "-e",
    ]);
    Ok(Server(line.arg(folder).spawn()?))
}

/// The mounts of guests as sharefs has them.
fn status(world: &World) -> Result<serde_json::Value> {
    world.get(Kind::Sharefs, "/v1/guest-mounts")
}

fn wait_until_mounted(world: &World, mounted: bool) -> Result<()> {
    wait_for("the guest's folder to come or go", SOON, || {
        let status = status(world)?;
        Ok((status[0]["mounted"] == mounted && is_mounted()? == mounted).then_some(()))
    })
    .with_context(|| status(world).unwrap_or_default().to_string())
}

/// What doctor says of the one mount: its state, and the evidence has these words.
fn doctor(world: &World, state: &str, evidence: &str) -> Result<()> {
    let said = world.sharectl(&["doctor", "guest-mount", "--format", "json"])?;
    let found: serde_json::Value = serde_json::from_str(&said.stdout)?;
    let found = &found[0];
    let said = found["evidence"].as_str().unwrap_or_default();
    ensure!(
        found["state"] == state && said.contains(evidence),
        "not {state}, {evidence}: {found}"
    );
    Ok(())
}

/// Whether the namespace has a mount of ours.
fn is_mounted() -> Result<bool> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    Ok(table.contains(" fuse.sharectl "))
}

/// What programs do, through the mount and beside it.
fn programs(world: &World) -> Result<()> {
    shell(
        world,
        r#"
        echo there > served/a && test "$(cat m/a)" = there
        echo back > m/b && test "$(cat served/b)" = back
        mkdir -p m/x/y && mv m/b m/x/y/c && test "$(cat served/x/y/c)" = back && ! test -e served/b
        ln m/a m/x/hard && test "$(stat -c %h served/a)" = 2 && ln -s ../a m/x/soft && test "$(cat m/x/soft)" = there
        chmod 640 m/a && test "$(stat -c '%a %u' served/a)" = "640 $(id -u)"
        test "$(stat -c %u:%g m/a)" = "$(stat -c %u:%g served/a)"
        touch -d '2001-02-03 04:05:06.789' m/a && test "$(stat -c %y m/a)" = "$(stat -c %y served/a)"
        dd if=/dev/urandom of=m/big bs=1M count=20 status=none && cmp m/big served/big
        cp m/big m/big2 && truncate -s 1M m/big2 && cmp -n 1048576 served/big2 m/big && rm m/big2
        dd if=m/big of=out bs=1000 skip=777 count=3000 status=none && dd if=served/big bs=1000 skip=777 count=3000 status=none | cmp - out
        exec 5>> m/log 6>> m/log; echo one >&5; echo two >&6; echo three >&5; exec 5>&- 6>&-; test "$(tr '\n' , < m/log)" = one,two,three,
        ! mkdir m/x 2> /dev/null && ! rmdir m/x 2> /dev/null && ! cat m/nothing 2> /dev/null
        exec 7<> m/gone; rm m/gone; echo still >&7; ! test -e m/gone; exec 7>&-
        mkfifo m/fifo && test -p served/fifo
        df m | grep -q m && test "$(stat -f -c %S m)" = "$(stat -f -c %S served)"
        "#,
    )?;
    shell(
        world,
        r#"
        mkdir m/many && cd m/many && seq 400 | xargs touch && cd ../..
        test "$(find m/many -type f | wc -l)" = 400
        test "$(ls -lR m/many | grep -c '^-')" = 400
        find m/many | sort > in-mount; (cd served; find many) | sed 's,^,m/,' | sort > in-folder; cmp in-mount in-folder
        rm -r m/many && ! test -e served/many
        "#,
    )?;
    shell(
        world,
        r#"
        export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        git init -q m/repo && cd m/repo && seq 40 | split -l 1 -a 3 - f && git add . && git commit -qm one
        git mv faaa g && git commit -qam two && git fsck --strict 2>&1 && test -z "$(git status --porcelain)"
        cd ../.. && cp -a m/repo m/copy && diff -r m/repo m/copy && git -C m/copy log --oneline | wc -l | grep -qx 2
        tar -C m -cf - repo | tar -C served -xf - --one-top-level=unpacked && diff -r m/repo m/unpacked/repo
        rm -rf m/copy m/unpacked
        "#,
    )?;
    Ok(())
}

/// flock(2) between two programs: one holds, the other is told, waits, can be killed, and gets it. Byte ranges too
/// where the server has them.
fn locks(world: &World, has_ranges: bool) -> Result<()> {
    let perl = r#"
        use strict; use warnings; use Fcntl qw(:DEFAULT :flock :seek);
        open my $in, '+<', 'm/a' or die; open my $other, '+<', 'm/a' or die;
        flock $in, LOCK_EX or die "first: $!"; !flock $other, LOCK_EX|LOCK_NB or die 'two have it';
        my $waiter = fork // die; if (!$waiter) { open my $f, '+<', 'm/a'; flock $f, LOCK_EX; exit 3 }
        select undef, undef, undef, 0.3; kill 9, $waiter; waitpid $waiter, 0; $? == 9 or die "a waiter: $?";
        flock $in, LOCK_UN or die; flock $other, LOCK_SH|LOCK_NB or die "free: $!";
        flock $in, LOCK_SH|LOCK_NB or die "shared: $!"; flock $_, LOCK_UN or die for $in, $other;
        exit 0 unless $ARGV[0];
        my $range = sub { pack 's s x4 q q i x4', shift, SEEK_SET, @_, 0 };
        fcntl $in, F_SETLK, $range->(F_WRLCK, 5, 10) or die "range: $!";
        my $child = fork // die;
        if (!$child) {
            open my $f, '+<', 'm/a' or die;
            !fcntl $f, F_SETLK, $range->(F_WRLCK, 8, 1) or die 'two have the range';
            fcntl $f, F_SETLK, $range->(F_WRLCK, 20, 1) or die "beside: $!";
            my $asked = $range->(F_WRLCK, 0, 100); fcntl $f, F_GETLK, $asked or die "getlk: $!";
            my (undef, undef, $start, $length) = unpack 's s x4 q q', $asked; "$start $length" eq '5 10' or die "$start $length";
            exit 0;
        }
        waitpid $child, 0; $? == 0 or die "child: $?";
    "#;
    let mut line = world.command("perl");
    line.args(["-e", perl, if has_ranges { "1" } else { "" }]);
    command::output(&mut line, LONG)?.success()?;
    Ok(())
}

#[test]
fn a_guest_folder_served_by_diod_is_used_on_the_host_and_goes_with_the_guest() {
    whole_system(|| {
        let world = world(ordinary(), CONFIG)?;
        let served = world.path("served");
        let what = format!("dev:{}", served.display());
        let place = world.path("m").display().to_string();

        // Before the guest is there: nothing is wrong, it comes by itself.
        let dry = world.sharectl(&["guest", "mount", &what, &place, "--dry-run"])?;
        ensure!(dry.success()?.contains("+[guest.dev.mounts]"));
        ensure!(status(&world)?.as_array().is_some_and(Vec::is_empty));
        let said = world.sharectl(&["guest", "mount", &what, &place])?;
        ensure!(said.stderr.contains("in the guest"), "{said:?}");
        ensure!(said.success()?.contains("will be mounted"));
        ensure!(!is_mounted()?);
        let namespace = world.tap_guest("dev")?;
        let late = world.sharectl(&["guest", "mount", &what, &place, "--wait=1s"])?;
        ensure!(late.status.code() == Some(5), "{late:?}");
        let server = diod(&namespace, &served, 564)?;
        let waited = world.sharectl(&["guest", "mount", &what, &place, "--wait=20s"])?;
        ensure!(waited.success()?.contains("mounted at"));
        wait_until_mounted(&world, true)?;
        ensure!(status(&world)?[0]["problem"].is_null());
        doctor(&world, "ok", "/m answers")?;
        programs(&world)?;
        locks(&world, false)?;

        // The server goes, and with it the mount; what is open there ends, and the place is free.
        let mut inside = world.command("sh");
        let mut inside = inside.args(["-c", "cd m && exec sleep 60"]).spawn()?;
        let folder = format!("/proc/{}/cwd", inside.id());
        wait_for("a program in the mount", SOON, || {
            Ok(fs::read_link(&folder)
                .is_ok_and(|at| at.ends_with("m"))
                .then_some(()))
        })?;
        drop(server);
        wait_until_mounted(&world, false)?;
        ensure!(shell(&world, "ls -A m")?.is_empty());
        inside.kill()?;
        inside.wait()?;
        let told = world.sharectl(&["status"])?.stdout;
        ensure!(
            !told.contains("is not mounted"),
            "a guest that is away is no problem: {told}"
        );
        doctor(&world, "skipped", "guest dev is away")?;
        let mut server = diod(&namespace, &served, 564)?;
        wait_until_mounted(&world, true)?;
        shell(&world, "test \"$(cat m/a)\" = there")?;

        // By hand: believed until it is asked for again.
        shell(&world, "fusermount3 -u m")?;
        wait_until_mounted(&world, false)?;
        let told = world.sharectl(&["status"])?.stdout;
        ensure!(
            told.contains("somebody unmounted it: sharectl guest mount dev:"),
            "{told}"
        );
        doctor(&world, "fail", "somebody unmounted it")?;
        world
            .sharectl(&["guest", "mount", &what, &place, "--read-only"])?
            .success()?;
        wait_until_mounted(&world, true)?;
        shell(
            &world,
            "! touch m/new 2> /dev/null && cat m/a && grep -q ' ro,' /proc/self/mountinfo",
        )?;
        let events = world.sharectl(&["events", "sharefs"])?.stdout;
        ensure!(
            events.contains("guest-mounted") && events.contains("guest-unmounted"),
            "{events}"
        );

        // A server that says nothing any more: whoever waits gets an error, and the mount goes.
        let stopped = rustix::process::Pid::from_child(&server.0);
        let silent = tests::limit::now();
        rustix::process::kill_process(stopped, rustix::process::Signal::STOP)?;
        doctor(&world, "fail", "does not answer within 3 s")?;
        ensure!(shell(&world, "ls m/x").is_err(), "a silent server answers");
        ensure!(silent.elapsed() < LONG);
        wait_until_mounted(&world, false)?;
        rustix::process::kill_process(stopped, rustix::process::Signal::CONT)?;
        wait_until_mounted(&world, true)
            .with_context(|| format!("diod's end: {:?}", server.0.try_wait()))?;

        // What the server will not have is told.
        let said = world.sharectl(&[
            "guest",
            "mount",
            "dev:/nowhere",
            &world.path("n").display().to_string(),
        ])?;
        ensure!(
            !said.status.success() && said.stderr.contains("attaching \"/nowhere\""),
            "{said:?}"
        );
        world
            .sharectl(&["guest", "unmount", &world.path("n").display().to_string()])?
            .success()?;
        let said = world.sharectl(&["guest", "unmount", "/nowhere"])?;
        ensure!(
            !said.status.success() && said.stderr.contains(&place),
            "{said:?}"
        );
        world.sharectl(&["guest", "unmount", "dev"])?.success()?;
        ensure!(!is_mounted()? && status(&world)?.as_array().is_some_and(Vec::is_empty));
        drop(server);
        Ok(())
    });
}

#[test]
fn a_guest_folder_served_by_our_own_server_has_locks_of_ranges_and_attributes_with_names() {
    whole_system(|| {
        let world = world(ordinary(), &format!("{CONFIG}{OURS}"))?;
        shell(&world, "rmdir served && ln -s shared/served served")?;
        let namespace = world.tap_guest("dev")?;
        let mut line = namespace.command("socat");
        let relay = line.args(["TCP-LISTEN:5640,fork,reuseaddr", "TCP:192.168.130.1:564"]);
        let _relay = Server(relay.spawn()?);
        let place = world.path("m").display().to_string();
        let said = world.sharectl(&[
            "guest", "mount", "dev:/", &place, "--port", "5640", "--export", "served", "--owner",
            "0:0",
        ])?;
        said.success()?;
        wait_until_mounted(&world, true)?;
        programs(&world)?;
        locks(&world, true)?;
        shell(
            &world,
            r#"
            setfattr -n user.colour -v green m/a && test "$(getfattr --only-values -n user.colour served/a)" = green
            test "$(getfattr -d --absolute-names m/a | grep -c '^user')" = 1
            setfattr -n user.empty -v "" m/a && getfattr -n user.empty m/a > out 2>&1 && grep -q 'user.empty' out
            setfattr -n user.large -v "$(head -c 3000 /dev/zero | tr '\0' x)" m/a && test "$(getfattr --only-values -n user.large m/a | wc -c)" = 3000
            setfattr -x user.colour m/a && ! getfattr -n user.colour served/a 2> /dev/null
            ! getfattr -n user.colour m/a 2> /dev/null
            "#,
        )?;
        world.sharectl(&["guest", "unmount", &place])?.success()?;
        ensure!(!is_mounted()?);
        Ok(())
    });
}

/// The host's /usr for the guest, and nothing else of it: a mount point inside a shared folder would be refused.
const USR: &str = r#"
[share.usr]
path = "/usr"
at = "/jail/usr"
read-only = true
guest-owner = "0:0"
"#;

/// A guest with diod, which serves the guest's own /jail.
fn boot(world: &World) -> Result<Guest> {
    let guest = world.machine("dev", &[("usr", "/jail/usr")])?.boot()?;
    serve(&guest)?;
    Ok(guest)
}

fn serve(guest: &Guest) -> Result<()> {
    guest.address(SOON)?;
    guest.ok("cd /jail && mkdir -p tmp proc etc && ln -s usr/lib usr/lib64 usr/bin usr/sbin .")?;
    // It wants a name for whoever comes.
    guest.ok("echo 192.168.130.254 host.internal > /jail/etc/hosts")?;
    guest.ok("dd if=/dev/urandom of=/jail/tmp/big bs=1M count=8 2> /dev/null")?;
    guest.ok("setsid chroot /jail /usr/sbin/diod -f -n -N -L /tmp/log -l 0.0.0.0:564 -e / > /dev/null 2>&1 < /dev/null &")?;
    Ok(())
}

#[test]
fn a_real_guests_tree_is_there_while_the_guest_is_and_no_read_outlives_it() {
    whole_system(|| {
        let world = world(ordinary(), &format!("{CONFIG}{USR}"))?;
        let place = world.path("m").display().to_string();
        let mut guest = boot(&world)?;
        let said = world.sharectl(&["guest", "mount", "dev:/", &place, "--owner", "0:0"])?;
        said.success()?;
        wait_until_mounted(&world, true)
            .with_context(|| guest.ok("cat /jail/tmp/log").unwrap_or_default())?;
        let there = guest.ok("sha256sum < /jail/tmp/big | cut -d ' ' -f 1")?;
        let here = shell(&world, "sha256sum < m/tmp/big | cut -d ' ' -f 1")?;
        ensure!(here.trim() == there, "{here} here, {there} there");
        shell(
            &world,
            r#"
            echo from-host > m/tmp/x && mkdir m/tmp/d && mv m/tmp/x m/tmp/d/y && rm m/tmp/big
            dd if=/dev/urandom of=m/tmp/big bs=1M count=8 status=none && test "$(stat -c %u m/tmp/big)" = "$(id -u)"
            test "$(readlink m/lib)" = usr/lib && ls m | grep -qx tmp && test -d m/usr
            "#,
        )?;
        ensure!(guest.ok("cat /jail/tmp/d/y")? == "from-host");
        ensure!(guest.ok("stat -c %u:%g /jail/tmp/d/y")? == "0:0");

        // Killed in the middle of a read.
        let mut line = world.command("sh");
        let mut reader = line
            .args(["-c", "while cat m/tmp/big > /dev/null; do echo; done"])
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let mut heard = [0];
        let mut output = reader.stdout.take().context("its output")?;
        std::io::Read::read_exact(&mut output, &mut heard)?;
        guest.kill();
        let ended = command::wait(&mut reader, SOON)?;
        ensure!(ended.is_some(), "a read outlives its guest");
        wait_until_mounted(&world, false)?;
        ensure!(shell(&world, "ls -A m")?.is_empty());

        // It comes back, by a new VM and by a reboot.
        let mut guest = boot(&world)?;
        wait_until_mounted(&world, true)?;
        shell(&world, "ls m/tmp/big")?;
        guest.reboot()?;
        wait_until_mounted(&world, false)?;
        serve(&guest)?;
        wait_until_mounted(&world, true)?;
        shell(&world, "ls m/tmp/big")?;
        Ok(())
    });
}

/// A VMM's side of a vsock device in user space, as far as bytes go: what is said to its socket leads to the
/// guest's server, and what the guest says to port 564 of the host goes to the socket's path with `_564`.
const VMM: &str = r#"
    use strict; use warnings; use Socket; $^F = 255; # Sockets are kept by what is started.
    my ($path, $server) = @ARGV; $SIG{CHLD} = 'IGNORE';
    socket my $listener, PF_UNIX, SOCK_STREAM, 0 or die; bind $listener, sockaddr_un($path) or die $!; listen $listener, 5;
    while (accept my $client, $listener) {
        next if fork; my $line = '';
        while (sysread $client, my $byte, 1) { last if $byte eq "\n"; $line .= $byte }
        $line =~ /^CONNECT (\d+)$/ or die $line; exit 0 if $1 != 564;
        syswrite $client, "OK 1073741824\n";
        my $number = fileno $client; exec 'socat', "FD:$number", "UNIX-CONNECT:$server";
    }
"#;

#[test]
fn shares_and_a_guests_folder_go_through_a_vmms_vsock_socket() {
    whole_system(|| {
        let world = world(ordinary(), CONFIG)?;
        let vsock = world.path("vm.vsock").display().to_string();
        let guest = format!("{}vsock = \"{vsock}\"\n", CONFIG);
        world.set_config(&format!("{guest}{OURS}"))?;
        let reload = || {
            world
                .ask(Kind::Sharefs, "POST", "/v1/reload", None)?
                .success()
        };
        reload()?;
        // From the guest: the VMM connects for it.
        world.write(&world.share_folder("served")?.join("a"), "there\n")?;
        let listener = format!("{vsock}_564");
        let mut line = world.command("diodcat");
        let read = command::output(line.args(["-s", &listener, "-a", "served", "a"]), SOON)?;
        ensure!(read.success()? == "there\n");

        // To the guest: no network, no netd's socket.
        let place = world.path("m").display().to_string();
        let arguments = [
            "guest", "mount", "dev:/", &place, "--export", "served", "--owner", "0:0",
        ];
        let said = world.sharectl(&arguments)?;
        ensure!(said.stderr.contains("no VMM listens at"), "{said:?}");
        let mut line = world.command("perl");
        let vmm = line.args(["-e", VMM, &vsock, &listener]).spawn()?;
        let vmm = Server(vmm);
        wait_until_mounted(&world, true)?;
        shell(
            &world,
            "test \"$(cat m/a)\" = there && echo back > m/b && test \"$(cat shared/served/b)\" = back",
        )?;
        ensure!(!world.runtime().join("guest/dev/port-564.sock").exists());
        // Without it, they are gone with their sockets.
        world.set_config(&format!("{CONFIG}{OURS}"))?;
        reload()?;
        ensure!(!is_mounted()? && !Path::new(&listener).exists());
        drop(vmm);
        Ok(())
    });
}
