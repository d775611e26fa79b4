//! Tlock and Tgetlock.
//!
//! A client that may wait is answered when it has the lock, not "blocked": Linux asks again only every 30
//! seconds then. A program that is killed while it waits sends a Tflush.

use std::sync::Arc;

use rustix::io::Errno;

use super::{Answer, Attached, Turn};
use crate::keep::ninep::rows::KeptWait;
use crate::ninep::convert;
use crate::ninep::locks::OwnerKey;
use crate::ninep::messages::Reply;
use crate::ninep::wire::Text;
use crate::sys::{LockKind, LockRange};
use crate::tree::{Result, Tree};

/// P9_LOCK_FLAGS_BLOCK; RECLAIM, the other one, is about servers that were away.
const BLOCK: u32 = 1;
const RECLAIM: u32 = 2;
/// P9_LOCK_SUCCESS and P9_LOCK_BLOCKED.
pub(in crate::ninep) const SUCCESS: u8 = 0;
const BLOCKED: u8 = 1;

/// A process, and the client it runs on.
type LockOwner<'a> = (u32, &'a [u8]);

impl<T: Tree> Attached<T> {
    pub(super) fn lock(
        &mut self,
        turn: &mut Turn<'_>,
        fid: u32,
        range: LockRange,
        ((process, client), flags): (LockOwner<'_>, u32),
    ) -> Result<Answer> {
        if flags & !(BLOCK | RECLAIM) != 0 {
            return Err(Errno::INVAL);
        }
        let status = |status| Reply::Lock { status };
        let locked = self.fids.find(fid)?;
        locked.file()?;
        let node = locked.place.node.clone();
        let key = OwnerKey::new(self.tree.identity(&node), process, client)?;
        if range.kind == LockKind::Unlock {
            if let Some(owner) = self.locks.known_owner(&key) {
                self.tree.lock(&owner, range)?;
                if (range.start, range.length) == (0, 0) {
                    self.locks.end_owner(&self.tree, &key);
                }
            }
            return turn.tell(&status(SUCCESS));
        }
        let tree = Arc::clone(&self.tree);
        let is_new = self.locks.known_owner(&key).is_none();
        let owner = self.locks.owner(key.clone(), fid, || tree.locks(&node))?;
        let answer = match self.tree.lock(&owner, range) {
            Ok(()) => {
                self.locks.record_owner(&tree, &key);
                return turn.tell(&status(SUCCESS));
            }
            Err(Errno::AGAIN) if flags & BLOCK == 0 => turn.tell(&status(BLOCKED)),
            Err(Errno::AGAIN) => {
                let asked = KeptWait {
                    tag: turn.tag,
                    fid,
                    mount: self.keeping.as_ref().map_or(0, |keeping| keeping.place),
                    kind: convert::lock_kind(range.kind),
                    start: range.start.cast_unsigned(),
                    length: range.length.cast_unsigned(),
                    process,
                    client: client.to_vec(),
                    is_over: false,
                };
                match self.locks.wait(owner, range, &asked) {
                    Ok(()) => {
                        self.locks.record_owner(&tree, &key);
                        return Ok(Answer::Waits);
                    }
                    Err(error) => {
                        self.counters.refused_waits.one();
                        Err(error)
                    }
                }
            }
            Err(error) => Err(error),
        };
        // Who has no lock needs no file description on the host.
        if is_new {
            self.locks.end_owner(&tree, &key);
        }
        answer
    }

    pub(super) fn test_lock(
        &self,
        turn: &mut Turn<'_>,
        fid: u32,
        range: LockRange,
        (process, client): LockOwner<'_>,
    ) -> Result<Answer> {
        let asked = self.fids.find(fid)?;
        asked.file()?;
        let node = &asked.place.node;
        let key = OwnerKey::new(self.tree.identity(node), process, client)?;
        let owner = match self.locks.known_owner(&key) {
            Some(owner) => owner,
            None => Arc::new(self.tree.locks(node)?),
        };
        let found = self.tree.blocking_lock(&owner, range)?;
        let shown = found.unwrap_or(LockRange {
            kind: LockKind::Unlock,
            ..range
        });
        turn.tell(&Reply::TestLock {
            kind: convert::lock_kind(shown.kind),
            start: shown.start.cast_unsigned(),
            length: shown.length.cast_unsigned(),
            // Process numbers of the host mean nothing to the client.
            process: if found.is_some() { 0 } else { process },
            client: Text(client),
        })
    }
}
