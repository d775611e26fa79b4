//! The TCP clients: `rate`, `pingpong`, `idle` and `connect`.
//!
//! Each is bounded in time by its own options; none tries again after a failure, for what the
//! client saw is the measurement.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::time::Timespec;

use crate::{Options, now, report};

/// How long a single blocking step of a client may take.
const STEP_LIMIT: Duration = Duration::from_secs(5);

/// Connections a second: connect, send a byte, wait for the server's close, close; so each counted
/// connection went through to the far end and back.
pub(crate) fn rate(options: &Options) -> anyhow::Result<()> {
    let to: SocketAddrV4 = options.need("to")?;
    let seconds: f64 = options.or("seconds", 2.0)?;
    let concurrency: usize = options.or("concurrency", 32)?;

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut slots: Vec<Option<OwnedFd>> = Vec::new();
    for slot in 0..concurrency {
        slots.push(dial(&epoll, to, slot).ok());
    }
    let start = now();
    let (mut completed, mut failed) = (0_u64, 0_u64);
    let mut events = Vec::with_capacity(concurrency);
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    while now().duration_since(start).as_secs_f64() < seconds {
        epoll::wait(&epoll, spare_capacity(&mut events), Some(&pause))?;
        for event in events.drain(..) {
            let slot = usize::try_from(event.data.u64())?;
            let Some(socket) = slots.get_mut(slot) else {
                continue;
            };
            let Some(open) = socket else { continue };
            let flags = event.flags;
            if flags.contains(epoll::EventFlags::OUT) {
                // Connected, or not: writing tells.
                if rustix::io::write(&*open, b"x").is_ok() {
                    epoll::modify(&epoll, &*open, event.data, epoll::EventFlags::IN)?;
                    continue;
                }
                failed += 1;
            } else {
                let mut byte = [0; 1];
                match rustix::io::read(&*open, &mut byte[..]) {
                    Ok(0) => completed += 1,
                    Err(rustix::io::Errno::AGAIN) => continue,
                    Ok(_) | Err(_) => failed += 1,
                }
            }
            // Dropping the old socket takes it out of the epoll set.
            *socket = dial(&epoll, to, slot).ok();
            if socket.is_none() {
                failed += 1;
            }
        }
        if slots.iter().all(Option::is_none) {
            break;
        }
    }
    let took = now().duration_since(start).as_secs_f64();
    report(&serde_json::json!({ "completed": completed, "failed": failed, "seconds": took }))
}

/// Starts a connection without waiting for it.
fn dial(epoll: &OwnedFd, to: SocketAddrV4, slot: usize) -> anyhow::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let data = epoll::EventData::new_u64(u64::try_from(slot)?);
    epoll::add(epoll, &socket, data, epoll::EventFlags::OUT)?;
    Ok(socket)
}

/// One byte there and back on one connection, again and again.
pub(crate) fn pingpong(options: &Options) -> anyhow::Result<()> {
    let to: SocketAddr = options.need("to")?;
    let seconds: f64 = options.or("seconds", 2.0)?;
    let mut stream = open(to)?;
    // The first rounds warm caches and windows and are not counted.
    for _ in 0..200 {
        round(&mut stream)?;
    }
    let start = now();
    let mut micros = Vec::with_capacity(100_000);
    while now().duration_since(start).as_secs_f64() < seconds {
        let before = now();
        round(&mut stream)?;
        micros.push(now().duration_since(before).as_secs_f64() * 1e6);
    }
    micros.sort_by(f64::total_cmp);
    report(&serde_json::json!({
        "rounds": micros.len(),
        "p50": percentile(&micros, 50),
        "p99": percentile(&micros, 99),
    }))
}

fn open(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, STEP_LIMIT)
        .with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STEP_LIMIT))?;
    stream.set_write_timeout(Some(STEP_LIMIT))?;
    Ok(stream)
}

fn round(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut byte = [0; 1];
    stream.write_all(b"x").context("cannot send a byte")?;
    stream
        .read_exact(&mut byte)
        .context("the byte did not come back")?;
    Ok(())
}

/// The value below which `percent` of the sorted values lie; 0 of nothing.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(0.0)
}

/// Opens connections in steps (`--steps 1000,5000`), each proved by a byte there and back; after
/// each step it reports and waits for a line on standard input.
pub(crate) fn idle(options: &Options) -> anyhow::Result<()> {
    let to: SocketAddr = options.need("to")?;
    let steps: String = options.need("steps")?;
    let limit = Duration::from_secs_f64(options.or("limit", 30.0)?);
    let mut streams: Vec<TcpStream> = Vec::new();
    for step in steps.split(',') {
        let wanted: usize = step
            .trim()
            .parse()
            .with_context(|| format!("bad step {step:?}"))?;
        let start = now();
        let problem = fill(&mut streams, wanted, to, start + limit).err();
        report(&serde_json::json!({
            "open": streams.len(),
            "seconds": now().duration_since(start).as_secs_f64(),
            "problem": problem.map(|error| format!("{error:#}")),
        }))?;
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line)? == 0 {
            break;
        }
    }
    Ok(())
}

fn fill(
    streams: &mut Vec<TcpStream>,
    wanted: usize,
    to: SocketAddr,
    until: Instant,
) -> anyhow::Result<()> {
    while streams.len() < wanted {
        if now() > until {
            bail!("time is over");
        }
        let mut stream = open(to)?;
        round(&mut stream)?;
        streams.push(stream);
    }
    Ok(())
}

/// One connection looked at closely: what connect said and when, and what came then.
pub(crate) fn connect(options: &Options) -> anyhow::Result<()> {
    let to: SocketAddr = options.need("to")?;
    let limit = Duration::from_secs_f64(options.or("limit", 12.0)?);
    let start = now();
    let connected = TcpStream::connect_timeout(&to, limit);
    let connect_micros = now().duration_since(start).as_secs_f64() * 1e6;
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) => {
            return report(&serde_json::json!({
                "connect": outcome(error.kind()),
                "connect_micros": connect_micros,
            }));
        }
    };
    stream.set_read_timeout(Some(limit))?;
    let mut bytes = Vec::new();
    // Whether the byte goes out does not matter: reading tells.
    stream.write_all(b"x").ok();
    let read = stream.read_to_end(&mut bytes);
    let then_micros = now().duration_since(start).as_secs_f64() * 1e6;
    let then = match read {
        Ok(0) => "closed".to_owned(),
        Ok(_) => "data".to_owned(),
        Err(error) => outcome(error.kind()),
    };
    report(&serde_json::json!({
        "connect": "connected",
        "connect_micros": connect_micros,
        "then": then,
        "then_micros": then_micros,
        "text": String::from_utf8_lossy(&bytes),
    }))
}

/// The failures a client may meet, in the table's words.
const OUTCOMES: &[(ErrorKind, &str)] = &[
    (ErrorKind::ConnectionRefused, "refused"),
    (ErrorKind::ConnectionReset, "reset"),
    (ErrorKind::TimedOut, "timed out"),
    (ErrorKind::WouldBlock, "timed out"),
    (ErrorKind::HostUnreachable, "host unreachable"),
    (ErrorKind::NetworkUnreachable, "network unreachable"),
    (ErrorKind::PermissionDenied, "prohibited"),
];

fn outcome(kind: ErrorKind) -> String {
    let mut known = OUTCOMES.iter();
    known
        .find(|(one, _)| *one == kind)
        .map_or_else(|| kind.to_string(), |(_, words)| (*words).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_hundred_values_are_found_and_of_none_are_zero() {
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        assert!((percentile(&values, 50) - 50.0).abs() < f64::EPSILON);
        assert!((percentile(&values, 99) - 99.0).abs() < f64::EPSILON);
        assert!((percentile(&values, 100) - 99.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 50).abs() < f64::EPSILON);
    }
}
