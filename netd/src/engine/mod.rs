//! The part of netd that decides: no socket, no clock, no thread. Time comes in as an argument.

pub mod arp;
pub mod budget;
pub mod checksum;
pub mod counters;
pub mod dhcp;
pub mod dns;
pub mod dns_cache;
pub mod ends;
pub mod fragment;
pub mod icmp;
pub mod ipv6;
pub mod learned;
pub mod lease;
pub mod nat;
pub mod ndp;
pub mod neighbour;
pub mod offload;
pub mod packet;
pub mod policy;
pub mod recent;
pub mod services;
pub mod settings;
pub mod shaper;
pub mod switch;
pub mod tcp;
pub mod timers;
