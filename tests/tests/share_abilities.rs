//! What a guest's kernel and sharefs agree on at mount, as the kernel then uses it: requests of 1 MiB, lookups that do
//! not wait for one another, set-id bits that fall, and what each cache policy lets a guest see.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::limit::wait_for;
use tests::user::{User, is_root};
use tests::{Context, Result, Skip, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"

[guest.dev]
devices = "each"

[share.d]
path = "@shared/d"
at = "/mnt/d"

[share.later]
path = "@shared/later"
at = "/mnt/later"
writeback = true

[share.kept]
path = "@shared/kept"
at = "/mnt/kept"
cache = "always"

[share.asked]
path = "@shared/asked"
at = "/mnt/asked"
cache = "never"

[share.host]
path = "/"
at = "/host"
read-only = true
"#;

const SHARES: &[(&str, &str)] = &[
    ("d", "/mnt/d"),
    ("later", "/mnt/later"),
    ("kept", "/mnt/kept"),
    ("asked", "/mnt/asked"),
    ("host", "/host"),
];
const SOON: Duration = Duration::from_secs(20);

fn world_of(user: User, config: &str) -> Result<World> {
    let mut world = World::of(user, config)?;
    for share in ["d", "later", "kept", "asked"] {
        world.share_folder(share)?;
    }
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    Ok(world)
}

fn world() -> Result<World> {
    world_of(User::unprivileged(), CONFIG)
}

/// A guest that runs the host's programs, with the shares below /mnt.
fn guest(world: &World) -> Result<Guest> {
    let guest = world.machine_of_devices("dev", SHARES)?.boot()?;
    guest.ok("mount --rbind /mnt /host/mnt && mount --bind /dev /host/dev")?;
    Ok(guest)
}

/// A number of share `d`.
fn number(world: &World, name: &str, operation: Option<&str>) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    let labels = [
        Some("share=\"d\"".to_owned()),
        operation.map(|operation| format!("operation=\"{operation}\"")),
    ];
    let found = page.lines().find(|line| {
        line.starts_with(name) && labels.iter().flatten().all(|label| line.contains(label))
    });
    let value = found.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.with_context(|| format!("no {name} of {operation:?}"))
}

#[test]
fn a_request_of_direct_io_carries_a_mebibyte() {
    const MIB: u64 = 1 << 20;
    whole_system(|| {
        let world = world()?;
        let guest = guest(&world)?;
        for (line, operation, bytes) in [
            (
                "dd if=/dev/zero of=/mnt/d/big bs=8M count=4 oflag=direct",
                "write",
                "sharectl_sharefs_written_bytes_total",
            ),
            (
                "dd if=/mnt/d/big of=/dev/null bs=8M count=4 iflag=direct",
                "read",
                "sharectl_sharefs_read_bytes_total",
            ),
        ] {
            guest.ok(&format!("chroot /host {line} 2>&1"))?;
            let requests = number(&world, "sharectl_sharefs_requests_total", Some(operation))?;
            let bytes = number(&world, bytes, None)?;
            eprintln!("{operation}: {bytes} bytes in {requests} requests");
            ensure!(bytes == 32 * MIB, "{bytes}");
            ensure!(requests <= 33, "{} bytes a {operation}", bytes / requests);
        }
        Ok(())
    });
}

/// The worker stands still, so that all that the guest asks at once can be counted: each lookup waits for its own
/// answer (request_wait_answer of fs/fuse/dev.c), and none for another's turn in the folder.
#[test]
fn lookups_in_one_folder_are_asked_at_once() {
    const LOOKUPS: usize = 6;
    whole_system(|| {
        let mut world = world()?;
        let many = world.share_folder("kept")?.join("many");
        fs::create_dir(&many)?;
        world.user().own(&many)?;
        for name in 0..LOOKUPS {
            world.write(&many.join(name.to_string()), "here")?;
        }
        let guest = guest(&world)?;
        // The folder is known from now on, and none of what is in it.
        guest.ok("stat /mnt/kept/many")?;
        let worker = world.daemon(Kind::Sharefs)?.pid();
        let worker = Pid::from_raw(i32::try_from(worker)?).context("no worker")?;
        kill_process(worker, Signal::STOP)?;
        let asked = guest.run(&format!(
            "rm -f /tmp/pids; for i in $(seq 0 {}); do cat /mnt/kept/many/$i > /tmp/of$i 2>&1 & echo $! >> /tmp/pids; done",
            LOOKUPS - 1
        ));
        let mut seen = String::new();
        let at_once = wait_for("lookups to be asked", SOON, || {
            seen = guest.ok("for p in $(cat /tmp/pids); do cat /proc/$p/wchan; echo; done")?;
            let waiting = seen.lines().filter(|at| at.contains("request_wait_answer"));
            Ok((waiting.count() == LOOKUPS).then_some(()))
        });
        kill_process(worker, Signal::CONT)?;
        asked?;
        ensure!(at_once.is_ok(), "they wait in: {seen}");
        wait_for("their answers", SOON, || {
            let answers = guest.ok("cat /tmp/of*")?;
            Ok((answers == "here".repeat(LOOKUPS)).then_some(()))
        })
    });
}

#[test]
fn set_id_bits_fall_when_somebody_else_writes_and_stay_when_root_does() {
    whole_system(|| {
        if !is_root() {
            return Err(Skip::because(
                "an ordinary user's writes take set-id bits away on any host",
            ));
        }
        let pass = CONFIG.replace("path = ", "owner = \"pass\"\npath = ");
        let world = world_of(User::ourselves(), &pass)?;
        let guest = guest(&world)?;
        for share in ["d", "later"] {
            let on_host = world.share_folder(share)?.join("f");
            guest.ok(&format!("cd /mnt/{share} && echo text > f"))?;
            let somebody = "chroot /host setpriv --reuid=1234 --regid=1234 --clear-groups sh -c";
            for (who, what, left) in [
                (somebody, "echo more >> /mnt/SHARE/f", 0o777),
                (somebody, ": > /mnt/SHARE/f", 0o777),
                ("chroot /host sh -c", "echo more >> /mnt/SHARE/f", 0o6777),
            ] {
                guest.ok(&format!("chmod 6777 /mnt/{share}/f"))?;
                let what = what.replace("SHARE", share);
                let seen = guest.ok(&format!(
                    "{who} '{what}' && stat -c %a /mnt/{share}/f && sync"
                ))?;
                ensure!(seen == format!("{left:o}"), "{share}: {seen} after {what}");
                let mode = fs::metadata(&on_host)?.mode() & 0o7777;
                ensure!(mode == left, "{share}: {mode:o} on the host after {what}");
            }
        }
        Ok(())
    });
}

#[test]
fn each_cache_policy_lets_a_guest_see_the_hosts_changes_when_it_says() {
    whole_system(|| {
        let world = world()?;
        let shares = ["asked", "d", "kept"];
        let change = |text: &str| -> Result<()> {
            for share in shares {
                world.write(&world.share_folder(share)?.join("a"), text)?;
            }
            Ok(())
        };
        change("old")?;
        let guest = guest(&world)?;
        let look = |share: &str| {
            guest.ok(&format!(
                "cat /mnt/{share}/a; test -e /mnt/{share}/new && echo :new"
            ))
        };
        for share in shares {
            let known = guest.ok(&format!("cat /mnt/{share}/a; ! test -e /mnt/{share}/new"))?;
            ensure!(known == "old", "{share}: {known}");
        }
        change("newer")?;
        for share in shares {
            world.write(&world.share_folder(share)?.join("new"), "")?;
        }
        ensure!(look("asked")? == "newer:new", "never: at once");
        guest.ok("sleep 1.1")?;
        ensure!(look("d")? == "newer:new", "auto: after a second");
        let kept = guest.ok("cat /mnt/kept/a; ! test -e /mnt/kept/new")?;
        ensure!(
            kept == "old",
            "always: not before the guest forgets, {kept}"
        );
        guest.ok("echo 3 > /proc/sys/vm/drop_caches")?;
        ensure!(
            look("kept")? == "newer:new",
            "always: when it has forgotten"
        );
        Ok(())
    });
}

/// The requests each queue of share `d` has been interrupted for, as the guest's kernel counts them.
fn interrupts_of_queues(guest: &Guest) -> Result<Vec<u64>> {
    let table = guest.ok("cat /proc/interrupts")?;
    let queues = table.lines().filter(|line| line.contains("requests"));
    Ok(queues
        .map(|line| {
            let counts = line.split_whitespace().skip(1);
            counts.map_while(|count| count.parse::<u64>().ok()).sum()
        })
        .collect())
}

/// Linux maps processors to queues from 6.11 on; before, it asks all in the first.
#[test]
fn a_guest_of_two_processors_has_two_queues_and_a_newer_kernel_asks_in_both() {
    const CONFIG: &str = "[network.vmnet8]\ntype = \"nat\"\n[guest.dev]\n\
                          [share.d]\npath = \"@shared/d\"\nat = \"/mnt/d\"\n";
    whole_system(|| {
        let mut world = World::of(User::unprivileged(), CONFIG)?;
        let d = world.share_folder("d")?;
        world.start(Kind::Netd)?;
        world.start(Kind::Sharefs)?;
        let machine = world.machine("dev", &[("d", "/mnt/d")])?;
        let guest = machine.arguments(["-smp", "2"]).boot()?;
        let line = guest.line().join(" ");
        let version = guest.ok("uname -r")?;
        let mut numbers = version
            .split('.')
            .map_while(|number| number.parse::<u32>().ok());
        let major = numbers.next().context("no version")?;
        let minor = numbers.next().context("half a version")?;
        for processor in 0..2 {
            guest.ok(&format!(
                "taskset -c {processor} sh -c 'for i in $(seq 20); do echo {processor} > /mnt/d/of{processor}-$i; done'"
            ))?;
        }
        for file in 1..=20 {
            for processor in 0..2 {
                let text = fs::read_to_string(d.join(format!("of{processor}-{file}")))?;
                ensure!(
                    text == format!("{processor}\n"),
                    "{processor}-{file}: {text:?}"
                );
            }
        }
        let counts = interrupts_of_queues(&guest)?;
        eprintln!("Linux {version}: interrupts of queues {counts:?}");
        let used = counts.iter().filter(|count| **count > 0).count();
        let wanted = if (major, minor) >= (6, 11) { 2 } else { 1 };
        ensure!(
            used == wanted,
            "{used} queues were used: {counts:?}, {line}"
        );
        Ok(())
    });
}
