//! One measurement at a time: clients and servers around a backend at work.
//!
//! Values come in the order of the rows they are for; none at all means that the row does not apply.

use std::net::SocketAddrV4;
use std::process::Command;
use std::time::Duration;

use ::tests::{command, limit};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value as Json;

use super::backend::{Backend, IPERF, Inward, LOAD, NOBODY, PUBLISHED_OFFSET, Session};
use super::bed::{Bed, FAR, Place, Running};
use super::measure::Programs;
use super::parse;

/// Clock ticks of /proc/PID/stat a second; fixed in the kernel's user interface.
const TICKS: f64 = 100.0;

/// What a measurement may take beyond its own length.
const SLACK: Duration = Duration::from_secs(20);

/// Which side starts a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    In,
}

/// A backend at work with servers on both sides of it. Fields are dropped in this order.
pub(super) struct Bench<'a> {
    bed: &'a Bed,
    programs: &'a Programs,
    seconds: u64,
    _far_server: Running,
    _guest_server: Running,
    session: Session,
}

impl<'a> Bench<'a> {
    /// Starts the backend and the servers.
    pub(super) fn start(
        bed: &'a Bed,
        programs: &'a Programs,
        backend: &dyn Backend,
        mtu: u32,
        seconds: u64,
    ) -> Result<Self> {
        let session = backend.start(bed, mtu)?;
        let serve = |place, address: &str| -> Result<Running> {
            let mut line = bed.command(place, &programs.netload);
            line.args(["serve", "--address", address, "--port", &LOAD.to_string()]);
            let mut server = Running::start(&mut line, None)?;
            server.line().context("netload serve")?;
            Ok(server)
        };
        let bench = Self {
            bed,
            programs,
            seconds,
            _far_server: serve(Place::Far, &FAR.to_string())?,
            _guest_server: serve(Place::Guest, "0.0.0.0")?,
            session,
        };
        for port in LOAD..LOAD + 3 {
            bench.wait_for_published(port)?;
        }
        Ok(bench)
    }

    /// A published port may open only when the guest's does.
    fn wait_for_published(&self, port: u16) -> Result<()> {
        match self.session.inward {
            Inward::Published => {
                let port = port + PUBLISHED_OFFSET;
                self.bed.wait_for_listener(Place::Outside, port)
            }
            Inward::Routed(_) | Inward::Never => Ok(()),
        }
    }

    /// Client's place and address of a `netload` port, if there is a way.
    fn load_target(&self, way: Way, offset: u16) -> Option<(Place, SocketAddrV4)> {
        let port = LOAD + offset;
        match way {
            Way::Out => Some((Place::Guest, SocketAddrV4::new(FAR, port))),
            Way::In => Some((Place::Far, self.session.published(port)?)),
        }
    }

    fn netload(&self, place: Place, mode: &str, to: SocketAddrV4, more: &[&str]) -> Command {
        let mut line = self.bed.command(place, &self.programs.netload);
        line.args([mode, "--to", &to.to_string()]).args(more);
        line
    }

    fn load(&self, place: Place, mode: &str, to: SocketAddrV4, more: &[&str]) -> Result<Json> {
        let mut line = self.netload(place, mode, to, more);
        let text = command::run(&mut line, Duration::from_secs(self.seconds) + SLACK)?;
        serde_json::from_str(&text).with_context(|| format!("netload {mode} said {text:?}"))
    }

    pub(super) fn rate(&self, way: Way) -> Result<Vec<f64>> {
        let Some((place, to)) = self.load_target(way, 0) else {
            return Ok(Vec::new());
        };
        let seconds = self.seconds.to_string();
        let result = self.load(place, "rate", to, &["--seconds", &seconds])?;
        let completed = parse::number(&result, "completed")?;
        let failed = parse::number(&result, "failed")?;
        // A few may be reset at the very end; more means that the rate is not one of connections.
        ensure!(
            failed <= completed / 100.0,
            "{failed} of {} connections failed",
            completed + failed
        );
        Ok(vec![completed / parse::number(&result, "seconds")?])
    }

    pub(super) fn rounds(&self, way: Way) -> Result<Vec<f64>> {
        let Some((place, to)) = self.load_target(way, 1) else {
            return Ok(Vec::new());
        };
        let seconds = self.seconds.to_string();
        let result = self.load(place, "pingpong", to, &["--seconds", &seconds])?;
        Ok(vec![
            parse::number(&result, "p50")?,
            parse::number(&result, "p99")?,
        ])
    }

    pub(super) fn udp(&self) -> Result<Vec<f64>> {
        if !self.session.udp {
            return Ok(Vec::new());
        }
        let sink = SocketAddrV4::new(FAR, LOAD + 3);
        let seconds = self.seconds.to_string();
        // One packet first, so that the flow and its neighbours are known; then count from zero.
        self.load(
            Place::Guest,
            "udp",
            sink,
            &["--seconds", "0.05", "--rate", "100"],
        )?;
        self.udp_count()?;
        let before = self.ticks()?;
        let sent = self.load(
            Place::Guest,
            "udp",
            sink,
            &["--seconds", &seconds, "--rate", "195000", "--size", "64"],
        )?;
        let received = self.udp_count()?;
        let spent = (self.ticks()? - before) / TICKS;
        let sent = parse::number(&sent, "sent")?;
        ensure!(received > 0.0, "no packet arrived");
        let mut values = vec![100.0 * (sent - received).max(0.0) / sent];
        if self.session.daemon.is_some() {
            values.push(spent * 1e6 / received);
        }
        Ok(values)
    }

    /// Packets at the far side since the last question, asked there.
    fn udp_count(&self) -> Result<f64> {
        // What is still on its way gets there first.
        std::thread::sleep(Duration::from_millis(300));
        let at = SocketAddrV4::new(FAR, LOAD + 4);
        let answer = self.load(Place::Far, "connect", at, &[])?;
        let count = parse::text(&answer, "text");
        count
            .parse()
            .with_context(|| format!("UDP count {count:?}"))
    }

    pub(super) fn up(&self, streams: u32) -> Result<Vec<f64>> {
        let to = SocketAddrV4::new(FAR, IPERF);
        self.throughput(Place::Far, Place::Guest, to, streams, &[])
    }

    pub(super) fn down(&self, streams: u32) -> Result<Vec<f64>> {
        let to = SocketAddrV4::new(FAR, IPERF);
        self.throughput(Place::Far, Place::Guest, to, streams, &["--reverse"])
    }

    pub(super) fn published(&self) -> Result<Vec<f64>> {
        match self.session.published(IPERF) {
            Some(to) => self.throughput(Place::Guest, Place::Far, to, 1, &[]),
            None => Ok(Vec::new()),
        }
    }

    pub(super) fn loopback(&self) -> Result<Vec<f64>> {
        match self.session.on_loopback(IPERF) {
            Some(to) => self.throughput(Place::Guest, Place::Outside, to, 1, &[]),
            None => Ok(Vec::new()),
        }
    }

    /// Gbit/s and the daemon's processor seconds for each GB (10^9 bytes).
    fn throughput(
        &self,
        server: Place,
        client: Place,
        to: SocketAddrV4,
        streams: u32,
        more: &[&str],
    ) -> Result<Vec<f64>> {
        let port = IPERF.to_string();
        let mut line = self.bed.command(server, "iperf3");
        line.args(["--server", "--one-off", "--port", &port]);
        let server_run = Running::start(&mut line, None)?;
        self.bed.wait_for_listener(server, IPERF)?;
        if server == Place::Guest {
            self.wait_for_published(IPERF)?;
        }
        let before = self.ticks()?;
        let mut line = self.bed.command(client, "iperf3");
        line.args(["--json", "--client", &to.ip().to_string()])
            .args(["--port", &to.port().to_string()])
            .args(["--time", &self.seconds.to_string()])
            .args(["--parallel", &streams.to_string()])
            .args(more);
        let output = command::output(&mut line, Duration::from_secs(self.seconds) + SLACK)?;
        let spent = (self.ticks()? - before) / TICKS;
        drop(server_run);
        let result = parse::iperf3(&output.stdout)?;
        let mut values = vec![result.gigabits];
        if self.session.daemon.is_some() {
            values.push(spent * 1e9 / result.bytes);
        }
        Ok(values)
    }

    pub(super) fn refused(&self) -> Result<Option<String>> {
        let to = SocketAddrV4::new(FAR, NOBODY);
        let seen = self.load(Place::Guest, "connect", to, &["--limit", "12"])?;
        Ok(Some(described(&seen)?))
    }

    pub(super) fn nobody(&self) -> Result<Option<String>> {
        let Some(to) = self.session.published(NOBODY) else {
            return Ok(None);
        };
        let seen = self.load(Place::Far, "connect", to, &["--limit", "12"])?;
        Ok(Some(described(&seen)?))
    }

    pub(super) fn source(&self) -> Result<Option<String>> {
        if matches!(self.session.inward, Inward::Routed(_) | Inward::Never) {
            return Ok(None);
        }
        let Some((place, to)) = self.load_target(Way::In, 2) else {
            return Ok(None);
        };
        let seen = self.load(place, "connect", to, &[])?;
        let address = parse::text(&seen, "text");
        let (ip, _) = address.split_once(':').context("no answer")?;
        let kept = if ip == FAR.to_string() {
            "kept".to_owned()
        } else {
            format!("replaced by {ip}")
        };
        Ok(Some(kept))
    }

    /// A client that will hold connections and has opened none yet; no client for a plain wire, which
    /// has no daemon to look at.
    pub(super) fn idle_client(&self) -> Result<Option<Running>> {
        if self.session.daemon.is_none() {
            return Ok(None);
        }
        let to = SocketAddrV4::new(FAR, LOAD + 1);
        let steps = ["--steps", "0,1000,5000", "--limit", "60"];
        let mut client = Running::start(&mut self.netload(Place::Guest, "idle", to, &steps), None)?;
        client.line()?;
        Ok(Some(client))
    }

    /// Resident memory when `client` has opened so many connections.
    pub(super) fn resident_with(&self, client: &mut Running, wanted: f64) -> Result<Vec<f64>> {
        client.go_on()?;
        let step: Json = serde_json::from_str(&client.line()?)?;
        let open = parse::number(&step, "open")?;
        ensure!(
            open >= wanted,
            "only {open} connections: {}",
            parse::text(&step, "problem")
        );
        // Acknowledgements and timers of the last ones, and a daemon's own tidying.
        std::thread::sleep(Duration::from_millis(2500));
        self.resident()
    }

    /// Per cent of one processor while nothing happens.
    pub(super) fn idle_cost(&self) -> Result<Vec<f64>> {
        let before = self.ticks()?;
        let clock = limit::now();
        std::thread::sleep(Duration::from_secs(2));
        let spent = (self.ticks()? - before) / TICKS;
        Ok(vec![100.0 * spent / clock.elapsed().as_secs_f64()])
    }

    /// How often a second the daemon's threads wake up while nothing happens.
    pub(super) fn wake_ups(&self) -> Result<Vec<f64>> {
        // The attached guest's first words to its neighbours are over by then.
        std::thread::sleep(Duration::from_secs(3));
        let before = self.sleeps()?;
        let clock = limit::now();
        std::thread::sleep(Duration::from_secs(5));
        let count = self.sleeps()? - before;
        Ok(vec![count / clock.elapsed().as_secs_f64()])
    }

    fn sleeps(&self) -> Result<f64> {
        let mut sum = 0.0;
        for process in self.processes() {
            for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
                let status = std::fs::read_to_string(thread?.path().join("status"))?;
                sum += parse::sleeps(&status)?;
            }
        }
        Ok(sum)
    }

    /// Processor time of the daemon and its children so far, in ticks.
    fn ticks(&self) -> Result<f64> {
        let mut sum = 0.0;
        for process in self.processes() {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
            let ticks = parse::stat_ticks(&stat)?;
            sum += f64::from(u32::try_from(ticks)?);
        }
        Ok(sum)
    }

    /// Resident memory of the daemon and its children, MB.
    pub(super) fn resident(&self) -> Result<Vec<f64>> {
        let mut sum = 0.0;
        for process in self.processes() {
            let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
            sum += parse::resident_megabytes(&rollup)?;
        }
        Ok(vec![sum])
    }

    /// The daemon and its descendants.
    fn processes(&self) -> Vec<u32> {
        let mut found: Vec<u32> = self.session.daemon.iter().map(Running::id).collect();
        let mut next = 0;
        while let Some(process) = found.get(next).copied() {
            let path = format!("/proc/{process}/task/{process}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
            next += 1;
        }
        found
    }
}

/// What a client saw of one connection, in a few words.
fn described(seen: &Json) -> Result<String> {
    let after = |name| -> Result<String> {
        let micros = parse::number(seen, name)?;
        Ok(if micros < 1e6 {
            format!("{:.1} ms", micros / 1e3)
        } else {
            format!("{:.0} s", micros / 1e6)
        })
    };
    let connect = parse::text(seen, "connect");
    if connect != "connected" {
        return Ok(format!("{connect} after {}", after("connect_micros")?));
    }
    let then = parse::text(seen, "then");
    Ok(format!(
        "\"connected\", then {then} after {}",
        after("then_micros")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_saw_is_told_in_words() {
        let refused = serde_json::json!({ "connect": "refused", "connect_micros": 240.0 });
        assert_eq!(described(&refused).unwrap(), "refused after 0.2 ms");
        let lied = serde_json::json!({
            "connect": "connected", "connect_micros": 90.0, "then": "reset", "then_micros": 2e6,
        });
        assert_eq!(
            described(&lied).unwrap(),
            "\"connected\", then reset after 2 s"
        );
        assert!(described(&serde_json::json!({})).is_err());
    }
}
