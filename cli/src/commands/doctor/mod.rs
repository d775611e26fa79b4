//! `sharectl doctor`: what could be wrong, looked at one by one, each with
//! what was seen and the command that mends it.
//!
//! A check is a function from [`Facts`] to findings. All run at once, each on a thread of its own that is no
//! longer waited for after [`LIMIT`]: what hangs is a finding, too. None changes anything; that is `fix.rs`.
//! The list of checks is also docs/doctor.md, which a test compares.

mod daemons;
mod facts;
mod finding;
mod fix;
mod hosts;
mod kvm;
mod machine;
mod network;
mod ours;
mod ports;
mod resolvers;
mod sandbox;
mod shares;
mod wsl;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use crate::error::Outcome;
use crate::output::printable;
pub(crate) use facts::within;

use facts::Facts;
use finding::{Finding, State};
use fix::{Repaired, Wish};

/// For all checks together: more than any of them should take for itself.
const LIMIT: Duration = Duration::from_secs(12);

/// Look for what is wrong, and say how to mend it
///
/// Every check is made as the user who runs this, and takes seconds at most. The exit code is 1
/// when a check failed; a warning is something that only some uses need. The ids in JSON stay the
/// same from version to version.
///
/// --fix does what loses nothing: it removes sockets and process numbers of daemons that are gone,
/// makes folders that are missing, closes those of sharectl to other users, mends damaged markers
/// in a hosts file, starts daemons, has them read the configuration again. Then it looks once more.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl doctor\n  sharectl doctor --fix --dry-run\n  sharectl doctor kvm port --format json"
)]
pub(crate) struct Args {
    /// Only these checks [default: all]
    #[arg(value_name = "CHECK", value_parser = names())]
    checks: Vec<String>,
    /// Mend what can be mended without a loss, and look again
    #[arg(long)]
    fix: bool,
    /// Only say what --fix would do
    #[arg(long, requires = "fix")]
    dry_run: bool,
}

/// The checks by their ids, for the command line, its help and completions.
fn names() -> PossibleValuesParser {
    let name = |check: &Check| PossibleValue::new(check.id).help(check.about);
    PossibleValuesParser::new(CHECKS.iter().map(name))
}

/// One thing to look for.
struct Check {
    /// In every finding's id; never changes.
    id: &'static str,
    /// What it looks at.
    about: &'static str,
    look: fn(&Facts) -> Vec<Finding>,
}

const fn check(id: &'static str, about: &'static str, look: fn(&Facts) -> Vec<Finding>) -> Check {
    Check { id, about, look }
}

/// In the order in which one thing depends on another.
static CHECKS: [Check; 25] = [
    check(
        "config",
        "the configuration can be read, and is right",
        ours::configuration,
    ),
    check(
        "runtime-folder",
        "the folder of sockets is this user's alone, its path short enough",
        ours::runtime_folder,
    ),
    check(
        "state-folder",
        "the folder of leases and logs can be written",
        ours::state_folder,
    ),
    check(
        "programs",
        "the daemons' programs are found",
        ours::programs,
    ),
    check(
        "daemon",
        "each daemon runs, answers, and has nothing to complain about",
        daemons::running,
    ),
    check(
        "version",
        "daemons that run, their programs on disk and this command are of one version",
        daemons::versions,
    ),
    check(
        "socket",
        "no sockets and process numbers are left of daemons that were killed",
        daemons::leftovers,
    ),
    check(
        "sandbox",
        "which stages of its sandbox hold in sharefs, as the kernel says",
        sandbox::check,
    ),
    check(
        "share",
        "each share's folder is there, can be read and, unless read-only, written",
        shares::folders,
    ),
    check(
        "host-mount",
        "each share that is to be mounted on the host is, and answers",
        shares::host_mounts,
    ),
    check(
        "guest-mount",
        "each guest's folder that is to be mounted on the host is, and answers",
        shares::guest_mounts,
    ),
    check(
        "hosts",
        "each hosts file can be written, and its markers are whole",
        hosts::check,
    ),
    check(
        "subnet",
        "no network's addresses are used by another interface, route or VPN",
        network::subnets,
    ),
    check(
        "bridge",
        "the interface of each bridged network is there",
        network::bridges,
    ),
    check(
        "host-tap",
        "the host's own interface on a network is there, up, and this user's",
        network::host_taps,
    ),
    check(
        "port",
        "nobody else has a port that is published; who has it",
        ports::published,
    ),
    check(
        "low-ports",
        "published ports below 1024 may be had by this user",
        ports::low,
    ),
    check(
        "resolver",
        "each resolver that guests' questions go to answers within 2 s",
        resolvers::check,
    ),
    check(
        "kvm",
        "a guest of one instruction runs by KVM within 3 s",
        kvm::check,
    ),
    check("qemu", "QEMU is there, and new enough", machine::qemu),
    check(
        "tun",
        "/dev/net/tun may be opened, for namespaces as guests",
        machine::tun,
    ),
    check(
        "fuse",
        "/dev/fuse may be opened, and fusermount3 is there, for mounts on the host",
        machine::fuse,
    ),
    check(
        "ping",
        "this user's group may open ping sockets, for guests' pings",
        machine::ping,
    ),
    check(
        "open-files",
        "enough files may be open for many connections",
        machine::open_files,
    ),
    check(
        "wsl",
        "inside WSL: its version, systemd, network mode, interop, Windows' drives",
        wsl::check,
    ),
];

/// A finding and the check that it is of.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Numbered {
    /// The check's place in the list; may change from version to version, unlike the ids.
    number: usize,
    check: &'static str,
    #[serde(flatten)]
    finding: Finding,
    /// Whether `--fix` mends it.
    fixable: bool,
}

/// What is printed with --fix.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Report<'r> {
    repairs: &'r [Repaired],
    findings: &'r [Numbered],
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome<ExitCode> {
    let wanted: Vec<usize> = (0..CHECKS.len())
        .filter(|&place| {
            args.checks.is_empty() || args.checks.iter().any(|id| id == CHECKS[place].id)
        })
        .collect();
    let progress = context.progress("the checks");
    let mut findings = look(context, &wanted);
    drop(progress);
    let mut repairs = Vec::new();
    if args.fix {
        let wish = if args.dry_run { Wish::Show } else { Wish::Do };
        let ordered = findings
            .iter()
            .filter_map(|found| found.finding.repair.clone());
        repairs = fix::carry_out(context, ordered.collect(), wish);
        if wish == Wish::Do && !repairs.is_empty() {
            findings = look_again(context, findings);
        }
        if !context.out.is_json() && !context.out.quiet {
            context.out.text(&printable(&fix::as_text(&repairs)))?;
        }
    }
    match (context.out.is_json(), args.fix) {
        (true, false) => context.out.json(&findings)?,
        (true, true) => context.out.json(&Report {
            repairs: &repairs,
            findings: &findings,
        })?,
        (false, _) => context.out.text(&as_text(&findings, context.out.quiet))?,
    }
    let failed = findings
        .iter()
        .any(|found| found.finding.state == State::Fail)
        || repairs.iter().any(|repaired| repaired.error.is_some());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// All these checks at once; their findings in the checks' order.
fn look(context: &Context, wanted: &[usize]) -> Vec<Numbered> {
    let facts = Arc::new(Facts::gather(&context.paths));
    let (tell, told) = sync_channel(CHECKS.len());
    for &place in wanted {
        let (facts, tell) = (Arc::clone(&facts), tell.clone());
        let begun = thread::Builder::new()
            .name(CHECKS[place].id.to_owned())
            .spawn(move || {
                // Nobody listens any more after the limit.
                tell.send((place, (CHECKS[place].look)(&facts))).ok();
            });
        // Without a thread it says nothing, which is told below.
        drop(begun);
    }
    drop(tell);
    let mut seen: Vec<Option<Vec<Finding>>> = CHECKS.iter().map(|_| None).collect();
    let ended = gather(&mut seen, &told);
    let findings = wanted.iter().flat_map(|&place| {
        let check = &CHECKS[place];
        let found = seen.get_mut(place).and_then(Option::take);
        let found = found.unwrap_or_else(|| {
            let subject = Finding::about(check.id, check.id);
            vec![match ended {
                RecvTimeoutError::Timeout => subject.fails(
                    format!(
                        "no answer within {} s: something that it looks at hangs",
                        LIMIT.as_secs()
                    ),
                    "see what hangs: dmesg, and mounts of servers that are away",
                ),
                RecvTimeoutError::Disconnected => subject.fails(
                    "the check itself failed",
                    "report this, with what it printed",
                ),
            }]
        });
        found.into_iter().map(move |finding| Numbered {
            number: place + 1,
            check: check.id,
            fixable: finding.repair.is_some(),
            finding,
        })
    });
    findings.collect()
}

/// Until all have answered, or nobody will, or the time is over.
#[allow(clippy::disallowed_methods, reason = "the limit is one of real time")]
fn gather(
    seen: &mut [Option<Vec<Finding>>],
    told: &std::sync::mpsc::Receiver<(usize, Vec<Finding>)>,
) -> RecvTimeoutError {
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        match told.recv_timeout(left) {
            Ok((place, found)) => {
                if let Some(seen) = seen.get_mut(place) {
                    *seen = Some(found);
                }
            }
            Err(ended) => return ended,
        }
    }
}

/// The checks that were not well, until nothing is left to be mended or a few looks are over: a daemon that was
/// just started may miss another for a moment.
fn look_again(context: &Context, before: Vec<Numbered>) -> Vec<Numbered> {
    const LOOKS: usize = 10;
    const PAUSE: Duration = Duration::from_millis(300);
    // What could not be looked at may be there now.
    let unwell = |found: &&Numbered| found.finding.state != State::Ok;
    let mut again: Vec<usize> = before
        .iter()
        .filter(unwell)
        .map(|found| found.number - 1)
        .collect();
    again.dedup();
    let mut fresh = look(context, &again);
    for _ in 0..LOOKS {
        if !fresh.iter().any(|found| found.fixable) {
            break;
        }
        thread::sleep(PAUSE);
        fresh = look(context, &again);
    }
    let kept = before
        .into_iter()
        .filter(|found| !again.contains(&(found.number - 1)));
    let mut all: Vec<Numbered> = kept.chain(fresh).collect();
    all.sort_by_key(|found| found.number);
    all
}

/// With `quiet` only what is not well.
fn as_text(findings: &[Numbered], quiet: bool) -> String {
    const INDENT: usize = 13;
    let shown = |state: State| !quiet || matches!(state, State::Warn | State::Fail);
    let mut text = String::new();
    for Numbered {
        number, finding, ..
    } in findings.iter().filter(|found| shown(found.finding.state))
    {
        let state = match finding.state {
            State::Ok => "ok",
            State::Warn => "warning",
            State::Fail => "FAILED",
            State::Skipped => "skipped",
        };
        let evidence = printable(&finding.evidence).replace('\n', &format!("\n{:INDENT$}", ""));
        text.push_str(&format!(
            "{number:>2}  {state:<7}  {}: {evidence}\n",
            printable(&finding.title)
        ));
        if let Some(fix) = &finding.fix {
            let by_us = if finding.repair.is_some() {
                "  (or: sharectl doctor --fix)"
            } else {
                ""
            };
            text.push_str(&format!("{:INDENT$}fix: {}{by_us}\n", "", printable(fix)));
        }
    }
    let count = |state: State| {
        findings
            .iter()
            .filter(|found| found.finding.state == state)
            .count()
    };
    text.push_str(&format!(
        "{} failed, {} warnings, {} ok, {} skipped\n",
        count(State::Fail),
        count(State::Warn),
        count(State::Ok),
        count(State::Skipped)
    ));
    text
}

/// Nothing to look at while the configuration cannot be read.
fn without_config(id: &str) -> Vec<Finding> {
    vec![Finding::about(id, &id.replace('-', " ")).skipped("the configuration cannot be read")]
}

/// The one finding of a check that has nothing to look at.
fn nothing(id: &str, why: &str) -> Vec<Finding> {
    vec![Finding::about(id, &id.replace('-', " ")).skipped(why)]
}

#[cfg(test)]
mod tests {
    use super::facts::tests::Bed;
    use super::finding::Subject;
    use super::*;

    fn numbered(number: usize, finding: Finding) -> Numbered {
        Numbered {
            number,
            check: "x",
            fixable: finding.repair.is_some(),
            finding,
        }
    }

    #[test]
    fn each_finding_has_number_evidence_and_fix() {
        let findings = [
            numbered(1, Finding::about("a", "a").ok("seen")),
            numbered(2, Subject::of("b", "c").fails("one\ntwo", "do this")),
            numbered(3, Finding::about("d", "d").skipped("none")),
        ];
        let expected = [
            " 1  ok       a: seen",
            " 2  FAILED   b c: one",
            "             two",
            "             fix: do this",
            " 3  skipped  d: none",
            "1 failed, 0 warnings, 1 ok, 1 skipped",
        ];
        let text = as_text(&findings, false);
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        let text = as_text(&findings, true);
        assert_eq!(text.lines().collect::<Vec<_>>()[..3], expected[1..4]);
    }

    /// A share, a guest with ports and a mount, a bridged network: every check has something to say.
    #[test]
    fn ids_are_those_of_the_checks_and_each_is_there_once() {
        let bed = Bed::with(
            "[share.a]\npath = \"@/gone\"\nmount = \"@/m\"\n[share.b]\npath = \"@/run\"\n\
             [network.vmnet8]\ndns = [\"127.0.0.1:1\"]\n[network.vmnet0]\ntype = \"bridged\"\ninterface = \"nosuch0\"\n\
             [guest.dev]\nnetwork = \"vmnet8\"\npublish = [\"18080:80\", \"80\"]\n",
        );
        let mut ids = Vec::new();
        for check in &CHECKS {
            let found = (check.look)(&bed.facts);
            assert!(!found.is_empty(), "{} says nothing", check.id);
            for finding in found {
                let below = finding.id.strip_prefix(check.id);
                assert!(
                    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
                    "{} of {}",
                    finding.id,
                    check.id
                );
                let wrong = matches!(finding.state, State::Warn | State::Fail);
                assert_eq!(wrong, finding.fix.is_some(), "{finding:?}");
                ids.push(finding.id);
            }
        }
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(all, ids.len(), "{ids:?}");
    }

    /// docs/doctor.md has a row for each check, with its words.
    #[test]
    fn the_documentation_lists_every_check() {
        let page = include_str!("../../../../docs/doctor.md");
        let rows: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let expected: Vec<String> = CHECKS
            .iter()
            .map(|check| format!("| `{}` | {} |", check.id, check.about))
            .collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_check_that_never_answers_is_a_finding_and_holds_nobody_up() {
        let (tell, told) = sync_channel(1);
        tell.send((0, Vec::new())).unwrap();
        drop(tell);
        let mut seen = vec![None, None];
        assert_eq!(gather(&mut seen, &told), RecvTimeoutError::Disconnected);
        assert!(seen[0].is_some() && seen[1].is_none());
    }
}
