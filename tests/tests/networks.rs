//! Kinds of networks: bridged to a LAN with a DHCP server of its own, the host's tap, host-only, and what
//! happens when the host's own network changes under them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use tests::command::Output;
use tests::daemons::{Kind, World};
use tests::http::Server;
use tests::limit::{retry, wait_for};
use tests::netns::Netns;
use tests::outside::{HOST, Outside, SERVER};
use tests::{Context, Result, bail, command, ensure, guest, programs, whole_system};

const SOON: Duration = Duration::from_secs(20);
const BRIDGED: &str = r#"
[network.vmnet0]
type = "bridged"
interface = "out0"

[guest.dev]
names = ["local.test"]
publish = ["8080:80"]

[guest.web]
"#;
const NAT: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
publish = ["8080:80"]

[guest.web]
"#;

/// Bytes of one transfer: many of the largest frames, and an end that fills none.
const BYTES: usize = (24 << 20) + 4711;

fn pattern() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..BYTES).map(|_| next()).collect()
}

/// A listener in one namespace, a client in another, and the same bytes both ways at once.
fn transfers(client: &Netns, server: &Netns, address: Ipv4Addr) -> Result<()> {
    let listener = server.within(|| Ok(TcpListener::bind((address, 0))?))?;
    let port = listener.local_addr()?.port();
    let bytes = pattern();
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| -> Result<()> {
            let (stream, _) = listener.accept()?;
            both_ways(&stream, &bytes)
        });
        let to = SocketAddr::from((address, port));
        let stream = client
            .within(|| Ok(TcpStream::connect_timeout(&to, SOON)?))
            .with_context(|| format!("connect to {to}"));
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // The listener's thread must end too.
                drop(TcpStream::connect(to));
                server.within(|| {
                    drop(TcpStream::connect(to));
                    Ok(())
                })?;
                return Err(error);
            }
        };
        both_ways(&stream, &bytes).context("client's side")?;
        echo.join()
            .unwrap_or_else(|_| bail!("the server panicked"))
            .context("server's side")
    })
}

fn both_ways(stream: &TcpStream, bytes: &[u8]) -> Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            let mut to = stream;
            to.write_all(bytes)?;
            Ok(stream.shutdown(std::net::Shutdown::Write)?)
        });
        let mut seen = Vec::with_capacity(bytes.len());
        let mut from = stream;
        from.read_to_end(&mut seen)?;
        sender
            .join()
            .unwrap_or_else(|_| bail!("the sender panicked"))?;
        ensure!(seen.len() == bytes.len(), "{} bytes came", seen.len());
        ensure!(seen == bytes, "bytes changed on the way");
        Ok(())
    })
}

/// `sharectl` as root in the namespace that is the host, as with sudo.
fn as_root(world: &World, host: &Netns, arguments: &[&str]) -> Result<Output> {
    let mut line = host.command(programs::folder()?.join("sharectl"));
    world.environment(&mut line);
    command::output(line.args(arguments), SOON)
}

fn problems(world: &World) -> Result<String> {
    Ok(world.get(Kind::Netd, "/v1/status")?["problems"].to_string())
}

/// Waits until netd has nothing to complain about.
fn is_well(world: &World) -> Result<()> {
    retry("no problems", SOON, || {
        let problems = problems(world)?;
        ensure!(problems == "[]", "{problems}");
        Ok(())
    })
}

/// The LAN's own DHCP server, in the namespace beyond the host. It dies with the namespace.
fn dhcp_server(world: &World, lan: &Netns) -> Result<Child> {
    let leases = world.path("dnsmasq.leases");
    let child = lan
        .command("dnsmasq")
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
        .args(["--interface=in0", "--bind-interfaces", "--user=root"])
        .args(["--dhcp-range=192.0.2.100,192.0.2.150,255.255.255.0,1h"])
        .args(["--dhcp-authoritative", "--no-ping", "--pid-file="])
        .arg(format!("--dhcp-leasefile={}", leases.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(child)
}

fn bridged() -> Result<(Outside, World, Child)> {
    let outside = Outside::new()?;
    let mut world = World::new(BRIDGED)?.inside(&outside.host);
    world.start(Kind::Netd)?;
    let server = dhcp_server(&world, &outside.server)?;
    Ok((outside, world, server))
}

fn address_of(world: &World, guest: &str) -> Result<Ipv4Addr> {
    let status = world.get(Kind::Netd, &format!("/v1/guests/{guest}"))?;
    let address = status["address"].as_str().context("no address yet")?;
    Ok(address.parse()?)
}

#[test]
fn guests_of_a_bridged_network_are_stations_of_the_lan() {
    whole_system(|| {
        let (outside, world, _server) = bridged()?;
        let (host, lan) = (&outside.host, &outside.server);
        let missing = wait_for("the missing right", SOON, || {
            Ok(Some(problems(&world)?).filter(|text| text.contains("out0")))
        })?;
        ensure!(
            missing.contains("setcap cap_net_raw+ep")
                && missing.contains("network bridge-socket vmnet0"),
            "{missing}"
        );
        as_root(&world, host, &["network", "bridge-socket", "vmnet0"])?.success()?;
        is_well(&world)?;

        let dev = world.tap_guest("dev")?;
        let address = retry("the lease to be seen", SOON, || address_of(&world, "dev"))?;
        ensure!(
            (100..=150).contains(&address.octets()[3]),
            "{address} is not the LAN's"
        );
        dev.run(&format!(
            "ip -4 -o address show dev tap0 | grep -w {address}"
        ))?;
        let status = world.get(Kind::Netd, "/v1/guests/dev")?;
        ensure!(status["lease_until"].is_string(), "{status}");

        // Both ways between guest and LAN, then guest and guest, then guest and the host itself.
        transfers(&dev, lan, SERVER).context("guest to LAN")?;
        transfers(lan, &dev, address).context("LAN to guest")?;
        let web = world.tap_guest("web")?;
        let other = retry("the other lease", SOON, || address_of(&world, "web"))?;
        ensure!(other != address, "one address for two guests");
        transfers(&dev, &web, other).context("guest to guest")?;
        transfers(&dev, host, HOST).context("guest to host")?;
        dev.run(&format!("ping -c 1 -W 5 {HOST} && ping -c 1 -W 5 {SERVER}"))?;

        // From the host its published port leads there.
        let own = world.get(Kind::Netd, "/v1/guests/dev")?["host_address"]
            .as_str()
            .context("no address of its own")?
            .to_owned();
        let _web = dev
            .command("busybox")
            .args(["httpd", "-f", "-p", "80", "-h", "/etc/netns"])
            .spawn()?;
        retry("the published port", SOON, || {
            let code = host.run(&format!(
                "curl -sS --max-time 5 -o /dev/null -w '%{{http_code}}' http://{own}:8080/"
            ))?;
            ensure!(code == "404", "{code}");
            Ok(())
        })
    });
}

#[test]
fn a_bridged_network_follows_its_interface() {
    whole_system(|| {
        let (outside, world, _server) = bridged()?;
        let (host, lan) = (&outside.host, &outside.server);
        as_root(&world, host, &["network", "bridge-socket", "vmnet0"])?.success()?;
        is_well(&world)?;
        let dev = world.tap_guest("dev")?;
        host.run("ip link set out0 down")?;
        let down = wait_for("a word about the interface", SOON, || {
            Ok(Some(problems(&world)?).filter(|text| text.contains("is down")))
        })?;
        ensure!(down.contains("sudo ip link set out0 up"), "{down}");
        host.run("ip link set out0 up")?;
        is_well(&world)?;
        retry("the LAN", SOON, || {
            dev.run(&format!("ping -c 1 -W 1 {SERVER}"))
        })?;
        // Another interface of the same name, and another address of the host.
        host.run("ip link delete out0")?;
        wait_for("a word about the interface", SOON, || {
            Ok(problems(&world)?
                .contains("no interface out0")
                .then_some(()))
        })?;
        host.join(
            ("out0", "192.0.2.9/24"),
            lan,
            ("in0", &format!("{SERVER}/24")),
        )?;
        is_well(&world)?;
        // The LAN's end has another Ethernet address too, which a real router would announce.
        dev.run("ip neighbour flush dev tap0")?;
        retry("the LAN and the host", SOON, || {
            dev.run(&format!(
                "ping -c 1 -W 1 {SERVER} && ping -c 1 -W 1 192.0.2.9"
            ))
        })?;
        Ok(())
    });
}

#[test]
fn a_qemu_guest_on_a_bridged_network_has_a_lease_of_the_lan() {
    whole_system(|| {
        let (outside, world, _server) = bridged()?;
        as_root(
            &world,
            &outside.host,
            &["network", "bridge-socket", "vmnet0"],
        )?
        .success()?;
        is_well(&world)?;
        let (guest, address) = world.boot("dev", &[])?;
        ensure!((100..=150).contains(&address.octets()[3]), "{address}");
        retry("the lease to be seen", SOON, || {
            ensure!(address_of(&world, "dev")? == address, "another one");
            Ok(())
        })?;
        let page = outside
            .server
            .within(|| Server::start(SERVER.into(), "the LAN's page"))?;
        let seen = guest.ok(&format!("wget -q -O - http://{}/", page.address()))?;
        ensure!(seen == "the LAN's page", "{seen}");
        retry("the guest from the LAN", SOON, || {
            outside.server.run(&format!("ping -c 1 -W 2 {address}"))
        })?;
        Ok(())
    });
}

/// /dev/net/tun as udev makes it, for as long as this lives.
struct OpenTun(std::fs::Permissions);

const TUN: &str = "/dev/net/tun";

impl OpenTun {
    fn new() -> Result<Self> {
        let before = std::fs::metadata(TUN)?.permissions();
        std::fs::set_permissions(TUN, std::fs::Permissions::from_mode(0o666))?;
        Ok(Self(before))
    }
}

impl Drop for OpenTun {
    fn drop(&mut self) {
        drop(std::fs::set_permissions(TUN, self.0.clone()));
    }
}

#[test]
fn a_guest_answers_at_its_own_address_from_the_host_with_a_tap() {
    whole_system(|| {
        let outside = Outside::new()?;
        let host = &outside.host;
        let _tun = OpenTun::new()?;
        let config = NAT.replace("type = \"nat\"", "type = \"nat\"\nhost-access = \"tap\"");
        let mut world = World::new(&config)?.inside(host);
        world.start(Kind::Netd)?;
        let missing = wait_for("the missing tap", SOON, || {
            Ok(Some(problems(&world)?).filter(|text| text.contains("no tap vmnet8")))
        })?;
        ensure!(
            missing.contains("network host-tap create vmnet8"),
            "{missing}"
        );
        let owner = world.user().uid.to_string();
        let create = ["network", "host-tap", "create", "vmnet8", "--owner", &owner];
        as_root(&world, host, &create)?.success()?;
        is_well(&world)?;
        // Again, while netd has it open: what is there is put right.
        host.run("ip address flush dev vmnet8")?;
        wait_for("a word about the address", SOON, || {
            Ok(problems(&world)?.contains("192.168.130.253").then_some(()))
        })?;
        as_root(&world, host, &create)?.success()?;
        is_well(&world)?;

        let dev = world.tap_guest("dev")?;
        let address = address_of(&world, "dev")?;
        let on_host = Ipv4Addr::new(192, 168, 130, 253);
        transfers(host, &dev, address).context("host to guest")?;
        transfers(&dev, host, on_host).context("guest to host")?;
        host.run(&format!("ping -c 1 -W 5 {address}"))?;
        // A guest that takes the host's address gets none of its traffic.
        dev.run(&format!(
            "ip address add {on_host}/32 dev tap0; \
             busybox arping -c 2 -A -I tap0 {on_host}; \
             ip address delete {on_host}/32 dev tap0"
        ))?;
        transfers(host, &dev, address).context("after a spoof")?;
        let spoofed = world.get(Kind::Netd, "/v1/guests/dev")?["links"][0]["dropped_frames"]
            .as_u64()
            .context("no counter")?;
        ensure!(
            spoofed > 0,
            "a guest spoke as the host and nobody counted it"
        );

        as_root(&world, host, &["network", "host-tap", "rm", "vmnet8"])?.success()?;
        wait_for("a word about the tap", SOON, || {
            Ok(problems(&world)?.contains("no tap vmnet8").then_some(()))
        })?;
        Ok(())
    });
}

#[test]
fn nothing_leaves_a_host_only_network_not_even_a_name() {
    whole_system(|| {
        let outside = Outside::new()?;
        let host = &outside.host;
        let text = NAT
            .replace("vmnet8", "vmnet1")
            .replace("\"nat\"", "\"host-only\"");
        host.set_resolv_conf(&format!("nameserver {SERVER}\n"))?;
        // What arrives outside, of any kind.
        let names = outside
            .server
            .within(|| Ok(UdpSocket::bind((SERVER, 53))?))?;
        let web = outside.listen(80)?;
        web.set_nonblocking(true)?;
        let mut world = World::new(&text)?.inside(host);
        world.start(Kind::Netd)?;
        let dev = world.tap_guest("dev")?;
        let other = world.tap_guest("web")?;
        let neighbour = address_of(&world, "web")?;
        dev.run(&format!("ping -c 1 -W 5 {neighbour}"))?;
        drop(other);
        let inside = host.within(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?))?;
        let port = inside.local_addr()?.port();
        let host_internal = SocketAddr::from(([192, 168, 130, 254], port));
        dev.within(|| {
            drop(TcpStream::connect_timeout(&host_internal, SOON)?);
            Ok(())
        })?;

        dev.run("ip route replace default via 192.168.130.1")?;
        let to = SocketAddr::from((SERVER, 80));
        let refused = dev.within(|| Ok(TcpStream::connect_timeout(&to, SOON).is_err()))?;
        ensure!(refused, "the guest reached the outside by TCP");
        dev.within(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            // Refused at once, or later by ICMP: neither is an answer.
            drop(socket.send_to(b"leak", (SERVER, 53)));
            Ok(())
        })?;
        let own = dev.run("busybox nslookup dev.test 192.168.130.1")?;
        ensure!(own.contains("192.168.130."), "{own}");
        for kind in ["", "-type=txt "] {
            let line = format!("busybox nslookup {kind}secret.example 192.168.130.1 2>&1; true");
            let said = dev.run(&line)?;
            ensure!(said.contains("REFUSED"), "{said}");
        }
        ensure!(
            !dev.output(SOON, &format!("ping -c 1 -W 1 {SERVER}"))?
                .status
                .success(),
            "the guest pinged the outside"
        );
        names.set_nonblocking(true)?;
        let mut buffer = [0; 512];
        ensure!(names.recv_from(&mut buffer).is_err(), "a name leaked");
        ensure!(web.accept().is_err(), "a connection leaked");
        Ok(())
    });
}

#[test]
fn a_clash_that_comes_while_netd_runs_is_told_and_renumbering_ends_it() {
    whole_system(|| {
        let outside = Outside::new()?;
        let host = &outside.host;
        let mut world = World::new(NAT)?.inside(host);
        world.start(Kind::Netd)?;
        let dev = world.tap_guest("dev")?;
        let before = address_of(&world, "dev")?;
        is_well(&world)?;
        host.run(
            "ip link add vpn0 type veth peer name vpn1 && ip link set vpn0 up && \
             ip link set vpn1 up && ip address add 172.30.0.1/30 dev vpn0 && \
             ip route add 192.168.128.0/18 dev vpn0",
        )?;
        let told = wait_for("the clash", SOON, || {
            Ok(Some(problems(&world)?).filter(|text| text.contains("vpn0")))
        })?;
        ensure!(told.contains("sharectl network renumber vmnet8"), "{told}");
        let events = world.sharectl(&["events", "netd"])?.success()?;
        ensure!(events.contains("subnet-clash"), "{events}");
        let doctor = world.sharectl(&["doctor"])?;
        ensure!(
            doctor.stdout.contains("192.168.128.0/18"),
            "{}",
            doctor.stdout
        );

        world
            .sharectl(&["network", "renumber", "vmnet8"])?
            .success()?;
        is_well(&world)?;
        let script = guest::dhcp_script()?;
        // The same link and the same guest, which asks again.
        dev.run(&format!(
            "ip address flush dev tap0 && udhcpc -i tap0 -n -q -f -t 5 -T 1 -s {}",
            script.display()
        ))?;
        let after = address_of(&world, "dev")?;
        ensure!(
            after.octets()[3] == before.octets()[3] && after.octets()[..3] != before.octets()[..3],
            "{before} became {after}"
        );
        ensure!(!Ipv4Addr::is_loopback(&after), "{after}");
        let _web = dev
            .command("busybox")
            .args(["httpd", "-f", "-p", "80", "-h", "/etc/netns"])
            .spawn()?;
        let own = world.get(Kind::Netd, "/v1/guests/dev")?["host_address"]
            .as_str()
            .context("no address of its own")?
            .to_owned();
        retry("the published port", SOON, || {
            let code = host.run(&format!(
                "curl -sS --max-time 5 -o /dev/null -w '%{{http_code}}' http://{own}:8080/"
            ))?;
            ensure!(code == "404", "{code}");
            Ok(())
        })?;
        let echo = outside.echo()?;
        dev.within(|| {
            let stream = TcpStream::connect_timeout(&echo, SOON)?;
            tests::outside::carries(&stream, &stream, b"from the new subnet")
        })?;
        host.run("ip link delete vpn0")?;
        Ok(())
    });
}

#[test]
fn a_long_lived_connection_survives_a_renewed_lease_and_changes_of_the_hosts_network() {
    whole_system(|| {
        let outside = Outside::new()?;
        let host = &outside.host;
        let mut world = World::new(NAT)?.inside(host);
        world.start(Kind::Netd)?;
        let dev = world.tap_guest("dev")?;
        let echo = outside.echo()?;
        let stream = dev.within(|| Ok(TcpStream::connect_timeout(&echo, SOON)?))?;
        stream.set_read_timeout(Some(SOON))?;
        let script = guest::dhcp_script()?;
        for change in [
            "ip address add 198.18.7.1/24 dev out0",
            "ip address delete 198.18.7.1/24 dev out0",
            "ip link add vpn0 type veth peer name vpn1 && ip link set vpn0 up",
            "ip route add 10.0.0.0/8 dev vpn0",
            "ip link delete vpn0",
        ] {
            host.run(change)?;
            tests::outside::carries(&stream, &stream, change.as_bytes()).context(change)?;
        }
        dev.run(&format!(
            "udhcpc -i tap0 -n -q -f -t 5 -T 1 -s {}",
            script.display()
        ))?;
        tests::outside::carries(&stream, &stream, b"after the renewal")?;
        // The configuration is read again with other settings of the same subnet.
        world.set_config(&NAT.replace("[guest.web]", "[guest.web]\nnames = [\"x.test\"]"))?;
        let answer = world.ask(
            Kind::Netd,
            "POST",
            "/v1/reload",
            Some(&serde_json::Value::Null),
        )?;
        ensure!(answer.status == 200, "{answer:?}");
        tests::outside::carries(&stream, &stream, b"after the reload")
    });
}
