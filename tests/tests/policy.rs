//! Egress policy and rate limits as a guest's kernel sees them: a namespace on a tap, real servers and a
//! real name server in another one.

use std::io::{Read, Write};
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::limit::{now, retry, wait_for};
use tests::netns::Netns;
use tests::outside::{Outside, SERVER};
use tests::{Context, Result, ensure, whole_system};

const SOON: Duration = Duration::from_secs(20);
const GATEWAY: &str = "192.168.130.1";

fn config(network: &str, guest: &str) -> String {
    format!(
        "[network.vmnet8]\ntype = \"nat\"\nsubnet = \"192.168.130.0/24\"\ndns = [\"{SERVER}:53\"]\n{network}\n\
         [guest.dev]\npublish = [\"192.0.2.1:7000:7000\"]\n{guest}\n[guest.other]\n"
    )
}

/// A name server outside: two names for the server, one behind an alias.
fn name_server(outside: &Outside) -> Result<std::process::Child> {
    let child = outside
        .server
        .command("dnsmasq")
        .args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
        ])
        .args([
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
            "--local-ttl=5",
        ])
        .arg(format!("--listen-address={SERVER}"))
        .arg(format!("--host-record=lb.cdn.example,{SERVER}"))
        .arg(format!("--host-record=evil.example,{SERVER}"))
        .arg("--cname=good.example,lb.cdn.example")
        .spawn()?;
    Ok(child)
}

fn web(outside: &Outside, port: u16) -> Result<std::process::Child> {
    Ok(outside
        .server
        .command("busybox")
        .args(["httpd", "-f", "-p", &port.to_string(), "-h", "/etc/netns"])
        .spawn()?)
}

/// What curl's exit status says: 0 fine, 6 no such name, 7 refused or unreachable, 28 no answer in time.
fn curl(guest: &Netns, url: &str) -> Result<i32> {
    let line = format!("curl -sS --max-time 8 -o /dev/null http://{url}/; echo $?");
    let said = guest.output(SOON, &line)?.success()?;
    Ok(said.trim().parse()?)
}

fn events(world: &World) -> Result<String> {
    Ok(world
        .sharectl(&["events", "netd", "--format", "json"])?
        .stdout)
}

#[test]
fn a_sandbox_reaches_the_name_it_is_allowed_and_nothing_else() {
    whole_system(|| {
        let outside = Outside::new()?;
        let rules = "egress = \"deny\"\negress-rules = [\"allow good.example:8080/tcp\"]";
        let mut world = World::new(&config("", rules))?.inside(&outside.host);
        world.start(Kind::Netd)?;
        let _names = name_server(&outside)?;
        let _servers = [web(&outside, 8080)?, web(&outside, 8081)?];
        let dev = world.tap_guest("dev")?;
        let other = world.tap_guest("other")?;
        for guest in [&dev, &other] {
            guest.set_resolv_conf(&format!("nameserver {GATEWAY}\n"))?;
        }
        retry("the servers", SOON, || {
            ensure!(curl(&other, "good.example:8080")? == 0, "not there yet");
            Ok(())
        })?;
        // What another guest asked opens nothing here.
        ensure!(
            curl(&dev, &format!("{SERVER}:8080"))? == 7,
            "the address alone"
        );
        // The first try after the question passes: what the answer says holds before it arrives.
        ensure!(curl(&dev, "good.example:8080")? == 0, "the allowed name");
        ensure!(curl(&dev, &format!("{SERVER}:8080"))? == 0, "its address");
        ensure!(curl(&dev, "good.example:8081")? == 7, "another port");
        ensure!(curl(&dev, "evil.example:8080")? == 6, "another name");
        ensure!(curl(&dev, "host.internal:8080")? == 7, "the host");
        let asked = dev.run(&format!(
            "busybox nslookup -type=a secret.evil.example {GATEWAY} 2>&1 || true"
        ))?;
        ensure!(asked.contains("REFUSED"), "{asked}");
        let ping = dev.run(&format!("ping -c 1 -W 3 {SERVER} 2>&1 || true"))?;
        ensure!(ping.contains("filtered"), "{ping}");
        // Neighbours are not the gateway's business.
        let address = world.get(Kind::Netd, "/v1/guests/other")?["address"].clone();
        let address = address.as_str().context("no address")?;
        dev.run(&format!("ping -c 1 -W 3 {address}"))?;
        // DNS over TCP obeys the same rules and teaches the same.
        for (name, expected) in [("good.example", "192.0.2.2"), ("evil.example", "REFUSED")] {
            let answer = dev.run(&format!("dig +tcp +tries=1 {name} @{GATEWAY} 2>&1"))?;
            ensure!(answer.contains(expected), "{answer}");
        }
        let events = events(&world)?;
        ensure!(events.contains("flow-refused"), "{events}");
        ensure!(
            events.contains("guest dev has egress = \\\"deny\\\""),
            "{events}"
        );
        let metrics = world.ask(Kind::Netd, "GET", "/metrics", None)?.body;
        let counted = metrics.lines().any(|line| {
            line.starts_with("sharectl_netd_link_refused_policy_total")
                && line.contains("guest=\"dev\"")
                && !line.ends_with(" 0")
        });
        ensure!(counted, "{metrics}");
        for (flow, exit, part) in [
            ("good.example:8080", 0, "allow good.example:8080/tcp"),
            ("evil.example:8080", 1, "does not resolve"),
            ("192.0.2.2:9/udp", 1, "egress = \"deny\""),
            ("192.0.2.2/icmp", 1, "egress = \"deny\""),
            ("host:22", 1, "egress = \"deny\""),
            ("192.168.130.1:53/udp", 0, "a service of the gateway"),
        ] {
            let answer = world.sharectl(&["network", "policy", "dev", flow])?;
            ensure!(
                answer.status.code() == Some(exit) && answer.stdout.contains(part),
                "{flow}: {answer:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn the_same_rules_hold_over_ipv6() {
    whole_system(|| {
        let outside = Outside::new()?;
        outside
            .host
            .run("ip address add 2001:db8:1::1/64 dev out0 nodad")?;
        outside
            .server
            .run("ip address add 2001:db8:1::2/64 dev in0 nodad")?;
        let rules = "address = \"192.168.130.5\"\negress-rules = [\"deny [2001:db8:1::/64]:8081\", \
                     \"deny 2001:db8:1::2/udp\", \"deny ::/0/icmp\", \"deny host\"]";
        let network = "ipv6 = \"fd00:8::/64\"";
        let mut world = World::new(&config(network, rules))?.inside(&outside.host);
        world.start(Kind::Netd)?;
        let server = |port: u16| {
            let bound = outside
                .server
                .within(move || Ok(std::net::TcpListener::bind(("2001:db8:1::2", port))?));
            bound.context("listen")
        };
        let _listeners = [server(8080)?, server(8081)?];
        let dev = world.tap_guest("dev")?;
        dev.run(
            "ip address add fd00:8::c0a8:8205/64 dev tap0 nodad && \
             ip -6 route replace default via fd00:8::1 dev tap0 metric 1",
        )?;
        let connect = |to: &'static str| {
            dev.within(move || {
                let to = to.parse()?;
                let outcome = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(5));
                Ok(outcome.err().map(|error| error.kind()))
            })
        };
        let refused = Some(std::io::ErrorKind::ConnectionRefused);
        ensure!(
            connect("[2001:db8:1::2]:8080")?.is_none(),
            "what no rule names"
        );
        ensure!(connect("[2001:db8:1::2]:8081")? == refused, "a denied port");
        ensure!(connect("[fd00:8::2]:8080")? == refused, "the host");
        // Administratively prohibited is EACCES for ICMPv6 (RFC 4443, icmp6 code 1).
        let datagram = dev.within(|| {
            let socket = std::net::UdpSocket::bind("[::]:0")?;
            socket.connect("[2001:db8:1::2]:9")?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.send(b"x")?;
            let outcome = socket.recv(&mut [0; 8]);
            Ok(outcome.err().and_then(|error| error.raw_os_error()))
        })?;
        ensure!(datagram == Some(13), "EACCES expected: {datagram:?}");
        let ping = dev.run("ping -6 -c 1 -W 3 2001:db8:1::2 2>&1 || true")?;
        ensure!(ping.contains("prohibited"), "{ping}");
        Ok(())
    });
}

#[test]
fn new_rules_end_what_they_forbid_and_leave_the_rest() {
    whole_system(|| {
        let outside = Outside::new()?;
        let mut world = World::new(&config("", ""))?.inside(&outside.host);
        world.start(Kind::Netd)?;
        let (one, two) = (outside.echo()?, outside.echo()?);
        let who = outside.who()?;
        let dev = world.tap_guest("dev")?;
        let connect = |to| dev.within(move || Ok(std::net::TcpStream::connect(to)?));
        let (mut kept, mut ended) = (connect(one)?, connect(two)?);
        let socket = dev.within(|| Ok(std::net::UdpSocket::bind("0.0.0.0:0")?))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut buffer = [0; 64];
        socket.send_to(b"who", who)?;
        socket.recv_from(&mut buffer)?;
        for stream in [&mut kept, &mut ended] {
            stream.set_read_timeout(Some(SOON))?;
            stream.write_all(b"a")?;
            stream.read_exact(&mut buffer[..1])?;
        }
        let listener = dev.within(|| Ok(std::net::TcpListener::bind("0.0.0.0:7000")?))?;
        let rules = format!(
            "egress-rules = [\"deny {SERVER}:{}/tcp\", \"deny {SERVER}/udp\"]",
            two.port()
        );
        world.set_config(&config(&rules, ""))?;
        world.ask(Kind::Netd, "POST", "/v1/reload", None)?;
        let end = ended.read(&mut buffer).err().map(|error| error.kind());
        ensure!(end == Some(std::io::ErrorKind::ConnectionReset), "{end:?}");
        kept.write_all(b"b")?;
        kept.read_exact(&mut buffer[..1])?;
        ensure!(connect(two).is_err(), "a new one");
        // Unreachable by prohibition comes back as an error of the socket.
        let refused = dev.within(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(who)?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.send(b"who")?;
            Ok(socket
                .recv(&mut [0; 64])
                .err()
                .and_then(|error| error.raw_os_error()))
        })?;
        ensure!(refused == Some(113), "EHOSTUNREACH expected: {refused:?}");
        // A published port is no business of egress rules.
        // The port opens when netd has seen that the guest serves it.
        let client = retry("the published port", SOON, || {
            outside
                .server
                .within(|| Ok(std::net::TcpStream::connect("192.0.2.1:7000")?))
        })?;
        let (accepted, _) = listener.accept()?;
        tests::outside::carries(&client, &accepted, b"in")?;
        tests::outside::carries(&accepted, &client, b"out")?;
        let events = events(&world)?;
        ensure!(
            events.contains(&format!("deny {SERVER}:{}/tcp", two.port())),
            "{events}"
        );
        Ok(())
    });
}

/// Bits a second that iperf3 saw arrive.
fn iperf(from: &Netns, arguments: &str) -> Result<f64> {
    let line = format!("iperf3 -J -c {SERVER} {arguments}");
    let answer = retry("iperf3's server", SOON, || {
        from.output(Duration::from_secs(30), &line)?.success()
    })?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    let end = &answer["end"];
    end["sum_received"]["bits_per_second"]
        .as_f64()
        .or_else(|| end["sum"]["bits_per_second"].as_f64())
        .context("no result")
}

#[test]
fn a_rate_limit_is_kept_both_ways_and_is_the_guests_own() {
    whole_system(|| {
        let outside = Outside::new()?;
        let limit = "rate-limit = { up = \"20Mbit/s\", down = \"40Mbit/s\" }";
        let mut world = World::new(&config("", limit))?.inside(&outside.host);
        world.start(Kind::Netd)?;
        let dev = world.tap_guest("dev")?;
        let other = world.tap_guest("other")?;
        let _servers = ["5201", "5202"].map(|port| {
            outside
                .server
                .command("iperf3")
                .args(["-s", "-p", port])
                .stdout(std::process::Stdio::null())
                .spawn()
        });
        for (arguments, rate) in [
            ("-t 4 -O 1", 20e6),
            ("-t 4 -O 1 -R", 40e6),
            ("-t 4 -O 1 -P 4", 20e6),
        ] {
            // A netd that gets no processor for a while sends less; more it never does.
            let seen = retry(arguments, Duration::from_secs(40), || {
                let seen = iperf(&dev, arguments)?;
                println!("{arguments}: {:.2} Mbit/s of {:.0}", seen / 1e6, rate / 1e6);
                ensure!(seen > 0.95 * rate, "{arguments}: {seen}");
                Ok(seen)
            })?;
            ensure!(seen < 1.05 * rate, "{arguments}: {seen}");
        }
        // While one is held back the other is not.
        let slow = dev
            .command("iperf3")
            .args(["-c", &SERVER.to_string(), "-t", "30"])
            .stdout(std::process::Stdio::null())
            .spawn()?;
        let fast = iperf(&other, "-t 2 -p 5202")?;
        println!("the other guest: {:.0} Mbit/s", fast / 1e6);
        // Three times what the first is held to.
        ensure!(fast > 60e6, "{fast}");
        dev.run(&format!("kill {}", slow.id()))?;
        let before = now();
        let udp = retry("the server to be free", SOON, || {
            iperf(&dev, "-t 3 -u -b 60M -l 1200")
        })?;
        ensure!(before.elapsed() < Duration::from_secs(30), "too slow");
        println!("UDP: {:.2} Mbit/s of 20", udp / 1e6);
        let events = wait_for("the event", SOON, || {
            Ok(Some(events(&world)?).filter(|events| events.contains("guest-limited")))
        })?;
        ensure!(events.contains("\"guest\":\"dev\""), "{events}");
        Ok(())
    });
}
