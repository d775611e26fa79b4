//! Answers as bytes. What a value means to the guest's kernel stands in wire.rs and fuse.h.

use std::time::Duration;

use super::wire::{self, Output};
use crate::tree::{Attributes, Entry, Kind, Statistics, Timestamp};

/// How long the guest's kernel may go without asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) entry: Duration,
    pub(crate) attributes: Duration,
}

/// fuse_entry_out.
pub(crate) fn entry(
    output: &mut Output<'_>,
    node: u64,
    attributes: &Attributes,
    validity: Validity,
    flags: u32,
) {
    output
        .u64(node)
        .u64(0) // generation: node numbers are never used again
        .u64(validity.entry.as_secs())
        .u64(validity.attributes.as_secs())
        .u32(validity.entry.subsec_nanos())
        .u32(validity.attributes.subsec_nanos());
    self::attributes(output, attributes, flags);
}

/// A fuse_entry_out without a node: the name does not exist, and the guest may remember that.
pub(crate) fn no_entry(output: &mut Output<'_>, validity: Validity) {
    let entry = validity.entry;
    output
        .u64(0)
        .u64(0)
        .u64(entry.as_secs())
        .u64(0)
        .u32(entry.subsec_nanos())
        .u32(0)
        .zeros(88);
}

/// fuse_attr_out.
pub(crate) fn attributes_out(
    output: &mut Output<'_>,
    attributes: &Attributes,
    validity: Validity,
    flags: u32,
) {
    let valid = validity.attributes;
    output.u64(valid.as_secs()).u32(valid.subsec_nanos()).u32(0);
    self::attributes(output, attributes, flags);
}

/// fuse_attr.
fn attributes(output: &mut Output<'_>, from: &Attributes, flags: u32) {
    output
        .u64(from.identity.inode)
        .u64(from.size)
        .u64(from.blocks)
        .i64(from.accessed.seconds)
        .i64(from.modified.seconds)
        .i64(from.changed.seconds)
        .u32(from.accessed.nanoseconds)
        .u32(from.modified.nanoseconds)
        .u32(from.changed.nanoseconds)
        .u32(mode(from))
        .u32(from.links)
        .u32(from.owner.0)
        .u32(from.group.0)
        .u32(device_number(from.device))
        .u32(from.block_size)
        .u32(flags);
}

/// fuse_statx_out.
pub(crate) fn statx(output: &mut Output<'_>, from: &Attributes, validity: Validity) {
    const BASIC_STATS: u32 = 0x7ff;
    const BTIME: u32 = 0x800;
    let valid = validity.attributes;
    output
        .u64(valid.as_secs())
        .u32(valid.subsec_nanos())
        .u32(0)
        .zeros(16);
    output
        .u32(if from.born.is_some() {
            BASIC_STATS | BTIME
        } else {
            BASIC_STATS
        })
        .u32(from.block_size)
        .u64(0)
        .u32(from.links)
        .u32(from.owner.0)
        .u32(from.group.0)
        .u16(u16::try_from(mode(from)).unwrap_or_default())
        .u16(0)
        .u64(from.identity.inode)
        .u64(from.size)
        .u64(from.blocks)
        .u64(0);
    for time in [
        from.accessed,
        from.born.unwrap_or_default(),
        from.changed,
        from.modified,
    ] {
        statx_time(output, time);
    }
    // The numbers of the host's device mean nothing in the guest, which has its own for the mount.
    output
        .u32(from.device.0)
        .u32(from.device.1)
        .u32(0)
        .u32(0)
        .zeros(14 * 8);
}

fn statx_time(output: &mut Output<'_>, time: Timestamp) {
    output.i64(time.seconds).u32(time.nanoseconds).u32(0);
}

/// fuse_dirent, padded to eight bytes.
pub(crate) fn dirent(output: &mut Output<'_>, entry: &Entry<'_>) {
    let name = entry.name.to_bytes();
    output
        .u64(entry.inode)
        .u64(entry.next)
        .u32(u32::try_from(name.len()).unwrap_or_default())
        .u32(entry.kind.map_or(0, |kind| type_bits(kind) >> 12))
        .raw(name)
        .zeros(name.len().next_multiple_of(8) - name.len());
}

/// Bytes that `dirent` will take.
pub(crate) fn dirent_length(entry: &Entry<'_>) -> usize {
    wire::DIRENT + entry.name.count_bytes().next_multiple_of(8)
}

/// fuse_kstatfs.
pub(crate) fn statistics(output: &mut Output<'_>, from: &Statistics) {
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    output
        .u64(from.blocks)
        .u64(from.free)
        .u64(from.available)
        .u64(from.files)
        .u64(from.free_files)
        .u32(small(from.block_size))
        .u32(small(from.longest_name))
        .u32(small(from.block_size))
        .zeros(28);
}

fn mode(from: &Attributes) -> u32 {
    type_bits(from.kind) | from.mode
}

fn type_bits(kind: Kind) -> u32 {
    match kind {
        Kind::Fifo => 0o010000,
        Kind::CharacterDevice => 0o020000,
        Kind::Directory => 0o040000,
        Kind::BlockDevice => 0o060000,
        Kind::File => 0o100000,
        Kind::SymbolicLink => 0o120000,
        Kind::Socket => 0o140000,
    }
}

/// Linux's new_encode_dev.
fn device_number((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}
