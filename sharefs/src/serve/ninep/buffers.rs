//! The two buffers of a connection: bytes that have come and frames that are to go.
//!
//! Each is made once a version is agreed on and used again for ever; what a client never sends costs address
//! space only.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use crate::ninep::wire::{BadLength, Frame};

/// Room beside the longest frame, so that small ones come and go many at a time.
const BESIDE: usize = 128 * 1024;
/// Before a version is agreed on.
const FIRST: u32 = 4096;
/// Answers are sent when so many bytes have gathered, though more requests are there.
const ENOUGH: usize = 256 * 1024;

/// Bytes from the client.
pub(super) struct Incoming {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            bytes: room(FIRST),
            start: 0,
            end: 0,
        }
    }
}

impl Incoming {
    /// From here on frames are up to so long.
    pub(super) fn resize(&mut self, longest: u32) {
        let mut bytes = room(longest);
        let held = self.end - self.start;
        if bytes.len() == self.bytes.len() || bytes.len() < held {
            return;
        }
        bytes[..held].copy_from_slice(&self.bytes[self.start..self.end]);
        (self.bytes, self.start, self.end) = (bytes, 0, held);
    }

    /// The next frame, if it is all there.
    pub(super) fn first(&self, longest: u32) -> Result<Option<Frame<'_>>, BadLength> {
        Frame::first(&self.bytes[self.start..self.end], longest)
    }

    /// The first so many bytes are dealt with.
    pub(super) fn pass(&mut self, length: usize) {
        self.start = (self.start + length).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Waits for more bytes; 0: the client has closed.
    pub(super) fn receive(&mut self, stream: &UnixStream) -> Result<usize, Errno> {
        if self.start > 0 && !self.has_room_for_first() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        // read(2) and write(2), not recv(2) and send(2): this thread may make no calls on sockets.
        let got = rustix::io::read(stream, &mut self.bytes[self.end..])?;
        self.end += got;
        Ok(got)
    }

    /// Whether the frame that has begun to come fits in behind what is there.
    fn has_room_for_first(&self) -> bool {
        let length = self.bytes[self.start..self.end].first_chunk();
        let length = length.map_or(FIRST, |bytes| u32::from_le_bytes(*bytes));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        length <= self.bytes.len() - self.start
    }
}

/// Frames for the client.
pub(super) struct Outgoing {
    bytes: Box<[u8]>,
    end: usize,
    sender: Arc<Sender>,
}

impl Outgoing {
    pub(super) fn new(sender: Arc<Sender>) -> Self {
        Self {
            bytes: room(FIRST),
            end: 0,
            sender,
        }
    }

    pub(super) fn resize(&mut self, longest: u32) {
        let mut bytes = room(longest);
        if bytes.len() != self.bytes.len() && bytes.len() >= self.end {
            bytes[..self.end].copy_from_slice(&self.bytes[..self.end]);
            self.bytes = bytes;
        }
    }

    /// Room for an answer of up to `needed` bytes, behind those that wait to be sent.
    pub(super) fn room(&mut self, needed: usize) -> Result<&mut [u8], Errno> {
        if self.end >= ENOUGH || self.bytes.len() - self.end < needed {
            self.send()?;
        }
        Ok(&mut self.bytes[self.end..])
    }

    /// So many bytes of that room are an answer.
    pub(super) fn add(&mut self, length: usize) {
        self.end = (self.end + length).min(self.bytes.len());
    }

    /// Sends all.
    pub(super) fn send(&mut self) -> Result<(), Errno> {
        let end = std::mem::take(&mut self.end);
        self.sender.send(&self.bytes[..end])
    }
}

/// Whoever has a whole frame may send it: the connection's thread and its slow lane.
pub(super) struct Sender {
    stream: UnixStream,
    turn: Mutex<()>,
}

impl Sender {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            turn: Mutex::new(()),
        }
    }

    pub(super) fn send(&self, mut frames: &[u8]) -> Result<(), Errno> {
        if frames.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        while !frames.is_empty() {
            // SIGPIPE is ignored in every Rust program: a client that is gone is EPIPE.
            match rustix::io::write(&self.stream, frames) {
                Ok(sent) => frames = frames.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn room(longest: u32) -> Box<[u8]> {
    let longest = usize::try_from(longest).unwrap_or_default();
    vec![0; longest + BESIDE].into_boxed_slice()
}
