//! What the guest sees of a connection is what is: refused is refused, unreachable is unreachable,
//! ends and resets pass in both directions, and the client's address is the client's.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::limit::{now, retry};
use tests::netns::Netns;
use tests::outside::{HOST, Outside, SERVER, SILENT, UNREACHABLE, carries};
use tests::{Context, Result, bail, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[network.vmnet1]
type = "host-only"
subnet = "192.168.140.0/24"

[guest.dev]
publish = ["192.0.2.1:7000:7000", "7000:7000", "192.0.2.1:7001:7001/udp"]

[guest.inside]
network = "vmnet1"
"#;

const SOON: Duration = Duration::from_secs(10);

/// Netd in a host of its own, a server beyond it, a namespace as guest.
struct Stage {
    world: World,
    outside: Outside,
    guest: Netns,
}

impl Stage {
    fn new(guest: &str) -> Result<Self> {
        let outside = Outside::new()?;
        let mut world = World::new(CONFIG)?.inside(&outside.host);
        world.start(Kind::Netd)?;
        let guest = world.tap_guest(guest)?;
        Ok(Self {
            world,
            outside,
            guest,
        })
    }

    /// A connection from the guest.
    fn connect(&self, to: impl Into<SocketAddr>) -> Result<TcpStream> {
        let to = to.into();
        connect_in(&self.guest, to)
    }

    fn address(&self) -> Result<Ipv4Addr> {
        let status = self.world.get(Kind::Netd, "/v1/guests/dev")?;
        Ok(status["address"].as_str().context("no address")?.parse()?)
    }
}

fn connect_in(namespace: &Netns, to: SocketAddr) -> Result<TcpStream> {
    namespace.within(|| {
        let stream = TcpStream::connect_timeout(&to, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(stream)
    })
}

fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr)> {
    let (stream, from) = listener.accept()?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    Ok((stream, from))
}

/// How an attempt failed.
fn kind<T>(outcome: Result<T>) -> Result<ErrorKind> {
    match outcome {
        Ok(_) => bail!("it succeeded"),
        Err(error) => match error.downcast_ref::<std::io::Error>() {
            Some(error) => Ok(error.kind()),
            None => Err(error),
        },
    }
}

/// Closes with a reset.
fn reset(stream: TcpStream) -> Result<()> {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

#[test]
fn refused_and_unreachable_are_told_at_once_and_silence_is_silence() {
    whole_system(|| {
        let stage = Stage::new("dev")?;
        for (to, expected) in [
            (SocketAddr::from((SERVER, 9)), ErrorKind::ConnectionRefused),
            (
                SocketAddr::from((UNREACHABLE, 80)),
                ErrorKind::HostUnreachable,
            ),
        ] {
            let begun = now();
            let seen = kind(stage.connect(to))?;
            ensure!(seen == expected, "{to}: {seen}");
            ensure!(
                begun.elapsed() < Duration::from_secs(2),
                "{to}: {:?}",
                begun.elapsed()
            );
        }
        let silent = SocketAddr::from((SILENT, 80));
        let seen = stage.guest.within(|| {
            Ok(TcpStream::connect_timeout(&silent, Duration::from_secs(2))
                .map_err(|error| error.kind()))
        })?;
        ensure!(matches!(seen, Err(ErrorKind::TimedOut)), "{seen:?}");
        Ok(())
    });
}

#[test]
fn each_direction_ends_by_itself() {
    whole_system(|| {
        let stage = Stage::new("dev")?;
        let listener = stage.outside.listen(0)?;
        let guest = stage.connect(listener.local_addr()?)?;
        let (server, from) = accept(&listener)?;
        ensure!(from.ip() == IpAddr::V4(HOST), "from {from}");
        carries(&guest, &server, b"question")?;
        guest.shutdown(Shutdown::Write)?;
        ensure!(
            (&server).read(&mut [0])? == 0,
            "no end of file at the server"
        );
        // The other direction lives on, and carries much.
        let answer = vec![7; 3_000_000];
        std::thread::scope(|scope| -> Result<()> {
            let writer = scope.spawn(|| (&server).write_all(&answer));
            let mut seen = vec![0; answer.len()];
            (&guest).read_exact(&mut seen)?;
            ensure!(seen == answer, "bytes changed on the way");
            writer.join().unwrap_or(Ok(()))?;
            Ok(())
        })?;
        server.shutdown(Shutdown::Write)?;
        ensure!((&guest).read(&mut [0])? == 0, "no end of file at the guest");
        Ok(())
    });
}

#[test]
fn a_reset_passes_both_ways() {
    whole_system(|| {
        let stage = Stage::new("dev")?;
        let listener = stage.outside.listen(0)?;
        let guest = stage.connect(listener.local_addr()?)?;
        let (server, _) = accept(&listener)?;
        carries(&guest, &server, b"hello")?;
        reset(server)?;
        let seen = (&guest).read(&mut [0]).map_err(|error| error.kind());
        ensure!(seen == Err(ErrorKind::ConnectionReset), "{seen:?}");

        let guest = stage.connect(listener.local_addr()?)?;
        let (server, _) = accept(&listener)?;
        carries(&guest, &server, b"hello")?;
        reset(guest)?;
        let seen = (&server).read(&mut [0]).map_err(|error| error.kind());
        ensure!(seen == Err(ErrorKind::ConnectionReset), "{seen:?}");
        Ok(())
    });
}

#[test]
fn a_published_connection_shows_the_clients_address_and_a_closed_port_is_no_connection() {
    whole_system(|| {
        let stage = Stage::new("dev")?;
        let published = SocketAddr::from((HOST, 7000));
        // Nobody serves: the client hears just that, and is not left waiting.
        let begun = now();
        let seen = kind(connect_in(&stage.outside.server, published))?;
        ensure!(seen == ErrorKind::ConnectionRefused, "{seen:?}");
        ensure!(
            begun.elapsed() < Duration::from_secs(3),
            "{:?}",
            begun.elapsed()
        );

        let listener = stage
            .guest
            .within(|| Ok(TcpListener::bind("0.0.0.0:7000")?))?;
        let client = retry("the published port", SOON, || {
            connect_in(&stage.outside.server, published)
        })?;
        let (inner, from) = accept(&listener)?;
        ensure!(
            from == client.local_addr()?,
            "{from} instead of {}",
            client.local_addr()?
        );
        carries(&client, &inner, b"in")?;
        carries(&inner, &client, b"out")?;
        client.shutdown(Shutdown::Write)?;
        ensure!((&inner).read(&mut [0])? == 0, "no end of file in the guest");
        reset(inner)?;
        let seen = (&client).read(&mut [0]).map_err(|error| error.kind());
        ensure!(seen == Err(ErrorKind::ConnectionReset), "{seen:?}");

        // From the host itself, by the guest's own address: the guest sees host.internal.
        let status = stage.world.get(Kind::Netd, "/v1/guests/dev")?;
        let own: Ipv4Addr = status["host_address"]
            .as_str()
            .context("no host address")?
            .parse()?;
        let _client = retry("the guest's own address", SOON, || {
            connect_in(&stage.outside.host, (own, 7000).into())
        })?;
        let (_, from) = accept(&listener)?;
        ensure!(from.ip().to_string() == "192.168.130.254", "from {from}");
        Ok(())
    });
}

#[test]
fn udp_keeps_one_outer_port_for_all_and_is_published_too() {
    whole_system(|| {
        let stage = Stage::new("dev")?;
        let socket = stage.guest.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut seen = Vec::new();
        for server in [stage.outside.who()?, stage.outside.who()?] {
            seen.push(retry("an answer", SOON, || {
                socket.send_to(b"who am I", server)?;
                let mut buffer = [0; 100];
                let (length, from) = socket.recv_from(&mut buffer)?;
                ensure!(from == server, "answered by {from}");
                Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
            })?);
        }
        ensure!(seen[0] == seen[1], "one port for each server: {seen:?}");
        ensure!(seen[0].starts_with(&HOST.to_string()), "{seen:?}");

        let inner = stage
            .guest
            .within(|| Ok(UdpSocket::bind("0.0.0.0:7001")?))?;
        inner.set_read_timeout(Some(SOON))?;
        let client = stage
            .outside
            .server
            .within(|| Ok(UdpSocket::bind((SERVER, 0))?))?;
        client.set_read_timeout(Some(SOON))?;
        client.send_to(b"ping", (HOST, 7001))?;
        let mut buffer = [0; 100];
        let (length, from) = inner.recv_from(&mut buffer)?;
        ensure!(&buffer[..length] == b"ping", "{:?}", &buffer[..length]);
        ensure!(from == client.local_addr()?, "from {from}");
        inner.send_to(b"pong", from)?;
        let (length, from) = client.recv_from(&mut buffer)?;
        ensure!(
            &buffer[..length] == b"pong" && from == SocketAddr::from((HOST, 7001)),
            "from {from}"
        );
        Ok(())
    });
}

#[test]
fn only_host_internal_leads_to_the_hosts_loopback() {
    whole_system(|| {
        let stage = Stage::new("dev")?;
        let listener = stage
            .outside
            .host
            .within(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
        let port = listener.local_addr()?.port();
        let host_internal = Ipv4Addr::new(192, 168, 130, 254);
        let stream = stage.connect((host_internal, port))?;
        let (inner, _) = accept(&listener)?;
        carries(&stream, &inner, b"hello")?;
        let gateway = Ipv4Addr::new(192, 168, 130, 1);
        ensure!(kind(stage.connect((gateway, port)))? == ErrorKind::ConnectionRefused);
        ensure!(
            stage.connect((HOST, port)).is_err(),
            "loopback's port by another address"
        );
        ensure!(stage.address()?.octets()[2] == 130);
        Ok(())
    });
}

#[test]
fn a_host_only_guest_reaches_the_host_and_nothing_else() {
    whole_system(|| {
        let stage = Stage::new("inside")?;
        let outside = stage.outside.listen(0)?;
        let begun = now();
        ensure!(stage.connect(outside.local_addr()?).is_err(), "it got out");
        ensure!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        let listener = stage
            .outside
            .host
            .within(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
        let host_internal = Ipv4Addr::new(192, 168, 140, 254);
        let stream = stage.connect((host_internal, listener.local_addr()?.port()))?;
        let (inner, _) = accept(&listener)?;
        carries(&stream, &inner, b"hello")
    });
}
