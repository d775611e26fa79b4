//! The machine that paths are translated on: its own mounts, files and name, or those of a case that is replayed.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use control::config::{Config, Surroundings};
use control::names::GuestName;
use control::translation::mountinfo::MountTable;
use control::translation::wsl_conf::WslConf;
use control::translation::{Base, Files, Machine, NoFiles, TranslationError, View};

use crate::context::Context;
use crate::error::{CliError, Outcome};

/// A table of mounts has some hundred bytes a mount.
const LARGEST_FILE: u64 = 16 << 20;
/// This process's own.
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Another machine's files, for a case that is replayed.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct MachineArgs {
    /// Another machine's /proc/self/mountinfo; then nothing is looked up on this one
    #[arg(long, value_name = "FILE")]
    mountinfo: Option<PathBuf>,
    /// Another machine's /etc/wsl.conf
    #[arg(long, value_name = "FILE")]
    wsl_conf: Option<PathBuf>,
    /// The name of the WSL distribution, instead of $WSL_DISTRO_NAME
    #[arg(long, value_name = "NAME")]
    distro: Option<String>,
}

/// The host as translation needs it.
pub(crate) struct Host {
    pub machine: Machine,
    files: Box<dyn Files>,
    folder: Option<PathBuf>,
    replayed: bool,
}

/// The files of this machine.
struct RealFiles;

impl Files for RealFiles {
    fn real(&self, path: &Path) -> Option<PathBuf> {
        path.canonicalize().ok()
    }
    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }
}

impl Host {
    pub(crate) fn new(args: MachineArgs) -> Outcome<Self> {
        let replayed = args.mountinfo.is_some();
        let mounts = match &args.mountinfo {
            Some(file) => MountTable::parse(&read(file)?),
            // Without /proc there are no Windows drives either.
            None => MountTable::parse(&read(Path::new(MOUNTINFO)).unwrap_or_default()),
        };
        let conf = match (&args.wsl_conf, replayed) {
            (Some(file), _) => read(file)?,
            (None, false) => read(Path::new(WslConf::PLACE)).unwrap_or_default(),
            (None, true) => Vec::new(),
        };
        let wsl = WslConf::parse(&String::from_utf8_lossy(&conf));
        let own = || {
            std::env::var("WSL_DISTRO_NAME")
                .ok()
                .filter(|name| !name.is_empty())
        };
        let distro = match args.distro {
            None if !replayed => own(),
            named => named,
        };
        Ok(Self {
            machine: Machine::new(mounts, wsl, distro),
            files: if replayed {
                Box::new(NoFiles)
            } else {
                Box::new(RealFiles)
            },
            folder: current_folder(),
            replayed,
        })
    }

    /// The configuration as it means on this machine.
    pub(crate) fn config(&self, context: &Context) -> Outcome<Config> {
        if !self.replayed {
            return context.config();
        }
        let around = Surroundings {
            drives: self.machine.drives(),
            ..Surroundings::of_process()
        };
        Ok(Config::load_in(&context.paths.config, &around)?)
    }

    pub(crate) fn base(&self) -> Base<'_> {
        Base {
            machine: &self.machine,
            files: self.files.as_ref(),
            folder: self.folder.as_deref(),
        }
    }
}

/// The view of the guest that was named, which has to be there.
pub(crate) fn view<'c>(
    context: &Context,
    config: &'c Config,
    guest: Option<&GuestName>,
) -> Outcome<View<'c>> {
    let guest = guest.map(|name| context.guest(config, name)).transpose()?;
    Ok(View::new(config, guest.map(|guest| &guest.name)))
}

/// As the shell calls it, where that is the same folder: links on the way stay.
fn current_folder() -> Option<PathBuf> {
    let real = std::env::current_dir().ok();
    let called = std::env::var_os("PWD")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let same = |one: &Path, other: &Path| {
        let (one, other) = (one.metadata().ok()?, other.metadata().ok()?);
        ((one.dev(), one.ino()) == (other.dev(), other.ino())).then_some(())
    };
    match (called, &real) {
        (Some(called), Some(real)) if same(&called, real).is_some() => Some(called),
        _ => real,
    }
}

/// The bytes of a file that is not larger than any of its kind.
pub(crate) fn read(file: &Path) -> Outcome<Vec<u8>> {
    let failed = |error: io::Error| {
        CliError::failure(
            format!("cannot read {}: {error}", file.display()),
            "give a file that is there and yours to read",
        )
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {LARGEST_FILE} bytes"),
        )));
    }
    Ok(bytes)
}

/// Bytes as this system's text.
pub(crate) fn text(bytes: Vec<u8>) -> OsString {
    OsString::from_vec(bytes)
}

/// This system's text as bytes.
pub(crate) fn bytes(text: &std::ffi::OsStr) -> &[u8] {
    text.as_bytes()
}

impl From<TranslationError> for CliError {
    fn from(error: TranslationError) -> Self {
        Self::failure(error.to_string(), error.hint())
    }
}
