//! The feature bits of virtio-net that we know (virtio 1.2 §5.1.3 and §6), and those that we offer.

/// The device may be given frames whose checksum is left to do.
pub const CHECKSUM: u64 = 1 << 0;
/// The guest takes such frames.
pub const GUEST_CHECKSUM: u64 = 1 << 1;
/// The device says its largest packet.
pub const MTU: u64 = 1 << 3;
/// The device says its address.
pub const MAC: u64 = 1 << 5;
/// The guest cuts TCP over IPv4 itself.
pub const GUEST_TSO4: u64 = 1 << 7;
/// The guest cuts TCP over IPv6 itself.
pub const GUEST_TSO6: u64 = 1 << 8;
/// It does so with congestion marks.
pub const GUEST_ECN: u64 = 1 << 9;
/// The device cuts TCP over IPv4.
pub const HOST_TSO4: u64 = 1 << 11;
/// The device cuts TCP over IPv6.
pub const HOST_TSO6: u64 = 1 << 12;
/// It does so with congestion marks.
pub const HOST_ECN: u64 = 1 << 13;
/// A frame may lie in several buffers of the receive ring.
pub const MERGEABLE: u64 = 1 << 15;
/// The device says whether its link is up.
pub const STATUS: u64 = 1 << 16;
/// Several pairs of queues.
pub const MULTIQUEUE: u64 = 1 << 22;
/// Chains may lie in tables of their own.
pub const INDIRECT: u64 = 1 << 28;
/// Each side says at which entry it wants to be woken.
pub const EVENT_INDEX: u64 = 1 << 29;
/// vhost-user's own: protocol features are negotiated.
pub const PROTOCOL: u64 = 1 << 30;
/// Virtio 1.0.
pub const VERSION_1: u64 = 1 << 32;
/// The guest cuts UDP over IPv4 itself (Linux 6.2).
pub const GUEST_USO4: u64 = 1 << 54;
/// The guest cuts UDP over IPv6 itself.
pub const GUEST_USO6: u64 = 1 << 55;
/// The device cuts UDP.
pub const HOST_USO: u64 = 1 << 56;

/// What we can do. The control queue is the VMM's own affair: it tells us how many queues are enabled.
pub const OFFERED: u64 = CHECKSUM
    | GUEST_CHECKSUM
    | MTU
    | MAC
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MERGEABLE
    | STATUS
    | MULTIQUEUE
    | INDIRECT
    | EVENT_INDEX
    | PROTOCOL
    | VERSION_1
    | GUEST_USO4
    | GUEST_USO6
    | HOST_USO;
