//! Everything around the packet threads: the gateway's services with their files and forwarding, links
//! being dialled and listened for, published ports, the control API. All of it runs in one tokio thread;
//! nothing here is per packet.

pub mod api;
pub mod captures;
pub mod clashes;
mod dns_api;
pub mod dns_tcp;
mod doors;
pub mod egress;
pub mod following;
pub mod forwarding;
pub mod gateway;
mod gvproxy;
mod gvproxy_dns;
pub mod handover;
pub mod host_tap;
pub mod host_view;
pub mod host_watch;
pub mod hosts_file;
pub mod inotify;
pub mod journal;
pub mod links;
pub mod metrics;
pub mod name_server;
pub mod network;
pub mod ports;
mod presence;
pub mod resolv_conf;
pub mod resolver;
pub mod settings;
pub mod state;
pub mod uplink;
pub mod upstream;
pub mod vhost;
