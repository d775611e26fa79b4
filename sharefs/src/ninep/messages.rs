//! The messages of 9P2000.L, each once: number, name, and what is in question and answer. Types, names and both
//! directions of the codec come from this one table.
//!
//! It knows no meaning; flags stay the numbers they are. The number of an answer is that of its question and
//! one more. Messages that 9P2000.L replaced by others (Topen, Tcreate, Tstat, Twstat, Terror) are not here.

use super::wire::{Data, Few, Field, Frame, Input, Malformed, NoRoom, Output, Qid, Text};

macro_rules! messages {
    ($(
        $number:literal $wire:literal
        $name:ident { $($field:ident: $type:ty),* } -> { $($told:ident: $told_type:ty),* }
    )*) => {
        /// A question.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(clippy::large_enum_variant, reason = "decoded in place, never kept; a box would allocate")]
        pub(crate) enum Request<'a> {
            $( $name { $($field: $type),* }, )*
        }

        /// An answer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(clippy::large_enum_variant, reason = "encoded in place, never kept; a box would allocate")]
        pub(crate) enum Reply<'a> {
            /// Rlerror: a Linux errno.
            Error { code: u32 },
            $( $name { $($told: $told_type),* }, )*
        }

        impl<'a> Request<'a> {
            /// None: a kind that is not one of ours.
            pub(crate) fn decode(frame: &Frame<'a>) -> Option<Result<Self, Malformed>> {
                let mut input = Input::new(frame.body);
                let decoded = match frame.kind {
                    $( $number => Self::decode_fields(&mut input, |_input| Ok(Self::$name {
                        $($field: Field::take(_input)?),*
                    })), )*
                    _ => return None,
                };
                Some(decoded)
            }

            fn kind(&self) -> u8 {
                match self { $( Self::$name { .. } => $number, )* }
            }

            fn put(&self, _output: &mut Output<'_>) {
                match self { $( Self::$name { $($field),* } => { $( $field.put(_output); )* } )* }
            }
        }

        impl<'a> Reply<'a> {
            /// None: a kind that is not one of ours.
            pub(crate) fn decode(frame: &Frame<'a>) -> Option<Result<Self, Malformed>> {
                let mut input = Input::new(frame.body);
                let decoded = match frame.kind {
                    ERROR => Self::decode_fields(&mut input, |input| Ok(Self::Error {
                        code: Field::take(input)?,
                    })),
                    $( kind if kind == $number + 1 => Self::decode_fields(&mut input, |_input| Ok(Self::$name {
                        $($told: Field::take(_input)?),*
                    })), )*
                    _ => return None,
                };
                Some(decoded)
            }

            fn kind(&self) -> u8 {
                match self {
                    Self::Error { .. } => ERROR,
                    $( Self::$name { .. } => $number + 1, )*
                }
            }

            fn put(&self, _output: &mut Output<'_>) {
                match self {
                    Self::Error { code } => code.put(_output),
                    $( Self::$name { $($told),* } => { $( $told.put(_output); )* } )*
                }
            }
        }

        /// The number of a question in words, as in "Tgetattr" without its T.
        pub(crate) fn kind_name(kind: u8) -> Option<&'static str> {
            match kind {
                $( $number => Some($wire), )*
                _ => None,
            }
        }

        /// Numbers of questions that are looked at before they are decoded.
        #[cfg(test)]
        pub(crate) const KINDS: &[u8] = &[$($number),*];
    };
}

/// Rlerror.
pub(crate) const ERROR: u8 = 7;

messages! {
    8 "statfs" Statistics { fid: u32 } -> {
        kind: u32, block_size: u32, blocks: u64, free: u64, available: u64, files: u64, free_files: u64,
        id: u64, longest_name: u32
    }
    12 "lopen" Open { fid: u32, flags: u32 } -> { qid: Qid, unit: u32 }
    14 "lcreate" Create { fid: u32, name: Text<'a>, flags: u32, mode: u32, group: u32 } -> { qid: Qid, unit: u32 }
    16 "symlink" SymbolicLink { fid: u32, name: Text<'a>, target: Text<'a>, group: u32 } -> { qid: Qid }
    18 "mknod" Node { fid: u32, name: Text<'a>, mode: u32, major: u32, minor: u32, group: u32 } -> { qid: Qid }
    20 "rename" Rename { fid: u32, folder: u32, name: Text<'a> } -> {}
    22 "readlink" ReadLink { fid: u32 } -> { target: Text<'a> }
    24 "getattr" Attributes { fid: u32, wanted: u64 } -> {
        valid: u64, qid: Qid, mode: u32, user: u32, group: u32, links: u64, device: u64, size: u64,
        block_size: u64, blocks: u64, accessed: u64, accessed_nanoseconds: u64, modified: u64,
        modified_nanoseconds: u64, changed: u64, changed_nanoseconds: u64, born: u64, born_nanoseconds: u64,
        generation: u64, data_version: u64
    }
    26 "setattr" Change {
        fid: u32, valid: u32, mode: u32, user: u32, group: u32, size: u64, accessed: u64,
        accessed_nanoseconds: u64, modified: u64, modified_nanoseconds: u64
    } -> {}
    30 "xattrwalk" ExtendedWalk { fid: u32, new_fid: u32, name: Text<'a> } -> { size: u64 }
    32 "xattrcreate" ExtendedCreate { fid: u32, name: Text<'a>, size: u64, flags: u32 } -> {}
    40 "readdir" Entries { fid: u32, offset: u64, count: u32 } -> { data: Data<'a> }
    50 "fsync" Sync { fid: u32, data_only: Option<u32> } -> {}
    52 "lock" Lock {
        fid: u32, kind: u8, flags: u32, start: u64, length: u64, process: u32, client: Text<'a>
    } -> { status: u8 }
    54 "getlock" TestLock {
        fid: u32, kind: u8, start: u64, length: u64, process: u32, client: Text<'a>
    } -> { kind: u8, start: u64, length: u64, process: u32, client: Text<'a> }
    70 "link" Link { folder: u32, fid: u32, name: Text<'a> } -> {}
    72 "mkdir" Directory { fid: u32, name: Text<'a>, mode: u32, group: u32 } -> { qid: Qid }
    74 "renameat" RenameAt { folder: u32, name: Text<'a>, new_folder: u32, new_name: Text<'a> } -> {}
    76 "unlinkat" RemoveAt { folder: u32, name: Text<'a>, flags: u32 } -> {}
    100 "version" Version { longest: u32, version: Text<'a> } -> { longest: u32, version: Text<'a> }
    102 "auth" Authenticate { fid: u32, user: Text<'a>, share: Text<'a>, number: u32 } -> { qid: Qid }
    104 "attach" Attach {
        fid: u32, authentication: u32, user: Text<'a>, share: Text<'a>, number: u32
    } -> { qid: Qid }
    108 "flush" Flush { tag: u16 } -> {}
    110 "walk" Walk { fid: u32, new_fid: u32, names: Few<Text<'a>> } -> { qids: Few<Qid> }
    116 "read" Read { fid: u32, offset: u64, count: u32 } -> { data: Data<'a> }
    118 "write" Write { fid: u32, offset: u64, data: Data<'a> } -> { count: u32 }
    120 "clunk" Clunk { fid: u32 } -> {}
    122 "remove" Remove { fid: u32 } -> {}
}

/// Tread: its answer is as long as what is asked for.
pub(crate) const READ: u8 = 116;
/// Treaddir: the same.
pub(crate) const ENTRIES: u8 = 40;
/// Twrite: it may be done in parts.
pub(crate) const WRITE: u8 = 118;
/// Tversion: the connection begins anew.
pub(crate) const VERSION: u8 = 100;

impl<'a> Request<'a> {
    /// The whole frame into `room`; its length.
    pub(crate) fn encode(&self, tag: u16, room: &mut [u8]) -> Result<usize, NoRoom> {
        let mut output = Output::new(room);
        self.put(&mut output);
        output.finish(self.kind(), tag)
    }

    /// The fids that it names or makes: the server must not be told of another meaning of theirs before it
    /// has answered.
    pub(crate) fn fids(&self) -> [Option<u32>; 2] {
        match *self {
            Self::Version { .. } | Self::Flush { .. } => [None; 2],
            Self::Statistics { fid, .. }
            | Self::Open { fid, .. }
            | Self::Create { fid, .. }
            | Self::SymbolicLink { fid, .. }
            | Self::Node { fid, .. }
            | Self::ReadLink { fid }
            | Self::Attributes { fid, .. }
            | Self::Change { fid, .. }
            | Self::ExtendedCreate { fid, .. }
            | Self::Entries { fid, .. }
            | Self::Sync { fid, .. }
            | Self::Lock { fid, .. }
            | Self::TestLock { fid, .. }
            | Self::Directory { fid, .. }
            | Self::RemoveAt { folder: fid, .. }
            | Self::Authenticate { fid, .. }
            | Self::Attach { fid, .. }
            | Self::Read { fid, .. }
            | Self::Write { fid, .. }
            | Self::Clunk { fid }
            | Self::Remove { fid } => [Some(fid), None],
            Self::Rename {
                fid, folder: other, ..
            }
            | Self::Link {
                folder: other, fid, ..
            }
            | Self::RenameAt {
                folder: fid,
                new_folder: other,
                ..
            }
            | Self::ExtendedWalk {
                fid,
                new_fid: other,
                ..
            }
            | Self::Walk {
                fid,
                new_fid: other,
                ..
            } => [Some(fid), Some(other)],
        }
    }

    fn decode_fields(
        input: &mut Input<'a>,
        fields: impl FnOnce(&mut Input<'a>) -> Result<Self, Malformed>,
    ) -> Result<Self, Malformed> {
        let decoded = fields(input)?;
        input.is_empty().then_some(decoded).ok_or(Malformed)
    }
}

impl<'a> Reply<'a> {
    /// The whole frame into `room`; its length.
    pub(crate) fn encode(&self, tag: u16, room: &mut [u8]) -> Result<usize, NoRoom> {
        let mut output = Output::new(room);
        self.put(&mut output);
        output.finish(self.kind(), tag)
    }

    fn decode_fields(
        input: &mut Input<'a>,
        fields: impl FnOnce(&mut Input<'a>) -> Result<Self, Malformed>,
    ) -> Result<Self, Malformed> {
        let decoded = fields(input)?;
        input.is_empty().then_some(decoded).ok_or(Malformed)
    }
}

/// What is there of a Twrite: `size[4] kind[1] tag[2] fid[4] offset[8] count[4] data[count]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WritePart<'a> {
    pub(crate) fid: u32,
    pub(crate) offset: u64,
    /// From its begin on.
    pub(crate) data: &'a [u8],
}

impl<'a> WritePart<'a> {
    /// None where it is no Twrite, or one whose lengths do not agree, or too little of one to tell.
    pub(crate) fn of(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (&[kind, _, _], rest) = rest.split_first_chunk()?;
        let (fid, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (count, data) = rest.split_first_chunk()?;
        let whole = u64::from(u32::from_le_bytes(*count)) + (bytes.len() - data.len()) as u64;
        let is_write = kind == WRITE && whole == u64::from(u32::from_le_bytes(*length));
        (is_write && bytes.len() as u64 <= whole).then_some(Self {
            fid: u32::from_le_bytes(*fid),
            offset: u64::from_le_bytes(*offset),
            data,
        })
    }
}
