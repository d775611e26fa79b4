//! Consecutive TCP segments of one connection, or datagrams of one UDP flow, handed on as one: at an MTU of 1500
//! without offload forty-five frames cost one call on the host's socket instead of forty-five. What Linux calls GRO.
//! Frames stay in the buffer that they were read into; only plain data is gathered, and whatever else comes hands on
//! what was gathered before it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::context::{Context, Place};
use super::datagrams::Datagram;
use super::input;
use super::worker::Tables;
use crate::engine::checksum::{Sum, checksum};
use crate::engine::ends::{Addresses, Key};
use crate::engine::offload::{Offload, Segmentation};
use crate::engine::packet::{ETHERNET, IPV4, IPV6, PROTOCOL_TCP, PROTOCOL_UDP, UDP};
use crate::engine::services::LinkId;
use crate::engine::settings::Ipv6Settings;
use crate::engine::tcp::segment::Segment;
use crate::engine::tcp::seq::Seq;

/// Most frames handed on as one.
pub(super) const GATHER_PARTS: usize = 64;
/// Payload of a frame that needs no company.
const LARGE_FRAME: usize = 16 << 10;
/// A datagram longer than this might be too long for the way out as one of many.
const LARGEST_DATAGRAM: usize = 1_472;
/// Datagrams handed on as one must fit an IPv4 packet (UDP_SEGMENT).
const GATHER_DATAGRAMS: usize = 65_000;
/// Payload handed on as one.
const GATHER_BYTES: usize = 64 << 10;

const FLAG_PUSH: u8 = 0x08;
const FLAG_ACK: u8 = 0x10;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// It waits with its neighbours.
    Taken,
    /// It does not continue them: hand on, then ask again.
    Differs,
    /// It is no plain data segment for us.
    Other,
}

/// What waits, apart from its payload.
#[derive(Clone, Copy, Debug)]
enum Head {
    Tcp(Key, Segment),
    Udp {
        key: Key,
        /// Bytes of each datagram but the last.
        size: usize,
        total: usize,
        /// A shorter one came: it is the last.
        closed: bool,
    },
}

impl Head {
    /// Joins what follows; false if it does not continue this.
    fn join(&mut self, next: &Self) -> bool {
        match (self, next) {
            (Self::Tcp(key, gathered), Self::Tcp(next_key, segment)) => {
                let end = gathered
                    .seq
                    .plus(u32::try_from(gathered.payload).unwrap_or(0));
                let fits = gathered.payload + segment.payload <= GATHER_BYTES;
                if key != next_key || end != segment.seq || !fits {
                    return false;
                }
                gathered.payload += segment.payload;
                gathered.ack = segment.ack;
                gathered.window = segment.window;
                true
            }
            (
                Self::Udp {
                    key,
                    size,
                    total,
                    closed,
                },
                Self::Udp {
                    key: next_key,
                    size: next,
                    ..
                },
            ) => {
                if key != next_key || *closed || *next > *size || *total + *next > GATHER_DATAGRAMS
                {
                    return false;
                }
                *total += *next;
                *closed = next < size;
                true
            }
            (Self::Tcp(..), Self::Udp { .. }) | (Self::Udp { .. }, Self::Tcp(..)) => false,
        }
    }
}

/// Frames that wait to be handed on.
#[derive(Default)]
pub(super) struct Gather {
    first: Option<(Place, Head)>,
    parts: Vec<Range<usize>>,
}

impl Gather {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Takes a frame if it is plain data that continues what waits.
    pub(super) fn take(
        &mut self,
        context: &mut Context,
        from: LinkId,
        buffer: &[u8],
        at: Range<usize>,
        offload: &Offload,
    ) -> Gathered {
        let Some((place, head, payload)) = plain_data(context, from, &buffer[at.clone()], offload)
        else {
            return Gathered::Other;
        };
        match &mut self.first {
            None => {
                self.first = Some((place, head));
                self.parts.clear();
            }
            Some((its_place, waiting)) => {
                if *its_place != place || self.parts.len() >= GATHER_PARTS || !waiting.join(&head) {
                    return Gathered::Differs;
                }
            }
        }
        self.parts
            .push(at.start + payload.start..at.start + payload.end);
        if let Some(link) = context.link(from) {
            link.counters.received_frames += 1;
            link.counters.received_bytes += at.len() as u64;
        }
        Gathered::Taken
    }

    /// Hands on what waits.
    pub(super) fn hand_on(&mut self, context: &mut Context, tables: &mut Tables, buffer: &[u8]) {
        let Some((place, head)) = self.first.take() else {
            return;
        };
        let mut slices = [&[][..]; GATHER_PARTS];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = &buffer[part.clone()];
            count += 1;
        }
        let payload = &slices[..count];
        match head {
            Head::Tcp(key, segment) => tables.flows.segment(context, place, key, &segment, payload),
            Head::Udp { key, .. } => {
                let datagram = Datagram {
                    key,
                    payload,
                    segment: 0,
                };
                input::udp(context, tables, place, &datagram);
            }
        }
    }
}

/// The parts of a frame that is nothing but data for a flow through the gateway: known source, no IP options, no
/// fragment, hops left, no TCP flag but ACK and PSH, right checksums. Anything unusual goes the long way, which also counts it.
fn plain_data(
    context: &mut Context,
    from: LinkId,
    frame: &[u8],
    offload: &Offload,
) -> Option<(Place, Head, Range<usize>)> {
    let mac = context.link(from)?.last_source?;
    let ethernet = frame.first_chunk::<ETHERNET>()?;
    if ethernet[..6] != context.settings.gateway_mac.0 || ethernet[6..12] != mac.0 {
        return None;
    }
    let Plain {
        addresses,
        protocol,
        start: l4,
        end,
    } = match (ethernet[12], ethernet[13]) {
        (0x08, 0x00) => plain_ipv4(frame)?,
        (0x86, 0xdd) => plain_ipv6(frame, &context.settings.ipv6?)?,
        _other => return None,
    };
    if end > frame.len() || context.settings.is_ours(addresses.source()) {
        return None;
    }
    let transport = &frame[l4..end];
    let head = transport.first_chunk::<UDP>()?;
    let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let key = Key {
        addresses,
        ports: (half(0), half(2)),
    };
    let (head, start) = match protocol {
        PROTOCOL_TCP => {
            let header = transport.first_chunk::<20>()?;
            let word = |at: usize| {
                u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
            };
            let start = usize::from(header[12] >> 4) * 4;
            let length = transport.len().checked_sub(start)?;
            if header[13] & !FLAG_PUSH != FLAG_ACK
                // Options are rare in data: SACK blocks, which the long way reads.
                || start != 20
                || length == 0
                || length > LARGE_FRAME
            {
                return None;
            }
            let segment = Segment {
                seq: Seq(word(4)),
                ack: Some(Seq(word(8))),
                window: u16::from_be_bytes([header[14], header[15]]),
                payload: length,
                ..Segment::default()
            };
            (Head::Tcp(key, segment), start)
        }
        PROTOCOL_UDP => {
            let size = transport.len() - UDP;
            let fits = usize::from(half(4)) == UDP + size && (1..=LARGEST_DATAGRAM).contains(&size);
            // Services and broadcasts have their own way; an unsummed datagram is rare enough for the long one.
            let carried = !context.settings.is_gateway(addresses.destination()) && half(6) != 0;
            if !fits || !carried || offload.segmentation != Segmentation::None {
                return None;
            }
            (
                Head::Udp {
                    key,
                    size,
                    total: size,
                    closed: false,
                },
                UDP,
            )
        }
        _other => return None,
    };
    if !offload.trusted() {
        let length = u16::try_from(transport.len()).ok()?;
        let mut sum = Sum::pseudo_header(addresses, protocol, length);
        sum.add(transport);
        if sum.finish() != 0 {
            return None;
        }
    }
    Some((Place { mac, link: from }, head, l4 + start..end))
}

/// What a plain IP header says.
struct Plain {
    addresses: Addresses,
    protocol: u8,
    /// Where the transport header begins and the packet ends, from the start of the frame.
    start: usize,
    end: usize,
}

fn plain_ipv4(frame: &[u8]) -> Option<Plain> {
    let header = frame.get(ETHERNET..)?.first_chunk::<IPV4>()?;
    if header[0] != 0x45
        || header[6] & 0x3f != 0
        || header[7] != 0
        || header[8] <= 1
        || checksum(header) != 0
    {
        return None;
    }
    let address =
        |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let end = ETHERNET + usize::from(u16::from_be_bytes([header[2], header[3]]));
    (end >= ETHERNET + IPV4).then_some(Plain {
        addresses: Addresses::V4 {
            source: address(12),
            destination: address(16),
        },
        protocol: header[9],
        start: ETHERNET + IPV4,
        end,
    })
}

fn plain_ipv6(frame: &[u8], ours: &Ipv6Settings) -> Option<Plain> {
    let header = frame.get(ETHERNET..)?.first_chunk::<IPV6>()?;
    if header[0] >> 4 != 6 || header[7] <= 1 {
        return None;
    }
    let address =
        |at: usize| -> Option<Ipv6Addr> { Some((*header.get(at..)?.first_chunk::<16>()?).into()) };
    let source = address(8)?;
    // A link-local source goes no further than to us.
    ours.prefix.contains(&source).then_some(Plain {
        addresses: Addresses::V6 {
            source,
            destination: address(24)?,
        },
        protocol: header[6],
        start: ETHERNET + IPV6,
        end: ETHERNET + IPV6 + usize::from(u16::from_be_bytes([header[4], header[5]])),
    })
}
