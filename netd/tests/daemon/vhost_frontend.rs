//! A VMM with one guest of 16 MiB and one pair of queues, as bytes on a vhost-user socket. It can say anything, right
//! or wrong; nothing of the program under test is used to say it.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::daemon::wait_for;

pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_FEATURES: u32 = 2;
pub(crate) const SET_MEM_TABLE: u32 = 5;
pub(crate) const SET_VRING_NUM: u32 = 8;
pub(crate) const SET_VRING_ADDR: u32 = 9;
pub(crate) const SET_VRING_BASE: u32 = 10;
pub(crate) const GET_VRING_BASE: u32 = 11;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const SET_VRING_ENABLE: u32 = 18;

const SIZE: u64 = 16 << 20;
/// The address of the guest's memory in the VMM's own, as it tells it.
const VMM: u64 = 0x7f00_0000_0000;
pub(crate) const QUEUE: u16 = 256;
const HEADER: usize = 12;
/// VERSION_1, protocol features, merged buffers.
pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 15;

/// A descriptor of a chain. Flags: 1 there is a next, 2 the device writes, 4 a table of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// Where ring 0 (to the guest) or 1 (from it) lies.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

pub(crate) const fn places(ring: u32) -> Places {
    let base = 0x1_0000 * (ring as u64 + 1);
    Places {
        descriptors: base,
        available: base + 0x2000,
        used: base + 0x4000,
    }
}

pub(crate) struct Frontend {
    pub(crate) socket: UnixStream,
    file: OwnedFd,
    memory: GuestMemoryMmap,
    events: [OwnedFd; 4],
    available: [u16; 2],
    seen: u16,
    /// Bytes of each buffer for frames to the guest.
    room: u32,
}

impl Frontend {
    /// Connects, and no more.
    pub(crate) fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, SIZE).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap().into(), 0);
        let size = usize::try_from(SIZE).unwrap();
        let ranges = [(GuestAddress(0), size, Some(offset))];
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Self {
            socket,
            file,
            memory: GuestMemoryMmap::from_ranges_with_files(ranges).unwrap(),
            events: [(); 4].map(|()| rustix::event::eventfd(0, flags).unwrap()),
            available: [0; 2],
            seen: 0,
            room: 2048,
        }
    }

    /// Connects and starts both rings, with buffers for frames to the guest.
    pub(crate) fn start(path: &Path) -> Self {
        let mut frontend = Self::connect(path);
        // QEMU does so before any feature is taken.
        frontend.say(SET_VRING_ENABLE, &pair(0, 1), &[]);
        frontend.negotiate(FEATURES);
        frontend.share_memory(SIZE);
        for ring in [0, 1] {
            frontend.start_ring(ring, places(ring));
        }
        for buffer in 0..QUEUE / 2 {
            frontend.offer(buffer);
        }
        frontend
    }

    pub(crate) fn negotiate(&self, wanted: u64) {
        let offered = self.question(GET_FEATURES);
        assert_eq!(offered & wanted, wanted);
        self.say(SET_FEATURES, &wanted.to_le_bytes(), &[]);
    }

    pub(crate) fn share_memory(&self, size: u64) {
        let mut body = vec![1, 0, 0, 0, 0, 0, 0, 0];
        for value in [0, size, VMM, 0] {
            body.extend(u64::to_le_bytes(value));
        }
        self.say(SET_MEM_TABLE, &body, &[self.file.as_fd()]);
    }

    /// Cuts the file behind the memory short.
    pub(crate) fn cut_memory(&self) {
        rustix::fs::ftruncate(&self.file, 0).unwrap();
    }

    pub(crate) fn start_ring(&self, ring: u32, at: Places) {
        self.set_ring(ring, at);
        self.restart_ring(ring);
    }

    /// Starts a ring whose places were told.
    pub(crate) fn restart_ring(&self, ring: u32) {
        let [kick, call] = [ring * 2, ring * 2 + 1].map(|n| &self.events[n as usize]);
        let number = u64::from(ring).to_le_bytes();
        self.say(SET_VRING_CALL, &number, &[call.as_fd()]);
        self.say(SET_VRING_KICK, &number, &[kick.as_fd()]);
        self.say(SET_VRING_ENABLE, &pair(ring, 1), &[]);
    }

    pub(crate) fn set_ring(&self, ring: u32, at: Places) {
        self.say(SET_VRING_NUM, &pair(ring, QUEUE.into()), &[]);
        self.say(SET_VRING_BASE, &pair(ring, 0), &[]);
        let mut addresses = pair(ring, 0);
        for address in [at.descriptors, at.used, at.available] {
            addresses.extend(VMM.wrapping_add(address).to_le_bytes());
        }
        addresses.extend(0_u64.to_le_bytes());
        self.say(SET_VRING_ADDR, &addresses, &[]);
    }

    /// A message with descriptors; a device that hung up hears nothing.
    pub(crate) fn say(&self, request: u32, body: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut bytes = Vec::new();
        for word in [request, 1, u32::try_from(body.len()).unwrap()] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(body);
        let mut room = [MaybeUninit::uninit(); 256];
        let mut control = SendAncillaryBuffer::new(&mut room);
        assert!(
            descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors))
        );
        let slices = [IoSlice::new(&bytes)];
        rustix::net::sendmsg(&self.socket, &slices, &mut control, SendFlags::NOSIGNAL).ok();
    }

    pub(crate) fn question(&self, request: u32) -> u64 {
        self.say(request, &[], &[]);
        u64::from_le_bytes(self.hear()[..8].try_into().unwrap())
    }

    /// The body of the next answer.
    pub(crate) fn hear(&self) -> Vec<u8> {
        let mut head = [0; 12];
        (&self.socket).read_exact(&mut head).unwrap();
        let length = u32::from_le_bytes(head[8..].try_into().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap()];
        (&self.socket).read_exact(&mut body).unwrap();
        body
    }

    /// Stops a ring; where it stood.
    pub(crate) fn stop_ring(&self, ring: u32) -> u32 {
        self.say(GET_VRING_BASE, &pair(ring, 0), &[]);
        u32::from_le_bytes(self.hear()[4..8].try_into().unwrap())
    }

    /// Waits until the device has closed the connection.
    pub(crate) fn wait_closed(mut self) {
        let mut rest = Vec::new();
        let ended = self.socket.read_to_end(&mut rest);
        // A reset is an end, too; only a time-out is none.
        let kind = ended.err().map(|error| error.kind());
        assert_ne!(
            kind,
            Some(std::io::ErrorKind::WouldBlock),
            "still connected"
        );
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        let address = GuestAddress(address);
        self.memory.write_slice(bytes, address).unwrap();
    }

    fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let address = GuestAddress(address);
        self.memory.read_slice(&mut bytes, address).unwrap();
        bytes
    }

    fn word(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address, 2).try_into().unwrap())
    }

    pub(crate) fn describe(&self, table: u64, index: u16, descriptor: Descriptor) {
        let mut bytes = Vec::new();
        bytes.extend(descriptor.address.to_le_bytes());
        bytes.extend(descriptor.length.to_le_bytes());
        bytes.extend(descriptor.flags.to_le_bytes());
        bytes.extend(descriptor.next.to_le_bytes());
        self.write(table + 16 * u64::from(index), &bytes);
    }

    /// Makes a chain available, whatever it is, and kicks.
    pub(crate) fn submit(&mut self, ring: u32, head: u16) {
        let at = places(ring).available;
        let next = &mut self.available[ring as usize];
        let slot = at + 4 + 2 * u64::from(*next % QUEUE);
        *next = next.wrapping_add(1);
        let index = next.to_le_bytes();
        self.write(slot, &head.to_le_bytes());
        self.write(at + 2, &index);
        self.kick(ring);
    }

    pub(crate) fn kick(&self, ring: u32) {
        rustix::io::write(&self.events[ring as usize * 2], &1_u64.to_ne_bytes()).unwrap();
    }

    fn buffer(number: u16) -> u64 {
        0x10_0000 + 0x4000 * u64::from(number)
    }

    /// A buffer for a frame to the guest.
    fn offer(&mut self, number: u16) {
        let descriptor = Descriptor {
            address: Self::buffer(number),
            length: self.room,
            flags: 2,
            next: 0,
        };
        self.describe(places(0).descriptors, number, descriptor);
        self.submit(0, number);
    }

    /// Sends a frame with nothing left to do on it, and waits until it was taken.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        let at = 0x80_0000;
        self.write(at, &[&[0; HEADER], frame].concat());
        let length = u32::try_from(HEADER + frame.len()).unwrap();
        let descriptor = Descriptor {
            address: at,
            length,
            flags: 0,
            next: 0,
        };
        self.describe(places(1).descriptors, 0, descriptor);
        self.submit(1, 0);
        wait_for("the frame to be taken", || {
            (self.word(places(1).used + 2) == self.available[1]).then_some(())
        });
    }

    /// The next frame to the guest, put together from its buffers.
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        let mut frame = Vec::new();
        let mut left = 1;
        while left > 0 {
            let used = places(0).used;
            wait_for("a frame", || {
                (self.word(used + 2) != self.seen).then_some(())
            });
            let element = self.read(used + 4 + 8 * u64::from(self.seen % QUEUE), 8);
            self.seen = self.seen.wrapping_add(1);
            let number = u16::from_le_bytes(element[..2].try_into().unwrap());
            let length = u32::from_le_bytes(element[4..].try_into().unwrap());
            let bytes = self.read(Self::buffer(number), usize::try_from(length).unwrap());
            if frame.is_empty() {
                left = u16::from_le_bytes(bytes[10..12].try_into().unwrap());
                assert_ne!(left, 0);
                assert!(
                    self.word(used + 2).wrapping_sub(self.seen) >= left - 1,
                    "a frame in parts"
                );
            }
            frame.extend(bytes);
            self.offer(number);
            left -= 1;
        }
        frame.split_off(HEADER)
    }
}

pub(crate) fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_le_bytes(), second.to_le_bytes()].concat()
}
