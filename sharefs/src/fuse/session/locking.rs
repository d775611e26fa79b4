//! GETLK, SETLK and SETLKW.

use rustix::io::Errno;

use super::{Answer, Session, State, Turn, file, node};
use crate::fuse::locks::{Wanted, attempt, whole};
use crate::fuse::request::LockRequest;
use crate::fuse::wire::Output;
use crate::sys::{LockKind, LockRange};
use crate::tree::{Result, Tree};

impl<T: Tree> Session<T> {
    pub(super) fn set_lock(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        request: &LockRequest,
        wait: bool,
    ) -> Result<Answer> {
        let wanted = if request.whole {
            Wanted::Whole(file(state, request.handle)?, whole(request.range.kind))
        } else {
            let locked = node(state, turn.header.node)?;
            let identity = self.tree.identity(&locked);
            if request.range.kind == LockKind::Unlock {
                let Some(owner) = state.locks.known_owner(identity, request.owner) else {
                    return Ok(Answer::Empty);
                };
                owner.lock(&self.tree, request.range)?;
                if (request.range.start, request.range.length) == (0, 0) {
                    state.locks.end_owner(&self.tree, identity, request.owner)?;
                }
                return Ok(Answer::Empty);
            }
            let owner = state
                .locks
                .owner(&self.tree, identity, request, || self.tree.locks(&locked))?;
            Wanted::Range(owner, request.range)
        };
        match attempt(&*self.tree, &wanted) {
            Ok(()) => Ok(Answer::Empty),
            Err(Errno::AGAIN) if wait => {
                let unique = turn.header.unique;
                state
                    .locks
                    .wait(&self.tree, (unique, request.handle), wanted)
                    .inspect_err(|error| match *error {
                        Errno::DEADLK => self.counters.deadlocks.one(),
                        _ => self.counters.refused_waits.one(),
                    })?;
                Ok(Answer::Waits)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn test_lock(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        request: &LockRequest,
    ) -> Result<Answer> {
        let asked = node(state, turn.header.node)?;
        let known = state
            .locks
            .known_owner(self.tree.identity(&asked), request.owner);
        let found = match known {
            Some(owner) => self.tree.blocking_lock(owner.locks(), request.range)?,
            None => {
                let own = self.tree.locks(&asked)?;
                self.tree.blocking_lock(&own, request.range)?
            }
        };
        let none = LockRange {
            kind: LockKind::Unlock,
            start: 0,
            length: 0,
        };
        let range = found.unwrap_or(none);
        let end = match range.length {
            0 => i64::MAX,
            length => range.start.saturating_add(length - 1),
        };
        let kind = match range.kind {
            LockKind::Shared => 0,
            LockKind::Exclusive => 1,
            LockKind::Unlock => 2,
        };
        // Process numbers of the host mean nothing in the guest.
        Output::new(turn.reply)
            .i64(range.start)
            .i64(end)
            .u32(kind)
            .u32(0);
        Ok(Answer::Built)
    }
}
