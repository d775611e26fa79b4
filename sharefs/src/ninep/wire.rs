//! The bytes of 9P: frames, and the few kinds of field that messages are made of. Usable from both sides.
//!
//! All integers are little endian; a text has a length of two bytes in front, data one of four. A length is
//! compared with what is there before anything is done with it, and nothing here allocates.
//! Read first: intro(5) of Plan 9; diod's protocol.md for the .L messages.

use rustix::io::Errno;

/// `size[4] kind[1] tag[2]`.
pub(crate) const HEADER: usize = 7;
/// Names in one Twalk, MAXWELEM of walk(5).
pub(crate) const MOST_NAMES: usize = 16;
/// Header and count in front of the data of an Rread, an Rreaddir.
pub(crate) const DATA_AT: usize = HEADER + 4;

/// A body that is shorter or longer than its kind, or a list that is longer than may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message does not have the form of its kind")]
pub(crate) struct Malformed;

impl From<Malformed> for Errno {
    fn from(_: Malformed) -> Self {
        Self::INVAL
    }
}

/// A length that no frame has: where the next one begins cannot be known any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame of {0} bytes")]
pub(crate) struct BadLength(pub(crate) u32);

/// One message, its body not looked at yet: a bad body is still answered under its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) tag: u16,
    pub(crate) body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes`; None while it is not all there.
    pub(crate) fn first(bytes: &'a [u8], longest: u32) -> Result<Option<Self>, BadLength> {
        let Some((length, _)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length);
        if length > longest {
            return Err(BadLength(length));
        }
        let end = usize::try_from(length).map_err(|_| BadLength(length))?;
        if end < HEADER {
            return Err(BadLength(length));
        }
        let Some([_, _, _, _, kind, low, high, body @ ..]) = bytes.get(..end) else {
            return Ok(None);
        };
        Ok(Some(Self {
            kind: *kind,
            tag: u16::from_le_bytes([*low, *high]),
            body,
        }))
    }

    /// Bytes of the whole frame.
    pub(crate) fn length(&self) -> usize {
        HEADER + self.body.len()
    }
}

/// Bytes of a body, read from the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*first)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (first, rest) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = rest;
        Ok(first)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Bytes of a message, written into room that somebody else has. What does not fit is remembered, and told
/// by `finish`.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    room: &'a mut [u8],
    at: usize,
    fits: bool,
}

/// The room is too small for the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for the message")]
pub(crate) struct NoRoom;

impl<'a> Output<'a> {
    /// Begins behind the header, which `finish` writes.
    pub(crate) fn new(room: &'a mut [u8]) -> Self {
        let fits = room.len() >= HEADER;
        Self {
            room,
            at: HEADER,
            fits,
        }
    }

    /// For a part of a message: begins at the start of the room.
    pub(crate) fn bare(room: &'a mut [u8]) -> Self {
        Self {
            room,
            at: 0,
            fits: true,
        }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        let end = self.at.saturating_add(bytes.len());
        match self.room.get_mut(self.at..end) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.at = end;
            }
            None => self.fits = false,
        }
    }

    /// Bytes written so far, with the header's if there is one.
    pub(crate) fn length(&self) -> usize {
        self.at
    }

    /// Writes the header; how long the frame is.
    pub(crate) fn finish(self, kind: u8, tag: u16) -> Result<usize, NoRoom> {
        if !self.fits {
            return Err(NoRoom);
        }
        head(self.room, kind, tag, self.at)?;
        Ok(self.at)
    }
}

/// Writes the header of a frame whose `length` bytes stand in `room` otherwise.
pub(crate) fn head(room: &mut [u8], kind: u8, tag: u16, length: usize) -> Result<(), NoRoom> {
    let size = u32::try_from(length).map_err(|_| NoRoom)?;
    let header = room.first_chunk_mut::<HEADER>().ok_or(NoRoom)?;
    let ([a, b, c, d], [low, high]) = (size.to_le_bytes(), tag.to_le_bytes());
    *header = [a, b, c, d, kind, low, high];
    Ok(())
}

/// The frame of an Rread or Rreaddir whose `count` bytes of data stand at [`DATA_AT`] already.
pub(crate) fn head_of_data(
    room: &mut [u8],
    kind: u8,
    tag: u16,
    count: usize,
) -> Result<usize, NoRoom> {
    let number = u32::try_from(count).map_err(|_| NoRoom)?;
    let place = room.get_mut(HEADER..DATA_AT).ok_or(NoRoom)?;
    place.copy_from_slice(&number.to_le_bytes());
    let length = DATA_AT + count;
    head(room, kind, tag, length)?;
    Ok(length)
}

/// What a message can be made of.
pub(crate) trait Field<'a>: Sized {
    fn take(input: &mut Input<'a>) -> Result<Self, Malformed>;
    fn put(&self, output: &mut Output<'_>);
}

macro_rules! integers {
    ($($integer:ty)*) => { $(
        impl<'a> Field<'a> for $integer {
            fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
                Ok(Self::from_le_bytes(input.array()?))
            }
            fn put(&self, output: &mut Output<'_>) {
                output.raw(&self.to_le_bytes());
            }
        }
    )* };
}
integers!(u8 u16 u32 u64);

/// A field that older clients leave out at the end of a message.
impl<'a> Field<'a> for Option<u32> {
    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        if input.is_empty() {
            return Ok(None);
        }
        u32::take(input).map(Some)
    }
    fn put(&self, output: &mut Output<'_>) {
        if let Some(value) = self {
            value.put(output);
        }
    }
}

/// `string[s]`: any bytes, not even checked for NUL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text<'a>(pub(crate) &'a [u8]);

impl<'a> Field<'a> for Text<'a> {
    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        let length = u16::take(input)?;
        input.bytes(length.into()).map(Self)
    }
    fn put(&self, output: &mut Output<'_>) {
        let Ok(length) = u16::try_from(self.0.len()) else {
            output.fits = false;
            return;
        };
        length.put(output);
        output.raw(self.0);
    }
}

/// `count[4] data[count]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Data<'a>(pub(crate) &'a [u8]);

impl<'a> Field<'a> for Data<'a> {
    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        let length = usize::try_from(u32::take(input)?).map_err(|_| Malformed)?;
        input.bytes(length).map(Self)
    }
    fn put(&self, output: &mut Output<'_>) {
        let Ok(length) = u32::try_from(self.0.len()) else {
            output.fits = false;
            return;
        };
        length.put(output);
        output.raw(self.0);
    }
}

/// `qid[13]`: what tells two files apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Qid {
    /// QTDIR and the like, see `QidKind` of convert.rs.
    pub(crate) kind: u8,
    /// Another one when the file's content is another; 0 would mean "never cache this".
    pub(crate) version: u32,
    pub(crate) path: u64,
}

impl<'a> Field<'a> for Qid {
    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            kind: u8::take(input)?,
            version: u32::take(input)?,
            path: u64::take(input)?,
        })
    }
    fn put(&self, output: &mut Output<'_>) {
        self.kind.put(output);
        self.version.put(output);
        self.path.put(output);
    }
}

/// A list of at most sixteen: the names of a Twalk, the qids of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Few<T> {
    items: [T; MOST_NAMES],
    count: usize,
}

impl<T: Copy + Default> Default for Few<T> {
    fn default() -> Self {
        Self {
            items: [T::default(); MOST_NAMES],
            count: 0,
        }
    }
}

impl<T: Copy + Default> Few<T> {
    /// Malformed: there are sixteen already.
    pub(crate) fn push(&mut self, item: T) -> Result<(), Malformed> {
        *self.items.get_mut(self.count).ok_or(Malformed)? = item;
        self.count += 1;
        Ok(())
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        self.items.get(..self.count).unwrap_or_default()
    }
}

impl<'a, T: Field<'a> + Copy + Default> Field<'a> for Few<T> {
    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        let count = u16::take(input)?;
        let mut list = Self::default();
        for _item in 0..count {
            list.push(T::take(input)?)?;
        }
        Ok(list)
    }
    fn put(&self, output: &mut Output<'_>) {
        let count = u16::try_from(self.count).unwrap_or_default();
        count.put(output);
        self.as_slice().iter().for_each(|item| item.put(output));
    }
}
