//! Folders that are opened beside each other, since one may lie in a mount that is served only when another is open.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Opens all of them, each in a thread of its own, and has `done` go on with each as soon as it is open, which may be
/// what others wait for. Returns those that were not opened when for so long nothing came of any; whoever opens them
/// may wait on.
pub(super) fn in_any_order<K, T: Send + 'static>(
    all: impl IntoIterator<Item = (K, impl FnOnce() -> T + Send + 'static)>,
    patience: Duration,
    mut done: impl FnMut(K, T),
) -> Vec<K> {
    let mut waiting = Vec::new();
    let all: Vec<_> = all.into_iter().collect();
    let (tell, opened) = sync_channel(all.len());
    for (number, (key, open)) in all.into_iter().enumerate() {
        let tell = tell.clone();
        let work = move || {
            // Nobody hears of what comes too late.
            tell.send((number, open())).ok();
        };
        let thread = std::thread::Builder::new().name("open".to_owned());
        if let Err(error) = thread.spawn(work) {
            tracing::warn!(%error, "no thread to open a folder");
        }
        waiting.push(Some(key));
    }
    drop(tell);
    while let Ok((number, result)) = opened.recv_timeout(patience) {
        if let Some(key) = waiting.get_mut(number).and_then(Option::take) {
            done(key, result);
        }
    }
    waiting.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_waits_for_another_is_opened_behind_it_in_whatever_order_they_come() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            // The first waits for nobody, each other for what is done with the one before.
            let (mut tell, mut told): (Vec<_>, Vec<_>) =
                (0..3).map(|_| sync_channel::<()>(1)).unzip();
            tell[0].send(()).unwrap();
            let mut all: Vec<_> = told
                .drain(..)
                .map(|told| Some(move || told.recv_timeout(LONG)))
                .collect();
            let all = order.map(|number| (number, all[number].take().unwrap()));
            let mut came = Vec::new();
            let left = in_any_order(all, LONG, |number: usize, result| {
                result.unwrap();
                came.push(number);
                if let Some(next) = tell.get(number + 1) {
                    next.send(()).unwrap();
                }
            });
            assert_eq!((came, left), (vec![0, 1, 2], vec![]));
            tell.clear();
        }
    }

    #[test]
    fn what_waits_for_ever_is_left_and_keeps_nobody() {
        let (end, ended) = sync_channel::<()>(1);
        let mut all: Vec<(_, Box<dyn FnOnce() + Send>)> = vec![(
            "stuck",
            Box::new(move || assert!(ended.recv_timeout(LONG).is_err())),
        )];
        all.push(("opened", Box::new(|| ())));
        let mut came = Vec::new();
        let left = in_any_order(all, Duration::from_millis(200), |key, ()| came.push(key));
        assert_eq!((came, left), (vec!["opened"], vec!["stuck"]));
        drop(end);
    }
}
