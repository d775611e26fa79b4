//! The rows of the table of files, by the keys that sharefs's fsload gives them.

use crate::bench::rows::{Better, Line};

/// One row: its place in the list below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row(usize);

use Better::{Higher, Lower};

/// Key, title, which values win, digits after the point.
const ROWS: &[(&str, &str, Better, usize)] = &[
    ("getattr.1", "GETATTR, µs", Lower, 1),
    ("lookup.1", "LOOKUP of a known file, µs", Lower, 1),
    ("lookup-nothing.1", "LOOKUP of nothing, µs", Lower, 1),
    ("setattr.1", "SETATTR of a time, µs", Lower, 1),
    ("statfs.1", "STATFS, µs", Lower, 1),
    ("getxattr.1", "GETXATTR, none there, µs", Lower, 1),
    ("flush.1", "FLUSH, µs", Lower, 1),
    ("open.1", "OPEN, RELEASE, µs", Lower, 1),
    ("open-read.1", "OPEN, READ, FLUSH, RELEASE, µs", Lower, 1),
    ("create.1", "CREATE, RELEASE, UNLINK, µs", Lower, 1),
    (
        "untar.1",
        "a small file untarred (CREATE to RELEASE), µs",
        Lower,
        1,
    ),
    ("mkdir.1", "MKDIR, RMDIR, µs", Lower, 1),
    ("rename.1", "RENAME, µs", Lower, 1),
    ("read-4k.1", "READ 4 KiB, µs", Lower, 1),
    ("write-4k.1", "WRITE 4 KiB, µs", Lower, 1),
    ("read-64k.1", "READ 64 KiB, µs", Lower, 1),
    ("write-64k.1", "WRITE 64 KiB, µs", Lower, 1),
    ("read-1m.1", "READ 1 MiB, µs", Lower, 1),
    ("write-1m.1", "WRITE 1 MiB, µs", Lower, 1),
    (
        "getattr-event.1",
        "GETATTR, guest asleep meanwhile, µs",
        Lower,
        1,
    ),
    (
        "read-4k-event.1",
        "READ 4 KiB, guest asleep meanwhile, µs",
        Lower,
        1,
    ),
    ("walk", "cold walk, thousand LOOKUPs/s", Higher, 1),
    ("readdirplus", "READDIRPLUS, thousand entries/s", Higher, 0),
    ("readdir", "READDIR, thousand entries/s", Higher, 0),
    ("getattr.16", "16 under way: GETATTR, thousand/s", Higher, 0),
    (
        "lookup.16",
        "16 under way: LOOKUP of a known file, thousand/s",
        Higher,
        0,
    ),
    (
        "lookup-nothing.16",
        "16 under way: LOOKUP of nothing, thousand/s",
        Higher,
        0,
    ),
    ("setattr.16", "16 under way: SETATTR, thousand/s", Higher, 0),
    ("statfs.16", "16 under way: STATFS, thousand/s", Higher, 0),
    (
        "getxattr.16",
        "16 under way: GETXATTR, thousand/s",
        Higher,
        0,
    ),
    ("flush.16", "16 under way: FLUSH, thousand/s", Higher, 0),
    (
        "read-4k.16",
        "16 under way: READ 4 KiB, thousand/s",
        Higher,
        0,
    ),
    (
        "write-4k.16",
        "16 under way: WRITE 4 KiB, thousand/s",
        Higher,
        0,
    ),
    ("read-64k.16", "16 under way: READ 64 KiB, GB/s", Higher, 1),
    (
        "write-64k.16",
        "16 under way: WRITE 64 KiB, GB/s",
        Higher,
        1,
    ),
    ("read-1m.16", "16 under way: READ 1 MiB, GB/s", Higher, 1),
    ("write-1m.16", "16 under way: WRITE 1 MiB, GB/s", Higher, 1),
    (
        "getattr.cpu",
        "daemon CPU, one GETATTR at a time, µs",
        Lower,
        1,
    ),
    (
        "lookup.cpu",
        "daemon CPU, one LOOKUP at a time, µs",
        Lower,
        1,
    ),
    (
        "create.cpu",
        "daemon CPU, CREATE, RELEASE, UNLINK, µs",
        Lower,
        1,
    ),
    (
        "untar.cpu",
        "daemon CPU, a small file untarred, µs",
        Lower,
        1,
    ),
    (
        "getattr.16.cpu",
        "daemon CPU, 16 under way: GETATTR, µs",
        Lower,
        2,
    ),
    (
        "lookup.16.cpu",
        "daemon CPU, 16 under way: LOOKUP, µs",
        Lower,
        2,
    ),
    (
        "setattr.16.cpu",
        "daemon CPU, 16 under way: SETATTR, µs",
        Lower,
        2,
    ),
    (
        "getxattr.16.cpu",
        "daemon CPU, 16 under way: GETXATTR, µs",
        Lower,
        2,
    ),
    (
        "read-4k.16.cpu",
        "daemon CPU, 16 under way: READ 4 KiB, µs",
        Lower,
        2,
    ),
    (
        "read-1m.16.cpu",
        "daemon CPU, 16 under way: READ 1 MiB, s/GB",
        Lower,
        2,
    ),
    (
        "write-1m.16.cpu",
        "daemon CPU, 16 under way: WRITE 1 MiB, s/GB",
        Lower,
        2,
    ),
    (
        "paced-100us.cpu",
        "daemon CPU, a GETATTR every 100 µs, µs each",
        Lower,
        1,
    ),
    (
        "paced-1ms.cpu",
        "daemon CPU, a GETATTR every ms, µs each",
        Lower,
        1,
    ),
    ("idle.cpu", "daemon CPU at rest, %", Lower, 1),
    ("9p-getattr.1", "Tgetattr, µs", Lower, 1),
    ("9p-statfs.1", "Tstatfs, µs", Lower, 1),
    ("9p-setattr.1", "Tsetattr of a time, µs", Lower, 1),
    ("9p-walk-nothing.1", "Twalk to nothing, µs", Lower, 1),
    (
        "9p-stat.1",
        "a stat (Twalk, Tgetattr, Tclunk), µs",
        Lower,
        1,
    ),
    ("9p-open.1", "Twalk, Tlopen, Tclunk, µs", Lower, 1),
    (
        "9p-create.1",
        "a file made and removed (Twalk, Tlcreate, Tclunk, removal), µs",
        Lower,
        1,
    ),
    (
        "9p-untar.1",
        "a small file untarred (Twalk to Tclunk), µs",
        Lower,
        1,
    ),
    ("9p-mkdir.1", "Tmkdir, removal, µs", Lower, 1),
    ("9p-rename.1", "a rename in a folder, µs", Lower, 1),
    ("9p-read-4k.1", "Tread 4 KiB, µs", Lower, 1),
    ("9p-write-4k.1", "Twrite 4 KiB, µs", Lower, 1),
    ("9p-read-32k.1", "Tread 32 KiB, µs", Lower, 1),
    ("9p-write-32k.1", "Twrite 32 KiB, µs", Lower, 1),
    (
        "9p-read-1m.1",
        "1 MiB by Tread of the agreed size, µs",
        Lower,
        1,
    ),
    (
        "9p-write-1m.1",
        "1 MiB by Twrite of the agreed size, µs",
        Lower,
        1,
    ),
    (
        "9p-asleep-getattr.1",
        "Tgetattr, client asleep meanwhile, µs",
        Lower,
        1,
    ),
    (
        "9p-asleep-read-4k.1",
        "Tread 4 KiB, client asleep meanwhile, µs",
        Lower,
        1,
    ),
    ("9p-readdir", "Treaddir, thousand entries/s", Higher, 0),
    (
        "9p-getattr.16",
        "16 under way: Tgetattr, thousand/s",
        Higher,
        0,
    ),
    (
        "9p-statfs.16",
        "16 under way: Tstatfs, thousand/s",
        Higher,
        0,
    ),
    (
        "9p-setattr.16",
        "16 under way: Tsetattr, thousand/s",
        Higher,
        0,
    ),
    (
        "9p-walk-nothing.16",
        "16 under way: Twalk to nothing, thousand/s",
        Higher,
        0,
    ),
    (
        "9p-read-4k.16",
        "16 under way: Tread 4 KiB, thousand/s",
        Higher,
        0,
    ),
    (
        "9p-write-4k.16",
        "16 under way: Twrite 4 KiB, thousand/s",
        Higher,
        0,
    ),
    (
        "9p-read-32k.16",
        "16 under way: Tread 32 KiB, thousand/s",
        Higher,
        0,
    ),
    (
        "9p-write-32k.16",
        "16 under way: Twrite 32 KiB, thousand/s",
        Higher,
        0,
    ),
    (
        "9p-read-1m.16",
        "16 under way: Tread of the agreed size, 16 MiB in turn, GB/s",
        Higher,
        1,
    ),
    (
        "9p-read-1m.16.near",
        "16 under way: Tread of the agreed size, one MiB again and again, GB/s",
        Higher,
        1,
    ),
    (
        "9p-write-1m.16",
        "16 under way: Twrite of the agreed size, 16 MiB in turn, GB/s",
        Higher,
        1,
    ),
    (
        "9p-write-1m.16.near",
        "16 under way: Twrite of the agreed size, one MiB again and again, GB/s",
        Higher,
        1,
    ),
    (
        "9p-getattr.cpu",
        "daemon CPU, one at a time: Tgetattr, µs",
        Lower,
        1,
    ),
    (
        "9p-stat.cpu",
        "daemon CPU, one at a time: a stat, µs",
        Lower,
        1,
    ),
    (
        "9p-create.cpu",
        "daemon CPU, one at a time: a file made and removed (Twalk, Tlcreate, Tclunk, removal), µs",
        Lower,
        1,
    ),
    (
        "9p-untar.cpu",
        "daemon CPU, one at a time: a small file untarred, µs",
        Lower,
        1,
    ),
    (
        "9p-getattr.16.cpu",
        "daemon CPU, 16 under way: Tgetattr, µs",
        Lower,
        2,
    ),
    (
        "9p-walk-nothing.16.cpu",
        "daemon CPU, 16 under way: Twalk to nothing, µs",
        Lower,
        2,
    ),
    (
        "9p-read-4k.16.cpu",
        "daemon CPU, 16 under way: Tread 4 KiB, µs",
        Lower,
        2,
    ),
    (
        "9p-write-4k.16.cpu",
        "daemon CPU, 16 under way: Twrite 4 KiB, µs",
        Lower,
        2,
    ),
    (
        "9p-read-1m.16.cpu",
        "daemon CPU, 16 under way: Tread of the agreed size, 16 MiB in turn, s/GB",
        Lower,
        2,
    ),
    (
        "9p-read-1m.16.near.cpu",
        "daemon CPU, 16 under way: Tread of the agreed size, one MiB again and again, s/GB",
        Lower,
        2,
    ),
    (
        "9p-write-1m.16.cpu",
        "daemon CPU, 16 under way: Twrite of the agreed size, 16 MiB in turn, s/GB",
        Lower,
        2,
    ),
    (
        "9p-write-1m.16.near.cpu",
        "daemon CPU, 16 under way: Twrite of the agreed size, one MiB again and again, s/GB",
        Lower,
        2,
    ),
    ("guest-create", "files made/s", Higher, 0),
    (
        "guest-stat",
        "files looked at by lstat(2), nothing cached, files/s",
        Higher,
        0,
    ),
    ("guest-untar", "tar x of small files, files/s", Higher, 0),
    ("guest-ls", "ls -lR, nothing cached, files/s", Higher, 0),
    (
        "guest-git",
        "git status, nothing cached, files/s",
        Higher,
        0,
    ),
    ("guest-rm", "rm -r, files/s", Higher, 0),
    ("guest-write", "write 1 MiB, direct, MiB/s", Higher, 1),
    ("guest-read", "read 1 MiB, direct, MiB/s", Higher, 1),
];

impl Row {
    /// The row of a key; None for one that the table does not show.
    pub(super) fn of(key: &str) -> Option<Self> {
        ROWS.iter().position(|(known, ..)| *known == key).map(Self)
    }

    fn line(self) -> (&'static str, Better, usize) {
        ROWS.get(self.0)
            .map_or(("", Lower, 0), |(_, title, better, decimals)| {
                (title, *better, *decimals)
            })
    }
}

impl Line for Row {
    fn all() -> impl Iterator<Item = Self> {
        (0..ROWS.len()).map(Self)
    }

    fn title(self) -> &'static str {
        self.line().0
    }

    fn better(self) -> Better {
        self.line().1
    }

    fn decimals(self) -> usize {
        self.line().2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_one_row_and_titles_differ() {
        for row in Row::all() {
            assert_eq!(Row::of(ROWS[row.0].0), Some(row));
        }
        let mut titles: Vec<_> = Row::all().map(Line::title).collect();
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.len(), ROWS.len());
        assert_eq!(Row::of("no such key"), None);
    }
}
