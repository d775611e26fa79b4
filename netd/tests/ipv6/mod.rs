//! IPv6 through the whole packet path: the same smoltcp guest with a second address, the host's ::1 as the far end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use control::port::{Endpoint, Protocol};
use netd::datapath::Command;
use netd::engine::ends::Addresses;
use netd::engine::fragment::pieces;
use netd::engine::ndp::{multicast_mac, solicited_node};
use netd::engine::packet::{PROTOCOL_UDP, Path, Piece, push_piece_headers, udp_header};
use netd::engine::settings::Ipv6Settings;
use netd::io::publish::{BindRequest, WantedPort, bind};
use smoltcp::socket::{icmp, tcp};
use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, IpCidr};

use crate::guest::{Guest, LIMIT, Network, network};
use crate::{connect_when_open, pattern};

const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
const HOST: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

fn dual() -> Network {
    network(|settings| {
        let prefix = "fd77::/64".parse().unwrap();
        settings.ipv6 = Some(Ipv6Settings::new(prefix, settings.gateway_mac));
    })
}

/// fd77::10.77.0.NUMBER
fn address(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0x0a4d, number.into())
}

fn guest(network: &Network, number: u8) -> Guest {
    let mut guest = network.guest(number);
    guest.interface.update_ip_addrs(|addresses| {
        let cidr = IpCidr::new(address(number).into(), 64);
        addresses.push(cidr).unwrap();
    });
    let routes = guest.interface.routes_mut();
    routes.add_default_ipv6_route(GATEWAY).unwrap();
    guest
}

fn spoofed(network: &Network) -> u64 {
    let links = network.snapshot().links;
    links.iter().map(|link| link.counters.spoofed).sum()
}

#[test]
fn a_megabyte_goes_to_the_hosts_loopback_and_comes_back() {
    let network = dual();
    let mut guest = guest(&network, 2);
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = stream.try_clone().unwrap();
        std::io::copy(&mut reader, &mut stream).ok();
        stream.shutdown(std::net::Shutdown::Write).ok();
    });
    let handle = guest.connect((HOST, port));
    let bytes = pattern(1_000_000);
    let (mut sent, mut got) = (0, Vec::new());
    guest.until("the echo", |guest| {
        let socket = guest.stream(handle);
        if sent < bytes.len() && socket.can_send() {
            sent += socket.send_slice(&bytes[sent..]).unwrap();
            if sent == bytes.len() {
                socket.close();
            }
        }
        while socket.can_recv() {
            got.extend(socket.recv(|part| (part.len(), part.to_vec())).unwrap());
        }
        (got.len() == bytes.len() && socket.state() == tcp::State::TimeWait).then_some(())
    });
    assert!(got == bytes);
    // As over IPv4: late is not lost.
    let again = network.snapshot().counters.tcp_retransmitted;
    assert!(again < 100, "{again} segments were sent again");
}

#[test]
fn what_nobody_may_reach_is_refused_and_a_closed_port_is_closed() {
    let network = dual();
    let mut guest = guest(&network, 2);
    let closed = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
    for to in [(HOST, closed.port()), (GATEWAY, 80)] {
        let handle = guest.connect(to);
        guest.until("refusal", |guest| {
            (guest.stream(handle).state() == tcp::State::Closed).then_some(())
        });
    }
    let before = network.snapshot().counters.tcp_refused_policy;
    let never = ["::1", "::ffff:127.0.0.1", "::127.0.0.1", "fe80::99"];
    for to in never {
        guest.connect((to.parse::<Ipv6Addr>().unwrap(), closed.port()));
    }
    // fe80::99 is asked for on the cable and nobody answers: the other three come to us.
    guest.until("the policy", |_| {
        (network.snapshot().counters.tcp_refused_policy == before + 3).then_some(())
    });
}

#[test]
fn datagrams_go_both_ways_and_a_closed_port_is_told() {
    let network = dual();
    let mut guest = guest(&network, 2);
    let server = UdpSocket::bind("[::1]:0").unwrap();
    server.set_read_timeout(Some(LIMIT)).unwrap();
    let port = server.local_addr().unwrap().port();
    let handle = guest.udp(5_000);
    guest
        .datagrams(handle)
        .send_slice(b"question", (HOST, port))
        .unwrap();
    guest.until("the mapping", |_| {
        (network.snapshot().udp_mappings == 1).then_some(())
    });
    let mut buffer = [0; 16];
    let (count, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"question");
    server.send_to(b"answer", from).unwrap();
    let (bytes, from) = guest.until("the answer", |guest| {
        let (bytes, meta) = guest.datagrams(handle).recv().ok()?;
        Some((bytes.to_vec(), meta.endpoint.addr))
    });
    assert_eq!((&bytes[..], from), (&b"answer"[..], HOST.into()));

    let errors = {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 4_096]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Udp(5_000.into())).unwrap();
        guest.sockets.add(socket)
    };
    let closed = UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap();
    guest
        .datagrams(handle)
        .send_slice(b"anyone?", (HOST, closed.port()))
        .unwrap();
    let told = guest.until("port unreachable", |guest| {
        let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(errors);
        let (bytes, _) = socket.recv().ok()?;
        let packet = Icmpv6Packet::new_checked(bytes).unwrap();
        Some((u8::from(packet.msg_type()), packet.msg_code()))
    });
    assert_eq!(told, (1, 4));
}

#[test]
fn the_gateway_and_host_internal_answer_ping() {
    let network = dual();
    let mut guest = guest(&network, 2);
    let from = address(2);
    let handle = guest.echo(77);
    for (number, to) in [GATEWAY, HOST].into_iter().enumerate() {
        let request = Icmpv6Repr::EchoRequest {
            ident: 77,
            seq_no: number as u16,
            data: b"0123456789",
        };
        let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
        let bytes = socket.send(request.buffer_len(), to.into()).unwrap();
        let mut packet = Icmpv6Packet::new_unchecked(bytes);
        request.emit(&from, &to, &mut packet, &Default::default());
        guest.until("the echo", |guest| {
            let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
            let (bytes, from) = socket.recv().ok()?;
            let packet = Icmpv6Packet::new_checked(bytes).unwrap();
            assert_eq!((packet.echo_seq_no(), from), (number as u16, to.into()));
            Some(())
        });
    }
}

#[test]
fn a_published_port_finds_the_guest_by_its_ipv6_address() {
    let network = dual();
    let mut guest = guest(&network, 2);
    let sockets = bind(&BindRequest::Ports {
        protocol: Protocol::Tcp,
        required: vec!["::1".parse().unwrap()],
        optional: Vec::new(),
        port: WantedPort::Any(600),
    })
    .unwrap();
    let Endpoint::Address(listening) = sockets.sockets[0].endpoint().clone() else {
        panic!("a unix socket")
    };
    let (reply, answer) = tokio::sync::oneshot::channel();
    let publish = netd::datapath::NewPublish {
        protocol: Protocol::Tcp,
        guest: "dev".parse().unwrap(),
        address: Some(address(2).into()),
        port: 80,
        sockets,
    };
    network
        .handle
        .send(Command::Publish { publish, reply })
        .unwrap();
    answer.blocking_recv().unwrap();
    let handle = guest.tcp();
    guest.stream(handle).listen(80).unwrap();
    // The guest has said nothing yet: it is asked for by neighbour discovery.
    assert!(network.snapshot().neighbours.is_empty());
    let client = std::thread::spawn(move || {
        let mut client = connect_when_open(listening);
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        client
            .read_exact(&mut answer)
            .map(|()| answer)
            .map_err(|error| error.kind())
    });
    let mut seen = None;
    guest.until("the client", |guest| {
        let socket = guest.stream(handle);
        if socket.can_recv() {
            let bytes = socket.recv(|part| (part.len(), part.to_vec())).unwrap();
            socket.send_slice(&bytes.to_ascii_uppercase()).unwrap();
            seen = socket.remote_endpoint().map(|end| IpAddr::from(end.addr));
        }
        client.is_finished().then_some(())
    });
    assert_eq!(client.join().unwrap(), Ok::<_, ErrorKind>(*b"HELLO"));
    assert_eq!(seen, Some(HOST.into()));
}

/// Frames of a datagram from guest 2 to `to`, cut for an MTU of 1,280.
fn cut(network: &Network, to: SocketAddr, payload: &[u8], identification: u32) -> Vec<Vec<u8>> {
    let path = Path {
        source_mac: Guest::mac(2),
        destination_mac: network.settings.gateway_mac,
        addresses: Addresses::of(address(2).into(), to.ip()).unwrap(),
    };
    let mut whole = udp_header(&path, (4_000, to.port()), payload).to_vec();
    whole.extend_from_slice(payload);
    let frames = pieces(whole.len(), 1_280 - 48).map(|(start, end, more)| {
        let piece = Piece {
            identification,
            offset: (start / 8) as u16,
            more,
        };
        let mut frame = Vec::new();
        push_piece_headers(&mut frame, &path, PROTOCOL_UDP, end - start, piece);
        frame.extend_from_slice(&whole[start..end]);
        frame
    });
    frames.collect()
}

#[test]
fn pieces_arrive_as_one_datagram_and_overlapping_ones_not_at_all() {
    let network = dual();
    let mut guest = guest(&network, 2);
    let server = UdpSocket::bind("[::1]:0").unwrap();
    server.set_read_timeout(Some(LIMIT)).unwrap();
    let to = SocketAddr::from((HOST, server.local_addr().unwrap().port()));
    let evil = cut(&network, to, &[0xee; 5_000], 1);
    let liar = cut(&network, to, &[0xdd; 5_000], 1);
    for frame in evil
        .iter()
        .take(2)
        .chain(liar.iter().skip(1))
        .chain(evil.iter().skip(2))
    {
        guest.raw(frame);
    }
    let bytes = pattern(8_000);
    for frame in cut(&network, to, &bytes, 2).iter().rev() {
        guest.raw(frame);
    }
    guest.until("reassembly", |_| {
        (network.snapshot().counters.reassembled == 1).then_some(())
    });
    let mut buffer = vec![0; 10_000];
    let count = server.recv(&mut buffer).unwrap();
    assert!(buffer[..count] == bytes);
    assert!(network.snapshot().counters.fragments_dropped > 3);
}

/// An ICMPv6 message of guest 3 as a frame.
fn message(to: (Ipv6Addr, [u8; 6]), from: Ipv6Addr, hop_limit: u8, bytes: &[u8]) -> Vec<u8> {
    let path = Path {
        source_mac: Guest::mac(3),
        destination_mac: control::mac::MacAddress(to.1),
        addresses: Addresses::V6 {
            source: from,
            destination: to.0,
        },
    };
    let mut frame = Vec::new();
    netd::engine::icmp::emit(&mut frame, &path, bytes);
    frame[21] = hop_limit;
    frame
}

#[test]
fn nobody_is_a_router_or_somebody_else() {
    let network = dual();
    let (_, stream) = network.attach(Some(Guest::mac(2)));
    let mut good = Guest::new(stream, 2);
    let mut bad = guest(&network, 3);
    let all = ("ff02::1".parse().unwrap(), [0x33, 0x33, 0, 0, 0, 1]);
    let advertisement = |target: Ipv6Addr, flags: u8| {
        let mut bytes = vec![136, 0, 0, 0, flags, 0, 0, 0];
        bytes.extend_from_slice(&target.octets());
        bytes.extend_from_slice(&[2, 1, 2, 0, 0, 0, 0, 3]);
        bytes
    };
    let router = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let probe = {
        let mut bytes = vec![135, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&GATEWAY.octets());
        bytes
    };
    let frames = [
        message(all, address(3), 255, &router),
        message(all, address(3), 255, &advertisement(GATEWAY, 0x20)),
        message(all, GATEWAY, 255, &advertisement(address(3), 0x20)),
        message(all, HOST, 64, &[128, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for frame in &frames {
        bad.raw(frame);
    }
    bad.until("the count", |_| {
        (spoofed(&network) == frames.len() as u64).then_some(())
    });
    // What is honest passes: a claim is learned, and a probe for our address hears that it is taken.
    bad.raw(&message(
        all,
        address(3),
        255,
        &advertisement(address(3), 0x20),
    ));
    let group = solicited_node(GATEWAY);
    bad.raw(&message(
        (group, multicast_mac(group).0),
        Ipv6Addr::UNSPECIFIED,
        255,
        &probe,
    ));
    bad.until("the claim", |_| {
        let known = network.snapshot().neighbours;
        known
            .iter()
            .any(|entry| entry.0 == IpAddr::from(address(3)))
            .then_some(())
    });
    good.poll();
}

#[test]
fn random_packets_harm_nobody() {
    let network = dual();
    let mut bad = guest(&network, 3);
    let mut good = guest(&network, 2);
    let mut state = 0x9876_5432_1abc_def1_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..6_000 {
        let length = 54 + random() as usize % 200;
        let mut frame: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        frame[..6].copy_from_slice(&network.settings.gateway_mac.0);
        frame[6..12].copy_from_slice(&Guest::mac(3).0);
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[14] = 0x60;
        frame[18..20].copy_from_slice(&((length - 54) as u16).to_be_bytes());
        frame[20] = [0, 6, 17, 43, 44, 58, 60, 99][round % 8];
        frame[22..38].copy_from_slice(&address(3).octets());
        let to = [
            GATEWAY,
            HOST,
            Ipv6Addr::LOCALHOST,
            "ff02::1".parse().unwrap(),
        ][round % 4];
        frame[38..54].copy_from_slice(&to.octets());
        if length > 60 && round % 3 == 0 {
            // A short extension header, so that what lies behind it is read too.
            frame[54..56].copy_from_slice(&[[6, 17, 44, 58][round % 4], 0]);
        }
        bad.raw(&frame);
        if round % 50 == 0 {
            bad.poll();
        }
    }
    bad.until("the flood", |_| {
        let links = network.snapshot().links;
        (links
            .iter()
            .map(|link| link.counters.received_frames)
            .sum::<u64>()
            >= 6_000)
            .then_some(())
    });
    let server = TcpListener::bind("[::1]:0").unwrap();
    let handle = good.connect((HOST, server.local_addr().unwrap().port()));
    good.until("opening", |guest| {
        guest.stream(handle).may_send().then_some(())
    });
}
