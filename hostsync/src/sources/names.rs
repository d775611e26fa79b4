//! From what machines and containers call themselves to names below a source's suffix. Pure.

use control::config::RecordName;
use control::names::HostName;

/// One label out of a name that somebody chose freely: its first label, in lower case, with
/// hyphens for underscores and spaces (compose and Windows have them). Nothing where that leaves
/// characters that no host name has.
#[must_use]
pub fn label(text: &str) -> Option<HostName> {
    let first = text.trim().split('.').next()?;
    let plain: String = first
        .chars()
        .map(|c| if c == '_' || c == ' ' { '-' } else { c })
        .collect();
    HostName::parse(plain.trim_matches('-')).ok()
}

/// `label.suffix`.
#[must_use]
pub fn below(text: &str, suffix: &HostName) -> Option<HostName> {
    label(text)?.under(suffix).ok()
}

/// A name that was written out for us: as it is where it has several labels, else below the
/// suffix. Whether it may be given is the table's business.
#[must_use]
pub fn written(text: &str, suffix: &HostName) -> Option<RecordName> {
    let name = RecordName::parse(text).ok()?;
    if name.name.as_str().contains('.') {
        return Some(name);
    }
    Some(RecordName {
        name: name.name.under(suffix).ok()?,
        below: name.below,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_call_machines_becomes_a_label_or_nothing() {
        for (text, expected) in [
            ("box", Some("box.test")),
            ("Box.lan", Some("box.test")),
            ("shop_web_1", Some("shop-web-1.test")),
            ("DESKTOP 7", Some("desktop-7.test")),
            ("_x_", Some("x.test")),
            ("ann's", None),
            ("a\nb", None),
            ("127.0.0.1 bank.example", Some("127.test")),
            ("", None),
            ("*", None),
            (".test", None),
        ] {
            let suffix = HostName::parse("test").unwrap();
            let name = below(text, &suffix);
            assert_eq!(name.as_ref().map(HostName::as_str), expected, "{text:?}");
        }
    }

    #[test]
    fn written_names_keep_their_labels_and_stars() {
        let suffix = HostName::parse("local.test").unwrap();
        for (text, expected) in [
            ("shop", Some("shop.local.test")),
            ("*.shop", Some("*.shop.local.test")),
            ("a.b.test", Some("a.b.test")),
            ("*.a.b.test", Some("*.a.b.test")),
            ("*", None),
            ("a b", None),
        ] {
            let name = written(text, &suffix).map(|name| name.to_string());
            assert_eq!(name.as_deref(), expected, "{text:?}");
        }
    }
}
