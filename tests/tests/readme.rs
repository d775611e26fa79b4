//! What the README promises, by the commands it prints: the five minutes with a VM of one's own, and
//! the exit codes.

use std::fs;
use std::time::Duration;

use tests::command::Output;
use tests::daemons::World;
use tests::limit::{retry, wait_for};
use tests::{Result, ensure, http, whole_system};

const SOON: Duration = Duration::from_secs(20);

/// Runs `sharectl` and checks its exit code.
fn exits(world: &World, code: i32, arguments: &[&str]) -> Result<Output> {
    let output = world.sharectl(arguments)?;
    ensure!(
        output.status.code() == Some(code),
        "sharectl {arguments:?}: {} instead of {code}\n{}{}",
        output.status,
        output.stdout,
        output.stderr
    );
    Ok(output)
}

#[test]
fn five_minutes_with_a_vm_of_ones_own() {
    whole_system(|| {
        let world = World::new("")?;
        fs::remove_file(world.path("config.toml"))?;
        let src = world.share_folder("src")?;
        let path = src.display().to_string();
        world.write(&src.join("main.rs"), "fn main() {}\n")?;

        exits(&world, 0, &["init"])?;
        exits(&world, 4, &["init"])?;
        exits(&world, 0, &["share", "add", &path])?;
        exits(
            &world,
            0,
            &[
                "guest",
                "add",
                "dev",
                "--name",
                "local.test",
                "--publish",
                "8080:80",
            ],
        )?;
        exits(&world, 0, &["config", "check"])?;
        // The hosts file is the one step that needs root; here it is a file of the test's own.
        let hosts = world.path("hosts");
        world.write(&hosts, "127.0.0.1 localhost\n")?;
        let config = fs::read_to_string(world.path("config.toml"))?;
        let config = config.replace("\"auto\"", &format!("\"{}\"", hosts.display()));
        world.write(&world.path("config.toml"), config)?;

        exits(&world, 3, &["status"])?;
        exits(&world, 0, &["up"])?;
        let status = exits(&world, 0, &["status"])?;
        for word in ["netd", "sharefs", "hostsync"] {
            ensure!(status.stdout.contains(word), "{}", status.stdout);
        }
        let (mut guest, address) = world.boot("dev", &[("src", &path)])?;
        ensure!(guest.ok(&format!("cat {path}/main.rs"))? == "fn main() {}");

        let ready = ["wait-ready", "--guest", "dev", "--port", "dev/8080"];
        exits(&world, 0, &ready)?;
        let line = wait_for("the hosts line", SOON, || {
            let text = fs::read_to_string(&hosts)?;
            Ok(text
                .lines()
                .find(|line| line.contains("local.test"))
                .map(str::to_owned))
        })?;
        let own: std::net::IpAddr = line.split_whitespace().next().unwrap_or_default().parse()?;
        let page = retry("the guest's page", SOON, || {
            http::get((own, 8080).into(), "/", SOON)
        })?;
        ensure!(page.body == "Hello from dev\n", "{page:?}");

        let guests = exits(&world, 0, &["guest", "ls"])?;
        ensure!(
            guests.stdout.contains(&address.to_string()),
            "{}",
            guests.stdout
        );
        let networks = exits(&world, 0, &["network", "ls"])?;
        let heading = networks
            .stdout
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        let columns: Vec<_> = heading.split_whitespace().collect();
        ensure!(
            columns == ["NAME", "TYPE", "DHCP", "SUBNET", "GATEWAY", "GUESTS"],
            "{columns:?}"
        );
        let ports = exits(&world, 0, &["port", "ls", "--format", "json"])?;
        let ports: serde_json::Value = serde_json::from_str(&ports.stdout)?;
        ensure!(ports.to_string().contains("8080:80"), "{ports}");
        exits(&world, 0, &["describe", "dev"])?;
        // One VMM at a time: a second one for the same guest is a conflict.
        exits(
            &world,
            4,
            &[
                "guest",
                "run",
                "dev",
                "--",
                "qemu-system-x86_64",
                "-m",
                "256M",
            ],
        )?;
        exits(&world, 2, &["guest", "frobnicate"])?;
        exits(&world, 1, &["describe", "nobody"])?;

        guest.power_off()?;
        exits(&world, 0, &["down"])?;
        exits(
            &world,
            3,
            &[
                "guest",
                "run",
                "dev",
                "--",
                "qemu-system-x86_64",
                "-m",
                "256M",
            ],
        )?;
        Ok(())
    });
}
