//! Lists of DNS names as DHCP's options and router advertisements carry them.

use std::collections::BTreeMap;

use control::names::HostName;

use super::dns::encode_name;

/// Each name in full (RFC 8106 section 5.2, RFC 8415 section 10); names that would pass `limit` are left out.
#[must_use]
pub fn plain(names: &[HostName], limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names.iter().map(encode_name) {
        if bytes.len() + name.len() <= limit {
            bytes.extend_from_slice(&name);
        }
    }
    bytes
}

/// Ends that names have in common written once (RFC 3397 section 2, RFC 1035 section 4.1.4); names
/// that would pass `limit` are left out.
#[must_use]
pub fn compressed(names: &[HostName], limit: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut places: BTreeMap<&str, u16> = BTreeMap::new();
    for name in names {
        let mut more = Vec::new();
        let mut found = Vec::new();
        let mut rest = name.as_str();
        loop {
            if let Some(place) = places.get(rest) {
                more.extend_from_slice(&(0xc000 | place).to_be_bytes());
                break;
            }
            let place = u16::try_from(bytes.len() + more.len()).unwrap_or(u16::MAX);
            // A pointer has 14 bits.
            if place < 0x4000 {
                found.push((rest, place));
            }
            let (label, after) = rest.split_once('.').unwrap_or((rest, ""));
            // HostName's labels have 1 to 63 bytes.
            more.push(u8::try_from(label.len()).unwrap_or(0));
            more.extend_from_slice(label.as_bytes());
            if after.is_empty() {
                more.push(0);
                break;
            }
            rest = after;
        }
        if bytes.len() + more.len() <= limit {
            bytes.extend_from_slice(&more);
            places.extend(found);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(texts: &[&str]) -> Vec<HostName> {
        texts.iter().map(|t| HostName::parse(t).unwrap()).collect()
    }

    #[test]
    fn the_example_of_rfc_3397_section_2() {
        let list = names(&["eng.apple.com", "marketing.apple.com"]);
        let expected = b"\x03eng\x05apple\x03com\0\x09marketing\xc0\x04";
        assert_eq!(compressed(&list, 255), expected);
        assert_eq!(plain(&list, 255).len(), 15 + 21);
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_nothing_is_nothing() {
        let list = names(&["a.example", "much-longer.example", "b.example"]);
        assert_eq!(compressed(&list, 15), b"\x01a\x07example\0\x01b\xc0\x02");
        assert_eq!(plain(&list, 12), b"\x01a\x07example\0");
        assert_eq!(compressed(&[], 255), b"");
    }

    /// As a client reads them.
    fn expand(bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        let mut next = 0;
        while next < bytes.len() {
            let (mut at, mut labels, mut end) = (next, Vec::new(), None);
            while bytes[at] != 0 {
                let length = usize::from(bytes[at]);
                if length >= 0xc0 {
                    let place = (length & 0x3f) << 8 | usize::from(bytes[at + 1]);
                    assert!(place < at, "a pointer forwards");
                    end = end.or(Some(at + 2));
                    at = place;
                    continue;
                }
                labels.push(std::str::from_utf8(&bytes[at + 1..at + 1 + length]).unwrap());
                at += 1 + length;
            }
            next = end.unwrap_or(at + 1);
            found.push(labels.join("."));
        }
        found
    }

    proptest! {
        #[test]
        fn a_reader_finds_the_same_names(
            texts in proptest::collection::vec("[a-c]{1,2}(\\.[a-c]{1,2}){0,4}", 0..6),
            limit in 0_usize..80,
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let list = names(&texts);
            let all = |bytes: &[u8]| expand(bytes);
            prop_assert_eq!(all(&compressed(&list, 255)), texts.clone());
            prop_assert_eq!(all(&plain(&list, 255)), texts);
            prop_assert!(compressed(&list, limit).len() <= limit);
        }
    }
}
