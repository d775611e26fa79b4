//! The kernel's list of mounts, `/proc/self/mountinfo`. Reading it asks no file system.
//!
//! Read first: proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) device: u64,
    pub(crate) path: PathBuf,
    pub(crate) kind: String,
    pub(crate) source: String,
    /// Options of the file system, not of the mount.
    pub(crate) options: String,
}

impl Mounted {
    /// The user who mounted a FUSE file system.
    pub(crate) fn owner(&self) -> Option<u32> {
        self.options
            .split(',')
            .find_map(|option| option.strip_prefix("user_id=")?.parse().ok())
    }
}

/// All mounts that this process sees, later ones over earlier ones.
pub(crate) fn read() -> std::io::Result<Vec<Mounted>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount that is seen at exactly this path.
pub(crate) fn at<'m>(mounts: &'m [Mounted], path: &Path) -> Option<&'m Mounted> {
    mounts.iter().rev().find(|mount| mount.path == path)
}

/// Lines that cannot be read are left out: the kernel writes none.
fn parse(text: &[u8]) -> Vec<Mounted> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// `36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (major, minor) = std::str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
    let path = plain(fields.nth(1)?);
    fields.find(|field| field == b"-")?;
    let text = |field: &[u8]| String::from_utf8_lossy(&plain(field)).into_owned();
    Some(Mounted {
        device: rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?),
        path: OsString::from_vec(path).into(),
        kind: text(fields.next()?),
        source: text(fields.next()?),
        options: text(fields.next().unwrap_or_default()),
    })
}

/// Undoes the kernel's octal escapes: space, tab, newline, backslash.
fn plain(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match digits {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_path_is_the_one_seen_and_escapes_are_undone() {
        let text = b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
            40 22 0:51 / /mnt/my\\040d rw,nosuid shared:5 master:1 - tmpfs none rw\n\
            41 22 0:52 / /mnt/my\\040d rw - fuse.sharectl d rw,user_id=1000,group_id=1000\n\
            not a line\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 3);
        let seen = at(&mounts, Path::new("/mnt/my d")).unwrap();
        assert_eq!((seen.kind.as_str(), seen.source.as_str()), (TYPE, "d"));
        assert_eq!(seen.owner(), Some(1000));
        assert_eq!(seen.device, rustix::fs::makedev(0, 52));
        assert_eq!(at(&mounts, Path::new("/mnt")), None);
        assert_eq!(mounts[0].owner(), None);
    }

    #[test]
    fn any_text_is_read() {
        proptest::proptest!(|(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200))| {
            let _mounts = parse(&text);
        });
    }

    use super::super::TYPE;
}
