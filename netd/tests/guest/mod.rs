//! A guest for whole-datapath tests: smoltcp's stack behind QEMU's stream framing, polled in the test's thread.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test's helper: a surprise is a failed test"
)]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use control::mac::MacAddress;
use netd::datapath::{Command, Datapath, DatapathHandle, LinkTransport, NewLink, Notice, Snapshot};
use netd::engine::services::{LinkId, NoServices};
use netd::engine::settings::{NetworkSettings, Reach};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint};

/// How long anything in these tests may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Network {
    pub(crate) handle: DatapathHandle,
    pub(crate) notices: tokio::sync::mpsc::Receiver<Notice>,
    pub(crate) settings: NetworkSettings,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.handle.send(Command::Shutdown).unwrap();
        self.handle.join();
    }
}

pub(crate) fn network(change: impl FnOnce(&mut NetworkSettings)) -> Network {
    let mut settings = NetworkSettings::new("test", Reach::Nat, "10.77.0.0/24".parse().unwrap());
    settings.mtu = 1_500;
    change(&mut settings);
    let (sender, notices) = tokio::sync::mpsc::channel(256);
    let handle = Datapath::spawn(settings.clone(), Box::new(NoServices), sender).unwrap();
    Network {
        handle,
        notices,
        settings,
    }
}

impl Network {
    /// A link's other end.
    pub(crate) fn attach(&self, mac: Option<MacAddress>) -> (LinkId, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reply, answer) = tokio::sync::oneshot::channel();
        let link = NewLink {
            transport: LinkTransport::Stream(theirs.into()),
            guest: None,
            mac,
        };
        self.handle
            .send(Command::AttachLink { link, reply })
            .unwrap();
        (answer.blocking_recv().unwrap().unwrap(), ours)
    }

    /// A guest with the address 10.77.0.`number`.
    pub(crate) fn guest(&self, number: u8) -> Guest {
        let (_, stream) = self.attach(None);
        Guest::new(stream, number)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.handle.send(Command::Snapshot(reply)).unwrap();
        answer.blocking_recv().unwrap()
    }

    /// Waits for a notice of a kind.
    pub(crate) fn notice<T>(&mut self, mut wanted: impl FnMut(Notice) -> Option<T>) -> T {
        let end = clock() + LIMIT;
        while clock() < end {
            match self.notices.try_recv() {
                Ok(notice) => {
                    if let Some(found) = wanted(notice) {
                        return found;
                    }
                }
                Err(_) => std::thread::yield_now(),
            }
        }
        panic!("the notice did not come");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "these tests run against real sockets in real time"
)]
pub(crate) fn clock() -> Instant {
    Instant::now()
}

/// Frames over a stream.
pub(crate) struct Wire {
    stream: UnixStream,
    input: Vec<u8>,
    frames: VecDeque<Vec<u8>>,
    output: Vec<u8>,
}

impl Wire {
    fn exchange(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the link broke: {error}"),
            }
        }
        let mut buffer = [0; 65_536];
        while self.frames.len() < 64 {
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the link was closed"),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the link broke: {error}"),
            }
            while let Some(prefix) = self.input.first_chunk::<4>() {
                let length = u32::from_be_bytes(*prefix) as usize;
                if self.input.len() < 4 + length {
                    break;
                }
                self.frames.push_back(self.input[4..4 + length].to_vec());
                self.input.drain(..4 + length);
            }
        }
    }
}

pub(crate) struct Received(Vec<u8>);
pub(crate) struct Sending<'a>(&'a mut Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let start = self.0.len() + 4;
        self.0.extend_from_slice(&(length as u32).to_be_bytes());
        self.0.resize(start + length, 0);
        f(&mut self.0[start..])
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.frames.pop_front()?;
        Some((Received(frame), Sending(&mut self.output)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1_514;
        capabilities
    }
}

pub(crate) struct Guest {
    pub(crate) wire: Wire,
    pub(crate) interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    pub(crate) address: Ipv4Addr,
    start: Instant,
    next_port: u16,
}

impl Guest {
    pub(crate) fn new(stream: UnixStream, number: u8) -> Self {
        stream.set_nonblocking(true).unwrap();
        let mut wire = Wire {
            stream,
            input: Vec::new(),
            frames: VecDeque::new(),
            output: Vec::new(),
        };
        let mac = HardwareAddress::Ethernet(EthernetAddress(Self::mac(number).0));
        let mut interface =
            Interface::new(Config::new(mac), &mut wire, smoltcp::time::Instant::ZERO);
        let address = Ipv4Addr::new(10, 77, 0, number);
        interface
            .update_ip_addrs(|addresses| addresses.push(IpCidr::new(address.into(), 24)).unwrap());
        interface
            .routes_mut()
            .add_default_ipv4_route(Ipv4Addr::new(10, 77, 0, 1))
            .unwrap();
        Self {
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            address,
            start: clock(),
            next_port: 49_152,
        }
    }

    pub(crate) fn mac(number: u8) -> MacAddress {
        MacAddress([2, 0, 0, 0, 0, number])
    }

    pub(crate) fn poll(&mut self) {
        let now = smoltcp::time::Instant::from_micros((clock() - self.start).as_micros() as i64);
        self.wire.exchange();
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        self.wire.exchange();
    }

    /// Polls until `done` gives something.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let end = clock() + LIMIT;
        while clock() < end {
            self.poll();
            if let Some(found) = done(self) {
                return found;
            }
            std::thread::yield_now();
        }
        panic!("{what} did not happen");
    }

    pub(crate) fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_536]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    pub(crate) fn connect(&mut self, to: impl Into<IpEndpoint>) -> SocketHandle {
        let handle = self.tcp();
        self.next_port += 1;
        let port = self.next_port;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket
            .connect(self.interface.context(), to.into(), port)
            .unwrap();
        handle
    }

    pub(crate) fn stream(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(crate) fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 65_536]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn datagrams(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(crate) fn echo(&mut self, identifier: u16) -> SocketHandle {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 4_096]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(identifier)).unwrap();
        self.sockets.add(socket)
    }

    /// Sends bytes as a frame of their own, whatever they are.
    pub(crate) fn raw(&mut self, frame: &[u8]) {
        self.wire
            .output
            .extend_from_slice(&(frame.len() as u32).to_be_bytes());
        self.wire.output.extend_from_slice(frame);
    }
}
