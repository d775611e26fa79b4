//! Where a chapter is played: a reader's home and shell in a network namespace that is the reader's machine, and the
//! VM that the chapter starts.
//!
//! The reader's `qemu-system-x86_64` is a script that adds to the chapter's line what the test's guest boots from, so
//! that the line is run as it is printed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, mount, mount_bind};

use super::chapter::{Commands, Place, Step, Typed, chapter, shows};
use super::shell::{Said, Shell};
use super::terminal;
use crate::daemons::{Kind, World};
use crate::guest::{Channel, Machine};
use crate::limit::{retry, wait_for};
use crate::netns::Netns;
use crate::user::User;
use crate::{blackbox, mounts, packages};

/// For one command, on either side.
const COMMAND_LIMIT: Duration = Duration::from_secs(240);
/// For what is said to come soon.
const SOON: Duration = Duration::from_secs(60);
/// From the VM's start until its guest obeys, or from within a guest that ends first what it runs.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// From the VM's start until QEMU listens.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The reader's home and folder of sockets, as the chapters print them.
const HOME: &str = "/home/ann";
const RUNTIME: &str = "/run/user/1000";

/// Major and minor number of /dev/net/tun, in the kernel's Documentation/admin-guide/devices.txt.
const TUN: (u32, u32) = (10, 200);

/// How much of a chapter was run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Played {
    /// Blocks that readers see: commands, files and messages.
    pub run: usize,
    /// Blocks that need Windows.
    pub windows: usize,
    /// Blocks that need a processor that virtualizes.
    pub kvm: usize,
}

/// The reader's machine. Dropping it ends all that the chapter left.
#[derive(Debug)]
pub struct Stage {
    shell: Shell,
    channel: Option<Channel>,
    /// What the last command printed.
    said: String,
    vm: PathBuf,
    world: World,
    _host: Netns,
}

impl Stage {
    /// A machine where sharectl is installed and nothing is set up, with this guest for its VM.
    ///
    /// # Errors
    /// A [`Skip`](crate::Skip) for whoever is not root; else when something cannot be made.
    pub fn new(machine: Machine) -> Result<Self> {
        Self::of(User::unprivileged(), machine)
    }

    /// The same for a certain reader.
    ///
    /// # Errors
    /// As [`Stage::new`].
    pub fn of(reader: User, machine: Machine) -> Result<Self> {
        let host = Netns::new("book")?;
        let world = World::of(reader, "")?.inside(&host);
        fs::remove_file(world.path("config.toml"))?;
        // What root's hosts writer is for: this user may have names in the hosts file.
        world.user().own(&host.hosts_file())?;
        let [vm, bin] = ["vm", "bin"].map(|name| world.path(name));
        for folder in [&vm, &bin] {
            fs::create_dir(folder)?;
            world.user().own(folder)?;
        }
        let qemu = bin.join("qemu-system-x86_64");
        world.write(&qemu, stand_in(&machine.line(&vm)?)?)?;
        fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755))?;

        mounts::private()?;
        mounts::for_everybody("/dev/net/tun", TUN)?;
        for (place, folder) in [(HOME, world.path("")), (RUNTIME, world.runtime())] {
            settle(place, &folder).with_context(|| format!("make {place}"))?;
        }
        let mut bash = world.command("bash");
        let path = bash.get_envs().find(|(name, _)| *name == "PATH");
        let path = path
            .and_then(|(_, path)| path?.to_str())
            .unwrap_or_default();
        bash.env("PATH", format!("{HOME}/bin:{path}"))
            .env("HOME", HOME)
            .env("XDG_RUNTIME_DIR", RUNTIME)
            .current_dir(HOME)
            .env_remove("SHARECTL_CONFIG")
            .env_remove("SHARECTL_RUNTIME_DIR")
            .env_remove("SHARECTL_STATE_DIR");
        Ok(Self {
            shell: Shell::start(bash)?,
            channel: None,
            said: String::new(),
            vm,
            world,
            _host: host,
        })
    }

    /// A folder or file in the reader's home.
    #[must_use]
    pub fn home(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    /// Makes a file the reader's own.
    ///
    /// # Errors
    /// When it is not there.
    pub fn own(&self, path: &Path) -> Result<()> {
        self.world.user().own(path)
    }

    /// Puts a program of this machine's into the reader's home.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn give(&self, program: &Path, name: &str) -> Result<()> {
        let path = self.home(name);
        fs::copy(program, &path).with_context(|| format!("copy {}", program.display()))?;
        self.own(&path)
    }

    /// Plays a chapter.
    ///
    /// # Errors
    /// The first command that does not do what the chapter says, with its line and its output.
    pub fn play(&mut self, text: &str) -> Result<Played> {
        let (steps, problems) = chapter(text);
        if let Some(problem) = problems.first() {
            bail!("{problem}");
        }
        let mut played = Played::default();
        for step in &steps {
            match step {
                Step::Run(commands) => {
                    for typed in &commands.typed {
                        self.run(commands, typed).with_context(|| {
                            let prompt = typed.place.prompt();
                            format!("line {}: {prompt}{}", typed.line, typed.text)
                        })?;
                    }
                    played.run += usize::from(!commands.hidden);
                }
                Step::Write { path, text, append } => {
                    self.write(path, text, *append)
                        .with_context(|| format!("write {path}"))?;
                    played.run += 1;
                }
                Step::Message { text, line } => {
                    ensure!(
                        shows(&self.said, text),
                        "line {line}: the message is\n{text}\nand the command before it printed\n{}",
                        self.said
                    );
                    played.run += 1;
                }
                Step::Elsewhere { needs: "windows" } => played.windows += 1,
                Step::Elsewhere { .. } => played.kvm += 1,
            }
        }
        Ok(played)
    }

    fn run(&mut self, how: &Commands, typed: &Typed) -> Result<()> {
        if how.vm {
            return self.start_vm(&typed.text);
        }
        if how.terminal {
            let line = (typed.text.as_str(), typed.expected.as_str());
            self.said = terminal::look(&mut self.shell, line, SOON)?;
            return Ok(());
        }
        self.said = if how.soon {
            retry("it is to come soon", SOON, || self.attempt(how, typed))?
        } else {
            self.attempt(how, typed)?
        };
        self.notice_guest();
        Ok(())
    }

    fn attempt(&mut self, how: &Commands, typed: &Typed) -> Result<String> {
        let said = match typed.place {
            Place::Host => self.shell.run(&typed.text, COMMAND_LIMIT)?,
            Place::Guest => self.run_in_guest(&typed.text)?,
        };
        ensure!(
            (said.status == 0) != how.fails,
            "status {}\n{}",
            said.status,
            said.text
        );
        ensure!(
            shows(&said.text, &typed.expected),
            "shown is\n{}\nand it printed\n{}",
            typed.expected,
            said.text
        );
        Ok(said.text)
    }

    fn start_vm(&mut self, text: &str) -> Result<()> {
        let line = format!("{{ {text}\n}} > ~/vm/output 2>&1 &");
        self.shell.run(&line, COMMAND_LIMIT)?;
        self.channel = None;
        let started = wait_for("the VM's sockets", START_LIMIT, || {
            self.notice_guest();
            Ok(self.channel.as_ref().map(|_| ()))
        });
        started.with_context(|| fs::read_to_string(self.vm.join("output")).unwrap_or_default())?;
        self.guest()?.wait_ready(BOOT_LIMIT)
    }

    /// Connects to a VM that was started by whatever the chapter used: nothing that the guest says may be lost.
    fn notice_guest(&mut self) {
        let socket = self.vm.join("channel.sock");
        if self.channel.is_none() && socket.exists() {
            self.channel = Channel::open(&socket).ok();
        }
    }

    fn guest(&mut self) -> Result<&mut Channel> {
        self.channel.as_mut().context("no VM was started")
    }

    fn run_in_guest(&mut self, text: &str) -> Result<Said> {
        if ["poweroff", "reboot"].contains(&text) {
            // A system of its own ends by itself what it runs; busybox only has the kernel do it.
            let line = format!(
                "f=$0; (while [ -e \"$f\" ]; do sleep 0.1; done; sleep 0.2; if [ -d /run/systemd/system ]; then {text}; else {text} -f; fi) > /dev/null 2>&1 &"
            );
            let guest = self.guest()?;
            guest.run(&line, COMMAND_LIMIT)?;
            if text == "reboot" {
                guest.wait_ready(BOOT_LIMIT)?;
            } else {
                self.channel = None;
            }
            return Ok(Said {
                status: 0,
                text: String::new(),
            });
        }
        let answer = self.guest()?.run(text, COMMAND_LIMIT)?;
        Ok(Said {
            status: answer.status,
            text: answer.stdout + &answer.stderr,
        })
    }

    fn write(&self, path: &str, text: &str, append: bool) -> Result<()> {
        let path = self.home(path.trim_start_matches("~/"));
        let folder = path.parent().context("no folder")?;
        if !folder.is_dir() {
            fs::create_dir_all(folder)?;
            self.world.user().own(folder)?;
        }
        let before = if append {
            fs::read_to_string(&path)?
        } else {
            String::new()
        };
        self.world.write(&path, before + text)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for kind in Kind::ALL {
            let log = format!(".local/state/sharectl/logs/{}.log", kind.name());
            blackbox::keep_file(format!("log of {}", kind.name()), &self.home(&log));
        }
        blackbox::keep_file("the VM".to_owned(), &self.vm.join("output"));
        blackbox::keep_file("the guest".to_owned(), &self.vm.join("console.log"));
    }
}

/// Puts a folder at this place of the thread's own mounts, over whatever is there.
fn settle(place: &str, folder: &Path) -> Result<()> {
    let above = Path::new(place).parent().context("no folder above")?;
    fs::create_dir_all(above)?;
    mount("tmpfs", above, "tmpfs", MountFlags::empty(), c"mode=755").context("mount a tmpfs")?;
    fs::create_dir(place)?;
    mount_bind(folder, place).context("bind")
}

/// QEMU with what the guest boots from; what a chapter says comes behind it and wins, but for `-accel`, which is this
/// machine's affair. libvirt asks it questions first.
fn stand_in(line: &[String]) -> Result<String> {
    let (program, words) = line.split_first().context("an empty line")?;
    let program = packages::find(program).context("QEMU is not installed")?;
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    Ok(STAND_IN
        .replace("QEMU", &program.display().to_string())
        .replace("WORDS", &words.join(" ")))
}

const STAND_IN: &str = r#"#!/bin/sh
for word; do
    case $word in none,* | -version | -help) exec QEMU "$@" ;; esac
done
for word; do
    shift
    case $before$word in
        -accel) before='-accel ' ;;
        -accel*) before= ;;
        *) set -- "$@" "$word" ;;
    esac
done
exec QEMU WORDS "$@"
"#;

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
