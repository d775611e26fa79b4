//! Rules about single files: headers, length, white space, where `unsafe` may stand, what pure
//! folders may not name.

use super::Finding;
use super::tree::{File, Tree};

/// Above this a file is listed, above that it is refused.
const LONG: usize = 500;
const TOO_LONG: usize = 800;

/// Folders and files whose code decides and does nothing else: no sockets, clock, threads or files.
const PURE: &[&str] = &[
    "netd/src/wire/",
    "netd/src/engine/",
    "sharefs/src/fuse/",
    "sharefs/src/ninep/",
    "sharefs/src/tree/mod.rs",
    "sharefs/src/tree/layer.rs",
    "sharefs/src/tree/places/",
    "sharefs/src/tree/owner_store/",
    "sharefs/src/tree/names/",
    "sharefs/src/tree/case/",
    "hostsync/src/table",
    "hostsync/src/section",
    "control/src/fold.rs",
    "control/src/pattern",
    "control/src/translation/",
    "control/src/windows_names.rs",
    "cli/src/import/",
    "cli/src/commands/compose/model.rs",
];

/// What pure code does not name, outside its tests.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "clock_gettime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "mio::",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "thread::spawn",
    "tokio",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        white_space(file, &mut findings);
        if file.is("rs") {
            rust(file, &mut findings);
        }
    }
    findings
}

/// The files that want splitting soon.
pub(super) fn long_files(tree: &Tree) -> Vec<String> {
    tree.files
        .iter()
        .filter(|file| file.is("rs"))
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LONG)
        .map(|(file, lines)| format!("{} has {lines} lines", file.path))
        .collect()
}

fn white_space(file: &File, findings: &mut Vec<Finding>) {
    let mut report = |line, message: &str| findings.push(finding(file, line, message));
    for (number, line) in numbered(&file.text) {
        if line.contains('\t') {
            report(number, "a tab; use spaces");
        }
        if line.ends_with([' ', '\r']) {
            report(number, "white space at the end of the line");
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        report(0, "no newline at the end of the file");
    }
}

fn rust(file: &File, findings: &mut Vec<Finding>) {
    let mut report = |line, message: String| findings.push(finding(file, line, &message));
    if !file.text.starts_with("//!") {
        report(
            1,
            "the file does not open with //! and what it is for".to_owned(),
        );
    }
    let lines = file.text.lines().count();
    if lines > TOO_LONG {
        report(0, format!("{lines} lines; split at {TOO_LONG}"));
    }
    let may_be_unsafe = file
        .path
        .split('/')
        .any(|part| part == "sys" || part == "sys.rs");
    let is_pure = PURE.iter().any(|prefix| file.path.starts_with(prefix))
        && !file.path.ends_with("tests.rs")
        && !file.path.contains("/tests/");
    let mut in_tests = false;
    for (number, line) in numbered(&file.text) {
        let code = code_of(line);
        in_tests |= code.trim() == "#[cfg(test)]";
        if !may_be_unsafe && names_unsafe(code) {
            report(number, "unsafe outside sys.rs".to_owned());
        }
        if code.trim_start().starts_with(concat!("#[", "ignore]")) {
            report(
                number,
                "an ignored test without a reason: #[ignore = \"why\"]".to_owned(),
            );
        }
        if is_pure && !in_tests {
            for word in IMPURE.iter().filter(|word| code.contains(*word)) {
                report(
                    number,
                    format!("{word} in a pure folder; pass it in as an argument"),
                );
            }
        }
    }
}

fn names_unsafe(code: &str) -> bool {
    let code = without_strings(code);
    let lifts_the_lint = code.contains("allow(unsafe_code") || code.contains("expect(unsafe_code");
    let words = ["{", "fn", "impl", "extern", "trait"];
    lifts_the_lint
        || words
            .iter()
            .any(|next| code.contains(&format!("unsafe {next}")))
}

/// The line without its comment. A `//` inside a string cuts too much, which only hides.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The line without what stands between double quotes.
fn without_strings(code: &str) -> String {
    code.split('"').step_by(2).collect()
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.split('\n'))
}

fn finding(file: &File, line: usize, message: &str) -> Finding {
    Finding {
        file: file.path.clone(),
        line,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)]))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_good_file_has_no_findings() {
        assert!(
            found(
                "netd/src/wire/mod.rs",
                "//! Wire.\nuse std::net::Ipv4Addr;\n"
            )
            .is_empty()
        );
    }

    #[test]
    fn each_broken_rule_is_found_at_its_line() {
        for (path, text, expected) in [
            ("a/b.rs", "fn x() {}\n", "a/b.rs:1: the file does not open"),
            ("a/b.rs", "//! B.\n\tx\n", "a/b.rs:2: a tab"),
            ("a/b.rs", "//! B. \n", "a/b.rs:1: white space"),
            ("a/b.md", "# B", "a/b.md: no newline"),
            (
                "a/b.rs",
                "//! B.\nlet x = unsafe { y };\n",
                "a/b.rs:2: unsafe",
            ),
            (
                "a/b.rs",
                concat!("//! B.\n#[", "ignore]\n"),
                "a/b.rs:2: an ignored",
            ),
            (
                "netd/src/engine/x.rs",
                "//! X.\nlet now = Instant::now();\n",
                "netd/src/engine/x.rs:2: Instant::now",
            ),
        ] {
            let findings = found(path, text);
            assert!(
                findings.len() == 1 && findings[0].starts_with(expected),
                "{expected}: {findings:?}"
            );
        }
    }

    #[test]
    fn comments_strings_tests_and_sys_are_left_alone() {
        for (path, text) in [
            ("a/b.rs", "//! B: unsafe { } is not for here.\n"),
            ("a/b.rs", "//! B.\nlet x = \"unsafe {\";\n"),
            ("a/sys.rs", "//! B.\nlet x = unsafe { y };\n"),
            (
                "netd/src/wire/x.rs",
                "//! X.\n#[cfg(test)]\nmod tests { use std::fs; }\n",
            ),
            ("netd/src/io/x.rs", "//! X.\nuse std::fs;\n"),
        ] {
            assert!(found(path, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn length_is_listed_then_refused() {
        let long = format!("//! Long.\n{}", "\n".repeat(LONG));
        assert!(found("a/b.rs", &long).is_empty());
        assert_eq!(long_files(&Tree::of(&[("a/b.rs", &long)])).len(), 1);
        let too_long = format!("//! Long.\n{}", "\n".repeat(TOO_LONG));
        assert_eq!(found("a/b.rs", &too_long).len(), 1);
    }
}
