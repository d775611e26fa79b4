//! What may take for ever (a program, a call into the kernel), done within a time.

use std::process::Stdio;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

/// What a program did within its time.
#[derive(Debug)]
pub(crate) enum Ran {
    Ended(std::process::Output),
    /// It was killed.
    TooLong,
    /// It cannot be started.
    Not(std::io::Error),
}

/// Runs a program; after `limit` it is killed and no longer waited for.
pub(crate) fn run(command: std::process::Command, limit: Duration) -> Ran {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Ran::Not(error),
    };
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    match runtime.block_on(async { tokio::time::timeout(limit, command.output()).await }) {
        Ok(Ok(output)) => Ran::Ended(output),
        Ok(Err(error)) => Ran::Not(error),
        Err(_) => Ran::TooLong,
    }
}

/// The answer of something that may hang for ever in the kernel; none after `limit`.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = sync_channel(1);
    let begun = thread::Builder::new().spawn(move || {
        // Nobody waits any more after the limit.
        tell.send(look()).ok();
    });
    begun.ok()?;
    told.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_not_waited_for() {
        let mut sleeper = Command::new("sleep");
        sleeper.arg("30");
        assert!(matches!(
            run(sleeper, Duration::from_millis(100)),
            Ran::TooLong
        ));
        let said = run(Command::new("true"), Duration::from_secs(20));
        assert!(matches!(said, Ran::Ended(output) if output.status.success()));
        assert!(matches!(
            run(Command::new("/nowhere"), Duration::from_secs(1)),
            Ran::Not(_)
        ));
    }

    #[test]
    fn a_look_that_hangs_is_given_up() {
        let (_held, never) = sync_channel::<()>(0);
        let look = move || never.recv().is_ok();
        assert_eq!(within(Duration::from_millis(50), look), None);
        assert_eq!(within(Duration::from_secs(20), || 7), Some(7));
    }
}
