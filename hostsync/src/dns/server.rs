//! The sockets of the resolver: UDP and TCP on the host's loopback.
//!
//! Everything is bounded: one datagram at a time, so many connections, so much time for each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

use super::answer::{Outcome, Transport, answer};
use super::zones::Zones;

/// A question with EDNS options; longer ones are cut, and then malformed.
const LONGEST_QUESTION: usize = 4096;
/// Connections at a time; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;
/// Between two questions of a connection, and for taking an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A pause after a failure of the socket itself (no descriptors left).
const PAUSE: Duration = Duration::from_millis(100);

/// What was asked since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Questions about names of ours.
    pub answered: AtomicU64,
    /// Questions about names of others.
    pub refused: AtomicU64,
    /// Messages that were no questions.
    pub malformed: AtomicU64,
}

impl Counters {
    fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Answered => &self.answered,
            Outcome::Refused => &self.refused,
            Outcome::Malformed => &self.malformed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Both sockets of one address.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Takes the address, for UDP and TCP.
    ///
    /// # Errors
    /// When either is taken or not allowed.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let udp = UdpSocket::bind(address).await?;
        // The one that a port of 0 gave.
        let tcp = TcpListener::bind(udp.local_addr()?).await?;
        Ok(Self { udp, tcp })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Answers until it is dropped.
    pub async fn serve(self, zones: watch::Receiver<Arc<Zones>>, counters: Arc<Counters>) {
        let Self { udp, tcp } = self;
        tokio::join!(
            datagrams(udp, zones.clone(), &counters),
            connections(tcp, zones, &counters)
        );
    }
}

async fn datagrams(socket: UdpSocket, zones: watch::Receiver<Arc<Zones>>, counters: &Counters) {
    let mut buffer = vec![0; LONGEST_QUESTION];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // Such as a client that was gone before our last answer.
            tokio::time::sleep(PAUSE / 100).await;
            continue;
        };
        let known = Arc::clone(&zones.borrow());
        let bytes = buffer.get(..length).unwrap_or_default();
        let (reply, outcome) = answer(bytes, &known, Transport::Udp);
        counters.count(outcome);
        if let Some(reply) = reply {
            // A full queue drops it, as any network would; the client asks again.
            socket.try_send_to(&reply, from).ok();
        }
    }
}

async fn connections(
    listener: TcpListener,
    zones: watch::Receiver<Arc<Zones>>,
    counters: &Arc<Counters>,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut open = tokio::task::JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (zones, counters) = (zones.clone(), Arc::clone(counters));
        open.spawn(async move {
            // A client that breaks off has its reasons.
            connection(stream, zones, &counters).await.ok();
            drop(place);
        });
    }
}

async fn connection(
    mut stream: TcpStream,
    zones: watch::Receiver<Arc<Zones>>,
    counters: &Counters,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let question = async {
            let length = usize::from(stream.read_u16().await?);
            if length > LONGEST_QUESTION {
                return Err(io::ErrorKind::InvalidData.into());
            }
            buffer.resize(length, 0);
            stream.read_exact(&mut buffer).await?;
            io::Result::Ok(())
        };
        tokio::time::timeout(PATIENCE, question).await??;
        let known = Arc::clone(&zones.borrow());
        let (reply, outcome) = answer(&buffer, &known, Transport::Tcp);
        counters.count(outcome);
        let Some(reply) = reply else {
            return Ok(());
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&reply);
        tokio::time::timeout(PATIENCE, stream.write_all(&framed)).await??;
    }
}
