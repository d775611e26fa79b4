//! A client for tests: the codec's other side, and a session that answers at once.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::ninep::counters::Counters;
use crate::ninep::messages::{Reply, Request};
use crate::ninep::session::{Mount, Offers, Outcome, Session, mount};
use crate::ninep::wire::{Data, Few, Frame, Qid, Text};
use crate::tree::Result;
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::owner::{GuestGid, GuestOwner, GuestUid, OwnerMap};
use crate::tree::read_only::ReadOnly;

pub(super) const ROOT: u32 = 0;
const NO_FID: u32 = u32::MAX;

/// Two shares of a guest, `a` and the read-only `frozen`, of the same folder.
pub(super) struct Client {
    pub(super) session: Session,
    pub(super) counters: Arc<Counters>,
    pub(super) descriptors: Arc<Descriptors>,
    folder: PathBuf,
    _root: tempfile::TempDir,
}

struct Two {
    counters: Arc<Counters>,
    descriptors: Arc<Descriptors>,
    folder: PathBuf,
}

impl Offers for Two {
    fn resolve(&self, name: &str) -> Result<String> {
        match name {
            "a" | "frozen" => Ok(name.to_owned()),
            _ => Err(Errno::NOENT),
        }
    }
    fn attach(&self, share: &str) -> Result<Box<dyn Mount>> {
        let guest = GuestOwner {
            uid: GuestUid(1000),
            gid: GuestGid(1001),
        };
        let tree = HostTree::open(&self.folder, Arc::clone(&self.descriptors), |host| {
            OwnerMap::Map { host, guest }
        })?;
        let counting = self.counters.of_share(share);
        Ok(if share == "a" {
            mount(Arc::new(tree), counting, 1)
        } else {
            mount(Arc::new(ReadOnly(tree)), counting, 2)
        })
    }
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    Answer(Vec<u8>),
    Waits,
}

fn session(counters: &Arc<Counters>, descriptors: &Arc<Descriptors>, folder: &Path) -> Session {
    let offers = Two {
        counters: Arc::clone(counters),
        descriptors: Arc::clone(descriptors),
        folder: folder.to_owned(),
    };
    Session::new(Box::new(offers), Arc::clone(counters))
}

impl Client {
    /// Connected, with share `a` attached as fid 0.
    pub(super) fn new() -> Self {
        let mut client = Self::unattached(1000);
        client.attach(ROOT, b"a", 1000).unwrap();
        client
    }

    /// Connected; so many descriptors.
    pub(super) fn unattached(descriptors: usize) -> Self {
        let mut client = Self::fresh(descriptors);
        let agreed = client.version(1024 * 1024, b"9P2000.L").unwrap();
        assert_eq!(agreed, (1024 * 1024, b"9P2000.L".to_vec()));
        client
    }

    /// Connected to shares of any kind.
    pub(super) fn of(offers: impl Offers + 'static) -> Self {
        let mut client = Self::fresh(10);
        client.session = Session::new(Box::new(offers), Arc::clone(&client.counters));
        client.version(1024 * 1024, b"9P2000.L").unwrap();
        client
    }

    pub(super) fn fresh(descriptors: usize) -> Self {
        rustix::process::umask(rustix::fs::Mode::empty());
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("share");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        let descriptors = Descriptors::new(descriptors);
        let counters = Arc::new(Counters::default());
        Self {
            session: session(&counters, &descriptors, &folder),
            counters,
            descriptors,
            folder,
            _root: root,
        }
    }

    /// Another session of the same shares.
    pub(super) fn another_session(&self) -> Session {
        session(&self.counters, &self.descriptors, &self.folder)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(Path::new(name))
    }

    /// Any frame. What may take long is done at once.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Came {
        let frame = Frame::first(bytes, u32::MAX).unwrap().unwrap();
        let mut room = vec![0xee; self.session.room_for(&frame)];
        let length = match self.session.serve(&frame, &mut room) {
            Outcome::Done(length) => length,
            Outcome::Waits => return Came::Waits,
            Outcome::Slow(slow) => {
                Session::finished(&self.counters, frame.tag, slow.run(), &mut room)
            }
        };
        room.truncate(length);
        Came::Answer(room)
    }

    /// A request of tag 7, and what `look` makes of its answer.
    pub(super) fn ask<R>(
        &mut self,
        request: &Request<'_>,
        look: impl FnOnce(Reply<'_>) -> R,
    ) -> Result<R> {
        let mut bytes = vec![0; 1024 * 1024];
        let length = request.encode(7, &mut bytes).unwrap();
        let Came::Answer(answer) = self.raw(&bytes[..length]) else {
            return Err(Errno::INPROGRESS);
        };
        let (tag, reply) = decode(&answer);
        assert_eq!(tag, 7);
        match reply {
            Reply::Error { code } => Err(Errno::from_raw_os_error(code.try_into().unwrap())),
            reply => Ok(look(reply)),
        }
    }

    pub(super) fn done(&mut self, request: &Request<'_>) -> Result<()> {
        self.ask(request, |_| ())
    }

    pub(super) fn qid(&mut self, request: &Request<'_>) -> Result<Qid> {
        self.ask(request, |reply| match reply {
            Reply::Attach { qid }
            | Reply::Open { qid, .. }
            | Reply::Create { qid, .. }
            | Reply::SymbolicLink { qid }
            | Reply::Node { qid }
            | Reply::Directory { qid } => qid,
            other => panic!("{other:?}"),
        })
    }

    pub(super) fn version(&mut self, longest: u32, version: &[u8]) -> Result<(u32, Vec<u8>)> {
        let version = Text(version);
        self.ask(
            &Request::Version { longest, version },
            |reply| match reply {
                Reply::Version { longest, version } => (longest, version.0.to_vec()),
                other => panic!("{other:?}"),
            },
        )
    }

    pub(super) fn attach(&mut self, fid: u32, share: &[u8], number: u32) -> Result<Qid> {
        self.qid(&Request::Attach {
            fid,
            authentication: NO_FID,
            user: Text(b"ann"),
            share: Text(share),
            number,
        })
    }

    pub(super) fn walk(&mut self, fid: u32, new_fid: u32, path: &[&[u8]]) -> Result<Vec<Qid>> {
        let mut names = Few::default();
        path.iter().for_each(|name| names.push(Text(name)).unwrap());
        let request = Request::Walk {
            fid,
            new_fid,
            names,
        };
        self.ask(&request, |reply| match reply {
            Reply::Walk { qids } => qids.as_slice().to_vec(),
            other => panic!("{other:?}"),
        })
    }

    pub(super) fn open(&mut self, fid: u32, flags: u32) -> Result<Qid> {
        self.qid(&Request::Open { fid, flags })
    }

    /// A new fid for a new file in the root.
    pub(super) fn create(&mut self, fid: u32, name: &[u8], flags: u32) -> Result<Qid> {
        self.walk(ROOT, fid, &[])?;
        let made = self.qid(&Request::Create {
            fid,
            name: Text(name),
            flags,
            mode: 0o640,
            group: 1001,
        });
        if made.is_err() {
            self.clunk(fid).unwrap();
        }
        made
    }

    pub(super) fn read(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>> {
        let request = Request::Read { fid, offset, count };
        self.ask(&request, |reply| match reply {
            Reply::Read { data } => data.0.to_vec(),
            other => panic!("{other:?}"),
        })
    }

    pub(super) fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<u32> {
        let data = Data(data);
        self.ask(&Request::Write { fid, offset, data }, |reply| match reply {
            Reply::Write { count } => count,
            other => panic!("{other:?}"),
        })
    }

    pub(super) fn clunk(&mut self, fid: u32) -> Result<()> {
        self.done(&Request::Clunk { fid })
    }

    /// Mode, size, links.
    pub(super) fn status(&mut self, fid: u32) -> Result<(u32, u64, u64)> {
        let request = Request::Attributes {
            fid,
            wanted: u64::MAX,
        };
        self.ask(&request, |reply| match reply {
            Reply::Attributes {
                mode, size, links, ..
            } => (mode, size, links),
            other => panic!("{other:?}"),
        })
    }

    /// Names and cookies of an open directory behind `offset`, in one answer.
    pub(super) fn entries(
        &mut self,
        fid: u32,
        offset: u64,
        count: u32,
    ) -> Result<Vec<(Vec<u8>, u64)>> {
        let request = Request::Entries { fid, offset, count };
        let data = self.ask(&request, |reply| match reply {
            Reply::Entries { data } => data.0.to_vec(),
            other => panic!("{other:?}"),
        })?;
        let mut rest = &data[..];
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let cookie = u64::from_le_bytes(rest[13..21].try_into().unwrap());
            let length = usize::from(u16::from_le_bytes(rest[22..24].try_into().unwrap()));
            entries.push((rest[24..24 + length].to_vec(), cookie));
            rest = &rest[24 + length..];
        }
        Ok(entries)
    }

    /// The whole file.
    pub(super) fn lock(&mut self, tag: u16, fid: u32, kind: u8, flags: u32, process: u32) -> Came {
        self.lock_range(tag, fid, (kind, flags), process, (0, 0))
    }

    /// A start and a length.
    pub(super) fn lock_range(
        &mut self,
        tag: u16,
        fid: u32,
        (kind, flags): (u8, u32),
        process: u32,
        (start, length): (u64, u64),
    ) -> Came {
        let request = Request::Lock {
            fid,
            kind,
            flags,
            start,
            length,
            process,
            client: Text(b"guest"),
        };
        let mut bytes = [0; 100];
        let length = request.encode(tag, &mut bytes).unwrap();
        self.raw(&bytes[..length])
    }

    /// Answers to locks that were waited for.
    pub(super) fn retried(&mut self) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        self.session.retry(|frame| answers.push(frame.to_vec()));
        answers
    }
}

pub(super) fn decode(answer: &[u8]) -> (u16, Reply<'_>) {
    let frame = Frame::first(answer, u32::MAX).unwrap().unwrap();
    assert_eq!(frame.length(), answer.len());
    (frame.tag, Reply::decode(&frame).unwrap().unwrap())
}
