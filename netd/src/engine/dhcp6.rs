//! The DHCPv6 server of a network: RFC 8415 section 18.3, one message in, at most one out.
//!
//! A station's address is the network's prefix with its IPv4 address in the low 32 bits; which one, the
//! lease table decides, for both families together. No prefixes are delegated and no temporary addresses
//! given (SLAAC makes those); relayed messages are dropped and counted. Names come from DHCPv4 and the
//! configuration alone. Who holds what is journalled by whoever takes the table's changes.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use control::mac::MacAddress;
use control::names::HostName;
use ipnet::Ipv6Net;

use crate::engine::counters::counters;
use crate::engine::lease::{Ipv6Client, LeaseTable, Refusal, stable_hash};
use crate::engine::services::LinkId;
use crate::wire::dhcp6::{
    Association, ClientMessage, Malformed, MessageType, ReplyType, Status, Writer, option,
};
use crate::wire::dns::encode_name;
use crate::wire::name_list;

/// How long what an INFORMATION-REQUEST got is good for: a changed resolver is known within the hour.
const REFRESH: u32 = 3_600;

/// What clients of a network are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp6Settings {
    /// The guests' prefix, a /64.
    pub prefix: Ipv6Net,
    /// Our DUID.
    pub duid: Vec<u8>,
    /// Option 23.
    pub dns: Ipv6Addr,
    /// Guests get NAME.DOMAIN.
    pub domain: HostName,
    /// Option 24.
    pub search: Vec<HostName>,
    /// Options 31 and 56.
    pub time_servers: Vec<Ipv6Addr>,
    /// How long an address lasts without renewal.
    pub term: Duration,
}

/// Where a message came from.
#[derive(Clone, Copy, Debug)]
pub struct Dhcp6Arrival {
    /// The frame's source address.
    pub source: MacAddress,
    /// The link that carried it.
    pub link: LinkId,
    /// It was sent to the group of all servers.
    pub to_group: bool,
}

counters! {
    /// What the server saw and did.
    Dhcp6Counters {
        /// SOLICIT received.
        solicits,
        /// ADVERTISE sent.
        advertises,
        /// REQUEST received.
        requests,
        /// RENEW and REBIND received.
        renewals,
        /// CONFIRM received.
        confirms,
        /// INFORMATION-REQUEST received.
        informs,
        /// RELEASE received and believed.
        releases,
        /// DECLINE received and believed.
        declines,
        /// REPLY sent.
        replies,
        /// Associations that got no address.
        refused,
        /// Not a client's message, or one without the options that its kind needs.
        malformed,
        /// For another server, or sent to one address where the group is due.
        ignored,
        /// From relay agents.
        relayed,
    }
}

/// A DUID that follows from the prefix and the network's name (type UUID, RFC 6355; version 8 of
/// RFC 9562): the same after every start, and another one on another machine.
#[must_use]
pub fn duid_of(prefix: Ipv6Net, network: &str) -> Vec<u8> {
    let [high @ .., _, _, _, _, _, _, _, _] = prefix.network().octets();
    let low = stable_hash(network.as_bytes()).to_be_bytes();
    let mut uuid = [high, low].concat();
    if let [_, _, _, _, _, _, version, _, variant, ..] = uuid.as_mut_slice() {
        *version = 0x80 | *version & 0x0f;
        *variant = 0x80 | *variant & 0x3f;
    }
    [&[0, 4], uuid.as_slice()].concat()
}

/// The server of one network. The addresses are in the table that DHCPv4 has too.
#[derive(Debug)]
pub struct Dhcp6Server {
    settings: Option<Dhcp6Settings>,
    counters: Dhcp6Counters,
}

/// One message with all that is needed to answer it.
struct Question<'a> {
    settings: &'a Dhcp6Settings,
    message: &'a ClientMessage<'a>,
    duid: &'a [u8],
    arrival: &'a Dhcp6Arrival,
    now: Instant,
}

impl Dhcp6Server {
    /// A server; without settings, for a network without IPv6, it answers nothing.
    #[must_use]
    pub fn new(settings: Option<Dhcp6Settings>) -> Self {
        Self {
            settings,
            counters: Dhcp6Counters::default(),
        }
    }

    /// Other settings from now on. Clients of another prefix learn of it when they renew.
    pub fn reconfigure(&mut self, settings: Option<Dhcp6Settings>) {
        self.settings = settings;
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counters(&self) -> Dhcp6Counters {
        self.counters
    }

    /// A datagram to port 547; the answer goes to where it came from.
    pub fn handle(
        &mut self,
        table: &mut LeaseTable,
        payload: &[u8],
        arrival: &Dhcp6Arrival,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let settings = self.settings.clone()?;
        let message = match ClientMessage::decode(payload) {
            Ok(message) => message,
            Err(Malformed::Relayed) => {
                self.counters.relayed += 1;
                return None;
            }
            Err(reason) => {
                self.counters.malformed += 1;
                tracing::trace!(%reason, link = arrival.link.0, "DHCPv6 message dropped");
                return None;
            }
        };
        match self.judge(&settings, &message, arrival) {
            Verdict::Answer => {}
            Verdict::Drop => return None,
            Verdict::UseGroup => {
                let mut reply = begin(&settings, &message, ReplyType::Reply);
                reply.status(Status::UseMulticast);
                return Some(reply.finish());
            }
        }
        let question = Question {
            settings: &settings,
            message: &message,
            duid: message.client.unwrap_or_default(),
            arrival,
            now,
        };
        let reply = match message.kind {
            MessageType::Solicit => self.solicit(table, &question),
            MessageType::Request => {
                self.counters.requests += 1;
                self.grant(table, &question)
            }
            MessageType::Renew | MessageType::Rebind => {
                self.counters.renewals += 1;
                self.grant(table, &question)
            }
            MessageType::Confirm => self.confirm(&question)?,
            MessageType::Release | MessageType::Decline => self.give_back(table, &question),
            MessageType::InformationRequest => {
                self.counters.informs += 1;
                let mut reply = begin(&settings, &message, ReplyType::Reply);
                write_options(&mut reply, &question, None);
                reply
            }
        };
        match (message.kind, message.rapid_commit) {
            (MessageType::Solicit, false) => self.counters.advertises += 1,
            _ => self.counters.replies += 1,
        }
        Some(reply.finish())
    }

    /// Section 16: which messages are to be dropped.
    fn judge(
        &mut self,
        settings: &Dhcp6Settings,
        message: &ClientMessage<'_>,
        arrival: &Dhcp6Arrival,
    ) -> Verdict {
        let for_one = matches!(
            message.kind,
            MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline
        );
        let is_inform = message.kind == MessageType::InformationRequest;
        let has_association = !message.associations.is_empty()
            || !message.temporary.is_empty()
            || !message.prefixes.is_empty();
        let complete = match message.kind {
            MessageType::InformationRequest => !has_association,
            MessageType::Solicit | MessageType::Confirm | MessageType::Rebind => {
                message.client.is_some() && message.server.is_none()
            }
            MessageType::Request
            | MessageType::Renew
            | MessageType::Release
            | MessageType::Decline => message.client.is_some() && message.server.is_some(),
        };
        if !complete {
            self.counters.malformed += 1;
            return Verdict::Drop;
        }
        if (for_one || is_inform) && message.server.is_some_and(|server| server != settings.duid) {
            self.counters.ignored += 1;
            return Verdict::Drop;
        }
        match (arrival.to_group, for_one) {
            (true, _) => Verdict::Answer,
            // Section 18.4: without a Server Unicast option of ours.
            (false, true) => {
                self.counters.ignored += 1;
                Verdict::UseGroup
            }
            (false, false) => {
                self.counters.ignored += 1;
                Verdict::Drop
            }
        }
    }

    /// A proposal, which binds nobody; or the whole way at once (section 18.3.1).
    fn solicit(&mut self, table: &mut LeaseTable, question: &Question<'_>) -> Writer {
        self.counters.solicits += 1;
        if question.message.rapid_commit {
            return self.grant(table, question);
        }
        let mut reply = begin(question.settings, question.message, ReplyType::Advertise);
        // We are the only server: nothing better is to be waited for.
        reply.option(option::PREFERENCE, &[255]);
        let mut given = None;
        for (place, association) in question.message.associations.iter().enumerate() {
            let found = only_first(place).and_then(|()| {
                table.ipv6_address_for(&question.client(association.iaid), question.now)
            });
            given = given.or_else(|| found.ok());
            self.write_association(
                &mut reply,
                question,
                association,
                found,
                Status::NoAddresses,
            );
        }
        self.refuse_others(&mut reply, question.message);
        write_options(
            &mut reply,
            question,
            given.map(|address| (&*table, address)),
        );
        reply
    }

    /// REQUEST, RENEW, REBIND and the short SOLICIT: the address is bound, be it new or not (sections 18.3.2, 4, 5).
    fn grant(&mut self, table: &mut LeaseTable, question: &Question<'_>) -> Writer {
        let message = question.message;
        let mut reply = begin(question.settings, message, ReplyType::Reply);
        if message.kind == MessageType::Solicit {
            reply.option(option::RAPID_COMMIT, &[]);
        }
        let is_new = matches!(message.kind, MessageType::Solicit | MessageType::Request);
        let reason = if is_new {
            Status::NoAddresses
        } else {
            Status::NoBinding
        };
        let mut given = None;
        for (place, association) in message.associations.iter().enumerate() {
            let on_link = |address: &Ipv6Addr| question.settings.prefix.contains(address);
            if message.kind == MessageType::Request && !association.addresses.iter().all(on_link) {
                write_status(&mut reply, association.iaid, Status::NotOnLink);
                continue;
            }
            let client = question.client(association.iaid);
            let until = question.now + question.settings.term;
            let bound = only_first(place)
                .and_then(|()| table.ipv6_address_for(&client, question.now))
                .and_then(|address| {
                    table.ipv6_bind(&client, address, until, question.now)?;
                    Ok(address)
                });
            given = given.or_else(|| bound.ok());
            self.write_association(&mut reply, question, association, bound, reason);
        }
        self.refuse_others(&mut reply, message);
        write_options(
            &mut reply,
            question,
            given.map(|address| (&*table, address)),
        );
        reply
    }

    /// Section 18.3.3: whether the addresses belong here; nothing is bound. No answer where there are none.
    fn confirm(&mut self, question: &Question<'_>) -> Option<Writer> {
        self.counters.confirms += 1;
        let associations = question.message.associations.iter();
        let mut addresses = associations.flat_map(|ia| &ia.addresses).peekable();
        addresses.peek()?;
        let on_link = addresses.all(|address| question.settings.prefix.contains(address));
        let mut reply = begin(question.settings, question.message, ReplyType::Reply);
        reply.status(if on_link {
            Status::Success
        } else {
            Status::NotOnLink
        });
        Some(reply)
    }

    /// RELEASE and DECLINE (sections 18.3.7 and 18.3.8).
    fn give_back(&mut self, table: &mut LeaseTable, question: &Question<'_>) -> Writer {
        let mut reply = begin(question.settings, question.message, ReplyType::Reply);
        reply.status(Status::Success);
        for association in &question.message.associations {
            let client = question.client(association.iaid);
            let mut known = false;
            for address in &association.addresses {
                let Some(address) = ipv4_side(question.settings.prefix, *address) else {
                    continue;
                };
                if question.message.kind == MessageType::Release {
                    let ended = table.ipv6_release(&client, address, question.now);
                    self.counters.releases += u64::from(ended);
                    known |= ended;
                } else {
                    let ended = table.ipv6_decline(&client, address, question.now);
                    self.counters.declines += u64::from(ended);
                    known |= ended;
                }
            }
            if !known {
                write_status(&mut reply, association.iaid, Status::NoBinding);
            }
        }
        reply
    }

    /// What the association got; addresses that the client has beside it end now (section 18.3.4).
    fn write_association(
        &mut self,
        reply: &mut Writer,
        question: &Question<'_>,
        association: &Association,
        found: Result<Ipv4Addr, Refusal>,
        reason: Status,
    ) {
        let address = match found {
            Ok(address) => question.address(address),
            Err(refusal) => {
                self.counters.refused += 1;
                tracing::debug!(%refusal, mac = %question.arrival.source, "DHCPv6 request refused");
                return write_status(reply, association.iaid, reason);
            }
        };
        let term = u32::try_from(question.settings.term.as_secs()).unwrap_or(u32::MAX - 1);
        // Section 14.2: half of the preferred lifetime, and four fifths.
        let times = (term / 2, term - term / 5);
        reply.association((option::IA_NA, association.iaid), Some(times), |inner| {
            inner.address(address, term, term);
            if question.message.kind != MessageType::Solicit {
                for other in association
                    .addresses
                    .iter()
                    .filter(|other| **other != address)
                {
                    inner.address(*other, 0, 0);
                }
            }
        });
    }

    /// No temporary addresses, no prefixes (sections 18.3.1, 18.3.2).
    fn refuse_others(&mut self, reply: &mut Writer, message: &ClientMessage<'_>) {
        for iaid in &message.temporary {
            reply.association((option::IA_TA, *iaid), None, |inner| {
                inner.status(Status::NoAddresses);
            });
        }
        for iaid in &message.prefixes {
            reply.association((option::IA_PD, *iaid), Some((0, 0)), |inner| {
                inner.status(Status::NoPrefixes);
            });
        }
    }
}

enum Verdict {
    Answer,
    Drop,
    UseGroup,
}

impl Question<'_> {
    fn client(&self, iaid: u32) -> Ipv6Client<'_> {
        Ipv6Client {
            mac: self.arrival.source,
            duid: self.duid,
            iaid,
            link: self.arrival.link,
        }
    }

    fn address(&self, ipv4: Ipv4Addr) -> Ipv6Addr {
        let prefix = u128::from(self.settings.prefix.network());
        (prefix | u128::from(u32::from(ipv4))).into()
    }
}

/// A station has one address; a second association of one message gets none.
fn only_first(place: usize) -> Result<(), Refusal> {
    match place {
        0 => Ok(()),
        _ => Err(Refusal::Taken),
    }
}

/// The IPv4 address in the low 32 bits, if this is an address of ours.
fn ipv4_side(prefix: Ipv6Net, address: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = u128::from(address) ^ u128::from(prefix.network());
    u32::try_from(low).ok().map(Ipv4Addr::from)
}

fn begin(settings: &Dhcp6Settings, message: &ClientMessage<'_>, kind: ReplyType) -> Writer {
    let mut reply = Writer::message(kind, message.transaction);
    if let Some(client) = message.client {
        reply.option(option::CLIENT_ID, client);
    }
    reply.option(option::SERVER_ID, &settings.duid);
    reply
}

fn write_status(reply: &mut Writer, iaid: u32, status: Status) {
    reply.association((option::IA_NA, iaid), Some((0, 0)), |inner| {
        inner.status(status)
    });
}

/// What the client asks for; without a list, what every client needs.
fn write_options(
    reply: &mut Writer,
    question: &Question<'_>,
    given: Option<(&LeaseTable, Ipv4Addr)>,
) {
    const ALWAYS: [u16; 2] = [option::DNS_SERVERS, option::DOMAIN_LIST];
    let settings = question.settings;
    let list = question.message.requested.as_deref().unwrap_or(&ALWAYS);
    let servers = &settings.time_servers;
    for (place, code) in list.iter().enumerate() {
        if list.iter().take(place).any(|earlier| earlier == code) {
            continue;
        }
        match *code {
            option::DNS_SERVERS => reply.option(*code, &settings.dns.octets()),
            option::DOMAIN_LIST => reply.option(*code, &name_list::plain(&settings.search, 512)),
            option::SNTP_SERVERS if !servers.is_empty() => {
                let bytes: Vec<u8> = servers.iter().flat_map(Ipv6Addr::octets).collect();
                reply.option(*code, &bytes);
            }
            option::NTP_SERVER if !servers.is_empty() => {
                // RFC 5908 section 4.1: suboption 1, an address.
                let one = |server: &Ipv6Addr| [&[0, 1, 0, 16], &server.octets()[..]].concat();
                let bytes: Vec<u8> = servers.iter().flat_map(one).collect();
                reply.option(*code, &bytes);
            }
            option::REFRESH_TIME if question.message.kind == MessageType::InformationRequest => {
                reply.option(*code, &REFRESH.to_be_bytes());
            }
            // Not known here, or not a matter of asking.
            _ => {}
        }
    }
    // RFC 4704 section 6: S, the AAAA record is made by us; O, though the client wanted to; or N, it is not.
    if let (Some(flags), Some((table, address))) = (question.message.fqdn, given) {
        let name = table.lease(address).and_then(|lease| {
            let guest = lease.guest.as_ref().map(|guest| guest.as_str());
            let label = guest.or_else(|| lease.host_name.as_ref().map(HostName::as_str));
            let label = HostName::parse(label?);
            label.ok()?.under(&settings.domain).ok()
        });
        let value = match name {
            Some(name) => {
                let overridden = if flags & 1 == 0 { 2 } else { 0 };
                [vec![1 | overridden], encode_name(&name)].concat()
            }
            None => vec![4],
        };
        reply.option(option::CLIENT_FQDN, &value);
    }
}

#[cfg(test)]
#[path = "dhcp6_tests.rs"]
mod tests;
