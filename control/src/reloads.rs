//! Reloads of a daemon: one after the other, and none behind its stop.
//!
//! A reload may be asked for by a request, by a signal and by a change of the files, and each may still be on its way
//! when the daemon stops. Nothing would take away what it makes then.

use tokio::sync::{Mutex, MutexGuard};

use crate::failure::{Failure, FailureKind};

/// Whose turn it is.
#[derive(Debug, Default)]
pub struct Reloads {
    is_over: Mutex<bool>,
}

/// Its holder may read the configuration and make it run: what is read first is applied first.
#[derive(Debug)]
#[must_use]
pub struct Turn<'r> {
    _others: MutexGuard<'r, bool>,
}

impl Reloads {
    /// Waits until the reloads before are done.
    ///
    /// # Errors
    /// When the daemon stops.
    pub async fn turn(&self) -> Result<Turn<'_>, Failure> {
        Turn::of(self.is_over.lock().await)
    }

    /// As [`Reloads::turn`], for a thread that may wait: not one of an asynchronous runtime, where this panics.
    ///
    /// # Errors
    /// When the daemon stops.
    pub fn blocking_turn(&self) -> Result<Turn<'_>, Failure> {
        Turn::of(self.is_over.blocking_lock())
    }

    /// The daemon stops: the reload that is under way is waited for, and no other begins.
    pub async fn end(&self) {
        *self.is_over.lock().await = true;
    }
}

impl<'r> Turn<'r> {
    fn of(is_over: MutexGuard<'r, bool>) -> Result<Self, Failure> {
        if *is_over {
            let message = "the configuration is not read again: the daemon stops";
            return Err(
                Failure::new(FailureKind::NotRunning, message).with_hint("sharectl up starts it")
            );
        }
        Ok(Self { _others: is_over })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_end_waits_for_the_reload_under_way_and_refuses_those_behind() {
        let reloads = Arc::new(Reloads::default());
        drop(reloads.turn().await.unwrap());
        let under_way = reloads.turn().await.unwrap();
        let ending = tokio::spawn({
            let reloads = Arc::clone(&reloads);
            async move { reloads.end().await }
        });
        let behind = tokio::task::spawn_blocking({
            let reloads = Arc::clone(&reloads);
            move || {
                // Until the end has come: whoever is before it has a turn like any other.
                while reloads.blocking_turn().is_ok() {
                    std::thread::yield_now();
                }
            }
        });
        tokio::task::yield_now().await;
        assert!(!ending.is_finished() && !behind.is_finished());
        drop(under_way);
        ending.await.unwrap();
        behind.await.unwrap();
        let refused = reloads.turn().await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::NotRunning);
    }
}
