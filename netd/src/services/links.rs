//! How links come about: netd dials each guest's net.sock whenever a VMM listens there, and listens itself
//! on each guest's link.sock, on each network's socket and on its TCP address.
//!
//! A guest's VMM may come, go and come again, and so may netd: whoever is late looks at the folder, which is
//! watched, so nobody polls. A refusal right after the socket appeared is tried again for a few seconds
//! (a socket exists a moment before its owner listens); after that only a change of the folder counts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control::mac::MacAddress;
use control::names::GuestName;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::datapath::LinkTransport;
use crate::services::inotify::FolderWatch;
use crate::services::network::RunningNetwork;

/// After a refusal, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Refusals take this long together before only a change counts.
const REFUSALS: u32 = 9;
/// A link that lived shorter than this is dialled again with a growing pause.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Links by one listening socket at a time.
const MOST_LINKS: usize = 64;
/// No descriptors left: `accept` must not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A guest as links need it.
pub type LinkGuest = (GuestName, MacAddress);

/// Counts changes in the guests' folders.
pub type FolderChanges = watch::Receiver<u64>;

/// Watches the guests' folders for ever, making them again where somebody removed them.
pub async fn watch_folders(
    mut folders: watch::Receiver<Vec<PathBuf>>,
    changes: watch::Sender<u64>,
) {
    let watch = match FolderWatch::new() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(%error, "cannot watch the guests' folders; VMMs that start later are not dialled (hint: sysctl fs.inotify.max_user_instances=512)");
            return;
        }
    };
    loop {
        for folder in folders.borrow_and_update().iter() {
            let made = control::paths::make_private_folder(folder);
            if let Err(error) = made.and_then(|()| watch.add(folder)) {
                tracing::warn!(folder = %folder.display(), %error, "cannot watch a guest's folder");
            }
        }
        changes.send_modify(|number| *number += 1);
        tokio::select! {
            outcome = watch.changed() => if let Err(error) = outcome {
                tracing::error!(%error, "cannot watch the guests' folders any more");
                return;
            },
            outcome = folders.changed() => if outcome.is_err() {
                return;
            },
        }
    }
}

/// Dials a guest's VMM for ever; dropping the future ends it, the link stays.
pub async fn dial(
    network: Arc<RunningNetwork>,
    guest: LinkGuest,
    path: PathBuf,
    mut changes: FolderChanges,
) {
    let mut refusals = 0;
    let mut pause = FIRST_PAUSE;
    loop {
        changes.borrow_and_update();
        match UnixStream::connect(&path).await {
            Ok(stream) => {
                refusals = 0;
                let started = tokio::time::Instant::now();
                match attach_unix(&network, stream, Some(guest.clone())).await {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(guest = %guest.0, %error, "cannot use the VMM's socket")
                    }
                }
                if started.elapsed() < SHORT_LIFE {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                } else {
                    pause = FIRST_PAUSE;
                }
                // Gone or dead by now, or a VMM that takes the next connection.
                continue;
            }
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused && refusals < REFUSALS =>
            {
                refusals += 1;
                let wait = FIRST_PAUSE * 2_u32.pow(refusals - 1);
                tokio::time::timeout(wait, changes.changed()).await.ok();
                continue;
            }
            // Not there, or left by a dead VMM.
            Err(error) => tracing::trace!(guest = %guest.0, %error, "no VMM listens"),
        }
        if changes.changed().await.is_err() {
            return;
        }
        refusals = 0;
    }
}

/// Takes VMMs that connect to a unix socket, for ever. The socket file is removed when the future is dropped.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen_unix(
    network: Arc<RunningNetwork>,
    guest: Option<LinkGuest>,
    path: &Path,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    if let Some(folder) = path.parent() {
        control::paths::make_private_folder(folder)?;
    }
    let listener = control::server::bind(path)?;
    let file = SocketFile(path.to_owned());
    Ok(async move {
        accept_unix(network, guest, listener).await;
        drop(file);
    })
}

async fn accept_unix(
    network: Arc<RunningNetwork>,
    guest: Option<LinkGuest>,
    listener: UnixListener,
) {
    let places = Arc::new(Semaphore::new(MOST_LINKS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (network, guest) = (Arc::clone(&network), guest.clone());
                tokio::spawn(async move {
                    if let Err(error) = attach_unix(&network, stream, guest).await {
                        tracing::warn!(%error, "a VMM's connection is of no use");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "link socket: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes VMMs that connect over TCP, for ever.
///
/// # Errors
/// When the address cannot be bound.
pub async fn listen_tcp(
    network: Arc<RunningNetwork>,
    address: SocketAddr,
) -> io::Result<impl Future<Output = ()> + Send> {
    let listener = TcpListener::bind(address).await?;
    Ok(async move {
        let places = Arc::new(Semaphore::new(MOST_LINKS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Frames are whole already; waiting to fill segments only delays them.
                    stream.set_nodelay(true).ok();
                    let network = Arc::clone(&network);
                    tokio::spawn(async move {
                        let outcome = match stream.into_std() {
                            Ok(stream) => attach(&network, stream.into(), "tcp", None).await,
                            Err(error) => Err(error.to_string()),
                        };
                        if let Err(error) = outcome {
                            tracing::warn!(error, "a VMM's connection is of no use");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "link listener: accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

async fn attach_unix(
    network: &RunningNetwork,
    stream: UnixStream,
    guest: Option<LinkGuest>,
) -> Result<(), String> {
    let stream = stream.into_std().map_err(|error| error.to_string())?;
    attach(network, stream.into(), "stream", guest).await
}

/// Returns when the link has ended.
async fn attach(
    network: &RunningNetwork,
    descriptor: OwnedFd,
    kind: &'static str,
    guest: Option<LinkGuest>,
) -> Result<(), String> {
    let transport = LinkTransport::Stream(descriptor);
    let (_, end) = network
        .attach(transport, kind, guest)
        .await
        .map_err(|failure| failure.message)?;
    // An error means that the network has ended, and the link with it.
    end.await.ok();
    Ok(())
}

/// Removes a socket's file when its listener ends.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}
