//! Every path that docs and READMEs name is there: prose must not outlive what it describes.
//!
//! Looked at: links, and `code` that looks like a path whose first folder is ours. `{a,b}` stands for
//! several paths. Paths of a user's machine (`/mnt/d`, `~/src`) are not ours.

use super::Finding;
use super::tree::{File, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.is("md")) {
        let mut fenced = false;
        for (number, line) in (1..).zip(file.text.lines()) {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if !fenced {
                findings.extend(missing(tree, file, line).map(|message| Finding {
                    file: file.path.clone(),
                    line: number,
                    message,
                }));
            }
        }
    }
    findings
}

fn missing<'a>(tree: &'a Tree, file: &'a File, line: &'a str) -> impl Iterator<Item = String> + 'a {
    let links = links(line)
        .filter(|target| !target.contains(':') && !target.starts_with('#'))
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(move |target| !tree.has(&normal(file.folder(), target)))
        .map(|target| format!("link to {target}, which is not there"));
    let spans = line
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|span| is_path(span))
        .flat_map(expanded)
        .filter(move |path| is_ours_and_missing(tree, file, path))
        .map(|path| format!("names {path}, which is not there"));
    links.chain(spans)
}

fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split(' ').next().unwrap_or_default())
        .filter(|target| !target.is_empty())
}

fn is_path(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/{},".contains(c);
    span.contains('/') && !span.starts_with('/') && span.chars().all(plain)
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn expanded(path: &str) -> Vec<String> {
    if let Some((before, rest)) = path.split_once('{')
        && let Some((choices, after)) = rest.split_once('}')
    {
        return choices
            .split(',')
            .flat_map(|choice| expanded(&format!("{before}{choice}{after}")))
            .collect();
    }
    vec![path.to_owned()]
}

/// A path is ours when its first part is a folder here, or in the workspace.
fn is_ours_and_missing(tree: &Tree, file: &File, path: &str) -> bool {
    let first = path.split('/').next().unwrap_or_default();
    let bases = ["", file.folder()];
    let is_ours = bases.iter().any(|base| tree.has(&normal(base, first)));
    is_ours && !bases.iter().any(|base| tree.has(&normal(base, path)))
}

/// The path from the workspace, without `.` and `..`.
fn normal(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let rooted = path.strip_prefix('/');
    let base = if rooted.is_some() { "" } else { base };
    for part in base.split('/').chain(rooted.unwrap_or(path).split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let tree = Tree::of(&[("netd/src/wire/dhcp.rs", "//! D.\n"), ("docs/a.md", text)]);
        check(&tree)
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn what_is_there_may_be_named() {
        assert!(found("see `netd/src/wire/` and [d](../netd/src/wire/dhcp.rs#top)\n").is_empty());
        assert!(
            found("`/mnt/d`, `~/src`, `application/json`, [x](https://example.org/)\n").is_empty()
        );
    }

    #[test]
    fn what_is_not_there_is_found() {
        assert_eq!(
            found("`netd/src/{wire,gone}` and [b](b.md)\n"),
            [
                "link to b.md, which is not there",
                "names netd/src/gone, which is not there"
            ]
        );
    }

    #[test]
    fn fenced_examples_are_left_alone() {
        assert!(found("```\n`netd/gone`\n```\n").is_empty());
    }
}
