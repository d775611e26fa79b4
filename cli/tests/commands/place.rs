//! A folder with a configuration, sockets and state of its own, and the
//! command run in it with nothing of the machine's own environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use control::names::GuestName;
use control::paths::{Daemon, Paths};
use expect_test::Expect;

pub(crate) struct Place {
    folder: PathBuf,
    /// Removes the folder at the end; none for somebody else's.
    _temporary: Option<tempfile::TempDir>,
}

/// A configuration that most tests begin with.
pub(crate) const CONFIG: &str = r#"# ann's file

[network.vmnet8]
subnet = "192.168.130.0/24"
ipv6 = "fd00:0:0:8::/64"

[guest.dev]
mac = "52:54:00:00:00:01"
address = "192.168.130.5"
host-address = "127.64.0.1"
names = ["local.test"]   # used by everyone
publish = ["8080:80"]

[hosts.static]
"nas.test" = "192.168.1.5"
"#;

impl Place {
    /// Without a configuration file.
    pub(crate) fn empty() -> Self {
        let temporary = tempfile::Builder::new().prefix("cli").tempdir().unwrap();
        let place = Self {
            folder: temporary.path().to_owned(),
            _temporary: Some(temporary),
        };
        fs::create_dir(place.path("home")).unwrap();
        fs::create_dir(place.path("bin")).unwrap();
        // Away from the build folder, where real daemons may stand beside it.
        let (built, ours) = (env!("CARGO_BIN_EXE_sharectl"), place.path("bin/sharectl"));
        if fs::hard_link(built, &ours).is_err() {
            // By a process of its own: what other tests start meanwhile would inherit a descriptor that writes
            // it (ETXTBSY of execve(2)).
            let copied = Command::new("cp").arg(built).arg(&ours).status().unwrap();
            assert!(copied.success());
        }
        place
    }

    /// A folder that another process made.
    pub(crate) fn of_another(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            _temporary: None,
        }
    }

    pub(crate) fn with(config: &str) -> Self {
        let place = Self::empty();
        fs::write(place.path("config.toml"), config).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn config(&self) -> String {
        fs::read_to_string(self.path("config.toml")).unwrap()
    }

    pub(crate) fn paths(&self) -> Paths {
        Paths {
            config: self.path("config.toml"),
            runtime: self.path("run"),
            state: self.path("state"),
        }
    }

    pub(crate) fn socket(&self, daemon: Daemon) -> PathBuf {
        self.paths().control_socket(daemon)
    }

    pub(crate) fn guest_folder(&self, guest: &str) -> PathBuf {
        self.paths().guest(&GuestName::parse(guest).unwrap())
    }

    /// The command, to be given more and run by the test itself.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", self.path("bin").display()),
            )
            .env("SHARECTL_CONFIG", self.path("config.toml"))
            .env("SHARECTL_RUNTIME_DIR", self.path("run"))
            .env("SHARECTL_STATE_DIR", self.path("state"))
            // What is installed on the machine itself is not the tests' business.
            .env("SHARECTL_MACHINE_ROOT", self.path("machine"))
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn sharectl(&self) -> Command {
        self.command(&self.path("bin/sharectl"))
    }

    /// Runs `sharectl` with the words of `line`.
    pub(crate) fn run(&self, line: &str) -> Outcome {
        self.outcome(self.sharectl().args(line.split_whitespace()))
    }

    pub(crate) fn outcome(&self, command: &mut Command) -> Outcome {
        let output = command.output().unwrap();
        let line: Vec<String> = command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        // Whatever a test is about: what is printed keeps to what is told of it.
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(verb) = crate::schema::command_of(&line).filter(|_| !text.is_empty()) {
            crate::schema::check(&verb, &text);
        }
        Outcome {
            text: self.shown(&output),
            stdout: String::from_utf8(output.stdout).unwrap(),
            code: output.status.code(),
        }
    }

    fn shown(&self, output: &Output) -> String {
        let mut text = format!(
            "exit {}\n",
            output
                .status
                .code()
                .map_or_else(|| "signal".to_owned(), |c| c.to_string())
        );
        for (name, bytes) in [("out", &output.stdout), ("err", &output.stderr)] {
            let written = self.normal(&String::from_utf8_lossy(bytes));
            for line in written.lines() {
                text.push_str(format!("{name}: {line}").trim_end());
                text.push('\n');
            }
        }
        text
    }

    /// Without what differs from run to run.
    pub(crate) fn normal(&self, text: &str) -> String {
        text.replace(&self.folder.display().to_string(), "$T")
            .replace(env!("CARGO_PKG_VERSION"), "[VERSION]")
    }

    /// A program on the search path of the commands.
    pub(crate) fn program(&self, name: &str, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

#[must_use = "an outcome that nobody looks at is no test"]
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) stdout: String,
    pub(crate) code: Option<i32>,
}

impl Outcome {
    /// Exit code, standard output and standard error, line by line.
    pub(crate) fn is(&self, expected: Expect) {
        expected.assert_eq(&self.text);
    }

    pub(crate) fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }

    pub(crate) fn says(&self, part: &str) -> &Self {
        assert!(self.text.contains(part), "no {part:?} in\n{}", self.text);
        self
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in\n{}", self.text))
    }
}
