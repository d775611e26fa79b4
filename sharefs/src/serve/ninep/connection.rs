//! One connection: frames in, answers out, until the client goes.
//!
//! All frames that one receive has brought are served before their answers are sent together, so a client that
//! sends many at once costs two system calls for all of them. Before the thread sleeps it looks for more, within the
//! budget of `patience`: a client that asks one thing after the other is answered without a wake-up. A lock that
//! is waited for is asked for again from time to time; the connection goes on meanwhile.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::buffers::{Incoming, Outgoing, Sender};
use super::lane::Lane;
use crate::confine::calls;
use crate::ninep::counters::Counters;
use crate::ninep::messages::{Request, VERSION};
use crate::ninep::session::{Outcome, Session};
use crate::serve::patience::Patience;
use crate::sys;

/// A lock that is waited for is asked for again after this, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(1);
const LAST_RETRY: Duration = Duration::from_millis(50);
/// And, on a connection that is never idle so long, after so many receives.
const BUSY_RETRY: u32 = 16;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client closed it")]
    Closed,
    #[error(transparent)]
    BadLength(#[from] crate::ninep::wire::BadLength),
    #[error("{0}")]
    Socket(#[from] Errno),
}

/// Serves it to its end. `fids` is kept at how many there are.
pub(super) fn run(
    stream: UnixStream,
    session: Session,
    counters: &Arc<Counters>,
    fids: &AtomicU64,
) {
    let sender = match stream.try_clone() {
        Ok(stream) => Arc::new(Sender::new(stream)),
        Err(error) => {
            tracing::warn!(%error, "9p connection");
            return;
        }
    };
    let lane = match Lane::start(Arc::clone(&sender), Arc::clone(counters)) {
        Ok(lane) => lane,
        Err(error) => {
            tracing::warn!(%error, "no thread for a 9p connection");
            return;
        }
    };
    if let Err(error) = calls::confine_thread() {
        tracing::warn!(%error, "a 9p client is served without this stage of the sandbox");
    }
    let mut connection = Connection {
        stream,
        session,
        input: Incoming::default(),
        output: Outgoing::new(sender),
        lane,
        pause: FIRST_RETRY,
        receives: 0,
        patience: Patience::new(sys::processors()),
    };
    loop {
        let went = connection
            .serve_all()
            .and_then(|()| connection.send())
            .and_then(|()| connection.receive());
        let (_, count) = connection.session.size();
        fids.store(count as u64, Ordering::Relaxed);
        match went {
            Ok(()) => {}
            Err(end) => {
                if matches!(end, End::BadLength(_)) {
                    counters.malformed.one();
                }
                tracing::debug!(reason = %end, "9p connection ended");
                return;
            }
        }
    }
}

struct Connection {
    stream: UnixStream,
    session: Session,
    input: Incoming,
    output: Outgoing,
    lane: Lane,
    pause: Duration,
    receives: u32,
    patience: Patience,
}

impl Connection {
    /// All frames that are there.
    fn serve_all(&mut self) -> Result<(), End> {
        while let Some(frame) = self.input.first(self.session.longest_frame())? {
            let (tag, length) = (frame.tag, frame.length());
            let is_version = frame.kind == VERSION;
            if is_version {
                self.lane.finish();
            }
            let flushed = match Request::decode(&frame) {
                Some(Ok(Request::Flush { tag: old })) => self.lane.flush(tag, old),
                Some(_) | None => false,
            };
            if !flushed {
                let room = self.output.room(self.session.room_for(&frame))?;
                match self.session.serve(&frame, room) {
                    Outcome::Done(length) => self.output.add(length),
                    Outcome::Waits => self.pause = FIRST_RETRY,
                    Outcome::Slow(slow) => {
                        if !self.lane.take(tag, slow) {
                            return Err(End::Socket(Errno::AGAIN));
                        }
                    }
                }
            }
            self.input.pass(length);
            if is_version {
                self.input.resize(self.session.longest_frame());
                self.output.resize(self.session.longest_frame());
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), End> {
        if self.lane.failed() {
            return Err(End::Closed);
        }
        Ok(self.output.send()?)
    }

    /// Waits for more, and looks after locks meanwhile.
    fn receive(&mut self) -> Result<(), End> {
        self.receives = self.receives.wrapping_add(1);
        let mut is_due = self.receives.is_multiple_of(BUSY_RETRY);
        while self.session.waiting() > 0 {
            if is_due {
                self.retry()?;
            }
            let mut wanted = [PollFd::new(&self.stream, PollFlags::IN)];
            let pause = Timespec {
                tv_sec: 0,
                tv_nsec: self.pause.subsec_nanos().into(),
            };
            match rustix::event::poll(&mut wanted, Some(&pause)) {
                Ok(0) => {
                    self.pause = (self.pause * 2).min(LAST_RETRY);
                    is_due = true;
                }
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let looking = self.look()?;
        loop {
            match self.input.receive(&self.stream) {
                Ok(0) => return Err(End::Closed),
                Ok(_) => {
                    self.patience.asked(now(), looking);
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Looks for more for as long as patience has it. True: there is something to receive.
    fn look(&mut self) -> Result<bool, End> {
        let mut moment = now();
        let Some(until) = self.patience.emptied(moment) else {
            return Ok(false);
        };
        while moment < until {
            let mut wanted = [PollFd::new(&self.stream, PollFlags::IN)];
            match rustix::event::poll(&mut wanted, Some(&Timespec::default())) {
                Ok(0) | Err(Errno::INTR) => moment = now(),
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        self.patience.in_vain(moment);
        Ok(false)
    }

    fn retry(&mut self) -> Result<(), End> {
        let mut sent = Ok(());
        let output = &mut self.output;
        self.session.retry(|frame| {
            let added = output.room(frame.len()).map(|room| {
                if let Some(room) = room.get_mut(..frame.len()) {
                    room.copy_from_slice(frame);
                }
            });
            match added {
                Ok(()) => output.add(frame.len()),
                Err(error) => sent = Err(error),
            }
        });
        sent?;
        Ok(self.output.send()?)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the thread's loop; what it decides by it is in patience"
)]
fn now() -> Instant {
    Instant::now()
}
