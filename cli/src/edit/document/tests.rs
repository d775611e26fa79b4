//! Changes as data: a file, a change, and the lines that differ afterwards.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};

use super::*;

const FILE: &str = r#"# The file of ann.

# -- networks --

[network.vmnet8]   # the only one
type = "nat"
subnet = "192.168.130.0/24"

# -- guests --

# The build machine.
[guest.build]
mac = "52:54:00:00:00:01"  # printed on the box
names = [
    "ci.test",      # for the team
    "build.test",   # for me
]

[guest.dev]
publish = ["8080:80"] # web

[hosts]
files = ["auto"]

[hosts.static]
"nas.test" = "192.168.1.5"   # cellar
# the end
"#;

fn check(change: impl FnOnce(&mut DocumentMut), expected: Expect) {
    let mut document: DocumentMut = FILE.parse().unwrap();
    change(&mut document);
    expected.assert_eq(&difference(FILE, &document.to_string()));
}

/// Lines that went and came; everything else is the same and in the same order.
fn difference(before: &str, after: &str) -> String {
    let before: Vec<&str> = before.lines().collect();
    let after: Vec<&str> = after.lines().collect();
    let same_head = before
        .iter()
        .zip(&after)
        .take_while(|(a, b)| a == b)
        .count();
    let rest = before.len().min(after.len()) - same_head;
    let same_tail = before
        .iter()
        .rev()
        .zip(after.iter().rev())
        .take(rest)
        .take_while(|(a, b)| a == b)
        .count();
    let mut text = String::new();
    for line in &before[same_head..before.len() - same_tail] {
        text.push_str(&format!("-{line}\n"));
    }
    for line in &after[same_head..after.len() - same_tail] {
        text.push_str(&format!("+{line}\n"));
    }
    text
}

#[test]
fn new_entry_stands_behind_the_last_of_its_kind() {
    check(
        |document| {
            add_entry(
                document,
                "guest",
                "web",
                vec![("address", "192.168.130.9".into())],
            )
            .unwrap()
        },
        expect![[r#"
            +[guest.web]
            +address = "192.168.130.9"
            +
        "#]],
    );
    check(
        |document| {
            add_entry(
                document,
                "share",
                "d",
                vec![("path", "/mnt/d".into()), ("read-only", true.into())],
            )
            .unwrap()
        },
        expect![[r#"
            +
            +[share.d]
            +path = "/mnt/d"
            +read-only = true
        "#]],
    );
}

#[test]
fn entry_goes_with_its_own_comment_and_no_other() {
    check(
        |document| assert_eq!(remove_entry(document, "guest", "build"), Ok(true)),
        expect![[r#"
            -# The build machine.
            -[guest.build]
            -mac = "52:54:00:00:00:01"  # printed on the box
            -names = [
            -    "ci.test",      # for the team
            -    "build.test",   # for me
            -]
            -
        "#]],
    );
    check(
        |document| assert_eq!(remove_entry(document, "network", "vmnet8"), Ok(true)),
        expect![[r#"
            -[network.vmnet8]   # the only one
            -type = "nat"
            -subnet = "192.168.130.0/24"
            -
        "#]],
    );
    check(
        |document| assert_eq!(remove_entry(document, "guest", "nobody"), Ok(false)),
        expect![""],
    );
    check(
        |document| assert_eq!(remove_entry(document, "share", "d"), Ok(false)),
        expect![""],
    );
}

#[test]
fn lists_grow_in_their_own_layout() {
    check(
        |document| push(document, &["guest", "build"], "names", "new.test").unwrap(),
        expect![[r#"
            +    "new.test",
        "#]],
    );
    check(
        |document| push(document, &["guest", "dev"], "publish", "53:53/udp").unwrap(),
        expect![[r#"
            -publish = ["8080:80"] # web
            +publish = ["8080:80", "53:53/udp"] # web
        "#]],
    );
    check(
        |document| push(document, &["guest", "build"], "publish", "22").unwrap(),
        expect![[r#"
            +publish = ["22"]
        "#]],
    );
}

#[test]
fn lists_shrink_and_keep_the_others_comments() {
    check(
        |document| {
            assert_eq!(
                remove_from_list(document, &["guest", "build"], "names", |name| name
                    == "build.test"),
                Ok(1)
            );
        },
        expect![[r#"
            -    "build.test",   # for me
        "#]],
    );
    check(
        |document| {
            assert_eq!(
                remove_from_list(document, &["guest", "build"], "names", |name| name
                    == "ci.test"),
                Ok(1)
            );
        },
        expect![[r#"
            -    "ci.test",      # for the team
        "#]],
    );
    check(
        |document| {
            assert_eq!(
                remove_from_list(document, &["guest", "dev"], "publish", |spec| spec
                    == "8080:80"),
                Ok(1)
            );
        },
        expect![[r#"
            -publish = ["8080:80"] # web
        "#]],
    );
    check(
        |document| {
            assert_eq!(
                remove_from_list(document, &["guest", "dev"], "names", |_| true),
                Ok(0)
            )
        },
        expect![""],
    );
}

#[test]
fn values_are_set_and_removed_in_place() {
    check(
        |document| set_value(document, &["hosts", "static"], "nas.test", "192.168.1.6").unwrap(),
        expect![[r#"
            -"nas.test" = "192.168.1.5"   # cellar
            +"nas.test" = "192.168.1.6"   # cellar
        "#]],
    );
    check(
        |document| set_value(document, &["hosts", "static"], "tv.test", "192.168.1.7").unwrap(),
        expect![[r#"
            +"tv.test" = "192.168.1.7"
        "#]],
    );
    check(
        |document| {
            assert_eq!(
                remove_value(document, &["hosts", "static"], "nas.test"),
                Ok(true)
            )
        },
        expect![[r#"
            -
            -[hosts.static]
            -"nas.test" = "192.168.1.5"   # cellar
        "#]],
    );
}

#[test]
fn empty_file_begins_without_a_blank_line() {
    let mut document = DocumentMut::new();
    add_entry(&mut document, "guest", "dev", vec![]).unwrap();
    set_value(
        &mut document,
        &["hosts", "static"],
        "nas.test",
        "192.168.1.5",
    )
    .unwrap();
    assert_eq!(
        document.to_string(),
        "[guest.dev]\n\n[hosts.static]\n\"nas.test\" = \"192.168.1.5\"\n"
    );
}

#[test]
fn tables_on_one_line_stay_so() {
    let mut document: DocumentMut = "guest = { dev = { names = [\"a.test\"] } } # all\n"
        .parse()
        .unwrap();
    push(&mut document, &["guest", "dev"], "names", "b.test").unwrap();
    add_entry(
        &mut document,
        "guest",
        "web",
        vec![("mac", "52:54:00:00:00:02".into())],
    )
    .unwrap();
    expect![[r#"
        guest = { dev = { names = ["a.test", "b.test"] } , web = { mac = "52:54:00:00:00:02" } } # all
    "#]]
    .assert_eq(&document.to_string());
    assert_eq!(remove_entry(&mut document, "guest", "web"), Ok(true));
    let mut odd: DocumentMut = "guest = 3\n".parse().unwrap();
    assert_eq!(
        add_entry(&mut odd, "guest", "dev", vec![]),
        Err(NotATable("guest".to_owned()))
    );
}

/// Every value of a document by its full path.
fn leaves(prefix: &str, table: &dyn TableLike, into: &mut BTreeMap<String, String>) {
    for (key, item) in table.iter() {
        let path = format!("{prefix}.{key}");
        match item.as_table_like() {
            Some(inner) => {
                into.insert(path.clone(), "table".to_owned());
                leaves(&path, inner, into);
            }
            None => {
                into.insert(path, item.to_string().trim().to_owned());
            }
        }
    }
}

#[test]
fn adding_and_removing_changes_nothing_else() {
    let values = |document: &DocumentMut| {
        let mut found = BTreeMap::new();
        leaves("", document.as_table(), &mut found);
        found
    };
    let file: DocumentMut = FILE.parse().unwrap();
    for section in ["network", "guest", "share"] {
        for name in ["a", "zz"] {
            let mut document = file.clone();
            add_entry(&mut document, section, name, vec![("path", "/x".into())]).unwrap();
            let written: DocumentMut = document.to_string().parse().unwrap();
            let mut expected = values(&file);
            expected.insert(format!(".{section}"), "table".to_owned());
            expected.insert(format!(".{section}.{name}"), "table".to_owned());
            expected.insert(format!(".{section}.{name}.path"), "\"/x\"".to_owned());
            assert_eq!(values(&written), expected, "{section}.{name}");
            let mut back = written;
            assert_eq!(remove_entry(&mut back, section, name), Ok(true));
            assert_eq!(back.to_string(), FILE, "{section}.{name}");
        }
    }
}
