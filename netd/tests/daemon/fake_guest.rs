//! A guest made of smoltcp: QEMU's framing on a socket, a DHCP client, UDP and TCP.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{dhcpv4, tcp, udp};
use smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint, Ipv4Cidr};

use crate::daemon::LIMIT;

/// The guest's NIC: whole frames in, whole frames out.
struct Nic {
    stream: UnixStream,
    input: Vec<u8>,
    frames: VecDeque<Vec<u8>>,
    open: bool,
}

impl Nic {
    fn fill(&mut self) {
        let mut buffer = [0; 16_384];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.open = false;
                    break;
                }
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.open = false;
                    break;
                }
            }
        }
        while let Some(length) = self.input.first_chunk::<4>() {
            let end = 4 + usize::try_from(u32::from_be_bytes(*length)).unwrap();
            if self.input.len() < end {
                break;
            }
            self.frames.push_back(self.input[4..end].to_vec());
            self.input.drain(..end);
        }
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sender<'a>(&'a mut UnixStream);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; 4 + length];
        frame[..4].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        let result = f(&mut frame[4..]);
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match self.0.write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                // The link is gone; the test will see it.
                Err(_) => break,
            }
        }
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sender<'_>)> {
        let frame = self.frames.pop_front()?;
        Some((Received(frame), Sender(&mut self.stream)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sender<'_>> {
        self.open.then_some(Sender(&mut self.stream))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

pub(crate) struct FakeGuest {
    nic: Nic,
    interface: Interface,
    sockets: SocketSet<'static>,
    dhcp: SocketHandle,
    started: Instant,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) resolvers: Vec<Ipv4Addr>,
}

impl FakeGuest {
    pub(crate) fn new(stream: UnixStream, mac: [u8; 6]) -> Self {
        stream.set_nonblocking(true).unwrap();
        let mut nic = Nic {
            stream,
            input: Vec::new(),
            frames: VecDeque::new(),
            open: true,
        };
        let started = Instant::now();
        let config = Config::new(EthernetAddress(mac).into());
        let interface = Interface::new(config, &mut nic, smoltcp::time::Instant::ZERO);
        let mut sockets = SocketSet::new(Vec::new());
        let dhcp = sockets.add(dhcpv4::Socket::new());
        Self {
            nic,
            interface,
            sockets,
            dhcp,
            started,
            address: None,
            gateway: None,
            resolvers: Vec::new(),
        }
    }

    /// One round of everything; the link is looked at once.
    pub(crate) fn poll(&mut self) {
        self.nic.fill();
        let elapsed = self.started.elapsed();
        let now = smoltcp::time::Instant::from_micros(i64::try_from(elapsed.as_micros()).unwrap());
        self.interface.poll(now, &mut self.nic, &mut self.sockets);
        let event = self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.dhcp).poll();
        match event {
            Some(dhcpv4::Event::Configured(config)) => {
                let (address, router) = (config.address, config.router);
                self.resolvers = config.dns_servers.to_vec();
                self.gateway = router;
                self.set_address(address);
                if let Some(router) = router {
                    let routes = self.interface.routes_mut();
                    routes.add_default_ipv4_route(router).unwrap();
                }
            }
            Some(dhcpv4::Event::Deconfigured) => {
                self.address = None;
                self.interface
                    .update_ip_addrs(|addresses| addresses.clear());
            }
            None => {}
        }
    }

    fn set_address(&mut self, address: Ipv4Cidr) {
        self.address = Some(address.address());
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            addresses.push(IpCidr::Ipv4(address)).unwrap();
        });
    }

    /// Polls until `look` finds something.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.poll();
            if let Some(found) = look(self) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "the guest waited in vain for {what}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn obtain_address(&mut self) -> Ipv4Addr {
        self.until("an address", |guest| guest.address)
    }

    pub(crate) fn is_plugged(&mut self) -> bool {
        self.poll();
        self.nic.open
    }

    /// Sends raw bytes down the wire, framing and all.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.nic.stream.set_nonblocking(false).unwrap();
        self.nic.stream.write_all(bytes).ok();
        self.nic.stream.set_nonblocking(true).unwrap();
    }

    /// A datagram to port 53 of the gateway, and what comes back.
    pub(crate) fn ask_udp(&mut self, query: &[u8]) -> Vec<u8> {
        let server = IpEndpoint::new(self.gateway.unwrap().into(), 53);
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 16_384]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        // smoltcp picks no port by itself.
        socket.bind(50_000 + u16::from(query[1])).unwrap();
        socket.send_slice(query, server).unwrap();
        let handle = self.sockets.add(socket);
        let answer = self.until("a DNS answer", |guest| {
            let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
            socket.recv().ok().map(|(bytes, _)| bytes.to_vec())
        });
        self.sockets.remove(handle);
        answer
    }

    /// The same over TCP.
    pub(crate) fn ask_tcp(&mut self, query: &[u8]) -> Vec<u8> {
        let server = IpEndpoint::new(self.gateway.unwrap().into(), 53);
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_536]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket
            .connect(
                self.interface.context(),
                server,
                40_000 + u16::from(query[1]),
            )
            .unwrap();
        let handle = self.sockets.add(socket);
        let mut framed = u16::try_from(query.len()).unwrap().to_be_bytes().to_vec();
        framed.extend_from_slice(query);
        self.until("a TCP connection", |guest| {
            let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
            (socket.can_send() && socket.send_slice(&framed).unwrap() == framed.len()).then_some(())
        });
        let mut received = Vec::new();
        let answer = self.until("a DNS answer over TCP", |guest| {
            let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if socket.can_recv() {
                socket
                    .recv(|bytes| {
                        received.extend_from_slice(bytes);
                        (bytes.len(), ())
                    })
                    .unwrap();
            }
            let length = usize::from(u16::from_be_bytes(*received.first_chunk()?));
            received.get(2..2 + length).map(<[u8]>::to_vec)
        });
        self.sockets.remove(handle);
        answer
    }
}
