//! FUSE requests as bytes, and how much room each leaves for its answer.
//!
//! Only what a guest's kernel sends; what the daemon's own tests send is elsewhere. Read first: include/uapi/linux/fuse.h.

/// Bytes of fuse_in_header.
pub(crate) const IN_HEADER: usize = 40;
/// Bytes of fuse_out_header.
pub(crate) const OUT_HEADER: usize = 16;
/// The share's own folder.
pub(crate) const ROOT: u64 = 1;

const ENTRY_OUT: usize = 128;
const ATTR_OUT: usize = 104;
const OPEN_OUT: usize = 16;
const O_RDWR: u32 = 2;
/// O_CREAT | O_EXCL | O_RDWR.
const NEW: u32 = 0o100 | 0o200 | O_RDWR;

/// A request that can be put into a queue.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Header and arguments.
    pub(crate) bytes: Vec<u8>,
    /// Bytes of data that follow them: the content of a WRITE.
    pub(crate) given: usize,
    /// Bytes of the answer behind its header.
    pub(crate) answer: usize,
    /// Bytes of data behind that: the content of a READ.
    pub(crate) taken: usize,
    /// Errors that are the right answer.
    pub(crate) errors: &'static [i32],
}

fn request(opcode: u32, node: u64, body: &[&[u8]], answer: usize) -> Request {
    let length = IN_HEADER + body.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or_default().to_le_bytes());
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(7_u64.to_le_bytes()); // unique: nothing here is asked for by it
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 16]); // root of the guest
    for part in body {
        bytes.extend_from_slice(part);
    }
    Request {
        bytes,
        given: 0,
        answer,
        taken: 0,
        errors: &[],
    }
}

/// Numbers one after the other.
fn words(list: &[u32]) -> Vec<u8> {
    list.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn name(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

pub(crate) fn init() -> Request {
    // What Linux 6.12 offers: all but what has to do with CUSE, DAX and passthrough.
    let (flags, more) = (0x77ff_fffb, 0);
    let body = words(&[7, 38, 128 << 10, flags, more]);
    request(26, 0, &[&body, &[0; 44]], 64)
}

pub(crate) fn lookup(parent: u64, child: &str) -> Request {
    request(1, parent, &[&name(child)], ENTRY_OUT)
}

/// A LOOKUP that ENOENT answers.
pub(crate) fn lookup_nothing(parent: u64) -> Request {
    Request {
        errors: &[2],
        ..lookup(parent, "nothing")
    }
}

/// Forgets each node as often as is said.
pub(crate) fn batch_forget(nodes: &[(u64, u64)]) -> Request {
    let count = u32::try_from(nodes.len()).unwrap_or_default();
    let list: Vec<u8> = nodes
        .iter()
        .flat_map(|(node, times)| [node.to_le_bytes(), times.to_le_bytes()])
        .flatten()
        .collect();
    request(42, 0, &[&words(&[count, 0]), &list], 0)
}

pub(crate) fn getattr(node: u64) -> Request {
    request(3, node, &[&[0; 16]], ATTR_OUT)
}

/// SETATTR of the time of modification.
pub(crate) fn set_time(node: u64) -> Request {
    const MTIME: u32 = 1 << 5;
    let mut body = [0; 88];
    body[..4].copy_from_slice(&MTIME.to_le_bytes());
    body[40..48].copy_from_slice(&1_000_000_000_u64.to_le_bytes());
    request(4, node, &[&body], ATTR_OUT)
}

pub(crate) fn statfs() -> Request {
    request(17, ROOT, &[], 80)
}

/// GETXATTR of what a kernel asks for before it writes; ENODATA answers it.
pub(crate) fn getxattr(node: u64) -> Request {
    Request {
        errors: &[61],
        ..request(
            22,
            node,
            &[&words(&[24, 0]), &name("security.capability")],
            24,
        )
    }
}

pub(crate) fn open(node: u64) -> Request {
    request(14, node, &[&words(&[O_RDWR, 0])], OPEN_OUT)
}

pub(crate) fn flush(node: u64, handle: u64) -> Request {
    request(25, node, &[&handle.to_le_bytes(), &[0; 16]], 0)
}

pub(crate) fn release(node: u64, handle: u64) -> Request {
    request(18, node, &[&handle.to_le_bytes(), &[0; 16]], 0)
}

pub(crate) fn opendir(node: u64) -> Request {
    request(27, node, &[&[0; 8]], OPEN_OUT)
}

pub(crate) fn releasedir(node: u64, handle: u64) -> Request {
    request(29, node, &[&handle.to_le_bytes(), &[0; 16]], 0)
}

/// READDIRPLUS, or READDIR, with a page of room, as kernels before 6.16 ask.
pub(crate) fn readdir(plus: bool, node: u64, handle: u64, from: u64) -> Request {
    const PAGE: u32 = 4096;
    let opcode = if plus { 44 } else { 28 };
    let body = transfer(handle, from, PAGE);
    let taken = usize::try_from(PAGE).unwrap_or_default();
    Request {
        taken,
        ..request(opcode, node, &[&body], 0)
    }
}

pub(crate) fn create(parent: u64, child: &str) -> Request {
    let body = words(&[NEW, 0o100_644, 0o022, 0]);
    request(35, parent, &[&body, &name(child)], ENTRY_OUT + OPEN_OUT)
}

pub(crate) fn unlink(parent: u64, child: &str) -> Request {
    request(10, parent, &[&name(child)], 0)
}

pub(crate) fn mkdir(parent: u64, child: &str) -> Request {
    let body = words(&[0o755, 0o022]);
    request(9, parent, &[&body, &name(child)], ENTRY_OUT)
}

pub(crate) fn rmdir(parent: u64, child: &str) -> Request {
    request(11, parent, &[&name(child)], 0)
}

pub(crate) fn rename(parent: u64, old: &str, new: &str) -> Request {
    let body = parent.to_le_bytes();
    request(12, parent, &[&body, &name(old), &name(new)], 0)
}

pub(crate) fn read(node: u64, handle: u64, offset: usize, size: usize) -> Request {
    let body = data(handle, offset, size);
    Request {
        taken: size,
        ..request(15, node, &[&body], 0)
    }
}

pub(crate) fn write(node: u64, handle: u64, offset: usize, size: usize) -> Request {
    let body = data(handle, offset, size);
    let mut request = request(16, node, &[&body], 8);
    request.given = size;
    let length = u32::try_from(request.bytes.len() + size).unwrap_or_default();
    request.bytes[..4].copy_from_slice(&length.to_le_bytes());
    request
}

fn data(handle: u64, offset: usize, size: usize) -> Vec<u8> {
    transfer(
        handle,
        offset as u64,
        u32::try_from(size).unwrap_or_default(),
    )
}

/// fuse_read_in and fuse_write_in.
fn transfer(handle: u64, offset: u64, size: u32) -> Vec<u8> {
    let mut body = [handle.to_le_bytes(), offset.to_le_bytes()].concat();
    body.extend(words(&[size, 0, 0, 0, O_RDWR, 0]));
    body
}

/// A number of an answer's body.
pub(crate) fn number(answer: &[u8], at: usize) -> u64 {
    let bytes = answer.get(at..at + 8).and_then(|part| part.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// The entries of a listing: node (0 without PLUS or where there is none) and the place behind each.
pub(crate) fn entries(mut listing: &[u8], plus: bool) -> Vec<(u64, u64)> {
    let skip = if plus { ENTRY_OUT } else { 0 };
    let mut found = Vec::new();
    while listing.len() >= skip + 24 {
        let entry = &listing[skip..];
        let node = if plus { number(listing, 0) } else { 0 };
        let behind = number(entry, 8);
        let length = usize::try_from(number(entry, 16) & 0xffff_ffff).unwrap_or(usize::MAX);
        found.push((node, behind));
        let whole = skip + 24_usize.saturating_add(length).next_multiple_of(8);
        listing = listing.get(whole..).unwrap_or_default();
    }
    found
}
