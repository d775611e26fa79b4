//! Everything the packet path counts. One owner (the packet thread), so plain integers;
//! the control API reads copies out of a snapshot.

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $help:literal])+ $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $help])+ pub $field: u64,)*
        }
        impl $name {
            /// Each counter with its name, in declaration order.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }

            /// Each counter's name, meaning and value: for metrics pages.
            pub fn described(
                &self,
            ) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
                [$((stringify!($field), concat!($($help),+).trim(), self.$field),)*].into_iter()
            }
        }
    };
}

pub(crate) use counters;

counters! {
    /// One link. "Received" is what the guest sent.
    LinkCounters {
        /// Frames from the guest.
        received_frames,
        /// Their bytes, Ethernet header included.
        received_bytes,
        /// Frames to the guest (a 64 KiB offloaded frame counts once).
        sent_frames,
        /// Their bytes.
        sent_bytes,
        /// Frames that the guest sent and nobody could read (too short, too long, bad checksum).
        malformed,
        /// Frames that pretended to come from the gateway or from another guest.
        spoofed,
        /// Frames to the guest that found no room.
        dropped,
        /// Flows and DNS queries of the guest that its egress policy refused.
        refused_policy,
        /// Datagrams and echo requests that the guest's rate limit dropped.
        limited,
    }
}

counters! {
    /// One network.
    NetworkCounters {
        /// TCP flows opened by guests.
        tcp_opened_out,
        /// TCP flows opened from published ports.
        tcp_opened_in,
        /// TCP flows refused by policy.
        tcp_refused_policy,
        /// TCP flows refused because a bound was reached.
        tcp_refused_limit,
        /// TCP connects that the far side refused or that failed.
        tcp_dial_failed,
        /// TCP flows ended to make room for new ones.
        tcp_evicted,
        /// TCP segments sent again to a guest.
        tcp_retransmitted,
        /// TCP segments of no known flow (answered by RST).
        tcp_stray,
        /// TCP payload bytes not accepted because the buffers are full; the guest sends them again.
        tcp_out_of_buffers,
        /// UDP mappings made.
        udp_mappings,
        /// UDP datagrams refused by policy.
        udp_refused_policy,
        /// UDP mappings ended to make room for new ones.
        udp_evicted,
        /// UDP datagrams that the host's kernel did not take.
        udp_send_failed,
        /// Datagrams of clients of published ports that a guest refused by ICMP; the client cannot be told.
        udp_client_unreachable,
        /// UDP datagrams from a stranger to a guest's mapping.
        udp_unsolicited,
        /// Echo requests carried outside.
        echo_forwarded,
        /// Echo requests that the kernel's ping_group_range or a bound forbids.
        echo_refused,
        /// Datagrams put together from fragments.
        reassembled,
        /// Fragments dropped: overlap, bound, time.
        fragments_dropped,
        /// IP packets dropped: bad header, checksum or chain of headers.
        ip_malformed,
        /// IP packets of a protocol that is not carried.
        ip_unsupported,
        /// ICMP errors not told because too many were.
        icmp_errors_limited,
        /// DHCP messages received.
        dhcp_messages,
        /// Addresses that were asked for on the wire before they were offered.
        dhcp_probes,
        /// Offers that left without, because too many waited.
        dhcp_probes_skipped,
        /// DHCPv6 messages received.
        dhcp6_messages,
        /// Router solicitations received.
        router_solicitations,
        /// Router advertisements sent.
        router_advertisements,
        /// DNS queries over UDP received.
        dns_queries,
        /// DNS queries for names that policy does not let a guest resolve.
        dns_refused_policy,
        /// DNS queries dropped: not a query, or too many waiting.
        dns_dropped,
        /// Flows ended because new egress rules forbid them.
        ended_policy,
        /// Notices that the daemon was too busy to take.
        notices_lost,
    }
}
