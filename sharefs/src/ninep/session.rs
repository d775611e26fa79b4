//! One connection, from Tversion to Tversion or its end: the version, which shares are attached, and every
//! message's way to its share.
//!
//! Requests are served one after the other, in the order they came, by whoever calls `serve`; only a wait for a
//! lock and what is handed out as `Slow` are answered later. What a connection knows goes with it: nothing of
//! one client can be seen by another.

use std::sync::Arc;

use rustix::io::Errno;

use super::counters::{Counters, Counting};
use super::messages::{self, Reply, Request, WritePart, kind_name};
pub(crate) use super::mount::{Answer, Keeping, Mount, Slow, Turn};
use super::mount::{Attached, LOCK_SUCCESS};
use super::wire::{DATA_AT, Frame, HEADER, NoRoom, Qid, Text};
use crate::keep::fault::{self, Point};
use crate::keep::ninep::rows::{Claim, Rows};
use crate::tree::owner::GuestUid;
use crate::tree::{Result, Tree};

/// The one version that is spoken.
const VERSION: &[u8] = b"9P2000.L";
/// The answer to a version that is not.
const UNKNOWN_VERSION: &[u8] = b"unknown";
/// Longest frame: 1 MiB of data, its header, and room for clients that reckon with more of it.
pub(crate) const LONGEST_FRAME: u32 = 1024 * 1024 + 4096;
/// Shortest longest frame: the least that Linux asks for, and every answer but data fits in twice.
const LEAST_FRAME: u32 = 4096;
/// Answers that carry no data that was asked for by length: the longest is a link's target.
const LONGEST_OTHER: usize = HEADER + 2 + 4096;
/// Data of a Twrite is written in multiples of so many bytes before its rest has come: much beside a system call, and
/// little beside what a socket holds.
pub(super) const PART: usize = 64 << 10;
/// P9_NOFID.
const NO_FID: u32 = u32::MAX;
/// P9_NONUNAME.
const NO_NUMBER: u32 = u32::MAX;
/// A user that has no number here.
const NOBODY: u32 = 65534;

/// The shares that a client may attach.
pub(crate) trait Offers: Send {
    /// The share that `name` stands for, which may be empty where there is one only. ENOENT where it is not the
    /// guest's.
    fn resolve(&self, name: &str) -> Result<String>;
    /// Nothing is attached any more: the client begins anew.
    fn begin(&self) {}
    /// A share that `resolve` has named.
    fn attach(&self, share: &str) -> Result<Box<dyn Mount>>;
}

/// A tree as a share of a connection; `options`: of the share, in one word.
pub(crate) fn mount<T: Tree>(tree: Arc<T>, counting: Counting, options: u64) -> Box<dyn Mount> {
    Box::new(Attached::new(tree, counting, options))
}

/// See the module's head.
pub(crate) struct Session {
    offers: Box<dyn Offers>,
    counters: Arc<Counters>,
    /// Agreed on with Tversion; before it nothing else is served.
    longest: Option<u32>,
    mounts: Vec<(String, Box<dyn Mount>)>,
    text: Vec<u8>,
    answered: Vec<(u16, Result<()>)>,
    /// Where it is written down what the client knows.
    rows: Option<Arc<Rows>>,
    /// Bytes of data that were written of the Twrite that is not all there yet, or why no more will be.
    ahead: Result<usize>,
}

/// What became of a request.
pub(crate) enum Outcome {
    /// So many bytes of answer stand in the room.
    Done(usize),
    /// It waits for a lock: `retry` will answer it.
    Waits,
    /// To be run, and `finished` with its result.
    Slow(Slow),
}

impl Session {
    pub(crate) fn new(offers: Box<dyn Offers>, counters: Arc<Counters>) -> Self {
        Self {
            offers,
            counters,
            longest: None,
            mounts: Vec::new(),
            text: Vec::new(),
            answered: Vec::new(),
            rows: None,
            ahead: Ok(0),
        }
    }

    /// The same, written down from now on.
    pub(crate) fn kept(mut self, rows: Arc<Rows>) -> Self {
        self.rows = Some(rows);
        self
    }

    /// As an earlier process wrote it down, with the longest frame that was agreed on.
    ///
    /// What was taken up before an error stays open as long as the session, and behind it in `rows` until
    /// `drop_retired`: the rows say its numbers, and whoever lists them is to be gone first.
    ///
    /// # Errors
    /// Where not all of it can be had again as it was: ENOENT and the like for a share that is gone, ESTALE for one of
    /// other options, or a file that is not what it was.
    pub(crate) fn adopt(
        &mut self,
        rows: Arc<Rows>,
        longest: Option<u32>,
        claim: Claim<'_>,
    ) -> Result<()> {
        for (row, left) in rows.mounts() {
            let name = String::from_utf8(left.name.clone()).map_err(|_| Errno::STALE)?;
            let mount = self.offers.attach(&name)?;
            if left.options != mount.options() || left.place != self.mounts.len() as u64 {
                return Err(Errno::STALE);
            }
            let keeping = self.keeping(&rows);
            self.mounts.push((name, mount));
            if let Some((_, mount)) = self.mounts.last_mut() {
                mount.adopt(keeping, (row, left), claim)?;
            }
        }
        self.longest = longest;
        self.rows = Some(rows);
        Ok(())
    }

    /// Where the next share is written down.
    fn keeping(&self, rows: &Arc<Rows>) -> Keeping {
        Keeping {
            rows: Arc::clone(rows),
            place: u32::try_from(self.mounts.len()).unwrap_or(u32::MAX),
        }
    }

    /// What was agreed on; None: nothing yet.
    pub(crate) fn longest_agreed(&self) -> Option<u32> {
        self.longest
    }

    /// Answers a request with EIO that ends whoever does it, and does nothing for it; the length. A fid that it was to
    /// end is ended, since its number is free to the client from then on.
    pub(crate) fn give_up(&mut self, frame: &Frame<'_>, room: &mut [u8]) -> usize {
        if let Some(Ok(Request::Clunk { fid } | Request::Remove { fid })) = Request::decode(frame) {
            let mut mounts = self.mounts.iter_mut();
            if let Some((_, mount)) = mounts.find(|(_, mount)| mount.knows(fid)) {
                mount.abandon(fid);
            }
        }
        self.refuse(frame.tag, Errno::IO, room)
    }

    /// The longest frame that may come now.
    pub(crate) fn longest_frame(&self) -> u32 {
        self.longest.unwrap_or(LEAST_FRAME)
    }

    /// Bytes of room that the answer to this frame needs at most.
    pub(crate) fn room_for(&self, frame: &Frame<'_>) -> usize {
        let longest = usize::try_from(self.longest_frame()).unwrap_or(usize::MAX);
        match (frame.kind, frame.body) {
            // fid[4] offset[8] count[4]
            (
                messages::READ | messages::ENTRIES,
                [_, _, _, _, _, _, _, _, _, _, _, _, count @ ..],
            ) => {
                let count = count
                    .first_chunk()
                    .map_or(0, |count| u32::from_le_bytes(*count));
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                count
                    .saturating_add(DATA_AT)
                    .clamp(LONGEST_OTHER, longest.max(LONGEST_OTHER))
            }
            _ => LONGEST_OTHER,
        }
    }

    /// `bytes` is the begin of the next frame to be served, which is not all there. What has come of a Twrite's data is
    /// written meanwhile, so that client and disk are at work at the same time; `serve` goes on from there. An error is
    /// its answer then, whatever was written: it may be one that is told once.
    pub(crate) fn serve_part(&mut self, bytes: &[u8]) {
        let (Some(part), Ok(ahead)) = (WritePart::of(bytes), self.ahead) else {
            return;
        };
        let fresh = part.data.get(ahead..).unwrap_or_default();
        // Whole pages of a file that is written from a page's begin on.
        let fresh = fresh.get(..fresh.len() / PART * PART).unwrap_or_default();
        let mut mounts = self.mounts.iter_mut();
        if !fresh.is_empty()
            && let Some((_, mount)) = mounts.find(|(_, mount)| mount.knows(part.fid))
        {
            fault::at(Point::Part);
            let offset = part.offset.saturating_add(ahead as u64);
            let written = mount.write_part(part.fid, offset, fresh);
            self.ahead = written.map(|written| ahead + written);
        }
    }

    /// Serves one request; `room` has at least `room_for` bytes.
    pub(crate) fn serve(&mut self, frame: &Frame<'_>, room: &mut [u8]) -> Outcome {
        self.counters.request(frame.kind);
        let longest = usize::try_from(self.longest_frame()).unwrap_or(usize::MAX);
        // Never beyond what was agreed: an answer that does not fit is EMSGSIZE, what is read is cut short.
        let most = room.len().min(longest);
        let room = room.get_mut(..most).unwrap_or_default();
        match self.answer(frame, room) {
            Ok(Answer::Built(length)) => Outcome::Done(length),
            Ok(Answer::Waits) => Outcome::Waits,
            Ok(Answer::Slow(slow)) => Outcome::Slow(slow),
            Err(error) => Outcome::Done(self.refuse(frame.tag, error, room)),
        }
    }

    /// The answer to a request that was `Slow`.
    pub(crate) fn finished(
        counters: &Counters,
        tag: u16,
        result: Result<()>,
        room: &mut [u8],
    ) -> usize {
        let reply = match result {
            Ok(()) => Reply::Sync {},
            Err(error) => {
                counters.errors.one();
                error_reply(error)
            }
        };
        reply.encode(tag, room).unwrap_or_default()
    }

    /// Requests that wait for a lock.
    pub(crate) fn waiting(&self) -> usize {
        self.mounts.iter().map(|(_, mount)| mount.waiting()).sum()
    }

    /// Asks again for the locks that are waited for; each answer that is due now goes to `send` as a frame.
    pub(crate) fn retry(&mut self, mut send: impl FnMut(&[u8])) {
        let mut answered = std::mem::take(&mut self.answered);
        for (_, mount) in &mut self.mounts {
            mount.retry(&mut answered);
        }
        for (tag, result) in answered.drain(..) {
            let mut room = [0; 16];
            let length = match result {
                Ok(()) => Reply::Lock {
                    status: LOCK_SUCCESS,
                }
                .encode(tag, &mut room)
                .unwrap_or_default(),
                Err(error) => self.refuse(tag, error, &mut room),
            };
            send(room.get(..length).unwrap_or_default());
        }
        self.answered = answered;
    }

    /// Shares that are attached, and fids.
    pub(crate) fn size(&self) -> (usize, usize) {
        let fids = self.mounts.iter().map(|(_, mount)| mount.fids()).sum();
        (self.mounts.len(), fids)
    }

    fn refuse(&self, tag: u16, error: Errno, room: &mut [u8]) -> usize {
        self.counters.errors.one();
        error_reply(error).encode(tag, room).unwrap_or_default()
    }

    fn answer(&mut self, frame: &Frame<'_>, room: &mut [u8]) -> Result<Answer> {
        let ahead = std::mem::replace(&mut self.ahead, Ok(0))?;
        let request = match Request::decode(frame) {
            Some(Ok(request)) => request,
            Some(Err(malformed)) => {
                self.counters.malformed.one();
                return Err(malformed.into());
            }
            None => {
                debug_assert!(kind_name(frame.kind).is_none());
                self.counters.unknown.one();
                return Err(Errno::OPNOTSUPP);
            }
        };
        let tag = frame.tag;
        let built = |length: std::result::Result<usize, NoRoom>| {
            length.map(Answer::Built).map_err(|_| Errno::MSGSIZE)
        };
        if let Request::Version { longest, version } = request {
            return built(self.version(longest, version.0)?.encode(tag, room));
        }
        if self.longest.is_none() {
            self.counters.malformed.one();
            return Err(Errno::PROTO);
        }
        if let Request::Authenticate { .. } = request {
            // What diod's clients take for "not needed"; any error will do by attach(5).
            return Err(Errno::NOENT);
        }
        if let Request::Flush { tag: old } = request {
            for (_, mount) in &mut self.mounts {
                mount.flush(old);
            }
            return built(Reply::Flush {}.encode(tag, room));
        }
        if let Request::Attach {
            fid,
            authentication,
            user,
            share,
            number,
        } = request
        {
            if authentication != NO_FID {
                return Err(Errno::BADF);
            }
            let qid = self.attach(fid, user_number(number, user.0), share)?;
            return built(Reply::Attach { qid }.encode(tag, room));
        }
        // All others are about a share, and begin with a fid of it.
        let (first, _) = frame.body.split_first_chunk().ok_or(Errno::INVAL)?;
        let mut text = std::mem::take(&mut self.text);
        let mut turn = Turn {
            tag,
            ahead,
            out: room,
            text: &mut text,
        };
        let answer = match self.mount_of(u32::from_le_bytes(*first), &request) {
            Ok(mount) => mount.serve(&request, &mut turn),
            Err(error) => Err(error),
        };
        self.text = text;
        answer
    }

    fn mount_of(&mut self, fid: u32, request: &Request<'_>) -> Result<&mut Box<dyn Mount>> {
        if self.mounts.len() > 1
            && let Request::Walk { new_fid: new, .. } | Request::ExtendedWalk { new_fid: new, .. } =
                *request
            && new != fid
            && self.mounts.iter().any(|(_, mount)| mount.knows(new))
        {
            return Err(Errno::INVAL);
        }
        let known = |(_, mount): &&mut (String, Box<dyn Mount>)| mount.knows(fid);
        let found = self.mounts.iter_mut().find(known);
        found.map(|(_, mount)| mount).ok_or(Errno::BADF)
    }

    /// version(5): whatever was before is over.
    fn version(&mut self, longest: u32, version: &[u8]) -> Result<Reply<'static>> {
        let mut ended = std::mem::take(&mut self.mounts);
        if let Some(rows) = &self.rows {
            ended.iter_mut().for_each(|(_, mount)| mount.end());
            rows.retire(ended);
        }
        self.offers.begin();
        self.longest = None;
        if longest < LEAST_FRAME {
            self.counters.malformed.one();
            return Err(Errno::MSGSIZE);
        }
        let longest = longest.min(LONGEST_FRAME);
        let version = if version == VERSION {
            self.longest = Some(longest);
            VERSION
        } else {
            UNKNOWN_VERSION
        };
        Ok(Reply::Version {
            longest,
            version: Text(version),
        })
    }

    /// A share is named as it is, or as a path of one part; a guest that has one share only need not name it.
    fn attach(&mut self, fid: u32, user: GuestUid, name: Text<'_>) -> Result<Qid> {
        if self.mounts.iter().any(|(_, mount)| mount.knows(fid)) {
            return Err(Errno::INVAL);
        }
        let name = std::str::from_utf8(name.0).map_err(|_| Errno::NOENT)?;
        let name = name.strip_prefix('/').unwrap_or(name);
        let share = self
            .offers
            .resolve(name)
            .inspect_err(|_| self.counters.refused_attaches.one())?;
        if let Some((_, mount)) = self.mounts.iter_mut().find(|(name, _)| *name == share) {
            return mount.attach(fid, user);
        }
        let mut mount = self.offers.attach(&share)?;
        if let Some(rows) = &self.rows {
            mount.keep(self.keeping(rows), &share);
        }
        let qid = mount.attach(fid, user)?;
        self.mounts.push((share, mount));
        Ok(qid)
    }
}

/// Whom a client says it acts for: the number counts, else a name that means a number everywhere.
fn user_number(number: u32, name: &[u8]) -> GuestUid {
    GuestUid(match (number, name) {
        (NO_NUMBER, b"root") => 0,
        (NO_NUMBER, name) => std::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse().ok())
            .unwrap_or(NOBODY),
        (number, _) => number,
    })
}

fn error_reply(error: Errno) -> Reply<'static> {
    Reply::Error {
        code: u32::try_from(error.raw_os_error()).unwrap_or_default(),
    }
}
