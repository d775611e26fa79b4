//! The part of netd that touches descriptors: links to guests and sockets of the host.

pub mod dgram;
pub mod host;
pub mod link;
pub mod pool;
pub mod publish;
pub mod stream;
pub mod tap;
pub mod uplink;
pub mod vhost;
