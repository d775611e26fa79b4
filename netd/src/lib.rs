//! A guest's network: switch, NAT, DHCP, DNS, published ports.

pub mod daemon;
pub mod datapath;
pub mod engine;
pub mod io;
pub mod services;
pub mod sys;
pub mod wire;
