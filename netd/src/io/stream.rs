//! QEMU's `-netdev stream`: frames on a byte stream, each after its length (u32, big-endian; QEMU's
//! net/stream.c and net/net.c `net_fill_rstate`). Reads take as much as is there, writes gather many frames.

use std::io::IoSlice;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use super::link::{FRAME_MAX, HEADERS_MAX, Sent, TcpFrame};
use crate::engine::packet::ETHERNET;

const PREFIX: usize = 4;
/// Bytes read at once: several frames of the largest size.
const READ: usize = 256 << 10;
/// Frames that wait for the socket; more are dropped (TCP's never wait here).
const QUEUE: usize = 256 << 10;
/// Gathered small frames are written out beyond this.
const GATHER: usize = 32 << 10;
/// Segments of one writev; the slices of each and their headers must fit IOV_MAX.
const BATCH: usize = 48;
/// Asked of the kernel for the socket's queue; it gives at most net.core.wmem_max.
const SOCKET_BUFFER: usize = 1 << 20;

/// A connected socket.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    input: Vec<u8>,
    /// Bytes in `input` not yet parsed: `start..end`.
    start: usize,
    end: usize,
    /// Frames (or the rest of one) to be written before anything else.
    output: Vec<u8>,
    written: usize,
    /// The socket took less than it was given: only `flush` after EPOLLOUT writes again.
    full: bool,
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    /// Nothing there.
    Empty,
    /// Bytes; `drained` = the socket held no more.
    Some {
        /// The read did not fill the buffer.
        drained: bool,
    },
    /// The other end closed.
    Closed,
    /// The socket failed.
    Failed(Errno),
}

/// The next frame of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// At this place of the input.
    Frame(std::ops::Range<usize>),
    /// A frame too short to be one; skip it.
    Short,
    /// Only a part of a frame, or nothing.
    Incomplete,
    /// A length that no frame has: the stream cannot be understood from here on.
    Garbage(u32),
}

impl Stream {
    /// Takes a socket.
    pub fn new(socket: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // Both only help; a socket that refuses them still works.
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER).ok();
        rustix::net::sockopt::set_tcp_nodelay(&socket, true).ok();
        Ok(Self {
            socket,
            input: Vec::new(),
            start: 0,
            end: 0,
            output: Vec::new(),
            written: 0,
            full: false,
        })
    }

    /// For epoll.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The input buffer, lent out while frames of it are worked on; give it back by [`Stream::put_input`].
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// Ends a loan.
    pub fn put_input(&mut self, input: Vec<u8>) {
        self.input = input;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads as much as fits.
    pub fn fill(&mut self) -> Filled {
        if self.input.is_empty() {
            self.input = vec![0; READ];
        }
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let room = &mut self.input[self.end..];
        let asked = room.len();
        match rustix::net::recv(&self.socket, room, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Filled::Closed,
            Ok((_, count)) => {
                self.end += count;
                Filled::Some {
                    drained: count < asked,
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => Filled::Empty,
            Err(error) => Filled::Failed(error),
        }
    }

    /// The next frame of `input` (lent by [`Stream::take_input`]).
    pub fn parse(&mut self, input: &[u8]) -> Parsed {
        let rest = &input[self.start..self.end];
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else {
            return Parsed::Incomplete;
        };
        let announced = u32::from_be_bytes(*prefix);
        let length = announced as usize;
        if length > FRAME_MAX {
            return Parsed::Garbage(announced);
        }
        if rest.len() < length {
            return Parsed::Incomplete;
        }
        let start = self.start + PREFIX;
        self.start = start + length;
        if length < ETHERNET {
            Parsed::Short
        } else {
            Parsed::Frame(start..start + length)
        }
    }

    /// Puts a frame behind those that wait.
    pub fn queue(&mut self, frame: &[u8]) -> Sent {
        if self.output.len() - self.written + frame.len() > QUEUE {
            return Sent::Full;
        }
        let length = u32::try_from(frame.len()).unwrap_or(0);
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(frame);
        if self.output.len() >= GATHER && !self.full {
            self.flush()
        } else {
            Sent::Taken
        }
    }

    /// The socket had no room at the last try.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Frames wait to be written.
    pub fn has_output(&self) -> bool {
        self.written < self.output.len()
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> Sent {
        self.full = false;
        while self.has_output() {
            match rustix::net::send(
                &self.socket,
                &self.output[self.written..],
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.full = true;
                    // The part already written goes, so that the queue stays as short as it says.
                    self.output.drain(..self.written);
                    self.written = 0;
                    return Sent::Full;
                }
                Err(_broken) => return Sent::Gone,
            }
        }
        self.output.clear();
        self.written = 0;
        if self.output.capacity() > QUEUE {
            self.output.shrink_to(GATHER);
        }
        Sent::Taken
    }

    /// Writes TCP segments beside their payload; says how many payload bytes were taken.
    pub fn write_tcp(&mut self, frame: &TcpFrame<'_>) -> (usize, Sent) {
        if self.full {
            return (0, Sent::Full);
        }
        let total = frame.length();
        if total == 0 {
            return (0, self.queue(&frame.sealed(0, 0)));
        }
        let mut done = 0;
        while done < total {
            let end = (done + frame.mss.max(1) * BATCH).min(total);
            match self.write_batch(frame, done, end) {
                Batch::Written => done = end,
                Batch::Begun => return (end, Sent::Full),
                Batch::Refused => return (done, Sent::Full),
                Batch::Broken => return (done, Sent::Gone),
            }
        }
        (done, Sent::Taken)
    }

    fn write_batch(&mut self, frame: &TcpFrame<'_>, start: usize, end: usize) -> Batch {
        let mss = frame.mss.max(1);
        let mut heads = [[0_u8; PREFIX + HEADERS_MAX]; BATCH];
        let mut head_length = 0;
        let mut parts = [IoSlice::new(&[]); 1 + 2 * BATCH + 16];
        let waiting = self.output.len() - self.written;
        let mut segments = 0;
        for (head, from) in heads.iter_mut().zip((start..end).step_by(mss)) {
            let to = (from + mss).min(end);
            let headers = frame.sealed(from, to);
            // All alike: the segments of one frame differ in numbers only.
            head_length = PREFIX + headers.len();
            let length = u32::try_from(headers.len() + to - from).unwrap_or(0);
            head[..PREFIX].copy_from_slice(&length.to_be_bytes());
            head[PREFIX..head_length].copy_from_slice(&headers);
            segments += 1;
        }
        parts[0] = IoSlice::new(&self.output[self.written..]);
        let mut count = 1;
        let mut add = |slice| {
            if let Some(part) = parts.get_mut(count) {
                *part = IoSlice::new(slice);
                count += 1;
            }
        };
        for (head, from) in heads[..segments].iter().zip((start..end).step_by(mss)) {
            add(&head[..head_length]);
            frame.each_slice(from, (from + mss).min(end), &mut add);
        }
        let parts = &parts[..count];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = match rustix::net::sendmsg(
            &self.socket,
            parts,
            &mut SendAncillaryBuffer::default(),
            flags,
        ) {
            Ok(sent) => sent,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_broken) => return Batch::Broken,
        };
        if sent <= waiting {
            // Nothing of this batch went.
            self.written += sent;
            self.full = true;
            return Batch::Refused;
        }
        let mut skip = sent - waiting;
        let mut rest = Vec::new();
        for part in &parts[1..] {
            if skip >= part.len() {
                skip -= part.len();
            } else {
                rest.extend_from_slice(&part[skip..]);
                skip = 0;
            }
        }
        self.output.clear();
        self.written = 0;
        if rest.is_empty() {
            return Batch::Written;
        }
        self.output = rest;
        self.full = true;
        Batch::Begun
    }
}

enum Batch {
    Written,
    /// Partly written; the rest is queued, the socket is full.
    Begun,
    /// The socket is full and nothing of it was written.
    Refused,
    Broken,
}
