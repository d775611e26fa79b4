//! Names as a Windows file system can hold them, and back.
//!
//! What Windows refuses is written with the character U+F000 higher, as WSL, Cygwin and Samba's users know
//! it: `< > : " | ? * \`, 1 to 31, the dots and spaces at the end (Windows drops them without a word), and
//! the first letter of what Windows takes for a device: CON, PRN, AUX, NUL, COM1 to COM9, LPT1 to LPT9
//! (also with ¹ ² ³), CONIN$ and CONOUT$, with or without more behind a dot. Read first: "Naming Files,
//! Paths, and Namespaces" of Microsoft's documentation.
//!
//! One to one: a guest's name that already has such a character is refused, a host's name that this would
//! not have written is not shown. U+F02F, which would be `/`, is among these.

use std::borrow::Cow;

/// Where the characters lie that stand for others.
const PRIVATE: u32 = 0xf000;
/// The last character that could stand for one of ASCII.
const LAST: u32 = PRIVATE + 0x7f;

const FORBIDDEN: &str = "<>:\"|?*\\";
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];
/// With a digit behind.
const PORTS: [&str; 2] = ["COM", "LPT"];
const PORT_DIGITS: &str = "123456789¹²³";

/// The host's name for a guest's. None: it cannot be there.
#[must_use]
pub fn to_host(guest: &[u8]) -> Option<Cow<'_, str>> {
    let name = std::str::from_utf8(guest).ok()?;
    if name.chars().any(is_private) {
        return None;
    }
    let kept = name.trim_end_matches(['.', ' ']).len();
    let device = is_device(name);
    let is_written_otherwise =
        |(index, c): (usize, char)| is_forbidden(c) || index >= kept || (device && index == 0);
    if !name.char_indices().any(is_written_otherwise) {
        return Some(Cow::Borrowed(name));
    }
    let written = |(index, c): (usize, char)| {
        if is_written_otherwise((index, c)) {
            char::from_u32(PRIVATE + u32::from(c)).unwrap_or(c)
        } else {
            c
        }
    };
    Some(Cow::Owned(name.char_indices().map(written).collect()))
}

/// The guest's name for a host's. None: it is not one that a guest can have.
#[must_use]
pub fn to_guest(host: &[u8]) -> Option<Cow<'_, str>> {
    let name = std::str::from_utf8(host).ok()?;
    let guest: Cow<'_, str> = if name.chars().any(is_private) {
        let meant = |c: char| {
            let stands_for = u32::from(c).checked_sub(PRIVATE).filter(|_| is_private(c));
            stands_for.and_then(char::from_u32).unwrap_or(c)
        };
        Cow::Owned(name.chars().map(meant).collect())
    } else {
        Cow::Borrowed(name)
    };
    let is_ours = to_host(guest.as_bytes()).as_deref() == Some(name);
    is_ours.then_some(guest)
}

/// A Linux name as WSL shows it to Windows. Less than [`to_host`]: WSL leaves devices and what is at the end as they are.
#[must_use]
pub fn wsl_to_windows(name: &str) -> Cow<'_, str> {
    if !name.contains(is_forbidden) {
        return Cow::Borrowed(name);
    }
    let written = |c: char| match is_forbidden(c) {
        true => char::from_u32(PRIVATE + u32::from(c)).unwrap_or(c),
        false => c,
    };
    Cow::Owned(name.chars().map(written).collect())
}

/// The other way round. U+F02F stays: a `/` out of it would be a way into another folder.
#[must_use]
pub fn windows_to_wsl(name: &str) -> Cow<'_, str> {
    let meant = |c: char| {
        let stands_for = u32::from(c).checked_sub(PRIVATE).and_then(char::from_u32);
        stands_for.filter(|meant| is_forbidden(*meant)).unwrap_or(c)
    };
    if name.chars().all(|c| meant(c) == c) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.chars().map(meant).collect())
}

fn is_private(c: char) -> bool {
    (PRIVATE..=LAST).contains(&u32::from(c))
}

fn is_forbidden(c: char) -> bool {
    ('\u{1}'..='\u{1f}').contains(&c) || FORBIDDEN.contains(c)
}

/// Whether Windows would open a device under this name.
fn is_device(name: &str) -> bool {
    let base = name.split(['.', ':']).next().unwrap_or_default();
    let base = base.trim_end_matches(' ');
    let is = |word: &&str| base.eq_ignore_ascii_case(word);
    if DEVICES.iter().any(is) {
        return true;
    }
    let mut letters = base.chars();
    let digit = letters.next_back();
    let port = letters.as_str();
    digit.is_some_and(|digit| PORT_DIGITS.contains(digit))
        && PORTS.iter().any(|word| port.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_written_as_windows_can_hold_them() {
        for (guest, host) in [
            ("plain.txt", "plain.txt"),
            ("Grüße 日本", "Grüße 日本"),
            ("12:30", "12\u{f03a}30"),
            (
                "a<b>c\"d|e?f*g\\h",
                "a\u{f03c}b\u{f03e}c\u{f022}d\u{f07c}e\u{f03f}f\u{f02a}g\u{f05c}h",
            ),
            ("tab\there\u{1f}", "tab\u{f009}here\u{f01f}"),
            ("dot.", "dot\u{f02e}"),
            ("space ", "space\u{f020}"),
            ("both. .", "both\u{f02e}\u{f020}\u{f02e}"),
            ("...", "\u{f02e}\u{f02e}\u{f02e}"),
            (".hidden", ".hidden"),
            ("a. b", "a. b"),
            ("nul", "\u{f06e}ul"),
            ("CON", "\u{f043}ON"),
            ("Aux.tar.gz", "\u{f041}ux.tar.gz"),
            ("com1", "\u{f063}om1"),
            ("LPT9.x", "\u{f04c}PT9.x"),
            ("COM²", "\u{f043}OM²"),
            ("prn .txt", "\u{f070}rn .txt"),
            ("con:", "\u{f063}on\u{f03a}"),
            ("conin$", "\u{f063}onin$"),
            ("com0", "com0"),
            ("com", "com"),
            ("com10", "com10"),
            ("console", "console"),
            ("nul-", "nul-"),
            ("xnul", "xnul"),
            ("\u{7f}", "\u{7f}"),
        ] {
            assert_eq!(
                to_host(guest.as_bytes()).as_deref(),
                Some(host),
                "{guest:?}"
            );
            assert_eq!(
                to_guest(host.as_bytes()).as_deref(),
                Some(guest),
                "{host:?}"
            );
        }
    }

    #[test]
    fn wsls_own_escapes_are_fewer() {
        for (linux, windows) in [
            ("a:b", "a\u{f03a}b"),
            (
                "\u{1}\"*<>?|\\",
                "\u{f001}\u{f022}\u{f02a}\u{f03c}\u{f03e}\u{f03f}\u{f07c}\u{f05c}",
            ),
            ("nul", "nul"),
            ("dot.", "dot."),
        ] {
            assert_eq!(wsl_to_windows(linux), windows);
            assert_eq!(windows_to_wsl(windows), linux);
        }
        for kept in ["\u{f02f}", "\u{f000}", "\u{f041}", "\u{f100}"] {
            assert_eq!(windows_to_wsl(kept), kept);
        }
    }

    #[test]
    fn what_has_no_counterpart_is_not_there() {
        for guest in [
            &b"\xff"[..],
            "a\u{f03a}b".as_bytes(),
            "\u{f02f}".as_bytes(),
            "\u{f000}".as_bytes(),
        ] {
            assert_eq!(to_host(guest), None, "{}", guest.escape_ascii());
        }
        for host in [
            "a:b",
            "dot.",
            "nul",
            "a\u{f02f}b",
            "\u{f000}",
            "a\u{f041}",
            "\u{f02e}a",
            "\u{f06e}",
        ] {
            assert_eq!(to_guest(host.as_bytes()), None, "{host:?}");
        }
        assert_eq!(to_guest(b"\xff"), None);
        // Private characters that stand for nothing are letters as any other.
        assert_eq!(to_host("\u{f100}".as_bytes()).as_deref(), Some("\u{f100}"));
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-cNUL:. \\\\\u{1}\u{f02e}\u{f03a}\u{f04e}]{1,8}",
            "(?i)(con|nul|com[0-9¹]|lpt1|aux)[ .:x]{0,3}",
            "\\PC{1,20}",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

        #[test]
        fn guest_to_host_to_guest_is_the_same(guest in name()) {
            if let Some(host) = to_host(guest.as_bytes()) {
                prop_assert!(!host.chars().any(is_forbidden) && !host.ends_with(['.', ' ']) && !is_device(&host));
                prop_assert_eq!(to_guest(host.as_bytes()), Some(Cow::Borrowed(&*guest)));
            } else {
                prop_assert!(guest.chars().any(is_private));
            }
        }

        #[test]
        fn host_to_guest_to_host_is_the_same(host in name()) {
            if let Some(guest) = to_guest(host.as_bytes()) {
                prop_assert_eq!(to_host(guest.as_bytes()), Some(Cow::Borrowed(&*host)));
            }
        }
    }
}
