//! One flow: a smoltcp socket towards the guest, a kernel socket towards the far end.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use anyhow::{Result, bail};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt,
};
use smoltcp::iface::{Config, Interface, PollResult};
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use crate::port::{Port, Tap};
use crate::sys::{RingSocket, Rings};

/// Turns of the pump and packets of one flow before the others get theirs.
const TURNS: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The host's connect is under way; the SYN-ACK is held back.
    Dialing,
    Open,
    /// The guest was told; nothing more is moved.
    Over,
}

pub(crate) struct Flow {
    pub(crate) key: crate::Key,
    /// Its entry in the engine's timers.
    pub(crate) timer: Option<Instant>,
    interface: Interface,
    socket: RingSocket,
    host: OwnedFd,
    segment_size: u16,
    stage: Stage,
    readable: bool,
    writable: bool,
    host_ended: bool,
    guest_ended: bool,
    /// Something was moved since the rings were given back.
    used: bool,
    /// Something was moved since the last sweep.
    busy: bool,
}

impl Flow {
    pub(crate) fn open(
        key: crate::Key,
        segment_size: u16,
        rings: Rings,
        now: Instant,
    ) -> Result<Self> {
        let (_, far) = key;
        let host = dial(far)?;
        let mut socket = RingSocket::new(rings);
        socket.tcp().set_nagle_enabled(false);
        socket.tcp().set_ack_delay(None);
        socket.tcp().pause_synack(true);
        if socket.tcp().listen((*far.ip(), far.port())).is_err() {
            bail!("cannot listen on {far}");
        }
        // The capabilities are all that is read from the device here.
        let mut interface =
            Interface::new(Config::new(HardwareAddress::Ip), &mut Capabilities, now);
        interface.update_ip_addrs(|addresses| {
            // The far end's address is the interface's own; the guest is its neighbour.
            addresses.push(IpCidr::new((*far.ip()).into(), 0)).ok();
        });
        Ok(Self {
            key,
            timer: None,
            interface,
            socket,
            host,
            segment_size,
            stage: Stage::Dialing,
            readable: false,
            writable: false,
            host_ended: false,
            guest_ended: false,
            used: false,
            busy: false,
        })
    }

    pub(crate) fn host(&self) -> &OwnedFd {
        &self.host
    }

    pub(crate) fn into_rings(self) -> Rings {
        self.socket.into_rings()
    }

    /// What epoll said; edges, so that nothing is registered twice.
    pub(crate) fn host_is_ready(&mut self, flags: EventFlags) {
        let error = EventFlags::ERR | EventFlags::HUP;
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | error);
        self.writable |= flags.intersects(EventFlags::OUT | error);
    }

    pub(crate) fn take_packet(&mut self, tap: &mut Tap, packet: &[u8], now: Instant) {
        let mut port = Port {
            tap,
            packet: Some(packet),
            segment_size: self.segment_size,
        };
        let sockets = self.socket.sockets();
        self.interface.poll_ingress_single(now, &mut port, sockets);
    }

    /// Moves bytes both ways as far as both sides take them, then lets smoltcp send.
    pub(crate) fn pump(&mut self, tap: &mut Tap, now: Instant) {
        self.busy = true;
        self.used = true;
        if self.stage == Stage::Dialing && self.writable {
            self.finish_dialing();
        }
        for _ in 0..TURNS {
            let moved = self.stage == Stage::Open && (self.move_to_guest() | self.move_to_host());
            let sent = self.send(tap, now);
            if !moved && !sent {
                break;
            }
        }
        let state = self.socket.tcp().state();
        match state {
            State::Closed | State::TimeWait => {
                let complete = self.host_ended && self.guest_ended;
                if !complete && self.stage == Stage::Open {
                    // The guest's reset becomes one at the far end.
                    sockopt::set_socket_linger(&self.host, Some(std::time::Duration::ZERO)).ok();
                }
                self.stage = Stage::Over;
            }
            State::Listen
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => {}
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    pub(crate) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, self.socket.sockets())
    }

    /// Gives the pages of empty rings back after a whole sweep without traffic. Bytes received out of
    /// order would go too; the tap neither reorders nor, between sweeps, leaves a hole unmended.
    pub(crate) fn give_back_if_idle(&mut self) {
        let tcp = self.socket.tcp();
        let empty = tcp.send_queue() == 0 && tcp.recv_queue() == 0;
        if !self.busy && self.used && empty && self.stage == Stage::Open {
            self.socket.give_back_pages();
            self.used = false;
        }
        self.busy = false;
    }

    fn finish_dialing(&mut self) {
        match sockopt::socket_error(&self.host) {
            Ok(Ok(())) => {
                self.stage = Stage::Open;
                self.socket.tcp().pause_synack(false);
            }
            Ok(Err(_)) | Err(_) => self.socket.tcp().abort(),
        }
    }

    fn move_to_guest(&mut self) -> bool {
        let tcp = self.socket.tcp();
        if !self.readable || self.host_ended || !tcp.can_send() {
            return false;
        }
        let host = &self.host;
        let received = tcp.send(|room| {
            let result = rustix::net::recv(host, &mut *room, RecvFlags::empty());
            let result = result.map(|(count, _)| count);
            (result.unwrap_or(0), result)
        });
        match received {
            Ok(Ok(0)) => {
                self.host_ended = true;
                tcp.close();
            }
            Ok(Ok(_)) => {}
            Ok(Err(Errno::AGAIN)) => {
                self.readable = false;
                return false;
            }
            Ok(Err(_)) | Err(_) => tcp.abort(),
        }
        true
    }

    fn move_to_host(&mut self) -> bool {
        let tcp = self.socket.tcp();
        if self.writable && tcp.can_recv() {
            let host = &self.host;
            let sent = tcp.recv(|bytes| {
                let result = rustix::net::send(host, bytes, SendFlags::NOSIGNAL);
                (result.unwrap_or(0), result)
            });
            return match sent {
                Ok(Ok(_)) => true,
                Ok(Err(Errno::AGAIN)) => {
                    self.writable = false;
                    false
                }
                Ok(Err(_)) | Err(_) => {
                    tcp.abort();
                    true
                }
            };
        }
        let ended = matches!(
            tcp.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if ended && !self.guest_ended && !tcp.can_recv() {
            self.guest_ended = true;
            rustix::net::shutdown(&self.host, Shutdown::Write).ok();
        }
        false
    }

    fn send(&mut self, tap: &mut Tap, now: Instant) -> bool {
        let mut port = Port {
            tap,
            packet: None,
            segment_size: self.segment_size,
        };
        let mut sent = false;
        for _ in 0..TURNS {
            let sockets = self.socket.sockets();
            if self.interface.poll_egress(now, &mut port, sockets) == PollResult::None {
                break;
            }
            sent = true;
        }
        sent
    }
}

fn dial(far: SocketAddrV4) -> Result<OwnedFd> {
    let host = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    sockopt::set_tcp_nodelay(&host, true)?;
    match rustix::net::connect(&host, &far) {
        // A refusal that is known at once comes again with the first event.
        Ok(()) | Err(Errno::INPROGRESS | Errno::CONNREFUSED) => Ok(host),
        Err(error) => Err(error.into()),
    }
}

/// What [`Port`] says of itself, for the time when there is none.
struct Capabilities;

impl smoltcp::phy::Device for Capabilities {
    type RxToken<'a> = crate::port::Received<'a>;
    type TxToken<'a> = crate::port::Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        None
    }

    fn transmit(&mut self, _now: Instant) -> Option<Self::TxToken<'_>> {
        None
    }

    fn capabilities(&self) -> smoltcp::phy::DeviceCapabilities {
        crate::port::capabilities()
    }
}
