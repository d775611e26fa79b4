//! A network namespace as a guest, by a tap: the kernel's own TCP stack at full speed, and DHCP
//! clients of three kinds.

use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest;
use tests::limit::{retry, wait_for};
use tests::netns::Netns;
use tests::outside::{Outside, SERVER};
use tests::{Context, Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
names = ["local.test"]
publish = ["8080:80", "192.0.2.1:5201:5201"]
"#;

const SOON: Duration = Duration::from_secs(20);

fn world(outside: &Outside) -> Result<World> {
    let mut world = World::new(CONFIG)?.inside(&outside.host);
    world.start(Kind::Netd)?;
    Ok(world)
}

/// Its address, when it has one.
fn address(namespace: &Netns) -> Result<Option<String>> {
    let shell = "ip -4 -o address show dev tap0 scope global | sed 's/.* inet //; s/[/ ].*//'";
    Ok(namespace.run(shell)?.lines().next().map(str::to_owned))
}

/// What netd says the guest's lease is.
fn leased(world: &World) -> Result<Option<String>> {
    let status = world.get(Kind::Netd, "/v1/guests/dev")?;
    Ok(status["lease_until"].as_str().map(str::to_owned))
}

#[test]
fn curl_crosses_the_nat_both_ways() {
    whole_system(|| {
        let outside = Outside::new()?;
        let world = world(&outside)?;
        let guest = world.tap_guest("dev")?;
        let _server = outside
            .server
            .command("busybox")
            .args(["httpd", "-f", "-p", "80", "-h", "/etc/netns"])
            .spawn()?;
        let size = guest.run(&format!(
            "curl -sS --retry 20 --retry-connrefused --retry-delay 1 --max-time 20 -o /dev/null \
             -w '%{{http_code}}' http://{SERVER}/"
        ))?;
        ensure!(size == "404", "{size}");
        let _web = guest
            .command("busybox")
            .args(["httpd", "-f", "-p", "80", "-h", "/etc/netns"])
            .spawn()?;
        let own = world.get(Kind::Netd, "/v1/guests/dev")?["host_address"]
            .as_str()
            .context("no address")?
            .to_owned();
        retry("the published port", SOON, || {
            let code = outside.host.run(&format!(
                "curl -sS --max-time 5 -o /dev/null -w '%{{http_code}}' http://{own}:8080/"
            ))?;
            ensure!(code == "404", "{code}");
            Ok(())
        })
    });
}

#[test]
fn iperf3_runs_both_ways_and_into_a_published_port() {
    whole_system(|| {
        let outside = Outside::new()?;
        let world = world(&outside)?;
        let guest = world.tap_guest("dev")?;
        let _server = outside
            .server
            .command("iperf3")
            .args(["-s", "-p", "5201"])
            .stdout(std::process::Stdio::null())
            .spawn()?;
        let _inner = guest
            .command("iperf3")
            .args(["-s", "-p", "5201"])
            .stdout(std::process::Stdio::null())
            .spawn()?;
        for (from, line) in [
            (&guest, format!("iperf3 -J -t 1 -c {SERVER}")),
            (&guest, format!("iperf3 -J -t 1 -R -c {SERVER}")),
            (&guest, format!("iperf3 -J -t 1 -u -b 50M -c {SERVER}")),
            (&outside.server, "iperf3 -J -t 1 -c 192.0.2.1".to_owned()),
        ] {
            // It says in JSON only that nobody listens yet, and exits with 0.
            retry("iperf3's server", SOON, || {
                let answer: serde_json::Value = serde_json::from_str(&from.run(&line)?)?;
                let end = &answer["end"];
                let received = end["sum_received"]["bytes"]
                    .as_f64()
                    .or_else(|| end["sum"]["bytes"].as_f64());
                ensure!(received > Some(1e6), "{line}: {answer}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// The name that DNS gives the guest, asked as the guest would.
fn resolves(guest: &Netns, address: &str) -> Result<()> {
    let answer = guest.run("busybox nslookup local.test 192.168.130.1")?;
    ensure!(answer.contains(address), "{answer}");
    Ok(())
}

#[test]
fn udhcpc_binds_renews_and_releases() {
    whole_system(|| {
        let outside = Outside::new()?;
        let world = world(&outside)?;
        let guest = Netns::new("dev")?;
        world.attach("dev", &guest)?;
        let events = world.path("udhcpc.events");
        let script = guest::dhcp_script()?;
        let client = guest
            .command("udhcpc")
            .args(["-i", "tap0", "-f", "-R", "-t", "5", "-T", "1", "-s"])
            .arg(script)
            .env("EVENTS", &events)
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let bound = wait_for("an address", SOON, || address(&guest))?;
        resolves(&guest, &bound)?;
        let first = wait_for("the lease", SOON, || leased(&world))?;
        let pid = client.id();
        let count = |what: &str| -> Result<usize> {
            let text = std::fs::read_to_string(&events).unwrap_or_default();
            Ok(text.lines().filter(|line| line.starts_with(what)).count())
        };
        // One after the other: a second signal on the way has it begin anew.
        wait_for("a second of lease time to pass", SOON, || {
            let before = count("renew")?;
            guest.run(&format!("kill -USR1 {pid}"))?;
            wait_for("the renewal", SOON, || {
                Ok((count("renew")? > before).then_some(()))
            })?;
            Ok(leased(&world)?.filter(|now| *now != first))
        })?;
        ensure!(
            address(&guest)?.as_deref() == Some(&bound),
            "another address"
        );
        guest.run(&format!("kill -USR2 {pid}"))?;
        wait_for("the release", SOON, || {
            Ok(leased(&world)?.is_none().then_some(()))
        })?;
        Ok(())
    });
}

#[test]
fn dhclient_binds_renews_and_releases() {
    whole_system(|| {
        let outside = Outside::new()?;
        let world = world(&outside)?;
        let guest = Netns::new("dev")?;
        world.attach("dev", &guest)?;
        let script = world.path("dhclient-script");
        std::fs::write(&script, DHCLIENT_SCRIPT)?;
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let here = world.path("").display().to_string();
        let client = format!(
            "dhclient -4 -1 -sf {} -lf {here}dhclient.leases -pf {here}dhclient.pid tap0",
            script.display()
        );
        guest.run(&client)?;
        let bound = wait_for("an address", SOON, || address(&guest))?;
        resolves(&guest, &bound)?;
        let first = wait_for("the lease", SOON, || leased(&world))?;
        // Its number is written down when it has left the terminal already.
        let pid = format!("{here}dhclient.pid");
        let stop = format!(
            "until [ -s {pid} ]; do sleep 0.05; done; p=$(cat {pid}); kill $p; \
             while [ -e /proc/$p/exe ]; do sleep 0.05; done; rm -f {pid}"
        );
        guest.run(&stop)?;
        // A client that starts with its old lease asks for it again (INIT-REBOOT).
        wait_for("the lease to be renewed", SOON, || {
            guest.run(&format!("{client}; {stop}"))?;
            Ok(leased(&world)?.filter(|now| *now != first))
        })?;
        ensure!(
            address(&guest)?.as_deref() == Some(&bound),
            "another address"
        );
        guest.run(&client.replace("-1 ", "-r "))?;
        wait_for("the release", SOON, || {
            Ok(leased(&world)?.is_none().then_some(()))
        })?;
        Ok(())
    });
}

#[test]
fn dhcpcd_binds_renews_and_releases() {
    whole_system(|| {
        let outside = Outside::new()?;
        let world = world(&outside)?;
        let guest = Netns::new("dev")?;
        world.attach("dev", &guest)?;
        // Its folders are fixed; a private mount of them keeps the host's own dhcpcd out of it.
        let here = world.path("dhcpcd");
        std::fs::create_dir_all(&here)?;
        let conf = world.path("dhcpcd.conf");
        std::fs::write(
            &conf,
            "nohook resolv.conf, hostname, ntp\nipv4only\nnoarp\nnodelay\nnoipv4ll\noption interface_mtu\n",
        )?;
        let private = format!(
            "mkdir -p /var/lib/dhcpcd /run/dhcpcd && mount --bind {0} /var/lib/dhcpcd && mount --bind {0} /run/dhcpcd",
            here.display()
        );
        let client = guest
            .command("sh")
            .args([
                "-c",
                &format!("{private} && exec dhcpcd -B -f {} tap0", conf.display()),
            ])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let bound = wait_for("an address", SOON, || address(&guest))?;
        resolves(&guest, &bound)?;
        let first = wait_for("the lease", SOON, || leased(&world))?;
        // SIGUSR1 renews, SIGALRM releases (dhcpcd(8)).
        wait_for("the lease to be renewed", SOON, || {
            guest.run(&format!("kill -USR1 {}", client.id()))?;
            Ok(leased(&world)?.filter(|now| *now != first))
        })?;
        ensure!(
            address(&guest)?.as_deref() == Some(&bound),
            "another address"
        );
        guest.run(&format!("kill -ALRM {}", client.id()))?;
        wait_for("the release", SOON, || {
            Ok(leased(&world)?.is_none().then_some(()))
        })?;
        Ok(())
    });
}

/// dhclient's own script would write the host's files; this one sets address and route.
const DHCLIENT_SCRIPT: &str = r#"#!/bin/sh
case $reason in
    PREINIT) ip link set dev "$interface" up ;;
    BOUND | RENEW | REBIND | REBOOT)
        ip address replace "$new_ip_address/$new_subnet_mask" dev "$interface"
        ip route replace default via "$new_routers" dev "$interface"
        ;;
    EXPIRE | FAIL | RELEASE | STOP) ip address flush dev "$interface" ;;
esac
exit 0
"#;
