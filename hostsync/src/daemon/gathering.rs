//! The sources that the configuration names, each followed by a task; what they and their users said.

use std::collections::BTreeMap;

use control::api::{EndedName, NewName};
use control::client::Client;
use control::config::{Config, HostsSource, SourceKind};
use control::failure::Failure;
use control::names::SourceName;
use control::paths::Daemon as Kind;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Options;
use crate::sources::added::Added;
use crate::sources::book::{Book, Change, Shelf};
use crate::sources::engine::Engine;
use crate::sources::follow::LeaseFile;
use crate::sources::{Clock, News, Said, config, netd};
use crate::table::{Fact, Reserved};

/// All sources of the daemon.
pub(super) struct Gathering {
    book: Book,
    added: Added,
    /// Where the book is kept, and whether it has changed since.
    shelf: Shelf,
    changed: bool,
    added_shelf: Shelf,
    netd: Client,
    clock: Clock,
    news: mpsc::Sender<News>,
    running: BTreeMap<SourceName, (HostsSource, AbortHandle)>,
}

/// What a name's user wants.
#[derive(Debug, Clone)]
pub enum Wish {
    /// It shall stand for a time.
    Add(NewName),
    /// It shall end now.
    End(EndedName),
}

impl Gathering {
    /// With what was kept; nothing is followed yet.
    pub(super) fn new(options: &Options, clock: Clock, news: mpsc::Sender<News>) -> Self {
        let folder = options.state();
        let shelf = Shelf::new(&folder, "known.json");
        let added_shelf = Added::shelf(&folder);
        let mut book: Book = shelf.load();
        book.restarted(clock());
        Self {
            book,
            added: added_shelf.load(),
            shelf,
            changed: false,
            added_shelf,
            netd: Client::new(options.paths.control_socket(Kind::Netd)),
            clock,
            news,
            running: BTreeMap::new(),
        }
    }

    /// Follows what the configuration names, and nothing else.
    pub(super) fn follow(&mut self, config: &Config) {
        let sources = &config.hosts.sources;
        let wanted = |source: &HostsSource| {
            sources
                .get(&source.name)
                .is_some_and(|now| now.enabled && now == source)
        };
        self.running.retain(|_, (source, task)| {
            let stays = wanted(source);
            if !stays {
                task.abort();
            }
            stays
        });
        self.book.follow(config, (self.clock)());
        self.changed = true;
        for source in sources.values().filter(|source| source.enabled) {
            if !self.running.contains_key(&source.name)
                && let Some(task) = self.start(source)
            {
                let running = (source.clone(), task);
                self.running.insert(source.name.clone(), running);
            }
        }
    }

    fn start(&self, source: &HostsSource) -> Option<AbortHandle> {
        let news = self.news.clone();
        let task = match source.kind {
            SourceKind::Netd => {
                tokio::spawn(netd::follow(self.netd.clone(), source.name.clone(), news))
            }
            SourceKind::Docker | SourceKind::Podman => {
                tokio::spawn(Engine::of(source)?.follow(news))
            }
            SourceKind::Dhcpd | SourceKind::Dnsmasq | SourceKind::Libvirt | SourceKind::Bootpd => {
                tokio::spawn(LeaseFile::of(source)?.follow(self.clock, news))
            }
        };
        Some(task.abort_handle())
    }

    /// Takes a source's message; says what it changed.
    pub(super) fn hear(&mut self, news: News) -> Change {
        let News { source, said } = news;
        let now = (self.clock)();
        let change = match said {
            Said::Reading(reading) => {
                let names = reading.facts.len();
                let was_followed = self.book.is_followed(&source);
                let change = self.book.hear(&source, reading, now);
                if !was_followed {
                    tracing::info!(%source, names, "following");
                }
                change
            }
            Said::Away(reason) => {
                let change = self.book.lose(&source, reason.clone(), now);
                if change == Change::Reach {
                    tracing::info!(%source, reason, "a source is gone, its names stand");
                } else {
                    tracing::debug!(%source, reason, "a source cannot be read");
                }
                change
            }
        };
        self.changed |= change != Change::Nothing;
        change
    }

    /// Does what the user of a name wants, on disk before it is so here.
    pub(super) async fn grant(
        &mut self,
        wish: Wish,
        around: (&Config, &Reserved),
    ) -> Result<(), Failure> {
        let mut added = self.added.clone();
        let now = (self.clock)();
        match wish {
            Wish::Add(new) => added.add(new, around, now)?,
            Wish::End(ended) => added.end(&ended, now)?,
        }
        let (shelf, kept) = (self.added_shelf.clone(), added.clone());
        let stored = tokio::task::spawn_blocking(move || shelf.store(&kept)).await;
        let stored = stored.map_err(|error| error.to_string());
        stored
            .and_then(|stored| stored.map_err(|error| error.to_string()))
            .map_err(|error| Failure::internal(format!("the name cannot be kept: {error}")))?;
        self.added = added;
        Ok(())
    }

    /// Everything that is said now.
    pub(super) fn facts(&mut self, config: &Config) -> Vec<Fact> {
        self.added.tidy((self.clock)());
        let mut facts = config::static_facts(config);
        facts.extend_from_slice(self.added.facts());
        let heard = self.book.facts(config);
        facts.extend(config::wildcards(&heard, config));
        facts.extend(heard);
        facts
    }

    /// How each source is.
    pub(super) fn book(&self) -> &Book {
        &self.book
    }

    /// What to keep, and where, if that has changed since it was asked last.
    pub(super) fn unsaved(&mut self) -> Option<(Shelf, Book)> {
        std::mem::take(&mut self.changed).then(|| (self.shelf.clone(), self.book.clone()))
    }

    /// Follows nothing any more.
    pub(super) fn stop(&mut self) {
        for (_, task) in std::mem::take(&mut self.running).into_values() {
            task.abort();
        }
    }
}
