//! One name in a folder, checked at the door.
//!
//! It does not know which names a Windows drive refuses; that is a share's option, not a rule of
//! trees. Below this type no code asks again whether a name could climb out of its folder.

use std::ffi::CStr;

use rustix::io::Errno;

/// Longest name in bytes, NAME_MAX of Linux.
pub(crate) const LONGEST_NAME: usize = 255;

/// A name that is not empty, holds no `/` and no NUL, is neither `.` nor `..` and has at most 255
/// bytes. It carries its closing NUL, so system calls take it without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name<'a>(&'a CStr);

impl<'a> Name<'a> {
    /// EINVAL for what can never be a name, ENAMETOOLONG for one that is too long.
    pub(crate) fn new(text: &'a CStr) -> Result<Self, Errno> {
        match text.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > LONGEST_NAME => Err(Errno::NAMETOOLONG),
            _ => Ok(Self(text)),
        }
    }

    pub(crate) fn as_c_str(self) -> &'a CStr {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        let long = std::ffi::CString::new([b'n'; 256]).unwrap();
        let fits = std::ffi::CString::new([b'n'; 255]).unwrap();
        for bad in [
            c"",
            c".",
            c"..",
            c"/",
            c"a/b",
            c"../x",
            c"x/..",
            c"/etc/passwd",
            c"a/",
        ] {
            assert_eq!(Name::new(bad), Err(Errno::INVAL), "{bad:?}");
        }
        assert_eq!(Name::new(&long), Err(Errno::NAMETOOLONG));
        for good in [
            c"a",
            c"...",
            c"..a",
            c" ",
            c"\n",
            c"\xff\xfe",
            c"a b",
            fits.as_c_str(),
        ] {
            assert!(Name::new(good).is_ok(), "{good:?}");
        }
    }
}
