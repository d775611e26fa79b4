//! What the host's sockets say of a datagram that did not arrive, in the words that the guest is told.

use std::net::SocketAddr;

use crate::engine::icmp::Unreachable;
use crate::sys::QueuedError;

/// None for what is no news to a guest.
pub(super) fn reason(error: &QueuedError) -> Option<Unreachable> {
    let too_long =
        || Unreachable::FragmentationNeeded(u16::try_from(error.info).unwrap_or(u16::MAX));
    let told = error.icmp.and_then(|message| match error.destination {
        SocketAddr::V4(_) => match message {
            (3, 0) => Some(Unreachable::Network),
            (3, 1) => Some(Unreachable::Host),
            (3, 3) => Some(Unreachable::Port),
            (3, 4) => Some(too_long()),
            (3, 9 | 10 | 13) => Some(Unreachable::Prohibited),
            _other => None,
        },
        SocketAddr::V6(_) => match message {
            (1, 0) => Some(Unreachable::Network),
            // Beyond scope, address unreachable (RFC 4443 §3.1).
            (1, 2 | 3) => Some(Unreachable::Host),
            (1, 4) => Some(Unreachable::Port),
            (1, 1 | 5 | 6) => Some(Unreachable::Prohibited),
            (2, _) => Some(too_long()),
            _other => None,
        },
    });
    told.or_else(|| match error.errno {
        libc::EMSGSIZE if error.icmp.is_none() => Some(too_long()),
        libc::ECONNREFUSED => Some(Unreachable::Port),
        libc::EHOSTUNREACH => Some(Unreachable::Host),
        libc::ENETUNREACH => Some(Unreachable::Network),
        _other => None,
    })
}
