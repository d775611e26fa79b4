//! The licences of everything we link: each must offer a choice we may take.
//!
//! Expressions are SPDX 2.3 annex D, without `WITH` exceptions other than those listed as a whole, and
//! with the old `A/B` for `A OR B`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub(super) fn check() -> Result<Vec<Finding>> {
    let mut line = Command::new("cargo");
    line.current_dir(::tests::place::workspace()).args([
        "metadata",
        "--locked",
        "--format-version",
        "1",
    ]);
    let text = ::tests::command::run(&mut line, Duration::from_secs(300))?;
    let metadata: Value = serde_json::from_str(&text).context("read cargo's metadata")?;
    let packages = metadata
        .get("packages")
        .and_then(Value::as_array)
        .context("no packages in cargo's metadata")?;
    Ok(packages.iter().filter_map(judge).collect())
}

fn judge(package: &Value) -> Option<Finding> {
    let text = |key| package.get(key).and_then(Value::as_str).unwrap_or_default();
    let (name, version, licence) = (text("name"), text("version"), text("license"));
    if may_take(licence) {
        return None;
    }
    Some(Finding {
        file: "Cargo.lock".to_owned(),
        line: 0,
        message: format!("{name} {version} is licensed {licence:?}, which is not on the list"),
    })
}

/// Whether an expression offers a choice whose every part is allowed.
fn may_take(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let mut words: Vec<String> = Vec::new();
    for word in expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .split_whitespace()
    {
        match words.last_mut() {
            // `X WITH Y` is one name.
            Some(last) if word == "WITH" || last.ends_with(" WITH") => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }
    let mut words = words.iter().map(String::as_str).peekable();
    any(&mut words) == Some(true) && words.next().is_none()
}

type Words<'a, I> = std::iter::Peekable<I>;

fn any<'a, I: Iterator<Item = &'a str>>(words: &mut Words<'a, I>) -> Option<bool> {
    let mut result = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        result |= all(words)?;
    }
    Some(result)
}

fn all<'a, I: Iterator<Item = &'a str>>(words: &mut Words<'a, I>) -> Option<bool> {
    let mut result = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        result &= one(words)?;
    }
    Some(result)
}

fn one<'a, I: Iterator<Item = &'a str>>(words: &mut Words<'a, I>) -> Option<bool> {
    if words.next_if_eq(&"(").is_some() {
        let inner = any(words)?;
        return words.next_if_eq(&")").map(|_| inner);
    }
    words.next().map(|name| ALLOWED.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_choice_is_enough_but_every_part_of_it_must_be() {
        for (expression, expected) in [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("Apache-2.0 WITH other-exception", false),
            ("", false),
            ("MIT OR", false),
            ("(MIT", false),
        ] {
            assert_eq!(may_take(expression), expected, "{expression}");
        }
    }
}
