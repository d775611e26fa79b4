//! The whole packet path: a smoltcp guest on a stream link, real sockets of the host on loopback.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "tests: a surprise is a failure, patterns are made of low bits"
)]

mod guest;
mod ipv6;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use control::port::{Endpoint, Protocol};
use guest::{Guest, LIMIT, Network, network};
use netd::datapath::{Command, LinkEnd, NewPublish, Notice, PublishId};
use netd::engine::settings::Reach;
use netd::io::publish::{BindRequest, WantedPort, bind};
use smoltcp::socket::tcp;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 21) as u8)
        .collect()
}

/// A host server that sends back what it gets, until the end, then ends.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().unwrap();
                std::io::copy(&mut reader, &mut stream).ok();
                stream.shutdown(std::net::Shutdown::Write).ok();
            });
        }
    });
    address
}

fn publish(
    network: &Network,
    protocol: Protocol,
    guest: &Guest,
    port: u16,
) -> (PublishId, SocketAddr) {
    let sockets = bind(&BindRequest::Ports {
        protocol,
        required: vec!["127.0.0.1".parse().unwrap()],
        optional: Vec::new(),
        port: WantedPort::Any(u64::from(port) * 100),
    })
    .unwrap();
    let Endpoint::Address(address) = sockets.sockets[0].endpoint().clone() else {
        panic!("a unix socket")
    };
    let (reply, answer) = tokio::sync::oneshot::channel();
    let publish = NewPublish {
        protocol,
        guest: "dev".parse().unwrap(),
        address: Some(guest.address.into()),
        port,
        sockets,
    };
    network
        .handle
        .send(Command::Publish { publish, reply })
        .unwrap();
    (answer.blocking_recv().unwrap(), address)
}

/// A published port is refused until the guest has said that it listens.
fn connect_when_open(address: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect(address) {
            Ok(client) => return client,
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_megabyte_goes_to_a_host_server_and_comes_back() {
    let network = network(|_| {});
    let mut guest = network.guest(2);
    let server = echo_server();
    let handle = guest.connect((HOST, server.port()));
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
    // The last acknowledgement may still be under way.
    let snapshot = guest.until("the flow's end", |_| {
        let snapshot = network.snapshot();
        (snapshot.tcp_flows == 0).then_some(snapshot)
    });
    assert_eq!(snapshot.buffered_bytes, 0);
    assert_eq!(snapshot.counters.tcp_opened_out, 1);
    // A guest that is kept waiting by a busy machine answers late; a wrong number would be sent hundreds of times.
    let again = snapshot.counters.tcp_retransmitted;
    assert!(again < 100, "{again} segments were sent again");
}

#[test]
fn uploads_to_a_host_that_reads_in_bursts_never_stand_still() {
    const FLOWS: usize = 12;
    let network = network(|_| {});
    let mut guest = network.guest(2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Small buffers, so that the host's sockets are full again and again while frames keep coming.
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 8_192).unwrap();
    let port = listener.local_addr().unwrap().port();
    let handles: Vec<_> = (0..FLOWS).map(|_| guest.connect((HOST, port))).collect();
    guest.until("opening", |guest| {
        handles
            .iter()
            .all(|handle| guest.stream(*handle).may_send())
            .then_some(())
    });
    let bytes = pattern(2_000_000);
    let readers: Vec<_> = (0..FLOWS)
        .map(|_| {
            let ((mut server, _), expected) = (listener.accept().unwrap(), bytes.clone());
            std::thread::spawn(move || {
                let (mut got, mut buffer) = (Vec::new(), vec![0; 100_000]);
                loop {
                    let count = server.read(&mut buffer).unwrap();
                    if count == 0 {
                        return got == expected;
                    }
                    got.extend_from_slice(&buffer[..count]);
                    std::thread::yield_now();
                }
            })
        })
        .collect();
    let mut sent = [0; FLOWS];
    guest.until("the uploads", |guest| {
        for (handle, sent) in handles.iter().zip(&mut sent) {
            let socket = guest.stream(*handle);
            if *sent < bytes.len() && socket.can_send() {
                *sent += socket.send_slice(&bytes[*sent..]).unwrap();
                if *sent == bytes.len() {
                    socket.close();
                }
            }
        }
        readers
            .iter()
            .all(|reader| reader.is_finished())
            .then_some(())
    });
    for reader in readers {
        assert!(reader.join().unwrap(), "every byte, in order");
    }
    assert_eq!(network.snapshot().buffered_bytes, 0);
}

#[test]
fn a_closed_port_is_refused_at_once_and_host_only_goes_nowhere() {
    let network = network(|settings| settings.reach = Reach::HostOnly);
    let mut guest = network.guest(2);
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for to in [(HOST, closed.port()), (GATEWAY, 80)] {
        let handle = guest.connect(to);
        guest.until("refusal", |guest| {
            (guest.stream(handle).state() == tcp::State::Closed).then_some(())
        });
    }
    // Prohibited comes as ICMP, which smoltcp's TCP does not hear: the counters say what happened.
    guest.connect((Ipv4Addr::new(192, 0, 2, 1), 80));
    guest.until("the policy", |_| {
        (network.snapshot().counters.tcp_refused_policy >= 2).then_some(())
    });
    let server = echo_server();
    let handle = guest.connect((HOST, server.port()));
    guest.until("the host's loopback", |guest| {
        guest.stream(handle).may_send().then_some(())
    });
}

#[test]
fn a_server_that_resets_is_seen_as_a_reset() {
    let network = network(|_| {});
    let mut guest = network.guest(2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let handle = guest.connect((HOST, listener.local_addr().unwrap().port()));
    guest.until("opening", |guest| {
        guest.stream(handle).may_send().then_some(())
    });
    let (server, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&server, Some(std::time::Duration::ZERO)).unwrap();
    drop(server);
    // An orderly end would be CLOSE-WAIT.
    guest.until("the reset", |guest| {
        (guest.stream(handle).state() == tcp::State::Closed).then_some(())
    });
}

#[test]
fn a_guest_that_resets_is_seen_as_a_reset() {
    let network = network(|_| {});
    let mut guest = network.guest(2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let handle = guest.connect((HOST, listener.local_addr().unwrap().port()));
    guest.until("opening", |guest| {
        guest.stream(handle).may_send().then_some(())
    });
    let (mut server, _) = listener.accept().unwrap();
    guest.stream(handle).abort();
    guest.poll();
    server.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(
        server.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn a_published_port_reaches_the_guest_and_is_refused_where_nobody_listens() {
    let network = network(|_| {});
    let mut guest = network.guest(2);
    let (id, address) = publish(&network, Protocol::Tcp, &guest, 80);
    let handle = guest.tcp();
    guest.stream(handle).listen(80).unwrap();
    let client = std::thread::spawn(move || {
        let mut client = connect_when_open(address);
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).unwrap();
        // The guest's only socket is taken: one client finds out, the next is told by the host itself.
        let first = TcpStream::connect(address).unwrap();
        first.set_read_timeout(Some(LIMIT)).unwrap();
        let reset = (&first).read(&mut [0; 1]).unwrap_err().kind();
        let refused = std::iter::repeat_with(|| TcpStream::connect(address))
            .find_map(Result::err)
            .map(|error| error.kind())
            .unwrap();
        (answer, reset, refused)
    });
    guest.until("the client", |guest| {
        let socket = guest.stream(handle);
        if socket.can_recv() {
            let bytes = socket.recv(|part| (part.len(), part.to_vec())).unwrap();
            socket.send_slice(&bytes.to_ascii_uppercase()).unwrap();
        }
        client.is_finished().then_some(())
    });
    assert_eq!(
        client.join().unwrap(),
        (
            *b"HELLO",
            ErrorKind::ConnectionReset,
            ErrorKind::ConnectionRefused
        )
    );
    network.handle.send(Command::Unpublish(id)).unwrap();
    network.snapshot();
    assert_eq!(
        TcpStream::connect(address).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn datagrams_go_both_ways_and_a_closed_port_is_told() {
    let network = network(|_| {});
    let mut guest = network.guest(2);
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
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
    // From another socket of the same host: let in, for the mapping does not depend on the far end's port.
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .send_to(b"other", from)
        .unwrap();
    server.send_to(b"answer", from).unwrap();
    let mut got = Vec::new();
    guest.until("both answers", |guest| {
        while let Ok((bytes, meta)) = guest.datagrams(handle).recv() {
            got.push((bytes.to_vec(), meta.endpoint.addr));
        }
        (got.len() == 2).then_some(())
    });
    assert!(
        got.iter().all(|(_, from)| *from == HOST.into()),
        "the host is host.internal: {got:?}"
    );

    let echo = guest.echo(0);
    guest
        .sockets
        .get_mut::<smoltcp::socket::icmp::Socket<'_>>(echo);
    let closed = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let listener = {
        let buffer = || {
            smoltcp::socket::icmp::PacketBuffer::new(
                vec![smoltcp::socket::icmp::PacketMetadata::EMPTY; 8],
                vec![0; 4_096],
            )
        };
        let mut socket = smoltcp::socket::icmp::Socket::new(buffer(), buffer());
        socket
            .bind(smoltcp::socket::icmp::Endpoint::Udp(5_000.into()))
            .unwrap();
        guest.sockets.add(socket)
    };
    guest
        .datagrams(handle)
        .send_slice(b"anyone?", (HOST, closed))
        .unwrap();
    let (kind, code) = guest.until("port unreachable", |guest| {
        let socket = guest
            .sockets
            .get_mut::<smoltcp::socket::icmp::Socket<'_>>(listener);
        let (bytes, _) = socket.recv().ok()?;
        let packet = Icmpv4Packet::new_checked(bytes).unwrap();
        Some((u8::from(packet.msg_type()), packet.msg_code()))
    });
    assert_eq!((kind, code), (3, 3));
}

#[test]
fn a_burst_of_datagrams_arrives_one_by_one_and_in_order() {
    let network = network(|_| {});
    let mut guest = network.guest(2);
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(LIMIT)).unwrap();
    let port = server.local_addr().unwrap().port();
    let handle = guest.udp(5_000);
    guest
        .datagrams(handle)
        .send_slice(b"first", (HOST, port))
        .unwrap();
    let mut buffer = [0; 2_000];
    guest.until("the first", |_| {
        (network.snapshot().udp_mappings == 1).then_some(())
    });
    assert_eq!(server.recv(&mut buffer).unwrap(), 5);
    // Equal sizes, then a shorter one, then others: what may be gathered and what may not.
    let sizes: Vec<usize> = [100; 30]
        .into_iter()
        .chain([40, 100, 100, 1_400, 1_400, 7, 0, 7])
        .collect();
    for (number, size) in sizes.iter().enumerate() {
        guest
            .datagrams(handle)
            .send_slice(&vec![number as u8; *size], (HOST, port))
            .unwrap();
    }
    guest.until("sending", |guest| {
        (guest.datagrams(handle).send_queue() == 0).then_some(())
    });
    guest.poll();
    for (number, size) in sizes.iter().enumerate() {
        let count = server.recv(&mut buffer).unwrap();
        assert_eq!(
            (
                count,
                buffer[..count].iter().all(|byte| *byte == number as u8)
            ),
            (*size, true),
            "{number}"
        );
    }
}

#[test]
fn a_published_udp_port_answers_each_client() {
    let network = network(|_| {});
    let mut guest = network.guest(2);
    let (_, address) = publish(&network, Protocol::Udp, &guest, 53);
    let handle = guest.udp(53);
    // The guest must be known by ARP before datagrams find it.
    guest.until("ARP", |guest| {
        if network.snapshot().neighbours.is_empty() {
            guest
                .datagrams(handle)
                .send_slice(b"hello", (HOST, 9))
                .unwrap();
            return None;
        }
        Some(())
    });
    let clients: Vec<_> = (0..3)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    for (number, client) in clients.iter().enumerate() {
        client.set_nonblocking(true).unwrap();
        client.send_to(&[number as u8], address).unwrap();
    }
    let mut answered = 0;
    guest.until("answers", |guest| {
        while let Ok((bytes, meta)) = guest.datagrams(handle).recv() {
            let bytes = [bytes[0], bytes[0] + 100];
            guest
                .datagrams(handle)
                .send_slice(&bytes, meta.endpoint)
                .unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            let mut answer = [0; 2];
            if let Ok((_, from)) = client.recv_from(&mut answer) {
                assert_eq!(
                    (answer, from),
                    ([number as u8, number as u8 + 100], address)
                );
                answered += 1;
            }
        }
        (answered == 3).then_some(())
    });
}

#[test]
fn the_gateway_and_host_internal_answer_echo() {
    let network = network(|_| {});
    let mut guest = network.guest(2);
    let handle = guest.echo(77);
    for (number, to) in [GATEWAY, HOST].into_iter().enumerate() {
        let request = Icmpv4Repr::EchoRequest {
            ident: 77,
            seq_no: number as u16,
            data: b"0123456789",
        };
        let socket = guest
            .sockets
            .get_mut::<smoltcp::socket::icmp::Socket<'_>>(handle);
        let bytes = socket.send(request.buffer_len(), to.into()).unwrap();
        request.emit(&mut Icmpv4Packet::new_unchecked(bytes), &Default::default());
        guest.until("the echo", |guest| {
            let socket = guest
                .sockets
                .get_mut::<smoltcp::socket::icmp::Socket<'_>>(handle);
            let (bytes, from) = socket.recv().ok()?;
            let packet = Icmpv4Packet::new_checked(bytes).unwrap();
            assert_eq!(
                (packet.echo_seq_no(), packet.data(), from),
                (number as u16, &b"0123456789"[..], to.into())
            );
            Some(())
        });
    }
}

#[test]
fn a_tcp_service_of_the_gateway_is_a_stream_for_the_daemon() {
    let mut network = network(|_| {});
    let mut guest = network.guest(2);
    let handle = guest.connect((GATEWAY, 53));
    guest.until("opening", |guest| {
        guest.stream(handle).may_send().then_some(())
    });
    let address = guest.address;
    let mut stream = network.notice(|notice| match notice {
        Notice::ServiceStream {
            port: 53,
            peer,
            stream,
            ..
        } if peer.ip() == address => Some(stream),
        _ => None,
    });
    stream.set_nonblocking(false).unwrap();
    guest.stream(handle).send_slice(b"query").unwrap();
    guest.until("sending", |guest| {
        (guest.stream(handle).send_queue() == 0).then_some(())
    });
    let mut query = [0; 5];
    stream.read_exact(&mut query).unwrap();
    stream.write_all(b"answer").unwrap();
    drop(stream);
    let answer = guest.until("the answer", |guest| {
        let socket = guest.stream(handle);
        (socket.state() == tcp::State::CloseWait && socket.can_recv())
            .then(|| socket.recv(|part| (part.len(), part.to_vec())).unwrap())
    });
    assert_eq!((&query, &answer[..]), (b"query", &b"answer"[..]));
}

#[test]
fn guests_reach_each_other_and_nobody_speaks_for_another() {
    let network = network(|_| {});
    let (_, stream) = network.attach(Some(Guest::mac(2)));
    let mut first = Guest::new(stream, 2);
    let mut second = network.guest(3);
    let server = first.tcp();
    first.stream(server).listen(80).unwrap();
    let client = second.connect((first.address, 80));
    second.until("a connection between guests", |second| {
        first.poll();
        second.stream(client).may_send().then_some(())
    });
    let before = network.snapshot();
    assert_eq!(before.tcp_flows, 0, "the frames stayed on the switch");

    for forged in [network.settings.gateway_mac, Guest::mac(2)] {
        let mut frame = vec![0xff; 6];
        frame.extend_from_slice(&forged.0);
        frame.extend_from_slice(&[0x88, 0xb5]);
        frame.resize(64, 0);
        second.raw(&frame);
    }
    second.until("the count", |_| {
        let spoofed: u64 = network
            .snapshot()
            .links
            .iter()
            .map(|link| link.counters.spoofed)
            .sum();
        (spoofed == 2).then_some(())
    });
}

#[test]
fn a_guest_that_reads_nothing_does_not_stop_another() {
    let network = network(|_| {});
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(
                move || while stream.as_ref().unwrap().write_all(&[7; 65_536]).is_ok() {},
            );
        }
    });
    let mut deaf = network.guest(2);
    let stuck: Vec<_> = (0..4).map(|_| deaf.connect((HOST, port))).collect();
    deaf.until("connections", |guest| {
        stuck
            .iter()
            .all(|handle| guest.stream(*handle).may_send())
            .then_some(())
    });
    // From here on it reads no frame: its link fills up.
    let mut lively = network.guest(3);
    let handle = lively.connect((HOST, port));
    let mut got = 0;
    lively.until("five megabytes", |guest| {
        let socket = guest.stream(handle);
        while socket.can_recv() {
            got += socket.recv(|part| (part.len(), part.len())).unwrap();
        }
        (got > 5_000_000).then_some(())
    });
    let buffered = network.snapshot().buffered_bytes;
    assert!(buffered < 8 << 20, "{buffered} bytes for five connections");
}

#[test]
fn random_frames_and_random_bytes_harm_nobody() {
    let mut network = network(|_| {});
    let mut good = network.guest(2);
    let mut bad = network.guest(3);
    let server = echo_server();
    let handle = good.connect((HOST, server.port()));
    good.until("opening", |guest| {
        guest.stream(handle).may_send().then_some(())
    });

    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..6_000 {
        let length = random() as usize % 200;
        let mut frame: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        // Most get past the first checks: right addresses, IPv4, and a protocol that is carried.
        if round % 4 > 0 && length > 34 {
            frame[..6].copy_from_slice(&network.settings.gateway_mac.0);
            frame[6..12].copy_from_slice(&Guest::mac(3).0);
            frame[12..14].copy_from_slice(if round % 16 == 1 { &[8, 6] } else { &[8, 0] });
            if round % 16 != 1 {
                frame[14] = 0x45;
                frame[16..18].copy_from_slice(&((length - 14) as u16).to_be_bytes());
                frame[20] &= 0x3f;
                frame[23] = [1, 6, 17, 6][round % 4];
                frame[26..30].copy_from_slice(&[10, 77, 0, 3]);
                frame[30..34].copy_from_slice(
                    &[[10, 77, 0, 1], [127, 0, 0, 1], [10, 77, 0, 254]][round % 3],
                );
                frame[24..26].fill(0);
                let sum = netd::engine::checksum::checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
                if round % 2 == 0 && frame[23] == 17 && length > 42 {
                    frame[40..42].fill(0);
                    frame[38..40].copy_from_slice(&((length - 34) as u16).to_be_bytes());
                }
            }
        }
        bad.raw(&frame);
        if round % 50 == 0 {
            bad.poll();
        }
    }
    bad.until("the flood", |_| {
        (network.snapshot().links[1].counters.received_frames >= 5_000).then_some(())
    });
    good.stream(handle).send_slice(b"still here").unwrap();
    good.until("the echo", |guest| {
        (guest.stream(handle).recv_queue() == 10).then_some(())
    });

    // No framing at all: the link is closed, the network goes on.
    let (id, mut stream) = network.attach(None);
    stream.write_all(&[0xee; 4_096]).unwrap();
    let end = network.notice(|notice| match notice {
        Notice::LinkDown { link, end, .. } if link == id => Some(end),
        _ => None,
    });
    assert!(matches!(end, LinkEnd::Garbage(_)), "{end:?}");
    good.stream(handle).send_slice(b"and here").unwrap();
    good.until("the echo", |guest| {
        (guest.stream(handle).recv_queue() == 18).then_some(())
    });
}

#[test]
fn bounds_hold_against_a_guest_that_opens_without_end() {
    let network = network(|settings| {
        settings.limits.tcp_flows = 64;
        settings.limits.udp_mappings = 32;
    });
    let mut guest = network.guest(2);
    let server = echo_server();
    // ARP first: smoltcp keeps only one packet for an address that it does not know.
    let first = guest.udp(9_999);
    guest.datagrams(first).send_slice(b"x", (HOST, 9)).unwrap();
    guest.until("ARP", |_| {
        (network.snapshot().udp_mappings == 1).then_some(())
    });
    for port in 0..500_u16 {
        let handle = guest.connect((HOST, server.port()));
        guest.poll();
        guest.sockets.remove(handle);
        let datagrams = guest.udp(10_000 + port);
        guest
            .datagrams(datagrams)
            .send_slice(b"x", (HOST, 9))
            .unwrap();
        guest.poll();
        guest.sockets.remove(datagrams);
    }
    let snapshot = guest.until("all of them", |_| {
        let snapshot = network.snapshot();
        (snapshot.counters.udp_mappings == 501).then_some(snapshot)
    });
    assert!(
        snapshot.tcp_flows <= 64 && snapshot.udp_mappings <= 32,
        "{snapshot:?}"
    );
    assert!(
        snapshot.counters.udp_evicted == 469,
        "{:?}",
        snapshot.counters
    );
}

#[test]
fn a_guest_that_opens_without_end_takes_room_from_itself_alone() {
    let network = network(|settings| {
        settings.limits.tcp_flows = 64;
        settings.limits.udp_mappings = 32;
    });
    let server = echo_server();
    let (mut modest, mut greedy) = (network.guest(2), network.guest(3));
    let quiet = modest.connect((HOST, server.port()));
    modest.until("the connection", |guest| {
        guest.stream(quiet).may_send().then_some(())
    });
    let asked = modest.udp(9_999);
    modest.datagrams(asked).send_slice(b"x", (HOST, 9)).unwrap();
    modest.until("the mapping", |_| {
        (network.snapshot().udp_mappings == 1).then_some(())
    });
    let first = greedy.udp(9_999);
    greedy.datagrams(first).send_slice(b"x", (HOST, 9)).unwrap();
    greedy.until("ARP", |_| {
        (network.snapshot().udp_mappings == 2).then_some(())
    });
    for port in 0..500_u16 {
        // It stays: one that is reset has ended, and need not make room.
        greedy.connect((HOST, server.port()));
        greedy.poll();
        let datagrams = greedy.udp(10_000 + port);
        greedy
            .datagrams(datagrams)
            .send_slice(b"x", (HOST, 9))
            .unwrap();
        greedy.poll();
        greedy.sockets.remove(datagrams);
    }
    let counters = greedy.until("all of them", |_| {
        let counters = network.snapshot().counters;
        (counters.udp_mappings == 502).then_some(counters)
    });
    assert!(counters.tcp_evicted > 100, "{counters:?}");
    // The oldest and idlest of all is the modest guest's, and still there.
    modest.datagrams(asked).send_slice(b"x", (HOST, 9)).unwrap();
    modest.stream(quiet).send_slice(b"still here").unwrap();
    modest.until("the echo", |guest| {
        (guest.stream(quiet).recv_queue() == 10).then_some(())
    });
    assert_eq!(network.snapshot().counters.udp_mappings, 502);
}

#[test]
fn the_limit_of_open_files_is_raised_to_what_the_system_allows() {
    let _network = network(|_| {});
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(limit.current, limit.maximum);
}

#[test]
fn a_link_that_goes_ends_its_flows_and_tells_the_host() {
    let mut network = network(|_| {});
    let mut guest = network.guest(2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let handle = guest.connect((HOST, listener.local_addr().unwrap().port()));
    guest.until("opening", |guest| {
        guest.stream(handle).may_send().then_some(())
    });
    let (mut server, _) = listener.accept().unwrap();
    drop(guest);
    server.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(
        server.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let end = network.notice(|notice| match notice {
        Notice::LinkDown { end, .. } => Some(end),
        _ => None,
    });
    assert_eq!(end, LinkEnd::Closed);
    assert_eq!(network.snapshot().tcp_flows, 0);
}
