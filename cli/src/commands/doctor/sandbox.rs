//! Which stages of its sandbox hold in sharefs, read from the kernel: what a daemon says of itself is no evidence.
//!
//! Read first: proc_pid_status(5); the stages stand in sharefs/src/confine/mod.rs.

use std::path::Path;

use control::api::DaemonStatus;
use control::paths::Daemon;

use super::facts::Facts;
use super::finding::Finding;

/// Threads of the library that serves virtqueues are called so.
const SERVING: &str = "vring_worker";
/// And those of 9P connections.
const SERVING_NINEP: [&str; 2] = ["9p", "9p-slow"];
/// SECCOMP_MODE_FILTER.
const FILTERED: &str = "2";
/// CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_MODULE: what would make a root daemon the machine's.
const MIGHTY: u64 = 1 << 21 | 1 << 12 | 1 << 19 | 1 << 16;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let subject = || Finding::about("sandbox", "sandbox of shares");
    let status = facts.ask::<DaemonStatus>(Daemon::Sharefs, "/v1/status");
    let threads = status
        .ok()
        .and_then(|status| read(Path::new("/proc"), status.pid));
    vec![match threads {
        Some(threads) => judge(&threads),
        None => subject().skipped("sharefs does not run"),
    }]
}

/// One thread as the kernel describes it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Thread {
    name: String,
    no_new_rights: bool,
    permitted: u64,
    filtered: bool,
}

fn read(proc: &Path, pid: u32) -> Option<Vec<Thread>> {
    let tasks = std::fs::read_dir(proc.join(pid.to_string()).join("task")).ok()?;
    let statuses = tasks
        .flatten()
        // A thread may end meanwhile.
        .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    Some(statuses.map(|status| parse(&status)).collect())
}

fn parse(status: &str) -> Thread {
    let mut thread = Thread::default();
    for line in status.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match key {
            "Name" => value.clone_into(&mut thread.name),
            "NoNewPrivs" => thread.no_new_rights = value == "1",
            // What cannot be read counts as everything.
            "CapPrm" => thread.permitted = u64::from_str_radix(value, 16).unwrap_or(u64::MAX),
            "Seccomp" => thread.filtered = value == FILTERED,
            _ => {}
        }
    }
    thread
}

fn judge(threads: &[Thread]) -> Finding {
    let subject = Finding::about("sandbox", "sandbox of shares");
    let serves = |name: &str| name == SERVING || SERVING_NINEP.contains(&name);
    let serving = threads.iter().filter(|thread| serves(&thread.name));
    let (mut confined, mut all) = (0, 0);
    for thread in serving {
        all += 1;
        confined += usize::from(thread.filtered);
    }
    let stages = [
        (
            threads.iter().all(|thread| thread.no_new_rights),
            "no new rights".to_owned(),
        ),
        (
            threads.iter().all(|thread| thread.permitted & MIGHTY == 0),
            "capabilities".to_owned(),
        ),
        // A thread is bound when its guest first speaks.
        (
            all == 0 || confined > 0,
            format!("calls ({confined} of {all} threads that wait for guests)"),
        ),
    ];
    let named = |wanted: bool| {
        let stages = stages.iter().filter(|(on, _)| *on == wanted);
        let names: Vec<&str> = stages.map(|(_, name)| name.as_str()).collect();
        names.join(", ")
    };
    let evidence = format!("on: {}", named(true));
    match named(false) {
        off if off.is_empty() => subject.ok(evidence),
        off => subject.warns(
            format!("off: {off}; {evidence}"),
            "sharectl logs sharefs; a kernel with CONFIG_SECCOMP_FILTER has them all",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::State;

    fn status(name: &str, rights: &str, filtered: u8) -> Thread {
        parse(&format!(
            "Name:\t{name}\nState:\tS (sleeping)\nCapPrm:\t{rights}\nNoNewPrivs:\t1\nSeccomp:\t{filtered}\n"
        ))
    }

    #[test]
    fn stages_are_what_the_kernel_says() {
        let idle = [status("sharectl-sharef", "0000000000000000", 0)];
        assert_eq!(judge(&idle).state, State::Ok);
        let [main] = idle;
        let serving = [
            main,
            status(SERVING, "00000000000004ff", 2),
            status(SERVING, "00000000000004ff", 0),
        ];
        let check = judge(&serving);
        assert_eq!(check.state, State::Ok);
        assert!(check.evidence.contains("1 of 2"), "{}", check.evidence);
        let bare = [Thread {
            no_new_rights: false,
            ..status(SERVING, "000001ffffffffff", 0)
        }];
        let check = judge(&bare);
        assert_eq!(check.state, State::Warn);
        let off = "off: no new rights, capabilities, calls (0 of 1";
        assert!(check.evidence.starts_with(off), "{}", check.evidence);
    }

    #[test]
    fn this_process_can_be_read() {
        let threads = read(Path::new("/proc"), std::process::id()).unwrap();
        assert!(threads.iter().any(|thread| !thread.name.is_empty()));
        assert_eq!(read(Path::new("/nowhere"), 1), None);
    }
}
