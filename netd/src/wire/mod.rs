//! Bytes to values and back, where `smoltcp::wire` has no server's side of a protocol.
//! Decoders never panic and never allocate for a length that a stranger wrote.

pub mod dhcp;
pub mod dhcp6;
pub mod dns;
pub mod dns_addresses;
pub mod dns_read;
pub mod name_list;
pub mod pcapng;
