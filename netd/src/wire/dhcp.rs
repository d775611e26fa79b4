//! DHCPv4 messages as a server reads and writes them: RFC 2131 section 2 (layout), RFC 2132 (options).
//! It decides nothing; `engine::dhcp` does. Options split over several instances (RFC 3396) are not
//! joined: no option that we read is ever that long.

use std::net::Ipv4Addr;

use control::mac::MacAddress;

/// Fixed part of a message: everything before the magic cookie.
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// BOOTP's smallest message (RFC 951); shorter ones are dropped by some old clients and relays.
const SMALLEST_REPLY: usize = 300;
/// What every client must take (RFC 2131 section 2: 576 bytes of IP, less 28 of headers).
const USUAL_LIMIT: usize = 548;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;

/// Option numbers (RFC 2132 unless said otherwise).
pub mod option {
    #![allow(missing_docs, reason = "the names are the registry's own")]
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS_SERVERS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const INTERFACE_MTU: u8 = 26;
    pub const BROADCAST: u8 = 28;
    pub const NTP_SERVERS: u8 = 42;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_IDENTIFIER: u8 = 54;
    pub const PARAMETER_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT_IDENTIFIER: u8 = 61;
    /// RFC 4039.
    pub const RAPID_COMMIT: u8 = 80;
    /// RFC 4702.
    pub const CLIENT_FQDN: u8 = 81;
    /// RFC 3046.
    pub const RELAY_INFORMATION: u8 = 82;
    /// RFC 3397.
    pub const DOMAIN_SEARCH: u8 = 119;
    /// RFC 3442.
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// Option 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// Who can give me an address?
    Discover,
    /// A server's proposal.
    Offer,
    /// I take it, or: I keep it.
    Request,
    /// The address is somebody else's.
    Decline,
    /// Granted.
    Ack,
    /// Not granted.
    Nak,
    /// I do not need it any more.
    Release,
    /// I have an address, tell me the rest.
    Inform,
}

impl MessageType {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            _ => return None,
        })
    }

    fn number(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Offer => 2,
            Self::Request => 3,
            Self::Decline => 4,
            Self::Ack => 5,
            Self::Nak => 6,
            Self::Release => 7,
            Self::Inform => 8,
        }
    }
}

/// Why bytes are not a client's message. One counter for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than the fixed part and the cookie.
    #[error("shorter than a DHCP message")]
    Short,
    /// Not a BOOTREQUEST over Ethernet with the DHCP cookie.
    #[error("not a DHCP request over Ethernet")]
    NotARequest,
    /// `chaddr` is a group address or zero.
    #[error("the client's hardware address cannot be one station's")]
    BadHardwareAddress,
    /// Option 53 missing, of the wrong length or unknown.
    #[error("no message type")]
    NoType,
}

/// What option 81 says beside the name (RFC 4702 section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FqdnFlags {
    /// E: the name is in DNS wire form.
    pub wire_form: bool,
    /// S: the server shall make the A record.
    pub server_updates: bool,
}

/// A client's message; borrowed from the datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMessage<'a> {
    /// Option 53.
    pub kind: MessageType,
    /// Chosen by the client, copied into the answer.
    pub transaction: u32,
    /// The client cannot take unicast before it is configured (RFC 2131 section 4.1).
    pub broadcast: bool,
    /// `ciaddr`: the address that the client uses already, else 0.0.0.0.
    pub client_address: Ipv4Addr,
    /// `giaddr`: a relay agent's address, else 0.0.0.0.
    pub relay_address: Ipv4Addr,
    /// `chaddr`.
    pub hardware: MacAddress,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 51, seconds.
    pub lease_time: Option<u32>,
    /// Option 55; empty where there is none.
    pub parameters: &'a [u8],
    /// Option 61.
    pub client_identifier: Option<&'a [u8]>,
    /// Option 12 as it came, unchecked.
    pub host_name: Option<&'a [u8]>,
    /// Option 81's name as it came, unchecked.
    pub fqdn: Option<(&'a [u8], FqdnFlags)>,
    /// Option 80: one ACK in place of OFFER, REQUEST and ACK will do.
    pub rapid_commit: bool,
    /// Option 82, whatever is in it; of a relay agent, if there is one.
    pub relay_information: Option<&'a [u8]>,
    /// Option 57: the most bytes of DHCP message to send back.
    pub reply_limit: usize,
    flags: u16,
}

impl<'a> ClientMessage<'a> {
    /// Reads one datagram to port 67.
    ///
    /// # Errors
    /// [`Malformed`]: count and forget.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = bytes.split_at_checked(FIXED).ok_or(Malformed::Short)?;
        let options = rest.strip_prefix(&COOKIE).ok_or(match rest.len() {
            0..4 => Malformed::Short,
            _ => Malformed::NotARequest,
        })?;
        // op BOOTREQUEST, htype Ethernet, hlen 6
        if fixed.get(..3) != Some([1, 1, 6].as_slice()) {
            return Err(Malformed::NotARequest);
        }
        let hardware = MacAddress(array(fixed, 28));
        if hardware.is_group() || hardware.0 == [0; 6] {
            return Err(Malformed::BadHardwareAddress);
        }
        let flags = u16::from_be_bytes(array(fixed, 10));
        let mut message = Self {
            kind: MessageType::Inform,
            transaction: u32::from_be_bytes(array(fixed, 4)),
            broadcast: flags & 0x8000 != 0,
            client_address: Ipv4Addr::from(array::<4>(fixed, 12)),
            relay_address: Ipv4Addr::from(array::<4>(fixed, 24)),
            hardware,
            requested: None,
            server: None,
            lease_time: None,
            parameters: &[],
            client_identifier: None,
            host_name: None,
            fqdn: None,
            rapid_commit: false,
            relay_information: None,
            reply_limit: USUAL_LIMIT,
            flags,
        };
        let mut kind = None;
        let mut overload = 0;
        for (code, value) in Options(options) {
            message.take(code, value, &mut kind);
            if code == option::OVERLOAD {
                overload = value.first().copied().unwrap_or(0);
            }
        }
        // Section 4.1: 1 = file, 2 = sname, 3 = both carry options too, file first.
        for (bit, range) in [(1, FILE), (2, SNAME)] {
            if overload & bit != 0 {
                for (code, value) in Options(fixed.get(range).unwrap_or(&[])) {
                    message.take(code, value, &mut kind);
                }
            }
        }
        message.kind = kind.ok_or(Malformed::NoType)?;
        Ok(message)
    }

    /// The first instance of an option counts; one of a wrong length is as if it were not there.
    fn take(&mut self, code: u8, value: &'a [u8], kind: &mut Option<MessageType>) {
        match (code, value) {
            (option::MESSAGE_TYPE, [number]) if kind.is_none() => {
                *kind = MessageType::from_number(*number);
            }
            (option::REQUESTED_ADDRESS, value) => keep(&mut self.requested, address(value)),
            (option::SERVER_IDENTIFIER, value) => keep(&mut self.server, address(value)),
            (option::LEASE_TIME, value) => {
                keep(
                    &mut self.lease_time,
                    value.try_into().ok().map(u32::from_be_bytes),
                );
            }
            (option::PARAMETER_LIST, value) if self.parameters.is_empty() => {
                self.parameters = value;
            }
            // RFC 2132 section 9.14: at least two bytes.
            (option::CLIENT_IDENTIFIER, value) if value.len() >= 2 => {
                keep(&mut self.client_identifier, Some(value));
            }
            (option::HOST_NAME, value) => keep(&mut self.host_name, Some(value)),
            // flags, two obsolete bytes, name
            (option::CLIENT_FQDN, [flags, _, _, name @ ..]) => {
                let flags = FqdnFlags {
                    wire_form: flags & 4 != 0,
                    server_updates: flags & 1 != 0,
                };
                keep(&mut self.fqdn, Some((name, flags)));
            }
            (option::RAPID_COMMIT, []) => self.rapid_commit = true,
            (option::RELAY_INFORMATION, value) => {
                keep(&mut self.relay_information, Some(value));
            }
            (option::MAX_MESSAGE_SIZE, &[high, low]) => {
                let size = usize::from(u16::from_be_bytes([high, low]));
                // 28 bytes of IP and UDP header count; less than 576 is not allowed.
                self.reply_limit = size.saturating_sub(28).clamp(USUAL_LIMIT, 1472);
            }
            // Everything else says nothing to us.
            _ => {}
        }
    }

    /// An answer to this message: op, ids, flags and relay copied (RFC 2131 table 3), option 53 and 54 set.
    #[must_use]
    pub fn reply(&self, kind: MessageType, server: Ipv4Addr) -> Reply {
        let mut bytes = Vec::with_capacity(self.reply_limit.min(SMALLEST_REPLY + 64));
        bytes.extend_from_slice(&[2, 1, 6, 0]);
        bytes.extend_from_slice(&self.transaction.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&self.flags.to_be_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&self.relay_address.octets());
        bytes.extend_from_slice(&self.hardware.0);
        bytes.resize(FIXED, 0);
        bytes.extend_from_slice(&COOKIE);
        // RFC 3046 section 2.2: copied to the end of each answer that goes through the relay agent; without
        // one the option is a client's own invention.
        let last = self
            .relay_information
            .filter(|_| !self.relay_address.is_unspecified())
            .map_or_else(Vec::new, <[u8]>::to_vec);
        let mut reply = Reply {
            bytes,
            // Room for the end mark and the last option.
            limit: self.reply_limit - 3 - last.len(),
            last,
        };
        reply.option(option::MESSAGE_TYPE, &[kind.number()]);
        reply.option(option::SERVER_IDENTIFIER, &server.octets());
        // RFC 6842: sent back where it came, in every answer.
        if let Some(identifier) = self.client_identifier {
            reply.option(option::CLIENT_IDENTIFIER, identifier);
        }
        reply
    }
}

/// A server's message being written.
#[derive(Debug)]
pub struct Reply {
    bytes: Vec<u8>,
    limit: usize,
    /// Option 82.
    last: Vec<u8>,
}

impl Reply {
    /// `ciaddr`: the address that the client uses already.
    pub fn client_address(&mut self, address: Ipv4Addr) {
        self.bytes.splice(12..16, address.octets());
    }

    /// `yiaddr`: the address that the client gets.
    pub fn your_address(&mut self, address: Ipv4Addr) {
        self.bytes.splice(16..20, address.octets());
    }

    /// The answer goes by broadcast whatever the client said.
    pub fn set_broadcast(&mut self) {
        if let Some(flags) = self.bytes.get_mut(10) {
            *flags |= 0x80;
        }
    }

    /// Adds an option; one that is empty, over 255 bytes or past the client's limit is left out.
    /// (An empty option 119 or 12 is refused by strict clients.)
    pub fn option(&mut self, code: u8, value: &[u8]) {
        let Ok(length @ 1..) = u8::try_from(value.len()) else {
            return;
        };
        if self.bytes.len() + 2 + value.len() <= self.limit {
            self.bytes.extend_from_slice(&[code, length]);
            self.bytes.extend_from_slice(value);
        }
    }

    /// Option 80, which has no value: this ACK is the answer to a DISCOVER.
    pub fn rapid_commit(&mut self) {
        self.bytes.extend_from_slice(&[option::RAPID_COMMIT, 0]);
    }

    /// The whole message.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if !self.last.is_empty() {
            self.limit = usize::MAX;
            let last = std::mem::take(&mut self.last);
            self.option(option::RELAY_INFORMATION, &last);
        }
        self.bytes.push(option::END);
        if self.bytes.len() < SMALLEST_REPLY {
            self.bytes.resize(SMALLEST_REPLY, option::PAD);
        }
        self.bytes
    }
}

/// Walks options; stops at the end mark and at the first one that runs out of its bytes.
#[derive(Clone, Debug)]
pub struct Options<'a>(pub &'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0 {
                [option::PAD, rest @ ..] => self.0 = rest,
                [code, length, rest @ ..] if *code != option::END => {
                    let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                    self.0 = rest;
                    return Some((*code, value));
                }
                _ => return None,
            }
        }
    }
}

/// The options of any DHCP message, for clients and tests; `None` without the cookie.
#[must_use]
pub fn options_of(message: &[u8]) -> Option<Options<'_>> {
    message.get(FIXED..)?.strip_prefix(&COOKIE).map(Options)
}

fn keep<T>(slot: &mut Option<T>, value: Option<T>) {
    if slot.is_none() {
        *slot = value;
    }
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    value.try_into().ok().map(|octets: [u8; 4]| octets.into())
}

/// `N` bytes from `at`; zeros past the end, which callers have excluded.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A client's message with the given options, for tests.
    fn request(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
        bytes[10] = 0x80;
        bytes[28..34].copy_from_slice(&[0x52, 0x54, 0, 1, 2, 3]);
        bytes.extend_from_slice(&COOKIE);
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn message_of_smoltcp_is_read() {
        use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};
        let parameters = [1, 3, 6];
        let repr = DhcpRepr {
            message_type: DhcpMessageType::Request,
            transaction_id: 7,
            secs: 0,
            client_hardware_address: EthernetAddress([2, 0, 0, 0, 0, 9]),
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: true,
            requested_ip: Some(Ipv4Addr::new(10, 0, 0, 7)),
            client_identifier: Some(EthernetAddress([2, 0, 0, 0, 0, 9])),
            server_identifier: Some(Ipv4Addr::new(10, 0, 0, 1)),
            parameter_request_list: Some(&parameters),
            dns_servers: None,
            max_size: Some(1432),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes))
            .unwrap();
        let message = ClientMessage::decode(&bytes).unwrap();
        assert_eq!(message.kind, MessageType::Request);
        assert_eq!(message.transaction, 7);
        assert!(message.broadcast);
        assert_eq!(message.hardware, MacAddress([2, 0, 0, 0, 0, 9]));
        assert_eq!(message.requested, Some(Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(message.server, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(message.parameters, parameters);
        assert_eq!(
            message.client_identifier,
            Some([1, 2, 0, 0, 0, 0, 9].as_slice())
        );
        assert_eq!(message.reply_limit, 1404);
    }

    #[test]
    fn reply_is_read_by_smoltcp() {
        use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr};
        let bytes = request(&[53, 1, 1, 61, 7, 1, 0x52, 0x54, 0, 1, 2, 3, 255]);
        let message = ClientMessage::decode(&bytes).unwrap();
        let mut reply = message.reply(MessageType::Offer, Ipv4Addr::new(10, 0, 0, 1));
        reply.your_address(Ipv4Addr::new(10, 0, 0, 9));
        reply.option(option::ROUTER, &[10, 0, 0, 1]);
        reply.option(option::HOST_NAME, b"");
        let bytes = reply.finish();
        assert_eq!(bytes.len(), SMALLEST_REPLY);
        let packet = DhcpPacket::new_checked(bytes.as_slice()).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(repr.message_type, DhcpMessageType::Offer);
        assert_eq!(repr.transaction_id, 0xdead_beef);
        assert_eq!(repr.your_ip, Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(repr.router, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert!(repr.broadcast);
        assert!(
            options_of(&bytes)
                .unwrap()
                .all(|(code, _)| code != option::HOST_NAME)
        );
    }

    #[test]
    fn overloaded_fields_are_options_too() {
        let mut bytes = request(&[52, 1, 3, 255]);
        bytes[FILE][..4].copy_from_slice(&[53, 1, 1, 255]);
        bytes[SNAME][..6].copy_from_slice(&[12, 3, b'w', b'e', b'b', 255]);
        let message = ClientMessage::decode(&bytes).unwrap();
        assert_eq!(message.kind, MessageType::Discover);
        assert_eq!(message.host_name, Some(b"web".as_slice()));
    }

    #[test]
    fn answers_are_no_requests_and_groups_are_no_clients() {
        let good = request(&[53, 1, 1, 255]);
        assert!(ClientMessage::decode(&good).is_ok());
        for (at, value, expected) in [
            (0, 2, Malformed::NotARequest),
            (1, 6, Malformed::NotARequest),
            (2, 16, Malformed::NotARequest),
            (28, 0x53, Malformed::BadHardwareAddress),
            (FIXED, 0, Malformed::NotARequest),
            (FIXED + 6, 77, Malformed::NoType),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert_eq!(ClientMessage::decode(&bytes), Err(expected), "byte {at}");
        }
        assert_eq!(ClientMessage::decode(&good[..100]), Err(Malformed::Short));
    }

    #[test]
    fn what_the_relay_agent_added_comes_back_last_and_only_to_it() {
        let mut bytes = request(&[53, 1, 1, 82, 3, 1, 1, 7, 12, 1, b'a', 255]);
        for (relay, comes_back) in [([10, 0, 0, 9], true), ([0; 4], false)] {
            bytes[24..28].copy_from_slice(&relay);
            let message = ClientMessage::decode(&bytes).unwrap();
            let mut reply = message.reply(MessageType::Ack, Ipv4Addr::LOCALHOST);
            reply.option(option::ROUTER, &[10, 0, 0, 1]);
            let reply = reply.finish();
            let last = options_of(&reply).unwrap().last().unwrap();
            let expected = (option::RELAY_INFORMATION, [1, 1, 7].as_slice());
            assert_eq!(last == expected, comes_back, "{last:?}");
        }
    }

    proptest! {
        #[test]
        fn decode_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            ClientMessage::decode(&bytes).ok();
        }

        #[test]
        fn decode_of_any_options_never_panics(options in proptest::collection::vec(any::<u8>(), 0..400)) {
            let bytes = request(&options);
            if let Ok(message) = ClientMessage::decode(&bytes) {
                let mut reply = message.reply(MessageType::Ack, Ipv4Addr::LOCALHOST);
                for code in 1..255 {
                    reply.option(code, &[code; 9]);
                }
                let reply = reply.finish();
                prop_assert!(reply.len() <= message.reply_limit);
                prop_assert!(options_of(&reply).is_some());
            }
        }
    }
}
