//! The stage of most network tests: a namespace that is "the host", where the daemons run, and
//! another one beyond it with servers, joined by a veth.
//!
//! Addresses are those for documentation (RFC 5737); a route that the kernel refuses and one that
//! nobody answers on are there too.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::Result;

use crate::netns::Netns;

/// The host's address towards the outside.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// A server outside.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The kernel of the host says "no route to host" for it (EHOSTUNREACH).
pub const UNREACHABLE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Packets to it vanish.
pub const SILENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Both namespaces.
#[derive(Debug)]
pub struct Outside {
    /// Where the daemons run.
    pub host: Netns,
    /// Where servers run.
    pub server: Netns,
}

impl Outside {
    /// Makes and joins them.
    ///
    /// # Errors
    /// As [`Netns::new`].
    pub fn new() -> Result<Self> {
        let host = Netns::new("host")?;
        let server = Netns::new("server")?;
        host.join(
            ("out0", &format!("{HOST}/24")),
            &server,
            ("in0", &format!("{SERVER}/24")),
        )?;
        host.run(&format!("ip route add unreachable {UNREACHABLE}"))?;
        // A neighbour that is nobody's: what goes there is thrown away at the other end.
        host.run(&format!(
            "ip route add {SILENT} dev out0 && \
             ip neighbour add {SILENT} lladdr 02:00:00:00:00:99 dev out0 nud permanent"
        ))?;
        Ok(Self { host, server })
    }

    /// A listener outside.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        self.server
            .within(|| Ok(TcpListener::bind((SERVER, port))?))
    }

    /// A server outside that sends every TCP byte back, until its namespace goes; gives its address.
    ///
    /// # Errors
    /// When no port is free.
    pub fn echo(&self) -> Result<SocketAddr> {
        let listener = self.listen(0)?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let (mut from, mut to) = (&stream, &stream);
                    // Its end is the client's business.
                    drop(std::io::copy(&mut from, &mut to));
                    drop(stream.shutdown(std::net::Shutdown::Write));
                });
            }
        });
        Ok(address)
    }

    /// A server outside that tells every UDP client the address it is seen from.
    ///
    /// # Errors
    /// When no port is free.
    pub fn who(&self) -> Result<SocketAddr> {
        let socket = self.server.within(|| Ok(UdpSocket::bind((SERVER, 0))?))?;
        let address = socket.local_addr()?;
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                if socket.send_to(from.to_string().as_bytes(), from).is_err() {
                    break;
                }
            }
        });
        Ok(address)
    }
}

/// Sends on one end what must arrive on the other; gives nothing but the proof.
///
/// # Errors
/// When it does not arrive as it was.
pub fn carries(mut from: impl Write, mut to: impl Read, bytes: &[u8]) -> Result<()> {
    from.write_all(bytes)?;
    let mut seen = vec![0; bytes.len()];
    to.read_exact(&mut seen)?;
    anyhow::ensure!(seen == bytes, "bytes changed on the way");
    Ok(())
}
