//! ARP for the gateway's addresses (RFC 826, RFC 5227): requests answered, claims read, requests of ours made.

use std::net::Ipv4Addr;

use control::mac::MacAddress;
use smoltcp::wire::{
    ArpHardware, ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol,
};

use crate::engine::packet::BROADCAST;
use crate::engine::settings::{NetworkSettings, Reach};

/// Bytes of an ARP frame for IPv4.
pub const FRAME: usize = 42;

/// What an ARP frame of a guest means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arp {
    /// Not ARP for IPv4 over Ethernet.
    Malformed,
    /// It claims an address of ours: not passed on to other guests.
    Spoofed,
    /// `claim` = the address that the sender says is its own (absent in a probe, RFC 5227 §2.1.1).
    Seen {
        /// Sender's address and MAC.
        claim: Option<(Ipv4Addr, MacAddress)>,
        /// Our answer, if it asked for us.
        answer: Option<[u8; FRAME]>,
    },
}

/// Reads the ARP packet in the frame's payload.
pub fn receive(settings: &NetworkSettings, payload: &[u8], source: MacAddress) -> Arp {
    let Ok(packet) = ArpPacket::new_checked(payload) else {
        return Arp::Malformed;
    };
    if packet.hardware_type() != ArpHardware::Ethernet
        || packet.protocol_type() != EthernetProtocol::Ipv4
    {
        return Arp::Malformed;
    }
    let Ok(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return Arp::Malformed;
    };
    let sender = MacAddress(source_hardware_addr.0);
    let ours = |address: Ipv4Addr| address == settings.gateway || address == settings.host_internal;
    if ours(source_protocol_addr) || sender != source {
        return Arp::Spoofed;
    }
    let claim = settings
        .subnet
        .contains(&source_protocol_addr)
        .then_some((source_protocol_addr, sender));
    let answer = (operation == ArpOperation::Request && ours(target_protocol_addr)).then(|| {
        frame(
            ArpOperation::Reply,
            (settings.gateway_mac, target_protocol_addr),
            (sender, source_protocol_addr),
            sender,
        )
    });
    Arp::Seen { claim, answer }
}

/// A broadcast request for `address`.
pub fn request(settings: &NetworkSettings, address: Ipv4Addr) -> [u8; FRAME] {
    let nobody = MacAddress([0; 6]);
    let us = match settings.reach {
        Reach::Bridged => settings.host_internal,
        Reach::Nat | Reach::HostOnly => settings.gateway,
    };
    frame(
        ArpOperation::Request,
        (settings.gateway_mac, us),
        (nobody, address),
        BROADCAST,
    )
}

/// A broadcast question whether anybody has `address`, which teaches nobody anything (RFC 5227 section 2.1.1).
pub fn probe(settings: &NetworkSettings, address: Ipv4Addr) -> [u8; FRAME] {
    let nobody = MacAddress([0; 6]);
    frame(
        ArpOperation::Request,
        (settings.gateway_mac, Ipv4Addr::UNSPECIFIED),
        (nobody, address),
        BROADCAST,
    )
}

fn frame(
    operation: ArpOperation,
    source: (MacAddress, Ipv4Addr),
    target: (MacAddress, Ipv4Addr),
    destination: MacAddress,
) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&destination.0);
    frame[6..12].copy_from_slice(&source.0.0);
    frame[12..14].copy_from_slice(&[8, 6]);
    ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(source.0.0),
        source_protocol_addr: source.1,
        target_hardware_addr: EthernetAddress(target.0.0),
        target_protocol_addr: target.1,
    }
    .emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: MacAddress = MacAddress([2, 0, 0, 0, 0, 7]);

    fn ask(sender: &str, target: &str) -> Arp {
        let settings = NetworkSettings::new("t", Reach::Nat, "10.0.0.0/24".parse().unwrap());
        let frame = frame(
            ArpOperation::Request,
            (GUEST, sender.parse().unwrap()),
            (MacAddress([0; 6]), target.parse().unwrap()),
            BROADCAST,
        );
        receive(&settings, &frame[14..], GUEST)
    }

    #[test]
    fn the_gateway_and_host_internal_are_answered_and_others_are_not() {
        for target in ["10.0.0.1", "10.0.0.254"] {
            let Arp::Seen {
                claim,
                answer: Some(answer),
            } = ask("10.0.0.7", target)
            else {
                panic!("no answer")
            };
            assert_eq!(claim, Some(("10.0.0.7".parse().unwrap(), GUEST)));
            assert_eq!(answer[..6], GUEST.0);
            assert_eq!(answer[28..32], target.parse::<Ipv4Addr>().unwrap().octets());
        }
        assert!(matches!(
            ask("10.0.0.7", "10.0.0.9"),
            Arp::Seen { answer: None, .. }
        ));
    }

    #[test]
    fn a_probe_claims_nothing_and_a_claim_of_ours_is_spoofed() {
        assert!(matches!(
            ask("0.0.0.0", "10.0.0.9"),
            Arp::Seen {
                claim: None,
                answer: None
            }
        ));
        assert_eq!(ask("10.0.0.1", "10.0.0.9"), Arp::Spoofed);
        assert_eq!(ask("10.0.0.254", "10.0.0.9"), Arp::Spoofed);
        assert_eq!(
            receive(
                &NetworkSettings::new("t", Reach::Nat, "10.0.0.0/24".parse().unwrap()),
                &[0; 9],
                GUEST
            ),
            Arp::Malformed
        );
    }
}
