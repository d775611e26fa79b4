//! One connection: frames in, answers out, until the client goes.
//!
//! All frames that one receive has brought are served before their answers are sent together, so a client that
//! sends many at once costs two system calls for all of them. Before the thread sleeps it looks for more, within the
//! budget of `patience`: a client that asks one thing after the other is answered without a wake-up. A lock that
//! is waited for is asked for again from time to time; the connection goes on meanwhile.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::OneTurn;
use super::incoming::Incoming;
use super::lane::{Job, Lane, Work};
use super::ledger::{Ledger, held};
use crate::confine::calls;
use crate::keep::fault::{self, Point};
use crate::keep::journal::Journal;
use crate::keep::ninep::Connection as Kept;
use crate::keep::ninep::rows::{KeptSlow, Row, Rows};
use crate::keep::{self, Listed};
use crate::ninep::counters::Counters;
use crate::ninep::messages::{Request, VERSION};
use crate::ninep::session::{Outcome, Session, Slow};
use crate::ninep::wire::Frame;
use crate::serve::patience::Patience;
use crate::{sys, tree};

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

/// So long a connection waits until all that an earlier process left is taken up, and no longer: a request may take its
/// time.
pub(super) const OTHERS: Duration = Duration::from_secs(2);
/// And so long for its slow lane in its turn, which others wait for.
const LANE: Duration = Duration::from_millis(500);
/// Bytes of an answer to a lock that was waited for: an Rlock, an Rlerror.
const LOCK_ANSWER: usize = 16;

/// What a connection is served from. To be dropped as a whole: fields go in their order.
pub(super) struct Line {
    /// What lists it for a follower goes first: a number that is closed is another file's at once, and whoever finds the
    /// connection listed then takes that file for the client's.
    pub(super) _listed: Option<Listed>,
    pub(super) session: Session,
    pub(super) stream: UnixStream,
    pub(super) memory: Kept,
    /// Where it is written down what the client knows, if anybody is to follow.
    pub(super) rows: Option<Arc<Rows>>,
    /// An earlier process served it.
    pub(super) before: Option<Before>,
    pub(super) _retired: Retired,
}

/// What an earlier process left, beside what is in memory.
pub(super) struct Before {
    /// Among connections that are taken up.
    pub(super) turn: OneTurn,
    /// Jobs of its slow lane.
    pub(super) slow: Vec<SlowLeft>,
}

/// A job of the slow lane that an earlier process left.
pub(super) struct SlowLeft {
    pub(super) slow: KeptSlow,
    /// What is open for it, if its fid is gone, or what it is to be answered for want of that.
    pub(super) open: tree::Result<Arc<OwnedFd>>,
}

/// What rows have retired is done away with when this is dropped: it holds on to the rows, which hold on to it.
pub(super) struct Retired(pub(super) Option<Arc<Rows>>);

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(rows) = &self.0 {
            rows.drop_retired();
        }
    }
}

/// Serves it to its end. `fids` is kept at how many there are.
pub(super) fn run(line: Line, counters: &Arc<Counters>, fids: &AtomicU64) {
    let begun = begin(&line, counters);
    let (ledger, lane, input) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            tracing::warn!(%error, "9p connection");
            return;
        }
    };
    let Line {
        _listed,
        session,
        stream,
        memory,
        rows,
        before,
        _retired,
    } = line;
    let (turn, left, left_at) = match before {
        Some(Before { turn, slow }) => {
            let left_at = input.part().map(|_| input.head());
            (Some(turn), slow, left_at)
        }
        None => (None, Vec::new(), None),
    };
    let mut connection = Connection {
        _listed,
        left,
        left_at,
        journal: memory.journal(),
        stream,
        memory,
        rows,
        session,
        input,
        ledger,
        lane,
        pause: FIRST_RETRY,
        receives: 0,
        patience: Patience::new(sys::processors()),
        _retired,
    };
    if let Err(error) = calls::confine_stream_thread() {
        tracing::warn!(%error, "a 9p client is served without this stage of the sandbox");
    }
    if connection.rows.is_some() {
        connection.journal.clone().of_thread();
    }
    let mut went = Ok(());
    // Until here it is passed on when there is no connection after all.
    if let Some(turns) = turn.and_then(OneTurn::begin) {
        keep::wait_until_serving(OTHERS);
        turns.take(|| went = connection.take_up());
    }
    loop {
        let next = went
            .and_then(|()| connection.serve_all())
            .and_then(|()| connection.send())
            .and_then(|()| {
                connection.serve_part();
                connection.receive()
            });
        let (_, count) = connection.session.size();
        fids.store(count as u64, Ordering::Relaxed);
        if let Err(end) = next {
            if matches!(end, End::BadLength(_)) {
                counters.malformed.one();
            }
            tracing::debug!(reason = %end, "9p connection ended");
            return;
        }
        went = Ok(());
    }
}

/// What of it can fail.
fn begin(
    line: &Line,
    counters: &Arc<Counters>,
) -> std::io::Result<(Arc<Mutex<Ledger>>, Lane, Incoming)> {
    let input = Incoming::of(&line.memory)?;
    let ledger = Ledger::of(&line.memory, line.stream.try_clone()?)?;
    let ledger = Arc::new(Mutex::new(ledger));
    let lane = Lane::start(Arc::clone(&ledger), line.rows.clone(), Arc::clone(counters))?;
    Ok((ledger, lane, input))
}

/// Dropped in this order, also when its thread panics; see `Line`.
struct Connection {
    _listed: Option<Listed>,
    /// Jobs that are not all with the lane yet.
    left: Vec<SlowLeft>,
    /// Where a frame begins of which an earlier process had some, and may have died of that.
    left_at: Option<u64>,
    stream: UnixStream,
    memory: Kept,
    journal: Journal,
    rows: Option<Arc<Rows>>,
    session: Session,
    input: Incoming,
    ledger: Arc<Mutex<Ledger>>,
    lane: Lane,
    pause: Duration,
    receives: u32,
    patience: Patience,
    _retired: Retired,
}

/// Whether a request is done for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    First,
    /// An earlier process had begun it.
    Again,
}

impl Connection {
    /// What the process before us was at: jobs of its slow lane, and the request that it had begun. Answers that it
    /// had not sent go with the next.
    fn take_up(&mut self) -> Result<(), End> {
        let is_slow = !self.left.is_empty();
        for index in 0..self.left.len() {
            let job = self.job_left(index)?;
            self.hand_over(job)?;
        }
        // Each job has its own share of what is open. Before this, an error ends the connection as a whole.
        self.left.clear();
        if is_slow {
            // One after the other, so that of two that were under way only the one is counted that we die of.
            self.lane.finish_within(LANE);
        }
        if self.memory.is_begun(self.input.head()) {
            self.serve_one(Turn::Again)?;
        }
        self.send()
    }

    fn job_left(&mut self, index: usize) -> Result<Job, End> {
        let stale = End::Socket(Errno::STALE);
        let Some(SlowLeft { slow, open }) = self.left.get(index) else {
            return Err(stale);
        };
        let frame = Frame::first(&slow.frame, u32::MAX)?.ok_or(stale)?;
        let request = Request::decode(&frame);
        let work = match (request, open) {
            (Some(Ok(Request::Flush { .. })), _) => Work::Flush,
            // Nothing else comes to the lane, and it changes nothing that is written down.
            _ if !slow.is_over => match self.session.serve(&frame, &mut []) {
                Outcome::Slow(work) => Work::Slow(work),
                Outcome::Done(_) | Outcome::Waits => Work::Fail(Errno::IO),
            },
            (Some(Ok(Request::Sync { data_only, .. })), Ok(open)) => {
                let data_only = data_only.is_some_and(|flag| flag != 0);
                Work::Slow(Slow::sync(Arc::clone(open), data_only))
            }
            (Some(Ok(Request::Sync { .. })), Err(error)) => Work::Fail(*error),
            (_, _) => Work::Fail(Errno::IO),
        };
        Ok(Job {
            tag: frame.tag,
            work,
            row: Some(Row::At(slow.row)),
        })
    }

    fn hand_over(&self, job: Job) -> Result<(), End> {
        if self.lane.take(job) {
            Ok(())
        } else {
            Err(End::Socket(Errno::AGAIN))
        }
    }

    /// All frames that are there.
    fn serve_all(&mut self) -> Result<(), End> {
        while self.serve_one(Turn::First)? {}
        Ok(())
    }

    /// The frame at the head; false: it is not all there.
    fn serve_one(&mut self, turn: Turn) -> Result<bool, End> {
        let Some(frame) = self.input.first(self.session.longest_frame())? else {
            return Ok(false);
        };
        let length = frame.length();
        if frame.kind == VERSION {
            self.lane.finish();
        }
        let mut ledger = held(&self.ledger);
        let room = ledger.room(self.session.room_for(&frame))?;
        let rows = self.rows.as_deref();
        if rows.is_some() && turn == Turn::First {
            self.memory.begin_request(&self.journal, self.input.head());
        }
        fault::at(Point::Taken);
        let flushed = match Request::decode(&frame) {
            Some(Ok(Request::Flush { tag: old })) => self.lane.has(old),
            Some(_) | None => false,
        };
        let (answer, job) = if flushed {
            (0, Some(Work::Flush))
        } else {
            let session = &mut self.session;
            let outcome = match turn {
                Turn::First => Some(session.serve(&frame, room)),
                Turn::Again => self.journal.again(|| session.serve(&frame, room)),
            };
            if outcome.is_some() {
                fault::at(Point::Done);
            }
            match outcome {
                Some(Outcome::Done(length)) => (length, None),
                Some(Outcome::Waits) => {
                    self.pause = FIRST_RETRY;
                    (0, None)
                }
                Some(Outcome::Slow(slow)) => (0, Some(Work::Slow(slow))),
                None => {
                    tracing::error!(
                        kind = frame.kind,
                        "a request that ended sharefs several times is answered with EIO"
                    );
                    (session.give_up(&frame, room), None)
                }
            }
        };
        let job = job.map(|work| Job {
            tag: frame.tag,
            row: rows.map(|rows| put_slow(rows, &frame, &work)),
            work,
        });
        let longest = self.session.longest_agreed();
        self.input.pass(length);
        let head = self.input.head();
        ledger.answer_and(answer, |commit| {
            commit.head = head;
            commit.longest = longest.map_or(0, u64::from);
        });
        if let Some(rows) = rows {
            rows.settle();
            drop(ledger);
            rows.drop_retired();
        } else {
            drop(ledger);
        }
        fault::at(Point::Answered);
        if let Some(job) = job {
            self.hand_over(job)?;
        }
        Ok(true)
    }

    /// What has come of a large write is written before its end has come.
    fn serve_part(&mut self) {
        // Who dies of a part, dies again at each turn, uncounted. As a whole it is begun, and given up in the end.
        if self.left_at != Some(self.input.head()) {
            self.session.serve_part(self.input.waiting());
        }
    }

    fn send(&mut self) -> Result<(), End> {
        if self.lane.failed() {
            return Err(End::Closed);
        }
        Ok(held(&self.ledger).send()?)
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
        let part = self.input.part();
        let looking = self.look(part)?;
        loop {
            match self.input.receive(&self.stream) {
                Ok(0) => return Err(End::Closed),
                Ok(_) => {
                    match part {
                        Some(_) => self.patience.went_on(now(), looking),
                        None => self.patience.asked(now(), looking),
                    }
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Looks for more, or for the rest of a frame, for as long as patience has it. True: there is something to receive.
    fn look(&mut self, part: Option<usize>) -> Result<bool, End> {
        let mut moment = now();
        let until = match part {
            Some(bytes) => self.patience.cut_short(moment, bytes),
            None => self.patience.emptied(moment),
        };
        let Some(until) = until else {
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
        let mut ledger = held(&self.ledger);
        let room = ledger.room(self.session.waiting() * LOCK_ANSWER)?;
        let mut length = 0;
        self.session.retry(|frame| {
            let end = length + frame.len();
            if let Some(room) = room.get_mut(length..end) {
                room.copy_from_slice(frame);
                length = end;
            }
        });
        if length > 0 {
            ledger.answer(length);
            if let Some(rows) = &self.rows {
                rows.settle();
                rows.drop_retired();
            }
        }
        Ok(ledger.send()?)
    }
}

/// Written down until the slow lane has answered it.
fn put_slow(rows: &Rows, frame: &Frame<'_>, work: &Work) -> Row {
    let mut bytes = Vec::with_capacity(frame.length());
    let length = u32::try_from(frame.length()).unwrap_or(u32::MAX);
    bytes.extend(length.to_le_bytes());
    bytes.push(frame.kind);
    bytes.extend(frame.tag.to_le_bytes());
    bytes.extend(frame.body);
    let about = match (Request::decode(frame), work) {
        (Some(Ok(Request::Sync { fid, .. })), Work::Slow(slow)) => Some((fid, slow.open())),
        (_, _) => None,
    };
    rows.put_slow(&bytes, about)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the thread's loop; what it decides by it is in patience"
)]
fn now() -> Instant {
    Instant::now()
}
