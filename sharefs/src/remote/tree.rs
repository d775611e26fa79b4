//! The calls of `Tree` that are about nodes and names.

use std::ffi::CStr;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::fids::Fid;
use super::files::{RemoteFile, RemoteLocks};
use super::line::{Line, Pace};
use super::nodes::RemoteNode;
use super::{RemoteTree, longest_data};
use crate::keep::nodes::{KeptNode, KeptPlace, NodeRow};
use crate::ninep::client::{self, Told};
use crate::ninep::messages::{Reply, Request};
use crate::ninep::wire::{Few, Text};
use crate::sys::{LockRange, Sink, Source};
use crate::tree::{
    AccessWanted, Allocation, Attributes, Caller, Changes, Entry, ExtendedHow, Found, Identity,
    Kind, Name, NewNode, OpenHow, RenameHow, Result, Seek, Statistics, Tree, Upkeep, WholeLock,
};

/// An open directory.
pub(crate) struct RemoteDirectory {
    fid: Fid,
}

/// A new fid for what lies behind `names`; ENOENT where not all are there.
pub(super) fn walk(line: &Arc<Line>, from: u32, names: &[&[u8]]) -> Result<Fid> {
    let fid = line.fid()?;
    let mut few = Few::default();
    for name in names {
        few.push(Text(name))?;
    }
    let request = Request::Walk {
        fid: from,
        new_fid: fid.number(),
        names: few,
    };
    let answer = line.ask(&request, Pace::Quick)?;
    let refusal = match answer.reply() {
        Ok(Reply::Walk { qids }) if qids.as_slice().len() == names.len() => return Ok(fid),
        // Not all the way: then there is no new fid (walk(5)).
        Ok(Reply::Walk { qids }) if qids.as_slice().len() < names.len() => Errno::NOENT,
        Ok(_) => return Err(Errno::IO),
        Err(error) => error,
    };
    fid.was_refused();
    Err(refusal)
}

impl RemoteTree {
    pub(super) fn ask<R>(
        &self,
        request: &Request<'_>,
        pace: Pace,
        read: impl FnOnce(Reply<'_>) -> Option<R>,
    ) -> Result<R> {
        let answer = self.line.ask(request, pace)?;
        read(answer.reply()?).ok_or(Errno::IO)
    }

    /// A fid of one's own for the same file.
    pub(super) fn twin(&self, node: &Fid) -> Result<Fid> {
        walk(&self.line, node.number(), &[])
    }

    pub(super) fn attributes_of(&self, fid: &Fid) -> Result<Attributes> {
        let request = Request::Attributes {
            fid: fid.number(),
            wanted: client::ALL_ATTRIBUTES,
        };
        let told = self.ask(&request, Pace::Quick, |reply| match reply {
            Reply::Attributes {
                valid,
                qid,
                mode,
                user,
                group,
                links,
                device,
                size,
                block_size,
                blocks,
                accessed,
                accessed_nanoseconds,
                modified,
                modified_nanoseconds,
                changed,
                changed_nanoseconds,
                born,
                born_nanoseconds,
                generation: _,
                data_version: _,
            } => Some(Told {
                qid,
                valid,
                mode,
                owner: (user, group),
                links,
                device,
                size,
                blocks: (block_size, blocks),
                accessed: (accessed, accessed_nanoseconds),
                modified: (modified, modified_nanoseconds),
                changed: (changed, changed_nanoseconds),
                born: (born, born_nanoseconds),
            }),
            _ => None,
        })?;
        client::attributes(&told, self.swap)
    }

    fn group(&self, caller: Caller) -> u32 {
        self.swap.group(caller.gid.0)
    }

    fn done(&self, request: &Request<'_>, pace: Pace) -> Result<()> {
        self.line.ask(request, pace)?.reply().map(drop)
    }
}

impl Tree for RemoteTree {
    type Node = Arc<RemoteNode>;
    type File = RemoteFile;
    type Directory = RemoteDirectory;
    type Locks = RemoteLocks;

    const LOOKS_WHOLE: bool = true;

    fn root(&self) -> Result<Found<Arc<RemoteNode>>> {
        let moves = self.known.moves();
        let fid = walk(&self.line, self.root.number(), &[])?;
        let attributes = self.attributes_of(&fid)?;
        let node = self.known.seen((fid, moves), None, &attributes);
        Ok(Found { node, attributes })
    }

    /// Two messages a node, which only those shall pay for who look at it.
    fn is_short_of_nodes(&self) -> bool {
        true
    }

    fn identity(&self, node: &Arc<RemoteNode>) -> Identity {
        node.identity
    }

    /// Fids are let go of and found again by `nodes.rs`, unseen by sessions.
    fn upkeep(&self) -> Upkeep {
        Upkeep::default()
    }

    fn is_held(&self, _: &Arc<RemoteNode>) -> bool {
        true
    }

    /// A qid's path is never given to another file (intro(5)).
    fn is_same(&self, known: &Arc<RemoteNode>, found: &Arc<RemoteNode>) -> bool {
        known.identity == found.identity
    }

    fn pin(&self, _: &Arc<RemoteNode>) -> Result<()> {
        Ok(())
    }

    fn unpin(&self, _: &Arc<RemoteNode>) {}

    fn renamed(
        &self,
        _: &Arc<RemoteNode>,
        _: Name<'_>,
        _: &dyn Fn(Identity) -> Option<Arc<RemoteNode>>,
    ) -> Result<()> {
        Ok(())
    }

    fn look(&self, parent: &Arc<RemoteNode>, name: Name<'_>) -> Result<Attributes> {
        self.child(parent, name).map(|found| found.attributes)
    }

    fn child(&self, parent: &Arc<RemoteNode>, name: Name<'_>) -> Result<Found<Arc<RemoteNode>>> {
        let name = name.as_c_str().to_bytes();
        let (seen, attributes) = self.with(parent, |folder| {
            let moves = self.known.moves();
            let fid = walk(&self.line, folder.number(), &[name])?;
            let attributes = self.attributes_of(&fid)?;
            Ok(((fid, moves), attributes))
        })?;
        let place = (parent, name);
        let node = self.known.seen(seen, Some(place), &attributes);
        Ok(Found { node, attributes })
    }

    fn attributes(&self, node: &Arc<RemoteNode>) -> Result<Attributes> {
        self.attributes_now(node)
    }

    fn change(
        &self,
        node: &Arc<RemoteNode>,
        file: Option<&RemoteFile>,
        changes: &Changes,
    ) -> Result<Attributes> {
        // Who has it open may cut it, whatever its mode is by now.
        let apply = |fid: &Fid| match client::change(fid.number(), changes, self.swap) {
            Some(request) => self.done(&request, Pace::Slow),
            None => Ok(()),
        };
        match file {
            Some(file) => apply(&file.fid)?,
            None => self.with(node, apply)?,
        }
        if changes.drop_privileges && changes.size.is_some() {
            self.with(node, |fid| self.without_privileges(fid))?;
        }
        self.attributes(node)
    }

    fn read_link(&self, node: &Arc<RemoteNode>, target: &mut Vec<u8>) -> Result<()> {
        target.clear();
        let said = self.with(node, |fid| {
            let fid = fid.number();
            let answer = self.line.ask(&Request::ReadLink { fid }, Pace::Quick)?;
            match answer.reply()? {
                Reply::ReadLink { target: Text(text) } => Ok(client::link_target(text)?.to_vec()),
                _ => Err(Errno::IO),
            }
        })?;
        target.extend_from_slice(&said);
        Ok(())
    }

    fn make_directory(
        &self,
        caller: Caller,
        parent: &Arc<RemoteNode>,
        name: Name<'_>,
        mode: u32,
    ) -> Result<Found<Arc<RemoteNode>>> {
        let request = |folder: &Fid| Request::Directory {
            fid: folder.number(),
            name: client::text(name.as_c_str()),
            mode: mode & 0o7777,
            group: self.group(caller),
        };
        self.with(parent, |folder| self.done(&request(folder), Pace::Slow))?;
        self.child(parent, name)
    }

    fn make_node(
        &self,
        caller: Caller,
        parent: &Arc<RemoteNode>,
        name: Name<'_>,
        new: NewNode,
    ) -> Result<Found<Arc<RemoteNode>>> {
        let request = |folder: &Fid| Request::Node {
            fid: folder.number(),
            name: client::text(name.as_c_str()),
            mode: client::node_mode(new),
            major: new.device.0,
            minor: new.device.1,
            group: self.group(caller),
        };
        self.with(parent, |folder| self.done(&request(folder), Pace::Slow))?;
        self.child(parent, name)
    }

    fn make_symbolic_link(
        &self,
        caller: Caller,
        parent: &Arc<RemoteNode>,
        name: Name<'_>,
        target: &CStr,
    ) -> Result<Found<Arc<RemoteNode>>> {
        let request = |folder: &Fid| Request::SymbolicLink {
            fid: folder.number(),
            name: client::text(name.as_c_str()),
            target: client::text(target),
            group: self.group(caller),
        };
        self.with(parent, |folder| self.done(&request(folder), Pace::Slow))?;
        self.child(parent, name)
    }

    fn create(
        &self,
        caller: Caller,
        parent: &Arc<RemoteNode>,
        name: Name<'_>,
        (mode, how): (u32, OpenHow),
    ) -> Result<(Found<Arc<RemoteNode>>, RemoteFile)> {
        // The folder's twin becomes the file (Tlcreate).
        let fid = self.with(parent, |folder| self.twin(folder))?;
        let request = Request::Create {
            fid: fid.number(),
            name: client::text(name.as_c_str()),
            flags: client::open_flags(how) | client::CREATE_NEW,
            mode: mode & 0o7777,
            group: self.group(caller),
        };
        let made = self.ask(&request, Pace::Slow, |reply| match reply {
            Reply::Create { qid, .. } => Some(qid),
            _ => None,
        })?;
        let found = self.child(parent, name)?;
        if found.node.kind != Kind::File || found.node.identity.inode != made.path {
            // Somebody has put another in its place meanwhile.
            return Err(Errno::STALE);
        }
        let file = RemoteFile::new(fid, Arc::clone(&found.node), self.next_holder());
        Ok((found, file))
    }

    /// There is no message for it, and programs know that there are file systems without.
    fn create_unnamed(
        &self,
        _caller: Caller,
        _parent: &Arc<RemoteNode>,
        _mode: u32,
        _how: OpenHow,
    ) -> Result<(Found<Arc<RemoteNode>>, RemoteFile)> {
        Err(Errno::OPNOTSUPP)
    }

    fn link(
        &self,
        node: &Arc<RemoteNode>,
        parent: &Arc<RemoteNode>,
        name: Name<'_>,
    ) -> Result<Attributes> {
        let request = |folder: &Fid, fid: &Fid| Request::Link {
            folder: folder.number(),
            fid: fid.number(),
            name: client::text(name.as_c_str()),
        };
        self.with(parent, |folder| {
            self.with(node, |fid| self.done(&request(folder, fid), Pace::Slow))
        })?;
        self.attributes(node)
    }

    fn remove_file(&self, parent: &Arc<RemoteNode>, name: Name<'_>) -> Result<()> {
        self.remove(parent, name, 0)
    }

    fn remove_directory(&self, parent: &Arc<RemoteNode>, name: Name<'_>) -> Result<()> {
        self.remove(parent, name, client::REMOVE_DIRECTORY)
    }

    fn rename(
        &self,
        (from, old): (&Arc<RemoteNode>, Name<'_>),
        (to, new): (&Arc<RemoteNode>, Name<'_>),
        how: RenameHow,
    ) -> Result<()> {
        // There are no flags in the message; EINVAL is what file systems without say (rename(2)).
        if how != RenameHow::default() {
            return Err(Errno::INVAL);
        }
        self.with(from, |from| {
            self.with(to, |to| self.move_name((from, old), (to, new)))
        })?;
        // What has moved is known by its new place.
        self.has_moved();
        match self.child(to, new) {
            // Somebody else may have taken it away already.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn open(&self, node: &Arc<RemoteNode>, how: OpenHow) -> Result<RemoteFile> {
        self.open_file(node, client::open_flags(how))
    }

    fn read(&self, file: &RemoteFile, into: &[Sink<'_>], offset: u64) -> Result<usize> {
        self.read_file(file, into, offset)
    }

    fn write(
        &self,
        file: &RemoteFile,
        from: &[Source<'_>],
        offset: u64,
        append: bool,
    ) -> Result<usize> {
        self.write_file(file, from, offset, append)
    }

    fn drop_privileges(&self, file: &RemoteFile) -> Result<()> {
        self.without_privileges(&file.fid)
    }

    /// What the server has to say it has said: each write was answered.
    fn flush(&self, _file: &RemoteFile) -> Result<()> {
        Ok(())
    }

    fn sync(&self, file: &RemoteFile, data_only: bool) -> Result<()> {
        let request = Request::Sync {
            fid: file.fid.number(),
            data_only: Some(u32::from(data_only)),
        };
        self.done(&request, Pace::Slow)
    }

    // No messages for these four. ENOSYS has the kernel do without, and not ask again.
    fn allocate(&self, _file: &RemoteFile, _wanted: Allocation) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn seek(&self, _file: &RemoteFile, _offset: u64, _what: Seek) -> Result<u64> {
        Err(Errno::NOSYS)
    }

    fn copy_range(
        &self,
        _from: (&RemoteFile, u64),
        _to: (&RemoteFile, u64),
        _length: usize,
    ) -> Result<usize> {
        Err(Errno::NOSYS)
    }

    fn sync_all(&self, _node: &Arc<RemoteNode>) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn lock_whole(&self, file: &RemoteFile, lock: WholeLock) -> Result<()> {
        self.lock_file(file, lock)
    }

    fn locks(&self, node: &Arc<RemoteNode>) -> Result<RemoteLocks> {
        self.open_locks(node)
    }

    fn lock(&self, locks: &RemoteLocks, range: LockRange) -> Result<()> {
        self.lock_range(&locks.fid, locks.holder, range)
    }

    fn blocking_lock(&self, locks: &RemoteLocks, range: LockRange) -> Result<Option<LockRange>> {
        self.lock_in_the_way(locks, range)
    }

    fn open_directory(&self, node: &Arc<RemoteNode>) -> Result<RemoteDirectory> {
        if node.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        let fid = self.with(node, |fid| self.twin(fid))?;
        let request = Request::Open {
            fid: fid.number(),
            flags: client::OPEN_DIRECTORY,
        };
        self.done(&request, Pace::Quick)?;
        Ok(RemoteDirectory { fid })
    }

    /// One message; the kernel goes on asking until there is nothing more.
    fn entries(
        &self,
        directory: &RemoteDirectory,
        from: u64,
        about: usize,
        each: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        let count = about.clamp(4096, longest_data(&self.line));
        let request = Request::Entries {
            fid: directory.fid.number(),
            offset: from,
            count: u32::try_from(count).unwrap_or(u32::MAX),
        };
        let answer = self.line.ask(&request, Pace::Quick)?;
        match answer.reply()? {
            Reply::Entries { data } if data.0.len() <= count => client::entries(data.0, from, each),
            _ => Err(Errno::IO),
        }
    }

    fn sync_directory(&self, directory: &RemoteDirectory, data_only: bool) -> Result<()> {
        let request = Request::Sync {
            fid: directory.fid.number(),
            data_only: Some(u32::from(data_only)),
        };
        self.done(&request, Pace::Slow)
    }

    fn statistics(&self, node: &Arc<RemoteNode>) -> Result<Statistics> {
        // As long as it is asked of, its number is not given to another.
        let held = node.fid();
        let fid = held.number();
        let (sizes, counts) =
            self.ask(
                &Request::Statistics { fid },
                Pace::Quick,
                |reply| match reply {
                    Reply::Statistics {
                        kind: _,
                        block_size,
                        blocks,
                        free,
                        available,
                        files,
                        free_files,
                        id: _,
                        longest_name,
                    } => Some((
                        (block_size, longest_name),
                        [blocks, free, available, files, free_files],
                    )),
                    _ => None,
                },
            )?;
        client::statistics(sizes, counts)
    }

    /// The server decides when something is done; there is no message to ask before. What permission bits
    /// surely refuse is refused. Which groups its user is in, nobody knows here.
    fn access(&self, node: &Arc<RemoteNode>, wanted: AccessWanted) -> Result<()> {
        let Attributes { mode, owner, .. } = self.attributes(node)?;
        let bits =
            u32::from(wanted.read) << 2 | u32::from(wanted.write) << 1 | u32::from(wanted.execute);
        let granted = if self.uid == 0 {
            0o6 | (mode >> 6 | mode >> 3 | mode) & 1
        } else if owner.0 == self.swap.user(self.uid) {
            mode >> 6
        } else {
            mode >> 3 | mode
        };
        let is_folder_of_root = self.uid == 0 && node.kind == Kind::Directory;
        if bits & !granted == 0 || is_folder_of_root {
            Ok(())
        } else {
            Err(Errno::ACCESS)
        }
    }

    fn extended(&self, node: &Arc<RemoteNode>, name: &CStr, into: &mut [u8]) -> Result<usize> {
        self.extended_value(node, name, into)
    }

    fn set_extended(
        &self,
        node: &Arc<RemoteNode>,
        name: &CStr,
        value: &[u8],
        how: ExtendedHow,
    ) -> Result<()> {
        self.set_extended_value(node, name, value, how)
    }

    fn list_extended(&self, node: &Arc<RemoteNode>, into: &mut [u8]) -> Result<usize> {
        self.extended_names(node, into)
    }

    fn remove_extended(&self, node: &Arc<RemoteNode>, name: &CStr) -> Result<()> {
        self.remove_extended_value(node, name)
    }

    // The connection to the guest's server ends with its process, and with it all that it knows.
    fn keep(&self, _: &Arc<RemoteNode>) -> Option<KeptNode> {
        None
    }

    fn hold(&self, _: &Arc<RemoteNode>) -> Option<RawFd> {
        None
    }

    fn bind(&self, _: &Arc<RemoteNode>, _: Option<NodeRow>) {}

    fn adopt(&self, _: &KeptNode, _: (KeptPlace, Option<NodeRow>)) -> Result<Arc<RemoteNode>> {
        Err(Errno::STALE)
    }

    fn lead(&self, _: &Arc<RemoteNode>, _: &Arc<RemoteNode>, _: &CStr) {}

    fn keep_file(&self, _: &Self::File) -> Option<RawFd> {
        None
    }

    fn keep_directory(&self, _: &Self::Directory) -> Option<RawFd> {
        None
    }

    fn keep_locks(&self, _: &Self::Locks) -> Option<RawFd> {
        None
    }

    fn adopt_file(&self, _: &Arc<RemoteNode>, _: OwnedFd) -> Result<Self::File> {
        Err(Errno::STALE)
    }

    fn adopt_directory(&self, _: &Arc<RemoteNode>, _: OwnedFd) -> Result<Self::Directory> {
        Err(Errno::STALE)
    }

    fn adopt_locks(&self, _: Identity, _: OwnedFd) -> Result<Self::Locks> {
        Err(Errno::STALE)
    }
}

impl RemoteTree {
    /// What the server says to Trenameat or Tunlinkat; None: it has none of these (diod 1.0.24, for one), and is
    /// asked by messages that name the file by a fid.
    fn if_known(&self, request: &Request<'_>) -> Option<Result<()>> {
        if self.by_fid_alone.load(Ordering::Relaxed) {
            return None;
        }
        match self.done(request, Pace::Slow) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.by_fid_alone.store(true, Ordering::Relaxed);
                None
            }
            said => Some(said),
        }
    }

    fn remove(&self, parent: &Arc<RemoteNode>, name: Name<'_>, flags: u32) -> Result<()> {
        self.with(parent, |folder| self.remove_name(folder, name, flags))
    }

    fn remove_name(&self, folder: &Fid, name: Name<'_>, flags: u32) -> Result<()> {
        let request = Request::RemoveAt {
            folder: folder.number(),
            name: client::text(name.as_c_str()),
            flags,
        };
        if let Some(done) = self.if_known(&request) {
            return done;
        }
        let gone = walk(&self.line, folder.number(), &[name.as_c_str().to_bytes()])?;
        let is_folder = self.attributes_of(&gone)?.kind == Kind::Directory;
        match (is_folder, flags & client::REMOVE_DIRECTORY != 0) {
            (true, false) => Err(Errno::ISDIR),
            (false, true) => Err(Errno::NOTDIR),
            (true, true) | (false, false) => gone.remove(),
        }
    }

    fn move_name(&self, (from, old): (&Fid, Name<'_>), (to, new): (&Fid, Name<'_>)) -> Result<()> {
        let request = Request::RenameAt {
            folder: from.number(),
            name: client::text(old.as_c_str()),
            new_folder: to.number(),
            new_name: client::text(new.as_c_str()),
        };
        if let Some(done) = self.if_known(&request) {
            return done;
        }
        let moved = walk(&self.line, from.number(), &[old.as_c_str().to_bytes()])?;
        let request = Request::Rename {
            fid: moved.number(),
            folder: to.number(),
            name: client::text(new.as_c_str()),
        };
        self.done(&request, Pace::Slow)
    }

    pub(super) fn next_holder(&self) -> u32 {
        self.holders.fetch_add(1, Ordering::Relaxed)
    }

    /// As a write by an ordinary user leaves a file: without set-id bits. A server that acts as one has done so
    /// already.
    fn without_privileges(&self, fid: &Fid) -> Result<()> {
        let Attributes { mode, .. } = self.attributes_of(fid)?;
        let set_group = if mode & 0o010 != 0 { 0o2000 } else { 0 };
        let plain = mode & !(0o4000 | set_group);
        if plain == mode {
            return Ok(());
        }
        let changes = Changes {
            mode: Some(plain),
            ..Changes::default()
        };
        match client::change(fid.number(), &changes, self.swap) {
            Some(request) => self.done(&request, Pace::Slow),
            None => Ok(()),
        }
    }
}
