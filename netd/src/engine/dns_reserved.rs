//! Names that standards give a meaning on every network, so that no question about them goes out:
//! RFC 6761 (localhost, invalid, test), RFC 7686 (onion), RFC 9462 section 6.4 (resolver.arpa), RFC 6303
//! (reverse names of addresses that are no host's); and the reading of reverse names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::engine::dns_names::{inside, label_offsets};

/// What a reserved name is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// The asking machine's own loopback.
    Loopback,
    /// There is no such name; the zone starts at this offset.
    Nothing(usize),
}

/// Whether a name (lower case, wire form) is reserved.
#[must_use]
pub fn reserved(name: &[u8]) -> Option<Reserved> {
    if inside(name, b"\x09localhost\0").is_some() {
        return Some(Reserved::Loopback);
    }
    [
        &b"\x07invalid\0"[..],
        b"\x05onion\0",
        b"\x04test\0",
        b"\x08resolver\x04arpa\0",
    ]
    .into_iter()
    .find_map(|domain| inside(name, domain))
    .map(Reserved::Nothing)
}

/// A name under in-addr.arpa or ip6.arpa.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reverse {
    /// What it is about: one address, or a part of the net.
    pub net: IpNet,
    /// Whether the name is exactly that, with nothing in front (as `_services._dns-sd._udp` is).
    pub whole: bool,
}

impl Reverse {
    /// The one address that the name is about.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let single = self.net.prefix_len() == self.net.max_prefix_len();
        (single && self.whole).then(|| self.net.addr())
    }

    /// RFC 6303 section 4, as far as no other network may know better: this host, loopback, link-local, broadcast.
    #[must_use]
    pub fn is_nobodys(&self) -> bool {
        match self.net {
            IpNet::V4(net) => [
                Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8),
                Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
                Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
                Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32),
            ]
            .iter()
            .any(|range| range.contains(&net)),
            IpNet::V6(net) => [
                Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 127),
                Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
            ]
            .iter()
            .any(|range| range.contains(&net)),
        }
    }
}

/// Reads a reverse name (lower case, wire form).
#[must_use]
pub fn reverse(name: &[u8]) -> Option<Reverse> {
    const V4: &[u8] = b"\x07in-addr\x04arpa\0";
    const V6: &[u8] = b"\x03ip6\x04arpa\0";
    if let Some(end) = inside(name, V4) {
        let (bits, count, whole) = read(name.get(..end)?, 4, 8, octet);
        let [a, b, c, d, ..] = bits.to_be_bytes();
        let net = Ipv4Net::new(Ipv4Addr::new(a, b, c, d), count).ok()?;
        return Some(Reverse {
            net: net.into(),
            whole,
        });
    }
    let end = inside(name, V6)?;
    let (bits, count, whole) = read(name.get(..end)?, 32, 4, nibble);
    let net = Ipv6Net::new(Ipv6Addr::from(bits), count).ok()?;
    Some(Reverse {
        net: net.into(),
        whole,
    })
}

/// The labels from the right, as long as they are digits of an address: the address' leading bits, how many
/// they are, and whether no label is left.
fn read(labels: &[u8], most: usize, width: u8, digit: fn(&[u8]) -> Option<u8>) -> (u128, u8, bool) {
    let offsets: Vec<usize> = label_offsets(labels).collect();
    let (mut bits, mut count) = (0_u128, 0_u8);
    let mut left = offsets.len();
    for at in offsets.iter().rev().take(most) {
        let length = usize::from(labels.get(*at).copied().unwrap_or(0));
        let Some(value) = labels.get(at + 1..at + 1 + length).and_then(digit) else {
            break;
        };
        count += width;
        bits |= u128::from(value) << (128 - u32::from(count));
        left -= 1;
    }
    (bits, count, left == 0)
}

/// One spelling only: no sign, no leading zero.
fn octet(label: &[u8]) -> Option<u8> {
    let plain =
        label.iter().all(u8::is_ascii_digit) && (label.len() == 1 || label.first() != Some(&b'0'));
    let text = std::str::from_utf8(label).ok().filter(|_| plain)?;
    text.parse().ok()
}

fn nibble(label: &[u8]) -> Option<u8> {
    let &[digit] = label else { return None };
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dns::encode_name;
    use control::names::HostName;

    fn wire(name: &str) -> Vec<u8> {
        let mut wire = Vec::new();
        for label in name.split('.') {
            wire.push(u8::try_from(label.len()).unwrap());
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        wire
    }

    #[test]
    fn reverse_names_are_read_with_their_breadth() {
        for (name, net, whole) in [
            ("4.3.2.1.in-addr.arpa", "1.2.3.4/32", true),
            ("2.1.in-addr.arpa", "1.2.0.0/16", true),
            ("in-addr.arpa", "0.0.0.0/0", true),
            ("5.4.3.2.1.in-addr.arpa", "1.2.3.4/32", false),
            ("04.3.2.1.in-addr.arpa", "1.2.3.0/24", false),
            ("256.3.2.1.in-addr.arpa", "1.2.3.0/24", false),
            ("b._dns-sd._udp.3.2.1.in-addr.arpa", "1.2.3.0/24", false),
            ("8.b.d.0.1.0.0.2.ip6.arpa", "2001:db8::/32", true),
            ("10.b.d.0.1.0.0.2.ip6.arpa", "2001:db0::/28", false),
        ] {
            let found = reverse(&wire(name)).unwrap();
            assert_eq!(
                (found.net.to_string(), found.whole),
                (net.to_owned(), whole),
                "{name}"
            );
        }
        for name in ["in-addr.arpa.test", "xin-addr.arpa", "arpa", "ip6"] {
            assert_eq!(reverse(&wire(name)), None, "{name}");
        }
        // The suffix' bytes inside one label are no suffix.
        assert_eq!(reverse(b"\x0f\x011\x07in-addr\x04arpa\0"), None);
    }

    proptest::proptest! {
        #[test]
        fn every_address_comes_back_from_its_reverse_name(bits: u128, v6: bool) {
            use std::fmt::Write as _;
            let mut name = String::new();
            let address: IpAddr = if v6 {
                for step in 0..32 {
                    write!(name, "{:x}.", bits >> (4 * step) & 0xf).unwrap();
                }
                name.push_str("ip6.arpa");
                Ipv6Addr::from(bits).into()
            } else {
                let address = Ipv4Addr::from(u32::try_from(bits & 0xffff_ffff).unwrap());
                let [a, b, c, d] = address.octets();
                write!(name, "{d}.{c}.{b}.{a}.in-addr.arpa").unwrap();
                address.into()
            };
            let found = reverse(&wire(&name)).unwrap();
            proptest::prop_assert_eq!(found.address(), Some(address));
        }

        #[test]
        fn any_bytes_are_read_or_not(name: Vec<u8>) {
            let _found = (reverse(&name), reserved(&name));
        }
    }

    #[test]
    fn reserved_names_keep_their_meaning() {
        let of = |name: &str| reserved(&encode_name(&HostName::parse(name).unwrap()));
        assert_eq!(of("a.localhost"), Some(Reserved::Loopback));
        assert_eq!(of("x.invalid"), Some(Reserved::Nothing(2)));
        assert_eq!(of("onion"), Some(Reserved::Nothing(0)));
        assert_eq!(of("mylocalhost"), None);
        assert_eq!(of("test.example"), None);
    }
}
