//! A link to one guest, whatever carries it. A link never blocks: a TCP frame that finds no room is told so
//! (its bytes stay where they are), any other frame is dropped and counted.

use std::io::{self, IoSlice};

use control::mac::MacAddress;
use control::names::GuestName;
use rustix::fd::BorrowedFd;

use super::dgram::Dgram;
use super::stream::Stream;
use super::tap::{Read, Tap};
use super::uplink::Uplink;
use super::vhost::{Vhost, Watch};
use crate::datapath::LinkTransport;
use crate::engine::counters::LinkCounters;
use crate::engine::ends::Addresses;
use crate::engine::offload::{Offload, Segmentation, complete};
use crate::engine::packet::{ETHERNET, IPV6, PROTOCOL_TCP, Path, write_ip};
use crate::engine::tcp::segment::{LONGEST_HEADER, Outgoing, pseudo_sum};

/// The longest frame: a full IPv6 packet, an Ethernet header and a VLAN tag.
pub const FRAME_MAX: usize = IPV6 + 65_535 + ETHERNET + 4;

/// What tells when a full link has room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomWatch {
    /// It is not full.
    No,
    /// [`Link::descriptor`], or the guest's kick.
    Own,
    /// [`Link::room`].
    Apart,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// On its way.
    Taken,
    /// Not sent: no room now.
    Full,
    /// Not sent and never will be.
    Dropped,
    /// The link has ended.
    Gone,
}

/// TCP payload for a guest with everything its headers are made of.
#[derive(Clone, Copy, Debug)]
pub struct TcpFrame<'a> {
    /// Addresses.
    pub path: Path,
    /// Source and destination port.
    pub ports: (u16, u16),
    /// The header.
    pub header: Outgoing,
    /// The payload, at most 16 slices.
    pub payload: &'a [&'a [u8]],
    /// Payload of a full segment.
    pub mss: usize,
}

/// Room for Ethernet, IP and TCP header of one segment.
pub const HEADERS_MAX: usize = ETHERNET + IPV6 + LONGEST_HEADER;

/// Ethernet, IP and TCP header of one segment.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    bytes: [u8; HEADERS_MAX],
    /// Where TCP begins.
    pub tcp: usize,
    /// Bytes in use.
    pub end: usize,
}

impl std::ops::Deref for Headers {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.end]
    }
}

impl Headers {
    /// Sets TCP's checksum field.
    pub fn set_checksum(&mut self, value: u16) {
        self.bytes[self.tcp + 16..self.tcp + 18].copy_from_slice(&value.to_be_bytes());
    }
}

impl TcpFrame<'_> {
    /// Payload bytes.
    pub fn length(&self) -> usize {
        self.payload.iter().map(|slice| slice.len()).sum()
    }

    /// The headers for payload `start..end`, L4 checksum zero.
    /// `last` flags (FIN, PSH) go only with the end of the payload.
    pub fn headers(&self, start: usize, end: usize) -> Headers {
        let total = self.length();
        let last = end == total;
        let header = Outgoing {
            seq: self.header.seq.plus(u32::try_from(start).unwrap_or(0)),
            fin: self.header.fin && last,
            psh: self.header.psh && last,
            ..self.header
        };
        let (tcp, tcp_length) = header.emit(self.ports);
        let ip = write_ip(&self.path, PROTOCOL_TCP, tcp_length + end - start);
        let mut headers = Headers {
            bytes: [0; HEADERS_MAX],
            tcp: ip.len(),
            end: ip.len() + tcp_length,
        };
        headers.bytes[..ip.len()].copy_from_slice(&ip);
        headers.bytes[ip.len()..headers.end].copy_from_slice(&tcp[..tcp_length]);
        headers
    }

    /// Headers with the checksum over header and payload `start..end`.
    pub fn sealed(&self, start: usize, end: usize) -> Headers {
        let mut headers = self.headers(start, end);
        let mut sum = pseudo_sum(&self.path, headers.end - headers.tcp + end - start);
        sum.add(&headers[headers.tcp..]);
        self.each_slice(start, end, |slice| sum.add(slice));
        headers.set_checksum(sum.finish());
        headers
    }

    /// Headers of a frame that is finished by whoever gets it: checksum, and cutting if it is longer than a segment.
    pub fn offloaded(&self, start: usize, end: usize) -> (Headers, Offload) {
        let mut headers = self.headers(start, end);
        let total = headers.end - headers.tcp + (end - start);
        headers.set_checksum(pseudo_sum(&self.path, total).partial());
        let large = end - start > self.mss;
        let offload = Offload {
            needs_checksum: true,
            checksum_start: u16::try_from(headers.tcp).unwrap_or(0),
            checksum_offset: 16,
            segmentation: match self.path.addresses {
                _ if !large => Segmentation::None,
                Addresses::V4 { .. } => Segmentation::Tcp4,
                Addresses::V6 { .. } => Segmentation::Tcp6,
            },
            segment_size: if large {
                u16::try_from(self.mss).unwrap_or(0)
            } else {
                0
            },
            header_length: u16::try_from(headers.end).unwrap_or(0),
            ..Offload::default()
        };
        (headers, offload)
    }

    /// The headers and the first `length` bytes of payload as one frame, for whoever looks on.
    pub fn assemble(&self, length: usize) -> Vec<u8> {
        let mut frame = self.sealed(0, length).to_vec();
        self.each_slice(0, length, |slice| frame.extend_from_slice(slice));
        frame
    }

    /// The slices that make up payload `start..end`.
    pub fn each_slice<'s>(&'s self, start: usize, end: usize, mut visit: impl FnMut(&'s [u8])) {
        let mut at = 0;
        for slice in self.payload {
            let from = start.max(at) - at;
            let to = end.min(at + slice.len()).saturating_sub(at);
            if from < to {
                visit(&slice[from..to]);
            }
            at += slice.len();
        }
    }
}

/// What carries the frames.
#[derive(Debug)]
pub enum Port {
    /// A tap device.
    Tap(Tap),
    /// QEMU's stream framing.
    Stream(Stream),
    /// A frame a datagram.
    Dgram(Dgram),
    /// Queues in the guest's memory.
    Vhost(Box<Vhost>),
    /// The LAN of a bridged network.
    Uplink(Uplink),
}

/// One link.
#[derive(Debug)]
pub struct Link {
    /// The carrier.
    pub port: Port,
    /// Whose.
    pub guest: Option<GuestName>,
    /// The only address this guest may use as its own, if configured.
    pub mac: Option<MacAddress>,
    /// The source address seen last: most frames repeat it.
    pub last_source: Option<MacAddress>,
    /// Addresses told to the daemon so far.
    pub macs_told: u8,
    /// Counters.
    pub counters: LinkCounters,
    /// A frame found no room; nothing is sent until the descriptor is writable again.
    pub full: bool,
    /// Epoll tells when there is room again.
    pub room_watched: RoomWatch,
    /// TCP flows that wait for room, by slot.
    pub waiters: Vec<u32>,
    /// TCP flows of this guest that wait for the host's connect.
    pub dials: usize,
    /// Something was gathered for the next flush.
    pub dirty: bool,
    /// The carrier said that it has ended.
    pub gone: bool,
}

impl Link {
    /// Takes a descriptor.
    pub fn new(
        transport: LinkTransport,
        guest: Option<GuestName>,
        mac: Option<MacAddress>,
    ) -> io::Result<Self> {
        let port = match transport {
            LinkTransport::Stream(descriptor) => Port::Stream(Stream::new(descriptor)?),
            LinkTransport::Tap {
                descriptor,
                vnet_header,
            } => Port::Tap(Tap::new(descriptor, vnet_header)?),
            LinkTransport::Dgram(socket) => Port::Dgram(Dgram::new(socket)?),
            LinkTransport::Vhost(session) => Port::Vhost(Box::new(Vhost::new(session))),
            LinkTransport::Uplink {
                descriptor,
                interface,
            } => Port::Uplink(Uplink::new(descriptor, interface)?),
        };
        Ok(Self {
            port,
            guest,
            mac,
            last_source: None,
            macs_told: 0,
            counters: LinkCounters::default(),
            full: false,
            room_watched: RoomWatch::No,
            waiters: Vec::new(),
            dials: 0,
            dirty: false,
            gone: false,
        })
    }

    /// For people.
    pub fn kind(&self) -> &'static str {
        match self.port {
            Port::Tap(_) => "tap",
            Port::Stream(_) => "stream",
            Port::Dgram(_) => "dgram",
            Port::Vhost(_) => "vhost-user",
            Port::Uplink(_) => "uplink",
        }
    }

    /// For epoll; the rings of a guest have kicks instead, which come and go.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.port {
            Port::Tap(tap) => Some(tap.descriptor()),
            Port::Stream(stream) => Some(stream.descriptor()),
            Port::Dgram(dgram) => Some(dgram.descriptor()),
            Port::Uplink(uplink) => Some(uplink.descriptor()),
            Port::Vhost(_) => None,
        }
    }

    /// What is to be watched for room now.
    pub fn room_watch(&self) -> RoomWatch {
        match (self.full, self.room()) {
            (false, _) => RoomWatch::No,
            (true, None) => RoomWatch::Own,
            (true, Some(_)) => RoomWatch::Apart,
        }
    }

    /// For epoll, where something else than [`Link::descriptor`] tells of room: new each time the link is full.
    pub fn room(&self) -> Option<BorrowedFd<'_>> {
        match &self.port {
            Port::Dgram(dgram) => dgram.room(),
            Port::Tap(_) | Port::Stream(_) | Port::Uplink(_) | Port::Vhost(_) => None,
        }
    }

    /// Takes what is not in [`Link::descriptor`] out of epoll.
    pub fn unwatch(&mut self, watch: Watch<'_>) {
        match &mut self.port {
            Port::Vhost(vhost) => vhost.unwatch(watch),
            // Closing them is enough.
            Port::Tap(_) | Port::Stream(_) | Port::Dgram(_) | Port::Uplink(_) => {}
        }
    }

    /// Reads one frame into `buffer`; a stream has several in a read and its own way.
    pub fn read(&mut self, buffer: &mut [u8]) -> Read {
        match &mut self.port {
            Port::Tap(tap) => tap.read(buffer),
            Port::Dgram(dgram) => dgram.read(buffer),
            Port::Vhost(vhost) => vhost.read(buffer),
            // The uplink has a batch in a read.
            Port::Stream(_) | Port::Uplink(_) => Read::Empty,
        }
    }

    /// Room again: sends what waited. False if there is still no room.
    pub fn writable(&mut self) -> bool {
        self.full = false;
        if let Port::Dgram(dgram) = &mut self.port {
            dgram.resume();
            if self.room_watched == RoomWatch::Apart {
                self.room_watched = RoomWatch::No;
            }
        }
        self.flush();
        !self.full
    }

    /// Sends what was gathered for one write.
    pub fn flush(&mut self) {
        if self.full {
            return;
        }
        let sent = match &mut self.port {
            Port::Tap(_) | Port::Dgram(_) | Port::Uplink(_) => Sent::Taken,
            Port::Stream(stream) => stream.flush(),
            Port::Vhost(vhost) => vhost.flush(),
        };
        self.note(sent);
    }

    fn note(&mut self, sent: Sent) {
        match sent {
            Sent::Taken | Sent::Dropped => {}
            Sent::Full => self.full = true,
            Sent::Gone => self.gone = true,
        }
    }

    /// A frame that may be lost. `scratch` serves where work left on the frame has to be done first.
    pub fn send(&mut self, frame: &[u8], offload: &Offload, scratch: &mut Vec<u8>) {
        let done_there = match &self.port {
            Port::Tap(tap) => tap.takes_offload(),
            Port::Uplink(_) => true,
            Port::Stream(_) | Port::Dgram(_) => false,
            Port::Vhost(vhost) => vhost.takes(offload),
        };
        if done_there || offload.is_plain() {
            self.send_plain(frame, offload);
        } else if !complete(frame, offload, scratch, |part| {
            self.send_plain(part, &Offload::default())
        }) {
            self.counters.dropped += 1;
        }
    }

    fn send_plain(&mut self, frame: &[u8], offload: &Offload) {
        let sent = if self.gone {
            Sent::Gone
        } else {
            match &mut self.port {
                Port::Tap(tap) if !self.full => tap.write(frame, offload),
                Port::Dgram(dgram) if !self.full => dgram.write(&[IoSlice::new(frame)]),
                Port::Uplink(uplink) if !self.full => uplink.write(frame, offload),
                Port::Tap(_) | Port::Dgram(_) | Port::Uplink(_) => Sent::Full,
                Port::Stream(stream) => stream.queue(frame),
                Port::Vhost(vhost) => vhost.queue(frame, offload),
            }
        };
        if sent == Sent::Taken {
            self.counters.sent_frames += 1;
            self.counters.sent_bytes += frame.len() as u64;
        } else {
            self.counters.dropped += 1;
        }
        self.note(sent);
        self.sync();
    }

    /// A queue of ours being full says nothing yet about the guest.
    fn sync(&mut self) {
        match &self.port {
            Port::Tap(_) | Port::Dgram(_) | Port::Uplink(_) => {}
            Port::Stream(stream) => self.full = stream.is_full(),
            Port::Vhost(vhost) => self.full = vhost.is_full(),
        }
    }

    /// TCP for a guest: says how many payload bytes were taken, or `None` if there is no room
    /// (then nothing was sent and the flow waits for `writable`).
    pub fn send_tcp(&mut self, frame: &TcpFrame<'_>) -> Option<usize> {
        if self.gone {
            return Some(frame.length());
        }
        if self.full {
            return None;
        }
        let (taken, sent) = match &mut self.port {
            Port::Tap(tap) => tap.write_tcp(frame),
            Port::Stream(stream) => stream.write_tcp(frame),
            Port::Dgram(dgram) => dgram.write_tcp(frame),
            Port::Vhost(vhost) => vhost.write_tcp(frame),
            // Our own flows end at guests, which are never behind the uplink.
            Port::Uplink(_) => (0, Sent::Dropped),
        };
        self.note(sent);
        self.sync();
        match sent {
            Sent::Full if taken == 0 => return None,
            Sent::Taken | Sent::Full => {
                self.counters.sent_frames += 1;
                self.counters.sent_bytes += (taken + ETHERNET + frame.path.ip_header() + 20) as u64;
            }
            // As lost on the wire: retransmission is the remedy.
            Sent::Dropped | Sent::Gone => {
                self.counters.dropped += 1;
                return Some(frame.length());
            }
        }
        Some(taken)
    }
}
