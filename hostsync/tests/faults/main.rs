//! The writer under faults: full disks, mounts, flags, links, crashes, crowds.
//!
//! A harness of its own, because most of these need a process of their own: to be
//! killed, to be another user, to be in a private mount namespace. What the machine
//! does not allow is counted and printed as `skipped: why`, never passed in silence.
//! `cargo test -p hostsync --test faults [NAME PART]...`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program: a broken expectation is a panic, its report goes to standard output"
)]

mod child;
mod crowd;
mod disk;
mod kill;
mod links;
mod power;
mod scene;

use std::process::{Command, ExitCode, Stdio};

/// Exit status of a test that could not be run; as in automake.
const SKIPPED: u8 = 77;

/// Whether a test ran.
pub(crate) enum Outcome {
    Ran,
    Skipped(String),
}

/// What a test needs around it.
#[derive(Clone, Copy, PartialEq)]
enum Around {
    Nothing,
    /// A mount namespace in which it may mount.
    Mounts,
}

type Test = (&'static str, Around, fn() -> Outcome);

const TESTS: &[Test] = &[
    (
        "odd bytes survive on disk",
        Around::Nothing,
        links::odd_bytes_survive_on_disk,
    ),
    (
        "symlink stays and its target changes",
        Around::Nothing,
        links::symlink_stays,
    ),
    (
        "dangling symlink makes its target",
        Around::Nothing,
        links::dangling_symlink,
    ),
    (
        "hard links stay together",
        Around::Nothing,
        links::hard_links_stay_together,
    ),
    (
        "mode owner and attributes stay",
        Around::Nothing,
        links::looks_stay,
    ),
    (
        "nothing to change writes nothing",
        Around::Nothing,
        links::unchanged_is_not_written,
    ),
    (
        "what is no file is refused",
        Around::Nothing,
        links::no_file,
    ),
    (
        "file of another user is refused with the command",
        Around::Nothing,
        links::denied,
    ),
    (
        "the advice for a missing right works",
        Around::Nothing,
        links::advice_works,
    ),
    (
        "folder of another user is written in place",
        Around::Nothing,
        links::folder_denied,
    ),
    (
        "damaged markers leave the file alone",
        Around::Nothing,
        links::damaged,
    ),
    (
        "other editors' changes are kept",
        Around::Nothing,
        crowd::editors_changes_are_kept,
    ),
    (
        "a file that never rests is given up",
        Around::Nothing,
        crowd::restless_file,
    ),
    (
        "sixty writers replace",
        Around::Nothing,
        crowd::sixty_writers_replace,
    ),
    (
        "sixty writers in place",
        Around::Nothing,
        crowd::sixty_writers_in_place,
    ),
    (
        "sixty writers make the file",
        Around::Nothing,
        crowd::sixty_writers_create,
    ),
    (
        "error at each step, replacing",
        Around::Nothing,
        kill::error_at_each_step_replacing,
    ),
    (
        "error at each step, in place",
        Around::Nothing,
        kill::error_at_each_step_in_place,
    ),
    (
        "kill -9 at each step, replacing",
        Around::Nothing,
        kill::kill_at_each_step_replacing,
    ),
    (
        "kill -9 at each step, in place",
        Around::Nothing,
        kill::kill_at_each_step_in_place,
    ),
    (
        "kill -9 at each step of mending",
        Around::Nothing,
        kill::kill_while_mending,
    ),
    (
        "torn pages of a power cut are mended",
        Around::Nothing,
        kill::torn_pages,
    ),
    (
        "change after a crash is kept",
        Around::Nothing,
        kill::change_after_a_crash,
    ),
    (
        "power cut after each call, replacing",
        Around::Nothing,
        power::replacing,
    ),
    (
        "power cut after each call, in place",
        Around::Nothing,
        power::in_place,
    ),
    ("immutable file", Around::Nothing, disk::immutable),
    ("full disk, replacing", Around::Mounts, disk::full_replacing),
    ("full disk, in place", Around::Mounts, disk::full_in_place),
    ("bind-mounted file", Around::Mounts, disk::bind_mounted),
    (
        "kill -9 at each step, bind-mounted",
        Around::Mounts,
        disk::kill_bind_mounted,
    ),
    ("read-only mount", Around::Mounts, disk::read_only),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--child", ref rest @ ..] => child::main(rest),
        ["--run", name] => run_here(name),
        _ => run_all(&arguments),
    }
}

fn run_here(name: &str) -> ExitCode {
    let Some((_, _, test)) = TESTS.iter().find(|(known, _, _)| *known == name) else {
        println!("no test {name:?}");
        return ExitCode::FAILURE;
    };
    match test() {
        Outcome::Ran => ExitCode::SUCCESS,
        Outcome::Skipped(why) => {
            println!("skipped: {why}");
            ExitCode::from(SKIPPED)
        }
    }
}

fn run_all(arguments: &[String]) -> ExitCode {
    let wanted: Vec<&String> = arguments
        .iter()
        .filter(|text| !text.starts_with('-'))
        .collect();
    let (mut ran, mut skipped, mut failed) = (0, 0, 0);
    let chosen = TESTS.iter().filter(|(name, _, _)| {
        wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()))
    });
    for (name, around, _) in chosen {
        let output = command(name, *around)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let code = output.status.code();
        if output.status.success() {
            ran += 1;
            println!("test {name} ... ok");
        } else if code == Some(i32::from(SKIPPED)) {
            skipped += 1;
            println!("test {name} ... {}", text.trim());
        } else if *around == Around::Mounts && text.is_empty() && !can_mount() {
            skipped += 1;
            println!("test {name} ... skipped: no private mount namespace to be had here");
        } else {
            failed += 1;
            println!("test {name} ... FAILED ({})\n{text}", output.status);
            println!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    println!("\n{ran} ran, {skipped} skipped, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn command(name: &str, around: Around) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match around {
        Around::Nothing => Command::new(program),
        Around::Mounts => {
            let mut command = in_namespace();
            command.arg(program);
            command
        }
    };
    command.args(["--run", name]);
    command
}

/// `unshare` with a mount namespace of its own; for others than root with a user namespace too.
fn in_namespace() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

fn can_mount() -> bool {
    in_namespace()
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success())
}
