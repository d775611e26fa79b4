//! DHCPv6 messages as a server reads and writes them: RFC 8415 section 8 (layout) and 21 (options).
//! It decides nothing; `engine::dhcp6` does. Relayed messages are told apart and not opened.

use std::net::Ipv6Addr;

/// Option numbers (RFC 8415 unless said otherwise).
pub mod option {
    #![allow(missing_docs, reason = "the names are the registry's own")]
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const IA_TA: u16 = 4;
    pub const IA_ADDRESS: u16 = 5;
    pub const REQUESTED: u16 = 6;
    pub const PREFERENCE: u16 = 7;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    /// RFC 3646.
    pub const DNS_SERVERS: u16 = 23;
    /// RFC 3646.
    pub const DOMAIN_LIST: u16 = 24;
    pub const IA_PD: u16 = 25;
    /// RFC 4075.
    pub const SNTP_SERVERS: u16 = 31;
    pub const REFRESH_TIME: u16 = 32;
    /// RFC 4704.
    pub const CLIENT_FQDN: u16 = 39;
    /// RFC 5908.
    pub const NTP_SERVER: u16 = 56;
}

/// A DUID has a type of two bytes and at most 128 more (section 11.1).
const DUID: std::ops::RangeInclusive<usize> = 3..=130;
/// Associations read of one message, and addresses of one association; honest clients have one of each.
const MOST: usize = 8;

/// A client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// Who can give me an address?
    Solicit,
    /// I take it.
    Request,
    /// Are my addresses still right here?
    Confirm,
    /// I keep it, to the server that gave it.
    Renew,
    /// I keep it, to any server.
    Rebind,
    /// I do not need it any more.
    Release,
    /// The address is somebody else's.
    Decline,
    /// I need no address, tell me the rest.
    InformationRequest,
}

/// A server's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyType {
    /// What a REQUEST would get.
    Advertise,
    /// The answer to everything else.
    Reply,
}

/// Section 21.13.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All is well.
    Success,
    /// There is no address for the association.
    NoAddresses,
    /// The association is not known here.
    NoBinding,
    /// The addresses do not belong on this link.
    NotOnLink,
    /// To the group, please.
    UseMulticast,
    /// There is no prefix for the association.
    NoPrefixes,
}

impl Status {
    /// The number and words for people.
    fn value(self) -> (u16, &'static str) {
        match self {
            Self::Success => (0, "done"),
            Self::NoAddresses => (2, "no address for this association"),
            Self::NoBinding => (3, "nothing is known of this association"),
            Self::NotOnLink => (4, "the addresses do not belong on this link"),
            Self::UseMulticast => (5, "send to ff02::1:2"),
            Self::NoPrefixes => (6, "no prefixes are delegated here"),
        }
    }
}

/// Why bytes are not a client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than type and transaction id, or an option runs out of its bytes.
    #[error("shorter than it says")]
    Short,
    /// RELAY-FORW or RELAY-REPL.
    #[error("from a relay agent")]
    Relayed,
    /// A server's message, or of no known type.
    #[error("no message of a client")]
    NotAClients,
    /// A DUID that is too short or too long.
    #[error("the DUID has no possible length")]
    BadDuid,
}

/// An identity association and the addresses that the client names in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// The client's number for it.
    pub iaid: u32,
    /// What the client has or wishes.
    pub addresses: Vec<Ipv6Addr>,
}

/// A client's message; borrowed from the datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMessage<'a> {
    /// What it is.
    pub kind: MessageType,
    /// Chosen by the client, copied into the answer.
    pub transaction: [u8; 3],
    /// The client's DUID.
    pub client: Option<&'a [u8]>,
    /// The DUID of the server that it is for.
    pub server: Option<&'a [u8]>,
    /// Options that the client asks for; `None` where it has no such list.
    pub requested: Option<Vec<u16>>,
    /// A REPLY may come at once.
    pub rapid_commit: bool,
    /// IA_NA, the first eight.
    pub associations: Vec<Association>,
    /// IAIDs of IA_TA, the first eight.
    pub temporary: Vec<u32>,
    /// IAIDs of IA_PD, the first eight.
    pub prefixes: Vec<u32>,
    /// The flags of option 39; its name is not for us to believe.
    pub fqdn: Option<u8>,
}

impl<'a> ClientMessage<'a> {
    /// Reads one datagram to port 547.
    ///
    /// # Errors
    /// [`Malformed`]: count and forget.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let [kind, a, b, c, options @ ..] = bytes else {
            return Err(Malformed::Short);
        };
        let kind = match kind {
            1 => MessageType::Solicit,
            3 => MessageType::Request,
            4 => MessageType::Confirm,
            5 => MessageType::Renew,
            6 => MessageType::Rebind,
            8 => MessageType::Release,
            9 => MessageType::Decline,
            11 => MessageType::InformationRequest,
            12 | 13 => return Err(Malformed::Relayed),
            _ => return Err(Malformed::NotAClients),
        };
        let mut message = Self {
            kind,
            transaction: [*a, *b, *c],
            client: None,
            server: None,
            requested: None,
            rapid_commit: false,
            associations: Vec::new(),
            temporary: Vec::new(),
            prefixes: Vec::new(),
            fqdn: None,
        };
        let mut rest = Options(options);
        for (code, value) in rest.by_ref() {
            message.take(code, value)?;
        }
        if rest.0.is_empty() {
            Ok(message)
        } else {
            Err(Malformed::Short)
        }
    }

    fn take(&mut self, code: u16, value: &'a [u8]) -> Result<(), Malformed> {
        match code {
            option::CLIENT_ID | option::SERVER_ID if !DUID.contains(&value.len()) => {
                return Err(Malformed::BadDuid);
            }
            option::CLIENT_ID => self.client = self.client.or(Some(value)),
            option::SERVER_ID => self.server = self.server.or(Some(value)),
            option::IA_NA if self.associations.len() < MOST => {
                // iaid, T1, T2, options
                let (iaid, inner) = identity(value, 12)?;
                let addresses = Options(inner)
                    .filter(|(code, _)| *code == option::IA_ADDRESS)
                    .filter_map(|(_, value)| value.first_chunk::<16>())
                    .map(|octets| Ipv6Addr::from(*octets))
                    .take(MOST)
                    .collect();
                self.associations.push(Association { iaid, addresses });
            }
            option::IA_TA if self.temporary.len() < MOST => {
                self.temporary.push(identity(value, 4)?.0);
            }
            option::IA_PD if self.prefixes.len() < MOST => {
                self.prefixes.push(identity(value, 12)?.0);
            }
            option::REQUESTED if self.requested.is_none() => {
                let pairs = value.chunks_exact(2);
                let codes =
                    pairs.filter_map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?)));
                self.requested = Some(codes.take(64).collect());
            }
            option::RAPID_COMMIT => self.rapid_commit = true,
            option::CLIENT_FQDN => self.fqdn = self.fqdn.or_else(|| value.first().copied()),
            // Everything else says nothing to us.
            _ => {}
        }
        Ok(())
    }
}

/// The IAID and what stands after `fixed` bytes.
fn identity(value: &[u8], fixed: usize) -> Result<(u32, &[u8]), Malformed> {
    let iaid = value.first_chunk::<4>().ok_or(Malformed::Short)?;
    let inner = value.get(fixed..).ok_or(Malformed::Short)?;
    Ok((u32::from_be_bytes(*iaid), inner))
}

/// Walks options; what is left of it afterwards is empty, or ran out of its bytes.
#[derive(Clone, Debug)]
pub struct Options<'a>(pub &'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [a, b, c, d, rest @ ..] = self.0 else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((u16::from_be_bytes([*a, *b]), value))
    }
}

/// A server's message, or the options inside of one, being written.
#[derive(Debug)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A message.
    #[must_use]
    pub fn message(kind: ReplyType, transaction: [u8; 3]) -> Self {
        let kind = match kind {
            ReplyType::Advertise => 2,
            ReplyType::Reply => 7,
        };
        let [a, b, c] = transaction;
        Self(vec![kind, a, b, c])
    }

    /// Adds an option; one over 65,535 bytes, which nothing of ours is, is left out.
    pub fn option(&mut self, code: u16, value: &[u8]) {
        if let Ok(length) = u16::try_from(value.len()) {
            self.0.extend_from_slice(&code.to_be_bytes());
            self.0.extend_from_slice(&length.to_be_bytes());
            self.0.extend_from_slice(value);
        }
    }

    /// Adds option 13.
    pub fn status(&mut self, status: Status) {
        let (number, words) = status.value();
        let value = [&number.to_be_bytes(), words.as_bytes()].concat();
        self.option(option::STATUS, &value);
    }

    /// Adds an association: IA_NA and IA_PD with times of renewing in seconds, IA_TA without.
    pub fn association(
        &mut self,
        (code, iaid): (u16, u32),
        times: Option<(u32, u32)>,
        fill: impl FnOnce(&mut Self),
    ) {
        let mut inner = Self(iaid.to_be_bytes().to_vec());
        if let Some((t1, t2)) = times {
            inner.0.extend_from_slice(&t1.to_be_bytes());
            inner.0.extend_from_slice(&t2.to_be_bytes());
        }
        fill(&mut inner);
        self.option(code, &inner.0);
    }

    /// Adds an address of an association, with its lifetimes in seconds.
    pub fn address(&mut self, address: Ipv6Addr, preferred: u32, valid: u32) {
        let mut value = address.octets().to_vec();
        value.extend_from_slice(&preferred.to_be_bytes());
        value.extend_from_slice(&valid.to_be_bytes());
        self.option(option::IA_ADDRESS, &value);
    }

    /// The whole message.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A SOLICIT of dhclient: client id, requested options, elapsed time, IA_NA with an address.
    const SOLICIT: [u8; 80] = [
        1, 0x12, 0x34, 0x56, // type, transaction
        0, 1, 0, 10, 0, 3, 0, 1, 0x52, 0x54, 0, 1, 2, 3, // DUID-LL
        0, 6, 0, 4, 0, 23, 0, 24, // requested
        0, 8, 0, 2, 0, 0, // elapsed
        0, 14, 0, 0, // rapid commit
        0, 3, 0, 40, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, // IA_NA 7
        0, 5, 0, 24, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 168, 130, 9, 0, 0, 0, 0, 0, 0, 0,
        0,
    ];

    #[test]
    fn every_field_of_a_solicit_is_read() {
        let message = ClientMessage::decode(&SOLICIT).unwrap();
        assert_eq!(message.kind, MessageType::Solicit);
        assert_eq!(message.transaction, [0x12, 0x34, 0x56]);
        assert_eq!(
            message.client,
            Some([0, 3, 0, 1, 0x52, 0x54, 0, 1, 2, 3].as_slice())
        );
        assert_eq!(message.server, None);
        assert_eq!(message.requested, Some(vec![23, 24]));
        assert!(message.rapid_commit);
        let address = "fd00::c0a8:8209".parse().unwrap();
        assert_eq!(
            message.associations,
            [Association {
                iaid: 7,
                addresses: vec![address]
            }]
        );
    }

    #[test]
    fn every_byte_of_a_reply() {
        let mut reply = Writer::message(ReplyType::Advertise, [1, 2, 3]);
        reply.association((option::IA_NA, 7), Some((30, 48)), |inner| {
            inner.address("fd00::9".parse().unwrap(), 60, 90);
        });
        reply.association((option::IA_TA, 8), None, |inner| {
            inner.status(Status::NoAddresses)
        });
        let mut expected = vec![2, 1, 2, 3];
        expected.extend([0, 3, 0, 40, 0, 0, 0, 7, 0, 0, 0, 30, 0, 0, 0, 48]);
        expected.extend([
            0, 5, 0, 24, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9,
        ]);
        expected.extend([0, 0, 0, 60, 0, 0, 0, 90]);
        expected.extend([0, 4, 0, 41, 0, 0, 0, 8, 0, 13, 0, 33, 0, 2]);
        expected.extend(b"no address for this association");
        assert_eq!(reply.finish(), expected);
    }

    #[test]
    fn what_is_no_clients_message_is_told_apart() {
        let with = |at: usize, value: u8| {
            let mut bytes = SOLICIT;
            bytes[at] = value;
            bytes
        };
        for (bytes, expected) in [
            (with(0, 12), Malformed::Relayed),
            (with(0, 13), Malformed::Relayed),
            (with(0, 2), Malformed::NotAClients),
            (with(0, 7), Malformed::NotAClients),
            (with(0, 0), Malformed::NotAClients),
            (with(7, 2), Malformed::BadDuid),
            (with(7, 200), Malformed::Short),
            (with(39, 41), Malformed::Short),
        ] {
            assert_eq!(ClientMessage::decode(&bytes), Err(expected));
        }
        for length in 0..SOLICIT.len() {
            // Only between options is a shorter message a message.
            let whole = [4, 18, 26, 32, 36].contains(&length);
            assert_eq!(
                ClientMessage::decode(&SOLICIT[..length]).is_ok(),
                whole,
                "{length}"
            );
        }
    }

    proptest! {
        #[test]
        fn decode_never_panics_and_keeps_its_bounds(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            options in proptest::collection::vec((0_u16..60, proptest::collection::vec(any::<u8>(), 0..60)), 0..30),
        ) {
            ClientMessage::decode(&bytes).ok();
            let mut message = Writer(vec![1, 0, 0, 0]);
            for (code, value) in &options {
                message.option(*code, value);
            }
            let bytes = message.finish();
            prop_assert_eq!(Options(&bytes[4..]).count(), options.len());
            if let Ok(message) = ClientMessage::decode(&bytes) {
                prop_assert!(message.associations.len() <= MOST && message.prefixes.len() <= MOST);
                prop_assert!(message.associations.iter().all(|ia| ia.addresses.len() <= MOST));
            }
        }
    }
}
