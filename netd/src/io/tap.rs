//! A tap device as a link: one read or one writev a frame, up to 64 KiB each if the device has the
//! virtio-net header (then the kernel on its other side leaves checksums and segmentation to us and we to it).

use std::io::IoSlice;
use std::ops::Range;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;

use super::link::{FRAME_MAX, Sent, TcpFrame};
use crate::engine::offload::{Offload, VNET_HEADER};

/// Payload slices of one frame.
const SLICES: usize = 16;

/// An open tap.
#[derive(Debug)]
pub struct Tap {
    descriptor: OwnedFd,
    header: bool,
}

/// A frame that was read.
#[derive(Debug)]
pub enum Read {
    /// Nothing there.
    Empty,
    /// A frame at this place of the buffer.
    Frame(Range<usize>, Offload),
    /// Something that is no frame; skip it.
    Malformed,
    /// The device is gone.
    Gone(Errno),
}

/// Bytes that a read buffer needs.
pub const READ_BUFFER: usize = VNET_HEADER + FRAME_MAX + 64;

impl Tap {
    /// Takes a descriptor; says why if it is no tap.
    pub fn new(descriptor: OwnedFd, header: bool) -> std::io::Result<Self> {
        let header = if crate::sys::tap_has_header(descriptor.as_fd())? {
            crate::sys::set_tap_offload(descriptor.as_fd(), VNET_HEADER)?;
            true
        } else {
            if header {
                tracing::debug!("the tap was announced with a virtio-net header and has none");
            }
            false
        };
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        Ok(Self { descriptor, header })
    }

    /// For epoll.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Reads one frame into `buffer`.
    pub fn read(&self, buffer: &mut [u8]) -> Read {
        let length = match rustix::io::read(&self.descriptor, &mut *buffer) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Read::Empty,
            Err(error) => return Read::Gone(error),
        };
        if !self.header {
            return Read::Frame(0..length, Offload::default());
        }
        let offload = buffer[..length].first_chunk().and_then(Offload::parse);
        match offload {
            Some(offload) if length <= READ_BUFFER => Read::Frame(VNET_HEADER..length, offload),
            Some(_) | None => Read::Malformed,
        }
    }

    /// Whether frames may leave with work left to do.
    pub fn takes_offload(&self) -> bool {
        self.header
    }

    /// Writes a whole frame.
    pub fn write(&self, frame: &[u8], offload: &Offload) -> Sent {
        let header = offload.emit();
        let parts = [IoSlice::new(&header), IoSlice::new(frame)];
        self.writev(if self.header { &parts } else { &parts[1..] })
    }

    fn writev(&self, parts: &[IoSlice<'_>]) -> Sent {
        match rustix::io::writev(&self.descriptor, parts) {
            Ok(_all) => Sent::Taken,
            Err(Errno::AGAIN | Errno::NOBUFS) => Sent::Full,
            Err(Errno::BADFD | Errno::NODEV) => Sent::Gone,
            // EIO: the interface is down; EINVAL: the kernel did not like the frame. Neither ends the link.
            Err(_refused) => Sent::Dropped,
        }
    }

    /// Writes one TCP frame beside its payload; longer than a segment only if the device segments.
    pub fn write_tcp(&self, frame: &TcpFrame<'_>) -> (usize, Sent) {
        if self.header {
            let sent = self.write_tcp_part(frame, 0, frame.length());
            return (
                if sent == Sent::Full {
                    0
                } else {
                    frame.length()
                },
                sent,
            );
        }
        let mut done = 0;
        loop {
            let end = (done + frame.mss).min(frame.length());
            match self.write_tcp_part(frame, done, end) {
                Sent::Taken | Sent::Dropped => {}
                stop @ (Sent::Full | Sent::Gone) => return (done, stop),
            }
            done = end;
            if done == frame.length() {
                return (done, Sent::Taken);
            }
        }
    }

    fn write_tcp_part(&self, frame: &TcpFrame<'_>, start: usize, end: usize) -> Sent {
        if !self.header {
            let headers = frame.sealed(start, end);
            return self.write_parts(&[], &headers, frame, start..end);
        }
        let (headers, offload) = frame.offloaded(start, end);
        self.write_parts(&offload.emit(), &headers, frame, start..end)
    }

    fn write_parts(
        &self,
        front: &[u8],
        headers: &[u8],
        frame: &TcpFrame<'_>,
        payload: Range<usize>,
    ) -> Sent {
        let mut parts = [IoSlice::new(&[]); SLICES + 2];
        parts[0] = IoSlice::new(front);
        parts[1] = IoSlice::new(headers);
        let mut count = 2;
        frame.each_slice(payload.start, payload.end, |slice| {
            if let Some(part) = parts.get_mut(count) {
                *part = IoSlice::new(slice);
                count += 1;
            }
        });
        self.writev(&parts[..count])
    }
}
