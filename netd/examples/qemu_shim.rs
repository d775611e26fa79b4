//! Plays QEMU between a guest's tap and a `-netdev stream` socket, for `cargo xtask bench net`: run inside the
//! guest's namespace, `qemu_shim SOCKET INTERFACE` makes the interface and copies frames until its standard input ends.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

/// A frame and its length.
const FRAME: usize = 4 + 65_535 + 18;
/// How often a socket that is not there yet is tried, a tenth of a second apart.
const TRIES: u32 = 100;

#[expect(
    clippy::print_stdout,
    reason = "the line that says ready is what its caller waits for"
)]
fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(path), Some(interface)) = (words.next(), words.next()) else {
        anyhow::bail!("usage: qemu_shim SOCKET INTERFACE");
    };
    let tap = netd::sys::open_tap(&interface, false)
        .with_context(|| format!("open the tap {interface}"))?;
    // Made non-blocking for a daemon; here two threads wait.
    rustix::io::ioctl_fionbio(&tap, false)?;
    let socket = connect(Path::new(&path))?;
    copy_frames(tap, &socket)?;
    println!("ready");
    // Its end is the only news that comes here.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn connect(path: &Path) -> anyhow::Result<UnixStream> {
    let mut tries = 0;
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => return Ok(socket),
            Err(_not_yet) if tries < TRIES => tries += 1,
            Err(error) => {
                return Err(error).with_context(|| format!("connect to {}", path.display()));
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One frame a read and a write on the tap's side, as in QEMU; the socket is read ahead.
fn copy_frames(tap: OwnedFd, socket: &UnixStream) -> anyhow::Result<()> {
    let mut to_socket = socket.try_clone()?;
    let mut from_socket = std::io::BufReader::with_capacity(1 << 18, socket.try_clone()?);
    let mut reader = std::fs::File::from(tap);
    let mut writer = reader.try_clone()?;
    std::thread::spawn(move || -> anyhow::Result<()> {
        let mut buffer = vec![0; FRAME];
        loop {
            let length = reader.read(&mut buffer[4..])?;
            buffer[..4].copy_from_slice(&u32::try_from(length)?.to_be_bytes());
            to_socket.write_all(&buffer[..4 + length])?;
        }
    });
    std::thread::spawn(move || -> anyhow::Result<()> {
        let mut buffer = vec![0; FRAME];
        loop {
            let mut prefix = [0; 4];
            from_socket.read_exact(&mut prefix)?;
            let length = u32::from_be_bytes(prefix) as usize;
            let frame = buffer.get_mut(..length).context("an impossible length")?;
            from_socket.read_exact(frame)?;
            // An interface that is down loses the frame, as a cable would.
            writer.write_all(frame).ok();
        }
    });
    Ok(())
}
