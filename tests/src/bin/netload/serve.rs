//! `netload serve`: the far end of every measurement, one epoll loop for TCP and one thread for UDP.
//!
//! It ends when its standard input closes, so that it never outlives the bench that started it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use crate::{Options, port, report};

/// Largest backlog that Linux takes without a sysctl.
const BACKLOG: i32 = 4096;
/// Room for bursts, so that losses counted are the daemon's and not this program's.
const UDP_RECEIVE_BUFFER: usize = 32 << 20;

const STDIN: u64 = 0;
const LISTENERS: std::ops::Range<u64> = 1..5;

/// What is done with the first bytes of a connection. No service speaks or closes before it has
/// heard the client: old peers lose what the guest says in the very moment it accepts.
#[derive(Debug, Clone, Copy)]
enum Service {
    Close,
    Echo,
    Who,
    UdpCount,
}

pub(crate) fn serve(options: &Options) -> anyhow::Result<()> {
    let address: IpAddr = options.need("address")?;
    let base: u16 = options.need("port")?;
    let received = Arc::new(AtomicU64::new(0));
    count_udp(
        SocketAddr::new(address, base + port::UDP),
        Arc::clone(&received),
    )?;

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut listeners = Vec::new();
    for (token, service, offset) in [
        (1, Service::Close, port::CLOSE),
        (2, Service::Echo, port::ECHO),
        (3, Service::Who, port::WHO),
        (4, Service::UdpCount, port::UDP_COUNT),
    ] {
        let at = SocketAddr::new(address, base + offset);
        let listener = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(token);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN)?;
        listeners.push((service, listener));
    }
    let stdin = std::io::stdin();
    // A regular file or /dev/null cannot be watched: such a server lives until it is killed.
    epoll::add(
        &epoll,
        &stdin,
        epoll::EventData::new_u64(STDIN),
        epoll::EventFlags::IN | epoll::EventFlags::HUP,
    )
    .ok();
    report(&serde_json::json!({ "serving": address, "port": base }))?;

    let mut streams = BTreeMap::new();
    let mut next = LISTENERS.end;
    let mut events = Vec::with_capacity(256);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let token = event.data.u64();
            if token == STDIN {
                if matches!(std::io::stdin().read(&mut buffer), Ok(0) | Err(_)) {
                    return Ok(());
                }
                continue;
            }
            if LISTENERS.contains(&token) {
                let index = usize::try_from(token - LISTENERS.start)?;
                let Some((service, listener)) = listeners.get(index) else {
                    continue;
                };
                // Bounded: a flood of connections must not starve those that are open.
                for _ in 0..64 {
                    let Ok((stream, from)) = listener.accept() else {
                        break;
                    };
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let data = epoll::EventData::new_u64(next);
                    epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
                    streams.insert(next, (stream, from, *service));
                    next += 1;
                }
                continue;
            }
            if streams
                .get_mut(&token)
                .is_some_and(|connection| !answer(connection, &mut buffer, &received))
            {
                streams.remove(&token);
            }
        }
    }
}

/// Answers what came; false when the connection is over.
fn answer(
    (stream, from, service): &mut (TcpStream, SocketAddr, Service),
    buffer: &mut [u8],
    received: &AtomicU64,
) -> bool {
    let count = match stream.read(buffer) {
        Ok(0) => return false,
        Ok(count) => count,
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    };
    match service {
        Service::Close => false,
        Service::Echo => buffer
            .get(..count)
            .is_some_and(|bytes| stream.write_all(bytes).is_ok()),
        // The client sees in what it reads whether this worked.
        Service::Who => {
            stream.write_all(from.to_string().as_bytes()).ok();
            false
        }
        Service::UdpCount => {
            let count = received.swap(0, Ordering::Relaxed);
            stream.write_all(count.to_string().as_bytes()).ok();
            false
        }
    }
}

fn count_udp(at: SocketAddr, received: Arc<AtomicU64>) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(at).with_context(|| format!("cannot bind UDP {at}"))?;
    // Beyond net.core.rmem_max only root may go; others measure with what they get.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, UDP_RECEIVE_BUFFER).ok();
    std::thread::Builder::new()
        .name("udp".to_owned())
        .spawn(move || {
            let mut buffer = [0; 2048];
            while socket.recv(&mut buffer).is_ok() {
                received.fetch_add(1, Ordering::Relaxed);
            }
        })?;
    Ok(())
}
