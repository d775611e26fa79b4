//! The steps of an update, each announced before it is taken.
//!
//! This is the seam of the fault tests: production takes every step; a test
//! answers with an error, or kills the process, before any one of them.

use rustix::io::Errno;

/// A step that touches the disk, in the order in which an update takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Open and lock the hosts file.
    Lock,
    /// Read it.
    Read,
    /// Keep a copy of what is there, where copies are kept.
    KeepBackup,
    /// Make the new file in the same folder.
    MakeNew,
    /// Write one piece of the new file.
    FillNew,
    /// Give the new file the old one's owner, mode and attributes.
    DressNew,
    /// Bring the new file to the disk.
    SyncNew,
    /// Look whether the hosts file is still the one that was read.
    LookAgain,
    /// Put the new file in the old one's place.
    Rename,
    /// Bring the folder to the disk.
    SyncFolder,
    /// In place: keep the bytes from before and after in the state folder.
    KeepCopies,
    /// In place: the journal counts from here on.
    BeginJournal,
    /// In place: have the disk space that a longer file needs.
    Reserve,
    /// In place: write one piece over the old bytes.
    Overwrite,
    /// In place: cut what a shorter file has too much.
    Cut,
    /// In place: bring the file to the disk.
    SyncFile,
    /// In place: the journal counts no more.
    EndJournal,
}

/// Asked before each step.
pub trait Steps {
    /// Lets the step happen, or says with which error it fails instead.
    ///
    /// # Errors
    /// The error that the step's system call shall be taken to have given.
    fn before(&mut self, step: Step) -> Result<(), Errno>;

    /// The most bytes that one write may carry.
    fn piece(&self) -> usize {
        1 << 20
    }
}

/// Every step happens: what programs use.
#[derive(Debug, Clone, Copy, Default)]
pub struct Straight;

impl Steps for Straight {
    fn before(&mut self, _step: Step) -> Result<(), Errno> {
        Ok(())
    }
}
