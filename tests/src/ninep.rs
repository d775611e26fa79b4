//! A small 9P2000.L client: many requests on their way at once, and each answer looked at.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Longest frame that is asked for, in bytes.
pub const LONGEST: u32 = 1 << 20;
/// The fid of the share's folder.
pub const ROOT: u32 = 0;
/// So long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);
const NO_FID: u32 = u32::MAX;
const ERROR: u8 = 7;
/// `size[4] kind[1] tag[2]`.
const HEADER: usize = 7;

/// Numbers of messages, each with its name in the protocol.
pub mod kind {
    #![allow(missing_docs, reason = "the names are those of the protocol")]
    pub const STATFS: u8 = 8;
    pub const LOPEN: u8 = 12;
    pub const LCREATE: u8 = 14;
    pub const SYMLINK: u8 = 16;
    pub const READLINK: u8 = 22;
    pub const XATTRWALK: u8 = 30;
    pub const XATTRCREATE: u8 = 32;
    pub const READDIR: u8 = 40;
    pub const FSYNC: u8 = 50;
    pub const LOCK: u8 = 52;
    pub const LINK: u8 = 70;
    pub const MKDIR: u8 = 72;
    pub const RENAMEAT: u8 = 74;
    pub const UNLINKAT: u8 = 76;
    pub const VERSION: u8 = 100;
    pub const ATTACH: u8 = 104;
    pub const FLUSH: u8 = 108;
    pub const WALK: u8 = 110;
    pub const READ: u8 = 116;
    pub const WRITE: u8 = 118;
    pub const CLUNK: u8 = 120;
}

/// The body of a message, field by field.
#[derive(Clone, Debug, Default)]
pub struct Body(Vec<u8>);

impl Body {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A byte.
    #[must_use]
    pub fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Two bytes.
    #[must_use]
    pub fn short(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Four bytes: a fid, flags, a count.
    #[must_use]
    pub fn word(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Eight bytes: an offset, a length.
    #[must_use]
    pub fn long(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A name of up to 65,535 bytes, its length of two bytes in front.
    #[must_use]
    pub fn text(mut self, value: &str) -> Self {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_le_bytes());
        self.0.extend(value.as_bytes());
        self
    }

    /// Data, its length of four bytes in front.
    #[must_use]
    pub fn data(mut self, value: &[u8]) -> Self {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.0.extend(length.to_le_bytes());
        self.0.extend(value);
        self
    }
}

/// An answer: its kind, and what is behind the header.
pub type Answer = (u8, Vec<u8>);

/// Connected, with a share attached as `ROOT`.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    next_tag: u16,
    came: BTreeMap<u16, Answer>,
    sending: Option<JoinHandle<std::io::Result<()>>>,
}

impl Client {
    /// # Errors
    /// When nobody listens there, or the share is not to be had.
    pub fn attach(socket: &Path, share: &str) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut client = Self {
            stream,
            next_tag: 0,
            came: BTreeMap::new(),
            sending: None,
        };
        let version = Body::new().word(LONGEST).text("9P2000.L");
        client.ask(kind::VERSION, version)?;
        let attach = Body::new().word(ROOT).word(NO_FID).text("").text(share);
        client.ask(kind::ATTACH, attach.word(0))?;
        Ok(client)
    }

    /// Sends all of these before it looks for an answer; their tags.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn send(&mut self, requests: impl IntoIterator<Item = (u8, Body)>) -> Result<Vec<u16>> {
        let (mut bytes, mut tags) = (Vec::new(), Vec::new());
        for request in requests {
            tags.push(self.frame(request, &mut bytes)?);
        }
        self.finish_sending()?;
        // What is read meanwhile makes room for the server to go on.
        let mut writer = self.stream.try_clone()?;
        self.sending = Some(std::thread::spawn(move || writer.write_all(&bytes)));
        Ok(tags)
    }

    /// Sends the first so many bytes of a request: its tag, and the rest of it for `send_rest`.
    ///
    /// # Errors
    /// When the connection has ended, or nobody takes them.
    pub fn send_part(&mut self, request: (u8, Body), count: usize) -> Result<(u16, Vec<u8>)> {
        let mut bytes = Vec::new();
        let tag = self.frame(request, &mut bytes)?;
        ensure!(count < bytes.len(), "all {} bytes of it", bytes.len());
        let rest = bytes.split_off(count);
        self.finish_sending()?;
        self.stream.write_all(&bytes)?;
        Ok((tag, rest))
    }

    /// # Errors
    /// When the connection has ended, or nobody takes it.
    pub fn send_rest(&mut self, rest: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(rest)?)
    }

    /// A frame of the next tag, added to `bytes`; the tag.
    fn frame(&mut self, (kind, Body(body)): (u8, Body), bytes: &mut Vec<u8>) -> Result<u16> {
        let tag = self.next_tag;
        self.next_tag = (tag + 1) % 0x8000;
        bytes.extend(u32::try_from(HEADER + body.len())?.to_le_bytes());
        bytes.push(kind);
        bytes.extend(tag.to_le_bytes());
        bytes.extend(body);
        Ok(tag)
    }

    fn finish_sending(&mut self) -> Result<()> {
        let Some(sending) = self.sending.take() else {
            return Ok(());
        };
        let sent = sending.join();
        Ok(sent.map_err(|_| anyhow::anyhow!("the sender panicked"))??)
    }

    /// The answer of that tag, whichever comes first.
    ///
    /// # Errors
    /// When the connection ends, or the server says something that was not asked for.
    pub fn answer(&mut self, tag: u16) -> Result<Answer> {
        loop {
            if let Some(answer) = self.came.remove(&tag) {
                return Ok(answer);
            }
            self.receive()?;
        }
    }

    /// The same for a request of that kind: what is behind its header.
    ///
    /// # Errors
    /// As above, and when it is refused.
    pub fn granted(&mut self, tag: u16, asked: u8) -> Result<Vec<u8>> {
        let (kind, body) = self.answer(tag)?;
        ensure!(
            kind == asked + 1,
            "request {asked} of tag {tag}: answer {kind}, {:?}",
            refusal(kind, &body)
        );
        Ok(body)
    }

    /// One request, and what is behind the header of its answer.
    ///
    /// # Errors
    /// As `granted`.
    pub fn ask(&mut self, kind: u8, body: Body) -> Result<Vec<u8>> {
        let tags = self.send([(kind, body)])?;
        self.granted(*tags.first().context("a tag")?, kind)
            .with_context(|| format!("request {kind}"))
    }

    /// Whether the server has ended the connection, as it does on its own account; waited for.
    ///
    /// # Errors
    /// When it says something instead.
    pub fn is_cut(&mut self) -> Result<bool> {
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => Ok(true),
            Ok(_) => anyhow::bail!("something came"),
            Err(error) => Ok(error.kind() == std::io::ErrorKind::ConnectionReset),
        }
    }

    fn receive(&mut self) -> Result<()> {
        let mut head = [0; HEADER];
        self.stream.read_exact(&mut head).context("an answer")?;
        let [a, b, c, d, kind, low, high] = head;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d]))?;
        let tag = u16::from_le_bytes([low, high]);
        ensure!(
            length >= HEADER && length <= usize::try_from(LONGEST)?,
            "frame of {length} bytes"
        );
        let mut body = vec![0; length - HEADER];
        self.stream.read_exact(&mut body).context("an answer")?;
        let before = self.came.insert(tag, (kind, body));
        ensure!(before.is_none(), "tag {tag} is answered twice");
        Ok(())
    }
}

/// The errno of an Rlerror.
#[must_use]
pub fn refusal(kind: u8, body: &[u8]) -> Option<u32> {
    let code = body.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    code.filter(|_| kind == ERROR)
}
