//! What a reader of the built book would stumble over: chapters that the summary forgets, links that lead nowhere.
//! Pure, and quick enough for `cargo xtask tidy`.

use std::collections::{BTreeMap, BTreeSet};

use super::chapter::{Problem, chapter};

/// The table of contents, by mdBook's rule.
const SUMMARY: &str = "SUMMARY.md";

/// The files that a summary names, in its order.
#[must_use]
pub fn chapters(summary: &str) -> Vec<&str> {
    links(summary).map(|(_, target)| target).collect()
}

/// All that is wrong with a book, given as its files' names and texts.
#[must_use]
pub fn problems(files: &BTreeMap<String, String>) -> Vec<(String, Problem)> {
    let mut found = Vec::new();
    let named: BTreeSet<&str> = files
        .get(SUMMARY)
        .map(|text| chapters(text).into_iter().collect())
        .unwrap_or_default();
    for (name, text) in files {
        let at = |line, message| (name.clone(), Problem { line, message });
        if name != SUMMARY && !named.contains(name.as_str()) {
            found.push(at(0, format!("{SUMMARY} does not name it")));
        }
        for (line, target) in links(text).filter(|(_, target)| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { name } else { file };
            match files.get(file) {
                None => found.push(at(
                    line,
                    format!("links to {file}, which is not in the book"),
                )),
                Some(text) if !anchor.is_empty() && !anchors(text).contains(anchor) => {
                    found.push(at(line, format!("{file} has no heading #{anchor}")));
                }
                Some(_) => {}
            }
        }
        let fences = chapter(text).1.into_iter();
        found.extend(fences.map(|problem| (name.clone(), problem)));
    }
    found
}

/// Lines outside of fences, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let border = line.starts_with("```");
        fenced ^= border;
        !fenced && !border
    })
}

fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text).flat_map(|(number, line)| {
        line.split("](")
            .skip(1)
            .filter_map(move |rest| Some((number, rest.split(')').next()?)))
    })
}

/// The names that mdBook gives to headings.
fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| {
            line.trim_start_matches('#')
                .trim()
                .chars()
                .filter_map(|c| match c {
                    ' ' => Some('-'),
                    c if c.is_alphanumeric() || "-_".contains(c) => c.to_lowercase().next(),
                    _ => None,
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)]) -> Vec<String> {
        let files = files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        problems(&files)
            .into_iter()
            .map(|(file, problem)| format!("{file}:{problem}"))
            .collect()
    }

    #[test]
    fn links_and_headings_that_are_there_are_fine() {
        let found = check(&[
            ("SUMMARY.md", "# Summary\n- [A](a.md)\n- [B](b.md)\n"),
            (
                "a.md",
                "# A\n[b](b.md#what-it-is) [x](https://example.org/)\n",
            ),
            ("b.md", "# B\n## What it *is*\n[up](#b)\n"),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn what_leads_nowhere_and_what_nobody_reads_is_found() {
        let found = check(&[
            ("SUMMARY.md", "- [A](a.md)\n- [C](c.md)\n"),
            (
                "a.md",
                "# A\n[b](b.md#nowhere)\n[out](../out.md)\n```\nx\n```\n",
            ),
            ("b.md", "# B\n"),
        ]);
        assert_eq!(found.len(), 5, "{found:#?}");
        for (part, line) in [
            ("SUMMARY.md:line 2: links to c.md", 0),
            ("a.md:line 2: b.md has no heading #nowhere", 1),
            ("a.md:line 3: links to ../out.md", 2),
            ("a.md:line 4: `` does not say", 3),
            ("b.md:line 0: SUMMARY.md does not name it", 4),
        ] {
            assert!(found[line].starts_with(part), "{found:#?}");
        }
    }
}
