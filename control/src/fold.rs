//! Names whose case does not matter: one spelling for all of them.
//!
//! Character by character, as Windows' file systems compare: upper case where that is one character,
//! and lower case of that. So `ß` is not `ss`, and an accent that is a character of its own stays one;
//! names are not normalized. What is not UTF-8 is compared as it is, but for ASCII letters.

/// The character that stands for all spellings of `of`.
#[must_use]
pub fn character(of: char) -> char {
    let upper = only(of.to_uppercase()).unwrap_or(of);
    only(upper.to_lowercase()).unwrap_or(upper)
}

/// The name that stands for all spellings of `of`.
#[must_use]
pub fn name(of: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(of) {
        Ok(text) if !text.is_ascii() => text.chars().map(character).collect::<String>().into(),
        Ok(_) | Err(_) => of.to_ascii_lowercase(),
    }
}

fn only(mut characters: impl Iterator<Item = char>) -> Option<char> {
    let first = characters.next();
    first.filter(|_| characters.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_that_differ_in_case_fold_to_one() {
        for (one, other) in [
            ("README", "readme"),
            ("Straße", "STRAßE"),
            ("ÄÖÜ", "äöü"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
            ("Ǆ", "ǆ"),
            ("ǅ", "ǆ"),
            ("\u{212a}elvin", "kelvin"),
            ("ſ", "S"),
            ("Привет", "ПРИВЕТ"),
        ] {
            assert_eq!(
                name(one.as_bytes()),
                name(other.as_bytes()),
                "{one} {other}"
            );
        }
        for (one, other) in [
            ("straße", "strasse"),
            ("é", "e\u{301}"),
            ("ı", "j"),
            ("İ", "i"),
        ] {
            assert_ne!(
                name(one.as_bytes()),
                name(other.as_bytes()),
                "{one} {other}"
            );
        }
        assert_eq!(name(b"A\xffB"), b"a\xffb");
    }

    #[test]
    fn what_is_folded_folds_to_itself() {
        for of in '\0'..=char::MAX {
            let folded = character(of);
            assert_eq!(character(folded), folded, "{of:?}");
        }
    }
}
