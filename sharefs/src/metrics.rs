//! `GET /metrics`: the counters in Prometheus' text format 0.0.4.

use std::fmt::Write;

use crate::shares::{DeviceNumbers, Shares};
use crate::sys::bus_guard;

/// Name, kind, help, and where a device has the number.
type Family = (
    &'static str,
    &'static str,
    &'static str,
    fn(&DeviceNumbers<'_>) -> u64,
);

/// All of them, as one page.
pub(crate) fn page(shares: &Shares) -> String {
    let mut page = String::new();
    let devices: Vec<DeviceNumbers<'_>> = shares.numbers().collect();

    head(
        &mut page,
        "sharefs_requests_total",
        "counter",
        "requests by operation",
    );
    for device in &devices {
        for (operation, count) in device.counters.requests() {
            let labels = format!("{},operation=\"{operation}\"", labels(device));
            line(&mut page, "sharefs_requests_total", &labels, count);
        }
    }
    let families: [Family; 11] = [
        (
            "sharefs_errors_total",
            "counter",
            "answers that were an error",
            |d| d.counters.errors.get(),
        ),
        (
            "sharefs_malformed_total",
            "counter",
            "requests that could not be understood",
            |d| d.counters.malformed.get(),
        ),
        (
            "sharefs_unknown_total",
            "counter",
            "requests of an unknown kind",
            |d| d.counters.unknown.get(),
        ),
        (
            "sharefs_read_bytes_total",
            "counter",
            "bytes read by the guest",
            |d| d.counters.bytes_read.get(),
        ),
        (
            "sharefs_written_bytes_total",
            "counter",
            "bytes written by the guest",
            |d| d.counters.bytes_written.get(),
        ),
        (
            "sharefs_refused_waits_total",
            "counter",
            "lock requests refused because too many wait",
            |d| d.counters.refused_waits.get(),
        ),
        (
            "sharefs_connections_total",
            "counter",
            "connections of a VMM",
            |d| d.connections,
        ),
        (
            "sharefs_mounted",
            "gauge",
            "1 while the guest has the share mounted",
            |d| d.mounted.into(),
        ),
        (
            "sharefs_nodes",
            "gauge",
            "files and folders the guest knows",
            |d| d.nodes as u64,
        ),
        (
            "sharefs_handles",
            "gauge",
            "files and folders the guest has open",
            |d| d.handles as u64,
        ),
        (
            "sharefs_bad_chains_total",
            "counter",
            "descriptor chains outside the guest's memory",
            |d| d.counters.bad_chains.get(),
        ),
    ];
    for (name, kind, help, value) in families {
        head(&mut page, name, kind, help);
        for device in &devices {
            line(&mut page, name, &labels(device), value(device));
        }
    }
    let descriptors = shares.descriptors();
    for (name, kind, help, value) in [
        (
            "sharefs_descriptors",
            "gauge",
            "descriptors held for guests",
            descriptors.held() as u64,
        ),
        (
            "sharefs_descriptors_limit",
            "gauge",
            "the most that may be",
            descriptors.limit() as u64,
        ),
        (
            "sharefs_descriptors_refused_total",
            "counter",
            "requests refused at it",
            descriptors.refused(),
        ),
        (
            "sharefs_lost_pages_total",
            "counter",
            "pages a VMM took away",
            bus_guard::mended() as u64,
        ),
    ] {
        head(&mut page, name, kind, help);
        line(&mut page, name, "", value);
    }
    page
}

fn labels(device: &DeviceNumbers<'_>) -> String {
    // Names are host names: nothing to escape.
    format!("guest=\"{}\",share=\"{}\"", device.guest, device.share)
}

fn head(page: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
}

fn line(page: &mut String, name: &str, labels: &str, value: u64) {
    let labels = if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    };
    writeln!(page, "{name}{labels} {value}").ok();
}
