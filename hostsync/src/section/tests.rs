//! What the managed block may and may not do to a file: tables and properties.

use super::*;
use proptest::prelude::*;

fn names(list: &[(&str, &str)]) -> BTreeMap<HostName, IpAddr> {
    list.iter()
        .map(|(name, address)| (HostName::parse(name).unwrap(), address.parse().unwrap()))
        .collect()
}

fn change(old: &[u8], wanted: &BTreeMap<HostName, IpAddr>, tag: &Tag) -> Vec<u8> {
    edit(old, wanted, tag)
        .unwrap()
        .new
        .unwrap_or_else(|| old.to_vec())
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\n", "\n")
}

#[test]
fn first_name_appends_a_block_and_the_last_one_takes_it_away() {
    let old = b"127.0.0.1\tlocalhost\n";
    let new = change(
        old,
        &names(&[("b.test", "127.64.0.1"), ("a.test", "127.64.0.2")]),
        &Tag::plain(),
    );
    assert_eq!(
        String::from_utf8_lossy(&new),
        "127.0.0.1\tlocalhost\n\
         # BEGIN sharectl\n\
         # Kept by sharectl: a change between these two lines is lost. `sharectl host ls` says where a name comes from.\n\
         127.64.0.1\tb.test\n\
         127.64.0.2\ta.test\n\
         # END sharectl\n"
    );
    assert_eq!(change(&new, &names(&[]), &Tag::plain()), old);
}

#[test]
fn block_stays_where_it_is_when_its_names_change() {
    let old = b"a\n# BEGIN sharectl\n1.1.1.1 gone.test\n# END sharectl\nb\n";
    let new = change(old, &names(&[("x.test", "127.64.0.1")]), &Tag::plain());
    let shown = String::from_utf8(new).unwrap();
    assert!(shown.starts_with("a\n# BEGIN sharectl\n"), "{shown}");
    assert!(
        shown.ends_with("127.64.0.1\tx.test\n# END sharectl\nb\n"),
        "{shown}"
    );
    assert!(!shown.contains("gone.test"), "{shown}");
}

#[test]
fn odd_files_come_back_byte_for_byte() {
    for old in [
        &b""[..],
        b"\xEF\xBB\xBF",
        b"\xEF\xBB\xBF# caf\xE9\r\n10.0.0.1 x\r\n",
        b"no break at the end",
        b"a\r\nno break at the end",
        b"a\nends in a lone carriage return\r",
        b"only a lone carriage return\r",
        b"\n",
        b"\r\n",
        b"\n\n\n",
        b"nul \0 in it\n\0",
        b"\xFF\xFE not UTF-16, there is no NUL",
        b"mixed\r\nbreaks\n",
        b"# BEGIN sharectlish\n# END sharectl two words\n#BEGIN sharectl\n",
        b"# BEGIN sharectl other\n1.2.3.4 q\n# END sharectl other\n",
    ] {
        let wanted = names(&[("x.test", "127.64.0.1"), ("y.test", "::1")]);
        let new = change(old, &wanted, &Tag::plain());
        assert!(new.starts_with(old), "{}", text(&new));
        assert_eq!(
            edit(&new, &wanted, &Tag::plain()).unwrap().new,
            None,
            "{}",
            text(&new)
        );
        assert_eq!(text(&change(&new, &names(&[]), &Tag::plain())), text(old));
    }
}

#[test]
fn crlf_file_gets_a_crlf_block() {
    let new = change(
        b"a\r\nb\r\n",
        &names(&[("x.test", "127.64.0.1")]),
        &Tag::plain(),
    );
    let lone = new
        .windows(2)
        .filter(|pair| pair[1] == b'\n' && pair[0] != b'\r')
        .count();
    assert_eq!(lone, 0, "{}", text(&new));
}

#[test]
fn a_line_appended_after_an_unended_file_keeps_its_own_line() {
    let wanted = names(&[("x.test", "127.64.0.1")]);
    let mut grown = change(b"last line", &wanted, &Tag::plain());
    grown.extend_from_slice(b"10.0.0.1 later.test\n");
    let again = change(&grown, &wanted, &Tag::plain());
    assert_eq!(
        change(&again, &names(&[]), &Tag::plain()),
        b"last line\n10.0.0.1 later.test\n"
    );
    assert_eq!(
        change(&grown, &names(&[]), &Tag::plain()),
        b"last line\n10.0.0.1 later.test\n"
    );
}

#[test]
fn names_on_the_users_own_lines_are_left_to_them() {
    let old = b"127.0.0.1 localhost\n10.0.0.5\tMine.Test. alias # not.this\n#10.0.0.6 also.not\n";
    let wanted = names(&[
        ("mine.test", "127.64.0.1"),
        ("alias", "127.64.0.1"),
        ("not.this", "127.64.0.1"),
        ("also.not", "127.64.0.1"),
    ]);
    let edit = edit(old, &wanted, &Tag::plain()).unwrap();
    let left: Vec<(&str, usize, &str)> = edit
        .left_out
        .iter()
        .map(|one| (one.name.as_str(), one.line, one.address.as_str()))
        .collect();
    assert_eq!(
        left,
        [("alias", 2, "10.0.0.5"), ("mine.test", 2, "10.0.0.5")]
    );
    assert_eq!(
        edit.written,
        names(&[("not.this", "127.64.0.1"), ("also.not", "127.64.0.1")])
    );
}

#[test]
fn line_numbers_count_on_behind_the_block() {
    let wanted = names(&[("x.test", "127.64.0.1"), ("y.test", "127.64.0.1")]);
    let mut file = change(
        b"# one\n",
        &names(&[("x.test", "127.64.0.1")]),
        &Tag::plain(),
    );
    file.extend_from_slice(b"10.0.0.1 y.test\n");
    let left = edit(&file, &wanted, &Tag::plain()).unwrap().left_out;
    assert_eq!(left[0].line, 6, "{}", text(&file));
}

#[test]
fn a_file_with_nothing_but_taken_names_gets_no_block() {
    let edit = edit(
        b"1.2.3.4 x.test\n",
        &names(&[("x.test", "127.64.0.1")]),
        &Tag::plain(),
    )
    .unwrap();
    assert_eq!(edit.new, None);
    assert_eq!(edit.left_out.len(), 1);
}

#[test]
fn damaged_markers_are_refused_with_their_lines() {
    for (old, message) in [
        (
            "a\n# END sharectl\n",
            "line 2 ends a sharectl block that never began",
        ),
        (
            "# END sharectl\nx\n# BEGIN sharectl\n",
            "line 1 ends a sharectl block that never began",
        ),
        (
            "# BEGIN sharectl\nx\n",
            "line 1 begins a sharectl block that never ends",
        ),
        (
            "# BEGIN sharectl",
            "line 1 begins a sharectl block that never ends",
        ),
        (
            "a\n# BEGIN sharectl\n# BEGIN sharectl\n# END sharectl\n",
            "line 3 begins a sharectl block inside the one from line 2",
        ),
        (
            "# BEGIN sharectl\n# END sharectl\n\n# BEGIN sharectl\n# END sharectl\n",
            "two sharectl blocks with the same name: lines 1 and 4",
        ),
        (
            "# BEGIN sharectl a\n# END sharectl b\n",
            "line 2 ends another sharectl block than line 1 began",
        ),
        (
            "\u{FEFF}# BEGIN sharectl other\r\n",
            "line 1 begins a sharectl block that never ends",
        ),
    ] {
        let refusal = edit(old.as_bytes(), &names(&[]), &Tag::plain()).unwrap_err();
        assert_eq!(refusal.to_string(), message, "{old:?}");
        assert!(refusal.hint().contains("line"), "{}", refusal.hint());
    }
    let utf16 = b"\xFF\xFEa\0\n\0";
    assert_eq!(edit(utf16, &names(&[]), &Tag::plain()), Err(Refusal::Utf16));
}

#[test]
fn following_the_hint_of_a_refusal_mends_the_file() {
    let old = b"a\n# BEGIN sharectl\n127.64.0.1\tx.test\nb\n";
    assert_eq!(
        edit(old, &names(&[]), &Tag::plain()).unwrap_err().hint(),
        "remove line 2, and the lines below it that belonged to the block"
    );
    assert_eq!(
        edit(b"a\nb\n", &names(&[]), &Tag::plain()).unwrap().new,
        None
    );
}

#[test]
fn tags_are_plain_words() {
    for good in ["a", "demo-1", "user.1000", "x_y"] {
        assert_eq!(Tag::parse(good).unwrap().to_string(), good);
    }
    for bad in ["", "A", "a b", "a\n", "é", "#", &"a".repeat(33)] {
        Tag::parse(bad).unwrap_err();
    }
}

/// Bytes as hosts files have them, and as they never should.
fn any_file() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b"10.0.0.1 mine.test\n".to_vec()),
        4 => Just(b"127.0.0.1\tlocalhost box\r\n".to_vec()),
        2 => Just(b"# comment\n".to_vec()),
        2 => Just(b"\n".to_vec()),
        2 => Just(b"\r".to_vec()),
        2 => Just(b"\xEF\xBB\xBF".to_vec()),
        1 => Just(b"1.1.1.1 c.test # BEGIN sharectl\n".to_vec()),
        1 => Just(b"# BEGIN sharectl zz\n9.9.9.9 d.test\n# END sharectl zz\n".to_vec()),
        4 => proptest::collection::vec(any::<u8>(), 0..24),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn any_wanted() -> impl Strategy<Value = BTreeMap<HostName, IpAddr>> {
    let name = proptest::sample::select(vec![
        "a.test",
        "b.test",
        "mine.test",
        "c.test",
        "d.test",
        "e.example",
    ]);
    let address = proptest::sample::select(vec!["127.64.0.1", "127.64.9.9", "fd00::1"]);
    proptest::collection::vec((name, address), 0..6).prop_map(|list| names(&list))
}

/// The file without the block of the plain tag, cut by a second, naive reading.
fn outside(file: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut inside = false;
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let bare = line.strip_prefix(markers::BOM).unwrap_or(line);
        if bare.trim_ascii_end() == b"# BEGIN sharectl" {
            inside = true;
            kept.extend_from_slice(&line[..line.len() - bare.len()]);
        }
        if !inside {
            kept.extend_from_slice(line);
        }
        if bare.trim_ascii_end() == b"# END sharectl" {
            inside = false;
        }
    }
    kept
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn adding_then_removing_restores_every_byte(old in any_file(), first in any_wanted(), second in any_wanted()) {
        let Ok(one) = edit(&old, &first, &Tag::plain()) else { return Ok(()) };
        let one = one.new.unwrap_or_else(|| old.clone());
        let two = change(&one, &second, &Tag::plain());
        prop_assert_eq!(text(&change(&two, &names(&[]), &Tag::plain())), text(&old));
    }

    #[test]
    fn twice_is_once(old in any_file(), wanted in any_wanted()) {
        let Ok(first) = edit(&old, &wanted, &Tag::plain()) else { return Ok(()) };
        let new = first.new.unwrap_or_else(|| old.clone());
        let again = edit(&new, &wanted, &Tag::plain()).unwrap();
        prop_assert_eq!(again.new, None);
        prop_assert_eq!(again.written, first.written);
        prop_assert_eq!(again.left_out.len(), first.left_out.len());
    }

    #[test]
    fn not_a_byte_outside_the_block_changes(
        old in any_file(), tail in any_file(), first in any_wanted(), second in any_wanted(),
    ) {
        let Ok(one) = edit(&old, &first, &Tag::plain()) else { return Ok(()) };
        let mut file = one.new.unwrap_or(old);
        file.extend_from_slice(&tail);
        let Ok(two) = edit(&file, &second, &Tag::plain()) else { return Ok(()) };
        if let Some(new) = &two.new {
            let (before, after) = (outside(&file), outside(new));
            // The break that was added for an unended file goes with the block.
            let same = before == after
                || before == [&after[..], b"\n"].concat()
                || before == [&after[..], b"\r\n"].concat()
                || after == [&before[..], b"\n"].concat()
                || after == [&before[..], b"\r\n"].concat();
            prop_assert!(same, "{}\nbecame\n{}", text(&file), text(new));
        }
        let now = two.new.as_deref().unwrap_or(&file);
        prop_assert_eq!(&present(now, &Tag::plain()), &two.written);
        for name in two.written.keys() {
            prop_assert!(two.left_out.iter().all(|left| left.name != *name));
        }
        prop_assert_eq!(two.written.len() + two.left_out.len(), second.len());
    }

    #[test]
    fn two_tags_never_touch_each_other(old in any_file(), a in any_wanted(), b in any_wanted()) {
        let (first, second) = (Tag::parse("first").unwrap(), Tag::parse("second").unwrap());
        let Ok(one) = edit(&old, &a, &first) else { return Ok(()) };
        let one = one.new.unwrap_or_else(|| old.clone());
        let two = change(&one, &b, &second);
        prop_assert_eq!(text(&change(&two, &names(&[]), &second)), text(&one));
        let without_first = change(&two, &names(&[]), &first);
        let plain_end = change(&without_first, &names(&[]), &second);
        // With the first block gone, at most the break that it had to add is left.
        prop_assert!(plain_end == old || plain_end == [&old[..], b"\n"].concat() || plain_end == [&old[..], b"\r\n"].concat());
    }

    #[test]
    fn any_bytes_are_answered(old in proptest::collection::vec(any::<u8>(), 0..400), wanted in any_wanted()) {
        let _answer = edit(&old, &wanted, &Tag::plain()).is_ok();
    }

    #[test]
    fn cut_and_doubled_markers_never_panic(
        order in proptest::collection::vec(0usize..8, 0..12), wanted in any_wanted(), crlf in any::<bool>(),
    ) {
        let lines = ["# BEGIN sharectl", "# END sharectl", "# BEGIN sharectl zz", "# END sharectl zz", "x", "1.2.3.4 a.test", "", "# BEGIN sharectl "];
        let file = order.iter().map(|index| lines[*index]).collect::<Vec<_>>().join(if crlf { "\r\n" } else { "\n" });
        match edit(file.as_bytes(), &wanted, &Tag::plain()) {
            Ok(edit) => if let Some(new) = edit.new {
                prop_assert!(super::edit(&new, &wanted, &Tag::plain()).unwrap().new.is_none());
            },
            Err(refusal) => prop_assert!(!refusal.hint().is_empty()),
        }
    }
}
