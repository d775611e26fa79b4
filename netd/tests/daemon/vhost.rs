//! vhost-user as a VMM speaks it: frames both ways, stopping and starting, and VMMs and guests that lie. Each lie ends
//! its own session at most; the guest of the other session is asked after each.

use std::os::fd::AsFd;

use crate::daemon::{Netd, wait_for};
use crate::guests::DEV;
use crate::vhost_frontend::*;

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "10.77.4.0/24"
dns = ["127.0.0.1:9"]

[guest.dev]
mac = "52:54:00:00:00:01"
address = "10.77.4.9"

[guest.other]
mac = "52:54:00:00:00:02"
address = "10.77.4.10"
"#;
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

fn start() -> (Netd, std::path::PathBuf, std::path::PathBuf) {
    let netd = Netd::start(CONFIG);
    let socket = |name: &str| {
        let guest = control::names::GuestName::parse(name).unwrap();
        netd.paths().guest_vhost_socket(&guest)
    };
    let (dev, other) = (socket("dev"), socket("other"));
    (netd, dev, other)
}

/// Who has 10.77.4.1?
fn question(mac: [u8; 6], host: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend([10, 77, 4, host, 0, 0, 0, 0, 0, 0, 10, 77, 4, 1]);
    frame
}

/// The gateway answers.
fn works(frontend: &mut Frontend, mac: [u8; 6], host: u8) {
    frontend.send(&question(mac, host));
    loop {
        let frame = frontend.receive();
        // The other's questions are heard, too.
        if frame[12..14] == [8, 6] && frame[20..22] == [0, 2] {
            assert_eq!(frame[..6], mac);
            assert_eq!(frame[28..32], [10, 77, 4, 1]);
            return;
        }
    }
}

#[test]
fn frames_cross_and_rings_stop_and_start_where_they_stood() {
    let (netd, dev, _) = start();
    let mut frontend = Frontend::start(&dev);
    works(&mut frontend, DEV, 9);
    works(&mut frontend, DEV, 9);
    assert_eq!(frontend.stop_ring(1), 2);
    frontend.set_ring(1, places(1));
    frontend.say(SET_VRING_BASE, &pair(1, 2), &[]);
    frontend.restart_ring(1);
    works(&mut frontend, DEV, 9);
    netd.assert_well();
}

#[test]
fn a_large_frame_comes_in_merged_buffers_at_once() {
    let (netd, dev, other) = start();
    let (mut one, mut two) = (Frontend::start(&dev), Frontend::start(&other));
    works(&mut one, DEV, 9);
    works(&mut two, OTHER, 10);
    let mut frame = [OTHER, DEV].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend((0..60_000_u32).flat_map(|n| [n.to_le_bytes()[0]]));
    one.send(&frame);
    loop {
        let got = two.receive();
        if got[12..14] == [0x88, 0xb5] {
            assert_eq!(got, frame);
            break;
        }
    }
    netd.assert_well();
}

#[test]
fn chains_that_lie_cost_only_the_frame() {
    let (netd, dev, other) = start();
    let mut witness = Frontend::start(&other);
    let table = places(1).descriptors;
    let plain = Descriptor {
        address: 0x80_0000,
        length: 64,
        flags: 0,
        next: 0,
    };
    let lies: &[&[Descriptor]] = &[
        // Memory that is not there, or ends too early, or wraps around.
        &[Descriptor {
            address: 1 << 40,
            ..plain
        }],
        &[Descriptor {
            address: (16 << 20) - 8,
            ..plain
        }],
        &[Descriptor {
            address: u64::MAX - 7,
            ..plain
        }],
        // Longer than any frame.
        &[Descriptor {
            length: u32::MAX,
            ..plain
        }],
        &[Descriptor {
            length: 4 << 20,
            ..plain
        }],
        // Nothing, and less than a header.
        &[Descriptor { length: 0, ..plain }],
        &[Descriptor { length: 7, ..plain }],
        // A loop of one, a loop of two, a next that is not there.
        &[Descriptor {
            flags: 1,
            next: 0,
            ..plain
        }],
        &[
            Descriptor {
                flags: 1,
                next: 1,
                ..plain
            },
            Descriptor {
                flags: 1,
                next: 0,
                ..plain
            },
        ],
        &[Descriptor {
            flags: 1,
            next: 0xffff,
            ..plain
        }],
        &[Descriptor {
            flags: 1,
            next: 0,
            length: 0,
            ..plain
        }],
        // Room for the device where bytes should be.
        &[Descriptor { flags: 2, ..plain }],
        // A table that is itself, that has an odd length, that has no entry, that is not there.
        &[Descriptor {
            address: table,
            length: 16,
            flags: 4,
            next: 0,
        }],
        &[Descriptor {
            address: table,
            length: 17,
            flags: 4,
            next: 0,
        }],
        &[Descriptor {
            address: table,
            length: 0,
            flags: 4,
            next: 0,
        }],
        &[Descriptor {
            address: 1 << 40,
            length: 160,
            flags: 4,
            next: 0,
        }],
    ];
    for lie in lies {
        let mut liar = Frontend::start(&dev);
        for (index, descriptor) in (0..).zip(*lie) {
            liar.describe(table, index, *descriptor);
        }
        liar.submit(1, 0);
        liar.submit(1, 0xfff0);
        drop(liar);
        let mut after = Frontend::start(&dev);
        works(&mut after, DEV, 9);
        works(&mut witness, OTHER, 10);
    }
    netd.assert_well();
}

#[test]
fn a_vmm_that_lies_ends_only_its_own_session() {
    let (netd, dev, other) = start();
    let mut witness = Frontend::start(&other);
    let lies: &[&dyn Fn(&Frontend)] = &[
        &|liar| liar.say(SET_FEATURES, &u64::MAX.to_le_bytes(), &[]),
        &|liar| liar.share_memory(u64::MAX),
        &|liar| liar.share_memory(1 << 60),
        &|liar| liar.say(SET_VRING_NUM, &pair(0, 3), &[]),
        &|liar| liar.say(SET_VRING_NUM, &pair(0, 0x1_0000), &[]),
        &|liar| liar.say(SET_VRING_NUM, &pair(77, 64), &[]),
        &|liar| liar.say(SET_VRING_BASE, &pair(0, u32::MAX), &[]),
        // A ring outside of the memory, a ring at an odd place, a ring before any memory.
        &|liar| {
            liar.share_memory(1 << 20);
            liar.start_ring(
                1,
                Places {
                    descriptors: 0xf_fff0,
                    ..places(1)
                },
            );
        },
        &|liar| {
            liar.share_memory(1 << 20);
            liar.start_ring(
                1,
                Places {
                    used: 0x101,
                    ..places(1)
                },
            );
        },
        &|liar| liar.start_ring(1, places(1)),
        // Descriptors that are none of an eventfd.
        &|liar| {
            liar.share_memory(1 << 20);
            liar.set_ring(1, places(1));
            let number = 1_u64.to_le_bytes();
            liar.say(SET_VRING_KICK, &number, &[liar.socket.as_fd()]);
        },
        &|liar| liar.say(SET_VRING_KICK, &0x101_u64.to_le_bytes(), &[]),
        &|liar| liar.say(0xffff, &[0; 100], &[]),
        &|liar| {
            let noise: Vec<u8> = (0..4096_u32)
                .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
                .collect();
            for part in noise.chunks(1_000) {
                std::io::Write::write_all(&mut &liar.socket, part).ok();
            }
        },
    ];
    for lie in lies {
        let liar = Frontend::connect(&dev);
        liar.negotiate(FEATURES);
        lie(&liar);
        liar.wait_closed();
        works(&mut witness, OTHER, 10);
    }
    // Memory that goes while it is used, with an index that says everything is there.
    let liar = Frontend::start(&dev);
    liar.cut_memory();
    for _ in 0..3 {
        liar.kick(0);
        liar.kick(1);
        works(&mut witness, OTHER, 10);
    }
    drop(liar);
    let mut after = Frontend::start(&dev);
    works(&mut after, DEV, 9);
    netd.assert_well();
}

#[test]
fn a_guest_without_buffers_costs_frames_and_gets_the_rest() {
    let (netd, dev, other) = start();
    let (mut one, mut two) = (Frontend::start(&dev), Frontend::start(&other));
    works(&mut one, DEV, 9);
    works(&mut two, OTHER, 10);
    // More than the other's buffers and our queue hold: some are lost, none comes in part, all in order.
    let mut frame = [OTHER, DEV].concat();
    frame.extend([0x88, 0xb5]);
    frame.resize(30_000, 7);
    for number in 0..200_u8 {
        frame[14] = number;
        one.send(&frame);
    }
    let mut last = None;
    let mut count = 0;
    while last != Some(u8::MAX) {
        let got = two.receive();
        if got[12..14] == [0x88, 0xb5] {
            assert_eq!(got.len(), frame.len());
            assert!(last.is_none_or(|last| got[14] > last), "out of order");
            last = Some(got[14]);
            count += 1;
            if count == 30 {
                // By now there is room again: a last one that surely comes.
                frame[14] = u8::MAX;
                wait_for("room", || {
                    one.send(&frame);
                    Some(())
                });
            }
        }
    }
    assert!((31..200).contains(&count), "{count} frames came");
    netd.assert_well();
}
