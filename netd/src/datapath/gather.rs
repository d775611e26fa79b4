//! Consecutive TCP segments of one connection, handed on as one: at an MTU of 1500 without offload forty-five
//! frames cost one call on the host's socket instead of forty-five. What Linux calls GRO.
//! Frames stay in the buffer that they were read into; only plain data segments are gathered, and whatever else
//! comes hands on what was gathered before it.

use std::net::Ipv4Addr;
use std::ops::Range;

use super::context::{Context, Place};
use super::flows::Flows;
use super::pump::Key;
use crate::engine::checksum::{Sum, checksum};
use crate::engine::offload::Offload;
use crate::engine::packet::{ETHERNET, IPV4, PROTOCOL_TCP};
use crate::engine::services::LinkId;
use crate::engine::tcp::segment::Segment;
use crate::engine::tcp::seq::Seq;

/// Most frames handed on as one.
pub(super) const GATHER_PARTS: usize = 64;
/// Payload of a frame that needs no company.
const LARGE_FRAME: usize = 16 << 10;
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

/// Segments that wait to be handed on.
#[derive(Default)]
pub(super) struct Gather {
    first: Option<(Place, Key, Segment)>,
    parts: Vec<Range<usize>>,
}

impl Gather {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Takes a frame if it is a plain data segment that continues what waits.
    pub(super) fn take(
        &mut self,
        context: &mut Context,
        from: LinkId,
        buffer: &[u8],
        at: Range<usize>,
        offload: &Offload,
    ) -> Gathered {
        let Some((place, key, segment, payload)) =
            data_segment(context, from, &buffer[at.clone()], offload)
        else {
            return Gathered::Other;
        };
        let payload = at.start + payload.start..at.start + payload.end;
        match &mut self.first {
            None => {
                self.first = Some((place, key, segment));
                self.parts.clear();
            }
            Some((its_place, its_key, gathered)) => {
                let next = gathered
                    .seq
                    .plus(u32::try_from(gathered.payload).unwrap_or(0));
                let fits = gathered.payload + segment.payload <= GATHER_BYTES
                    && self.parts.len() < GATHER_PARTS;
                if (*its_place, *its_key) != (place, key) || next != segment.seq || !fits {
                    return Gathered::Differs;
                }
                gathered.payload += segment.payload;
                gathered.ack = segment.ack;
                gathered.window = segment.window;
            }
        }
        self.parts.push(payload);
        if let Some(link) = context.link(from) {
            link.counters.received_frames += 1;
            link.counters.received_bytes += at.len() as u64;
        }
        Gathered::Taken
    }

    /// Hands on what waits.
    pub(super) fn hand_on(&mut self, context: &mut Context, flows: &mut Flows, buffer: &[u8]) {
        let Some((place, key, segment)) = self.first.take() else {
            return;
        };
        let mut slices = [&[][..]; GATHER_PARTS];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = &buffer[part.clone()];
            count += 1;
        }
        flows.segment(context, place, key, &segment, &slices[..count]);
    }
}

/// The parts of a frame that is nothing but TCP data for the gateway: known source, no IP options, no fragment,
/// no flag but ACK and PSH, right checksums. Anything unusual goes the long way, which also counts it.
fn data_segment(
    context: &mut Context,
    from: LinkId,
    frame: &[u8],
    offload: &Offload,
) -> Option<(Place, Key, Segment, Range<usize>)> {
    const TCP: usize = ETHERNET + IPV4;
    let head = frame.first_chunk::<{ TCP + 20 }>()?;
    let mac = context.link(from)?.last_source?;
    let plain = head[..6] == context.settings.gateway_mac.0
        && head[6..12] == mac.0
        && head[12..15] == [8, 0, 0x45]
        && head[20] & 0x3f == 0
        && head[21] == 0
        && head[23] == PROTOCOL_TCP
        && head[TCP + 13] & !FLAG_PUSH == FLAG_ACK;
    if !plain {
        return None;
    }
    let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let end = ETHERNET + usize::from(half(16));
    let start = TCP + usize::from(head[TCP + 12] >> 4) * 4;
    let large = end.checked_sub(start)? > LARGE_FRAME;
    if end > frame.len()
        || start < TCP + 20
        || start == end
        || large
        || checksum(&head[ETHERNET..TCP]) != 0
    {
        return None;
    }
    let (source, destination) = (Ipv4Addr::from(word(26)), Ipv4Addr::from(word(30)));
    if source == context.settings.gateway || source == context.settings.host_internal {
        return None;
    }
    if !offload.trusted() {
        let length = u16::try_from(end - TCP).ok()?;
        let mut sum = Sum::pseudo_header(source, destination, PROTOCOL_TCP, length);
        sum.add(&frame[TCP..end]);
        if sum.finish() != 0 {
            return None;
        }
    }
    let key = Key {
        guest: (source, half(TCP)),
        remote: (destination, half(TCP + 2)),
    };
    let segment = Segment {
        seq: Seq(word(TCP + 4)),
        ack: Some(Seq(word(TCP + 8))),
        window: half(TCP + 14),
        syn: false,
        fin: false,
        rst: false,
        mss: None,
        window_scale: None,
        payload: end - start,
    };
    Some((Place { mac, link: from }, key, segment, start..end))
}
