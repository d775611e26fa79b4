//! Scripts that wait: `wait-ready` and `--wait` with a real guest come back when it is true, and not before; and
//! `--dry-run` beside a guest that runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tests::command::Output;
use tests::daemons::World;
use tests::limit::{now, retry};
use tests::netns::Netns;
use tests::{Result, ensure, http, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
subnet = "192.168.130.0/24"

[guest.dev]
host-address = "127.64.0.1"
publish = ["8080:80"]

[guest.box]
address = "192.168.130.77"

[share.d]
path = "@shared/d"
at = "/mnt/d"
"#;

/// Runs `sharectl` and checks its exit code and what it says.
fn says(world: &World, code: i32, arguments: &[&str], part: &str) -> Result<Output> {
    let output = world.sharectl(arguments)?;
    let said = format!("{}{}", output.stdout, output.stderr);
    ensure!(
        output.status.code() == Some(code) && said.contains(part),
        "sharectl {arguments:?}: {} and not {code} with {part:?}\n{said}",
        output.status,
    );
    Ok(output)
}

/// The bytes of every file below, sockets and logs aside.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("logs") {
                folders.push(path);
            } else if path.is_file() {
                found.insert(path.display().to_string(), fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

#[test]
fn a_script_goes_on_when_the_guest_its_port_and_its_share_are_ready() {
    whole_system(|| {
        let mut world = World::new(CONFIG)?;
        let d = world.share_folder("d")?;
        world.write(&d.join("hello"), "from the host")?;
        let missing = ["wait-ready", "--guest", "dev", "--timeout", "0"];
        says(&world, 5, &missing, "netd is not running")?;
        world.start_all()?;
        says(&world, 0, &["wait-ready"], "ready after")?;
        says(&world, 5, &missing, "guest dev: not plugged in")?;

        let mut guest = world.machine("dev", &[("d", "/mnt/d")])?.start()?;
        let begin = now();
        let all = [
            "wait-ready",
            "--guest",
            "dev",
            "--port",
            "dev/8080",
            "--share",
            "d",
            "--timeout",
            "28s",
        ];
        says(&world, 0, &all, "ready after")?;
        println!(
            "ready {} ms after the VM was started",
            begin.elapsed().as_millis()
        );
        // Once, without a second try: it was said to be ready.
        let page = http::get(([127, 64, 0, 1], 8080).into(), "/", Duration::from_secs(5))?;
        ensure!(page.body == "Hello from dev\n", "{page:?}");
        guest.wait_ready()?;
        ensure!(guest.ok("cat /mnt/d/hello")? == "from the host");

        // A service that is not there yet.
        let publish = ["port", "publish", "dev", "9090:90", "--wait=1s"];
        says(
            &world,
            5,
            &publish,
            "nothing listens on port 90 in the guest",
        )?;
        guest.ok("httpd -p 90 -h /www")?;
        let served = ["wait-ready", "--port", "dev/9090", "--timeout", "20s"];
        says(&world, 0, &served, "ready after")?;
        let page = http::get(([127, 64, 0, 1], 9090).into(), "/", Duration::from_secs(5))?;
        ensure!(page.body == "Hello from dev\n", "{page:?}");

        // Its link and its lease are there, but it does not answer.
        guest.ok("ip link set eth0 down")?;
        let told = "plugged in, but nothing answers at 192.168.130.";
        says(&world, 5, &missing, told)?;
        guest.ok("ip link set eth0 up")?;
        let back = ["wait-ready", "--guest", "dev", "--timeout", "20s"];
        says(&world, 0, &back, "ready after")?;

        // A namespace that is plugged in with its address answers at once.
        let namespace = Netns::new("box")?;
        let path = namespace.path().display().to_string();
        let line = [
            "guest",
            "attach",
            "box",
            "--netns",
            &path,
            "--configure",
            "--wait=20s",
        ];
        world.sharectl_as_ourselves(&line)?.success()?;

        guest.kill();
        // Each daemon sees the end of its socket for itself.
        let soon = Duration::from_secs(10);
        retry("netd to see the end", soon, || {
            says(&world, 5, &missing, "guest dev: not plugged in")
        })?;
        let unused = ["wait-ready", "--share", "d", "--timeout", "0"];
        retry("sharefs to see the end", soon, || {
            says(&world, 5, &unused, "share d: no guest has mounted it")
        })?;
        Ok(())
    });
}

#[test]
fn what_is_only_said_leaves_a_running_guest_its_files_and_its_connections() {
    whole_system(|| {
        let mut world = World::new(CONFIG)?;
        world.share_folder("d")?;
        world.start_all()?;
        let (guest, _) = world.boot("dev", &[("d", "/mnt/d")])?;
        let before = (files(&world.state())?, fs::read(world.path("config.toml"))?);
        let pids =
            ["netd", "sharefs", "hostsync"].map(|name| world.runtime().join(format!("{name}.pid")));
        let running = pids
            .each_ref()
            .map(|file| fs::read(file).unwrap_or_default());
        for (line, part) in [
            ("guest rm dev", "-[guest.dev]"),
            (
                "guest detach dev",
                "would ask netd: DELETE /v1/guests/dev/link",
            ),
            ("share rm d", "-[share.d]"),
            (
                "port unpublish dev 8080:80",
                "would ask netd: DELETE /v1/ports",
            ),
            (
                "port publish dev 7070:70 --temporary",
                "would ask netd: POST /v1/ports",
            ),
            (
                "network renumber vmnet8 --subnet 10.9.0.0/24",
                "+subnet = \"10.9.0.0/24\"",
            ),
            ("restart sharefs", "would restart sharefs, process"),
            ("down", "would stop "),
            ("up", "would leave netd, process"),
        ] {
            let mut arguments: Vec<&str> = line.split(' ').collect();
            arguments.push("--dry-run");
            says(&world, 0, &arguments, part)?;
        }
        ensure!(before == (files(&world.state())?, fs::read(world.path("config.toml"))?));
        ensure!(
            running
                == pids
                    .each_ref()
                    .map(|file| fs::read(file).unwrap_or_default())
        );
        // The host's port opens when netd finds the guest's, up to a tenth of a second behind its address.
        let served = ["wait-ready", "--port", "dev/8080", "--timeout", "20s"];
        says(&world, 0, &served, "ready after")?;
        let page = http::get(([127, 64, 0, 1], 8080).into(), "/", Duration::from_secs(5))?;
        ensure!(page.body == "Hello from dev\n", "{page:?}");
        guest.ok("echo on > /mnt/d/still")?;
        Ok(())
    });
}

#[test]
fn up_waits_for_ports_and_mounts_and_says_which_are_not_there() {
    whole_system(|| {
        let world = World::new(CONFIG)?;
        world.share_folder("d")?;
        says(&world, 0, &["up", "--wait=20s"], "started")?;
        says(&world, 0, &["down"], "stopped")?;
        // Somebody else has the port.
        let taken = std::net::TcpListener::bind("127.64.0.1:8080")?;
        says(&world, 5, &["up", "--wait=1s"], "port dev/8080:80: ")?;
        says(&world, 0, &["up"], "was running")?;
        drop(taken);
        says(&world, 0, &["down"], "stopped")?;
        Ok(())
    });
}
