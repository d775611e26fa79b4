//! What pjdfstest's output says.

use anyhow::{Result, bail, ensure};

/// What pjdfstest said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Score {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that cannot be run on this system.
    pub skipped: usize,
    /// Those that failed, by name, with what the suite says of it.
    pub failed: Vec<(String, String)>,
}

/// Reads pjdfstest's output: a line a test, what is to be said of it on indented ones, a summary.
///
/// # Errors
/// When it did not come to its end, or its own count differs.
pub fn score(text: &str) -> Result<Score> {
    let mut score = Score::default();
    let mut of_a_failure = false;
    for line in text.lines() {
        if let Some(reason) = line.strip_prefix('\t') {
            if let Some((_, said)) = score.failed.last_mut().filter(|_| of_a_failure) {
                said.push_str(reason);
            }
            continue;
        }
        if let Some(summary) = line.strip_prefix("Summary: ") {
            let own = format!(
                "{} failed, {} skipped, {} passed,",
                score.failed.len(),
                score.skipped,
                score.passed
            );
            ensure!(summary.starts_with(&own), "{own} read, but {summary}");
            return Ok(score);
        }
        of_a_failure = false;
        match line.rsplit_once(' ') {
            Some((_, "ok")) => score.passed += 1,
            Some((_, "skipped")) => score.skipped += 1,
            Some((name, "FAILED")) => {
                score.failed.push((name.trim().to_owned(), String::new()));
                of_a_failure = true;
            }
            _ => {}
        }
    }
    let end: Vec<&str> = text.lines().rev().take(5).collect();
    bail!("pjdfstest did not come to its end: {end:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
unlink::remove_type::fifo                                                     ok
unlink::enametoolong_path                                                 FAILED
\tcapacity overflow
chown::erofs_named                                                       skipped
\tRemounts (allow_remount) are not allowed in the configuration file

Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total
Error: Some tests have failed
";

    #[test]
    fn a_score_names_what_failed_and_why() {
        let read = score(OUTPUT).unwrap();
        assert_eq!((read.passed, read.skipped), (1, 1));
        let failed = [(
            "unlink::enametoolong_path".to_owned(),
            "capacity overflow".to_owned(),
        )];
        assert_eq!(read.failed, failed);
    }

    #[test]
    fn a_run_that_was_cut_short_or_miscounted_is_no_score() {
        let cut = OUTPUT.split("Summary").next().unwrap();
        assert!(score(cut).is_err());
        assert!(score("").is_err());
        assert!(score(&OUTPUT.replace("1 passed", "2 passed")).is_err());
    }
}
