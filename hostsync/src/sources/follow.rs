//! A lease file as a source, followed as it is written, replaced, cut, removed and made anew.
//!
//! The kernel says when to look. Where it cannot (a Windows drive in WSL, a network's file
//! system), the file's time and size are looked at every few seconds.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use control::config::{HostsSource, SourceKind};
use control::names::{HostName, SourceName};
use rustix::fs::FsWord;
use tokio::sync::mpsc;

use super::leases::{self, LARGEST_FILE};
use super::{Clock, News, Reading, Said};
use control::watch::{Watcher, fits};

/// How long changes are gathered before the file is read: a thousand a second make few readings.
const GATHER: Duration = Duration::from_millis(50);
/// How often a file is looked at whose changes the kernel does not tell.
const LOOK: Duration = Duration::from_secs(5);
/// Another try where nothing can be watched or read.
const RETRY: Duration = Duration::from_secs(30);
/// Files that a `*` may stand for.
const MOST_FILES: usize = 64;

/// One lease file, or several by a `*` in the last part of the path.
#[derive(Debug, Clone)]
pub struct LeaseFile {
    source: SourceName,
    kind: SourceKind,
    path: PathBuf,
    suffix: HostName,
}

/// What tells one state of the files from another: place, number, size and time of each.
type Seen = Vec<(PathBuf, u64, u64, Option<SystemTime>)>;

impl LeaseFile {
    /// The file that the configuration describes; none, where it describes something else.
    #[must_use]
    pub fn of(source: &HostsSource) -> Option<Self> {
        (!source.kind.is_engine()).then_some(())?;
        Some(Self {
            source: source.name.clone(),
            kind: source.kind,
            path: source.path.clone()?,
            suffix: source.suffix.clone()?,
        })
    }

    /// Follows it for ever; ends when nobody reads the news.
    pub async fn follow(self, clock: Clock, news: mpsc::Sender<News>) {
        let mut watcher = Watcher::new().ok();
        loop {
            // Watched first: what happens during the reading is seen.
            let watched = watcher
                .as_mut()
                .is_some_and(|watcher| watcher.follow(&self.path).is_ok());
            if !watched {
                watcher = Watcher::new().ok();
            }
            let this = self.clone();
            let read = tokio::task::spawn_blocking(move || (this.seen(), this.reading(clock())));
            let Ok((seen, outcome)) = read.await else {
                // The runtime ends.
                return;
            };
            let said = match outcome {
                Ok(reading) => Said::Reading(reading),
                Err(reason) => Said::Away(reason),
            };
            let source = self.source.clone();
            if news.send(News { source, said }).await.is_err() {
                return;
            }
            let told = watched && kernel_tells(&self.path);
            tokio::select! {
                () = changed(&mut watcher) => {}
                () = self.another(&seen, if told { RETRY } else { LOOK }) => {}
                () = news.closed() => return,
            }
            tokio::time::sleep(GATHER).await;
            if let Some(watcher) = &mut watcher {
                watcher.drain();
            }
        }
    }

    /// Waits until the files look otherwise; asks the file system `every` so often.
    async fn another(&self, seen: &Seen, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let this = self.clone();
            match tokio::task::spawn_blocking(move || this.seen()).await {
                Ok(now) if now == *seen => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn seen(&self) -> Seen {
        use std::os::unix::fs::MetadataExt;
        let files = self.files().unwrap_or_default();
        let look = |file: PathBuf| {
            let meta = std::fs::metadata(&file).ok()?;
            Some((file, meta.ino(), meta.size(), meta.modified().ok()))
        };
        files.into_iter().filter_map(look).collect()
    }

    /// The files there are, in order of their names.
    fn files(&self) -> std::io::Result<Vec<PathBuf>> {
        let name = self.path.file_name().unwrap_or_default();
        if !name.as_encoded_bytes().contains(&b'*') {
            return Ok(vec![self.path.clone()]);
        }
        let folder = self.path.parent().unwrap_or_else(|| Path::new("/"));
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if fits(name, &entry.file_name()) {
                files.push(entry.path());
            }
        }
        files.sort();
        files.truncate(MOST_FILES);
        Ok(files)
    }

    /// What the files say now.
    ///
    /// # Errors
    /// Why one cannot be read: then none counts, for a part would look like the whole.
    pub fn reading(&self, now: SystemTime) -> Result<Reading, String> {
        let failed = |path: &Path, error: &dyn std::fmt::Display| {
            format!("{} cannot be read: {error}", path.display())
        };
        let mut all = Reading::default();
        for file in self.files().map_err(|error| failed(&self.path, &error))? {
            let bytes = read(&file).map_err(|error| failed(&file, &error))?;
            let reading = leases::read(&bytes, self.kind, (&self.source, &self.suffix), now);
            all.facts.extend(reading.facts);
            all.skipped = all.skipped.saturating_add(reading.skipped);
        }
        Ok(all.bounded())
    }
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    // A FIFO or a device would never end.
    let opened = rustix::fs::open(
        file,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let opened = std::fs::File::from(opened);
    if !opened.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    opened.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        let what = format!("it has more than {LARGEST_FILE} bytes, so it is no lease file");
        return Err(std::io::Error::other(what));
    }
    Ok(bytes)
}

async fn changed(watcher: &mut Option<Watcher>) {
    let lost = match watcher {
        Some(watching) => watching.changed().await.is_err(),
        None => std::future::pending().await,
    };
    if lost {
        *watcher = None;
    }
}

/// Whether changes by others are told by inotify: not where another machine makes them.
fn kernel_tells(path: &Path) -> bool {
    /// 9P (WSL's drives), FUSE, NFS, CIFS, SMB 2: statfs(2).
    const TOLD_BY_NOBODY: [FsWord; 5] =
        [0x0102_1997, 0x6573_5546, 0x6969, 0xff53_4d42, 0xfe53_4d42];
    let folder = path.ancestors().skip(1).find(|folder| folder.exists());
    let folder = folder.unwrap_or_else(|| Path::new(OsStr::new("/")));
    rustix::fs::statfs(folder).is_ok_and(|stat| !TOLD_BY_NOBODY.contains(&stat.f_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn clock() -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn file(path: &Path) -> LeaseFile {
        LeaseFile {
            source: "lan".parse().unwrap(),
            kind: SourceKind::Dnsmasq,
            path: path.to_owned(),
            suffix: "test".parse().unwrap(),
        }
    }

    fn line(number: u8, name: &str) -> String {
        format!("0 52:54:00:00:00:{number:02x} 10.0.0.{number} {name} *\n")
    }

    /// Waits for the news that has these names, or is none.
    async fn until(news: &mut mpsc::Receiver<News>, expected: Option<&[&str]>) {
        let wait = async {
            loop {
                let said = news.recv().await.unwrap().said;
                let names = match said {
                    Said::Reading(reading) => Some(reading.facts),
                    Said::Away(_) => None,
                };
                let names: Option<Vec<String>> =
                    names.map(|facts| facts.iter().map(|fact| fact.name.to_string()).collect());
                if names
                    .as_ref()
                    .map(|names| names.iter().map(String::as_str).collect::<Vec<_>>())
                    == expected.map(<[&str]>::to_vec)
                {
                    return;
                }
            }
        };
        tokio::time::timeout(LIMIT, wait)
            .await
            .unwrap_or_else(|_| panic!("{expected:?} did not come"));
    }

    #[tokio::test]
    async fn a_file_is_followed_whatever_happens_to_it() {
        let place = tempfile::tempdir().unwrap();
        // Neither the file nor its folders are there yet.
        let folder = place.path().join("var/lib");
        let path = folder.join("dnsmasq.leases");
        let (sender, mut news) = mpsc::channel(8);
        let task = tokio::spawn(file(&path).follow(clock, sender));
        until(&mut news, None).await;

        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&path, line(1, "a")).unwrap();
        until(&mut news, Some(&["a.test"])).await;

        // Appended by somebody who keeps it open.
        let mut open = std::fs::File::options().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut open, line(2, "b").as_bytes()).unwrap();
        until(&mut news, Some(&["a.test", "b.test"])).await;

        // Replaced, as by a rename; the old one goes on unheard.
        std::fs::write(folder.join("new"), line(3, "c")).unwrap();
        std::fs::rename(folder.join("new"), &path).unwrap();
        until(&mut news, Some(&["c.test"])).await;
        std::io::Write::write_all(&mut open, line(4, "d").as_bytes()).unwrap();

        // Cut, written, removed, made anew with its folder.
        std::fs::write(&path, "").unwrap();
        until(&mut news, Some(&[])).await;
        std::fs::write(&path, line(5, "e")).unwrap();
        until(&mut news, Some(&["e.test"])).await;
        std::fs::remove_file(&path).unwrap();
        until(&mut news, None).await;
        std::fs::remove_dir(&folder).unwrap();
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&path, line(6, "f")).unwrap();
        until(&mut news, Some(&["f.test"])).await;
        drop(news);
        tokio::time::timeout(LIMIT, task).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_star_stands_for_files_that_come_and_go() {
        let place = tempfile::tempdir().unwrap();
        let (sender, mut news) = mpsc::channel(8);
        let path = place.path().join("virbr*.status");
        tokio::spawn(file(&path).follow(clock, sender));
        until(&mut news, Some(&[])).await;
        std::fs::write(place.path().join("virbr0.status"), line(1, "a")).unwrap();
        until(&mut news, Some(&["a.test"])).await;
        std::fs::write(place.path().join("virbr0.conf"), line(9, "no")).unwrap();
        std::fs::write(place.path().join("virbr1.status"), line(2, "b")).unwrap();
        until(&mut news, Some(&["a.test", "b.test"])).await;
        std::fs::remove_file(place.path().join("virbr0.status")).unwrap();
        until(&mut news, Some(&["b.test"])).await;
    }

    #[test]
    fn what_is_no_lease_file_is_refused_with_its_path() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("leases");
        let refused = |what: &str| {
            let reason = file(&path).reading(clock()).unwrap_err();
            assert!(
                reason.contains(what) && reason.contains(path.to_str().unwrap()),
                "{reason}"
            );
        };
        refused("No such file");
        std::fs::create_dir(&path).unwrap();
        refused("it is no file");
        std::fs::remove_dir(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        refused("it is no file");
        std::fs::remove_file(&path).unwrap();
        std::fs::File::create(&path)
            .unwrap()
            .set_len(LARGEST_FILE + 1)
            .unwrap();
        refused("no lease file");
    }
}
