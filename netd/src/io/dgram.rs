//! A frame a datagram on a unix socket of ours: QEMU's `-netdev dgram`, vfkit's and krunkit's unixgram (as gvproxy's
//! `-listen-vfkit`). Whoever sent last is who we send to, so a VMM may end and another take its place. The socket stays
//! unconnected, else the next VMM could not speak; only while the VMM's queue is full is it connected to it, for that
//! is how the kernel tells when there is room (unix(7), net/unix/af_unix.c `unix_dgram_poll`).

use std::io::IoSlice;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix};

use super::link::{Sent, TcpFrame};
use super::tap::Read;
use crate::engine::offload::Offload;

/// What vfkit says first.
const HELLO: &[u8] = b"VFKT";
/// Asked of the kernel, for several frames of 64 KiB; it gives at most net.core.wmem_max.
const SOCKET_BUFFER: usize = 4 << 20;
/// Payload slices of one frame.
const SLICES: usize = 16;

/// A bound socket and who was heard on it.
#[derive(Debug)]
pub struct Dgram {
    socket: OwnedFd,
    peer: Option<SocketAddrUnix>,
    connected: bool,
}

impl Dgram {
    /// Takes a bound socket.
    pub fn new(socket: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // A socket that refuses still works, with a shorter queue.
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER).ok();
        Ok(Self {
            socket,
            peer: None,
            connected: false,
        })
    }

    /// For epoll.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads one frame into `buffer`.
    pub fn read(&mut self, buffer: &mut [u8]) -> Read {
        loop {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            let (got, length, from) = match rustix::net::recvfrom(&self.socket, &mut *buffer, flags)
            {
                Ok(received) => received,
                Err(Errno::INTR) => continue,
                // A send that failed is told here too; the next send finds out what it means.
                Err(Errno::AGAIN | Errno::CONNREFUSED | Errno::CONNRESET) => return Read::Empty,
                Err(error) => return Read::Gone(error),
            };
            let from = from.and_then(|address| SocketAddrUnix::try_from(address).ok());
            if from.is_some() && from != self.peer {
                tracing::debug!(peer = ?from, "frames come from this socket now");
                self.peer = from;
            }
            if buffer.get(..got) == Some(HELLO) && length == HELLO.len() {
                continue;
            }
            if length > got {
                return Read::Malformed;
            }
            return Read::Frame(0..got, Offload::default());
        }
    }

    /// There may be room again.
    pub fn resume(&mut self) {
        if std::mem::take(&mut self.connected) {
            // Whatever it was connected to, it is not any more.
            rustix::net::connect_unspec(&self.socket).ok();
        }
    }

    /// Sends one frame.
    pub fn write(&mut self, parts: &[IoSlice<'_>]) -> Sent {
        let Some(peer) = &self.peer else {
            return Sent::Dropped;
        };
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let mut none = SendAncillaryBuffer::default();
        match rustix::net::sendmsg_addr(&self.socket, peer, parts, &mut none, flags) {
            Ok(_all) => Sent::Taken,
            Err(Errno::AGAIN | Errno::NOBUFS) => {
                self.connected = rustix::net::connect(&self.socket, peer).is_ok();
                if self.connected {
                    Sent::Full
                } else {
                    Sent::Gone
                }
            }
            // Nobody has the socket file open, or it is away.
            Err(Errno::CONNREFUSED | Errno::CONNRESET | Errno::NOENT) => Sent::Gone,
            Err(_refused) => Sent::Dropped,
        }
    }

    /// Sends TCP payload as segments; says how many bytes of it were taken.
    pub fn write_tcp(&mut self, frame: &TcpFrame<'_>) -> (usize, Sent) {
        let mut done = 0;
        loop {
            let end = (done + frame.mss).min(frame.length());
            match self.write_segment(frame, done, end) {
                Sent::Taken | Sent::Dropped => {}
                stop @ (Sent::Full | Sent::Gone) => return (done, stop),
            }
            done = end;
            if done == frame.length() {
                return (done, Sent::Taken);
            }
        }
    }

    fn write_segment(&mut self, frame: &TcpFrame<'_>, start: usize, end: usize) -> Sent {
        let headers = frame.sealed(start, end);
        let mut parts = [IoSlice::new(&[]); SLICES + 1];
        parts[0] = IoSlice::new(&headers);
        let mut count = 1;
        frame.each_slice(start, end, |slice| {
            if let Some(part) = parts.get_mut(count) {
                *part = IoSlice::new(slice);
                count += 1;
            }
        });
        self.write(&parts[..count])
    }
}
