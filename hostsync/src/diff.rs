//! What an edit would change, as a unified diff for people. Pure.
//!
//! Only one region of a hosts file ever changes (our block), so there is one hunk:
//! what both have in front and behind is cut off, the middle goes out and comes in.
//! Bytes that are no UTF-8 are shown as U+FFFD; the diff is for reading, not for `patch`.

/// Lines of context around the change.
const CONTEXT: usize = 3;

/// The unified diff from `old` to `new`; empty when they are equal.
#[must_use]
pub fn unified(old: &[u8], new: &[u8], file: &str) -> String {
    if old == new {
        return String::new();
    }
    let (old, new) = (lines(old), lines(new));
    let front = old
        .iter()
        .zip(&new)
        .take_while(|(old, new)| old == new)
        .count();
    let shorter = old.len().min(new.len()) - front;
    let back = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(shorter)
        .take_while(|(old, new)| old == new)
        .count();
    let before = front.saturating_sub(CONTEXT);
    let after = back.min(CONTEXT);
    let (old_end, new_end) = (old.len() - back, new.len() - back);

    let mut out = format!("--- {file}\n+++ {file}\n");
    out.push_str(&format!(
        "@@ -{} +{} @@\n",
        range(before, old_end + after - before),
        range(before, new_end + after - before)
    ));
    let parts = [
        (' ', old.get(before..front)),
        ('-', old.get(front..old_end)),
        ('+', new.get(front..new_end)),
        (' ', old.get(old_end..old_end + after)),
    ];
    for (sign, part) in parts {
        for line in part.unwrap_or_default() {
            out.push(sign);
            out.push_str(&String::from_utf8_lossy(line));
            if !line.ends_with(b"\n") {
                out.push_str("\n\\ No newline at end of file\n");
            }
        }
    }
    out
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

/// `START,COUNT`; an empty range names the line before it.
fn range(before: usize, count: usize) -> String {
    match count {
        0 => format!("{before},0"),
        1 => format!("{}", before + 1),
        _ => format!("{},{count}", before + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &str, new: &str, expected: &str) {
        assert_eq!(unified(old.as_bytes(), new.as_bytes(), "f"), expected);
    }

    #[test]
    fn equal_files_have_no_diff() {
        check("a\n", "a\n", "");
    }

    #[test]
    fn appended_block_shows_three_lines_before_it() {
        check(
            "1\n2\n3\n4\n",
            "1\n2\n3\n4\n5\n6\n",
            "--- f\n+++ f\n@@ -2,3 +2,5 @@\n 2\n 3\n 4\n+5\n+6\n",
        );
    }

    #[test]
    fn a_line_in_the_middle_is_exchanged() {
        check(
            "1\n2\n3\n4\n5\n6\n7\n8\n9\n",
            "1\n2\n3\n4\nX\n6\n7\n8\n9\n",
            "--- f\n+++ f\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+X\n 6\n 7\n 8\n",
        );
    }

    #[test]
    fn first_and_last_bytes_of_a_file() {
        check("", "a\n", "--- f\n+++ f\n@@ -0,0 +1 @@\n+a\n");
        check("a\n", "", "--- f\n+++ f\n@@ -1 +0,0 @@\n-a\n");
        check(
            "a",
            "a\nb\n",
            "--- f\n+++ f\n@@ -1 +1,2 @@\n-a\n\\ No newline at end of file\n+a\n+b\n",
        );
        check("a\na\n", "a\n", "--- f\n+++ f\n@@ -1,2 +1 @@\n a\n-a\n");
    }
}
