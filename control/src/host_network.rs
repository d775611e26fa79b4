//! host_network
