//! The daemon from start to stop: what is bound before "ready" is said, which task follows what, and the
//! order of the end. What runs is decided in `services::state`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use control::config::Config;
use control::events::EventBody;
use control::paths::{Daemon as Kind, Paths, make_private_folder};
use control::server;
use control::signals::{Order, Orders};
use tokio::sync::{oneshot, watch};

use crate::services::handover::{Handed, HandoverSocket};
use crate::services::host_view::HostView;
use crate::services::state::State;
use crate::services::{api, clashes, host_watch, hosts_file, links, resolv_conf};

/// Serves until SIGTERM or SIGINT. One netd for a runtime folder: a second one is refused.
///
/// # Errors
/// When another netd runs, a folder cannot be used, or a socket cannot be bound.
pub async fn run(paths: Paths, config: Config) -> anyhow::Result<()> {
    for folder in [&paths.runtime, &paths.state] {
        make_private_folder(folder)
            .with_context(|| format!("cannot use the folder {}", folder.display()))?;
    }
    let lock = control::lock::acquire(&paths.lock(Kind::Netd))
        .context("another netd runs on this folder")?;
    let mut orders = Orders::listen().context("cannot listen for signals")?;
    let socket = paths.control_socket(Kind::Netd);
    let listener =
        server::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let link_socket = paths.link_socket();
    let handover = HandoverSocket::bind(&link_socket)
        .with_context(|| format!("cannot listen on {}", link_socket.display()))?;

    let resolv_conf = PathBuf::from(resolv_conf::RESOLV_CONF);
    let hosts = PathBuf::from(hosts_file::HOSTS_FILE);
    let (resolvers, names, host) = HostView::read(&resolv_conf, &hosts);
    let (host_changes, host_change) = watch::channel(0);
    let (state, ends) = State::new(paths, &config, host, host_change.clone());
    let tasks = [
        tokio::spawn(host_watch::follow(host_changes)),
        tokio::spawn(clashes::follow(Arc::clone(&state), host_change)),
        tokio::spawn(resolv_conf::follow(resolv_conf, resolvers)),
        tokio::spawn(hosts_file::follow(hosts, names)),
        tokio::spawn(Arc::clone(&state).follow_resolvers()),
        tokio::spawn(Arc::clone(&state).follow_host_names()),
        tokio::spawn(Arc::clone(&state).follow_moves(ends.moved)),
        tokio::spawn(Arc::clone(&state).heal(ends.ended)),
        tokio::spawn(links::watch_folders(ends.folders, ends.folder_changes)),
        tokio::spawn({
            let state = Arc::clone(&state);
            handover.serve(move |handed| {
                let state = Arc::clone(&state);
                async move {
                    match handed {
                        Handed::Link(handover, transport) => state.plug(handover, transport).await,
                        Handed::Uplink(handover, socket) => state.bridge(&handover, socket),
                    }
                }
            })
        }),
    ];
    let done = state.apply(config).await;
    for problem in &done.problems {
        tracing::warn!("{problem}");
    }
    let follower = tokio::spawn(Arc::clone(&state).follow_config(state.following().changes()));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server::serve(
        listener,
        api::api(Arc::clone(&state)),
        async {
            // A dropped sender means stop, too.
            stopped.await.ok();
        },
    ));
    state.events.publish(EventBody::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    if let Err(error) = control::notify::ready() {
        tracing::warn!(%error, "the service manager could not be told that we are ready");
    }
    tracing::info!(socket = %socket.display(), config = %state.paths.config.display(), "serving");

    loop {
        match orders.next().await {
            Order::Stop => break,
            Order::Reload => {
                let state = Arc::clone(&state);
                // Apart: it may wait for a network, and who says stop must be heard meanwhile. How it went is
                // told in the log and as an event.
                tokio::spawn(async move { state.reload().await.ok() });
            }
        }
    }

    if let Err(error) = control::notify::stopping() {
        tracing::debug!(%error, "the service manager could not be told that we stop");
    }
    stop.send(()).ok();
    serving.await.ok();
    for task in tasks.into_iter().chain([follower]) {
        task.abort();
        task.await.ok();
    }
    state.stop().await;
    std::fs::remove_file(&socket).ok();
    tracing::info!("stopped");
    drop(lock);
    Ok(())
}
