//! A frame a datagram on a unix socket of ours: QEMU's `-netdev dgram`, vfkit's and krunkit's unixgram (as gvproxy's
//! `-listen-vfkit`). Whoever sent last is who we send to, so a VMM may end and another take its place. The socket is
//! never connected, else the next VMM could not speak; nor disconnected, for that throws away what it has received
//! (net/unix/af_unix.c `unix_dgram_disconnected`). While the VMM's queue is full a second socket is connected to it,
//! which sends nothing: polling it is how the kernel tells when there is room (`unix_dgram_poll`). Where what is on its
//! way fills our own send buffer first, our own socket tells.

use std::io::IoSlice;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use super::link::{Sent, TcpFrame};
use super::tap::Read;
use crate::engine::offload::Offload;

/// What vfkit says first.
const HELLO: &[u8] = b"VFKT";
/// Asked of the kernel, for several frames of 64 KiB; it gives at most net.core.wmem_max.
const SOCKET_BUFFER: usize = 4 << 20;
/// Payload slices of one frame.
const SLICES: usize = 16;
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// A bound socket and who was heard on it.
#[derive(Debug)]
pub struct Dgram {
    socket: OwnedFd,
    peer: Option<SocketAddrUnix>,
    /// Connected to a peer whose queue is full; none while our own send buffer is.
    room: Option<OwnedFd>,
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
            room: None,
        })
    }

    /// For epoll, to read.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// For epoll: writable when there is room again after [`Sent::Full`]; without it [`Self::descriptor`] is.
    pub fn room(&self) -> Option<BorrowedFd<'_>> {
        self.room.as_ref().map(AsFd::as_fd)
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

    /// There may be room again. [`Self::room`] is closed, which takes it out of epoll.
    pub fn resume(&mut self) {
        self.room = None;
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
            // Never "there is room" for a buffer that was full just now: it is below a quarter (`unix_writable`).
            Err(Errno::AGAIN | Errno::NOBUFS) if !is_writable(&self.socket) => Sent::Full,
            Err(Errno::AGAIN | Errno::NOBUFS) => match wait_for_room(peer) {
                Ok(room) => {
                    self.room = Some(room);
                    Sent::Full
                }
                Err(Errno::CONNREFUSED | Errno::CONNRESET | Errno::NOENT) => Sent::Gone,
                // No descriptor left: as a full queue without anybody who waits.
                Err(_refused) => Sent::Dropped,
            },
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

/// A socket that cannot be asked waits like one whose peer is full.
fn is_writable(socket: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::OUT)];
    rustix::event::poll(&mut polled, Some(&AT_ONCE)).is_err()
        || polled[0].revents().contains(PollFlags::OUT)
}

fn wait_for_room(peer: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let room = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&room, peer)?;
    Ok(room)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// Ours, and a VMM's that has said something.
    fn pair(folder: &std::path::Path) -> (Dgram, UnixDatagram) {
        let ours = UnixDatagram::bind(folder.join("ours")).unwrap();
        let vmm = UnixDatagram::bind(folder.join("vmm")).unwrap();
        let mut ours = Dgram::new(ours.into()).unwrap();
        vmm.send_to(b"first", folder.join("ours")).unwrap();
        assert_eq!(receive(&mut ours).as_deref(), Some(&b"first"[..]));
        (ours, vmm)
    }

    fn receive(ours: &mut Dgram) -> Option<Vec<u8>> {
        let mut buffer = [0; 64];
        match ours.read(&mut buffer) {
            Read::Frame(range, _) => Some(buffer[range].to_vec()),
            Read::Empty | Read::Malformed | Read::Gone(_) => None,
        }
    }

    fn fill(ours: &mut Dgram) -> usize {
        let frame = [IoSlice::new(b"frame")];
        (0..100_000)
            .position(|_| ours.write(&frame) == Sent::Full)
            .expect("the kernel's queue has an end")
    }

    fn has_room(ours: &Dgram) -> bool {
        is_writable(ours.room.as_ref().unwrap_or(&ours.socket))
    }

    /// Fills the VMM's queue, which is empty then and there is room again, three times.
    fn fill_and_drain(mut ours: Dgram, vmm: &UnixDatagram, ours_at: &std::path::Path) {
        for _ in 0..3 {
            let sent = fill(&mut ours);
            vmm.send_to(b"meanwhile", ours_at).unwrap();
            assert!(!has_room(&ours));
            let mut buffer = [0; 64];
            for _ in 0..sent {
                vmm.recv(&mut buffer).unwrap();
            }
            assert!(has_room(&ours));
            ours.resume();
            assert_eq!(receive(&mut ours).as_deref(), Some(&b"meanwhile"[..]));
            // Nor is the VMM told of an error.
            assert_eq!(vmm.take_error().unwrap().map(|error| error.kind()), None);
        }
    }

    #[test]
    fn waiting_for_room_loses_nothing_that_was_received() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, vmm) = pair(folder.path());
        fill_and_drain(ours, &vmm, &folder.path().join("ours"));
    }

    /// The kernel does not count frames then: what ends is our own send buffer.
    #[test]
    fn a_vmm_that_is_connected_to_us_is_waited_for_too() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, vmm) = pair(folder.path());
        vmm.connect(folder.path().join("ours")).unwrap();
        fill_and_drain(ours, &vmm, &folder.path().join("ours"));
    }

    #[test]
    fn another_vmm_may_take_the_place_of_one_whose_queue_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ours, vmm) = pair(folder.path());
        fill(&mut ours);
        drop(vmm);
        assert!(has_room(&ours));
        std::fs::remove_file(folder.path().join("vmm")).unwrap();
        let next = UnixDatagram::bind(folder.path().join("vmm")).unwrap();
        next.send_to(b"next", folder.path().join("ours")).unwrap();
        ours.resume();
        assert_eq!(receive(&mut ours).as_deref(), Some(&b"next"[..]));
        assert!(ours.write(&[IoSlice::new(b"answer")]) == Sent::Taken);
        let mut buffer = [0; 64];
        assert_eq!(next.recv(&mut buffer).unwrap(), b"answer".len());
    }
}
