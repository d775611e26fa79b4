//! A file's own lines without our blocks: for telling versions of them apart, and bringing one back. Pure.

use std::collections::BTreeMap;

use super::{Refusal, edit, markers, present, tags};

/// What tells versions of a file's own lines apart (FNV-1a, 64 bits). Blocks of ours do not
/// count, so that a file whose names come and go has one version.
#[must_use]
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |line: &[u8]| {
        for byte in line {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    if markers::find(bytes, b"").is_ok() {
        markers::outside(bytes).for_each(&mut take);
    } else {
        // What is ours cannot be told.
        take(bytes);
    }
    hash
}

/// The bytes that `current` becomes when its own lines are to be those of `backup`: our blocks
/// stay as they are now. Where the markers of one are damaged, the backup is taken as it is.
#[must_use]
pub fn restored(current: &[u8], backup: &[u8]) -> Vec<u8> {
    let merged = || -> Result<Vec<u8>, Refusal> {
        let mut bytes = backup.to_vec();
        for tag in tags(backup) {
            bytes = edit(&bytes, &BTreeMap::new(), &tag)?.new.unwrap_or(bytes);
        }
        for tag in tags(current) {
            let names = present(current, &tag);
            bytes = edit(&bytes, &names, &tag)?.new.unwrap_or(bytes);
        }
        Ok(bytes)
    };
    merged().unwrap_or_else(|_| backup.to_vec())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use control::names::HostName;
    use proptest::prelude::*;

    use super::*;
    use crate::section::Tag;

    fn names(text: &[&str]) -> BTreeMap<HostName, IpAddr> {
        let name = |name: &&str| (name.parse().unwrap(), [127, 64, 0, 1].into());
        text.iter().map(name).collect()
    }

    fn with(bytes: &[u8], wanted: &[&str], tag: &Tag) -> Vec<u8> {
        let edit = edit(bytes, &names(wanted), tag).unwrap();
        edit.new.unwrap_or_else(|| bytes.to_vec())
    }

    #[test]
    fn own_lines_come_back_and_blocks_stay() {
        let (plain, other) = (Tag::plain(), Tag::parse("uid-7").unwrap());
        for old in [
            &b"1.2.3.4 mine\n"[..],
            b"\xEF\xBB\xBFa\r\nb",
            b"",
            b"caf\xE9\n\n",
        ] {
            let backup = with(old, &["old.test"], &plain);
            let now = with(b"9.9.9.9 changed\n", &["new.test"], &plain);
            let now = with(&now, &["theirs.test"], &other);
            let result = restored(&now, &backup);
            assert_eq!(present(&result, &plain), names(&["new.test"]));
            assert_eq!(present(&result, &other), names(&["theirs.test"]));
            let bare = with(&with(&result, &[], &other), &[], &plain);
            assert_eq!(
                bare.escape_ascii().to_string(),
                old.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn damaged_files_can_be_restored_too() {
        let result = restored(b"# END sharectl\n# BEGIN sharectl\n", b"mine\n");
        assert_eq!(result, b"mine\n");
    }

    proptest! {
        #[test]
        fn our_blocks_make_no_version(mut old in proptest::collection::vec(any::<u8>(), 0..200), count in 0..5_usize) {
            let wanted: Vec<String> = (0..count).map(|number| format!("n{number}.test")).collect();
            let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            // An end without a break gets one from us; that is a version of its own.
            old.push(b'\n');
            prop_assume!(!markers::is_utf16(&old) && markers::find(&old, b"").is_ok());
            let new = with(&old, &wanted, &Tag::plain());
            prop_assert_eq!(fingerprint(&new), fingerprint(&old));
        }
    }
}
