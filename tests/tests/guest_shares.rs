//! Host folders in a real guest by virtiofs: both ways, read-only, owners, several shares from one
//! daemon, and what a killed daemon costs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::limit::wait_for;
use tests::{Context, Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]

[share.d]
path = "@shared/d"
at = "/mnt/d"

[share.frozen]
path = "@shared/frozen"
at = "/mnt/frozen"
read-only = true
"#;

const SOON: Duration = Duration::from_secs(20);
const SHARES: &[(&str, &str)] = &[("d", "/mnt/d"), ("frozen", "/mnt/frozen")];

fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    let frozen = world.share_folder("frozen")?;
    world.write(&frozen.join("kept"), "as it was")?;
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    Ok(world)
}

#[test]
fn files_cross_both_ways_and_read_only_is_read_only() {
    whole_system(|| {
        let world = world()?;
        let d = world.share_folder("d")?;
        let frozen = world.share_folder("frozen")?;
        world.write(&d.join("from-host"), "host")?;
        let guest = world.machine("dev", SHARES)?.boot()?;

        ensure!(guest.ok("cat /mnt/d/from-host")? == "host");
        guest.ok("echo guest > /mnt/d/from-guest")?;
        ensure!(fs::read_to_string(d.join("from-guest"))? == "guest\n");
        let owner = fs::metadata(d.join("from-guest"))?.uid();
        ensure!(owner == world.user().uid, "owned by {owner}");

        guest.ok("mkdir -p /mnt/d/a/b && mv /mnt/d/from-guest /mnt/d/a/b/moved")?;
        guest.ok("ln -s b/moved /mnt/d/a/link && cat /mnt/d/a/link")?;
        guest.ok("chmod 755 /mnt/d/a/b/moved")?;
        ensure!(fs::metadata(d.join("a/b/moved"))?.mode() & 0o777 == 0o755);
        ensure!(fs::read_link(d.join("a/link"))?.to_str() == Some("b/moved"));
        guest.ok("dd if=/dev/urandom of=/mnt/d/big bs=64k count=64 2> /dev/null")?;
        let there = guest.ok("sha256sum < /mnt/d/big | cut -d ' ' -f 1")?;
        let mut sum = std::process::Command::new("sha256sum");
        let here = tests::command::run(sum.arg(d.join("big")), SOON)?;
        ensure!(here.starts_with(&there), "{here} here, {there} there");
        guest.ok("rm -r /mnt/d/a /mnt/d/big")?;
        ensure!(!d.join("a").exists() && !d.join("big").exists());

        ensure!(guest.ok("cat /mnt/frozen/kept")? == "as it was");
        for attempt in [
            "echo x > kept",
            "echo x > new",
            "rm kept",
            "mkdir new",
            "chmod 777 kept",
            "mv kept new",
        ] {
            let answer = guest.run(&format!("cd /mnt/frozen && {attempt}"))?;
            ensure!(answer.status != 0, "{attempt} was let through");
            ensure!(
                answer.stderr.contains("Read-only file system"),
                "{attempt}: {answer:?}"
            );
        }
        ensure!(fs::read_to_string(frozen.join("kept"))? == "as it was");
        Ok(())
    });
}

#[test]
fn who_serves_a_guest_is_confined_as_doctor_says() {
    whole_system(|| {
        let world = world()?;
        let guest = world.machine("dev", SHARES)?.boot()?;
        guest.ok("ls /mnt/d /mnt/frozen")?;
        let said = world.sharectl(&["doctor", "sandbox", "--format", "json"])?;
        let checks: serde_json::Value = serde_json::from_str(&said.stdout)?;
        let check = checks
            .as_array()
            .and_then(|all| all.iter().find(|check| check["id"] == "sandbox"))
            .context("doctor does not look at the sandbox")?;
        ensure!(check["state"] == "ok", "{check}");
        let evidence = check["evidence"].as_str().unwrap_or_default();
        let confined = evidence.split("calls (").nth(1);
        let confined = confined.and_then(|rest| rest.split(' ').next());
        // Of the one device the thread of the first request queue at least.
        ensure!(
            confined.and_then(|count| count.parse().ok()) >= Some(1_u32),
            "{check}"
        );
        Ok(())
    });
}

#[test]
fn a_link_out_of_the_share_leads_to_the_guests_own_files() {
    whole_system(|| {
        let world = world()?;
        let d = world.share_folder("d")?;
        std::os::unix::fs::symlink("/etc/hostname", d.join("absolute"))?;
        std::os::unix::fs::symlink("../../config.toml", d.join("climbing"))?;
        let guest = world.machine("dev", SHARES)?.boot()?;
        // The guest follows it, among its own files, where there is none.
        for link in ["absolute", "climbing"] {
            let answer = guest.run(&format!("cat /mnt/d/{link}"))?;
            ensure!(answer.status != 0, "{link} was read: {answer:?}");
        }
        guest.ok("ls /mnt/d/.. | grep -q frozen")?;
        Ok(())
    });
}

#[test]
fn sharefs_killed_costs_a_running_guest_its_mount_and_nothing_else() {
    whole_system(|| {
        let mut world = world()?;
        let d = world.share_folder("d")?;
        let mut guest = world.machine("dev", SHARES)?.boot()?;
        guest.ok("echo before > /mnt/d/before && sync")?;
        world.crash(Kind::Sharefs)?;
        // QEMU's vhost-user-fs cannot take up a new connection, so this guest's mount is lost until
        // its QEMU starts again; the guest itself, its network and every file live on.
        ensure!(fs::read_to_string(d.join("before"))? == "before\n");
        guest.ok("wget -q -O - http://127.0.0.1/")?;
        guest.ok("ping -c 1 -W 5 192.168.130.1")?;
        guest.kill();
        wait_for("netd to see the guest go", SOON, || {
            let status = world.get(Kind::Netd, "/v1/guests/dev")?;
            Ok(status["links"]
                .as_array()
                .is_none_or(Vec::is_empty)
                .then_some(()))
        })?;
        let guest = world.machine("dev", SHARES)?.boot()?;
        ensure!(guest.ok("cat /mnt/d/before")? == "before");
        guest.ok("echo after > /mnt/d/after")?;
        ensure!(fs::read_to_string(d.join("after"))? == "after\n");
        Ok(())
    });
}
