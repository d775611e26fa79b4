//! Numbers for what a server holds for us. A number is used again only when its Tclunk has been
//! answered, which is sent after the answers of all calls that name it.

use std::sync::Arc;

use rustix::io::Errno;

use super::line::{Line, Pace};
use crate::ninep::messages::Request;
use crate::tree::Result;

/// At once. The kernel drops what it does not use when memory is short; a tree that is walked whole stays below
/// what servers grant (ours: 262,144).
const MOST: usize = 200_000;

/// All of one line.
#[derive(Default)]
pub(super) struct Fids {
    next: u32,
    free: Vec<u32>,
    /// To be clunked.
    unused: Vec<u32>,
}

impl Fids {
    pub(super) fn take(&mut self) -> Result<u32> {
        if let Some(free) = self.free.pop() {
            return Ok(free);
        }
        if usize::try_from(self.next).unwrap_or(usize::MAX) >= MOST {
            return Err(Errno::NFILE);
        }
        self.next += 1;
        Ok(self.next)
    }

    pub(super) fn unused(&mut self, fid: u32) {
        self.unused.push(fid);
    }

    /// The last one that is not `held`. Few are held at a time.
    pub(super) fn next_unused(&mut self, held: impl Fn(u32) -> bool) -> Option<u32> {
        let at = self.unused.iter().rposition(|fid| !held(*fid))?;
        Some(self.unused.swap_remove(at))
    }

    pub(super) fn free(&mut self, fid: u32) {
        self.free.push(fid);
    }

    pub(super) fn count(&self) -> usize {
        let all = usize::try_from(self.next).unwrap_or_default();
        all.saturating_sub(self.free.len())
    }
}

/// One that the server knows, or may know: let go of when dropped.
pub(crate) struct Fid {
    line: Arc<Line>,
    number: u32,
    /// Clunked already.
    spent: bool,
}

impl Fid {
    pub(super) fn new(line: Arc<Line>, number: u32) -> Self {
        Self {
            line,
            number,
            spent: false,
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The server has said that there is no such fid: what was to make it failed.
    pub(super) fn was_refused(mut self) {
        self.spent = true;
        self.line.is_free(self.number);
    }

    /// Tremove, which lets go of it, too, whatever comes of it (remove(5)).
    pub(super) fn remove(self) -> Result<()> {
        let fid = self.number;
        self.end_by(&Request::Remove { fid })
    }

    /// Lets go of it and waits for what the server says, which is where an extended attribute is written.
    pub(super) fn clunk(self) -> Result<()> {
        let fid = self.number;
        self.end_by(&Request::Clunk { fid })
    }

    fn end_by(mut self, request: &Request<'_>) -> Result<()> {
        self.spent = true;
        let answer = self.line.ask(request, Pace::Slow)?;
        // Answered, however: the number is free.
        self.line.is_free(self.number);
        answer.reply().map(drop)
    }
}

impl Drop for Fid {
    fn drop(&mut self) {
        if !self.spent {
            self.line.let_go(self.number);
        }
    }
}
