//! Reading IPv6 packets (RFC 8200): the fixed header and the chain of extension headers, up to what the packet
//! carries. Whatever a sender is to be told of comes back as a value; nothing is told from here.

use std::net::Ipv6Addr;

use crate::engine::packet::{IPV6, PROTOCOL_FRAGMENT};

/// Extension headers of one packet. RFC 8200 §4.1 names six places for them; longer chains hide something.
const LONGEST_CHAIN: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

/// Bytes of a payload put together: what one length field can say.
pub const LONGEST_PAYLOAD: usize = 65_535;

/// A packet whose lengths fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Who sends.
    pub source: Ipv6Addr,
    /// Who receives.
    pub destination: Ipv6Addr,
    /// Hops left.
    pub hop_limit: u8,
    /// Extension headers that were passed.
    pub extensions: usize,
    /// What it carries.
    pub body: Body<'a>,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// All of it.
    Whole(Upper<'a>),
    /// A part of a datagram.
    Piece(Piece<'a>),
}

/// Header and payload of the protocol above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper<'a> {
    /// Protocol number.
    pub protocol: u8,
    /// Where that number stands, from the start of the packet (RFC 4443 §3.4 wants it told).
    pub protocol_at: usize,
    /// The bytes.
    pub payload: &'a [u8],
}

/// A fragment (RFC 8200 §4.5); one that is a whole datagram is none (RFC 6946).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The same in all of a datagram.
    pub identification: u32,
    /// Place of its first byte.
    pub offset: usize,
    /// It is not the last.
    pub more: bool,
    /// What the datagram begins with; counts in the first piece only.
    pub next_header: u8,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Lengths that do not fit, or a chain that nobody sends.
    Malformed,
    /// It carries nothing, or an option says "discard".
    Silent,
    /// The sender is told the parameter problem (RFC 4443 §3.4); `to_multicast` = even of a packet to a group.
    Problem {
        /// 0 = erroneous field, 1 = unknown next header, 2 = unknown option.
        code: u8,
        /// The offending byte, from the start of the packet.
        pointer: u32,
        /// Whether a packet to a group is answered too.
        to_multicast: bool,
    },
}

/// Parameter problem codes.
const ERRONEOUS_FIELD: u8 = 0;
const UNKNOWN_OPTION: u8 = 2;

fn problem(code: u8, at: usize) -> Refused {
    Refused::Problem {
        code,
        pointer: u32::try_from(at).unwrap_or(u32::MAX),
        to_multicast: false,
    }
}

/// Reads a packet; bytes behind its end (padding of a short frame) are left out.
///
/// # Errors
/// What becomes of a packet that is not carried.
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, Refused> {
    let header = bytes.first_chunk::<IPV6>().ok_or(Refused::Malformed)?;
    if header[0] >> 4 != 6 {
        return Err(Refused::Malformed);
    }
    let end = IPV6 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let packet = bytes.get(..end).ok_or(Refused::Malformed)?;
    let address = |at: usize| {
        let octets = header.get(at..).and_then(|rest| rest.first_chunk::<16>());
        octets.map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
    };
    let (body, extensions) = walk(packet, header[6], 6, IPV6)?;
    Ok(Packet {
        source: address(8),
        destination: address(24),
        hop_limit: header[7],
        extensions,
        body,
    })
}

/// Reads a datagram that was put together from pieces: what `next_header` of the first one begins.
///
/// # Errors
/// As [`parse`]; a fragment in a fragment is malformed.
pub fn upper(next_header: u8, datagram: &[u8]) -> Result<Upper<'_>, Refused> {
    match walk(datagram, next_header, 0, 0)? {
        (Body::Whole(upper), _) => Ok(upper),
        (Body::Piece(_), _) => Err(Refused::Malformed),
    }
}

/// Follows the chain from the header of kind `next` at `at`; `next_at` = where that kind was said.
fn walk(
    packet: &[u8],
    mut next: u8,
    mut next_at: usize,
    mut at: usize,
) -> Result<(Body<'_>, usize), Refused> {
    for passed in 0..LONGEST_CHAIN {
        let rest = packet.get(at..).ok_or(Refused::Malformed)?;
        let length = match next {
            // Only right behind the fixed header (RFC 8200 §4.1).
            HOP_BY_HOP if at != IPV6 => return Err(problem(1, next_at)),
            HOP_BY_HOP | DESTINATION_OPTIONS => {
                let header = extension(rest)?;
                options(header, at)?;
                header.len()
            }
            ROUTING => {
                let header = extension(rest)?;
                routing(header, at)?;
                header.len()
            }
            PROTOCOL_FRAGMENT => {
                let piece = fragment(packet, at)?;
                if piece.offset > 0 || piece.more {
                    return Ok((Body::Piece(piece), passed + 1));
                }
                8
            }
            NO_NEXT_HEADER => return Err(Refused::Silent),
            protocol => {
                let upper = Upper {
                    protocol,
                    protocol_at: next_at,
                    payload: rest,
                };
                return Ok((Body::Whole(upper), passed));
            }
        };
        (next, next_at) = (*rest.first().ok_or(Refused::Malformed)?, at);
        at += length;
    }
    Err(Refused::Malformed)
}

/// A header that says its own length, in units of eight bytes beyond the first.
fn extension(rest: &[u8]) -> Result<&[u8], Refused> {
    let length = rest.get(1).ok_or(Refused::Malformed)?;
    rest.get(..8 + 8 * usize::from(*length))
        .ok_or(Refused::Malformed)
}

/// Options that nobody here knows are treated as their two highest bits say (RFC 8200 §4.2).
fn options(header: &[u8], start: usize) -> Result<(), Refused> {
    const PAD: u8 = 0;
    let mut at = 2;
    while let Some(&kind) = header.get(at) {
        if kind == PAD {
            at += 1;
            continue;
        }
        let length = header.get(at + 1).ok_or(Refused::Malformed)?;
        let end = at + 2 + usize::from(*length);
        if end > header.len() {
            return Err(Refused::Malformed);
        }
        match kind >> 6 {
            0 => {}
            1 => return Err(Refused::Silent),
            action => {
                return Err(Refused::Problem {
                    code: UNKNOWN_OPTION,
                    pointer: u32::try_from(start + at).unwrap_or(u32::MAX),
                    to_multicast: action == 2,
                });
            }
        }
        at = end;
    }
    Ok(())
}

/// A route that is used up is passed; one with hops left is not followed, least of all type 0 (RFC 5095).
fn routing(header: &[u8], start: usize) -> Result<(), Refused> {
    match header {
        [_, _, _, 0, ..] => Ok(()),
        _hops_left => Err(problem(ERRONEOUS_FIELD, start + 2)),
    }
}

fn fragment(packet: &[u8], at: usize) -> Result<Piece<'_>, Refused> {
    let header = packet.get(at..).and_then(|rest| rest.first_chunk::<8>());
    let header = header.ok_or(Refused::Malformed)?;
    let place = u16::from_be_bytes([header[2], header[3]]);
    let payload = packet.get(at + 8..).ok_or(Refused::Malformed)?;
    let piece = Piece {
        identification: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        offset: usize::from(place & !7),
        more: place & 1 == 1,
        next_header: header[0],
        payload,
    };
    if piece.more && !payload.len().is_multiple_of(8) {
        return Err(problem(ERRONEOUS_FIELD, 4));
    }
    if piece.offset + payload.len() > LONGEST_PAYLOAD {
        return Err(problem(ERRONEOUS_FIELD, at + 2));
    }
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ICMPV6: u8 = 58;

    /// A packet of `next` and the bytes behind the fixed header.
    fn packet(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        let length = u16::try_from(payload.len()).unwrap();
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        for address in ["fd00::7", "fd00::1"] {
            bytes.extend_from_slice(&address.parse::<Ipv6Addr>().unwrap().octets());
        }
        bytes.extend_from_slice(payload);
        bytes
    }

    fn whole(bytes: &[u8]) -> Result<(u8, usize, usize), Refused> {
        match parse(bytes)?.body {
            Body::Whole(upper) => Ok((upper.protocol, upper.protocol_at, upper.payload.len())),
            Body::Piece(_) => panic!("a piece"),
        }
    }

    #[test]
    fn each_chain_has_its_end() {
        let pad = [1, 4, 0, 0, 0, 0];
        let options = |next: u8| [&[next, 0], &pad[..]].concat();
        let odd = |next: u8, kind: u8| vec![next, 0, kind, 4, 0, 0, 0, 0];
        let told = |code, pointer, to_multicast| {
            Err(Refused::Problem {
                code,
                pointer,
                to_multicast,
            })
        };
        type Expected = Result<(u8, usize, usize), Refused>;
        let table: [(&str, u8, Vec<u8>, Expected); 15] = [
            ("nothing between", 17, vec![0; 8], Ok((17, 6, 8))),
            (
                "hop-by-hop",
                0,
                [options(6), vec![0; 20]].concat(),
                Ok((6, 40, 20)),
            ),
            (
                "hop-by-hop, then destination options",
                0,
                [options(60), options(ICMPV6), vec![0; 8]].concat(),
                Ok((ICMPV6, 48, 8)),
            ),
            (
                "hop-by-hop later",
                60,
                [options(0), options(6)].concat(),
                told(1, 40, false),
            ),
            (
                "unknown option to skip",
                60,
                [odd(17, 0x1e), vec![0; 8]].concat(),
                Ok((17, 40, 8)),
            ),
            (
                "unknown option to discard",
                60,
                odd(17, 0x5e),
                Err(Refused::Silent),
            ),
            (
                "unknown option to tell",
                60,
                odd(17, 0x9e),
                told(2, 42, true),
            ),
            ("jumbo payload", 0, odd(17, 0xc2), told(2, 42, false)),
            (
                "a used-up route",
                43,
                [vec![17, 0, 2, 0, 0, 0, 0, 0], vec![0; 8]].concat(),
                Ok((17, 40, 8)),
            ),
            (
                "a source route",
                43,
                [vec![17, 0, 0, 1, 0, 0, 0, 0], vec![0; 8]].concat(),
                told(0, 42, false),
            ),
            ("no next header", 59, vec![1, 2, 3], Err(Refused::Silent)),
            (
                "an atomic fragment",
                44,
                [vec![17, 0, 0, 0, 1, 2, 3, 4], vec![0; 9]].concat(),
                Ok((17, 40, 9)),
            ),
            (
                "a crooked fragment",
                44,
                [vec![17, 0, 0, 1, 1, 2, 3, 4], vec![0; 9]].concat(),
                told(0, 4, false),
            ),
            (
                "too long a datagram",
                44,
                [vec![17, 0, 0xff, 0xf8, 1, 2, 3, 4], vec![0; 8]].concat(),
                told(0, 42, false),
            ),
            (
                "a header cut short",
                60,
                vec![17, 1, 0, 0, 0, 0, 0, 0],
                Err(Refused::Malformed),
            ),
        ];
        for (name, next, payload, expected) in table {
            assert_eq!(whole(&packet(next, &payload)), expected, "{name}");
        }
        let endless = vec![options(60); LONGEST_CHAIN].concat();
        assert_eq!(whole(&packet(60, &endless)), Err(Refused::Malformed));
    }

    #[test]
    fn a_fragment_says_its_place() {
        let bytes = packet(44, &[17, 0, 0x05, 0xa9, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8]);
        let Body::Piece(piece) = parse(&bytes).unwrap().body else {
            panic!("whole")
        };
        assert_eq!((piece.offset, piece.more), (0x05a8, true));
        assert_eq!((piece.identification, piece.next_header), (9, 17));
        assert_eq!(piece.payload, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_datagram_put_together_begins_where_its_first_piece_says() {
        let datagram = [&[17, 0, 1, 4, 0, 0, 0, 0], &b"payload!"[..]].concat();
        let read = upper(60, &datagram).unwrap();
        assert_eq!((read.protocol, read.payload), (17, &b"payload!"[..]));
        assert_eq!(
            upper(44, &[17, 0, 0, 9, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
            Err(Refused::Malformed)
        );
        assert!(matches!(
            upper(0, &datagram),
            Err(Refused::Problem { code: 1, .. })
        ));
    }

    proptest! {
        /// Any bytes end in a value, and what is carried lies inside the packet and behind every header.
        #[test]
        fn any_bytes_are_read_or_refused(
            kinds in proptest::collection::vec(0_usize..7, 0..12),
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            cut in any::<proptest::sample::Index>(),
        ) {
            let next = |at: usize| {
                let known = [0, 43, 44, 60, 59, 17, 6];
                kinds.get(at).map_or(17, |kind| known[*kind])
            };
            let mut payload = Vec::new();
            for at in 0..kinds.len() {
                payload.extend_from_slice(&[next(at + 1), 0, 0, 0, 1, 2, 0, 0]);
            }
            payload.extend_from_slice(&noise);
            let bytes = packet(next(0), &payload);
            let short = &bytes[..cut.index(bytes.len() + 1)];
            for bytes in [&bytes[..], short, &noise] {
                if let Ok(read) = parse(bytes) {
                    let rest = match read.body {
                        Body::Whole(upper) => upper.payload,
                        Body::Piece(piece) => piece.payload,
                    };
                    prop_assert!(bytes.len() >= IPV6 + 8 * read.extensions + rest.len());
                    prop_assert!(read.extensions < LONGEST_CHAIN + 1);
                }
                let _read = upper(next(0), bytes);
            }
        }
    }
}
