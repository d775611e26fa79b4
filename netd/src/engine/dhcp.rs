//! The DHCPv4 server of a network: RFC 2131 section 4.3, one message in, at most one out.
//!
//! It is the only server of its network and says so ("authoritative"): a client that asks for an
//! address which it cannot have is told NAK at once, and one that asks again for an address that is
//! free gets it even when nobody remembers it. Who holds what is decided by [`LeaseTable`]; names and
//! journal follow its changes. Not here: other servers' messages, BOOTP without option 53, RFC 4388.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use control::names::HostName;
use ipnet::Ipv4Net;

use crate::engine::counters::counters;
use crate::engine::lease::{Client, LeaseSettings, LeaseTable, Refusal};
use crate::engine::services::{DhcpArrival, DhcpDestination, DhcpReply};
use crate::wire::dhcp::{ClientMessage, FqdnFlags, MessageType, Reply, option};
use crate::wire::name_list;

/// A client may wish a shorter lease than ours, but not one that makes it ask all the time.
const SHORTEST_TERM: Duration = Duration::from_secs(120);

/// What clients of a network are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpSettings {
    /// Our address: server identifier and DNS server.
    pub gateway: Ipv4Addr,
    /// The way out; none on a host-only network, where the guest shall see "network unreachable" itself.
    pub router: Option<Ipv4Addr>,
    /// Option 15.
    pub domain: HostName,
    /// Option 119: the domain, then what else the configuration names.
    pub search: Vec<HostName>,
    /// Option 42.
    pub time_servers: Vec<Ipv4Addr>,
    /// Option 121, beside the default route: what lies behind which station.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
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
        /// DISCOVER or REQUEST of a station behind a link that has its share of the pool.
        link_full,
        /// Addresses that somebody answered at before they were offered.
        conflicts,
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

    /// Somebody has the address that was to be offered: it is set aside, and the client may ask again.
    pub fn found_in_use(&mut self, address: Ipv4Addr, now: Instant) {
        self.counters.conflicts += 1;
        tracing::info!(%address, "an address of the pool is in use by a station that did not ask for it");
        self.table.found_in_use(address, now);
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
            link: arrival.link,
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
        let offer = match self.table.offer(client, message.requested, now) {
            Ok(offer) => offer,
            Err(reason) => {
                self.count_refusal(reason);
                tracing::debug!(%reason, "DHCP discover left unanswered");
                return None;
            }
        };
        let address = offer.address;
        // RFC 4039, where no probe is due: an address that is new to the client takes the long way.
        if message.rapid_commit && !offer.is_new {
            let reply = self.grant(message, client, address, now).ok()?;
            return Some(finish(reply, message, arrival, address));
        }
        self.counters.offers += 1;
        let mut reply = message.reply(MessageType::Offer, self.settings.gateway);
        reply.your_address(address);
        self.write_term(&mut reply, message);
        self.write_options(&mut reply, message, client);
        // A relay agent's clients are on another wire, where nobody hears our probe.
        let probe = offer.is_new && message.relay_address.is_unspecified();
        Some(DhcpReply {
            probe: probe.then_some(address),
            ..finish(reply, message, arrival, address)
        })
    }

    /// Binds, and writes the ACK.
    fn grant(
        &mut self,
        message: &ClientMessage<'_>,
        client: &Client<'_>,
        address: Ipv4Addr,
        now: Instant,
    ) -> Result<Reply, Refusal> {
        let name = self.client_name(message);
        let until = now + self.term(message);
        self.table.bind(client, address, name.clone(), until, now)?;
        self.counters.acks += 1;
        let mut reply = message.reply(MessageType::Ack, self.settings.gateway);
        reply.your_address(address);
        if !message.client_address.is_unspecified() {
            reply.client_address(message.client_address);
        }
        if message.kind == MessageType::Discover {
            reply.rapid_commit();
        }
        self.write_term(&mut reply, message);
        self.write_options(&mut reply, message, client);
        if let Some((_, flags)) = message.fqdn
            && let Some(name) = name.and_then(|name| name.under(&self.settings.domain).ok())
        {
            write_fqdn(&mut reply, flags, &name);
        }
        Ok(reply)
    }

    fn count_refusal(&mut self, reason: Refusal) {
        match reason {
            Refusal::Exhausted => self.counters.exhausted += 1,
            Refusal::LinkFull => self.counters.link_full += 1,
            // The request's own fault, told to the client.
            Refusal::NotForClients | Refusal::Taken | Refusal::ReservedElsewhere => {}
        }
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
        match self.grant(message, client, wanted, now) {
            Ok(reply) => Some(finish(reply, message, arrival, wanted)),
            Err(reason) => {
                self.count_refusal(reason);
                tracing::debug!(%reason, address = %wanted, mac = %client.mac, "DHCP request refused");
                Some(self.refuse(message, arrival, reason))
            }
        }
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
            probe: None,
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
            link: arrival.link,
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
            probe: None,
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
        let subnet = &self.settings.leases.subnet;
        let list = in_order(message.parameters);
        // RFC 3442: where option 121 is asked for and sent, option 3 is not.
        let routes = if list.contains(&option::CLASSLESS_ROUTES) {
            self.routes()
        } else {
            Vec::new()
        };
        for code in &list {
            match *code {
                option::SUBNET_MASK => reply.option(*code, &subnet.netmask().octets()),
                option::ROUTER => {
                    if let Some(router) = self.settings.router.filter(|_| routes.is_empty()) {
                        reply.option(*code, &router.octets());
                    }
                }
                option::CLASSLESS_ROUTES => reply.option(*code, &routes),
                option::NTP_SERVERS => {
                    let servers = &self.settings.time_servers;
                    let bytes: Vec<u8> = servers.iter().flat_map(Ipv4Addr::octets).collect();
                    reply.option(*code, &bytes);
                }
                option::DNS_SERVERS => reply.option(*code, &self.settings.gateway.octets()),
                option::HOST_NAME => {
                    let reservations = &self.settings.leases.reservations;
                    let guest = reservations.iter().find(|r| r.mac == client.mac);
                    if let Some(name) = guest.map(|r| &r.guest).or(client.link_guest) {
                        reply.option(*code, name.as_str().as_bytes());
                    }
                }
                option::DOMAIN_NAME => {
                    reply.option(*code, self.settings.domain.as_str().as_bytes())
                }
                option::DOMAIN_SEARCH => {
                    reply.option(*code, &name_list::compressed(&self.settings.search, 255));
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

    /// Option 121 (RFC 3442): prefix, its significant bytes, router; the default route is one of them.
    fn routes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (destination, via) in &self.settings.routes {
            let significant = usize::from(destination.prefix_len().div_ceil(8));
            bytes.push(destination.prefix_len());
            bytes.extend(destination.network().octets().iter().take(significant));
            bytes.extend(via.octets());
        }
        if let Some(router) = self.settings.router.filter(|_| !bytes.is_empty()) {
            bytes.push(0);
            bytes.extend(router.octets());
        }
        bytes
    }

    /// The first label of what the client calls itself (option 12, else 81), if that is a host name.
    fn client_name(&mut self, message: &ClientMessage<'_>) -> Option<HostName> {
        let label = match (message.host_name, message.fqdn) {
            (Some(name), _) => first_label(name),
            // Wire form: the first label after its length.
            (None, Some(([length, rest @ ..], flags))) if flags.wire_form => {
                rest.get(..usize::from(*length))?
            }
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

/// What the client asks for, in its order (RFC 2132 section 9.8), each once, but the subnet mask before
/// the router (section 3.3); without a list, what every client needs.
fn in_order(parameters: &[u8]) -> Vec<u8> {
    const ALWAYS: [u8; 4] = [
        option::SUBNET_MASK,
        option::ROUTER,
        option::DNS_SERVERS,
        option::DOMAIN_NAME,
    ];
    if parameters.is_empty() {
        return ALWAYS.to_vec();
    }
    let mut list: Vec<u8> = Vec::with_capacity(parameters.len());
    for code in parameters {
        if !list.contains(code) {
            list.push(*code);
        }
    }
    let place = |code| list.iter().position(|other| *other == code);
    if let (Some(mask), Some(router)) = (place(option::SUBNET_MASK), place(option::ROUTER))
        && router < mask
    {
        list.remove(mask);
        list.insert(router, option::SUBNET_MASK);
    }
    list
}

/// Option 81 (RFC 4702 section 4): the name has its A record from us (S), whether the client wanted to
/// make that itself (O) or not, in the form that the client writes (E).
fn write_fqdn(reply: &mut Reply, flags: FqdnFlags, name: &HostName) {
    let overridden = if flags.server_updates { 0 } else { 2 };
    let wire = if flags.wire_form { 4 } else { 0 };
    let mut value = vec![1 | overridden | wire, 255, 255];
    if flags.wire_form {
        value.extend(crate::wire::dns::encode_name(name));
    } else {
        value.extend_from_slice(name.as_str().as_bytes());
    }
    reply.option(option::CLIENT_FQDN, &value);
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
        probe: None,
    }
}

#[cfg(test)]
#[path = "dhcp_tests.rs"]
mod tests;
