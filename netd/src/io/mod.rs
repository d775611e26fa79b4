//! The part of netd that touches descriptors: links to guests and sockets of the host.

pub mod publish;
