//! The DHCPv4 server of a network: RFC 2131 section 4.3, one message in, at most one out.
//!
//! It is the only server of its network and says so ("authoritative"): a client that asks for an
//! address which it cannot have is told NAK at once, and one that asks again for an address that is
//! free gets it even when nobody remembers it. Who holds what is decided by [`LeaseTable`]; names and
//! journal follow its changes. Not here: other servers' messages, BOOTP without option 53, RFC 4388.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use control::names::HostName;

use crate::engine::counters::counters;
use crate::engine::lease::{Client, LeaseSettings, LeaseTable, Refusal};
use crate::engine::services::{DhcpArrival, DhcpDestination, DhcpReply};
use crate::wire::dhcp::{ClientMessage, MessageType, Reply, option};

/// A client may wish a shorter lease than ours, but not one that makes it ask all the time.
const SHORTEST_TERM: Duration = Duration::from_secs(120);

/// What clients of a network are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpSettings {
    /// Our address: server identifier and DNS server.
    pub gateway: Ipv4Addr,
    /// The way out; none on a host-only network, where the guest shall see "network unreachable" itself.
    pub router: Option<Ipv4Addr>,
    /// Option 15 and the only entry of option 119.
    pub domain: HostName,
    /// Option 26, bytes of IP packet.
    pub mtu: Option<u16>,
    /// How long a lease lasts without renewal.
    pub term: Duration,
    /// Who may have what.
    pub leases: LeaseSettings,
}

counters! {
    /// What the server saw and did.
    DhcpCounters {
        /// DISCOVER received.
        discovers,
        /// OFFER sent.
        offers,
        /// REQUEST received.
        requests,
        /// ACK sent, those to INFORM included.
        acks,
        /// NAK sent.
        naks,
        /// DECLINE received and believed.
        declines,
        /// RELEASE received and believed.
        releases,
        /// INFORM received.
        informs,
        /// Not a client's message, or one without the fields that its kind needs.
        malformed,
        /// From a relay agent outside the network, about another server's offer, or in a neighbour's name.
        ignored,
        /// DISCOVER that found no free address.
        exhausted,
        /// Client names that are no host names, or not for clients; the lease stood.
        bad_names,
    }
}

/// The server of one network.
#[derive(Debug)]
pub struct DhcpServer {
    settings: DhcpSettings,
    table: LeaseTable,
    counters: DhcpCounters,
}

impl DhcpServer {
    /// A server without leases.
    #[must_use]
    pub fn new(settings: DhcpSettings) -> Self {
        Self {
            table: LeaseTable::new(settings.leases.clone()),
            settings,
            counters: DhcpCounters::default(),
        }
    }

    /// Other settings from now on; leases run on where they can.
    pub fn reconfigure(&mut self, settings: DhcpSettings) {
        self.table.reconfigure(settings.leases.clone());
        self.settings = settings;
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &DhcpSettings {
        &self.settings
    }

    /// The addresses.
    #[must_use]
    pub fn table(&self) -> &LeaseTable {
        &self.table
    }

    /// The addresses, to restore, expire, take changes.
    pub fn table_mut(&mut self) -> &mut LeaseTable {
        &mut self.table
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counters(&self) -> DhcpCounters {
        self.counters
    }

    /// A datagram to port 67.
    pub fn handle(
        &mut self,
        payload: &[u8],
        arrival: &DhcpArrival<'_>,
        now: Instant,
    ) -> Option<DhcpReply> {
        let message = match ClientMessage::decode(payload) {
            Ok(message) => message,
            Err(reason) => {
                self.counters.malformed += 1;
                tracing::trace!(%reason, link = arrival.link.0, "DHCP message dropped");
                return None;
            }
        };
        let relay = message.relay_address;
        if !relay.is_unspecified() && !self.settings.leases.subnet.contains(&relay) {
            self.counters.ignored += 1;
            return None;
        }
        let client = Client {
            mac: message.hardware,
            identifier: message.client_identifier,
            link_guest: arrival.guest,
        };
        if message
            .server
            .is_some_and(|server| server != self.settings.gateway)
        {
            self.counters.ignored += 1;
            if message.kind == MessageType::Request {
                self.table.forget_offer(&client);
            }
            return None;
        }
        // Both end a lease and never come by a relay: nobody may say them for a neighbour.
        let ends_lease = matches!(message.kind, MessageType::Decline | MessageType::Release);
        if ends_lease && arrival.source != message.hardware {
            self.counters.ignored += 1;
            return None;
        }
        match message.kind {
            MessageType::Discover => self.discover(&message, &client, arrival, now),
            MessageType::Request => self.request(&message, &client, arrival, now),
            MessageType::Inform => Some(self.inform(&message, arrival)),
            MessageType::Decline => {
                let address = message.requested?;
                self.counters.declines += u64::from(self.table.decline(&client, address, now));
                None
            }
            MessageType::Release => {
                let address = message.client_address;
                self.counters.releases += u64::from(self.table.release(&client, address, now));
                None
            }
            // A server's words, from a guest.
            MessageType::Offer | MessageType::Ack | MessageType::Nak => {
                self.counters.malformed += 1;
                None
            }
        }
    }

    fn discover(
        &mut self,
        message: &ClientMessage<'_>,
        client: &Client<'_>,
        arrival: &DhcpArrival<'_>,
        now: Instant,
    ) -> Option<DhcpReply> {
        self.counters.discovers += 1;
        let address = match self.table.offer(client, message.requested, now) {
            Ok(address) => address,
            Err(reason) => {
                self.counters.exhausted += 1;
                tracing::debug!(%reason, "DHCP discover left unanswered");
                return None;
            }
        };
        self.counters.offers += 1;
        let mut reply = message.reply(MessageType::Offer, self.settings.gateway);
        reply.your_address(address);
        self.write_term(&mut reply, message);
        self.write_options(&mut reply, message, client);
        Some(finish(reply, message, arrival, address))
    }

    /// The client's four states (section 4.3.2) differ in where the address stands; once it is found
    /// the question is the same: may this client have it?
    fn request(
        &mut self,
        message: &ClientMessage<'_>,
        client: &Client<'_>,
        arrival: &DhcpArrival<'_>,
        now: Instant,
    ) -> Option<DhcpReply> {
        self.counters.requests += 1;
        let held = Some(message.client_address).filter(|address| !address.is_unspecified());
        let selecting = message.server.is_some();
        let wanted = match (selecting, message.requested, held) {
            // Selecting, or rebooting with a remembered address.
            (true, Some(requested), _) | (false, Some(requested), None) => requested,
            // Renewing (unicast) or rebinding (broadcast).
            (false, _, Some(held)) | (true, None, Some(held)) => held,
            (_, None, None) => {
                self.counters.malformed += 1;
                return None;
            }
        };
        let name = self.client_name(message);
        let until = now + self.term(message);
        match self.table.bind(client, wanted, name, until, now) {
            Ok(()) => {}
            Err(reason) => {
                tracing::debug!(%reason, address = %wanted, mac = %client.mac, "DHCP request refused");
                return Some(self.refuse(message, arrival, reason));
            }
        }
        self.counters.acks += 1;
        let mut reply = message.reply(MessageType::Ack, self.settings.gateway);
        reply.your_address(wanted);
        if let Some(held) = held {
            reply.client_address(held);
        }
        self.write_term(&mut reply, message);
        self.write_options(&mut reply, message, client);
        Some(finish(reply, message, arrival, wanted))
    }

    /// Section 4.3.2: a NAK goes by broadcast, since the client's address is no good.
    fn refuse(
        &mut self,
        message: &ClientMessage<'_>,
        arrival: &DhcpArrival<'_>,
        reason: Refusal,
    ) -> DhcpReply {
        self.counters.naks += 1;
        let mut reply = message.reply(MessageType::Nak, self.settings.gateway);
        reply.option(option::MESSAGE, reason.to_string().as_bytes());
        let destination = if message.relay_address.is_unspecified() {
            DhcpDestination::Broadcast
        } else {
            reply.set_broadcast();
            relay(message, arrival)
        };
        DhcpReply {
            payload: reply.finish(),
            destination,
        }
    }

    /// Section 4.3.5: no lease, no address, no terms; to the address that the client uses.
    fn inform(&mut self, message: &ClientMessage<'_>, arrival: &DhcpArrival<'_>) -> DhcpReply {
        self.counters.informs += 1;
        self.counters.acks += 1;
        let mut reply = message.reply(MessageType::Ack, self.settings.gateway);
        reply.client_address(message.client_address);
        let client = Client {
            mac: message.hardware,
            identifier: message.client_identifier,
            link_guest: arrival.guest,
        };
        self.write_options(&mut reply, message, &client);
        let address = match message.client_address {
            Ipv4Addr::UNSPECIFIED => arrival.source_address,
            stated => stated,
        };
        let destination = if !message.relay_address.is_unspecified() {
            relay(message, arrival)
        } else if self.settings.leases.subnet.contains(&address) {
            DhcpDestination::Unicast {
                mac: message.hardware,
                address,
            }
        } else {
            DhcpDestination::Broadcast
        };
        DhcpReply {
            payload: reply.finish(),
            destination,
        }
    }

    fn term(&self, message: &ClientMessage<'_>) -> Duration {
        let term = self.settings.term;
        match message.lease_time {
            Some(wish) => Duration::from_secs(wish.into()).clamp(SHORTEST_TERM.min(term), term),
            None => term,
        }
    }

    fn write_term(&self, reply: &mut Reply, message: &ClientMessage<'_>) {
        let term = u32::try_from(self.term(message).as_secs()).unwrap_or(u32::MAX - 1);
        reply.option(option::LEASE_TIME, &term.to_be_bytes());
        for code in message.parameters {
            match *code {
                option::RENEWAL_TIME => reply.option(*code, &(term / 2).to_be_bytes()),
                // 0.875 (section 4.4.5)
                option::REBINDING_TIME => reply.option(*code, &(term - term / 8).to_be_bytes()),
                _ => {}
            }
        }
    }

    /// What the client asks for, in its order (RFC 2132 section 9.8); without a list, what every client needs.
    fn write_options(&self, reply: &mut Reply, message: &ClientMessage<'_>, client: &Client<'_>) {
        const ALWAYS: [u8; 4] = [
            option::SUBNET_MASK,
            option::ROUTER,
            option::DNS_SERVERS,
            option::DOMAIN_NAME,
        ];
        let list = match message.parameters {
            [] => &ALWAYS,
            list => list,
        };
        let subnet = &self.settings.leases.subnet;
        for (place, code) in list.iter().enumerate() {
            if list.iter().take(place).any(|earlier| earlier == code) {
                continue;
            }
            match *code {
                option::SUBNET_MASK => reply.option(*code, &subnet.netmask().octets()),
                option::ROUTER => {
                    if let Some(router) = self.settings.router {
                        reply.option(*code, &router.octets());
                    }
                }
                option::DNS_SERVERS => reply.option(*code, &self.settings.gateway.octets()),
                option::HOST_NAME => {
                    let reservations = &self.settings.leases.reservations;
                    let mine = reservations
                        .iter()
                        .find(|r| r.mac == client.mac)
                        .or_else(|| {
                            reservations
                                .iter()
                                .find(|r| Some(&r.guest) == client.link_guest)
                        });
                    if let Some(reservation) = mine {
                        reply.option(*code, reservation.guest.as_str().as_bytes());
                    }
                }
                option::DOMAIN_NAME => {
                    reply.option(*code, self.settings.domain.as_str().as_bytes())
                }
                option::DOMAIN_SEARCH => {
                    reply.option(*code, &crate::wire::dns::encode_name(&self.settings.domain));
                }
                option::INTERFACE_MTU => {
                    if let Some(mtu) = self.settings.mtu {
                        reply.option(*code, &mtu.to_be_bytes());
                    }
                }
                option::BROADCAST => reply.option(*code, &subnet.broadcast().octets()),
                // Not known here, or written already (51, 54, 58, 59).
                _ => {}
            }
        }
    }

    /// The first label of what the client calls itself (option 12, else 81), if that is a host name.
    fn client_name(&mut self, message: &ClientMessage<'_>) -> Option<HostName> {
        let label = match (message.host_name, message.fqdn) {
            (Some(name), _) => first_label(name),
            // Wire form: the first label after its length.
            (None, Some(([length, rest @ ..], true))) => rest.get(..usize::from(*length))?,
            (None, Some((name, _))) => first_label(name),
            (None, None) => return None,
        };
        if label.is_empty() {
            return None;
        }
        let name = std::str::from_utf8(label)
            .ok()
            .and_then(|text| HostName::parse(text).ok())
            .filter(|name| !FORBIDDEN_NAMES.contains(&name.as_str()))
            .filter(|name| name.under(&self.settings.domain).is_ok());
        if name.is_none() {
            self.counters.bad_names += 1;
            tracing::debug!(mac = %message.hardware, "client's host name is of no use, lease stands without it");
        }
        name
    }
}

/// Names that other programs look up by themselves; a guest could take over its neighbours' traffic with them.
const FORBIDDEN_NAMES: [&str; 3] = ["localhost", "wpad", "isatap"];

/// Some clients end the name with a NUL (RFC 2132 section 2 forbids it) or send all of it.
fn first_label(name: &[u8]) -> &[u8] {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    name.split(|byte| *byte == b'.').next().unwrap_or(name)
}

fn relay(message: &ClientMessage<'_>, arrival: &DhcpArrival<'_>) -> DhcpDestination {
    DhcpDestination::Relay {
        mac: arrival.source,
        address: message.relay_address,
    }
}

/// Section 4.1, last paragraphs: relay, else the address in use, else as the broadcast flag says.
fn finish(
    reply: Reply,
    message: &ClientMessage<'_>,
    arrival: &DhcpArrival<'_>,
    given: Ipv4Addr,
) -> DhcpReply {
    let destination = if !message.relay_address.is_unspecified() {
        relay(message, arrival)
    } else if message.broadcast && message.client_address.is_unspecified() {
        DhcpDestination::Broadcast
    } else {
        DhcpDestination::Unicast {
            mac: message.hardware,
            address: given,
        }
    };
    DhcpReply {
        payload: reply.finish(),
        destination,
    }
}

#[cfg(test)]
#[path = "dhcp_tests.rs"]
mod tests;
