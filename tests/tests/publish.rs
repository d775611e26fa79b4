//! Published ports: they take connections while the guest's port does, on every address that was asked
//! for, as TCP, UDP and unix sockets, and say who is in the way.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::limit::{now, retry, wait_for};
use tests::netns::Netns;
use tests::outside::{HOST, Outside, SERVER, carries};
use tests::{Context, Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
subnet = "192.168.130.0/24"
[network.vmnet8.services]
2376 = "unix:WORLD/echo.sock"
2377 = "127.0.0.2:7900"

[guest.dev]
publish = [
    "192.0.2.1:7000:7000",
    "7002:7002",
    "0.0.0.0:7001:7001/udp",
    ":7003",
    "192.0.2.9:7004:7004",
    "unix:WORLD/shared/http.sock:2375",
]
"#;

const SOON: Duration = Duration::from_secs(10);
const HOST_INTERNAL: Ipv4Addr = Ipv4Addr::new(192, 168, 130, 254);

/// Netd in a host of its own, a server beyond it, a namespace as guest.
struct Stage {
    world: World,
    outside: Outside,
    guest: Netns,
}

impl Stage {
    fn new() -> Result<Self> {
        let outside = Outside::new()?;
        let mut world = World::new("")?.inside(&outside.host);
        let here = world.path("");
        let here = here.to_str().context("a path in UTF-8")?;
        world.set_config(&CONFIG.replace("WORLD", here.trim_end_matches('/')))?;
        world.start(Kind::Netd)?;
        let guest = world.tap_guest("dev")?;
        Ok(Self {
            world,
            outside,
            guest,
        })
    }

    fn serve(&self, port: u16) -> Result<TcpListener> {
        let listener = self
            .guest
            .within(|| Ok(TcpListener::bind(("0.0.0.0", port))?))?;
        Ok(listener)
    }

    /// The entry of `port ls` for a spec that ends so.
    fn entry(&self, spec: &str) -> Result<serde_json::Value> {
        let ports = self.world.get(Kind::Netd, "/v1/ports")?;
        let ports = ports.as_array().context("no list")?;
        let found = ports.iter().find(|port| {
            port["spec"]
                .as_str()
                .is_some_and(|text| text.ends_with(spec))
        });
        found.cloned().with_context(|| format!("no {spec}"))
    }

    /// Waits until netd knows this of the guest's port.
    fn answers(&self, spec: &str, answer: &str) -> Result<()> {
        wait_for(&format!("{spec}: {answer}"), SOON, || {
            let entry = self.entry(spec)?;
            Ok((entry["leads"][0]["answers"] == answer).then_some(()))
        })
    }
}

fn connect(from: &Netns, to: impl Into<SocketAddr>) -> Result<TcpStream> {
    let to = to.into();
    from.within(|| {
        let stream = TcpStream::connect_timeout(&to, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    })
}

/// Why it failed.
fn refusal(from: &Netns, to: impl Into<SocketAddr>) -> Result<ErrorKind> {
    match connect(from, to) {
        Ok(_) => anyhow::bail!("connected"),
        Err(error) => Ok(error
            .downcast_ref::<std::io::Error>()
            .context("another error")?
            .kind()),
    }
}

#[test]
fn a_port_opens_and_closes_with_the_guests_service() {
    whole_system(|| {
        let stage = Stage::new()?;
        let (server, to) = (&stage.outside.server, (HOST, 7000));
        stage.answers("7000:7000", "refuses")?;
        ensure!(refusal(server, to)? == ErrorKind::ConnectionRefused);

        let mut waited = Vec::new();
        for _round in 0..3 {
            let listener = stage.serve(7000)?;
            let begun = now();
            let client = retry("the open port", SOON, || connect(server, to))?;
            waited.push(begun.elapsed());
            let (inner, from) = listener.accept()?;
            ensure!(from == client.local_addr()?, "seen as {from}");
            carries(&client, &inner, b"in")?;
            carries(&inner, &client, b"out")?;
            // Questions are no connections.
            listener.set_nonblocking(true)?;
            let more = listener.accept().map(drop).map_err(|error| error.kind());
            ensure!(more == Err(ErrorKind::WouldBlock), "{more:?}");

            // The service ends: the first client finds out, the next are refused. What stands goes on.
            drop(listener);
            if let Ok(first) = connect(server, to) {
                let seen = (&first).read(&mut [0]).map_err(|error| error.kind());
                ensure!(seen == Err(ErrorKind::ConnectionReset), "{seen:?}");
            }
            stage.answers("7000:7000", "refuses")?;
            ensure!(refusal(server, to)? == ErrorKind::ConnectionRefused);
            carries(&client, &inner, b"still there")?;
        }
        eprintln!("from the guest's listen to the open port: {waited:?}");
        ensure!(
            waited
                .iter()
                .all(|time| *time < Duration::from_millis(1_500)),
            "{waited:?}"
        );

        Ok(())
    });
}

#[test]
fn a_guest_that_is_not_there_is_no_connection() {
    whole_system(|| {
        let stage = Stage::new()?;
        let _service = stage.serve(7000)?;
        stage.answers("7000:7000", "serves")?;
        stage
            .world
            .sharectl(&["guest", "detach", "dev"])?
            .success()?;
        stage.answers("7000:7000", "absent")?;
        let seen = refusal(&stage.outside.server, (HOST, 7000))?;
        ensure!(seen == ErrorKind::ConnectionRefused, "{seen:?}");
        Ok(())
    });
}

#[test]
fn localhost_is_either_family_and_a_chosen_port_stays() {
    whole_system(|| {
        let mut stage = Stage::new()?;
        let (two, three) = (stage.serve(7002)?, stage.serve(7003)?);
        stage.answers("7002:7002", "serves")?;
        for address in ["127.0.0.1", "::1"] {
            let to: SocketAddr = (address.parse::<std::net::IpAddr>()?, 7002).into();
            let client = connect(&stage.outside.host, to)?;
            let (inner, from) = two.accept()?;
            ensure!(from.ip() == HOST_INTERNAL, "seen as {from}");
            carries(&client, &inner, b"localhost")?;
        }
        let chosen = |stage: &Stage| -> Result<u16> {
            let port = stage.entry(":7003")?["leads"][0]["host"].as_u64();
            Ok(u16::try_from(port.context("no port was chosen")?)?)
        };
        let port = chosen(&stage)?;
        stage.answers(":7003", "serves")?;
        connect(&stage.outside.host, (Ipv4Addr::LOCALHOST, port))?;
        three.accept()?;
        stage.world.sharectl(&["port", "ls"])?.success()?;
        stage.world.crash(Kind::Netd)?;
        ensure!(chosen(&stage)? == port, "another port after a restart");
        Ok(())
    });
}

#[test]
fn udp_answers_from_the_address_that_was_asked() {
    whole_system(|| {
        let stage = Stage::new()?;
        let second = Ipv4Addr::new(192, 0, 2, 55);
        stage
            .outside
            .host
            .run(&format!("ip address add {second}/24 dev out0"))?;
        // A datagram to a guest that nobody knows yet is lost, as at any router.
        stage.answers("7000:7000", "refuses")?;
        let service = stage
            .guest
            .within(|| Ok(UdpSocket::bind("0.0.0.0:7001")?))?;
        service.set_read_timeout(Some(SOON))?;
        let client = stage
            .outside
            .server
            .within(|| Ok(UdpSocket::bind((SERVER, 0))?))?;
        client.set_read_timeout(Some(SOON))?;
        let mut buffer = [0; 100];
        // One client, two addresses in turn: each answer belongs to its question.
        for (number, address) in [second, HOST, second, HOST].into_iter().enumerate() {
            let asked = SocketAddr::from((address, 7001));
            client.send_to(&[u8::try_from(number)?], asked)?;
            let (length, seen) = service.recv_from(&mut buffer)?;
            ensure!(seen.ip() == SERVER, "seen as {seen}");
            service.send_to(&buffer[..length], seen)?;
            let (length, from) = client.recv_from(&mut buffer)?;
            ensure!(from == asked, "{from} answered for {asked}");
            ensure!(buffer[..length] == [u8::try_from(number)?]);
        }
        Ok(())
    });
}

#[test]
fn unix_sockets_lead_both_ways() {
    whole_system(|| {
        let mut stage = Stage::new()?;
        let socket = stage.world.path("shared/http.sock");
        let _web = stage
            .guest
            .command("busybox")
            .args(["httpd", "-f", "-p", "2375", "-h", "/etc/netns"])
            .spawn()?;
        let curl = format!(
            "curl -sS --max-time 5 -o /dev/null -w '%{{http_code}}' --unix-socket {} http://docker/version",
            socket.display()
        );
        let code = retry("the socket", SOON, || stage.outside.host.run(&curl))?;
        ensure!(code == "404", "{code}");
        let mode = socket.metadata()?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{mode:o}");

        let offered = stage.world.path("echo.sock");
        let _echo = stage
            .outside
            .host
            .command("socat")
            .arg(format!("UNIX-LISTEN:{},fork,mode=666", offered.display()))
            .arg("EXEC:cat")
            .spawn()?;
        let echo = retry("the offered socket", SOON, || {
            let said = stage.guest.run(&format!(
                "echo through the socket | socat -t 5 - TCP:{HOST_INTERNAL}:2376"
            ))?;
            ensure!(!said.is_empty());
            Ok(said)
        })?;
        ensure!(echo.trim() == "through the socket", "{echo}");
        // Nobody serves the other one.
        let seen = refusal(&stage.guest, (HOST_INTERNAL, 2377))?;
        ensure!(seen == ErrorKind::ConnectionRefused, "{seen:?}");
        let service = stage
            .outside
            .host
            .within(|| Ok(TcpListener::bind("127.0.0.2:7900")?))?;
        let client = connect(&stage.guest, (HOST_INTERNAL, 2377))?;
        let (inner, _) = service.accept()?;
        carries(&client, &inner, b"to another address of the host")?;

        // At run time, and back.
        let world = &stage.world;
        world
            .sharectl(&["port", "offer", "2378", "127.0.0.2:7900"])?
            .success()?;
        let _client = connect(&stage.guest, (HOST_INTERNAL, 2378))?;
        service.accept()?;
        world.sharectl(&["port", "withdraw", "2378"])?.success()?;
        ensure!(refusal(&stage.guest, (HOST_INTERNAL, 2378))? == ErrorKind::ConnectionRefused);
        stage.world.daemon(Kind::Netd)?.stop()?;
        ensure!(!socket.exists(), "its file stays");
        Ok(())
    });
}

#[test]
fn an_address_that_comes_later_is_served_then() {
    whole_system(|| {
        let stage = Stage::new()?;
        let service = stage.serve(7004)?;
        stage.answers("7004:7004", "serves")?;
        let problem = stage.entry("7004:7004")?["problems"].to_string();
        ensure!(problem.contains("no address 192.0.2.9"), "{problem}");
        stage
            .outside
            .host
            .run("ip address add 192.0.2.9/24 dev out0")?;
        let late = Ipv4Addr::new(192, 0, 2, 9);
        let client = connect(&stage.outside.server, (late, 7004))?;
        let (inner, _) = service.accept()?;
        carries(&client, &inner, b"there")?;
        let problems = stage.entry("7004:7004")?["problems"].to_string();
        ensure!(problems == "[]", "{problems}");
        Ok(())
    });
}

#[test]
fn who_is_in_the_way_is_named() {
    whole_system(|| {
        let stage = Stage::new()?;
        let world = &stage.world;
        let taken = |port: u16| format!("TCP-LISTEN:{port},bind=192.0.2.1");
        let _ours = world.command("socat").args([&taken(7100), "-"]).spawn()?;
        let _roots = stage
            .outside
            .host
            .command("socat")
            .args([&taken(7101), "-"])
            .spawn()?;
        for (port, told) in [(7100, "in use by socat (pid"), (7101, "sudo ss -ltnp")] {
            stage_listens(&stage.outside.host, port)?;
            let spec = format!("192.0.2.1:{port}:80");
            let output = world.sharectl(&["port", "publish", "dev", &spec])?;
            ensure!(output.status.code() == Some(4), "{}", output.stderr);
            ensure!(output.stderr.contains(told), "{}", output.stderr);
            let output = world
                .sharectl(&["port", "explain", &port.to_string()])?
                .success()?;
            ensure!(output.contains(&format!("192.0.2.1:{port} is")), "{output}");
            ensure!(output.contains("no guest publishes it"), "{output}");
        }
        stage.answers("7000:7000", "refuses")?;
        let told = world.sharectl(&["port", "explain", "7000"])?.success()?;
        for part in [
            "192.0.2.1:7000 held by netd",
            "plugged in",
            "ss -ltn 'sport = :7000'",
        ] {
            ensure!(told.contains(part), "no {part} in {told}");
        }
        Ok(())
    });
}

fn stage_listens(host: &Netns, port: u16) -> Result<()> {
    wait_for("the listener", SOON, || {
        let shown = host.run(&format!("ss -Hltn 'sport = :{port}'"))?;
        Ok((!shown.is_empty()).then_some(()))
    })
}

#[test]
fn gvproxys_requests_are_served() {
    whole_system(|| {
        let stage = Stage::new()?;
        let address = stage.world.get(Kind::Netd, "/v1/guests/dev")?["address"].clone();
        let address = address.as_str().context("no address")?.to_owned();
        let socket = stage.world.path("shared/gv.sock").display().to_string();
        let post = |what: &str, body: serde_json::Value| {
            let path = format!("/services/forwarder/{what}");
            stage.world.ask(Kind::Netd, "POST", &path, Some(&body))
        };
        let tcp = serde_json::json!({ "local": ":7200", "remote": format!("{address}:7000") });
        let unix = serde_json::json!({
            "local": socket, "remote": format!("tcp://{address}:7000"), "protocol": "unix",
        });
        for body in [&tcp, &unix] {
            post("expose", body.clone())?.success()?;
            let again = post("expose", body.clone())?;
            ensure!(again.status == 409 && again.body.contains("proxy already running"));
        }
        let service = stage.serve(7000)?;
        let client = retry("the port", SOON, || {
            connect(&stage.outside.server, (HOST, 7200))
        })?;
        let (inner, _) = service.accept()?;
        carries(&client, &inner, b"exposed")?;
        let all = stage
            .world
            .get(Kind::Netd, "/services/forwarder/all")?
            .to_string();
        ensure!(
            all.contains("0.0.0.0:7200") && all.contains("gv.sock"),
            "{all}"
        );
        for body in [&tcp, &unix] {
            post("unexpose", body.clone())?.success()?;
            let again = post("unexpose", body.clone())?;
            ensure!(again.body.contains("proxy not found"), "{}", again.body);
        }
        let npipe =
            serde_json::json!({ "local": "x", "remote": "tcp://1.2.3.4:5", "protocol": "npipe" });
        ensure!(post("expose", npipe)?.status == 501);
        Ok(())
    });
}
