//! A 9P2000.L client at a unix socket: frames as Linux's v9fs writes them, as many under way as it is told.
//!
//! Only what is measured; the codec that the daemon's own tests use is not here, so that both are judged by
//! the protocol. Read first: the 9P2000.L part of diod's protocol.md, or Linux's net/9p/protocol.c.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::now;
use crate::guest::Wait;

/// What v9fs is told to ask for; the daemon may agree on less.
const MSIZE: u32 = 1 << 20;
/// size, kind, tag.
const HEADER: usize = 7;
/// A Twrite's before its data.
pub(crate) const OVERHEAD: usize = 24;
const NO_FID: u32 = u32::MAX;
const NO_TAG: u16 = u16::MAX;
const ERROR: u8 = 7;
/// EOPNOTSUPP.
const NOT_SUPPORTED: usize = 95;
/// A fid that only older messages need.
const SPARE: u32 = 100;
/// No daemon takes that long.
const PATIENCE: Duration = Duration::from_secs(5);
const SECOND: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// A frame without its tag, which stands at `TAG`.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    bytes: Vec<u8>,
    /// The errno that is the right answer; 0: none.
    error: u32,
}

const TAG: std::ops::Range<usize> = 5..7;

fn frame(kind: u8, fields: &[&[u8]]) -> Frame {
    let length = HEADER + fields.iter().map(|field| field.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or_default().to_le_bytes());
    bytes.push(kind);
    bytes.extend(NO_TAG.to_le_bytes());
    for field in fields {
        bytes.extend_from_slice(field);
    }
    Frame { bytes, error: 0 }
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or_default();
    [&length.to_le_bytes(), text.as_bytes()].concat()
}

fn words(list: &[u32]) -> Vec<u8> {
    list.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn longs(list: &[u64]) -> Vec<u8> {
    list.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// With no name, a second fid of the same file.
pub(crate) fn walk(fid: u32, new: u32, name: &str) -> Frame {
    if name.is_empty() {
        return frame(110, &[&words(&[fid, new]), &[0, 0]]);
    }
    frame(110, &[&words(&[fid, new]), &[1, 0], &text(name)])
}

/// A Twalk that ENOENT answers.
pub(crate) fn walk_nothing(fid: u32, new: u32) -> Frame {
    Frame {
        error: 2,
        ..walk(fid, new, "nothing")
    }
}

pub(crate) fn clunk(fid: u32) -> Frame {
    frame(120, &[&words(&[fid])])
}

/// Of all that stat(2) shows: P9_GETATTR_BASIC.
pub(crate) fn getattr(fid: u32) -> Frame {
    frame(24, &[&words(&[fid]), &longs(&[0x7ff])])
}

/// Of the time of modification.
pub(crate) fn set_time(fid: u32) -> Frame {
    const MTIME_SET: u32 = 1 << 5 | 1 << 8;
    let first = words(&[fid, MTIME_SET, 0, 0, 0]);
    frame(26, &[&first, &longs(&[0, 0, 0, 1_000_000_000, 0])])
}

pub(crate) fn statfs(fid: u32) -> Frame {
    frame(8, &[&words(&[fid])])
}

/// For reading and writing; folders, for reading.
pub(crate) fn open(fid: u32, folder: bool) -> Frame {
    frame(12, &[&words(&[fid, if folder { 0 } else { 2 }])])
}

/// The folder's fid becomes the file's, open for reading and writing.
pub(crate) fn create(fid: u32, name: &str) -> Frame {
    const NEW: u32 = 0o100 | 0o200 | 2;
    frame(
        14,
        &[&words(&[fid]), &text(name), &words(&[NEW, 0o100_644, 0])],
    )
}

pub(crate) fn mkdir(fid: u32, name: &str) -> Frame {
    frame(72, &[&words(&[fid]), &text(name), &words(&[0o755, 0])])
}

fn unlink(fid: u32, name: &str, folder: bool) -> Frame {
    let flags = if folder { 0x200 } else { 0 };
    frame(76, &[&words(&[fid]), &text(name), &words(&[flags])])
}

/// Removes what a fid is, and the fid with it.
fn remove(fid: u32) -> Frame {
    frame(122, &[&words(&[fid])])
}

/// Renames what a fid is, in its folder.
fn rename_fid(fid: u32, folder: u32, new: &str) -> Frame {
    frame(20, &[&words(&[fid, folder]), &text(new)])
}

fn rename(fid: u32, old: &str, new: &str) -> Frame {
    frame(
        74,
        &[&words(&[fid]), &text(old), &words(&[fid]), &text(new)],
    )
}

pub(crate) fn readdir(fid: u32, from: u64, room: u32) -> Frame {
    frame(40, &[&words(&[fid]), &longs(&[from]), &words(&[room])])
}

pub(crate) fn read(fid: u32, offset: usize, size: usize) -> Frame {
    let size = u32::try_from(size).unwrap_or_default();
    frame(
        116,
        &[&words(&[fid]), &longs(&[offset as u64]), &words(&[size])],
    )
}

pub(crate) fn write(fid: u32, offset: usize, data: &[u8]) -> Frame {
    let size = u32::try_from(data.len()).unwrap_or_default();
    frame(
        118,
        &[
            &words(&[fid]),
            &longs(&[offset as u64]),
            &words(&[size]),
            data,
        ],
    )
}

/// See the module's head.
pub(crate) struct Connection {
    stream: UnixStream,
    /// Bytes that came and were not looked at yet: from `seen` to `filled`.
    came: Vec<u8>,
    seen: usize,
    filled: usize,
    /// Room for what is written at once.
    said: Vec<u8>,
    /// The longest frame that both agreed on.
    pub(crate) longest: usize,
    /// Whether it knows Tunlinkat and Trenameat; else Linux falls back to older messages.
    names: Names,
    wait: Wait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    InFolders,
    ByFid,
}

/// The fid that is attached.
pub(crate) const ROOT: u32 = 0;

impl Connection {
    /// Connects and attaches `share` for a user.
    pub(crate) fn open(socket: &Path, share: &str, user: u32) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_nonblocking(true)?;
        let mut connection = Self {
            stream,
            came: vec![0; 2 * MSIZE as usize],
            seen: 0,
            filled: 0,
            said: Vec::new(),
            longest: 4096,
            names: Names::InFolders,
            wait: Wait::Looking,
        };
        let version = frame(100, &[&words(&[MSIZE]), &text("9P2000.L")]);
        connection.send(&[(NO_TAG, &version)])?;
        let (_, answer) = connection.receive().context("Tversion")?;
        ensure!(
            answer.get(4 + HEADER + 2..) == Some(b"9P2000.L"),
            "it speaks no 9P2000.L"
        );
        connection.longest = number(answer, HEADER)?;
        let names = [text("bench"), text(share)].concat();
        let attach = frame(104, &[&words(&[ROOT, NO_FID]), &names, &words(&[user])]);
        connection.ask(&attach).context("Tattach")?;
        let probe = unlink(ROOT, "nothing", false);
        connection.send(&[(0, &probe)])?;
        let (_, answer) = connection.receive()?;
        if number(answer, HEADER)? == NOT_SUPPORTED {
            connection.names = Names::ByFid;
        }
        Ok(connection)
    }

    /// From now on it learns of answers so.
    pub(crate) fn learn_by(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// Removes a name, with Tunlinkat or what stands for it.
    pub(crate) fn remove(&mut self, folder: u32, name: &str, is_folder: bool) -> Result<()> {
        if self.names == Names::InFolders {
            return self.ask(&unlink(folder, name, is_folder)).map(drop);
        }
        self.ask(&walk(folder, SPARE, name))?;
        self.ask(&remove(SPARE)).map(drop)
    }

    /// Renames in a folder, with Trenameat or what stands for it.
    pub(crate) fn rename(&mut self, folder: u32, old: &str, new: &str) -> Result<()> {
        if self.names == Names::InFolders {
            return self.ask(&rename(folder, old, new)).map(drop);
        }
        self.ask(&walk(folder, SPARE, old))?;
        self.ask(&rename_fid(SPARE, folder, new))?;
        self.ask(&clunk(SPARE)).map(drop)
    }

    /// One frame and its answer's body.
    pub(crate) fn ask(&mut self, frame: &Frame) -> Result<&[u8]> {
        self.send(&[(0, frame)])?;
        let (_, answer) = self.receive()?;
        check(frame, answer)?;
        Ok(answer.get(HEADER..).unwrap_or_default())
    }

    /// Writes frames at once.
    pub(crate) fn send(&mut self, frames: &[(u16, &Frame)]) -> Result<()> {
        self.said.clear();
        for (tag, frame) in frames {
            let start = self.said.len();
            self.said.extend_from_slice(&frame.bytes);
            self.said[start + TAG.start..start + TAG.end].copy_from_slice(&tag.to_le_bytes());
        }
        let mut rest = self.said.as_slice();
        let begin = now();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ensure!(begin.elapsed() < PATIENCE, "the daemon takes nothing");
                    // As every client does: who looks instead hands over a page at a time.
                    poll(
                        &mut [PollFd::new(&self.stream, PollFlags::OUT)],
                        Some(&SECOND),
                    )?;
                }
                Err(error) => return Err(error).context("write to the daemon"),
            }
        }
        Ok(())
    }

    /// Whether a whole answer is here already.
    pub(crate) fn is_there(&self) -> bool {
        let here = self.came.get(self.seen..self.filled).unwrap_or_default();
        number(here, 0).is_ok_and(|length| here.len() >= length)
    }

    /// The next answer: its tag and all of it.
    pub(crate) fn receive(&mut self) -> Result<(u16, &[u8])> {
        while !self.is_there() {
            if self.seen > 0 {
                self.came.copy_within(self.seen..self.filled, 0);
                (self.seen, self.filled) = (0, self.filled - self.seen);
            }
            self.filled += self.read()?;
        }
        let start = self.seen;
        let length = number(self.came.get(start..).unwrap_or_default(), 0)?;
        ensure!(length >= HEADER, "a frame of {length} bytes");
        self.seen += length;
        let answer = self.came.get(start..start + length).unwrap_or_default();
        let tag = u16::from_le_bytes(answer[TAG].try_into()?);
        Ok((tag, answer))
    }
}

impl Connection {
    /// Waits for more bytes.
    fn read(&mut self) -> Result<usize> {
        let begin = now();
        let room = self.came.get_mut(self.filled..).unwrap_or_default();
        loop {
            match self.stream.read(room) {
                Ok(0) => bail!("the daemon closed the connection"),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("read from the daemon"),
            }
            ensure!(begin.elapsed() < PATIENCE, "no answer within {PATIENCE:?}");
            if self.wait == Wait::Asleep {
                poll(
                    &mut [PollFd::new(&self.stream, PollFlags::IN)],
                    Some(&SECOND),
                )?;
            }
        }
    }
}

/// Whether an answer is the one that the frame wants.
pub(crate) fn check(asked: &Frame, answer: &[u8]) -> Result<()> {
    let kind = asked.bytes.get(4).copied().unwrap_or_default();
    match answer.get(4) {
        Some(&ERROR) => {
            let error = number(answer, HEADER)?;
            let expected = usize::try_from(asked.error)?;
            ensure!(
                error == expected,
                "message {kind} was answered by errno {error}"
            );
            Ok(())
        }
        Some(&other) if other == kind + 1 && asked.error == 0 => Ok(()),
        other => bail!("message {kind} was answered by message {other:?}"),
    }
}

/// A number of four bytes.
pub(crate) fn number(bytes: &[u8], at: usize) -> Result<usize> {
    let word = bytes.get(at..at + 4).context("an answer is too short")?;
    Ok(usize::try_from(u32::from_le_bytes(word.try_into()?))?)
}

/// How many entries a Rreaddir's body holds, and the place behind the last.
pub(crate) fn entries(body: &[u8]) -> Result<(usize, u64)> {
    // qid, offset, type, length of the name.
    const FIXED: usize = 13 + 8 + 1 + 2;
    let mut rest = body.get(4..).unwrap_or_default();
    let (mut count, mut behind) = (0, 0);
    while let Some(fixed) = rest.get(..FIXED) {
        behind = u64::from_le_bytes(fixed[13..21].try_into()?);
        let length = usize::from(u16::from_le_bytes(fixed[22..24].try_into()?));
        rest = rest.get(FIXED + length..).context("half an entry")?;
        count += 1;
    }
    Ok((count, behind))
}
