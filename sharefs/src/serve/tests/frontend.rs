//! The other side of a door: a VMM with one guest of 16 MiB and a request queue or more, as bytes on a socket.
//!
//! It can say anything, right or wrong; nothing of the crates under test is used to say it but the map
//! of the guest's memory.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

/// Requests of vhost-user.
pub(super) mod message {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
}

const SIZE: usize = 16 << 20;
/// The address of the guest's memory in the VMM's own, as it tells it.
const VMM: u64 = 0x7f00_0000_0000;
/// What a queue has of the memory.
const EACH: u64 = 1 << 20;
const QUEUE: u16 = 64;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x3000;
const USED: u64 = 0x4000;
const REQUEST: u64 = 0x10000;
const ANSWER: u64 = 0x40_0000;
const VERSION_1: u64 = 1 << 32;
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// A descriptor of a chain.
#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) length: u32,
    /// 1: there is a next, 2: the device writes, 4: a table of its own.
    pub(super) flags: u16,
    pub(super) next: u16,
}

pub(super) struct Frontend {
    pub(super) socket: UnixStream,
    pub(super) file: OwnedFd,
    memory: GuestMemoryMmap,
    kick: OwnedFd,
    call: OwnedFd,
    available: u16,
    /// Which queue of the device it is. 0 is that for urgent requests.
    queue: u32,
    /// Where its rings and its requests begin in the guest's memory.
    base: u64,
}

impl Frontend {
    /// Connects, and no more.
    pub(super) fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, SIZE as u64).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap().into(), 0);
        let ranges = [(GuestAddress(0), SIZE, Some(offset))];
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        let event =
            || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self {
            socket,
            file,
            memory,
            kick: event(),
            call: event(),
            available: 0,
            queue: 1,
            base: 0,
        }
    }

    /// One more queue of the same device, for another of the guest's processors.
    pub(super) fn another(&self, queue: u32) -> Self {
        let event =
            || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let another = Self {
            socket: self.socket.try_clone().unwrap(),
            file: self.file.try_clone().unwrap(),
            memory: self.memory.clone(),
            kick: event(),
            call: event(),
            available: 0,
            queue,
            base: u64::from(queue - 1) * EACH,
        };
        another.start_queue(another.kick.as_fd());
        another
    }

    /// Connects and starts the queue, as QEMU does.
    pub(super) fn start(path: &Path) -> Self {
        let frontend = Self::connect(path);
        frontend.negotiate();
        frontend.share_memory(SIZE as u64);
        frontend.start_queue(frontend.kick.as_fd());
        frontend
    }

    pub(super) fn negotiate(&self) {
        let features = self.question(message::GET_FEATURES);
        assert_eq!(
            features & (VERSION_1 | PROTOCOL_FEATURES),
            VERSION_1 | PROTOCOL_FEATURES
        );
        let protocol = self.question(message::GET_PROTOCOL_FEATURES);
        self.say(message::SET_PROTOCOL_FEATURES, &protocol.to_le_bytes(), &[]);
        assert!(self.question(message::GET_QUEUE_NUM) >= 2);
        self.say(message::SET_OWNER, &[], &[]);
        let wanted = VERSION_1 | PROTOCOL_FEATURES;
        self.say(message::SET_FEATURES, &wanted.to_le_bytes(), &[]);
    }

    pub(super) fn share_memory(&self, size: u64) {
        let mut body = vec![1, 0, 0, 0, 0, 0, 0, 0];
        for value in [0, size, VMM, 0] {
            body.extend(u64::to_le_bytes(value));
        }
        self.say(message::SET_MEM_TABLE, &body, &[self.file.as_fd()]);
    }

    pub(super) fn start_queue(&self, kick: BorrowedFd<'_>) {
        let queue = self.queue;
        let pair = |value: u32| [queue.to_le_bytes(), value.to_le_bytes()].concat();
        let number = u64::from(queue).to_le_bytes();
        self.say(message::SET_VRING_NUM, &pair(QUEUE.into()), &[]);
        self.say(message::SET_VRING_BASE, &pair(0), &[]);
        let mut addresses = pair(0);
        for address in [DESCRIPTORS, USED, AVAILABLE] {
            addresses.extend((VMM + self.base + address).to_le_bytes());
        }
        addresses.extend(0_u64.to_le_bytes());
        self.say(message::SET_VRING_ADDR, &addresses, &[]);
        self.say(message::SET_VRING_CALL, &number, &[self.call.as_fd()]);
        self.say(message::SET_VRING_KICK, &number, &[kick]);
        self.say(message::SET_VRING_ENABLE, &pair(1), &[]);
    }

    /// Stops the queue; the device says where it stood.
    pub(super) fn stop_queue(&self) {
        let queue = self.queue;
        let body = [queue.to_le_bytes(), [0; 4]].concat();
        self.say(message::GET_VRING_BASE, &body, &[]);
        self.hear();
    }

    /// The same connection with a guest that begins anew.
    pub(super) fn connect_again(mut self) -> Self {
        self.write(self.base + AVAILABLE, &[0; 4096]);
        self.write(self.base + USED, &[0; 4096]);
        self.available = 0;
        self.share_memory(SIZE as u64);
        self.start_queue(self.kick.as_fd());
        self
    }

    /// Kicks without anything in the queue.
    pub(super) fn kick_only(&self) {
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
    }

    /// A message with descriptors.
    pub(super) fn say(&self, request: u32, body: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut bytes = Vec::new();
        bytes.extend(request.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(body);
        let mut room = [MaybeUninit::uninit(); 256];
        let mut control = SendAncillaryBuffer::new(&mut room);
        assert!(
            descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors))
        );
        let slices = [IoSlice::new(&bytes)];
        rustix::net::sendmsg(&self.socket, &slices, &mut control, SendFlags::NOSIGNAL).ok();
    }

    /// The body of the next answer.
    pub(super) fn hear(&self) -> Vec<u8> {
        let mut head = [0; 12];
        (&self.socket).read_exact(&mut head).unwrap();
        let length = u32::from_le_bytes(head[8..].try_into().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap()];
        (&self.socket).read_exact(&mut body).unwrap();
        body
    }

    pub(super) fn question(&self, request: u32) -> u64 {
        self.say(request, &[], &[]);
        u64::from_le_bytes(self.hear()[..8].try_into().unwrap())
    }

    /// Puts a chain into the queue and kicks.
    pub(super) fn submit(&mut self, chain: &[Descriptor]) {
        self.submit_at(0, chain);
    }

    /// The same, with the chain's first descriptor at `first` of the table.
    pub(super) fn submit_at(&mut self, first: u16, chain: &[Descriptor]) {
        for (index, descriptor) in (u64::from(first)..).zip(chain) {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&descriptor.address.to_le_bytes());
            bytes[8..12].copy_from_slice(&descriptor.length.to_le_bytes());
            bytes[12..14].copy_from_slice(&descriptor.flags.to_le_bytes());
            bytes[14..].copy_from_slice(&descriptor.next.to_le_bytes());
            self.write(self.base + DESCRIPTORS + 16 * index, &bytes);
        }
        self.submit_head(first);
    }

    /// Makes descriptor `head` available, whatever it is.
    pub(super) fn submit_head(&mut self, head: u16) {
        let slot = u64::from(self.available % QUEUE);
        self.write(self.base + AVAILABLE + 4 + 2 * slot, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.write(self.base + AVAILABLE + 2, &self.available.to_le_bytes());
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    pub(super) fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    /// Chains the device has given back.
    pub(super) fn used(&self) -> u16 {
        u16::from_le_bytes(self.read(self.base + USED + 2, 2).try_into().unwrap())
    }

    /// Bytes it wrote into the last of them.
    fn used_length(&self) -> usize {
        let slot = u64::from(self.used().wrapping_sub(1) % QUEUE);
        let bytes = self.read(self.base + USED + 4 + 8 * slot + 4, 4);
        usize::try_from(u32::from_le_bytes(bytes.try_into().unwrap())).unwrap()
    }

    /// Waits until the device has given `count` chains back; false when it takes too long.
    pub(super) fn wait_used(&self, count: u16, limit: Duration) -> bool {
        while self.used() != count {
            let mut wanted = [PollFd::new(&self.call, PollFlags::IN)];
            let limit = rustix::event::Timespec::try_from(limit).unwrap();
            if rustix::event::poll(&mut wanted, Some(&limit)).unwrap() == 0 {
                return false;
            }
            rustix::io::read(&self.call, &mut [0; 8]).ok();
        }
        true
    }

    /// The two descriptors of an ordinary request, whose bytes are put in place.
    pub(super) fn chain(&self, request: &[u8], room: u32) -> [Descriptor; 2] {
        self.write(self.base + REQUEST, request);
        let length = u32::try_from(request.len()).unwrap();
        [
            Descriptor {
                address: self.base + REQUEST,
                length,
                flags: 1,
                next: 1,
            },
            Descriptor {
                address: self.base + ANSWER,
                length: room,
                flags: 2,
                next: 0,
            },
        ]
    }

    /// One FUSE request and its answer.
    pub(super) fn ask(&mut self, request: &[u8], room: u32) -> Vec<u8> {
        let chain = self.chain(request, room);
        self.submit(&chain);
        assert!(
            self.wait_used(self.available, Duration::from_secs(10)),
            "no answer"
        );
        self.read(self.base + ANSWER, self.used_length())
    }

    /// Submits a chain; how many bytes came back.
    pub(super) fn ask_again(&mut self, chain: &[Descriptor]) -> usize {
        self.submit(chain);
        assert!(
            self.wait_used(self.available, Duration::from_secs(10)),
            "no answer"
        );
        self.used_length()
    }

    pub(super) fn submitted(&self) -> u16 {
        self.available
    }

    /// Waits for the device to close the connection.
    pub(super) fn wait_closed(mut self) {
        let mut rest = Vec::new();
        self.socket.read_to_end(&mut rest).ok();
    }

    /// Bytes on the socket, with a descriptor that nobody asked for.
    pub(super) fn noise(&self, bytes: &[u8]) {
        let mut room = [MaybeUninit::uninit(); 64];
        let mut control = SendAncillaryBuffer::new(&mut room);
        let fds = [self.file.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(
            &self.socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .ok();
        (&self.socket).flush().ok();
    }

    /// Takes what the device may have said, so that its side never fills.
    pub(super) fn swallow(&self) {
        let mut bytes = [0; 4096];
        let mut room = [MaybeUninit::uninit(); 64];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::DONTWAIT).ok();
    }
}
