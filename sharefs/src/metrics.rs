//! `GET /metrics`: what is counted here, by guest and share. See `control::metrics` for the format.

use control::metrics::{Kind, Page};

use crate::keep;
use crate::shares::ninep::NinepNumbers;
use crate::shares::{DeviceNumbers, Shares};

/// What a number is, and where a device has it.
type Family = (
    (Kind, &'static str, &'static str),
    fn(&DeviceNumbers<'_>) -> u64,
);

/// All of them, as one page.
pub(crate) fn page(shares: &Shares, events: u64) -> String {
    use Kind::{Counter, Gauge};
    let mut page = Page::new("sharefs", env!("CARGO_PKG_VERSION"), events);
    let families: [Family; 12] = [
        ((Counter, "errors", "Answers that were an error."), |d| {
            d.counters.errors.get()
        }),
        (
            (
                Counter,
                "malformed",
                "Requests that could not be understood.",
            ),
            |d| d.counters.malformed.get(),
        ),
        ((Counter, "unknown", "Requests of an unknown kind."), |d| {
            d.counters.unknown.get()
        }),
        ((Counter, "read_bytes", "Bytes read by the guest."), |d| {
            d.counters.bytes_read.get()
        }),
        (
            (Counter, "written_bytes", "Bytes written by the guest."),
            |d| d.counters.bytes_written.get(),
        ),
        (
            (
                Counter,
                "refused_waits",
                "Lock requests refused because too many wait.",
            ),
            |d| d.counters.refused_waits.get(),
        ),
        (
            (
                Counter,
                "deadlocks",
                "Lock requests refused because they would wait for themselves.",
            ),
            |d| d.counters.deadlocks.get(),
        ),
        ((Counter, "connections", "Connections of a VMM."), |d| {
            d.connections
        }),
        (
            (Gauge, "mounted", "1 while the guest has the share mounted."),
            |d| d.mounted.into(),
        ),
        (
            (Gauge, "nodes", "Files and folders the guest knows."),
            |d| d.nodes as u64,
        ),
        (
            (Gauge, "handles", "Files and folders the guest has open."),
            |d| d.handles as u64,
        ),
        (
            (
                Counter,
                "bad_chains",
                "Descriptor chains outside the guest's memory.",
            ),
            |d| d.counters.bad_chains.get(),
        ),
    ];
    for device in shares.numbers() {
        let labels = [("guest", device.guest), ("share", device.share)];
        for (operation, count) in device.counters.requests() {
            page.add(
                (Counter, "requests", "Requests by operation."),
                &[labels[0], labels[1], ("operation", operation)],
                count,
            );
        }
        for (family, value) in families {
            page.add(family, &labels, value(&device));
        }
    }
    shares
        .ninep_numbers()
        .for_each(|door| add_ninep(&mut page, &door));
    for (guest, at, requests, fids) in shares.guest_mount_numbers() {
        let labels = [("guest", guest.as_str()), ("mount", at.as_str())];
        page.add(
            (
                Counter,
                "guest_mount_requests",
                "9P requests to a guest's server.",
            ),
            &labels,
            requests,
        );
        page.add(
            (
                Gauge,
                "guest_mount_fids",
                "Files that a guest's server holds for us.",
            ),
            &labels,
            fids,
        );
    }
    let descriptors = shares.descriptors();
    let kept = keep::numbers();
    for (family, value) in [
        (
            (
                Counter,
                "restarts",
                "Times that a killed sharefs was followed by another which went on.",
            ),
            kept.restarts,
        ),
        (
            (
                Counter,
                "handovers",
                "Times that another program took the place of the running one.",
            ),
            kept.handovers,
        ),
        (
            (
                Counter,
                "given_up",
                "Times that what was kept for guests could not be taken up again.",
            ),
            kept.given_up,
        ),
        (
            (Gauge, "descriptors", "Descriptors held for guests."),
            descriptors.held() as u64,
        ),
        (
            (Gauge, "descriptors_limit", "The most that may be."),
            descriptors.limit() as u64,
        ),
        (
            (
                Counter,
                "descriptors_refused",
                "Requests refused at that limit.",
            ),
            descriptors.refused.get(),
        ),
        (
            (
                Gauge,
                "nodes_known",
                "Files and folders that all guests and 9P clients know.",
            ),
            descriptors.known() as u64,
        ),
        (
            (Gauge, "nodes_limit", "The most that may be."),
            descriptors.known_limit() as u64,
        ),
        (
            (Counter, "nodes_refused", "Requests refused at that limit."),
            descriptors.refused_nodes.get(),
        ),
        (
            (
                Gauge,
                "nodes_let_go",
                "Of the nodes known: those without a descriptor.",
            ),
            descriptors.let_go() as u64,
        ),
        (
            (
                Gauge,
                "nodes_kept",
                "Of the nodes known: those that outlive a killed sharefs.",
            ),
            descriptors.kept() as u64,
        ),
        (
            (
                Counter,
                "nodes_evicted",
                "Nodes whose descriptor was closed to make room.",
            ),
            descriptors.evicted.get(),
        ),
        (
            (
                Counter,
                "nodes_reopened",
                "Nodes that were found again when they were used.",
            ),
            descriptors.reopened.get(),
        ),
        (
            (
                Counter,
                "nodes_stale",
                "Nodes that were another file by then: ESTALE.",
            ),
            descriptors.stale.get(),
        ),
        (
            (Counter, "lost_pages", "Pages a VMM took away."),
            guestmem::mended() as u64,
        ),
    ] {
        page.add(family, &[], value);
    }
    page.finish()
}

/// What is counted of one guest's 9P door.
fn add_ninep(page: &mut Page, door: &NinepNumbers<'_>) {
    use Kind::{Counter, Gauge};
    let guest = door.guest.to_string();
    let labels = [("guest", guest.as_str())];
    for (operation, count) in door.counters.requests() {
        page.add(
            (Counter, "ninep_requests", "9P requests by operation."),
            &[labels[0], ("operation", operation)],
            count,
        );
    }
    for (share, done) in door.counters.shares() {
        let labels = [labels[0], ("share", share.as_str())];
        for (name, help, value) in [
            (
                "ninep_share_requests",
                "9P requests by share; those before an attach are of none.",
                done.operations,
            ),
            ("ninep_read_bytes", "Bytes read over 9P.", done.bytes_read),
            (
                "ninep_written_bytes",
                "Bytes written over 9P.",
                done.bytes_written,
            ),
        ] {
            page.add((Counter, name, help), &labels, value);
        }
    }
    let (counters, traffic) = (door.counters, &door.traffic);
    for (kind, name, help, value) in [
        (
            Counter,
            "ninep_errors",
            "9P answers that were an error.",
            counters.errors.get(),
        ),
        (
            Counter,
            "ninep_malformed",
            "9P messages that could not be understood.",
            counters.malformed.get(),
        ),
        (
            Counter,
            "ninep_unknown",
            "9P messages of an unknown kind.",
            counters.unknown.get(),
        ),
        (
            Counter,
            "ninep_refused_waits",
            "9P lock requests refused because too many wait.",
            counters.refused_waits.get(),
        ),
        (
            Counter,
            "ninep_refused_fids",
            "9P requests refused because a client has too much open.",
            counters.refused_fids.get(),
        ),
        (
            Counter,
            "ninep_refused_attaches",
            "9P attaches of a share that is not the guest's.",
            counters.refused_attaches.get(),
        ),
        (
            Counter,
            "ninep_connections",
            "9P connections.",
            traffic.connections,
        ),
        (
            Counter,
            "ninep_refused_connections",
            "9P connections that were too many.",
            traffic.refused,
        ),
        (
            Gauge,
            "ninep_connected",
            "9P connections now.",
            traffic.live as u64,
        ),
        (
            Gauge,
            "ninep_mounted",
            "9P connections that have a share attached.",
            traffic.mounted as u64,
        ),
        (
            Gauge,
            "ninep_fids",
            "Files and folders that 9P clients hold.",
            traffic.fids,
        ),
    ] {
        page.add((kind, name, help), &labels, value);
    }
}
