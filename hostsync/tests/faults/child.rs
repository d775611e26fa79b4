//! One update in a process of its own, which may be told to die in the middle.

use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use hostsync::section::Tag;
use hostsync::writer::{Step, Steps, Writer};
use rustix::io::Errno;
use rustix::process::Signal;

use super::scene::{self, Scene};

/// How small the pieces of a write are, so that there is a middle to die in.
pub(crate) const PIECE: usize = 11;
/// A number of steps that no update comes to.
pub(crate) const NEVER: usize = usize::MAX;

/// What a child process shall do.
pub(crate) struct Job<'a> {
    pub(crate) file: &'a Path,
    pub(crate) journals: &'a Path,
    /// Empty for the plain tag.
    pub(crate) tag: &'a str,
    pub(crate) names: usize,
    /// Steps taken before it kills itself.
    pub(crate) steps: usize,
}

impl<'a> Job<'a> {
    pub(crate) fn of(scene: &'a Scene, names: usize, steps: usize) -> Self {
        Self {
            file: &scene.file,
            journals: &scene.journals,
            tag: "",
            names,
            steps,
        }
    }

    pub(crate) fn command(&self) -> Command {
        self.command_under(&[])
    }

    /// With another program in front, such as `setpriv`.
    pub(crate) fn command_under(&self, prefix: &[&str]) -> Command {
        let program = std::env::current_exe().unwrap();
        let mut command = match prefix {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command
            .arg("--child")
            .args([self.file, self.journals])
            .args([self.tag, &self.names.to_string(), &self.steps.to_string()]);
        command
    }

    pub(crate) fn run(&self) -> ExitStatus {
        self.command().status().unwrap()
    }
}

/// Dies by SIGKILL before the step with number `left`.
struct KillAt {
    left: usize,
}

impl Steps for KillAt {
    fn before(&mut self, _step: Step) -> Result<(), Errno> {
        if self.left == 0 {
            rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
        }
        self.left -= 1;
        Ok(())
    }

    fn piece(&self) -> usize {
        PIECE
    }
}

pub(crate) fn main(arguments: &[&str]) -> ExitCode {
    let [file, journals, tag, names, steps] = arguments else {
        panic!("a child takes FILE JOURNALS TAG NAMES STEPS, not {arguments:?}");
    };
    let tag_value = if tag.is_empty() {
        Tag::plain()
    } else {
        Tag::parse(tag).unwrap()
    };
    let mut wanted = scene::names(names.parse().unwrap());
    if !tag.is_empty() {
        // Names of its own, so that the crowd does not quarrel.
        wanted = wanted
            .into_iter()
            .map(|(name, address)| (format!("{tag}.{name}").parse().unwrap(), address))
            .collect();
    }
    let steps: usize = steps.parse().unwrap();
    let outcome = if steps == NEVER {
        scene::update(Writer::new(*journals), file.as_ref(), &wanted, &tag_value)
    } else {
        let writer = Writer::with_steps(*journals, KillAt { left: steps });
        scene::update(writer, file.as_ref(), &wanted, &tag_value)
    };
    match outcome {
        Ok(report) => {
            println!("{:?}", report.how);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}\nhint: {}", error.hint().unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}
