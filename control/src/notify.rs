//! Telling systemd about readiness: the datagram protocol of `sd_notify(3)`.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says `READY=1` to the manager named by `$NOTIFY_SOCKET`; without one, does nothing.
///
/// # Errors
/// When there is a manager and it cannot be reached.
pub fn ready() -> io::Result<()> {
    send("READY=1")
}

/// Says `STOPPING=1`.
///
/// # Errors
/// As [`ready`].
pub fn stopping() -> io::Result<()> {
    send("STOPPING=1")
}

fn send(state: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let bytes = path.as_encoded_bytes();
    let address = match bytes.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}
