//! Everything around the packet threads: the gateway's services with their files and forwarding, links
//! being dialled and listened for, published ports, the control API. All of it runs in one tokio thread;
//! nothing here is per packet.

pub mod api;
pub mod captures;
pub mod clashes;
pub mod dns_tcp;
mod doors;
pub mod egress;
pub mod gateway;
mod gvproxy;
pub mod handover;
pub mod host_tap;
pub mod host_watch;
pub mod inotify;
pub mod journal;
pub mod links;
pub mod metrics;
pub mod network;
pub mod ports;
pub mod resolv_conf;
pub mod resolver;
pub mod settings;
pub mod state;
pub mod uplink;
pub mod vhost;
