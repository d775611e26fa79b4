//! Pages as text, at the size of a usual terminal and of a tiny one.

use std::time::Duration;

use expect_test::expect;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;
use tokio::time::Instant;

use super::super::super::{ConfigReport, DaemonInner, DaemonReport, Report};
use super::*;
use control::paths::Daemon;

/// A look after which 1,000 × `number` bytes went to the guest, and twice that from it.
fn sample(number: u64) -> Sample {
    let running = |daemon| DaemonReport {
        daemon,
        state: "running",
        status: Some(DaemonInner {
            pid: 4711,
            version: "1".to_owned(),
            started: "2026-11-22T20:00:00.000Z".to_owned(),
        }),
    };
    let guest = json!({
        "name": "dev", "network": "vmnet8", "mac": "52:54:00:00:00:01", "address": "192.168.130.2",
        "host_address": null, "names": [], "lease_until": null,
        "links": [{
            "id": 1, "transport": "stream", "received_frames": 0, "received_bytes": number * 2_000,
            "sent_frames": 0, "sent_bytes": number * 1_000, "dropped_frames": 0,
        }],
    });
    let share = json!({
        "name": "src", "path": "/home/ann/src", "at": "/home/ann/src", "read_only": false,
        "cache": "auto", "problem": null, "devices": [{
            "guest": "dev", "socket": "/r/fs.sock", "connected": true, "requests": number * 5,
            "malformed": 0,
        }],
        "traffic": [
            {
                "guest": "dev", "door": "virtiofs", "operations": number * 5,
                "bytes_read": number * 3_000_000, "bytes_written": number * 1_000,
            },
            {
                "guest": null, "door": "mount", "operations": 10 + number * 2,
                "bytes_read": 0, "bytes_written": 5_000_000,
            },
        ],
    });
    // The same device as of the share before.
    let other = json!({
        "name": "www", "path": "/home/ann/www", "at": "/var/www", "read_only": true,
        "cache": "auto", "ninep": true, "ninep_guests": ["dev", "two"], "problem": null,
        "devices": [{
            "guest": "dev", "socket": "/r/fs.sock", "connected": true, "requests": number * 100,
            "malformed": 0,
        }],
        "traffic": [
            {
                "guest": "dev", "door": "virtiofs", "operations": number * 100,
                "bytes_read": 0, "bytes_written": 0,
            },
            {
                "guest": "two", "door": "9p", "operations": number * 1_000,
                "bytes_read": number * 512, "bytes_written": 0,
            },
        ],
    });
    let unused = json!({
        "name": "x", "path": "/x", "at": "/x", "read_only": false, "cache": "auto", "problem": null,
        "devices": [],
    });
    let port = json!({
        "guest": "dev", "spec": "8080:80", "listening": ["127.0.0.1:8080"], "problems": [],
        "leads": [{"host": 8080, "guest": 80, "answers": "refuses"}],
    });
    let flow = json!({
        "network": "vmnet8", "protocol": "tcp", "guest_name": "dev", "guest": "192.168.130.2:40000",
        "remote": "192.0.2.1:443", "name": "example.org", "outbound": true, "state": "established",
        "age": 61, "idle": 0, "bytes_from_guest": 1_500, "bytes_to_guest": 2_500_000,
        "packets_from_guest": 9, "packets_to_guest": 9, "retransmits": 0,
    });
    let event = json!({
        "seq": number, "at": format!("2026-11-22T20:00:{number:02}.000Z"),
        "kind": "names-changed", "network": "vmnet8",
    });
    Sample {
        report: Report {
            config: ConfigReport {
                file: "/c".into(),
                exists: true,
                good: true,
            },
            daemons: vec![
                running("netd"),
                running("sharefs"),
                DaemonReport {
                    daemon: "hostsync",
                    state: "not running",
                    status: None,
                },
            ],
            guests: vec![serde_json::from_value(guest).unwrap()],
            ports: vec![serde_json::from_value(port).unwrap()],
            shares: [share, other, unused]
                .map(|share| serde_json::from_value(share).unwrap())
                .to_vec(),
            hosts_files: Vec::new(),
            problems: vec!["share \"d\": /mnt/d is not a folder\n  hint: \x1b[2Jmkdir".to_owned()],
        },
        networks: Vec::new(),
        flows: vec![serde_json::from_value(flow).unwrap()],
        events: vec![(Daemon::Netd, serde_json::from_value(event).unwrap())],
    }
}

fn seen() -> History {
    let mut history = History::default();
    let start = Instant::now();
    for number in 1..=4 {
        history.add(sample(number * number), start + Duration::from_secs(number));
    }
    history
}

fn page(view: &mut View, history: &History, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, view, history)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for row in buffer.content.chunks(usize::from(width)) {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[test]
fn overview_shows_what_runs_what_flows_and_what_is_wrong() {
    let shown = page(&mut View::new(true), &seen(), (110, 28));
    expect![[r#"
        sharectl  ● netd 4711  ● sharefs 4711  ○ hostsync not running
         1 Overview  2 Flows  3 Ports  4 Shares  5 Events    p pauses, q ends
        ┌to guests 7.0 kB/s, peak 7.0 kB/s────────────────────┐┌from guests 14 kB/s, peak 14 kB/s────────────────────┐
        │  █                                                  ││  █                                                  │
        │ ▆█                                                  ││ ▆█                                                  │
        │▅██                                                  ││▅██                                                  │
        │███                                                  ││███                                                  │
        └─────────────────────────────────────────────────────┘└─────────────────────────────────────────────────────┘
        ┌Guests──────────────────────────────────────────────────────────────────────────────────────────────────────┐
        │GUEST  NETWORK  ADDRESS        LINK    TO/s    FROM/s  FILES/s                                              │
        │dev    vmnet8   192.168.130.2  stream  7.0 kB  14 kB   735      ▄▆█                                         │
        └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
        ┌Shares──────────────────────────────────────────────────────────────────────────────────────────────────────┐
        │SHARE  OPS/s  READ/s  WRITE/s  FOLDER         AT             STATE                                          │
        │src    49     21 MB   7.0 kB   /home/ann/src  /home/ann/src  used by dev                                    │
        │www    7700   3.5 kB  0 B      /home/ann/www  /var/www       used by dev, two                               │
        │x      0      0 B     0 B      /x             /x             not used                                       │
        └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
        ┌Problems────────────────────────────────────────────────────────────────────────────────────────────────────┐
        │share "d": /mnt/d is not a folder                                                                           │
        │  hint: \u{1b}[2Jmkdir                                                                                      │
        └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
        ┌Events, the newest first────────────────────────────────────────────────────────────────────────────────────┐
        │2026-11-22T20:00:16.000Z netd        16  names-changed network=vmnet8                                       │
        │2026-11-22T20:00:09.000Z netd         9  names-changed network=vmnet8                                       │
        │2026-11-22T20:00:04.000Z netd         4  names-changed network=vmnet8                                       │
        │2026-11-22T20:00:01.000Z netd         1  names-changed network=vmnet8                                       │
        └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
    "#]]
    .assert_eq(&shown);
}

#[test]
fn each_other_page_is_a_list() {
    let history = seen();
    let mut view = View::new(true);
    view.page = Page::Flows;
    let flows = page(&mut view, &history, (120, 6));
    view.page = Page::Ports;
    let ports = page(&mut view, &history, (90, 6));
    view.page = Page::Shares;
    let shares = page(&mut view, &history, (110, 10));
    view.page = Page::Events;
    view.scroll = usize::MAX;
    let events = page(&mut view, &history, (90, 6));
    expect![[r#"
        sharectl  ● netd 4711  ● sharefs 4711  ○ hostsync not running
         1 Overview  2 Flows  3 Ports  4 Shares  5 Events    p pauses, q ends
        ┌1 in all──────────────────────────────────────────────────────────────────────────────────────────────────────────────┐
        │PROTO  DIR  GUEST  FROM                 REMOTE         NAME         STATE             SENT    RECEIVED                │
        │tcp    out  dev    192.168.130.2:40000  192.0.2.1:443  example.org  established 1m1s  1.5 kB  2.5 MB                  │
        └──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
        sharectl  ● netd 4711  ● sharefs 4711  ○ hostsync not running
         1 Overview  2 Flows  3 Ports  4 Shares  5 Events    p pauses, q ends
        ┌1 in all────────────────────────────────────────────────────────────────────────────────┐
        │GUEST  PORT     LISTENS         STATE                                                   │
        │dev    8080:80  127.0.0.1:8080  port 80 refuses: nobody listens in the guest            │
        └────────────────────────────────────────────────────────────────────────────────────────┘
        sharectl  ● netd 4711  ● sharefs 4711  ○ hostsync not running
         1 Overview  2 Flows  3 Ports  4 Shares  5 Events    p pauses, q ends
        ┌5 in all────────────────────────────────────────────────────────────────────────────────────────────────────┐
        │SHARE  BY         DOOR      OPS/s  READ/s  WRITE/s  OPS    READ    WRITTEN                                  │
        │src    dev        virtiofs  35     21 MB   7.0 kB   80     48 MB   16 kB    ▄▆█                             │
        │src    this host  mount     14     0 B     0 B      42     0 B     5.0 MB   ▄▆█                             │
        │www    dev        virtiofs  700    0 B     0 B      1600   0 B     0 B      ▄▆█                             │
        │www    two        9p        7000   3.5 kB  0 B      16000  8.1 kB  0 B      ▄▆█                             │
        │x      -          -         -      -       -        -      -       -                                        │
        └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
        sharectl  ● netd 4711  ● sharefs 4711  ○ hostsync not running
         1 Overview  2 Flows  3 Ports  4 Shares  5 Events    p pauses, q ends
        ┌Events, the newest first────────────────────────────────────────────────────────────────┐
        │2026-11-22T20:00:01.000Z netd         1  names-changed network=vmnet8                   │
        │                                                                                        │
        └────────────────────────────────────────────────────────────────────────────────────────┘
    "#]].assert_eq(&format!("{flows}{ports}{shares}{events}"));
}

#[test]
fn no_size_of_the_terminal_is_too_small_and_colours_change_no_text() {
    let history = seen();
    for width in 0..40 {
        for height in 0..30 {
            for number in 0..Page::ALL.len() {
                let mut view = View::new(false);
                view.page = Page::ALL[number];
                page(&mut view, &history, (width.max(1), height.max(1)));
            }
        }
    }
    let plain = page(&mut View::new(true), &history, (110, 28));
    assert_eq!(plain, page(&mut View::new(false), &history, (110, 28)));
    page(&mut View::new(false), &History::default(), (90, 26));
}

#[test]
fn small_graph_is_as_high_as_its_highest_rate() {
    let rates = |list: &[u64]| list.iter().copied().collect::<Rates>();
    let graph = |to: &[u64], from: &[u64]| small_graph(Some(&rates(to)), Some(&rates(from)));
    assert_eq!(graph(&[0, 0], &[0, 0]), "▁▁");
    assert_eq!(graph(&[0, 3, 7], &[0, 1, 0]), "▁▅█");
    assert_eq!(graph(&[u64::MAX / 2], &[1]), "█");
    assert_eq!(
        graph(&[1; 40], &[0; 40]).chars().count(),
        usize::from(SMALL)
    );
    assert_eq!(small_graph(None, None), "");
}
