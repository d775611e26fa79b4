//! A share's life on a device of its own: reboots, VMMs killed and started again, configurations that
//! change, folders that come and go, and what the daemon tells of it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::http::raw_over_unix;
use tests::limit::wait_for;
use tests::{Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"

[guest.dev]
devices = "each"

[share.d]
path = "@shared/d"
at = "/mnt/d"

[share.seen]
path = "@shared/seen"
at = "/mnt/seen"
cache = "never"
"#;

const SHARES: &[(&str, &str)] = &[("d", "/mnt/d"), ("seen", "/mnt/seen")];
const SOON: Duration = Duration::from_secs(20);

fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    world.share_folder("d")?;
    world.share_folder("seen")?;
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    Ok(world)
}

/// A share's entry of `GET /v1/shares`.
fn share(world: &World, name: &str) -> Result<serde_json::Value> {
    let shares = world.get(Kind::Sharefs, "/v1/shares")?;
    let found = shares
        .as_array()
        .into_iter()
        .flatten()
        .find(|share| share["name"] == name);
    Ok(found.cloned().unwrap_or_default())
}

/// A number of `GET /metrics`, all labels added up.
fn metric(world: &World, name: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?;
    let page = page.body;
    let lines = page
        .lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name));
    Ok(lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum())
}

#[test]
fn a_reboot_and_a_killed_vmm_are_served_again_and_nothing_is_left_behind() {
    whole_system(|| {
        let world = world()?;
        let mut guest = world.machine_of_devices("dev", SHARES)?.boot()?;
        guest.ok("echo 1 > /mnt/d/log && exec 5< /mnt/d/log && ls -lR /mnt/d")?;
        guest.reboot()?;
        guest.ok("echo 2 >> /mnt/d/log")?;
        ensure!(
            metric(&world, "sharectl_sharefs_connections_total")? == 2,
            "a reboot keeps the connections"
        );
        guest.kill();
        wait_for("the daemon to see it", SOON, || {
            Ok((share(&world, "d")?["devices"][0]["connected"] == false).then_some(()))
        })?;
        wait_for("descriptors to be given back", SOON, || {
            Ok((metric(&world, "sharectl_sharefs_descriptors")? == 0).then_some(()))
        })?;

        let mut guest = world.machine_of_devices("dev", SHARES)?.boot()?;
        guest.ok("echo 3 >> /mnt/d/log && umount /mnt/d")?;
        guest.power_off()?;
        ensure!(fs::read_to_string(world.share_folder("d")?.join("log"))? == "1\n2\n3\n");
        ensure!(metric(&world, "sharectl_sharefs_connections_total")? == 4);
        Ok(())
    });
}

#[test]
fn what_the_host_changes_is_seen_as_soon_as_the_cache_policy_says() {
    whole_system(|| {
        let world = world()?;
        let (d, seen) = (world.share_folder("d")?, world.share_folder("seen")?);
        for folder in [&d, &seen] {
            world.write(&folder.join("a"), "old")?;
        }
        let guest = world.machine_of_devices("dev", SHARES)?.boot()?;
        guest.ok("cat /mnt/seen/a /mnt/d/a && ! test -e /mnt/seen/new && ! test -e /mnt/d/new")?;
        for folder in [&d, &seen] {
            world.write(&folder.join("a"), "much newer")?;
            world.write(&folder.join("new"), "")?;
        }
        ensure!(
            guest.ok("cat /mnt/seen/a && test -e /mnt/seen/new")? == "much newer",
            "never: at once"
        );
        guest.ok("test -e /mnt/d/new")?;
        guest.ok("sleep 1.1; test \"$(cat /mnt/d/a)\" = 'much newer'")?;
        Ok(())
    });
}

#[test]
fn a_reload_disturbs_nobody_and_a_missing_folder_is_that_shares_own_problem() {
    whole_system(|| {
        let world = world()?;
        let guest = world.machine_of_devices("dev", SHARES)?.boot()?;
        guest.ok("exec 5> /mnt/d/open; echo 1 >&5; (while ! test -e /mnt/d/stop; do echo x >&5; done) > /dev/null 2>&1 &")?;
        let late = world.path("shared/late");
        let missing = format!(
            "\n[share.late]\npath = \"{}\"\nat = \"/mnt/late\"\n",
            late.display()
        );
        world.set_config(&format!("{CONFIG}{missing}"))?;
        // The configuration names a folder that is not there: told by the loader or by the share, never fatal.
        let reloaded = world.ask(Kind::Sharefs, "POST", "/v1/reload", None)?;
        ensure!(reloaded.body.contains("late"), "{reloaded:?}");
        world.share_folder("late")?;
        world
            .ask(Kind::Sharefs, "POST", "/v1/reload", None)?
            .success()?;
        ensure!(share(&world, "late")?["problem"].is_null());
        let socket = world.runtime().join("guest/dev/fs-late.sock");
        UnixStream::connect(&socket)?;

        fs::remove_dir(world.share_folder("late")?)?;
        ensure!(
            share(&world, "late")?["problem"]
                .as_str()
                .is_some_and(|text| text.contains("gone"))
        );
        world.set_config("[guest")?;
        let refused = world.ask(Kind::Sharefs, "POST", "/v1/reload", None)?;
        ensure!(refused.status == 400, "{refused:?}");

        world.set_config(CONFIG)?;
        world
            .ask(Kind::Sharefs, "POST", "/v1/reload", None)?
            .success()?;
        ensure!(!socket.exists(), "a share that is gone has no socket");
        ensure!(
            metric(&world, "sharectl_sharefs_connections_total")? == 2,
            "the guest noticed nothing"
        );
        guest.ok("touch /mnt/d/stop && grep -q x /mnt/d/open")?;
        Ok(())
    });
}

#[test]
fn the_folder_taken_away_under_a_guest_is_an_error_there_and_comes_back_with_a_mount() {
    whole_system(|| {
        let mut world = world()?;
        let d = world.share_folder("d")?;
        let guest = world.machine_of_devices("dev", SHARES)?.boot()?;
        guest.ok("echo x > /mnt/d/file")?;
        fs::rename(&d, d.with_file_name("moved"))?;
        guest.ok("cat /mnt/d/file")?;
        fs::remove_dir_all(d.with_file_name("moved"))?;
        let answer = guest.run("sleep 1.1; cat /mnt/d/file; touch /mnt/d/new")?;
        ensure!(
            answer.status != 0 && answer.stderr.contains("No such file"),
            "{answer:?}"
        );
        ensure!(share(&world, "d")?["problem"].as_str().is_some());
        world.share_folder("d")?;
        guest.ok("umount /mnt/d && mount -t virtiofs d /mnt/d && echo y > /mnt/d/file")?;
        ensure!(fs::read_to_string(d.join("file"))? == "y\n");
        ensure!(world.daemon(Kind::Sharefs)?.is_running()?);
        Ok(())
    });
}

#[test]
fn the_control_socket_tells_what_is_served() {
    whole_system(|| {
        let world = world()?;
        let status = world.get(Kind::Sharefs, "/v1/status")?;
        ensure!(
            status["daemon"] == "sharefs" && status["problems"] == serde_json::json!([]),
            "{status}"
        );
        let guest = world.machine_of_devices("dev", SHARES)?.boot()?;
        guest.ok("ls /mnt/d /mnt/seen")?;
        let d = share(&world, "d")?;
        ensure!(
            d["devices"][0]["guest"] == "dev" && d["devices"][0]["connected"] == true,
            "{d}"
        );
        ensure!(
            d["devices"][0]["requests"].as_u64() > Some(2) && d["devices"][0]["malformed"] == 0,
            "{d}"
        );
        ensure!(metric(&world, "sharectl_sharefs_mounted")? == 2);
        ensure!(metric(&world, "sharectl_sharefs_descriptors")? >= 2);
        ensure!(
            metric(&world, "sharectl_sharefs_errors_total")?
                <= metric(&world, "sharectl_sharefs_requests_total")?
        );
        let events = world.ask(Kind::Sharefs, "GET", "/v1/events?since=0", None)?;
        let events = events.body;
        ensure!(
            events.contains("share-connected") && events.contains("\"kind\":\"started\""),
            "{events}"
        );

        let socket = world.socket(Kind::Sharefs);
        for noise in [
            &b"\0\0\0\0"[..],
            b"GET /v1/shares HTTP/9\r\n\r\n",
            b"DELETE /v1/shares HTTP/1.1\r\nhost: x\r\n\r\n",
        ] {
            raw_over_unix(&socket, noise, SOON).ok();
        }
        world.get(Kind::Sharefs, "/v1/shares")?;
        Ok(())
    });
}
