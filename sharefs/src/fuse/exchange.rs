//! One request and its answer: the header, the room there is, the buffers. What is asked is for others.
//!
//! Every server of FUSE requests here goes through `exchange`: a share's session and the folder of all
//! shares (`many`).

use rustix::io::Errno;

use super::counters::Counters;
use super::request::{Header, Operation};
use super::wire::{self, opcode};
use crate::sys::{self, Sink, Source};
use crate::tree::Result;

/// Longest request without the data of a WRITE: the largest extended attribute (64 KiB), its name, header.
const LONGEST_BODY: usize = 64 * 1024 + 4096;

/// Buffers of one thread, kept so that no request allocates.
#[derive(Debug)]
pub(crate) struct Scratch {
    request: Vec<u8>,
    reply: Vec<u8>,
    text: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            request: vec![0; LONGEST_BODY],
            reply: Vec::with_capacity(4096),
            text: Vec::with_capacity(4096),
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// So many bytes of answer are in the guest's memory; 0 where none is due.
    Done(usize),
    /// A lock is waited for: ask `Serve::retry` with this number from time to time.
    Waits(u64),
}

/// How a request was answered, error apart.
pub(super) enum Answer {
    /// No answer is due.
    Silent,
    /// A bare header.
    Empty,
    /// What is in the scratch buffer.
    Built,
    /// So many bytes of data stand behind the header already.
    Placed(usize),
    Waits,
}

/// One request on its way through the session.
pub(super) struct Turn<'a, 'g> {
    pub(super) header: Header,
    pub(super) reply: &'a mut Vec<u8>,
    pub(super) text: &'a mut Vec<u8>,
    pub(super) request: &'a mut [Source<'g>],
    pub(super) answer: &'a mut [Sink<'g>],
}

/// The request's header; None where it has none, and nobody can be answered.
pub(super) fn header(counters: &Counters, request: &[Source<'_>]) -> Option<Header> {
    let mut bytes = [0; wire::IN_HEADER];
    let read = sys::gather(request, &mut bytes);
    let header = Header::decode(&bytes[..read]).ok();
    if header.is_none() {
        counters.malformed.one();
    }
    header
}

/// What is asked, or the error to answer with, counted.
pub(super) fn decode<'b>(
    counters: &Counters,
    header: &Header,
    body: &'b [u8],
    agreed: u64,
) -> Result<Operation<'b>> {
    Operation::decode(header.opcode, body, agreed).inspect_err(|error| {
        // Any program in the guest may try a name of 256 bytes.
        if *error != Errno::NAMETOOLONG {
            counters.malformed.one();
        }
    })
}

/// Reads the body that follows the header, has `serve` find the answer, and writes it.
///
/// The header is not read again: the guest could have changed it meanwhile.
pub(super) fn exchange<'g>(
    counters: &Counters,
    header: Header,
    (scratch, request, answer): (&mut Scratch, &mut [Source<'g>], &mut [Sink<'g>]),
    serve: impl FnOnce(&mut Turn<'_, 'g>, &[u8]) -> Result<Answer>,
) -> Outcome {
    let (given, room) = (sys::total(request), sys::total(answer));
    let Scratch {
        request: buffer,
        reply,
        text,
    } = scratch;
    counters.request(header.opcode);
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    let own = if header.opcode == opcode::WRITE {
        wire::IN_HEADER + wire::WRITE_IN
    } else {
        length
    };
    let result = if length < wire::IN_HEADER || length > given || own > length {
        counters.malformed.one();
        Err(Errno::INVAL)
    } else if own > LONGEST_BODY {
        counters.malformed.one();
        Err(Errno::TOOBIG)
    } else {
        sys::gather(request, &mut buffer[..own]);
        let mut turn = Turn {
            header,
            reply: &mut *reply,
            text,
            request,
            answer: &mut *answer,
        };
        serve(&mut turn, &buffer[wire::IN_HEADER..own])
    };
    if wire::is_unanswered(header.opcode) {
        return Outcome::Done(0);
    }
    let (error, length) = match result {
        Ok(Answer::Waits) => return Outcome::Waits(header.unique),
        Ok(Answer::Silent) => return Outcome::Done(0),
        Ok(Answer::Empty) => (None, 0),
        Ok(Answer::Placed(length)) => (None, length),
        Ok(Answer::Built) => (None, reply.len() - wire::OUT_HEADER),
        Err(error) => {
            counters.errors.one();
            (Some(error), 0)
        }
    };
    let mut bytes = wire::OUT_HEADER + length;
    let mut head = wire::out_header(header.unique, error, length);
    if bytes > room {
        // The guest's kernel never leaves too little room; another gets what fits it: an error.
        counters.malformed.one();
        head = wire::out_header(header.unique, Some(Errno::IO), 0);
        bytes = wire::OUT_HEADER;
        if bytes > room {
            return Outcome::Done(0);
        }
        sys::scatter(answer, 0, &head);
        return Outcome::Done(bytes);
    }
    if matches!(result, Ok(Answer::Built)) {
        reply[..wire::OUT_HEADER].copy_from_slice(&head);
        sys::scatter(answer, 0, reply);
    } else {
        sys::scatter(answer, 0, &head);
    }
    Outcome::Done(bytes)
}
