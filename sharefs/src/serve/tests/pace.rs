//! How long a request takes, from its kick to the answer, the guest asleep meanwhile.
//!
//! Figures are printed (`cargo test --release -p sharefs pace -- --nocapture`); what fails is a pace that no
//! busy machine explains. `SHAREFS_PACE_SOCKET` names another server's socket to be measured instead:
//! its share must hold a file `a` of 4 MiB.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::frontend::{Descriptor, Frontend};
use super::{Place, init, request, u64_at};

/// Requests measured of each kind.
const ROUNDS: usize = 2000;
/// Ten times what the slowest of them takes unoptimised on two busy cores.
const MUCH_TOO_LONG: Duration = Duration::from_millis(50);
const DATA: u64 = 0x80_0000;

#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn requests_are_answered_at_a_sane_pace() {
    let place = Place::new();
    std::fs::write(place.folder.path().join("share/a"), vec![7; 4 << 20]).unwrap();
    let other = std::env::var_os("SHAREFS_PACE_SOCKET").map(PathBuf::from);
    let socket = other.as_deref().unwrap_or(&place.socket);
    let mut frontend = Frontend::start(socket);
    frontend.ask(&init(), 80);
    let node = u64_at(&frontend.ask(&request(2, 1, 1, b"a\0"), 144), 16);
    let handle = u64_at(
        &frontend.ask(&request(3, 14, node, &[2, 0, 0, 0, 0, 0, 0, 0]), 32),
        16,
    );

    let data = |write: bool, size: u32| {
        let mut body = handle.to_le_bytes().to_vec();
        body.extend([0; 8]);
        body.extend(size.to_le_bytes());
        body.extend([0; 20]);
        let mut bytes = request(5, if write { 16 } else { 15 }, node, &body);
        let whole = u32::try_from(bytes.len()).unwrap() + if write { size } else { 0 };
        bytes[..4].copy_from_slice(&whole.to_le_bytes());
        bytes
    };
    let kinds: [(&str, Vec<u8>, u32, u32); 7] = [
        ("GETATTR", request(5, 3, node, &[0; 16]), 0, 120),
        ("LOOKUP", request(5, 1, 1, b"a\0"), 0, 144),
        ("STATFS", request(5, 17, 1, &[]), 0, 96),
        ("READ 4 KiB", data(false, 4096), 0, 16 + 4096),
        ("WRITE 4 KiB", data(true, 4096), 4096, 24),
        ("READ 1 MiB", data(false, 1 << 20), 0, 16 + (1 << 20)),
        ("WRITE 1 MiB", data(true, 1 << 20), 1 << 20, 24),
    ];
    for (name, bytes, more, room) in kinds {
        let chain = frontend.chain(&bytes, room);
        let with_data = [
            chain[0],
            Descriptor {
                address: DATA,
                length: more,
                flags: 1,
                next: 2,
            },
            Descriptor {
                next: 0,
                ..chain[1]
            },
        ];
        let chain = if more > 0 { &with_data[..] } else { &chain[..] };
        let mut times: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let begin = now();
                assert!(frontend.ask_again(chain) > 16, "{name}");
                begin.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!(
            "{name:12} p50 {:?} p99 {:?}",
            times[ROUNDS / 2],
            times[ROUNDS / 100 * 99]
        );
        assert!(times[ROUNDS / 2] < MUCH_TOO_LONG, "{name}");
    }
}
