//! The daemon's loop: sources, clock and requests in; syncs out. It alone reads the clock.
//!
//! One sync runs at a time, on a thread of its own, since it may wait for a lock or a
//! slow disk; the loop goes on meanwhile and a change during a sync leads to another.
//! Whoever asks for a sync is answered by the next one that begins.

mod gathering;
mod resolving;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use control::api::Changes;
use control::config::Config;
use control::events::{EventBody, EventLog};
use control::failure::Failure;
use control::following::{Following, Reason};
use control::names::HostName;
use control::paths::{Daemon as Kind, Paths};
use control::signals::{Order, Orders};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::gathering::Gathering;
pub use self::gathering::Wish;
use self::resolving::Resolving;
use crate::files::{FileReport, Keeper, Way};
use crate::machine::Machine;
use crate::pace::Pace;
use crate::section::Tag;
use crate::serve::{self, Ask, Request, Service};
use crate::sources::book::Change;
use crate::sources::{News, config};
use crate::table::{self, Lost, Reserved, Table, Why};
use crate::view::View;
use crate::writer::How;
use crate::writer_service::client::Client as HostsWriter;
use control::watch::Watcher;

/// Requests and news that may wait for the loop.
const QUEUE: usize = 64;

/// The most that passes between two looks at names that will end.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How the daemon was started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Places.
    pub paths: Paths,
    /// Whose block it keeps.
    pub tag: Tag,
    /// Whether the blocks go when the daemon stops.
    pub remove_on_exit: bool,
}

impl Options {
    /// Where journals, backups and the last known facts live.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.paths.state.join("hosts")
    }

    /// What writes and compares the files that `config` names.
    #[must_use]
    pub fn keeper(&self, config: &Config) -> Keeper {
        let machine = Machine::of_process();
        machine.set_windows_address(config.hosts.windows_address);
        Keeper {
            tag: self.tag.clone(),
            journals: self.state(),
            config: self.paths.config.clone(),
            machine,
            writer: HostsWriter::of_machine(),
        }
    }
}

/// The names and addresses of a table.
#[must_use]
pub fn addresses(table: &Table) -> BTreeMap<HostName, IpAddr> {
    table
        .wanted
        .iter()
        .map(|(name, claim)| (name.clone(), claim.address))
        .collect()
}

/// What this machine calls itself is given to nobody.
#[must_use]
pub fn reserved() -> Reserved {
    Reserved::for_machine(&rustix::system::uname().nodename().to_string_lossy())
}

type Reply = oneshot::Sender<Result<Changes, Failure>>;

struct Daemon {
    options: Options,
    /// Its clones share what the configuration says about Windows, and the connection to the writer.
    keeper: Keeper,
    config: Config,
    reserved: Reserved,
    gathering: Gathering,
    resolving: Resolving,
    view: View,
    events: EventLog,
    pace: Pace,
    /// The sync that runs, and who waits for it.
    running: Option<(JoinHandle<Vec<FileReport>>, Vec<Reply>)>,
    /// Who waits for the next sync.
    waiting: Vec<Reply>,
    /// Files that the configuration no longer names: their blocks go with the next sync.
    retired: Vec<PathBuf>,
    watcher: Option<Watcher>,
    following: Arc<Following>,
    config_changes: mpsc::Receiver<()>,
}

/// What woke the loop.
enum Wake {
    News(Option<News>),
    Request(Option<Request>),
    Signal(Order),
    FilesChanged(std::io::Result<()>),
    ConfigChanged,
    Synced(Vec<FileReport>),
    Due,
}

/// Serves until told to stop. `listener` is bound already.
///
/// # Errors
/// When signals cannot be taken over.
pub async fn run(options: Options, config: Config, listener: UnixListener) -> std::io::Result<()> {
    let mut orders = Orders::listen()?;
    let (news_in, mut news) = mpsc::channel(QUEUE);
    let (requests_in, mut requests) = mpsc::channel(QUEUE);
    let (stop, stopped) = watch::channel(false);
    let mut daemon = Daemon::new(options, config, news_in);

    let service = Service {
        view: daemon.view.clone(),
        events: daemon.events.clone(),
        requests: requests_in,
        keeper: daemon.keeper.clone(),
        config: daemon.options.paths.config.clone(),
        started: control::events::timestamp_now(),
    };
    let mut stopped_for_server = stopped;
    let server = tokio::spawn(control::server::serve(
        listener,
        serve::api(service),
        async move {
            stopped_for_server.wait_for(|stop| *stop).await.ok();
        },
    ));
    daemon.events.publish(EventBody::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });

    daemon.watch_files();
    daemon.gathering.follow(&daemon.config);
    daemon.resolving.listen(daemon.config.hosts.dns).await;
    daemon.decide();
    daemon.pace.ask(now());
    loop {
        let wake = daemon.next(&mut orders, &mut news, &mut requests).await;
        if daemon.handle(wake).await {
            break;
        }
    }
    daemon.gathering.stop();
    daemon.finish().await;
    stop.send_replace(true);
    server.await.ok();
    Ok(())
}

impl Daemon {
    fn new(options: Options, config: Config, news: mpsc::Sender<News>) -> Self {
        let view = View::default();
        let keeper = options.keeper(&config);
        view.lock().files = keeper.paths(&config.hosts.files);
        let following = Following::new(Kind::Hostsync, &options.paths.config, &config);
        view.lock().following = Some(Arc::clone(&following));
        Self {
            config_changes: following.changes(),
            following,
            gathering: Gathering::new(&options, wall_clock, news),
            resolving: Resolving::new(view.clone()),
            options,
            keeper,
            config,
            reserved: reserved(),
            view,
            events: EventLog::new(),
            pace: Pace::default(),
            running: None,
            waiting: Vec::new(),
            retired: Vec::new(),
            watcher: None,
        }
    }

    async fn next(
        &mut self,
        orders: &mut Orders,
        news: &mut mpsc::Receiver<News>,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Wake {
        let due = self.due();
        let running = self.running.as_mut().map(|(task, _)| task);
        let watcher = self.watcher.as_mut();
        tokio::select! {
            order = orders.next() => Wake::Signal(order),
            reports = finished(running) => Wake::Synced(reports),
            request = requests.recv() => Wake::Request(request),
            message = news.recv() => Wake::News(message),
            outcome = changed(watcher) => Wake::FilesChanged(outcome),
            // Its sender ends with the runtime.
            Some(()) = self.config_changes.recv() => Wake::ConfigChanged,
            () = sleep_until(due) => Wake::Due,
        }
    }

    /// When the loop must do something by itself.
    fn due(&self) -> Option<Instant> {
        let sync = if self.running.is_none() {
            self.pace.due()
        } else {
            None
        };
        let (until, disputed) = {
            let shown = self.view.lock();
            (shown.table.valid_until, shown.disputed.is_some())
        };
        let peace = self.pace.dispute_ends().filter(|_| disputed);
        let expiry = until.map(|until| {
            let wait = until.duration_since(wall_clock()).unwrap_or_default();
            // The clock by which names end goes on while the machine sleeps, ours does not.
            now() + wait.min(LONGEST_SLEEP)
        });
        [sync, expiry, peace].into_iter().flatten().min()
    }

    /// Does what `wake` asks for; says whether to stop.
    async fn handle(&mut self, wake: Wake) -> bool {
        match wake {
            Wake::Signal(Order::Stop) => return true,
            Wake::Signal(Order::Reload) => {
                if self.reload(Reason::Asked).await.is_ok() {
                    self.pace.ask(now());
                }
            }
            Wake::ConfigChanged => {
                if self.reload(Reason::Noticed).await.is_ok() {
                    self.pace.ask(now());
                }
            }
            // Both senders live as long as the loop; a dead one means the end.
            Wake::News(None) | Wake::Request(None) => return true,
            Wake::News(Some(message)) => self.hear(message),
            Wake::Request(Some((ask, reply))) => self.obey(ask, reply).await,
            Wake::FilesChanged(outcome) => {
                if let Err(error) = outcome {
                    tracing::warn!(%error, "hosts files are no longer watched");
                    self.watcher = None;
                }
                // A replaced folder needs a new watch.
                self.watch_files();
                self.pace.file_changed(now());
            }
            Wake::Synced(reports) => self.synced(reports),
            Wake::Due => {
                if self
                    .view
                    .lock()
                    .table
                    .valid_until
                    .is_some_and(|until| until <= wall_clock())
                {
                    self.decide();
                }
                if self.pace.dispute_ends().is_none_or(|end| end <= now()) {
                    self.view.lock().disputed = None;
                }
                if self.running.is_none() && self.pace.due().is_some_and(|due| due <= now()) {
                    self.begin_sync();
                }
            }
        }
        false
    }

    fn hear(&mut self, message: News) {
        self.view.lock().counts.readings += 1;
        match self.gathering.hear(message) {
            Change::Facts => self.decide(),
            // The names may have an end now, or none any more.
            Change::Reach => {
                self.decide();
                self.pace.change(now());
            }
            // How often it was read, or why it is away.
            Change::Nothing => self.show_sources(),
        }
    }

    fn show_sources(&self) {
        self.view.lock().sources = self.gathering.book().status(&self.config);
    }

    async fn obey(&mut self, ask: Ask, reply: Reply) {
        match ask {
            Ask::Sync => self.view.lock().cleared = false,
            Ask::Clear => self.view.lock().cleared = true,
            Ask::Reload => {
                if let Err(failure) = self.reload(Reason::Asked).await {
                    // A client that is gone needs no answer.
                    reply.send(Err(failure)).ok();
                    return;
                }
                self.view.lock().cleared = false;
            }
            Ask::Name(wish) => {
                let around = (&self.config, &self.reserved);
                if let Err(failure) = self.gathering.grant(wish, around).await {
                    reply.send(Err(failure)).ok();
                    return;
                }
                self.decide();
            }
        }
        self.waiting.push(reply);
        self.pace.ask(now());
    }

    async fn reload(&mut self, reason: Reason) -> Result<(), Failure> {
        let config = match self.following.read_apart(reason).await {
            Ok(config) => config,
            Err(failure) => {
                let message = failure.message.clone();
                self.events.publish(EventBody::ConfigRefused { message });
                return Err(failure);
            }
        };
        self.keeper
            .machine
            .set_windows_address(config.hosts.windows_address);
        let new_files = self.keeper.paths(&config.hosts.files);
        {
            let mut shown = self.view.lock();
            let gone = shown.files.iter().filter(|file| !new_files.contains(file));
            self.retired.extend(gone.cloned());
            self.retired.retain(|file| !new_files.contains(file));
            shown.files = new_files;
        }
        self.config = config;
        self.gathering.follow(&self.config);
        self.resolving.listen(self.config.hosts.dns).await;
        self.events.publish(EventBody::ConfigReloaded {
            changes: Vec::new(),
        });
        self.watch_files();
        self.decide();
        Ok(())
    }

    /// Makes the table anew and has it written if it changed.
    fn decide(&mut self) {
        let facts = self.gathering.facts(&self.config);
        let rules = config::rules(&self.config, self.reserved.clone());
        let table = table::decide(&facts, &rules, wall_clock());
        self.resolving.answer(&table, &self.config);
        self.show_sources();
        let mut shown = self.view.lock();
        let before = &shown.table;
        let mut changed = false;
        let names = before.wanted.keys().chain(table.wanted.keys());
        let names: BTreeSet<&HostName> = names.collect();
        for name in names {
            let (old, new) = (before.wanted.get(name), table.wanted.get(name));
            let same = match (old, new) {
                (Some(old), Some(new)) => old.agrees(new),
                _ => false,
            };
            let Some(claim) = new.or(old).filter(|_| !same) else {
                continue;
            };
            changed = true;
            tracing::debug!(%name, address = ?new.map(|claim| claim.address), "name changed");
            self.events.publish(EventBody::NameChanged {
                name: name.clone(),
                address: new.map(|claim| claim.address),
                source: claim.from.to_string(),
            });
        }
        // By name and claimant: ages and ends change with every renewal.
        let told: HashSet<_> = before.lost.iter().map(Lost::key).collect();
        for lost in table.lost.iter().filter(|lost| !told.contains(&lost.key())) {
            let (name, from) = (&lost.fact.name, &lost.fact.from);
            match &lost.why {
                Why::Taken { by, .. } if by.address == lost.fact.address => {
                    tracing::debug!(%name, %from, "two sources agree on a name");
                }
                Why::Taken { .. } | Why::Reserved | Why::Outside { .. } => {
                    tracing::warn!(%name, %from, reason = %lost.why, "a name is not given");
                }
                Why::Expired => tracing::debug!(%name, %from, "a name's time is over"),
            }
        }
        shown.table = table;
        shown.rules = rules;
        drop(shown);
        if changed {
            self.pace.change(now());
        }
    }

    fn begin_sync(&mut self) {
        self.pace.begin(now());
        let (files, wanted) = {
            let shown = self.view.lock();
            let wanted = if shown.cleared {
                BTreeMap::new()
            } else {
                addresses(&shown.table)
            };
            (shown.files.clone(), wanted)
        };
        let retired = std::mem::take(&mut self.retired);
        let keeper = self.keeper.clone();
        let unsaved = self.gathering.unsaved();
        let task = tokio::task::spawn_blocking(move || {
            // Here and not at every change: that may be a thousand times a second.
            if let Some((shelf, book)) = unsaved
                && let Err(error) = shelf.store(&book)
            {
                tracing::warn!(%error, "the names of the sources will not outlive a restart");
            }
            let gone = retired
                .iter()
                .map(|file| keeper.sync(file, &BTreeMap::new()));
            gone.chain(files.iter().map(|file| keeper.sync(file, &wanted)))
                .collect()
        });
        self.running = Some((task, std::mem::take(&mut self.waiting)));
    }

    fn synced(&mut self, reports: Vec<FileReport>) {
        let waiting = self
            .running
            .take()
            .map(|(_, waiting)| waiting)
            .unwrap_or_default();
        let mut changes = Changes::default();
        let mut shown = self.view.lock();
        shown.counts.syncs += 1;
        for report in &reports {
            let before = shown
                .reports
                .iter()
                .find(|before| before.file == report.file);
            let old_problem = before.and_then(FileReport::problem);
            let restored = before.is_some_and(|before| report.restores(before));
            if let Some(mended) = report.mended() {
                tracing::warn!("{mended}");
                changes.changes.push(mended);
            }
            if let Some(change) = report.change() {
                let in_place = |report: &FileReport| {
                    report.outcome.as_ref().is_ok_and(|done| {
                        matches!(done.how, How::InPlace(_)) && report.way == Way::Direct
                    })
                };
                if in_place(report) && !before.is_some_and(in_place) {
                    tracing::warn!("{change}");
                } else {
                    tracing::info!("{change}");
                }
                changes.changes.push(change);
                shown.counts.writes += 1;
                if restored && self.pace.was_undone(now()) {
                    let dispute = report.dispute();
                    tracing::warn!("{dispute}");
                    shown.disputed = Some(dispute);
                }
                self.events.publish(EventBody::HostsWritten {
                    file: report.file.clone(),
                    names: report.written.len(),
                });
            }
            if let Some(problem) = report.problem() {
                if old_problem.as_ref() != Some(&problem) {
                    tracing::warn!("{problem}");
                    self.events.publish(EventBody::HostsRefused {
                        file: report.file.clone(),
                        message: problem.clone(),
                    });
                }
                changes.problems.push(problem);
                shown.counts.failures += 1;
            }
        }
        let kept = |report: &FileReport| shown.files.contains(&report.file);
        shown.reports = reports.into_iter().filter(kept).collect();
        drop(shown);
        for reply in waiting {
            // A client that is gone needs no answer.
            reply.send(Ok(changes.clone())).ok();
        }
    }

    /// Watches every file by its own name and, behind a symlink, by its target's.
    fn watch_files(&mut self) {
        let files = self.view.lock().files.clone();
        let mut unwatched = Vec::new();
        let mut watcher = match Watcher::new() {
            Ok(watcher) => watcher,
            Err(error) => {
                self.watcher = None;
                self.view.lock().unwatched = vec![format!(
                    "changes by other programs will not be noticed: {error}"
                )];
                return;
            }
        };
        for file in &files {
            let target = crate::writer::follow(file).unwrap_or_else(|_| file.clone());
            for path in [file, &target] {
                if let Err(error) = watcher.watch(path) {
                    unwatched.push(format!("{} is not watched: {error}", path.display()));
                }
            }
        }
        unwatched.dedup();
        self.watcher = Some(watcher);
        self.view.lock().unwatched = unwatched;
    }

    /// Ends what runs; takes the blocks away if so asked.
    async fn finish(&mut self) {
        if let Some((task, waiting)) = self.running.take() {
            let reports = task.await.unwrap_or_default();
            drop(waiting);
            self.synced(reports);
        }
        if let Some((shelf, book)) = self.gathering.unsaved()
            && let Err(error) = shelf.store(&book)
        {
            tracing::warn!(%error, "the names of the sources will not outlive a restart");
        }
        if self.options.remove_on_exit {
            self.view.lock().cleared = true;
            self.begin_sync();
            if let Some((task, _)) = self.running.as_mut() {
                let reports = task.await.unwrap_or_default();
                self.synced(reports);
            }
        }
    }
}

/// Waits for the sync that runs; for ever, when none does.
async fn finished(task: Option<&mut JoinHandle<Vec<FileReport>>>) -> Vec<FileReport> {
    match task {
        Some(task) => task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a sync broke off");
            Vec::new()
        }),
        None => std::future::pending().await,
    }
}

async fn changed(watcher: Option<&mut Watcher>) -> std::io::Result<()> {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[expect(clippy::disallowed_methods, reason = "this loop owns the clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "this loop owns the clock")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
