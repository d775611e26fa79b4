//! Another try to reach a daemon's socket: when it appears, and ever more rarely without that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use control::names::SourceName;
use tokio::sync::mpsc;

use super::{News, Said};
use control::watch::Watcher;

/// The first and the longest pause before another try.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The pauses between tries.
pub(super) struct Again {
    socket: PathBuf,
    pause: Duration,
    watcher: Option<Watcher>,
}

impl Again {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            pause: PAUSES.0,
            watcher: None,
        }
    }

    /// The connection worked: the next failure is the first one again.
    pub(super) fn worked(&mut self) {
        self.pause = PAUSES.0;
    }

    /// Tells that the source is away for `reason`, and waits until another try may be worth it;
    /// none: nobody reads the news any more.
    pub(super) async fn wait(
        &mut self,
        source: &SourceName,
        reason: String,
        news: &mpsc::Sender<News>,
    ) -> Option<()> {
        let away = News {
            source: source.clone(),
            said: Said::Away(reason),
        };
        news.send(away).await.ok()?;
        let mut watcher = self.watcher.take().or_else(|| Watcher::new().ok());
        if let Some(watching) = &mut watcher
            && watching.follow(&self.socket).is_err()
        {
            watcher = None;
        }
        tokio::select! {
            () = tokio::time::sleep(self.pause) => {
                self.pause = (self.pause * 2).min(PAUSES.1);
                self.watcher = watcher;
            }
            outcome = changed(&mut watcher) => {
                // The socket is there a moment before somebody listens on it.
                tokio::time::sleep(PAUSES.0 / 10).await;
                self.pause = PAUSES.0;
                self.watcher = watcher.filter(|_| outcome.is_ok());
            }
            () = news.closed() => return None,
        }
        Some(())
    }
}

/// Waits for the socket to appear; for ever, where it cannot be watched.
async fn changed(watcher: &mut Option<Watcher>) -> std::io::Result<()> {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}
