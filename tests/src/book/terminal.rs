//! A command that draws on a terminal: run in tmux by the reader's shell, looked at, and ended by `q`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::chapter::shows;
use super::shell::{Said, Shell};
use crate::limit::retry;

/// Columns and lines of the reader's terminal.
const SIZE: &str = "-x 100 -y 36";
/// The reader's own server of tmux, without settings.
const TMUX: &str = "LC_ALL=C.UTF-8 TERM=xterm-256color tmux -u -f /dev/null -S ~/.tmux.sock";

/// Runs it until its screen has what is expected; the screen.
pub(super) fn look(
    shell: &mut Shell,
    (text, expected): (&str, &str),
    limit: Duration,
) -> Result<String> {
    let line = format!("{text}; echo \"ended with $?\"; cat").replace('\'', r"'\''");
    done(
        shell,
        &format!("{TMUX} new-session -d {SIZE} '{line}'"),
        limit,
    )?;
    let screen = retry("the screen", limit, || screen(shell, expected, limit));
    if screen.is_ok() {
        done(shell, &format!("{TMUX} send-keys q"), limit)?;
        retry("its end", limit, || {
            self::screen(shell, "ended with 0", limit)
        })?;
    }
    done(shell, &format!("{TMUX} kill-server"), limit)?;
    screen
}

fn screen(shell: &mut Shell, expected: &str, limit: Duration) -> Result<String> {
    let screen = done(shell, &format!("{TMUX} capture-pane -p"), limit)?;
    ensure!(
        shows(&screen, expected),
        "shown is\n{expected}\nand on the screen is\n{screen}"
    );
    Ok(screen)
}

fn done(shell: &mut Shell, line: &str, limit: Duration) -> Result<String> {
    let Said { status, text } = shell.run(line, limit).context("the terminal")?;
    ensure!(status == 0, "{line}: status {status}\n{text}");
    Ok(text)
}
