//! Reading what other programs and the kernel print: iperf3's JSON, netload's lines, /proc.
//!
//! Pure: text in, numbers out.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// What iperf3 measured, at the receiving end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Throughput {
    /// Gbit/s.
    pub(super) gigabits: f64,
    /// Bytes received.
    pub(super) bytes: f64,
}

/// Reads the output of `iperf3 -J`.
///
/// # Errors
/// iperf3's own error text, or that the text is not what it prints.
pub(super) fn iperf3(text: &str) -> Result<Throughput> {
    let value: Value = serde_json::from_str(text).context("iperf3 printed no JSON")?;
    if let Some(error) = value.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    let received = value
        .pointer("/end/sum_received")
        .context("iperf3: no sum_received")?;
    Ok(Throughput {
        gigabits: number(received, "bits_per_second")? / 1e9,
        bytes: number(received, "bytes")?,
    })
}

/// A number of a JSON object.
///
/// # Errors
/// When it is not there.
pub(super) fn number(value: &Value, name: &str) -> Result<f64> {
    value
        .get(name)
        .and_then(Value::as_f64)
        .with_context(|| format!("no number {name:?} in {value}"))
}

/// A text of a JSON object; empty when it is not there.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// How often a thread has gone to sleep so far, from /proc/PID/task/TID/status: each time it was woken again.
///
/// # Errors
/// When the text is not that of such a file.
pub(super) fn sleeps(status: &str) -> Result<f64> {
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .context("no voluntary_ctxt_switches")?;
    Ok(count.trim().parse()?)
}

/// Processor time from /proc/PID/stat, user and system, in clock ticks.
///
/// # Errors
/// When the text is not that of such a file.
pub(super) fn stat_ticks(stat: &str) -> Result<u64> {
    // The program's name is in brackets and may hold anything, brackets and blanks too.
    let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
    let mut fields = rest.split_whitespace();
    // proc(5): field 14 is utime, 15 stime; the first after the name is field 3.
    let utime: u64 = fields.nth(14 - 3).context("no utime")?.parse()?;
    let stime: u64 = fields.next().context("no stime")?.parse()?;
    Ok(utime + stime)
}

/// Resident memory from /proc/PID/smaps_rollup, in MB (10^6 bytes).
///
/// # Errors
/// When the text is not that of such a file.
pub(super) fn resident_megabytes(rollup: &str) -> Result<f64> {
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Rss:"))
        .context("no Rss")?;
    let kibibytes: f64 = line
        .trim()
        .strip_suffix("kB")
        .context("Rss without kB")?
        .trim()
        .parse()?;
    Ok(kibibytes * 1024.0 / 1e6)
}

/// The middle value; with an even count the mean of the two in the middle; none of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2).copied()?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = sorted.get(sorted.len() / 2 - 1).copied()?;
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_are_read_from_a_status_file() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t3\n";
        assert!((sleeps(status).unwrap() - 17.0).abs() < f64::EPSILON);
        assert!(sleeps("nonvoluntary_ctxt_switches:\t3\n").is_err());
    }

    #[test]
    fn iperf3_counts_what_was_received() {
        // Shortened from iperf 3.12 -J.
        let text = r#"{"start":{},"end":{"sum_sent":{"bytes":3000000000,"bits_per_second":24e9,
            "retransmits":3},"sum_received":{"seconds":1.0,"bytes":2500000000,
            "bits_per_second":20000000000.0,"sender":true}}}"#;
        let read = iperf3(text).unwrap();
        assert!((read.gigabits - 20.0).abs() < 1e-9);
        assert!((read.bytes - 2.5e9).abs() < 1.0);
    }

    #[test]
    fn iperf3_errors_are_passed_on_in_its_own_words() {
        let text = r#"{"start":{},"end":{},"error":"unable to connect to server"}"#;
        let error = iperf3(text).unwrap_err().to_string();
        assert!(error.contains("unable to connect to server"), "{error}");
        assert!(iperf3("iperf3: command not found").is_err());
        assert!(iperf3("{}").is_err());
    }

    #[test]
    fn stat_is_read_even_when_the_name_holds_brackets_and_blanks() {
        let stat = "4242 (a (b) c) S 1 4242 4242 0 -1 4194560 113 0 0 0 71 29 5 6 20 0 1 0 1000";
        assert_eq!(stat_ticks(stat).unwrap(), 100);
        assert!(stat_ticks("4242 (x) S 1").is_err());
        assert!(stat_ticks("").is_err());
    }

    #[test]
    fn resident_memory_is_given_in_megabytes() {
        let rollup = "5581-7ffd ---p 00000000 00:00 0    [rollup]\n\
                      Rss:                1000 kB\nPss:                 900 kB\n";
        assert!((resident_megabytes(rollup).unwrap() - 1.024).abs() < 1e-9);
        assert!(resident_megabytes("Pss: 1 kB").is_err());
    }

    #[test]
    fn the_median_ignores_order_and_outliers() {
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }
}
