//! Changes to what is there, and nodes that are not opened.

use std::os::fd::BorrowedFd;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::credentials::Rights;
use super::{HostFile, HostNode, HostTree, host_owner, status};
use crate::tree::{Caller, Changes, Kind, Name, NewNode, NewTime, OpenHow, RenameHow, Result};

impl HostTree {
    /// The order is that of the guest's own file systems: a chown takes set-id bits away, so a mode
    /// that comes with it must be set behind it; times come last, because truncation moves them.
    pub(super) fn apply(
        &self,
        node: &HostNode,
        file: Option<&HostFile>,
        changes: &Changes,
    ) -> Result<()> {
        if changes.owner.is_some() || changes.group.is_some() {
            self.change_owner(node, changes)?;
        }
        if let Some(mode) = changes.mode {
            self.change_mode(node, file, mode)?;
        }
        if let Some(size) = changes.size {
            self.change_size(node, file, size, changes.drop_privileges)?;
        }
        if changes.accessed.is_some() || changes.modified.is_some() {
            let times = Timestamps {
                last_access: timespec(changes.accessed),
                last_modification: timespec(changes.modified),
            };
            node.with(|place| {
                match rustix::fs::utimensat(place, c"", &times, AtFlags::EMPTY_PATH) {
                    // Linux before 5.8 knows no empty path here.
                    Err(Errno::INVAL) => {
                        let number = DecInt::from_fd(place);
                        let flags = AtFlags::empty();
                        rustix::fs::utimensat(&self.own_descriptors, number, &times, flags)
                    }
                    done => done,
                }
            })?;
        }
        Ok(())
    }

    fn change_owner(&self, node: &HostNode, changes: &Changes) -> Result<()> {
        node.with(|place| self.change_owner_at(place, changes))
    }

    fn change_owner_at(&self, place: BorrowedFd<'_>, changes: &Changes) -> Result<()> {
        let current = host_owner(&status(&place)?);
        let wanted = self.owners.wanted(current, changes.owner, changes.group)?;
        if wanted.uid.is_none() && wanted.gid.is_none() {
            return Ok(());
        }
        let uid = wanted.uid.map(|uid| Uid::from_raw(uid.0));
        let gid = wanted.gid.map(|gid| Gid::from_raw(gid.0));
        rustix::fs::chownat(place, c"", uid, gid, AtFlags::EMPTY_PATH)
    }

    fn change_mode(&self, node: &HostNode, file: Option<&HostFile>, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        match file {
            Some(file) => rustix::fs::fchmod(&file.open, mode),
            // The mode of a symbolic link means nothing on Linux and cannot be changed.
            None if node.record().kind == Kind::SymbolicLink => Err(Errno::OPNOTSUPP),
            None => node.with(|place| {
                let number = DecInt::from_fd(place);
                rustix::fs::chmodat(&self.own_descriptors, number, mode, AtFlags::empty())
            }),
        }
    }

    fn change_size(
        &self,
        node: &HostNode,
        file: Option<&HostFile>,
        size: u64,
        drop: bool,
    ) -> Result<()> {
        let own;
        let mut done = Err(Errno::BADF);
        let mut used = file;
        if let Some(file) = file {
            done = rustix::fs::ftruncate(&file.open, size);
        }
        // EINVAL and EBADF: the file at hand is not open for writing. One that the guest may not
        // write at all was refused by its kernel.
        if matches!(done, Err(Errno::BADF | Errno::INVAL)) {
            own = self.open_file(
                node,
                OpenHow {
                    write: true,
                    ..OpenHow::default()
                },
            )?;
            done = rustix::fs::ftruncate(&own.open, size);
            used = Some(&own);
        }
        done?;
        match used {
            Some(file) if drop => self.drop_set_id_bits(file),
            _ => Ok(()),
        }
    }

    pub(super) fn drop_set_id_bits(&self, file: &HostFile) -> Result<()> {
        // For an ordinary user the kernel has done it already, and file capabilities fall for root too.
        if !self.rights.keeps_set_id_bits() {
            return Ok(());
        }
        let mode = u32::from(status(&file.open)?.stx_mode);
        let group_runs = mode & 0o010 != 0;
        let dropped = if group_runs { 0o6000 } else { 0o4000 };
        if mode & dropped == 0 {
            return Ok(());
        }
        rustix::fs::fchmod(&file.open, Mode::from_raw_mode(mode & 0o7777 & !dropped))
    }

    pub(super) fn new_node(
        &self,
        caller: Caller,
        parent: &HostNode,
        name: Name<'_>,
        new: NewNode,
    ) -> Result<()> {
        let (kind, device) = match new.kind {
            Kind::File => (FileType::RegularFile, 0),
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::Socket => (FileType::Socket, 0),
            Kind::CharacterDevice => (FileType::CharacterDevice, self.device(new)?),
            Kind::BlockDevice => (FileType::BlockDevice, self.device(new)?),
            Kind::Directory | Kind::SymbolicLink => return Err(Errno::INVAL),
        };
        let mode = Mode::from_raw_mode(new.mode & 0o7777);
        let anybody_may = new.kind == Kind::CharacterDevice && new.device == (0, 0);
        let needs_a_right =
            matches!(new.kind, Kind::CharacterDevice | Kind::BlockDevice) && !anybody_may;
        parent.with(|place| {
            let make = || rustix::fs::mknodat(place, name.as_c_str(), kind, mode, device);
            if needs_a_right {
                // CAP_MKNOD is the daemon's own; it would be lost with the caller's rights.
                return make();
            }
            self.rights.with(caller, make)
        })
    }

    /// A root daemon makes devices only where owners pass as they are: elsewhere the node would
    /// belong to the host's owner, who could then use the device on the host.
    fn device(&self, new: NewNode) -> Result<u64> {
        match self.rights {
            Rights::Owner(_) if new.device != (0, 0) => Err(Errno::PERM),
            Rights::Own | Rights::Owner(_) | Rights::Caller => {
                Ok(rustix::fs::makedev(new.device.0, new.device.1))
            }
        }
    }
}

pub(super) fn rename_flags(how: RenameHow) -> RenameFlags {
    let mut flags = RenameFlags::empty();
    flags.set(RenameFlags::NOREPLACE, how.no_replace);
    flags.set(RenameFlags::EXCHANGE, how.exchange);
    flags.set(RenameFlags::WHITEOUT, how.whiteout);
    flags
}

fn timespec(time: Option<NewTime>) -> Timespec {
    match time {
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        Some(NewTime::Now) => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
        Some(NewTime::At(time)) => Timespec {
            tv_sec: time.seconds,
            tv_nsec: time.nanoseconds.into(),
        },
    }
}
