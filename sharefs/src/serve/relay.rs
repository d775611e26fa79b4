//! Between a VMM and the device: passes messages on, and writes down what the VMM has set up.
//!
//! A VMM says it once, to a connection; the next worker has to say it again to a device of its own. So the
//! VMM's socket is ours, the device listens to another, and each message is written down before it is
//! passed on. `set_up_again` plays what was written down. Data never comes this way: it is in the queues.
//! Read first: vhost-user in QEMU's docs, "Message types".

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::keep::device::{
    Connection, LONGEST_MESSAGE, MOST_DESCRIPTORS, MOST_REGIONS, NO_FILE, QUEUES, REGION, Ring,
    Setting,
};
use crate::keep::{claim, named, number};
use crate::sys;

/// Request, flags, length of what follows.
const HEADER: usize = 12;
/// In the flags: version 1, and "please answer" (REPLY_ACK).
const VERSION: u32 = 1;
const NEEDS_ANSWER: u32 = 8;
/// Regions that go into one SET_MEM_TABLE; the others are added.
const REGIONS_AT_ONCE: usize = 8;
/// In the payload of SET_VRING_KICK and its like: there is no file.
const WITHOUT_FILE: u64 = 1 << 8;

/// Requests that are written down, or answered.
mod request {
    pub(super) const GET_FEATURES: u32 = 1;
    pub(super) const SET_FEATURES: u32 = 2;
    pub(super) const SET_OWNER: u32 = 3;
    pub(super) const RESET_OWNER: u32 = 4;
    pub(super) const SET_MEM_TABLE: u32 = 5;
    pub(super) const SET_VRING_NUM: u32 = 8;
    pub(super) const SET_VRING_ADDR: u32 = 9;
    pub(super) const SET_VRING_BASE: u32 = 10;
    pub(super) const GET_VRING_BASE: u32 = 11;
    pub(super) const SET_VRING_KICK: u32 = 12;
    pub(super) const SET_VRING_CALL: u32 = 13;
    pub(super) const SET_VRING_ERR: u32 = 14;
    pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(super) const GET_QUEUE_NUM: u32 = 17;
    pub(super) const SET_VRING_ENABLE: u32 = 18;
    pub(super) const GET_CONFIG: u32 = 24;
    pub(super) const RESET_DEVICE: u32 = 34;
    pub(super) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(super) const ADD_MEM_REG: u32 = 37;
    pub(super) const REM_MEM_REG: u32 = 38;
}

/// See the module's head.
pub(super) struct Relay<'a> {
    pub(super) vmm: &'a OwnedFd,
    pub(super) device: &'a UnixStream,
    pub(super) connection: Connection,
}

/// A message on its way in, and the files that came with it.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
    files: Vec<OwnedFd>,
}

impl Message {
    /// How many bytes it will have, as far as is known.
    fn wanted(&self) -> usize {
        match self.word(8) {
            Some(length) => HEADER + usize::try_from(length).unwrap_or(LONGEST_MESSAGE),
            None => HEADER,
        }
    }

    /// A 32-bit word of it.
    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at + 4)?;
        bytes.try_into().ok().map(u32::from_le_bytes)
    }

    /// A 64-bit word of what follows the header.
    fn long(&self, at: usize) -> Option<u64> {
        let bytes = self.bytes.get(HEADER + at..HEADER + at + 8)?;
        bytes.try_into().ok().map(u64::from_le_bytes)
    }

    fn is_answered(&self) -> bool {
        use request::{
            GET_CONFIG, GET_FEATURES, GET_MAX_MEM_SLOTS, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM,
            GET_VRING_BASE,
        };
        let asks = [
            GET_FEATURES,
            GET_PROTOCOL_FEATURES,
            GET_QUEUE_NUM,
            GET_VRING_BASE,
            GET_CONFIG,
            GET_MAX_MEM_SLOTS,
        ];
        self.word(0).is_some_and(|request| asks.contains(&request))
            || self.word(4).is_some_and(|flags| flags & NEEDS_ANSWER != 0)
    }
}

impl Relay<'_> {
    /// Passes messages on until either side has gone. Who ended the connection is for the caller to ask the
    /// device.
    pub(super) fn run(&self) -> io::Result<()> {
        let mut message = Message::default();
        loop {
            let mut sides = [
                PollFd::new(self.vmm, PollFlags::IN),
                PollFd::new(self.device, PollFlags::IN),
            ];
            match rustix::event::poll(&mut sides, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [vmm, device] = sides.map(|side| !side.revents().is_empty());
            if device && !self.pass_answer_on()? {
                return Ok(());
            }
            if vmm && !self.receive(&mut message)? {
                return Ok(());
            }
            if message.bytes.len() == message.wanted() {
                self.pass_on(std::mem::take(&mut message))?;
            }
        }
    }

    /// False: the device has ended the connection.
    fn pass_answer_on(&self) -> io::Result<bool> {
        let mut bytes = [0; LONGEST_MESSAGE];
        let (count, _) = rustix::net::recv(self.device, &mut bytes, RecvFlags::DONTWAIT)?;
        if count == 0 {
            return Ok(false);
        }
        self.connection.message_is_answered();
        // One that asks and does not read is not waited for.
        send(self.vmm.as_fd(), &bytes[..count], &[], SendFlags::DONTWAIT)?;
        Ok(true)
    }

    /// Takes what there is of the message. False: the VMM has gone.
    fn receive(&self, message: &mut Message) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; LONGEST_MESSAGE];
        let want = message.wanted().min(HEADER + LONGEST_MESSAGE) - message.bytes.len();
        let room = want.min(bytes.len());
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let parts = &mut [IoSliceMut::new(&mut bytes[..room])];
        let received = match rustix::net::recvmsg(self.vmm, parts, &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = part {
                message.files.extend(files);
            }
        }
        message.bytes.extend_from_slice(&bytes[..received.bytes]);
        Ok(received.bytes > 0
            && message.wanted() <= LONGEST_MESSAGE
            && message.files.len() <= MOST_DESCRIPTORS)
    }

    /// Writes the message down and passes it on.
    fn pass_on(&self, message: Message) -> io::Result<()> {
        let files: Vec<RawFd> = message.files.iter().map(AsRawFd::as_raw_fd).collect();
        self.connection.put_message(&message.bytes, &files);
        let sent = send(
            self.device.as_fd(),
            &message.bytes,
            &message.files,
            SendFlags::empty(),
        );
        if sent.is_ok() && message.is_answered() {
            // Its answer is awaited here: the VMM says nothing else before it has it, and what was
            // refused is not written down as set up. A device that ends the connection answers nothing.
            let mut device = [PollFd::new(self.device, PollFlags::IN)];
            while rustix::event::poll(&mut device, None) == Err(Errno::INTR) {}
            self.pass_answer_on()?;
        }
        write_down(&self.connection, message);
        self.connection.end_message();
        sent
    }

    /// Says to the device all that the VMM has said to the one before it, and what was not done yet.
    pub(super) fn set_up_again(&self) -> io::Result<()> {
        let kept = &self.connection;
        let device = self.device.as_fd();
        let say = |request: u32, payload: &[u64], files: &[OwnedFd]| {
            let bytes: Vec<u8> = payload.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut message = Vec::new();
            for word in [
                request,
                VERSION,
                u32::try_from(bytes.len()).unwrap_or_default(),
            ] {
                message.extend(word.to_le_bytes());
            }
            message.extend(bytes);
            send(device, &message, files, SendFlags::empty())
        };
        if kept.setting(Setting::Owned) != 0 {
            say(request::SET_OWNER, &[], &[])?;
        }
        for (setting, request) in [
            (Setting::Protocol, request::SET_PROTOCOL_FEATURES),
            (Setting::Features, request::SET_FEATURES),
        ] {
            if let Some(value) = kept.setting(setting).checked_sub(1) {
                say(request, &[value], &[])?;
            }
        }
        self.give_memory_again(say)?;
        for queue in 0..QUEUES {
            self.set_up_ring_again(queue, say)?;
        }
        if let Some((bytes, words, answered)) = kept.message() {
            let files = words.into_iter().filter_map(claim).collect();
            let message = Message { bytes, files };
            if message.is_answered() && answered {
                write_down(kept, message);
                kept.end_message();
            } else {
                self.pass_on(message)?;
            }
        }
        Ok(())
    }

    fn give_memory_again(
        &self,
        say: impl Fn(u32, &[u64], &[OwnedFd]) -> io::Result<()>,
    ) -> io::Result<()> {
        let kept = &self.connection;
        let count = usize::try_from(kept.setting(Setting::Regions)).unwrap_or_default();
        let mut regions = Vec::new();
        for index in 0..count.min(MOST_REGIONS) {
            let [guest, length, vmm, offset, file] = kept.region(index);
            let Some(file) = claim(file) else {
                return Err(io::Error::other(
                    "a file of the guest's memory is not open any more",
                ));
            };
            regions.push(([guest, length, vmm, offset], file));
        }
        let (at_once, more) = regions.split_at(regions.len().min(REGIONS_AT_ONCE));
        if !at_once.is_empty() {
            let mut payload = vec![at_once.len() as u64];
            payload.extend(at_once.iter().flat_map(|(region, _)| *region));
            let files: io::Result<Vec<_>> =
                at_once.iter().map(|(_, file)| file.try_clone()).collect();
            say(request::SET_MEM_TABLE, &payload, &files?)?;
        }
        for ([guest, length, vmm, offset], file) in more {
            let payload = [0, *guest, *length, *vmm, *offset];
            say(request::ADD_MEM_REG, &payload, &[file.try_clone()?])?;
        }
        // The numbers stay written down, and with them the files stay open.
        for (_, file) in regions {
            leave_open(file);
        }
        Ok(())
    }

    fn set_up_ring_again(
        &self,
        queue: usize,
        say: impl Fn(u32, &[u64], &[OwnedFd]) -> io::Result<()>,
    ) -> io::Result<()> {
        let kept = &self.connection;
        let ring = |which| kept.ring(queue, which);
        let number = queue as u64;
        let with = |value: u64| number | value << 32;
        if let Some(size) = ring(Ring::Size).checked_sub(1) {
            say(request::SET_VRING_NUM, &[with(size)], &[])?;
        }
        if let Some(base) = ring(Ring::Base).checked_sub(1) {
            say(request::SET_VRING_BASE, &[with(base)], &[])?;
        }
        if ring(Ring::Addressed) != 0 {
            let payload = [
                with(ring(Ring::Flags)),
                ring(Ring::Descriptors),
                ring(Ring::Used),
                ring(Ring::Available),
                ring(Ring::Log),
            ];
            say(request::SET_VRING_ADDR, &payload, &[])?;
        }
        for (which, request) in [
            (Ring::Error, request::SET_VRING_ERR),
            (Ring::Call, request::SET_VRING_CALL),
            (Ring::Kick, request::SET_VRING_KICK),
        ] {
            match ring(which) {
                0 => {}
                NO_FILE => say(request, &[number | WITHOUT_FILE], &[])?,
                word => {
                    let Some(file) = claim(word) else {
                        return Err(io::Error::other("an event of a queue is not open any more"));
                    };
                    say(request, &[number], &[file.try_clone()?])?;
                    if which as usize == Ring::Kick as usize {
                        // Whatever came meanwhile, and what is to be done again.
                        sys::make_nonblocking(&file);
                        rustix::io::write(&file, &1_u64.to_ne_bytes()).ok();
                    }
                    leave_open(file);
                }
            }
        }
        if let Some(enabled) = ring(Ring::Enabled).checked_sub(1) {
            say(request::SET_VRING_ENABLE, &[with(enabled)], &[])?;
        }
        Ok(())
    }
}

/// Its number is written down, and whoever writes another there closes it.
fn leave_open(file: OwnedFd) -> RawFd {
    file.into_raw_fd()
}

fn close(word: u64) {
    if let Some(number) = number(word) {
        drop(sys::take_back(number));
    }
}

/// All that is left open for a connection is closed: it is over. To be called when it is not listed any more.
pub(super) fn close_all(connection: &Connection) {
    forget_regions(connection);
    for queue in 0..QUEUES {
        for which in [Ring::Kick, Ring::Call, Ring::Error] {
            put_file(connection, queue, which, 0);
        }
    }
}

fn forget_regions(kept: &Connection) {
    let count = usize::try_from(kept.setting(Setting::Regions)).unwrap_or_default();
    kept.put_setting(Setting::Regions, 0);
    for index in 0..count.min(MOST_REGIONS) {
        let file = kept.region(index)[REGION - 1];
        kept.put_region(index, [0; REGION]);
        close(file);
    }
}

fn put_file(kept: &Connection, queue: usize, which: Ring, word: u64) {
    let before = kept.ring(queue, which);
    kept.put_ring(queue, which, word);
    if before != NO_FILE {
        close(before);
    }
}

/// What the VMM has set up by a message. One that makes no sense was the end of the connection, which the
/// device has seen to.
fn write_down(kept: &Connection, message: Message) {
    let Message { bytes, mut files } = message;
    let message = Message {
        bytes,
        files: Vec::new(),
    };
    let Some(request) = message.word(0) else {
        return;
    };
    let long = |at| message.long(at).unwrap_or_default();
    let queue = usize::try_from(long(0) & 0xff).unwrap_or_default();
    let value = (long(0) >> 32) + 1;
    let of_queue = |which: Ring, value| {
        if queue < QUEUES {
            kept.put_ring(queue, which, value);
        }
    };
    match request {
        request::SET_OWNER => kept.put_setting(Setting::Owned, 1),
        request::SET_FEATURES => kept.put_setting(Setting::Features, long(0).wrapping_add(1)),
        request::SET_PROTOCOL_FEATURES => {
            kept.put_setting(Setting::Protocol, long(0).wrapping_add(1));
        }
        request::RESET_OWNER => {
            for setting in [Setting::Owned, Setting::Features, Setting::Protocol] {
                kept.put_setting(setting, 0);
            }
        }
        request::RESET_DEVICE => {
            kept.put_setting(Setting::Features, 0);
            for queue in 0..QUEUES {
                kept.put_ring(queue, Ring::Enabled, 1);
                kept.end_all(queue);
            }
        }
        request::SET_MEM_TABLE => {
            forget_regions(kept);
            for (index, file) in files.drain(..).enumerate().take(MOST_REGIONS) {
                add_region(kept, index, |field| long(8 + index * 32 + field * 8), file);
            }
        }
        request::ADD_MEM_REG => {
            let count = usize::try_from(kept.setting(Setting::Regions)).unwrap_or(usize::MAX);
            if let Some(file) = files.pop().filter(|_| count < MOST_REGIONS) {
                add_region(kept, count, |field| long(8 + field * 8), file);
            }
        }
        request::REM_MEM_REG => remove_region(kept, long(8), long(16)),
        request::SET_VRING_NUM => of_queue(Ring::Size, value),
        request::SET_VRING_BASE => of_queue(Ring::Base, value),
        request::SET_VRING_ENABLE => of_queue(Ring::Enabled, value),
        request::SET_VRING_ADDR => {
            of_queue(Ring::Addressed, 0);
            of_queue(Ring::Flags, long(0) >> 32);
            of_queue(Ring::Descriptors, long(8));
            of_queue(Ring::Used, long(16));
            of_queue(Ring::Available, long(24));
            of_queue(Ring::Log, long(32));
            of_queue(Ring::Addressed, 1);
        }
        request::GET_VRING_BASE if queue < QUEUES => {
            put_file(kept, queue, Ring::Kick, 0);
            put_file(kept, queue, Ring::Call, 0);
        }
        request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR
            if queue < QUEUES =>
        {
            let which = match request {
                request::SET_VRING_KICK => Ring::Kick,
                request::SET_VRING_CALL => Ring::Call,
                _ => Ring::Error,
            };
            let file = files.pop().map(leave_open);
            let word = if file.is_some() { named(file) } else { NO_FILE };
            put_file(kept, queue, which, word);
        }
        // Questions, and what a device does not keep.
        _ => {}
    }
}

fn add_region(kept: &Connection, index: usize, field: impl Fn(usize) -> u64, file: OwnedFd) {
    let file = named(Some(leave_open(file)));
    kept.put_region(index, [field(0), field(1), field(2), field(3), file]);
    kept.put_setting(Setting::Regions, index as u64 + 1);
}

fn remove_region(kept: &Connection, guest: u64, length: u64) {
    let count = usize::try_from(kept.setting(Setting::Regions)).unwrap_or_default();
    let gone = (0..count.min(MOST_REGIONS)).find(|index| {
        let region = kept.region(*index);
        (region[0], region[1]) == (guest, length)
    });
    let Some(gone) = gone else {
        return;
    };
    let file = kept.region(gone)[REGION - 1];
    // The last takes its place; a death in between leaves it there twice, of which one is refused.
    kept.put_region(gone, kept.region(count - 1));
    kept.put_setting(Setting::Regions, count as u64 - 1);
    close(file);
}

/// `flags`: whether a peer that does not read is waited for.
fn send(to: BorrowedFd<'_>, bytes: &[u8], files: &[OwnedFd], flags: SendFlags) -> io::Result<()> {
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("too many files with one message"));
    }
    let mut done = 0;
    while done < bytes.len() {
        let parts = [IoSlice::new(&bytes[done..])];
        match rustix::net::sendmsg(to, &parts, &mut control, flags | SendFlags::NOSIGNAL) {
            Ok(count) => {
                done += count;
                control.clear();
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
