//! The daemons that ours is compared with, started as their own documentation has it for root.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Server, VIRTIOFSD};
use crate::limit::wait_for;
use crate::packages::Need;

/// The 9P daemon to compare with; its package starts no service by itself.
pub const DIOD: Need = Need {
    program: "diod",
    package: "diod",
};

const READY_LIMIT: Duration = Duration::from_secs(10);

/// A daemon that is not of this project, and where it is reached.
#[derive(Debug)]
pub(super) enum Peer {
    Virtiofsd {
        _child: Running,
        socket: PathBuf,
    },
    Diod {
        _child: Running,
        port: u16,
        folder: PathBuf,
    },
}

/// Killed when dropped.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended with the guest.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Peer {
    /// The daemon that shares `folder`, with its socket and log beside `name`; None where ours does it.
    pub(super) fn of(server: Server, name: &Path, folder: &Path) -> Result<Option<Self>> {
        match server {
            Server::Sharefs
            | Server::SharefsWriteback
            | Server::SharefsOfUser
            | Server::Ninep
            | Server::Qemu => Ok(None),
            Server::Virtiofsd => virtiofsd(name, folder).map(Some),
            Server::Diod => diod(name, folder).map(Some),
        }
    }
}

fn virtiofsd(name: &Path, folder: &Path) -> Result<Peer> {
    let socket = name.with_extension("sock");
    let mut line = Command::new(VIRTIOFSD.installed()?);
    line.arg("--socket-path")
        .arg(&socket)
        .arg("--shared-dir")
        .arg(folder)
        .args(["--sandbox", "none", "--xattr"]);
    let mut child = start(&mut line, name)?;
    wait_for("virtiofsd's socket", READY_LIMIT, || {
        child.runs()?;
        Ok(socket.exists().then_some(()))
    })?;
    Ok(Peer::Virtiofsd {
        _child: child,
        socket,
    })
}

fn diod(name: &Path, folder: &Path) -> Result<Peer> {
    // Free a moment ago; diod takes no socket that is open already for more than one client.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    let program = crate::packages::find(DIOD.program).context("diod is not installed")?;
    let mut line = Command::new(program);
    line.args(["--foreground", "--no-auth"])
        .args(["--config-file", "/dev/null", "--logdest", "stderr"])
        .args(["--listen", &format!("127.0.0.1:{port}"), "--export"])
        .arg(folder);
    let mut child = start(&mut line, name)?;
    wait_for("diod's port", READY_LIMIT, || {
        child.runs()?;
        Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok())
    })?;
    Ok(Peer::Diod {
        _child: child,
        port,
        folder: folder.to_owned(),
    })
}

fn start(line: &mut Command, name: &Path) -> Result<Running> {
    let log = name.with_extension("log");
    line.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(log)?);
    let child = line
        .spawn()
        .with_context(|| format!("start {}", crate::command::shown(line)))?;
    Ok(Running(child))
}

impl Running {
    fn runs(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("it ended: {status}"),
            None => Ok(()),
        }
    }
}
