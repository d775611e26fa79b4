//! A real guest under QEMU on a nat network: address, names, both directions, both kinds of card,
//! neighbours, and what a VMM's end and return cost.

use std::net::Ipv4Addr;
use std::time::Duration;

use rustix::process::Signal;
use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::http::{self, Server};
use tests::limit::{retry, wait_for};
use tests::{Context, Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
names = ["local.test"]
publish = ["0.0.0.0:ANY:80", "OWN:80"]

[guest.other]
address = "192.168.130.7"

[hosts]
files = ["@hosts"]
"#;

const SOON: Duration = Duration::from_secs(20);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 130, 1);

/// The world with its two published ports: on any address, and on the guest's own.
struct Stage {
    world: World,
    any: u16,
    own: u16,
}

fn stage() -> Result<Stage> {
    let (any, own) = (http::free_port(18_081)?, http::free_port(8080)?);
    let config = CONFIG
        .replace("ANY", &any.to_string())
        .replace("OWN", &own.to_string());
    let mut world = World::new(&config)?;
    world.write(&world.path("hosts"), "127.0.0.1 localhost\n")?;
    world.start(Kind::Netd)?;
    Ok(Stage { world, any, own })
}

/// Everything a user expects of a guest that is up.
fn works(stage: &Stage, guest: &Guest) -> Result<()> {
    let address = guest.address(SOON)?;
    ensure!(
        address.octets()[..3] == [192, 168, 130],
        "address {address}"
    );
    let gateway = guest.ok("ip route | sed -n 's,^default via ,,p' | cut -d ' ' -f 1")?;
    ensure!(gateway == GATEWAY.to_string(), "gateway {gateway}");

    let answer = guest.ok("nslookup local.test")?;
    ensure!(answer.contains(&address.to_string()), "{answer}");
    let answer = guest.ok("nslookup dev.test")?;
    ensure!(answer.contains(&address.to_string()), "{answer}");
    guest.ok(&format!("ping -c 1 -W 5 {GATEWAY}"))?;

    let server = Server::start(Ipv4Addr::LOCALHOST.into(), "from the host")?;
    let port = server.address().port();
    let page = guest.ok(&format!("wget -q -O - http://host.internal:{port}/"))?;
    ensure!(page == "from the host", "{page}");

    let listening = host_address(&stage.world, "dev")?;
    for (host, port) in [(listening, stage.own), (Ipv4Addr::LOCALHOST, stage.any)] {
        // Open once netd has found the guest's, which it asks every tenth of a second.
        let page = retry("the published port", SOON, || {
            http::get((host, port).into(), "/", SOON)
        })?;
        ensure!(page.body == "Hello from dev\n", "{host}:{port}: {page:?}");
    }
    Ok(())
}

/// The guest's own 127.x.y.z.
fn host_address(world: &World, name: &str) -> Result<Ipv4Addr> {
    let guest = world.get(Kind::Netd, &format!("/v1/guests/{name}"))?;
    let address = guest["host_address"].as_str().context("no host_address")?;
    Ok(address.parse()?)
}

#[test]
fn a_guest_reaches_the_host_and_is_reached_through_reboot_and_crash() {
    whole_system(|| {
        let stage = stage()?;
        let world = &stage.world;
        let (mut guest, _) = world.boot("dev", &[])?;
        works(&stage, &guest)?;
        let address = guest.address(SOON)?;

        guest.reboot()?;
        works(&stage, &guest)?;
        ensure!(
            guest.address(SOON)? == address,
            "another address after the reboot"
        );

        guest.kill();
        wait_for("netd to see the guest go", SOON, || {
            let status = world.get(Kind::Netd, "/v1/guests/dev")?;
            let links = status["links"].as_array().context("no links")?;
            Ok(links.is_empty().then_some(()))
        })?;
        drop(guest);
        let (mut guest, again) = world.boot("dev", &[])?;
        works(&stage, &guest)?;
        ensure!(
            again == address,
            "{again} after the crash, {address} before"
        );

        // Signals and exit status of `sharectl guest run` are QEMU's own.
        guest.signal(Signal::TERM)?;
        let ended = guest.wait_end(SOON)?;
        ensure!(ended.success(), "{ended}");
        Ok(())
    });
}

#[test]
fn the_printed_line_boots_by_hand_with_an_e1000() {
    whole_system(|| {
        let stage = stage()?;
        let world = &stage.world;
        let printed = world
            .sharectl(&["guest", "args", "dev", "--nic", "e1000", "--memory", "256M"])?
            .success()?;
        ensure!(printed.contains("e1000"), "{printed}");
        let words = printed.split_whitespace().filter(|word| *word != "\\");
        let guest = world
            .bare_machine("dev", &[])
            .module("e1000")
            .arguments(words)
            .boot()?;
        let driver = guest.ok("readlink /sys/class/net/eth0/device/driver")?;
        ensure!(driver.ends_with("/e1000"), "{driver}");
        works(&stage, &guest)
    });
}

#[test]
fn two_guests_reach_each_other_by_name() {
    whole_system(|| {
        let stage = stage()?;
        let world = &stage.world;
        let (dev, dev_address) = world.boot("dev", &[])?;
        let (other, other_address) = world.boot("other", &[])?;
        ensure!(
            other_address == Ipv4Addr::new(192, 168, 130, 7),
            "{other_address}"
        );
        ensure!(dev_address != other_address, "one address for two guests");
        for (guest, name, page) in [
            (&dev, "other.test", "Hello from other"),
            (&other, "local.test", "Hello from dev"),
        ] {
            guest.ok(&format!("ping -c 1 -W 5 {name}"))?;
            let seen = guest.ok(&format!("wget -q -O - http://{name}/"))?;
            ensure!(seen == page, "{name}: {seen}");
        }
        Ok(())
    });
}

#[test]
fn netd_killed_and_started_again_is_a_pause_for_the_guest() {
    whole_system(|| {
        let mut stage = stage()?;
        let (guest, address) = stage.world.boot("dev", &[])?;
        works(&stage, &guest)?;
        stage.world.crash(Kind::Netd)?;
        // Connections are lost, which lived in netd; link, lease, names and ports come back.
        retry("the guest's network is back", SOON, || {
            works(&stage, &guest)
        })?;
        ensure!(guest.address(SOON)? == address, "another address");
        let renewed = guest.ok(
            "n=$(grep -c '^renew' /run/dhcp.events); kill -USR1 $(cat /run/udhcpc.pid); for i in $(seq 100); do \
             [ $(grep -c '^renew' /run/dhcp.events) -gt $n ] && break; sleep 0.2; done; tail -n 1 /run/dhcp.events",
        )?;
        ensure!(
            renewed.starts_with(&format!("renew {address}")),
            "{renewed}"
        );
        Ok(())
    });
}

#[test]
fn a_name_is_in_the_hosts_file_and_ports_come_and_go_at_run_time() {
    whole_system(|| {
        let mut stage = stage()?;
        let world = &mut stage.world;
        world.start(Kind::Hostsync)?;
        let own = host_address(world, "dev")?;
        let line = wait_for("local.test in the hosts file", SOON, || {
            let text = std::fs::read_to_string(world.path("hosts"))?;
            Ok(text
                .lines()
                .find(|line| line.contains("local.test"))
                .map(str::to_owned))
        })?;
        ensure!(line.starts_with(&own.to_string()), "{line}");

        let (_guest, _) = world.boot("dev", &[])?;
        let port = http::free_port(18_099)?;
        let spec = format!("{port}:80");
        world
            .sharectl(&["port", "publish", "dev", &spec, "--wait=20s"])?
            .success()?;
        let page = http::get((own, port).into(), "/", SOON)?;
        ensure!(page.body == "Hello from dev\n", "{page:?}");
        world
            .sharectl(&["port", "unpublish", "dev", &spec])?
            .success()?;
        ensure!(
            std::net::TcpStream::connect((own, port)).is_err(),
            "the port is still there"
        );
        world.crash(Kind::Hostsync)?;
        let text = std::fs::read_to_string(world.path("hosts"))?;
        ensure!(
            text.contains("local.test") && text.starts_with("127.0.0.1 localhost\n"),
            "{text}"
        );
        Ok(())
    });
}
