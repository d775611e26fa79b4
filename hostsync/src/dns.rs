//! The table answered by DNS, on the host's loopback: for names that a hosts file cannot say.
//!
//! [`zones`] and [`answer`] are pure; [`server`] has the sockets. The codec is hickory-proto's.

pub mod answer;
pub mod server;
pub mod zones;
