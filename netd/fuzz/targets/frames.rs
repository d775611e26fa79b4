//! Frames of a guest, through the real packet thread of a host-only network: nothing leaves, everything else
//! (switch, ARP, IP, TCP, UDP, DHCP, DNS, fragments) runs as in the daemon.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use control::config::{Config, Surroundings};
use netd::datapath::{Command, Datapath, LinkTransport, NewLink, Notice};
use netd::engine::offload::{self, Offload, VNET_HEADER};
use netd::services::gateway::{Gateway, settings_of};
use netd::services::settings::packet_settings;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IpAddress, IpProtocol, Ipv4Packet,
    Ipv6Packet, TcpPacket, UdpPacket,
};

/// One network with one configured guest, no way out, nothing on loopback.
const CONFIG: &str = "
[network.fuzz]
type = \"host-only\"
subnet = \"10.0.0.0/24\"
ipv6 = \"fd00::/64\"
host-loopback = false
[guest.dev]
mac = \"02:00:00:00:00:01\"
address = \"10.0.0.2\"
";

/// Frames of one input; more add nothing but time.
const MOST: usize = 64;

/// Records of a flag byte, a length (u16, big-endian) and a frame. Flag 1: its checksums are made right first,
/// for random bytes would otherwise never get past them.
pub(crate) fn frames(mut data: &[u8]) {
    let mut bytes = Vec::new();
    for _frame in 0..MOST {
        let [flags, high, low, rest @ ..] = data else {
            break;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        data = rest;
        let mut frame = frame.to_vec();
        if flags & 1 != 0 {
            mend(&mut frame);
        }
        let length = u32::try_from(frame.len()).unwrap_or(0);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&frame);
    }
    through_the_packet_thread(&bytes);
}

/// Bytes as they come, framing included.
pub(crate) fn stream(data: &[u8]) {
    through_the_packet_thread(data);
}

fn through_the_packet_thread(bytes: &[u8]) {
    let config = Config::parse(CONFIG, Path::new("fuzz.toml"), &Surroundings::of_process())
        .expect("the configuration above is right");
    let network = config.networks.values().next().expect("it has a network");
    let settings = packet_settings(&config, network);
    let gateway = Gateway::new(settings_of(&config, network, &BTreeMap::new()));
    let (sender, mut notices) = tokio::sync::mpsc::channel(4_096);
    let handle = Datapath::spawn(settings, Box::new(gateway), sender).expect("a thread");
    let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
    let (reply, answer) = tokio::sync::oneshot::channel();
    let link = NewLink {
        transport: LinkTransport::Stream(theirs.into()),
        guest: config.guests.keys().next().cloned(),
        mac: None,
    };
    handle
        .send(Command::AttachLink { link, reply })
        .expect("a fresh thread takes commands");
    let link = answer.blocking_recv().expect("an answer").expect("a link");
    let mut reader = ours.try_clone().expect("a descriptor");
    let drain = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    // A link that sends what is no frame is closed before it has sent everything.
    ours.write_all(bytes).ok();
    ours.shutdown(Shutdown::Write).ok();
    loop {
        match notices.blocking_recv().expect("the packet thread lives") {
            Notice::LinkDown { link: down, .. } if down == link => break,
            _other => {}
        }
    }
    let (reply, answer) = tokio::sync::oneshot::channel();
    handle
        .send(Command::Snapshot(reply))
        .expect("it takes commands");
    let snapshot = answer.blocking_recv().expect("the packet thread lives");
    assert!(snapshot.links.is_empty(), "the link has gone");
    assert_eq!(
        snapshot.tcp_flows + snapshot.udp_mappings,
        0,
        "and its flows with it"
    );
    handle.send(Command::Shutdown).expect("it takes commands");
    handle.join();
    let _bytes = drain.join().expect("the reader ends with the link");
}

/// Right checksums for a frame whose lengths fit; anything else stays as it is.
fn mend(frame: &mut [u8]) {
    let Ok(mut frame) = EthernetFrame::new_checked(frame) else {
        return;
    };
    match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            let Ok(mut packet) = Ipv4Packet::new_checked(frame.payload_mut()) else {
                return;
            };
            packet.fill_checksum();
            let whole = !packet.more_frags() && packet.frag_offset() == 0;
            let ends = (packet.src_addr().into(), packet.dst_addr().into());
            if whole {
                mend_transport(packet.next_header(), ends, packet.payload_mut());
            }
        }
        EthernetProtocol::Ipv6 => {
            let Ok(mut packet) = Ipv6Packet::new_checked(frame.payload_mut()) else {
                return;
            };
            let ends = (packet.src_addr().into(), packet.dst_addr().into());
            mend_transport(packet.next_header(), ends, packet.payload_mut());
        }
        EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => {}
    }
}

fn mend_transport(protocol: IpProtocol, ends: (IpAddress, IpAddress), body: &mut [u8]) {
    match protocol {
        IpProtocol::Tcp => {
            if let Ok(mut packet) = TcpPacket::new_checked(body) {
                packet.fill_checksum(&ends.0, &ends.1);
            }
        }
        IpProtocol::Udp => {
            if let Ok(mut packet) = UdpPacket::new_checked(body) {
                packet.fill_checksum(&ends.0, &ends.1);
            }
        }
        IpProtocol::Icmp => {
            if let Ok(mut packet) = Icmpv4Packet::new_checked(body) {
                packet.fill_checksum();
            }
        }
        IpProtocol::Icmpv6 => {
            if let (Ok(mut packet), IpAddress::Ipv6(source), IpAddress::Ipv6(destination)) =
                (Icmpv6Packet::new_checked(body), ends.0, ends.1)
            {
                packet.fill_checksum(&source, &destination);
            }
        }
        _other => {}
    }
}

/// A virtio-net header and the frame behind it, finished for a link that takes no work: every part is a frame
/// no longer than a segment and its headers.
pub(crate) fn offload(data: &[u8]) {
    let Some((header, frame)) = data.split_first_chunk::<VNET_HEADER>() else {
        return;
    };
    let Some(offload) = Offload::parse(header) else {
        return;
    };
    let emitted = Offload::parse(&offload.emit()).expect("what we write we read");
    assert_eq!(emitted, offload);
    let mut parts = 0_usize;
    let mut scratch = Vec::new();
    let done = offload::complete(frame, &offload, &mut scratch, |part| {
        parts += 1;
        assert!(
            part.len() <= frame.len(),
            "a part is no longer than the whole"
        );
    });
    assert_eq!(done, parts > 0, "told as done just when something came out");
    assert!(parts <= frame.len().max(1), "each part carries something");
}
