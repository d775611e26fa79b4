//! hostsync
