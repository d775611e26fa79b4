//! The real netd as a process of its own: HTTP over its control socket, guests made of smoltcp on its link
//! sockets, a name server of our own as its upstream. Needs nothing of the machine but loopback addresses.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, says why on its output, and waits for real time with a limit"
)]

mod control_api;
mod daemon;
mod fake_guest;
mod guests;
mod links;
mod upstream;
mod vhost;
mod vhost_frontend;
