//! Checks of the hosts files, as hostsync itself sees them with this user's rights.

use control::api::{HostsFileStatus, HostsMended};

use super::facts::Facts;
use super::finding::{Finding, Subject};
use super::fix::Repair;
use super::ours::writable;
use super::without_config;
use crate::commands::host::{round, round_with};

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    if facts.config.is_err() {
        return without_config("hosts");
    }
    let context = facts.context();
    let files: Vec<HostsFileStatus> = match round(&context, "files") {
        Ok(files) => files,
        Err(error) => {
            let fix = error.hint.clone().unwrap_or_default();
            return vec![Finding::about("hosts", "hosts files").warns(error.to_string(), fix)];
        }
    };
    // A file that cannot be read at all is told by the list above.
    let damaged: Vec<HostsMended> =
        round_with(&context, &["repair", "--dry-run"]).unwrap_or_default();
    let judged = files.iter().map(|file| {
        let mended = damaged.iter().find(|mended| mended.file == file.file);
        judge(file, mended)
    });
    judged.collect()
}

fn judge(file: &HostsFileStatus, mended: Option<&HostsMended>) -> Finding {
    let name = file.file.display();
    let subject = Subject::of("hosts", &name);
    if let Some(mended) = mended.filter(|mended| !mended.diff.is_empty()) {
        let sudo = if writable(&file.file) { "" } else { "sudo " };
        let finding = subject.fails(
            format!(
                "its markers are damaged, so it is not written: {}",
                mended.found.join("; ")
            ),
            format!("{sudo}sharectl host repair {name}"),
        );
        return match sudo.is_empty() {
            true => finding.mended_by(Repair::HostsFile(file.file.clone())),
            false => finding,
        };
    }
    if let Some(problem) = &file.problem {
        let (why, fix) = problem
            .split_once("; try: ")
            .unwrap_or((problem, "name a file of your own in [hosts] files"));
        return subject.warns(format!("{why}; names then resolve in guests only"), fix);
    }
    let notes = file.notes.iter().map(|note| format!("; {note}"));
    subject.ok(format!(
        "{name} {}, {} names{}",
        file.way,
        file.names,
        notes.collect::<String>()
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::finding::State;
    use super::*;

    fn status(file: &Path, problem: Option<&str>) -> HostsFileStatus {
        HostsFileStatus {
            file: file.to_owned(),
            way: "directly".to_owned(),
            names: 2,
            notes: vec!["WSL writes it anew".to_owned()],
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn damage_is_mended_where_the_file_is_this_users_and_told_elsewhere() {
        let own = tempfile::NamedTempFile::new().unwrap();
        let mended = |file: &Path, diff: &str| HostsMended {
            file: file.to_owned(),
            found: vec!["line 3: BEGIN without END".to_owned()],
            diff: diff.to_owned(),
            done: false,
        };
        let found = judge(&status(own.path(), None), Some(&mended(own.path(), "-x")));
        assert_eq!(found.state, State::Fail);
        assert_eq!(found.repair, Some(Repair::HostsFile(own.path().to_owned())));
        assert!(found.evidence.contains("BEGIN without END"), "{found:?}");
        let theirs = Path::new("/nonexistent/hosts");
        let found = judge(&status(theirs, None), Some(&mended(theirs, "-x")));
        assert_eq!(found.repair, None);
        assert_eq!(
            found.fix.unwrap(),
            "sudo sharectl host repair /nonexistent/hosts"
        );
        let whole = judge(&status(own.path(), None), Some(&mended(own.path(), "")));
        assert_eq!(whole.state, State::Ok);
        assert!(
            whole.evidence.contains("directly, 2 names; WSL"),
            "{whole:?}"
        );
    }

    #[test]
    fn a_problem_is_split_into_evidence_and_fix() {
        let found = judge(
            &status(
                Path::new("/h"),
                Some("user 7 may not write /h; try: sudo do this"),
            ),
            None,
        );
        assert_eq!(
            (found.state, found.fix.as_deref()),
            (State::Warn, Some("sudo do this"))
        );
    }
}
