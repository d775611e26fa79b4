//! Captures that run: from the packet thread's queue to a pcapng file over the control socket.
//!
//! The reader chooses the capture's id, so that it can end it while it reads; whoever goes away ends
//! it, too. What the file has is decided here, what of it leaves the packet thread there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use control::api::Changes;
use control::events::{EventBody, EventLog};
use control::failure::Failure;
use control::server::Params;
use tokio::sync::{mpsc, oneshot};

use crate::datapath::{CaptureId, CaptureReader, Captured, Command, NewCapture};
use crate::services::journal::ClockPair;
use crate::services::network::{RunningNetwork, lock};
use crate::services::state::State;
use crate::wire::pcapng;

/// Pieces that wait for the control socket; behind them waits the packet thread's own queue.
const PIECES: usize = 16;
/// Bytes of one piece, about: a write each frame would be slow.
const PIECE: usize = 64 << 10;
/// A frame has no more, so this is "all of it".
const WHOLE: u32 = 262_144;
/// Enough for a process id and a clock.
const LONGEST_ID: usize = 64;

/// The captures of all networks.
#[derive(Debug, Default)]
pub struct Captures {
    running: Mutex<BTreeMap<String, (Arc<RunningNetwork>, CaptureId)>>,
    numbers: Mutex<u64>,
}

/// Begins the capture that `GET /v1/captures/{id}` asks for; the receiver gets the file.
///
/// # Errors
/// When a parameter makes no sense, the id is in use, or too many captures run.
pub async fn start(state: &Arc<State>, params: &Params) -> Result<mpsc::Receiver<Bytes>, Failure> {
    let id: String = params.required("id")?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if id.is_empty() || id.len() > LONGEST_ID || !id.bytes().all(good) {
        return Err(Failure::invalid(
            "a capture's id has 1 to 64 letters, digits and hyphens",
        ));
    }
    let network = state.network(&params.required("network")?)?;
    let guest = params.optional("guest")?;
    if let Some(guest) = &guest {
        let known = state.guest(guest)?;
        if known.network != *network.name() {
            return Err(Failure::invalid(format!(
                "guest {guest} is on network {}, not on {}",
                known.network,
                network.name()
            )));
        }
    }
    let snapshot = match params.optional("snaplen")?.unwrap_or(0) {
        0 => WHOLE,
        bytes => u32::min(bytes, WHOLE),
    };
    let number = {
        let mut numbers = lock(&state.captures.numbers);
        *numbers += 1;
        CaptureId(*numbers)
    };
    let wanted = NewCapture {
        id: number,
        guest,
        snapshot: snapshot as usize,
        count: params.optional("count")?,
        filter: params.optional("filter")?.unwrap_or_default(),
    };
    let begun = EventBody::CaptureStarted {
        network: network.name().clone(),
        guest: wanted.guest.clone(),
        filter: wanted.filter.to_string(),
    };
    {
        let mut running = lock(&state.captures.running);
        if running.contains_key(&id) {
            return Err(Failure::conflict(format!("a capture {id} runs already")));
        }
        running.insert(id.clone(), (Arc::clone(&network), number));
    }
    let reader = match begin(&network, wanted).await {
        Ok(reader) => reader,
        Err(failure) => {
            lock(&state.captures.running).remove(&id);
            return Err(failure);
        }
    };
    state.events.publish(begun);
    let (pieces, receiver) = mpsc::channel(PIECES);
    let state = Arc::clone(state);
    tokio::spawn(async move {
        let (frames, dropped) = write(reader, snapshot, &pieces).await;
        // Over already, unless the reader went away.
        network.command(Command::StopCapture(number)).ok();
        lock(&state.captures.running).remove(&id);
        told(&state.events, &network, frames, dropped);
    });
    Ok(receiver)
}

/// Ends a capture; what it has still goes to its reader.
///
/// # Errors
/// When no capture has this id.
pub fn stop(state: &State, id: &str) -> Result<Changes, Failure> {
    let running = lock(&state.captures.running).get(id).cloned();
    let Some((network, number)) = running else {
        return Err(Failure::not_found(format!(
            "no capture {} runs",
            id.escape_debug()
        )));
    };
    network.command(Command::StopCapture(number))?;
    Ok(Changes::default())
}

async fn begin(network: &RunningNetwork, wanted: NewCapture) -> Result<CaptureReader, Failure> {
    let (reply, answer) = oneshot::channel();
    network.command(Command::StartCapture { wanted, reply })?;
    answer.await.ok().flatten().ok_or_else(|| {
        Failure::conflict(format!(
            "four captures of network {} run already",
            network.name()
        ))
        .with_hint("end one of them: Ctrl-C where it runs")
    })
}

/// Writes the file until the capture ends or nobody reads; frames written, frames dropped.
async fn write(
    mut reader: CaptureReader,
    snapshot: u32,
    pieces: &mpsc::Sender<Bytes>,
) -> (u64, u64) {
    let program = concat!("sharectl-netd ", env!("CARGO_PKG_VERSION"));
    let mut text = pcapng::section(program);
    let (mut frames, mut dropped) = (0, 0);
    loop {
        // Nothing waits: what there is goes out at once, for somebody may be looking.
        let next = match reader.ready() {
            Some(captured) => Some(captured),
            None => {
                if !flush(&mut text, pieces).await {
                    return (frames, dropped);
                }
                tokio::select! {
                    next = reader.next() => next,
                    () = pieces.closed() => return (frames, dropped),
                }
            }
        };
        match next {
            Some(Captured::Interface { name, description }) => {
                text.extend(pcapng::interface(&name, &description, snapshot));
            }
            Some(Captured::Frame(packet)) => {
                frames += 1;
                text.extend(pcapng::packet(&packet));
            }
            Some(Captured::End(counts)) => {
                let now = nanoseconds();
                for (interface, (seen, lost)) in (0..).zip(counts) {
                    dropped += lost;
                    text.extend(pcapng::statistics(interface, now, seen, lost));
                }
                flush(&mut text, pieces).await;
                return (frames, dropped);
            }
            // The packet thread is gone, and the counts with it.
            None => {
                flush(&mut text, pieces).await;
                return (frames, dropped);
            }
        }
        if text.len() >= PIECE && !flush(&mut text, pieces).await {
            return (frames, dropped);
        }
    }
}

async fn flush(text: &mut Vec<u8>, pieces: &mpsc::Sender<Bytes>) -> bool {
    text.is_empty() || pieces.send(std::mem::take(text).into()).await.is_ok()
}

fn nanoseconds() -> u64 {
    let since = ClockPair::read().wall.duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

fn told(events: &EventLog, network: &RunningNetwork, frames: u64, dropped: u64) {
    events.publish(EventBody::CaptureStopped {
        network: network.name().clone(),
        frames,
        dropped,
    });
}
