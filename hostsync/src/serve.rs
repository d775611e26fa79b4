//! The control protocol of hostsync: what each request reads or asks for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use control::api::{
    Changes, DaemonStatus, EndedName, HostLine, HostsDiff, HostsFileStatus, NewName,
    ResolverStatus, SourceStatus,
};
use control::events::EventLog;
use control::failure::{Failure, FailureKind};
use control::names::HostName;
use control::server::Api;
use tokio::sync::{mpsc, oneshot};

use crate::daemon::Wish;
use crate::files::{FileReport, Keeper};
use crate::view::View;

/// What a client wants done.
#[derive(Debug)]
pub enum Ask {
    /// Write what should stand, now.
    Sync,
    /// Read the configuration again, then as [`Ask::Sync`].
    Reload,
    /// Take our blocks away, until somebody asks for a sync or a reload.
    Clear,
    /// Add or end a name that has its time.
    Name(Wish),
}

/// A wish and where its outcome goes.
pub type Request = (Ask, oneshot::Sender<Result<Changes, Failure>>);

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Service {
    /// The daemon's state.
    pub view: View,
    /// The daemon's events.
    pub events: EventLog,
    /// The daemon's loop.
    pub requests: mpsc::Sender<Request>,
    /// For comparing files.
    pub keeper: Keeper,
    /// For the status.
    pub config: PathBuf,
    /// When the daemon started, RFC 3339.
    pub started: String,
}

impl Service {
    fn status(&self) -> DaemonStatus {
        DaemonStatus {
            daemon: "hostsync".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started.clone(),
            config: self.config.clone(),
            newest_event: self.events.newest(),
            problems: self.view.lock().problems(),
        }
    }

    fn files(&self) -> Vec<HostsFileStatus> {
        let shown = self.view.lock();
        shown.reports.iter().map(FileReport::status).collect()
    }

    async fn diff(&self) -> Result<Vec<HostsDiff>, Failure> {
        let (files, wanted): (Vec<PathBuf>, BTreeMap<HostName, IpAddr>) = {
            let shown = self.view.lock();
            (shown.files.clone(), crate::daemon::addresses(&shown.table))
        };
        let keeper = self.keeper.clone();
        // Files may be large and disks slow: not on the thread that serves.
        tokio::task::spawn_blocking(move || {
            files
                .iter()
                .map(|file| keeper.diff(file, &wanted))
                .collect()
        })
        .await
        .map_err(|error| Failure::internal(format!("comparing the files failed: {error}")))
    }

    async fn ask(&self, ask: Ask) -> Result<Changes, Failure> {
        let stopping = || Failure::new(FailureKind::NotRunning, "hostsync is stopping");
        let (reply, answer) = oneshot::channel();
        self.requests
            .send((ask, reply))
            .await
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// All routes.
#[must_use]
pub fn api(service: Service) -> Api<Service> {
    let events = service.events.clone();
    Api::new("sharectl-hostsync", service)
        .get(
            "/v1/status",
            "The daemon and its problems",
            async |service: Service, _| Ok::<DaemonStatus, _>(service.status()),
        )
        .get(
            "/v1/hosts",
            "Every name: address, source, the files that have it or why they do not",
            async |service: Service, _| Ok::<Vec<HostLine>, _>(service.view.lock().lines()),
        )
        .get(
            "/v1/sources",
            "Every source of names: whether it can be read, and what it gave",
            async |service: Service, _| {
                Ok::<Vec<SourceStatus>, _>(service.view.lock().sources.clone())
            },
        )
        .get(
            "/v1/dns",
            "Where DNS is answered, for which domains",
            async |service: Service, _| Ok::<ResolverStatus, _>(service.view.lock().resolver()),
        )
        .post(
            "/v1/names",
            "Add a name for a time and write the files",
            async |service: Service, _, new: NewName| service.ask(Ask::Name(Wish::Add(new))).await,
        )
        .delete(
            "/v1/names",
            "End a name before its time and write the files",
            async |service: Service, _, ended: EndedName| {
                service.ask(Ask::Name(Wish::End(ended))).await
            },
        )
        .get(
            "/v1/files",
            "Every file that is kept: who writes it, how many names it has, what is wrong",
            async |service: Service, _| Ok::<Vec<HostsFileStatus>, _>(service.files()),
        )
        .get(
            "/v1/diff",
            "How each file differs from what it should be",
            async |service: Service, _| service.diff().await,
        )
        .post(
            "/v1/sync",
            "Write the files now",
            async |service: Service, _, (): ()| service.ask(Ask::Sync).await,
        )
        .post(
            "/v1/reload",
            "Read the configuration again and write the files",
            async |service: Service, _, (): ()| service.ask(Ask::Reload).await,
        )
        .post(
            "/v1/clear",
            "Take sharectl's block out of every file, until the next sync or reload",
            async |service: Service, _, (): ()| service.ask(Ask::Clear).await,
        )
        .events(events)
        .text(
            "/metrics",
            "Counters in Prometheus' text format",
            async |service: Service| {
                let events = service.events.newest();
                Ok(service.view.lock().metrics(events))
            },
        )
}
