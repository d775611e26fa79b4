//! Dying on purpose, in debug builds only: a file named by `SHARECTL_SHAREFS_DIE` with `POINT N` kills each
//! worker that finds it at that point of its Nth request, or its Nth store, and those behind. For tests, which want a death at every point and
//! not only at those that a `kill` from outside happens to hit. Of several lines each is for one worker, and the first
//! again behind the last: so a request can be killed at one point, and at another when it is done again.
//!
//! And between any two stores of a row (`dead_after`), in tests of one process: the stores behind do not happen.

#[cfg(debug_assertions)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// It is ours, and nothing is done of it.
    Taken,
    /// A part of a write is to be done, and its end has not come.
    Part,
    /// It is done, and nobody knows.
    Done,
    /// Its answer is written down, and the guest is not told.
    Answered,
    /// The guest is told, and it is not crossed out.
    Told,
    /// Before a store into a row (`store`).
    Stored,
    /// A lock that is waited for is asked for again.
    Retried,
    /// The slow lane of a 9P connection is at it.
    Slow,
}

/// Deaths before this would be those of workers that cannot live (`enter`), of which few are borne.
pub(crate) fn begin() {
    #[cfg(debug_assertions)]
    BEGUN.store(true, Ordering::Release);
}

#[cfg(debug_assertions)]
static BEGUN: AtomicBool = AtomicBool::new(false);

#[cfg(debug_assertions)]
pub(crate) fn at(point: Point) {
    use std::sync::LazyLock;
    static WANTED: LazyLock<Option<(Point, u64)>> = LazyLock::new(|| {
        let text = std::fs::read_to_string(std::env::var_os("SHARECTL_SHAREFS_DIE")?).ok()?;
        let lines: Vec<&str> = text.lines().collect();
        // Each death is followed by another worker, and counted.
        let turn = usize::try_from(super::numbers().restarts).ok()?;
        let line = lines.get(turn.checked_rem(lines.len())?)?;
        let (point, count) = line.trim().split_once(' ')?;
        let point = match point {
            "taken" => Point::Taken,
            "part" => Point::Part,
            "done" => Point::Done,
            "answered" => Point::Answered,
            "told" => Point::Told,
            "stored" => Point::Stored,
            "retried" => Point::Retried,
            "slow" => Point::Slow,
            _ => return None,
        };
        Some((point, count.parse().ok()?))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);
    if let Some((wanted, count)) = *WANTED
        && wanted == point
        && BEGUN.load(Ordering::Acquire)
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 >= count
    {
        // Other threads get no further either. At once, without any destructor; kill(2) is not for a confined thread.
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
pub(crate) fn at(_: Point) {}

/// A store into memory that outlives this process.
pub(super) fn store(word: &AtomicU64, value: u64) {
    #[cfg(test)]
    if !tests::lives_on() {
        return;
    }
    at(Point::Stored);
    word.store(value, Ordering::Release);
}

#[cfg(test)]
pub(crate) use tests::dead_after;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    thread_local! {
        /// Stores that are left, while they are counted, and whether there was one more.
        static STORES: Cell<Option<usize>> = const { Cell::new(None) };
        static DIED: Cell<bool> = const { Cell::new(false) };
    }

    /// Does `work` as a thread whose process dies behind so many stores. Whether it died.
    pub(crate) fn dead_after(stores: usize, work: impl FnOnce()) -> bool {
        STORES.set(Some(stores));
        DIED.set(false);
        work();
        STORES.set(None);
        DIED.get()
    }

    pub(super) fn lives_on() -> bool {
        match STORES.get() {
            Some(0) => {
                DIED.set(true);
                false
            }
            Some(left) => {
                STORES.set(Some(left - 1));
                true
            }
            None => true,
        }
    }
}
