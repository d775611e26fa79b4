//! Following one file of the host however it is replaced: by rename, behind a symlink, rewritten in place
//! (a file that is bind-mounted cannot be replaced otherwise).

use std::path::Path;
use std::time::Duration;

use crate::services::inotify::FolderWatch;

/// Writers truncate first and write then; and several files change at once.
const SETTLE: Duration = Duration::from_millis(50);

/// Calls `look` now and after each change, until `end`; `what` is for the log.
pub async fn follow(path: &Path, what: &str, look: impl Fn(&Path), end: impl Future<Output = ()>) {
    let watch = match FolderWatch::new() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(%error, "cannot follow {what}; those of now stay until a restart");
            return;
        }
    };
    let mut end = std::pin::pin!(end);
    loop {
        // Watch first, look then: a change between the two is seen.
        add_watches(&watch, path);
        look(path);
        tokio::select! {
            outcome = watch.changed() => {
                if let Err(error) = outcome {
                    tracing::warn!(%error, "cannot follow {what} any more");
                    return;
                }
                tokio::time::sleep(SETTLE).await;
            }
            () = &mut end => return,
        }
    }
}

/// The file itself, its folder, and at each symlink the folder that the next step lies in.
fn add_watches(watch: &FolderWatch, path: &Path) {
    let mut path = path.to_owned();
    // As many links as the kernel follows.
    for _ in 0..40 {
        let parent = path.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        watch.add(&parent).ok();
        match std::fs::read_link(&path) {
            Ok(target) => path = parent.join(target),
            Err(_) => break,
        }
    }
    // Absent at the moment: its folder will tell.
    watch.add(&path).ok();
}
