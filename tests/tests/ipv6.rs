//! IPv6 with a real kernel as guest: what IPv4 does, IPv6 does, from an address in the network's own prefix.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};
use tests::daemons::{Kind, World};
use tests::limit::{now, retry};
use tests::netns::Netns;
use tests::outside::Outside;
use tests::{Context, Result, bail, ensure, whole_system};

/// The same two guests on a network of large packets and on one of Ethernet's.
const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"
ipv6 = "fd00:8::/64"
mtu = MTU

[network.vmnet1]
type = "host-only"
ipv6 = "fd00:1::/64"

[guest.dev]
address = "192.168.130.5"
network = "vmnet8"

[guest.two]
address = "192.168.130.6"
network = "vmnet8"

[guest.inside]
network = "vmnet1"
"#;

const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const SERVER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// The kernel of the host has no route there.
const NOWHERE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1);
/// The kernel of the host says "address unreachable" for it.
const UNREACHABLE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
const GATEWAY: &str = "fd00:8::1";
const HOST_INTERNAL: Ipv6Addr = Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 2);
/// What follows from 192.168.130.5.
const GUEST: &str = "fd00:8::c0a8:8205";

const SOON: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_secs(2);

struct Stage {
    world: World,
    outside: Outside,
    guest: Netns,
}

impl Stage {
    fn new(mtu: u16) -> Result<Self> {
        let outside = Outside::new()?;
        outside.host.run(&format!(
            "ip address add {HOST}/64 dev out0 nodad && ip route add unreachable {UNREACHABLE}"
        ))?;
        outside
            .server
            .run(&format!("ip address add {SERVER}/64 dev in0 nodad"))?;
        let mut world = World::new(&CONFIG.replace("MTU", &mtu.to_string()))?.inside(&outside.host);
        world.start(Kind::Netd)?;
        let guest = join(&world, "dev", GUEST, mtu)?;
        Ok(Self {
            world,
            outside,
            guest,
        })
    }

    fn connect(&self, to: (Ipv6Addr, u16)) -> Result<TcpStream> {
        connect_in(&self.guest, to.into())
    }

    /// How an attempt failed, and that it did at once.
    fn failure(&self, to: (Ipv6Addr, u16)) -> Result<ErrorKind> {
        let begun = now();
        let outcome = self.connect(to);
        ensure!(begun.elapsed() < AT_ONCE, "{to:?}: {:?}", begun.elapsed());
        match outcome {
            Ok(_) => bail!("{to:?} was reached"),
            Err(error) => Ok(error.downcast::<std::io::Error>()?.kind()),
        }
    }
}

/// A namespace with an address of its own choice in the prefix.
fn join(world: &World, name: &str, address: &str, mtu: u16) -> Result<Netns> {
    let guest = world.tap_guest(name)?;
    guest.run(&format!(
        "ip link set tap0 mtu {mtu} && ip address add {address}/64 dev tap0 nodad && \
         ip -6 route replace default via {GATEWAY} dev tap0 metric 1"
    ))?;
    Ok(guest)
}

fn connect_in(namespace: &Netns, to: SocketAddr) -> Result<TcpStream> {
    namespace.within(|| {
        let stream = TcpStream::connect_timeout(&to, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(stream)
    })
}

/// Sends back all that comes, to one client.
fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            let (mut from, mut to) = (&stream, &stream);
            drop(std::io::copy(&mut from, &mut to));
            drop(stream.shutdown(Shutdown::Write));
        }
    });
}

/// Bytes go and come back as they were.
fn there_and_back(stream: &TcpStream, length: usize) -> Result<()> {
    let bytes: Vec<u8> = (0..length)
        .map(|n| ((n * 31) >> 3).to_le_bytes()[0])
        .collect();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            (&*stream).write_all(&bytes)?;
            Ok(stream.shutdown(Shutdown::Write)?)
        });
        let mut seen = Vec::new();
        (&*stream).read_to_end(&mut seen)?;
        if let Ok(sent) = sender.join() {
            sent?;
        }
        ensure!(seen == bytes, "{} of {length} bytes, or others", seen.len());
        Ok(())
    })
}

fn ping(from: &Netns, to: &str) -> Result<()> {
    retry(&format!("ping {to}"), SOON, || {
        from.run(&format!("busybox ping6 -c 1 -W 2 {to}"))
    })?;
    Ok(())
}

#[test]
fn large_transfers_arrive_at_both_packet_sizes() {
    whole_system(|| {
        for mtu in [65_520, 1_500] {
            let stage = Stage::new(mtu)?;
            let listener = stage
                .outside
                .server
                .within(|| Ok(TcpListener::bind((SERVER, 0))?))?;
            let port = listener.local_addr()?.port();
            echo(listener);
            let stream = stage.connect((SERVER, port))?;
            ensure!(stream.local_addr()?.ip().to_string() == GUEST);
            there_and_back(&stream, 32 << 20).with_context(|| format!("at MTU {mtu}"))?;
        }
        Ok(())
    });
}

#[test]
fn datagrams_longer_than_a_packet_go_both_ways() {
    whole_system(|| {
        let stage = Stage::new(1_500)?;
        let server = stage
            .outside
            .server
            .within(|| Ok(UdpSocket::bind((SERVER, 0))?))?;
        server.set_read_timeout(Some(SOON))?;
        let client = stage.guest.within(|| {
            let client = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            client.connect(server.local_addr()?)?;
            client.set_read_timeout(Some(SOON))?;
            Ok(client)
        })?;
        for length in [1, 1_452, 1_453, 8_192, 40_000] {
            let bytes: Vec<u8> = (0..length).map(|n: usize| n.to_le_bytes()[0]).collect();
            let mut buffer = vec![0; 65_536];
            client.send(&bytes)?;
            let (count, from) = server.recv_from(&mut buffer)?;
            ensure!(buffer[..count] == bytes, "{length} up: {count}");
            ensure!(from.ip() == HOST, "from {from}");
            server.send_to(&bytes, from)?;
            let count = client.recv(&mut buffer)?;
            ensure!(buffer[..count] == bytes, "{length} down: {count}");
        }
        Ok(())
    });
}

#[test]
fn refused_and_unreachable_are_told_at_once() {
    whole_system(|| {
        let stage = Stage::new(65_520)?;
        for (to, expected) in [
            (SERVER, ErrorKind::ConnectionRefused),
            (HOST_INTERNAL, ErrorKind::ConnectionRefused),
            (NOWHERE, ErrorKind::NetworkUnreachable),
            (UNREACHABLE, ErrorKind::HostUnreachable),
        ] {
            let seen = stage.failure((to, 9))?;
            ensure!(seen == expected, "{to}: {seen}");
        }
        let told = stage.guest.within(|| {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            socket.connect((SERVER, 9))?;
            socket.set_read_timeout(Some(SOON))?;
            socket.send(b"anyone?")?;
            Ok(socket.recv(&mut [0; 1]).map_err(|error| error.kind()))
        })?;
        ensure!(told == Err(ErrorKind::ConnectionRefused), "{told:?}");
        // A host-only network says "administratively prohibited".
        let inside = stage.world.tap_guest("inside")?;
        inside.run(
            "ip address add fd00:1::9/64 dev tap0 nodad && \
             ip -6 route replace default via fd00:1::1 dev tap0 metric 1",
        )?;
        let begun = now();
        let seen = connect_in(&inside, (SERVER, 80).into());
        let seen = seen
            .err()
            .context("it got out")?
            .downcast::<std::io::Error>()?;
        ensure!(seen.kind() == ErrorKind::PermissionDenied, "{seen}");
        ensure!(begun.elapsed() < AT_ONCE);
        Ok(())
    });
}

#[test]
fn pings_and_traces_see_the_gateway_as_a_router() {
    whole_system(|| {
        let stage = Stage::new(65_520)?;
        let server = SERVER.to_string();
        for to in [GATEWAY, &HOST_INTERNAL.to_string(), &server] {
            ping(&stage.guest, to)?;
        }
        // The gateway's link-local address follows from its MAC, 52:55 and the IPv4 address.
        ping(&stage.guest, "fe80::5055:c0ff:fea8:8201%tap0")?;
        ping(&stage.guest, "ff02::2%tap0")?;
        let trace = stage
            .guest
            .run(&format!("busybox traceroute6 -n -q 1 -w 3 -m 4 {server}"))?;
        let hops: Vec<&str> = trace
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        ensure!(hops == [GATEWAY, &server], "{trace}");
        // A connection whose packets may go one hop only.
        let seen = stage.guest.within(|| {
            let socket = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None)?;
            sockopt::set_ipv6_unicast_hops(&socket, Some(1))?;
            let to = SocketAddr::from((SERVER, 80));
            Ok(rustix::net::connect(&socket, &to))
        })?;
        ensure!(seen == Err(rustix::io::Errno::HOSTUNREACH), "{seen:?}");
        Ok(())
    });
}

#[test]
fn host_internal_is_the_hosts_loopback_and_guests_reach_each_other() {
    whole_system(|| {
        let stage = Stage::new(65_520)?;
        let listener = stage
            .outside
            .host
            .within(|| Ok(TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?))?;
        let port = listener.local_addr()?.port();
        echo(listener);
        there_and_back(&stage.connect((HOST_INTERNAL, port))?, 1 << 20)?;

        let two = join(&stage.world, "two", "fd00:8::c0a8:8206", 65_520)?;
        let listener = two.within(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?))?;
        let port = listener.local_addr()?.port();
        echo(listener);
        let to: Ipv6Addr = "fd00:8::c0a8:8206".parse()?;
        ping(&stage.guest, "fd00:8::c0a8:8206")?;
        there_and_back(&stage.connect((to, port))?, 1 << 20)?;
        // Nobody may use the address that is another guest's.
        stage.guest.run(&format!(
            "ip address del {GUEST}/64 dev tap0 && ip address add {to}/64 dev tap0 nodad && \
             ip -6 route replace default via {GATEWAY} dev tap0 metric 1"
        ))?;
        let begun = now();
        let stolen = stage.guest.within(|| {
            let socket = UdpSocket::bind((to, 0))?;
            socket.connect((HOST_INTERNAL, 9))?;
            socket.set_read_timeout(Some(AT_ONCE))?;
            socket.send(b"me")?;
            Ok(socket.recv(&mut [0; 1]).map_err(|error| error.kind()))
        })?;
        ensure!(
            begun.elapsed() >= AT_ONCE && stolen != Err(ErrorKind::ConnectionRefused),
            "{stolen:?}"
        );
        ping(&two, GATEWAY)
    });
}
