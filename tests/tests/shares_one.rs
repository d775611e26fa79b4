//! All shares of a guest behind one virtiofs device: they come and go while the guest runs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::limit::wait_for;
use tests::{Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"

[guest.dev]

[share.d]
path = "@shared/d"
at = "/mnt/d"

[share.frozen]
path = "@shared/frozen"
at = "/mnt/frozen"
read-only = true

[share.again]
path = "@shared/d"
at = "/mnt/again"
"#;

const SHARES: &[(&str, &str)] = &[
    ("d", "/mnt/d"),
    ("frozen", "/mnt/frozen"),
    ("again", "/mnt/again"),
];
const SOON: Duration = Duration::from_secs(20);
/// What a change may take to be seen.
const AT_ONCE: Duration = Duration::from_secs(1);

fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    Ok(world)
}

/// `sharectl` with these words; its standard output.
fn sharectl(world: &World, words: &[&str]) -> Result<String> {
    world.sharectl(words)?.success()
}

/// A folder of the host, shared under its own path; that path.
fn add_share(world: &World, name: &str) -> Result<PathBuf> {
    let folder = world.share_folder(name)?;
    let path = folder.display().to_string();
    sharectl(world, &["share", "add", &path, "--name", name])?;
    Ok(folder)
}

/// Asks until the guest says so, within a second of now.
fn soon(guest: &Guest, script: &str) -> Result<()> {
    wait_for(script, AT_ONCE, || {
        Ok((guest.run(script)?.status == 0).then_some(()))
    })
}

fn refused(guest: &Guest, script: &str, reason: &str) -> Result<()> {
    let answer = guest.run(script)?;
    ensure!(
        answer.status != 0 && answer.stderr.contains(reason),
        "{script}: {answer:?}"
    );
    Ok(())
}

#[test]
fn a_share_comes_to_a_running_guest_at_its_own_path_and_goes_again() {
    whole_system(|| {
        let world = world()?;
        let guest = world.machine("dev", SHARES)?.boot()?;
        let before = guest.ok("stat -c '%Y %h' /run/sharectl")?;
        let folder = add_share(&world, "late")?;
        let path = folder.display();
        world.write(&folder.join("from-host"), "host")?;
        soon(&guest, "ls /run/sharectl | grep -qx late")?;
        ensure!(guest.ok("cat /run/sharectl/late/from-host")? == "host");
        guest.ok("sleep 1.1")?;
        ensure!(guest.ok("stat -c '%Y %h' /run/sharectl")? != before);

        // What the command prints for the guest puts it at the same path as on the host.
        let script = sharectl(&world, &["guest", "mounts", "dev", "--as", "shell"])?;
        guest.ok(&script)?;
        guest.ok(&script)?;
        let mounted = format!("grep -c ' {path} ' /proc/mounts");
        ensure!(guest.ok(&mounted)? == "1", "a second time changes nothing");
        guest.ok(&format!("cd {path} && echo guest > from-guest"))?;
        ensure!(fs::read_to_string(folder.join("from-guest"))? == "guest\n");

        guest.ok(&format!(
            "(exec 5> {path}/open; echo before >&5; touch /run/ready; while sleep 0.05; do echo more >&5 || break; done; \
             cat <&5 2>> /run/told; touch /run/ended) > /dev/null 2> /run/told & \
             while ! test -e /run/ready; do sleep 0.05; done"
        ))?;
        sharectl(&world, &["share", "rm", "late"])?;
        soon(&guest, "! test -e /run/sharectl/late")?;
        refused(&guest, "ls /run/sharectl/late", "No such file")?;
        refused(&guest, &format!("ls {path}"), "Stale file handle")?;
        refused(&guest, &format!("touch {path}/new"), "Stale file handle")?;
        soon(
            &guest,
            "test -e /run/ended && grep -q 'Stale file handle' /run/told",
        )?;
        ensure!(!folder.join("new").exists());
        // Nothing of it is held on the host any more: the drive could be taken out.
        let held = format!("{}/", folder.display());
        let pid = world.get(Kind::Sharefs, "/v1/status")?["pid"].clone();
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let leads = fs::read_link(entry?.path()).unwrap_or_default();
            ensure!(
                leads != folder && !leads.display().to_string().starts_with(&held),
                "{} is held",
                leads.display()
            );
        }

        // Shared once more, the mount that is still there shows it again.
        add_share(&world, "late")?;
        soon(&guest, &format!("test -e {path}/from-host"))?;
        guest.ok(&format!("echo again > {path}/again"))?;
        ensure!(fs::read_to_string(folder.join("again"))? == "again\n");
        guest.ok("cat /mnt/d/../frozen/.. 2> /dev/null; ls -lR /run/sharectl > /dev/null")?;
        Ok(())
    });
}

#[test]
fn each_share_is_a_file_system_of_its_own() {
    whole_system(|| {
        let world = world()?;
        let (d, frozen) = (world.share_folder("d")?, world.share_folder("frozen")?);
        world.write(&frozen.join("kept"), "as it was")?;
        world.write(&d.join("file"), "d")?;
        let guest = world.machine("dev", SHARES)?.boot()?;

        // One folder, shared twice: the same files in two file systems.
        ensure!(guest.ok("cat /mnt/again/file")? == "d");
        let devices =
            guest.ok("stat -c %d /run/sharectl /mnt/d /mnt/again /mnt/frozen | sort -u")?;
        ensure!(devices.lines().count() == 4, "{devices}");
        let inodes = guest.ok("stat -c %i /mnt/d/file /mnt/again/file | sort -u")?;
        ensure!(inodes.lines().count() == 1, "{inodes}");
        refused(
            &guest,
            "ln /mnt/d/file /mnt/again/linked",
            "ross-device link",
        )?;
        guest.ok(
            "mv /mnt/d/file /mnt/again/moved && cat /mnt/d/moved && mv /mnt/d/moved /mnt/d/file",
        )?;
        guest.ok("cp /mnt/d/file /mnt/again/copy && cmp /mnt/d/copy /mnt/d/file")?;

        for attempt in [
            "echo x > /mnt/frozen/kept",
            "rm /mnt/frozen/kept",
            "touch /run/sharectl/frozen/new",
        ] {
            refused(&guest, attempt, "Read-only file system")?;
        }
        for attempt in [
            "mkdir /run/sharectl/new",
            "touch /run/sharectl/new",
            "ln -s d /run/sharectl/new",
        ] {
            refused(&guest, attempt, "Read-only file system")?;
        }
        for attempt in [
            "mv /run/sharectl/d /run/sharectl/e",
            "rmdir /run/sharectl/d",
        ] {
            ensure!(guest.run(attempt)?.status != 0, "{attempt}");
        }
        guest.ok("ls /run/sharectl/d/file")?;

        let sizes = guest.ok("df -k /mnt/d /mnt/frozen | tail -n 2 | awk '{print $2}'")?;
        let here = rustix::fs::statvfs(&d)?;
        let blocks = here.f_blocks * here.f_frsize / 1024;
        ensure!(
            sizes.lines().all(|size| size.parse() == Ok(blocks)),
            "{sizes}, {blocks} here"
        );
        let found = guest.ok("find /run/sharectl -name file | sort")?;
        ensure!(
            found == "/run/sharectl/again/file\n/run/sharectl/d/file",
            "{found}"
        );
        Ok(())
    });
}

#[test]
fn fifty_shares_come_at_once_and_go_at_once() {
    whole_system(|| {
        let world = world()?;
        let guest = world.machine("dev", SHARES)?.boot()?;
        let mut many = CONFIG.to_owned();
        for index in 0..50 {
            let folder = world.share_folder(&format!("many/{index}"))?;
            world.write(&folder.join("number"), index.to_string())?;
            many.push_str(&format!(
                "\n[share.s{index}]\npath = \"@shared/many/{index}\"\nat = \"/mnt/s{index}\"\n"
            ));
        }
        let apply = |text: &str| -> Result<()> {
            world.set_config(text)?;
            world
                .ask(Kind::Sharefs, "POST", "/v1/reload", None)?
                .success()?;
            Ok(())
        };
        apply(&many)?;
        soon(&guest, "test $(ls /run/sharectl | wc -l) = 53")?;
        let sum = "for n in $(seq 0 49); do read number < /run/sharectl/s$n/number || \
                   test \"$number\" = $n || exit 1; test \"$number\" = $n || exit 1; done";
        let answer = guest.run_within(SOON, sum)?;
        ensure!(answer.is_success(), "{answer:?}");
        let devices = guest.ok("stat -c %d /run/sharectl/*/. | sort -u | wc -l")?;
        ensure!(devices == "53", "{devices}");
        apply(CONFIG)?;
        soon(&guest, "test $(ls /run/sharectl | wc -l) = 3")?;
        guest.ok("echo still here > /mnt/d/x")?;
        Ok(())
    });
}

#[test]
fn a_guest_that_reboots_or_is_killed_finds_its_shares_again() {
    whole_system(|| {
        let mut world = world()?;
        let mut guest = world.machine("dev", SHARES)?.boot()?;
        guest.ok("echo 1 > /mnt/d/log && exec 5< /mnt/d/log && ls -lR /run/sharectl")?;
        guest.reboot()?;
        guest.ok("echo 2 >> /mnt/d/log")?;
        guest.kill();
        let shares = |world: &World| world.get(Kind::Sharefs, "/v1/shares");
        wait_for("the daemon to see it", SOON, || {
            let device = &shares(&world)?[0]["devices"][0];
            ensure!(
                device["socket"]
                    .as_str()
                    .is_some_and(|path| path.ends_with("/fs.sock"))
            );
            Ok((device["connected"] == false).then_some(()))
        })?;
        let mut guest = world.machine("dev", SHARES)?.boot()?;
        guest.ok("echo 3 >> /mnt/d/log")?;
        ensure!(shares(&world)?[0]["devices"][0]["connected"] == true);

        // A restart of the daemon costs what it costs with a device a share: the guest's mounts.
        world.crash(Kind::Sharefs)?;
        let status = world.sharectl(&["status"])?.stdout;
        let count = status
            .matches("guest dev runs without the device of its shares")
            .count();
        ensure!(count == 1, "{status}");
        guest.ok("wget -q -O - http://127.0.0.1/")?;
        guest.kill();
        let guest = world.machine("dev", SHARES)?.boot()?;
        guest.ok("echo 4 >> /mnt/d/log")?;
        let log = fs::read_to_string(world.share_folder("d")?.join("log"))?;
        ensure!(log == "1\n2\n3\n4\n", "{log}");
        Ok(())
    });
}

#[test]
fn a_folder_that_was_replaced_on_the_host_is_found_under_its_name() {
    whole_system(|| {
        let world = world()?;
        let d = world.share_folder("d")?;
        world.write(&d.join("old"), "old")?;
        let guest = world.machine("dev", SHARES)?.boot()?;
        guest.ok("cat /mnt/d/old")?;
        fs::rename(&d, d.with_file_name("moved"))?;
        guest.ok("cat /mnt/d/old")?;
        guest.ok("sleep 1.1")?;
        refused(&guest, "ls /run/sharectl/d", "No such file")?;
        world.share_folder("d")?;
        world.write(&d.join("new"), "new")?;
        soon(&guest, "test -e /run/sharectl/d/new")?;
        ensure!(guest.ok("cat /mnt/d/new")? == "new", "the mount follows");
        Ok(())
    });
}
