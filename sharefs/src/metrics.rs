//! `GET /metrics`: what is counted here, by guest and share. See `control::metrics` for the format.

use control::metrics::{Kind, Page};

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
    let families: [Family; 11] = [
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
    let descriptors = shares.descriptors();
    for (family, value) in [
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
            descriptors.refused(),
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
