//! Extended attributes: Txattrwalk makes a fid to read a value from, Txattrcreate one to write it to.

use std::sync::Arc;

use rustix::io::Errno;

use super::{Answer, Attached, Turn, name_room};
use crate::keep::journal;
use crate::ninep::convert;
use crate::ninep::fids::{Fid, Use, Value};
use crate::ninep::messages::Reply;
use crate::tree::{Result, Tree};

/// XATTR_SIZE_MAX and XATTR_LIST_MAX.
const LONGEST: usize = 64 * 1024;
/// Bytes of values and lists that a client may have open at once.
const MOST_BYTES: usize = 8 * 1024 * 1024;
/// Values that grow while they are read are asked for again so often.
const TRIES: usize = 4;
const REPLACE: u32 = 2;

impl<T: Tree> Attached<T> {
    /// Without a name: the list of all names.
    pub(super) fn extended_walk(
        &mut self,
        turn: &mut Turn<'_>,
        fid: u32,
        new_fid: u32,
        text: &[u8],
    ) -> Result<Answer> {
        self.fids
            .check_new(new_fid)
            .inspect_err(|error| self.refused(*error))?;
        let asked = self.fids.find(fid)?;
        let (place, user) = (Arc::clone(&asked.place), asked.user);
        let mut room = name_room();
        let name = match text {
            b"" => None,
            text => Some(convert::extended_name(text, &mut room)?),
        };
        let ask = |into: &mut [u8]| match name {
            Some(name) => self.tree.extended(&place.node, name, into),
            None => self.tree.list_extended(&place.node, into),
        };
        let value = whole(ask)?;
        self.keep_value(value.len())?;
        let size = value.len() as u64;
        let mut reader = Fid::unused(place, user);
        reader.used = Use::Reading(value);
        self.fids.add(new_fid, reader)?;
        self.record(new_fid);
        turn.tell(&Reply::ExtendedWalk { size })
    }

    pub(super) fn extended_create(
        &mut self,
        turn: &mut Turn<'_>,
        fid: u32,
        text: &[u8],
        (size, flags): (u64, u32),
    ) -> Result<Answer> {
        let mut room = name_room();
        let name = convert::extended_name(text, &mut room)?.to_owned();
        convert::extended_how(flags)?;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if length > LONGEST {
            return Err(Errno::TOOBIG);
        }
        if !self.fids.find(fid)?.is_unused() {
            return Err(Errno::BADF);
        }
        self.keep_value(length)?;
        self.fids.find_mut(fid)?.used = Use::Writing(Box::new(Value {
            name,
            flags,
            length,
            bytes: Vec::new(),
        }));
        self.record(fid);
        turn.tell(&Reply::ExtendedCreate {})
    }

    /// The protocol has no message to remove one: replacing it by nothing is what clients send.
    pub(super) fn set_extended(&self, node: &T::Node, value: &Value) -> Result<()> {
        if value.bytes.len() != value.length {
            // The client gave up on the way.
            return Err(Errno::INVAL);
        }
        if value.length == 0 && value.flags == REPLACE {
            return match self.tree.remove_extended(node, &value.name) {
                // Done before the process died that was at it.
                Err(Errno::NODATA) if journal::is_again() => Ok(()),
                other => other,
            };
        }
        let how = convert::extended_how(value.flags)?;
        match self.tree.set_extended(node, &value.name, &value.bytes, how) {
            Err(Errno::EXIST) if journal::is_again() => {
                let mut there = vec![0; value.bytes.len() + 1];
                let length = self.tree.extended(node, &value.name, &mut there)?;
                let is_ours = there.get(..length) == Some(&value.bytes[..]);
                is_ours.then_some(()).ok_or(Errno::EXIST)
            }
            other => other,
        }
    }

    fn keep_value(&mut self, length: usize) -> Result<()> {
        if self.value_bytes.saturating_add(length) > MOST_BYTES {
            self.counters.refused_fids.one();
            return Err(Errno::NOMEM);
        }
        self.value_bytes += length;
        Ok(())
    }

    pub(super) fn free_value(&mut self, used: &Use<T>) {
        self.value_bytes -= used.value_length();
    }
}

/// All of a value whose length only the host knows.
fn whole(ask: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Box<[u8]>> {
    for _try in 0..TRIES {
        let mut value = vec![0; ask(&mut [])?.min(LONGEST)];
        if value.is_empty() {
            return Ok(value.into());
        }
        match ask(&mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(value.into());
            }
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::AGAIN)
}
