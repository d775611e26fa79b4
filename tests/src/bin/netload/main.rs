//! The load generator of `cargo xtask bench net`: connection rate, 1-byte round trips, idle
//! connections, paced UDP, and one connection looked at closely.
//!
//! It prints one line of JSON for each result and knows nothing of namespaces, daemons or tables:
//! the bench runs it inside the namespace it means. Bulk throughput is left to iperf3.
//!
//! Usage: `netload serve --address A --port P`, `netload rate|pingpong|idle|udp|connect --to A:P ...`.

mod clients;
mod serve;
mod udp;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, bail};

/// Ports of `netload serve`, counted from its `--port`.
pub(crate) mod port {
    /// Closes at the first byte.
    pub(crate) const CLOSE: u16 = 0;
    /// Sends every byte back; also holds idle connections.
    pub(crate) const ECHO: u16 = 1;
    /// Answers a byte with the client's address as seen here, then closes.
    pub(crate) const WHO: u16 = 2;
    /// Counts UDP packets.
    pub(crate) const UDP: u16 = 3;
    /// Answers a byte with the number of UDP packets since the last question, then closes.
    pub(crate) const UDP_COUNT: u16 = 4;
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a command-line tool's one error line")]
            {
                eprintln!("netload: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().context("no mode given")?;
    let options = Options::parse(arguments)?;
    match mode.as_str() {
        "serve" => serve::serve(&options),
        "rate" => clients::rate(&options),
        "pingpong" => clients::pingpong(&options),
        "idle" => clients::idle(&options),
        "connect" => clients::connect(&options),
        "udp" => udp::send(&options),
        other => bail!("unknown mode {other:?}"),
    }
}

/// `--name value` pairs.
#[derive(Debug, Default)]
pub(crate) struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut pairs = BTreeMap::new();
        while let Some(name) = arguments.next() {
            let name = name
                .strip_prefix("--")
                .with_context(|| format!("expected --name, got {name:?}"))?
                .to_owned();
            let value = arguments
                .next()
                .with_context(|| format!("--{name} needs a value"))?;
            pairs.insert(name, value);
        }
        Ok(Self(pairs))
    }

    /// The value of a required option.
    pub(crate) fn need<T>(&self, name: &str) -> anyhow::Result<T>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        let text = self
            .0
            .get(name)
            .with_context(|| format!("--{name} is missing"))?;
        text.parse()
            .with_context(|| format!("cannot read --{name} {text:?}"))
    }

    /// The value of an option, or what stands for it.
    pub(crate) fn or<T>(&self, name: &str, otherwise: T) -> anyhow::Result<T>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        if self.0.contains_key(name) {
            self.need(name)
        } else {
            Ok(otherwise)
        }
    }
}

/// The one reader of the clock in this program.
#[expect(
    clippy::disallowed_methods,
    reason = "measuring time is what this program is for"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// One result line.
pub(crate) fn report(value: &serde_json::Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> anyhow::Result<Options> {
        Options::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn options_are_read_as_pairs_and_typed() {
        let read = options(&["--port", "7000", "--seconds", "0.5"]).unwrap();
        assert_eq!(read.need::<u16>("port").unwrap(), 7000);
        assert!((read.or("seconds", 3.0_f64).unwrap() - 0.5).abs() < f64::EPSILON);
        assert_eq!(read.or("size", 64_usize).unwrap(), 64);
    }

    #[test]
    fn a_lone_name_a_bare_word_and_a_bad_number_are_errors() {
        assert!(options(&["--port"]).is_err());
        assert!(options(&["port", "1"]).is_err());
        let read = options(&["--port", "99999"]).unwrap();
        assert!(read.need::<u16>("port").is_err());
    }
}
