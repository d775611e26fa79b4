//! The kernel's table of mounts, proc_pid_mountinfo(5): which folder shows what.
//!
//! Reads the text; the file itself is opened by whoever asks. A line that is none is left out
//! and counted, the rest is read all the same.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number, unique while it is mounted.
    pub id: u32,
    /// The mount that it lies on.
    pub parent: u32,
    /// The folder inside the file system that is shown: `/`, but for bind mounts.
    pub root: PathBuf,
    /// Where it is shown.
    pub point: PathBuf,
    /// `9p`, `ext4`, ...
    pub kind: OsString,
    /// What is mounted; may be empty.
    pub source: OsString,
    /// Options of the file system, still escaped.
    pub options: Vec<u8>,
}

/// All mounts, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountTable {
    /// As they were made, the later above the earlier.
    pub mounts: Vec<Mount>,
    /// Lines that could not be read.
    pub skipped: usize,
}

/// A host may have some thousand mounts; a hundred thousand lines are no table of a machine.
const MOST_MOUNTS: usize = 100_000;

impl MountTable {
    /// Reads the text of a mountinfo file.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut table = Self::default();
        for line in text.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            match Mount::parse(line).filter(|_| table.mounts.len() < MOST_MOUNTS) {
                Some(mount) => table.mounts.push(mount),
                None => table.skipped += 1,
            }
        }
        table
    }

    /// The mount that shows `path`, an absolute path without `..`: the last one at or above it.
    #[must_use]
    pub fn shows(&self, path: &Path) -> Option<&Mount> {
        let mut above = self.mounts.iter().rev();
        above.find(|mount| path.starts_with(&mount.point))
    }

    /// Whether a folder of Windows is among them.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        self.mounts
            .iter()
            .any(|mount| mount.windows_source().is_some())
    }

    /// Whether the mount can be reached at its own place, and nothing mounted later hides it.
    #[must_use]
    pub fn is_seen(&self, mount: &Mount) -> bool {
        self.shows(&mount.point)
            .is_some_and(|shown| std::ptr::eq(shown, mount))
    }
}

impl Mount {
    /// `36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/root rw,errors=continue`
    fn parse(line: &[u8]) -> Option<Self> {
        // By single spaces: an empty source has nothing between two of them.
        let mut fields = line.split(|byte| *byte == b' ');
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let _device = fields.next()?;
        let root = path(fields.next()?)?;
        let point = path(fields.next()?).filter(|point| point.is_absolute())?;
        let _mount_options = fields.next()?;
        // Any number of optional fields, up to a lone hyphen.
        fields.find(|field| *field == b"-")?;
        let kind = OsString::from_vec(unescape(fields.next().filter(|kind| !kind.is_empty())?));
        let source = OsString::from_vec(unescape(fields.next()?));
        let options = fields.next().unwrap_or_default().to_vec();
        Some(Self {
            id,
            parent,
            root,
            point,
            kind,
            source,
            options,
        })
    }

    /// The Windows folder that this mount shows, as `C:\` or `\\server\share\folder`; none where it is not a mount of
    /// WSL's drvfs. Names below the source are still as Linux has them.
    #[must_use]
    pub fn windows_source(&self) -> Option<String> {
        let source = match self.kind.as_bytes() {
            // WSL 1.
            b"drvfs" => self.source.to_str()?.to_owned(),
            // WSL 2 carries Windows' folders by 9P; the server is told which in the name to attach.
            b"9p" => String::from_utf8(attached_folder(&self.options)?).ok()?,
            _another_file_system => return None,
        };
        let source = source.replace('/', r"\");
        let source = match source.strip_prefix(r"UNC\") {
            Some(share) => format!(r"\\{share}"),
            None => source,
        };
        Some(source).filter(|source| !source.is_empty())
    }
}

/// `path=` out of `aname=drvfs;path=C:\;uid=1000;symlinkroot=/mnt/`.
fn attached_folder(options: &[u8]) -> Option<Vec<u8>> {
    let mut options = options.split(|byte| *byte == b',');
    let name = options.find_map(|option| option.strip_prefix(b"aname="))?;
    let name = unescape(name);
    let mut words = name.split(|byte| *byte == b';');
    if words.next() != Some(b"drvfs") {
        return None;
    }
    words
        .find_map(|word| word.strip_prefix(b"path="))
        .map(<[u8]>::to_vec)
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> Option<PathBuf> {
    let bytes = unescape(field);
    let path = Path::new(OsStr::from_bytes(&bytes));
    (!bytes.is_empty()).then(|| path.to_owned())
}

/// `\040` and the like as the bytes they stand for. What is no such escape stays: kernels before 4.3 did not
/// escape the options of 9P.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| matches!(d, b'0'..=b'7')))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> Mount {
        let table = MountTable::parse(line.as_bytes());
        assert_eq!((table.mounts.len(), table.skipped), (1, 0), "{line}");
        table.mounts.into_iter().next().unwrap()
    }

    #[test]
    fn fields_are_unescaped_and_optional_ones_left_out() {
        let mount = one(
            r"36 35 98:0 /a\040b /mnt/c\134d rw,noatime master:1 propagate_from:2 - ext3 /dev/my\040root rw,x=y",
        );
        assert_eq!((mount.id, mount.parent), (36, 35));
        assert_eq!(mount.root, Path::new("/a b"));
        assert_eq!(mount.point, Path::new(r"/mnt/c\d"));
        assert_eq!(mount.kind, "ext3");
        assert_eq!(mount.source, "/dev/my root");
        assert_eq!(mount.options, b"rw,x=y");
    }

    #[test]
    fn an_empty_source_does_not_move_the_fields() {
        let mount = one("36 35 0:40 / /run rw - tmpfs  rw,size=1k");
        assert_eq!((mount.kind, mount.source), ("tmpfs".into(), "".into()));
        assert_eq!(mount.options, b"rw,size=1k");
    }

    #[test]
    fn only_drvfs_has_a_windows_source() {
        for (kind, source, options, expected) in [
            (
                "9p",
                r"C:\134",
                r"rw,aname=drvfs;path=C:\134;uid=1000,trans=fd",
                Some(r"C:\"),
            ),
            (
                "9p",
                r"drvfs",
                r"rw,aname=drvfs;path=D:\;uid=0",
                Some(r"D:\"),
            ),
            (
                "9p",
                "drvfs",
                r"rw,aname=drvfs;path=UNC\134srv\134sh\040are;uid=0",
                Some(r"\\srv\sh are"),
            ),
            ("9p", "drvfs", r"rw,aname=drvfs;uid=0;path=C:", Some("C:")),
            ("drvfs", r"C:\134", "rw", Some(r"C:\")),
            ("drvfs", "C:/x", "rw", Some(r"C:\x")),
            ("9p", "drivers", "rw,aname=drivers;path=C:\\134;", None),
            ("9p", "x", "rw,not-aname=drvfs;path=C:\\134;", None),
            ("9p", "x", "rw,aname=drvfsx;path=C:\\134;", None),
            ("9p", "x", "rw,aname=drvfs;notpath=C:\\134", None),
            ("9p", "x", "rw,aname=drvfs;path=", None),
            ("ext4", r"C:\134", "rw,aname=drvfs;path=C:\\134;", None),
        ] {
            let mount = one(&format!("1 0 0:1 / /mnt/c rw - {kind} {source} {options}"));
            assert_eq!(
                mount.windows_source().as_deref(),
                expected,
                "{kind} {options}"
            );
        }
    }

    #[test]
    fn a_later_mount_hides_what_lies_below() {
        let table = MountTable::parse(
            b"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / /mnt/c rw - 9p c rw\n3 1 0:3 / /mnt rw - tmpfs t rw\n",
        );
        let shown = table.shows(Path::new("/mnt/c/x")).unwrap();
        assert_eq!(shown.id, 3);
        assert!(!table.is_seen(&table.mounts[1]));
        assert!(table.is_seen(&table.mounts[2]));
        // A name that only begins alike is another one.
        assert_eq!(table.shows(Path::new("/mnt2")).unwrap().id, 1);
    }

    #[test]
    fn bad_lines_are_counted_and_the_rest_is_read() {
        let table = MountTable::parse(
            b"\nnonsense\n1 0 0:1 / / rw ext4 /dev/a rw\nx 0 0:1 / / rw - a b c\n1 0 0:1 / rel rw - a b c\n1 0 0:1 / / rw -\n7 0 0:1 / / rw - a b\n",
        );
        assert_eq!((table.mounts.len(), table.skipped), (1, 5));
        assert_eq!(table.mounts[0].id, 7);
    }

    #[test]
    fn this_machines_own_table_reads_whole() {
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        let table = MountTable::parse(&text);
        assert_eq!(table.skipped, 0);
        assert!(table.shows(Path::new("/proc/self")).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
            let table = MountTable::parse(&text);
            prop_assert_eq!(table.mounts.len() + table.skipped, lines);
        }

        #[test]
        fn any_options_are_read(options in "(aname=drvfs|;path=|[\\\\0-7,;=a]){0,12}") {
            let line = format!("1 0 0:1 / /mnt/c rw - 9p s {options}");
            for mount in MountTable::parse(line.as_bytes()).mounts {
                prop_assert!(mount.windows_source() != Some(String::new()));
            }
        }
    }
}
