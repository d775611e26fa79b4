//! Attributes with names: Txattrwalk makes a fid that the value is read from, Txattrcreate one that it is written to.

use std::ffi::CStr;

use rustix::io::Errno;

use super::fids::Fid;
use super::line::Pace;
use super::nodes::RemoteNode;
use super::{RemoteTree, longest_data};
use crate::ninep::client;
use crate::ninep::messages::{Reply, Request};
use crate::ninep::wire::Text;
use crate::sys::Source;
use crate::tree::{ExtendedHow, Result};

/// XATTR_SIZE_MAX and XATTR_LIST_MAX: no value and no list is longer.
const LONGEST: usize = 64 * 1024;

impl RemoteTree {
    pub(super) fn extended_value(
        &self,
        node: &RemoteNode,
        name: &CStr,
        into: &mut [u8],
    ) -> Result<usize> {
        let (fid, size) = self.extended_walk(node, client::text(name))?;
        self.read_value(&fid, size, into)
    }

    pub(super) fn extended_names(&self, node: &RemoteNode, into: &mut [u8]) -> Result<usize> {
        let (fid, size) = self.extended_walk(node, Text(b""))?;
        let length = self.read_value(&fid, size, into)?;
        if !into.is_empty() && !client::is_name_list(into.get(..length).unwrap_or_default()) {
            return Err(Errno::IO);
        }
        Ok(length)
    }

    fn extended_walk(&self, node: &RemoteNode, name: Text<'_>) -> Result<(Fid, usize)> {
        self.with(node, |fid| self.extended_walk_from(fid, name))
    }

    fn extended_walk_from(&self, node: &Fid, name: Text<'_>) -> Result<(Fid, usize)> {
        let fid = self.line.fid()?;
        let request = Request::ExtendedWalk {
            fid: node.number(),
            new_fid: fid.number(),
            name,
        };
        let answer = self.line.ask(&request, Pace::Quick)?;
        let size = match answer.reply() {
            Ok(Reply::ExtendedWalk { size }) => size,
            Ok(_) => return Err(Errno::IO),
            Err(error) => {
                fid.was_refused();
                return Err(error);
            }
        };
        match usize::try_from(size) {
            Ok(size) if size <= LONGEST => Ok((fid, size)),
            _ => Err(Errno::IO),
        }
    }

    /// `size` bytes; none where nobody has room for any.
    fn read_value(&self, fid: &Fid, size: usize, into: &mut [u8]) -> Result<usize> {
        if into.is_empty() {
            return Ok(size);
        }
        let room = into.get_mut(..size).ok_or(Errno::RANGE)?;
        let mut done = 0;
        while done < size {
            let wanted = (size - done).min(longest_data(&self.line));
            let request = Request::Read {
                fid: fid.number(),
                offset: done as u64,
                count: u32::try_from(wanted).unwrap_or(u32::MAX),
            };
            let answer = self.line.ask(&request, Pace::Quick)?;
            let Reply::Read { data } = answer.reply()? else {
                return Err(Errno::IO);
            };
            // An end before the end is no value either.
            let end = done + data.0.len();
            let place = room.get_mut(done..end).filter(|place| !place.is_empty());
            place.ok_or(Errno::IO)?.copy_from_slice(data.0);
            done = end;
        }
        Ok(size)
    }

    pub(super) fn set_extended_value(
        &self,
        node: &RemoteNode,
        name: &CStr,
        value: &[u8],
        how: ExtendedHow,
    ) -> Result<()> {
        if value.is_empty() && how == ExtendedHow::Replace {
            // That message would remove it. Whether it is there is asked first instead.
            self.extended_walk(node, client::text(name))?;
            return self.write_value(node, name, (value, 0));
        }
        self.write_value(node, name, (value, client::extended_flags(how)))
    }

    pub(super) fn remove_extended_value(&self, node: &RemoteNode, name: &CStr) -> Result<()> {
        self.write_value(node, name, (b"", client::REPLACE))
    }

    fn write_value(
        &self,
        node: &RemoteNode,
        name: &CStr,
        (value, flags): (&[u8], u32),
    ) -> Result<()> {
        let fid = self.with(node, |fid| self.twin(fid))?;
        let request = Request::ExtendedCreate {
            fid: fid.number(),
            name: client::text(name),
            size: value.len() as u64,
            flags,
        };
        self.ask(&request, Pace::Quick, |_| Some(()))?;
        let mut done = 0;
        for part in value.chunks(longest_data(&self.line)) {
            let from = [Source::from(part)];
            let ticket = self
                .line
                .begin_write(fid.number(), done, &from, part.len())?;
            let count = super::files::written(ticket.wait(), part.len())?;
            if count < part.len() {
                return Err(Errno::IO);
            }
            done += count as u64;
        }
        // Only now is it set.
        fid.clunk()
    }
}
