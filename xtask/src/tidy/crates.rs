//! Which crate may use which: all may use `control`, devices `guestmem`, no daemon uses another, the harness and xtask
//! use no daemon (they drive the real programs).

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;

/// Each crate of ours and those of ours that it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("control", &[]),
    ("guestmem", &[]),
    ("netd", &["control", "guestmem"]),
    ("sharefs", &["control", "guestmem"]),
    ("hostsync", &["control"]),
    ("cli", &["control"]),
    ("tests", &["control"]),
    ("xtask", &["control", "tests"]),
];

pub(super) fn check() -> Result<Vec<Finding>> {
    let mut line = Command::new("cargo");
    line.current_dir(::tests::place::workspace()).args([
        "metadata",
        "--locked",
        "--no-deps",
        "--format-version",
        "1",
    ]);
    let text = ::tests::command::run(&mut line, Duration::from_secs(60))?;
    let metadata = serde_json::from_str(&text).context("read cargo's metadata")?;
    Ok(judge(&metadata))
}

fn judge(metadata: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in list(metadata, "packages") {
        let name = text(package, "name");
        let mut report = |message: String| {
            findings.push(Finding {
                file: format!("{name}/Cargo.toml"),
                line: 0,
                message,
            });
        };
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            report("a new crate: say in xtask/src/tidy/crates.rs what it may use".to_owned());
            continue;
        };
        for dependency in list(package, "dependencies") {
            let used = text(dependency, "name");
            let is_ours = ARROWS.iter().any(|(known, _)| *known == used);
            if is_ours && !allowed.contains(&used) {
                report(format!("{name} may not use {used}"));
            }
        }
    }
    findings
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(name: &str, uses: &str) -> Vec<String> {
        let metadata = serde_json::json!({"packages": [
            {"name": name, "dependencies": [{"name": uses}, {"name": "serde"}]}
        ]});
        judge(&metadata)
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn a_daemon_may_use_control_but_no_other_daemon() {
        assert!(messages("netd", "control").is_empty());
        assert_eq!(messages("netd", "sharefs"), ["netd may not use sharefs"]);
        assert_eq!(messages("tests", "netd"), ["tests may not use netd"]);
    }

    #[test]
    fn a_crate_nobody_thought_about_is_found() {
        assert!(messages("proxy", "control")[0].contains("a new crate"));
    }
}
