//! A tree that a 9P2000.L server has: what is asked of it becomes messages, answers become attributes, files, names.
//!
//! `line` is the connection, `fids` the numbers that the server knows things by, `tree` the trait's calls, `files`
//! reading, writing and locks, `extended` attributes with names. What bytes mean is in ninep/client.rs, who connects
//! and mounts is in guest_mounts.rs. Read first: diod's protocol.md.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::io::Errno;

use crate::confine::calls;
use crate::ninep::client::{NO_FID, OVERHEAD, Swap};
use crate::ninep::messages::{Reply, Request};
use crate::ninep::wire::Text;
use fids::Fid;
use line::{LONGEST, Limits, Line, Lost, Pace};
use nodes::Known;

mod extended;
mod fids;
mod files;
pub(crate) mod line;
mod nodes;
#[cfg(test)]
mod tests;
mod tree;

/// What 9P is called that we speak.
const DIALECT: &[u8] = b"9P2000.L";
/// Messages shorter than this carry no name of full length with what goes with it.
const SHORTEST: u32 = 8192;

/// What to attach to, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// A name, for servers that know users by name.
    pub(crate) user: String,
    /// Its number.
    pub(crate) uid: u32,
    /// What the server exports under this name (aname).
    pub(crate) export: String,
    /// A folder below that, one name after another.
    pub(crate) below: Vec<String>,
}

/// Why a server could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The server may come.
    #[error("{0}")]
    Away(String),
    /// It is there and says no.
    #[error("{0}")]
    No(String),
}

/// A server's tree, attached. All of it is lost together.
pub(crate) struct RemoteTree {
    line: Arc<Line>,
    root: Fid,
    swap: Swap,
    /// As whom the server acts.
    uid: u32,
    known: Arc<Known>,
    /// The server has no Trenameat and no Tunlinkat.
    by_fid_alone: AtomicBool,
    /// For locks: each holder has a number of its own.
    holders: AtomicU32,
    /// For locks: this connection and no other.
    client: String,
}

/// The connection behind a tree; dropped, it is closed and whoever waits for it gets an errno.
pub(crate) struct Connection {
    line: Arc<Line>,
    reader: Option<JoinHandle<()>>,
}

impl Connection {
    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.line.requests()
    }

    /// What the server holds for us.
    pub(crate) fn fids(&self) -> usize {
        self.line.fids()
    }

    /// Whatever is asked from now on, or waits, ends with ENOTCONN.
    pub(crate) fn close(&self) {
        self.line.lose("it is no longer wanted");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
        if let Some(reader) = self.reader.take() {
            let ended: std::thread::Result<()> = reader.join();
            debug_assert!(ended.is_ok());
        }
    }
}

/// Talks to the server at the other end of `socket`.
///
/// `lost` is called once, when it is gone; only after this has returned well.
pub(crate) fn attach(
    socket: UnixStream,
    wanted: &Wanted,
    swap: Swap,
    (limits, lost): (Limits, Lost),
) -> Result<(RemoteTree, Connection), Refused> {
    let away = |error: io::Error| Refused::Away(error.to_string());
    let line = Line::new(socket, limits, lost).map_err(away)?;
    let inner = Arc::clone(&line);
    // The one thread that the guest's bytes reach first.
    let reader = std::thread::Builder::new()
        .name("9p-client".to_owned())
        .spawn(move || {
            if let Err(error) = calls::confine_thread() {
                tracing::warn!(%error, "a 9p server is listened to without this stage of the sandbox");
            }
            inner.read_all();
        })
        .map_err(away)?;
    let connection = Connection {
        line: Arc::clone(&line),
        reader: Some(reader),
    };
    let root = std::thread::scope(|scope| {
        let greeting = scope.spawn(|| {
            calls::confine_thread().ok();
            greet(&line, wanted)
        });
        greeting.join()
    })
    .unwrap_or_else(|_| Err(Refused::No("the first answers cannot be read".to_owned())))?;
    let client = format!("sharectl-{}", std::process::id());
    let tree = RemoteTree {
        line,
        root,
        swap,
        uid: wanted.uid,
        known: Arc::default(),
        by_fid_alone: AtomicBool::new(false),
        holders: AtomicU32::new(1),
        client,
    };
    Ok((tree, connection))
}

/// Tversion, Tattach, and the way down.
fn greet(line: &Arc<Line>, wanted: &Wanted) -> Result<Fid, Refused> {
    let failed = |what: String| {
        move |error: Errno| match error {
            Errno::NOTCONN => Refused::Away(format!("{what}: the server closed the connection")),
            error => Refused::No(format!("{what}: {error}")),
        }
    };
    let version = Text(DIALECT);
    let question = Request::Version {
        longest: LONGEST,
        version,
    };
    let asked = || failed("asking for 9P2000.L".to_owned());
    let answer = line.ask(&question, Pace::Quick).map_err(asked())?;
    match answer.reply().map_err(asked())? {
        Reply::Version { longest, version } if version.0 == DIALECT => {
            if !(SHORTEST..=LONGEST).contains(&longest) {
                return Err(Refused::No(format!(
                    "the server wants messages of {longest} bytes, which is none of {SHORTEST} to {LONGEST}"
                )));
            }
            line.agree(longest);
        }
        Reply::Version { version, .. } => {
            return Err(Refused::No(format!(
                "the server speaks \"{}\", and not 9P2000.L",
                version.0.escape_ascii()
            )));
        }
        _ => return Err(Refused::No("what answers there is no 9P server".to_owned())),
    }
    let Wanted {
        user,
        uid,
        export,
        below,
    } = wanted;
    let what = format!("attaching \"{export}\" as user {uid}");
    let root = line.fid().map_err(failed(what.clone()))?;
    let request = Request::Attach {
        fid: root.number(),
        authentication: NO_FID,
        user: Text(user.as_bytes()),
        share: Text(export.as_bytes()),
        number: *uid,
    };
    let answer = line
        .ask(&request, Pace::Quick)
        .map_err(failed(what.clone()))?;
    match answer.reply() {
        Ok(Reply::Attach { .. }) => {}
        Err(error) => {
            root.was_refused();
            return Err(failed(what)(error));
        }
        Ok(_) => {
            return Err(Refused::No(
                "the server answers Tattach with something else".to_owned(),
            ));
        }
    }
    let mut place = root;
    for name in below {
        let what = format!("going to \"{name}\" below \"{export}\"");
        let next = tree::walk(line, place.number(), &[name.as_bytes()]);
        place = next.map_err(failed(what))?;
    }
    Ok(place)
}

/// The one place where this side of the daemon looks at the clock: calls to a guest have limits.
#[expect(
    clippy::disallowed_methods,
    reason = "a guest that says nothing is found by the clock alone"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Data of one message.
fn longest_data(line: &Line) -> usize {
    usize::try_from(line.longest().saturating_sub(OVERHEAD)).unwrap_or_default()
}
