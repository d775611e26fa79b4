//! Dying on purpose, in debug builds only: a file named by `SHARECTL_SHAREFS_DIE` with `POINT N` kills each
//! worker that finds it at that point of its Nth request and those behind. For tests, which want a death at every point and
//! not only at those that a `kill` from outside happens to hit.

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// It is ours, and nothing is done of it.
    Taken,
    /// It is done, and nobody knows.
    Done,
    /// Its answer is written down, and the guest is not told.
    Answered,
    /// The guest is told, and it is not crossed out.
    Told,
}

/// Deaths before this would be those of workers that cannot live (`enter`), of which few are borne.
pub(crate) fn begin() {
    #[cfg(debug_assertions)]
    BEGUN.store(true, std::sync::atomic::Ordering::Release);
}

#[cfg(debug_assertions)]
static BEGUN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[cfg(debug_assertions)]
pub(crate) fn at(point: Point) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static WANTED: LazyLock<Option<(Point, u64)>> = LazyLock::new(|| {
        let text = std::fs::read_to_string(std::env::var_os("SHARECTL_SHAREFS_DIE")?).ok()?;
        let (point, count) = text.trim().split_once(' ')?;
        let point = match point {
            "taken" => Point::Taken,
            "done" => Point::Done,
            "answered" => Point::Answered,
            "told" => Point::Told,
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
