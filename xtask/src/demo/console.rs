//! A person's terminal joined to the guest's first serial port, until Ctrl-] or the guest's end.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tests::guest::Guest;

use crate::ui::{self, Style};

/// What telnet and virsh use too.
const CTRL_CLOSING_BRACKET: u8 = 0x1d;

/// Joins them; the terminal is as it was afterwards.
pub(super) fn attach(guest: &Guest) -> Result<()> {
    let socket = guest.console();
    let serial =
        UnixStream::connect(&socket).with_context(|| format!("connect to {}", socket.display()))?;
    ui::line(&ui::paint(
        Style::Notice,
        "The guest's console: Enter for a prompt, `poweroff -f` or Ctrl-] to end the demo.",
    ));
    let raw = Raw::enter()?;
    let outcome = join(serial);
    drop(raw);
    ui::line("");
    outcome
}

fn join(mut serial: UnixStream) -> Result<()> {
    let mut keyboard = std::io::stdin().lock();
    let mut screen = std::io::stdout().lock();
    let mut buffer = [0; 8192];
    loop {
        let (keys, output) = {
            let mut ready = [
                PollFd::new(&keyboard, PollFlags::IN),
                PollFd::new(&serial, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("poll"),
            }
            let [keys, output] = ready.map(|descriptor| !descriptor.revents().is_empty());
            (keys, output)
        };
        if output {
            let length = serial.read(&mut buffer).unwrap_or(0);
            if length == 0 {
                return Ok(());
            }
            screen.write_all(buffer.get(..length).unwrap_or_default())?;
            screen.flush()?;
        }
        if keys {
            let length = keyboard.read(&mut buffer)?;
            let typed = buffer.get(..length).unwrap_or_default();
            if typed.is_empty() || typed.contains(&CTRL_CLOSING_BRACKET) {
                return Ok(());
            }
            serial.write_all(typed)?;
        }
    }
}

/// The terminal without echo, line editing and signals; as it was when dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).context("read the terminal's modes")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).context("set the terminal raw")?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal is gone then.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.before);
    }
}
