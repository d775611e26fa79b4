//! One connection to a 9P server: requests out, answers matched to them by their tags, and an end for all that wait
//! when the server is gone.
//!
//! Any thread asks, one thread reads. At most [`MOST_TAGS`] requests are under way. Whoever asks gets an answer, or
//! an errno within a time that is bounded: a server that says nothing for [`Limits::silence`] although it is asked is gone,
//! and one that answers others but not this call has it fail alone. The server is not trusted: a frame that
//! has no end ends the line, anything else at most the call it belongs to.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::fids::{Fid, Fids};
use super::now;
use crate::ninep::client::{WRITTEN_AT, head_of_write};
use crate::ninep::messages::{Reply, Request};
use crate::ninep::wire::{Frame, NoRoom};
use crate::sys::{self, Source};
use crate::tree::Result;

/// Requests under way at once. The threads of a mount are few; a long READ is several requests.
const MOST_TAGS: usize = 64;
/// Room that is there for all messages but those of data: two names, two paths and what is around them.
const SHORT: u32 = 4096 + 512 + 256;
/// The longest message that is asked for: data of 1 MiB, as much as the kernel asks of us at once.
pub(super) const LONGEST: u32 = 1024 * 1024 + crate::ninep::client::OVERHEAD;

/// How long things may take. Tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// After so long without a word, while somebody waits for one, the server is asked whether it is there.
    pub(crate) doubt: Duration,
    /// The same when nobody waits for anything.
    pub(crate) rest: Duration,
    /// A server that was asked so and has said nothing for so long is gone.
    pub(crate) silence: Duration,
    /// For one call of a server that is there: then EIO.
    pub(crate) call: Duration,
    /// For calls that write to its disk.
    pub(crate) slow_call: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            doubt: Duration::from_secs(5),
            rest: Duration::from_secs(15),
            silence: Duration::from_secs(10),
            call: Duration::from_secs(30),
            slow_call: Duration::from_secs(300),
        }
    }
}

/// Called once, from any thread, with the reason.
pub(crate) type Lost = Box<dyn Fn(&str) + Send + Sync>;

/// See the module's head.
pub(crate) struct Line {
    socket: UnixStream,
    state: Mutex<State>,
    /// One a tag: its answer is there, or the line is lost.
    answered: Vec<Condvar>,
    /// A tag is free, or the line is lost.
    freed: Condvar,
    /// Only whole frames leave.
    sending: Mutex<Vec<u8>>,
    /// As agreed by Tversion.
    longest: AtomicU32,
    limits: Limits,
    lost: Lost,
}

struct State {
    tags: Vec<Tag>,
    fids: Fids,
    /// When the server was heard last.
    heard: Instant,
    /// Since when a Tflush of nothing is under way: is anybody there?
    asked: Option<Instant>,
    /// Such questions that were sent and not answered yet.
    probes: u32,
    lost: bool,
    /// Requests so far.
    requests: u64,
    /// Frames that belonged to nothing.
    strays: u32,
}

enum Tag {
    Free,
    Waiting,
    Answered(Vec<u8>),
    /// Nobody waits any more; what it answers is thrown away. Until then the fids that it is about keep their
    /// numbers: a server may do it after the Tclunk of one, and to whatever has the number then.
    Abandoned([Option<u32>; 2]),
    /// Tclunk of a fid that is free then.
    Clunk(u32),
}

/// So many frames that answer nothing are not a mistake any more.
const MOST_STRAYS: u32 = 64;

/// An answer's frame, whole.
#[derive(Debug)]
pub(super) struct Answer(Vec<u8>);

impl Answer {
    /// EIO for what is no answer; a server's own error is that error.
    pub(super) fn reply(&self) -> Result<Reply<'_>> {
        let frame = Frame::first(&self.0, u32::MAX).ok().flatten();
        match frame.as_ref().and_then(Reply::decode) {
            Some(Ok(Reply::Error { code })) => Err(errno(code)),
            Some(Ok(reply)) => Ok(reply),
            Some(Err(_)) | None => Err(Errno::IO),
        }
    }
}

/// A server's errno; EIO for what is none. Numbers beyond 511 mean things inside a kernel.
fn errno(code: u32) -> Errno {
    match i32::try_from(code) {
        Ok(code @ 1..512) => Errno::from_raw_os_error(code),
        _ => Errno::IO,
    }
}

/// A request that is under way. Dropped, its answer is thrown away.
pub(super) struct Ticket<'l> {
    line: &'l Line,
    tag: usize,
    until: Instant,
    fids: [Option<u32>; 2],
}

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Quick,
    /// It may write to the server's disk.
    Slow,
}

impl Line {
    /// Nothing is read until [`Line::read_all`] runs in a thread.
    pub(super) fn new(socket: UnixStream, limits: Limits, lost: Lost) -> io::Result<Arc<Self>> {
        socket.set_nonblocking(true)?;
        Ok(Arc::new(Self {
            socket,
            state: Mutex::new(State {
                tags: (0..MOST_TAGS).map(|_| Tag::Free).collect(),
                fids: Fids::default(),
                heard: now(),
                asked: None,
                probes: 0,
                lost: false,
                requests: 0,
                strays: 0,
            }),
            answered: (0..MOST_TAGS).map(|_| Condvar::new()).collect(),
            freed: Condvar::new(),
            sending: Mutex::new(Vec::new()),
            longest: AtomicU32::new(LONGEST),
            limits,
            lost,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn longest(&self) -> u32 {
        self.longest.load(Ordering::Relaxed)
    }

    /// What Tversion agreed on.
    pub(super) fn agree(&self, longest: u32) {
        self.longest.store(longest, Ordering::Relaxed);
    }

    pub(super) fn requests(&self) -> u64 {
        self.state().requests
    }

    /// How many fids there are.
    pub(super) fn fids(&self) -> usize {
        self.state().fids.count()
    }

    /// A number for a new fid; ENFILE when there are too many.
    pub(super) fn fid(self: &Arc<Self>) -> Result<Fid> {
        let number = self.state().fids.take()?;
        Ok(Fid::new(Arc::clone(self), number))
    }

    /// Asks and waits for the answer.
    pub(super) fn ask(&self, request: &Request<'_>, pace: Pace) -> Result<Answer> {
        self.begin(request, pace)?.wait()
    }

    /// Asks.
    pub(super) fn begin(&self, request: &Request<'_>, pace: Pace) -> Result<Ticket<'_>> {
        self.send_with_tag(pace, SHORT, request.fids(), |tag, room| {
            request.encode(tag, room)
        })
    }

    /// Twrite of the first `count` bytes of `from`.
    pub(super) fn begin_write(
        &self,
        fid: u32,
        offset: u64,
        from: &[Source<'_>],
        count: usize,
    ) -> Result<Ticket<'_>> {
        let longest = self.longest();
        self.send_with_tag(Pace::Slow, longest, [Some(fid), None], |tag, room| {
            let data = room.get_mut(WRITTEN_AT..WRITTEN_AT + count).ok_or(NoRoom)?;
            let gathered = sys::gather(from, data);
            head_of_write(room, tag, (fid, offset), gathered)
        })
    }

    fn send_with_tag(
        &self,
        pace: Pace,
        room: u32,
        fids: [Option<u32>; 2],
        encode: impl FnOnce(u16, &mut [u8]) -> std::result::Result<usize, NoRoom>,
    ) -> Result<Ticket<'_>> {
        let until = now()
            + match pace {
                Pace::Quick => self.limits.call,
                Pace::Slow => self.limits.slow_call,
            };
        let tag = self.take_tag(until)?;
        let ticket = Ticket {
            line: self,
            tag,
            until,
            fids,
        };
        let number = u16::try_from(tag).map_err(|_| Errno::IO)?;
        let mut buffer = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let room = usize::try_from(room.min(self.longest())).unwrap_or_default();
        if buffer.len() < room {
            buffer.resize(room, 0);
        }
        let room = buffer.get_mut(..room).unwrap_or_default();
        let Ok(length) = encode(number, room) else {
            drop(buffer);
            // Nothing was sent, so nothing will be answered.
            self.free(tag);
            std::mem::forget(ticket);
            return Err(Errno::NAMETOOLONG);
        };
        let sent = self.send_all(room.get(..length).unwrap_or_default());
        drop(buffer);
        if sent.is_err() {
            self.lose("the connection does not take what is sent");
            return Err(Errno::NOTCONN);
        }
        self.send_clunks();
        Ok(ticket)
    }

    /// A free tag, marked as waited for.
    fn take_tag(&self, until: Instant) -> Result<usize> {
        let mut state = self.state();
        loop {
            if state.lost {
                return Err(Errno::NOTCONN);
            }
            let free = state.tags.iter().position(|tag| matches!(tag, Tag::Free));
            if let Some(free) = free
                && let Some(tag) = state.tags.get_mut(free)
            {
                *tag = Tag::Waiting;
                state.requests += 1;
                return Ok(free);
            }
            let Some(left) = until
                .checked_duration_since(now())
                .filter(|left| !left.is_zero())
            else {
                return Err(Errno::IO);
            };
            state = self
                .freed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn free(&self, tag: usize) {
        if let Some(tag) = self.state().tags.get_mut(tag) {
            *tag = Tag::Free;
        }
        self.freed.notify_one();
    }

    /// All bytes, or an error; a server that takes none for `silence` is gone.
    fn send_all(&self, mut bytes: &[u8]) -> rustix::io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.socket, bytes) {
                Ok(0) => return Err(Errno::PIPE),
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !self.wait(PollFlags::OUT, self.limits.silence)? {
                        return Err(Errno::TIMEDOUT);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// False: not within the time.
    fn wait(&self, flags: PollFlags, limit: Duration) -> rustix::io::Result<bool> {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut wanted = [PollFd::from_borrowed_fd(self.socket.as_fd(), flags)];
        match rustix::event::poll(&mut wanted, Some(&limit)) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// A short frame, if that waits for nobody; false: not now.
    fn send_if_free(&self, request: &Request<'_>, tag: u16) -> bool {
        let Ok(_alone) = self.sending.try_lock() else {
            return false;
        };
        if !matches!(self.wait(PollFlags::OUT, Duration::ZERO), Ok(true)) {
            return false;
        }
        let mut room = [0; 32];
        let Ok(length) = request.encode(tag, &mut room) else {
            return false;
        };
        // A socket that is writable has room for it: half of its buffer is free (unix(7), tcp(7)).
        self.send_all(room.get(..length).unwrap_or_default())
            .is_ok()
    }

    /// The server has let go of this number.
    pub(super) fn is_free(&self, fid: u32) {
        self.state().fids.free(fid);
    }

    /// A fid that nobody uses any more. It waits for nothing.
    pub(super) fn let_go(&self, fid: u32) {
        self.state().fids.unused(fid);
        self.send_clunks();
    }

    /// Tclunk for the fids that are unused, as far as tags are free.
    fn send_clunks(&self) {
        loop {
            let mut state = self.state();
            // Some are left to those who wait.
            let free = state
                .tags
                .iter()
                .filter(|tag| matches!(tag, Tag::Free))
                .count();
            if state.lost || free <= MOST_TAGS / 4 {
                return;
            }
            let free = state.tags.iter().position(|tag| matches!(tag, Tag::Free));
            let Some((tag, fid)) = free.zip(state.next_unused()) else {
                return;
            };
            if let Some(tag) = state.tags.get_mut(tag) {
                *tag = Tag::Clunk(fid);
            }
            drop(state);
            let number = u16::try_from(tag).unwrap_or(u16::MAX);
            if !self.send_if_free(&Request::Clunk { fid }, number) {
                let mut state = self.state();
                if let Some(tag) = state.tags.get_mut(tag) {
                    *tag = Tag::Free;
                }
                state.fids.unused(fid);
                drop(state);
                self.freed.notify_one();
                return;
            }
        }
    }

    /// Whoever waits gets ENOTCONN from now on.
    pub(crate) fn lose(&self, reason: &str) {
        let mut state = self.state();
        if std::mem::replace(&mut state.lost, true) {
            return;
        }
        drop(state);
        // The thread that reads, and a server that waits for us, see an end.
        self.socket.shutdown(std::net::Shutdown::Both).ok();
        self.freed.notify_all();
        self.answered.iter().for_each(Condvar::notify_all);
        (self.lost)(reason);
    }

    /// The thread that reads: until the line is lost.
    pub(super) fn read_all(&self) {
        let reason = match self.read_frames() {
            Ok(()) => "the server closed the connection".to_owned(),
            Err(Errno::TIMEDOUT) => {
                format!("nothing came for {} seconds", self.limits.silence.as_secs())
            }
            Err(Errno::BADMSG) => "what came is not 9P".to_owned(),
            Err(error) => format!("{error}"),
        };
        self.lose(&reason);
    }

    fn read_frames(&self) -> rustix::io::Result<()> {
        let mut input = Vec::with_capacity(64 * 1024);
        loop {
            let longest = self.longest();
            let (mut used, mut wanted) = (0, 64 * 1024);
            loop {
                let rest = input.get(used..).unwrap_or_default();
                match Frame::first(rest, longest) {
                    Err(_) => return Err(Errno::BADMSG),
                    Ok(Some(frame)) => {
                        let (tag, length) = (frame.tag, frame.length());
                        let frame = rest.get(..length).unwrap_or_default();
                        self.arrived(tag, frame)?;
                        used += length;
                    }
                    Ok(None) => {
                        if let Some(length) = rest.first_chunk() {
                            let length = u32::from_le_bytes(*length);
                            wanted = usize::try_from(length).unwrap_or(usize::MAX).max(wanted);
                        }
                        break;
                    }
                }
            }
            input.drain(..used);
            // At most the longest message, which was looked at above.
            input.reserve(wanted.saturating_sub(input.len()).max(4096));
            loop {
                match rustix::io::read(&self.socket, rustix::buffer::spare_capacity(&mut input)) {
                    Ok(0) => return Ok(()),
                    Ok(_) => break,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => self.listen()?,
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Waits for something to come, and asks whether anybody is there when nothing does.
    fn listen(&self) -> rustix::io::Result<()> {
        self.send_clunks();
        let mut state = self.state();
        let silent = state.heard.elapsed();
        let left = match state.asked {
            Some(since) => self
                .limits
                .silence
                .saturating_sub(silent.min(since.elapsed())),
            None if state.is_waited_for() => self.limits.doubt.saturating_sub(silent),
            None => self.limits.rest.saturating_sub(silent),
        };
        if !left.is_zero() {
            drop(state);
            let left = left.max(Duration::from_millis(1));
            return self.wait(PollFlags::IN, left).map(drop);
        }
        if state.asked.is_some() {
            return Err(Errno::TIMEDOUT);
        }
        state.asked = Some(now());
        drop(state);
        // A Tflush of what is not under way is answered at once (flush(5)). Where it cannot be sent, the way
        // there is full, and whoever filled it waits as long for room.
        if self.send_if_free(&Request::Flush { tag: PROBE }, PROBE) {
            self.state().probes += 1;
        }
        Ok(())
    }

    fn arrived(&self, number: u16, frame: &[u8]) -> rustix::io::Result<()> {
        let mut state = self.state();
        state.heard = now();
        // Whatever it says, it is there.
        state.asked = None;
        if number == PROBE && state.probes > 0 {
            state.probes -= 1;
            return Ok(());
        }
        let at = usize::from(number);
        let Some(tag) = state.tags.get_mut(at) else {
            return state.stray();
        };
        match tag {
            Tag::Waiting => {
                *tag = Tag::Answered(frame.to_vec());
                drop(state);
                if let Some(answered) = self.answered.get(at) {
                    answered.notify_one();
                }
            }
            Tag::Abandoned(_) => {
                *tag = Tag::Free;
                drop(state);
                self.freed.notify_one();
            }
            // Clunked whatever the answer says (clunk(5)).
            Tag::Clunk(fid) => {
                let fid = *fid;
                *tag = Tag::Free;
                state.fids.free(fid);
                drop(state);
                self.freed.notify_one();
            }
            Tag::Free | Tag::Answered(_) => return state.stray(),
        }
        Ok(())
    }
}

/// A tag that no request has.
const PROBE: u16 = 0xfff0;

impl State {
    /// Whether anybody waits for the server.
    fn is_waited_for(&self) -> bool {
        self.tags.iter().any(|tag| !matches!(tag, Tag::Free))
    }

    /// A fid to be clunked, of those that no abandoned call is about.
    fn next_unused(&mut self) -> Option<u32> {
        let Self { tags, fids, .. } = self;
        fids.next_unused(|fid| {
            tags.iter()
                .any(|tag| matches!(tag, Tag::Abandoned(fids) if fids.contains(&Some(fid))))
        })
    }

    /// A frame that answers nothing: thrown away, but not for ever.
    fn stray(&mut self) -> rustix::io::Result<()> {
        self.strays += 1;
        if self.strays > MOST_STRAYS {
            return Err(Errno::BADMSG);
        }
        Ok(())
    }
}

impl Ticket<'_> {
    /// ENOTCONN when the server is gone, EIO when it does not answer this.
    pub(super) fn wait(self) -> Result<Answer> {
        let line = self.line;
        let mut state = line.state();
        loop {
            if let Some(tag) = state.tags.get_mut(self.tag)
                && matches!(tag, Tag::Answered(_))
                && let Tag::Answered(frame) = std::mem::replace(tag, Tag::Free)
            {
                drop(state);
                line.freed.notify_one();
                std::mem::forget(self);
                return Ok(Answer(frame));
            }
            if state.lost {
                return Err(Errno::NOTCONN);
            }
            let left = self.until.saturating_duration_since(now());
            let Some(answered) = line.answered.get(self.tag).filter(|_| !left.is_zero()) else {
                tracing::warn!("a 9p server does not answer one of its calls");
                return Err(Errno::IO);
            };
            state = answered
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.line.state();
        let Some(tag) = state.tags.get_mut(self.tag) else {
            return;
        };
        match tag {
            Tag::Waiting => *tag = Tag::Abandoned(self.fids),
            Tag::Answered(_) => {
                *tag = Tag::Free;
                drop(state);
                self.line.freed.notify_one();
            }
            Tag::Free | Tag::Abandoned(_) | Tag::Clunk(_) => {}
        }
    }
}
