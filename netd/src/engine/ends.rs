//! The addresses of a packet and the two ends of a flow. Both ends have one family by construction, so nothing
//! behind this file has to ask what to do with a mixture.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Source and destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Of an IPv4 packet.
    V4 {
        /// Who sends.
        source: Ipv4Addr,
        /// Who receives.
        destination: Ipv4Addr,
    },
    /// Of an IPv6 packet.
    V6 {
        /// Who sends.
        source: Ipv6Addr,
        /// Who receives.
        destination: Ipv6Addr,
    },
}

impl Addresses {
    /// None for two families.
    pub fn of(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4 {
                source,
                destination,
            }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6 {
                source,
                destination,
            }),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    /// Who sends.
    pub fn source(self) -> IpAddr {
        match self {
            Self::V4 { source, .. } => source.into(),
            Self::V6 { source, .. } => source.into(),
        }
    }

    /// Who receives.
    pub fn destination(self) -> IpAddr {
        match self {
            Self::V4 { destination, .. } => destination.into(),
            Self::V6 { destination, .. } => destination.into(),
        }
    }

    /// Of an answer.
    pub fn reversed(self) -> Self {
        match self {
            Self::V4 {
                source,
                destination,
            } => Self::V4 {
                source: destination,
                destination: source,
            },
            Self::V6 {
                source,
                destination,
            } => Self::V6 {
                source: destination,
                destination: source,
            },
        }
    }
}

impl Hash for Addresses {
    /// A word or four: addresses of one flow are hashed for each of its packets.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::V4 {
                source,
                destination,
            } => state
                .write_u64(u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits())),
            Self::V6 {
                source,
                destination,
            } => {
                state.write_u128(source.to_bits());
                state.write_u128(destination.to_bits());
            }
        }
    }
}

/// The two ends of a flow as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// From the guest to the far end.
    pub addresses: Addresses,
    /// The guest's and the far end's.
    pub ports: (u16, u16),
}

impl Key {
    /// None for two families.
    pub fn of(guest: SocketAddr, remote: SocketAddr) -> Option<Self> {
        Some(Self {
            addresses: Addresses::of(guest.ip(), remote.ip())?,
            ports: (guest.port(), remote.port()),
        })
    }

    /// The guest's end.
    pub fn guest(self) -> SocketAddr {
        SocketAddr::new(self.addresses.source(), self.ports.0)
    }

    /// The far end.
    pub fn remote(self) -> SocketAddr {
        SocketAddr::new(self.addresses.destination(), self.ports.1)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.addresses.hash(state);
        state.write_u32(u32::from(self.ports.0) << 16 | u32::from(self.ports.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_have_one_family_and_turn_round() {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(Key::of(end("10.0.0.1:1"), end("[::1]:2")), None);
        for (guest, remote) in [("10.0.0.1:1", "10.0.0.2:2"), ("[fd00::1]:1", "[fd00::2]:2")] {
            let key = Key::of(end(guest), end(remote)).unwrap();
            assert_eq!((key.guest(), key.remote()), (end(guest), end(remote)));
            let back = key.addresses.reversed();
            assert_eq!(back.source(), end(remote).ip());
            assert_eq!(back.reversed(), key.addresses);
        }
    }
}
