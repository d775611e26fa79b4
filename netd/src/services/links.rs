//! How links come about: netd dials each guest's net.sock whenever a VMM listens there, and listens itself
//! on each guest's link.sock, on each network's socket and on its TCP address.
//!
//! A guest's VMM may come, go and come again, and so may netd: whoever is late looks at the folder, which is
//! watched, so nobody polls. A refusal right after the socket appeared is tried again for a few seconds
//! (a socket exists a moment before its owner listens); after that only a change of the folder counts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control::config::LARGEST_MTU;
use control::mac::MacAddress;
use control::names::GuestName;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::datapath::{Command, LinkTransport};
use crate::io::vhost::Session;
use crate::services::inotify::FolderWatch;
use crate::services::network::RunningNetwork;
use crate::services::vhost::{self, Card};

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
    listen(path, move |stream| {
        let (network, guest) = (Arc::clone(&network), guest.clone());
        async move { attach_unix(&network, stream, guest).await }
    })
}

/// Takes VMMs that want the guest's network card as a vhost-user device, for ever.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen_vhost(
    network: Arc<RunningNetwork>,
    guest: LinkGuest,
    path: &Path,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    listen(path, move |stream| {
        let (network, guest) = (Arc::clone(&network), guest.clone());
        async move { attach_vhost(&network, stream, guest).await }
    })
}

/// Serves each connection to a unix socket by `attach`, which returns when the link has ended.
fn listen<F, A>(path: &Path, attach: F) -> io::Result<impl Future<Output = ()> + Send + use<F, A>>
where
    F: Fn(UnixStream) -> A + Send + 'static,
    A: Future<Output = Result<(), String>> + Send + 'static,
{
    if let Some(folder) = path.parent() {
        control::paths::make_private_folder(folder)?;
    }
    let listener = control::server::bind(path)?;
    let file = SocketFile(path.to_owned());
    Ok(async move {
        accept_unix(listener, attach).await;
        drop(file);
    })
}

async fn accept_unix<A>(listener: UnixListener, attach: impl Fn(UnixStream) -> A)
where
    A: Future<Output = Result<(), String>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MOST_LINKS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let link = attach(stream);
                tokio::spawn(async move {
                    if let Err(error) = link.await {
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

/// Takes a VMM that sends a frame a datagram, for ever: the link begins with the first and ends when nobody takes ours.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen_dgram(
    network: Arc<RunningNetwork>,
    guest: LinkGuest,
    path: &Path,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    if let Some(folder) = path.parent() {
        control::paths::make_private_folder(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = UnixDatagram::bind(path)?;
    socket.set_nonblocking(true)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    let file = SocketFile(path.to_owned());
    Ok(async move {
        while let Err(error) = take_datagrams(&network, &socket, &guest).await {
            tracing::warn!(guest = %guest.0, error, "a VMM's datagrams are of no use");
            tokio::time::sleep(LONGEST_PAUSE).await;
        }
        drop(file);
    })
}

/// Returns when the network has ended.
async fn take_datagrams(
    network: &RunningNetwork,
    socket: &UnixDatagram,
    guest: &LinkGuest,
) -> Result<(), String> {
    loop {
        // Watched only between links: while there is one its datagrams wake the packet thread alone.
        let another = || socket.try_clone().map(OwnedFd::from);
        let waiting = another().and_then(crate::sys::watched);
        let waiting = waiting.map_err(|error| error.to_string())?;
        waiting
            .readable()
            .await
            .map_err(|error| error.to_string())?
            .retain_ready();
        drop(waiting);
        let transport = LinkTransport::Dgram(another().map_err(|error| error.to_string())?);
        let (_, end) = network
            .attach(transport, "dgram", Some(guest.clone()))
            .await
            .map_err(|failure| failure.message)?;
        if end.await.is_err() {
            return Ok(());
        }
    }
}

/// The VMM's messages are read by a thread of their own, see [`vhost`].
async fn attach_vhost(
    network: &Arc<RunningNetwork>,
    stream: UnixStream,
    guest: LinkGuest,
) -> Result<(), String> {
    let socket = stream.into_std().and_then(|stream| {
        stream.set_nonblocking(false)?;
        Ok((stream.try_clone()?, stream))
    });
    let (ours, theirs) = socket.map_err(|error| error.to_string())?;
    let card = Card {
        mac: guest.1,
        mtu: network.config().mtu.unwrap_or(LARGEST_MTU),
    };
    let transport = LinkTransport::Vhost(Session(ours));
    let (link, end) = network
        .attach(transport, "vhost-user", Some(guest))
        .await
        .map_err(|failure| failure.message)?;
    let (giver, ender) = (Arc::clone(network), Arc::clone(network));
    std::thread::Builder::new()
        .name("vhost-user".to_owned())
        .spawn(move || {
            let give = Box::new(move |command| giver.command(command).is_ok());
            if let Some(error) = vhost::serve(theirs, link, card, give) {
                tracing::warn!(link = link.0, error, "the VMM's session is ended");
            }
            ender.command(Command::DetachLink(link)).ok();
        })
        .map_err(|error| error.to_string())?;
    // An error means that the network has ended, and the link with it.
    end.await.ok();
    Ok(())
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
